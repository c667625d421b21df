//! A real `weir-agent`: joined by token, then run, killed and started again at will.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

use crate::aggregator::Aggregator;
use crate::limits::TERMINATE_MAX;
use crate::process::{Process, Wrapper, output, tail, text_of};
use crate::programs;
use crate::world::World;

/// What differs from a plain agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Globs of the files it tails.
    pub files: Vec<String>,
    /// The topic of its records.
    pub topic: String,
    /// More of the `agent:` section: `http: "127.0.0.1:9349"`.
    pub agent_more: String,
    /// More of the `ship:` section: `spool: {size: 1GiB}`.
    pub ship_more: String,
    /// What its programs are started under.
    pub wrapper: Wrapper,
    /// Another data folder than the world's.
    pub data_dir: Option<PathBuf>,
}

impl AgentOptions {
    /// Tails these files into the topic `logs`.
    pub fn tailing(files: &[impl AsRef<OsStr>]) -> AgentOptions {
        let text = |file: &OsStr| file.to_string_lossy().into_owned();
        AgentOptions {
            files: files.iter().map(|file| text(file.as_ref())).collect(),
            topic: "logs".to_owned(),
            agent_more: String::new(),
            ship_more: String::new(),
            wrapper: Wrapper::default(),
            data_dir: None,
        }
    }
}

/// An agent, running or not.
pub struct Agent {
    /// Spool and identity.
    pub data_dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
    wrapper: Wrapper,
    process: Option<Process>,
}

impl Agent {
    /// Joins the aggregator with a fresh token, then starts.
    pub fn start(
        world: &World,
        name: &str,
        options: &AgentOptions,
        aggregator: &Aggregator,
    ) -> Result<Agent> {
        let mut agent = Self::prepare(world, name, options, aggregator.ship)?;
        agent.join(&aggregator.token(&[])?)?;
        agent.spawn(&options.wrapper.clone())?;
        Ok(agent)
    }

    /// Writes its configuration; starts nothing.
    pub fn prepare(
        world: &World,
        name: &str,
        options: &AgentOptions,
        ship_to: SocketAddr,
    ) -> Result<Agent> {
        let data_dir = options.data_dir.clone().unwrap_or_else(|| world.path(name));
        let files = serde_json::to_string(&options.files).context("file names are text")?;
        let with_comma = |more: &str| {
            if more.is_empty() {
                String::new()
            } else {
                format!(", {more}")
            }
        };
        let config = format!(
            "agent: {{data_dir: \"{}\", host_name: {name}{}}}\nship: {{to: [\"{ship_to}\"]{}}}\n\
             logs:\n  app: {{files: {files}, topic: {}}}\n",
            data_dir.display(),
            with_comma(&options.agent_more),
            with_comma(&options.ship_more),
            options.topic
        );
        let config = world.write(&format!("{name}.yaml"), config)?;
        let log = world.path(&format!("{name}.out"));
        Ok(Agent {
            data_dir,
            config,
            log,
            wrapper: options.wrapper.clone(),
            process: None,
        })
    }

    /// `weir-agent join`; it must succeed.
    pub fn join(&self, token: &str) -> Result<()> {
        let output = self.try_join(token)?;
        if !output.status.success() {
            bail!("weir-agent join: {}\n{}", output.status, text_of(&output));
        }
        Ok(())
    }

    /// `weir-agent join`, well or badly.
    pub fn try_join(&self, token: &str) -> Result<Output> {
        let mut command = self.wrapper.command(&programs::weir_agent()?);
        command
            .args(["join", token, "--data-dir"])
            .arg(&self.data_dir);
        output(&mut command)
    }

    /// The command that runs it, under `wrapper`.
    pub fn command(&self, wrapper: &Wrapper) -> Result<Command> {
        let mut command = wrapper.command(&programs::weir_agent()?);
        command.arg("run").arg("--config").arg(&self.config);
        Ok(command)
    }

    /// Starts the program.
    pub fn spawn(&mut self, wrapper: &Wrapper) -> Result<()> {
        self.process = Some(Process::start(self.command(wrapper)?, &self.log)?);
        Ok(())
    }

    /// Starts it again, under what it was first started under.
    pub fn restart(&mut self) -> Result<()> {
        let wrapper = self.wrapper.clone();
        self.spawn(&wrapper)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("the agent does not run")?
            .kill()
    }

    /// SIGTERM; it must end well.
    pub fn terminate(&mut self) -> Result<()> {
        let process = self.process.take().context("the agent does not run")?;
        let status = process.terminate(TERMINATE_MAX)?;
        if !status.success() {
            bail!("the agent ended with {status}\n{}", tail(&self.log));
        }
        Ok(())
    }

    /// The running program.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent does not run")
    }

    /// Forgets a program that ended by itself.
    pub fn forget(&mut self) {
        self.process = None;
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where its program writes what it says.
    pub fn log(&self) -> &Path {
        &self.log
    }
}
