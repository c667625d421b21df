//! What a script is: a setting and a list of steps. A seed decides both, and nothing that happens while
//! it is played decides anything: so a step can be left out and the rest stays what it was.

use std::fmt;

/// A script.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) setting: Setting,
    pub(super) steps: Vec<Step>,
}

/// What holds for a whole script.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) rotated: Rotated,
    pub(super) files_open_max: usize,
    pub(super) spool: SpoolSize,
    pub(super) user: User,
    /// Sources that follow the same files, each into a topic of its own.
    pub(super) sources: usize,
}

/// Where rotated files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotated {
    InsidePattern,
    OutsidePattern,
}

/// Whether the spool is full after a flood that nobody acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpoolSize {
    Small,
    Ample,
}

/// Whom the agent runs as, where the test is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    /// Reads everything, and knows whether a file has a writer.
    Root,
    /// Reads what it may, and waits until a file is quiet.
    Nobody,
}

/// One of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Log(pub(super) usize);

/// The logs of every script.
pub(super) const LOGS: [&str; 3] = ["a", "b", "c"];

/// One thing that somebody does. What cannot be done is left out: no file, nothing rotated.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Lines, and whether the writer then closes the file.
    Write {
        log: Log,
        lines: u64,
        close: bool,
    },
    /// More than a small spool holds.
    Flood(Log),
    /// The first half of a line.
    Begin(Log),
    Rename {
        log: Log,
        /// The writer goes on with the renamed file.
        late: bool,
        /// A line that is begun is never ended.
        torn: bool,
    },
    /// A writer whose file was renamed or deleted adds lines.
    Late {
        lines: u64,
        close: bool,
    },
    CopyTruncate {
        log: Log,
        /// Turns of the agent between the copy and the truncation.
        turns: u64,
        /// Lines between the copy and the truncation, which are in neither file.
        raced: u64,
    },
    /// A copy beside the log, which is not truncated.
    Backup(Log),
    Delete {
        log: Log,
        late: bool,
    },
    /// Truncated and written anew in place.
    Rewrite {
        log: Log,
        lines: u64,
    },
    /// Another file is renamed over it, as editors save.
    Replace {
        log: Log,
        lines: u64,
    },
    /// A rotated file gets its next name.
    MoveRotated(usize),
    DeleteRotated(usize),
    /// A rotated file is compressed, and deleted.
    GzipRotated(usize),
    /// Nobody but root can open the file while something else happens.
    Unreadable {
        log: Log,
        during: During,
    },
    Turns(u64),
    /// Time passes in small steps, in milliseconds.
    Work(u64),
    /// Time passes in steps of a second.
    Idle(u64),
    /// Everybody rests until everything must have come.
    Calm,
    Kill,
    Stop,
    PowerCut(u64),
    /// Time passes while the agent does not run, in milliseconds.
    Down(u64),
    /// Nothing is acknowledged from now on.
    Block,
    Unblock,
}

/// What happens while a file cannot be opened.
#[derive(Debug, Clone, Copy)]
pub(super) enum During {
    Turns,
    Work,
    Kill,
    Write,
}

impl Plan {
    /// The script of a seed.
    pub(super) fn of(seed: u64) -> Plan {
        let mut chance = Chance(seed);
        let setting = Setting {
            rotated: *chance.pick(&[Rotated::InsidePattern, Rotated::OutsidePattern]),
            files_open_max: *chance.pick(&[1, 500, 500, 500]),
            spool: *chance.pick(&[SpoolSize::Small, SpoolSize::Ample]),
            user: *chance.pick(&[User::Root, User::Nobody]),
            sources: *chance.pick(&[1, 1, 1, 1, 1, 2]),
        };
        let count = 8 + chance.draw(STEPS_MORE);
        let steps = (0..count).map(|_| Step::draw(&mut chance)).collect();
        Plan { setting, steps }
    }
}

impl Step {
    fn draw(chance: &mut Chance) -> Step {
        let log = Log(chance.below(LOGS.len()));
        let lines = 1 + chance.draw(20);
        match chance.draw(60) {
            0..=13 => Step::Write {
                log,
                lines,
                close: chance.one_in(3),
            },
            14 => Step::Flood(log),
            15..=17 => Step::Begin(log),
            18..=22 => Step::Rename {
                log,
                late: chance.one_in(2),
                torn: chance.one_in(3),
            },
            23 | 24 => Step::Late {
                lines: 1 + lines / 4,
                close: chance.one_in(2),
            },
            25..=29 => Step::CopyTruncate {
                log,
                turns: chance.draw(2) * (1 + chance.draw(3)),
                raced: u64::from(chance.one_in(8)),
            },
            30 => Step::Backup(log),
            31 | 32 => Step::Delete {
                log,
                late: chance.one_in(2),
            },
            33 => Step::Rewrite { log, lines },
            34 => Step::Replace { log, lines },
            35 => Step::MoveRotated(chance.below(8)),
            36 => Step::GzipRotated(chance.below(8)),
            37 => Step::DeleteRotated(chance.below(8)),
            38 => Step::Unreadable {
                log,
                during: *chance.pick(&[During::Turns, During::Work, During::Kill, During::Write]),
            },
            39..=45 => Step::Turns(1 + chance.draw(4)),
            46..=50 => Step::Work(50 * (1 + chance.draw(120))),
            51 => Step::Idle(5 + chance.draw(70)),
            52 => Step::Calm,
            53 | 54 => Step::Kill,
            55 => Step::Stop,
            56 => Step::PowerCut(chance.draw(1 << 40)),
            57 => Step::Down(chance.draw(20_000)),
            58 => Step::Block,
            _ => Step::Unblock,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:?}", self.setting)?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{self:?}");
        // `log: Log(1)` says less than `b.log`.
        let named = (0..LOGS.len()).fold(text, |text, log| {
            let name = format!("{}.log", LOGS[log]);
            text.replace(&format!("log: Log({log})"), &name)
                .replace(&format!("Log({log})"), &name)
        });
        f.write_str(&named)
    }
}

/// splitmix64.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.draw(of) == 0
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.draw(count as u64)).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Steps of a script beyond the first few, at most.
const STEPS_MORE: u64 = 30;
