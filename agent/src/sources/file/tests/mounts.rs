//! Real file systems for tests: an ext4 in a file, a tmpfs, an overlay. They take root; without it the
//! tests that need them say that they are skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mount that ends with the test.
pub(super) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l".as_ref(), self.0.as_ref()]);
    }
}

impl Mounted {
    /// The file system in this image, at this directory.
    pub(super) fn image(image: &Path, at: &Path) -> Option<Mounted> {
        mount(&["-o".as_ref(), "loop".as_ref(), image, at], at)
    }

    /// An empty file system in memory.
    pub(super) fn tmpfs(at: &Path) -> Option<Mounted> {
        mount(&["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), at], at)
    }

    /// `lower` as it is seen through `upper`, below which `work` lies.
    pub(super) fn overlay(lower: &Path, upper: &Path, work: &Path, at: &Path) -> Option<Mounted> {
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let kind: &Path = "overlay".as_ref();
        mount(
            &[
                "-t".as_ref(),
                kind,
                "-o".as_ref(),
                options.as_ref(),
                kind,
                at,
            ],
            at,
        )
    }
}

/// An image with an empty ext4, made in this directory.
pub(super) fn ext4(dir: &Path) -> Option<PathBuf> {
    let image = dir.join("ext4.img");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), &image]).then_some(image)
}

fn mount(arguments: &[&Path], at: &Path) -> Option<Mounted> {
    fs::create_dir_all(at).unwrap();
    run("mount", arguments).then(|| Mounted(at.to_owned()))
}

fn run(program: &str, arguments: &[&Path]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null());
    let status = command.stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// An empty ext4 of one's own at `logs`, where no other test takes a free inode first.
pub(super) fn own_ext4(logs: &Path) -> Option<Mounted> {
    let image = ext4(logs.parent().unwrap())?;
    Mounted::image(&image, logs)
}

/// What a test that mounts says when it cannot.
pub(super) const NO_MOUNT: &str = "needs the right to mount, and mkfs.ext4";
