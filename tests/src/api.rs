//! The aggregator's HTTP API, asked the way any client would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;

use crate::limits::{BODY_BYTES_MAX, HTTP_MAX};

type Response = ureq::http::Response<ureq::Body>;

/// A client of one aggregator.
#[derive(Clone)]
pub struct Api {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

/// Where reading a partition goes on, and what was read.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Records and gaps in the order of their offsets.
    pub entries: Vec<Entry>,
    /// The offset to ask for next.
    pub next_offset: u64,
    /// The end of what is durable.
    pub end_offset: u64,
}

/// One line of a records answer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A range that was damaged or is gone.
    Gap {
        /// The range and the reason.
        gap: Gap,
    },
    /// A record.
    Record(Record),
}

/// Offsets that cannot be read any more.
#[derive(Debug, Deserialize)]
pub struct Gap {
    /// The first of them.
    pub from: u64,
    /// The one behind the last.
    pub to: u64,
    /// Why.
    pub reason: String,
}

/// A record as the API shows it.
#[derive(Debug, Deserialize)]
pub struct Record {
    /// Its partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// Event time in milliseconds.
    pub timestamp: i64,
    /// The headers; a repeated one has a list of values.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    value: Option<String>,
    value_base64: Option<String>,
}

impl Record {
    /// The value's bytes.
    pub fn value(&self) -> Result<Vec<u8>> {
        match (&self.value, &self.value_base64) {
            (Some(text), _) => Ok(text.as_bytes().to_vec()),
            (None, Some(text)) => BASE64.decode(text).context("value_base64 is not base64"),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// A header that stands once and holds text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.as_str()
    }
}

/// A topic in `/api/v1/topics`.
#[derive(Debug, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

/// A partition in `/api/v1/topics`.
#[derive(Debug, Deserialize)]
pub struct Partition {
    /// Its number.
    pub partition: u32,
    /// The first offset that is still there.
    pub start_offset: u64,
    /// The end of what is durable.
    pub end_offset: u64,
    /// Bytes on disk.
    #[serde(default)]
    pub bytes: u64,
}

/// An agent in `/api/v1/agents`.
#[derive(Debug, Deserialize)]
pub struct AgentSeen {
    /// Its id.
    pub id: String,
    /// The name of its host.
    #[serde(default)]
    pub host: Option<String>,
    /// `quic` or `tcp`.
    #[serde(default)]
    pub transport: Option<String>,
    /// Whether it is connected now.
    #[serde(default)]
    pub connected: bool,
    /// Whether its certificate was revoked.
    #[serde(default)]
    pub revoked: bool,
    /// What it says it lost, by reason.
    #[serde(default)]
    pub losses: BTreeMap<String, u64>,
}

/// Where to begin reading, and how much and how long.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// The first offset.
    pub from: u64,
    /// Bytes at most.
    pub bytes_max: u64,
    /// How long to wait for a first record, in milliseconds.
    pub wait_ms: u64,
}

impl Api {
    /// A client with the token that lies in `token_file`, if it exists.
    pub fn new(http: SocketAddr, token_file: &Path) -> Api {
        let token = std::fs::read_to_string(token_file)
            .ok()
            .map(|text| text.trim().to_owned());
        let config = ureq::Agent::config_builder();
        let config = config
            .timeout_global(Some(HTTP_MAX))
            .http_status_as_error(false)
            .build();
        Api {
            agent: config.into(),
            base: format!("http://{http}"),
            token,
        }
    }

    /// The same client with another token, or none.
    #[must_use]
    pub fn with_token(&self, token: Option<&str>) -> Api {
        Api {
            token: token.map(str::to_owned),
            ..self.clone()
        }
    }

    /// Asks for a path; returns the status and the body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut response = self.call(path, "*/*")?;
        let body = response
            .body_mut()
            .with_config()
            .limit(BODY_BYTES_MAX)
            .read_to_string();
        Ok((
            response.status().as_u16(),
            body.with_context(|| format!("read {path}"))?,
        ))
    }

    /// Sends JSON to a path; returns the status and the body.
    pub fn post(&self, path: &str, body: &Value) -> Result<(u16, String)> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.header("content-type", "application/json");
        let mut response = request
            .send(body.to_string())
            .with_context(|| format!("post {path}"))?;
        Ok((
            response.status().as_u16(),
            response.body_mut().read_to_string()?,
        ))
    }

    /// Whether `/readyz` says yes.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.get("/readyz")?.0 == 200)
    }

    /// All topics.
    pub fn topics(&self) -> Result<Vec<Topic>> {
        #[derive(Deserialize)]
        struct Answer {
            topics: Vec<Topic>,
        }
        Ok(self.json::<Answer>("/api/v1/topics")?.topics)
    }

    /// The partitions of a topic; none when there is no such topic yet.
    pub fn partitions(&self, topic: &str) -> Result<Vec<Partition>> {
        let topics = self.topics()?.into_iter();
        Ok(topics
            .filter(|each| each.name == topic)
            .flat_map(|each| each.partitions)
            .collect())
    }

    /// How many records of a topic are durable.
    pub fn durable_records(&self, topic: &str) -> Result<u64> {
        Ok(self
            .partitions(topic)?
            .iter()
            .map(|each| each.end_offset)
            .sum())
    }

    /// All agents ever seen.
    pub fn agents(&self) -> Result<Vec<AgentSeen>> {
        #[derive(Deserialize)]
        struct Answer {
            agents: Vec<AgentSeen>,
        }
        Ok(self.json::<Answer>("/api/v1/agents")?.agents)
    }

    /// Lines that all agents together say they lost.
    pub fn counted_losses(&self) -> Result<u64> {
        Ok(self
            .agents()?
            .iter()
            .flat_map(|agent| agent.losses.values())
            .sum())
    }

    /// Reads records of one partition.
    pub fn records(&self, topic: &str, partition: u32, fetch: Fetch) -> Result<Fetched> {
        let path = records_path(topic, partition, fetch);
        let mut response = self.call(&path, "application/x-ndjson")?;
        let body = response
            .body_mut()
            .with_config()
            .limit(BODY_BYTES_MAX)
            .read_to_string()?;
        ensure!(
            response.status() == 200,
            "{path}: {} {body}",
            response.status()
        );
        let entries = body.lines().map(|line| {
            serde_json::from_str(line).with_context(|| format!("records line {line:?}"))
        });
        Ok(Fetched {
            next_offset: offset_header(&response, "weir-next-offset")?,
            end_offset: offset_header(&response, "weir-end-offset")?,
            entries: entries.collect::<Result<_>>()?,
        })
    }

    /// Reads record batches of one partition as they lie in the log; returns where reading goes on.
    pub fn batches(&self, topic: &str, partition: u32, fetch: Fetch) -> Result<(Vec<u8>, u64)> {
        let path = records_path(topic, partition, fetch);
        let mut response = self.call(&path, "application/octet-stream")?;
        let body = response
            .body_mut()
            .with_config()
            .limit(BODY_BYTES_MAX)
            .read_to_vec()?;
        ensure!(response.status() == 200, "{path}: {}", response.status());
        let next = offset_header(&response, "weir-next-offset")?;
        Ok((body, next))
    }

    /// The value of a metric in `/metrics`, summed over its labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics")?;
        Ok(metric_in(&text, name))
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<T> {
        let (status, body) = self.get(path)?;
        if status != 200 {
            bail!("{path}: {status} {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }

    fn call(&self, path: &str, accept: &str) -> Result<Response> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request
            .header("accept", accept)
            .call()
            .with_context(|| format!("get {path}"))
    }
}

fn records_path(topic: &str, partition: u32, fetch: Fetch) -> String {
    let Fetch {
        from,
        bytes_max,
        wait_ms,
    } = fetch;
    format!(
        "/api/v1/topics/{topic}/records?partition={partition}&from={from}&max_bytes={bytes_max}\
         &wait={wait_ms}ms"
    )
}

fn offset_header(response: &Response, name: &str) -> Result<u64> {
    let value = response
        .headers()
        .get(name)
        .with_context(|| format!("no header {name}"))?;
    Ok(value.to_str()?.parse()?)
}

/// The value of a metric in Prometheus text, summed over its labels.
pub fn metric_in(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b' ' => rest,
            b'{' => rest.rsplit_once('}')?.1,
            _ => return None,
        };
        value.trim().parse::<f64>().ok()
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_longer_name() {
        let text = "# HELP a b\na{x=\"1\"} 2\na{x=\"2\"} 3\na_total 100\nb 7\n";
        assert!((metric_in(text, "a") - 5.0).abs() < f64::EPSILON);
        assert!((metric_in(text, "b") - 7.0).abs() < f64::EPSILON);
    }
}
