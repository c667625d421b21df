//! What `weir up` says once everything runs: what it follows, where the data lies, what to try next.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use agent::check::Survey;

use super::plan::reachable;
use crate::terminal::shown;

/// The words.
pub(super) struct Report<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) followed: &'a Survey,
    pub(super) agents: SocketAddr,
    pub(super) http: SocketAddr,
}

/// Names shown of a list.
const NAMES_MAX: usize = 4;

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Survey {
            readable,
            unreadable,
        } = self.followed;
        writeln!(f, "\nweir is up\n")?;
        match readable.len() {
            0 => writeln!(
                f,
                "  follows   no files yet; they are read as soon as they appear"
            )?,
            1 => writeln!(f, "  follows   {}", path(&readable[0]))?,
            count => {
                writeln!(f, "  follows   {count} files")?;
                list(f, readable.iter().map(|it| path(it)))?;
            }
        }
        if !unreadable.is_empty() {
            writeln!(
                f,
                "  skips     {} that this user may not read",
                unreadable.len()
            )?;
            list(f, unreadable.iter().map(|(file, error)| why(file, error)))?;
            writeln!(
                f,
                "            to read them, run `sudo weir up`, or for each"
            )?;
            writeln!(f, "            sudo setfacl -m u:$USER:rX PATH")?;
        }
        writeln!(f, "  keeps     {}", path(self.data_dir))?;
        writeln!(f, "  listens   {} for agents", self.agents)?;
        writeln!(
            f,
            "            http://{} for people and programs\n",
            reachable(self.http)
        )?;
        f.write_str(NEXT)?;
        if self.agents.ip().is_loopback() {
            f.write_str(OTHER_HOSTS)?;
        } else {
            f.write_str(TOKEN)?;
        }
        f.write_str("\nCtrl-C stops. Nothing is lost; the next `weir up` goes on from here.\n\n")
    }
}

const NEXT: &str = "\
Try in another terminal
  weir tail logs --follow             what arrives
  weir tail logs --from beginning     everything, byte for byte
  weir topics                         how much there is
  weir agents                         who ships, how far behind, what was lost
";

const TOKEN: &str =
    "  weir token create                   a token, for another host to join with\n";

const OTHER_HOSTS: &str =
    "  weir up --listen 0.0.0.0:9347       then `weir token create` lets other hosts join\n";

fn list(f: &mut fmt::Formatter<'_>, names: impl ExactSizeIterator<Item = String>) -> fmt::Result {
    let more = names.len().saturating_sub(NAMES_MAX);
    for name in names.take(NAMES_MAX) {
        writeln!(f, "            {name}")?;
    }
    match more {
        0 => Ok(()),
        more => writeln!(f, "            and {more} more"),
    }
}

fn why(file: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => path(file),
        _ => format!("{} ({error})", path(file)),
    }
}

/// A path is somebody else's bytes.
fn path(path: &Path) -> String {
    shown(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_report_names_files_directory_addresses_and_what_to_try() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let followed = Survey {
            readable: (0..6)
                .map(|n| PathBuf::from(format!("/var/log/{n}.log")))
                .collect(),
            unreadable: vec![("/var/log/\u{1b}[2J".into(), denied())],
        };
        let report = Report {
            data_dir: Path::new("/data"),
            followed: &followed,
            agents: "0.0.0.0:9347".parse().unwrap(),
            http: "127.0.0.1:9348".parse().unwrap(),
        };
        let told = report.to_string();
        let wanted = [
            "  follows   6 files\n            /var/log/0.log\n",
            "            and 2 more\n",
            "  skips     1 that this user may not read\n            /var/log/\\x1b[2J\n",
            "  keeps     /data\n",
            "  listens   0.0.0.0:9347 for agents\n            http://127.0.0.1:9348 for",
            "\n  weir tail logs --follow  ",
            "\n  weir token create  ",
        ];
        for part in wanted {
            assert!(told.contains(part), "{part:?} is not in:\n{told}");
        }
    }
}
