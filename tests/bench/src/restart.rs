//! `restart`: an agent started on a spool of many gigabytes.
//!
//! The spool is made by the log itself from valid batches whose one record is zeros, over a disk
//! that leaves zeros out: it is as large as it says and takes next to no room. Recovery cannot tell.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use agent::ambient::{system_clock, system_random};
use agent::spool::{Spool, SpoolConfig, Taken};
use anyhow::{Context as _, Result, ensure};
use commitlog::batch::header::{HEADER_BYTES, Producer, restamp};
use commitlog::storage::disk::Disk;
use commitlog::storage::{DiskSpace, Entry, File, Lock, OpenMode, Storage, write_all_at};
use weir_tests::api::Api;
use weir_tests::condition::{Seen, wait};
use weir_tests::limits::READY_MAX;
use weir_tests::process::Wrapper;

use crate::report::{Bar, Report, float};
use crate::stage::{MEASURE_MAX, Stage};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Size of the spool in GiB
    #[arg(long, default_value_t = 10)]
    gib: u64,
}

/// Raw bytes of the one record of a batch.
const RECORD_BYTES: usize = 480 << 10;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut stage = Stage::new(&format!("spool: {{size: {}GiB}}", options.gib * 4))?;
    stage.world.write("logs/app.log", "first\n")?;
    stage.agent.spawn(&Wrapper::default())?;
    stage.await_durable(1)?;
    stage.agent.terminate()?;
    stage.aggregator.terminate()?;
    let spool_bytes = fill(&stage.agent.data_dir, options.gib << 30)?;

    let started = Instant::now();
    stage.agent.spawn(&Wrapper::default())?;
    let client = Api::new(stage.agent_http, &PathBuf::new());
    let took = wait("a ready agent", MEASURE_MAX, || {
        if let Some(obituary) = stage.agent.process()?.obituary()? {
            return Ok(Seen::Never(obituary));
        }
        let (status, _) = client.get("/readyz")?;
        Ok(if status == 200 {
            Seen::Yes(started.elapsed())
        } else {
            Seen::no(status)
        })
    })?;
    let at_ready = stage.agent.process()?.usage()?;
    // What it tails must come in too: a line that is written now is spooled.
    let before = stage.agent_metric("weir_agent_records_total")?;
    stage.world.write("logs/other.log", "second\n")?;
    wait("a new line in the spool", READY_MAX, || {
        let records = stage.agent_metric("weir_agent_records_total")?;
        Ok(if records > before {
            Seen::Yes(())
        } else {
            Seen::no(records)
        })
    })?;
    let after = stage.agent.process()?.usage()?;
    let mut report = Report::new("restart");
    let mib = |bytes: u64| float(bytes) / float(1 << 20);
    report.figure("spool", mib(spool_bytes) / 1024.0, "GiB");
    report.against(
        "time until ready",
        took.as_secs_f64(),
        "s",
        Bar::AtMost(1.0),
    );
    let bar = Bar::AtMost(64.0);
    report.against(
        "memory, peak until ready",
        mib(at_ready.resident_bytes_max),
        "MiB",
        bar,
    );
    report.figure(
        "memory, peak until the next line",
        mib(after.resident_bytes_max),
        "MiB",
    );
    report.figure("cpu until ready", at_ready.cpu.as_secs_f64(), "s");
    Ok(report)
}

/// Spools batches until it holds so many bytes, as the agent would.
fn fill(data_dir: &Path, bytes: u64) -> Result<u64> {
    let config = SpoolConfig {
        data_dir: data_dir.to_owned(),
        bytes_max: bytes * 2,
        segment_bytes: SEGMENT_BYTES,
    };
    let storage: Arc<dyn Storage> = Arc::new(SparseDisk(Disk));
    let (spool, _) = Spool::open(storage, config, system_clock(), system_random())?;
    let partition = spool
        .partitions()
        .into_iter()
        .next()
        .context("the agent spooled nothing")?;
    while spool.fill().unacknowledged_bytes < bytes {
        let mut batch = zeros_batch(spool.next_producer(&partition)?);
        let taken = spool.append(&partition, &mut batch, &mut Vec::new())?;
        ensure!(
            taken == Taken::Yes,
            "the spool is full at {} bytes",
            spool.fill().disk_bytes
        );
        // Each batch its own turn: snapshots come as often as in real life, or more often.
        spool.sync_turn();
    }
    spool.close()?;
    Ok(spool.fill().disk_bytes)
}

/// The agent's own segments are of this order; recovery reads one of them at most.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A valid batch of one record of zeros, not compressed.
fn zeros_batch(producer: Producer) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES + 16);
    // Attributes, timestamp delta, offset delta: all zero. A null key (length -1, which is 1 in
    // zigzag), the value, no headers.
    record.extend([0, 0, 0]);
    record.push(1);
    length(RECORD_BYTES, &mut record);
    record.resize(record.len() + RECORD_BYTES, 0);
    record.push(0);
    let mut batch = vec![0; HEADER_BYTES];
    length(record.len(), &mut batch);
    batch.append(&mut record);
    let length = u32::try_from(batch.len() - 12).expect("a batch is below 4 GiB");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let time = 1_790_000_000_000_i64.to_be_bytes();
    batch[27..35].copy_from_slice(&time);
    batch[35..43].copy_from_slice(&time);
    batch[57..61].copy_from_slice(&1_u32.to_be_bytes());
    restamp(&mut batch, producer);
    batch
}

/// A length as record batches hold it: a zigzag varint, so twice its value.
fn length(bytes: usize, out: &mut Vec<u8>) {
    let mut rest = bytes * 2;
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.extend(u8::try_from(rest));
}

/// The real disk, but blocks of zeros are left out of files.
struct SparseDisk(Disk);

struct SparseFile(Arc<dyn File>);

impl Storage for SparseDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SparseFile(self.0.open(path, mode)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<DiskSpace> {
        self.0.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.0.lock(path)
    }
}

impl File for SparseFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    /// Writes what is not zero, and the last byte, so that the file is as long as it should be.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let head = bytes.len()
            - bytes
                .iter()
                .rev()
                .skip(1)
                .take_while(|byte| **byte == 0)
                .count();
        let head = if bytes.len() - head < 4096 {
            bytes.len()
        } else {
            head
        };
        write_all_at(&*self.0, &bytes[..head], position)?;
        if head < bytes.len() {
            let last = bytes.len() as u64 - 1;
            write_all_at(&*self.0, &bytes[bytes.len() - 1..], position + last)?;
        }
        Ok(bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        // Only what the figure is not about: nobody cuts the power here.
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use commitlog::batch::header::verify;
    use commitlog::batch::records::Decompressor;
    use commitlog::id::{ProducerEpoch, ProducerId, Sequence};

    #[test]
    fn a_batch_of_zeros_is_one_that_the_log_takes() {
        let id = ProducerId::new(7).expect("not negative");
        let epoch = ProducerEpoch::ZERO;
        let batch = zeros_batch(Producer {
            id,
            epoch,
            base_sequence: Sequence::ZERO,
        });
        assert_eq!(verify(&batch).expect("valid").record_count, 1);
        let mut decompressor = Decompressor::new();
        let mut records = decompressor.records(&batch).expect("readable");
        let record = records.next().expect("one record").expect("a good record");
        assert_eq!(record.value.map(<[u8]>::len), Some(RECORD_BYTES));
        assert!(records.next().is_none());
    }
}
