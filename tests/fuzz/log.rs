//! Log records: lines and JSON that anybody can write.

use model::log::{ATTRIBUTES_MAX, LogRecord};
use weir_tests::fuzz::fuzz;

#[test]
fn a_log_record_is_read_or_refused() {
    let samples = [
        r#"{"a":1}"#,
        r#"{"level":"error","msg":"a \"b\" é","user":{"id":7,"tags":["x",{"y":null}]}}"#,
        r#"{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}}}"#,
        "GET / 200",
    ];
    let samples = samples.map(|text| text.as_bytes().to_vec());
    fuzz("log", &samples, |value| {
        let line = LogRecord::of(value, std::iter::empty());
        let line = line.expect("every line is a record");
        if let Ok(text) = std::str::from_utf8(value) {
            assert_eq!(line.body, text);
        }
        assert!(line.attributes.len() <= ATTRIBUTES_MAX);
        assert!(line.attributes.is_sorted_by(|a, b| a.0 < b.0));
        let header = ("content-type", &b"application/json"[..]);
        match LogRecord::of(value, std::iter::once(header)) {
            Ok(record) => format!("read {}", record.attributes.len().min(9)),
            Err(refusal) => refusal.to_string(),
        }
    });
}
