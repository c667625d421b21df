//! An aggregator that sends agents elsewhere.

use std::sync::Arc;

use commitlog::wire::message::ToProducer;
use quinn::Endpoint;
use quinn::crypto::rustls::QuicServerConfig;

use crate::any_port;
use crate::rig::{Agent, Aggregator, assert_lines, numbered_lines, partition, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let tls = aggregator.authority.server_tls().unwrap();
    let tls = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let signpost = Endpoint::server(config, any_port()).unwrap();
    let address = signpost.local_addr().unwrap();
    let elsewhere = aggregator.address.to_string();
    tokio::spawn(async move {
        while let Some(incoming) = signpost.accept().await {
            let connection = incoming.await.unwrap();
            let (mut send, _receive) = connection.accept_bi().await.unwrap();
            let mut bytes = Vec::new();
            let redirect = ToProducer::Redirect {
                addresses: vec![elsewhere.clone()],
                reason: "this one only points".to_owned(),
            };
            redirect.encode(&mut bytes);
            send.write_all(&bytes).await.unwrap();
            connection.closed().await;
        }
    });
    let (agent, logs) = (Agent::new(), partition("logs-2"));
    agent.write_numbered(&logs, 0, 100);
    let shipping = agent.ship(&[address], aggregator.enrol("a").await);
    until("all is acknowledged", async || agent.is_empty()).await;
    assert_lines(
        &aggregator.lines(&logs).await,
        &numbered_lines(&logs, 100),
        "",
    );
    shipping.stop().await;
    aggregator.stop().await;
}
