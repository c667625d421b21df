//! What `weir up` runs: the two configurations that its options amount to.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf, absolute};

use agent::check::{Survey, survey};
use agent::config::{AgentConfig, Glob, default_topic};
use aggregator::config::{AggregatorConfig, TopicConfig};
use anyhow::{Context, bail};
use config::load::load_text;
use config::problem::{Source, Span};
use config::value::HostPort;

use super::Up;

/// Both configurations.
pub(super) struct Plan {
    pub(super) aggregator: AggregatorConfig,
    pub(super) agent: AgentConfig,
    /// What the agent will find.
    pub(super) followed: Survey,
}

impl Plan {
    /// Everything lies in one directory: the aggregator's, as `weir serve` would have it, and the
    /// agent's in `agent` below it.
    pub(super) fn make(options: &Up) -> anyhow::Result<Plan> {
        let data_dir = match &options.data_dir {
            Some(data_dir) => absolute(data_dir)?,
            None => state_dir()?.join("weir"),
        };
        let mut aggregator: AggregatorConfig = load_text("")?.config;
        aggregator.data_dir.clone_from(&data_dir);
        aggregator.listen.quic = options.listen;
        aggregator.listen.http = options.http;
        // Made at the start, so that the agent knows its partitions before it reads the first line.
        aggregator
            .topics
            .insert(default_topic(), TopicConfig::default());

        let mut agent: AgentConfig = load_text(AGENT)?.config;
        agent.agent.data_dir = data_dir.join("agent");
        agent.ship.to = vec![host_port(reachable(options.listen))];
        let logs = agent
            .logs
            .get_mut("up")
            .context("the agent's file names its logs `up`")?;
        if options.logs.is_empty() {
            logs.files = vec![glob(Path::new("/var/log/**"))];
        } else {
            logs.files = options
                .logs
                .iter()
                .map(|path| absolute_glob(path))
                .collect::<Result<_, _>>()?;
            logs.exclude.clear();
        }
        // What the programs write about themselves would be read, written about, and read.
        logs.exclude.push(glob(&data_dir.join("**")));
        // Before anything is started or made: a pattern that is none is wrong usage.
        let followed =
            survey(&agent).map_err(|problem| Source::nameless("--logs").report(vec![problem]))?;
        Ok(Plan {
            aggregator,
            agent,
            followed,
        })
    }
}

/// What lies under /var/log and is no text: compressed rotations, login records, the journal.
const AGENT: &str = r#"
logs:
  up:
    files: [/var/log/**]
    exclude:
      - "**/*.{gz,xz,bz2,zst,zip,Z,lz4}"
      - "**/*.{journal,journal~,db,dat,bin,tdb}"
      - "/var/log/journal/**"
      - "/var/log/{wtmp,btmp,lastlog,faillog,tallylog}*"
      - "/var/log/sysstat/**"
"#;

/// An address to connect to for one that is listened on: "any" is reached by loopback.
pub(super) fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

fn host_port(address: SocketAddr) -> HostPort {
    HostPort {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

/// `$XDG_STATE_HOME`, or `~/.local/state`.
fn state_dir() -> anyhow::Result<PathBuf> {
    let set = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    if let Some(state) = set("XDG_STATE_HOME") {
        return Ok(state);
    }
    match set("HOME") {
        Some(home) => Ok(home.join(".local/state")),
        None => bail!("no home directory is known; say where to keep everything with --data-dir"),
    }
}

fn absolute_glob(path: &Path) -> anyhow::Result<Glob> {
    let path = absolute(path).with_context(|| format!("--logs {}", path.display()))?;
    Ok(glob(&path))
}

fn glob(path: &Path) -> Glob {
    Glob {
        pattern: path.display().to_string(),
        span: Span::default(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use config::problem::Problems;

    use super::*;

    fn plan(arguments: &[&str]) -> Plan {
        let options = Up::try_parse_from([&["up"], arguments].concat()).unwrap();
        Plan::make(&options).unwrap()
    }

    fn patterns(globs: &[Glob]) -> Vec<&str> {
        globs.iter().map(|glob| glob.pattern.as_str()).collect()
    }

    #[test]
    fn both_sides_agree_on_address_directory_and_topic() {
        let plan = plan(&["--data-dir", "/data", "--listen", "0.0.0.0:1234"]);
        assert_eq!(plan.aggregator.data_dir, Path::new("/data"));
        assert_eq!(plan.agent.agent.data_dir, Path::new("/data/agent"));
        assert_eq!(plan.agent.ship.to[0].to_string(), "127.0.0.1:1234");
        let topic = &plan.agent.logs["up"].topic;
        assert!(plan.aggregator.topics.contains_key(topic));
    }

    #[test]
    fn a_pattern_that_is_none_is_told_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let options = [
            "up",
            "--logs",
            "/x/[",
            "--data-dir",
            data_dir.to_str().unwrap(),
        ];
        let options = Up::try_parse_from(options).unwrap();
        let Err(error) = Plan::make(&options) else {
            panic!("a plan with such a pattern");
        };
        assert!(
            error
                .to_string()
                .starts_with("--logs: `/x/[` is not a pattern"),
            "{error}"
        );
        assert!(error.is::<Problems>(), "wrong usage: {error:?}");
        assert!(!data_dir.exists());
    }

    #[test]
    fn what_weir_keeps_is_not_followed() {
        for arguments in [
            &["--data-dir", "/var/log/weir"][..],
            &["--data-dir", "/var/log/weir", "--logs", "/x/**"],
        ] {
            let plan = plan(arguments);
            let exclude = patterns(&plan.agent.logs["up"].exclude);
            assert!(exclude.contains(&"/var/log/weir/**"), "{exclude:?}");
        }
    }

    #[test]
    fn a_list_that_the_shell_made_of_a_pattern_is_taken_whole() {
        let plan = plan(&[
            "--logs",
            "/a/1.log",
            "/a/2.log",
            "--data-dir",
            "/data",
            "--logs",
            "/b",
        ]);
        assert_eq!(
            patterns(&plan.agent.logs["up"].files),
            ["/a/1.log", "/a/2.log", "/b"]
        );
    }
}
