//! A host of its own on this machine: a network namespace with one cable to the outside.
//!
//! The outer end of the cable stays in the test's namespace with its own /30 network; nothing is
//! forwarded anywhere else. The namespace and the cable go away with the value.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{Wrapper, run};

/// A network namespace.
pub struct Namespace {
    name: String,
    number: u8,
}

impl Namespace {
    /// Makes one; root and `ip` are needed.
    pub fn new() -> Result<Namespace> {
        // The cable's name is the claim on the number: the kernel refuses a second one.
        for number in 1..=250 {
            let name = format!("weir-test-{number}");
            let (cable, inner) = (format!("weir{number}"), "eth0");
            if ip(&format!(
                "link add {cable} type veth peer name weir{number}in"
            ))
            .is_err()
            {
                continue;
            }
            let namespace = Namespace { name, number };
            namespace.lay(&cable, inner)?;
            return Ok(namespace);
        }
        bail!("250 namespaces of tests exist already; see `ip netns list`")
    }

    fn lay(&self, cable: &str, inner: &str) -> Result<()> {
        let Namespace { name, number } = self;
        // Left behind by a run that was killed after its cable was gone.
        drop(ip(&format!("netns del {name}")));
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link set weir{number}in netns {name} name {inner}"
        ))?;
        ip(&format!("addr add {}/30 dev {cable}", self.outer()))?;
        ip(&format!("link set {cable} up"))?;
        ip(&format!(
            "-n {name} addr add {}/30 dev {inner}",
            self.inner()
        ))?;
        ip(&format!("-n {name} link set {inner} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(())
    }

    /// The address of the test's end of the cable.
    pub fn outer(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 213, self.number, 1))
    }

    /// The address of the namespace's end.
    pub fn inner(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 213, self.number, 2))
    }

    /// Starts programs inside.
    pub fn wrapper(&self) -> Wrapper {
        Wrapper::new(["ip", "netns", "exec", &self.name])
    }

    /// Replaces the firewall inside by this nftables script; an empty one opens everything.
    pub fn firewall(&self, script: &str) -> Result<()> {
        let whole = format!("flush ruleset\n{script}\n");
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), whole)?;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, "nft", "-f"])
            .arg(file.path());
        run(&mut command).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(ip(&format!("netns del {}", self.name)));
        // With the namespace its end of the cable goes, and with that the whole cable; unless the
        // cable was never moved inside.
        drop(ip(&format!("link del weir{}", self.number)));
    }
}

fn ip(arguments: &str) -> Result<String> {
    run(Command::new("ip").args(arguments.split(' ')))
}
