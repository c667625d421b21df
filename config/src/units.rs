//! Sizes, durations and shares, always written with their unit.

use std::fmt;
use std::time::Duration;

use crate::value::{Mismatch, Scalar, Value};

/// A number of bytes: `512KiB`, `10MB`, `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// A share of something: `90%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(pub u8);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("TB", 1000 * 1000 * 1000 * 1000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Nanoseconds of each unit, the largest first.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl ByteSize {
    /// So many mebibytes.
    pub const fn mib(mebibytes: u64) -> ByteSize {
        ByteSize(mebibytes << 20)
    }

    /// So many gibibytes.
    pub const fn gib(gibibytes: u64) -> ByteSize {
        ByteSize(gibibytes << 30)
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that shows the number exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |&(_, bytes): &(&str, u64)| self.0 != 0 && self.0.is_multiple_of(bytes);
        let (name, bytes) = SIZE_UNITS
            .into_iter()
            .filter(exact)
            .max_by_key(|&(_, bytes)| bytes)
            .unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / bytes)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Value for ByteSize {
    const KIND: &'static str = "a size such as 512KiB, 10MB or 4GiB";

    fn read(scalar: &Scalar<'_>) -> Result<ByteSize, Mismatch> {
        let text = scalar.text.trim();
        let (number, unit) = split_number(text);
        let known = SIZE_UNITS.iter().find(|(name, _)| *name == unit);
        if let Some(&(_, bytes)) = known
            && let Some(total) = decimal_times(number, bytes)
        {
            return Ok(ByteSize(total));
        }
        if known.is_some() || number.is_empty() {
            return Err(Mismatch::of::<ByteSize>(text));
        }
        let help = match unit.to_ascii_lowercase().as_str() {
            "" => format!("add the unit: {number}B, {number}KiB or {number}MiB"),
            "k" | "kb" | "kib" | "ki" => format!("write {number}KiB (1024) or {number}KB (1000)"),
            "m" | "mb" | "mib" | "mi" => format!("write {number}MiB (1024²) or {number}MB (1000²)"),
            "g" | "gb" | "gib" | "gi" => format!("write {number}GiB (1024³) or {number}GB (1000³)"),
            "t" | "tb" | "tib" | "ti" => format!("write {number}TiB (1024⁴) or {number}TB (1000⁴)"),
            _ => format!("write {}", ByteSize::KIND),
        };
        Err(Mismatch::new(format!("`{text}` is not a size"), help))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    const KIND: &'static str = "a duration such as 200ms, 10s, 1h30m or 30d";

    fn read(scalar: &Scalar<'_>) -> Result<Duration, Mismatch> {
        let text = scalar.text.trim();
        if let Some(total) = parse_duration(text) {
            return Ok(Duration::from_nanos(total));
        }
        let (number, unit) = split_number(text);
        let lower = unit.to_ascii_lowercase();
        let help = match lower.as_str() {
            _ if number.is_empty() => format!("write {}", Duration::KIND),
            "" => format!("add the unit: {number}ms, {number}s, {number}m, {number}h or {number}d"),
            "sec" | "secs" | "second" | "seconds" => format!("write {number}s"),
            "min" | "mins" | "minute" | "minutes" => format!("write {number}m"),
            "hr" | "hrs" | "hour" | "hours" => format!("write {number}h"),
            "day" | "days" => format!("write {number}d"),
            _ => format!("write {}", Duration::KIND),
        };
        Err(Mismatch::new(format!("`{text}` is not a duration"), help))
    }

    fn show(&self) -> String {
        let mut rest = u64::try_from(self.as_nanos()).unwrap_or(u64::MAX);
        let mut shown = String::new();
        for (name, nanos) in DURATION_UNITS {
            if rest >= nanos {
                shown.extend([(rest / nanos).to_string().as_str(), name]);
                rest %= nanos;
            }
        }
        if shown.is_empty() {
            "0s".to_owned()
        } else {
            shown
        }
    }
}

impl Value for Percent {
    const KIND: &'static str = "a share such as 90%";

    fn read(scalar: &Scalar<'_>) -> Result<Percent, Mismatch> {
        let text = scalar.text.trim();
        let number = text.strip_suffix('%').and_then(|n| n.parse::<u8>().ok());
        match number.filter(|&n| n <= 100) {
            Some(number) => Ok(Percent(number)),
            None => Err(Mismatch::of::<Percent>(text)),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// The leading digits and point, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `number` × `factor`, exactly; `None` when it is no number, not whole or too large.
fn decimal_times(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let total = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = fraction.parse::<u128>().ok()? * u128::from(factor);
    total.checked_add(u64::try_from(part / scale).ok()?)
}

/// Numbers with units, the larger units first: `1h30m`.
fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut smaller_than = u64::MAX;
    loop {
        let (number, tail) = split_number(rest);
        let end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let &(_, nanos) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        if nanos >= smaller_than {
            return None;
        }
        smaller_than = nanos;
        total = total.checked_add(decimal_times(number, nanos)?)?;
        if tail.is_empty() {
            return Some(total);
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::problem::Span;

    fn read<T: Value>(text: &str) -> Result<T, Mismatch> {
        T::read(&Scalar {
            text,
            span: Span::default(),
            base: Path::new(""),
        })
    }

    #[test]
    fn sizes_are_read_and_shown_with_their_unit() {
        for (text, bytes, shown) in [
            ("0B", 0, "0B"),
            ("1B", 1, "1B"),
            ("512KiB", 512 << 10, "512KiB"),
            ("10MB", 10_000_000, "10MB"),
            ("1.5GiB", 3 << 29, "1536MiB"),
            ("4 GiB", 4 << 30, "4GiB"),
            ("1000KB", 1_000_000, "1MB"),
            ("16777215TiB", 16_777_215 << 40, "16777215TiB"),
        ] {
            let size = read::<ByteSize>(text).unwrap();
            assert_eq!((size.0, size.show().as_str()), (bytes, shown), "{text}");
            assert_eq!(read::<ByteSize>(&size.show()), Ok(size));
        }
        for text in [
            "",
            "B",
            "1",
            "1.KiB",
            ".5KiB",
            "1.5.5KiB",
            "-1B",
            "16777216TiB",
            "1kib",
        ] {
            read::<ByteSize>(text).unwrap_err();
        }
    }

    #[test]
    fn durations_are_read_and_shown_with_their_units() {
        for (text, ms, shown) in [
            ("0s", 0, "0s"),
            ("200ms", 200, "200ms"),
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1.5h", 5_400_000, "1h30m"),
            ("30d", 2_592_000_000, "30d"),
            ("90m", 5_400_000, "1h30m"),
        ] {
            let duration = read::<Duration>(text).unwrap();
            assert_eq!(duration, Duration::from_millis(ms), "{text}");
            assert_eq!(duration.show(), shown, "{text}");
            assert_eq!(read::<Duration>(shown), Ok(duration));
        }
        for text in [
            "", "s", "1", "1h1h", "1m1h", "1 h 30", "-1s", "1w", "1e3s", "300000d",
        ] {
            read::<Duration>(text).unwrap_err();
        }
    }

    #[test]
    fn a_share_is_whole_and_at_most_all() {
        assert_eq!(read("0%"), Ok(Percent(0)));
        assert_eq!(read("100%"), Ok(Percent(100)));
        for text in ["101%", "90", "0.9", "-1%", "%", "256%"] {
            read::<Percent>(text).unwrap_err();
        }
    }
}
