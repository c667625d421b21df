//! What the kernel tells about an open file: which inode it is, and whether anybody can still write
//! to it.
//!
//! Inode numbers are given out again at once (ext4: to the very next file), so a file is told by the
//! kernel's file handle, which counts the lives of an inode; where there is none, by its birth time.
//! Everything is asked of an open descriptor: a path may already name another file.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use model::position::{FileKey, KeyLevel};

use super::guard::Hasher;

/// The key of an open file.
pub(super) fn file_key(file: &File, hasher: &Hasher) -> io::Result<FileKey> {
    let metadata = file.metadata()?;
    let inode = metadata.ino();
    let file_system = file_system(file, metadata.dev());
    if let Some((level, handle)) = handle::of(file) {
        return Ok(FileKey {
            level,
            file_system,
            inode,
            object: hasher.object(&[&handle]),
        });
    }
    let number = inode.to_be_bytes();
    let (level, object) = match metadata.created() {
        Ok(birth) => {
            let since = birth
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            let birth = since.as_nanos().to_be_bytes();
            (KeyLevel::BirthTime, hasher.object(&[&number, &birth]))
        }
        Err(_) => (KeyLevel::Inode, hasher.object(&[&number])),
    };
    Ok(FileKey {
        level,
        file_system,
        inode,
        object,
    })
}

/// The file system's own identity, which outlives a reboot, unlike its device number. The kernel's
/// `statvfs` packs it into one number; a file system without one gives 0.
fn file_system(file: &File, device: u64) -> u64 {
    match rustix::fs::fstatvfs(file) {
        Ok(stat) if stat.f_fsid != 0 => stat.f_fsid,
        _ => device,
    }
}

/// Whether the kernel tells of every write below this directory. Where other machines or programs
/// beyond the kernel write too, it cannot: there files are polled. What cannot be asked is believed to.
///
/// An overlay is believed as well: what is written through it is told, also when the first write moves
/// the file to the upper layer. Only what goes behind its back to a layer is not, and that is undefined
/// for readers too.
#[cfg(target_os = "linux")]
pub(crate) fn is_event_reliable(dir: &Path) -> bool {
    let stat = rustix::fs::statfs(dir);
    stat.map_or(true, |stat| !POLLED.contains(&magic_of(&stat)))
}

/// The number of a file system's kind. The field has another width and sign on each architecture; the
/// numbers have 32 bits.
#[cfg(target_os = "linux")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low 32 bits are what is asked for"
)]
fn magic_of(stat: &rustix::fs::StatFs) -> u32 {
    stat.f_type as u32
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_event_reliable(_: &Path) -> bool {
    true
}

/// File systems that others write to as well, by the numbers of `statfs(2)`.
#[cfg(target_os = "linux")]
const POLLED: [u32; 14] = [
    0x0000_6969, // nfs
    0x0000_517b, // smb
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x6573_5546, // fuse, virtiofs
    0x0102_1997, // 9p
    0x00c3_6400, // ceph
    0x5346_414f, // afs
    0x6b41_4653, // kafs
    0x7375_7245, // coda
    0x0bd0_0bd0, // lustre
    0x0116_1970, // gfs2
    0x7461_636f, // ocfs2
    0x786f_4256, // vboxsf
];

#[cfg(target_os = "linux")]
mod handle {
    //! `name_to_handle_at(2)` and leases, which no safe wrapper offers yet.
    #![allow(unsafe_code, reason = "two system calls, each proved below")]

    use std::fs::File;
    use std::os::fd::AsRawFd;

    use model::position::KeyLevel;

    /// Linux's `MAX_HANDLE_SZ`.
    const HANDLE_BYTES_MAX: usize = 128;

    /// Asks for an identifier only, where the file system has no handles to open by.
    const AT_HANDLE_FID: libc::c_int = 0x200;

    /// Chooses the signal that a broken lease is told by (`fcntl.h`); crate `libc` lacks it.
    const F_SETSIG: libc::c_int = 10;

    /// The kernel's `struct file_handle`, with room for the longest.
    #[repr(C)]
    struct Handle {
        length: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; HANDLE_BYTES_MAX],
    }

    /// The handle of an open file, with its type in front.
    pub(super) fn of(file: &File) -> Option<(KeyLevel, Vec<u8>)> {
        ask(file, 0)
            .map(|handle| (KeyLevel::Handle, handle))
            .or_else(|| ask(file, AT_HANDLE_FID).map(|handle| (KeyLevel::HandleId, handle)))
    }

    fn ask(file: &File, flags: libc::c_int) -> Option<Vec<u8>> {
        let mut handle = Handle {
            length: 128,
            kind: 0,
            bytes: [0; HANDLE_BYTES_MAX],
        };
        let mut mount: libc::c_int = 0;
        // SAFETY: the path is a NUL-terminated literal; `handle` is laid out as the kernel's struct,
        // says how many bytes follow it and outlives the call, as `mount` does; the kernel writes no
        // more than `length` of them.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_raw_fd(),
                c"".as_ptr(),
                &raw mut handle,
                &raw mut mount,
                libc::AT_EMPTY_PATH | flags,
            )
        };
        let length = usize::try_from(handle.length).ok()?;
        let bytes = handle.bytes.get(..length)?;
        if answer != 0 {
            return None;
        }
        let mut all = handle.kind.to_be_bytes().to_vec();
        all.extend(bytes);
        Some(all)
    }

    /// Whether no process has the file open for writing, as far as the kernel lets us ask. A read
    /// lease is granted only then; it is given back at once.
    pub(super) fn has_no_writer(file: &File) -> bool {
        let fd = file.as_raw_fd();
        // SAFETY: `fcntl` with integer arguments on a descriptor that `file` keeps open. A writer that
        // comes while the lease is held waits for it, and has SIGURG sent to us, which is ignored
        // unless somebody handles it.
        unsafe {
            libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
                && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
                && libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) == 0
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod handle {
    //! Other systems have no file handles: inode and birth time tell files apart.

    use std::fs::File;

    use model::position::KeyLevel;

    pub(super) fn of(_: &File) -> Option<(KeyLevel, Vec<u8>)> {
        None
    }

    pub(super) fn has_no_writer(_: &File) -> bool {
        false
    }
}

/// Whether no process has the file open for writing; `false` where that cannot be known.
pub(super) fn has_no_writer(file: &File) -> bool {
    handle::has_no_writer(file)
}
