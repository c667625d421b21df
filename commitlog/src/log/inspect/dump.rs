//! Shows what a log holds, batch by batch.

use std::path::Path;
use std::sync::Arc;

use crate::batch::records::{Decompressor, Record};
use crate::error::{Error, Result};
use crate::id::Offset;
use crate::storage::{OpenMode, Storage, read_full_at};

use super::verify::{Seen, scan};
use super::{DumpRecords, Dumped, DumpedBatch, DumpedRecord, Harm};

/// See [`super::dump_dir`]. What is damaged is shown last.
pub(super) fn dump(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    (from, records): (Offset, DumpRecords),
    show: &mut dyn FnMut(Dumped) -> Result<()>,
) -> Result<()> {
    let mut decompressor = Decompressor::new();
    let report = scan(storage, dir, &mut |seen| {
        if seen.header.next_offset() <= from {
            return Ok(());
        }
        let records = match records {
            DumpRecords::No => Ok(Vec::new()),
            DumpRecords::Yes => read_records(storage.as_ref(), seen, &mut decompressor),
        };
        show(Dumped::Batch(DumpedBatch {
            file: seen.file.to_owned(),
            position: seen.position,
            header: *seen.header,
            records: records.map_err(|error| error.message),
        }))
    })?;
    let lost = report
        .findings
        .into_iter()
        .filter(|finding| finding.harm != Harm::Derived);
    let mut lost = lost.filter(|finding| finding.lost.is_none_or(|(_, to)| to > from));
    lost.try_for_each(|finding| show(Dumped::Damage(finding)))
}

fn read_records(
    storage: &dyn Storage,
    seen: &Seen<'_>,
    decompressor: &mut Decompressor,
) -> Result<Vec<DumpedRecord>> {
    let path = seen.file.display();
    let mut batch = vec![0; seen.header.total_bytes()];
    storage
        .open(seen.file, OpenMode::Read)
        .and_then(|file| read_full_at(file.as_ref(), &mut batch, seen.position))
        .map_err(|error| Error::io(format!("cannot read {path}"), error))?;
    decompressor
        .records(&batch)?
        .map(|record| own(record?))
        .collect()
}

fn own(record: Record<'_>) -> Result<DumpedRecord> {
    let headers = record.headers.map(|header| {
        let (name, value) = header?;
        Ok((name.to_owned(), value.map(<[u8]>::to_vec)))
    });
    Ok(DumpedRecord {
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: headers.collect::<Result<_>>()?,
    })
}
