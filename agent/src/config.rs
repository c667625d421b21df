//! `agent.yaml`: what the agent tails and where it ships to.
//!
//! Each struct below declares its options once: name, default, sentence. `config/agent.yaml` is the
//! sample that names them all. Loading is free of effects; whether the globs match readable files is
//! found out by `check`, which puts what it finds at [`Glob::span`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use commitlog::id::TopicName;
use config::fields::{Fields, Section};
use config::problem::{Span, Spanned};
use config::units::ByteSize;
use config::value::{FromText, HostPort, Mismatch, Scalar, Value, choose, word_for};

use model::header;
use regex::bytes::Regex;

use crate::limits::{LABELS_BYTES_MAX, LABELS_MAX};
use crate::sources::file::LongLines;
use crate::sources::file::encoding::Encoding;
use crate::sources::file::multiline::{Multiline, Rule, compile};

#[cfg(test)]
mod tests;

/// The whole file.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The agent itself.
    pub agent: AgentSection,
    /// Where records go.
    pub ship: ShipConfig,
    /// What is tailed, by the user's names.
    pub logs: BTreeMap<String, LogsConfig>,
    /// Budgets.
    pub limits: LimitsConfig,
}

/// The agent itself.
#[derive(Debug, Clone)]
pub struct AgentSection {
    /// Spool and identity.
    pub data_dir: PathBuf,
    /// On every record.
    pub labels: BTreeMap<String, String>,
    /// Instead of the kernel's host name.
    pub host_name: Option<String>,
    /// Own metrics.
    pub http: Option<SocketAddr>,
}

/// Where records go.
#[derive(Debug, Clone)]
pub struct ShipConfig {
    /// Aggregators: each agent has its home among them; empty means those that `join` was told.
    pub to: Vec<HostPort>,
    /// The user's own certificates instead of the joined identity.
    pub tls: Option<ShipTls>,
    /// The queue on disk.
    pub spool: SpoolConfig,
}

/// The user's own certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipTls {
    /// PEM file of the authorities that the aggregator's certificate must come from.
    pub ca: PathBuf,
    /// PEM file of this agent's certificate chain.
    pub cert: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// The name in the aggregator's certificate; the host of `ship.to` when it is not given.
    pub server_name: Option<String>,
}

/// The queue on disk.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// When it is full the files are not read on.
    pub size: ByteSize,
}

/// One named set of files.
#[derive(Debug, Clone)]
pub struct LogsConfig {
    /// What is tailed.
    pub files: Vec<Glob>,
    /// What is left out of it.
    pub exclude: Vec<Glob>,
    /// Where its records go.
    pub topic: TopicName,
    /// On each of its records, over those of the agent.
    pub labels: BTreeMap<String, String>,
    /// Where reading begins in files that are there and can be read at the first start.
    pub start_at: StartAt,
    /// How files' bytes become text.
    pub encoding: Encoding,
    /// Which lines are one record; by default each is one of its own.
    pub multiline: Option<MultilineConfig>,
    /// What becomes of lines that are longer than `limits.line`.
    pub long_lines: LongLines,
    /// A file that has not changed for longer when it is met is begun at its end.
    pub ignore_older: Option<Duration>,
}

/// A pattern of paths, absolute, with the place it was written at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glob {
    /// The pattern.
    pub pattern: String,
    /// Where; no place when it came from the command line.
    pub span: Span,
}

/// A pattern of what is left out: of paths or, without a slash or behind `**/`, of the names of files and
/// directories anywhere.
struct Excluded(Glob);

/// Where reading begins in files that are there at the first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first byte.
    Beginning,
    /// At the end: only what is written from then on.
    End,
}

/// Which lines are one record.
#[derive(Debug, Clone)]
pub struct MultilineConfig {
    /// What tells them.
    pub rule: Option<Rule>,
    /// At a file's end, a record is whole when nothing was added for so long.
    pub timeout: Duration,
}

/// A pattern of lines.
struct LinePattern(Regex);

/// Budgets.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Files held open at once.
    pub files_open: u32,
    /// Bytes of one line.
    pub line: ByteSize,
}

impl Section for AgentConfig {
    fn read(fields: &mut Fields<'_>) -> AgentConfig {
        let config = AgentConfig {
            agent: fields.section("agent"),
            ship: fields.section("ship"),
            logs: fields.named_sections("logs"),
            limits: fields.section("limits"),
        };
        if config.logs.is_empty() {
            fields.problem(
                "logs",
                "no files are tailed",
                "add `logs: {app: {files: [\"/srv/app/*.log\"]}}`",
            );
        }
        config
    }
}

impl Section for AgentSection {
    fn read(fields: &mut Fields<'_>) -> AgentSection {
        let section = AgentSection {
            data_dir: fields.value(
                "data_dir",
                PathBuf::from("/var/lib/weir-agent"),
                "Where the spool and the agent's identity lie.",
            ),
            labels: fields.map("labels", "Labels that every record of this agent carries."),
            host_name: fields.optional(
                "host_name",
                "The name of this host in its records, instead of the kernel's.",
            ),
            http: fields.optional(
                "http",
                "Where the agent serves its own /healthz, /readyz and /metrics; nowhere by default.",
            ),
        };
        check_labels(&section.labels, fields);
        section
    }
}

impl Section for ShipConfig {
    fn read(fields: &mut Fields<'_>) -> ShipConfig {
        ShipConfig {
            to: fields.list(
                "to",
                "Aggregators; agents spread over them, and fail over. By default those that the token named.",
            ),
            tls: fields.optional_section("tls"),
            spool: fields.section("spool"),
        }
    }
}

impl Section for ShipTls {
    fn read(fields: &mut Fields<'_>) -> ShipTls {
        ShipTls {
            ca: fields.required(
                "ca",
                "PEM file of the authorities that the aggregator's certificate must come from.",
            ),
            cert: fields.required("cert", "PEM file of this agent's certificate chain."),
            key: fields.required("key", "PEM file of this agent's private key."),
            server_name: fields.optional(
                "server_name",
                "The name in the aggregator's certificate, when it is not the host of `to`.",
            ),
        }
    }
}

impl Section for SpoolConfig {
    fn read(fields: &mut Fields<'_>) -> SpoolConfig {
        let config = SpoolConfig {
            size: fields.value(
                "size",
                ByteSize::gib(4),
                "Disk that the spool's record batches may take; when it is full, files are not read on.",
            ),
        };
        if config.size < SPOOL_SIZE_MIN {
            let message = format!("`{}` is too small for a spool", config.size);
            fields.problem("size", message, format!("write {SPOOL_SIZE_MIN} or more"));
        }
        config
    }
}

impl Section for LogsConfig {
    fn read(fields: &mut Fields<'_>) -> LogsConfig {
        let section = LogsConfig {
            files: fields.required_list("files", "Patterns of the files to tail."),
            exclude: fields
                .list("exclude", "Patterns of files that are not tailed.")
                .into_iter()
                .map(|Excluded(glob)| glob)
                .collect(),
            topic: fields
                .value(
                    "topic",
                    FromText(default_topic()),
                    "The topic that the lines go to.",
                )
                .0,
            labels: fields.map(
                "labels",
                "Labels of these records, over those of the agent.",
            ),
            start_at: fields.value(
                "start_at",
                StartAt::Beginning,
                "Where reading begins in files that are there and can be read at the first start.",
            ),
            encoding: fields.value(
                "encoding",
                Encoding::Auto,
                "What the files are in: auto, utf-8 or another name; records are UTF-8. `auto` goes by a byte order mark.",
            ),
            multiline: fields.optional_section("multiline"),
            long_lines: fields.value(
                "long_lines",
                LongLines::Split,
                "What becomes of lines longer than `limits.line`: split into several records, truncate or drop.",
            ),
            ignore_older: fields.optional(
                "ignore_older",
                "Files that have not changed for longer when they are met are begun at their end.",
            ),
        };
        check_labels(&section.labels, fields);
        section
    }
}

impl Section for MultilineConfig {
    fn read(fields: &mut Fields<'_>) -> MultilineConfig {
        let start: Option<LinePattern> = fields.optional(
            "start",
            "A pattern of lines that begin a record; the lines up to the next such line belong to it.",
        );
        let continues: Option<LinePattern> = fields.optional(
            "continue",
            "A pattern of lines that belong to the record before them, instead of `start`.",
        );
        let timeout: Option<Duration> = fields.optional(
            "timeout",
            "At a file's end, a record is whole when nothing was added for so long; 1s by default.",
        );
        let timeout = timeout.unwrap_or(MULTILINE_TIMEOUT);
        if timeout.is_zero() {
            let message = "the rest of a record would never be waited for";
            fields.problem("timeout", message, "write 100ms or more");
        }
        let rule = match (start, continues) {
            (Some(start), None) => Some(Rule::Start(start.0)),
            (None, Some(continues)) => Some(Rule::Continue(continues.0)),
            // What is wrong with a pattern was said.
            (None, None) if fields.has("start") || fields.has("continue") => None,
            (None, None) | (Some(_), Some(_)) => {
                fields.problem(
                    "start",
                    "`multiline` has one pattern",
                    "write either `start` or `continue`",
                );
                None
            }
        };
        MultilineConfig { rule, timeout }
    }
}

impl MultilineConfig {
    /// The rule, which every configuration without mistakes has.
    pub fn multiline(&self) -> Option<Multiline> {
        let rule = self.rule.clone()?;
        let timeout = self.timeout;
        Some(Multiline { rule, timeout })
    }
}

impl Section for LimitsConfig {
    fn read(fields: &mut Fields<'_>) -> LimitsConfig {
        let config = LimitsConfig {
            files_open: fields.value("files_open", 500, "Files that are held open at once."),
            line: fields.value(
                "line",
                ByteSize::mib(1),
                "The longest line; what becomes of longer ones is said by `logs.*.long_lines`, and they are counted.",
            ),
        };
        if config.files_open == 0 {
            fields.problem("files_open", "no file could be open", "write 10 or more");
        }
        if config.line < LINE_MIN || config.line > LINE_MAX {
            let message = format!("`{}` is not possible for a line", config.line);
            fields.problem("line", message, format!("write {LINE_MIN} to {LINE_MAX}"));
        }
        config
    }
}

impl Value for Glob {
    const KIND: &'static str = "a pattern of paths such as /var/log/nginx/*.log";

    fn read(scalar: &Scalar<'_>) -> Result<Glob, Mismatch> {
        if scalar.text.is_empty() {
            return Err(Mismatch::of::<Glob>(scalar.text));
        }
        let path = Spanned::<PathBuf>::read(scalar)?;
        let pattern = path.value.display().to_string();
        if let Err(error) = globset::Glob::new(&pattern) {
            return Err(Mismatch::new(
                format!("`{pattern}` is not a pattern: {}", error.kind()),
                "put a backslash before a character that is meant as itself",
            ));
        }
        Ok(Glob {
            pattern,
            span: path.span,
        })
    }

    fn show(&self) -> String {
        self.pattern.clone()
    }
}

impl Value for Excluded {
    const KIND: &'static str =
        "a pattern of paths such as /var/log/nginx/*.gz, or of names such as *.gz";

    fn read(scalar: &Scalar<'_>) -> Result<Excluded, Mismatch> {
        let mut glob = Glob::read(scalar)?;
        let text = scalar.text;
        if text.starts_with("**/") {
            text.clone_into(&mut glob.pattern);
        } else if !text.contains('/') {
            glob.pattern = format!("**/{text}");
        }
        Ok(Excluded(glob))
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

impl Value for StartAt {
    const KIND: &'static str = "beginning or end";

    fn read(scalar: &Scalar<'_>) -> Result<StartAt, Mismatch> {
        choose(scalar, &START_AT)
    }

    fn show(&self) -> String {
        word_for(self, &START_AT)
    }
}

impl Value for Encoding {
    const KIND: &'static str = "auto, or a name such as utf-8, utf-16le, windows-1252";

    fn read(scalar: &Scalar<'_>) -> Result<Encoding, Mismatch> {
        Encoding::for_label(scalar.text).ok_or_else(|| {
            Mismatch::new(
                format!("`{}` is not the name of an encoding", scalar.text),
                format!("write {}", Encoding::KIND),
            )
        })
    }

    fn show(&self) -> String {
        self.label()
    }
}

impl Value for LinePattern {
    const KIND: &'static str = "a regular expression such as '^\\d{4}-'";

    fn read(scalar: &Scalar<'_>) -> Result<LinePattern, Mismatch> {
        if scalar.text.is_empty() {
            return Err(Mismatch::new(
                "the pattern is empty, which every line matches",
                format!("write {}", LinePattern::KIND),
            ));
        }
        compile(scalar.text).map(LinePattern).map_err(|error| {
            let help = match &error {
                regex::Error::CompiledTooBig(_) => "repeat less, or classes of fewer characters",
                _ => "put a backslash before a character that is meant as itself",
            };
            // The message shows the pattern with a mark under the place; its last line says what it is.
            let what = error.to_string();
            let what = what.lines().last().unwrap_or_default();
            let what = what.trim_start_matches("error: ");
            Mismatch::new(format!("`{}` is not a pattern: {what}", scalar.text), help)
        })
    }

    fn show(&self) -> String {
        self.0.as_str().to_owned()
    }
}

impl Value for LongLines {
    const KIND: &'static str = "split, truncate or drop";

    fn read(scalar: &Scalar<'_>) -> Result<LongLines, Mismatch> {
        choose(scalar, &LONG_LINES)
    }

    fn show(&self) -> String {
        word_for(self, &LONG_LINES)
    }
}

/// Every record bears all labels, so they are few and short.
fn check_labels(labels: &BTreeMap<String, String>, fields: &mut Fields<'_>) {
    let bytes: usize = labels
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > LABELS_BYTES_MAX {
        let message = format!("`labels` have {bytes} bytes, which every record would bear");
        fields.problem(
            "labels",
            message,
            format!("write at most {LABELS_BYTES_MAX}"),
        );
    }
    for name in labels.keys() {
        let (what, help) =
            if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
                (
                    "is no name for a label",
                    "write a name without spaces, such as `env`",
                )
            } else if header::is_reserved(name) {
                (
                    "is the agent's own to set",
                    "choose another name for the label",
                )
            } else {
                continue;
            };
        fields.problem("labels", format!("`{name}` {what}"), help);
    }
    if labels.len() > LABELS_MAX {
        let message = format!("{} `labels`, which every record would bear", labels.len());
        fields.problem("labels", message, format!("write at most {LABELS_MAX}"));
    }
}

/// The topic of lines when none is configured.
pub fn default_topic() -> TopicName {
    "logs".parse().expect("`logs` is a topic name")
}

/// Programs write a stack trace at once.
const MULTILINE_TIMEOUT: Duration = Duration::from_secs(1);

const START_AT: [(&str, StartAt); 2] = [("beginning", StartAt::Beginning), ("end", StartAt::End)];

const LONG_LINES: [(&str, LongLines); 3] = [
    ("split", LongLines::Split),
    ("truncate", LongLines::Truncate),
    ("drop", LongLines::Drop),
];

/// Room for a few whole batches of every partition that is being written.
const SPOOL_SIZE_MIN: ByteSize = ByteSize::mib(16);

const LINE_MIN: ByteSize = ByteSize(1024);
/// Leaves room for a record's headers below the log's limit for one record.
pub(crate) const LINE_MAX: ByteSize = ByteSize::mib(3);
