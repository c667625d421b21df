//! Salted hashes of file content and paths: enough to know a file again, useless to anybody else.

use model::position::{GUARD_BYTES_MAX, Guard, LineageId};
use ring::hmac;

/// Bytes that the guard at a file's head covers at most.
pub(super) const HEAD_BYTES: usize = 1024;

/// Bytes that the guard before the offset covers at most.
pub(super) const TAIL_BYTES: usize = 256;

const _: () = assert!(HEAD_BYTES <= GUARD_BYTES_MAX as usize && TAIL_BYTES <= HEAD_BYTES);

/// Hashes with the spool's salt.
#[derive(Clone)]
pub(crate) struct Hasher(hmac::Key);

impl Hasher {
    pub(crate) fn new(salt: &[u8; 16]) -> Hasher {
        Hasher(hmac::Key::new(hmac::HMAC_SHA256, salt))
    }

    /// The guard over all of `bytes`.
    pub(super) fn guard(&self, bytes: &[u8]) -> Guard {
        if bytes.is_empty() {
            return Guard::default();
        }
        debug_assert!(bytes.len() <= HEAD_BYTES);
        Guard {
            bytes: u16::try_from(bytes.len()).expect("a guard covers at most 1024 bytes"),
            hash: self.hash(&[b"guard", bytes]),
        }
    }

    /// The name of a path within a source.
    pub(crate) fn lineage(&self, source: &str, path: &[u8]) -> LineageId {
        let length = (source.len() as u64).to_be_bytes();
        let hash = self.hash(&[b"lineage", &length, source.as_bytes(), path]);
        LineageId((hash >> 64) as u64)
    }

    /// What tells an inode, from the parts that the kernel names it by.
    pub(super) fn object(&self, parts: &[&[u8]]) -> u128 {
        let all: Vec<&[u8]> = std::iter::once(&b"object"[..])
            .chain(parts.iter().copied())
            .collect();
        self.hash(&all)
    }

    fn hash(&self, parts: &[&[u8]]) -> u128 {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let tag = context.sign();
        let (first, _) = tag
            .as_ref()
            .split_first_chunk::<16>()
            .expect("SHA-256 has 32 bytes");
        u128::from_be_bytes(*first)
    }
}
