//! The fields of a JSON object, flat, in one pass over each of its levels and without a copy where a
//! string has no escapes.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{ATTRIBUTES_MAX, DEPTH_MAX};

/// Fields in the order in which they stand.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) list: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Fields beyond those that are taken.
    pub(super) dropped: u32,
}

/// Reads an object's fields.
pub(super) fn fields(text: &str) -> serde_json::Result<Fields<'_>> {
    let mut fields = Fields::default();
    fields.take(text, "", DEPTH_MAX)?;
    Ok(fields)
}

impl<'a> Fields<'a> {
    /// Takes the fields of an object; `depth` is how many levels there may be, this one included.
    fn take(&mut self, text: &'a str, prefix: &str, depth: usize) -> serde_json::Result<()> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let object = Object {
            fields: self,
            prefix,
            depth,
        };
        reader.deserialize_map(object)?;
        reader.end()
    }

    fn put(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) {
        if self.list.len() < ATTRIBUTES_MAX {
            self.list.push((name, value));
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}

struct Object<'f, 'a> {
    fields: &'f mut Fields<'a>,
    prefix: &'f str,
    depth: usize,
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((Text(name), value)) = map.next_entry::<Text<'a>, &'a RawValue>()? {
            let name = match self.prefix {
                "" => name,
                prefix => format!("{prefix}.{name}").into(),
            };
            let text = value.get();
            match text.as_bytes().first() {
                Some(b'n') => {}
                Some(b'"') => {
                    let value: Text<'a> = serde_json::from_str(text).map_err(Error::custom)?;
                    self.fields.put(name, value.0);
                }
                Some(b'{') if self.depth > 1 => {
                    let taken = self.fields.take(text, &name, self.depth - 1);
                    taken.map_err(Error::custom)?;
                }
                _ => self.fields.put(name, text.into()),
            }
        }
        Ok(())
    }
}

/// A string, borrowed where it stands as it is.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
