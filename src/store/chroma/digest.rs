//! What a collection holds, in 256 bits: equal digests, equal contents.
//!
//! Each record is hashed by itself (BLAKE3 over id, metadata, document and vector; see SPEC.md, "The content digest")
//! and the digest of a collection is the sum of its records' hashes. A sum does not ask for an order, so a palace of
//! any size is digested in one pass through its pages, in constant memory.

use std::fmt;

/// A sum of BLAKE3 hashes, as four 64-bit lanes.
#[derive(Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Takes one more hash in.
    pub fn add(&mut self, hash: blake3::Hash) {
        let (lanes, _) = hash.as_bytes().as_chunks::<8>();
        for (sum, lane) in self.0.iter_mut().zip(lanes) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*lane));
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|lane| write!(f, "{lane:016x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes one record, field by field; every field carries its kind and length, so that no two records run together.
#[derive(Default)]
pub(super) struct Hasher(blake3::Hasher);

impl Hasher {
    pub(super) fn bytes(&mut self, kind: u8, bytes: &[u8]) {
        self.0.update(&[kind]);
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// One SQLite value, with its type.
    pub(super) fn value(&mut self, value: rusqlite::types::ValueRef) {
        use rusqlite::types::ValueRef;
        match value {
            ValueRef::Null => self.bytes(b'n', &[]),
            ValueRef::Integer(value) => self.bytes(b'i', &value.to_le_bytes()),
            ValueRef::Real(value) => self.bytes(b'r', &value.to_bits().to_le_bytes()),
            ValueRef::Text(bytes) => self.bytes(b't', bytes),
            ValueRef::Blob(bytes) => self.bytes(b'b', bytes),
        }
    }

    pub(super) fn floats(&mut self, kind: u8, floats: &[f32]) {
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_bits().to_le_bytes()).collect();
        self.bytes(kind, &bytes);
    }

    pub(super) fn finish(self) -> blake3::Hash {
        self.0.finalize()
    }
}
