//! Which topics an agent may write.

use std::fmt;
use std::str::FromStr;

use commitlog::id::TopicName;

use crate::limits::TOPIC_PATTERNS_MAX;

/// Patterns of topic names in which `*` stands for any characters. Nothing matches no pattern: an
/// empty list allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicAcl {
    patterns: Vec<String>,
}

/// Texts are not topic patterns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotPatterns(String);

impl TopicAcl {
    /// Every topic.
    pub fn all() -> TopicAcl {
        TopicAcl {
            patterns: vec!["*".to_owned()],
        }
    }

    /// Checks the patterns: each is a topic name in which `*` may stand.
    pub fn new(patterns: Vec<String>) -> Result<TopicAcl, NotPatterns> {
        if patterns.is_empty() || patterns.len() > TOPIC_PATTERNS_MAX {
            return Err(NotPatterns(format!(
                "give 1 to {TOPIC_PATTERNS_MAX} topic patterns"
            )));
        }
        for pattern in &patterns {
            // With each `*` as a letter a pattern is a topic name.
            if TopicName::from_str(&pattern.replace('*', "x")).is_err() {
                return Err(NotPatterns(format!(
                    "{pattern:?} is not a topic pattern; write a topic's name, with `*` for any \
                     characters, such as web-*"
                )));
            }
        }
        Ok(TopicAcl { patterns })
    }

    /// The patterns.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether this topic may be written.
    pub fn allows(&self, topic: &TopicName) -> bool {
        self.patterns
            .iter()
            .any(|pattern| matches(pattern, topic.as_str()))
    }
}

impl fmt::Display for TopicAcl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.patterns.join(", "))
    }
}

/// `*` takes as little as it can, and one character more each time the rest does not fit: linear in
/// practice, quadratic at worst over names of 200 bytes.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while let Some(&byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&wanted) if wanted == byte => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((star_p, star_n)) => {
                    star = Some((star_p, star_n + 1));
                    p = star_p + 1;
                    n = star_n + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, fits) in [
            ("*", "logs", true),
            ("logs", "logs", true),
            ("logs", "logs2", false),
            ("web-*", "web-access", true),
            ("web-*", "web-", true),
            ("web-*", "webaccess", false),
            ("*.access", "web.access", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("a*ab", "aab", true),
            ("*a", "aaab", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_is_never_a_path() {
        for pattern in ["", "../x", "a/b", "a b", "..", "weir://x"] {
            assert!(
                TopicAcl::new(vec![pattern.to_owned()]).is_err(),
                "{pattern}"
            );
        }
        assert!(TopicAcl::new(vec![]).is_err());
        assert!(TopicAcl::new(vec!["*".to_owned(); 17]).is_err());
    }
}
