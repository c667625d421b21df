//! Every metric name in a `telemetry.rs` is used, follows Prometheus' conventions and is named once.

use std::collections::BTreeMap;

use crate::sources::{assert_none, rust};

/// What a name may end in: a unit, or what it counts in the plural when it is a gauge of things.
const COUNTER_SUFFIX: &str = "_total";

#[test]
fn every_metric_constant_is_used() {
    let sources = rust();
    let mut offences = Vec::new();
    for telemetry in sources
        .iter()
        .filter(|source| source.path.ends_with("/src/telemetry.rs"))
    {
        let crate_folder = telemetry.path.split('/').next().unwrap_or_default();
        for (name, _) in constants(&telemetry.text) {
            let uses = sources
                .iter()
                .filter(|source| source.path.split('/').next() == Some(crate_folder))
                .flat_map(|source| source.text.lines().filter(|line| !is_comment(line)))
                .map(|line| words(line).filter(|word| *word == name).count());
            if uses.sum::<usize>() < 2 {
                offences.push(format!("{}: {name} is never used", telemetry.path));
            }
        }
    }
    assert_none(
        "a metric that nothing sets is a promise that nobody keeps",
        &offences,
    );
}

#[test]
fn every_metric_is_set_somewhere() {
    let sources = rust();
    let mut offences = Vec::new();
    for telemetry in sources
        .iter()
        .filter(|source| source.path.ends_with("/src/telemetry.rs"))
    {
        let folder = telemetry.path.trim_end_matches("telemetry.rs");
        for field in public_metric_fields(&telemetry.text) {
            let use_of_it = format!(".{field}");
            let is_used = sources
                .iter()
                .filter(|source| source.path.starts_with(folder))
                .flat_map(|source| source.text.lines())
                .any(|line| line.contains(&use_of_it));
            if !is_used {
                offences.push(format!("{}: {field} is never set", telemetry.path));
            }
        }
    }
    assert_none(
        "a metric that nothing sets is a promise that nobody keeps",
        &offences,
    );
}

#[test]
fn every_metric_name_is_well_formed_and_unique() {
    let mut offences = Vec::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for source in rust()
        .iter()
        .filter(|source| source.path.ends_with("/src/telemetry.rs"))
    {
        for (name, metric) in constants(&source.text) {
            let is_plain = metric
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit());
            if !is_plain || !metric.starts_with("weir_") {
                offences.push(format!("{}: {name} = {metric:?}", source.path));
            }
            if metric.trim_end_matches(COUNTER_SUFFIX).ends_with("_count") {
                offences.push(format!(
                    "{}: {metric:?} says count; name the thing",
                    source.path
                ));
            }
            if let Some(other) = owners.insert(metric.clone(), source.path.clone()) {
                offences.push(format!("{metric:?} is in {} and in {other}", source.path));
            }
        }
    }
    assert_none("metric names are weir_<part>_<thing>_<unit>", &offences);
}

/// The string constants that hold a metric's name: constant, value.
fn constants(text: &str) -> Vec<(String, String)> {
    let read = |line: &str| {
        let (_, rest) = line.split_once("const ")?;
        let (name, rest) = rest.split_once(": &str = \"")?;
        let (value, _) = rest.split_once('"')?;
        value
            .contains('_')
            .then(|| (name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(read).collect()
}

/// The public fields that hold a metric.
fn public_metric_fields(text: &str) -> Vec<&str> {
    let field = |line| {
        let (name, kind) = str::split_once(str::trim_start(line).strip_prefix("pub ")?, ": ")?;
        let is_metric = ["IntCounter", "IntGauge", "Counter", "Gauge", "Histogram"];
        is_metric
            .iter()
            .any(|metric| kind.starts_with(metric))
            .then_some(name)
    };
    text.lines().filter_map(field).collect()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}
