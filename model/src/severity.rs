//! How bad it is: OpenTelemetry's severity numbers, and the words and numbers that programs write.
//!
//! Source: OpenTelemetry, Logs Data Model, "Field: `SeverityNumber`" and its appendix B.

/// A severity number, 1 (TRACE) to 24 (FATAL4); 0 where it is not known.
pub type SeverityNumber = u8;

/// The number that a word or a number stands for; 0 for what is neither.
///
/// Words are known in any case and with what programs put around them (`[warn]`, `INFO:`). Of numbers
/// there are those of bunyan and pino, 10 (trace) to 60 (fatal).
pub fn number_of(text: &str) -> SeverityNumber {
    let word = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let known = |(name, _): &&(&str, u8)| word.eq_ignore_ascii_case(name);
    WORDS.iter().find(known).map_or(0, |(_, number)| *number)
}

/// The short name of a number: `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `FATAL`; empty for 0 and for
/// what is none.
pub fn name_of(number: SeverityNumber) -> &'static str {
    match number {
        1..=4 => "TRACE",
        5..=8 => "DEBUG",
        9..=12 => "INFO",
        13..=16 => "WARN",
        17..=20 => "ERROR",
        21..=24 => "FATAL",
        _ => "",
    }
}

const WORDS: &[(&str, SeverityNumber)] = &[
    ("info", 9),
    ("error", 17),
    ("warn", 13),
    ("warning", 13),
    ("debug", 5),
    ("trace", 1),
    ("fatal", 21),
    // glog, klog
    ("i", 9),
    ("w", 13),
    ("e", 17),
    ("f", 21),
    ("d", 5),
    ("t", 1),
    ("err", 17),
    ("dbg", 5),
    ("inf", 9),
    ("wrn", 13),
    ("information", 9),
    ("informational", 9),
    // syslog, RFC 5424, section 6.2.1
    ("notice", 10),
    ("critical", 18),
    ("crit", 18),
    ("alert", 19),
    ("emergency", 21),
    ("emerg", 21),
    ("panic", 21),
    // java.util.logging
    ("severe", 17),
    ("config", 5),
    ("fine", 5),
    ("finer", 3),
    ("finest", 1),
    ("verbose", 1),
    // bunyan, pino
    ("10", 1),
    ("20", 5),
    ("30", 9),
    ("40", 13),
    ("50", 17),
    ("60", 21),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_programs_are_known() {
        for (text, number) in [
            ("INFO", 9),
            ("[warn]", 13),
            (" Error: ", 17),
            ("E", 17),
            ("30", 9),
            ("notice", 10),
            ("EMERG", 21),
            ("", 0),
            ("information please", 0),
            ("7", 0),
        ] {
            assert_eq!(number_of(text), number, "{text:?}");
        }
    }

    #[test]
    fn each_number_has_a_name_that_stands_for_its_range() {
        for number in 1..=24 {
            let first = number_of(name_of(number));
            assert!((first..first + 4).contains(&number), "{number}");
        }
        assert_eq!(name_of(0), "");
        assert_eq!(name_of(25), "");
    }
}
