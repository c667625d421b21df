//! `weir log` on what a killed aggregator left, and on what somebody damaged.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::api::{Entry, Fetch};
use weir_tests::condition::{wait, when};
use weir_tests::limits::{DRAIN_MAX, FETCH_BYTES};
use weir_tests::oracle::line::Line;
use weir_tests::oracle::reader::{WriterProcess, plan_in};
use weir_tests::oracle::writer::Plan;
use weir_tests::process::{output, text_of};
use weir_tests::world::World;

const LINES: u64 = 20_000;

/// An aggregator with one partition of lines, its agent gone, and the partition's folder.
fn full_aggregator(world: &World) -> Result<(Aggregator, PathBuf)> {
    let options = AggregatorOptions {
        partitions: 1,
        ..AggregatorOptions::default()
    };
    let aggregator = Aggregator::start(world, &options)?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let agent = Agent::start(world, "agent", &options, &aggregator)?;
    // Slow enough that the lines come in many batches.
    let plan = Plan {
        rate: 20_000,
        lines: Some(LINES),
        ..plan_in(world)
    };
    WriterProcess::start(&plan)?.finish()?;
    let api = aggregator.api();
    wait("every line durable", DRAIN_MAX, || {
        let durable = api.durable_records("logs")?;
        when(durable >= LINES, || format!("{durable} lines"))
    })?;
    drop(agent);
    let folder = find(&aggregator.data_dir, "logs-0").context("no folder logs-0")?;
    Ok((aggregator, folder))
}

/// The folder of this name, somewhere below `top`.
fn find(top: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(top)
        .ok()?
        .flatten()
        .map(|each| each.path())
        .collect();
    let here = entries.iter().find(|path| path.ends_with(name)).cloned();
    here.or_else(|| entries.iter().find_map(|path| find(path, name)))
}

/// The first segment that holds batches.
fn segment_of(folder: &Path) -> Result<PathBuf> {
    let mut segments: Vec<PathBuf> = fs::read_dir(folder)?
        .flatten()
        .map(|each| each.path())
        .collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    segments.into_iter().next().context("no segment")
}

#[test]
fn a_killed_aggregators_log_is_sound() -> Result<()> {
    let world = World::new()?;
    let (mut aggregator, folder) = full_aggregator(&world)?;
    aggregator.kill()?;
    let folder = folder.to_str().context("a path in text")?;
    let verified = output(&mut aggregator.weir(&["log", "verify", folder])?)?;
    ensure!(
        verified.status.success(),
        "a killed log is not sound: {}",
        text_of(&verified)
    );
    let dumped = output(&mut aggregator.weir(&["log", "dump", folder])?)?;
    ensure!(dumped.status.success(), "dump failed: {}", text_of(&dumped));
    Ok(())
}

#[test]
fn damage_is_named_contained_and_the_rest_stays_readable() -> Result<()> {
    let world = World::new()?;
    let (mut aggregator, folder) = full_aggregator(&world)?;
    // Ended well, so that everything is known to have been whole: what is bad now is damage, not
    // the torn tail of a crash.
    aggregator.terminate()?;
    let segment = segment_of(&folder)?;
    let mut bytes = fs::read(&segment)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&segment, &bytes)?;
    let folder = folder.to_str().context("a path in text")?;
    let verified = output(&mut aggregator.weir(&["log", "verify", folder])?)?;
    ensure!(
        !verified.status.success(),
        "damage was not found: {}",
        text_of(&verified)
    );
    let name = segment
        .file_name()
        .and_then(|name| name.to_str())
        .context("a name in text")?;
    ensure!(
        text_of(&verified).contains(name),
        "the file is not named: {}",
        text_of(&verified)
    );

    aggregator.restart()?;
    let Readable { end, read, gaps } = read_all(&aggregator)?;
    ensure!(end == LINES, "offsets shifted: the end is {end}");
    ensure!(
        gaps > 0 && read + gaps == LINES,
        "{read} read, {gaps} in gaps, {LINES} written"
    );
    ensure!(
        read > LINES / 2,
        "one flipped bit hid {gaps} of {LINES} lines"
    );
    Ok(())
}

/// What can be read of a log, in records.
struct Readable {
    end: u64,
    read: u64,
    gaps: u64,
}

/// Reads partition 0 from its first offset; every line must stand at the offset of its number.
fn read_all(aggregator: &Aggregator) -> Result<Readable> {
    let api = aggregator.api();
    let (mut from, mut read, mut gaps) = (0, 0, 0);
    let end = api
        .partitions("logs")?
        .first()
        .context("no partition")?
        .end_offset;
    while from < end {
        let fetched = api.records(
            "logs",
            0,
            Fetch {
                from,
                bytes_max: FETCH_BYTES,
                wait_ms: 0,
            },
        )?;
        for entry in &fetched.entries {
            match entry {
                Entry::Gap { gap } => gaps += gap.to - gap.from,
                Entry::Record(record) => {
                    let line = Line::parse(&record.value()?).context("a line no writer wrote")?;
                    ensure!(
                        line.number == record.offset,
                        "{line:?} at {}",
                        record.offset
                    );
                    read += 1;
                }
            }
        }
        ensure!(
            fetched.next_offset > from,
            "reading does not go on at {from}"
        );
        from = fetched.next_offset;
    }
    Ok(Readable { end, read, gaps })
}
