//! A program that runs beside the test: started with its output in a file, killed by its id,
//! always gone at the end.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::condition::{Seen, wait};

/// What a program is started under: `ip netns exec host1`, `strace -f …`, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Wrapper(Vec<OsString>);

impl Wrapper {
    /// A wrapper of these words.
    pub fn new(words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Wrapper(words.into_iter().map(Into::into).collect())
    }

    /// The command that starts `program` under the wrapper.
    pub fn command(&self, program: &Path) -> Command {
        match self.0.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

/// A running program.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it; both its outputs are appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Process> {
        let name = Path::new(command.get_program())
            .file_name()
            .unwrap_or(OsStr::new("?"));
        let name = name.to_string_lossy().into_owned();
        let mut file = File::options().create(true).append(true).open(log);
        let file = file
            .as_mut()
            .map_err(|error| anyhow::anyhow!("open {}: {error}", log.display()));
        let file = file?;
        writeln!(file, "--- {command:?}").context("write to the log")?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file.try_clone()?);
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Process {
            child,
            name,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("await {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and waits until it has ended.
    pub fn terminate(mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.await_end(within)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.context("a process id is a positive number")?;
        kill_process(id, signal).with_context(|| format!("signal {}", self.name))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("look at {}", self.name))
    }

    /// Waits for its end.
    pub fn await_end(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait(&what, within, || match self.ended()? {
            Some(status) => Ok(Seen::Yes(status)),
            None => Ok(Seen::no("still running")),
        })
    }

    /// An error that shows the log's end when the program has ended by itself.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.obituary()? {
            None => Ok(()),
            Some(obituary) => bail!(obituary),
        }
    }

    /// How it ended by itself and what it said last, if it has.
    pub fn obituary(&mut self) -> Result<Option<String>> {
        let ended = self.ended()?;
        let text = |status| {
            format!(
                "{} ended by itself: {status}\n{}",
                self.name,
                tail(&self.log)
            )
        };
        Ok(ended.map(text))
    }

    /// Processor seconds (user and system) and the highest resident memory so far.
    pub fn usage(&self) -> Result<Usage> {
        usage_of(self.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way nothing of it stays.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Highest resident set, in bytes.
    pub resident_bytes_max: u64,
    /// Resident set now, in bytes.
    pub resident_bytes: u64,
}

/// Reads `/proc/<id>`.
pub fn usage_of(id: u32) -> Result<Usage> {
    /// `USER_HZ`, fixed at 100 for user space on every Linux architecture that Rust supports.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("read the process's stat")?;
    // The name in parentheses may hold spaces; fields are counted from behind it.
    let fields = stat.rsplit_once(')').context("stat without a name")?.1;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks =
        |at: usize| -> Result<u64> { Ok(fields.get(at).context("short stat")?.parse::<u64>()?) };
    let cpu = ticks(11)? + ticks(12)?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Ok(Usage {
        cpu: Duration::from_millis(cpu * 1000 / TICKS_PER_SECOND),
        resident_bytes_max: kib("VmHWM:") << 10,
        resident_bytes: kib("VmRSS:") << 10,
    })
}

/// Runs a command to its end and returns its output; an error shows what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}\n{}",
            output.status,
            text_of(&output)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, well or badly.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))
}

/// Everything a command said.
pub fn text_of(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{error}")
}

/// The last lines of a log file.
pub fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(crate::limits::LOG_TAIL_LINES)..];
    format!("== {} ==\n{}\n", log.display(), shown.join("\n"))
}
