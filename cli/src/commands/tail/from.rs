//! `--from`: where in a topic to start.

use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;

use super::Partition;
use crate::client::Client;
use crate::http::percent_encode;

/// A place in every partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Beginning,
    End,
    Offset(i64),
    Time(Timestamp),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text {
            "beginning" => return Ok(From::Beginning),
            "end" => return Ok(From::End),
            _ => {}
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let offset = text
                .parse()
                .map_err(|_| "no offset is that large".to_owned())?;
            return Ok(From::Offset(offset));
        }
        let time = text.parse().map_err(|_| {
            "write beginning, end, an offset such as 1000, or a time such as 2026-01-31T08:00:00Z"
        });
        Ok(From::Time(time?))
    }
}

impl From {
    /// The offset that it means in `partition`. A time is looked up by the aggregator: the first
    /// record that is not older.
    pub(super) async fn resolve(
        self,
        topic: &str,
        partition: &Partition,
        client: &mut Client,
    ) -> anyhow::Result<i64> {
        let time = match self {
            From::Beginning => return Ok(partition.start_offset),
            From::End => return Ok(partition.end_offset),
            From::Offset(offset) => return Ok(offset),
            From::Time(time) => time,
        };
        let path = format!(
            "/api/v1/topics/{}/records?partition={}&from={}&max_records=1&wait=0s",
            percent_encode(topic),
            partition.number,
            percent_encode(&time.to_string()),
        );
        let answer = client.fetch(&path, "application/x-ndjson").await?;
        let first = answer.body.split(|byte| *byte == b'\n').find_map(|line| {
            let line: FirstLine = serde_json::from_slice(line).ok()?;
            line.offset
        });
        match first {
            Some(offset) => Ok(offset),
            None => client.header(&answer.headers, "weir-next-offset"),
        }
    }
}

#[derive(Deserialize)]
struct FirstLine {
    offset: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_word_an_offset_or_a_time() {
        let time = |text: &str| From::Time(text.parse().unwrap());
        for (text, expected) in [
            ("beginning", From::Beginning),
            ("end", From::End),
            ("0", From::Offset(0)),
            ("123456", From::Offset(123_456)),
            ("2026-01-31T08:00:00Z", time("2026-01-31T08:00:00Z")),
            ("2026-01-31T09:00:00+01:00", time("2026-01-31T08:00:00Z")),
        ] {
            assert_eq!(text.parse::<From>().unwrap(), expected, "{text}");
        }
        for wrong in [
            "",
            "-1",
            "yesterday",
            "2026-01-31",
            "99999999999999999999",
            "1e3",
        ] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }
}
