//! The main job on real logs: `weir up` tails files, `weir tail` prints exactly their lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::api::{Entry, Fetch};
use weir_tests::condition::{Seen, wait, when};
use weir_tests::limits::{DRAIN_MAX, FETCH_BYTES, READY_MAX};
use weir_tests::process::{Process, run};
use weir_tests::programs;
use weir_tests::skip::skip;
use weir_tests::world::{World, free_loopback};

/// The folder with real logs: `WEIR_SHARED`, or `shared` beside the repository.
fn loghub() -> Option<PathBuf> {
    let beside = || {
        programs::repository()
            .parent()
            .map(|parent| parent.join("shared"))
    };
    let shared = std::env::var_os("WEIR_SHARED")
        .map(PathBuf::from)
        .or_else(beside)?;
    let folder = shared.join("data/loghub");
    folder.is_dir().then_some(folder)
}

/// Copies of the logs, and their lines as the agent must deliver them.
fn copy_logs(from: &Path, to: &Path) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
    fs::create_dir_all(to)?;
    let mut lines = BTreeMap::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let mut bytes = fs::read(entry.path())?;
        // A last line without its newline is not finished, and an agent rightly waits for the rest.
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        let copy = to.join(entry.file_name());
        fs::write(&copy, &bytes)?;
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let split = body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
        lines.insert(copy.display().to_string(), split.collect());
    }
    Ok(lines)
}

/// Every record of the topic, by the file it came from, in the order of its partition.
fn delivered(aggregator: &Aggregator) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
    let api = aggregator.api();
    let mut lines: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for partition in api.partitions("logs")? {
        let mut from = partition.start_offset;
        while from < partition.end_offset {
            let fetch = Fetch {
                from,
                bytes_max: FETCH_BYTES,
                wait_ms: 0,
            };
            let fetched = api.records("logs", partition.partition, fetch)?;
            for entry in fetched.entries {
                let Entry::Record(record) = entry else {
                    anyhow::bail!("a gap: {entry:?}")
                };
                let file = record
                    .header("log.file.path")
                    .context("a record without its file")?;
                lines
                    .entry(file.to_owned())
                    .or_default()
                    .push(record.value()?);
            }
            from = fetched.next_offset;
        }
    }
    Ok(lines)
}

#[test]
fn real_logs_arrive_line_by_line_in_order() -> Result<()> {
    let Some(loghub) = loghub() else {
        skip(
            "real_logs_arrive_line_by_line_in_order",
            "no shared/data/loghub (WEIR_SHARED)",
        );
        return Ok(());
    };
    let world = World::new()?;
    let expected = copy_logs(&loghub, &world.path("logs"))?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let _agent = Agent::start(&world, "agent", &options, &aggregator)?;
    let total: u64 = expected.values().map(|lines| lines.len() as u64).sum();
    let api = aggregator.api();
    wait("every line durable", DRAIN_MAX, || {
        let durable = api.durable_records("logs")?;
        when(durable >= total, || format!("{durable} of {total}"))
    })?;
    let delivered = delivered(&aggregator)?;
    for (file, lines) in &expected {
        let got = delivered
            .get(file)
            .with_context(|| format!("nothing of {file}"))?;
        let differs = lines
            .iter()
            .zip(got)
            .position(|(left, right)| left != right);
        ensure!(differs.is_none(), "{file}: line {differs:?} differs");
        ensure!(
            lines.len() == got.len(),
            "{file}: {} lines became {}",
            lines.len(),
            got.len()
        );
    }
    ensure!(
        delivered.len() == expected.len(),
        "more files than were written"
    );
    Ok(())
}

#[test]
fn up_needs_no_configuration_and_tail_prints_exactly_the_lines() -> Result<()> {
    let world = World::new()?;
    let lines: Vec<String> = (0..5_000)
        .map(|n| format!("line {n} of the file, \u{e4}\u{1F600}\n"))
        .collect();
    let lines = lines.concat();
    let file = world.write("logs/app.log", &lines)?;
    let (ship, http) = (free_loopback()?, free_loopback()?);
    let data_dir = world.path("data");
    let mut command = Command::new(programs::weir()?);
    command
        .arg("up")
        .arg("--data-dir")
        .arg(&data_dir)
        .arg("--logs")
        .arg(&file);
    command.args(["--listen", &ship.to_string(), "--http", &http.to_string()]);
    command
        .env("HOME", world.folder())
        .env("XDG_CONFIG_HOME", world.path("xdg"));
    let mut up = Process::start(command, &world.path("up.out"))?;
    let tail = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(programs::weir()?);
        command.arg("tail").arg("logs").args(arguments);
        command.env("WEIR_SERVER", format!("http://{http}"));
        command
            .env("HOME", world.folder())
            .env("XDG_CONFIG_HOME", world.path("xdg"));
        run(&mut command)
    };
    wait("weir tail printing the file", READY_MAX, || {
        if let Some(obituary) = up.obituary()? {
            return Ok(Seen::Never(obituary));
        }
        let text = tail(&["--from", "beginning"])?;
        when(text.len() >= lines.len(), || {
            format!("{} bytes of {}", text.len(), lines.len())
        })
    })?;
    let text = tail(&["--from", "beginning"])?;
    ensure!(
        text == lines,
        "weir tail printed something else than the file's lines"
    );
    ensure!(
        tail(&["--from", "beginning", "-n", "2"])?.lines().count() == 2,
        "-n 2 is two lines"
    );
    let said = fs::read_to_string(world.path("up.out"))?;
    for word in [
        &file.display().to_string(),
        &data_dir.display().to_string(),
        "weir tail",
    ] {
        ensure!(said.contains(word), "weir up does not say {word:?}: {said}");
    }
    ensure!(
        up.terminate(READY_MAX)?.success(),
        "weir up did not end well"
    );
    Ok(())
}
