//! Foreign text on a terminal: nothing in a path, an error or a name may act on it.

use std::fmt::Write;

/// `text` as one line that cannot act on a terminal: control characters, line breaks and what turns the
/// direction of writing are escaped.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        // These two would be escaped for a string literal's sake only.
        if matches!(c, '\'' | '"') {
            line.push(c);
        } else {
            line.extend(c.escape_debug());
        }
    }
    line
}

/// A JSON document with the same meaning in which nothing can act on a terminal.
pub(crate) fn safe_json(document: &str) -> String {
    let mut safe = String::with_capacity(document.len());
    for c in document.chars() {
        // Outside of strings JSON has neither; inside, both stand behind a backslash that stays.
        let is_plain = matches!(c, '\'' | '"' | '\\' | '\n') || c.escape_debug().len() == 1;
        if is_plain {
            safe.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(safe, "\\u{unit:04x}").expect("a string takes everything");
        }
    }
    safe
}
