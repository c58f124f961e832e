//! Takes over what only a copy of the palace has, from the directories that MemPalace leaves beside a palace.
//!
//! The copy is only read. Records get new row numbers behind those that are there; writes that were acknowledged to the
//! copy and never applied go to the end of the queue, in their order, where chromadb applies them.

use super::catalog::columns;
use super::error::{During, Error};
use super::format::Format;
use super::{Collection, Source};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::path::Path;

/// What a copy has that the palace has not.
pub(super) struct Surplus {
    /// Ids of the records.
    pub(super) ids: Vec<String>,
    /// Writes that were never applied to the copy.
    pub(super) pending: i64,
}

/// Compares a copy with the palace, collection by collection, by name and id.
pub(super) fn surplus(palace: &Source, copy: &Source) -> Result<Surplus, Error> {
    let here = Collection::all(palace)?;
    let mut surplus = Surplus { ids: Vec::new(), pending: 0 };
    for theirs in Collection::all(copy)? {
        let ours = here.iter().find(|ours| ours.name == theirs.name).and_then(|ours| ours.metadata.clone());
        let mut compare = || {
            let ids = "SELECT embedding_id FROM embeddings WHERE segment_id = ?1 ORDER BY id";
            let mut ids = copy.connection.prepare(ids)?;
            let known = "SELECT 1 FROM embeddings WHERE segment_id = ?1 AND embedding_id = ?2";
            let mut known = palace.connection.prepare(known)?;
            let mut rows = ids.query([&theirs.metadata])?;
            while let Some(row) = rows.next()? {
                let id: super::text::Text = row.get(0)?;
                if known.query_row(params![ours, id], |_| Ok(())).optional()?.is_none() {
                    surplus.ids.push(id.to_string());
                }
            }
            let pending = "SELECT count(*) FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2";
            let range = params![theirs.topic, theirs.metadata_sequence];
            surplus.pending += copy.connection.query_row(pending, range, |row| row.get::<_, i64>(0))?;
            Ok(())
        };
        compare().during(&copy.database, "comparing it with the palace")?;
    }
    Ok(surplus)
}

/// Takes it over into a copy of the palace's database.
pub(super) fn adopt(connection: &mut Connection, path: &Path, copy: &Source, format: &Format) -> Result<(), Error> {
    let theirs = Collection::all(copy)?;
    let mut take = || {
        connection.execute("ATTACH ?1 AS copy", [copy.uri()])?;
        let transaction = connection.transaction()?;
        for collection in &theirs {
            take_collection(&transaction, collection, format)?;
        }
        transaction.commit()?;
        connection.execute_batch("DETACH copy")
    };
    take().during(path, "taking over what a copy has")
}

fn take_collection(transaction: &Transaction, theirs: &Collection, format: &Format) -> rusqlite::Result<()> {
    let find = "SELECT c.id, s.id FROM main.collections c LEFT JOIN main.segments s
                ON s.collection = c.id AND s.scope = 'METADATA' WHERE c.name = ?1";
    let find = |transaction: &Transaction| {
        let row = transaction.query_row(find, [&theirs.name], |row| Ok((row.get(0)?, row.get(1)?)));
        row.optional()
    };
    let found: Option<(String, Option<String>)> = match find(transaction)? {
        None => {
            take_catalogue(transaction, theirs)?;
            find(transaction)?
        }
        found => found,
    };
    let (Some((id, Some(segment))), Some(source)) = (found, &theirs.metadata) else { return Ok(()) };
    take_records(transaction, source, &segment, format)?;
    take_pending(transaction, theirs, &super::catalog::topic_of(&id))
}

/// The collection itself with its segments, under its own UUIDs, as far as both databases have the same columns.
fn take_catalogue(transaction: &Transaction, theirs: &Collection) -> rusqlite::Result<()> {
    for (table, which) in [
        ("collections", "id = ?1"),
        ("collection_metadata", "collection_id = ?1"),
        ("segments", "collection = ?1"),
        ("segment_metadata", "segment_id IN (SELECT id FROM copy.segments WHERE collection = ?1)"),
    ] {
        let ours = columns(transaction, "main", table)?;
        let common = columns(transaction, "copy", table)?.into_iter().filter(|column| ours.contains(column));
        let common = common.collect::<Vec<_>>().join(", ");
        let sql =
            format!("INSERT OR IGNORE INTO main.{table} ({common}) SELECT {common} FROM copy.{table} WHERE {which}");
        transaction.execute(&sql, [&theirs.id])?;
    }
    Ok(())
}

fn take_records(transaction: &Transaction, source: &str, target: &str, format: &Format) -> rusqlite::Result<()> {
    let base: i64 = transaction.query_row("SELECT coalesce(max(id), 0) FROM main.embeddings", [], |row| row.get(0))?;
    // A number of 0 claims nothing: it is lower than every write.
    let sequence = if format.has_integer_sequences() { "0" } else { "x'0000000000000000'" };
    let sql = format!(
        "INSERT INTO main.embeddings (id, segment_id, embedding_id, seq_id, created_at)
         SELECT ?1 + id, ?2, embedding_id, {sequence}, created_at FROM copy.embeddings e WHERE segment_id = ?3
             AND NOT EXISTS
                 (SELECT 1 FROM main.embeddings o WHERE o.segment_id = ?2 AND o.embedding_id = e.embedding_id)
         ORDER BY id"
    );
    transaction.execute(&sql, params![base, target, source])?;
    let values = "string_value, int_value, float_value, bool_value";
    for table in ["embedding_metadata", "embedding_metadata_array"] {
        let is_in = |schema: &str| columns(transaction, schema, table).map(|columns| !columns.is_empty());
        if is_in("main")? && is_in("copy")? {
            let sql = format!(
                "INSERT INTO main.{table} (id, key, {values}) SELECT ?1 + m.id, m.key, {values} FROM copy.{table} m
                 WHERE EXISTS (SELECT 1 FROM main.embeddings e WHERE e.id = ?1 + m.id AND e.segment_id = ?2)
                 ORDER BY m.rowid"
            );
            transaction.execute(&sql, params![base, target])?;
        }
    }
    Ok(())
}

/// Behind every number that is in use, or chromadb would take them for done.
fn take_pending(transaction: &Transaction, theirs: &Collection, topic: &str) -> rusqlite::Result<()> {
    let highest = "SELECT max(coalesce((SELECT max(seq_id) FROM main.embeddings_queue), 0),
        coalesce((SELECT max(seq_id) FROM main.max_seq_id WHERE typeof(seq_id) = 'integer' AND seq_id < 1 << 56), 0))";
    let highest: i64 = transaction.query_row(highest, [], |row| row.get(0))?;
    transaction
        .execute(
            "INSERT INTO main.embeddings_queue (seq_id, created_at, operation, topic, id, vector, encoding, metadata)
             SELECT ?1 + row_number() OVER (ORDER BY seq_id), created_at, operation, ?2, id, vector, encoding, metadata
             FROM copy.embeddings_queue WHERE topic = ?3 AND seq_id > ?4 ORDER BY seq_id",
            params![highest, topic, theirs.topic, theirs.metadata_sequence],
        )
        .map(drop)
}
