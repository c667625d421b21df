//! How long records wait for others before they are cut into a batch.
//!
//! A batch costs the same whatever it holds: three wake-ups, an fsync and a round trip. Waiting pays when
//! others come meanwhile, and how many will is told by how many files were read lately: a thousand files
//! with a line a second each would otherwise make a batch of nearly every line. So the linger grows with
//! the number of files. One file alone waits no longer than it must, because it has nobody to wait for.
//!
//! While many files are written to, batches follow each other at the linger's pace: from one to the next
//! nobody listens, and the turn that cuts takes all that came meanwhile. A line waits as long as if the
//! first one were listened for, and the data thread wakes once a batch instead of twice.

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
        let linger = self.linger(opened, told);
        let since_last = self.cut_at.map_or(Duration::ZERO, |at| at + linger);
        if self.is_shared(opened) && since_last + linger < opened {
            // The first record after a quiet time is one of many.
            return opened + linger;
        }
        // Alone it goes at once; those that follow gather.
        since_last.clamp(opened, opened + linger)
    }

    /// Until when nobody need listen, because what comes is taken by the turn that cuts next: while many
    /// files are read, and the last batch is not long ago.
    pub(super) fn deaf_until(&self, now: Duration, told: Duration) -> Option<Duration> {
        let until = self.cut_at? + self.linger(now, told);
        (self.is_shared(now) && now < until).then_some(until)
    }

    fn linger(&self, now: Duration, told: Duration) -> Duration {
        let others = self.files_at(now).saturating_sub(1);
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let shared = LINGER_PER_FILE.saturating_mul(others);
        told.max(LINGER_MIN) + shared.min(LINGER_SHARED_MAX)
    }

    fn is_shared(&self, now: Duration) -> bool {
        self.files_at(now) > LINGER_FILES_FEW
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
const FILES_COUNTED: usize = LINGER_SHARED_MAX
    .as_micros()
    .div_ceil(LINGER_PER_FILE.as_micros()) as usize
    + 1;

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
    fn batches_of_many_files_follow_each_other_at_the_lingers_pace() {
        let mut linger = Linger::default();
        let cut = Duration::from_secs(10);
        for file in 0..1_000 {
            linger.took(LineageId(file), cut);
        }
        linger.cut(cut);
        let next = cut + LINGER_MIN + LINGER_SHARED_MAX;
        assert_eq!(linger.deaf_until(cut, TOLD), Some(next));
        // Met early, or by the turn that ends the pause.
        for opened in [cut + LINGER_MIN, next] {
            assert_eq!(linger.due(opened, TOLD), next);
        }
        assert_eq!(linger.deaf_until(next, TOLD), None);
        // Nothing came for a while: what comes then is waited for.
        let later = next + Duration::from_millis(500);
        assert_eq!(
            linger.due(later, TOLD),
            later + LINGER_MIN + LINGER_SHARED_MAX
        );
    }

    #[test]
    fn few_files_are_always_listened_for() {
        let mut linger = Linger::default();
        let cut = Duration::from_secs(10);
        for file in 0..LINGER_FILES_FEW as u64 {
            linger.took(LineageId(file), cut);
        }
        linger.cut(cut);
        assert_eq!(linger.deaf_until(cut, TOLD), None);
    }

    #[test]
    fn the_first_record_after_a_quiet_time_goes_at_once_while_few_files_are_read() {
        let mut linger = Linger::default();
        let now = Duration::from_secs(10);
        linger.cut(Duration::from_secs(5));
        linger.took(LineageId(0), now);
        assert_eq!(linger.due(now, TOLD), now);
        for file in 0..10 {
            linger.took(LineageId(file), now);
        }
        assert_eq!(
            linger.due(now, TOLD),
            now + LINGER_MIN + 9 * LINGER_PER_FILE
        );
    }
}
