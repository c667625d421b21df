//! A real `weir serve` with its own folder and ports, killed and started again at will.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::api::Api;
use crate::condition::{Seen, wait, when};
use crate::limits::{READY_MAX, TERMINATE_MAX};
use crate::process::{Process, Wrapper, run};
use crate::programs;
use crate::world::{World, free_address, free_loopback};

/// What differs from a plain aggregator on loopback.
#[derive(Clone, Debug)]
pub struct AggregatorOptions {
    /// Where agents connect; loopback unless a namespace needs another.
    pub ip: IpAddr,
    /// Partitions of a topic.
    pub partitions: u32,
    /// More lines of `aggregator.yaml`.
    pub more: String,
    /// Another data folder than the world's: a small or a fragile file system.
    pub data_dir: Option<PathBuf>,
}

impl Default for AggregatorOptions {
    fn default() -> Self {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        AggregatorOptions {
            ip,
            partitions: 2,
            more: String::new(),
            data_dir: None,
        }
    }
}

/// An aggregator, running or not.
pub struct Aggregator {
    /// Where agents connect.
    pub ship: SocketAddr,
    /// Where people and consumers connect.
    pub http: SocketAddr,
    /// Topics, the authority, tokens and offsets.
    pub data_dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Aggregator {
    /// Starts one and waits until it is ready.
    pub fn start(world: &World, options: &AggregatorOptions) -> Result<Aggregator> {
        let mut aggregator = Self::prepare(world, "aggregator", options)?;
        aggregator.spawn(&Wrapper::default())?;
        aggregator.await_ready()?;
        Ok(aggregator)
    }

    /// Writes its configuration and picks its ports; starts nothing.
    pub fn prepare(world: &World, name: &str, options: &AggregatorOptions) -> Result<Aggregator> {
        let (ship, http) = (free_address(options.ip)?, free_loopback()?);
        let data_dir = options.data_dir.clone().unwrap_or_else(|| world.path(name));
        let AggregatorOptions {
            partitions, more, ..
        } = options;
        let config = format!(
            "data_dir: {}\nlisten: {{quic: \"{ship}\", http: \"{http}\"}}\n\
             defaults: {{partitions: {partitions}}}\n{more}\n",
            data_dir.display()
        );
        let config = world.write(&format!("{name}.yaml"), config)?;
        let log = world.path(&format!("{name}.out"));
        Ok(Aggregator {
            ship,
            http,
            data_dir,
            config,
            log,
            process: None,
        })
    }

    /// Starts the program without waiting for it.
    pub fn spawn(&mut self, wrapper: &Wrapper) -> Result<()> {
        let mut command = wrapper.command(&programs::weir()?);
        command.arg("serve").arg("--config").arg(&self.config);
        self.process = Some(Process::start(command, &self.log)?);
        Ok(())
    }

    /// Waits until it answers that it is ready.
    pub fn await_ready(&mut self) -> Result<()> {
        let api = self.api();
        let process = self
            .process
            .as_mut()
            .context("the aggregator was not started")?;
        wait("a ready aggregator", READY_MAX, || {
            if let Some(obituary) = process.obituary()? {
                return Ok(Seen::Never(obituary));
            }
            when(api.is_ready()?, || "not ready".to_owned())
        })
    }

    /// Starts it again and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn(&Wrapper::default())?;
        self.await_ready()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("the aggregator does not run")?
            .kill()
    }

    /// SIGTERM; it must end well.
    pub fn terminate(&mut self) -> Result<()> {
        let process = self.process.take().context("the aggregator does not run")?;
        let status = process.terminate(TERMINATE_MAX)?;
        if !status.success() {
            bail!(
                "the aggregator ended with {status}\n{}",
                crate::process::tail(&self.log)
            );
        }
        Ok(())
    }

    /// The running program.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the aggregator does not run")
    }

    /// Forgets a program that ended by itself.
    pub fn forget(&mut self) {
        self.process = None;
    }

    /// A client with the admin token.
    pub fn api(&self) -> Api {
        Api::new(self.http, &self.token_file())
    }

    /// The file with the admin token.
    pub fn token_file(&self) -> PathBuf {
        self.data_dir.join("admin.token")
    }

    /// Where its program writes what it says.
    pub fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// `weir` as a client of this aggregator.
    pub fn weir(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(programs::weir()?);
        command.args(arguments);
        command.env("WEIR_SERVER", format!("http://{}", self.http));
        command.env("WEIR_TOKEN_FILE", self.token_file());
        Ok(command)
    }

    /// A join token, as a user gets it.
    pub fn token(&self, arguments: &[&str]) -> Result<String> {
        let all = [&["token", "create"], arguments].concat();
        let text = run(&mut self.weir(&all)?)?;
        let token = text
            .split_whitespace()
            .find(|word| word.starts_with("weir1."));
        Ok(token
            .with_context(|| format!("no token in {text:?}"))?
            .to_owned())
    }
}
