//! Questions while a log is written, sealed and committed.

use std::path::Path;
use std::sync::Arc;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::{Producer, restamp};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use commitlog::log::partition::{LogConfig, PartitionLog};
use commitlog::storage::faulty::FaultyDisk;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use url::Url;

use super::logs::{LogsTable, Source};
use crate::lake::seal::{SealLimits, seal};
use crate::lake::table::Table;

/// A partition's log, and the table that it is converted to.
struct World {
    log: PartitionLog,
    table: Table,
    _folder: TempDir,
}

impl World {
    fn new() -> World {
        let config = LogConfig {
            segment_bytes_max: 100_000,
            segment_age_max_ms: 1000,
            retention_bytes: None,
            retention_ms: None,
        };
        let disk = Arc::new(FaultyDisk::new());
        let opened = PartitionLog::open(disk, Path::new("d"), config, Timestamp(0));
        let folder = tempfile::tempdir().unwrap();
        let location = Url::from_directory_path(folder.path().join("logs")).unwrap();
        World {
            log: opened.unwrap().0,
            table: Table::open(&location).unwrap(),
            _folder: folder,
        }
    }

    /// Appends lines and makes them durable.
    fn append(&mut self, lines: &[String]) {
        let headers = HeaderBlock::new(&[("service.name", b"web")]).unwrap();
        for lines in lines.chunks(1000) {
            let mut builder = BatchBuilder::new();
            for line in lines {
                builder.push(&NewRecord {
                    timestamp: Timestamp(1_700_000_000_000),
                    key: None,
                    value: line.as_bytes(),
                    headers: &headers,
                    extra: None,
                });
            }
            let mut batches = Vec::new();
            builder.finish(producer(0), &mut batches).unwrap();
            for batch in &mut batches {
                let end = self.log.reader().end().get();
                restamp(batch, producer(i32::try_from(end).unwrap()));
                self.log.append(batch, Timestamp(0)).unwrap();
            }
        }
        let job = self.log.start_sync().unwrap();
        self.log.finish_sync(job.run()).unwrap();
    }

    /// Converts one piece.
    fn convert(&mut self, raw_bytes: usize) {
        let from = self.table.converted_upto("logs", 0).unwrap().unwrap_or(0);
        let from = Offset::new(from).unwrap();
        let limits = SealLimits { raw_bytes };
        let piece = seal(&self.log.reader(), "logs", 0, from, limits).unwrap();
        let piece = piece.unwrap();
        self.table.append(&piece.offsets, piece.file, 1000).unwrap();
    }

    fn pin(&self) -> Arc<LogsTable> {
        let source = Source {
            topic: "logs".to_owned(),
            partition: 0,
            log: self.log.reader(),
        };
        Arc::new(LogsTable::pin(&self.table, &[source]).unwrap())
    }
}

fn producer(sequence: i32) -> Producer {
    Producer {
        id: ProducerId::new(1).unwrap(),
        epoch: ProducerEpoch::new(0).unwrap(),
        base_sequence: Sequence::new(sequence).unwrap(),
    }
}

/// A number that a question answers.
fn ask(table: &Arc<LogsTable>, sql: &str) -> i64 {
    let answer = rows(Arc::clone(table), sql);
    answer[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// The rows of an answer.
fn rows(table: Arc<LogsTable>, sql: &str) -> Vec<RecordBatch> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let context = SessionContext::new();
        context.register_table("logs", table).unwrap();
        context.sql(sql).await.unwrap().collect().await.unwrap()
    })
}

fn lines(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("line {n} of many")).collect()
}

const COUNTS: &str = "SELECT count(*) * 1000000 + count(DISTINCT \"offset\") FROM logs";

#[test]
fn i33_each_durable_record_is_there_once_however_far_it_is_converted() {
    let mut world = World::new();
    world.append(&lines(0..3000));
    assert_eq!(ask(&world.pin(), COUNTS), 3000 * 1_000_001);
    for converted in 1..=3 {
        let before = world.pin();
        world.convert(1);
        // The moment that is pinned stays the same one.
        assert_eq!(ask(&before, COUNTS), 3000 * 1_000_001, "{converted}");
        assert_eq!(ask(&world.pin(), COUNTS), 3000 * 1_000_001);
    }
    let before = world.pin();
    world.append(&lines(3000..4000));
    assert_eq!(ask(&before, COUNTS), 3000 * 1_000_001);
    assert_eq!(ask(&world.pin(), COUNTS), 4000 * 1_000_001);
    assert_eq!(world.table.files().unwrap().len(), 3);
}

#[test]
fn a_question_reads_the_blocks_that_may_have_an_answer_and_finds_all() {
    let mut world = World::new();
    let mut all = lines(0..30_000);
    all[9000] = "one Needle only".to_owned();
    all[29_000] = "another needle here".to_owned();
    world.append(&all[..25_000]);
    world.convert(usize::MAX);
    world.append(&all[25_000..]);
    let pinned = world.pin();
    for (condition, count) in [
        ("body LIKE '% Needle %'", 1),
        ("body ILIKE '% needle %'", 2),
        ("body ~ '^(one|another) '", 2),
        ("body LIKE 'line 17 of%'", 1),
        ("body LIKE '%nothing%'", 0),
        ("service_name = 'web' AND contains(body, 'needle')", 1),
        ("resource_attributes['service.name'] = 'web'", 30_000),
        ("resource_attributes['service.name'] = 'db'", 0),
        ("\"offset\" >= 24000 AND \"offset\" < 26000", 2000),
    ] {
        let sql = format!("SELECT count(*) FROM logs WHERE {condition}");
        assert_eq!(ask(&pinned, &sql), count, "{condition}");
    }
}

#[test]
fn columns_and_limits_are_those_that_are_asked_for() {
    let mut world = World::new();
    world.append(&lines(0..10));
    world.convert(usize::MAX);
    world.append(&lines(10..20));
    let sql = "SELECT body, topic, severity_text FROM logs ORDER BY \"offset\" DESC LIMIT 11";
    let answer = rows(world.pin(), sql);
    let rows: usize = answer.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 11);
    let first = answer[0].column(0).as_string_view().value(0);
    assert_eq!(first, "line 19 of many");
    assert_eq!(answer[0].num_columns(), 3);
}

#[test]
fn a_table_without_records_answers_too() {
    let world = World::new();
    assert_eq!(ask(&world.pin(), COUNTS), 0);
}

#[test]
fn files_without_an_answer_are_not_read() {
    let mut world = World::new();
    world.append(&lines(0..3000));
    world.convert(usize::MAX);
    for (condition, is_read) in [
        ("body LIKE '%nothing%'", false),
        ("attributes['user'] = 'Ann'", false),
        ("resource_attributes['service.name'] = 'db'", false),
        ("resource_attributes['service.name'] = 'web'", true),
        ("body LIKE '%of many'", true),
    ] {
        let plan = rows(
            world.pin(),
            &format!("EXPLAIN SELECT body FROM logs WHERE {condition}"),
        );
        let plans = plan
            .iter()
            .flat_map(|it| it.column(1).as_string::<i32>().iter().flatten());
        let plans: String = plans.collect();
        assert_eq!(plans.contains("parquet"), is_read, "{condition}: {plans}");
    }
}
