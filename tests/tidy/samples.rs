//! Every sample that users copy loads: `config/*.yaml` and each YAML block of README.md.

use std::path::Path;

use agent::config::AgentConfig;
use aggregator::config::AggregatorConfig;
use config::load::load_text;

use crate::sources::{all, assert_none, has_extension, read};

#[test]
fn every_sample_config_loads() {
    let sources = all();
    let samples = sources.iter().filter(|source| {
        Path::new(&source.path).parent() == Some(Path::new("config"))
            && has_extension(&source.path, "yaml")
    });
    let mut offences = Vec::new();
    let mut count = 0;
    for sample in samples {
        count += 1;
        offences.extend(problem(&sample.path, &sample.text));
    }
    assert!(
        count >= 2,
        "config/ has {count} samples; the agent's and the aggregator's are due"
    );
    assert_none("a sample that does not load", &offences);
}

#[test]
fn every_yaml_block_of_the_documents_loads() {
    let mut offences = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md"] {
        for (line, block) in yaml_blocks(&read(document)) {
            offences.extend(problem(&format!("{document}:{line}"), &block));
        }
    }
    assert_none("an example that does not load", &offences);
}

/// What is wrong with a configuration, if anything. An agent's file says `ship` or `logs`.
fn problem(place: &str, text: &str) -> Option<String> {
    let says = |key: &str| text.lines().any(|line| line.starts_with(key));
    let problems = if says("ship:") || says("logs:") || says("agent:") {
        load_text::<AgentConfig>(text).err()
    } else {
        load_text::<AggregatorConfig>(text).err()
    };
    problems.map(|problems| format!("{place}: {problems}"))
}

/// The fenced YAML blocks of a document with the line each begins at.
fn yaml_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        match &mut open {
            None if line.starts_with("```yaml") => open = Some((at + 1, String::new())),
            Some(_) if line.starts_with("```") => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None => {}
        }
    }
    blocks
}

#[test]
fn yaml_blocks_are_found() {
    let text = "a\n```yaml\nx: 1\n```\n```rust\ny\n```\n```yaml\nz: 2\n```\n";
    let expected = [(2, "x: 1\n".to_owned()), (8, "z: 2\n".to_owned())];
    assert_eq!(yaml_blocks(text), expected);
}
