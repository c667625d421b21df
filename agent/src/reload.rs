//! SIGHUP: what of a new configuration is taken over while the agent runs.
//!
//! Sources change, and nothing else: each that is configured otherwise is replaced by one that goes on
//! from the committed offsets, those that are the same are not touched. A source that is gone is replaced
//! by one that means nothing, so that what it has open is still read to its end, unless an entry that is
//! new or changed means it now: then the entry was renamed or went into that one, which goes on with it.

use std::collections::BTreeMap;

use crate::config::AgentConfig;
use crate::sources::file::FileConfig;

/// What is different.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Sources that are configured otherwise now.
    pub sources: Vec<FileConfig>,
    /// Each option that changes.
    pub changes: Vec<Change>,
    /// Options that are changed in the file and cannot be while the agent runs.
    pub restart: Vec<&'static str>,
}

/// An option that is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path in the file.
    pub option: String,
    /// Its value before; none where it was not there.
    pub was: Option<String>,
    /// Its value now; none where it is gone.
    pub is: Option<String>,
}

/// Compares what sources run with what sources the file asks for.
pub(crate) fn compare(running: &[FileConfig], wanted: &[FileConfig]) -> Difference {
    let by_name = |configs: &[FileConfig]| -> BTreeMap<String, FileConfig> {
        let named = configs.iter().map(|one| (one.name.clone(), one.clone()));
        named.collect()
    };
    let (running, mut wanted) = (by_name(running), by_name(wanted));
    let mut difference = Difference::default();
    let mut gone = Vec::new();
    for (name, old) in running {
        match wanted.remove(&name) {
            Some(new) => difference.add_changed(&old, new),
            None => gone.push((name, old)),
        }
    }
    let heirs: Vec<FileConfig> = difference
        .sources
        .iter()
        .chain(wanted.values())
        .cloned()
        .collect();
    for (name, old) in gone {
        difference.changes.push(Change {
            option: format!("logs.{name}"),
            was: Some(format!("{:?}", old.files)),
            is: None,
        });
        difference.sources.push(FileConfig {
            files: Vec::new(),
            heirs: heirs.clone(),
            ..old
        });
    }
    for (name, new) in wanted {
        difference.changes.push(Change {
            option: format!("logs.{name}"),
            was: None,
            is: Some(format!("{:?}", new.files)),
        });
        difference.sources.push(new);
    }
    difference
}

/// Options outside of `logs` that differ. They belong to what is made once, when the agent starts.
pub(crate) fn restart_needed(running: &AgentConfig, wanted: &AgentConfig) -> Vec<&'static str> {
    let differs = [
        (
            "agent.data_dir",
            running.agent.data_dir != wanted.agent.data_dir,
        ),
        (
            "agent.host_name",
            running.agent.host_name != wanted.agent.host_name,
        ),
        ("agent.http", running.agent.http != wanted.agent.http),
        ("ship.to", running.ship.to != wanted.ship.to),
        ("ship.tls", running.ship.tls != wanted.ship.tls),
        (
            "ship.spool.size",
            running.ship.spool.size != wanted.ship.spool.size,
        ),
        (
            "limits.files_open",
            running.limits.files_open != wanted.limits.files_open,
        ),
    ];
    let differs = differs.into_iter().filter(|(_, differs)| *differs);
    differs.map(|(option, _)| option).collect()
}

/// The new configuration as far as it is taken over: what needs a restart stays as it is.
pub(crate) fn taken_over(running: &AgentConfig, wanted: AgentConfig) -> AgentConfig {
    let mut taken = wanted;
    taken.agent.data_dir.clone_from(&running.agent.data_dir);
    taken.agent.host_name.clone_from(&running.agent.host_name);
    taken.agent.http = running.agent.http;
    taken.ship = running.ship.clone();
    taken.limits.files_open = running.limits.files_open;
    taken
}

impl Difference {
    fn add_changed(&mut self, old: &FileConfig, new: FileConfig) {
        let pairs = options(old).into_iter().zip(options(&new));
        let changed = pairs.filter(|((_, was), (_, is))| was != is);
        let before = self.changes.len();
        self.changes
            .extend(changed.map(|((option, was), (_, is))| Change {
                option: format!("logs.{}.{option}", old.name),
                was: Some(was),
                is: Some(is),
            }));
        if self.changes.len() > before {
            self.sources.push(new);
        }
    }
}

/// Everything that a source is told, but its share of the open files, which changes with the number of
/// the others.
fn options(config: &FileConfig) -> Vec<(&'static str, String)> {
    let FileConfig {
        name: _,
        files,
        exclude,
        topic,
        labels,
        start_at,
        ignore_older,
        line_bytes_max,
        long_lines,
        encoding,
        multiline,
        files_open_max: _,
        files_detached_max: _,
        // Who else there is, or comes after it, matters to what is resumed alone.
        beside: _,
        heirs: _,
    } = config;
    vec![
        ("files", format!("{files:?}")),
        ("exclude", format!("{exclude:?}")),
        ("topic", topic.to_string()),
        ("labels", format!("{labels:?}")),
        ("start_at", format!("{start_at:?}")),
        ("ignore_older", format!("{ignore_older:?}")),
        ("line", line_bytes_max.to_string()),
        ("long_lines", format!("{long_lines:?}")),
        ("encoding", format!("{encoding:?}")),
        ("multiline", format!("{multiline:?}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::file::encoding::Encoding;
    use crate::sources::file::{LongLines, StartAt};

    fn source(name: &str) -> FileConfig {
        FileConfig {
            name: name.to_owned(),
            files: vec![format!("/srv/{name}/*.log")],
            exclude: Vec::new(),
            topic: "logs".parse().unwrap(),
            labels: Vec::new(),
            start_at: StartAt::Beginning,
            ignore_older: None,
            line_bytes_max: 1 << 20,
            long_lines: LongLines::Split,
            encoding: Encoding::Auto,
            multiline: None,
            files_open_max: 500,
            files_detached_max: 500,
            beside: Vec::new(),
            heirs: Vec::new(),
        }
    }

    #[test]
    fn sources_that_are_the_same_are_not_touched() {
        let share = FileConfig {
            files_open_max: 250,
            ..source("app")
        };
        let difference = compare(&[source("app")], &[share, source("new")]);
        assert_eq!(difference.sources, [source("new")]);
        assert_eq!(difference.changes.len(), 1);
    }

    #[test]
    fn a_change_is_told_with_what_was_and_what_is() {
        let new = FileConfig {
            topic: "other".parse().unwrap(),
            ..source("app")
        };
        let difference = compare(&[source("app")], std::slice::from_ref(&new));
        assert_eq!(difference.sources, [new]);
        let change = Change {
            option: "logs.app.topic".to_owned(),
            was: Some("logs".to_owned()),
            is: Some("other".to_owned()),
        };
        assert_eq!(difference.changes, [change]);
    }

    #[test]
    fn a_source_that_is_gone_goes_on_meaning_nothing() {
        let difference = compare(&[source("app")], &[]);
        assert_eq!(difference.sources.len(), 1);
        assert!(difference.sources[0].files.is_empty());
    }

    #[test]
    fn what_a_source_had_is_left_to_those_that_are_new_or_changed() {
        let changed = FileConfig {
            files: vec!["/srv/*/*.log".to_owned()],
            ..source("c")
        };
        let running = ["app", "b", "c"].map(source);
        let difference = compare(&running, &[source("b"), changed.clone(), source("web")]);
        let mut sources = difference.sources.into_iter();
        let gone = sources.find(|one| one.files.is_empty()).unwrap();
        assert_eq!(gone.heirs, [changed, source("web")]);
    }

    #[test]
    fn what_needs_a_restart_is_told_and_stays() {
        let load = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent.yaml");
            std::fs::write(&path, text).unwrap();
            config::load::load::<AgentConfig>(&path).unwrap().config
        };
        let logs = "logs: {app: {files: [\"/srv/*.log\"]}}\n";
        let running = load(&format!("agent: {{data_dir: /a}}\n{logs}"));
        let wanted = load(&format!(
            "agent: {{data_dir: /b, labels: {{x: y}}}}\nship: {{to: [\"h:1\"]}}\n{logs}"
        ));
        let needed = restart_needed(&running, &wanted);
        assert_eq!(needed, ["agent.data_dir", "ship.to"]);
        let taken = taken_over(&running, wanted);
        assert_eq!(taken.agent.data_dir, running.agent.data_dir);
        assert_eq!(taken.agent.labels.len(), 1);
        assert!(restart_needed(&running, &taken).is_empty());
    }
}
