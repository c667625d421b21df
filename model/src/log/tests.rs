use proptest::prelude::*;

use super::*;

fn decoded<'a>(value: &'a str, headers: &[(&'a str, &'a str)]) -> LogRecord<'a> {
    read(value, headers).unwrap()
}

fn read<'a>(value: &'a str, headers: &[(&'a str, &'a str)]) -> Result<LogRecord<'a>, Undecodable> {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()));
    LogRecord::of(value.as_bytes(), headers)
}

fn attributes(record: &LogRecord<'_>) -> Vec<String> {
    let attributes = record.attributes.iter();
    attributes
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

const STRUCTURED: (&str, &str) = ("content-type", "application/json; charset=utf-8");

#[test]
fn a_raw_line_is_the_body() {
    let line = "GET / 200\r";
    let record = decoded(line, &[("severity", "Warning"), ("ns", "123456")]);
    assert_eq!(record.body, line);
    assert_eq!(record.nanoseconds, 123_456);
    assert_eq!(record.severity_number, 13);
    assert_eq!(record.severity_text.as_deref(), Some("Warning"));
    assert_eq!(record.attributes, []);
}

#[test]
fn a_line_that_is_not_text_is_shown_as_far_as_it_is() {
    let none = std::iter::empty();
    let record = LogRecord::of(b"a\xffb{", none).unwrap();
    assert_eq!(record.body, "a\u{fffd}b{");
}

#[test]
fn fields_of_a_line_that_is_json_can_be_asked_for_and_the_line_stays() {
    let line = r#" {"level":"error","n":1.50,"ok":true,"none":null,"user":{"id":7,"tags":["a"]}} "#;
    let record = decoded(line, &[]);
    assert_eq!(record.body, line);
    assert_eq!(record.severity_number, 17);
    assert_eq!(
        attributes(&record),
        [
            "level=error",
            "n=1.50",
            "ok=true",
            "user.id=7",
            r#"user.tags=["a"]"#
        ]
    );
}

#[test]
fn the_message_of_a_structured_record_is_its_body() {
    let value = r#"{"b":"1","msg":"a \"b\" \u00e9","trace_id":"0AF7651916CD43DD8448EB211C80319C"}"#;
    let record = decoded(value, &[STRUCTURED]);
    assert_eq!(record.body, "a \"b\" é");
    let id = "0af7651916cd43dd8448eb211c80319c";
    assert_eq!(record.trace_id.as_deref(), Some(id));
    assert_eq!(record.attributes.len(), 2);
    let without = r#"{"b":"1"}"#;
    assert_eq!(decoded(without, &[STRUCTURED]).body, without);
}

#[test]
fn of_two_fields_with_one_name_the_last_is_meant() {
    let record = decoded(
        r#"{"a":1,"b":2,"a":3,"b":{},"level":"info","level":"error"}"#,
        &[],
    );
    assert_eq!(attributes(&record), ["a=3", "b=2", "level=error"]);
    assert_eq!(record.severity_number, 17);
}

#[test]
fn what_is_too_deep_is_text_and_what_is_too_much_is_counted() {
    let deep = r#"{"a":"#.repeat(10) + "1" + &"}".repeat(10);
    let record = decoded(&deep, &[]);
    assert_eq!(attributes(&record), [r#"a.a.a.a.a.a.a.a={"a":{"a":1}}"#]);

    let fields: Vec<String> = (0..600).map(|n| format!(r#""f{n}":{n}"#)).collect();
    let many = format!(r#"{{"msg":"x",{}}}"#, fields.join(","));
    let record = decoded(&many, &[STRUCTURED]);
    assert_eq!(record.attributes.len(), ATTRIBUTES_MAX);
    assert_eq!(record.attributes_dropped, 601 - 512);
    assert_eq!(record.body, many);
}

#[test]
fn what_is_no_log_record_is_told() {
    let told = |value, kind| {
        let refused = read(value, &[("content-type", kind)]).unwrap_err();
        refused.to_string()
    };
    assert!(told("x", "image/png").starts_with("content-type \"image/png\" is not known"));
    assert!(told("[1]", "application/json").starts_with("its value is no JSON object: "));
    assert!(told(r#"{"a":1} x"#, "application/json").contains("trailing"));
}

#[test]
fn a_stream_is_what_all_records_of_a_file_have_in_common() {
    let headers = [
        ("zone", "b"),
        ("host.name", "web-1"),
        ("log.file.path", "/srv/a.log"),
        ("severity", "info"),
        ("ns", "1"),
        ("weir.position", "\u{1}"),
        ("content-type", "application/json"),
        ("zone", "a"),
    ];
    let headers = headers.map(|(name, value)| (name, value.as_bytes()));
    let stream = Stream::of(headers.into_iter());
    assert_eq!(stream.host_name.as_deref(), Some("web-1"));
    assert_eq!(stream.file_path.as_deref(), Some("/srv/a.log"));
    assert_eq!(stream.service_name, None);
    let names: Vec<&str> = stream.attributes.iter().map(|it| &*it.0).collect();
    assert_eq!(names, ["host.name", "log.file.path", "zone"]);
    assert_eq!(stream.attributes[2].1, "a");
}

proptest! {
    #[test]
    fn every_field_that_was_written_is_read(
        fields in prop::collection::btree_map("[a-z]{1,8}", "\\PC*", 0..20),
    ) {
        let text = serde_json::to_string(&fields).unwrap();
        let record = decoded(&text, &[]);
        let read: Vec<(&str, &str)> = record.attributes.iter().map(|it| (&*it.0, &*it.1)).collect();
        let written: Vec<(&str, &str)> = fields.iter().map(|it| (&**it.0, &**it.1)).collect();
        prop_assert_eq!(read, written);
    }
}
