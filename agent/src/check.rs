//! `weir-agent check`: what the configured patterns match on this host, what of it cannot be read, and
//! what else would keep `run` from its work.
//!
//! Every problem is reported at once, at the pattern's place in the file, with the command that would
//! solve it. Nothing is changed.

mod host;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use config::load::Loaded;
use config::problem::{Problem, Problems};
use serde::Serialize;

use crate::config::{AgentConfig, Glob, LogsConfig};
use crate::files::{one_line, safe_json};
use crate::identity::{self, StoredIdentity};
use crate::sources::file::pattern::Patterns;
use host::{Allowed, Found};

/// What `logs` matches. Its `Display` is a line for each entry and each warning.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    /// Each entry's name, topic, and how many files it matches.
    pub entries: Vec<CheckedEntry>,
    /// What the file is not to blame for, and yet `run` would end for.
    pub warnings: Vec<String>,
}

/// One entry under `logs`.
#[derive(Debug, Clone, Serialize)]
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
    let mut found = Vec::new();
    for (name, logs) in &loaded.config.logs {
        let mut entry = Found {
            name,
            files: BTreeSet::new(),
            directories: BTreeSet::new(),
        };
        let mut all = Vec::new();
        for glob in &logs.files {
            match patterns(glob, logs) {
                Ok(patterns) => {
                    entry.files.extend(look(glob, &patterns, &mut problems));
                    entry.directories.extend(patterns.directories());
                    all.push(patterns);
                }
                Err(problem) => problems.push(problem),
            }
        }
        checked.entries.push(CheckedEntry {
            name: name.clone(),
            topic: logs.topic.to_string(),
            files: entry.files.len(),
        });
        let odd = all
            .iter()
            .find_map(|patterns| host::odd_matches(&entry, patterns));
        checked.warnings.extend(odd);
        found.push(entry);
    }
    let files_open = loaded.config.limits.files_open;
    checked.warnings.extend(host::overlaps(&found));
    checked.warnings.extend(host::polled(&found));
    let limits = host::limits(&found, files_open, Allowed::here());
    checked.warnings.extend(limits);
    checked.warnings.extend(no_identity(&loaded.config));
    if problems.is_empty() {
        Ok(checked)
    } else {
        Err(loaded.source.report(problems))
    }
}

/// What a check came to, for programs: `{"ok": true, "entries": [..], "warnings": [..]}`, or with
/// `"ok": false` the problems, each with its place and what helps.
pub fn document(checked: &Result<Checked, Problems>) -> String {
    let document = match checked {
        Ok(Checked { entries, warnings }) => {
            serde_json::json!({"ok": true, "entries": entries, "warnings": warnings})
        }
        Err(Problems { source, list }) => {
            let problem = |problem: &Problem| {
                serde_json::json!({
                    "file": source.path.display().to_string(),
                    "line": problem.span.line,
                    "column": problem.span.column,
                    "message": problem.message,
                    "help": problem.help,
                })
            };
            let problems: Vec<_> = list.iter().map(problem).collect();
            serde_json::json!({"ok": false, "problems": problems})
        }
    };
    safe_json(&format!("{document:#}\n"))
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
            writeln!(f, "warning: {}", one_line(warning))?;
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

/// Opens what a pattern matches; the files that could be read.
fn look(glob: &Glob, patterns: &Patterns, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let Survey {
        readable,
        unreadable,
    } = open_each(patterns);
    problems.extend(unreadable.iter().map(|(path, error)| {
        let closed = host::closed_directory(path, host::enter);
        match closed {
            // A file may be open to everybody and lie behind a closed door.
            Some(dir) => cannot_be_read(glob, path, error, (&dir, "x")),
            None if path.is_dir() => cannot_be_read(glob, path, error, (path, "rx")),
            None => cannot_be_read(glob, path, error, (path, "r")),
        }
    }));
    readable
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

/// Says so, with the command that gives the rights that `what` lacks.
fn cannot_be_read(
    glob: &Glob,
    path: &Path,
    error: &io::Error,
    (what, rights): (&Path, &str),
) -> Problem {
    let help = if error.kind() == io::ErrorKind::PermissionDenied {
        let uid = rustix::process::geteuid().as_raw();
        let (what, quoted) = (quoted(what), quoted(path));
        format!(
            "let the agent's user read it, `setfacl -m u:{uid}:{rights} {what}`, or leave it out, \
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

    fn checked(logs: &str) -> Checked {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, format!("logs: {{{logs}}}\n")).unwrap();
        check(&config::load::load::<AgentConfig>(&path).unwrap()).unwrap()
    }

    fn found<'a>(name: &'a str, files: &[&str]) -> Found<'a> {
        Found {
            name,
            files: files.iter().map(PathBuf::from).collect(),
            directories: BTreeSet::from([PathBuf::from("/srv"), PathBuf::from("/opt")]),
        }
    }

    #[test]
    fn a_file_that_two_entries_match_is_told_once_for_both() {
        let entries = [
            found("a", &["/srv/1", "/srv/2"]),
            found("b", &["/srv/1", "/srv/2", "/srv/3"]),
            found("c", &["/srv/4"]),
        ];
        let told = host::overlaps(&entries);
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("logs.a and logs.b both match `/srv/1` and 1 more: "));
    }

    #[test]
    fn limits_of_the_kernel_that_are_too_low_are_told_with_what_raises_them() {
        let low = Allowed {
            watches: Some(3),
            instances: Some(1),
            descriptors: Some(100),
        };
        let entries = [found("a", &[]), found("b", &[])];
        let told = host::limits(&entries, 500, low);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("`sysctl fs.inotify.max_user_watches=8`"));
        assert!(told[1].contains("`sysctl fs.inotify.max_user_instances=4`"));
        assert!(told[2].contains("LimitNOFILE="));
        assert_eq!(host::limits(&entries, 500, Allowed::default()), [""; 0]);
    }

    #[test]
    fn the_directory_that_keeps_a_file_from_being_read_is_found() {
        let enter = |dir: &Path| match dir.to_str() {
            Some("/" | "/srv") => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
        };
        let closed = |path: &str| host::closed_directory(Path::new(path), enter);
        assert_eq!(closed("/srv/a.log"), None);
        assert_eq!(closed("/srv/app/x/a.log"), Some(PathBuf::from("/srv/app")));
    }

    #[test]
    fn a_pattern_that_matches_a_directory_or_compressed_files_only_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("app")).unwrap();
        std::fs::write(path("a.log.gz"), "x").unwrap();
        std::fs::write(path("b.log"), "x").unwrap();
        let told = |pattern: &str| {
            let files = path(pattern).display().to_string();
            let warnings = checked(&format!("app: {{files: [\"{files}\"]}}")).warnings;
            let of_files = warnings
                .into_iter()
                .filter(|told| told.contains("logs.app"));
            of_files.collect::<Vec<String>>()
        };
        assert!(told("app")[0].contains("/app/*.log` for what is in it"));
        assert!(told("ap*")[0].contains("matches the directory"));
        assert!(told("*.gz")[0].contains("matches compressed files only"));
        assert_eq!(told("*.log*"), [""; 0]);
    }

    #[test]
    fn a_pattern_in_a_directory_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = |pattern: &str| {
            let files = dir.path().join(pattern).display().to_string();
            checked(&format!("app: {{files: [\"{files}\"]}}")).warnings[0].clone()
        };
        let absent = format!("there is no `{}/ap` yet", dir.path().display());
        assert!(told("ap/*/x.log").contains(&absent));
        assert!(!told("*.log").contains("there is no"));
    }

    #[test]
    fn a_check_is_told_to_programs_with_places() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, "logs: {app: {file: []}}\n").unwrap();
        let problems = config::load::load::<AgentConfig>(&path).map(|_| Checked::default());
        let parsed =
            |checked| -> serde_json::Value { serde_json::from_str(&document(&checked)).unwrap() };
        let told = parsed(problems);
        assert_eq!(told["ok"], false);
        assert_eq!(told["problems"][0]["line"], 1);
        let told = parsed(Ok(Checked::default()));
        assert_eq!(told["ok"], true);
    }

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
