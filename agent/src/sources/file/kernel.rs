//! What the kernel tells about an open file: which inode it is, and whether anybody can still write
//! to it. And about a directory: whether it tells of what others do in it.
//!
//! Inode numbers are given out again at once (ext4: to the very next file), so a file is told by the
//! best that there is: the kernel's file handle, which counts the lives of an inode; the identifier
//! that a file system without handles gives; the count alone; the birth time; the number. Which one it
//! was is part of the key: another kernel, or one that forbids a call, gives another key for the same
//! file, and so does a file system that was mounted anew under another number. Such keys agree
//! *perhaps*, by the number of the inode, and the guards decide.
//!
//! Everything is asked of an open descriptor: a path may already name another file.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use model::position::{FileKey, KeyLevel};

use super::guard::Hasher;

/// How the key of a file agrees with one that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreement {
    /// It is the same file.
    Yes,
    /// The keys cannot be compared, and the inode has the same number.
    Perhaps,
    /// It is another file.
    No,
}

/// How a key that was kept agrees with that of a file at hand.
pub(super) fn agreement(kept: FileKey, found: FileKey) -> Agreement {
    if kept == found {
        return Agreement::Yes;
    }
    let comparable = kept.level == found.level && kept.file_system == found.file_system;
    if kept.inode == found.inode && !comparable {
        Agreement::Perhaps
    } else {
        Agreement::No
    }
}

/// Whether two files can have such a key, one after the other.
pub(super) fn is_weak(level: KeyLevel) -> bool {
    // Birth times are as coarse as the kernel's clock ticks, on older kernels some milliseconds.
    level >= KeyLevel::BirthTime
}

/// The key of an open file, of level `best` or of the next that the file system has.
pub(super) fn file_key(file: &File, hasher: &Hasher, best: KeyLevel) -> io::Result<FileKey> {
    let metadata = file.metadata()?;
    let number = metadata.ino().to_be_bytes();
    let (level, object) = [
        KeyLevel::Handle,
        KeyLevel::HandleId,
        KeyLevel::Generation,
        KeyLevel::BirthTime,
    ]
    .into_iter()
    .filter(|&level| level >= best)
    .find_map(|level| Some((level, told_by(level, file, &metadata)?)))
    .unwrap_or((KeyLevel::Inode, Vec::new()));
    // Handles name the inode themselves, and not by its number alone.
    let object = match level {
        KeyLevel::Handle | KeyLevel::HandleId => hasher.object(&[&object]),
        _ => hasher.object(&[&number, &object]),
    };
    Ok(FileKey {
        level,
        file_system: file_system(file, metadata.dev()),
        inode: metadata.ino(),
        object,
    })
}

/// What a level tells a file by, where the file system has it.
fn told_by(level: KeyLevel, file: &File, metadata: &Metadata) -> Option<Vec<u8>> {
    match level {
        KeyLevel::Handle => handle::of(file),
        KeyLevel::HandleId => handle::id_of(file),
        KeyLevel::Generation => handle::generation_of(file),
        KeyLevel::BirthTime => {
            let birth = metadata.created().ok()?;
            let since = birth.duration_since(UNIX_EPOCH).unwrap_or_default();
            Some(since.as_nanos().to_be_bytes().to_vec())
        }
        KeyLevel::Inode => Some(Vec::new()),
    }
}

/// The identity of the file system that a path lies on, or would lie on.
pub(super) fn file_system_of(path: &Path) -> io::Result<u64> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for path in path.ancestors() {
        match std::fs::metadata(path) {
            Ok(metadata) => return Ok(number_of(rustix::fs::statvfs(path), metadata.dev())),
            Err(error) if super::discovery::is_absent(&error) => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// Whether an open file is one of an overlay, where a name can change its file by being written to.
#[cfg(target_os = "linux")]
pub(super) fn is_overlaid(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| magic_of(&stat) == OVERLAY)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_overlaid(_: &File) -> bool {
    false
}

/// The identity of the file system that an open file lies on.
fn file_system(file: &File, device: u64) -> u64 {
    number_of(rustix::fs::fstatvfs(file), device)
}

/// A file system's own identity outlives a reboot, unlike its device number. The kernel's `statvfs`
/// packs it into one number; a file system without one gives 0.
fn number_of(stat: rustix::io::Result<rustix::fs::StatVfs>, device: u64) -> u64 {
    match stat {
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
const OVERLAY: u32 = 0x794c_7630;

#[cfg(target_os = "linux")]
mod handle {
    //! `name_to_handle_at(2)`, `FS_IOC_GETVERSION` and leases, which no safe wrapper offers yet.
    #![allow(unsafe_code, reason = "three system calls, each proved below")]

    use std::fs::File;
    use std::os::fd::AsRawFd;

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
    pub(super) fn of(file: &File) -> Option<Vec<u8>> {
        ask(file, 0)
    }

    /// The identifier of an open file that cannot be opened by it, with its type in front.
    pub(super) fn id_of(file: &File) -> Option<Vec<u8>> {
        ask(file, AT_HANDLE_FID)
    }

    /// How many lives the inode of an open file had before this one, or a random number for each.
    pub(super) fn generation_of(file: &File) -> Option<Vec<u8>> {
        let mut generation: libc::c_long = 0;
        // SAFETY: the kernel writes an `int`, or by the request's own definition a `long`, to
        // `generation`, which has room for either and outlives the call.
        let answer = unsafe {
            libc::ioctl(
                file.as_raw_fd(),
                libc::FS_IOC_GETVERSION,
                &raw mut generation,
            )
        };
        (answer == 0).then(|| generation.to_be_bytes().to_vec())
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

    pub(super) fn of(_: &File) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn id_of(_: &File) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn generation_of(_: &File) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn has_no_writer(_: &File) -> bool {
        false
    }
}

/// The name that an open file has now, if it has one that leads to it.
pub(super) fn name_of(file: &File) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let name = std::fs::read_link(link).ok()?;
    let (own, named) = (file.metadata().ok()?, std::fs::metadata(&name).ok()?);
    (own.ino() == named.ino() && own.dev() == named.dev()).then_some(name)
}

/// Whether nothing but descriptors holds the file.
pub(super) fn is_unlinked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Whether no process has the file open for writing; `false` where that cannot be known.
pub(super) fn has_no_writer(file: &File) -> bool {
    handle::has_no_writer(file)
}
