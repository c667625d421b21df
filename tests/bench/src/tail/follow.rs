//! A host with many files, most of them quiet: what following them costs while little is written, and
//! how long a line takes to a consumer.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weir_tests::process::Wrapper;

use super::{memory, open_files};
use crate::input::{Kind, Lines};
use crate::latency::{Consumer, WARM_UP, quantile};
use crate::report::{Bar, Report, float};
use crate::stage::Stage;

/// Files, and what is written to them.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) idle: u32,
    pub(super) hot: u32,
    /// Lines a second in each hot one.
    pub(super) rate: u32,
    pub(super) seconds: u64,
}

pub(super) fn run(part: &str, load: Load, cpu_bar: f64, report: &mut Report) -> Result<()> {
    let mut stage = Stage::new("")?;
    let folder = stage.world.path("logs");
    fs::create_dir_all(&folder)?;
    let mut lines = Lines::new(Kind::Access, 3);
    for (name, count) in [("idle", load.idle), ("hot", load.hot)] {
        for file in 0..count {
            let (bytes, _) = lines.bytes(1);
            fs::write(folder.join(format!("{name}{file}.log")), bytes)?;
        }
    }
    let there = u64::from(load.idle + load.hot);
    stage.agent.spawn(&Wrapper::default())?;
    stage.await_durable(there)?;
    let epoch = Instant::now();
    let is_over = Arc::new(AtomicBool::new(false));
    let consumer = {
        let consumer = Consumer {
            api: stage.aggregator.api(),
            epoch,
            from: there,
            lines: load.lines(),
        };
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || consumer.consume(&is_over))
    };
    let measured = measure(&mut stage, load, epoch);
    if measured.is_err() {
        is_over.store(true, Ordering::Relaxed);
    }
    let consumed = consumer
        .join()
        .map_err(|_| anyhow::anyhow!("the consumer panicked"))?;
    let cpu = measured?;
    let mut latencies = consumed?;
    ensure!(!latencies.is_empty(), "no line came through");
    latencies.sort_unstable();
    report.figure(format!("{part}: idle files"), f64::from(load.idle), "");
    report.figure(format!("{part}: hot files"), f64::from(load.hot), "");
    let key = format!("{part}: lines a second in each hot file");
    report.figure(key, f64::from(load.rate), "");
    let bar = Bar::AtMost(cpu_bar);
    report.against(format!("{part}: agent cpu"), cpu, "% of a core", bar);
    let ms = |share| quantile(&latencies, share).as_secs_f64() * 1e3;
    report.figure(format!("{part}: line to consumer, p50"), ms(0.5), "ms");
    let key = format!("{part}: line to consumer, p99");
    report.against(key, ms(0.99), "ms", Bar::AtMost(100.0));
    let open = float(open_files(&mut stage)?);
    if load.idle > 0 {
        let bar = Bar::AtMost(100.0);
        report.against(format!("{part}: open files"), open, "", bar);
    } else {
        report.figure(format!("{part}: open files"), open, "");
    }
    memory(part, &mut stage, 60.0, report)
}

/// Writes the load, after a warm-up; the agent's processor time in percent of a core.
fn measure(stage: &mut Stage, load: Load, epoch: Instant) -> Result<f64> {
    let warm = load.per_second() * WARM_UP.as_secs();
    let folder = stage.world.path("logs");
    let mut writers = (0..load.hot)
        .map(|file| {
            let path = folder.join(format!("hot{file}.log"));
            File::options().append(true).open(path)
        })
        .collect::<Result<Vec<File>, _>>()?;
    let mut source = Lines::new(Kind::Access, 7);
    let mut bytes = Vec::new();
    let mut before = (Duration::ZERO, epoch.elapsed());
    for line in 0..load.lines() {
        if line == warm {
            before = (stage.agent.process()?.usage()?.cpu, epoch.elapsed());
        }
        let due_at = Duration::from_nanos(line * 1_000_000_000 / load.per_second());
        std::thread::sleep(due_at.saturating_sub(epoch.elapsed()));
        bytes.clear();
        write!(bytes, "{} ", due_at.as_nanos())?;
        source.push(&mut bytes);
        let writer = usize::try_from(line)? % writers.len();
        writers[writer].write_all(&bytes).context("write a line")?;
    }
    let used = stage.agent.process()?.usage()?.cpu.saturating_sub(before.0);
    let took = epoch.elapsed().saturating_sub(before.1);
    Ok(used.as_secs_f64() / took.as_secs_f64() * 100.0)
}

impl Load {
    fn per_second(self) -> u64 {
        u64::from(self.hot) * u64::from(self.rate)
    }

    fn lines(self) -> u64 {
        self.per_second() * (self.seconds + WARM_UP.as_secs())
    }
}
