//! What a user sees of the files, and changes about them, while a real agent runs.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::condition::{wait, when};
use weir_tests::limits::{DRAIN_MAX, READY_MAX};
use weir_tests::process::{Wrapper, output, run, text_of};
use weir_tests::programs;
use weir_tests::world::World;

struct Setup {
    world: World,
    aggregator: Aggregator,
    agent: Agent,
}

/// An agent that follows `logs/*.log`.
fn setup() -> Result<Setup> {
    let world = World::new()?;
    fs::create_dir(world.path("logs"))?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let agent = Agent::start(&world, "agent", &options, &aggregator)?;
    Ok(Setup {
        world,
        aggregator,
        agent,
    })
}

impl Setup {
    fn append(&self, name: &str, text: &str) -> Result<()> {
        let path = self.world.path("logs").join(name);
        let mut file = fs::File::options().create(true).append(true).open(path)?;
        Ok(file.write_all(text.as_bytes())?)
    }

    fn files_command(&self) -> Result<Command> {
        let mut command = Command::new(programs::weir_agent()?);
        command
            .args(["files", "--data-dir"])
            .arg(&self.agent.data_dir);
        Ok(command)
    }

    /// What `weir-agent files --json` tells.
    fn files(&self) -> Result<Value> {
        let told = run(self.files_command()?.arg("--json"))?;
        serde_json::from_str(&told).with_context(|| told)
    }

    /// Waits until so many bytes of a file are committed; its row.
    fn await_committed(&self, name: &str, bytes: u64) -> Result<Value> {
        let mut row = Value::Null;
        wait("the file's bytes committed", READY_MAX, || {
            let told = self.files()?;
            let rows = told["files"].as_array().cloned().unwrap_or_default();
            let found = rows.into_iter().find(|row| {
                row["path"]
                    .as_str()
                    .is_some_and(|path| path.ends_with(name))
            });
            row = found.unwrap_or_default();
            when(row["committed_offset"] == bytes, || told.to_string())
        })?;
        Ok(row)
    }

    fn await_records(&self, topic: &str, records: u64) -> Result<()> {
        let api = self.aggregator.api();
        wait("records durable", DRAIN_MAX, || {
            let durable = api.durable_records(topic).unwrap_or_default();
            when(durable >= records, || format!("{durable} of {records}"))
        })
    }

    /// Waits until the agent's log has a line with these words.
    fn await_said(&self, words: &[&str]) -> Result<()> {
        wait(&format!("{words:?} in the log"), READY_MAX, || {
            let log = fs::read_to_string(self.agent.log())?;
            let mut lines = log.lines();
            let is_said = lines.any(|line| words.iter().all(|word| line.contains(word)));
            when(is_said, || log.clone())
        })
    }

    fn rewrite_config(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let text = fs::read_to_string(self.agent.config())?;
        Ok(fs::write(self.agent.config(), change(text))?)
    }

    fn reload(&mut self) -> Result<()> {
        self.agent.process()?.signal(Signal::HUP)
    }
}

#[test]
fn files_are_told_by_a_running_agent_and_by_the_spool_of_a_stopped_one() -> Result<()> {
    let mut setup = setup()?;
    setup.append("a.log", "one\ntwo\nunfinished")?;
    let row = setup.await_committed("a.log", 8)?;
    ensure!(row["lag_bytes"] == 10, "{row}");
    ensure!(row["state"] == "unfinished_line", "{row}");
    let table = run(&mut setup.files_command()?)?;
    ensure!(
        table.contains("its last line has no newline yet"),
        "{table}"
    );
    setup.agent.kill()?;
    setup.append("a.log", " no more\n")?;
    let told = setup.files()?;
    ensure!(told["running"] == false, "{told}");
    let row = &told["files"][0];
    ensure!(
        row["committed_offset"] == 8 && row["lag_bytes"] == 19,
        "{row}"
    );
    // What a killed agent left does not keep the next one from its socket.
    setup.agent.restart()?;
    let row = setup.await_committed("a.log", 27)?;
    ensure!(row["state"] == "at_end", "{row}");
    Ok(())
}

#[test]
fn unread_bytes_of_files_are_told_to_the_aggregator() -> Result<()> {
    let setup = setup()?;
    setup.append("a.log", "one\nunfinished")?;
    setup.await_records("logs", 1)?;
    wait("the agent's unread bytes", READY_MAX, || {
        let mut command = setup.aggregator.weir(&["agents", "--json"])?;
        let told: Value = serde_json::from_str(&run(&mut command)?)?;
        let unread = &told["agents"][0]["unread_bytes"];
        when(*unread == 10, || told.to_string())
    })
}

#[test]
fn sighup_takes_over_what_has_changed_and_keeps_every_offset() -> Result<()> {
    let mut setup = setup()?;
    setup.append("a.log", "one\n")?;
    setup.append("b.log", "one\n")?;
    setup.append("c.txt", "one\n")?;
    setup.await_records("logs", 2)?;
    let excluded = setup.world.path("logs/b.log");
    let more = setup.world.path("logs/*.txt");
    setup.rewrite_config(|text| {
        let exclude = format!("topic: moved, exclude: [\"{}\"]", excluded.display());
        let text = text.replace("topic: logs", &exclude);
        let text = text.replace("host_name: agent", "host_name: other");
        format!(
            "{text}  more: {{files: [\"{}\"], topic: more}}\n",
            more.display()
        )
    })?;
    setup.reload()?;
    setup.await_said(&["configuration reloaded", "changes=3"])?;
    setup.await_said(&["agent.host_name", "restart to apply"])?;
    setup.await_said(&["logs.app.topic", "logs", "moved"])?;
    setup.append("a.log", "two\n")?;
    setup.append("b.log", "two\n")?;
    setup.await_records("moved", 1)?;
    setup.await_records("more", 1)?;
    let api = setup.aggregator.api();
    ensure!(api.durable_records("logs")? == 2, "the old topic got more");
    ensure!(api.durable_records("moved")? == 1, "a line came twice");
    Ok(())
}

#[test]
fn a_file_with_a_mistake_changes_nothing_at_sighup() -> Result<()> {
    let mut setup = setup()?;
    setup.append("a.log", "one\n")?;
    setup.await_records("logs", 1)?;
    setup.rewrite_config(|text| text.replace("topic: logs", "topick: moved"))?;
    setup.reload()?;
    setup.await_said(&["configuration is not reloaded", "topick"])?;
    setup.append("a.log", "two\n")?;
    setup.await_records("logs", 2)?;
    setup.agent.process()?.expect_running()
}

#[test]
fn a_second_agent_on_the_same_data_is_refused_with_the_pid_of_the_first() -> Result<()> {
    let mut setup = setup()?;
    setup.append("a.log", "one\n")?;
    setup.await_records("logs", 1)?;
    let first = setup.agent.process()?.id();
    let refused = output(&mut setup.agent.command(&Wrapper::default())?)?;
    let said = text_of(&refused);
    ensure!(!refused.status.success(), "{said}");
    ensure!(said.contains(&format!("process {first}")), "{said}");
    // The first has noticed nothing, its socket is still its own.
    ensure!(setup.files()?["running"] == true);
    Ok(())
}

#[test]
fn a_file_that_two_entries_match_goes_to_both_and_check_warns() -> Result<()> {
    let mut setup = setup()?;
    setup.append("a.log", "one\ntwo\n")?;
    setup.await_records("logs", 2)?;
    let same = setup.world.path("logs/a.*");
    setup.rewrite_config(|text| {
        format!(
            "{text}  more: {{files: [\"{}\"], topic: more}}\n",
            same.display()
        )
    })?;
    let mut command = Command::new(programs::weir_agent()?);
    command
        .arg("check")
        .arg("--config")
        .arg(setup.agent.config());
    let said = run(&mut command)?;
    ensure!(said.contains("logs.app and logs.more both match"), "{said}");
    let told: Value = serde_json::from_str(&run(command.arg("--json"))?)?;
    ensure!(
        told["ok"] == true && told["warnings"].to_string().contains("both match"),
        "{told}"
    );
    setup.reload()?;
    setup.append("a.log", "three\n")?;
    setup.await_records("logs", 3)?;
    setup.await_records("more", 3)
}
