//! Broken input for a decoder, ten seconds long: it may refuse, never panic, hang or ask for much
//! memory.
//!
//! Random bytes never get past a checksum, so true samples are broken instead, and an outcome that was
//! not seen before (the decoder's words, numbers apart) keeps its input as one more sample. That is
//! what coverage does for a fuzzer on nightly, coarser, on stable.
//!
//! A target is a file in `tests/fuzz/`, a `mod` line in its `main.rs`, and a test:
//!
//! ```no_run
//! # fn samples() -> Vec<Vec<u8>> { vec![] }
//! # struct Frame { kind: u8 }
//! # impl Frame { fn decode(_: &[u8]) -> Result<Frame, String> { Err(String::new()) } }
//! # fn assert_it_encodes_to_the_same(_: &Frame, _: &[u8]) {}
//! weir_tests::fuzz::fuzz("frame", &samples(), |bytes| match Frame::decode(bytes) {
//!     Err(refusal) => refusal.to_string(),
//!     Ok(frame) => {
//!         assert_it_encodes_to_the_same(&frame, bytes);
//!         format!("read a {}", frame.kind)
//!     }
//! });
//! ```
//!
//! - Samples are true inputs, small ones first of all, one of each shape.
//! - What has a checksum is decoded twice in the closure: as it came, and with the checksum made true,
//!   so that what lies behind it is reached.
//! - The closure asserts what holds of everything that was accepted.
//!
//! `WEIR_FUZZ_SECONDS=3600 cargo test -p weir-tests --test fuzz frame` runs longer. A failure names its
//! seed, for `WEIR_FUZZ_SEED`, and the file that holds the input, for `WEIR_FUZZ_INPUT`.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{FUZZ_DECODE_MAX, FUZZ_INPUT_BYTES_MAX, FUZZ_MEMORY_MAX, FUZZ_SAMPLES_MAX};

#[expect(clippy::print_stdout, reason = "says how to replay the run")]
/// Feeds `decode` broken `samples` for ten seconds. It answers with words for what came of it.
pub fn fuzz(target: &str, samples: &[Vec<u8>], decode: impl FnMut(&[u8]) -> String) {
    bound_memory();
    let seed = number_of("WEIR_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    // Said first: a decoder that asks for too much memory ends the process.
    println!("fuzz {target}: WEIR_FUZZ_SEED={seed}");
    let mut run = Run {
        target,
        seed,
        decode,
        outcomes: BTreeSet::new(),
    };
    if let Some(path) = std::env::var_os("WEIR_FUZZ_INPUT") {
        run.look_at(&std::fs::read(path).expect("WEIR_FUZZ_INPUT names a file"));
        return;
    }

    for sample in samples {
        run.look_at(sample);
    }
    let mut rng = Rng::with_seed(seed);
    let mut kept = samples.to_vec();
    let seconds = Duration::from_secs(number_of("WEIR_FUZZ_SECONDS").unwrap_or(10));
    let start = Instant::now();
    let mut inputs = 0u64;
    while start.elapsed() < seconds {
        let input = broken(&mut rng, &kept);
        inputs += 1;
        if !run.look_at(&input) {
            continue;
        }
        if kept.len() < FUZZ_SAMPLES_MAX {
            kept.push(input);
        } else if let Some(place) = rng.choice(&mut kept[samples.len()..]) {
            *place = input;
        }
    }
    let outcomes = run.outcomes.len();
    println!("fuzz {target}: {inputs} inputs, {outcomes} outcomes");
}

struct Run<'a, D> {
    target: &'a str,
    seed: u64,
    decode: D,
    outcomes: BTreeSet<String>,
}

impl<D: FnMut(&[u8]) -> String> Run<'_, D> {
    /// Decodes one input, and tells whether its outcome is a new one.
    fn look_at(&mut self, input: &[u8]) -> bool {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.decode)(input)));
        let outcome = outcome.unwrap_or_else(|panic| {
            self.report(input, "panics");
            resume_unwind(panic)
        });
        if start.elapsed() > FUZZ_DECODE_MAX {
            self.report(input, "hangs");
            panic!("decoding took {:?}", start.elapsed());
        }
        let words = outcome.split(|letter: char| !letter.is_alphanumeric());
        let is_a_number = |word: &str| word.contains(|letter: char| letter.is_ascii_digit());
        let shape = words.filter(|word| !is_a_number(word)).collect();
        self.outcomes.insert(shape)
    }

    #[expect(clippy::print_stderr, reason = "a failing test says how to replay it")]
    fn report(&self, input: &[u8], what: &str) {
        let Run { target, seed, .. } = self;
        let path: PathBuf = std::env::temp_dir().join(format!("weir-fuzz-{target}-{seed}"));
        match std::fs::write(&path, input) {
            Ok(()) => eprintln!(
                "fuzz {target}: seed {seed} {what}; replay with WEIR_FUZZ_INPUT={}",
                path.display()
            ),
            Err(error) => eprintln!("fuzz {target}: seed {seed} {what}; not kept: {error}"),
        }
    }
}

/// One of the samples with one to eight edits.
fn broken(rng: &mut Rng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut input = rng.choice(samples).cloned().unwrap_or_default();
    for _ in 0..1 << rng.u32(0..4) {
        edit(rng, &mut input, samples);
        input.truncate(FUZZ_INPUT_BYTES_MAX);
    }
    input
}

fn edit(rng: &mut Rng, input: &mut Vec<u8>, samples: &[Vec<u8>]) {
    if input.is_empty() {
        input.push(rng.u8(..));
    }
    let at = rng.usize(..input.len());
    match rng.u8(0..10) {
        0..3 => input[at] ^= 1 << rng.u32(0..8),
        3 => input[at] = rng.u8(..),
        4 | 5 => overwrite(&mut input[at..], &edge_number(rng)),
        6 => drop(input.drain(at..at + rng.usize(1..=(input.len() - at).min(32)))),
        7 => {
            let piece = input[at..at + rng.usize(1..=(input.len() - at).min(32))].to_vec();
            let to = rng.usize(..=input.len());
            input.splice(to..to, piece);
        }
        8 => {
            let other = rng.choice(samples).map_or(&[][..], Vec::as_slice);
            let from = rng.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => input.truncate(at),
    }
}

/// A number at which code goes wrong, as bytes of some width and order.
fn edge_number(rng: &mut Rng) -> Vec<u8> {
    let power = 1u64 << rng.u32(0..64);
    let number = [power, power - 1, power + 1, power.wrapping_neg()][rng.usize(0..4)];
    let width = 1 << rng.u32(0..4);
    if rng.bool() {
        number.to_be_bytes()[8 - width..].to_vec()
    } else {
        number.to_le_bytes()[..width].to_vec()
    }
}

fn overwrite(bytes: &mut [u8], with: &[u8]) {
    let length = bytes.len().min(with.len());
    bytes[..length].copy_from_slice(&with[..length]);
}

/// The process gets no more address space than this, so that asking for a length that the input states
/// ends it.
fn bound_memory() {
    let limit = Rlimit {
        current: Some(FUZZ_MEMORY_MAX),
        ..getrlimit(Resource::As)
    };
    setrlimit(Resource::As, limit).expect("a process may bound itself");
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("the variable holds a number"))
}
