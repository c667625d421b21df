//! What a line costs between the reader and the spool, and at the broker's door: ns of CPU a line, and
//! as a ratio to bare zstd-1 of the same lines, measured in turns in the same run.
//!
//! `cargo run --release -p commitlog --example batch_cost`
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that prints figures"
)]

use std::fmt::Write as _;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::{Producer, verify};
use commitlog::batch::records::Decompressor;
use commitlog::id::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use zstd::bulk::Compressor;

const ROUNDS: usize = 40;
const RAW_BYTES: usize = 1 << 20;

fn main() {
    let raw = access_log_lines(RAW_BYTES);
    let lines: Vec<&[u8]> = raw.trim_ascii_end().split(|&byte| byte == b'\n').collect();
    let mut bench = Bench::new();
    let mut best = [f64::MAX; 5];
    for _ in 0..ROUNDS {
        let round = [
            bench.bare_zstd(&raw),
            bench.push(&lines),
            bench.finish(),
            bench.verify(),
            bench.read(),
        ];
        for (best, ns) in best.iter_mut().zip(round) {
            *best = best.min(ns);
        }
    }

    let batch_bytes: usize = bench.batches.iter().map(Vec::len).sum();
    println!(
        "{} lines of {} bytes, {} as records; bare zstd-1 {}, as a batch {batch_bytes}",
        lines.len(),
        raw.len(),
        bench.record_bytes,
        bench.bare_out.len(),
    );
    let [bare, push, finish, verify, read] = best;
    for (what, ns) in [
        ("bare zstd-1", bare),
        ("push", push),
        ("finish: zstd-1, crc, seal", finish),
        ("push and finish", push + finish),
        ("verify", verify),
        ("verify and read", read),
    ] {
        let line = ns / lines.len() as f64;
        println!(
            "{what:28}{line:8.1} ns/line {:6.3} x bare zstd-1",
            ns / bare
        );
    }
}

/// The parts, each reused from round to round as its user would.
struct Bench {
    headers: HeaderBlock,
    bare: Compressor<'static>,
    bare_out: Vec<u8>,
    builder: BatchBuilder,
    record_bytes: usize,
    batches: Vec<Vec<u8>>,
    decompressor: Decompressor,
}

impl Bench {
    fn new() -> Bench {
        let headers = [
            ("host.name", &b"web-17.example.org"[..]),
            ("service.name", b"storefront"),
            ("log.file.path", b"/var/log/nginx/access.log"),
        ];
        Bench {
            headers: HeaderBlock::new(&headers).unwrap(),
            bare: Compressor::new(1).unwrap(),
            bare_out: Vec::with_capacity(2 * RAW_BYTES),
            builder: BatchBuilder::new(),
            record_bytes: 0,
            batches: Vec::new(),
            decompressor: Decompressor::new(),
        }
    }

    fn bare_zstd(&mut self, raw: &[u8]) -> f64 {
        self.bare_out.clear();
        cpu_ns(|| {
            self.bare
                .compress_to_buffer(raw, &mut self.bare_out)
                .unwrap();
        })
    }

    fn push(&mut self, lines: &[&[u8]]) -> f64 {
        let ns = cpu_ns(|| {
            for (index, value) in (0..).zip(lines) {
                self.builder.push(&NewRecord {
                    timestamp: Timestamp(1_795_000_000_000 + index / 7),
                    key: None,
                    value,
                    headers: &self.headers,
                    extra: None,
                });
            }
        });
        self.record_bytes = self.builder.raw_bytes();
        ns
    }

    fn finish(&mut self) -> f64 {
        self.batches.clear();
        cpu_ns(|| self.builder.finish(producer(), &mut self.batches).unwrap())
    }

    fn verify(&mut self) -> f64 {
        cpu_ns(|| {
            for batch in &self.batches {
                verify(batch).unwrap();
            }
        })
    }

    fn read(&mut self) -> f64 {
        cpu_ns(|| {
            for batch in &self.batches {
                for record in self.decompressor.records(batch).unwrap() {
                    assert!(record.unwrap().value.is_some());
                }
            }
        })
    }
}

fn producer() -> Producer {
    Producer {
        id: ProducerId::new(0x0123_4567_89ab_cdef).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::ZERO,
    }
}

/// CPU time of this thread, so that neighbours on the machine count little.
fn cpu_ns(work: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let start = now();
    work();
    now() - start
}

/// Lines of about 200 bytes in the combined log format, with the entropy of a busy site: addresses,
/// ids, sizes, times and a handful of browsers.
fn access_log_lines(bytes: usize) -> Vec<u8> {
    const AGENTS: [&str; 6] = [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_6) AppleWebKit/605.1.15 (KHTML) Version/17.6 Safari/605",
        "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "okhttp/4.12.0",
    ];
    const PATHS: [&str; 8] = [
        "/",
        "/api/v1/items/",
        "/api/v1/cart/",
        "/static/js/app.",
        "/search?q=",
        "/product/",
        "/images/thumb/",
        "/account/orders/",
    ];
    const STATUS: [&str; 8] = ["200", "200", "200", "200", "304", "302", "404", "500"];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = move |below: u64| {
        // xorshift64*: enough for text.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    };
    let mut lines = String::new();
    let mut second = 0;
    while lines.len() < bytes {
        second += u64::from(draw(7) == 0);
        let visitor = draw(5000) * draw(1000) / 1000;
        let (a, b) = (
            (visitor * 2_654_435_761) >> 8 & 255,
            (visitor * 40_503) & 255,
        );
        let path = PATHS[usize::try_from(draw(8)).unwrap()];
        let agent = AGENTS[usize::try_from(visitor % 6).unwrap()];
        let status = STATUS[usize::try_from(draw(8)).unwrap()];
        writeln!(
            lines,
            "{}.{}.{a}.{b} - - [22/Nov/2026:12:{:02}:{:02} +0000] \"GET {path}{:x} HTTP/1.1\" {status} {} \
             \"https://shop.example.org{}\" \"{agent}\" 0.{:03}",
            80 + visitor % 100,
            visitor % 251,
            second / 60 % 60,
            second % 60,
            draw(1 << 24),
            draw(60_000),
            PATHS[usize::try_from(draw(8)).unwrap()],
            draw(900),
        )
        .unwrap();
    }
    lines.into_bytes()
}
