//! Where an agent goes on after a Hello: the aggregator's sequences are laid over the spool's offsets,
//! and a place where the two disagree is found before anything is sent.
//!
//! A spool's batch at offset `o` bears the sequence `o mod 2³¹`, so a sequence names one offset of any
//! range shorter than 2³¹ records.
//!
//! Invariant **I14**: nothing is sent to an aggregator that knows another content for the same sequences.

use crate::error::Result;
use crate::id::{Offset, Sequence};

use super::message::Progress;

/// What to do with a partition after the aggregator told its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Both sides agree.
    At {
        /// The first offset to send.
        next: Offset,
        /// Everything before it is fsynced there: the spool may free it.
        durable: Offset,
    },
    /// The producer id is not ours alone any more, or the log lost what it had acknowledged.
    Conflict(Conflict),
}

/// How the aggregator's progress contradicts the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// It has more than the spool ever held: this spool was rolled back, or has a clone.
    AheadOfSpool,
    /// It misses what the spool has freed: another aggregator took it, or this one was rolled back.
    BehindSpool,
    /// Its last batch is not the spool's batch of that sequence: two spools use the id.
    OtherContent,
    /// It has some of what the spool holds, and no batch left to compare: whose they were is unproven.
    NothingToCompare,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Conflict::AheadOfSpool => {
                "the aggregator has more than this spool ever held (a clone, or a spool rolled back)"
            }
            Conflict::BehindSpool => {
                "the aggregator misses what this spool has freed \
                 (it went to another aggregator, or this one was rolled back)"
            }
            Conflict::OtherContent => "the aggregator has other content at the same place (a clone)",
            Conflict::NothingToCompare => {
                "the aggregator no longer has the batches by which content could be compared"
            }
        })
    }
}

/// What of a spool can be sent: from the first unacknowledged offset to the end of what is fsynced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sendable {
    /// The first offset that no aggregator acknowledged.
    pub start: Offset,
    /// The end of what is fsynced.
    pub end: Offset,
}

/// Decides where to go on. `crc_at` gives the CRC of the spool's batch that begins at a sequence.
pub fn resume(
    spool: Sendable,
    progress: Option<Progress>,
    crc_at: impl FnOnce(Sequence) -> Result<Option<u32>>,
) -> Result<Resume> {
    let Some(progress) = progress else {
        return Ok(Resume::At {
            next: spool.start,
            durable: spool.start,
        });
    };
    let Some(next) = offset_within(progress.next, spool) else {
        let ahead = progress.next.since(Sequence::of_spool_offset(spool.end));
        let behind = Sequence::of_spool_offset(spool.start).since(progress.next);
        return Ok(Resume::Conflict(if ahead <= behind {
            Conflict::AheadOfSpool
        } else {
            Conflict::BehindSpool
        }));
    };
    match progress.last {
        Some((sequence, crc)) => match crc_at(sequence)? {
            Some(ours) if ours != crc => return Ok(Resume::Conflict(Conflict::OtherContent)),
            // It ends past what the spool has freed, and the spool has no batch that begins there.
            None if next > spool.start => return Ok(Resume::Conflict(Conflict::OtherContent)),
            _ => {}
        },
        // Freeing on the word of sequences alone would lose what a clone's batches stand for.
        None if next > spool.start => return Ok(Resume::Conflict(Conflict::NothingToCompare)),
        None => {}
    }
    let durable = offset_before(next, progress.next.since(progress.durable));
    Ok(Resume::At {
        next,
        durable: durable.map_or(spool.start, |it| it.max(spool.start)),
    })
}

/// The offset of `range`, its end included, that bears `sequence`.
pub fn offset_within(sequence: Sequence, range: Sendable) -> Option<Offset> {
    let ahead = sequence.since(Sequence::of_spool_offset(range.start));
    let offset = range.start.plus(ahead);
    (offset <= range.end).then_some(offset)
}

fn offset_before(offset: Offset, records: u32) -> Option<Offset> {
    Offset::new(offset.get() - i64::from(records))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn sequence(value: i32) -> Sequence {
        Sequence::new(value).unwrap()
    }

    fn check(spool: (i64, i64), progress: (i32, i32, Option<(i32, u32)>), expected: Resume) {
        let spool = Sendable {
            start: offset(spool.0),
            end: offset(spool.1),
        };
        let (next, durable, last) = progress;
        let progress = Progress {
            next: sequence(next),
            durable: sequence(durable),
            last: last.map(|(it, crc)| (sequence(it), crc)),
        };
        // The spool's batches have ten records each and the CRC 1000 + their offset.
        let crc_at = |it: Sequence| {
            let first = offset_within(it, spool);
            Ok(first
                .filter(|it| *it < spool.end && it.get() % 10 == 0)
                .map(|it| 1000 + u32::try_from(it.get() % 1000).unwrap()))
        };
        let found = resume(spool, Some(progress), crc_at).unwrap();
        assert_eq!(found, expected, "{spool:?} {progress:?}");
    }

    fn at(next: i64, durable: i64) -> Resume {
        Resume::At {
            next: offset(next),
            durable: offset(durable),
        }
    }

    #[test]
    fn an_agreeing_log_is_continued() {
        check((0, 50), (20, 10, Some((10, 1010))), at(20, 10));
        check((20, 50), (20, 10, Some((10, 1010))), at(20, 20));
        check((20, 50), (50, 50, Some((40, 1040))), at(50, 50));
        check((0, 50), (0, 0, None), at(0, 0));
        // Past 2³¹ records the sequences have wrapped to 2.
        let far = (1 << 31) + 2;
        check((far, far + 38), (2, 2, None), at(far, far));
    }

    #[test]
    fn an_unknown_producer_begins_at_the_spool_start() {
        let spool = Sendable {
            start: offset(30),
            end: offset(50),
        };
        let found = resume(spool, None, |_| Ok(None)).unwrap();
        assert_eq!(found, at(30, 30));
    }

    #[test]
    fn i14_every_contradiction_is_a_conflict() {
        let conflict = Resume::Conflict;
        check((0, 50), (60, 60, None), conflict(Conflict::AheadOfSpool));
        check((30, 50), (20, 20, None), conflict(Conflict::BehindSpool));
        check(
            (0, 50),
            (20, 10, Some((10, 7))),
            conflict(Conflict::OtherContent),
        );
        // A batch boundary that the spool does not have.
        check(
            (0, 50),
            (25, 10, Some((15, 7))),
            conflict(Conflict::OtherContent),
        );
        check(
            (0, 50),
            (20, 20, None),
            conflict(Conflict::NothingToCompare),
        );
        // Begun before what is left of the spool and ended within: not a batch that the spool freed.
        check(
            (20, 50),
            (25, 25, Some((15, 7))),
            conflict(Conflict::OtherContent),
        );
    }
}
