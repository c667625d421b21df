//! A file of numbered lines in memory, and the source that follows it. Like the real source it keeps no
//! checkpoint: it goes on from the position that the spool has.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::pipeline::Outlet;
use agent::sources::{Next, Source};
use agent::spool::positions::Placed;
use commitlog::batch::builder::HeaderBlock;
use commitlog::id::{TopicName, TopicPartition};
use model::position::{Codec, FileKey, Guard, KeyLevel, LineageId, Position};

use crate::hosts::lock;

/// The file. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct LogFile(Arc<Mutex<Vec<String>>>);

impl LogFile {
    /// A file that begins as a copy and goes its own way.
    pub(crate) fn copy(&self) -> LogFile {
        LogFile(Arc::new(Mutex::new(self.lines())))
    }

    /// Takes the file back to what it was.
    pub(crate) fn restore(&self, from: &LogFile) {
        let lines = from.lines();
        *lock(&self.0) = lines;
    }

    pub(crate) fn append(&self, line: String) {
        lock(&self.0).push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.0).clone()
    }

    fn after(&self, offset: usize, count: usize) -> Vec<String> {
        let lines = lock(&self.0);
        lines.iter().skip(offset).take(count).cloned().collect()
    }
}

/// Lines that one turn takes.
const TURN_LINES: usize = 50;
const LINEAGE: LineageId = LineageId(1);

pub(crate) struct SimSource {
    topic: TopicName,
    file: LogFile,
    headers: HeaderBlock,
    /// Where it reads, once the spool was asked.
    reading: Option<(usize, TopicPartition)>,
}

impl SimSource {
    pub(crate) fn new(topic: TopicName, file: LogFile) -> SimSource {
        SimSource {
            topic,
            file,
            headers: HeaderBlock::new(&[("host.name", b"sim")]).expect("one header"),
            reading: None,
        }
    }

    fn resume(&mut self, out: &mut Outlet<'_>) -> Option<(usize, TopicPartition)> {
        let known = out.spool().positions();
        if let Some(placed) = known.into_iter().find(|it| it.position.lineage == LINEAGE) {
            let offset = usize::try_from(placed.position.offset).expect("a test's size");
            return Some((offset, placed.partition?));
        }
        Some((0, out.place(&self.topic, LINEAGE)?))
    }
}

fn placed(offset: usize, partition: &TopicPartition) -> Placed {
    Placed {
        position: Position {
            lineage: LINEAGE,
            epoch: 0,
            offset: offset as u64,
            codec: Codec::None,
            key: FileKey {
                level: KeyLevel::Handle,
                file_system: 1,
                inode: 2,
                object: 3,
            },
            head: Guard::default(),
            tail: Guard::default(),
            path: b"/var/log/app.log".to_vec(),
            place: None,
            milestones: [Guard::default(); 2],
            is_copied: false,
            finished_s: None,
        },
        partition: Some(partition.clone()),
    }
}

impl Source for SimSource {
    fn name(&self) -> &str {
        self.topic.as_str()
    }

    fn turn(&mut self, out: &mut Outlet<'_>) -> Next {
        let later = |wait| Next::At(out.now().monotonic + Duration::from_millis(wait));
        let (soon, much_later) = (later(2), later(50));
        if self.reading.is_none() {
            self.reading = self.resume(out);
        }
        let Some((offset, partition)) = &mut self.reading else {
            return much_later;
        };
        let destination = out.destination(partition);
        if out.room(destination) == 0 {
            return much_later;
        }
        let lines = self.file.after(*offset, TURN_LINES);
        let mut batch = out.batch(destination);
        for line in &lines {
            if !batch.fits(line.len() + 64) && batch.cut().is_err() {
                return much_later;
            }
            *offset += 1;
            // The batch may be cut after any line here, so each bears its position.
            batch.push_last(
                line.as_bytes(),
                &self.headers,
                vec![placed(*offset, partition)],
            );
        }
        soon
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn events_wait_max(&self) -> Duration {
        Duration::MAX
    }
}
