//! The writer: numbered lines into real files, rotated the way programs and logrotate do it.
//!
//! It runs as a process of its own (`weir-oracle-writer`) that no test ever kills: what it says it
//! wrote is the truth that everything else is held against. It writes as programs do, in pieces
//! that do not end at a line, and ends a line before it rotates.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::checker::Written;
use super::line::{Line, Stream};

/// How a file gives way to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rotation {
    /// Never.
    None,
    /// logrotate's default: `app.log` becomes `app.log.1`, a new `app.log` begins.
    Rename,
    /// logrotate's `copytruncate`: `app.log` is copied to `app.log.1` and cut to nothing.
    Copytruncate,
    /// A new name each time: `app-1.log`, `app-2.log`.
    Create,
    /// The program logrotate itself, with `create`. The writer goes on in the renamed file until it is
    /// done, as programs do until they are told to open their logs again.
    Logrotate,
}

/// What to write. Also the command line of the writer process.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Folder of the files, made when it is absent.
    #[arg(long)]
    pub dir: PathBuf,
    /// The writer's number, and part of the files' names.
    #[arg(long, default_value_t = 0)]
    pub writer: u32,
    /// Lines a second; 0 writes as fast as the disk takes it.
    #[arg(long, default_value_t = 1000)]
    pub rate: u64,
    /// Ends after so many lines; without it at the end of standard input.
    #[arg(long)]
    pub lines: Option<u64>,
    /// How files give way to the next one.
    #[arg(long, value_enum, default_value = "none")]
    pub rotation: Rotation,
    /// Lines in a file before it is rotated.
    #[arg(long, default_value_t = 10_000)]
    pub rotate_lines: u64,
    /// Rotated files that are kept; the oldest beyond it is deleted.
    #[arg(long, default_value_t = 1000)]
    pub keep: u32,
    /// Bytes of padding in a line, at most; half of it at least.
    #[arg(long, default_value_t = 160)]
    pub padding: usize,
    /// Seed of the line lengths and of the places where a write ends within a line.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Plan {
    /// The first file the plan writes to.
    pub fn path(&self) -> PathBuf {
        self.path_of(0)
    }

    fn path_of(&self, file: u32) -> PathBuf {
        let writer = self.writer;
        self.dir.join(match self.rotation {
            Rotation::Create => format!("app{writer}-{file}.log"),
            _ => format!("app{writer}.log"),
        })
    }
}

/// How often the writer looks whether lines are due.
const TICK: Duration = Duration::from_millis(2);

/// Lines gathered for one write when no rate is set.
const LINES_AT_ONCE: u64 = 500;

/// Writes by the plan until its lines are written or `stop` is set; returns what it wrote.
pub fn run(plan: &Plan, stop: &AtomicBool) -> Result<Written> {
    fs::create_dir_all(&plan.dir).with_context(|| format!("create {}", plan.dir.display()))?;
    let mut writer = Writer::begin(plan)?;
    let started = Instant::now();
    let mut total = 0;
    while !stop.load(Ordering::Relaxed) && plan.lines.is_none_or(|lines| total < lines) {
        let due = match plan.rate {
            0 => LINES_AT_ONCE,
            rate => {
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                (micros.saturating_mul(rate) / 1_000_000).saturating_sub(total)
            }
        };
        let due = plan.lines.map_or(due, |lines| due.min(lines - total));
        if due == 0 {
            std::thread::sleep(TICK);
            continue;
        }
        total += writer.write_lines(due)?;
    }
    writer.end()
}

struct Writer<'a> {
    plan: &'a Plan,
    stream: Stream,
    lines_in_file: u64,
    file: File,
    /// Bytes that are due but not yet written: the rest of a line that the last write began.
    rest: Vec<u8>,
    random: fastrand::Rng,
    written: Written,
    /// logrotate while it runs.
    rotating: Option<Child>,
}

impl<'a> Writer<'a> {
    fn begin(plan: &'a Plan) -> Result<Self> {
        Ok(Writer {
            plan,
            stream: Stream {
                writer: plan.writer,
                file: 0,
            },
            lines_in_file: 0,
            file: append(&plan.path())?,
            rest: Vec::new(),
            random: fastrand::Rng::with_seed(plan.seed),
            written: Written::new(),
            rotating: None,
        })
    }

    /// Writes up to `due` lines, fewer when the file is to be rotated; returns how many.
    fn write_lines(&mut self, due: u64) -> Result<u64> {
        self.follow_logrotate()?;
        let room = match self.plan.rotation {
            Rotation::None | Rotation::Logrotate => u64::MAX,
            _ => self.plan.rotate_lines - self.lines_in_file,
        };
        let lines = due.min(room).min(LINES_AT_ONCE);
        let mut bytes = std::mem::take(&mut self.rest);
        for number in self.lines_in_file..self.lines_in_file + lines {
            let padding = self.random.usize(self.plan.padding / 2..=self.plan.padding);
            Line {
                stream: self.stream,
                number,
            }
            .write(padding, &mut bytes);
        }
        self.lines_in_file += lines;
        let is_full = lines == room;
        let cut = if is_full || self.random.u8(..4) > 0 {
            bytes.len()
        } else {
            self.random.usize(..=bytes.len())
        };
        self.rest = bytes.split_off(cut);
        self.file.write_all(&bytes).context("write lines")?;
        if is_full {
            self.rotate()?;
        }
        Ok(lines)
    }

    /// Starts logrotate once the file is full, and goes to the new file once it is done.
    fn follow_logrotate(&mut self) -> Result<()> {
        if self.plan.rotation != Rotation::Logrotate {
            return Ok(());
        }
        match &mut self.rotating {
            None if self.lines_in_file >= self.plan.rotate_lines => {
                self.rotating = Some(logrotate(self.plan)?);
            }
            None => {}
            Some(running) => {
                if let Some(status) = running.try_wait().context("ask for logrotate")? {
                    ensure!(status.success(), "logrotate failed: {status}");
                    self.rotating = None;
                    let rest = std::mem::take(&mut self.rest);
                    self.file.write_all(&rest).context("end a line")?;
                    self.rotate()?;
                }
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        self.account();
        let path = self.plan.path_of(self.stream.file);
        self.stream.file += 1;
        self.lines_in_file = 0;
        match self.plan.rotation {
            Rotation::None => {}
            Rotation::Logrotate => self.file = append(&path)?,
            Rotation::Create => self.file = append(&self.plan.path_of(self.stream.file))?,
            Rotation::Rename => {
                self.shift(&path)?;
                fs::rename(&path, numbered(&path, 1)).context("rename the full file")?;
                self.file = append(&path)?;
            }
            Rotation::Copytruncate => {
                self.shift(&path)?;
                fs::copy(&path, numbered(&path, 1)).context("copy the full file")?;
                self.file.set_len(0).context("truncate the copied file")?;
            }
        }
        Ok(())
    }

    /// Moves `app.log.1` to `app.log.2` and so on, deleting the oldest beyond what is kept.
    fn shift(&self, path: &Path) -> Result<()> {
        let mut rotated = 0;
        while numbered(path, rotated + 1).exists() {
            rotated += 1;
        }
        for number in (1..=rotated).rev() {
            let from = numbered(path, number);
            if number >= self.plan.keep {
                fs::remove_file(&from).context("delete the oldest file")?;
            } else {
                fs::rename(&from, numbered(path, number + 1)).context("shift a rotated file")?;
            }
        }
        Ok(())
    }

    fn account(&mut self) {
        if self.lines_in_file > 0 {
            self.written.insert(self.stream, self.lines_in_file);
        }
    }

    fn end(mut self) -> Result<Written> {
        if let Some(mut running) = self.rotating.take() {
            running.wait().context("wait for logrotate")?;
        }
        let rest = std::mem::take(&mut self.rest);
        self.file
            .write_all(&rest)
            .context("write the rest of the last line")?;
        self.account();
        Ok(self.written)
    }
}

/// Has logrotate rotate the plan's file now.
fn logrotate(plan: &Plan) -> Result<Child> {
    let path = plan.path();
    let scratch = plan.dir.join("logrotate");
    fs::create_dir_all(&scratch).context("make a folder for logrotate")?;
    let name = |what: &str| scratch.join(format!("{}.{what}", plan.writer));
    let (config, state) = (name("conf"), name("state"));
    let (path, keep) = (path.display(), plan.keep);
    let text = format!("\"{path}\" {{\nrotate {keep}\ncreate\n}}\n");
    fs::write(&config, text).context("configure logrotate")?;
    // It refuses what others can write.
    fs::set_permissions(&plan.dir, Permissions::from_mode(0o755))?;
    fs::set_permissions(&config, Permissions::from_mode(0o644))?;
    let sbin = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("logrotate");
    command.env("PATH", sbin).arg("--force").arg("--state");
    let child = command.arg(state).arg(config).spawn();
    child.context("start logrotate")
}

fn append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("open {}", path.display()))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The account as text, a line a stream: how the writer process reports it.
pub fn account_text(written: &Written) -> String {
    let lines = written
        .iter()
        .map(|(stream, lines)| [stream.to_string(), lines.to_string()]);
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.join(" "));
        text.push('\n');
    }
    text
}

/// Reads [`account_text`] back.
pub fn parse_account(text: &str) -> Result<Written> {
    let parse = |line: &str| {
        let (stream, lines) = line.split_once(' ')?;
        Some((stream.parse().ok()?, lines.parse().ok()?))
    };
    text.lines()
        .map(|line| parse(line).with_context(|| format!("account line {line:?}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::checker::{Checker, Place};
    use super::*;

    /// Writes by the plan and reads every file of the folder back, as a perfect agent would.
    fn check(rotation: Rotation) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let plan = Plan {
            dir: dir.path().to_owned(),
            writer: 7,
            rate: 0,
            lines: Some(5_000),
            rotation,
            rotate_lines: 700,
            keep: 1000,
            padding: 80,
            seed: 3,
        };
        let written = run(&plan, &AtomicBool::new(false)).expect("the writer writes");
        assert_eq!(written.values().sum::<u64>(), 5_000);
        assert_eq!(
            parse_account(&account_text(&written)).expect("reads back"),
            written
        );
        let mut checker = Checker::default();
        for (partition, entry) in (0..).zip(fs::read_dir(dir.path()).expect("lists")) {
            let text = fs::read_to_string(entry.expect("entry").path()).expect("reads");
            for (offset, line) in (0..).zip(text.lines()) {
                checker.observe(Place { partition, offset }, line.as_bytes());
            }
        }
        assert!(checker.has_all(&written), "{rotation:?}");
        let verdict = checker.verdict(&written, 0);
        assert!(verdict.is_clean(), "{rotation:?}: {verdict}");
        let files = fs::read_dir(dir.path()).expect("lists").count();
        assert_eq!(
            files,
            if rotation == Rotation::None { 1 } else { 8 },
            "{rotation:?}"
        );
    }

    #[test]
    fn every_rotation_keeps_every_line() {
        check(Rotation::None);
        check(Rotation::Rename);
        check(Rotation::Copytruncate);
        check(Rotation::Create);
    }
}
