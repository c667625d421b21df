//! From records to a table and back, read by `DataFusion` as any other engine reads it.

use std::path::Path;
use std::sync::Arc;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::{Producer, patch};
use commitlog::batch::records::Decompressor;
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::parquet::file::metadata::RowGroupMetaData;
use datafusion::parquet::file::reader::FileReader;
use datafusion::parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use object_store::DynObjectStore;
use proptest::prelude::*;
use url::Url;

use super::columns::Refused;
use super::faulty::{Faulty, When};
use super::file;
use super::index::bloom::retain;
use super::index::terms::{Place, Wanted, wanted};
use super::index::{self, Footer};
use super::local::Local;
use super::rows::{Rows, Sorted};
use super::statistics::Range;
use super::table::{Offsets, Table};
use crate::error::{Error, ErrorKind};
use crate::limits::{BUCKET_NANOS, PAGE_ROWS, ROW_GROUP_ROWS, VALUES_BYTES};

/// A record to be: milliseconds, headers, value.
pub(super) type Line<'a> = (i64, &'a [(&'a str, &'a str)], &'a [u8]);

const WEB: &[(&str, &str)] = &[("service.name", "web"), ("log.file.path", "/srv/web.log")];
const DB: &[(&str, &str)] = &[("service.name", "db"), ("k8s.pod.name", "db-0")];

/// The records of lines, from an offset on.
pub(super) fn rows_from(base: i64, lines: &[Line<'_>]) -> Rows {
    let mut rows = Rows::new("logs", 3);
    let mut builder = BatchBuilder::new();
    let mut offset = base;
    for (time, headers, value) in lines {
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|it| (it.0, it.1.as_bytes())).collect();
        builder.push(&NewRecord {
            timestamp: Timestamp(*time),
            key: None,
            value,
            headers: &HeaderBlock::new(&headers).unwrap(),
            extra: None,
        });
        let mut batches = Vec::new();
        builder.finish(producer(), &mut batches).unwrap();
        for mut batch in batches {
            patch(&mut batch, Offset::new(offset).unwrap());
            for record in Decompressor::new().records(&batch).unwrap() {
                rows.push(&record.unwrap()).unwrap();
                offset += 1;
            }
        }
    }
    rows
}

fn producer() -> Producer {
    Producer {
        id: ProducerId::new(1).unwrap(),
        epoch: ProducerEpoch::new(0).unwrap(),
        base_sequence: Sequence::new(0).unwrap(),
    }
}

/// Writes them to a file that nobody refuses.
fn written(rows: &Sorted) -> file::File {
    let mut refused = Vec::new();
    let file = file::write(rows, &mut refused).unwrap().unwrap();
    assert_eq!(refused, []);
    file
}

/// What a query over the Parquet files of a folder answers.
async fn ask(folder: &Path, sql: &str) -> Vec<RecordBatch> {
    let context = SessionContext::new();
    let folder = format!("{}/", folder.display());
    let options = ParquetReadOptions::default();
    context
        .register_parquet("logs", folder, options)
        .await
        .unwrap();
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

fn shown(batches: &[RecordBatch]) -> String {
    pretty_format_batches(batches).unwrap().to_string()
}

#[tokio::test]
async fn what_a_record_says_is_in_its_columns() {
    let json = br#"{"level":"error","msg":"no","user":{"id":7}}"#;
    let lines: [Line<'_>; 3] = [
        (1_700_000_000_123, WEB, b"GET / 200"),
        (1_700_000_000_124, &[("ns", "5600"), ("env", "prod")], json),
        (1_700_000_000_125, DB, b"\xff"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = written(&rows_from(40, &lines).sort());
    std::fs::write(folder.path().join("a.parquet"), &file.bytes).unwrap();
    let sql = "SELECT time, time_unix_nano, topic, partition, \"offset\", severity_number, severity_text, \
               body, service_name, k8s_pod, file_path, attributes['user.id'] AS user, \
               resource_attributes['env'] AS env, cardinality(attributes) AS n FROM logs ORDER BY \"offset\"";
    let expected = "\
+-----------------------------+---------------------+-------+-----------+--------+-----------------+---------------+----------------------------------------------+--------------+---------+--------------+------+------+---+
| time                        | time_unix_nano      | topic | partition | offset | severity_number | severity_text | body                                         | service_name | k8s_pod | file_path    | user | env  | n |
+-----------------------------+---------------------+-------+-----------+--------+-----------------+---------------+----------------------------------------------+--------------+---------+--------------+------+------+---+
| 2023-11-14T22:13:20.123Z    | 1700000000123000000 | logs  | 3         | 40     | 0               |               | GET / 200                                    | web          |         | /srv/web.log |      |      | 0 |
| 2023-11-14T22:13:20.124005Z | 1700000000124005600 | logs  | 3         | 41     | 17              | error         | {\"level\":\"error\",\"msg\":\"no\",\"user\":{\"id\":7}} |              |         |              | 7    | prod | 3 |
| 2023-11-14T22:13:20.125Z    | 1700000000125000000 | logs  | 3         | 42     | 0               |               | \u{fffd}                                            | db           | db-0    |              |      |      | 0 |
+-----------------------------+---------------------+-------+-----------+--------+-----------------+---------------+----------------------------------------------+--------------+---------+--------------+------+------+---+";
    assert_eq!(shown(&ask(folder.path(), sql).await), expected);
}

#[tokio::test]
async fn the_newest_rows_and_those_of_a_stream_are_neighbours() {
    let bucket = BUCKET_NANOS / 1_000_000;
    let start = 1_700_000_100_000 / bucket * bucket;
    let lines: [Line<'_>; 5] = [
        (start + bucket, DB, b"4"),
        (start + 2, WEB, b"3"),
        (start + 1, WEB, b"2"),
        (start + 9, DB, b"0"),
        (start + 9, DB, b"1"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = written(&rows_from(0, &lines).sort());
    std::fs::write(folder.path().join("a.parquet"), &file.bytes).unwrap();
    let answer = ask(folder.path(), "SELECT body FROM logs").await;
    let body = answer[0].column(0).as_string_view();
    let bodies: Vec<&str> = body.iter().flatten().collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
}

#[test]
fn what_is_no_log_record_is_left_out_and_told() {
    let lines: [Line<'_>; 3] = [
        (1, &[("content-type", "image/png")], b"x"),
        (2, WEB, b"y"),
        (3, &[("content-type", "application/json")], b"z"),
    ];
    let mut refused = Vec::new();
    let file = file::write(&rows_from(7, &lines).sort(), &mut refused)
        .unwrap()
        .unwrap();
    let offsets: Vec<i64> = refused.iter().map(|it| it.offset).collect();
    assert_eq!(offsets, [7, 9]);
    assert_eq!(file.statistics.rows, 1);
    let offsets = ("offset", Range::Long(8, 8));
    assert!(file.statistics.ranges.contains(&offsets));
    let nothing: Vec<Refused> = refused.clone();
    let none = file::write(&rows_from(7, &lines[..1]).sort(), &mut refused).unwrap();
    assert!(none.is_none());
    assert_eq!(refused.len(), nothing.len() + 1);
}

#[test]
fn pages_and_row_groups_end_where_readers_count_on() {
    let value = vec![b'x'; 100];
    let mut rows = Rows::new("logs", 0);
    let count = ROW_GROUP_ROWS + PAGE_ROWS + 1;
    let headers = HeaderBlock::new(&[("service.name", b"web")]).unwrap();
    let mut builder = BatchBuilder::new();
    let mut batches = Vec::new();
    for n in 0..count {
        builder.push(&NewRecord {
            timestamp: Timestamp(i64::try_from(n).unwrap()),
            key: None,
            value: &value,
            headers: &headers,
            extra: None,
        });
        if !builder.fits(1000) || n + 1 == count {
            builder.finish(producer(), &mut batches).unwrap();
        }
    }
    for batch in &batches {
        for record in Decompressor::new().records(batch).unwrap() {
            rows.push(&record.unwrap()).unwrap();
        }
    }
    let file = written(&rows.sort());
    let options = ReadOptionsBuilder::new().with_page_index().build();
    let bytes = bytes::Bytes::from(file.bytes);
    let reader = SerializedFileReader::new_with_options(bytes, options).unwrap();
    let groups = reader.metadata().row_groups();
    let sizes: Vec<i64> = groups.iter().map(RowGroupMetaData::num_rows).collect();
    assert_eq!(sizes, [131_072, 8193]);
    let index = reader.metadata().offset_index().unwrap();
    for column in &index[0] {
        let firsts: Vec<i64> = column
            .page_locations()
            .iter()
            .map(|it| it.first_row_index)
            .collect();
        let expected: Vec<i64> = (0..16).map(|page| page * 8192).collect();
        assert_eq!(firsts, expected);
    }
}

/// Which blocks of a file may have a text in their lines.
fn blocks_with(file: &[u8], text: &str) -> Vec<bool> {
    let bytes = bytes::Bytes::copy_from_slice(file);
    let reader = SerializedFileReader::new(bytes).unwrap();
    let footers = reader
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .unwrap();
    let footer = footers.iter().find(|it| it.key == index::KEY).unwrap();
    let footer = Footer::parse(footer.value.as_ref().unwrap(), file.len() as u64).unwrap();
    let mut blocks = vec![true; footer.blocks];
    let Wanted { words, grams } = wanted(text, Place::Inside);
    for (hashes, place) in [(words, footer.words), (grams, footer.grams)] {
        for hash in hashes {
            let row = footer.row_of(place, hash).unwrap();
            let row = &file[usize::try_from(row.start).unwrap()..usize::try_from(row.end).unwrap()];
            retain(row, hash, &mut blocks);
        }
    }
    blocks
}

#[test]
fn the_index_tells_which_blocks_may_have_a_text() {
    let mut values: Vec<String> = (0..3 * PAGE_ROWS)
        .map(|n| format!("line {n} of many"))
        .collect();
    values[PAGE_ROWS + 7] = "one Needle only".to_owned();
    let lines: Vec<Line<'_>> = values.iter().map(|it| (1, WEB, it.as_bytes())).collect();
    let file = written(&rows_from(0, &lines).sort());
    assert_eq!(blocks_with(&file.bytes, "eedl"), [false, true, false]);
    assert_eq!(blocks_with(&file.bytes, " needle "), [false, true, false]);
    assert_eq!(blocks_with(&file.bytes, "line 17 of"), [true, false, false]);
    assert_eq!(blocks_with(&file.bytes, "of many"), [true; 3]);
}

#[test]
fn a_footer_that_leads_out_of_the_file_is_no_index() {
    let place = |offset, rows| index::Place { offset, rows };
    let footer = |words| Footer {
        version: index::VERSION,
        block_rows: PAGE_ROWS,
        blocks: 2,
        words,
        grams: place(10, 1),
    };
    let read = |footer: &Footer| Footer::parse(&serde_json::to_string(footer).unwrap(), 100);
    let whole = footer(place(36, 1));
    assert_eq!(read(&whole), Ok(whole));
    read(&footer(place(37, 1))).unwrap_err();
    read(&footer(place(u64::MAX, u32::MAX))).unwrap_err();
    let later = Footer {
        version: 2,
        ..whole
    };
    assert_eq!(read(&later), Err(index::NoIndex::Version(2)));
    Footer::parse("{}", 100).unwrap_err();
}

#[test]
fn values_are_kept_in_pieces_and_none_is_cut() {
    let long = vec![b'a'; 2_000_000];
    let lines: Vec<Line<'_>> = (0..3 * VALUES_BYTES / long.len())
        .map(|_| (1, WEB, &long[..]))
        .collect();
    let rows = rows_from(0, &lines).sort();
    assert!(rows.pieces.len() > 2);
    assert!(rows.rows.iter().all(|row| rows.value(row) == long));
    assert_eq!(written(&rows).statistics.rows, lines.len() as u64);
}

#[test]
fn a_table_says_itself_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let location = Url::from_directory_path(folder.path().join("lake/logs")).unwrap();
    let mut table = Table::open(&location).unwrap();
    assert_eq!(table.converted_upto("logs", 3).unwrap(), None);
    for (from, to) in [(0, 2), (2, 3)] {
        let lines: Vec<Line<'_>> = (from..to).map(|n| (n, WEB, &b"line"[..])).collect();
        let file = written(&rows_from(from, &lines).sort());
        table.append(&offsets(from, to), Some(file), 1000).unwrap();
    }
    table.append(&offsets(3, 9), None, 1000).unwrap();
    let mut again = Table::open(&location).unwrap();
    assert_eq!(again.converted_upto("logs", 3).unwrap(), Some(9));
    assert_eq!(again.converted_upto("logs", 4).unwrap(), None);
    let mut files = again.files().unwrap();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let rows: Vec<u64> = files.iter().map(|file| file.rows).collect();
    assert_eq!(rows, [2, 1]);
    let folder = folder.path().join("lake/logs/logs");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(ask(&folder, "SELECT count(*) FROM logs"));
    let count = answer[0].column(0).as_primitive::<Int64Type>();
    assert_eq!(count.value(0), 3);

    // Another one has committed since: what this one wants to add is not of the table it knows.
    table.refresh().unwrap();
    again.append(&offsets(9, 10), None, 1000).unwrap();
    table.append(&offsets(9, 10), None, 1000).unwrap_err();
}

#[test]
fn a_folder_that_lost_its_log_is_no_empty_table() {
    let folder = tempfile::tempdir().unwrap();
    let location = Url::from_directory_path(folder.path()).unwrap();
    let mut table = Table::open(&location).unwrap();
    let file = written(&rows_from(0, &[(1, WEB, b"line")]).sort());
    table.append(&offsets(0, 1), Some(file), 1000).unwrap();
    std::fs::remove_dir_all(folder.path().join("_delta_log")).unwrap();
    let error = Table::open(&location).map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(
        error.to_string().contains("holds `logs` and no table"),
        "{error}"
    );
}

/// Puts ten pieces of three records each into a table, as far as they are not there.
fn convert(store: Arc<DynObjectStore>, location: &Url) -> Result<(), Error> {
    let mut table = Table::open_in(store, location)?;
    loop {
        let from = table.converted_upto("logs", 3)?.unwrap_or(0);
        if from == 30 {
            return Ok(());
        }
        let lines: Vec<Line<'_>> = (from..from + 3).map(|n| (n, WEB, &b"line"[..])).collect();
        let file = written(&rows_from(from, &lines).sort());
        table.append(&offsets(from, from + 3), Some(file), 1000)?;
    }
}

#[test]
fn i32_a_record_is_in_the_table_once_wherever_a_put_fails() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for when in [When::Before, When::After] {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let location = Url::from_directory_path(folder.path().join("logs")).unwrap();
            let store = Arc::new(Faulty::new(at, when));
            let converted = convert(Arc::clone(&store) as _, &location);
            if !store.has_failed() {
                assert!(at >= 21, "a table and ten pieces are at least so many puts");
                break;
            }
            if converted.is_err() {
                convert(Arc::new(Local::default()), &location).unwrap();
            }
            let table = Table::open(&location).unwrap();
            let files = table.files().unwrap();
            assert_eq!(files.len(), 10, "{when:?} {at}");
            let sql = "SELECT count(*) + count(DISTINCT \"offset\") FROM logs";
            let answer = runtime.block_on(ask(&folder.path().join("logs/logs"), sql));
            let count = answer[0].column(0).as_primitive::<Int64Type>();
            assert_eq!(count.value(0), 60, "{when:?} {at}");
        }
    }
}

fn offsets(from: i64, to: i64) -> Offsets {
    Offsets {
        topic: "logs".to_owned(),
        partition: 3,
        from,
        to,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_line_is_read_back_as_it_was(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..60),
    ) {
        let lines: Vec<Line<'_>> = values.iter().map(|value| (5, WEB, &value[..])).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = written(&rows_from(0, &lines).sort());
        std::fs::write(folder.path().join("a.parquet"), &file.bytes).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let answer = runtime.block_on(ask(folder.path(), "SELECT body FROM logs"));
        let bodies = answer.iter().flat_map(|batch| batch.column(0).as_string_view().iter());
        let bodies: Vec<String> = bodies.flatten().map(str::to_owned).collect();
        let lines = values.iter().map(|value| String::from_utf8_lossy(value).into_owned());
        prop_assert_eq!(bodies, lines.collect::<Vec<String>>());
    }
}
