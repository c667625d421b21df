//! Whatever a compressed file holds, reading it by offset gives what decompressing it whole gives.

use std::fs::File;
use std::io::{self, Read, Write};

use model::position::Codec;
use proptest::prelude::*;

use super::super::compressed::{Compressed, End, codec_of};
use crate::limits::{DECOMPRESS_STEP_BYTES, DECOMPRESSED_KEPT_BYTES};

pub(super) const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Zstd, Codec::Bzip2, Codec::Xz];

/// `content`, compressed as the usual programs do.
pub(super) fn compress(codec: Codec, content: &[u8]) -> Vec<u8> {
    let out = Vec::new();
    match codec {
        Codec::None => content.to_vec(),
        Codec::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
            writer.write_all(content).unwrap();
            writer.finish().unwrap()
        }
        Codec::Zstd => {
            let mut writer = zstd::stream::write::Encoder::new(out, 1).unwrap();
            writer.write_all(content).unwrap();
            writer.finish().unwrap()
        }
        Codec::Bzip2 => {
            let mut writer = bzip2::write::BzEncoder::new(out, bzip2::Compression::fast());
            writer.write_all(content).unwrap();
            writer.finish().unwrap()
        }
        Codec::Xz => {
            let mut writer = liblzma::write::XzEncoder::new(out, 0);
            writer.write_all(content).unwrap();
            writer.finish().unwrap()
        }
    }
}

fn on_disk(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Everything that the bytes decompress to, by the library's own reader, and how that ended.
fn whole(codec: Codec, bytes: &[u8]) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut reader: Box<dyn Read> = match codec {
        Codec::None => Box::new(bytes),
        Codec::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(bytes)),
        Codec::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(bytes).unwrap()),
        Codec::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(bytes)),
        Codec::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(bytes)),
    };
    let mut content = Vec::new();
    let mut part = [0; 1000];
    loop {
        match reader.read(&mut part) {
            Ok(0) => return (content, Ok(())),
            Ok(read) => content.extend(&part[..read]),
            Err(error) => return (content, Err(error.kind())),
        }
    }
}

/// Text that compresses, with numbers that differ.
pub(super) fn text(length: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for number in (0u32..).take_while(|number| (*number as usize) < length) {
        if text.len() >= length {
            break;
        }
        let noise = number.wrapping_mul(0x9e37_79b9);
        writeln!(text, "line {number} of a log, {noise:x}").unwrap();
    }
    text.truncate(length);
    text
}

#[test]
fn every_codec_is_told_by_its_first_bytes_and_text_by_none() {
    for codec in CODECS {
        for content in [&b""[..], b"x", &text(100_000)] {
            assert_eq!(codec_of(&compress(codec, content)), codec);
        }
    }
    let others: [&[u8]; 6] = [
        b"",
        b"BZh9",
        b"BZh9 is how bzip2 begins",
        b"\x1f\x8b",
        b"\xfd7zXZ",
        b"line",
    ];
    for other in others {
        assert_eq!(codec_of(other), Codec::None, "{other:?}");
    }
}

#[test]
fn going_back_further_than_what_is_kept_begins_anew() {
    let content = text(DECOMPRESSED_KEPT_BYTES + 1_000_000);
    for codec in CODECS {
        let mut compressed = Compressed::new(on_disk(&compress(codec, &content)), codec);
        let mut last = [0; 100];
        let from = content.len() - 50;
        assert_eq!(compressed.read_at(&mut last, from as u64).unwrap(), 50);
        assert_eq!(last[..50], content[from..]);
        assert_eq!(compressed.end(), Some(&End::Whole));
        let mut first = [0; 100];
        assert_eq!(compressed.read_at(&mut first, 3).unwrap(), 100);
        assert_eq!(first, content[3..103]);
    }
}

#[test]
fn one_step_takes_and_gives_a_bounded_number_of_bytes() {
    // Zeros compress to nothing, empty members to no bytes at all: neither may take a whole turn.
    let zeros = vec![0; 8 * 1024 * 1024];
    for codec in CODECS {
        let mut compressed = Compressed::new(on_disk(&compress(codec, &zeros)), codec);
        let mut steps = 0u64;
        while !compressed.advance().unwrap() {
            steps += 1;
            assert!(compressed.decoded() <= (steps + 1) * DECOMPRESS_STEP_BYTES as u64 * 2);
        }
        assert_eq!(compressed.decoded(), zeros.len() as u64);
        assert!(steps >= 15, "{codec:?}: {steps} steps");
        let nothing = compress(codec, b"").repeat(20_000);
        let mut compressed = Compressed::new(on_disk(&nothing), codec);
        let mut steps = 0;
        while !compressed.advance().unwrap() {
            steps += 1;
        }
        assert_eq!(compressed.end(), Some(&End::Whole));
        assert!(
            steps + 1 >= nothing.len() / DECOMPRESS_STEP_BYTES,
            "{codec:?}: {steps} steps"
        );
    }
}

#[test]
fn what_needs_more_memory_than_is_allowed_is_refused_with_words() {
    let mut writer = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    writer.window_log(27).unwrap();
    writer.write_all(&text(1000)).unwrap();
    writer.flush().unwrap();
    let zstd = writer.finish().unwrap();
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(256 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc64);
    let mut writer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap());
    writer.write_all(&text(1000)).unwrap();
    let xz = writer.finish().unwrap();
    for (codec, bytes) in [(Codec::Zstd, zstd), (Codec::Xz, xz)] {
        let mut compressed = Compressed::new(on_disk(&bytes), codec);
        while !compressed.advance().unwrap() {}
        assert!(
            matches!(compressed.end(), Some(End::Damaged(_))),
            "{codec:?}"
        );
        assert!(compressed.read_at(&mut [0; 10], 0).is_err());
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_ends_early() {
    let content = text(1000);
    for codec in CODECS {
        let bytes = compress(codec, &content);
        for cut in 1..bytes.len() {
            let mut compressed = Compressed::new(on_disk(&bytes[..cut]), codec);
            while !compressed.advance().unwrap() {}
            assert_eq!(
                compressed.end(),
                Some(&End::Early),
                "{codec:?} cut at {cut}"
            );
        }
    }
}

/// Streams of every codec: whole ones, several in one file, and all kinds of broken ones.
fn streams() -> impl Strategy<Value = (Codec, Vec<u8>)> {
    let part = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        (0usize..100_000).prop_map(text),
    ];
    let damage = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
    let cut = proptest::option::of(any::<prop::sample::Index>());
    let parts = proptest::collection::vec(part, 1..4);
    let garbage = proptest::collection::vec(any::<u8>(), 0..20);
    (
        prop::sample::select(CODECS.to_vec()),
        parts,
        damage,
        cut,
        garbage,
    )
        .prop_map(|(codec, parts, damage, cut, garbage)| {
            let mut bytes: Vec<u8> = parts
                .iter()
                .flat_map(|part| compress(codec, part))
                .collect();
            if let Some((at, value)) = damage {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
                bytes.extend(garbage);
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            (codec, bytes)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_stream_read_at_any_offsets_is_what_it_decompresses_to(
        (codec, bytes) in streams(),
        reads in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..70_000), 1..12),
    ) {
        let (content, end) = whole(codec, &bytes);
        let mut compressed = Compressed::new(on_disk(&bytes), codec);
        for (at, length) in reads {
            let from = at.index(content.len() + 100);
            let mut buffer = vec![0; length];
            let to = content.len().min(from + length);
            let expected = content.get(from..to).unwrap_or_default();
            // How much a decoder gives before damage depends on how much it is asked for.
            match (compressed.read_at(&mut buffer, from as u64), end) {
                (Ok(read), Ok(())) => prop_assert_eq!(&buffer[..read], expected),
                (Ok(read), Err(_)) => {
                    let both = read.min(expected.len());
                    prop_assert_eq!(&buffer[..both], &expected[..both]);
                }
                (Err(_), end) => prop_assert!(end.is_err()),
            }
        }
    }
}

#[test]
fn how_the_content_begins_is_told_without_going_back() {
    let content: Vec<u8> = (0..=u8::MAX)
        .cycle()
        .take(DECOMPRESSED_KEPT_BYTES * 2)
        .collect();
    for codec in CODECS {
        let mut compressed = Compressed::new(on_disk(&compress(codec, &content)), codec);
        let at = (content.len() - 1000) as u64;
        while !compressed.approach(at, at + 500).unwrap() {}
        let decoded = compressed.decoded();
        let mut first = [9; 3];
        assert_eq!(compressed.read_at(&mut first, 0).unwrap(), 3);
        assert_eq!((first, compressed.decoded()), ([0, 1, 2], decoded));
    }
}
