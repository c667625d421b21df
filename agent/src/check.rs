//! `weir-agent check`: what the configured patterns match on this host, what of it cannot be read, and
//! what else would keep `run` from its work.
//!
//! Every problem is reported at once, at the pattern's place in the file, with the command that would
//! solve it. Nothing is changed.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use config::load::Loaded;
use config::problem::{Problem, Problems};

use crate::config::{AgentConfig, Glob, LogsConfig};
use crate::identity::{self, StoredIdentity};
use crate::sources::file::pattern::Patterns;

/// What `logs` matches. Its `Display` is a line for each entry and each warning.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Each entry's name, topic, and how many files it matches.
    pub entries: Vec<CheckedEntry>,
    /// What the file is not to blame for, and yet `run` would end for.
    pub warnings: Vec<String>,
}

/// One entry under `logs`.
#[derive(Debug, Clone)]
pub struct CheckedEntry {
    /// The user's name for it.
    pub name: String,
    /// Where its records go.
    pub topic: String,
    /// Readable files that match at present.
    pub files: usize,
}

/// What patterns match at present.
#[derive(Debug, Default)]
pub struct Survey {
    /// Files that can be read.
    pub readable: Vec<PathBuf>,
    /// Files and directories that cannot, and why.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// Looks at what every pattern matches.
pub fn check(loaded: &Loaded<AgentConfig>) -> Result<Checked, Problems> {
    let mut problems = Vec::new();
    let mut checked = Checked::default();
    for (name, logs) in &loaded.config.logs {
        let mut files = 0;
        for glob in &logs.files {
            match patterns(glob, logs) {
                Ok(patterns) => files += look(glob, &patterns, &mut problems),
                Err(problem) => problems.push(problem),
            }
        }
        checked.entries.push(CheckedEntry {
            name: name.clone(),
            topic: logs.topic.to_string(),
            files,
        });
    }
    checked.warnings.extend(no_identity(&loaded.config));
    if problems.is_empty() {
        Ok(checked)
    } else {
        Err(loaded.source.report(problems))
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for CheckedEntry { name, topic, files } in &self.entries {
            let what = match files {
                0 => "no files yet; they are followed from when they appear".to_owned(),
                1 => "1 file".to_owned(),
                many => format!("{many} files"),
            };
            writeln!(f, "logs.{name} → topic {topic}: {what}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

/// What is wrong with the identity that a join leaves, where one is needed.
fn no_identity(config: &AgentConfig) -> Option<String> {
    if config.ship.tls.is_some() {
        return None;
    }
    let data_dir = config.agent.data_dir.display();
    match StoredIdentity::read(&identity::path(&config.agent.data_dir)) {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!(
            "not joined yet: make a token with `weir token create` on an aggregator, then run \
             `weir-agent join TOKEN --data-dir {data_dir}`"
        )),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn patterns(glob: &Glob, logs: &LogsConfig) -> Result<Patterns, Problem> {
    let excluded: Vec<String> = logs.exclude.iter().map(|one| one.pattern.clone()).collect();
    Patterns::new(std::slice::from_ref(&glob.pattern), &excluded).map_err(|error| {
        Problem::new(
            glob.span,
            format!("`{}` is not a pattern: {}", glob.pattern, error.kind()),
            "put a backslash before a character that is meant as itself",
        )
    })
}

/// Opens what a pattern matches; how many files could be read.
fn look(glob: &Glob, patterns: &Patterns, problems: &mut Vec<Problem>) -> usize {
    let Survey {
        readable,
        unreadable,
    } = open_each(patterns);
    problems.extend(unreadable.iter().map(|(path, error)| {
        let rights = if path.is_dir() { "rx" } else { "r" };
        cannot_be_read(glob, path, error, rights)
    }));
    readable.len()
}

/// What is matched at present, for whom what cannot be read is no reason to stop. The problem is a
/// pattern that is none.
pub fn survey(config: &AgentConfig) -> Result<Survey, Problem> {
    let mut survey = Survey::default();
    for logs in config.logs.values() {
        for glob in &logs.files {
            let Survey {
                readable,
                unreadable,
            } = open_each(&patterns(glob, logs)?);
            survey.readable.extend(readable);
            survey.unreadable.extend(unreadable);
        }
    }
    survey.readable.sort();
    survey.readable.dedup();
    Ok(survey)
}

/// Opens every file that the patterns match.
fn open_each(patterns: &Patterns) -> Survey {
    let (files, unreadable) = patterns.list();
    let mut survey = Survey {
        readable: Vec::new(),
        unreadable,
    };
    for path in files {
        let is_file = std::fs::metadata(&path).map(|metadata| metadata.is_file());
        match is_file.and_then(|is_file| {
            if is_file {
                File::open(&path).map(Some)
            } else {
                Ok(None)
            }
        }) {
            Ok(Some(_)) => survey.readable.push(path),
            Ok(None) => {}
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => survey.unreadable.push((path, error)),
        }
    }
    survey
}

fn cannot_be_read(glob: &Glob, path: &Path, error: &io::Error, rights: &str) -> Problem {
    let help = if error.kind() == io::ErrorKind::PermissionDenied {
        let uid = rustix::process::geteuid().as_raw();
        let quoted = quoted(path);
        format!(
            "let the agent's user read it, `setfacl -m u:{uid}:{rights} {quoted}`, or leave it out, \
             `exclude: [{quoted}]`"
        )
    } else {
        "look at it with `ls -l`; leave it out with `exclude`".to_owned()
    };
    let message = format!("`{}` cannot be read: {error}", path.display());
    Problem::new(glob.span, message, help)
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = PathBuf::from(path).display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_has_not_joined_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        let data_dir = dir.path().join("data").display().to_string();
        let files = dir.path().join("*.log").display().to_string();
        let text =
            format!("agent: {{data_dir: {data_dir}}}\nlogs: {{app: {{files: [\"{files}\"]}}}}\n");
        std::fs::write(&path, text).unwrap();
        let loaded = config::load::load::<AgentConfig>(&path).unwrap();
        let checked = check(&loaded).unwrap().to_string();
        assert!(checked.contains("warning: not joined yet: "), "{checked}");
        assert!(checked.contains(&format!("join TOKEN --data-dir {data_dir}`")));
    }
}
