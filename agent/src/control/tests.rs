//! The control socket, with a data thread behind it and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::ambient::Now;
use crate::pipeline::Pipeline;
use crate::telemetry::Telemetry;
use crate::testing::World;

fn control(world: &World) -> (Control, crate::pipeline::requests::Inbox) {
    let (requests, inbox) = Requests::new(Arc::new(|| {}));
    let spool = world.open_spool();
    (Control { requests, spool }, inbox)
}

/// Turns a pipeline that answers until `done`.
fn answer_until(done: &AtomicBool, control: &Control, inbox: crate::pipeline::requests::Inbox) {
    let pipeline = Pipeline::new(Vec::new(), control.spool.clone(), Telemetry::new());
    let mut pipeline = pipeline.answering(inbox);
    while !done.load(Ordering::Acquire) {
        let now = Now {
            monotonic: Duration::ZERO,
            wall: commitlog::id::Timestamp(0),
        };
        pipeline.turn(now);
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_one_that_is_left_over_is_replaced() {
    let world = World::new();
    let (control, inbox) = control(&world);
    let data_dir = world.spool_config.data_dir.clone();
    let left_over = std::os::unix::net::UnixListener::bind(data_dir.join(SOCKET)).unwrap();
    drop(left_over);
    assert!(ask_files(&data_dir).await.unwrap().is_none());
    let served = serve(&data_dir, control.clone()).unwrap();
    let metadata = std::fs::metadata(data_dir.join(SOCKET)).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let done = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&done);
    let data = spawn_blocking(move || answer_until(&until, &control, inbox));
    let report = ask_files(&data_dir).await.unwrap().unwrap();
    assert!(report.running);
    done.store(true, Ordering::Release);
    data.await.unwrap();
    served.stop().await;
    assert!(!data_dir.join(SOCKET).exists());
    assert!(ask_files(&data_dir).await.unwrap().is_none());
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_costs_the_socket_only() {
    let world = World::new();
    let (control, _inbox) = control(&world);
    let data_dir = world.spool_config.data_dir.join("d".repeat(120));
    std::fs::create_dir_all(&data_dir).unwrap();
    assert!(serve(&data_dir, control).is_none());
    assert!(ask_files(&data_dir).await.unwrap().is_none());
}

#[tokio::test]
async fn what_bears_the_sockets_name_and_is_none_is_left_alone() {
    let world = World::new();
    let (control, _inbox) = control(&world);
    let data_dir = world.spool_config.data_dir.clone();
    std::fs::write(data_dir.join(SOCKET), "mine").unwrap();
    assert!(serve(&data_dir, control).is_none());
    assert_eq!(std::fs::read(data_dir.join(SOCKET)).unwrap(), b"mine");
}
