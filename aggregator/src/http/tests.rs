//! The API over real topics on a temporary directory, without sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use commitlog::id::{ProducerId, TopicPartition};
use commitlog::storage::disk::Disk;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::limits::{HTTP_HEADER_TIMEOUT, HTTP_HEADER_TIMEOUT_RESERVED, NDJSON_PIECE_BYTES};
use crate::meta::Meta;
use crate::parts::Parts;
use crate::topics::tests::{batch, config};

const TOKEN: &str = "right";

struct Fixture {
    api: Api,
    service: TowerToHyperService<Router>,
    dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn lines(&self) -> Vec<Value> {
        self.body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn offset(&self, name: &str) -> i64 {
        self.headers[name].to_str().unwrap().parse().unwrap()
    }

    fn code(&self) -> String {
        let error = self.json()["error"].clone();
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
        assert!(!error["hint"].as_str().unwrap().is_empty(), "{error}");
        error["code"].as_str().unwrap().to_owned()
    }
}

impl Fixture {
    fn new(topics: &[(&str, u32)]) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts {
            blocking: Blocking::Inline,
            ..Parts::real()
        };
        let telemetry = Telemetry::new();
        let mut topics = config(&dir.path().join("log"), topics);
        if let Some(short) = topics.topics.get_mut(&"short".parse().unwrap()) {
            // Every append begins a segment, and none but the last is kept.
            short.log.segment_bytes_max = 1;
            short.log.retention_bytes = Some(1);
        }
        let topics = Topics::open(
            topics,
            Arc::new(Disk),
            Arc::clone(&parts.clock),
            parts.blocking,
            telemetry.clone(),
        )
        .unwrap();
        let meta = Meta::open(Arc::new(Disk), &dir.path().join("meta.redb")).unwrap();
        let meta = Arc::new(meta);
        let api = Api {
            groups: Groups::open(Arc::clone(&meta), topics.clone(), parts.blocking).unwrap(),
            agents: Agents::new(Vec::new(), Arc::clone(&parts.clock), telemetry.clone()),
            authority: Authority::ephemeral(Arc::clone(&meta), &parts).unwrap(),
            agents_connect_to: Arc::new(["127.0.0.1:9347".parse().unwrap()]),
            topics,
            telemetry,
            health: Health::default(),
            gate: Gate::token(TOKEN, Origins::Loopback, &parts.random),
            blocking: parts.blocking,
            long_polls: Arc::new(Semaphore::new(1)),
            shutdown: CancellationToken::new(),
        };
        Fixture {
            service: TowerToHyperService::new(router(api.clone(), Room::Plenty)),
            api,
            dir,
        }
    }

    async fn append(&self, partition: &str, sequence: i32, count: i32) {
        let id: TopicPartition = partition.parse().unwrap();
        let partition = self.api.topics.partition(&id).await.unwrap();
        let standing = partition
            .producer(ProducerId::new(1).unwrap())
            .await
            .unwrap();
        partition
            .append(standing.generation, &mut batch(1, sequence, count))
            .await
            .unwrap();
    }

    async fn append_durably(&self, partition: &str, sequence: i32, count: i32) {
        self.append(partition, sequence, count).await;
        self.api.topics.sync_dirty();
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.service.call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(request(Method::GET, path, Some(TOKEN), "")).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(request(Method::POST, path, Some(TOKEN), &body.to_string()))
            .await
    }
}

fn request(method: Method, path: &str, token: Option<&str>, body: &str) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "127.0.0.1:9348");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Every route and who may ask it. A route that is not here fails the test: decide first.
const ACCESS: &[(&str, &str, Access)] = &[
    ("GET", "/healthz", Access::Everybody),
    ("GET", "/readyz", Access::Everybody),
    ("GET", "/metrics", Access::Token),
    ("GET", "/api/v1/topics", Access::Token),
    ("GET", "/api/v1/topics/{topic}/records", Access::Token),
    ("GET", "/api/v1/groups", Access::Token),
    ("GET", "/api/v1/groups/{group}/offsets", Access::Token),
    ("POST", "/api/v1/groups/{group}/offsets", Access::Token),
    ("GET", "/api/v1/agents", Access::Token),
    ("POST", "/api/v1/agents/{id}/revoke", Access::Token),
    ("GET", "/api/v1/tokens", Access::Token),
    ("POST", "/api/v1/tokens", Access::Token),
    ("DELETE", "/api/v1/tokens/{id}", Access::Token),
];

#[tokio::test]
async fn i26_every_route_but_health_asks_for_the_token() {
    let fixture = Fixture::new(&[("logs", 1)]);
    let listed: Vec<(String, &str)> = routes()
        .iter()
        .map(|route| (route.method.to_string(), route.path))
        .collect();
    let expected: Vec<(String, &str)> = ACCESS
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), *path))
        .collect();
    assert_eq!(
        listed, expected,
        "a route without a line in this test's table"
    );

    for (method, path, access) in ACCESS {
        let path = path
            .replace("{topic}", "logs")
            .replace("{group}", "g")
            .replace("{id}", "x");
        for (token, right) in [
            (None, false),
            (Some("wrong"), false),
            (Some(""), false),
            (Some(TOKEN), true),
        ] {
            let request = request(method.parse().unwrap(), &path, token, "{}");
            let answer = fixture.ask(request).await;
            let allowed = right || *access == Access::Everybody;
            let what = format!("{method} {path} with {token:?}: {}", answer.status);
            assert_eq!(answer.status != StatusCode::UNAUTHORIZED, allowed, "{what}");
            if !allowed {
                assert_eq!(answer.code(), "unauthorized", "{what}");
                assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
            }
        }
    }
}

#[tokio::test]
async fn a_foreign_host_name_is_refused_on_every_route() {
    let fixture = Fixture::new(&[]);
    for (method, path, _) in ACCESS {
        let mut request = request(method.parse().unwrap(), path, Some(TOKEN), "{}");
        request
            .headers_mut()
            .insert(header::HOST, "evil.example:9348".parse().unwrap());
        let answer = fixture.ask(request).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        assert_eq!(answer.code(), "host_not_allowed");
    }
}

#[tokio::test]
async fn an_unknown_path_or_method_is_told_in_json() {
    let fixture = Fixture::new(&[]);
    assert_eq!(fixture.get("/api/v2").await.code(), "not_found");
    assert_eq!(
        fixture.post("/api/v1/topics", &json!({})).await.code(),
        "method_not_allowed"
    );
}

#[tokio::test]
async fn records_come_in_order_with_where_to_go_on() {
    let fixture = Fixture::new(&[("logs", 1)]);
    fixture.append_durably("logs-0", 0, 3).await;
    fixture.append_durably("logs-0", 3, 4).await;
    fixture.append("logs-0", 7, 1).await;

    let all = fixture.get("/api/v1/topics/logs/records").await;
    assert_eq!(all.status, StatusCode::OK);
    assert_eq!(all.headers[header::CONTENT_TYPE], "application/x-ndjson");
    let offsets: Vec<i64> = all
        .lines()
        .iter()
        .map(|line| line["offset"].as_i64().unwrap())
        .collect();
    assert_eq!(
        offsets,
        (0..7).collect::<Vec<_>>(),
        "durable ones, each once"
    );
    assert_eq!(
        (
            all.offset("weir-next-offset"),
            all.offset("weir-end-offset")
        ),
        (7, 7)
    );
    let first = &all.lines()[0];
    assert_eq!(first["topic"], "logs");
    assert_eq!(first["partition"], 0);
    assert_eq!(first["value"], "producer 1 record 0");
    assert_eq!(first["key"], Value::Null);
    assert_eq!(first["headers"], json!({}));

    let middle = fixture
        .get("/api/v1/topics/logs/records?partition=0&from=2&max_records=3")
        .await;
    let offsets: Vec<i64> = middle
        .lines()
        .iter()
        .map(|line| line["offset"].as_i64().unwrap())
        .collect();
    assert_eq!(offsets, [2, 3, 4], "begins and ends within a batch");
    assert_eq!(middle.offset("weir-next-offset"), 5);

    let small = fixture
        .get("/api/v1/topics/logs/records?partition=0&from=0&max_bytes=1")
        .await;
    assert_eq!(small.offset("weir-next-offset"), 3, "one batch at least");

    let end = fixture
        .get("/api/v1/topics/logs/records?partition=0&from=end")
        .await;
    assert_eq!((end.body.as_str(), end.offset("weir-next-offset")), ("", 7));
}

#[tokio::test]
async fn batches_are_served_as_they_lie_in_the_log() {
    let fixture = Fixture::new(&[("logs", 1)]);
    fixture.append_durably("logs-0", 0, 3).await;
    let mut ask = request(Method::GET, "/api/v1/topics/logs/records", Some(TOKEN), "");
    ask.headers_mut()
        .insert(header::ACCEPT, "application/octet-stream".parse().unwrap());
    let response = fixture.service.call(ask).await.unwrap();
    assert_eq!(response.headers()["weir-next-offset"], "3");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        commitlog::batch::header::verify(&bytes)
            .unwrap()
            .record_count,
        3
    );
}

#[tokio::test]
async fn a_time_finds_the_first_record_that_is_not_older() {
    let fixture = Fixture::new(&[("logs", 1)]);
    fixture.append_durably("logs-0", 0, 5).await;
    let path = "/api/v1/topics/logs/records?max_records=1&from=";
    for (from, expected) in [
        ("1970-01-01T00:00:00.003Z", 3),
        ("1970-01-01T02:00:00.003+02:00", 3),
        ("1970-01-01T02:00:00.003%2B02:00", 3),
        ("1969-12-31T00:00:00Z", 0),
    ] {
        let answer = fixture.get(&format!("{path}{from}")).await;
        assert_eq!(answer.lines()[0]["offset"], expected, "{from}");
    }
    let later = fixture.get(&format!("{path}2026-01-01T00:00:00Z")).await;
    assert_eq!(
        (later.body.as_str(), later.offset("weir-next-offset")),
        ("", 5)
    );
}

#[tokio::test]
async fn a_long_poll_wakes_when_a_record_becomes_durable() {
    let fixture = Fixture::new(&[("logs", 1)]);
    let poll = fixture.get("/api/v1/topics/logs/records?from=end&wait=50s");
    let write = async {
        // The poll has been polled once: it waits.
        fixture.append("logs-0", 0, 2).await;
        tokio::task::yield_now().await;
        fixture.api.topics.sync_dirty();
    };
    let (answer, ()) = tokio::join!(poll, write);
    assert_eq!(answer.lines().len(), 2);
    assert_eq!(answer.offset("weir-next-offset"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_with_nothing_when_its_time_is_up_or_we_stop() {
    let fixture = Fixture::new(&[("logs", 1)]);
    let begun = tokio::time::Instant::now();
    let answer = fixture.get("/api/v1/topics/logs/records?wait=5s").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, ""));
    assert_eq!(answer.offset("weir-next-offset"), 0);
    assert!(begun.elapsed() >= Duration::from_secs(5));

    fixture.api.shutdown.cancel();
    let begun = tokio::time::Instant::now();
    fixture.get("/api/v1/topics/logs/records?wait=5s").await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_reason() {
    let fixture = Fixture::new(&[("logs", 1), ("many", 3)]);
    fixture.append_durably("logs-0", 0, 2).await;
    for (path, status, code) in [
        ("/api/v1/topics/none/records", 404, "not_found"),
        ("/api/v1/topics/logs/records?partition=1", 404, "not_found"),
        ("/api/v1/topics/many/records", 400, "bad_request"),
        (
            "/api/v1/topics/logs/records?from=yesterday",
            400,
            "bad_request",
        ),
        ("/api/v1/topics/logs/records?from=-1", 400, "bad_request"),
        ("/api/v1/topics/logs/records?wait=5", 400, "bad_request"),
        (
            "/api/v1/topics/logs/records?max_records=0",
            400,
            "bad_request",
        ),
        ("/api/v1/topics/logs/records?form=1", 400, "bad_request"),
        (
            "/api/v1/topics/logs/records?partition=x",
            400,
            "bad_request",
        ),
        (
            "/api/v1/topics/logs/records?from=3",
            416,
            "offset_beyond_end",
        ),
        ("/api/v1/topics/..%2F..%2Fetc/records", 400, "bad_request"),
        ("/api/v1/topics/..%2f/records", 400, "bad_request"),
        ("/api/v1/topics/%2e%2e/records", 400, "bad_request"),
        ("/api/v1/topics/a%00b/records", 400, "bad_request"),
        ("/api/v1/topics/%ff/records", 400, "bad_request"),
    ] {
        let answer = fixture.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{path}"
        );
    }
}

#[tokio::test]
async fn committed_offsets_are_told_again_and_never_pass_the_end() {
    let fixture = Fixture::new(&[("logs", 2)]);
    fixture.append_durably("logs-0", 0, 5).await;
    fixture.append("logs-0", 5, 5).await;
    let path = "/api/v1/groups/billing/offsets";
    assert_eq!(
        fixture.get(path).await.json()["offsets"],
        json!([]),
        "an unknown group has none"
    );

    let commit =
        |offset: i64| json!({"offsets": [{"topic": "logs", "partition": 0, "offset": offset}]});
    let beyond = fixture.post(path, &commit(6)).await;
    assert_eq!(beyond.status, StatusCode::BAD_REQUEST);
    assert!(beyond.body.contains("durable end 5"), "{}", beyond.body);
    assert_eq!(fixture.get(path).await.json()["offsets"], json!([]));

    assert_eq!(fixture.post(path, &commit(5)).await.status, StatusCode::OK);
    let told = fixture.get(path).await.json();
    assert_eq!(told["offsets"][0]["offset"], 5);
    assert_eq!(told["offsets"][0]["end_offset"], 5);
    assert_eq!(
        fixture.get(&format!("{path}?topic=other")).await.json()["offsets"],
        json!([])
    );
    assert_eq!(
        fixture.get("/api/v1/groups").await.json()["groups"][0]["group"],
        "billing"
    );

    for (path, body) in [
        (
            path,
            json!({"offsets": [{"topic": "../x", "partition": 0, "offset": 0}]}),
        ),
        (
            path,
            json!({"offsets": [{"topic": "logs", "partition": 7, "offset": 0}]}),
        ),
        (
            path,
            json!({"offsets": [{"topic": "logs", "partition": 0, "offset": -1}]}),
        ),
        (path, json!({"offset": 1})),
        ("/api/v1/groups/..%2F/offsets", commit(1)),
    ] {
        let answer = fixture.post(path, &body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_REQUEST, "bad_request"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn topics_and_metrics_tell_how_far_each_partition_is() {
    let fixture = Fixture::new(&[("logs", 1)]);
    fixture.append_durably("logs-0", 0, 2).await;
    fixture.append("logs-0", 2, 3).await;
    let topics = fixture.get("/api/v1/topics").await.json();
    let partition = &topics["topics"][0]["partitions"][0];
    assert_eq!(topics["topics"][0]["name"], "logs");
    assert_eq!(
        (
            &partition["start_offset"],
            &partition["end_offset"],
            &partition["appended_offset"]
        ),
        (&json!(0), &json!(2), &json!(5))
    );
    assert!(partition["bytes"].as_u64().unwrap() > 0);
    assert_eq!(partition["segments"], 1);

    let metrics = fixture.get("/metrics").await.body;
    for line in [
        "weir_aggregator_appended_records_total{topic=\"logs\"} 5",
        "weir_aggregator_durable_lag_records{partition=\"0\",topic=\"logs\"} 3",
        "weir_aggregator_partition_end_offset{partition=\"0\",topic=\"logs\"} 2",
        "weir_aggregator_fsync_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

#[tokio::test]
async fn readiness_names_what_is_not_ready() {
    let fixture = Fixture::new(&[]);
    assert_eq!(fixture.get("/readyz").await.status, StatusCode::OK);
    let part = fixture.api.health.expect("the broker");
    let answer = fixture.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["problems"], json!(["the broker is starting"]));
    part.running();
    assert_eq!(fixture.get("/readyz").await.status, StatusCode::OK);
    drop(part);
    assert_eq!(
        fixture.get("/readyz").await.json()["problems"],
        json!(["the broker has ended"])
    );
    assert_eq!(fixture.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let fixture = Fixture::new(&[]);
    let body = json!({"offsets": "x".repeat(HTTP_BODY_BYTES_MAX)});
    let answer = fixture.post("/api/v1/groups/g/offsets", &body).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_damaged_batch_is_told_as_a_gap_and_the_others_are_read() {
    let fixture = Fixture::new(&[("logs", 1)]);
    for sequence in [0, 3, 6] {
        fixture.append_durably("logs-0", sequence, 3).await;
    }
    let log = fixture
        .dir
        .path()
        .join("log/logs-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();

    let answer = fixture.get("/api/v1/topics/logs/records").await;
    let lines = answer.lines();
    let offsets: Vec<Option<i64>> = lines.iter().map(|line| line["offset"].as_i64()).collect();
    let told = [Some(0), Some(1), Some(2), None, Some(6), Some(7), Some(8)];
    assert_eq!(offsets, told, "{}", answer.body);
    let gap = &lines[3]["gap"];
    assert_eq!((&gap["from"], &gap["to"]), (&json!(3), &json!(6)));
    assert!(
        gap["reason"].as_str().unwrap().contains("position"),
        "{gap}"
    );
    assert_eq!(answer.offset("weir-next-offset"), 9);

    let within = fixture
        .get("/api/v1/topics/logs/records?from=4&max_records=2")
        .await;
    let gap = &within.lines()[0]["gap"];
    assert_eq!((&gap["from"], &gap["to"]), (&json!(4), &json!(6)));
    assert_eq!(
        (within.lines().len(), within.offset("weir-next-offset")),
        (1, 6)
    );
}

#[tokio::test]
async fn what_retention_has_deleted_is_gone_and_the_start_is_told() {
    let fixture = Fixture::new(&[("short", 1)]);
    for sequence in 0..3 {
        fixture.append_durably("short-0", sequence, 1).await;
    }
    fixture.api.topics.apply_retention();
    fixture.append_durably("short-0", 3, 1).await;
    fixture.api.topics.apply_retention();
    let gone = fixture.get("/api/v1/topics/short/records?from=0").await;
    assert_eq!(
        (gone.status, gone.code().as_str()),
        (StatusCode::GONE, "offset_trimmed")
    );
    let start = gone.offset("weir-start-offset");
    assert!(start > 0);
    let rest = fixture
        .get("/api/v1/topics/short/records?from=beginning")
        .await;
    assert_eq!(rest.lines()[0]["offset"], start);
}

#[tokio::test]
async fn large_answers_come_in_pieces_and_whole() {
    let fixture = Fixture::new(&[("logs", 1)]);
    let count = 60_000;
    fixture.append_durably("logs-0", 0, count).await;
    let path = "/api/v1/topics/logs/records?max_bytes=100000000";
    let answer = fixture.get(path).await;
    assert!(
        answer.body.len() > NDJSON_PIECE_BYTES,
        "{}",
        answer.body.len()
    );
    let numbers = answer
        .lines()
        .into_iter()
        .map(|line| line["offset"].as_i64().unwrap());
    assert!(numbers.eq(0..i64::from(count)));
    assert_eq!(answer.offset("weir-next-offset"), i64::from(count));
}

/// Slow headers, no request at all, and nothing more after the first request.
#[tokio::test(start_paused = true)]
async fn a_client_that_asks_nothing_does_not_keep_its_connection() {
    let fixture = Fixture::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, fixture.api.clone()));
    let whole = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for sent in ["GET /healthz HTT", "", whole] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        let begun = tokio::time::Instant::now();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(
            answer.starts_with("HTTP/1.1 200"),
            sent == whole,
            "{sent:?}: {answer}"
        );
        assert!(
            begun.elapsed() <= 2 * HTTP_HEADER_TIMEOUT,
            "{sent:?}: {:?}",
            begun.elapsed()
        );
    }
    fixture.api.shutdown.cancel();
    server.await.unwrap();
}

/// The whole answer to one request on a connection of its own.
async fn ask_over(address: std::net::SocketAddr, path: &str) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    let ask = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
         connection: close\r\n\r\n"
    );
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Looks until it holds, and gives up where nobody would wait longer.
async fn in_time(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    let looked = tokio::time::timeout(Duration::from_secs(10), look).await;
    looked.expect(what);
}

/// Whoever watches the process is answered again before its probe gives up.
#[tokio::test(start_paused = true)]
async fn silent_connections_hold_the_places_of_health_for_a_second() {
    let fixture = Fixture::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let places = server::Places {
        shared: 0,
        reserved: 1,
    };
    let server = tokio::spawn(server::serve_at(listener, fixture.api.clone(), places));
    let begun = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut said = String::new();
    silent.read_to_string(&mut said).await.unwrap();
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 408"),
        "{said}"
    );
    let held = begun.elapsed();
    assert!(held <= 2 * HTTP_HEADER_TIMEOUT_RESERVED, "{held:?}");
    let answer = ask_over(address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    fixture.api.shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn a_full_server_answers_health_and_metrics_and_tells_others_to_come_again() {
    let fixture = Fixture::new(&[("logs", 1)]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let places = server::Places {
        shared: 1,
        reserved: 1,
    };
    let server = tokio::spawn(server::serve_at(listener, fixture.api.clone(), places));
    let poll = "/api/v1/topics/logs/records?wait=50s";
    let waiting = tokio::spawn(ask_over(address, poll));
    in_time("the poll waits", async || {
        fixture.api.long_polls.available_permits() == 0
    })
    .await;
    for path in ["/healthz", "/readyz", "/metrics", "/healthz"] {
        let answer = ask_over(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let answer = ask_over(address, "/api/v1/topics").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("connections are in use"), "{answer}");
    // Room again: everything is answered.
    fixture.append_durably("logs-0", 0, 1).await;
    assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200"));
    in_time("there is room", async || {
        let answer = ask_over(address, "/api/v1/topics").await;
        answer.starts_with("HTTP/1.1 200")
    })
    .await;
    fixture.api.shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn a_long_poll_too_many_is_told_to_come_again_and_holds_up_nobody_else() {
    let fixture = Fixture::new(&[("logs", 1)]);
    let _all = fixture.api.long_polls.try_acquire().unwrap();
    let path = "/api/v1/topics/logs/records";
    let refused = fixture.get(&format!("{path}?wait=5s")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.code(), "busy");
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    assert_eq!(fixture.get(path).await.status, StatusCode::OK);
    // What is there already is not waited for.
    fixture.append_durably("logs-0", 0, 1).await;
    let there = fixture.get(&format!("{path}?wait=5s")).await;
    assert_eq!((there.status, there.lines().len()), (StatusCode::OK, 1));
}

#[tokio::test]
async fn an_agent_that_never_came_here_can_be_shut_out() {
    let fixture = Fixture::new(&[]);
    let answer = fixture
        .post("/api/v1/agents/7d0c1f6a/revoke", &Value::Null)
        .await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.body);
    assert_eq!(answer.json()["revoked"], true);
    assert_eq!(answer.json()["known"], false);
    let agents = fixture.get("/api/v1/agents").await.json();
    assert_eq!(agents["agents"][0]["revoked"], true);
    let answer = fixture
        .post("/api/v1/agents/a%20b/revoke", &Value::Null)
        .await;
    assert_eq!(answer.status.as_u16(), 404);
}
