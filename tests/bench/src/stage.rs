//! Both ends as processes, and what they use.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::api::{Api, Fetch, metric_in};
use weir_tests::condition::{Seen, wait};
use weir_tests::process::Usage;
use weir_tests::world::{Logs, World, free_loopback};

use crate::baseline::{Baseline, measure};
use crate::input::{Kind, Lines};

/// No measurement takes longer.
pub(crate) const MEASURE_MAX: Duration = Duration::from_mins(10);

/// A folder and an aggregator and an agent in it that has joined and does not run yet.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) aggregator: Aggregator,
    pub(crate) api: Api,
    /// The agent's own metrics.
    pub(crate) agent_http: SocketAddr,
    /// Last, so that the programs are gone before their folder.
    pub(crate) world: World,
}

impl Stage {
    /// Sets it up; the agent tails `logs/*.log`.
    pub(crate) fn new(ship_more: &str) -> Result<Stage> {
        let world = World::in_folder(&std::env::temp_dir(), Logs::Hidden)?;
        let options = AggregatorOptions {
            partitions: 1,
            ..AggregatorOptions::default()
        };
        let aggregator = Aggregator::start(&world, &options)?;
        let agent_http = free_loopback()?;
        let mut options = AgentOptions::tailing(&[world.path("logs/*.log")]);
        options.agent_more = format!("http: \"{agent_http}\"");
        ship_more.clone_into(&mut options.ship_more);
        let agent = Agent::prepare(&world, "agent", &options, aggregator.ship)?;
        agent.join(&aggregator.token(&[])?)?;
        let api = aggregator.api();
        Ok(Stage {
            agent,
            aggregator,
            api,
            agent_http,
            world,
        })
    }

    /// Touches as much memory as the measured programs will need pages for what they write, and gives it
    /// back. Where a hypervisor hands memory out at its first use, a first touch costs ten times what
    /// writing costs (2.6 against 0.23 s/GB where it was measured), and it would be charged to whoever
    /// comes first.
    pub(crate) fn warm_memory(&self, bytes: u64) -> Result<()> {
        let path = self.world.path("warm");
        let mut file = fs::File::create(&path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..bytes.div_ceil(1 << 20) {
            file.write_all(&zeros).context("touch memory")?;
        }
        drop(file);
        Ok(fs::remove_file(path)?)
    }

    /// What both ends have used so far.
    pub(crate) fn usage(&mut self) -> Result<Both> {
        let agent = self.agent.process()?.usage()?;
        Ok(Both {
            agent,
            aggregator: self.aggregator.process()?.usage()?,
        })
    }

    /// Waits until so many records are durable; the moment it was seen. One long poll for the last
    /// of them: asking again and again would be work that the aggregator is charged with.
    pub(crate) fn await_durable(&self, records: u64) -> Result<Instant> {
        wait("all records durable", MEASURE_MAX, || {
            let last = Fetch {
                from: records - 1,
                bytes_max: 1,
                wait_ms: 20_000,
            };
            let (_, next) = self.api.batches("logs", 0, last)?;
            Ok(if next >= records {
                Seen::Yes(Instant::now())
            } else {
                Seen::no(next)
            })
        })
    }

    /// A metric of the agent.
    pub(crate) fn agent_metric(&self, name: &str) -> Result<f64> {
        let (_, text) = Api::new(self.agent_http, &PathBuf::new()).get("/metrics")?;
        Ok(metric_in(&text, name))
    }
}

/// What both ends have used.
#[derive(Clone, Copy, Default)]
pub(crate) struct Both {
    pub(crate) agent: Usage,
    pub(crate) aggregator: Usage,
}

/// Input that lies in a file, and what bare zstd takes for it.
pub(crate) struct Load {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: u64,
    before: Baseline,
}

impl Load {
    /// Makes `mib` of lines and measures the yardstick once.
    pub(crate) fn new(kind: Kind, mib: u32) -> Result<Load> {
        let bytes = usize::try_from(mib).context("a size in memory")? << 20;
        let (bytes, lines) = Lines::new(kind, 1).bytes(bytes);
        let before = measure(&bytes)?;
        Ok(Load {
            bytes,
            lines,
            before,
        })
    }

    /// Writes it into the stage's log file.
    pub(crate) fn write(&self, stage: &Stage) -> Result<()> {
        let folder = stage.world.path("logs");
        fs::create_dir_all(&folder)?;
        let mut file = fs::File::create(folder.join("app.log"))?;
        file.write_all(&self.bytes).context("write the input")?;
        file.sync_all().context("sync the input")
    }

    /// Writes it at so many megabytes a second, whole lines or not; the moment of the last write.
    pub(crate) fn write_slowly(&self, stage: &Stage, rate: u64) -> Result<Instant> {
        let folder = stage.world.path("logs");
        fs::create_dir_all(&folder)?;
        let mut file = fs::File::create(folder.join("app.log"))?;
        let started = Instant::now();
        let mut written = 0;
        while written < self.bytes.len() {
            let micros = u64::try_from(started.elapsed().as_micros())?;
            let due = usize::try_from(micros * rate)?.min(self.bytes.len());
            file.write_all(&self.bytes[written..due])
                .context("write the input")?;
            written = due;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Instant::now())
    }

    /// The yardstick, measured before and after: the machine may have changed its speed.
    pub(crate) fn baseline(&self) -> Result<Baseline> {
        let after = measure(&self.bytes)?;
        Ok(Baseline {
            cpu: (self.before.cpu + after.cpu) / 2,
            ratio: after.ratio,
        })
    }
}

/// Bytes that went over the loopback interface so far, with everything around them.
pub(crate) fn loopback_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/dev").context("read the interfaces' counters")?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("lo:"));
    let received = line.and_then(|line| line.split_whitespace().next());
    Ok(received.context("no loopback interface")?.parse()?)
}
