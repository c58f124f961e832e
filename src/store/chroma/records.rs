//! Reads records one by one, so that a damaged page costs the records on it and no others.

use super::Source;
use super::digest::Hasher;
use super::text::Text;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Where a record begins: its row in `embeddings`.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) rowid: i64,
    pub(super) segment: String,
    pub(super) id: Text,
}

/// A record's head, or what is known of one whose row cannot be read.
pub(super) enum Found {
    Head(Head),
    Unreadable { rowid: i64, id: Option<Text> },
}

/// Heads read at a time.
const CHUNK: i64 = 512;
const HEAD: &str = "SELECT id, segment_id, embedding_id FROM embeddings";
/// SQLite's own index for UNIQUE (segment_id, embedding_id) names every row, and lies on pages of its own.
const INDEX: &str = "embeddings INDEXED BY sqlite_autoindex_embeddings_1";

/// The records after `rowid`, in order; none where there are no more.
///
/// # Errors
/// Where neither the table nor its index can be read.
pub(super) fn after(connection: &Connection, rowid: i64) -> rusqlite::Result<Vec<Found>> {
    let mut query = connection.prepare_cached(&format!("{HEAD} WHERE id > ?1 ORDER BY id LIMIT {CHUNK}"))?;
    let heads = query.query_map([rowid], head)?.collect::<rusqlite::Result<Vec<_>>>();
    match heads {
        Ok(heads) => Ok(heads.into_iter().map(Found::Head).collect()),
        Err(_) => by_index(connection, rowid),
    }
}

/// The same through the index, for tables with a damaged page.
fn by_index(connection: &Connection, rowid: i64) -> rusqlite::Result<Vec<Found>> {
    let mut query = connection
        .prepare_cached(&format!("SELECT id, embedding_id FROM {INDEX} WHERE id > ?1 ORDER BY id LIMIT {CHUNK}"))?;
    let known = query.query_map([rowid], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let known = known.collect::<rusqlite::Result<Vec<(i64, Text)>>>()?;
    let mut one = connection.prepare_cached(&format!("{HEAD} WHERE id = ?1"))?;
    let found = known.into_iter().map(|(rowid, id)| match one.query_row([rowid], head) {
        Ok(head) => Found::Head(head),
        Err(_) => Found::Unreadable { rowid, id: Some(id) },
    });
    Ok(found.collect())
}

fn head(row: &Row) -> rusqlite::Result<Head> {
    Ok(Head { rowid: row.get(0)?, segment: row.get(1)?, id: row.get(2)? })
}

/// Hashes what SQLite holds of a record: id, metadata in the order of the keys (the document is one of them), arrays
/// in the order of their elements. Returns the bytes it saw.
pub(super) fn hash(source: &Source, head: &Head, hasher: &mut Hasher) -> rusqlite::Result<u64> {
    hasher.bytes(b'I', &head.id.0);
    let mut bytes = head.id.0.len() as u64;
    let values = "string_value, int_value, float_value, bool_value";
    let scalars = format!("SELECT key, {values} FROM embedding_metadata WHERE id = ?1 ORDER BY key");
    bytes += hash_rows(&source.connection, &scalars, head.rowid, b'M', hasher)?;
    if source.format.has_arrays() {
        let arrays = format!("SELECT key, {values} FROM embedding_metadata_array WHERE id = ?1 ORDER BY key, rowid");
        bytes += hash_rows(&source.connection, &arrays, head.rowid, b'A', hasher)?;
    }
    Ok(bytes)
}

fn hash_rows(connection: &Connection, sql: &str, rowid: i64, kind: u8, hasher: &mut Hasher) -> rusqlite::Result<u64> {
    let mut query = connection.prepare_cached(sql)?;
    let mut rows = query.query([rowid])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        hasher.bytes(kind, &[]);
        for column in 0..5 {
            let value = row.get_ref(column)?;
            bytes += value.as_bytes_or_null().ok().flatten().map_or(8, |text| text.len() as u64);
            hasher.value(value);
        }
    }
    Ok(bytes)
}

/// Whether a segment holds a record of this id.
pub(super) fn exists(connection: &Connection, segment: &str, id: &Text) -> rusqlite::Result<bool> {
    let mut query =
        connection.prepare_cached("SELECT 1 FROM embeddings WHERE segment_id = ?1 AND embedding_id = ?2")?;
    query.query_row(params![segment, id], |_| Ok(())).optional().map(|found| found.is_some())
}
