//! Which compressed files may be copies of which epochs, by their names.
//!
//! [`is_of`] says it of one file and one epoch. So that not each file is compared with each epoch, both have
//! *keys*: what may belong together has one in common.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;

use super::lineage::{Epoch, Life, Lineage};
use super::pattern::{is_rotation_of, is_shifted, rotation_bases, without_codec};

/// A hash of a name, or of one without one of its numbers.
pub(super) type Key = u64;

/// Whether a compressed file could be an epoch's, by its name: that of the path, or of what a link leads
/// to. What lost its name may have been shifted on before it was compressed.
pub(super) fn is_of(name: &OsStr, lineage: &Lineage, epoch: &Epoch) -> bool {
    let plain = without_codec(name);
    let is_left = epoch.life != Life::Named;
    let mut names = names_of(lineage, epoch);
    names.any(|own| own == plain || is_rotation_of(own, plain) || is_left && is_shifted(own, plain))
}

fn names_of<'a>(lineage: &'a Lineage, epoch: &'a Epoch) -> impl Iterator<Item = &'a OsStr> {
    let real = epoch.place.as_ref().and_then(|place| place.file_name());
    real.into_iter().chain([lineage.name.as_os_str()])
}

/// The keys of an epoch.
pub(super) fn keys_of_epoch(lineage: &Lineage, epoch: &Epoch) -> Vec<Key> {
    let is_left = epoch.life != Life::Named;
    let keys = names_of(lineage, epoch).flat_map(|own| {
        let shifted = is_left.then(|| keys_without_number(own));
        std::iter::once(key_of(own)).chain(shifted.into_iter().flatten())
    });
    keys.collect()
}

/// The keys of a compressed file.
pub(super) fn keys_of_file(name: &OsStr) -> impl Iterator<Item = Key> {
    let plain = without_codec(name);
    let bases = rotation_bases(plain).map(|base| key_of(&base));
    let own = std::iter::once(key_of(plain));
    own.chain(bases).chain(keys_without_number(plain))
}

fn key_of(name: &OsStr) -> Key {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// A key for each number in the name, over all that stands before and behind it.
fn keys_without_number(name: &OsStr) -> impl Iterator<Item = Key> {
    let name = name.as_bytes();
    let is_digit = |at: usize| name.get(at).is_some_and(u8::is_ascii_digit);
    let starts = (0..name.len()).filter(move |&at| is_digit(at) && (at == 0 || !is_digit(at - 1)));
    starts.map(|start| {
        let digits = name[start..].iter().take_while(|it| it.is_ascii_digit());
        let mut hasher = DefaultHasher::new();
        (&name[..start], &name[start + digits.count()..]).hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs::File;
    use std::path::PathBuf;
    use std::time::Duration;

    use model::position::{FileKey, KeyLevel, LineageId};

    use super::*;

    const KEY: FileKey = FileKey {
        level: KeyLevel::Inode,
        file_system: 0,
        inode: 0,
        object: 0,
    };

    #[test]
    fn what_may_belong_together_by_its_name_has_a_key_in_common() {
        let names = [
            "app.log",
            "app.log.1",
            "app.log.2",
            "app.log.12",
            "app-20261122.log",
            "app1.log",
            "app12.log",
            "app",
            "apple.log",
            ".app.log",
            "a.b.log",
            "a.b-1.log",
            "a.1.log",
            "a.2.log",
            "1",
            "2",
            "x1y22z3",
            "x1y23z3",
            "x1y22z",
        ];
        for own in names {
            for (place, life) in [
                (None, Life::Named),
                (None, Life::Detached(Duration::ZERO)),
                (Some("app.log.7"), Life::Named),
                (Some("app.log.7"), Life::Finished(Duration::ZERO)),
            ] {
                let id = LineageId(0);
                let lineage = Lineage::new(id, PathBuf::from(own), 0, OsString::from(own));
                let content = File::open("/dev/null").unwrap().into();
                let mut epoch = Epoch::new(1, KEY, content, Duration::ZERO);
                epoch.place = place.map(PathBuf::from);
                epoch.life = life;
                let own_keys = keys_of_epoch(&lineage, &epoch);
                for other in names {
                    let other = OsString::from(format!("{other}.gz"));
                    let has_common = keys_of_file(&other).any(|it| own_keys.contains(&it));
                    let is_of = is_of(&other, &lineage, &epoch);
                    assert_eq!(has_common, is_of, "{own} {place:?} {life:?} {other:?}");
                }
            }
        }
    }
}
