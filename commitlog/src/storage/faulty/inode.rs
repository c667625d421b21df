//! One file of the faulty disk: what readers see, and what of it would be there after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::chance::{Chance, Mood};

const PAGE_BYTES: usize = 4096;
/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;
/// Versions of one page that are kept between two syncs; any of them may be what reached the disk.
const VERSIONS_MAX: usize = 4;

type Page = [u8; PAGE_BYTES];

/// A file's content, and its past since the last sync.
#[derive(Clone, Default)]
pub(super) struct Inode {
    length: u64,
    pages: Vec<Arc<Page>>,
    /// The pages written since the last sync: what is surely on disk, then what was written over it.
    dirty: BTreeMap<usize, Vec<Arc<Page>>>,
    /// Pages that a failed sync dropped: clean for the kernel, with this on disk.
    dropped: BTreeMap<usize, Arc<Page>>,
    durable_length: u64,
    /// The lengths since the last sync.
    lengths: Vec<u64>,
    /// Sectors that cannot be read.
    unreadable: BTreeSet<u64>,
    pub(super) handles: usize,
}

impl Inode {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Copies what is there; `None` when a sector of it cannot be read.
    pub(super) fn read(&self, buffer: &mut [u8], position: u64) -> Option<usize> {
        let left = index(self.length.saturating_sub(position));
        let count = buffer.len().min(left);
        let sectors =
            position / SECTOR_BYTES as u64..=(position + count as u64) / SECTOR_BYTES as u64;
        if count > 0 && self.unreadable.range(sectors).next().is_some() {
            return None;
        }
        let mut done = 0;
        while done < count {
            let (page, at) = place(position + done as u64);
            let part = (PAGE_BYTES - at).min(count - done);
            let target = &mut buffer[done..done + part];
            match self.pages.get(page) {
                Some(page) => target.copy_from_slice(&page[at..at + part]),
                None => target.fill(0),
            }
            done += part;
        }
        Some(count)
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: u64) {
        self.remember_length();
        let mut done = 0;
        while done < bytes.len() {
            let (page, at) = place(position + done as u64);
            let part = (PAGE_BYTES - at).min(bytes.len() - done);
            self.dirty_page(page)[at..at + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
        self.length = self.length.max(position + bytes.len() as u64);
    }

    pub(super) fn truncate(&mut self, length: u64) {
        self.remember_length();
        let (first, at) = place(length);
        if length < self.length {
            // What lies past the new end reads as zeros when the file grows again.
            for page in first..self.pages.len() {
                let from = if page == first { at } else { 0 };
                self.dirty_page(page)[from..].fill(0);
            }
        }
        self.length = length;
    }

    /// A sync that works, as far as an earlier one has not failed.
    pub(super) fn sync(&mut self) {
        self.dirty.clear();
        self.lengths.clear();
        self.durable_length = self.length;
    }

    /// A sync that fails: the dirty pages are dropped, and the next sync will not know of them.
    pub(super) fn fail_sync(&mut self) {
        for (number, versions) in std::mem::take(&mut self.dirty) {
            if let Some(durable) = versions.into_iter().next() {
                self.dropped.entry(number).or_insert(durable);
            }
        }
    }

    /// Power is cut: each sector that was not synced has its own fate.
    pub(super) fn lose_power(&mut self, chance: &mut Chance, mood: Mood) {
        self.handles = 0;
        for (number, versions) in std::mem::take(&mut self.dirty) {
            let now = self.page(number);
            let settled = settle(&versions, &now, chance, mood);
            self.put_page(number, settled);
        }
        for (number, durable) in std::mem::take(&mut self.dropped) {
            self.put_page(number, durable);
        }
        let now = self.length;
        let lengths: Vec<u64> = [self.durable_length]
            .into_iter()
            .chain(self.lengths.drain(..))
            .chain([now])
            .collect();
        let survives = mood.pick(chance, lengths.len());
        self.length = lengths.get(survives).copied().unwrap_or(now);
        // A file that grew without its data has zeros there, one that shrank keeps nothing behind.
        let (first, at) = place(self.length);
        self.pages.truncate(first + 1);
        if self.pages.len() > first {
            Arc::make_mut(&mut self.pages[first])[at..].fill(0);
        }
        self.durable_length = self.length;
    }

    /// The whole content, for tests that damage it.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut out = vec![0; index(self.length)];
        let mut copy = self.clone();
        copy.unreadable.clear();
        copy.read(&mut out, 0);
        out
    }

    /// A file that has this content, all of it on disk.
    pub(super) fn of(content: &[u8]) -> Inode {
        let mut inode = Inode::default();
        inode.write(content, 0);
        inode.sync();
        inode
    }

    pub(super) fn break_sector(&mut self, position: u64) {
        self.unreadable.insert(position / SECTOR_BYTES as u64);
    }

    fn remember_length(&mut self) {
        if self.lengths.len() < VERSIONS_MAX {
            self.lengths.push(self.length);
        }
    }

    fn page(&self, number: usize) -> Arc<Page> {
        self.pages
            .get(number)
            .cloned()
            .unwrap_or_else(|| Arc::new([0; PAGE_BYTES]))
    }

    fn put_page(&mut self, number: usize, page: Arc<Page>) {
        while self.pages.len() <= number {
            self.pages.push(Arc::new([0; PAGE_BYTES]));
        }
        self.pages[number] = page;
    }

    /// A page to be written to; what it was before is remembered.
    fn dirty_page(&mut self, number: usize) -> &mut Page {
        let now = self.page(number);
        match self.dirty.get_mut(&number) {
            Some(versions) if versions.len() < VERSIONS_MAX => versions.push(now.clone()),
            Some(_) => {}
            None => {
                let durable = self.dropped.remove(&number).unwrap_or_else(|| now.clone());
                self.dirty.insert(number, vec![durable]);
            }
        }
        self.put_page(number, now);
        Arc::make_mut(&mut self.pages[number])
    }
}

/// What is on disk of a page after a power cut.
fn settle(versions: &[Arc<Page>], now: &Arc<Page>, chance: &mut Chance, mood: Mood) -> Arc<Page> {
    let Some(durable) = versions.first() else {
        return now.clone();
    };
    let mut settled = **durable;
    for sector in 0..PAGE_BYTES / SECTOR_BYTES {
        let bytes = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let written = |at: &usize| versions.iter().any(|version| version[*at] != now[*at]);
        let (Some(first), Some(last)) = (bytes.clone().find(written), bytes.rev().find(written))
        else {
            continue;
        };
        let written = first..last + 1;
        let old = &versions[chance.below(versions.len() as u64)][written.clone()];
        mood.settle_sector(chance, &mut settled[written.clone()], old, &now[written]);
    }
    Arc::new(settled)
}

fn place(position: u64) -> (usize, usize) {
    (
        index(position / PAGE_BYTES as u64),
        index(position % PAGE_BYTES as u64),
    )
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
