//! Compressed files that somebody goes on writing to, and old ones.

use std::fs;
use std::io::Write;
use std::time::{Duration, SystemTime};

use model::position::Codec;

use super::decompressed::compress;
use super::numbered;
use crate::sources::file::audit::Why;
use crate::testing::World;

#[test]
fn a_compressed_stream_that_goes_on_being_written_does_not_hold_a_live_file_up() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..5));
    world.settle();
    let mut stream = world.writer("a.log.live.gz");
    stream
        .write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])
        .unwrap();
    world.append("a.log", &numbered(5..6));
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "new\n");
    for _ in 0..600 {
        world.run_for(Duration::from_millis(500));
        stream.write_all(b"xxxxxxxxxxxxxxxx").unwrap();
    }
    let lines = world.lines_of("a.log");
    assert_eq!(
        lines.last().map(String::as_str),
        Some("new"),
        "after five minutes"
    );
}

#[test]
fn ignore_older_holds_for_compressed_files() {
    let mut world = World::with_rotated();
    world.config.ignore_older = Some(Duration::from_hours(1));
    let text = numbered(0..5000);
    let bytes = compress(Codec::Gzip, text.as_bytes());
    fs::write(world.path("b.log.gz"), bytes).unwrap();
    let file = world.writer("b.log.gz");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_modified(old).unwrap();
    drop(file);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.lines().get("b.log.gz").map(Vec::len), None);
    let passed_over = Some(text.len() as u64);
    let whole = ("b.log.gz".to_owned(), 0, passed_over, Why::Finished);
    assert_eq!(world.closed(), [whole]);
}
