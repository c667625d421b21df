//! The power goes out: a real ext4 on a loop mount is shut down without flushing, twenty times.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::condition::{wait, when};
use weir_tests::limits::{DRAIN_MAX, READY_MAX};
use weir_tests::oracle::reader::{Reader, WriterProcess, plan_in};
use weir_tests::oracle::writer::{Plan, Rotation};
use weir_tests::process::run;
use weir_tests::programs;
use weir_tests::skip::{missing_program, not_root, skip};
use weir_tests::world::World;

const CUTS: u32 = 20;

/// A file system in a file, whose power can be cut.
struct FragileDisk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl FragileDisk {
    fn new(world: &World, name: &str) -> Result<FragileDisk> {
        let image = world.write(&format!("{name}.image"), "")?;
        std::fs::File::options()
            .write(true)
            .open(&image)?
            .set_len(256 << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mounted_at = world.path(&format!("{name}.mount"));
        std::fs::create_dir(&mounted_at)?;
        let disk = FragileDisk { image, mounted_at };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let mut command = Command::new("mount");
        run(command
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.mounted_at))
        .map(drop)
    }

    fn unmount(&self) -> Result<()> {
        wait("an idle mount", READY_MAX, || {
            let unmounted = run(Command::new("umount").arg(&self.mounted_at));
            when(unmounted.is_ok(), || format!("{unmounted:?}"))
        })
    }

    fn cut_power(&self) -> Result<()> {
        run(Command::new(programs::power_cut()?).arg(&self.mounted_at)).map(drop)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder: &Path = &self.mounted_at;
        folder.join(name)
    }
}

impl Drop for FragileDisk {
    fn drop(&mut self) {
        // Lazily, because a program that a failing test left behind may still hold it.
        drop(run(Command::new("umount").arg("-l").arg(&self.mounted_at)));
    }
}

/// What dies first: with the program first, dirty pages are simply gone; with the disk first, the
/// program sees its disk fail before it dies.
#[derive(Clone, Copy, Debug)]
enum First {
    Program,
    Disk,
}

#[test]
fn power_cuts_on_a_real_file_system_lose_nothing() -> Result<()> {
    let programs = ["mkfs.ext4", "mount", "umount"];
    let why = not_root().or_else(|| missing_program(&programs));
    let world = World::new()?;
    let disks = FragileDisk::new(&world, "agent")
        .and_then(|agent| Ok((agent, FragileDisk::new(&world, "aggregator")?)));
    let (agent_disk, aggregator_disk) = match (why, disks) {
        (None, Ok(disks)) => disks,
        (why, disks) => {
            let why = why.unwrap_or_else(|| format!("no loop mounts: {:?}", disks.err()));
            skip("power_cuts_on_a_real_file_system_lose_nothing", &why);
            return Ok(());
        }
    };
    let seed = fastrand::u64(..);
    cut_often(&world, &agent_disk, &aggregator_disk, seed).with_context(|| format!("seed {seed}"))
}

fn cut_often(world: &World, left: &FragileDisk, right: &FragileDisk, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let data_dir = Some(right.folder("data"));
    let options = AggregatorOptions {
        data_dir,
        ..AggregatorOptions::default()
    };
    let mut aggregator = Aggregator::start(world, &options)?;
    let mut options = AgentOptions::tailing(&[world.path("logs/*.log*")]);
    options.data_dir = Some(left.folder("data"));
    let mut agent = Agent::start(world, "agent", &options, &aggregator)?;
    let mut reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let plan = Plan {
        rotation: Rotation::Rename,
        rotate_lines: 2_000,
        ..plan_in(world)
    };
    let writer = WriterProcess::start(&plan)?;
    for _ in 0..CUTS {
        // The moment is the fault: it is chosen, not waited for.
        std::thread::sleep(Duration::from_millis(random.u64(..400)));
        drop(reader.poll());
        let first = if random.bool() {
            First::Program
        } else {
            First::Disk
        };
        if random.bool() {
            cut(left, first, || agent.kill())?;
            agent.restart()?;
        } else {
            cut(right, first, || aggregator.kill())?;
            aggregator.restart()?;
        }
    }
    let mut written = writer.finish()?;
    written.extend(weir_tests::chaos::fresh_lines(world)?);
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    ensure!(verdict.is_clean(), "{verdict}");
    agent.terminate()?;
    aggregator.terminate()
}

fn cut(disk: &FragileDisk, first: First, kill: impl FnOnce() -> Result<()>) -> Result<()> {
    match first {
        First::Program => {
            kill()?;
            disk.cut_power()?;
        }
        First::Disk => {
            disk.cut_power()?;
            kill()?;
        }
    }
    disk.unmount()?;
    disk.mount()
}
