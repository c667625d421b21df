//! Figures as a table for people and, when asked, as one line of JSON.

use std::io::Write as _;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// What is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Table,
    TableAndJson,
}

/// The figures of one command.
pub(crate) struct Report {
    name: &'static str,
    rows: Vec<Row>,
    failure: Option<String>,
}

struct Row {
    key: String,
    value: Value,
    unit: &'static str,
    bar: Option<Bar>,
}

/// What a figure should reach.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

impl Bar {
    fn is_met(self, value: f64) -> bool {
        match self {
            Bar::AtMost(bar) => value <= bar,
            Bar::AtLeast(bar) => value >= bar,
        }
    }

    fn text(self) -> String {
        match self {
            Bar::AtMost(bar) => format!("≤ {}", number(bar)),
            Bar::AtLeast(bar) => format!("≥ {}", number(bar)),
        }
    }
}

impl Report {
    pub(crate) fn new(name: &'static str) -> Report {
        Report {
            name,
            rows: Vec::new(),
            failure: None,
        }
    }

    /// Adds a figure.
    pub(crate) fn figure(&mut self, key: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row {
            key: key.into(),
            value: json!(value),
            unit,
            bar: None,
        });
    }

    /// Adds a figure that has a bar.
    pub(crate) fn against(
        &mut self,
        key: impl Into<String>,
        value: f64,
        unit: &'static str,
        bar: Bar,
    ) {
        self.rows.push(Row {
            key: key.into(),
            value: json!(value),
            unit,
            bar: Some(bar),
        });
    }

    /// Adds a word.
    pub(crate) fn word(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let value = Value::String(value.into());
        self.rows.push(Row {
            key: key.into(),
            value,
            unit: "",
            bar: None,
        });
    }

    /// The command ends with this error once the figures are printed.
    pub(crate) fn fail(&mut self, why: impl Into<String>) {
        self.failure = Some(why.into());
    }

    /// Prints it; an error when the report is one of a failure.
    pub(crate) fn print(&self, style: Style) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let width = self
            .rows
            .iter()
            .map(|row| row.key.chars().count())
            .max()
            .unwrap_or(0);
        writeln!(out, "{}", self.name)?;
        for row in &self.rows {
            let value = match &row.value {
                Value::Number(value) => number(value.as_f64().unwrap_or(f64::NAN)),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let line = format!("  {:<width$}  {value:>12} {}", row.key, row.unit);
            let verdict = row.bar.map(|bar| {
                let is_met = bar.is_met(row.value.as_f64().unwrap_or(f64::NAN));
                format!("  {} {}", bar.text(), if is_met { "met" } else { "MISSED" })
            });
            writeln!(out, "{}{}", line.trim_end(), verdict.unwrap_or_default())?;
        }
        if style == Style::TableAndJson {
            let mut map = Map::from_iter([("bench".to_owned(), json!(self.name))]);
            let key = |row: &Row| row.key.replace([' ', ',', '/'], "_").replace("__", "_");
            map.extend(self.rows.iter().map(|row| (key(row), row.value.clone())));
            writeln!(out, "{}", Value::Object(map))?;
        }
        match &self.failure {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }
}

/// Three significant digits where there is a fraction, grouped thousands where there is none.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        grouped(&format!("{value:.0}"))
    } else if size >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Any count as a figure; exact up to 2⁵³.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures are shown with three digits"
)]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
        check(1_234_567.8, "1,234,568");
        check(123.4, "123");
        check(12.34, "12.3");
        check(1.234, "1.23");
        check(0.1234, "0.123");
        check(0.0, "0");
        check(60.0, "60");
    }
}
