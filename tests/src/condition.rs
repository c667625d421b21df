//! Waiting for another process: a condition, a deadline, and the last reason why it did not hold.
//!
//! Nothing in the tests sleeps for a guessed time; what a test waits for has a name, and when the
//! deadline passes the error says what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::limits::POLL;

/// What one look at the condition found.
pub enum Seen<T> {
    /// It holds; the wait ends with this.
    Yes(T),
    /// Not yet, and why.
    No(String),
    /// It will not any more, and why; the wait ends at once.
    Never(String),
}

impl<T> Seen<T> {
    /// `No` with the text of `why`.
    pub fn no(why: impl Display) -> Self {
        Seen::No(why.to_string())
    }
}

/// `Yes(())` when `holds`, otherwise `No` with what `why` says.
pub fn when(holds: bool, why: impl FnOnce() -> String) -> Result<Seen<()>> {
    Ok(if holds {
        Seen::Yes(())
    } else {
        Seen::No(why())
    })
}

/// Looks until the condition holds. An error of a look counts as "not yet": the other side may be
/// down on purpose.
pub fn wait<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let why = match look() {
            Ok(Seen::Yes(value)) => return Ok(value),
            Ok(Seen::No(why)) => why,
            Ok(Seen::Never(why)) => bail!("waited for {what}: {why}"),
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() >= within {
            bail!("waited {within:?} for {what}; last seen: {why}");
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_deadline_names_what_was_waited_for_and_what_was_seen() {
        let error = wait("the moon", Duration::ZERO, || Ok(Seen::<()>::no("clouds")));
        let text = error.expect_err("never holds").to_string();
        assert!(
            text.contains("the moon") && text.contains("clouds"),
            "{text}"
        );
    }

    #[test]
    fn an_error_is_not_yet() {
        let mut looks = 0;
        let value = wait("third look", Duration::from_secs(5), || {
            looks += 1;
            if looks < 3 {
                bail!("down");
            }
            Ok(Seen::Yes(looks))
        });
        assert_eq!(value.expect("holds at the third look"), 3);
    }
}
