//! Reads records one by one, in the order of their rows.

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

/// Heads read at a time.
const CHUNK: i64 = 512;

/// The records after `rowid`, in order; none where there are no more.
pub(super) fn after(connection: &Connection, rowid: i64) -> rusqlite::Result<Vec<Head>> {
    let sql = format!("SELECT id, segment_id, embedding_id FROM embeddings WHERE id > ?1 ORDER BY id LIMIT {CHUNK}");
    connection.prepare_cached(&sql)?.query_map([rowid], head)?.collect()
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
