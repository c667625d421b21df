//! What the writer and the readers of one log share: where it begins and ends, and its segments.
//!
//! The writer changes it under short locks; a reader takes what it needs (offsets, an `Arc` of the
//! segment) and reads the files with no lock held. So a segment that retention unlinks stays readable
//! for whoever holds it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::{BATCH_BYTES_MAX, SEALED_SEGMENTS_LOADED_MAX};
use crate::storage::{File, Storage};

use super::checkpoint::CheckpointFile;
use super::index::{self, IndexEntry, Span};
use super::sealed::Sealed;
use super::time_index::{TimeEntry, TimeIndex};

/// Shared by a log's writer and its readers.
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) checkpoint: CheckpointFile,
    state: RwLock<State>,
    /// The sealed segments that were read last, the latest at the end.
    loaded: Mutex<Vec<Arc<Sealed>>>,
    /// How far the files beside the log have been hardened: a segment's base, and its bytes. Held while
    /// that is done: an append that seals a segment does it beside a sync job.
    hardened: Mutex<(Offset, u64)>,
}

/// Where the log begins and ends, and its segments.
pub(super) struct State {
    pub(super) start: Offset,
    pub(super) durable: Offset,
    pub(super) end: Offset,
    /// By base. Each ends where the next begins, the last where the active one does.
    pub(super) sealed: BTreeMap<Offset, SealedSegment>,
    pub(super) active: Arc<Active>,
}

/// A sealed segment, as far as its files need not be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct SealedSegment {
    pub(super) end: Offset,
    pub(super) bytes: u64,
    pub(super) last_append: Timestamp,
}

/// The segment being written.
pub(super) struct Active {
    pub(super) base: Offset,
    pub(super) file: Arc<dyn File>,
    grown: RwLock<Grown>,
}

/// What grows with each append.
#[derive(Default)]
pub(super) struct Grown {
    pub(super) entries: Vec<IndexEntry>,
    pub(super) times: TimeIndex,
    /// Where the next batch goes.
    pub(super) position: u64,
}

/// Neighbouring batches of one segment.
pub(super) struct Run {
    /// `None` when the segment's file is missing.
    pub(super) file: Option<Arc<dyn File>>,
    pub(super) spans: Vec<Span>,
}

/// A segment to read from.
pub(super) enum View {
    Active(Arc<Active>),
    Sealed(Arc<Sealed>),
}

impl Shared {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        checkpoint: CheckpointFile,
        state: State,
    ) -> Shared {
        Shared {
            storage,
            dir,
            checkpoint,
            state: RwLock::new(state),
            loaded: Mutex::default(),
            hardened: Mutex::new((Offset::ZERO, 0)),
        }
    }

    /// Runs `harden`, for a segment up to so many bytes, alone. `None` when it came too late: a later one
    /// has done it all.
    pub(super) fn hardening<T>(
        &self,
        base: Offset,
        bytes: u64,
        harden: impl FnOnce() -> Result<T>,
    ) -> Result<Option<T>> {
        let mut hardened = self.hardened.lock().unwrap_or_else(PoisonError::into_inner);
        if (base, bytes) < *hardened {
            return Ok(None);
        }
        let done = harden()?;
        *hardened = (base, bytes);
        Ok(Some(done))
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment that holds `offset`, which the log has not yet passed.
    pub(super) fn view(&self, offset: Offset) -> Result<View> {
        let (base, segment) = {
            let state = self.state();
            if offset < state.start {
                return Err(below_start(offset, state.start));
            }
            if offset >= state.active.base {
                return Ok(View::Active(state.active.clone()));
            }
            let holding = state.sealed.range(..=offset).next_back();
            match holding.or_else(|| state.sealed.range(offset..).next()) {
                Some((&base, &segment)) => (base, segment),
                None => return Ok(View::Active(state.active.clone())),
            }
        };
        self.load(base, segment).map(View::Sealed)
    }

    /// A sealed segment with its index. The lock is held while it loads: two readers that want the same
    /// segment read it once.
    fn load(&self, base: Offset, segment: SealedSegment) -> Result<Arc<Sealed>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = loaded.iter().position(|sealed| sealed.base == base) {
            let sealed = loaded.remove(at);
            loaded.push(sealed.clone());
            return Ok(sealed);
        }
        let sealed = Arc::new(Sealed::load(self, base, segment)?);
        if loaded.len() >= SEALED_SEGMENTS_LOADED_MAX {
            loaded.remove(0);
        }
        loaded.push(sealed.clone());
        Ok(sealed)
    }

    /// Lets go of the segments that lie before `start`.
    pub(super) fn unload_before(&self, start: Offset) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|sealed| sealed.end > start);
    }
}

impl State {
    /// The bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.values().map(|segment| segment.bytes).sum();
        sealed + self.active.grown().position
    }
}

impl Active {
    pub(super) fn new(base: Offset, file: Arc<dyn File>, grown: Grown) -> Active {
        Active {
            base,
            file,
            grown: RwLock::new(grown),
        }
    }

    pub(super) fn grown(&self) -> RwLockReadGuard<'_, Grown> {
        self.grown.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn grown_mut(&self) -> RwLockWriteGuard<'_, Grown> {
        self.grown.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// Where the next segment begins; `None` for the one being written.
    pub(super) fn end(&self) -> Option<Offset> {
        match self {
            View::Active(_) => None,
            View::Sealed(sealed) => Some(sealed.end),
        }
    }

    /// The segment's first offset.
    pub(super) fn base(&self) -> Offset {
        match self {
            View::Active(active) => active.base,
            View::Sealed(sealed) => sealed.base,
        }
    }

    /// The batches from the one that holds `from` on: as many as end by `until` and fit `bytes_max`, but
    /// at least one.
    pub(super) fn run(&self, from: Offset, until: Offset, bytes_max: usize) -> Run {
        let gather = |entries: &[IndexEntry], log_bytes| {
            let base = self.base();
            let first = index::find(base, entries, from);
            gather(base, entries, log_bytes, (first, until, bytes_max))
        };
        match self {
            View::Active(active) => {
                let grown = active.grown();
                Run {
                    file: Some(active.file.clone()),
                    spans: gather(&grown.entries, grown.position),
                }
            }
            View::Sealed(sealed) => Run {
                file: sealed.file.clone(),
                spans: gather(&sealed.entries, sealed.log_bytes),
            },
        }
    }

    /// The latest of the segment's timestamps.
    pub(super) fn max_timestamp(&self) -> Option<Timestamp> {
        match self {
            View::Active(active) => active.grown().times.max,
            View::Sealed(sealed) => sealed.max_timestamp,
        }
    }

    /// An offset of the segment before which no timestamp reaches `time`.
    pub(super) fn offset_before(&self, time: Timestamp) -> Offset {
        let floor = |entries: &[TimeEntry]| super::time_index::floor(entries, time);
        let last = match self {
            View::Active(active) => floor(&active.grown().times.entries),
            View::Sealed(sealed) => floor(&sealed.times),
        };
        last.map_or(self.base(), |last| self.base().plus(last).plus(1))
    }
}

fn gather(
    base: Offset,
    entries: &[IndexEntry],
    log_bytes: u64,
    (first, until, bytes_max): (usize, Offset, usize),
) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut total = 0u64;
    for number in first..entries.len() {
        let Some(span) = index::span(base, entries, number, log_bytes) else {
            break;
        };
        total += span.bytes.min(BATCH_BYTES_MAX as u64);
        let full = total > bytes_max as u64 && !spans.is_empty();
        if full || span.next() > until {
            break;
        }
        spans.push(span);
    }
    spans
}

/// The error of a read before the log's start.
pub(super) fn below_start(offset: Offset, start: Offset) -> Error {
    Error::input(format!(
        "offset {offset} is no longer kept, the log begins at {start}; read from there"
    ))
}
