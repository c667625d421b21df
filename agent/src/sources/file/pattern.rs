//! Which paths a source means: globs with `*`, `?`, `[..]`, `{..}` and `**`, and a walk that enters
//! only directories that can lead to a match.
//!
//! The walk follows links to files and links in a pattern's fixed part, and no other links to
//! directories: so it cannot go round in circles.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::limits::WALK_DEPTH_MAX;

/// A source's patterns.
#[derive(Debug, Clone)]
pub(crate) struct Patterns {
    files: GlobSet,
    excluded: GlobSet,
    roots: Vec<Root>,
}

/// One pattern, as a way through directories.
#[derive(Debug, Clone)]
struct Root {
    base: PathBuf,
    parts: Vec<Part>,
}

/// What one component of a path must be.
#[derive(Debug, Clone)]
enum Part {
    /// Exactly this.
    Name(OsString),
    /// Something that this matches.
    Like(GlobMatcher),
    /// Any number of components, `**`; or one that a matcher for one component cannot tell.
    Deep,
}

/// What a walk comes to a directory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Matches can be in it: it is to be listed, and the directories in it are asked for.
    List,
    /// One certain directory can be in it.
    Pass,
}

impl Patterns {
    /// Reads the patterns; the error names the one that is none.
    pub(crate) fn new(files: &[String], excluded: &[String]) -> Result<Patterns, globset::Error> {
        let files: Vec<String> = files.iter().map(|it| with_single_slashes(it)).collect();
        let excluded: Vec<String> = excluded.iter().map(|it| with_single_slashes(it)).collect();
        let mut roots = Vec::new();
        for pattern in &files {
            roots.push(Root::new(pattern)?);
        }
        let mut below = Vec::new();
        for pattern in &excluded {
            // What excludes everything in a directory excludes the directory.
            below.extend(pattern.strip_suffix("/**").map(str::to_owned));
        }
        Ok(Patterns {
            files: set(files.iter())?,
            excluded: set(excluded.iter().chain(&below))?,
            roots,
        })
    }

    /// The directories that the patterns name, up to the first one that may have any name.
    pub(crate) fn bases(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(|root| root.base.as_path())
    }

    /// Whether the source means this path.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        self.files.is_match(path) && !self.excluded.is_match(path)
    }

    /// Whether the walk would come by this path, were it there: it matches, and no directory on the way
    /// is left out.
    pub(super) fn reaches(&self, path: &Path) -> bool {
        let is_reached = |root: &Root| {
            let mut above = path.ancestors().skip(1);
            path.starts_with(&root.base)
                && above
                    .by_ref()
                    .take_while(|dir| dir.starts_with(&root.base))
                    .all(|dir| !self.excluded.is_match(dir))
        };
        self.matches(path) && self.roots.iter().any(is_reached)
    }

    /// Goes through all directories that can hold a match. `come_by` answers the names of the directories
    /// in the one that it is called with.
    pub(super) fn walk(&self, come_by: &mut dyn FnMut(&Path, Purpose) -> Vec<OsString>) {
        for root in &self.roots {
            self.enter(&root.base, &root.parts, WALK_DEPTH_MAX, come_by);
        }
    }

    /// All files that match at present, with the directories that could not be listed.
    pub(crate) fn list(&self) -> (Vec<PathBuf>, Vec<(PathBuf, io::Error)>) {
        let (mut files, mut failed) = (Vec::new(), Vec::new());
        self.walk(&mut |dir, purpose| {
            let mut below = Vec::new();
            if purpose == Purpose::Pass {
                return below;
            }
            let entries = match fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return below,
                Err(error) => {
                    failed.push((dir.to_owned(), error));
                    return below;
                }
            };
            for entry in entries.flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => below.push(entry.file_name()),
                    Ok(_) if self.matches(&entry.path()) => files.push(entry.path()),
                    _ => {}
                }
            }
            below
        });
        files.sort();
        files.dedup();
        (files, failed)
    }

    /// The directories that are watched for them.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        self.walk(&mut |dir, purpose| {
            if dir.is_dir() {
                directories.push(dir.to_owned());
            }
            match purpose {
                Purpose::List => directories_in(dir),
                Purpose::Pass => Vec::new(),
            }
        });
        directories
    }

    fn enter(
        &self,
        dir: &Path,
        parts: &[Part],
        depth: usize,
        come_by: &mut dyn FnMut(&Path, Purpose) -> Vec<OsString>,
    ) {
        let Some((part, rest)) = parts.split_first() else {
            return;
        };
        if depth == 0 || self.excluded.is_match(dir) {
            return;
        }
        if let (Part::Name(name), false) = (part, rest.is_empty()) {
            come_by(dir, Purpose::Pass);
            self.enter(&dir.join(name), rest, depth - 1, come_by);
            return;
        }
        for name in come_by(dir, Purpose::List) {
            let below = dir.join(&name);
            match part {
                Part::Deep => self.enter(&below, parts, depth - 1, come_by),
                part if part.is(&name) => self.enter(&below, rest, depth - 1, come_by),
                _ => {}
            }
        }
    }
}

impl Root {
    fn new(pattern: &str) -> Result<Root, globset::Error> {
        let mut base = PathBuf::from(if pattern.starts_with('/') { "/" } else { "" });
        let mut parts = Vec::new();
        let mut components = pattern
            .split('/')
            .filter(|part| !part.is_empty())
            .peekable();
        while let Some(component) = components.next() {
            let is_last = components.peek().is_none();
            if !has_wildcard(component) {
                if parts.is_empty() && !is_last {
                    base.push(component);
                } else {
                    parts.push(Part::Name(component.into()));
                }
                continue;
            }
            // A brace can hold a separator: `{a/b,c}`. From there on the whole path decides.
            let whole = component.matches('{').count() == component.matches('}').count();
            if component == "**" || !whole {
                parts.push(Part::Deep);
                break;
            }
            parts.push(Part::Like(glob(component)?.compile_matcher()));
        }
        Ok(Root { base, parts })
    }
}

impl Part {
    fn is(&self, name: &OsStr) -> bool {
        match self {
            Part::Name(own) => own == name,
            Part::Like(matcher) => matcher.is_match(Path::new(name)),
            Part::Deep => true,
        }
    }
}

/// A name without what a compressor adds to it.
pub(super) fn without_codec(name: &OsStr) -> &OsStr {
    let name = name.as_bytes();
    let ends = [&b".gz"[..], b".zst", b".bz2", b".xz"];
    let plain = ends.iter().find_map(|end| name.strip_suffix(*end));
    OsStr::from_bytes(plain.unwrap_or(name))
}

/// Whether `other` could be a rotated copy of `base`: `app.log` is followed by `app.log.1`,
/// `app.log-20261122`, `app-20261122.log`. A filter: what is such a copy, the guards tell.
pub(super) fn is_rotation_of(base: &OsStr, other: &OsStr) -> bool {
    let (base, other) = (base.as_bytes(), other.as_bytes());
    if base == other || other.starts_with(b".") != base.starts_with(b".") {
        return false;
    }
    if other.starts_with(base) {
        return true;
    }
    let (stem, extension) = split_extension(base);
    !extension.is_empty()
        && other.starts_with(stem)
        && other.ends_with(extension)
        && other[stem.len()..]
            .first()
            .is_some_and(|byte| !byte.is_ascii_alphabetic())
}

/// What every rotation of a name begins with, as [`is_rotation_of`] has it, and the name too.
pub(super) fn rotation_prefix(base: &OsStr) -> &OsStr {
    OsStr::from_bytes(split_extension(base.as_bytes()).0)
}

/// A name up to its extension and from there, if it has one.
fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    let dot = name.iter().rposition(|&byte| byte == b'.');
    name.split_at(dot.filter(|&dot| dot > 0).unwrap_or(name.len()))
}

/// Whether `other` is a rotated name with nothing but a number or a date added.
pub(super) fn is_numbered_rotation(base: &OsStr, other: &OsStr) -> bool {
    if !is_rotation_of(base, other) {
        return false;
    }
    let (base, other) = (base.as_bytes(), other.as_bytes());
    let same = base.iter().zip(other).take_while(|(a, b)| a == b).count();
    let rest = &base[same..];
    let Some(added) = other[same..].strip_suffix(rest) else {
        return false;
    };
    let is_of_date = |byte: &u8| byte.is_ascii_digit() || b".-_:+TZ".contains(byte);
    added.iter().any(u8::is_ascii_digit) && added.iter().all(is_of_date)
}

/// Whether the names differ in one number: a rotation shifts `app.log.1` to `app.log.2`.
pub(super) fn is_shifted(from: &OsStr, to: &OsStr) -> bool {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let same = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let digits = from[..same]
        .iter()
        .rev()
        .take_while(|it| it.is_ascii_digit());
    let number = same - digits.count();
    let (from_number, to_number) = (&from[number..], &to[number..]);
    let (from_rest, to_rest) = (without_number(from_number), without_number(to_number));
    from != to && from_rest.is_some() && from_rest == to_rest
}

/// What follows the number that a name begins with; `None` where there is none.
fn without_number(name: &[u8]) -> Option<&[u8]> {
    let digits = name.iter().take_while(|it| it.is_ascii_digit()).count();
    (digits > 0).then(|| &name[digits..])
}

/// Every name that `other` could be a rotated copy of, so that they need not be sought among all there are.
pub(super) fn rotation_bases(other: &OsStr) -> impl Iterator<Item = OsString> {
    let bytes = other.as_bytes();
    let extension = bytes.iter().rposition(|&byte| byte == b'.');
    let extension = extension.map_or(&[][..], |dot| &bytes[dot..]);
    let beginnings = (1..bytes.len()).map(|end| &bytes[..end]);
    let bases = beginnings.flat_map(move |beginning| {
        let with_extension = [beginning, extension].concat();
        let is_other = !extension.is_empty();
        let bases = [Some(beginning.to_vec()), is_other.then_some(with_extension)];
        bases.into_iter().flatten().map(OsString::from_vec)
    });
    bases.filter(move |base| is_rotation_of(base, other))
}

/// A pattern as paths are written: the system takes many slashes for one.
fn with_single_slashes(pattern: &str) -> String {
    let mut single = pattern.to_owned();
    while single.contains("//") {
        single = single.replace("//", "/");
    }
    single
}

/// The names of the directories in one; none where it cannot be listed.
fn directories_in(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
        .collect()
}

fn has_wildcard(component: &str) -> bool {
    component.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

fn glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).build()
}

fn set<'a>(patterns: impl Iterator<Item = &'a String>) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern)?);
    }
    set.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slashes_are_one() {
        let files = ["//srv///*.log".to_owned()];
        let patterns = Patterns::new(&files, &["/srv//b*".to_owned()]).unwrap();
        assert!(patterns.matches(Path::new("/srv/a.log")));
        assert!(!patterns.matches(Path::new("/srv/b.log")));
    }

    #[test]
    fn a_shifted_name_has_another_number_in_the_same_place() {
        let check = |from: &str, to: &str, expected| {
            assert_eq!(
                is_shifted(from.as_ref(), to.as_ref()),
                expected,
                "{from} {to}"
            );
        };
        check("app.log.1", "app.log.2", true);
        check("app.log.9", "app.log.10", true);
        check("app.log.1", "app.log.12", true);
        check("app.1.log", "app.2.log", true);
        check("app.log.1", "app.log.1", false);
        check("app.log.1", "app.log", false);
        check("app.log", "app.log.1", false);
        check("app.log.1", "other.log.1", false);
        check("app.log.1", "app.log.2.gz", false);
        check("app1.log.1", "app2.log.2", false);
    }

    #[test]
    fn the_bases_of_a_name_are_those_that_it_could_be_a_rotation_of() {
        let names = [
            "app.log",
            "app.log.1",
            "app.log.10",
            "app-20261122.log",
            "app1.log",
            "app12.log",
            "app",
            "apple.log",
            ".app.log",
            "a.b.log",
            "a.b-1.log",
            "x",
        ];
        for other in names.map(OsStr::new) {
            let bases: Vec<OsString> = rotation_bases(other).collect();
            for base in names.map(OsStr::new) {
                let is_among = bases.iter().any(|it| it == base);
                assert_eq!(is_among, is_rotation_of(base, other), "{base:?} {other:?}");
                let prefix = rotation_prefix(base).as_bytes();
                let begins = other.as_bytes().starts_with(prefix);
                assert!(begins || base != other && !is_among, "{base:?} {other:?}");
            }
        }
    }
}
