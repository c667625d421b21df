//! The names near a file that a rotation could have given to its copy.
//!
//! Where the copies of many files are sought at once, each directory is listed once for all of them. That
//! is enough for files which were truncated before: a copy is made first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::FileSource;
use super::calls::Calls;
use super::discovery::is_absent;
use super::pattern::{is_rotation_of, rotation_prefix, without_codec};
use super::watch::Spot;

/// Directories by their numbers, each listed when it was first asked for.
#[derive(Default)]
pub(super) struct Listed {
    directories: HashMap<usize, Listing>,
    seeks: u32,
}

/// What a directory holds.
struct Listing {
    /// In their order.
    names: Vec<OsString>,
    /// The directories in it.
    below: Vec<OsString>,
    /// Whether it could be listed to its end, as far as it is there.
    is_whole: bool,
}

/// When a file changed, whether its name is of a compressed one, and where it is.
type Dated = ((i64, i64), bool, usize, OsString);

impl Listed {
    /// Another copy is sought.
    pub(super) fn begin(&mut self) {
        self.seeks += 1;
    }

    /// Something is not where it was listed: it may have another name now. Lists all anew, where that was
    /// done for others, and says so.
    pub(super) fn renew(&mut self) -> bool {
        let is_old = self.seeks > 1;
        if is_old {
            *self = Listed::default();
        }
        is_old
    }

    fn of(&mut self, directory: usize, path: &Path, calls: &Calls) -> &Listing {
        let listing = self.directories.entry(directory);
        listing.or_insert_with(|| Listing::of(path, calls))
    }
}

impl Listing {
    fn of(path: &Path, calls: &Calls) -> Listing {
        let (mut names, mut below) = (Vec::new(), Vec::new());
        let mut is_whole = true;
        match calls.list(path) {
            Ok(entries) => {
                for entry in entries {
                    let Ok(entry) = entry else {
                        is_whole = false;
                        break;
                    };
                    match entry.file_type() {
                        Ok(kind) if kind.is_dir() => below.push(entry.file_name()),
                        Ok(_) => {}
                        Err(error) => is_whole &= is_absent(&error),
                    }
                    names.push(entry.file_name());
                }
            }
            Err(error) => is_whole = is_absent(&error),
        }
        names.sort_unstable();
        Listing {
            names,
            below,
            is_whole,
        }
    }

    /// Names that begin so.
    fn beginning_with(&self, prefix: &OsStr) -> impl Iterator<Item = &OsString> {
        let from = self.names.partition_point(|name| name < prefix);
        let begins = |name: &&OsString| name.as_bytes().starts_with(prefix.as_bytes());
        self.names[from..].iter().take_while(begins)
    }
}

impl FileSource {
    /// Names that a rotation could have given to a copy, in the same directory or a watched one near
    /// it, the one that changed last first: guards over a few bytes can fit several. Of one moment, what is
    /// compressed first. And whether all could be listed.
    pub(super) fn siblings(&mut self, origins: &[Spot], listed: &mut Listed) -> (Vec<Spot>, bool) {
        let mut names = Vec::new();
        let mut all_seen = true;
        for origin in origins {
            all_seen &= self.meet_directories_below(origin, listed);
            for near in self.directories_near(origin.directory) {
                let path = &self.directories[near].path;
                let listing = listed.of(near, path, &self.calls);
                all_seen &= listing.is_whole;
                let like = listing.beginning_with(rotation_prefix(&origin.name));
                let like = like.filter(|name| may_be_copy(origin, near, name));
                names.extend(like.map(|name| dated(near, path, name)));
            }
        }
        names.sort_unstable_by_key(|dated| Reverse(dated.clone()));
        names.dedup();
        let spots = names
            .into_iter()
            .map(|(_, _, directory, name)| Spot { directory, name });
        (spots.collect(), all_seen)
    }

    /// A directory that was made for the copy is watched from now on, if files in it are meant. Whether
    /// all could be seen.
    fn meet_directories_below(&mut self, origin: &Spot, listed: &mut Listed) -> bool {
        let own = self.directories[origin.directory].path.clone();
        let listing = listed.of(origin.directory, &own, &self.calls);
        let mut rotated = origin.name.clone();
        rotated.push(".1");
        for below in listing.below.iter().map(|name| own.join(name)) {
            let is_meant = |name: &OsStr| self.patterns.matches(&below.join(name));
            if is_meant(&origin.name) || is_meant(&rotated) {
                self.directory(&below);
            }
        }
        listing.is_whole
    }
}

fn may_be_copy(origin: &Spot, near: usize, name: &OsStr) -> bool {
    let plain = without_codec(name);
    let is_compressed = plain.len() < name.len();
    let is_same = plain == origin.name && (near != origin.directory || is_compressed);
    is_same || is_rotation_of(&origin.name, plain)
}

/// What cannot be seen seems old: it is opened last, and what is wrong with it is seen then.
fn dated(directory: usize, path: &Path, name: &OsStr) -> Dated {
    let metadata = fs::symlink_metadata(path.join(name));
    let changed = metadata.map_or((i64::MIN, 0), |it| (it.ctime(), it.ctime_nsec()));
    let is_compressed = without_codec(name).len() < name.len();
    (changed, is_compressed, directory, name.to_owned())
}
