//! Rotated files that are compressed, at whatever moment the agent looks, stops or dies.

use std::fs;
use std::io::Write;
use std::time::Duration;

use model::position::Codec;

use super::decompressed::{CODECS, compress, text};
use super::{expected, numbered, only, only_lines};
use crate::limits::{
    COMPRESSED_QUIET, COMPRESSED_UNFINISHED, COPY_GRACE, LATE, QUIET, RECONCILE_EVERY,
};
use crate::sources::file::StartAt;
use crate::sources::file::calls::Call;
use crate::testing::World;

fn suffix(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "",
        Codec::Gzip => ".gz",
        Codec::Zstd => ".zst",
        Codec::Bzip2 => ".bz2",
        Codec::Xz => ".xz",
    }
}

/// What `gzip` and its like do, all at once.
fn compress_file(world: &World, name: &str, codec: Codec) {
    let content = fs::read(world.path(name)).unwrap();
    let to = world.path(&format!("{name}{}", suffix(codec)));
    fs::write(to, compress(codec, &content)).unwrap();
    world.remove(name);
}

/// Worlds whose rotated files the pattern means, and does not.
fn worlds() -> [World; 2] {
    [World::with_rotated(), World::new()]
}

#[test]
fn a_file_rotated_and_compressed_while_stopped_is_read_on_in_its_copy() {
    for codec in CODECS {
        for mut world in worlds() {
            world.append("a.log", &numbered(0..1000));
            world.run_for(Duration::from_secs(2));
            world.stop();
            world.append("a.log", &numbered(1000..3000));
            world.rename("a.log", "a.log.1");
            compress_file(&world, "a.log.1", codec);
            world.append("a.log", &numbered(3000..3100));
            world.run_for(COPY_GRACE * 3);
            only(&world, &expected(0..3100));
            world.kill();
            world.append("a.log", &numbered(3100..3200));
            world.run_for(COPY_GRACE * 3);
            only(&world, &expected(0..3200));
        }
    }
}

#[test]
fn a_file_of_which_all_was_read_is_not_read_again_when_it_is_compressed_while_stopped() {
    for mut world in worlds() {
        world.append("a.log", &numbered(0..1000));
        world.run_for(Duration::from_secs(2));
        world.stop();
        world.rename("a.log", "a.log.1");
        compress_file(&world, "a.log.1", Codec::Gzip);
        world.append("a.log", &numbered(1000..1100));
        world.run_for(COPY_GRACE * 3);
        only(&world, &expected(0..1100));
    }
}

#[test]
fn a_file_copied_truncated_and_compressed_while_stopped_is_read_on_in_its_copy() {
    for mut world in worlds() {
        world.append("a.log", &numbered(0..100));
        world.run_for(Duration::from_secs(2));
        world.kill();
        world.append("a.log", &numbered(100..300));
        world.copy_truncate("a.log", "a.log-20261122");
        compress_file(&world, "a.log-20261122", Codec::Zstd);
        // Grown again beyond where it was read.
        world.append("a.log", &numbered(300..900));
        world.run_for(COPY_GRACE * 3);
        only(&world, &expected(0..900));
    }
}

#[test]
fn a_restart_in_the_middle_of_a_compressed_copy_goes_on_there() {
    for turns in [0, 1, 2, 5, 10, 20, 40, 60] {
        for codec in CODECS {
            let mut world = World::new();
            world.append("a.log", &numbered(0..1000));
            world.run_for(Duration::from_secs(2));
            world.kill();
            world.append("a.log", &numbered(1000..100_000));
            world.rename("a.log", "a.log.1");
            compress_file(&world, "a.log.1", codec);
            world.append("a.log", &numbered(100_000..100_100));
            for _ in 0..turns {
                world.turn();
                world.spool().sync_turn();
                world.pass(Duration::from_millis(60));
            }
            world.kill();
            world.run_for(COPY_GRACE * 3);
            only(&world, &expected(0..100_100));
        }
    }
}

#[test]
fn gzip_at_work_on_a_rotated_file_makes_nothing_twice_whenever_the_agent_looks_or_dies() {
    // The steps of gzip: the new file, its first half, all of it; then the old one goes.
    for dies_at in 0..10 {
        for mut world in worlds() {
            let pause = |world: &mut World, step: u32| {
                if dies_at == step {
                    world.kill();
                }
                if dies_at % 2 == 0 {
                    world.run_for(Duration::from_millis(200));
                }
                if dies_at == step + 1 {
                    world.kill();
                }
            };
            world.append("a.log", &numbered(0..500));
            world.run_for(Duration::from_secs(2));
            world.append("a.log", &numbered(500..1000));
            pause(&mut world, 0);
            world.rename("a.log", "a.log.1");
            world.append("a.log", &numbered(1000..1100));
            pause(&mut world, 2);
            let packed = compress(Codec::Gzip, numbered(0..1000).as_bytes());
            let mut gzip = world.writer("a.log.1.gz");
            pause(&mut world, 4);
            gzip.write_all(&packed[..packed.len() / 2]).unwrap();
            pause(&mut world, 5);
            gzip.write_all(&packed[packed.len() / 2..]).unwrap();
            drop(gzip);
            pause(&mut world, 6);
            world.remove("a.log.1");
            pause(&mut world, 8);
            world.run_for(LATE + QUIET * 2);
            only(&world, &expected(0..1100));
            // Once more, now that everything else about the old file is gone.
            world.kill();
            world.rename("a.log.1.gz", "a.log.2.gz");
            world.run_for(LATE);
            only(&world, &expected(0..1100));
        }
    }
}

#[test]
fn a_rotated_file_that_is_compressed_a_day_later_is_not_read_again() {
    for mut world in worlds() {
        world.append("a.log", &numbered(0..100));
        world.run_for(Duration::from_secs(2));
        world.rename("a.log", "a.log.1");
        world.append("a.log", &numbered(100..200));
        world.run_for(LATE * 2);
        world.rename("a.log.1", "a.log.2");
        compress_file(&world, "a.log.2", Codec::Gzip);
        world.rename("a.log", "a.log.1");
        world.append("a.log", &numbered(200..300));
        world.run_for(LATE * 2);
        only(&world, &expected(0..300));
    }
}

#[test]
fn a_compressed_file_that_is_nobodys_copy_is_read_as_a_file_of_its_own_once_it_is_whole() {
    for codec in CODECS {
        let mut world = World::new();
        let name = format!("old.log{}", suffix(codec));
        world
            .config
            .files
            .push(world.path("*.log.*").display().to_string());
        let packed = compress(codec, numbered(0..5000).as_bytes());
        let mut writer = world.writer(&name);
        writer.write_all(&packed[..3]).unwrap();
        world.run_for(Duration::from_secs(3));
        writer.write_all(&packed[3..packed.len() - 7]).unwrap();
        world.run_for(Duration::from_secs(3));
        assert!(world.lines().is_empty());
        writer.write_all(&packed[packed.len() - 7..]).unwrap();
        drop(writer);
        world.run_for(Duration::from_secs(3));
        assert_eq!(world.lines_of(&name), expected(0..5000), "{codec:?}");
        world.kill();
        world.run_for(Duration::from_secs(30));
        assert_eq!(world.lines_of(&name), expected(0..5000));
    }
}

#[test]
fn a_compressed_file_that_only_begins_like_another_is_read_all_the_same() {
    let mut world = World::with_rotated();
    world.append("a.log", "same\nfirst\n");
    world.settle();
    let other = compress(Codec::Gzip, b"same\nfirst\nother\n");
    fs::write(world.path("a.log.7.gz"), other).unwrap();
    world.append("a.log", "second\nthird\n");
    world.run_for(COPY_GRACE);
    assert_eq!(
        world.lines_of("a.log"),
        ["same", "first", "second", "third"]
    );
    assert_eq!(world.lines_of("a.log.7.gz"), ["same", "first", "other"]);
}

#[test]
fn the_compressed_copy_of_another_rotation_holds_nothing_up() {
    for mut world in worlds() {
        world.append("a.log", &numbered(0..100));
        world.run_for(Duration::from_secs(2));
        world.rename("a.log", "a.log.1");
        world.append("a.log", &numbered(100..200));
        world.run_for(LATE * 2);
        compress_file(&world, "a.log.1", Codec::Gzip);
        world.run_for(Duration::from_secs(3));
        // Written anew in place: the copy that is looked for is none of those that are there.
        world.truncate("a.log");
        world.append("a.log", &numbered(200..210));
        world.run_for(COPY_GRACE * 2);
        only(&world, &expected(0..210));
    }
}

#[test]
fn a_file_truncated_rotated_and_compressed_between_two_looks_comes_once() {
    for mut world in worlds() {
        world.append("a.log", &numbered(0..9));
        world.run_for(Duration::from_secs(2));
        world.copy_truncate("a.log", "a.log.1");
        world.run_for(Duration::from_millis(400));
        world.append("a.log", &numbered(9..10));
        world.rename("a.log", "a.log.2");
        compress_file(&world, "a.log.2", Codec::Gzip);
        world.run_for(LATE);
        only(&world, &expected(0..10));
    }
}

/// As long as a guard over a file's head, and the same in every file.
fn banner() -> String {
    format!("{}\n", "=".repeat(1023))
}

#[test]
fn a_line_that_comes_after_its_file_was_compressed_makes_nothing_twice() {
    // Files shorter than the guard at their head, and longer; and longer than the window.
    for lines in [5, 100, 1000, 60_000] {
        for killed in [false, true] {
            // Nothing comes twice where the copy is not meant; that nothing is lost is known with a copy.
            for mut world in worlds().into_iter().take(if killed { 1 } else { 2 }) {
                world.append("a.log", &numbered(0..lines));
                world.run_for(Duration::from_secs(4));
                let mut late = world.writer("a.log");
                world.rename("a.log", "a.log.1");
                world.append("a.log", &numbered(lines + 3..lines + 10));
                world.run_for(Duration::from_secs(3));
                compress_file(&world, "a.log.1", Codec::Gzip);
                let rest = numbered(lines..lines + 3);
                late.write_all(rest.as_bytes()).unwrap();
                world.run_for(Duration::from_millis(500));
                drop(late);
                // Where nothing is left but the guards they must cover enough.
                let is_doubtful = killed && lines >= 1000;
                if is_doubtful {
                    world.kill();
                }
                world.run_for(LATE * 2);
                only_lines(&world, &expected(0..lines + 10));
                world.kill();
                world.run_for(LATE);
                only_lines(&world, &expected(0..lines + 10));
                // What else was written late, to a file that is gone by now, nobody knows.
                let doubt = ["missing_after_restart 1 0"];
                assert_eq!(world.losses(), doubt[..usize::from(is_doubtful)]);
            }
        }
    }
}

#[test]
fn a_line_between_a_compressed_copy_and_the_truncation_makes_nothing_twice() {
    for mut world in worlds() {
        world.append("a.log", &numbered(0..1000));
        world.run_for(Duration::from_secs(2));
        let packed = compress(Codec::Gzip, numbered(0..1000).as_bytes());
        fs::write(world.path("a.log.1.gz"), packed).unwrap();
        world.append("a.log", &numbered(1000..1001));
        world.run_for(Duration::from_millis(300));
        world.truncate("a.log");
        world.append("a.log", &numbered(1001..1100));
        world.run_for(LATE);
        only(&world, &expected(0..1100));
    }
}

#[test]
fn a_file_compressed_and_truncated_loses_nothing_and_makes_nothing_twice_however_far_it_was_read() {
    let packed = compress(Codec::Gzip, numbered(0..100_000).as_bytes());
    for turns in [0, 1, 2, 3, 5, 8, 12, 20, 40] {
        for mut world in worlds() {
            world.append("a.log", &numbered(0..1000));
            world.run_for(Duration::from_secs(2));
            world.append("a.log", &numbered(1000..100_000));
            fs::write(world.path("a.log.1.gz"), &packed).unwrap();
            for _ in 0..turns {
                world.turn();
                world.spool().sync_turn();
                world.pass(Duration::from_millis(60));
            }
            world.truncate("a.log");
            world.append("a.log", &numbered(100_000..100_100));
            world.run_for(LATE);
            only(&world, &expected(0..100_100));
        }
    }
}

#[test]
fn a_shorter_compressed_file_that_only_begins_alike_is_read_all_the_same() {
    let first = banner() + &numbered(0..500);
    let other = banner() + &numbered(500..600);
    let packed = compress(Codec::Gzip, other.as_bytes());
    let came = |world: &World, name: &str| {
        let lines = world.lines_of(name);
        assert_eq!(lines[1..], expected(500..600), "{name}");
    };
    // Its neighbour is there and open.
    let [mut world, _] = worlds();
    world.append("a.log", &first);
    world.settle();
    fs::write(world.path("a.log.1.gz"), &packed).unwrap();
    world.run_for(COPY_GRACE);
    came(&world, "a.log.1.gz");
    // It was rotated, read to its end and closed.
    world.rename("a.log", "a.log.2");
    world.run_for(LATE * 2);
    fs::write(world.path("a.log.3.gz"), &packed).unwrap();
    world.run_for(COPY_GRACE);
    came(&world, "a.log.3.gz");
}

#[test]
fn a_shorter_file_that_came_and_was_compressed_while_stopped_is_read_although_it_begins_alike() {
    for is_rotated in [false, true] {
        let [mut world, _] = worlds();
        world.append("a.log", &(banner() + &numbered(0..500)));
        world.run_for(Duration::from_secs(2));
        if is_rotated {
            // The other file gets the name that this one would have been compressed under.
            world.rename("a.log", "a.log.1");
            world.run_for(Duration::from_secs(2));
        }
        world.stop();
        let from = if is_rotated { "a.log.1" } else { "a.log" };
        world.rename(from, "a.log.2");
        compress_file(&world, "a.log.2", Codec::Gzip);
        world.append("a.log", &(banner() + &numbered(500..600)));
        world.rename("a.log", "a.log.1");
        compress_file(&world, "a.log.1", Codec::Gzip);
        world.run_for(LATE);
        assert_eq!(world.lines_of("a.log")[1..], expected(0..500));
        assert_eq!(world.lines_of("a.log.1.gz")[1..], expected(500..600));
        assert_eq!(world.lines().len(), 2);
    }
}

#[test]
fn a_compressed_file_that_was_there_at_the_very_first_start_is_passed_over_like_any_other() {
    let mut world = World::with_rotated();
    world.config.start_at = StartAt::End;
    fs::write(world.path("a.log.2.gz"), compress(Codec::Gzip, &text(5000))).unwrap();
    world.run_for(Duration::from_secs(12));
    world.kill();
    world.run_for(Duration::from_secs(12));
    assert!(world.lines().is_empty());
}

/// A compressor at work, for so long that its directory was listed since, and done at last.
fn compress_slowly(world: &mut World, name: &str) -> fs::File {
    let packed = compress(Codec::Gzip, numbered(0..100).as_bytes());
    let mut writer = world.writer(name);
    for chunk in packed.chunks(packed.len() / 100) {
        writer.write_all(chunk).unwrap();
        world.run_for(COMPRESSED_QUIET / 2);
    }
    writer
}

#[test]
fn a_compressed_file_that_cannot_be_opened_for_a_while_is_read_afterwards() {
    for errno in [libc::EMFILE, libc::EACCES, libc::EIO] {
        let mut world = World::with_rotated();
        world.append("a.log", "here\n");
        world.settle();
        let writer = compress_slowly(&mut world, "old.log.1.gz");
        let faults = world.calls.faults.clone();
        faults.fail(Call::Open, "old.log.1.gz", errno);
        world.run_for(Duration::from_secs(30));
        faults.heal();
        world.run_for(RECONCILE_EVERY + COMPRESSED_QUIET * 2);
        assert_eq!(world.lines_of("old.log.1.gz"), expected(0..100), "{errno}");
        drop(writer);
    }
}

#[test]
fn a_compressed_file_that_is_renamed_while_it_waits_is_read() {
    let mut world = World::with_rotated();
    world.append("a.log", "here\n");
    world.settle();
    let writer = compress_slowly(&mut world, "old.log.1.gz");
    world.rename("old.log.1.gz", "old.log.2.gz");
    world.run_for(COMPRESSED_QUIET * 3);
    assert_eq!(world.lines_of("old.log.2.gz"), expected(0..100));
    drop(writer);
}

#[test]
fn a_damaged_copy_is_no_copy_and_what_is_lost_is_counted() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..100));
    world.run_for(Duration::from_secs(2));
    world.append("a.log", "not whole yet");
    world.settle();
    world.truncate("a.log");
    let mut packed = compress(Codec::Gzip, (numbered(0..100) + "not whole yet").as_bytes());
    let middle = packed.len() / 2;
    packed[middle] ^= 0xff;
    fs::write(world.path("a.log.1.gz"), packed).unwrap();
    world.append("a.log", &numbered(100..120));
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..120));
    assert_eq!(world.losses(), ["truncated 1 13"]);
}

#[test]
fn a_stream_that_never_ends_is_not_waited_for_when_it_does_not_change() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..100));
    world.run_for(Duration::from_secs(2));
    world.stop();
    world.append("a.log", &numbered(100..200));
    let packed = compress(Codec::Gzip, numbered(0..200).as_bytes());
    world.truncate("a.log");
    world.append("a.log", &numbered(200..300));
    fs::write(world.path("a.log.1.gz"), &packed[..packed.len() - 9]).unwrap();
    world.run_for(COMPRESSED_UNFINISHED * 2);
    let lines = world.lines_of("a.log");
    assert_eq!(lines, [expected(0..100), expected(200..300)].concat());
    assert_eq!(world.losses().len(), 1);
}

#[test]
fn what_decompresses_to_a_great_deal_does_not_starve_the_others() {
    let mut world = World::new();
    world
        .config
        .files
        .push(world.path("*.log.gz").display().to_string());
    let zeros = vec![0; 64 * 1024 * 1024];
    fs::write(world.path("bomb.log.gz"), compress(Codec::Gzip, &zeros)).unwrap();
    world.append("quiet.log", "one\n");
    for _ in 0..20 {
        world.turn();
        world.pass(Duration::from_millis(10));
    }
    world.append("quiet.log", "two\n");
    for _ in 0..4 {
        world.turn();
        world.pass(Duration::from_millis(10));
    }
    world.spool().sync_turn();
    assert_eq!(world.lines_of("quiet.log"), ["one", "two"]);
}
