//! What of this host is in the way of following the files that match: warnings, each with what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::limits::DESCRIPTORS_RESERVED;
use crate::sources::file::kernel::is_event_reliable;
use crate::sources::file::pattern::Patterns;

/// What an entry under `logs` matches.
pub(super) struct Found<'a> {
    /// The entry's name.
    pub(super) name: &'a str,
    /// Files that it matches.
    pub(super) files: BTreeSet<PathBuf>,
    /// Directories that it watches.
    pub(super) directories: BTreeSet<PathBuf>,
}

/// What the kernel allows this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Directories that a user may watch.
    pub(super) watches: Option<u64>,
    /// Sources that a user may have with watches.
    pub(super) instances: Option<u64>,
    /// Files that the process may have open.
    pub(super) descriptors: Option<u64>,
}

impl Allowed {
    /// What holds here. The agent may run under other limits: it is started by somebody else.
    pub(super) fn here() -> Allowed {
        let read = |name: &str| {
            let path = format!("/proc/sys/fs/inotify/{name}");
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Allowed {
            watches: read("max_user_watches"),
            instances: read("max_user_instances"),
            descriptors: getrlimit(Resource::Nofile).current,
        }
    }
}

/// Files that several entries match: each of them gets the lines.
pub(super) fn overlaps(found: &[Found<'_>]) -> Vec<String> {
    let mut pairs: BTreeMap<(&str, &str), (usize, &Path)> = BTreeMap::new();
    for (at, one) in found.iter().enumerate() {
        for other in &found[at + 1..] {
            let mut both = one.files.intersection(&other.files);
            if let Some(first) = both.next() {
                pairs.insert((one.name, other.name), (both.count(), first));
            }
        }
    }
    let told = pairs.into_iter().map(|((one, other), (more, path))| {
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "logs.{one} and logs.{other} both match `{}`{more}: both get its lines; leave it out of one \
             with `exclude`",
            path.display()
        )
    });
    told.collect()
}

/// Directories whose file systems do not tell of every write.
pub(super) fn polled(found: &[Found<'_>]) -> Vec<String> {
    let directories: BTreeSet<&PathBuf> = found.iter().flat_map(|it| &it.directories).collect();
    let polled = directories
        .into_iter()
        .filter(|dir| !is_event_reliable(dir));
    let polled: Vec<&PathBuf> = polled.collect();
    let told = polled.first().map(|first| {
        format!(
            "`{}` is on a network file system ({} directories are): files there are polled, lines come up \
             to a second later",
            first.display(),
            polled.len()
        )
    });
    told.into_iter().collect()
}

/// Limits of the kernel that are lower than what is matched.
pub(super) fn limits(found: &[Found<'_>], files_open: u32, allowed: Allowed) -> Vec<String> {
    let mut warnings = Vec::new();
    // Each source watches for itself.
    let directories: u64 = found.iter().map(|it| it.directories.len() as u64).sum();
    if let Some(watches) = allowed.watches.filter(|&watches| watches < directories) {
        warnings.push(format!(
            "{directories} directories are to be watched, fs.inotify.max_user_watches is {watches}: the rest \
             is polled; run `sysctl fs.inotify.max_user_watches={}`",
            directories.saturating_mul(2)
        ));
    }
    let sources = found.len() as u64;
    if let Some(instances) = allowed.instances.filter(|&instances| instances < sources) {
        warnings.push(format!(
            "{sources} entries want to watch, fs.inotify.max_user_instances is {instances}: the rest is \
             polled; run `sysctl fs.inotify.max_user_instances={}`",
            sources.saturating_mul(2)
        ));
    }
    let wanted = u64::from(files_open) + DESCRIPTORS_RESERVED;
    if let Some(descriptors) = allowed.descriptors.filter(|&has| has < wanted) {
        warnings.push(format!(
            "limits.files_open is {files_open}, and with {DESCRIPTORS_RESERVED} for the agent itself that is \
             more than the {descriptors} files that a process may open here; raise it \
             (`LimitNOFILE={wanted}` in the unit, `ulimit -n {wanted}` in a shell)"
        ));
    }
    warnings
}

/// Why an entry that matches no file, or none that is text, may be meant otherwise.
pub(super) fn odd_matches(found: &Found<'_>, patterns: &Patterns) -> Option<String> {
    let name = found.name;
    if found.files.is_empty() {
        if let Some(directory) = matched_directory(&found.directories, patterns) {
            return Some(format!(
                "logs.{name} matches the directory `{}` and no file; write `{0}/*.log` for what is in it",
                directory.display()
            ));
        }
        let absent = patterns.bases().find(|base| !base.exists())?;
        return Some(format!(
            "logs.{name}: there is no `{}` yet; is it written right?",
            absent.display()
        ));
    }
    let is_compressed = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| COMPRESSED.contains(&extension))
    };
    let is_all = found.files.iter().all(is_compressed);
    is_all.then(|| {
        format!(
            "logs.{name} matches compressed files only: what is written before it is compressed is not \
             followed; write the names of the uncompressed ones too"
        )
    })
}

fn matched_directory(watched: &BTreeSet<PathBuf>, patterns: &Patterns) -> Option<PathBuf> {
    let entries = watched.iter().filter_map(|dir| fs::read_dir(dir).ok());
    let mut paths = entries.flatten().flatten().map(|entry| entry.path());
    paths.find(|path| path.is_dir() && patterns.matches(path))
}

/// The first directory on the way to a path that cannot be entered.
pub(super) fn closed_directory(
    path: &Path,
    can_enter: impl Fn(&Path) -> io::Result<()>,
) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let is_closed = |dir: &&Path| {
        let entered = can_enter(dir);
        entered.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    above.into_iter().find(is_closed).map(Path::to_owned)
}

/// Whether names in a directory can be asked for.
pub(super) fn enter(dir: &Path) -> io::Result<()> {
    fs::metadata(dir.join(".")).map(drop)
}

const COMPRESSED: [&str; 5] = ["gz", "zst", "bz2", "xz", "lz4"];
