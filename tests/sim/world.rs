//! One run: machines, a network, a seed that decides what befalls them, and at the end the oracle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use commitlog::storage::faulty::{Fault, FaultyDisk};
use turmoil::Sim;

use crate::hosts::{AGGREGATOR, AgentMachine, AggregatorMachine, SimIdentity, lock};
use crate::network::{self, SimTransport};
use crate::oracle::{self, Consumer, Known};
use crate::source::LogFile;

/// How long faults strike.
const TROUBLE: Duration = Duration::from_secs(12);
/// How long everything may take to settle afterwards.
const PEACE: Duration = Duration::from_mins(2);
const AGENT: &str = "agent";
const CLONE: &str = "clone";

/// What a run comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Equal for equal seeds.
    pub(crate) trace: u64,
    pub(crate) lines: usize,
    pub(crate) faults: Vec<String>,
}

struct World {
    sim: Sim<'static>,
    random: fastrand::Rng,
    aggregator: AggregatorMachine,
    agent: AgentMachine,
    clone: Option<AgentMachine>,
    snapshot: Option<Snapshot>,
    /// Lines that two machines read from their copies of one file, each for itself.
    read_by_both: BTreeSet<String>,
    udp_blocked: Arc<AtomicBool>,
    consumer: Consumer,
    written: BTreeSet<String>,
    down: Vec<(Duration, &'static str)>,
    faults: Vec<String>,
    /// A machine is copied or taken back at most once in a run: what an older copy sent under another
    /// id cannot be told from what it never sent.
    may_copy: bool,
}

/// Runs a seed. The error says what the oracle found.
pub(crate) fn run(seed: u64) -> Result<Report, String> {
    network::reset_trace();
    let mut world = World::new(seed);
    let judged = world.play();
    judged.map_err(|error| format!("{error}\nfaults: {:#?}", world.faults))?;
    Ok(Report {
        trace: network::trace(),
        lines: world.written.len(),
        faults: world.faults,
    })
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let latency = random.u64(1..40);
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(TROUBLE + PEACE * 2)
            .min_message_latency(Duration::from_millis(random.u64(0..=latency)))
            .max_message_latency(Duration::from_millis(latency))
            .udp_capacity(4096)
            .tcp_capacity(4096)
            .build();
        let udp_blocked = Arc::<AtomicBool>::default();
        let aggregator = AggregatorMachine::new(seed, Arc::clone(&udp_blocked));
        let agent = AgentMachine {
            name: AGENT,
            disk: FaultyDisk::new(),
            file: LogFile::default(),
            identity: SimIdentity::of(&aggregator.authority, AGENT),
            transport: SimTransport::new(seed ^ 1, Arc::clone(&udp_blocked)),
            seed: Arc::new(AtomicU64::new(seed ^ 0xa9e7)),
            spool: Arc::default(),
        };
        let program = aggregator.clone();
        sim.host(AGGREGATOR, move || program.clone().run());
        let program = agent.clone();
        sim.host(AGENT, move || program.clone().run());
        World {
            sim,
            random,
            aggregator,
            agent,
            clone: None,
            snapshot: None,
            read_by_both: BTreeSet::new(),
            udp_blocked,
            consumer: Consumer::default(),
            written: BTreeSet::new(),
            down: Vec::new(),
            faults: Vec::new(),
            may_copy: true,
        }
    }

    fn play(&mut self) -> Result<(), String> {
        let mut next_fault = Duration::from_millis(500);
        while self.sim.elapsed() < TROUBLE {
            self.step()?;
            self.write();
            self.raise_the_fallen();
            if self.sim.elapsed() >= next_fault {
                self.strike();
                next_fault = self.sim.elapsed() + Duration::from_millis(self.random.u64(50..1500));
            }
        }
        self.make_peace();
        let deadline = self.sim.elapsed() + PEACE;
        loop {
            for _ in 0..20 {
                self.step()?;
            }
            if self.is_settled() {
                break;
            }
            if self.sim.elapsed() > deadline {
                let judged = self.judge();
                return judged.and(Err("all arrived, but the spool was not freed".to_owned()));
            }
        }
        self.judge()
    }

    fn judge(&mut self) -> Result<(), String> {
        let topics = lock(&self.aggregator.topics).clone();
        let topics = topics.ok_or("the aggregator does not run")?;
        self.consumer.poll(&topics)?;
        self.consumer.check_unchanged(&topics)?;
        let machines = [Some(&self.agent), self.clone.as_ref()];
        let files: Vec<_> = machines
            .into_iter()
            .flatten()
            .map(|machine| (machine.name, machine.file.lines()))
            .collect();
        let known = Known {
            written: &self.written,
            may_come_twice: &self.read_by_both,
        };
        oracle::judge(&self.consumer, &files, &known)
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        if self.sim.elapsed().as_millis() % 50 == 0 && self.sim.is_host_running(AGGREGATOR) {
            let topics = lock(&self.aggregator.topics).clone();
            if let Some(topics) = topics {
                self.consumer.poll(&topics)?;
            }
        }
        Ok(())
    }

    /// Applications log.
    fn write(&mut self) {
        for machine in [Some(&self.agent), self.clone.as_ref()]
            .into_iter()
            .flatten()
        {
            for _ in 0..self.random.u32(0..3) {
                let number = self.written.len();
                let filler = "~".repeat(self.random.usize(0..60));
                let line = format!("{} wrote {number:07} {filler}", machine.name);
                machine.file.append(line.clone());
                self.written.insert(line);
            }
        }
    }

    fn is_settled(&self) -> bool {
        let machines = [Some(&self.agent), self.clone.as_ref()];
        let mut machines = machines.into_iter().flatten();
        machines.all(|machine| {
            let spool = lock(&machine.spool).clone();
            let Some(spool) = spool else { return false };
            let read: usize = spool
                .positions()
                .iter()
                .map(|it| usize::try_from(it.position.offset).unwrap_or(0))
                .sum();
            let fill = spool.fill();
            fill.unacknowledged_records == 0 && read == machine.file.lines().len()
        })
    }

    fn strike(&mut self) {
        let at = self.sim.elapsed().as_millis();
        let host = if self.random.bool() {
            AGGREGATOR
        } else {
            AGENT
        };
        let what = match self.random.u32(0..12) {
            0..=2 => self.stop(host, Stop::Kill),
            3..=4 => self.stop(host, Stop::PowerCut),
            5 => {
                self.sim.partition(AGENT, AGGREGATOR);
                "network cut".to_owned()
            }
            6 => {
                self.sim.partition_oneway(host, other(host));
                format!("network cut, from {host} only")
            }
            7 => {
                self.repair_network();
                "network repaired".to_owned()
            }
            8 => {
                let rate = self.random.f64() * 0.05;
                self.sim.set_fail_rate(rate);
                format!("{:.1} % of messages lost", rate * 100.0)
            }
            9 => {
                let blocked = !self.udp_blocked.fetch_xor(true, Ordering::Relaxed);
                format!("UDP blocked: {blocked}")
            }
            10 => self.fault_of_disk(host),
            _ if self.may_copy => self.copy_or_take_back(),
            _ => return,
        };
        self.faults.push(format!("{at} ms: {what}"));
    }

    fn stop(&mut self, host: &'static str, how: Stop) -> String {
        if !self.sim.is_host_running(host) {
            return format!("{host} is down already");
        }
        let seed = self.random.u64(..);
        let disk = match host {
            AGGREGATOR => &self.aggregator.disk,
            _ => &self.agent.disk,
        };
        // The disk first: a process that is killed writes nothing on its way out.
        match how {
            Stop::Kill => disk.kill(),
            Stop::PowerCut => disk.power_cut(),
        }
        self.sim.crash(host);
        if matches!(how, Stop::PowerCut) {
            disk.restart(seed);
        }
        let away = Duration::from_millis(self.random.u64(1..2000));
        self.down.push((self.sim.elapsed() + away, host));
        format!("{host}: {how:?}, back after {away:?}")
    }

    fn fault_of_disk(&mut self, host: &'static str) -> String {
        let disk = match host {
            AGGREGATOR => &self.aggregator.disk,
            _ => &self.agent.disk,
        };
        let fault = [Fault::Io, Fault::Full, Fault::Short][self.random.usize(0..3)];
        let call = disk.calls() + self.random.u64(1..40);
        disk.plan(call, fault);
        format!("{host}: {fault:?} at call {call}")
    }

    /// A snapshot of the agent's machine, which later becomes a clone or is rolled back to.
    fn copy_or_take_back(&mut self) -> String {
        let Some(Snapshot {
            disk,
            file,
            spooled,
        }) = self.snapshot.take()
        else {
            self.snapshot = Some(Snapshot {
                disk: self.agent.disk.snapshot(),
                file: self.agent.file.copy(),
                spooled: self.durably_spooled(),
            });
            return "snapshot of the agent".to_owned();
        };
        self.may_copy = false;
        self.read_by_both = file.lines().into_iter().skip(spooled).collect();
        if self.random.bool() {
            disk.kill();
            let clone = AgentMachine {
                name: CLONE,
                disk,
                file,
                transport: SimTransport::new(self.random.u64(..), Arc::clone(&self.udp_blocked)),
                seed: Arc::new(AtomicU64::new(self.random.u64(..))),
                spool: Arc::default(),
                ..self.agent.clone()
            };
            let program = clone.clone();
            self.sim.host(CLONE, move || program.clone().run());
            self.clone = Some(clone);
            return "a clone starts from the snapshot".to_owned();
        }
        self.agent.disk.kill();
        self.sim.crash(AGENT);
        self.agent.disk.restore(&disk);
        self.agent.file.restore(&file);
        self.down.push((self.sim.elapsed(), AGENT));
        "the agent is rolled back to the snapshot".to_owned()
    }

    /// How many lines of the agent's file are fsynced in its spool, as far as its process can tell.
    fn durably_spooled(&self) -> usize {
        let spool = lock(&self.agent.spool).clone();
        let ends = spool.iter().flat_map(|spool| {
            let partitions = spool.partitions().into_iter();
            partitions.map(|it| spool.range(&it).durable_end.get())
        });
        // All lines go to one partition, one record each.
        usize::try_from(ends.max().unwrap_or(0)).unwrap_or(0)
    }

    fn raise_the_fallen(&mut self) {
        let now = self.sim.elapsed();
        let (due, wait) = self.down.drain(..).partition(|(at, _)| *at <= now);
        self.down = wait;
        let due: Vec<(Duration, &str)> = due;
        for (_, host) in due {
            if !self.sim.is_host_running(host) {
                self.sim.bounce(host);
            }
        }
    }

    fn repair_network(&mut self) {
        self.sim.repair(AGENT, AGGREGATOR);
        if self.clone.is_some() {
            self.sim.repair(CLONE, AGGREGATOR);
        }
    }

    /// No more faults: from here on everything has to come right by itself.
    fn make_peace(&mut self) {
        self.repair_network();
        self.sim.set_fail_rate(0.0);
        self.udp_blocked.store(false, Ordering::Relaxed);
        self.aggregator.disk.forgive();
        self.agent.disk.forgive();
        if let Some(clone) = &self.clone {
            clone.disk.forgive();
        }
        for (_, host) in std::mem::take(&mut self.down) {
            if !self.sim.is_host_running(host) {
                self.sim.bounce(host);
            }
        }
    }
}

/// A copy of the agent's machine.
struct Snapshot {
    disk: FaultyDisk,
    file: LogFile,
    /// Lines of the file that are in the spool. The others are read by whoever runs on the copy.
    spooled: usize,
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    Kill,
    PowerCut,
}

fn other(host: &str) -> &'static str {
    if host == AGENT { AGGREGATOR } else { AGENT }
}
