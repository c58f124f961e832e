//! Fills the gaps that damaged pages left: from indexes, the full-text copy of the documents, and the queue.

use super::found::{FULL_TEXT, Fill, INDEX, INSERT, Place, TABLE, WRITE};
use super::free;
use crate::store::chroma::Loss;
use crate::store::chroma::format::Format;
use crate::store::chroma::text::Text;
use rusqlite::{Connection, Row};
use std::collections::{BTreeMap, BTreeSet};

/// How long each document is, in tokens of the full-text index.
pub(super) const SIZES: &str = "embedding_fulltext_search_docsize";

macro_rules! value {
    ($kind:literal) => {
        concat!(
            "INSERT OR IGNORE INTO temp.known_value (kind, value, row) SELECT '",
            $kind,
            "', ?2, ?3 WHERE ?1 IS NOT NULL"
        )
    };
}

/// The statement that takes note of an entry of an index; `None` where nothing can be filled from it. SQLite puts the
/// row's number at the end of every entry.
pub(super) fn note(index: &str) -> Option<&'static str> {
    Some(match index {
        "sqlite_autoindex_embeddings_1" => {
            "INSERT OR IGNORE INTO temp.known_record (segment, id, row) VALUES (?1, ?2, ?3)"
        }
        "sqlite_autoindex_embedding_metadata_1" => {
            "INSERT OR IGNORE INTO temp.known_key (kind, id, key, row) VALUES ('scalar', ?1, ?2, ?3)"
        }
        "embedding_metadata_array_id_key" => {
            "INSERT OR IGNORE INTO temp.known_key (kind, id, key, row) VALUES ('array', ?1, ?2, ?3)"
        }
        "embedding_metadata_int_value" => value!("scalar int"),
        "embedding_metadata_float_value" => value!("scalar float"),
        "embedding_metadata_string_value" => value!("scalar string"),
        "embedding_metadata_array_key_int" => value!("array int"),
        "embedding_metadata_array_key_float" => value!("array float"),
        "embedding_metadata_array_key_string" => value!("array string"),
        "sqlite_autoindex_collections_1" => {
            "INSERT INTO temp.known_collection (id, row) VALUES (?1, ?2)
             ON CONFLICT (row) DO UPDATE SET id = excluded.id"
        }
        "sqlite_autoindex_collections_2" => {
            "INSERT INTO temp.known_collection (name, database, row) VALUES (?1, ?2, ?3)
             ON CONFLICT (row) DO UPDATE SET name = excluded.name, database = excluded.database"
        }
        SIZES => "INSERT OR IGNORE INTO temp.known_size (id, size) VALUES (?1, ?2)",
        _ => return None,
    })
}

/// Forgets what belongs to a record that is left out: a later one has its id.
pub(super) fn forget(connection: &Connection, rowid: i64, format: &Format) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM main.embedding_metadata WHERE id = ?1", [rowid])?;
    if format.has_arrays() {
        connection.execute("DELETE FROM main.embedding_metadata_array WHERE id = ?1", [rowid])?;
    }
    connection.execute("DELETE FROM temp.known_record WHERE row = ?1", [rowid])?;
    connection.execute("DELETE FROM temp.known_key WHERE id = ?1", [rowid]).map(drop)
}

/// Fills every gap that something is known about. Returns from where, and how much.
pub(super) fn gaps(
    connection: &Connection,
    incomplete: &BTreeMap<String, Vec<u32>>,
    trusted: &BTreeSet<String>,
    format: &Format,
) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut restored = Vec::new();
    for fill in fills(incomplete, trusted, format) {
        let rows = fill.run(connection)?;
        restored.extend((rows > 0).then(|| (fill.what.to_owned(), rows)));
    }
    Ok(restored)
}

/// What fills gaps, in the order in which it is trusted.
fn fills(incomplete: &BTreeMap<String, Vec<u32>>, trusted: &BTreeSet<String>, format: &Format) -> Vec<Fill> {
    let mut fills = Vec::new();
    if incomplete.contains_key("embeddings") {
        fills.push(Fill::new("records from their index, without their number and time", RECORD, records(format)));
    }
    if incomplete.contains_key("collections") {
        let what = "collections from their indexes, without their configuration";
        fills.push(Fill::new(what, COLLECTION, COLLECTIONS.to_owned()));
        let what = "collections from their segments, under new names";
        fills.push(Fill::new(what, COLLECTION_NAMED, NAMELESS.to_owned()));
    }
    if incomplete.contains_key("embedding_metadata") {
        fills.push(Fill::new("values from the indexes over them", VALUE, values("embedding_metadata", "scalar")));
        fills.push(Fill::new("documents from the full-text index", DOCUMENT, documents("k.row", "JOIN")));
        fills.push(Fill::new("values from the queue", WRITTEN, QUEUED.to_owned()).after(queued(incomplete)));
        // These get new numbers, after all that are known.
        let what = "documents that only the full-text index names";
        fills.push(Fill::new(what, DOCUMENT, documents("NULL", "LEFT JOIN")));
    }
    if incomplete.contains_key("embedding_metadata_array") && format.has_arrays() {
        let what = "elements of arrays from the indexes over them";
        fills.push(Fill::new(what, ELEMENT, values("embedding_metadata_array", "array")));
    }
    // Last, so that nothing above is filled with what may be older than it has to be.
    if incomplete.contains_key("embeddings") {
        let what = "numbers and times of records from free pages, which may be older than those lost";
        fills.push(Fill::new(what, free::NUMBER, free::numbers(format)));
    }
    if incomplete.contains_key("embedding_metadata") {
        let what = "values from free pages, which may be older than those lost";
        fills.push(Fill::new(what, free::FOUND, free::values(trusted)).after(free::MEASURE.to_owned()));
    }
    fills
}

const RECORD: Place =
    Place { rank: INDEX, event: INSERT, table: "embeddings", source: "'sqlite_autoindex_embeddings_1'" };
const COLLECTION: Place =
    Place { rank: INDEX, event: INSERT, table: "collections", source: "'sqlite_autoindex_collections_1'" };
const COLLECTION_NAMED: Place = Place { rank: TABLE, source: "'segments'", ..COLLECTION };
const DOCUMENT: Place = Place { rank: FULL_TEXT, event: INSERT, table: "embedding_metadata", source: "NULL" };
const WRITTEN: Place =
    Place { rank: WRITE, source: "(SELECT max(sequence) FROM queue_value v WHERE v.row = new.rowid)", ..DOCUMENT };
const VALUE: Place = Place {
    rank: INDEX,
    source: "CASE WHEN new.string_value IS NOT NULL THEN 'embedding_metadata_string_value'
        WHEN new.int_value IS NOT NULL THEN 'embedding_metadata_int_value' ELSE 'embedding_metadata_float_value' END",
    ..DOCUMENT
};
const ELEMENT: Place = Place {
    rank: INDEX,
    event: INSERT,
    table: "embedding_metadata_array",
    source: "CASE WHEN new.string_value IS NOT NULL THEN 'embedding_metadata_array_key_string'
        WHEN new.int_value IS NOT NULL THEN 'embedding_metadata_array_key_int'
        ELSE 'embedding_metadata_array_key_float' END",
};

/// A number of 0 claims nothing: it is lower than every write.
fn records(format: &Format) -> String {
    let sequence = if format.has_integer_sequences() { "0" } else { "x'0000000000000000'" };
    format!(
        "INSERT OR IGNORE INTO main.embeddings (id, segment_id, embedding_id, seq_id, created_at)
         SELECT row, segment, id, {sequence}, '1970-01-01 00:00:00' FROM temp.known_record
         WHERE row NOT IN (SELECT id FROM main.embeddings)"
    )
}

const COLLECTIONS: &str = "
    INSERT OR IGNORE INTO main.collections (rowid, id, name, database_id)
    SELECT row, id, coalesce(name, 'recovered-' || substr(id, 1, 8)),
        coalesce(database, '00000000-0000-0000-0000-000000000000')
    FROM temp.known_collection WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM main.collections)";

const NAMELESS: &str = "
    INSERT OR IGNORE INTO main.collections (id, name, database_id)
    SELECT DISTINCT collection, 'recovered-' || substr(collection, 1, 8), '00000000-0000-0000-0000-000000000000'
    FROM main.segments WHERE collection IS NOT NULL AND collection NOT IN (SELECT id FROM main.collections)
    ORDER BY collection";

/// The index over ids and keys says what existed, those over keys and values what it was. Booleans have none.
fn values(table: &str, kind: &str) -> String {
    format!(
        "INSERT OR IGNORE INTO main.{table} (rowid, id, key, string_value, int_value, float_value)
         SELECT k.row, k.id, k.key, s.value, i.value, f.value FROM temp.known_key k
         LEFT JOIN temp.known_value s ON s.kind = '{kind} string' AND s.row = k.row
         LEFT JOIN temp.known_value i ON i.kind = '{kind} int' AND i.row = k.row
         LEFT JOIN temp.known_value f ON f.kind = '{kind} float' AND f.row = k.row
         WHERE k.kind = '{kind}' AND k.row NOT IN (SELECT rowid FROM main.{table})
             AND (s.row IS NOT NULL OR i.row IS NOT NULL OR f.row IS NOT NULL)
         ORDER BY k.row"
    )
}

/// Documents under the number that `row` says, of those whose number is known or of all.
fn documents(row: &str, join: &str) -> String {
    format!(
        "INSERT OR IGNORE INTO main.embedding_metadata (rowid, id, key, string_value)
         SELECT {row}, c.id, 'chroma:document', c.c0 FROM temp.content c JOIN main.embeddings e USING (id)
         {join} temp.known_key k ON k.kind = 'scalar' AND k.id = c.id AND k.key = 'chroma:document'
         WHERE c.c0 IS NOT NULL AND NOT EXISTS
             (SELECT 1 FROM main.embedding_metadata m WHERE m.id = c.id AND m.key = 'chroma:document')
         ORDER BY c.id"
    )
}

/// Values that existed and are still missing, from the last write that has them and that the record has seen. Where
/// the queue has gaps, a later write may be gone: then only the last write of all is believed. Sequence numbers are
/// compared as digits.
fn queued(incomplete: &BTreeMap<String, Vec<u32>>) -> String {
    let own = digits("e.seq_id");
    let seen = match incomplete.contains_key("embeddings_queue") {
        true => format!("= {own}"),
        // A record that was restored has no number; everything that its segment has seen is its own as well.
        false => format!(
            "<= CASE WHEN ltrim({own}, '0') <> '' THEN {own} ELSE
                 (SELECT {} FROM main.max_seq_id m WHERE m.segment_id = e.segment_id) END",
            digits("m.seq_id")
        ),
    };
    format!(
        "CREATE TEMP TABLE queue_value AS
         SELECT q.seq_id AS sequence, k.row, k.id, k.key, CASE j.type WHEN 'text' THEN j.value END AS s,
             CASE j.type WHEN 'integer' THEN j.value END AS i, CASE j.type WHEN 'real' THEN j.value END AS f,
             CASE j.type WHEN 'true' THEN 1 WHEN 'false' THEN 0 END AS b
         FROM temp.known_key k JOIN main.embeddings e ON e.id = k.id
         JOIN main.embeddings_queue q ON q.id = e.embedding_id AND q.operation <> 3
             AND q.topic IN
                 (SELECT 'persistent://default/default/' || collection FROM main.segments WHERE id = e.segment_id)
             AND printf('%016X', q.seq_id) {seen}
         JOIN json_each(CASE WHEN json_valid(q.metadata) THEN q.metadata ELSE '{{}}' END) j ON j.key = k.key
         WHERE k.kind = 'scalar' AND j.type IN ('text', 'integer', 'real', 'true', 'false') AND NOT EXISTS
             (SELECT 1 FROM main.embedding_metadata m WHERE m.id = k.id AND m.key = k.key);
         CREATE INDEX temp.queue_value_row ON queue_value (row);"
    )
}

const QUEUED: &str = "
    INSERT OR IGNORE INTO main.embedding_metadata (rowid, id, key, string_value, int_value, float_value, bool_value)
    SELECT row, id, key, s, i, f, b FROM temp.queue_value ORDER BY sequence DESC";

/// A sequence number as sixteen digits, because older versions store it as eight bytes.
pub(super) fn digits(of: &str) -> String {
    format!("CASE typeof({of}) WHEN 'integer' THEN printf('%016X', {of}) ELSE hex({of}) END")
}

/// Records of which rows may be missing: those without a document or without anything else, and
/// those beside a gap in the numbers of the rows,
/// which are given in the order of writing.
const DOUBTFUL: &str = "
    WITH numbered AS (SELECT rowid AS row, id, lead(rowid) OVER (ORDER BY rowid) AS next_row,
                          lead(id) OVER (ORDER BY rowid) AS next_id FROM main.embedding_metadata),
    beside AS (SELECT id FROM numbered WHERE next_row IS NOT row + 1
               UNION SELECT next_id FROM numbered WHERE next_row IS NOT row + 1)
    SELECT CAST(embedding_id AS TEXT) FROM main.embeddings e WHERE e.id IN beside
        OR NOT EXISTS (SELECT 1 FROM main.embedding_metadata m WHERE m.id = e.id AND m.key = 'chroma:document')
        OR NOT EXISTS (SELECT 1 FROM main.embedding_metadata m WHERE m.id = e.id AND m.key <> 'chroma:document')
    ORDER BY e.id";

/// What existed and is nowhere.
pub(super) fn losses(
    connection: &Connection,
    incomplete: &BTreeMap<String, Vec<u32>>,
    trusted: &BTreeSet<String>,
    format: &Format,
) -> rusqlite::Result<Vec<Loss>> {
    let mut losses = Vec::new();
    let mut kinds = vec![("scalar", "SELECT 1 FROM main.embedding_metadata m WHERE m.id = k.id AND m.key = k.key")];
    let array = ("array", "SELECT 1 FROM main.embedding_metadata_array m WHERE m.rowid = k.row");
    kinds.extend(format.has_arrays().then_some(array));
    for (kind, is_there) in kinds {
        let sql = format!(
            "SELECT coalesce(CAST(e.embedding_id AS TEXT), 'row ' || k.id), CAST(k.key AS TEXT) FROM temp.known_key k
             LEFT JOIN main.embeddings e ON e.id = k.id WHERE k.kind = ?1 AND NOT EXISTS ({is_there})"
        );
        let mut query = connection.prepare(&sql)?;
        let lost = query.query_map([kind], |row| Ok(Loss::Value { id: text(row, 0)?, key: text(row, 1)? }))?;
        losses.extend(lost.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    if incomplete.contains_key("embeddings") {
        let sql = "SELECT DISTINCT id FROM main.embedding_metadata WHERE id NOT IN (SELECT id FROM main.embeddings)";
        let mut query = connection.prepare(sql)?;
        let lost = query.query_map([], |row| Ok(Loss::Record { rowid: row.get(0)?, id: None }))?;
        losses.extend(lost.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    // Where an index names everything there was, each thing has been listed by itself.
    let is_named = |table: &str| match table {
        "embeddings" => trusted.contains("sqlite_autoindex_embeddings_1"),
        "embedding_metadata" => trusted.contains("sqlite_autoindex_embedding_metadata_1"),
        "embedding_metadata_array" => trusted.contains("embedding_metadata_array_id_key"),
        _ => false,
    };
    let has_damage = incomplete.values().any(|pages| !pages.is_empty());
    if has_damage && incomplete.contains_key("embedding_metadata") && !is_named("embedding_metadata") {
        let mut query = connection.prepare(DOUBTFUL)?;
        let doubtful = query.query_map([], |row| Ok(Loss::Incomplete { id: text(row, 0)? }))?;
        losses.extend(doubtful.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    for (table, pages) in incomplete.iter().filter(|(table, _)| is_of_value(table) && !is_named(table)) {
        losses.extend(pages.iter().map(|page| Loss::Page { table: table.clone(), page: *page }));
    }
    Ok(losses)
}

/// A text for a person, whatever its bytes.
fn text(row: &Row, index: usize) -> rusqlite::Result<String> {
    row.get::<_, Text>(index).map(|text| text.to_string())
}

/// The same where there may be none.
pub(super) fn perhaps_text(row: &Row, index: usize) -> rusqlite::Result<Option<String>> {
    Ok(row.get::<_, Option<Text>>(index)?.map(|text| text.to_string()))
}

/// Whether a table holds something that is not made anew.
pub(super) fn is_of_value(table: &str) -> bool {
    !["migrations", "acquire_write", "maintenance_log", "embeddings_queue_config", super::shape::CONTENT]
        .contains(&table)
}
