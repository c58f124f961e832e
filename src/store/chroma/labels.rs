//! Finds out which record stands at which label of a segment whose pickle is lost, where that can be proved.
//!
//! Since chromadb 1.0 a record gets its label and its row in `embeddings` in one order, so the live labels, sorted, go
//! with the rows, sorted (CHROMA.md §3.4). Some pairs are known: from what could be read of the pickle, and from vectors
//! that the queue still holds. Between two of them, as many labels as rows can only go together in one way; where the
//! numbers differ, nothing is proved. Pairs that are known and out of order prove the rule itself wrong.

use super::catalog::floats;
use super::error::{During, Error};
use super::hnsw::Hnsw;
use super::text::Text;
use super::vectors::normalise;
use super::{Collection, Source, Space};
use rusqlite::{Connection, OptionalExtension};
use std::collections::{BTreeMap, HashMap};

/// Pairs of id and label that can be proved. `index` holds the tables of `Vectors`.
pub(super) fn prove(
    source: &Source,
    collection: &Collection,
    index: &Connection,
    hnsw: &Hnsw,
) -> Result<Vec<(Text, i64)>, Error> {
    if !source.format.has_integer_sequences() {
        return Ok(Vec::new()); // Python handed labels out in the order of a set
    }
    let prove = || {
        let (elements, queue) = (elements(index)?, Queue::read(source, collection)?);
        let Some(ids) = ids(source, collection)? else { return Ok(Vec::new()) };
        let written = queue.labels(source, collection, hnsw, &elements)?;
        let mut known = index.prepare("SELECT label FROM label WHERE id = ?1")?;
        let mut known = |id: &Text| known.query_row([id], |row| row.get::<_, i64>(0)).optional();
        let mut best = Vec::new();
        // Of a record that the queue touches first by an upsert, nobody knows whether the files have it.
        for is_new in [|operation| operation != 1, |operation| operation == 0 || operation == 3] as [fn(i64) -> bool; 2]
        {
            let mut rows = Vec::new();
            for id in ids.iter().filter(|id| !queue.first_behind.get(id).copied().is_some_and(is_new)) {
                rows.push((id, known(id)?.or_else(|| written.get(id).copied())));
            }
            let labels: Vec<i64> = elements.iter().map(|(label, _)| *label).collect();
            let pairs = between(&rows, &labels);
            if pairs.len() > best.len() {
                best = pairs;
            }
        }
        Ok(best)
    };
    prove().during(&source.database, "looking for the labels of its records")
}

/// Pairs every row that lies between known ones, where as many labels lie between theirs. Nothing where no row is known, or
/// where two known ones are out of order.
fn between(rows: &[(&Text, Option<i64>)], labels: &[i64]) -> Vec<(Text, i64)> {
    let known: Vec<(usize, usize)> = rows
        .iter()
        .enumerate()
        .filter_map(|(row, (_, label))| Some((row, labels.binary_search(&(*label)?).ok()?)))
        .collect();
    let is_ordered = known.windows(2).all(|pair| pair[0].1 < pair[1].1);
    if known.is_empty() || !is_ordered {
        return Vec::new();
    }
    let mut pairs = Vec::new();
    let (mut row, mut place) = (0, 0);
    for (next_row, next_place) in known.iter().copied().chain([(rows.len(), labels.len())]) {
        if next_row - row == next_place - place {
            pairs.extend((row..next_row).zip(place..next_place));
        }
        if next_row < rows.len() {
            pairs.push((next_row, next_place));
        }
        (row, place) = (next_row + 1, next_place + 1);
    }
    pairs.into_iter().map(|(row, place)| (rows[row].0.clone(), labels[place])).collect()
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

    /// Labels of the elements that hold, bit for bit, what a persisted write put there.
    fn labels(
        &self,
        source: &Source,
        collection: &Collection,
        hnsw: &Hnsw,
        elements: &[(i64, i64)],
    ) -> rusqlite::Result<BTreeMap<Text, i64>> {
        let mut written = source.connection.prepare("SELECT vector FROM embeddings_queue WHERE seq_id = ?1")?;
        let mut wanted = HashMap::new();
        for (id, sequence) in &self.last_vector {
            if let Some(vector) = written.query_row([sequence], |row| Ok(floats(row.get_ref(0)?)))? {
                let stored = if collection.shape.space == Space::Cosine { normalise(&vector).0 } else { vector };
                wanted.insert(bits(&stored), id);
            }
        }
        let mut labels = BTreeMap::<Text, Vec<i64>>::new();
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        for (label, slot) in elements {
            let Ok(Some((stored, _))) = hnsw.vector(*slot as u64) else { continue };
            if let Some(id) = wanted.get(&bits(&stored)) {
                labels.entry((*id).clone()).or_default().push(*label);
            }
        }
        // A vector that several records share says nothing about any of them.
        Ok(labels.into_iter().filter_map(|(id, labels)| Some((id, labels[0])).filter(|_| labels.len() == 1)).collect())
    }
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|value| value.to_bits()).collect()
}
