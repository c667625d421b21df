//! Reading compressed copies: one at a time has a decoder.
//!
//! A decoder can take tens of megabytes, and hundreds of files may be rotated and compressed at once. So the
//! lineages that have something compressed to read wait for each other.

use std::collections::BTreeSet;

use super::compressed::End;
use super::content::Content;
use super::guard::{HEAD_BYTES, TAIL_BYTES};
use super::reader::NEWLINE_BYTES_MAX;
use super::{EpochId, FileSource, Progress};
use crate::limits::{DECOMPRESS_STEP_BYTES, READ_BYTES};
use crate::pipeline::Outlet;

/// Who decompresses, and who is to.
#[derive(Default)]
pub(super) struct Decoding {
    /// The epoch that has a decoder to read with.
    awake: Option<EpochId>,
    /// Lineages that wait for one.
    asleep: BTreeSet<usize>,
}

impl FileSource {
    /// Decompresses towards what is to be read next of an epoch. `None`: it is there.
    pub(super) fn approach(&mut self, id: EpochId, out: &mut Outlet<'_>) -> Option<Progress> {
        let is_free = match self.decoding.awake.filter(|&awake| awake != id) {
            Some(other) => !self.is_awake(other),
            None => true,
        };
        let lineage = self.lineages[id.lineage].as_mut()?;
        let path = lineage.path.clone();
        let epoch = lineage.epoch(id.number)?;
        let offset = epoch.offset;
        let Some(Content::Compressed(content)) = &mut epoch.content else {
            return None;
        };
        if !is_free {
            self.decoding.asleep.insert(id.lineage);
            return Some(Progress::None);
        }
        self.decoding.awake = Some(id);
        let searched = epoch.searched;
        let (from, next) = if searched > offset {
            // A long line's end is looked for: its start lies behind.
            (searched - NEWLINE_BYTES_MAX as u64, searched)
        } else if offset < HEAD_BYTES as u64 {
            (0, offset)
        } else {
            (offset - TAIL_BYTES as u64, offset)
        };
        let to = next + (READ_BYTES + HEAD_BYTES) as u64;
        match content.approach(from, to) {
            Ok(false) => Some(Progress::Some(DECOMPRESS_STEP_BYTES)),
            Ok(true) => match content.end() {
                None | Some(End::Whole) => None,
                // It was whole when it was looked through. Perhaps there is another copy.
                Some(End::Early | End::Damaged(_)) => {
                    let why = epoch.cut_by;
                    self.truncated(id, why, out);
                    Some(Progress::Some(1))
                }
            },
            Err(error) => {
                self.say_unreadable(&path, &error);
                Some(Progress::None)
            }
        }
    }

    /// Whether a lineage that waits for the decoder can have it.
    pub(super) fn can_wake_next(&self) -> bool {
        let is_free = || self.decoding.awake.is_none_or(|id| !self.is_awake(id));
        !self.decoding.asleep.is_empty() && is_free()
    }

    /// Gives the decoder to the next lineage that waits for it.
    pub(super) fn wake_next(&mut self) {
        if !self.can_wake_next() {
            return;
        }
        self.decoding.awake = None;
        if let Some(lineage) = self.decoding.asleep.pop_first() {
            self.queue(lineage);
        }
    }

    fn is_awake(&self, id: EpochId) -> bool {
        self.held(id).is_some_and(
            |(_, epoch)| matches!(&epoch.content, Some(Content::Compressed(it)) if it.is_awake()),
        )
    }
}
