//! What is kept of files that are read to their end, and for how long.
//!
//! A finished epoch is remembered by its key and guards, without an open file: so it is known again as a
//! late copy, as a compressed one, when it is restored from a backup, and when its disk is mounted late.
//! What a restart finds of them is forgotten when their day is over, as if it had not been stopped.

use std::collections::HashSet;

use model::position::FileKey;

use super::lineage::{Epoch, Life, seconds};
use super::{EpochId, FileSource};
use crate::ambient::Now;
use crate::limits::{FORGET_AFTER, LATE, REMEMBERED_MAX, REMEMBERED_OF_PATH_MAX};
use crate::pipeline::Outlet;

impl FileSource {
    /// Forgets finished files that nothing names any more, those of the longest ago first, and lineages
    /// that have no others.
    pub(super) fn forget_gone(&mut self, out: &mut Outlet<'_>) {
        self.take_over_copies(out);
        self.expect_no_more(out);
        for id in self.too_old(out.now()) {
            self.forget(id, out);
        }
        let is_empty = |index: &usize| {
            let lineage = self.lineages[*index].as_ref();
            lineage.is_some_and(|it| it.epochs.is_empty() && it.alias_of.is_none() && !it.met)
        };
        let empty: Vec<usize> = (0..self.lineages.len()).filter(is_empty).collect();
        for index in empty {
            self.remove_lineage(index);
        }
        self.tend_aside(out);
    }

    /// Finished epochs whose files are gone are known by their compressed copies from now on.
    fn take_over_copies(&mut self, out: &mut Outlet<'_>) {
        let lineages = self.lineages.iter().flatten();
        let aliased: HashSet<FileKey> = lineages.filter_map(|lineage| lineage.alias_of).collect();
        let is_taken_over = |epoch: &Epoch| {
            let is_gone = epoch.is_finished() && epoch.content.is_none();
            is_gone && epoch.copy.is_some() && !aliased.contains(&epoch.key)
        };
        for id in self.epochs_that(is_taken_over) {
            let Some(epoch) = self.epoch(id) else {
                continue;
            };
            let Some((key, codec, path)) = epoch.copy.take() else {
                continue;
            };
            let old = std::mem::replace(&mut epoch.key, key);
            epoch.codec = codec;
            epoch.place = Some(path);
            if self.known.get(&old) == Some(&id) {
                self.known.remove(&old);
            }
            self.note(id, out);
        }
    }

    /// Nobody adds any more to the files that were finished a while ago.
    fn expect_no_more(&mut self, out: &mut Outlet<'_>) {
        let now = out.now().monotonic;
        let is_over = |epoch: &Epoch| match epoch.life {
            Life::Finished(since) => epoch.may_grow && now.saturating_sub(since) >= LATE,
            _ => false,
        };
        for id in self.epochs_that(is_over) {
            if let Some(epoch) = self.epoch(id) {
                epoch.may_grow = false;
            }
            self.note(id, out);
        }
    }

    /// All epochs of which this holds.
    pub(super) fn epochs_that(&self, is_one: impl Fn(&Epoch) -> bool) -> Vec<EpochId> {
        let lineages = self.lineages.iter().enumerate();
        let epochs = lineages.flat_map(|(lineage, held)| {
            let epochs = held.iter().flat_map(|it| &it.epochs);
            epochs.map(move |epoch| (lineage, epoch))
        });
        let found = epochs.filter(|(_, epoch)| is_one(epoch));
        let ids = found.map(|(lineage, epoch)| EpochId {
            lineage,
            number: epoch.number,
        });
        ids.collect()
    }

    /// The epochs that are not to be remembered any more.
    fn too_old(&mut self, now: Now) -> Vec<EpochId> {
        let lineages = self.lineages.iter().flatten();
        let aliased: HashSet<FileKey> = lineages.filter_map(|lineage| lineage.alias_of).collect();
        let awaited = self.awaited_by_vetting();
        let (mut forgotten, mut kept) = (Vec::new(), Vec::new());
        self.remembering.clear();
        for (index, lineage) in self.lineages.iter().enumerate() {
            let Some(lineage) = lineage else {
                continue;
            };
            let is_gone = |epoch: &&Epoch| {
                epoch.is_finished()
                    && epoch.content.is_none()
                    && !aliased.contains(&epoch.key)
                    && !(lineage.met && epoch.is_own_compressed())
                    && !awaited.contains(&EpochId {
                        lineage: index,
                        number: epoch.number,
                    })
            };
            let gone = lineage.epochs.iter().rev().filter(is_gone);
            for (rank, epoch) in gone.enumerate() {
                let id = EpochId {
                    lineage: index,
                    number: epoch.number,
                };
                if rank >= REMEMBERED_OF_PATH_MAX || is_over(epoch.finished_s, now) {
                    forgotten.push(id);
                } else {
                    kept.push((epoch.finished_s, id));
                }
            }
            let is_past = |epoch: &Epoch| epoch.is_finished() || epoch.is_missing();
            if lineage.epochs.iter().any(is_past) {
                self.remembering.insert(index);
            }
        }
        let surplus = kept.len().saturating_sub(REMEMBERED_MAX);
        if surplus > 0 {
            kept.sort_by_key(|&(finished_s, id)| (finished_s, id.lineage, id.number));
            forgotten.extend(kept.drain(..surplus).map(|(_, id)| id));
        }
        forgotten
    }

    /// Forgets an epoch for good.
    pub(super) fn forget(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let placed = self.placed_of(id);
        self.remove_epoch(id);
        if let Some(placed) = placed {
            out.forget(placed);
        }
    }
}

/// Whether what was finished then is no longer remembered.
pub(super) fn is_over(finished_s: u64, now: Now) -> bool {
    seconds(now).saturating_sub(finished_s) >= FORGET_AFTER.as_secs()
}
