//! Finds out which record stands at which label of a segment whose pickle is lost, where that can be proved.
//!
//! Since chromadb 1.0 a record gets its label and its row in `embeddings` in one order, so labels, sorted, go with
//! rows, sorted (CHROMA.md §3.4). Records that were deleted since leave holes among the rows, and other collections
//! leave some too. Some pairs are known: from what could be read of the pickle, and from vectors that the queue still
//! holds. A pair is proved where it is the same in every way in which the labels can be given to rows and holes in
//! order.

use super::catalog::floats;
use super::error::{During, Error};
use super::hnsw::Hnsw;
use super::text::Text;
use super::vector::normalise;
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
        let Some(rows) = rows(source, collection)? else { return Ok(Vec::new()) };
        let written = queue.labels(source, collection, hnsw, &elements)?;
        let mut known = index.prepare("SELECT label FROM label WHERE id = ?1")?;
        let mut known = |id: &Text| known.query_row([id], |row| row.get::<_, i64>(0)).optional();
        let labels: Vec<(i64, State)> = every_label(hnsw, &elements);
        let place = |label: i64| labels.binary_search_by_key(&label, |(label, _)| *label).ok();
        let mut items = Vec::new();
        for (rowid, id) in items_of(&rows, &queue, holes(source, &rows)?) {
            let label = match &id {
                Slot::Row(id) | Slot::Maybe(id) => known(id)?.or_else(|| written.get(id).copied()),
                Slot::Hole => None,
            };
            items.push((rowid, id, label.and_then(place)));
        }
        Ok(align(&items, &labels))
    };
    prove().during(&source.database, "looking for the labels of its records")
}

/// What a row number stands for.
#[derive(Clone)]
enum Slot {
    /// A record that the files hold.
    Row(Text),
    /// A record that the files may hold.
    Maybe(Text),
    /// A record that is gone, of this collection or another one.
    Hole,
}

/// Whether an element is deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    Deleted,
}

/// Row numbers in order, with what they stand for. A new row always gets a higher number than all that are there, so
/// whatever lies below a row that no write behind the persisted ones touches is as old as that one.
fn items_of(rows: &[(i64, i64, Text)], queue: &Queue, holes: Vec<i64>) -> Vec<(i64, Slot)> {
    let is_untouched = |id: &Text| !queue.first_behind.contains_key(id);
    let bound = rows.iter().filter(|(.., id)| is_untouched(id)).map(|(rowid, ..)| *rowid).max().unwrap_or(0);
    let mut items: Vec<(i64, Slot)> = holes.into_iter().map(|rowid| (rowid, Slot::Hole)).collect();
    for (rowid, sequence, id) in rows {
        match queue.first_behind.get(id) {
            _ if *rowid <= bound => items.push((*rowid, Slot::Row(id.clone()))),
            Some((0, first)) if first == sequence => {} // made by that very write
            Some((3, _)) => {}                          // made again after a deletion
            _ => items.push((*rowid, Slot::Maybe(id.clone()))),
        }
    }
    items.sort_by_key(|(rowid, _)| *rowid);
    items
}

/// Bytes that an alignment may take; a palace with more holes than that allows proves nothing.
const ALIGNMENT_BYTES_MAX: usize = 1 << 27;

/// Pairs rows and labels that go together in every way in which all labels can be given away in order: each to a record
/// that the files hold, or to one that is gone. `known` ones are held to; where there is none, nothing is proved.
fn align(items: &[(i64, Slot, Option<usize>)], labels: &[(i64, State)]) -> Vec<(Text, i64)> {
    let Some(skips) = items.len().checked_sub(labels.len()) else { return Vec::new() };
    let is_known = items.iter().any(|(.., known)| known.is_some());
    if !is_known || items.len().saturating_mul(skips + 1) > ALIGNMENT_BYTES_MAX {
        return Vec::new();
    }
    let takes = |item: usize, skipped: usize| {
        let Some(place) = item.checked_sub(skipped).filter(|place| *place < labels.len()) else { return false };
        match &items[item] {
            (_, _, Some(known)) => *known == place,
            (_, Slot::Hole, None) => true,
            _ => labels[place].1 == State::Live,
        }
    };
    let may_skip = |item: usize| matches!(items[item], (_, Slot::Hole | Slot::Maybe(_), None));
    // Whether the items from one on can be dealt with, by how many were skipped before it.
    let mut ways = vec![vec![false; skips + 1]; items.len() + 1];
    ways[items.len()][skips] = true;
    for item in (0..items.len()).rev() {
        for skipped in 0..=skips {
            ways[item][skipped] = takes(item, skipped) && ways[item + 1][skipped]
                || skipped < skips && may_skip(item) && ways[item + 1][skipped + 1];
        }
    }
    let mut pairs = Vec::new();
    let mut reached = vec![false; skips + 1];
    reached[0] = true;
    for (item, (_, slot, _)) in items.iter().enumerate() {
        let taken: Vec<usize> = (0..=skips)
            .filter(|skipped| reached[*skipped] && takes(item, *skipped) && ways[item + 1][*skipped])
            .collect();
        let is_skipped = (0..skips).any(|skipped| reached[skipped] && may_skip(item) && ways[item + 1][skipped + 1]);
        if let (Slot::Row(id) | Slot::Maybe(id), [skipped], false) = (slot, &*taken, is_skipped) {
            pairs.push((id.clone(), labels[item - skipped].0));
        }
        reached = (0..=skips)
            .map(|skipped| {
                reached[skipped] && takes(item, skipped) || skipped > 0 && reached[skipped - 1] && may_skip(item)
            })
            .collect();
    }
    pairs
}

/// Labels of all elements, those of deleted ones among them, in order.
fn every_label(hnsw: &Hnsw, live: &[(i64, i64)]) -> Vec<(i64, State)> {
    let mut labels: Vec<(i64, State)> = live.iter().map(|(label, _)| (*label, State::Live)).collect();
    let read = hnsw.elements::<()>(&mut |elements| {
        let deleted = elements.iter().filter(|element| element.is_deleted);
        labels.extend(deleted.map(|element| (element.label as i64, State::Deleted)));
        Ok(())
    });
    if read.is_err() {
        labels.clear();
    }
    labels.sort_by_key(|(label, _)| *label);
    labels
}

/// Row numbers below the last row that no record has, of any collection.
fn holes(source: &Source, rows: &[(i64, i64, Text)]) -> rusqlite::Result<Vec<i64>> {
    let mut query = source.connection.prepare("SELECT id FROM embeddings WHERE id > 0 ORDER BY id")?;
    let mut there = query.query([])?;
    let (mut holes, mut next) = (Vec::new(), 1);
    let last = rows.last().map_or(0, |(rowid, ..)| *rowid);
    while let Some(row) = there.next()? {
        let rowid: i64 = row.get(0)?;
        if rowid > last || holes.len() > HOLES_MAX {
            break;
        }
        holes.extend((next..rowid).take(HOLES_MAX));
        next = rowid + 1;
    }
    Ok(holes)
}

/// With more holes than this, nothing is proved anyway.
const HOLES_MAX: usize = 1 << 16;

/// Labels and slots of the live elements, by label.
fn elements(index: &Connection) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut query = index.prepare("SELECT label, slot FROM element ORDER BY label")?;
    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Records by their rows, with the number of their last write; `None` where one was written by a chromadb before 1.0,
/// which left its number as bytes.
fn rows(source: &Source, collection: &Collection) -> rusqlite::Result<Option<Vec<(i64, i64, Text)>>> {
    let sql = "SELECT id, CASE typeof(seq_id) WHEN 'integer' THEN seq_id END, embedding_id FROM embeddings
               WHERE segment_id = ?1 ORDER BY id";
    let mut query = source.connection.prepare(sql)?;
    let rows =
        query.query_map([&collection.metadata], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?, row.get(2)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.into_iter().map(|(rowid, sequence, id)| Some((rowid, sequence?, id))).collect())
}

/// What the queue knows of a collection's records.
struct Queue {
    /// The kind and number of the first write to each record behind the persisted ones.
    first_behind: BTreeMap<Text, (i64, i64)>,
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
                queue.first_behind.entry(id).or_insert((row.get(1)?, sequence));
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
