//! What a spool that nobody has open knows of files, read without changing anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use commitlog::error::{Error, Result};
use commitlog::id::TopicPartition;
use commitlog::log::inspect::{DumpRecords, Dumped, dump_dir};
use commitlog::storage::{EntryKind, Storage};
use model::header;
use model::position::Position;

use super::open::{DIR, SpoolReport, load_meta, newest_snapshot};
use super::positions::{Placed, Table};

/// What a spool knows of files.
pub struct Stored {
    /// How far each was read.
    pub positions: Vec<Placed>,
    /// With what its names are hashed; `None` where that is damaged.
    pub salt: Option<[u8; 16]>,
}

/// Reads the newest snapshot and the batches behind it. What of them is damaged is passed over, as the next
/// start would.
pub fn stored(storage: &Arc<dyn Storage>, data_dir: &Path) -> Result<Stored> {
    let dir = data_dir.join(DIR);
    let entries = storage
        .list(&dir)
        .map_err(|error| Error::io(format!("there is no spool in {}", dir.display()), error))?;
    let mut report = SpoolReport::default();
    let snapshot = newest_snapshot(&**storage, &dir, &mut report);
    let meta = load_meta(
        &**storage,
        &dir,
        snapshot.as_ref(),
        &BTreeMap::new(),
        &mut report,
    );
    let (folded, mut table) = match snapshot {
        Some(snapshot) => (snapshot.folded, snapshot.table),
        None => Default::default(),
    };
    for entry in entries {
        let name: Option<TopicPartition> = entry.name.to_str().and_then(|name| name.parse().ok());
        let (EntryKind::Directory, Some(name)) = (entry.kind, name) else {
            continue;
        };
        let from = folded.get(&name).copied().unwrap_or_default();
        let partition = dir.join(&entry.name);
        dump_dir(storage, &partition, from, DumpRecords::Yes, &mut |dumped| {
            take(dumped, &name, &mut table);
            Ok(())
        })?;
    }
    Ok(Stored {
        positions: table.positions.into_values().map(|it| *it).collect(),
        salt: meta.map(|meta| meta.salt),
    })
}

fn take(dumped: Dumped, name: &TopicPartition, table: &mut Table) {
    let Dumped::Batch(batch) = dumped else {
        return;
    };
    let records = batch.records.unwrap_or_default();
    let headers = records.into_iter().flat_map(|record| record.headers);
    for (key, value) in headers {
        if key.as_bytes() == header::POSITION.as_bytes()
            && let Some(Ok(positions)) = value.as_deref().map(Position::decode_all)
        {
            for position in positions {
                table.put(Placed {
                    position,
                    partition: Some(name.clone()),
                });
            }
        }
    }
}
