//! Compressed files that somebody goes on writing to, and old ones.

use std::io::Write;
use std::time::Duration;

use super::numbered;
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
