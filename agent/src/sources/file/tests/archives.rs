//! Compressed files that somebody goes on writing to, and old ones.

use std::fs;
use std::io::Write;
use std::time::{Duration, SystemTime};

use model::position::Codec;

use super::decompressed::compress;
use super::{expected, numbered};
use crate::files::State;
use crate::limits::{COMPRESSED_UNFINISHED, COPIES_SOUGHT_MAX, HOLD_MAX, QUIET};
use crate::sources::Next;
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

/// How often the agent wakes by itself in a minute.
fn wakes(world: &mut World) -> u32 {
    let end = world.time() + Duration::from_mins(1);
    let mut wakes = 0;
    while world.time() < end {
        if let Next::At(at) = world.turn() {
            world.pass(at.saturating_sub(world.time()) + Duration::from_millis(1));
            wakes += 1;
        }
    }
    wakes
}

#[test]
fn half_a_compressed_file_that_stays_so_wakes_nobody_and_is_read_soon_after_its_rest_comes() {
    let packed = compress(Codec::Gzip, numbered(0..5000).as_bytes());
    for begun in [0, 2, packed.len() / 2] {
        let mut world = World::with_rotated();
        world.append("a.log", "1\n");
        world.run_for(COMPRESSED_UNFINISHED * 2);
        let usual = wakes(&mut world);
        fs::write(world.path("old.log.gz"), &packed[..begun]).unwrap();
        world.run_for(COMPRESSED_UNFINISHED * 2);
        let wakes = wakes(&mut world);
        assert!(wakes <= usual + 10, "{wakes} for {usual}, at {begun} bytes");
        // Others need not wait for it.
        let other = compress(Codec::Gzip, numbered(0..10).as_bytes());
        fs::write(world.path("other.log.gz"), other).unwrap();
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.lines_of("other.log.gz"), expected(0..10));
        let mut writer = world.writer("old.log.gz");
        writer.write_all(&packed[begun..]).unwrap();
        drop(writer);
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.lines_of("old.log.gz"), expected(0..5000));
    }
}

#[test]
fn more_files_than_are_sought_at_once_go_on_in_what_they_were_compressed_to_while_stopped() {
    let mut world = World::with_rotated();
    let files = u32::try_from(COPIES_SOUGHT_MAX).unwrap() * 2 + 50;
    let name = |file: u32| format!("{file:05}.log");
    let first = |file: u32| file * 4;
    for file in 0..files {
        world.append(&name(file), &numbered(first(file)..first(file) + 3));
    }
    world.settle();
    world.stop();
    for file in 0..files {
        // Of every seventh nothing is left.
        if file % 7 > 0 {
            let text = numbered(first(file)..first(file) + 4);
            let compressed = compress(Codec::Gzip, text.as_bytes());
            fs::write(world.path(&format!("{}.1.gz", name(file))), compressed).unwrap();
        }
        world.remove(&name(file));
    }
    world.settle();
    world.run_for(HOLD_MAX + HOLD_MAX);
    for file in 0..files {
        let read = if file % 7 > 0 { 4 } else { 3 };
        let lines = expected(first(file)..first(file) + read);
        assert_eq!(world.lines_of(&name(file)), lines, "{file}");
    }
    assert_eq!(world.lines().len(), usize::try_from(files).unwrap());
    let mut states = world.states().into_iter();
    assert!(states.all(|(.., state)| state != State::LookingForCopy));
}

#[test]
fn a_short_file_that_grew_after_it_was_compressed_comes_once_however_few_may_be_open() {
    let mut world = World::with_rotated();
    world.config.files_open_max = 1;
    world.append("a.log", &numbered(0..10));
    world.settle();
    let mut late = world.writer("a.log");
    world.rename("a.log", "a.log.1");
    world.run_for(QUIET * 2);
    let mut compressor = world.writer("a.log.1.gz");
    compressor
        .write_all(&compress(Codec::Gzip, numbered(0..10).as_bytes()))
        .unwrap();
    world.remove("a.log.1");
    late.write_all(numbered(10..11).as_bytes()).unwrap();
    drop(late);
    world.append("b.log", &numbered(0..1));
    world.run_for(QUIET * 2);
    drop(compressor);
    world.run_for(QUIET * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..11));
    assert_eq!(world.records().len(), 12);
    assert!(world.losses().is_empty());
}
