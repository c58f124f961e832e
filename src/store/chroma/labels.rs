//! Finds out which record stands at which label of a segment whose pickle is lost, where that can be proved.
//!
//! Since chromadb 1.0 a record gets its label and its row in `embeddings` in one order, so the live labels, sorted, go
//! with the rows, sorted (CHROMA.md §3.4). That is a rule of thumb until something agrees with it: whatever could be
//! read of the pickle, and every vector that the queue still holds. One of these must be there, and none may object.

use super::catalog::floats;
use super::error::{During, Error};
use super::text::Text;
use super::vectors::normalise;
use super::{Collection, Source, Space};
use rusqlite::{Connection, OptionalExtension};
use std::collections::BTreeMap;

/// Pairs of id and label, in order; `None` where they cannot be proved.
///
/// `index` holds the tables of `Vectors`; `stored` gives the vector that the files hold in a slot.
pub(super) fn prove(
    source: &Source,
    collection: &Collection,
    index: &Connection,
    stored: &dyn Fn(i64) -> Option<Vec<f32>>,
) -> Result<Option<Vec<(Text, i64)>>, Error> {
    if !source.format.has_integer_sequences() {
        return Ok(None); // Python handed labels out in the order of a set
    }
    let prove = || {
        let (elements, queue) = (elements(index)?, Queue::read(source, collection)?);
        let Some(ids) = ids(source, collection)? else { return Ok(None) };
        // A record that the queue touches first by adding it is not in the files; of the others that it touches, either
        // all are, or none.
        for is_new in [|_| true, |operation| operation == 0] as [fn(i64) -> bool; 2] {
            let old = ids.iter().filter(|id| !queue.first_behind.get(id).copied().is_some_and(is_new));
            let pairs: Vec<(&Text, &(i64, i64))> = old.zip(&elements).collect();
            let count = ids.iter().filter(|id| !queue.first_behind.get(id).copied().is_some_and(is_new)).count();
            if count == elements.len() && evidence(source, collection, index, &queue, &pairs, stored)? > Some(0) {
                return Ok(Some(pairs.into_iter().map(|(id, (label, _))| (id.clone(), *label)).collect()));
            }
        }
        Ok(None)
    };
    prove().during(&source.database, "looking for the labels of its records")
}

/// Labels and slots of the live elements, by label.
fn elements(index: &Connection) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut query = index.prepare("SELECT label, slot FROM element ORDER BY label")?;
    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Ids of the records by their rows; `None` where one was written by a chromadb before 1.0, which left its number as
/// bytes.
fn ids(source: &Source, collection: &Collection) -> rusqlite::Result<Option<Vec<Text>>> {
    let sql = "SELECT embedding_id, typeof(seq_id) = 'integer' FROM embeddings WHERE segment_id = ?1 ORDER BY id";
    let mut query = source.connection.prepare(sql)?;
    let rows = query.query_map([&collection.metadata], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<(Text, bool)>>>()?;
    Ok(rows.into_iter().map(|(id, is_integer)| is_integer.then_some(id)).collect())
}

/// What the queue knows of a collection's records.
struct Queue {
    /// The kind of the first write to each record behind the persisted ones.
    first_behind: BTreeMap<Text, i64>,
    /// The number of the last persisted write of a vector to each record.
    last_vector: BTreeMap<Text, i64>,
}

impl Queue {
    fn read(source: &Source, collection: &Collection) -> rusqlite::Result<Queue> {
        let sql = "SELECT seq_id, operation, id, vector IS NOT NULL FROM embeddings_queue WHERE topic = ?1
                   ORDER BY seq_id";
        let mut query = source.connection.prepare(sql)?;
        let mut rows = query.query([&collection.topic])?;
        let mut queue = Queue { first_behind: BTreeMap::new(), last_vector: BTreeMap::new() };
        let persisted = collection.vector_sequence.unwrap_or(0);
        while let Some(row) = rows.next()? {
            let (sequence, id): (i64, Text) = (row.get(0)?, row.get(2)?);
            if sequence > persisted {
                queue.first_behind.entry(id).or_insert(row.get(1)?);
            } else if row.get(3)? {
                queue.last_vector.insert(id, sequence);
            }
        }
        Ok(queue)
    }
}

/// How many things agree with the pairs; `None` where one does not.
fn evidence(
    source: &Source,
    collection: &Collection,
    index: &Connection,
    queue: &Queue,
    pairs: &[(&Text, &(i64, i64))],
    stored: &dyn Fn(i64) -> Option<Vec<f32>>,
) -> rusqlite::Result<Option<usize>> {
    let mut labels = index.prepare("SELECT label FROM label WHERE id = ?1")?;
    let mut written = source.connection.prepare("SELECT vector FROM embeddings_queue WHERE seq_id = ?1")?;
    let mut agreeing = 0;
    for (id, (label, slot)) in pairs {
        if let Some(known) = labels.query_row([id], |row| row.get::<_, i64>(0)).optional()? {
            if known != *label {
                return Ok(None);
            }
            agreeing += 1;
        }
        let Some(sequence) = queue.last_vector.get(id) else { continue };
        if let Some(vector) = written.query_row([sequence], |row| Ok(floats(row.get_ref(0)?)))? {
            let expected = if collection.shape.space == Space::Cosine { normalise(&vector).0 } else { vector };
            if !stored(*slot).is_some_and(|found| is_same(&found, &expected)) {
                return Ok(None);
            }
            agreeing += 1;
        }
    }
    Ok(Some(agreeing))
}

fn is_same(left: &[f32], right: &[f32]) -> bool {
    left.iter().map(|value| value.to_bits()).eq(right.iter().map(|value| value.to_bits()))
}
