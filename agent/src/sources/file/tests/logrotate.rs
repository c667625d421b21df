//! What the real logrotate does to files, with the options that people use.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::edges::{drain, full};
use super::skip::skip;
use super::{expected, numbered, only};
use crate::limits::{COPY_GRACE, LATE};
use crate::testing::World;

/// Whether logrotate is here. A test without it says so and is counted as skipped.
fn has_logrotate(test: &str) -> bool {
    let dirs = ["/usr/sbin", "/usr/bin", "/sbin"];
    if dirs
        .iter()
        .any(|dir| PathBuf::from(dir).join("logrotate").exists())
    {
        return true;
    }
    skip(test, "the program logrotate is not installed");
    false
}

/// Rotates `name` now, with these options.
fn rotate(world: &World, name: &str, options: &str) {
    // It refuses directories that others can write to.
    fs::set_permissions(&world.logs, fs::Permissions::from_mode(0o755)).unwrap();
    let scratch = world.logs.parent().unwrap();
    let (config, state) = (
        scratch.join("logrotate.conf"),
        scratch.join("logrotate.state"),
    );
    let path = world.path(name);
    let text = format!(
        "\"{}\" {{\nrotate 9\nmissingok\n{options}\n}}\n",
        path.display()
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let sbin = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("logrotate");
    command
        .env("PATH", sbin)
        .arg("--force")
        .arg("--state")
        .arg(state)
        .arg(config);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn three_rotations_while_the_spool_is_full_are_all_delivered_in_order() {
    if !has_logrotate("three_rotations_while_the_spool_is_full_are_all_delivered_in_order") {
        return;
    }
    for options in [
        "create",
        "copytruncate",
        "create\ncompress",
        "copytruncate\ncompress",
    ] {
        let mut world = full();
        for round in 0..4 {
            world.append("a.log", &numbered(round * 100..round * 100 + 100));
            world.run_for(Duration::from_secs(1));
            if round < 3 {
                rotate(&world, "a.log", options);
                world.run_for(Duration::from_secs(1));
            }
        }
        let found = drain(&mut world);
        assert!(
            found == expected(0..400),
            "{options}: {} lines, {:?}",
            found.len(),
            world.losses()
        );
        assert!(world.losses().is_empty());
    }
}

#[test]
fn a_file_rotated_and_gzipped_while_stopped_is_read_on_in_the_gz() {
    if !has_logrotate("a_file_rotated_and_gzipped_while_stopped_is_read_on_in_the_gz") {
        return;
    }
    for options in [
        "create\ncompress",
        "create\ncompress\ndateext",
        "copytruncate\ncompress",
    ] {
        for mut world in [World::with_rotated(), World::new()] {
            world.append("a.log", &numbered(0..5000));
            world.run_for(Duration::from_secs(2));
            world.stop();
            world.append("a.log", &numbered(5000..9000));
            rotate(&world, "a.log", options);
            assert!(!world.path("a.log.1").exists());
            world.append("a.log", &numbered(9000..9500));
            world.run_for(COPY_GRACE * 3);
            only(&world, &expected(0..9500));
            world.kill();
            world.run_for(LATE * 2);
            only(&world, &expected(0..9500));
        }
    }
}

#[test]
fn a_copytruncate_with_an_unread_rest_loses_nothing_when_the_copy_is_inside_the_glob() {
    if has_logrotate(
        "a_copytruncate_with_an_unread_rest_loses_nothing_when_the_copy_is_inside_the_glob",
    ) {
        copytruncate_with_an_unread_rest(World::with_rotated());
    }
}

#[test]
fn a_copytruncate_with_an_unread_rest_loses_nothing_when_the_copy_is_outside_the_glob() {
    if has_logrotate(
        "a_copytruncate_with_an_unread_rest_loses_nothing_when_the_copy_is_outside_the_glob",
    ) {
        copytruncate_with_an_unread_rest(World::new());
    }
}

fn copytruncate_with_an_unread_rest(mut world: World) {
    let mut last = 1000;
    world.append("a.log", &numbered(0..last));
    world.run_for(Duration::from_secs(2));
    for options in [
        "copytruncate",
        "copytruncate\ncompress\ndelaycompress",
        "copytruncate\ncompress",
    ] {
        world.append("a.log", &numbered(last..last + 500));
        rotate(&world, "a.log", options);
        world.append("a.log", &numbered(last + 500..last + 600));
        last += 600;
        world.run_for(LATE * 2);
        only(&world, &expected(0..last));
    }
}

#[test]
fn a_copytruncate_while_stopped_is_found_also_when_the_file_has_outgrown_the_old_offset() {
    if !has_logrotate(
        "a_copytruncate_while_stopped_is_found_also_when_the_file_has_outgrown_the_old_offset",
    ) {
        return;
    }
    for options in [
        "copytruncate",
        "copytruncate\ncompress",
        "copytruncate\ndateext",
    ] {
        for mut world in [World::with_rotated(), World::new()] {
            world.append("a.log", &numbered(0..1000));
            world.run_for(Duration::from_secs(2));
            world.kill();
            world.append("a.log", &numbered(1000..1500));
            rotate(&world, "a.log", options);
            world.append("a.log", &numbered(1500..9000));
            world.run_for(COPY_GRACE * 3);
            only(&world, &expected(0..9000));
        }
    }
}

#[test]
fn a_copytruncate_with_the_same_first_64_kib_before_and_after_is_told_by_what_was_read_last() {
    if !has_logrotate(
        "a_copytruncate_with_the_same_first_64_kib_before_and_after_is_told_by_what_was_read_last",
    ) {
        return;
    }
    let preamble = "{\"resource\":\"always the same\"}\n".repeat(2200);
    assert!(preamble.len() > 64 * 1024);
    for options in ["copytruncate", "copytruncate\ncompress"] {
        for is_stopped in [false, true] {
            let mut world = World::with_rotated();
            // An older rotation that begins like all others.
            world.append("a.log.3", &(preamble.clone() + "older\n"));
            world.append("a.log", &(preamble.clone() + &numbered(0..100)));
            world.run_for(COPY_GRACE * 2);
            if is_stopped {
                world.kill();
            }
            world.append("a.log", &numbered(100..150));
            rotate(&world, "a.log", options);
            world.append("a.log", &(preamble.clone() + &numbered(150..400)));
            world.run_for(COPY_GRACE * 3);
            let lines = world.lines();
            let own = |line: &&String| line.starts_with("line ");
            let found: Vec<String> = lines["a.log"].iter().filter(own).cloned().collect();
            assert!(
                found == expected(0..400),
                "{options} {is_stopped}: {found:?}"
            );
            let counts: Vec<_> = lines
                .iter()
                .map(|(name, lines)| (name, lines.len()))
                .collect();
            assert_eq!(
                lines["a.log"].len(),
                400 + 2 * 2200,
                "{options} {is_stopped} {counts:?}"
            );
            assert_eq!(
                lines.values().map(Vec::len).sum::<usize>(),
                400 + 3 * 2200 + 1
            );
            assert!(world.losses().is_empty());
        }
    }
}

#[test]
fn a_copy_in_another_directory_that_is_watched_is_found_and_not_read_twice() {
    if !has_logrotate("a_copy_in_another_directory_that_is_watched_is_found_and_not_read_twice") {
        return;
    }
    for options in [
        "copytruncate",
        "create",
        "copytruncate\ncompress",
        "create\ncompress",
    ] {
        for is_stopped in [false, true] {
            let mut world = World::new();
            world.config.files = vec![world.path("**/*.log*").display().to_string()];
            world.append("a.log", &numbered(0..1000));
            world.run_for(Duration::from_secs(2));
            let mut last = 1000;
            for _ in 0..3 {
                if is_stopped {
                    world.kill();
                }
                world.append("a.log", &numbered(last..last + 500));
                rotate(
                    &world,
                    "a.log",
                    &format!("{options}\nolddir old\ncreateolddir 755"),
                );
                world.append("a.log", &numbered(last + 500..last + 600));
                last += 600;
                world.run_for(COPY_GRACE * 4);
                only(&world, &expected(0..last));
            }
        }
    }
}

#[test]
fn the_container_layout_of_kubernetes_loses_nothing_over_rotation_and_restart_of_a_container() {
    if !has_logrotate(
        "the_container_layout_of_kubernetes_loses_nothing_over_rotation_and_restart_of_a_container",
    ) {
        return;
    }
    for is_stopped in [false, true] {
        let mut world = World::new();
        fs::create_dir_all(world.path("containers")).unwrap();
        fs::create_dir_all(world.path("pods/ns_app_uid/app")).unwrap();
        world.config.files = vec![world.path("containers/*.log").display().to_string()];
        let link = world.path("containers/app_ns_app-1.log");
        let real = "pods/ns_app_uid/app/0.log";
        world.append(real, &numbered(0..100));
        symlink(world.path(real), &link).unwrap();
        world.run_for(Duration::from_secs(12));
        let pause = |world: &mut World| {
            if is_stopped {
                world.stop();
            } else {
                world.run_for(Duration::from_secs(1));
            }
        };
        // The kubelet: rename, a new file, and the older ones compressed.
        pause(&mut world);
        world.append(real, &numbered(100..200));
        world.rename(real, "pods/ns_app_uid/app/0.log.20261122-101500");
        world.append(real, &numbered(200..300));
        world.run_for(Duration::from_secs(12));
        pause(&mut world);
        world.append(real, &numbered(300..400));
        world.rename(real, "pods/ns_app_uid/app/0.log.20261122-102500");
        for old in ["0.log.20261122-101500", "0.log.20261122-102500"] {
            let old = world.path("pods/ns_app_uid/app").join(old);
            assert!(Command::new("gzip").arg(&old).status().unwrap().success());
        }
        world.append(real, &numbered(400..500));
        world.run_for(Duration::from_secs(12));
        // The container is started again: the link leads elsewhere, the old file is still written to.
        pause(&mut world);
        world.append(real, &numbered(500..600));
        let next = "pods/ns_app_uid/app/1.log";
        world.append(next, &numbered(600..700));
        fs::remove_file(&link).unwrap();
        symlink(world.path(next), &link).unwrap();
        world.run_for(Duration::from_secs(24));
        let lines = world.lines_of("app_ns_app-1.log");
        assert!(
            lines == expected(0..700),
            "stopped {is_stopped}: {} {:?}",
            lines.len(),
            world.losses()
        );
        assert!(world.losses().is_empty());
    }
}

#[test]
fn every_way_to_rotate_delivers_every_line_once_and_in_order() {
    if !has_logrotate("every_way_to_rotate_delivers_every_line_once_and_in_order") {
        return;
    }
    let mut seed = 1u64;
    let mut one_in = |of: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33).is_multiple_of(of)
    };
    for round in 0..24 {
        let mut options = vec![if one_in(2) { "copytruncate" } else { "create" }];
        if one_in(2) {
            options.push("dateext\ndateformat -%Y%m%d-%s");
        }
        if one_in(2) {
            options.push("compress");
        }
        if one_in(3) {
            options.push("delaycompress");
        }
        if one_in(4) {
            options.push("compresscmd /usr/bin/xz\ncompressext .xz");
        }
        let mut world = if one_in(2) {
            World::with_rotated()
        } else {
            World::new()
        };
        let mut last = 0;
        let mut steps = vec![options.join(" "), format!("{:?}", world.config.files)];
        for rotation in 0..4 {
            world.append("a.log", &numbered(last..last + 300));
            world.run_for(Duration::from_secs(2));
            if one_in(2) {
                steps.push("kill".to_owned());
                world.kill();
            }
            world.append("a.log", &numbered(last + 300..last + 400));
            // A date has seconds at best, and a name that is there is not rotated to.
            let unique = format!("-%Y%m%d-%s{rotation}");
            rotate(
                &world,
                "a.log",
                &options.join("\n").replace("-%Y%m%d-%s", &unique),
            );
            world.append("a.log", &numbered(last + 400..last + 450));
            last += 450;
            if one_in(2) {
                steps.push("short".to_owned());
                world.run_for(Duration::from_millis(300));
                world.kill();
            }
            world.run_for(if one_in(2) { LATE * 2 } else { COPY_GRACE * 2 });
            let found = world.lines();
            let counts: Vec<_> = found
                .iter()
                .map(|(name, lines)| (name.clone(), lines.len()))
                .collect();
            assert!(
                counts.len() == 1 && found["a.log"] == expected(0..last),
                "round {round} rotation {rotation}: {counts:?} of {last}, {:?} {steps:?}",
                world.losses()
            );
            steps.push("rotated".to_owned());
        }
    }
}
