//! Times as the API writes them: RFC 3339 in UTC, whole seconds.

/// The time `ms` milliseconds after 1970; `None` when no calendar has it.
pub(super) fn rfc3339(ms: i64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(ms).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
