//! What is counted as lost: what nobody can know to have been read, and nothing else.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use super::{expected, numbered, only};
use crate::limits::{ATTENTION_EVERY, LATE, QUIET, RECONCILE_EVERY};
use crate::sources::file::calls::Call;
use crate::testing::World;

/// How much is missing nobody knows.
const UNKNOWN: &str = " 1 0";

#[test]
fn a_file_that_is_written_anew_while_stopped_and_not_readable_at_first_may_have_lost_something() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.run_for(Duration::from_secs(3));
    world.stop();
    world.append("a.log", &numbered(10..20));
    world.truncate("a.log");
    world.append("a.log", "new\n");
    world.calls.faults.fail(Call::Open, "a.log", libc::EACCES);
    world.run_for(Duration::from_secs(1));
    world.calls.faults.heal();
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.losses(), [format!("cut_while_stopped{UNKNOWN}")]);
}

#[test]
fn a_copy_that_was_made_before_the_file_went_does_not_tell_that_it_was_read_to_its_end() {
    for copied in [5, 10, 15] {
        let mut world = World::new();
        for lines in [0, 5, 10, 15].map(|from| from..from + 5) {
            world.append("a.log", &numbered(lines.clone()));
            if lines.end == copied {
                fs::copy(world.path("a.log"), world.path("a.log-backup")).unwrap();
            }
            if lines.end == 10 {
                world.run_for(Duration::from_secs(3));
                world.kill();
            }
        }
        world.remove("a.log");
        world.run_for(Duration::from_mins(2));
        assert_eq!(world.lines_of("a.log"), expected(0..copied.max(10)));
        assert_eq!(world.losses(), [format!("missing_after_restart{UNKNOWN}")]);
    }
}

#[test]
fn a_file_that_was_moved_with_its_time_was_read_to_its_end() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.run_for(Duration::from_secs(3));
    world.stop();
    let written = fs::metadata(world.path("a.log")).unwrap().modified();
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    let moved = File::options().append(true).open(world.path("a.log.1"));
    moved.unwrap().set_modified(written.unwrap()).unwrap();
    world.remove("a.log");
    world.run_for(Duration::from_mins(2));
    assert_eq!(world.lines_of("a.log"), expected(0..10));
    assert_eq!(world.losses(), Vec::<String>::new());
}

#[test]
fn the_copy_of_a_file_that_nobody_looked_at_yet_is_not_its_predecessor() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.rename("a.log", "a.log.1");
    world.append("a.log", &numbered(10..20));
    world.remove("a.log.1");
    fs::copy(world.path("a.log"), world.path("a.log.2")).unwrap();
    world.turn();
    world.truncate("a.log");
    world.run_for(Duration::from_mins(3));
    only(&world, &expected(0..20));
}

/// A file waits behind one that was rotated and whose writer stays. Only one of them may be open.
fn waiting(lines: Range<u32>) -> (World, File) {
    let mut world = World::with_rotated();
    world.config.files_open_max = 1;
    let mut old = world.writer("a.log");
    old.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.rename("a.log", "a.log.1");
    world.append("a.log", &numbered(lines));
    world.turn();
    world.turn();
    (world, old)
}

#[test]
fn a_waiting_file_that_is_truncated_while_it_is_closed_goes_on_in_its_copy() {
    let (mut world, _old) = waiting(10..20);
    world.copy_truncate("a.log", "a.log.2");
    world.run_for(Duration::from_mins(1));
    only(&world, &expected(0..20));
}

#[test]
fn a_waiting_file_that_is_truncated_and_deleted_while_it_is_closed_goes_on_in_its_copy() {
    let (mut world, _old) = waiting(10..20);
    fs::copy(world.path("a.log"), world.path("a.log.2")).unwrap();
    world.turn();
    world.truncate("a.log");
    world.remove("a.log");
    // Which has it closed.
    world.append("0.log", "other\n");
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    assert_eq!(world.lines().len(), 2);
    assert_eq!(world.losses(), [format!("deleted{UNKNOWN}")]);
}

#[test]
fn a_copy_of_a_life_is_not_that_of_the_life_before() {
    let (mut world, _old) = waiting(10..30);
    world.truncate("a.log");
    world.append("a.log", "new\n");
    fs::copy(world.path("a.log"), world.path("a.log.2")).unwrap();
    world.turn();
    world.turn();
    world.truncate("a.log");
    world.run_for(Duration::from_mins(1));
    let came = [expected(0..10), vec!["new".to_owned()]].concat();
    assert_eq!(world.lines_of("a.log"), came);
    assert_eq!(world.lines().len(), 1);
    let lost = numbered(10..30).len();
    assert_eq!(world.losses(), [format!("truncated 1 {lost}")]);
}

/// A deleted file was read to its end and has been quiet for a while when its writer adds to it, and the
/// agent dies. What is counted.
fn late_line(pause: Duration, is_closed: bool) -> Vec<String> {
    let mut world = World::new();
    let mut writer = world.writer("a.log");
    writer.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.remove("a.log");
    let mut writer = (!is_closed).then_some(writer);
    world.run_for(pause);
    if let Some(writer) = &mut writer {
        writer.write_all(b"late\n").unwrap();
    }
    world.kill();
    drop(writer);
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.lines_of("a.log"), expected(0..10));
    world.losses()
}

#[test]
fn a_deleted_file_whose_writer_stayed_is_not_known_to_have_been_read_to_its_end() {
    let lost = late_line(QUIET * 2, false);
    assert_eq!(lost, [format!("missing_after_restart{UNKNOWN}")]);
    assert_eq!(late_line(QUIET * 2, true), Vec::<String>::new());
    let is_over = LATE + RECONCILE_EVERY * 3;
    assert_eq!(late_line(is_over, false), Vec::<String>::new());
}

#[test]
fn a_line_that_is_begun_waits_for_its_rest_also_when_no_file_of_its_path_can_be_opened() {
    let mut world = World::new();
    let mut old = world.writer("a.log");
    old.write_all(numbered(0..10).as_bytes()).unwrap();
    world.run_for(Duration::from_secs(3));
    world.remove("a.log");
    world.append("a.log", "line ");
    world.run_for(QUIET * 2);
    world.kill();
    world.calls.faults.fail(Call::Open, "a.log", libc::EACCES);
    world.run_for(Duration::from_secs(1));
    world.calls.faults.heal();
    world.run_for(Duration::from_mins(1));
    world.append("a.log", "10\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..11));
}

#[test]
fn what_a_waiting_file_has_in_its_next_life_is_no_loss_of_this_one() {
    let (mut world, _old) = waiting(10..20);
    world.copy_truncate("a.log", "a.log.2");
    world.append("a.log", &numbered(20..40));
    world.rename("a.log", "a.log.3");
    // The next turn looks at what waits before it reads.
    world.pass(ATTENTION_EVERY);
    world.run_for(Duration::from_mins(1));
    only(&world, &expected(0..40));
}
