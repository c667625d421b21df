//! A network that lets no UDP through: the same frames go over TCP, and back to QUIC later.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::condition::{Seen, wait, when};
use weir_tests::limits::{DRAIN_MAX, READY_MAX};
use weir_tests::namespace::Namespace;
use weir_tests::oracle::reader::{Reader, WriterProcess, plan_in};
use weir_tests::oracle::writer::Plan;
use weir_tests::skip::{missing_program, not_root, skip};
use weir_tests::world::World;

/// The promise: blocked UDP costs at most this much.
const FALLBACK_MAX: Duration = Duration::from_secs(3);

#[test]
fn blocked_udp_ships_over_tcp_and_returns_to_quic() -> Result<()> {
    if let Some(why) = not_root().or_else(|| missing_program(&["ip", "nft"])) {
        skip("blocked_udp_ships_over_tcp_and_returns_to_quic", &why);
        return Ok(());
    }
    let world = World::new()?;
    let host = Namespace::new()?;
    let options = AggregatorOptions {
        ip: host.outer(),
        ..AggregatorOptions::default()
    };
    let aggregator = Aggregator::start(&world, &options)?;
    let plan = Plan {
        rate: 0,
        lines: Some(1_000),
        ..plan_in(&world)
    };
    let mut written = WriterProcess::start(&plan)?.finish()?;
    let mut options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    options.wrapper = host.wrapper();
    let mut agent = Agent::prepare(&world, "agent", &options, aggregator.ship)?;
    agent.join(&aggregator.token(&[])?)?;

    let blocked = format!(
        "table inet f {{\n chain out {{\n type filter hook output priority 0;\n \
         udp dport {} drop\n }}\n}}",
        aggregator.ship.port()
    );
    host.firewall(&blocked)?;
    let started = Instant::now();
    agent.spawn(&options.wrapper.clone())?;
    let api = aggregator.api();
    wait("lines over TCP", READY_MAX, || {
        let durable = api.durable_records("logs")?;
        when(durable >= 1_000, || format!("{durable} lines"))
    })?;
    let took = started.elapsed();
    ensure!(
        took <= FALLBACK_MAX,
        "shipping over TCP began after {took:?}"
    );
    await_transport(&aggregator, "tcp", READY_MAX)?;

    host.firewall("")?;
    // An agent in its first minutes on TCP would try QUIC again by itself, later than a test waits;
    // one that starts anew takes it at once. `tests/wire` shows the return by itself.
    agent.terminate()?;
    agent.spawn(&options.wrapper.clone())?;
    await_transport(&aggregator, "quic", READY_MAX)?;
    // A connection that loses its UDP later falls back as well, and nothing is lost on the way.
    host.firewall(&blocked)?;
    let plan = Plan { writer: 1, ..plan };
    written.extend(WriterProcess::start(&plan)?.finish()?);
    await_transport(&aggregator, "tcp", DRAIN_MAX)?;
    let reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    ensure!(verdict.is_clean(), "{verdict}");
    agent.terminate()
}

fn await_transport(aggregator: &Aggregator, transport: &str, within: Duration) -> Result<()> {
    let api = aggregator.api();
    wait(&format!("the agent on {transport}"), within, || {
        let agents = api.agents()?;
        let is_there = agents
            .iter()
            .any(|agent| agent.connected && agent.transport.as_deref() == Some(transport));
        Ok(if is_there {
            Seen::Yes(())
        } else {
            Seen::No(format!("{agents:?}"))
        })
    })
}
