//! What must come of what was written: every text of every life of every file, and whether the agent
//! can still have it.
//!
//! A *life* is what lies in one inode from its creation or truncation to its end; its copy carries it on.
//! A text **must** come as long as the agent can reach the life it is in: under a name that a pattern
//! means, by what it remembers of an inode that was renamed, by a descriptor that it holds. Once it cannot,
//! what has not come **may** come, and is counted as lost as far as the agent had seen it.

use std::collections::HashMap;
use std::time::Duration;

use super::super::guard::HEAD_BYTES;
use super::plan::Rotated;
use crate::limits::{COPY_GRACE, HOLD_MAX, LATE, QUIET, RECONCILE_EVERY};

/// All that was written, and what of it came.
pub(super) struct Model {
    rotated: Rotated,
    /// Files may have to be closed that are still written to.
    few_open: bool,
    sources: usize,
    is_running: bool,
    /// The spool may be full.
    pub(super) is_blocked: bool,
    lives: Vec<Life>,
    texts: Vec<Text>,
    by_value: HashMap<String, usize>,
    /// The last text in its turn, for each source and path.
    last: HashMap<(usize, String), (usize, u32)>,
}

/// A life, by its number. Lives of one log are numbered in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LifeId(usize);

/// One life of one inode.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each tells another thing that is so or not, whatever the others say"
)]
struct Life {
    log: usize,
    home: Home,
    /// It lies in a copy of the file that it was written to.
    is_copy: bool,
    /// Somebody copied it before its end, and the file was cut off since: that copy looks like the one that
    /// a rotation makes before it cuts.
    has_backup: bool,
    is_cut: bool,
    /// The copy is compressed: it is the agent's as far as it knows what was compressed.
    is_compressed: bool,
    /// More was written to it after it was compressed, and the copy is shorter than a guard: only who
    /// has the file open can tell whose it is.
    is_vague: bool,
    known: Known,
    /// Something of it came, for each source.
    came: Vec<bool>,
    /// The running agent holds a descriptor.
    is_held: bool,
    bytes: u64,
    /// As much as the agent has seen for certain, in its present run.
    seen_bytes: u64,
    grown_at: Duration,
    /// When the log's path ceased to name it.
    left_at: Option<Duration>,
    /// When the agent could not reach it any more.
    ended_at: Option<Duration>,
    /// Its place in the order of its log is lost: it was at its end, for all that anybody could see.
    is_late: bool,
}

/// Where a life's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Home {
    /// In the file of this name.
    Named(String),
    /// In a file without a name.
    Deleted,
    /// Nowhere: cut off.
    Cut,
}

/// What the agent knows of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Nothing,
    /// An event is on its way that tells of it.
    Heard,
    /// It has looked, at this time.
    Met(Duration),
    /// It remembers over a restart.
    Durable,
}

/// A line, or what there is of one.
struct Text {
    value: String,
    life: LifeId,
    number: u32,
    /// Where it ends in its life.
    end: u64,
    bytes: u64,
    kind: Kind,
    promise: Promise,
    /// The file that it was copied from could not be compared.
    may_repeat: bool,
    /// Its place in the order is certain.
    in_turn: bool,
    /// It was written to a file without a name, whose copy does not have it.
    is_beside_copy: bool,
    came: Vec<bool>,
}

/// What the agent owes of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// It comes.
    Must,
    /// It need not come, and nobody need know.
    May,
    /// It need not come. The agent knew its file over a restart, and must have noticed.
    Noticed,
}

/// A text that was written.
pub(super) struct Written<'a> {
    pub(super) life: LifeId,
    pub(super) number: u32,
    pub(super) value: &'a str,
    pub(super) kind: Kind,
}

/// Whether a text ends with a newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Line,
    /// The beginning of a line that is never ended; its bytes are in the file already.
    Torn,
}

impl Model {
    pub(super) fn new(rotated: Rotated, files_open_max: usize, sources: usize) -> Model {
        Model {
            rotated,
            few_open: files_open_max == 1,
            sources,
            is_running: false,
            is_blocked: false,
            lives: Vec::new(),
            texts: Vec::new(),
            by_value: HashMap::new(),
            last: HashMap::new(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.is_running
    }

    /// The life that a name leads to.
    pub(super) fn life_at(&self, name: &str) -> Option<LifeId> {
        let is_here = |life: &Life| matches!(&life.home, Home::Named(home) if home == name);
        self.lives.iter().rposition(is_here).map(LifeId)
    }

    /// A file was created.
    pub(super) fn begin(&mut self, log: usize, name: &str, now: Duration) -> LifeId {
        self.lives.push(Life {
            log,
            home: Home::Named(name.to_owned()),
            is_copy: false,
            has_backup: false,
            is_cut: false,
            is_compressed: false,
            is_vague: false,
            known: Known::Nothing,
            came: vec![false; self.sources],
            is_held: false,
            bytes: 0,
            seen_bytes: 0,
            grown_at: now,
            left_at: None,
            ended_at: None,
            is_late: false,
        });
        LifeId(self.lives.len() - 1)
    }

    /// Bytes of a line that is begun.
    pub(super) fn grow(&mut self, life: LifeId, bytes: usize, now: Duration) {
        let life = &mut self.lives[life.0];
        life.bytes += bytes as u64;
        life.grown_at = now;
    }

    /// A file that the log's path does not name any more gets more.
    pub(super) fn grow_late(&mut self, life: LifeId, bytes: usize) {
        let life = &mut self.lives[life.0];
        life.is_vague |= life.is_compressed && life.bytes < HEAD_BYTES as u64;
        life.bytes += bytes as u64;
    }

    /// A text is whole in its file.
    pub(super) fn write(&mut self, written: &Written<'_>, now: Duration) {
        let Written {
            life: id,
            number,
            value,
            kind,
        } = *written;
        let is_inside = self.is_inside(id);
        let life = &mut self.lives[id.0];
        let bytes = value.len() as u64 + u64::from(kind == Kind::Line);
        let mut must = life.ended_at.is_none();
        if kind == Kind::Torn {
            // Under a name of its own the file may yet be written to: its last line waits.
            must &= !is_inside;
        } else {
            let since = now.saturating_sub(life.grown_at.max(life.left_at.unwrap_or_default()));
            if let Some(left) = life.left_at {
                // After that time it may be closed, until it is met again.
                life.is_held &= since + MARGIN < LATE;
                must &= is_inside || life.is_held;
                let held_up = now.saturating_sub(left) + MARGIN < HOLD_MAX;
                life.is_late |= since + MARGIN >= QUIET || !held_up;
            }
            life.grown_at = now;
        }
        let text = Text {
            value: value.to_owned(),
            life: id,
            number,
            end: life.bytes,
            bytes,
            kind,
            promise: if must { Promise::Must } else { Promise::May },
            may_repeat: false,
            in_turn: !life.is_late,
            is_beside_copy: life.is_compressed,
            came: vec![false; self.sources],
        };
        let known = self.by_value.insert(text.value.clone(), self.texts.len());
        assert!(known.is_none(), "every text is another: {value}");
        self.texts.push(text);
    }

    pub(super) fn renamed(&mut self, from: &str, to: &str, now: Duration) {
        self.deleted(to, now);
        let Some(id) = self.life_at(from) else {
            return;
        };
        // Moved again before the first event was read, it is not where that says.
        let is_heard = self.is_running && self.lives[id.0].known == Known::Nothing;
        let life = &mut self.lives[id.0];
        life.home = Home::Named(to.to_owned());
        life.known = match life.known {
            Known::Heard => Known::Nothing,
            Known::Nothing if is_heard && life.left_at.is_none() => Known::Heard,
            known => known,
        };
        life.left_at.get_or_insert(now);
        self.reassess(now);
    }

    /// A file was copied, and goes on.
    pub(super) fn backed_up(&mut self, name: &str) {
        if let Some(id) = self.life_at(name) {
            self.lives[id.0].has_backup = true;
        }
    }

    /// Another file took a log's name.
    pub(super) fn replaced(&mut self, draft: &str, name: &str, now: Duration) {
        self.deleted(name, now);
        if let Some(id) = self.life_at(draft) {
            self.lives[id.0].home = Home::Named(name.to_owned());
        }
    }

    pub(super) fn deleted(&mut self, name: &str, now: Duration) {
        if let Some(id) = self.life_at(name) {
            let life = &mut self.lives[id.0];
            life.home = Home::Deleted;
            life.left_at.get_or_insert(now);
            self.reassess(now);
        }
    }

    /// A file was cut to nothing; its life goes on in the copy, and another one begins.
    pub(super) fn truncated(&mut self, name: &str, copy: Option<&str>, now: Duration) -> LifeId {
        let id = self.life_at(name).expect("a file that is there");
        let life = &mut self.lives[id.0];
        life.home = copy.map_or(Home::Cut, |copy| Home::Named(copy.to_owned()));
        life.is_copy = true;
        life.is_cut = true;
        life.is_held = false;
        life.left_at = Some(now);
        let log = life.log;
        self.reassess(now);
        self.begin(log, name, now)
    }

    /// A file was compressed, and deleted.
    pub(super) fn gzipped(&mut self, from: &str, to: &str, now: Duration) {
        if let Some(id) = self.life_at(from) {
            let life = &mut self.lives[id.0];
            life.home = Home::Named(to.to_owned());
            life.is_copy = true;
            life.is_compressed = true;
            if life.known == Known::Heard {
                // What the event tells of is gone.
                life.known = Known::Nothing;
            }
            self.reassess(now);
        }
    }

    /// What was written after the copy of the file was made is nowhere.
    pub(super) fn raced(&mut self, values: &[String]) {
        for value in values {
            let text = self.by_value[value];
            self.texts[text].promise = Promise::May;
        }
    }

    /// The agent was started while it cannot open a log: whether a copy is one, it cannot tell.
    pub(super) fn cannot_compare(&mut self, log: usize) {
        for text in &mut self.texts {
            let life = &self.lives[text.life.0];
            text.may_repeat |= life.log == log && life.is_copy;
        }
    }

    /// The agent has looked at everything but the files that it cannot open.
    pub(super) fn looked(&mut self, unreadable: Option<&str>, now: Duration) {
        self.is_running = true;
        for number in 0..self.lives.len() {
            let id = LifeId(number);
            let is_inside = self.is_inside(id);
            let life = &mut self.lives[number];
            let Home::Named(name) = &life.home else {
                continue;
            };
            let is_readable = unreadable != Some(name.as_str());
            let is_met = is_inside && life.bytes > 0 && is_readable && !life.is_copy;
            if life.known == Known::Heard || life.known == Known::Nothing && is_met {
                life.known = Known::Met(now);
            }
            if is_met || matches!(life.known, Known::Met(_)) && !life.is_copy {
                life.is_held = !self.few_open;
            }
        }
        self.reassess(now);
    }

    /// The agent has worked since, and everything is synced.
    pub(super) fn worked(&mut self, since: Duration, unreadable: Option<&str>, now: Duration) {
        self.looked(unreadable, now);
        for number in 0..self.lives.len() {
            let is_inside = self.is_inside(LifeId(number));
            let life = &mut self.lives[number];
            if let Known::Met(at) = life.known
                && !self.is_blocked
                && now.saturating_sub(at) > NOTED
            {
                life.known = Known::Durable;
            }
            let is_seen = is_inside && !life.is_copy && unreadable.is_none();
            if is_seen && now.saturating_sub(since) > RECONCILE_EVERY + MARGIN {
                life.seen_bytes = life.bytes;
            }
        }
    }

    /// The agent runs no more.
    pub(super) fn interrupted(&mut self, is_stopped: bool, now: Duration) {
        let is_noted = is_stopped && !self.is_blocked && self.is_running;
        self.is_running = false;
        for text in &mut self.texts {
            text.may_repeat |= self.lives[text.life.0].is_vague;
            if text.is_beside_copy && !text.has_come() {
                text.promise = Promise::May;
            }
        }
        for life in &mut self.lives {
            life.known = match life.known {
                Known::Durable => Known::Durable,
                Known::Met(_) if is_noted => Known::Durable,
                _ => Known::Nothing,
            };
            life.is_held = false;
            let is_counted = |at: Duration| now.saturating_sub(at) > COPY_GRACE + HOLD_MAX;
            if !life.ended_at.is_some_and(is_counted) {
                life.seen_bytes = 0;
            }
        }
        self.reassess(now);
    }

    /// A record came. The error says why it should not have.
    pub(super) fn came(&mut self, source: usize, path: &str, value: &[u8]) -> Result<(), String> {
        let shown = String::from_utf8_lossy(value);
        let Some(&at) = self.by_value.get(shown.as_ref()) else {
            let shown: String = shown.chars().take(80).collect();
            return Err(format!("{path}: nobody wrote {shown:?}"));
        };
        let text = &mut self.texts[at];
        if std::mem::replace(&mut text.came[source], true) && !text.may_repeat {
            return Err(format!("{path}: {shown:?} came twice"));
        }
        let (life, number) = (text.life.0, text.number);
        // What another source has read and kept tells this one nothing: its own part of the spool can be
        // lost with the power.
        self.lives[life].came[source] = true;
        if self.lives[life].came.iter().all(|came| *came) {
            self.lives[life].known = Known::Durable;
        }
        if text.in_turn {
            let last = self.last.insert((source, path.to_owned()), (life, number));
            if let Some(last) = last.filter(|last| *last >= (life, number)) {
                let before = self
                    .texts
                    .iter()
                    .find(|text| (text.life.0, text.number) == last);
                let before = before.map_or("?", |text| text.value.as_str());
                return Err(format!("{path}: {shown:?} came after {before:?}"));
            }
        }
        Ok(())
    }

    /// Whether all that must come has come.
    pub(super) fn all_came(&self) -> Result<(), String> {
        let is_missing = |text: &&Text| text.promise == Promise::Must && !text.has_come();
        let missing = self.texts.iter().filter(is_missing);
        let missing: Vec<String> = missing
            .map(|text| format!("{:?} of life {}", text.value, self.story(text.life)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let shown = missing[..missing.len().min(6)].join("\n    ");
        Err(format!("{} texts are lost:\n    {shown}", missing.len()))
    }

    /// Whether what a source counts as lost fits what did not come of it.
    pub(super) fn is_counted(&self, source: usize, records: u64, bytes: u64) -> Result<(), String> {
        let missing = || self.texts.iter().filter(move |text| !text.came[source]);
        let most: u64 = missing().map(|text| text.bytes).sum();
        let is_seen = |text: &&Text| {
            text.kind == Kind::Line && text.end <= self.lives[text.life.0].seen_bytes
        };
        let least: u64 = missing().filter(is_seen).map(|text| text.bytes).sum();
        if !(least..=most).contains(&bytes) {
            return Err(format!(
                "source {source} counts {bytes} bytes as lost, at least {least} were and at most {most}"
            ));
        }
        let owed = missing().find(|text| text.promise == Promise::Noticed);
        if let Some(owed) = owed.filter(|_| records == 0) {
            return Err(format!(
                "source {source} counts no loss, and {:?} of life {} did not come",
                owed.value,
                self.story(owed.life)
            ));
        }
        Ok(())
    }

    fn is_inside(&self, id: LifeId) -> bool {
        let Home::Named(name) = &self.lives[id.0].home else {
            return false;
        };
        if self.lives[id.0].is_compressed {
            return false;
        }
        name.strip_suffix(".log").is_some() || self.rotated == Rotated::InsidePattern
    }

    /// Whether the agent can read on in a life, now or when it runs again.
    fn is_reachable(&self, id: LifeId) -> bool {
        let life = &self.lives[id.0];
        match &life.home {
            Home::Named(_) if self.is_inside(id) => true,
            Home::Named(_) => match life.known {
                Known::Durable => true,
                Known::Met(_) | Known::Heard => self.is_running,
                Known::Nothing => false,
            },
            Home::Deleted => life.is_held,
            Home::Cut => false,
        }
    }

    /// What cannot be reached any more need not come.
    fn reassess(&mut self, now: Duration) {
        for number in 0..self.lives.len() {
            let id = LifeId(number);
            if self.lives[number].ended_at.is_some() || self.is_reachable(id) {
                continue;
            }
            let is_running = self.is_running;
            let life = &mut self.lives[number];
            life.ended_at = Some(now);
            let is_backup_all = life.has_backup && life.is_cut;
            let promise = if !is_running && life.known == Known::Durable && !is_backup_all {
                Promise::Noticed
            } else {
                Promise::May
            };
            let is_missing = |text: &&mut Text| text.life == id && !text.has_come();
            for text in self.texts.iter_mut().filter(is_missing) {
                if text.promise == Promise::Must {
                    text.promise = promise;
                }
            }
        }
    }

    fn story(&self, id: LifeId) -> String {
        let life = &self.lives[id.0];
        format!("{} ({:?}, {:?})", id.0, life.home, life.known)
    }
}

impl Text {
    fn has_come(&self) -> bool {
        self.came.iter().all(|came| *came)
    }
}

/// After this time of work a position is in a snapshot.
const NOTED: Duration = Duration::from_millis(2_500);

/// How much the model's time may differ from the agent's.
const MARGIN: Duration = Duration::from_secs(1);
