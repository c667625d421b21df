//! How the agent's events are written: one line each, whatever their fields hold.
//!
//! Paths and answers of others come into events as they are. Anybody who can make a file in a followed
//! directory chooses its name: it must not end a line, begin another, or act on a terminal.

use std::fmt::{self, Debug};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Writes fields as `name=value`, and the message without a name.
pub fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    debug_fn(write_field).delimited(" ")
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    for char in format!("{value:?}").chars() {
        if is_harmless(char) {
            writer.write_char(char)?;
        } else {
            write!(writer, "{}", char.escape_default())?;
        }
    }
    Ok(())
}

/// Whether a terminal shows a character and does nothing else for it.
fn is_harmless(char: char) -> bool {
    let turns_text =
        matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_line = matches!(char, '\u{2028}' | '\u{2029}');
    !char.is_control() && !turns_text && !ends_line
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What an event comes to.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_in_an_event_ends_its_line_or_acts_on_a_terminal() {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer({
                let written = written.clone();
                move || written.clone()
            })
            .fmt_fields(fields())
            .with_target(false)
            .without_time()
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let path = std::path::Path::new("/log/a\n\x1b[2J\u{9b}é\u{202e}.log");
            tracing::warn!(path = %path.display(), bytes = 7, "file is\rodd");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let expected =
            " WARN file is\\rodd path=/log/a\\n\\u{1b}[2J\\u{9b}é\\u{202e}.log bytes=7\n";
        assert_eq!(text, expected);
    }
}
