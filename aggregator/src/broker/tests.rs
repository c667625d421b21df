use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use commitlog::storage::faulty::FaultyDisk;
use quinn::{Endpoint, EndpointConfig, ServerConfig, VarInt};

use super::transport::{BoxFuture, Listener, SystemTransport, Transport};
use super::{Broker, BrokerParts};
use crate::agents::Agents;
use crate::blocking::Blocking;
use crate::health::Health;
use crate::identity::tests::world::World;
use crate::telemetry::Telemetry;
use crate::topics::Topics;
use crate::topics::tests::config;

/// One without topics.
pub(super) fn broker(world: &World, transport: Arc<dyn Transport>) -> Broker {
    broker_on(FaultyDisk::new(), world, transport)
}

pub(super) fn broker_on(disk: FaultyDisk, world: &World, transport: Arc<dyn Transport>) -> Broker {
    let clock = Arc::clone(&world.parts.clock);
    let topics = Topics::open(
        config(Path::new("/data/log"), &[]),
        Arc::new(disk),
        Arc::clone(&clock),
        Blocking::Inline,
        Telemetry::new(),
    );
    Broker::new(BrokerParts {
        topics: topics.unwrap(),
        authority: world.authority.clone(),
        agents: Agents::new(Vec::new(), clock, Telemetry::new()),
        advertised: Vec::new(),
        health: Health::default(),
        transport,
        reset_key: [7; 32],
    })
}

/// The system's network, with a hold on what it gave.
#[derive(Default)]
struct Held(Mutex<Option<Endpoint>>);

impl Transport for Held {
    fn quic(
        &self,
        at: SocketAddr,
        endpoint: EndpointConfig,
        server: ServerConfig,
    ) -> std::io::Result<Endpoint> {
        let endpoint = SystemTransport.quic(at, endpoint, server)?;
        *self.0.lock().unwrap() = Some(endpoint.clone());
        Ok(endpoint)
    }

    fn tcp(&self, at: SocketAddr) -> BoxFuture<'_, std::io::Result<Box<dyn Listener>>> {
        SystemTransport.tcp(at)
    }
}

#[tokio::test]
async fn a_listener_that_died_makes_it_unready() {
    let world = World::new();
    let transport = Arc::new(Held::default());
    let broker = broker(&world, Arc::<Held>::clone(&transport));
    broker.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let problems = || broker.health.problems(&broker.topics);
    assert!(problems().is_empty(), "{:?}", problems());
    let endpoint = transport.0.lock().unwrap().take().unwrap();
    endpoint.close(VarInt::from_u32(0), b"");
    let unready = async {
        while problems().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(10), unready).await;
    in_time.expect("it stays ready");
    assert_eq!(problems(), ["the QUIC listener has ended"]);
    broker.shut_down().await;
}
