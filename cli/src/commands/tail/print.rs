//! Merges the partitions by the records' times and writes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;

use super::chunk::{Block, Chunk, Cursor, Decoder, Format, Gap, Target};
use super::fetch::Share;
use crate::client::Failure;
use crate::limits::OUTPUT_BUFFER_BYTES;
use crate::terminal::{Lines, escape_text};

/// How many records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    /// So many at first are not.
    pub(super) skip: u64,
    /// So many then are.
    pub(super) take: u64,
    /// So many come when none is missing; for the progress bar.
    pub(super) expected: u64,
}

/// One partition on its way to the printer.
pub(super) struct Lane {
    partition: u32,
    cursor: Cursor,
    chunks: mpsc::Receiver<anyhow::Result<Chunk>>,
    chunk: Option<Chunk>,
    block: Block,
    /// The next record of `block`.
    at: usize,
}

/// Writes records to stdout, and to stderr what it could not write.
pub(super) struct Printer {
    topic: String,
    out: BufWriter<File>,
    decoder: Decoder,
    quota: Quota,
    missing: u64,
    progress: ProgressBar,
    /// The server is away, and that has been said.
    lost: bool,
}

impl Lane {
    pub(super) fn new(share: Share, chunks: mpsc::Receiver<anyhow::Result<Chunk>>) -> Lane {
        Lane {
            partition: share.partition,
            cursor: Cursor {
                next: share.from,
                until: share.until,
            },
            chunks,
            chunk: None,
            block: Block::default(),
            at: 0,
        }
    }

    /// The time of the next record; waits for it. `None`: there are no more.
    fn head(&mut self, printer: &mut Printer) -> anyhow::Result<Option<i64>> {
        loop {
            if let Some(record) = self.block.records.get(self.at) {
                return Ok(Some(record.timestamp));
            }
            if let Some(chunk) = self.chunk.take() {
                let decoder = &mut printer.decoder;
                self.chunk = decoder.decode(chunk, &mut self.cursor, &mut self.block)?;
                self.at = 0;
                printer.tell_gaps(self.partition, &self.block.gaps);
                continue;
            }
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = Some(chunk?),
                None => return Ok(None),
            }
        }
    }

    /// Takes the records that follow each other and are not younger than `time`, `records` at most.
    /// Gives how many, and their text.
    fn take_run(&mut self, time: i64, records: u64) -> (u64, &[u8]) {
        let start = self.text_start();
        let most = usize::try_from(records).unwrap_or(usize::MAX);
        let ahead = self.block.records[self.at..].iter().take(most);
        let run = ahead.take_while(|record| record.timestamp <= time).count();
        self.at += run;
        (run as u64, &self.block.text[start..self.text_start()])
    }

    fn text_start(&self) -> usize {
        let before = self.at.checked_sub(1);
        before.map_or(0, |before| self.block.records[before].end)
    }
}

impl Printer {
    pub(super) fn new(topic: String, format: Format, quota: Quota) -> anyhow::Result<Printer> {
        let stdout = io::stdout();
        let target = if stdout.is_terminal() {
            Target::Terminal
        } else {
            Target::Pipe
        };
        // Past std's line buffer, which would look for newlines in every byte.
        let file = stdout
            .as_fd()
            .try_clone_to_owned()
            .context("cannot use stdout")?;
        Printer::onto(File::from(file), topic, (format, target), quota)
    }

    /// One that writes to this file.
    pub(super) fn onto(
        file: File,
        topic: String,
        (format, target): (Format, Target),
        quota: Quota,
    ) -> anyhow::Result<Printer> {
        Ok(Printer {
            topic,
            out: BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, file),
            decoder: Decoder::new(format, target),
            quota,
            missing: 0,
            progress: progress(target, quota.expected)?,
            lost: false,
        })
    }

    /// Whether all is printed that was asked for.
    pub(super) fn is_full(&self) -> bool {
        self.quota.take == 0
    }

    /// Prints all that the lanes bring, merged by time.
    pub(super) fn drain(&mut self, mut lanes: Vec<Lane>) -> anyhow::Result<()> {
        let mut heads = BinaryHeap::with_capacity(lanes.len());
        for (at, lane) in lanes.iter_mut().enumerate() {
            heads.extend(lane.head(self)?.map(|time| Reverse((time, at))));
        }
        while let Some(Reverse((time, at))) = heads.pop() {
            // Up to the next lane's turn; a time that runs back belongs to this lane's order.
            let turn = heads.peek().map_or(i64::MAX, |Reverse((next, _))| *next);
            self.print_run(&mut lanes[at], turn.max(time))?;
            if self.is_full() {
                // What the lane brings next is not asked for, nor is what may be missing before it.
                break;
            }
            heads.extend(lanes[at].head(self)?.map(|time| Reverse((time, at))));
        }
        self.progress.finish_and_clear();
        Ok(self.out.flush()?)
    }

    /// Prints a chunk of a followed partition at once.
    pub(super) fn print_chunk(
        &mut self,
        partition: u32,
        cursor: &mut Cursor,
        chunk: Chunk,
    ) -> anyhow::Result<()> {
        let mut block = Block::default();
        let mut rest = Some(chunk);
        while let Some(chunk) = rest.take()
            && !self.is_full()
        {
            rest = self.decoder.decode(chunk, cursor, &mut block)?;
            self.tell_gaps(partition, &block.gaps);
            let most = usize::try_from(self.quota.take).unwrap_or(usize::MAX);
            let records = block.records.len().min(most);
            let end = records
                .checked_sub(1)
                .map_or(0, |last| block.records[last].end);
            self.quota.take -= records as u64;
            self.out.write_all(&block.text[..end])?;
        }
        Ok(())
    }

    /// Hands on what is printed so far.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }

    /// Whether nobody reads stdout any more. A write would show it, but there may be nothing to
    /// write for days.
    pub(super) fn reader_is_gone(&self) -> bool {
        let mut stdout = [PollFd::new(self.out.get_ref(), PollFlags::empty())];
        let told = poll(&mut stdout, Some(&Timespec::default()));
        told.is_ok()
            && stdout[0]
                .revents()
                .intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// The server went away.
    pub(super) fn tell_lost(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.lost, true) {
            self.tell(&format!("{failure}; trying until it is back"));
        }
    }

    /// The server is back: one partition has an answer, the others will.
    pub(super) fn tell_back(&mut self) {
        if std::mem::take(&mut self.lost) {
            self.tell("connected again, nothing is skipped");
        }
    }

    /// Says something beside the records.
    pub(super) fn tell(&self, text: &str) {
        let mut line = String::from("weir: ");
        escape_text(text, Lines::Escape, &mut line);
        // When stderr is gone the exit code still tells.
        self.progress
            .suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }

    /// The last word: an error when records were missing.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.out.flush()?;
        match self.missing {
            0 => Ok(()),
            missing => bail!("{missing} records could not be shown"),
        }
    }

    fn print_run(&mut self, lane: &mut Lane, time: i64) -> anyhow::Result<()> {
        if self.quota.skip > 0 {
            let (records, _) = lane.take_run(time, self.quota.skip);
            self.quota.skip -= records;
            return Ok(());
        }
        let (records, text) = lane.take_run(time, self.quota.take);
        self.quota.take -= records;
        self.out.write_all(text)?;
        self.progress.inc(records);
        Ok(())
    }

    fn tell_gaps(&mut self, partition: u32, gaps: &[Gap]) {
        for Gap { from, to, reason } in gaps {
            let records = u64::try_from(to - from).unwrap_or(0);
            self.missing += records;
            // What cannot come cannot be left out either: the last N are N that are there.
            self.quota.skip = self.quota.skip.saturating_sub(records);
            let last = to - 1;
            self.tell(&format!(
                "records {from} to {last} of {}-{partition} are missing: {reason}",
                self.topic
            ));
        }
    }
}

/// A bar on stderr while a long range goes into a pipe or a file; hidden otherwise.
fn progress(target: Target, expected: u64) -> anyhow::Result<ProgressBar> {
    if target == Target::Terminal || expected == 0 {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template(
        "{bar:30} {human_pos} of {human_len} records, {per_sec}, {eta} left",
    )?;
    // indicatif draws on stderr, and only if that is a terminal.
    Ok(ProgressBar::new(expected).with_style(style))
}
