//! Rows as columns: what each record says is read here, and text is not copied but pointed at where it lies in
//! the records.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, DictionaryArray, Int32Array, Int64Array, MapArray, RecordBatch, StringArray,
    StringDictionaryBuilder, StringViewArray, StringViewBuilder, StructArray,
    TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{DataType, UInt32Type};
use model::log::{LogRecord, Stream};

use super::index;
use super::index::terms::{self, Hash};
use super::rows::{Row, Sorted};
use super::schema::{arrow, map_entries, query};
use crate::error::{Error, ErrorKind, Result};

/// A record that is no log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where it is.
    pub offset: i64,
    /// Why.
    pub reason: String,
}

/// Makes columns of sorted rows, some of them at a time.
pub struct Columns<'a> {
    rows: &'a Sorted,
    /// The attributes of all streams, one behind the other.
    names: StringViewArray,
    values: StringViewArray,
    /// Where those of each stream begin there.
    begins: Vec<u32>,
    /// The terms of each stream's attributes.
    fields: Vec<Vec<Hash>>,
}

/// What is read of a row.
struct Decoded<'a> {
    row: &'a Row,
    record: LogRecord<'a>,
}

impl<'a> Columns<'a> {
    /// Of all these rows.
    pub fn new(rows: &'a Sorted) -> Columns<'a> {
        let (mut names, mut values) = (StringViewBuilder::new(), StringViewBuilder::new());
        let (mut begins, mut count) = (vec![0], 0);
        let mut fields = Vec::new();
        for stream in &rows.streams {
            let attributes = stream.stream.attributes.iter();
            fields.push(
                attributes
                    .map(|(name, value)| terms::of_field(name, value))
                    .collect(),
            );
            for (name, value) in &stream.stream.attributes {
                names.append_value(name);
                values.append_value(value);
                count += 1;
            }
            begins.push(count);
        }
        Columns {
            rows,
            names: names.finish(),
            values: values.finish(),
            begins,
            fields,
        }
    }

    /// The rows of a range as columns, and in the index. What is no log record is left out and told.
    pub fn batch(
        &self,
        range: Range<usize>,
        mut index: Option<&mut index::Builder>,
        refused: &mut Vec<Refused>,
    ) -> Result<RecordBatch> {
        let mut decoded = Vec::with_capacity(range.len());
        for row in &self.rows.rows[range] {
            match self.rows.decode(row) {
                Ok(record) => {
                    if let Some(index) = &mut index {
                        index.add(&record, &self.fields[row.stream as usize]);
                    }
                    decoded.push(Decoded { row, record });
                }
                Err(reason) => refused.push(Refused {
                    offset: row.offset,
                    reason: reason.to_string(),
                }),
            }
        }
        let columns = self.columns(&decoded)?;
        RecordBatch::try_new(arrow(), columns).map_err(made)
    }

    fn columns(&self, rows: &[Decoded<'_>]) -> Result<Vec<ArrayRef>> {
        let long = |of: &dyn Fn(&Decoded<'_>) -> i64| -> ArrayRef {
            Arc::new(rows.iter().map(|it| Some(of(it))).collect::<Int64Array>())
        };
        let integer = |of: &dyn Fn(&Decoded<'_>) -> i32| -> ArrayRef {
            Arc::new(rows.iter().map(|it| Some(of(it))).collect::<Int32Array>())
        };
        let micros = rows
            .iter()
            .map(|it| Some(it.row.time_unix_nano.div_euclid(1000)));
        let time = micros
            .collect::<TimestampMicrosecondArray>()
            .with_timezone("UTC");
        let none = |name: &str| -> Result<ArrayRef> {
            let schema = arrow();
            let field = schema.field_with_name(name).map_err(made)?;
            Ok(new_null_array(field.data_type(), rows.len()))
        };
        Ok(vec![
            Arc::new(time),
            long(&|it| it.row.time_unix_nano),
            none("observed_time")?,
            self.topic(rows.len())?,
            integer(&|_| self.rows.partition),
            long(&|it| it.row.offset),
            long(&|it| self.rows.streams[it.row.stream as usize].id),
            integer(&|it| i32::from(it.record.severity_number)),
            severity_text(rows),
            self.texts(rows, |it| Some(&it.body))?,
            self.label(rows, |it| it.service_name.as_deref())?,
            self.label(rows, |it| it.host_name.as_deref())?,
            self.label(rows, |it| it.attribute("k8s.namespace.name"))?,
            self.label(rows, |it| it.attribute("k8s.pod.name"))?,
            self.label(rows, |it| it.attribute("k8s.container.name"))?,
            self.label(rows, |it| it.file_path.as_deref())?,
            none("event_name")?,
            self.texts(rows, |it| it.trace_id.as_ref())?,
            self.texts(rows, |it| it.span_id.as_ref())?,
            integer(&|it| i32::try_from(it.record.attributes_dropped).unwrap_or(i32::MAX)),
            self.attributes(rows)?,
            self.resource(rows)?,
        ])
    }

    fn topic(&self, rows: usize) -> Result<ArrayRef> {
        let topics = StringArray::from(vec![self.rows.topic.as_str()]);
        let keys = UInt32Array::from(vec![0; rows]);
        let topic = DictionaryArray::<UInt32Type>::try_new(keys, Arc::new(topics));
        Ok(Arc::new(topic.map_err(made)?))
    }

    /// What the rows' streams say.
    fn label(
        &self,
        rows: &[Decoded<'_>],
        of: impl for<'s> Fn(&'s Stream<'static>) -> Option<&'s str>,
    ) -> Result<ArrayRef> {
        let streams = &self.rows.streams;
        let labels: StringArray = streams.iter().map(|it| of(&it.stream)).collect();
        let has: Vec<bool> = streams.iter().map(|it| of(&it.stream).is_some()).collect();
        let keys = rows.iter().map(|it| it.row.stream);
        let keys: UInt32Array = keys.map(|it| has[it as usize].then_some(it)).collect();
        let array = DictionaryArray::<UInt32Type>::try_new(keys, Arc::new(labels));
        Ok(Arc::new(array.map_err(made)?))
    }

    /// What the rows themselves say.
    fn texts<'d>(
        &self,
        rows: &'d [Decoded<'d>],
        of: impl Fn(&'d LogRecord<'d>) -> Option<&'d Cow<'d, str>>,
    ) -> Result<ArrayRef> {
        let mut texts = Texts::new(self.rows);
        for decoded in rows {
            match of(&decoded.record) {
                Some(text) => texts.push(decoded.row, text)?,
                None => texts.builder.append_null(),
            }
        }
        Ok(Arc::new(texts.builder.finish()))
    }

    fn attributes(&self, rows: &[Decoded<'_>]) -> Result<ArrayRef> {
        let (mut names, mut values) = (Texts::new(self.rows), Texts::new(self.rows));
        for Decoded { row, record } in rows {
            for (name, value) in &record.attributes {
                names.push(row, name)?;
                values.push(row, value)?;
            }
        }
        let lengths = rows.iter().map(|it| it.record.attributes.len());
        map(lengths, names.builder.finish(), values.builder.finish())
    }

    fn resource(&self, rows: &[Decoded<'_>]) -> Result<ArrayRef> {
        let of = |row: &Row| {
            let stream = row.stream as usize;
            self.begins[stream]..self.begins[stream + 1]
        };
        let places: UInt32Array = rows.iter().flat_map(|it| of(it.row)).map(Some).collect();
        let lengths = rows.iter().map(|it| of(it.row).len());
        let taken = |all: &StringViewArray| -> Result<StringViewArray> {
            let taken = take(all, &places, None).map_err(made)?;
            let taken = taken.as_any().downcast_ref::<StringViewArray>();
            Ok(taken.expect("what is taken is of the same type").clone())
        };
        map(lengths, taken(&self.names)?, taken(&self.values)?)
    }
}

/// Text that points into records where it stands there.
struct Texts<'a> {
    rows: &'a Sorted,
    builder: StringViewBuilder,
}

impl<'a> Texts<'a> {
    fn new(rows: &'a Sorted) -> Texts<'a> {
        let mut builder = StringViewBuilder::new();
        for piece in &rows.pieces {
            builder.append_block(piece.clone());
        }
        Texts { rows, builder }
    }

    fn push(&mut self, row: &Row, text: &str) -> Result<()> {
        let piece = self.rows.pieces[row.piece as usize].as_slice();
        let begin = text.as_ptr().addr().wrapping_sub(piece.as_ptr().addr());
        let is_inside = begin <= piece.len() && text.len() <= piece.len() - begin;
        if let (true, Ok(begin), Ok(length)) =
            (is_inside, u32::try_from(begin), u32::try_from(text.len()))
        {
            return self
                .builder
                .try_append_view(row.piece, begin, length)
                .map_err(made);
        }
        self.builder.try_append_value(text).map_err(made)
    }
}

fn severity_text(rows: &[Decoded<'_>]) -> ArrayRef {
    let mut texts = StringDictionaryBuilder::<UInt32Type>::new();
    for decoded in rows {
        texts.append_option(decoded.record.severity_text.as_deref());
    }
    Arc::new(texts.finish())
}

fn map(
    lengths: impl Iterator<Item = usize>,
    names: StringViewArray,
    values: StringViewArray,
) -> Result<ArrayRef> {
    let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(values)];
    let entries =
        StructArray::try_new(map_entries(DataType::Utf8View), columns, None).map_err(made)?;
    let schema = arrow();
    let DataType::Map(field, _) = schema.field(schema.fields().len() - 1).data_type() else {
        return Err(made("the last column is a map"));
    };
    let offsets = OffsetBuffer::from_lengths(lengths);
    let map = MapArray::try_new(Arc::clone(field), offsets, entries, None, false);
    Ok(Arc::new(map.map_err(made)?))
}

/// The same rows with the types that queries see.
pub(crate) fn as_asked(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = query();
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()));
    let columns: std::result::Result<Vec<ArrayRef>, _> = columns.collect();
    RecordBatch::try_new(schema, columns.map_err(made)?).map_err(made)
}

/// Columns that do not fit together: no record can make them so.
fn made(error: impl Display) -> Error {
    Error::new(ErrorKind::Damaged, error)
}
