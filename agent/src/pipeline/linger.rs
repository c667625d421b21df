//! How long records wait for others before they are cut into a batch.
//!
//! A batch costs the same whatever it holds: three wake-ups, an fsync and a round trip. Waiting pays when
//! others come meanwhile, and how many will is told by how many files were read lately: a thousand files
//! with a line a second each would otherwise make a batch of nearly every line. So the linger grows with
//! the number of files. One file alone waits no longer than it must, because it has nobody to wait for.

use std::time::Duration;

use model::position::LineageId;

use crate::limits::{LINGER_FILES_FEW, LINGER_MIN, LINGER_PER_FILE, LINGER_SHARED_MAX};

/// When batches were cut, and for whom there is to wait.
#[derive(Debug, Default)]
pub(super) struct Linger {
    cut_at: Option<Duration>,
    /// The files that were read since `began`, as far as they count.
    files: Vec<LineageId>,
    began: Duration,
    /// How many they were in the window before.
    before: usize,
}

impl Linger {
    /// Something of this file was taken.
    #[inline]
    pub(super) fn took(&mut self, file: LineageId, now: Duration) {
        let age = now.saturating_sub(self.began);
        if age >= WINDOW {
            self.before = if age < 2 * WINDOW {
                self.files.len()
            } else {
                0
            };
            self.files.clear();
            self.began = now;
        }
        if self.files.len() < FILES_COUNTED && !self.files.contains(&file) {
            self.files.push(file);
        }
    }

    /// Gathered batches are cut.
    pub(super) fn cut(&mut self, now: Duration) {
        self.cut_at = Some(now);
    }

    /// When batches are to be cut of which the first got its first record at `opened`. `told` is what the
    /// aggregator asks for.
    pub(super) fn due(&self, opened: Duration, told: Duration) -> Duration {
        let files = self.files_at(opened);
        let others = u32::try_from(files.saturating_sub(1)).unwrap_or(u32::MAX);
        let shared = LINGER_PER_FILE
            .saturating_mul(others)
            .min(LINGER_SHARED_MAX);
        let linger = told.max(LINGER_MIN) + shared;
        if files > LINGER_FILES_FEW {
            return opened + linger;
        }
        // The first record after a quiet time goes at once; those that follow gather.
        let since_last = self.cut_at.map_or(Duration::ZERO, |at| at + linger);
        since_last.clamp(opened, opened + linger)
    }

    /// How many files were read lately, as of a moment that is no earlier than the last of them.
    fn files_at(&self, now: Duration) -> usize {
        let age = now.saturating_sub(self.began);
        if age < WINDOW {
            self.files.len().max(self.before)
        } else if age < 2 * WINDOW {
            self.files.len()
        } else {
            0
        }
    }
}

/// Files that were read within this time are read often enough to be waited for: a line a second each.
const WINDOW: Duration = Duration::from_secs(2);

/// More than these make the linger no longer.
const FILES_COUNTED: usize =
    (LINGER_SHARED_MAX.as_micros() / LINGER_PER_FILE.as_micros()) as usize + 1;

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Duration = Duration::ZERO;

    /// Lines of so many files in turn, one each `every`; the linger of a line that comes then.
    fn linger_with(files: u64, every: Duration) -> Duration {
        let mut linger = Linger::default();
        let mut now = Duration::from_secs(1);
        for line in 0..10_000 {
            now += every;
            linger.took(LineageId(line % files), now);
        }
        linger.cut(now);
        linger.due(now, TOLD).saturating_sub(now)
    }

    #[test]
    fn one_file_waits_for_the_shortest_linger() {
        assert_eq!(linger_with(1, Duration::from_millis(1)), LINGER_MIN);
    }

    #[test]
    fn the_more_files_are_read_the_longer_a_record_waits_up_to_a_bound() {
        let few = linger_with(10, Duration::from_millis(100));
        assert_eq!(few, LINGER_MIN + 9 * LINGER_PER_FILE);
        for files in [100, 1_000] {
            let many = linger_with(files, Duration::from_millis(1));
            assert_eq!(many, LINGER_MIN + LINGER_SHARED_MAX);
        }
    }

    #[test]
    fn files_that_were_read_long_ago_are_not_waited_for() {
        let mut linger = Linger::default();
        for file in 0..1_000 {
            linger.took(LineageId(file), Duration::from_secs(1));
        }
        let later = Duration::from_secs(10);
        linger.took(LineageId(0), later);
        linger.cut(later);
        assert_eq!(linger.due(later, TOLD), later + LINGER_MIN);
    }

    #[test]
    fn the_first_record_after_a_quiet_time_goes_at_once_while_few_files_are_read() {
        let mut linger = Linger::default();
        let now = Duration::from_secs(10);
        linger.cut(Duration::from_secs(5));
        linger.took(LineageId(0), now);
        assert_eq!(linger.due(now, TOLD), now);
        for file in 0..20 {
            linger.took(LineageId(file), now);
        }
        assert_eq!(
            linger.due(now, TOLD),
            now + LINGER_MIN + 19 * LINGER_PER_FILE
        );
    }
}
