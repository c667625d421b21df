//! `weir-agent`: flags, then configuration, then run.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agent::ambient::system_clock;
use agent::check::{Checked, check, document};
use agent::config::AgentConfig;
use agent::control::ask_files;
use agent::files::stopped;
use agent::join::{Joining, join};
use agent::producer::transport::SystemTransport;
use agent::reload::Change;
use agent::running::{self, Parts, Running};
use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use config::join::token::JoinToken;
use config::load::{Loaded, load};
use config::problem::Problems;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Follows log files and ships their lines to a Weir aggregator, losing none
#[derive(Debug, Parser)]
#[command(name = "weir-agent", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Follow files and ship them, until SIGTERM or SIGINT
    #[command(after_help = RUN_HELP)]
    Run(Configured),
    /// Say what is wrong with the configuration, and which files it matches
    #[command(after_help = CHECK_HELP)]
    Check(CheckArguments),
    /// List every file: what of it is read and durable, what is not, and why
    #[command(after_help = FILES_HELP)]
    Files(FilesArguments),
    /// Get this host an identity with a token that an aggregator made
    #[command(after_help = JOIN_HELP)]
    Join(JoinArguments),
}

#[derive(Debug, clap::Args)]
struct Configured {
    /// What to follow and where to ship it, in YAML
    #[arg(long, value_name = "FILE", default_value = "/etc/weir/agent.yaml")]
    config: PathBuf,

    /// Where the spool and the identity lie, instead of what the file says
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct CheckArguments {
    #[command(flatten)]
    configured: Configured,

    /// Print one JSON document, also of what is wrong
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct FilesArguments {
    #[command(flatten)]
    configured: Configured,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct JoinArguments {
    /// The token: weir1.….….…@host:port
    // Read later: what is wrong with it must not print it.
    token: String,

    /// Where the spool and the identity lie
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir-agent")]
    data_dir: PathBuf,

    /// This host's name, instead of the kernel's, until the agent first runs; from then on
    /// `agent.host_name` in its file names the host, in records and lists
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  weir token create                              # on the aggregator: prints a token
  weir-agent join TOKEN                          # on this host, once
  weir-agent check --config agent.yaml
  weir-agent run --config agent.yaml

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
WEIR_LOG=debug says more, WEIR_LOG=warn less.";

const RUN_HELP: &str = "\
Examples:
  weir-agent run --config agent.yaml
  WEIR_LOG=debug weir-agent run --config agent.yaml --data-dir /tmp/agent

The smallest file:
  agent: {data_dir: /var/lib/weir-agent}
  ship: {to: [\"127.0.0.1:9347\"]}
  logs:
    app: {files: [\"/srv/app/*.log\"], topic: logs}

SIGHUP reloads FILE: changed sources go on where they are, the others are not touched, and a file with
a mistake changes nothing.
The first SIGTERM or SIGINT sends what is spooled, for up to five seconds; a second one exits at once.
Nothing is lost either way: what is not sent is in the spool.";

const CHECK_HELP: &str = "\
Examples:
  weir-agent check --config agent.yaml
  weir-agent check --json | jq -r '.warnings[]'

Run it as the user that the agent runs as: it opens every file that the patterns match.";

const FILES_HELP: &str = "\
Examples:
  weir-agent files
  weir-agent files --data-dir /var/lib/weir-agent
  weir-agent files --json | jq '.files[] | select(.lag_bytes > 0) | .path'

It asks the running agent over DATA_DIR/agent.sock, as the same user or root. Where none runs it tells
what the spool has, and what is at the paths now.";

const JOIN_HELP: &str = "\
Examples:
  weir-agent join weir1.….….…@logs.example.org:9347
  weir-agent join TOKEN --data-dir /srv/agent --host-name web-1

Joining again with a new token keeps the agent's name. A join that was cut off is simply run again.";

/// Wrong usage or configuration, as clap has it too.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    // Where they are always on, huge pages make a small heap three times as large.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
    let done = match Arguments::parse().command {
        Command::Run(configured) => run(&configured),
        Command::Check(arguments) => say_checked(&arguments),
        Command::Files(arguments) => say_files(&arguments),
        Command::Join(arguments) => say_joined(&arguments),
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    let is_usage = error.is::<Problems>();
    // Problems of a file begin with its place, where editors look for it.
    let prefix = if is_usage { "" } else { "error: " };
    // A closed stderr leaves the exit code to tell.
    drop(writeln!(io::stderr(), "{prefix}{error:#}"));
    if is_usage {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

fn loaded(configured: &Configured) -> anyhow::Result<Loaded<AgentConfig>> {
    let mut loaded = load::<AgentConfig>(&configured.config)?;
    if let Some(data_dir) = &configured.data_dir {
        loaded.config.agent.data_dir.clone_from(data_dir);
    }
    Ok(loaded)
}

fn run(configured: &Configured) -> anyhow::Result<()> {
    let loaded = loaded(configured)?;
    say_events()?;
    runtime()?.block_on(run_until_signal(loaded.config, configured))
}

async fn run_until_signal(config: AgentConfig, configured: &Configured) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut running = running::start(config, Parts::real()).await?;
    let http = running.http_addr.map(tracing::field::display);
    tracing::info!(http, "ready");
    let failed = loop {
        tokio::select! {
            () = stop.next() => break false,
            () = running.failed() => break true,
            _ = hangup.recv() => {}
        }
        // A reload may wait for room in the spool, which a part that has died never makes.
        let failed = running.failed();
        tokio::select! {
            () = stop.next() => break false,
            () = failed => break true,
            () = reload(&mut running, configured) => {}
        }
    };
    tracing::info!("stopping; again to stop at once");
    tokio::select! {
        () = stop.next() => bail!("stopped at once; what is not sent is in the spool"),
        stopped = running.stop() => stopped?,
    }
    tracing::info!("stopped");
    if failed {
        bail!("a part of the agent ended; the events above say why");
    }
    Ok(())
}

/// Takes over what the file says now. Where it says something wrong all stays as it is.
async fn reload(running: &mut Running, configured: &Configured) {
    let loaded = match loaded(configured) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let problems = format!("{problems:#}");
            return tracing::error!(
                problems,
                "configuration is not reloaded: nothing has changed"
            );
        }
    };
    let difference = match running.reload(loaded.config).await {
        Ok(difference) => difference,
        Err(error) => {
            let error = format!("{error:#}");
            return tracing::error!(error, "configuration is not reloaded: nothing has changed");
        }
    };
    for Change { option, was, is } in &difference.changes {
        tracing::info!(option, was, is, "changed");
    }
    for option in &difference.restart {
        tracing::warn!(option, "changed in the file: restart to apply");
    }
    let changes = difference.changes.len();
    tracing::info!(changes, "configuration reloaded");
}

fn say_checked(arguments: &CheckArguments) -> anyhow::Result<()> {
    let configured = &arguments.configured;
    let checked = loaded(configured).and_then(|loaded| Ok(check(&loaded)?));
    if arguments.json {
        return say_document(checked);
    }
    let checked = checked?;
    print(&format!("{checked}{}: fine\n", configured.config.display()))
}

/// Prints what a check came to for programs; problems still choose the exit code.
fn say_document(checked: anyhow::Result<Checked>) -> anyhow::Result<()> {
    let checked = match checked {
        Ok(checked) => Ok(checked),
        Err(error) => Err(error.downcast::<Problems>()?),
    };
    print(&document(&checked))?;
    Ok(checked.map(drop)?)
}

fn say_files(arguments: &FilesArguments) -> anyhow::Result<()> {
    let loaded = loaded(&arguments.configured);
    let sources = loaded.as_ref().map_or_else(
        |_| Vec::new(),
        |loaded| loaded.config.logs.keys().cloned().collect(),
    );
    let data_dir = match &arguments.configured.data_dir {
        // No configuration is needed to find the socket.
        Some(data_dir) => data_dir.clone(),
        None => loaded?.config.agent.data_dir,
    };
    let report = match runtime()?.block_on(ask_files(&data_dir))? {
        Some(report) => report,
        None => stopped(&data_dir, &sources)?,
    };
    if arguments.json {
        print(&report.json()?)
    } else {
        print(&report.to_string())
    }
}

/// Prints a command's outcome. Whoever closed the pipe has read what it wanted: no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn say_joined(arguments: &JoinArguments) -> anyhow::Result<()> {
    let token: JoinToken = match arguments.token.parse() {
        Ok(token) => token,
        Err(error) => Arguments::command()
            .error(ErrorKind::ValueValidation, error)
            .exit(),
    };
    say_events()?;
    let kernels = || {
        let name = rustix::system::uname();
        name.nodename().to_string_lossy().into_owned()
    };
    let host = arguments.host_name.clone().unwrap_or_else(kernels);
    let joining = Joining {
        token: &token,
        data_dir: &arguments.data_dir,
        host: &host,
        transport: Arc::new(SystemTransport),
        clock: system_clock(),
    };
    let joined = runtime()?.block_on(join(joining))?;
    print(&format!("{joined}\n"))
}

/// One thread is enough: the work is done by the data thread and the sync thread.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("cannot start the runtime")
}

/// Sends events to stderr from now on. `WEIR_LOG` chooses which.
fn say_events() -> anyhow::Result<()> {
    let wanted = std::env::var("WEIR_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(&wanted);
    let filter = filter.with_context(|| format!("WEIR_LOG={wanted:?} is no filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .fmt_fields(agent::events::fields())
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
    Ok(())
}

/// SIGINT (Ctrl-C) and SIGTERM, heard from the making on.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> io::Result<StopSignals> {
        Ok(StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
