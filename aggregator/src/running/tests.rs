//! Whole aggregators on free loopback ports and temporary directories.

use std::path::Path;

use ::config::load::load_text;
use commitlog::id::ProducerId;

use super::*;
use crate::topics::tests::batch;

fn config(data_dir: &Path, more: &str) -> AggregatorConfig {
    let text = format!(
        "data_dir: {}\nlisten: {{quic: \"127.0.0.1:0\", http: \"127.0.0.1:0\"}}\n{more}",
        data_dir.display()
    );
    load_text::<AggregatorConfig>(&text).unwrap().config
}

/// Asks over a real socket; the status line and the body.
async fn get(running: &Running, path: &str, token: &str) -> (String, String) {
    get_at(running.http_addr, path, token).await
}

async fn get_at(address: SocketAddr, path: &str, token: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let ask = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn it_is_ready_once_started_and_keeps_its_token_and_records() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path(), ""), Parts::real()).await.unwrap();
    assert_ne!((running.http_addr.port(), running.quic_addr.port()), (0, 0));
    let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    let (status, body) = get(&running, "/readyz", "").await;
    assert!(status.contains("200"), "{status} {body}");
    let (status, _) = get(&running, "/api/v1/topics", "").await;
    assert!(status.contains("401"), "{status}");

    let partition = running
        .opened
        .topics
        .partition(&"logs-0".parse().unwrap())
        .await
        .unwrap();
    let standing = partition
        .producer(ProducerId::new(1).unwrap())
        .await
        .unwrap();
    partition
        .append(standing.generation, &mut batch(1, 0, 3))
        .await
        .unwrap();
    running.stop().await.unwrap();

    let running = start(config(dir.path(), ""), Parts::real()).await.unwrap();
    let path = "/api/v1/topics/logs/records?partition=0";
    let (status, body) = get(&running, path, token.trim()).await;
    assert!(status.contains("200"), "{status}");
    assert!(body.contains("producer 1 record 2"), "{body}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path(), ""), Parts::real()).await.unwrap();
    let Err(error) = start(config(dir.path(), ""), Parts::real()).await else {
        panic!("two aggregators share a directory")
    };
    let told = format!("{error:#}");
    assert!(told.contains(&std::process::id().to_string()), "{told}");
    assert!(told.contains("stop the other aggregator"), "{told}");
    running.stop().await.unwrap();
    start(config(dir.path(), ""), Parts::real())
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "");
    config.listen.http = address;
    let Err(error) = start(config.clone(), Parts::real()).await else {
        panic!("two listen on {address}")
    };
    assert!(
        format!("{error:#}").contains(&address.to_string()),
        "{error:#}"
    );
    drop(taken);
    start(config, Parts::real())
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stop_ends_long_polls_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path(), "auth: none"), Parts::real())
        .await
        .unwrap();
    running
        .opened
        .topics
        .partition(&"logs-0".parse().unwrap())
        .await
        .unwrap();
    let path = "/api/v1/topics/logs/records?partition=0&wait=50s";
    let mut poll = tokio::spawn(get_at(running.http_addr, path, ""));
    // The poll is under way when its connection is counted.
    let health = async {
        loop {
            let (_, metrics) = get(&running, "/metrics", "").await;
            if metrics.contains("weir_aggregator_http_connections 2") {
                return;
            }
        }
    };
    tokio::select! {
        _ = &mut poll => panic!("the poll did not wait"),
        () = health => {}
    }
    running.serving.cancel();
    let (status, body) = poll.await.unwrap();
    assert!(status.contains("200"), "{status} {body}");
    running.stop().await.unwrap();
}
