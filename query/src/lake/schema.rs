//! The columns of the table `logs`.
//!
//! By OpenTelemetry's names where it has them. Delta Lake has no nanoseconds and no unsigned numbers: `time` is
//! in microseconds, `time_unix_nano` exact. What a record has beyond the columns is in `attributes`, what its
//! stream has in `resource_attributes`; values are text, so no two records can disagree about a type.
//!
//! Source: OpenTelemetry, Logs Data Model; Delta Lake protocol, "Schema Serialization Format".

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{
    DataType, Field, Fields, Schema, SchemaRef as ArrowSchema, TimeUnit,
};
use delta_kernel::schema::{
    DataType as DeltaType, MapType, PrimitiveType, SchemaRef, StructField, StructType,
};

use super::table::told;
use crate::error::Result;

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether every row has it.
    pub presence: Presence,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Microseconds since 1970, UTC.
    Time,
    /// 32 bits.
    Integer,
    /// 64 bits.
    Long,
    /// Text that few rows differ in: written by a dictionary.
    Label,
    /// Text.
    Text,
    /// Names and values.
    Map,
}

/// Whether every row has a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Always,
    /// Some have not.
    Perhaps,
}

use Kind::{Integer, Label, Long, Map, Text, Time};
use Presence::{Always, Perhaps};

const fn column(name: &'static str, kind: Kind, presence: Presence) -> Column {
    Column {
        name,
        kind,
        presence,
    }
}

/// All of them, in their order.
pub const COLUMNS: [Column; 22] = [
    column("time", Time, Always),
    column("time_unix_nano", Long, Always),
    column("observed_time", Time, Perhaps),
    column("topic", Label, Always),
    column("partition", Integer, Always),
    column("offset", Long, Always),
    column("stream_id", Long, Always),
    column("severity_number", Integer, Always),
    column("severity_text", Label, Perhaps),
    column("body", Text, Always),
    column("service_name", Label, Perhaps),
    column("host_name", Label, Perhaps),
    column("k8s_namespace", Label, Perhaps),
    column("k8s_pod", Label, Perhaps),
    column("k8s_container", Label, Perhaps),
    column("file_path", Label, Perhaps),
    column("event_name", Label, Perhaps),
    column("trace_id", Text, Perhaps),
    column("span_id", Text, Perhaps),
    column("dropped_attributes_count", Integer, Always),
    column("attributes", Map, Always),
    column("resource_attributes", Map, Always),
];

/// The columns as Arrow has them in memory.
pub fn arrow() -> ArrowSchema {
    static SCHEMA: LazyLock<ArrowSchema> = LazyLock::new(|| {
        let fields = COLUMNS.iter().map(Column::arrow);
        Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
    });
    Arc::clone(&SCHEMA)
}

/// The columns as queries see them: text is text, however it is written. In maps it is not of views, in which
/// `DataFusion` finds no key.
pub fn query() -> ArrowSchema {
    static SCHEMA: LazyLock<ArrowSchema> = LazyLock::new(|| {
        let fields = COLUMNS.iter().map(|column| match column.kind {
            Label => Field::new(column.name, DataType::Utf8View, column.presence == Perhaps),
            Map => Field::new(column.name, map_of(DataType::Utf8), false),
            _ => column.arrow(),
        });
        Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
    });
    Arc::clone(&SCHEMA)
}

/// The columns as a Delta table declares them.
pub fn delta() -> Result<SchemaRef> {
    let fields = COLUMNS.iter().map(Column::delta);
    Ok(Arc::new(StructType::try_new(fields).map_err(told)?))
}

/// The two columns in a map, both of text of this type.
pub(super) fn map_entries(text: DataType) -> Fields {
    Fields::from(vec![
        Field::new("key", text.clone(), false),
        Field::new("value", text, true),
    ])
}

fn map_of(text: DataType) -> DataType {
    let entries = DataType::Struct(map_entries(text));
    DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
}

impl Column {
    fn arrow(&self) -> Field {
        let kind = match self.kind {
            Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Integer => DataType::Int32,
            Long => DataType::Int64,
            Label => DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8)),
            Text => DataType::Utf8View,
            Map => map_of(DataType::Utf8View),
        };
        Field::new(self.name, kind, self.presence == Perhaps)
    }

    fn delta(&self) -> StructField {
        let kind: DeltaType = match self.kind {
            Time => PrimitiveType::Timestamp.into(),
            Integer => PrimitiveType::Integer.into(),
            Long => PrimitiveType::Long.into(),
            Label | Text => PrimitiveType::String.into(),
            Map => MapType::new(PrimitiveType::String, PrimitiveType::String, true).into(),
        };
        StructField::new(self.name, kind, self.presence == Perhaps)
    }
}
