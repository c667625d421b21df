//! Cuts the power of a mounted file system: `weir-power-cut MOUNTPOINT`.
//!
//! `FS_IOC_GOINGDOWN` with `NOLOGFLUSH` shuts an ext4 or XFS down at once: what was not synced is
//! gone as after a power cut, and the file system must be unmounted and mounted again. It works on
//! loop mounts, needs root, and is harmless to every other file system.

use std::fs::File;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use rustix::ioctl::{Setter, ioctl, opcode};

/// `FS_IOC_GOINGDOWN`: `_IOR('X', 125, __u32)` although the kernel reads the argument.
const GOING_DOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);

/// Neither data nor journal is flushed.
const NO_LOG_FLUSH: u32 = 2;

fn main() -> Result<()> {
    let path = std::env::args_os()
        .nth(1)
        .context("usage: weir-power-cut MOUNTPOINT")?;
    let folder = File::open(&path).context("open the mount point")?;
    #[expect(unsafe_code, reason = "no safe interface to this ioctl exists")]
    // SAFETY: the opcode reads one u32 through the given pointer, and the setter passes exactly a
    // pointer to one; the kernel keeps no reference to it.
    let cut = unsafe { ioctl(folder.as_fd(), Setter::<GOING_DOWN, u32>::new(NO_LOG_FLUSH)) };
    cut.context("cut the power (root, and ext4 or XFS, are needed)")
}
