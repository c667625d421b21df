//! How far a file has been read, carried by the last record that each batch holds of it.
//!
//! Data and position are one write, so neither can be ahead of the other. A position names the
//! *lineage* (one path of one source), the *epoch* in it (one life of one inode: a rotation or a
//! truncation begins the next), the inode's *key*, and two *guards*: salted hashes of the bytes at
//! the file's head and just before the offset. Key and guards together tell the same file from its
//! successor, its copy, and another file that got its inode number. File content never appears.
//!
//! ```text
//! version u8 = 2 | flags u8 (1: finished, 2: moved, 4: copied, 8: milestones) | codec u8 | lineage u64 | epoch varint | offset varint
//! key: level u8, file system u64, inode varint, object u128
//! head: bytes varint, hash u128 | tail: bytes varint, hash u128
//! milestones, if any: twice bytes varint, hash u128
//! path: length varint, bytes | place, if moved: length varint, bytes
//! seconds, if finished: varint
//! ```
//! Fixed-size integers are big-endian, varints are LEB128. One value has one encoding.

use std::fmt;

/// A path has at most this many bytes: Linux's `PATH_MAX`, without its NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// A guard covers at most this many bytes.
pub const GUARD_BYTES_MAX: u16 = 1024;

/// Never longer than this, with both paths at their limit.
pub const POSITION_BYTES_MAX: usize = 2 * PATH_BYTES_MAX + 192;

const VERSION: u8 = 2;
const FLAG_FINISHED: u8 = 1;
const FLAG_MOVED: u8 = 2;
const FLAG_COPIED: u8 = 4;
const FLAG_MILESTONES: u8 = 8;

/// Where a file is read on from, and how it is known to be the same file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The path of the source whose lines these are.
    pub lineage: LineageId,
    /// Grows with each file that this path names.
    pub epoch: u32,
    /// The end of the last record that was taken, in what the file holds once it is decompressed.
    pub offset: u64,
    /// How the file is compressed.
    pub codec: Codec,
    /// The inode.
    pub key: FileKey,
    /// The file's first bytes, as far as they were seen.
    pub head: Guard,
    /// The bytes just before `offset`.
    pub tail: Guard,
    /// The lineage's path, as the system's bytes.
    pub path: Vec<u8>,
    /// Where the inode was seen last, when that is not `path`.
    pub place: Option<Vec<u8>>,
    /// Over some bytes before each of [`milestones_of`] `offset`: a copy that ends before `offset` is known by
    /// them. Default where nothing is known.
    pub milestones: [Guard; 2],
    /// The inode is a copy of the one that was read at first. The next copy may be written over it.
    pub is_copied: bool,
    /// Nothing more is expected of this epoch since then, in seconds of the wall clock since 1970. It
    /// is kept for a while to know the file again.
    pub finished_s: Option<u64>,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Codec {
    /// It is not.
    #[default]
    None = 0,
    /// gzip, RFC 1952.
    Gzip = 1,
    /// Zstandard, RFC 8878.
    Zstd = 2,
    /// bzip2.
    Bzip2 = 3,
    /// xz.
    Xz = 4,
}

/// Names a path of a source; drawn from both by a salted hash, so that the same path on two hosts
/// differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineageId(pub u64);

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What tells one inode from all others, also from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// How good `object` is.
    pub level: KeyLevel,
    /// The file system.
    pub file_system: u64,
    /// The inode's number: a directory listing shows it without opening anything.
    pub inode: u64,
    /// A hash of what `level` says.
    pub object: u128,
}

/// What a [`FileKey`] was made from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyLevel {
    /// The kernel's file handle.
    Handle = 1,
    /// The kernel's file identifier, where handles cannot be reopened.
    HandleId = 2,
    /// Inode number and the file system's count of its lives.
    Generation = 3,
    /// Inode number and birth time.
    BirthTime = 4,
    /// Inode number alone.
    Inode = 5,
}

/// A salted hash over some bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Guard {
    /// How many bytes it covers, at most [`GUARD_BYTES_MAX`].
    pub bytes: u16,
    /// Their hash; 0 when it covers none.
    pub hash: u128,
}

/// Why bytes are not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// Fewer bytes than the fields need.
    #[error("ends early")]
    Short,
    /// A version that this program does not know.
    #[error("version {0} is not known")]
    Version(u8),
    /// A field has a value that no writer writes.
    #[error("{0} has an impossible value")]
    Field(&'static str),
    /// Bytes after the last field.
    #[error("{0} bytes too many")]
    Long(usize),
}

impl Position {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.are_guards_within(), "{self:?}");
        let mut flags = 0;
        if self.finished_s.is_some() {
            flags |= FLAG_FINISHED;
        }
        if self.place.is_some() {
            flags |= FLAG_MOVED;
        }
        if self.is_copied {
            flags |= FLAG_COPIED;
        }
        let has_milestones = self.milestones != <[Guard; 2]>::default();
        if has_milestones {
            flags |= FLAG_MILESTONES;
        }
        out.extend([VERSION, flags, self.codec as u8]);
        out.extend(self.lineage.0.to_be_bytes());
        put_varint(out, u64::from(self.epoch));
        put_varint(out, self.offset);
        out.push(self.key.level as u8);
        out.extend(self.key.file_system.to_be_bytes());
        put_varint(out, self.key.inode);
        out.extend(self.key.object.to_be_bytes());
        let milestones = self.milestones.iter().filter(|_| has_milestones);
        for guard in [self.head, self.tail].iter().chain(milestones) {
            debug_assert!(guard.bytes <= GUARD_BYTES_MAX);
            put_varint(out, u64::from(guard.bytes));
            out.extend(guard.hash.to_be_bytes());
        }
        put_path(out, &self.path);
        if let Some(place) = &self.place {
            put_path(out, place);
        }
        if let Some(seconds) = self.finished_s {
            put_varint(out, seconds);
        }
    }

    /// Reads exactly one position.
    pub fn decode(bytes: &[u8]) -> Result<Position, PositionError> {
        let mut input = Input(bytes);
        let position = Position::read(&mut input)?;
        match input.0.len() {
            0 => Ok(position),
            more => Err(PositionError::Long(more)),
        }
    }

    /// Reads the positions that one record carries, one behind the other: several where it is put
    /// together from the end of one file and the start of the next.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Position>, PositionError> {
        let mut input = Input(bytes);
        let mut positions = vec![Position::read(&mut input)?];
        while !input.0.is_empty() {
            positions.push(Position::read(&mut input)?);
        }
        Ok(positions)
    }

    fn read(input: &mut Input<'_>) -> Result<Position, PositionError> {
        let version = input.byte()?;
        if version != VERSION {
            return Err(PositionError::Version(version));
        }
        let flags = input.byte()?;
        if flags & !(FLAG_FINISHED | FLAG_MOVED | FLAG_COPIED | FLAG_MILESTONES) != 0 {
            return Err(PositionError::Field("flags"));
        }
        let codec = input.codec()?;
        let position = Position {
            codec,
            lineage: LineageId(u64::from_be_bytes(input.array()?)),
            epoch: u32::try_from(input.varint()?).map_err(|_| PositionError::Field("epoch"))?,
            offset: input.varint()?,
            key: input.key()?,
            head: input.guard()?,
            tail: input.guard()?,
            milestones: if flags & FLAG_MILESTONES != 0 {
                [input.guard()?, input.guard()?]
            } else {
                Default::default()
            },
            path: input.path()?,
            place: if flags & FLAG_MOVED != 0 {
                Some(input.path()?)
            } else {
                None
            },
            is_copied: flags & FLAG_COPIED != 0,
            finished_s: if flags & FLAG_FINISHED != 0 {
                Some(input.varint()?)
            } else {
                None
            },
        };
        if position.are_guards_within() {
            Ok(position)
        } else {
            Err(PositionError::Field("a guard's length"))
        }
    }

    /// Whether the guards before a byte cover no more than there is before it.
    fn are_guards_within(&self) -> bool {
        let [greater, lesser] = self.milestones;
        let ends = milestones_of(self.offset);
        let guards = [
            (self.offset, self.tail),
            (ends[0], greater),
            (ends[1], lesser),
        ];
        guards
            .iter()
            .all(|&(end, guard)| u64::from(guard.bytes) <= end)
    }
}

/// The greatest power of two that is not past `offset`, and half of it: a file that lacks a little at its end
/// has one of them.
pub fn milestones_of(offset: u64) -> [u64; 2] {
    let greater = offset.checked_ilog2().map_or(0, |exponent| 1 << exponent);
    [greater, greater / 2]
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.push(value as u8);
}

fn put_path(out: &mut Vec<u8>, path: &[u8]) {
    debug_assert!(path.len() <= PATH_BYTES_MAX);
    put_varint(out, path.len() as u64);
    out.extend(path);
}

/// The bytes that are still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PositionError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(PositionError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PositionError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(PositionError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, PositionError> {
        Ok(self.array::<1>()?[0])
    }

    /// A LEB128 number in its shortest form.
    fn varint(&mut self) -> Result<u64, PositionError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(PositionError::Field("a number"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded {
                    Err(PositionError::Field("a number"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(PositionError::Field("a number"))
    }

    fn codec(&mut self) -> Result<Codec, PositionError> {
        Ok(match self.byte()? {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Zstd,
            3 => Codec::Bzip2,
            4 => Codec::Xz,
            _ => return Err(PositionError::Field("the codec")),
        })
    }

    fn key(&mut self) -> Result<FileKey, PositionError> {
        let level = match self.byte()? {
            1 => KeyLevel::Handle,
            2 => KeyLevel::HandleId,
            3 => KeyLevel::Generation,
            4 => KeyLevel::BirthTime,
            5 => KeyLevel::Inode,
            _ => return Err(PositionError::Field("the key's level")),
        };
        Ok(FileKey {
            level,
            file_system: u64::from_be_bytes(self.array()?),
            inode: self.varint()?,
            object: u128::from_be_bytes(self.array()?),
        })
    }

    fn guard(&mut self) -> Result<Guard, PositionError> {
        let bytes = u16::try_from(self.varint()?)
            .ok()
            .filter(|&bytes| bytes <= GUARD_BYTES_MAX)
            .ok_or(PositionError::Field("a guard's length"))?;
        let hash = u128::from_be_bytes(self.array()?);
        Ok(Guard { bytes, hash })
    }

    fn path(&mut self) -> Result<Vec<u8>, PositionError> {
        let length = usize::try_from(self.varint()?)
            .ok()
            .filter(|&length| length <= PATH_BYTES_MAX)
            .ok_or(PositionError::Field("a path's length"))?;
        Ok(self.take(length)?.to_vec())
    }
}

#[cfg(test)]
mod tests;
