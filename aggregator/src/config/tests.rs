use config::load::load_text;

use super::*;

#[test]
fn the_sample_names_every_option() {
    let sample = include_str!("../../../config/aggregator.yaml");
    let faults = config::sample::faults::<AggregatorConfig>(sample);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_smallest_file_is_enough() {
    let loaded = load_text::<AggregatorConfig>(
        r#"data_dir: /var/lib/weir
listen: {quic: "127.0.0.1:9347", http: "127.0.0.1:9348"}
topics:
  logs: {partitions: 4}
"#,
    );
    let config = loaded.unwrap().config;
    assert_eq!(config.listen.quic, loopback(9347));
    let logs = &config.topics[&"logs".parse().unwrap()];
    assert_eq!(logs.partitions, Some(4));
    assert_eq!(logs.retention.age, None);
    assert_eq!(config.defaults.retention.age, Duration::from_hours(168));
    assert_eq!(config.auth, Auth::Token);
    load_text::<AggregatorConfig>("").unwrap();
}

#[test]
fn every_mistake_is_told_at_once() {
    let told = load_text::<AggregatorConfig>(
        r"listen: {http: 0.0.0.0:9348, quick: 1}
auth: none
topics:
  logs: {partitions: 0, segment_bytes: 1KiB}
  ../x: {retention: {age: 7}}
disk: {high_water: 5%}
tls: {ca: /ca.pem}
",
    );
    let told = told.unwrap_err().to_string();
    let first_lines: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("config.yaml"))
        .collect();
    let expected = [
        "config.yaml:1:30: unknown key `quick`",
        "config.yaml:2:7: `auth: none` while 0.0.0.0:9348 is open to others",
        "config.yaml:4:22: a topic cannot have 0 partitions",
        "config.yaml:4:40: a segment cannot have 1KiB",
        "config.yaml:5:3: topic name \"../x\" has an illegal character at byte 2; use letters, \
         digits, '.', '_' and '-'",
        "config.yaml:5:27: `7` is not a duration",
        "config.yaml:6:20: the disk would always be full",
        "config.yaml:7:6: `tls.cert` is missing",
        "config.yaml:7:6: `tls.key` is missing",
    ];
    assert_eq!(first_lines, expected, "{told}");
    load_text::<AggregatorConfig>("auth: none").unwrap();
}
