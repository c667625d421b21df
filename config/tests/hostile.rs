//! Files made to waste time or memory: each is answered quickly, whatever it holds.

use std::time::{Duration, Instant};

use config::fields::{Fields, Section};
use config::load::{load, load_text};

struct Nothing;

impl Section for Nothing {
    fn read(fields: &mut Fields<'_>) -> Nothing {
        for name in ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"] {
            let _: Option<String> = fields.optional(name, "A word.");
        }
        Nothing
    }
}

/// The largest file that is read at all.
const BYTES: usize = 1024 * 1024;

#[test]
fn no_file_takes_long() {
    let mut keys = String::new();
    for number in 0..BYTES / 20 {
        keys.extend(["unknown_key_", number.to_string().as_str(), ": 1\n"]);
    }
    let bomb = "a: &a [x, x, x, x]\n".to_owned() + &"- *a\n".repeat(BYTES / 5);
    for (name, text) in [
        ("unknown keys", keys),
        ("aliases", bomb),
        ("open lists", "[".repeat(BYTES)),
        ("open sections", "{".repeat(BYTES)),
        ("nested items", "- ".repeat(BYTES / 2)),
        ("nested keys", "? ".repeat(BYTES / 2)),
        (
            "flow entries",
            format!("alpha: [{}]", "a,".repeat(BYTES / 2)),
        ),
        ("one word", "x".repeat(BYTES)),
        ("one key", format!("{}: 1", "x".repeat(1000)).repeat(900)),
        (
            "one quoted key",
            format!("{{\"{}\": 1}}", "x".repeat(BYTES - 100)),
        ),
        (
            "one value",
            format!("alpha: [[{}]]", "x".repeat(BYTES - 100)),
        ),
        ("one quoted word", format!("\"{}", "\\".repeat(BYTES))),
        (
            "block scalar",
            format!("alpha: |\n{}", "  x\n".repeat(BYTES / 4)),
        ),
        (
            "references",
            format!("alpha: {}", "${env:X:-${env:Y".repeat(BYTES / 16)),
        ),
        ("anchors", "&a ".repeat(BYTES / 3)),
        ("tags", "!a ".repeat(BYTES / 3)),
        ("documents", "---\n".repeat(BYTES / 4)),
        ("comments", "#\n".repeat(BYTES / 2)),
        ("tabs", "\t".repeat(BYTES)),
        ("colons", ": ".repeat(BYTES / 2)),
    ] {
        let start = Instant::now();
        let told = load_text::<Nothing>(&text).map(|_| ()).map_err(|problems| {
            let told = problems.to_string();
            assert!(
                told.len() < 64 * 1024,
                "{name}: {} bytes of problems",
                told.len()
            );
        });
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(5),
            "{name} took {took:?} ({told:?})"
        );
    }
}

#[test]
fn a_file_over_the_limit_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.yaml");
    std::fs::write(&path, "#".repeat(BYTES + 1)).unwrap();
    let told = load::<Nothing>(&path).map(|_| ()).unwrap_err().to_string();
    assert!(told.contains("larger than 1048576 bytes"), "{told}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let told = load::<Nothing>(&path).map(|_| ()).unwrap_err().to_string();
    assert!(told.contains("not UTF-8 at byte 0"), "{told}");
    let told = load::<Nothing>(&dir.path().join("absent"))
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(told.contains("cannot be read"), "{told}");
    // A device that never ends is cut at the limit.
    let told = load::<Nothing>("/dev/zero".as_ref())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(told.contains("larger than"), "{told}");
}
