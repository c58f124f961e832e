//! The collections of a palace and how far their writes have been applied.

use super::error::{During, Error};
use super::settings::Settings;
use super::{Source, claims, pickle};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::PathBuf;

/// How a collection measures distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Vectors are stored normalised, with their length beside them.
    Cosine,
    /// Squared Euclidean distance: vectors are stored as they came.
    L2,
    /// One minus the inner product: vectors are stored as they came.
    InnerProduct,
}

impl Space {
    /// chromadb's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Space::Cosine => "cosine",
            Space::L2 => "l2",
            Space::InnerProduct => "ip",
        }
    }

    /// The space of this name; chromadb's default where there is none.
    pub fn named(name: &str) -> Space {
        let all = [Space::Cosine, Space::L2, Space::InnerProduct];
        all.into_iter().find(|space| space.name() == name).unwrap_or(Space::L2)
    }
}

/// How the graph of a collection is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexShape {
    /// How distance is measured.
    pub space: Space,
    /// Links of an element on each level above the ground: hnswlib's `M`, chromadb's `max_neighbors`.
    pub links: usize,
    /// Candidates looked at while an element is inserted: `ef_construction`.
    pub candidates: usize,
}

/// A collection and its two segments.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Its UUID.
    pub id: String,
    /// Its name, unique within its database.
    pub name: String,
    /// Floats in a vector; unknown until the first write.
    pub dimension: Option<i64>,
    /// The name its rows go by in `embeddings_queue`.
    pub topic: String,
    /// How its graph is built.
    pub shape: IndexShape,
    /// Segment of ids, metadata and documents.
    pub metadata: Option<String>,
    /// Segment of vectors; also the name of its directory.
    pub vector: Option<String>,
    /// Last write applied to the metadata; 0 where none was.
    pub metadata_sequence: i64,
    /// Last write persisted in the HNSW files, where the database says so; less where what it says cannot be. Replaying
    /// too much of the queue does no harm.
    pub vector_sequence: Option<i64>,
}

impl Collection {
    /// Reads all collections, in the order chromadb lists them.
    pub fn all(source: &Source) -> Result<Vec<Collection>, Error> {
        let columns =
            columns(&source.connection, "main", "collections").during(&source.database, "reading its schema")?;
        // Whoever adds a column of that name to a later version has not made it one of 0.4.
        let has_topic = source.format.has_topics() && columns.iter().any(|column| column == "topic");
        let topic = if has_topic { "topic" } else { "NULL" };
        let sql = format!("SELECT id, name, dimension, {topic} FROM collections ORDER BY rowid");
        let rows = || {
            let mut query = source.connection.prepare(&sql)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String, Option<i64>, Option<String>)>>>()
        };
        let rows = rows().during(&source.database, "reading its collections")?;
        rows.into_iter().map(|(id, name, dimension, topic)| read_one(source, id, name, dimension, topic)).collect()
    }

    /// The directory of its HNSW files; it need not exist.
    pub fn segment_directory(&self, source: &Source) -> Option<PathBuf> {
        self.vector.as_ref().map(|segment| source.segment(segment))
    }
}

fn read_one(
    source: &Source,
    id: String,
    name: String,
    dimension: Option<i64>,
    topic: Option<String>,
) -> Result<Collection, Error> {
    let segment = |scope: &str| {
        let sql = "SELECT id FROM segments WHERE collection = ?1 AND scope = ?2";
        let segment = source.connection.query_row(sql, [&id, scope], |row| row.get::<_, String>(0)).optional();
        segment.during(&source.database, "reading its segments")
    };
    let (metadata, vector) = (segment("METADATA")?, segment("VECTOR")?);
    if let Some(segment) = vector.iter().chain(&metadata).find(|segment| uuid::Uuid::parse_str(segment).is_err()) {
        let what = format!("collection “{name}” names a segment “{segment}”, which is not a UUID");
        return Err(Error::Unreadable { path: source.database.clone(), what });
    }
    let shape = Settings::of(source, &id, vector.as_deref())?.shape();
    let topic = topic.unwrap_or_else(|| topic_of(&id));
    let applied = applied(source, metadata.as_deref(), &topic)?;
    let mut collection = Collection {
        topic,
        metadata_sequence: applied,
        vector_sequence: sequence(source, vector.as_deref(), applied)?.map(|number| number.unwrap_or(0)),
        id,
        name,
        dimension,
        shape,
        metadata,
        vector,
    };
    collection.vector_sequence = claims::proved(source, &collection).during(&source.database, "reading its queue")?;
    Ok(collection)
}

/// The topic of a collection (CHROMA.md §2.1).
pub(super) fn topic_of(collection: &str) -> String {
    format!("persistent://default/default/{collection}")
}

/// Names of a table's columns; none where there is no such table.
pub(super) fn columns(connection: &Connection, schema: &str, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare_cached("SELECT name FROM pragma_table_info(?1, ?2)")?;
    query.query_map([table, schema], |row| row.get(0))?.collect()
}

/// The last write applied to a metadata segment; where the database cannot be right about it, the last one that any of
/// its records shows. A number that nothing else bears out is believed where no write could be taken for done by it.
fn applied(source: &Source, segment: Option<&str>, topic: &str) -> Result<i64, Error> {
    let doing = "reading its records";
    match sequence(source, segment, 0)? {
        Some(Some(number)) => Ok(number),
        None => Ok(0),
        Some(None) => {
            let shown = highest_of_records(source, segment).during(&source.database, doing)?;
            let number = stored_sequence(source, segment).during(&source.database, doing)?.number();
            let behind = "SELECT EXISTS (SELECT 1 FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2)";
            let waits = source.connection.query_row(behind, params![topic, shown], |row| row.get::<_, bool>(0));
            let is_harmless = !waits.during(&source.database, doing)?;
            Ok(number.filter(|number| is_harmless && (0..NUMBER_MAX).contains(number)).unwrap_or(shown))
        }
    }
}

/// No palace has seen as many writes.
const NUMBER_MAX: i64 = 1 << 40;

/// `max_seq_id` of a segment, if there is one: the outer option. The inner one is empty where it is no number, or
/// higher than anything that was ever written and than `known`.
fn sequence(source: &Source, segment: Option<&str>, known: i64) -> Result<Option<Option<i64>>, Error> {
    let doing = "reading its sequence numbers";
    let stored = stored_sequence(source, segment).during(&source.database, doing)?;
    if stored == Stored::Absent {
        return Ok(None);
    }
    let Some(number) = stored.number().filter(|number| *number >= 0) else { return Ok(Some(None)) };
    let ceiling = ceiling(source, number).during(&source.database, doing)?.max(known);
    Ok(Some((number <= ceiling).then_some(number)))
}

/// What `max_seq_id` holds for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nothing.
    Absent,
    /// An integer.
    Integer(i64),
    /// Eight bytes, big-endian.
    Bytes(i64),
    /// Something that is no number.
    Strange,
}

impl Stored {
    /// The number, read back where it was poisoned.
    fn number(self) -> Option<i64> {
        match self {
            Stored::Integer(value) | Stored::Bytes(value) => Some(unpoison(value)),
            Stored::Absent | Stored::Strange => None,
        }
    }
}

pub(super) fn stored_sequence(source: &Source, segment: Option<&str>) -> rusqlite::Result<Stored> {
    let sql = "SELECT seq_id FROM max_seq_id WHERE segment_id = ?1";
    let value = source.connection.query_row(sql, [segment], |row| row.get::<_, Value>(0)).optional()?;
    Ok(match value {
        None => Stored::Absent,
        Some(Value::Integer(value)) => Stored::Integer(value),
        Some(Value::Blob(bytes)) => {
            bytes.try_into().map_or(Stored::Strange, |bytes| Stored::Bytes(i64::from_be_bytes(bytes)))
        }
        Some(_) => Stored::Strange,
    })
}

/// The highest number there is evidence of, looked for only as far as `wanted` needs it. Where no write waits, none can
/// be taken for done by mistake, and any number will do.
fn ceiling(source: &Source, wanted: i64) -> rusqlite::Result<i64> {
    let queued = highest_queued(&source.connection)?;
    if wanted <= queued || queued == 0 {
        Ok(queued.max(wanted))
    } else {
        Ok(queued.max(highest_of_records(source, None)?))
    }
}

/// The highest number in the queue, 0 where it is empty.
pub(super) fn highest_queued(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(seq_id), 0) FROM embeddings_queue", [], |row| row.get(0))
}

/// The highest number that the records of a segment carry, or those of all; integers and big-endian blobs alike.
fn highest_of_records(source: &Source, segment: Option<&str>) -> rusqlite::Result<i64> {
    let sql = "SELECT coalesce(max(CASE typeof(seq_id) WHEN 'integer' THEN seq_id END), 0),
                      max(CASE WHEN typeof(seq_id) = 'blob' AND length(seq_id) = 8 THEN seq_id END)
               FROM embeddings NOT INDEXED WHERE ?1 IS NULL OR segment_id = ?1";
    source.connection.query_row(sql, [segment], |row| {
        let bytes = row.get::<_, Option<[u8; 8]>>(1)?.map_or(0, i64::from_be_bytes);
        Ok(row.get::<_, i64>(0)?.max(bytes))
    })
}

/// Undoes what migration metadb 5 makes of an integer: leading 0x11 bytes, then the decimal digits as text (CHROMA.md
/// §1.5).
pub(super) fn unpoison(value: i64) -> i64 {
    let bytes = value.to_be_bytes();
    let digits = bytes.iter().position(|byte| *byte != 0x11).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[digits..]) {
        Ok(text) if value > 1 << 56 && text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().unwrap_or(value),
        _ => value,
    }
}

/// The last write that the HNSW files hold: as the database says, else as the pickle does (0.4), else none.
pub(super) fn persisted(collection: &Collection, summary: Option<&pickle::Summary>) -> i64 {
    collection.vector_sequence.or(summary.and_then(|summary| summary.max_seq_id)).unwrap_or(0)
}

/// The vector in a value of the queue; `None` where it is none.
pub(super) fn floats(value: ValueRef) -> Option<Vec<f32>> {
    let (chunks, rest) = value.as_blob().ok()?.as_chunks::<4>();
    rest.is_empty().then(|| chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
