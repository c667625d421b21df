//! The names of a partition's files: an offset in 20 digits and a suffix, as Kafka writes them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::id::Offset;

/// Kafka's file of leader epochs; ours holds the one epoch 0.
pub(super) const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
/// One epoch, 0, that begins at offset 0 (format version 0, count 1).
pub(super) const LEADER_EPOCH_CONTENT: &[u8] = b"0\n1\n0 0\n";
/// Our own bookkeeping; Kafka ignores files it does not know.
pub(super) const CHECKPOINT: &str = "weir.checkpoint";
/// What a crash leaves of a file that was being replaced.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// What a numbered file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    /// Batches.
    Log,
    /// Offset to position.
    Index,
    /// Timestamp to offset.
    TimeIndex,
    /// Producer state before the offset in the name.
    Snapshot,
}

const SUFFIXES: [(FileKind, &str); 4] = [
    (FileKind::Log, ".log"),
    (FileKind::Index, ".index"),
    (FileKind::TimeIndex, ".timeindex"),
    (FileKind::Snapshot, ".snapshot"),
];

/// The path of a numbered file.
pub(super) fn path(dir: &Path, offset: Offset, kind: FileKind) -> PathBuf {
    let suffix = SUFFIXES.iter().find(|(of, _)| *of == kind);
    let (_, suffix) = suffix.expect("every kind has its suffix");
    dir.join(format!("{:020}{suffix}", offset.get()))
}

/// What a file's name says, unless it is not one of the numbered files.
pub(super) fn parse(name: &OsStr) -> Option<(Offset, FileKind)> {
    let name = name.to_str()?;
    let (digits, suffix) = name.split_at_checked(20)?;
    let (kind, _) = SUFFIXES.iter().find(|(_, known)| *known == suffix)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Offset::new(digits.parse().ok()?)?, *kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_others_are_left_alone() {
        for (kind, _) in SUFFIXES {
            for offset in [0, 7, i64::MAX] {
                let offset = Offset::new(offset).unwrap();
                let path = path(Path::new("d"), offset, kind);
                assert_eq!(parse(path.file_name().unwrap()), Some((offset, kind)));
            }
        }
        for name in [
            "weir.checkpoint",
            "00000000000000000000.txnindex",
            "00000000000000000000.log.tmp",
            "0000000000000000000.log",
            "99999999999999999999.log",
            "+0000000000000000000.log",
        ] {
            assert_eq!(parse(OsStr::new(name)), None, "{name}");
        }
    }
}
