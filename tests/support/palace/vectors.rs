//! What chromadb's `get()` returns as embeddings, worked out from the files by the rules of the format, for tests.

use super::{pickle, read};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// One record's vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vector {
    /// What `get()` returns.
    pub(crate) get: Vec<f32>,
    /// What the client handed in, where the queue still holds it.
    pub(crate) queued: Option<Vec<f32>>,
}

impl Vector {
    /// Both parts as bits: `==` on floats would call -0.0 and 0.0 equal.
    pub(crate) fn bits(&self) -> (Vec<u32>, Option<Vec<u32>>) {
        (bits(&self.get), self.queued.as_deref().map(bits))
    }
}

pub(crate) fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|value| value.to_bits()).collect()
}

/// A collection, as far as its vectors go.
pub(super) struct Shelf<'s> {
    pub(super) connection: &'s Connection,
    pub(super) palace: &'s Path,
    pub(super) topic: &'s str,
    pub(super) segment: &'s str,
    pub(super) is_cosine: bool,
}

impl Shelf<'_> {
    /// Every id that has a vector, with it: the index files first, then the queue behind them, write by write.
    pub(super) fn vectors(&self) -> BTreeMap<String, Vector> {
        let (mut vectors, pickled_sequence) = self.in_files();
        let persisted = self.persisted().or(pickled_sequence).unwrap_or(0);
        let sql = "SELECT operation, id, vector FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2 ORDER BY seq_id";
        let mut query = self.connection.prepare(sql).expect("a queue");
        let mut rows = query.query((self.topic, persisted)).expect("a queue");
        while let Some(row) = rows.next().expect("a row of the queue") {
            let (operation, id): (i64, String) = (row.get(0).expect("a number"), row.get(1).expect("an id"));
            let original = row.get::<_, Option<Vec<u8>>>(2).expect("a vector").map(|bytes| floats(&bytes));
            match (operation, vectors.contains_key(&id), original) {
                (0, false, Some(original)) | (1, true, Some(original)) | (2, _, Some(original)) => {
                    vectors.insert(id, self.queued(original));
                }
                (3, ..) => drop(vectors.remove(&id)),
                _ => {}
            }
        }
        vectors
    }

    fn queued(&self, original: Vec<f32>) -> Vector {
        let get = if self.is_cosine { there_and_back(&original) } else { original.clone() };
        Vector { get, queued: Some(original) }
    }

    /// The last write that the index files hold, as the database has it.
    fn persisted(&self) -> Option<i64> {
        let sql = "SELECT seq_id FROM max_seq_id WHERE segment_id = ?1";
        match self.connection.query_row(sql, [self.segment], |row| row.get::<_, Value>(0)) {
            Ok(Value::Integer(number)) => Some(number),
            Ok(Value::Blob(bytes)) => Some(i64::from_be_bytes(bytes.try_into().expect("eight bytes"))),
            _ => None,
        }
    }

    fn in_files(&self) -> (BTreeMap<String, Vector>, Option<i64>) {
        let directory = self.palace.join(self.segment);
        let Ok(pickled) = read(&directory.join("index_metadata.pickle")) else {
            return (BTreeMap::new(), None);
        };
        let pickled = pickle::read(&pickled);
        let elements = elements(&directory, self.is_cosine);
        let labels = pickled.get("id_to_label").expect("a map of labels").text_to_int();
        let vector = |label: &i64| Vector { get: elements[&(*label as u64)].clone(), queued: None };
        let vectors = labels.iter().map(|(id, label)| (id.clone(), vector(label))).collect();
        let sequence = match pickled.get("max_seq_id") {
            Some(pickle::Value::Int(number)) => Some(*number),
            _ => None,
        };
        (vectors, sequence)
    }
}

/// Live elements of an index by label, multiplied with their lengths where the space is cosine.
fn elements(directory: &Path, is_cosine: bool) -> BTreeMap<u64, Vec<f32>> {
    let bytes = |name: &str| read(&directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (header, records, lengths) = (bytes("header.bin"), bytes("data_level0.bin"), bytes("length.bin"));
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes")) as usize;
    let (count, size, label_at, vector_at) = (number(20), number(28), number(36), number(44));
    let lengths = floats(&lengths);
    let live = records.chunks_exact(size).take(count).zip(lengths).filter(|(record, _)| record[2] & 1 == 0);
    let element = |(record, length): (&[u8], f32)| {
        let label = u64::from_le_bytes(record[label_at..].try_into().expect("a label is the last eight bytes"));
        let length = if is_cosine { length } else { 1.0 };
        (label, floats(&record[vector_at..label_at]).iter().map(|value| value * length).collect())
    };
    live.map(element).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect()
}

/// Normalised as chromadb does it, and multiplied out again.
fn there_and_back(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().fold(0_f32, |sum, value| sum + value * value).sqrt();
    let inverse = 1.0 / (length + 1e-30_f32);
    vector.iter().map(|value| value * inverse * length).collect()
}

/// How many representable numbers lie between two floats, at most, over a whole vector.
pub(crate) fn ulps(one: &[f32], two: &[f32]) -> u32 {
    assert_eq!(one.len(), two.len(), "vectors of different dimensions");
    let ordinal = |value: &f32| match value.to_bits() as i32 {
        bits if bits >= 0 => i64::from(bits),
        bits => -i64::from(bits & 0x7fff_ffff),
    };
    one.iter().zip(two).map(|(one, two)| (ordinal(one) - ordinal(two)).unsigned_abs() as u32).max().unwrap_or(0)
}
