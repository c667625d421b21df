//! Files that are there at once, from their first byte to the durable spool. Nobody takes it from
//! there: the aggregator is gone, so all of the agent's processor time is that of reading, compressing
//! and spooling.

use std::fs;
use std::time::Instant;

use agent::telemetry::DURABLE_OFFSET;
use anyhow::{Context as _, Result};
use weir_tests::condition::{Seen, wait};
use weir_tests::process::Wrapper;

use super::{memory, open_files};
use crate::input::Kind;
use crate::report::{Bar, Report, float};
use crate::stage::{Load, MEASURE_MAX, Stage};

pub(super) fn run(part: &str, files: usize, mib: u32, report: &mut Report) -> Result<()> {
    let load = Load::new(Kind::Access, mib)?;
    let bytes = load.bytes.len() as u64;
    // Room for all of it even if it did not compress.
    let mut stage = Stage::new(&format!("spool: {{size: {}MiB}}", 2 * u64::from(mib) + 64))?;
    stage.world.write("logs/first.log", "first\n")?;
    stage.agent.spawn(&Wrapper::default())?;
    stage.await_durable(1)?;
    stage.aggregator.kill()?;
    for (number, text) in split(&load.bytes, files).enumerate() {
        stage.world.write(&format!("ready/app{number}.log"), text)?;
    }
    stage.warm_memory(bytes)?;
    let before = stage.agent.process()?.usage()?;
    let started = Instant::now();
    for entry in fs::read_dir(stage.world.path("ready"))? {
        let entry = entry?;
        let to = stage.world.path("logs").join(entry.file_name());
        fs::rename(entry.path(), to).context("put a file where the agent looks")?;
    }
    let wanted = float(load.lines + 1);
    let ended = wait("all lines in the durable spool", MEASURE_MAX, || {
        let durable = stage.agent_metric(DURABLE_OFFSET)?;
        Ok(if durable >= wanted {
            Seen::Yes(Instant::now())
        } else {
            Seen::no(durable)
        })
    })?;
    let after = stage.agent.process()?.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    let zstd = load.baseline()?.cpu;
    let megabytes = float(bytes) / 1e6;
    report.figure(format!("{part}: files"), float(u64::try_from(files)?), "");
    report.figure(format!("{part}: input"), megabytes, "MB");
    let key = format!("{part}: throughput, file to durable spool");
    let speed = megabytes / (ended - started).as_secs_f64();
    report.against(key, speed, "MB/s", Bar::AtLeast(250.0));
    let key = format!("{part}: a second of one core reads");
    report.against(
        key,
        megabytes / cpu.as_secs_f64(),
        "MB",
        Bar::AtLeast(250.0),
    );
    let key = format!("{part}: agent cpu, of bare zstd-1");
    let ratio = cpu.as_secs_f64() / zstd.as_secs_f64();
    report.against(key, ratio, "×", Bar::AtMost(1.6));
    let open = open_files(&mut stage)?;
    report.figure(format!("{part}: open files at the end"), float(open), "");
    memory(part, &mut stage, 60.0, report)
}

/// So many parts of about the same length, each of whole lines.
fn split(bytes: &[u8], parts: usize) -> impl Iterator<Item = &[u8]> {
    let length = bytes.len().div_ceil(parts);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let end = rest.iter().skip(length - 1).position(|&byte| byte == b'\n');
        let end = end.map_or(rest.len(), |at| length + at);
        let (part, after) = rest.split_at(end);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn parts_are_whole_lines_and_all_there_is() {
        let text = b"one\ntwo\nthree\nfour\nfive\n";
        for parts in 1..8 {
            let split: Vec<&[u8]> = split(text, parts).collect();
            assert_eq!(split.concat(), text, "{parts}");
            assert!(split.len() <= parts, "{parts}");
            assert!(split.iter().all(|part| part.ends_with(b"\n")), "{parts}");
        }
    }
}
