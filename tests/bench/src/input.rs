//! Realistic input: access-log lines of about 200 bytes and JSON lines of about 350.
//!
//! Entropy is what makes log compression cost and ratio real: addresses, paths, agents, sizes,
//! latencies and ids vary as they do on a busy site. Bare zstd level 1 in 1 MiB chunks gives 6.6 and
//! 5.2 on the logs that the peers were measured with; a test keeps this input near both.

use std::fmt::Write as _;

/// Which kind of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// nginx's combined format.
    Access,
    /// An application's structured log.
    Json,
}

/// A source of lines; the seed decides all of them.
pub(crate) struct Lines {
    kind: Kind,
    random: fastrand::Rng,
    /// Event time, in milliseconds since the epoch.
    now_ms: i64,
    text: String,
}

impl Lines {
    pub(crate) fn new(kind: Kind, seed: u64) -> Lines {
        let random = fastrand::Rng::with_seed(seed);
        Lines {
            kind,
            random,
            now_ms: 1_790_000_000_000,
            text: String::new(),
        }
    }

    /// Appends the next line, with its newline.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>) {
        self.now_ms += self.random.i64(0..3);
        self.text.clear();
        let written = match self.kind {
            Kind::Access => self.access(),
            Kind::Json => self.json(),
        };
        written.expect("writing to a string cannot fail");
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'\n');
    }

    /// At least this many bytes of whole lines, and how many lines they are.
    pub(crate) fn bytes(&mut self, bytes: usize) -> (Vec<u8>, u64) {
        let mut out = Vec::with_capacity(bytes + 1024);
        let mut lines = 0;
        while out.len() < bytes {
            self.push(&mut out);
            lines += 1;
        }
        (out, lines)
    }

    fn access(&mut self) -> std::fmt::Result {
        let client = self.client();
        let second = self.now_ms / 1000 % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let method = self.weighted(&["GET", "GET", "GET", "GET", "GET", "GET", "POST", "HEAD"]);
        let section = self.weighted(SECTIONS);
        let item = self.skewed(20_000);
        let query = self.random.u32(..);
        let status = self.weighted(&STATUSES);
        let size = self.random.u32(180..60_000);
        let referrer = self.weighted(REFERRERS);
        let agent = self.weighted(USER_AGENTS);
        write!(
            self.text,
            "{client} - - [22/Nov/2026:{hour:02}:{minute:02}:{second:02} +0000] \"{method} \
             /{section}/{item}"
        )?;
        if !query.is_multiple_of(4) {
            write!(self.text, "?ref={:x}", query >> 8)?;
        }
        write!(self.text, " HTTP/1.1\" {status} {size} \"{referrer}")?;
        if referrer.ends_with('/') {
            let from = self.skewed(20_000);
            write!(self.text, "{section}/{from}")?;
        }
        write!(self.text, "\" \"{agent}\"")
    }

    fn json(&mut self) -> std::fmt::Result {
        let (second, millis) = (self.now_ms / 1000 % 86_400, self.now_ms % 1000);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (level, service) = (self.weighted(LEVELS), self.weighted(SERVICES));
        let host = self.random.u8(1..40);
        let (trace, span) = (self.random.u128(..), self.random.u32(..));
        write!(
            self.text,
            "{{\"ts\":\"2026-11-22T{hour:02}:{minute:02}:{second:02}.{millis:03}Z\",\
             \"level\":\"{level}\",\"service\":\"{service}\",\"region\":\"eu-central-1\",\
             \"host\":\"prod-{host:02}.example.net\",\"trace_id\":\"{trace:032x}\",\
             \"span_id\":\"{span:08x}\""
        )?;
        let (client, user) = (self.client(), self.skewed(100_000));
        let (section, item) = (self.weighted(SECTIONS), self.skewed(20_000));
        let (status, duration) = (self.weighted(&STATUSES), self.skewed(4_000_000));
        let (size, attempt) = (self.random.u32(100..90_000), self.random.u8(1..4));
        let message = self.weighted(MESSAGES);
        write!(
            self.text,
            ",\"user_id\":{user},\"client\":\"{client}\",\"path\":\"/{section}/{item}\",\
             \"status\":{status},\"duration_us\":{duration},\"bytes\":{size},\
             \"msg\":\"{message} for item {item}, attempt {attempt}\"}}"
        )
    }

    /// A few thousand clients, some of which come often.
    fn client(&mut self) -> String {
        let number = self.skewed(400_000).wrapping_mul(2_654_435_761);
        let [a, b, c, d] = number.to_le_bytes();
        format!("{}.{b}.{c}.{d}", a % 223 + 1)
    }

    /// A number below `end`; small ones come much more often than large ones.
    fn skewed(&mut self, end: u32) -> u32 {
        let share = self.random.f64();
        let scaled = share * share * share * f64::from(end);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below `end`"
        )]
        let number = scaled as u32;
        number
    }

    /// One of the words; those in front come more often.
    fn weighted<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let count = u32::try_from(words.len()).expect("a short list");
        let at = self.skewed(count) as usize;
        words[at.min(words.len() - 1)]
    }
}

const STATUSES: [&str; 8] = ["200", "200", "200", "304", "404", "301", "500", "503"];

const LEVELS: &[&str] = &[
    "info", "info", "info", "info", "info", "debug", "warn", "error",
];

const SECTIONS: &[&str] = &[
    "api/v1/orders",
    "static/img",
    "product",
    "search",
    "api/v1/cart",
    "user/profile",
    "static/js",
    "checkout",
    "api/v2/recommendations",
    "blog",
    "category/shoes",
    "category/garden",
    "login",
    "api/v1/inventory",
    "static/css",
    "help/article",
    "api/v1/payments",
    "metrics/collect",
];

const REFERRERS: &[&str] = &[
    "https://www.example.com/",
    "-",
    "https://shop.example.com/",
    "https://www.google.com/search",
    "https://shop.example.com/category/shoes?page=2",
    "https://news.example.org/2026/11/a-long-headline-about-something",
    "https://t.co/9aKcPz31Xb",
];

const USER_AGENTS: &[&str] = &[
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "python-requests/2.33.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.1 Mobile/15E148 Safari/604.1",
    "curl/8.14.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 15_1) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Safari/605.1.15",
    "Go-http-client/2.0",
];

const SERVICES: &[&str] = &[
    "checkout",
    "catalogue",
    "gateway",
    "payments",
    "search",
    "sessions",
    "mailer",
    "stock",
];

const MESSAGES: &[&str] = &[
    "request handled",
    "cache miss, fetched from origin",
    "price recalculated",
    "stock reserved",
    "upstream answered slowly",
    "session refreshed",
    "payment authorised",
    "retrying after timeout",
    "validation failed: quantity out of range",
    "connection reset by peer",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline;
    use crate::report::float;

    /// Mean line length and zstd-1 ratio must stay within a tenth of the peers' input.
    fn check(kind: Kind, length: f64, ratio: f64) {
        let (bytes, lines) = Lines::new(kind, 1).bytes(16 << 20);
        let mean = float(bytes.len() as u64) / float(lines);
        let measured = baseline::measure(&bytes).expect("zstd compresses").ratio;
        assert!(
            (mean / length - 1.0).abs() < 0.1,
            "{kind:?}: {mean:.0} bytes a line"
        );
        assert!(
            (measured / ratio - 1.0).abs() < 0.1,
            "{kind:?}: ratio {measured:.2}"
        );
    }

    #[test]
    fn lines_are_as_long_and_as_compressible_as_real_ones() {
        check(Kind::Access, 200.0, 6.6);
        check(Kind::Json, 350.0, 5.2);
    }

    #[test]
    fn a_seed_decides_every_line() {
        let bytes = |seed| Lines::new(Kind::Json, seed).bytes(10_000).0;
        assert_eq!(bytes(5), bytes(5));
        assert_ne!(bytes(5), bytes(6));
    }
}
