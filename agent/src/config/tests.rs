use std::path::Path;

use config::load::load_text;

use super::*;
use crate::sources::file::pattern::Patterns;

#[test]
fn the_sample_names_every_option() {
    let faults = config::sample::faults::<AgentConfig>(include_str!("../../../config/agent.yaml"));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_smallest_file_is_enough() {
    let loaded = load_text::<AgentConfig>(
        r#"agent: {data_dir: /var/lib/weir-agent}
ship: {to: ["127.0.0.1:9347"]}
logs:
  app: {files: ["/srv/app/*.log"], topic: logs}
"#,
    );
    let config = loaded.unwrap().config;
    assert_eq!(config.agent.data_dir, PathBuf::from("/var/lib/weir-agent"));
    assert_eq!(config.ship.to, ["127.0.0.1:9347".parse().unwrap()]);
    assert_eq!(config.ship.spool.size, ByteSize::gib(4));
    let app = &config.logs["app"];
    assert_eq!(app.files[0].pattern, "/srv/app/*.log");
    assert_eq!((app.files[0].span.line, app.files[0].span.column), (4, 17));
    assert_eq!(app.topic, default_topic());
    assert_eq!(app.start_at, StartAt::Beginning);
}

#[test]
fn records_of_several_lines_have_one_pattern_that_compiles_within_bounds() {
    let told = |multiline: &str| {
        let text = format!("logs: {{app: {{files: /a/*.log, multiline: {multiline}}}}}");
        load_text::<AgentConfig>(&text).map(|loaded| loaded.config.logs["app"].clone())
    };
    let app = told(r"{start: '^\d', timeout: 3s}").unwrap();
    assert_eq!(app.multiline.unwrap().timeout, Duration::from_secs(3));
    let mistakes = [
        ("{timeout: 1s}", "`multiline` has one pattern"),
        ("{start: a, continue: b}", "`multiline` has one pattern"),
        ("{start: 'a('}", "`a(` is not a pattern: unclosed group"),
        (r"{start: '(\w{100}){100}'}", "exceeds size limit"),
    ];
    for (multiline, message) in mistakes {
        let problems = told(multiline).unwrap_err().to_string();
        assert!(problems.contains(message), "{multiline}: {problems}");
    }
}

#[test]
fn an_encoding_that_there_is_not_is_a_mistake() {
    let problems = load_text::<AgentConfig>("logs: {app: {files: /a/*.log, encoding: utf-9}}");
    let problems = problems.unwrap_err().to_string();
    assert!(
        problems.contains("`utf-9` is not the name of an encoding"),
        "{problems}"
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let told = load_text::<AgentConfig>(
        r"ship: {to: 127.0.0.1, spool: {size: 1MiB}}
logs:
  app:
    file: /srv/app/*.log
  web:
    files: /srv/{web/*.log
    topic: web/access
    start_at: start
limits: {files_open: 0, line: 4M}
",
    );
    let told = told.unwrap_err().to_string();
    let first_lines: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("config.yaml"))
        .collect();
    let expected = [
        "config.yaml:1:12: `127.0.0.1` is not host:port",
        "config.yaml:1:37: `1MiB` is too small for a spool",
        "config.yaml:3:3: `logs.app.files` is missing",
        "config.yaml:4:5: unknown key `file`",
        "config.yaml:6:12: `/srv/{web/*.log` is not a pattern: unclosed alternate group; missing \
         '}' (maybe escape '{' with '[{]'?)",
        "config.yaml:7:12: topic name \"web/access\" has an illegal character at byte 3; use \
         letters, digits, '.', '_' and '-'",
        "config.yaml:8:15: `start` is not possible here",
        "config.yaml:9:22: no file could be open",
        "config.yaml:9:31: `4M` is not a size",
    ];
    assert_eq!(first_lines, expected, "{told}");
}

#[test]
fn a_file_that_tails_nothing_is_a_mistake() {
    let told = load_text::<AgentConfig>("logs:\n").unwrap_err().to_string();
    assert!(told.contains("no files are tailed"), "{told}");
}

#[test]
fn labels_that_leave_no_room_for_lines_are_a_mistake() {
    let check = |labels: &str, told: &str| {
        let text = format!("logs:\n  app:\n    files: /srv/*.log\n    labels: {{{labels}}}\n");
        let result = load_text::<AgentConfig>(&text).map_err(|problems| problems.to_string());
        match result {
            Ok(_) => assert_eq!(told, ""),
            Err(problems) => assert!(problems.contains(told), "{problems}"),
        }
    };
    let many = |count: usize| {
        let labels: Vec<String> = (0..count).map(|n| format!("l{n}: x")).collect();
        labels.join(", ")
    };
    check(&format!("a: {}", "x".repeat(16 * 1024 - 1)), "");
    check(
        &format!("a: {}", "x".repeat(16 * 1024)),
        "`labels` have 16385 bytes",
    );
    check(&many(100), "");
    check(&many(101), "101 `labels`");
}

#[test]
fn what_is_left_out_is_told_by_name_or_by_path() {
    let text = "logs:\n  app:\n    files: /srv/**/*\n    exclude: ['*.gz', '**/tmp', /srv/a/*]\n";
    let loaded = load_text::<AgentConfig>(text).unwrap();
    let logs = &loaded.config.logs["app"];
    let patterns: Vec<String> = logs.exclude.iter().map(|one| one.pattern.clone()).collect();
    assert_eq!(patterns, ["**/*.gz", "**/tmp", "/srv/a/*"]);
    let patterns = Patterns::new(&["/srv/**/*".to_owned()], &patterns).unwrap();
    for (path, is_meant) in [
        ("/srv/x/y.log", true),
        ("/srv/x/y.log.gz", false),
        ("/srv/y.gz", false),
        ("/srv/tmp", false),
        ("/srv/a/y.log", false),
        ("/srv/b/y.log", true),
    ] {
        assert_eq!(patterns.matches(Path::new(path)), is_meant, "{path}");
    }
}

#[test]
fn a_labels_name_is_one_that_records_can_bear() {
    let told = |labels: &str| {
        let text = format!("logs:\n  app:\n    files: /srv/*.log\n    labels: {{{labels}}}\n");
        let result = load_text::<AgentConfig>(&text);
        result.map_or_else(|problems| problems.to_string(), |_| String::new())
    };
    assert_eq!(told("host.name: a, service.name: b"), "");
    for name in ["''", "a b", "\"a\\n\""] {
        let told = told(&format!("{name}: x"));
        assert!(told.contains("is no name for a label"), "{told}");
    }
    for name in ["log.file.path", "weir.position", "ns"] {
        let told = told(&format!("{name}: x"));
        assert!(told.contains("is the agent's own to set"), "{told}");
    }
}

#[test]
fn each_mistake_about_records_of_several_lines_is_told_once() {
    let told = |multiline: &str| {
        let text = format!("logs: {{app: {{files: /srv/*.log, multiline: {{{multiline}}}}}}}\n");
        let problems = load_text::<AgentConfig>(&text).unwrap_err();
        assert_eq!(problems.list.len(), 1, "{problems}");
        problems.to_string()
    };
    assert!(told("").contains("has one pattern"));
    assert!(told("start: a, continue: b").contains("has one pattern"));
    assert!(told("start: '['").contains("is not a pattern"));
    assert!(told("continue: ''").contains("the pattern is empty"));
    assert!(told("start: a, timeout: 0s").contains("write 100ms or more"));
}
