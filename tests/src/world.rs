//! The surroundings of one test: a folder that goes away, ports nobody uses, logs that are shown
//! when the test fails.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::process::tail;

/// Whether the logs of the programs are shown at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    /// Printed when the world ends. A test runner shows it only if the test failed.
    Shown,
    /// Kept to themselves: tools.
    Hidden,
}

/// One test's folder and what lies in it.
pub struct World {
    folder: TempDir,
    logs: Logs,
}

impl World {
    /// A world for a test.
    pub fn new() -> Result<World> {
        Self::in_folder(&std::env::temp_dir(), Logs::Shown)
    }

    /// A world below `parent`.
    pub fn in_folder(parent: &Path, logs: Logs) -> Result<World> {
        let folder = tempfile::Builder::new()
            .prefix("weir-test-")
            .tempdir_in(parent);
        let folder = folder.with_context(|| format!("make a folder in {}", parent.display()))?;
        Ok(World { folder, logs })
    }

    /// The folder of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder; nothing is made there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder, with the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for World {
    #[expect(
        clippy::print_stderr,
        reason = "the runner captures it and shows it on failure"
    )]
    fn drop(&mut self) {
        if self.logs == Logs::Hidden {
            return;
        }
        let entries = fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .flatten();
        let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "out"));
        logs.sort();
        for log in logs {
            eprintln!("{}", tail(&log));
        }
    }
}

/// An address on this host that is free for TCP and UDP alike.
///
/// It lies below the range the kernel gives to outgoing connections, so that a program which is
/// killed and started again finds it still free.
pub fn free_address(ip: IpAddr) -> Result<SocketAddr> {
    for _ in 0..1000 {
        let address = SocketAddr::new(ip, fastrand::u16(10_000..32_000));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port on {ip}")
}

/// [`free_address`] on the loopback interface.
pub fn free_loopback() -> Result<SocketAddr> {
    free_address(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
