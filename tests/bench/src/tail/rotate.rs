//! Rotations without end: nothing is lost or doubled, and nothing grows that does not hold lines.
//!
//! Twenty logs rotate in turn, half of them by rename, half by copying and truncating. What was written
//! at the beginning of each file is durable before the file is rotated, so that nothing comes and goes
//! unseen; what was written last is not.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use commitlog::batch::header::split_first;
use commitlog::batch::records::Decompressor;
use weir_tests::api::Fetch;
use weir_tests::process::Wrapper;

use super::{memory, open_files};
use crate::report::{Bar, Report, float};
use crate::stage::{MEASURE_MAX, Stage};

pub(super) fn run(part: &str, rotations: u32, report: &mut Report) -> Result<()> {
    let mut stage = Stage::new("")?;
    fs::create_dir_all(stage.world.path("logs"))?;
    stage.agent.spawn(&Wrapper::default())?;
    let mut account = Account::default();
    let mut logs: Vec<Log> = (0..LOGS)
        .map(|number| Log::new(&stage.world.path("logs"), number))
        .collect::<Result<_>>()?;
    let rounds = rotations.div_ceil(LOGS);
    let started = Instant::now();
    let mut early = Footprint::default();
    for round in 0..rounds {
        for log in &mut logs {
            log.write(&mut account)?;
        }
        account.await_all(&stage)?;
        for log in &mut logs {
            log.write(&mut account)?;
            log.rotate()?;
        }
        if round == rounds / 10 {
            early = Footprint::of(&mut stage)?;
        }
    }
    account.await_all(&stage)?;
    let took = started.elapsed().as_secs_f64();
    let late = Footprint::of(&mut stage)?;
    let count = f64::from(rounds * LOGS);
    report.figure(format!("{part}: rotations"), count, "");
    report.figure(format!("{part}: rotations a second"), count / took, "");
    let lines = float(account.written);
    report.figure(format!("{part}: lines, each once and in order"), lines, "");
    let rows = [
        ("open files", "", early.open, late.open, 20.0),
        ("memory", "MiB", early.memory_mib, late.memory_mib, 8.0),
        ("state", "KiB", early.state_kib, late.state_kib, 512.0),
    ];
    for (what, unit, early, late, slack) in rows {
        report.figure(format!("{part}: {what} after a tenth"), early, unit);
        let bar = Bar::AtMost(early * 1.1 + slack);
        report.against(format!("{part}: {what} at the end"), late, unit, bar);
    }
    memory(part, &mut stage, 60.0, report)
}

/// What the agent holds.
#[derive(Default)]
struct Footprint {
    open: f64,
    memory_mib: f64,
    /// Position snapshots, which name every file that is remembered.
    state_kib: f64,
}

impl Footprint {
    fn of(stage: &mut Stage) -> Result<Footprint> {
        let usage = stage.agent.process()?.usage()?;
        let mut state_bytes = 0;
        for entry in fs::read_dir(stage.agent.data_dir.join("spool"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("positions") {
                state_bytes += entry.metadata()?.len();
            }
        }
        Ok(Footprint {
            open: float(open_files(stage)?),
            memory_mib: float(usage.resident_bytes) / float(1 << 20),
            state_kib: float(state_bytes) / 1024.0,
        })
    }
}

/// One log with its rotated files.
struct Log {
    path: PathBuf,
    number: u32,
    file: File,
    rotated: u32,
}

impl Log {
    fn new(folder: &Path, number: u32) -> Result<Log> {
        let path = folder.join(format!("app{number}.log"));
        Ok(Log {
            file: append(&path)?,
            path,
            number,
            rotated: 0,
        })
    }

    fn write(&mut self, account: &mut Account) -> Result<()> {
        let mut text = String::new();
        for _ in 0..LINES {
            text.push_str(&account.next_line(self.number));
        }
        self.file.write_all(text.as_bytes()).context("write lines")
    }

    fn rotate(&mut self) -> Result<()> {
        self.rotated += 1;
        let to = self.rotated_path(self.rotated);
        if self.number.is_multiple_of(2) {
            fs::rename(&self.path, to)?;
            self.file = append(&self.path)?;
        } else {
            fs::copy(&self.path, to)?;
            self.file.set_len(0)?;
        }
        // All that was in it is durable since the last round.
        if self.rotated > KEEP {
            fs::remove_file(self.rotated_path(self.rotated - KEEP))?;
        }
        Ok(())
    }

    fn rotated_path(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn append(path: &Path) -> Result<File> {
    let file = File::options().append(true).create(true).open(path);
    file.with_context(|| format!("open {}", path.display()))
}

/// Every line that was written, and what came.
#[derive(Default)]
struct Account {
    written: u64,
    came: u64,
    seen: Vec<bool>,
    last: [Option<u64>; LOGS as usize],
    decompressor: Decompressor,
}

impl Account {
    fn next_line(&mut self, log: u32) -> String {
        let line = format!("{} {log} a line of a log that is rotated\n", self.written);
        self.written += 1;
        self.seen.push(false);
        line
    }

    /// Waits until all that was written is durable, once and in order.
    fn await_all(&mut self, stage: &Stage) -> Result<()> {
        if self.came == 0 {
            // The topic comes with the first of them.
            stage.await_durable(self.written)?;
        }
        let deadline = Instant::now() + MEASURE_MAX;
        while self.came < self.written {
            ensure!(
                Instant::now() < deadline,
                "{} of {} lines came; the first that did not is {:?}",
                self.came,
                self.written,
                self.seen.iter().position(|seen| !seen)
            );
            let fetch = Fetch {
                from: self.came,
                bytes_max: 4 << 20,
                wait_ms: 1_000,
            };
            let (batches, next) = stage.api.batches("logs", 0, fetch)?;
            let mut rest: &[u8] = &batches;
            while !rest.is_empty() {
                let (_, batch, after) = split_first(rest)?;
                self.take(batch)?;
                rest = after;
            }
            ensure!(
                self.came == next,
                "{next} offsets hold {} records",
                self.came
            );
        }
        Ok(())
    }

    fn take(&mut self, batch: &[u8]) -> Result<()> {
        for record in self.decompressor.records(batch)? {
            let value = record?.value.context("a line without a value")?;
            let text = std::str::from_utf8(value)?;
            let mut words = text.split(' ');
            let mut word = || -> Result<u64> {
                let word = words.next().context("a short line")?;
                word.parse()
                    .with_context(|| format!("a torn line {text:?}"))
            };
            let (number, log) = (word()?, usize::try_from(word()?)?);
            let seen = self.seen.get_mut(usize::try_from(number)?);
            let seen = seen.context("a line that nobody wrote")?;
            ensure!(!std::mem::replace(seen, true), "line {number} came twice");
            let last = self.last.get_mut(log).context("a log that nobody wrote")?;
            let before = last.replace(number);
            ensure!(before < Some(number), "line {number} came after {before:?}");
            self.came += 1;
        }
        Ok(())
    }
}

/// Logs that rotate in turn.
const LOGS: u32 = 20;

/// Lines before a rotation, twice.
const LINES: u32 = 3;

/// Rotated files of each log that are kept.
const KEEP: u32 = 3;
