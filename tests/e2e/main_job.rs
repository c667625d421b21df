//! The main job on real logs: `weir up` tails files, `weir tail` prints exactly their lines.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::api::{Entry, Fetch};
use weir_tests::condition::{Seen, wait, when};
use weir_tests::limits::{DRAIN_MAX, FETCH_BYTES, READY_MAX};
use weir_tests::process::{Process, run};
use weir_tests::programs;
use weir_tests::skip::skip;
use weir_tests::world::{World, free_loopback};

/// The folder with real logs: `WEIR_SHARED`, or `shared` beside the repository.
fn loghub() -> Option<PathBuf> {
    let beside = || {
        programs::repository()
            .parent()
            .map(|parent| parent.join("shared"))
    };
    let shared = std::env::var_os("WEIR_SHARED")
        .map(PathBuf::from)
        .or_else(beside)?;
    let folder = shared.join("data/loghub");
    folder.is_dir().then_some(folder)
}

/// Copies of the logs, and their lines as the agent must deliver them.
fn copy_logs(from: &Path, to: &Path) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
    fs::create_dir_all(to)?;
    let mut lines = BTreeMap::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let mut bytes = fs::read(entry.path())?;
        // A last line without its newline is not finished, and an agent rightly waits for the rest.
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        let copy = to.join(entry.file_name());
        fs::write(&copy, &bytes)?;
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let split = body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
        lines.insert(copy.display().to_string(), split.collect());
    }
    Ok(lines)
}

/// Every record of the topic, by the file it came from, in the order of its partition.
fn delivered(aggregator: &Aggregator) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
    let api = aggregator.api();
    let mut lines: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for partition in api.partitions("logs")? {
        let mut from = partition.start_offset;
        while from < partition.end_offset {
            let fetch = Fetch {
                from,
                bytes_max: FETCH_BYTES,
                wait_ms: 0,
            };
            let fetched = api.records("logs", partition.partition, fetch)?;
            for entry in fetched.entries {
                let Entry::Record(record) = entry else {
                    anyhow::bail!("a gap: {entry:?}")
                };
                let file = record
                    .header("log.file.path")
                    .context("a record without its file")?;
                lines
                    .entry(file.to_owned())
                    .or_default()
                    .push(record.value()?);
            }
            from = fetched.next_offset;
        }
    }
    Ok(lines)
}

#[test]
fn real_logs_arrive_line_by_line_in_order() -> Result<()> {
    let Some(loghub) = loghub() else {
        skip(
            "real_logs_arrive_line_by_line_in_order",
            "no shared/data/loghub (WEIR_SHARED)",
        );
        return Ok(());
    };
    let world = World::new()?;
    let expected = copy_logs(&loghub, &world.path("logs"))?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let _agent = Agent::start(&world, "agent", &options, &aggregator)?;
    let total: u64 = expected.values().map(|lines| lines.len() as u64).sum();
    let api = aggregator.api();
    wait("every line durable", DRAIN_MAX, || {
        let durable = api.durable_records("logs")?;
        when(durable >= total, || format!("{durable} of {total}"))
    })?;
    let delivered = delivered(&aggregator)?;
    for (file, lines) in &expected {
        let got = delivered
            .get(file)
            .with_context(|| format!("nothing of {file}"))?;
        let differs = lines
            .iter()
            .zip(got)
            .position(|(left, right)| left != right);
        ensure!(differs.is_none(), "{file}: line {differs:?} differs");
        ensure!(
            lines.len() == got.len(),
            "{file}: {} lines became {}",
            lines.len(),
            got.len()
        );
    }
    ensure!(
        delivered.len() == expected.len(),
        "more files than were written"
    );
    Ok(())
}

/// `weir up` on one file, and the commands that find it by themselves.
struct Up<'a> {
    world: &'a World,
    file: PathBuf,
    data_dir: PathBuf,
    ship: SocketAddr,
    http: SocketAddr,
}

impl Up<'_> {
    fn new<'a>(world: &'a World, lines: &str) -> Result<Up<'a>> {
        Ok(Up {
            world,
            file: world.write("logs/app.log", lines)?,
            data_dir: world.path("data"),
            ship: free_loopback()?,
            http: free_loopback()?,
        })
    }

    fn start(&self) -> Result<Process> {
        let mut command = Command::new(programs::weir()?);
        command.arg("up").arg("--data-dir").arg(&self.data_dir);
        command.arg("--logs").arg(&self.file);
        command.args(["--listen", &self.ship.to_string()]);
        command.args(["--http", &self.http.to_string()]);
        command.env("HOME", self.world.folder());
        command.env("XDG_CONFIG_HOME", self.world.path("xdg"));
        Process::start(command, &self.world.path("up.out"))
    }

    fn start_connected(&self) -> Result<Process> {
        let mut process = self.start()?;
        wait("a connected agent", READY_MAX, || {
            if let Some(obituary) = process.obituary()? {
                return Ok(Seen::Never(obituary));
            }
            let agents = self.weir(&["agents", "--json"]).unwrap_or_default();
            when(agents.contains("\"connected\": true"), || agents.clone())
        })?;
        Ok(process)
    }

    fn weir(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(programs::weir()?);
        command.args(arguments);
        command.env("WEIR_SERVER", format!("http://{}", self.http));
        command.env("HOME", self.world.folder());
        command.env("XDG_CONFIG_HOME", self.world.path("xdg"));
        run(&mut command)
    }

    fn tail(&self, arguments: &[&str]) -> Result<String> {
        self.weir(&[&["tail", "logs"], arguments].concat())
    }
}

#[test]
fn up_needs_no_configuration_and_tail_prints_exactly_the_lines() -> Result<()> {
    let world = World::new()?;
    let lines: Vec<String> = (0..5_000)
        .map(|n| format!("line {n} of the file, \u{e4}\u{1F600}\n"))
        .collect();
    let lines = lines.concat();
    let up = Up::new(&world, &lines)?;
    let mut process = up.start()?;
    wait("weir tail printing the file", READY_MAX, || {
        if let Some(obituary) = process.obituary()? {
            return Ok(Seen::Never(obituary));
        }
        let text = up.tail(&["--from", "beginning"])?;
        when(text.len() >= lines.len(), || {
            format!("{} bytes of {}", text.len(), lines.len())
        })
    })?;
    let text = up.tail(&["--from", "beginning"])?;
    ensure!(
        text == lines,
        "weir tail printed something else than the file's lines"
    );
    ensure!(
        up.tail(&["--from", "beginning", "-n", "2"])?
            .lines()
            .count()
            == 2,
        "-n 2 is two lines"
    );
    let said = fs::read_to_string(world.path("up.out"))?;
    for word in [
        &up.file.display().to_string(),
        &up.data_dir.display().to_string(),
        "weir tail",
    ] {
        ensure!(said.contains(word), "weir up does not say {word:?}: {said}");
    }
    ensure!(
        process.terminate(READY_MAX)?.success(),
        "weir up did not end well"
    );
    Ok(())
}

/// Its agent has joined: the next start needs no other token.
#[test]
fn up_makes_one_token_however_often_it_starts() -> Result<()> {
    let world = World::new()?;
    let up = Up::new(&world, "one line\n")?;
    for start in ["first", "second"] {
        let process = up.start_connected()?;
        let tokens: serde_json::Value =
            serde_json::from_str(&up.weir(&["token", "list", "--json"])?)?;
        let count = tokens["tokens"].as_array().map(Vec::len);
        ensure!(count == Some(1), "after the {start} start: {tokens}");
        ensure!(
            process.terminate(READY_MAX)?.success(),
            "weir up did not end well after the {start} start"
        );
    }
    Ok(())
}

/// It is the operator of both sides: nobody else could give its agent another token.
#[test]
fn up_joins_anew_when_its_identity_cannot_be_used() -> Result<()> {
    let world = World::new()?;
    let up = Up::new(&world, "one line\n")?;
    let identity = world.path("data/agent/identity/identity.json");
    let damages: [(&str, &dyn Fn() -> io::Result<()>); 2] = [
        ("cut", &|| fs::write(&identity, "{")),
        ("everybody's to read", &|| {
            fs::set_permissions(&identity, fs::Permissions::from_mode(0o644))
        }),
    ];
    let mut process = up.start_connected()?;
    for (damage, make) in damages {
        ensure!(process.terminate(READY_MAX)?.success(), "before: {damage}");
        make()?;
        process = up
            .start_connected()
            .with_context(|| format!("after: {damage}"))?;
    }
    ensure!(process.terminate(READY_MAX)?.success(), "at the end");
    Ok(())
}
