//! Plays a script: does each step to real files and to the agent, and tells the model.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use commitlog::storage::faulty::FaultyDisk;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::model::{Kind, LifeId, Model, Written};
use super::plan::{During, LOGS, Log, Plan, Rotated, Setting, SpoolSize, Step, User};
use crate::limits::{FORGET_AFTER, LATE, QUIET, RECONCILE_EVERY};
use crate::testing::{Durable, World, open_below};

/// One log, as its writers see it.
#[derive(Default)]
struct Writers {
    name: String,
    now: Option<(File, LifeId)>,
    /// Those that write on to files that the log's path does not name any more.
    late: Vec<(File, LifeId)>,
    lines: u32,
    /// What is written of a line, and the rest of it.
    begun: Option<Begun>,
}

struct Begun {
    number: u32,
    /// What lies in the present file.
    written: String,
    rest: String,
}

/// The files, the agent, and what must come of it.
struct Stage {
    world: World,
    disk: FaultyDisk,
    setting: Setting,
    logs: Vec<Writers>,
    /// Files that were rotated and are there, with their logs.
    rotated: Vec<(usize, String)>,
    rotations: u32,
    model: Model,
    durable: Durable,
    unreadable: Option<String>,
}

/// Plays a script to its end. The error says what should not have been.
pub(super) fn play(plan: &Plan, seed: u64) -> Result<(), String> {
    let mut stage = Stage::new(plan.setting, seed);
    for (number, step) in plan.steps.iter().enumerate() {
        let done = stage.step(step);
        done.map_err(|why| format!("step {} ({step}): {why}", number + 1))?;
    }
    stage.end()
}

impl Stage {
    fn new(setting: Setting, seed: u64) -> Stage {
        let disk = FaultyDisk::new();
        let mut world = World::on(Arc::new(disk.clone()));
        world.revive = Some((disk.clone(), seed));
        world.as_nobody = setting.user == User::Nobody && is_root();
        world.config.files_open_max = setting.files_open_max;
        if setting.rotated == Rotated::InsidePattern {
            world.config.files = vec![world.path("*.log*").display().to_string()];
        }
        if setting.spool == SpoolSize::Small {
            world.spool_config.bytes_max = 40_000;
            world.spool_config.segment_bytes = 8_192;
        }
        for source in 1..setting.sources {
            let mut config = world.config.clone();
            config.name = source_name(source);
            config.topic = topic(source).parse().unwrap();
            world.more.push(config);
        }
        let logs = LOGS.map(|name| Writers {
            name: format!("{name}.log"),
            ..Writers::default()
        });
        Stage {
            model: Model::new(setting.rotated, setting.files_open_max, setting.sources),
            world,
            disk,
            setting,
            logs: logs.into(),
            rotated: Vec::new(),
            rotations: 0,
            durable: Durable::default(),
            unreadable: None,
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Write { log, lines, close } => self.write(log, lines, close),
            Step::Flood(log) => self.flood(log),
            Step::Begin(log) => self.begin_line(log),
            Step::Late { lines, close } => self.write_late(lines, close),
            Step::Backup(log) => self.back_up(log),
            Step::Rename { log, late, torn } => self.rename(log, late, torn),
            Step::CopyTruncate { log, turns, raced } => {
                return self.copy_truncate(log, turns, raced);
            }
            Step::Delete { log, late } => self.delete(log, late),
            Step::Rewrite { log, lines } => self.rewrite(log, lines),
            Step::Replace { log, lines } => self.replace(log, lines),
            Step::MoveRotated(which) => self.move_rotated(which),
            Step::DeleteRotated(which) => self.delete_rotated(which),
            Step::GzipRotated(which) => self.gzip_rotated(which),
            Step::Unreadable { log, during } => return self.while_unreadable(log, during),
            Step::Turns(turns) => return self.turns(turns),
            Step::Work(ms) => return self.work(Duration::from_millis(ms), STEP),
            Step::Idle(s) => return self.work(Duration::from_secs(s), COARSE_STEP),
            Step::Calm => return self.calm(),
            Step::Kill => return self.kill(),
            Step::Stop => self.stop(),
            Step::PowerCut(seed) => self.power_cut(seed),
            Step::Down(ms) => self.down(Duration::from_millis(ms)),
            Step::Block => self.model.is_blocked = self.setting.spool == SpoolSize::Small,
            Step::Unblock => self.model.is_blocked = false,
        }
        Ok(())
    }

    // Writers.

    fn put(&mut self, log: Log, text: &str) -> LifeId {
        let now = self.world.time();
        let writers = &mut self.logs[log.0];
        if writers.now.is_none() {
            let life = self.model.life_at(&writers.name);
            let life = life.unwrap_or_else(|| self.model.begin(log.0, &writers.name, now));
            writers.now = Some((self.world.writer(&writers.name), life));
        }
        let (file, life) = writers.now.as_mut().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        self.model.grow(*life, text.len(), now);
        *life
    }

    fn next_line(&mut self, log: Log, padding: &str) -> (u32, String) {
        let writers = &mut self.logs[log.0];
        writers.lines += 1;
        // The number stands at both ends, so that a half is known too.
        let name = LOGS[log.0];
        let line = format!("{name}{0:05} line{padding} {name}{0:05}", writers.lines);
        (writers.lines, line)
    }

    fn write_line(&mut self, log: Log, padding: &str) -> String {
        let (number, line) = self.next_line(log, padding);
        let life = self.put(log, &format!("{line}\n"));
        self.wrote(life, number, &line, Kind::Line);
        line
    }

    fn wrote(&mut self, life: LifeId, number: u32, value: &str, kind: Kind) {
        let written = Written {
            life,
            number,
            value,
            kind,
        };
        self.model.write(&written, self.world.time());
    }

    fn write(&mut self, log: Log, lines: u64, close: bool) {
        self.end_line(log);
        for _ in 0..lines {
            self.write_line(log, "");
        }
        if close {
            self.logs[log.0].now = None;
        }
    }

    fn flood(&mut self, log: Log) {
        self.end_line(log);
        let mut noise = u64::from(self.logs[log.0].lines);
        for _ in 0..FLOOD_LINES {
            let mut padding = String::from(" ");
            for _ in 0..8 {
                noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                write!(padding, "{noise:x}").unwrap();
            }
            self.write_line(log, &padding);
        }
    }

    fn begin_line(&mut self, log: Log) {
        self.end_line(log);
        let (number, line) = self.next_line(log, "");
        let (written, rest) = line.split_at(line.len() / 2);
        self.put(log, written);
        self.logs[log.0].begun = Some(Begun {
            number,
            written: written.to_owned(),
            rest: rest.to_owned(),
        });
    }

    /// Writes the rest of a line that was begun.
    fn end_line(&mut self, log: Log) {
        if let Some(begun) = self.logs[log.0].begun.take() {
            let life = self.put(log, &format!("{}\n", begun.rest));
            let line = begun.written + &begun.rest;
            self.wrote(life, begun.number, &line, Kind::Line);
        }
    }

    /// The file with the beginning of a line gets no more of it.
    fn tear_line(&mut self, log: Log) {
        let Some(life) = self.model.life_at(&self.logs[log.0].name) else {
            return;
        };
        if let Some(begun) = &mut self.logs[log.0].begun {
            let written = std::mem::take(&mut begun.written);
            let number = begun.number;
            if !written.is_empty() {
                self.wrote(life, number, &written, Kind::Torn);
            }
        }
    }

    fn write_late(&mut self, lines: u64, close: bool) {
        let Some(log) = (0..LOGS.len()).find(|&log| !self.logs[log].late.is_empty()) else {
            return;
        };
        for _ in 0..lines {
            let (number, line) = self.next_line(Log(log), "");
            let (file, life) = self.logs[log].late.last_mut().unwrap();
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
            let life = *life;
            // Its place in the order is told by the time that it was quiet before.
            self.model.grow_late(life, line.len() + 1);
            self.wrote(life, number, &line, Kind::Line);
        }
        if close {
            self.logs[log].late.pop();
        }
    }

    // Rotation.

    fn exists(&self, name: &str) -> bool {
        self.world.path(name).exists()
    }

    fn rotated_name(&mut self, log: Log) -> String {
        self.rotations += 1;
        let (name, number) = (&self.logs[log.0].name, self.rotations);
        match self.setting.rotated {
            Rotated::InsidePattern => format!("{name}.{number}"),
            Rotated::OutsidePattern => format!("{name}-{number}"),
        }
    }

    /// The log's path ceases to name its file. Its writer goes, or goes on.
    fn leave(&mut self, log: Log, late: bool) {
        let writers = &mut self.logs[log.0];
        if let Some(writer) = writers.now.take()
            && late
        {
            writers.late.push(writer);
        }
    }

    fn rename(&mut self, log: Log, late: bool, torn: bool) {
        let name = self.logs[log.0].name.clone();
        if !self.exists(&name) {
            return;
        }
        if torn && !late {
            self.tear_line(log);
            self.logs[log.0].begun = None;
        } else {
            self.end_line(log);
        }
        let to = self.rotated_name(log);
        self.world.rename(&name, &to);
        self.model.renamed(&name, &to, self.world.time());
        self.rotated.push((log.0, to));
        self.leave(log, late);
        if late {
            self.write_late(1, false);
        }
    }

    fn copy_truncate(&mut self, log: Log, turns: u64, raced: u64) -> Result<(), String> {
        let name = self.logs[log.0].name.clone();
        if !self.exists(&name) {
            return Ok(());
        }
        let to = self.rotated_name(log);
        self.tear_line(log);
        fs::copy(self.world.path(&name), self.world.path(&to)).unwrap();
        if self.model.is_running() && turns > 0 {
            self.turns(turns)?;
        }
        if raced > 0 && self.logs[log.0].begun.is_none() {
            let lines: Vec<String> = (0..raced).map(|_| self.write_line(log, "")).collect();
            self.model.raced(&lines);
        }
        self.cut(log, Some(&to));
        self.rotated.push((log.0, to));
        Ok(())
    }

    /// Truncates a log's file. Its writer goes on at its new start.
    fn cut(&mut self, log: Log, copy: Option<&str>) {
        let name = self.logs[log.0].name.clone();
        self.world.truncate(&name);
        let life = self.model.truncated(&name, copy, self.world.time());
        if let Some((_, writes_to)) = &mut self.logs[log.0].now {
            *writes_to = life;
        }
    }

    fn back_up(&mut self, log: Log) {
        // What ends within a line is a line of its own, should the file be lost.
        self.end_line(log);
        let name = &self.logs[log.0].name;
        // Under a name that is meant it would be one more file.
        if self.setting.rotated == Rotated::OutsidePattern && self.exists(name) {
            let to = self.world.path(&format!("{name}-backup"));
            fs::copy(self.world.path(name), to).unwrap();
            self.model.backed_up(name);
        }
    }

    fn delete(&mut self, log: Log, late: bool) {
        let name = self.logs[log.0].name.clone();
        if !self.exists(&name) {
            return;
        }
        self.end_line(log);
        self.world.remove(&name);
        self.model.deleted(&name, self.world.time());
        self.leave(log, late);
    }

    fn rewrite(&mut self, log: Log, lines: u64) {
        if !self.exists(&self.logs[log.0].name) {
            return;
        }
        self.tear_line(log);
        self.cut(log, None);
        self.write(log, lines, true);
    }

    fn replace(&mut self, log: Log, lines: u64) {
        let name = self.logs[log.0].name.clone();
        if !self.exists(&name) {
            return;
        }
        self.end_line(log);
        self.leave(log, false);
        let draft = format!("{}.draft", LOGS[log.0]);
        let now = self.world.time();
        let life = self.model.begin(log.0, &draft, now);
        self.logs[log.0].now = Some((self.world.writer(&draft), life));
        self.write(log, lines, true);
        self.world.rename(&draft, &name);
        self.model.replaced(&draft, &name, now);
    }

    fn move_rotated(&mut self, which: usize) {
        if self.rotated.is_empty() {
            return;
        }
        let at = which % self.rotated.len();
        let (log, from) = self.rotated[at].clone();
        let to = self.rotated_name(Log(log));
        self.world.rename(&from, &to);
        self.model.renamed(&from, &to, self.world.time());
        self.rotated[at].1 = to;
    }

    fn delete_rotated(&mut self, which: usize) {
        if self.rotated.is_empty() {
            return;
        }
        let at = which % self.rotated.len();
        let (_, name) = self.rotated.remove(at);
        self.world.remove(&name);
        self.model.deleted(&name, self.world.time());
    }

    fn gzip_rotated(&mut self, which: usize) {
        if self.rotated.is_empty() {
            return;
        }
        let at = which % self.rotated.len();
        let (_, from) = self.rotated.remove(at);
        let to = format!("{from}.gz");
        let plain = fs::read(self.world.path(&from)).unwrap();
        let file = File::create(self.world.path(&to)).unwrap();
        let mut encoder = GzEncoder::new(file, Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap();
        self.world.remove(&from);
        self.model.gzipped(&from, &to, self.world.time());
    }

    fn while_unreadable(&mut self, log: Log, during: During) -> Result<(), String> {
        let name = self.logs[log.0].name.clone();
        // Root reads all the same.
        if !self.exists(&name) || is_root() && !self.world.as_nobody {
            return Ok(());
        }
        let path = self.world.path(&name);
        let allow = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        self.put(log, "");
        allow(0o000);
        self.unreadable = Some(name);
        if !self.model.is_running() || matches!(during, During::Kill) {
            self.model.cannot_compare(log.0);
        }
        let done = match during {
            During::Turns => self.turns(2),
            During::Work => self.work(RECONCILE_EVERY, STEP),
            During::Kill => self.kill().and_then(|()| self.turns(2)),
            During::Write => {
                self.write(log, 5, false);
                self.turns(2)
            }
        };
        self.unreadable = None;
        allow(0o644);
        done
    }

    // The agent.

    fn turns(&mut self, turns: u64) -> Result<(), String> {
        for _ in 0..turns {
            self.world.turn();
            self.world.pass(Duration::from_millis(1));
        }
        self.model
            .looked(self.unreadable.as_deref(), self.world.time());
        self.collect()
    }

    fn work(&mut self, time: Duration, step: Duration) -> Result<(), String> {
        let since = self.world.time();
        loop {
            self.world.settle();
            self.collect()?;
            if self.world.time() >= since + time {
                break;
            }
            self.world.pass(step);
        }
        let (unreadable, now) = (self.unreadable.as_deref(), self.world.time());
        self.model.worked(since, unreadable, now);
        Ok(())
    }

    /// Takes what became durable, as an aggregator does.
    fn collect(&mut self) -> Result<(), String> {
        let spool = self.world.spool();
        for (partition, line) in self.durable.take(&spool) {
            let topic = partition.topic.as_str();
            let source = (0..self.setting.sources).find(|&source| topic == self::topic(source));
            let source = source.ok_or_else(|| format!("a record in {partition}"))?;
            let path = Path::new(&line.path).file_name().unwrap_or_default();
            self.model
                .came(source, &path.to_string_lossy(), &line.value)?;
        }
        if !self.model.is_blocked {
            for partition in spool.partitions() {
                spool.acknowledge(&partition, spool.range(&partition).durable_end);
            }
        }
        Ok(())
    }

    fn calm(&mut self) -> Result<(), String> {
        for log in 0..LOGS.len() {
            self.end_line(Log(log));
            self.logs[log].late.clear();
        }
        self.model.is_blocked = false;
        self.work(QUIET * 4, STEP)?;
        self.model.all_came()
    }

    fn kill(&mut self) -> Result<(), String> {
        if self.model.is_running() {
            self.collect()?;
            self.world.kill();
        }
        self.model.interrupted(false, self.world.time());
        Ok(())
    }

    fn stop(&mut self) {
        if self.model.is_running() {
            self.world.stop();
        }
        self.model.interrupted(true, self.world.time());
    }

    fn power_cut(&mut self, seed: u64) {
        self.disk.power_cut();
        self.world.revive(seed);
        self.model.interrupted(false, self.world.time());
    }

    fn down(&mut self, time: Duration) {
        if !self.model.is_running() {
            self.world.pass(time);
        }
    }

    // The end.

    fn end(mut self) -> Result<(), String> {
        for writers in &mut self.logs {
            writers.late.clear();
        }
        let calm = self.calm();
        calm.map_err(|why| format!("at the end: {why}"))?;
        let losses = self.world.spool().losses();
        for source in 0..self.setting.sources {
            let own = losses
                .iter()
                .filter(|((name, _), _)| *name == source_name(source));
            let (records, bytes) = own.fold((0, 0), |(records, bytes), (_, loss)| {
                (records + loss.count, bytes + loss.bytes)
            });
            let counted = self.model.is_counted(source, records, bytes);
            counted.map_err(|why| format!("at the end: {why}, {losses:?}"))?;
        }
        self.is_bounded()
    }

    /// What the agent keeps follows from what is there, not from what was.
    fn is_bounded(&mut self) -> Result<(), String> {
        for writers in &mut self.logs {
            writers.now = None;
        }
        self.work(LATE + RECONCILE_EVERY * 3, COARSE_STEP)?;
        let names = fs::read_dir(&self.world.logs).unwrap().count();
        let most = self.setting.sources * names.min(self.setting.files_open_max);
        let open = open_below(&self.world.logs);
        if open > most {
            return Err(format!("{open} files are open, of {names} that are there"));
        }
        // What was read is remembered for a day.
        self.world.pass(FORGET_AFTER);
        self.work(RECONCILE_EVERY * 3, COARSE_STEP)?;
        let positions = self.world.spool().positions().len();
        let most = self.setting.sources * (names + LOGS.len());
        if positions > most {
            return Err(format!(
                "{positions} positions are kept, of {names} files that are there"
            ));
        }
        Ok(())
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn source_name(source: usize) -> String {
    ["app", "app2"][source].to_owned()
}

fn topic(source: usize) -> &'static str {
    ["logs", "logs2"][source]
}

/// Time passes in steps of this length where everything is to be seen, and of that where little happens.
const STEP: Duration = Duration::from_millis(50);
const COARSE_STEP: Duration = Duration::from_secs(1);

/// With 60 bytes of noise each.
const FLOOD_LINES: u32 = 700;
