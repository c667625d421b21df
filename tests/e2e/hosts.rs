//! Two hosts, each a network namespace of its own, join one aggregator by token and ship.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::limits::DRAIN_MAX;
use weir_tests::namespace::Namespace;
use weir_tests::oracle::checker::Written;
use weir_tests::oracle::reader::{Reader, WriterProcess, plan_in};
use weir_tests::oracle::writer::Plan;
use weir_tests::skip::{missing_program, not_root, skip};
use weir_tests::world::World;

#[test]
fn two_hosts_join_by_token_and_ship() -> Result<()> {
    if let Some(why) = not_root().or_else(|| missing_program(&["ip"])) {
        skip("two_hosts_join_by_token_and_ship", &why);
        return Ok(());
    }
    let world = World::new()?;
    let hosts = [Namespace::new()?, Namespace::new()?];
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let options = AggregatorOptions {
        ip: any,
        ..AggregatorOptions::default()
    };
    let aggregator = Aggregator::start(&world, &options)?;
    let mut written = Written::new();
    let mut agents = Vec::new();
    for (writer, host) in (0..).zip(&hosts) {
        let name = format!("host{writer}");
        let plan = Plan {
            writer,
            dir: world.path(&name),
            ..plan_in(&world)
        };
        let plan = Plan {
            rate: 0,
            lines: Some(5_000),
            ..plan
        };
        let mut options = AgentOptions::tailing(&[plan.dir.join("*.log")]);
        options.wrapper = host.wrapper();
        let agent = join_and_run(
            &world,
            &format!("agent{writer}"),
            &options,
            &aggregator,
            host,
        )?;
        agents.push(agent);
        written.extend(WriterProcess::start(&plan)?.finish()?);
    }
    let reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    ensure!(verdict.is_clean(), "{verdict}");
    let seen = aggregator.api().agents()?;
    let connected: Vec<_> = seen.iter().filter(|agent| agent.connected).collect();
    ensure!(connected.len() == 2, "two agents are connected: {seen:?}");
    Ok(())
}

/// Joins from inside the namespace, at the address that the host sees the aggregator under.
fn join_and_run(
    world: &World,
    name: &str,
    options: &AgentOptions,
    aggregator: &Aggregator,
    host: &Namespace,
) -> Result<Agent> {
    let mut ship_to = aggregator.ship;
    ship_to.set_ip(host.outer());
    let mut agent = Agent::prepare(world, name, options, ship_to)?;
    let token = aggregator.token(&[])?;
    let secret = token.split('@').next().unwrap_or(&token);
    agent.join(&format!("{secret}@{ship_to}"))?;
    agent.spawn(&options.wrapper)?;
    Ok(agent)
}
