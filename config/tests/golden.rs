//! Every class of mistake, and what the user is told about it.
//!
//! `golden/NAME.yaml` is loaded and its problems must read as `golden/NAME.txt`. `UPDATE=1`
//! rewrites the expectations.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::environment::Environment;
use config::fields::{Fields, Section};
use config::load::load_source;
use config::problem::Source;
use config::units::{ByteSize, Percent};
use config::value::HostPort;

/// One option of every kind.
#[derive(Debug)]
struct Everything {
    _data_dir: PathBuf,
    _listen: Option<SocketAddr>,
    _strict: bool,
    _share: Percent,
    _workers: u32,
    _labels: BTreeMap<String, String>,
    _tls: Option<Tls>,
    _logs: BTreeMap<String, Logs>,
}

#[derive(Debug)]
struct Tls {
    _cert: PathBuf,
    _key: PathBuf,
}

#[derive(Debug)]
struct Logs {
    _files: Vec<String>,
    _to: Vec<HostPort>,
    _size: ByteSize,
    _every: Duration,
}

impl Section for Everything {
    fn read(fields: &mut Fields<'_>) -> Everything {
        Everything {
            _data_dir: fields.required("data_dir", "Where it lies."),
            _listen: fields.optional("listen", "Where it listens."),
            _strict: fields.value("strict", false, "Whether it is strict."),
            _share: fields.value("share", Percent(90), "How much."),
            _workers: fields.value("workers", 2, "How many."),
            _labels: fields.map("labels", "On everything."),
            _tls: fields.optional_section("tls"),
            _logs: fields.named_sections("logs"),
        }
    }
}

impl Section for Tls {
    fn read(fields: &mut Fields<'_>) -> Tls {
        Tls {
            _cert: fields.required("cert", "The certificate."),
            _key: fields.required("key", "The key."),
        }
    }
}

impl Section for Logs {
    fn read(fields: &mut Fields<'_>) -> Logs {
        Logs {
            _files: fields.required_list("files", "What is read."),
            _to: fields.list("to", "Where it goes."),
            _size: fields.value("size", ByteSize::gib(4), "How much."),
            _every: fields.value("every", Duration::from_secs(1), "How often."),
        }
    }
}

struct Variables;

impl Environment for Variables {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "HOME_DIR").then(|| "/home/weir".to_owned())
    }
}

#[test]
fn each_mistake_is_told_with_its_place_and_its_cure() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    cases.sort();
    let mut wrong = Vec::new();
    for path in cases {
        let source = Source {
            path: path.file_name().unwrap().into(),
            text: std::fs::read_to_string(&path).unwrap(),
        };
        let told = match load_source::<Everything>(source, &Variables) {
            Ok(loaded) => format!("{:#?}\n", loaded.config),
            Err(problems) => format!("{problems}\n"),
        };
        let expected_path = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected_path, &told).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if told != expected {
            wrong.push(format!("{}:\n{told}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
