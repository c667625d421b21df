//! What is durable in a log and not in the table yet, as rows.

use std::fmt;
use std::sync::Arc;

use commitlog::batch::header;
use commitlog::batch::records::Decompressor;
use commitlog::id::Offset;
use commitlog::log::reader::{LogReader, Until};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::lake::columns::{Columns, as_asked};
use crate::lake::rows::Rows;
use crate::lake::schema;
use crate::limits::{HOT_BATCHES_AHEAD, HOT_READ_BYTES, HOT_ROWS};

/// Offsets of a topic-partition that are read from its log.
#[derive(Clone)]
pub struct HotPartition {
    topic: String,
    partition: i32,
    log: LogReader,
    from: Offset,
    to: Offset,
    schema: SchemaRef,
}

impl HotPartition {
    /// The records from `from` on and before `to`, all of which are durable.
    pub fn new(
        topic: &str,
        partition: i32,
        log: LogReader,
        from: Offset,
        to: Offset,
    ) -> HotPartition {
        HotPartition {
            topic: topic.to_owned(),
            partition,
            log,
            from,
            to,
            schema: schema::query(),
        }
    }

    /// Reads all of it and hands rows on, until nobody takes them.
    fn read(&self, hand_on: &dyn Fn(RecordBatch) -> bool) -> Result<()> {
        let mut decompressor = Decompressor::new();
        let mut at = self.from;
        while at < self.to {
            let slice = self.log.read(at, HOT_READ_BYTES, Until::Durable);
            let slice = slice.map_err(|error| DataFusionError::External(error.into()))?;
            let mut batches = &slice.batches[..];
            while let Ok((_, batch, rest)) = header::split_first(batches) {
                batches = rest;
                let mut rows = Rows::new(&self.topic, self.partition);
                // What is damaged is told when it is sealed.
                if let Ok(records) = decompressor.records(batch) {
                    for record in records.flatten() {
                        if record.offset >= at && record.offset < self.to {
                            rows.push(&record).ok();
                        }
                    }
                }
                if !hand_on_rows(rows, hand_on)? {
                    return Ok(());
                }
            }
            if slice.next <= at {
                break;
            }
            at = slice.next;
        }
        Ok(())
    }
}

/// Hands rows on; whether more are wanted.
fn hand_on_rows(rows: Rows, hand_on: &dyn Fn(RecordBatch) -> bool) -> Result<bool> {
    let rows = rows.as_they_are();
    let columns = Columns::new(&rows);
    let mut begin = 0;
    while begin < rows.len() {
        let end = rows.len().min(begin + HOT_ROWS);
        let batch = columns.batch(begin..end, None, &mut Vec::new());
        let batch = batch.and_then(|it| as_asked(&it));
        let batch = batch.map_err(|error| DataFusionError::External(error.into()))?;
        if !hand_on(batch) {
            return Ok(false);
        }
        begin = end;
    }
    Ok(true)
}

impl fmt::Debug for HotPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HotPartition {
            topic,
            partition,
            from,
            to,
            ..
        } = self;
        write!(f, "{topic}-{partition} {from}..{to}")
    }
}

impl PartitionStream for HotPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream =
            RecordBatchReceiverStream::builder(Arc::clone(&self.schema), HOT_BATCHES_AHEAD);
        let (partition, sender) = (self.clone(), stream.tx());
        stream.spawn_blocking(move || {
            partition.read(&|batch| sender.blocking_send(Ok(batch)).is_ok())
        });
        stream.build()
    }
}
