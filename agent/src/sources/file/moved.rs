//! Files that went on under another inode: moved across file systems, restored from a backup, replaced
//! by `rsync`, brought to the upper layer of an overlay, or on a file system that was mounted anew.
//!
//! A file that was never met goes on with an epoch of the same path, or of the path that its name is a
//! rotated one of, when that one's file is nowhere, its guards hold here, and something says that this
//! is no new file that happens to begin alike: a program that writes the same each time it runs is
//! delivered each time. Two files with the same content that are both there stay two.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;

use model::position::Codec;

use super::content::{Content, read_at};
use super::discovery::Opened;
use super::kernel::{self, Agreement, agreement, is_unlinked, is_weak};
use super::lineage::{Epoch, Life, Lineage, seconds};
use super::pattern::{is_rotation_of, rotation_bases};
use super::watch::Spot;
use super::{EpochId, FileSource};
use crate::ambient::Now;
use crate::limits::{LATE, MOVED_BYTES_MIN, MOVED_COMPARE_BYTES, READ_BYTES};
use crate::pipeline::Outlet;

/// A file that was never met, under the name by which it is met.
pub(super) struct Arrival<'a> {
    pub(super) name: &'a OsStr,
    pub(super) opened: &'a Opened,
    pub(super) now: Now,
}

impl FileSource {
    /// The epoch that a file of an unknown key goes on with, if it does.
    pub(super) fn moved_epoch(&self, directory: usize, arrival: &Arrival<'_>) -> Option<EpochId> {
        let name = arrival.name;
        let names = &self.directories[directory].names;
        let own = names.get(name).copied();
        let bases = rotation_bases(name).filter_map(|base| names.get(&base).copied());
        let is_rotated = |index: &usize| {
            let lineage = self.lineages[*index].as_ref();
            let is_one = |it: &Lineage| it.directory == directory && is_rotation_of(&it.name, name);
            lineage.is_some_and(is_one) && self.remembering.contains(index)
        };
        let rotated: BTreeSet<usize> = bases.filter(is_rotated).collect();
        own.into_iter().chain(rotated).find_map(|index| {
            let lineage = self.lineages[index].as_ref()?;
            let mut epochs = lineage.epochs.iter().rev();
            let epoch = epochs.find(|epoch| self.went_on_in(lineage, epoch, arrival))?;
            Some(EpochId {
                lineage: index,
                number: epoch.number,
            })
        })
    }

    /// Whether an epoch's file is nowhere any more, and this one holds what it held.
    fn went_on_in(&self, lineage: &Lineage, epoch: &Epoch, arrival: &Arrival<'_>) -> bool {
        let opened = arrival.opened;
        let agreement = agreement(epoch.key, opened.key);
        let least = match agreement {
            Agreement::Perhaps => 1,
            Agreement::Yes | Agreement::No => MOVED_BYTES_MIN,
        };
        let is_cut = matches!(epoch.life, Life::Truncated(_)) || epoch.codec != Codec::None;
        if is_cut || epoch.head.bytes == 0 || epoch.offset < least {
            return false;
        }
        let position = lineage.position(epoch);
        if !matches!(self.reader.is_same(&opened.file, &position), Ok(true)) {
            return false;
        }
        let file = epoch.content.as_ref().map(Content::file);
        if file.is_some_and(|file| matches!(has_all_of(file, &opened.file), Ok(false))) {
            return false;
        }
        if agreement == Agreement::Perhaps {
            return true;
        }
        let is_unlinked = file.is_some_and(is_unlinked);
        is_continued(lineage, epoch, arrival)
            && (is_unlinked || matches!(self.find(&lineage.path, &position), Ok(None)))
    }

    /// The epoch that a file is known as. A key that two files can have is not believed where the file
    /// was closed meanwhile: what it was is over, and what is there now another one's path names. Nor is
    /// that of a copy: who keeps one copy writes the next one over it.
    pub(super) fn known_as(&mut self, opened: &Opened) -> Option<EpochId> {
        let id = self.known.get(&opened.key).copied()?;
        let lineage = self.lineages[id.lineage].as_ref()?;
        let epoch = lineage.epochs.iter().find(|it| it.number == id.number)?;
        let is_weak = is_weak(opened.key.level) && epoch.content.is_none();
        let is_plain = epoch.key == opened.key && epoch.codec == Codec::None;
        if epoch.life != Life::Named && (is_weak || epoch.is_copied && is_plain) {
            let position = lineage.position(epoch);
            if matches!(self.reader.is_same(&opened.file, &position), Ok(false)) {
                self.known.remove(&opened.key);
                return None;
            }
        }
        Some(id)
    }

    /// Goes on with an epoch in the file that is in its file's place.
    pub(super) fn go_on(&mut self, id: EpochId, spot: &Spot, opened: Opened, out: &mut Outlet<'_>) {
        let now = out.now();
        let path = self.directories[spot.directory].path.join(&spot.name);
        tracing::info!(source = self.config.name, path = %path.display(),
            "file goes on under another inode");
        let key = opened.key;
        let index = self.lineage(spot.directory, &spot.name);
        let is_own = index == id.lineage;
        self.take_key(id, key);
        let named = self.lineages[index].as_mut().and_then(Lineage::named);
        if named.is_some_and(|named| !(is_own && named.number == id.number)) {
            self.detach_named(index, now);
        }
        let Some(epoch) = self.epoch(id) else {
            return;
        };
        epoch.is_unseen = false;
        epoch.saw_size(opened.size, now.monotonic);
        epoch.content = Some(opened.file.into());
        epoch.place = (!is_own).then(|| path.clone());
        if is_own {
            epoch.life = Life::Named;
        } else if !epoch.is_finished() {
            epoch.life = Life::Detached(now.monotonic);
        }
        if let Some(lineage) = &mut self.lineages[index] {
            lineage.met = true;
            lineage.alias_of = (!is_own).then_some(key);
        }
        self.opened(id, now);
        self.attention.insert(id.lineage);
        self.note(id, out);
        self.queue(id.lineage);
    }
}

/// Whether something besides the content says that a file is a continued one.
fn is_continued(lineage: &Lineage, epoch: &Epoch, arrival: &Arrival<'_>) -> bool {
    // Nobody looked while the one went and the other came.
    let is_unwatched = epoch.is_unseen || epoch.is_missing();
    // Its name was given to a file of another layer.
    let file = epoch.content.as_ref().map(Content::file);
    let is_hidden = || file.is_some_and(|file| !is_unlinked(file) && kernel::is_overlaid(file));
    // Copied beside itself and deleted.
    let age = seconds(arrival.now).saturating_sub(epoch.finished_s);
    let is_recent = !epoch.is_finished() || age <= LATE.as_secs();
    let is_copied = is_recent && arrival.name != lineage.name;
    is_unwatched || is_copied || is_restored(&arrival.opened.file) || is_hidden()
}

/// Whether a file has an older time than its inode: who made it has set it, to that of another file.
pub(super) fn is_restored(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    let times = metadata.modified().ok().zip(metadata.created().ok());
    times.is_some_and(|(modified, born)| modified < born)
}

/// Whether a file holds all that another does, read or not, as far as it is compared.
pub(super) fn has_all_of(old: &File, new: &File) -> io::Result<bool> {
    let size = old.metadata()?.len();
    if new.metadata()?.len() < size {
        return Ok(false);
    }
    let mut from = size.saturating_sub(MOVED_COMPARE_BYTES);
    let (mut olds, mut news) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    while from < size {
        let length = usize::try_from(size - from).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let filled = read_at(old, &mut olds[..length], from)?;
        if filled == 0 {
            break;
        }
        if read_at(new, &mut news[..filled], from)? < filled || olds[..filled] != news[..filled] {
            return Ok(false);
        }
        from += filled as u64;
    }
    Ok(true)
}
