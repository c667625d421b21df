//! `latency`: from the `write()` of a line to a consumer having it over HTTP, fsynced on the way.
//!
//! The load is open: lines are due by the clock, whatever became of those before, so that a stall
//! shows in every line that waited behind it. Each line carries the moment it was due. The consumer
//! is a long poll that takes whole batches, as `weir tail --follow` does.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use commitlog::batch::header::split_first;
use commitlog::batch::records::Decompressor;
use weir_tests::api::{Api, Fetch};
use weir_tests::process::Wrapper;

use crate::input::{Kind, Lines};
use crate::report::{Bar, Report, float};
use crate::ship::{Growth, ship};
use crate::stage::Stage;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Lines a second; without it at 1,000 and at half of what `ship` reaches
    #[arg(long)]
    rate: Option<u64>,

    /// How long each rate is held, after a second of warming up
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// Lines of this long are dropped from the figures: connections and caches are cold.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);

/// The promised rate.
const CALM_RATE: u64 = 1_000;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("latency");
    let rates = if let Some(rate) = options.rate {
        vec![(format!("at {rate}/s"), rate)]
    } else {
        let most = ship(Kind::Access, 256, Growth::WrittenBefore)?.lines_per_second();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate"
        )]
        let half = (most / 2.0) as u64;
        report.figure("lines a second at most", most, "");
        vec![
            ("at 1000/s".to_owned(), CALM_RATE),
            ("at half of it".to_owned(), half),
        ]
    };
    for (name, rate) in rates {
        let mut latencies = at_rate(rate, Duration::from_secs(options.seconds))?;
        ensure!(!latencies.is_empty(), "no line came through {name}");
        latencies.sort_unstable();
        let is_promised = rate == CALM_RATE;
        let points = [
            ("p50", 0.5, 3.0),
            ("p99", 0.99, 10.0),
            ("p99.9", 0.999, 0.0),
            ("max", 1.0, 0.0),
        ];
        for (point, share, bar) in points {
            let value = quantile(&latencies, share).as_secs_f64() * 1e3;
            if is_promised && bar > 0.0 {
                report.against(format!("{name} {point}"), value, "ms", Bar::AtMost(bar));
            } else {
                report.figure(format!("{name} {point}"), value, "ms");
            }
        }
        report.figure(format!("{name} lines"), float(latencies.len() as u64), "");
    }
    Ok(report)
}

/// The latencies of the lines written at this rate.
fn at_rate(rate: u64, duration: Duration) -> Result<Vec<Duration>> {
    let mut stage = Stage::new("")?;
    std::fs::create_dir_all(stage.world.path("logs"))?;
    let path = stage.world.path("logs/app.log");
    stage.agent.spawn(&Wrapper::default())?;
    // One line first, so that the file is known and the topic exists.
    File::create(&path)?.write_all(b"0 first\n")?;
    stage.await_durable(1)?;
    let epoch = Instant::now();
    let lines = rate * (duration + WARM_UP).as_secs();
    let is_over = Arc::new(AtomicBool::new(false));
    let consumer = {
        let consumer = Consumer {
            api: stage.aggregator.api(),
            epoch,
            from: 1,
            lines,
        };
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || consumer.consume(&is_over))
    };
    let written = write_by_the_clock(&path, epoch, rate, lines);
    if written.is_err() {
        is_over.store(true, Ordering::Relaxed);
    }
    let consumed = consumer
        .join()
        .map_err(|_| anyhow::anyhow!("the consumer panicked"))?;
    written?;
    consumed
}

/// Writes each line when it is due; those due together in one write.
fn write_by_the_clock(path: &Path, epoch: Instant, rate: u64, lines: u64) -> Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let mut source = Lines::new(Kind::Access, 7);
    let mut bytes = Vec::new();
    let mut written = 0;
    while written < lines {
        let now = epoch.elapsed();
        let due = u64::try_from(now.as_nanos() * u128::from(rate) / 1_000_000_000)?.min(lines);
        if due == written {
            let next = Duration::from_nanos((written + 1) * 1_000_000_000 / rate);
            std::thread::sleep(next.saturating_sub(now));
            continue;
        }
        bytes.clear();
        while written < due {
            let due_at = written * 1_000_000_000 / rate;
            write!(bytes, "{due_at} ")?;
            source.push(&mut bytes);
            written += 1;
        }
        file.write_all(&bytes).context("write lines")?;
    }
    Ok(())
}

/// Who takes lines as they become durable.
pub(crate) struct Consumer {
    pub(crate) api: Api,
    /// The moment that lines count from.
    pub(crate) epoch: Instant,
    /// The first offset that is his.
    pub(crate) from: u64,
    /// How many lines.
    pub(crate) lines: u64,
}

impl Consumer {
    /// Long-polls until all lines were seen; the latencies of those after the warm-up.
    pub(crate) fn consume(&self, is_over: &AtomicBool) -> Result<Vec<Duration>> {
        let mut decompressor = Decompressor::new();
        let mut latencies = Vec::with_capacity(usize::try_from(self.lines)?);
        let (mut from, mut seen) = (self.from, 0);
        while seen < self.lines && !is_over.load(Ordering::Relaxed) {
            let fetch = Fetch {
                from,
                bytes_max: 4 << 20,
                wait_ms: 1_000,
            };
            let (batches, next) = self.api.batches("logs", 0, fetch)?;
            let now = self.epoch.elapsed();
            from = next;
            let mut rest: &[u8] = &batches;
            while !rest.is_empty() {
                let (_, batch, after) = split_first(rest)?;
                for record in decompressor.records(batch)? {
                    let value = record?.value.context("a line without a value")?;
                    let due = std::str::from_utf8(value)?
                        .split(' ')
                        .next()
                        .context("an empty line")?;
                    let due = Duration::from_nanos(due.parse()?);
                    seen += 1;
                    if due >= WARM_UP {
                        latencies.push(now.saturating_sub(due));
                    }
                }
                rest = after;
            }
        }
        Ok(latencies)
    }
}

/// The value that this share of the sorted values does not exceed.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = (float(sorted.len() as u64) * share).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}
