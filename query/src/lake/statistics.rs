//! What a table tells of a file, so that readers pass it over: how many rows it has, and between what they lie.
//!
//! Source: Delta Lake protocol, "Per-file Statistics".

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch,
    StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{Field, Schema};
use delta_kernel::engine::arrow_data::ArrowEngineData;

use super::file::File;
use super::rows::Sorted;
use crate::error::{Error, Result};
use crate::limits::STATISTICS_BYTES;

/// What is known of the rows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// How many there are.
    pub rows: u64,
    /// The least and the greatest of columns, by name.
    pub ranges: Vec<(&'static str, Range)>,
}

/// The least and the greatest value of a column, both of which are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// Microseconds.
    Time(i64, i64),
    /// Of 32 bits.
    Integer(i32, i32),
    /// Of 64 bits.
    Long(i64, i64),
    /// Text.
    Text(String, String),
}

impl Statistics {
    /// Of the rows that are not refused, which are named by their offsets.
    pub(super) fn of(rows: &Sorted, refused: &BTreeSet<i64>) -> Statistics {
        let written = || {
            rows.rows
                .iter()
                .filter(|row| !refused.contains(&row.offset))
        };
        let mut ranges = Vec::new();
        if let Some((min, max)) = range(written().map(|row| row.time_unix_nano)) {
            let micros = |nanos: i64| nanos.div_euclid(1000);
            ranges.push(("time", Range::Time(micros(min), micros(max))));
            ranges.push(("time_unix_nano", Range::Long(min, max)));
        }
        if let Some((min, max)) = range(written().map(|row| row.offset)) {
            ranges.push(("offset", Range::Long(min, max)));
        }
        let stream_of = |number: u32| &rows.streams[number as usize];
        if let Some((min, max)) = range(written().map(|row| stream_of(row.stream).id)) {
            ranges.push(("stream_id", Range::Long(min, max)));
        }
        ranges.push(("topic", Range::Text(rows.topic.clone(), rows.topic.clone())));
        ranges.push(("partition", Range::Integer(rows.partition, rows.partition)));
        let used: BTreeSet<u32> = written().map(|row| row.stream).collect();
        let streams = || used.iter().map(|&it| &stream_of(it).stream);
        let labels = [
            (
                "service_name",
                range(streams().filter_map(|it| it.service_name.as_deref())),
            ),
            (
                "host_name",
                range(streams().filter_map(|it| it.host_name.as_deref())),
            ),
            (
                "file_path",
                range(streams().filter_map(|it| it.file_path.as_deref())),
            ),
        ];
        for (name, range) in labels {
            // One that is cut would not be the greatest.
            let range = range.filter(|(_, max)| max.len() <= STATISTICS_BYTES);
            if let Some((min, max)) = range {
                ranges.push((name, Range::Text(min.to_owned(), max.to_owned())));
            }
        }
        Statistics {
            rows: (rows.len() - refused.len()) as u64,
            ranges,
        }
    }

    fn columns(&self) -> StructArray {
        let bounds = |is_max: bool| {
            let columns = self.ranges.iter().map(|(name, range)| {
                let array = range.bound(is_max);
                let field = Field::new(*name, array.data_type().clone(), true);
                (Arc::new(field), array)
            });
            StructArray::from(columns.collect::<Vec<(Arc<Field>, ArrayRef)>>())
        };
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        let columns: [(&str, ArrayRef); 4] = [
            ("numRecords", Arc::new(Int64Array::from(vec![rows]))),
            ("minValues", Arc::new(bounds(false))),
            ("maxValues", Arc::new(bounds(true))),
            ("tightBounds", Arc::new(BooleanArray::from(vec![true]))),
        ];
        let columns = columns.map(|(name, array)| {
            let field = Field::new(name, array.data_type().clone(), true);
            (Arc::new(field), array)
        });
        StructArray::from(columns.to_vec())
    }
}

impl Range {
    fn bound(&self, is_max: bool) -> ArrayRef {
        match self {
            Range::Time(min, max) => {
                let bound = if is_max { *max } else { *min };
                Arc::new(TimestampMicrosecondArray::from(vec![bound]).with_timezone("UTC"))
            }
            Range::Integer(min, max) => {
                Arc::new(Int32Array::from(vec![if is_max { *max } else { *min }]))
            }
            Range::Long(min, max) => {
                Arc::new(Int64Array::from(vec![if is_max { *max } else { *min }]))
            }
            Range::Text(min, max) => {
                let bound = if is_max { max } else { min };
                Arc::new(StringArray::from(vec![bound.as_str()]))
            }
        }
    }
}

/// What a transaction is told of a file that it adds.
pub(super) fn add_action(path: &str, file: &File, now_ms: i64) -> Result<ArrowEngineData> {
    let size = i64::try_from(file.bytes.len()).map_err(Error::storage)?;
    let names = MapFieldNames {
        entry: "key_value".to_owned(),
        key: "key".to_owned(),
        value: "value".to_owned(),
    };
    let mut partition = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    partition.append(true).map_err(Error::storage)?;
    let columns: [(&str, ArrayRef); 5] = [
        ("path", Arc::new(StringArray::from(vec![path]))),
        ("partitionValues", Arc::new(partition.finish())),
        ("size", Arc::new(Int64Array::from(vec![size]))),
        ("modificationTime", Arc::new(Int64Array::from(vec![now_ms]))),
        ("stats", Arc::new(file.statistics.columns())),
    ];
    let fields = columns.iter().map(|(name, array)| {
        let is_nullable = *name == "stats";
        Field::new(*name, array.data_type().clone(), is_nullable)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<Field>>()));
    let columns = columns.map(|(_, array)| array).to_vec();
    let batch = RecordBatch::try_new(schema, columns).map_err(Error::storage)?;
    Ok(ArrowEngineData::new(batch))
}

fn range<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<(T, T)> {
    values.fold(None, |range, value| {
        let (min, max) = range.unwrap_or((value, value));
        Some((min.min(value), max.max(value)))
    })
}
