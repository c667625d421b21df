//! Files that begin as others do beside which they lie: by their names they could be made by a rotation.
//!
//! An epoch's beginning is known by the guard at its head, whatever became of its file, or is seen in its
//! file, which may have been cut off and written anew since anybody looked.

use std::ffi::OsStr;
use std::fs::File;
use std::time::Duration;

use model::position::Guard;

use super::content::read_at;
use super::discovery::Opened;
use super::guard::HEAD_BYTES;
use super::lineage::{Epoch, Life, Lineage};
use super::pattern::rotation_bases;
use super::{EpochId, FileSource};
use crate::limits::{COPY_BYTES_PER_SECOND_MIN, HOLD_MAX};

/// What a suspect and files beside it begin with.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    /// Over the first bytes.
    pub(super) head: Guard,
    /// The epochs that these files are known as, and which life of theirs it begins like.
    like: Vec<(EpochId, LikeLife)>,
}

/// The life of an epoch's file that another one begins like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LikeLife {
    /// The one that is known.
    Known,
    /// The one that is there now, and that nobody looked at yet.
    Next,
}

impl Beginning {
    /// Whether it is not known what it begins like.
    pub(super) fn is_empty(&self) -> bool {
        self.like.is_empty()
    }

    /// Whether an epoch may have begun like this.
    pub(super) fn is_like(&self, id: EpochId) -> bool {
        self.like.iter().any(|&(like, life)| match life {
            LikeLife::Known => like == id,
            LikeLife::Next => like.lineage == id.lineage && like.number < id.number,
        })
    }
}

impl FileSource {
    /// What the file begins with, if a file beside it does too for whose rotation it could be named. One
    /// that is empty yet may come to.
    pub(super) fn begins_like_a_neighbour(
        &self,
        directory: usize,
        name: &OsStr,
        opened: &Opened,
    ) -> Option<Beginning> {
        let mut own = [0; HEAD_BYTES];
        let length = read_at(&opened.file, &mut own, 0).ok()?;
        let own = &own[..length];
        let (mut is_near, mut like) = (false, Vec::new());
        for (lineage, original) in self.neighbours(directory, name) {
            is_near = true;
            let epochs = original.epochs.iter().filter(|epoch| !epoch.is_finished());
            like.extend(epochs.filter_map(|epoch| {
                let id = EpochId {
                    lineage,
                    number: epoch.number,
                };
                Some((id, self.begins_like(original, epoch, own)?))
            }));
        }
        let is_like = !like.is_empty() || is_near && own.is_empty();
        let head = self.reader.hasher().guard(own);
        is_like.then_some(Beginning { head, like })
    }

    /// Whether a file goes on otherwise than all that it began like: at its present end, or because they
    /// end before. What was cut off since tells nothing of its copy.
    pub(super) fn is_refuted(&self, beginning: &Beginning, opened: &Opened) -> bool {
        let mut last = [0; HEAD_BYTES];
        let from = opened.size.saturating_sub(HEAD_BYTES as u64);
        let Ok(length) = read_at(&opened.file, &mut last, from) else {
            return false;
        };
        let last = &last[..length];
        let has_other = |file: &File, original: &Lineage, epoch: &Epoch| {
            let mut theirs = [0; HEAD_BYTES];
            let read = read_at(file, &mut theirs[..length], from);
            // Asked afterwards: so it was not cut off before.
            let is_same = || self.reader.is_same(file, &original.position(epoch));
            matches!(read, Ok(read) if theirs[..read] != *last) && matches!(is_same(), Ok(true))
        };
        beginning.like.iter().all(|&(id, life)| {
            let Some((original, epoch)) = self.held(id) else {
                return false;
            };
            let is_cut = matches!(epoch.life, Life::Truncated(_));
            if life == LikeLife::Next || is_cut || epoch.head.bytes == 0 {
                return false;
            }
            match &epoch.content {
                Some(content) => content
                    .plain()
                    .is_some_and(|file| has_other(file, original, epoch)),
                None => match self.open(&original.path) {
                    Ok(Some(theirs)) if theirs.key == epoch.key => {
                        has_other(&theirs.file, original, epoch)
                    }
                    _ => false,
                },
            }
        })
    }

    /// How long copying the files may take that one begins like.
    pub(super) fn copying_max(&self, beginning: &Beginning) -> Duration {
        let epochs = beginning.like.iter().filter_map(|(id, _)| self.held(*id));
        let longest = epochs.map(|(_, epoch)| epoch.size_seen).max();
        HOLD_MAX + Duration::from_secs(longest.unwrap_or(0) / COPY_BYTES_PER_SECOND_MIN)
    }

    /// The paths that a file could be a copy of, by its name.
    pub(super) fn neighbours<'a>(
        &'a self,
        directory: usize,
        name: &'a OsStr,
    ) -> impl Iterator<Item = (usize, &'a Lineage)> {
        let near = self.directories_near(directory).into_iter();
        near.flat_map(move |near| {
            let same = (near != directory).then(|| name.to_owned());
            let names = &self.directories[near].names;
            let bases = rotation_bases(name).chain(same);
            bases.filter_map(|base| {
                let index = *names.get(base.as_os_str())?;
                Some((index, self.lineages[index].as_ref()?))
            })
        })
    }

    /// Whether these bytes are what an epoch was seen to begin with, or what its file begins with now:
    /// it may have been truncated and written anew since.
    pub(super) fn begins_like(
        &self,
        original: &Lineage,
        epoch: &Epoch,
        own: &[u8],
    ) -> Option<LikeLife> {
        let seen = usize::from(epoch.head.bytes);
        let is_seen = |bytes: &[u8]| {
            let head = bytes.get(..seen);
            head.is_some_and(|head| self.reader.hasher().guard(head) == epoch.head)
        };
        if seen > 0 && is_seen(own) {
            return Some(LikeLife::Known);
        }
        let mut theirs = [0; HEAD_BYTES];
        let read = match &epoch.content {
            Some(content) => read_at(content.file(), &mut theirs, 0),
            // Anything may be there by now, also a pipe.
            None => match self.open(&original.path) {
                Ok(Some(opened)) if opened.key == epoch.key => {
                    read_at(&opened.file, &mut theirs, 0)
                }
                _ => return None,
            },
        };
        let length = read.ok()?;
        let both = length.min(own.len());
        if both == 0 || theirs[..both] != own[..both] {
            return None;
        }
        let is_known = seen == 0 || is_seen(&theirs[..length]);
        Some(if is_known {
            LikeLife::Known
        } else {
            LikeLife::Next
        })
    }
}
