//! What is there before the very first start stays passed over, also what is not judged at once.

use std::io::Write;
use std::time::Duration;

use model::position::Codec;

use super::decompressed::compress;
use super::numbered;
use crate::sources::file::StartAt;
use crate::testing::World;

#[test]
fn start_at_end_holds_for_compressed_files_over_a_restart() {
    let mut world = World::with_rotated();
    world.config.start_at = StartAt::End;
    let mut writer = world.writer("b.log.gz");
    writer
        .write_all(&compress(Codec::Gzip, numbered(0..5000).as_bytes()))
        .unwrap();
    world.append("a.log", &numbered(0..3));
    world.settle();
    world.stop();
    drop(writer);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.lines().get("b.log.gz").map(Vec::len), None);
}

#[test]
fn start_at_end_holds_for_files_that_begin_alike_over_a_restart() {
    let mut world = World::with_rotated();
    world.config.start_at = StartAt::End;
    world.append("a.log", &numbered(0..500));
    world.append("a.log.1", &numbered(0..400));
    world.settle();
    world.stop();
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.lines().len(), 0, "{:?}", world.states());
}
