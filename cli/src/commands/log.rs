//! `weir log`: looks at partitions on a disk, with no server: a stopped aggregator's `DATA_DIR/log`,
//! an agent's `DATA_DIR/spool`, a copy of either, or one partition's directory.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use commitlog::id::{Offset, Timestamp};
use commitlog::log::inspect::{
    self, Change, DumpRecords, Dumped, DumpedBatch, DumpedRecord, Finding, Harm, PartitionReport,
    RepairMode,
};
use commitlog::storage::disk::Disk;
use commitlog::storage::{Lock, Storage};
use indicatif::{ProgressBar, ProgressStyle};

use super::Run;
use crate::table::{self, Align, Table};
use crate::terminal::{append, shown};

/// Verify, dump or repair partitions on disk, without a server
#[derive(Debug, clap::Parser)]
#[command(name = "log", after_help = EXAMPLES)]
pub(super) struct Log {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Read everything and say what is wrong; 1 when records are lost
    Verify {
        /// A partition's directory, or one that holds some
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },

    /// Print each batch, and with --records what is in it
    Dump {
        /// A partition's directory, or one that holds some
        #[arg(value_name = "PATH")]
        path: PathBuf,

        /// Start at the batch that holds this offset
        #[arg(long, value_name = "OFFSET", default_value = "0", value_parser = parse_offset)]
        from: Offset,

        /// Print the records too
        #[arg(long)]
        records: bool,
    },

    /// Cut torn tails and rebuild indexes now; a damaged segment is copied first
    Repair {
        /// A partition's directory, or one that holds some
        #[arg(value_name = "PATH")]
        path: PathBuf,

        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

const EXAMPLES: &str = "\
Examples:
  weir log verify /var/lib/weir/log
  weir log dump /var/lib/weir/log/logs-0 --from 1000 --records | less
  weir log repair /var/lib/weir/log --dry-run

Nothing has to be repaired by hand: an aggregator does the same by itself when it starts.";

impl Run for Log {
    fn run(self) -> anyhow::Result<()> {
        let storage: Arc<dyn Storage> = Arc::new(Disk);
        match self.action {
            Action::Verify { path } => verify(&storage, &path),
            Action::Dump {
                path,
                from,
                records,
            } => {
                let records = if records {
                    DumpRecords::Yes
                } else {
                    DumpRecords::No
                };
                dump(&storage, &path, from, records)
            }
            Action::Repair { path, dry_run } => {
                let mode = if dry_run {
                    RepairMode::DryRun
                } else {
                    RepairMode::Apply
                };
                repair(&storage, &path, mode)
            }
        }
    }
}

fn verify(storage: &Arc<dyn Storage>, path: &Path) -> anyhow::Result<()> {
    let dirs = partitions(storage, path)?;
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} partitions, {msg}")?;
    // Draws on stderr, and only if that is a terminal.
    let progress = ProgressBar::new(dirs.len() as u64).with_style(style);
    let mut reports = Vec::with_capacity(dirs.len());
    for dir in &dirs {
        progress.set_message(name(dir));
        reports.push(inspect::verify_dir(storage, dir)?);
        progress.inc(1);
    }
    progress.finish_and_clear();

    summary(&reports).print_or("")?;
    let mut out = io::stdout().lock();
    for finding in reports.iter().flat_map(|report| &report.findings) {
        writeln!(out, "{}", told(finding))?;
    }
    let damaged = reports.iter().filter(|report| !report.is_whole()).count();
    ensure!(
        damaged == 0,
        "{damaged} of {} partitions have lost records",
        reports.len()
    );
    Ok(())
}

fn summary(reports: &[PartitionReport]) -> Table {
    let mut table = Table::new(&[
        ("PARTITION", Align::Left),
        ("START", Align::Right),
        ("END", Align::Right),
        ("RECORDS", Align::Right),
        ("BATCHES", Align::Right),
        ("SEGMENTS", Align::Right),
        ("SIZE", Align::Right),
        ("STATE", Align::Left),
    ]);
    for report in reports {
        table.row(&[
            name(&report.dir),
            report.start.to_string(),
            report.end.to_string(),
            table::count(report.records()),
            table::count(report.batches()),
            report.segments.len().to_string(),
            table::bytes(report.bytes()),
            if report.is_whole() {
                "sound"
            } else {
                "damaged"
            }
            .to_owned(),
        ]);
    }
    table
}

fn dump(
    storage: &Arc<dyn Storage>,
    path: &Path,
    from: Offset,
    records: DumpRecords,
) -> anyhow::Result<()> {
    // Past std's line buffer: there may be millions of lines.
    let stdout = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot use stdout")?;
    let mut out = BufWriter::new(File::from(stdout));
    for dir in partitions(storage, path)? {
        writeln!(out, "{}", name(&dir))?;
        inspect::dump_dir(storage, &dir, from, records, &mut |dumped| {
            let written = match dumped {
                Dumped::Damage(finding) => writeln!(out, "{}", told(&finding)),
                Dumped::Batch(batch) => print_batch(&batch, &mut out),
            };
            written.map_err(|error| commitlog::error::Error::io("cannot write", error))
        })?;
    }
    Ok(out.flush()?)
}

fn print_batch(batch: &DumpedBatch, out: &mut impl Write) -> io::Result<()> {
    let header = &batch.header;
    let producer = header.producer.as_ref().map_or_else(String::new, |it| {
        format!(
            " producer {} epoch {} sequence {}",
            it.id,
            it.epoch.get(),
            it.base_sequence
        )
    });
    writeln!(
        out,
        "  offsets {} to {} at byte {} of {}, {} bytes, crc {:08x}, {} to {}{producer}",
        header.base_offset,
        header.last_offset(),
        batch.position,
        name(&batch.file),
        header.total_bytes(),
        header.crc,
        time(header.base_timestamp),
        time(header.max_timestamp),
    )?;
    match &batch.records {
        Ok(records) => records
            .iter()
            .try_for_each(|record| print_record(record, out)),
        Err(reason) => writeln!(
            out,
            "    its records cannot be read: {}",
            shown(reason.as_bytes())
        ),
    }
}

fn print_record(record: &DumpedRecord, out: &mut impl Write) -> io::Result<()> {
    write!(out, "    {} {}", record.offset, time(record.timestamp))?;
    if let Some(key) = &record.key {
        write!(out, " key={}", shown(key))?;
    }
    for (name, value) in &record.headers {
        let value = value.as_deref().unwrap_or_default();
        write!(out, " {}={}", shown(name.as_bytes()), shown(value))?;
    }
    match &record.value {
        Some(value) => writeln!(out, " | {}", shown(value)),
        None => writeln!(out, " | null"),
    }
}

fn repair(storage: &Arc<dyn Storage>, path: &Path, mode: RepairMode) -> anyhow::Result<()> {
    let _lock = lock(&**storage, path)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = Timestamp(i64::try_from(now.as_millis())?);
    let mut out = io::stdout().lock();
    let mut count = 0;
    for dir in partitions(storage, path)? {
        for Change { file, what } in inspect::repair_dir(storage, &dir, mode, now)? {
            count += 1;
            writeln!(out, "{}: {}", file.display(), shown(what.as_bytes()))?;
        }
    }
    match (count, mode) {
        (0, _) => writeln!(out, "nothing to repair")?,
        (_, RepairMode::DryRun) => writeln!(out, "nothing was changed: this was a dry run")?,
        (_, RepairMode::Apply) => {}
    }
    Ok(())
}

/// Keeps an aggregator or agent from starting meanwhile. The lock lies in the data directory, which
/// is `path` or above it; a copy elsewhere has none and needs none.
fn lock(storage: &dyn Storage, path: &Path) -> anyhow::Result<Option<Lock>> {
    let path = path
        .canonicalize()
        .with_context(|| path.display().to_string())?;
    let above = path
        .ancestors()
        .take(DATA_DIR_ABOVE_MAX)
        .map(|dir| dir.join("lock"));
    let Some(file) = above.into_iter().find(|file| file.is_file()) else {
        return Ok(None);
    };
    let lock = storage.lock(&file);
    Ok(Some(lock.context(
        "an aggregator or agent uses these files; stop it first",
    )?))
}

/// A partition's directory, `log` or `spool`, the data directory.
const DATA_DIR_ABOVE_MAX: usize = 3;

fn partitions(storage: &Arc<dyn Storage>, path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let found = inspect::partitions(&**storage, path)?;
    if found.is_empty() {
        bail!(
            "{} holds no partition; name DATA_DIR/log, DATA_DIR/spool or a directory such as logs-0",
            path.display()
        );
    }
    Ok(found)
}

fn told(finding: &Finding) -> String {
    let mut told = finding.file.display().to_string();
    if let Some(position) = finding.position {
        append(&mut told, format_args!(" at byte {position}"));
    }
    append(&mut told, format_args!(": {}", finding.what));
    if let Some((from, to)) = finding.lost {
        append(
            &mut told,
            format_args!("; records {from} to {} are lost", to.get() - 1),
        );
    }
    told.push_str(match finding.harm {
        Harm::Lost => "",
        Harm::Torn => " (left by a crash, never acknowledged)",
        Harm::Derived => " (made again from the log when it is needed)",
    });
    shown(told.as_bytes())
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    shown(name.as_encoded_bytes())
}

/// RFC 3339; a time beyond the calendar as its number.
fn time(timestamp: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(timestamp.0);
    time.map_or_else(|_| timestamp.0.to_string(), |time| format!("{time:.3}"))
}

fn parse_offset(text: &str) -> Result<Offset, String> {
    let offset = text.parse().ok().and_then(Offset::new);
    offset.ok_or_else(|| "an offset is a number from 0 on".into())
}
