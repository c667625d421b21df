//! Random scripts of what programs and operators do to log files, while the agent runs, stops, is
//! killed and loses power. Whatever the script: every line comes out once, and in order.
//!
//! What is not promised is not in the scripts: where rotated files lie outside the pattern, the agent
//! does not stop in the second before a file's position is durable, content that came and went while
//! nobody looked is not found, and a file is deleted only while the agent follows it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use commitlog::storage::faulty::FaultyDisk;

use crate::limits::QUIET;
use crate::testing::World;

const SCRIPTS: u64 = 200;
const STEPS: u32 = 40;

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.draw(of) == 0
    }
}

/// Where rotated files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotated {
    InsidePattern,
    OutsidePattern,
}

/// One log, as its writer sees it.
#[derive(Default)]
struct Log {
    writer: Option<File>,
    lines: u32,
    /// A line that is begun.
    begun: String,
    /// The agent has looked since the file got new content.
    is_met: bool,
}

struct Script {
    world: World,
    disk: FaultyDisk,
    chance: Chance,
    rotated: Rotated,
    logs: BTreeMap<String, Log>,
    rotations: u32,
    is_running: bool,
    /// All lines, of each log in order.
    expected: BTreeMap<String, Vec<String>>,
    steps: Vec<String>,
}

impl Script {
    fn new(seed: u64) -> Script {
        let disk = FaultyDisk::new();
        let mut world = World::on(Arc::new(disk.clone()));
        world.revive = Some((disk.clone(), seed));
        let mut chance = Chance(seed);
        let rotated = if chance.one_in(2) {
            Rotated::InsidePattern
        } else {
            Rotated::OutsidePattern
        };
        if rotated == Rotated::InsidePattern {
            world.config.files = vec![world.path("*.log*").display().to_string()];
        }
        if chance.one_in(4) {
            world.config.files_open_max = 1;
        }
        let logs = ["a", "b", "c"].map(|name| (format!("{name}.log"), Log::default()));
        Script {
            world,
            disk,
            chance,
            rotated,
            logs: BTreeMap::from(logs),
            rotations: 0,
            is_running: false,
            expected: BTreeMap::new(),
            steps: vec![format!("rotated files {rotated:?}")],
        }
    }

    fn step(&mut self) {
        let names: Vec<String> = self.logs.keys().cloned().collect();
        let at = usize::try_from(self.chance.draw(names.len() as u64)).unwrap();
        let name = &names[at];
        match self.chance.draw(20) {
            0..=6 => self.write(name),
            7 | 8 => self.begin_line(name),
            9 | 10 => self.rename(name),
            11 | 12 => self.copy_truncate(name),
            13 => self.delete(name),
            14 => self.rewrite(name),
            15 | 16 => self.turns(),
            17 | 18 => self.work(),
            _ => self.crash(),
        }
    }

    fn say(&mut self, what: String) {
        self.steps.push(what);
    }

    fn put(&mut self, name: &str, text: &str) {
        let world = &self.world;
        let log = self.logs.get_mut(name).unwrap();
        let writer = log.writer.get_or_insert_with(|| world.writer(name));
        writer.write_all(text.as_bytes()).unwrap();
    }

    fn expect(&mut self, name: &str, line: String) {
        self.expected.entry(name.to_owned()).or_default().push(line);
    }

    fn next_line(&mut self, name: &str) -> String {
        let log = self.logs.get_mut(name).unwrap();
        log.lines += 1;
        // The number comes first: what is seen of a line that is begun tells it from all others.
        format!("{:06} of {name}, a line", log.lines)
    }

    fn write(&mut self, name: &str) {
        let count = 1 + self.chance.draw(30);
        self.end_line(name);
        for _ in 0..count {
            let line = self.next_line(name);
            self.put(name, &format!("{line}\n"));
            self.expect(name, line);
        }
        if self.chance.one_in(3) {
            self.logs.get_mut(name).unwrap().writer = None;
        }
        self.say(format!("write {count} lines to {name}"));
    }

    fn begin_line(&mut self, name: &str) {
        self.end_line(name);
        let line = self.next_line(name);
        let (first, _) = line.split_at(line.len() / 2);
        self.put(name, first);
        self.logs.get_mut(name).unwrap().begun = line.clone();
        self.say(format!("begin {line:?} in {name}"));
    }

    /// The rest of a line that was begun.
    fn end_line(&mut self, name: &str) {
        let begun = std::mem::take(&mut self.logs.get_mut(name).unwrap().begun);
        if !begun.is_empty() {
            let (_, rest) = begun.split_at(begun.len() / 2);
            self.put(name, &format!("{rest}\n"));
            self.expect(name, begun);
        }
    }

    /// Whether the agent can find what would be in a rotated file now.
    fn is_findable(&mut self, name: &str) -> bool {
        if !self.world.path(name).exists() {
            return false;
        }
        self.end_line(name);
        let log = self.logs.get_mut(name).unwrap();
        std::mem::replace(&mut log.is_met, false) || self.rotated == Rotated::InsidePattern
    }

    /// The agent runs, and has looked at everything.
    fn is_up(&mut self) {
        self.is_running = true;
        for (name, log) in &mut self.logs {
            let length = fs::metadata(self.world.path(name)).map_or(0, |metadata| metadata.len());
            log.is_met = length > 0;
        }
    }

    fn rotated_name(&mut self, name: &str) -> String {
        self.rotations += 1;
        match self.rotated {
            Rotated::InsidePattern => format!("{name}.{}", self.rotations),
            Rotated::OutsidePattern => format!("{name}-{}", self.rotations),
        }
    }

    fn rename(&mut self, name: &str) {
        // While the agent runs it hears of the rename itself.
        let is_heard = self.is_running && self.world.path(name).exists();
        if !(self.is_findable(name) || is_heard) {
            return;
        }
        let to = self.rotated_name(name);
        self.say(format!("rename {name} to {to}"));
        self.world.rename(name, &to);
        if self.chance.one_in(2) {
            // A writer that has not noticed yet.
            let late = self.next_line(name);
            self.say(format!("late {late:?}"));
            let log = self.logs.get_mut(name).unwrap();
            let mut writer = log.writer.take().unwrap_or_else(|| self.world.writer(&to));
            writer.write_all(format!("{late}\n").as_bytes()).unwrap();
            self.expect(name, late);
        }
        self.logs.get_mut(name).unwrap().writer = None;
    }

    fn copy_truncate(&mut self, name: &str) {
        if !self.is_findable(name) {
            return;
        }
        let to = self.rotated_name(name);
        self.say(format!("copy {name} to {to} and truncate it"));
        fs::copy(self.world.path(name), self.world.path(&to)).unwrap();
        if self.is_running && self.chance.one_in(2) {
            self.say("while it is copied:".to_owned());
            self.turns();
        }
        self.world.truncate(name);
        self.logs.get_mut(name).unwrap().is_met = false;
    }

    fn delete(&mut self, name: &str) {
        // What is added to a file that had to be closed, and is deleted at once, nobody can read.
        if !self.world.path(name).exists() || self.world.config.files_open_max == 1 {
            return;
        }
        self.settle();
        self.end_line(name);
        self.say(format!("delete {name}"));
        self.world.remove(name);
        self.logs.get_mut(name).unwrap().writer = None;
        self.settle();
    }

    fn rewrite(&mut self, name: &str) {
        if !self.world.path(name).exists() {
            return;
        }
        self.end_line(name);
        self.world.run_for(QUIET * 2);
        self.is_up();
        self.say(format!("rewrite {name}"));
        self.logs.get_mut(name).unwrap().writer = None;
        self.world.truncate(name);
        self.write(name);
        // Content that nobody has seen, in a copy under a name that nobody watches, is not found.
        self.settle();
    }

    fn turns(&mut self) {
        let turns = 1 + self.chance.draw(4);
        for _ in 0..turns {
            self.world.turn();
            self.world.pass(Duration::from_millis(1));
        }
        self.is_up();
        self.say(format!("{turns} turns"));
    }

    fn settle(&mut self) {
        self.world.settle();
        self.is_up();
        self.say("settle".to_owned());
    }

    fn work(&mut self) {
        let ms = 50 * self.chance.draw(160);
        self.world.run_for(Duration::from_millis(ms));
        self.is_up();
        self.say(format!("work for {ms} ms"));
    }

    fn crash(&mut self) {
        if self.rotated == Rotated::OutsidePattern && self.is_running {
            self.world.run_for(Duration::from_secs(2));
            self.is_up();
        }
        self.is_running = false;
        match self.chance.draw(3) {
            0 => {
                self.say("kill".to_owned());
                self.world.kill();
            }
            1 => {
                self.say("stop".to_owned());
                self.world.stop();
            }
            _ => {
                let seed = self.chance.draw(1 << 40);
                self.say(format!("power cut, seed {seed}"));
                self.disk.power_cut();
                self.world.revive(seed);
            }
        }
    }

    /// Ends the script, and compares.
    fn check(mut self, seed: u64) {
        for name in self.logs.keys().cloned().collect::<Vec<_>>() {
            self.end_line(&name);
        }
        for log in self.logs.values_mut() {
            log.writer = None;
        }
        self.world.run_for(QUIET * 4);
        let story = || format!("seed {seed}:\n  {}", self.steps.join("\n  "));
        let losses = self.world.losses();
        let losses: Vec<_> = losses
            .iter()
            .filter(|loss| !loss.starts_with("missing"))
            .collect();
        assert!(losses.is_empty(), "losses {losses:?}, {}", story());
        let mut all: Vec<String> = Vec::new();
        for (path, lines) in self.world.lines() {
            // Lines of one log are in order under every path that they came by.
            assert!(
                lines.is_sorted(),
                "{path} is out of order: {lines:#?}, {}",
                story()
            );
            all.extend(lines);
        }
        all.sort();
        let mut expected: Vec<String> = self.expected.values().flatten().cloned().collect();
        expected.sort();
        let lost: Vec<_> = expected.iter().filter(|line| !all.contains(line)).collect();
        assert!(lost.is_empty(), "lost {lost:#?}, {}", story());
        let twice: Vec<_> = all.windows(2).filter(|two| two[0] == two[1]).collect();
        assert!(twice.is_empty(), "twice {twice:#?}, {}", story());
        assert_eq!(all, expected, "{}", story());
    }
}

#[test]
fn i19_every_line_comes_once_and_in_order_whatever_is_done_to_its_file() {
    for seed in 0..SCRIPTS {
        let mut script = Script::new(seed);
        for _ in 0..STEPS {
            script.step();
        }
        script.check(seed);
    }
}
