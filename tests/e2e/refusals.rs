//! What is refused, and that the refusal says what to do. Every case is two real programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::condition::{Seen, wait, when};
use weir_tests::limits::{DRAIN_MAX, READY_MAX};
use weir_tests::oracle::reader::{Reader, WriterProcess, plan_in};
use weir_tests::oracle::writer::Plan;
use weir_tests::process::{Wrapper, output, run, text_of};
use weir_tests::skip::{missing_program, not_root, skip};
use weir_tests::world::World;

/// An aggregator and an agent that has neither joined nor started.
fn strangers(world: &World) -> Result<(Aggregator, Agent)> {
    let aggregator = Aggregator::start(world, &AggregatorOptions::default())?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let agent = Agent::prepare(world, "agent", &options, aggregator.ship)?;
    Ok((aggregator, agent))
}

/// Joining must fail and say each of the words, in any case.
fn refused(agent: &Agent, token: &str, words: &[&str]) -> Result<()> {
    let output = agent.try_join(token)?;
    let text = text_of(&output).to_lowercase();
    ensure!(
        !output.status.success(),
        "joined although it should be refused: {text}"
    );
    for word in words {
        ensure!(
            text.contains(word),
            "the refusal does not say {word:?}: {text}"
        );
    }
    ensure!(!text.contains("panicked"), "it panicked: {text}");
    ensure!(!text.contains(token), "it shows the token: {text}");
    Ok(())
}

#[test]
fn a_token_that_is_used_up_is_refused() -> Result<()> {
    let world = World::new()?;
    let (aggregator, first) = strangers(&world)?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let second = Agent::prepare(&world, "second", &options, aggregator.ship)?;
    let token = aggregator.token(&["--uses", "1"])?;
    first.join(&token)?;
    refused(&second, &token, &["used", "weir token create"])
}

#[test]
fn an_expired_token_is_refused() -> Result<()> {
    let world = World::new()?;
    let (aggregator, agent) = strangers(&world)?;
    let token = aggregator.token(&["--ttl", "1s", "--uses", "1000000"])?;
    // Its time runs out while others use it; the first refusal is the one to look at.
    wait("a token past its time", READY_MAX, || {
        drop(fs::remove_dir_all(&agent.data_dir));
        let output = agent.try_join(&token)?;
        when(!output.status.success(), || "still good".to_owned())
    })?;
    refused(&agent, &token, &["expired", "weir token create"])
}

#[test]
fn a_revoked_token_is_refused() -> Result<()> {
    let world = World::new()?;
    let (aggregator, agent) = strangers(&world)?;
    let token = aggregator.token(&[])?;
    let id = token.split('.').nth(2).context("a token has an id")?;
    run(&mut aggregator.weir(&["token", "revoke", id])?)?;
    refused(&agent, &token, &["revoked", "weir token create"])
}

#[test]
fn a_revocation_of_somebody_unknown_is_told_and_fails() -> Result<()> {
    let world = World::new()?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    for (arguments, words) in [
        (["token", "revoke", "aaaaaaaa"], "there is no token"),
        (
            ["agents", "revoke", "mistyped"],
            "no agent mistyped has joined or connected here",
        ),
    ] {
        let output = output(&mut aggregator.weir(&arguments)?)?;
        let text = text_of(&output);
        ensure!(
            output.status.code() == Some(1) && text.contains(words),
            "{arguments:?}: {} {text}",
            output.status
        );
    }
    Ok(())
}

#[test]
fn another_aggregators_token_is_refused_by_its_pin() -> Result<()> {
    let world = World::new()?;
    let (aggregator, agent) = strangers(&world)?;
    let mut other = Aggregator::prepare(&world, "other", &AggregatorOptions::default())?;
    other.spawn(&Wrapper::default())?;
    other.await_ready()?;
    let token = other.token(&[])?;
    let secret = token.split('@').next().context("a token has an address")?;
    let pin = secret.split('.').nth(1).context("a token has a pin")?;
    refused(
        &agent,
        &format!("{secret}@{}", aggregator.ship),
        &[pin, "authority"],
    )
}

#[test]
fn a_damaged_token_is_refused_before_anything_is_asked() -> Result<()> {
    let world = World::new()?;
    let (aggregator, agent) = strangers(&world)?;
    let token = aggregator.token(&[])?;
    let (open, address) = token.split_once('@').context("a token has an address")?;
    refused(
        &agent,
        &format!("{}@{address}", &open[..open.len() - 1]),
        &["damaged", "copy it"],
    )?;
    refused(
        &agent,
        "weir1.nonsense",
        &["not a join token", "weir token create"],
    )
}

#[test]
fn an_agent_that_has_not_joined_says_how() -> Result<()> {
    let world = World::new()?;
    let (_aggregator, agent) = strangers(&world)?;
    let output = output(&mut agent.command(&Wrapper::default())?)?;
    let text = text_of(&output);
    ensure!(
        !output.status.success(),
        "it runs without an identity: {text}"
    );
    ensure!(
        text.contains("weir-agent join"),
        "it does not say how to join: {text}"
    );
    Ok(())
}

#[test]
fn a_revoked_agent_is_turned_away_and_keeps_its_lines() -> Result<()> {
    let world = World::new()?;
    let (aggregator, mut agent) = strangers(&world)?;
    agent.join(&aggregator.token(&[])?)?;
    agent.spawn(&Wrapper::default())?;
    let plan = Plan {
        rate: 0,
        lines: Some(100),
        ..plan_in(&world)
    };
    WriterProcess::start(&plan)?.finish()?;
    let api = aggregator.api();
    wait("the first lines", DRAIN_MAX, || {
        let durable = api.durable_records("logs")?;
        when(durable == 100, || format!("{durable} lines"))
    })?;
    let id = api
        .agents()?
        .first()
        .context("an agent is known")?
        .id
        .clone();
    let (status, body) = api.post(&format!("/api/v1/agents/{id}/revoke"), &json!({}))?;
    ensure!(status < 300, "revoking: {status} {body}");
    let said = || fs::read_to_string(agent.log()).unwrap_or_default();
    wait("the agent saying that it was revoked", READY_MAX, || {
        when(said().contains("revoked"), || {
            "it says nothing of it".to_owned()
        })
    })?;
    WriterProcess::start(&Plan { writer: 1, ..plan })?.finish()?;
    agent.process()?.expect_running()?;
    let seen = api.agents()?;
    ensure!(
        seen.iter().all(|agent| agent.revoked && !agent.connected),
        "{seen:?}"
    );
    ensure!(
        api.durable_records("logs")? == 100,
        "lines of a revoked agent were taken"
    );
    Ok(())
}

#[test]
fn a_second_process_on_a_data_folder_is_refused() -> Result<()> {
    let world = World::new()?;
    let (mut aggregator, mut agent) = strangers(&world)?;
    agent.join(&aggregator.token(&[])?)?;
    agent.spawn(&Wrapper::default())?;
    wait("an agent at work", READY_MAX, || {
        let agents = aggregator.api().agents()?;
        when(agents.iter().any(|agent| agent.connected), || {
            format!("{agents:?}")
        })
    })?;
    let second = output(&mut agent.command(&Wrapper::default())?)?;
    let holder = agent.process()?.id().to_string();
    says_who_holds(&second, &agent.data_dir, &holder)?;

    let data_dir = Some(aggregator.data_dir.clone());
    let options = AggregatorOptions {
        data_dir,
        ..AggregatorOptions::default()
    };
    let mut second = Aggregator::prepare(&world, "second", &options)?;
    second.spawn(&Wrapper::default())?;
    let status = second.process()?.await_end(READY_MAX)?;
    ensure!(
        !status.success(),
        "a second aggregator runs on the same folder"
    );
    let said = fs::read_to_string(second.log())?;
    let holder = aggregator.process()?.id().to_string();
    ensure!(
        said.contains(&holder),
        "the holder {holder} is not named: {said}"
    );
    aggregator.process()?.expect_running()
}

fn says_who_holds(output: &std::process::Output, folder: &Path, holder: &str) -> Result<()> {
    let text = text_of(output);
    ensure!(
        !output.status.success(),
        "a second process runs on the same folder: {text}"
    );
    ensure!(
        text.contains(&folder.display().to_string()),
        "the folder is not named: {text}"
    );
    ensure!(
        text.contains(holder),
        "the holder {holder} is not named: {text}"
    );
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let world = World::new()?;
    let mut aggregator = Aggregator::prepare(&world, "aggregator", &AggregatorOptions::default())?;
    for taken in [aggregator.ship, aggregator.http] {
        let _holder = std::net::TcpListener::bind(taken)?;
        aggregator.spawn(&Wrapper::default())?;
        let status = aggregator.process()?.await_end(READY_MAX)?;
        let said = fs::read_to_string(aggregator.log())?;
        ensure!(
            !status.success(),
            "it runs although {taken} is taken: {said}"
        );
        says_who_has_the_port(&said, taken)?;
    }
    Ok(())
}

fn says_who_has_the_port(said: &str, taken: std::net::SocketAddr) -> Result<()> {
    let error = said.lines().last().unwrap_or_default();
    ensure!(
        error.matches(&taken.to_string()).count() == 1
            && error.matches("another process has this port").count() == 1
            && !error.to_lowercase().contains("already in use"),
        "the port {taken} is not told once, with what to do: {said}"
    );
    Ok(())
}

#[test]
fn a_taken_port_of_an_agent_is_named() -> Result<()> {
    let world = World::new()?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let holder = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = holder.local_addr()?;
    let mut options = AgentOptions::tailing(&[world.path("*.log")]);
    options.agent_more = format!("http: \"{taken}\"");
    let mut agent = Agent::start(&world, "agent", &options, &aggregator)?;
    let status = agent.process()?.await_end(READY_MAX)?;
    let said = fs::read_to_string(agent.log())?;
    ensure!(
        !status.success(),
        "it runs although {taken} is taken: {said}"
    );
    ensure!(
        said.contains("agent.http"),
        "no word of what to change: {said}"
    );
    says_who_has_the_port(&said, taken)
}

#[test]
fn path_tricks_in_topic_names_reach_no_file() -> Result<()> {
    let world = World::new()?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let before = listing(world.folder())?;
    let api = aggregator.api();
    let names = [
        "..",
        ".",
        "..%2f..%2fetc",
        "%2e%2e%2fca",
        "a%2fb",
        "a%00b",
        "%2Fetc%2Fpasswd",
        "-x%0a",
    ];
    for name in names {
        let (status, body) = api.get(&format!("/api/v1/topics/{name}/records?partition=0"))?;
        ensure!((400..500).contains(&status), "{name}: {status} {body}");
    }
    let long = "x".repeat(300);
    let (status, body) = api.get(&format!("/api/v1/topics/{long}/records?partition=0"))?;
    ensure!((400..500).contains(&status), "a long name: {status} {body}");
    for name in ["../x", "a/b", "..", ""] {
        let body = json!({"offsets": [{"topic": name, "partition": 0, "offset": 1}]});
        let (status, body) = api.post("/api/v1/groups/g/offsets", &body)?;
        ensure!((400..500).contains(&status), "{name:?}: {status} {body}");
    }
    ensure!(
        listing(world.folder())? == before,
        "a refused name made a file"
    );
    let bad = world.write(
        "bad.yaml",
        "ship: {to: [\"localhost:1\"]}\nlogs:\n  a: {files: [/tmp/none], topic: ../x}\n",
    )?;
    let mut check = Command::new(weir_tests::programs::weir_agent()?);
    let checked = output(check.arg("check").arg("--config").arg(bad))?;
    let text = text_of(&checked);
    ensure!(
        !checked.status.success() && text.contains("bad.yaml:3:"),
        "check says: {text}"
    );
    Ok(())
}

/// The names of all folders and files below, without the logs' sizes.
fn listing(folder: &Path) -> Result<Vec<String>> {
    let text = run(Command::new("find")
        .arg(folder)
        .args(["-not", "-name", "*.tmp"]))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

#[test]
fn http_asks_for_the_token() -> Result<()> {
    let world = World::new()?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    for path in [
        "/api/v1/topics",
        "/api/v1/agents",
        "/api/v1/tokens",
        "/metrics",
        "/api/v1/groups",
    ] {
        for token in [None, Some("wrong"), Some("")] {
            let (status, body) = aggregator.api().with_token(token).get(path)?;
            ensure!(status == 401, "{path} with {token:?}: {status} {body}");
        }
        ensure!(
            aggregator.api().get(path)?.0 == 200,
            "{path} with the admin token"
        );
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(aggregator.token_file())?.permissions(),
    );
    ensure!(mode & 0o777 == 0o600, "the admin token has mode {mode:o}");
    Ok(())
}

/// A small disk of its own, in memory.
struct SmallDisk<'a>(&'a Path);

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("-l").arg(self.0)));
    }
}

#[test]
fn a_full_disk_stops_the_flow_and_drops_nothing() -> Result<()> {
    let test = "a_full_disk_stops_the_flow_and_drops_nothing";
    if let Some(why) = not_root().or_else(|| missing_program(&["mount", "umount"])) {
        skip(test, &why);
        return Ok(());
    }
    let world = World::new()?;
    let small = world.path("small");
    fs::create_dir(&small)?;
    let mounted = run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64m", "none"])
        .arg(&small));
    if let Err(why) = mounted {
        skip(test, &format!("{why:#}"));
        return Ok(());
    }
    let _small_disk = SmallDisk(&small);
    let data_dir = Some(small.join("data"));
    let options = AggregatorOptions {
        data_dir,
        ..AggregatorOptions::default()
    };
    let mut aggregator = Aggregator::start(&world, &options)?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let mut agent = Agent::start(&world, "agent", &options, &aggregator)?;
    let api = aggregator.api();
    let plan = Plan {
        rate: 0,
        lines: Some(1_000),
        ..plan_in(&world)
    };
    let mut written = WriterProcess::start(&plan)?.finish()?;
    wait("the first lines", DRAIN_MAX, || {
        let durable = api.durable_records("logs")?;
        when(durable == 1_000, || format!("{durable} lines"))
    })?;

    // Somebody else fills the disk past the high-water mark.
    let ballast = small.join("ballast");
    fs::write(&ballast, vec![0; 60 << 20])?;
    let more = Plan {
        writer: 1,
        rate: 0,
        lines: Some(200_000),
        ..plan.clone()
    };
    written.extend(WriterProcess::start(&more)?.finish()?);
    let mut seen = 0;
    let mut still_for = 0;
    wait("an aggregator that takes no more", DRAIN_MAX, || {
        let durable = api.durable_records("logs")?;
        still_for = if durable == seen { still_for + 1 } else { 0 };
        seen = durable;
        // A second of stillness: a hundred looks.
        Ok(if still_for > 100 {
            Seen::Yes(())
        } else {
            Seen::no(durable)
        })
    })?;
    ensure!(seen < 201_000, "all lines were taken onto a full disk");
    aggregator.process()?.expect_running()?;
    agent.process()?.expect_running()?;
    ensure!(
        api.is_ready().is_ok(),
        "HTTP does not answer on a full disk"
    );

    fs::remove_file(&ballast)?;
    let reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    ensure!(verdict.is_clean(), "{verdict}");
    agent.terminate()?;
    aggregator.terminate()
}
