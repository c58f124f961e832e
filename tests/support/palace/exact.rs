//! A `sqlite_exact` store as MemPalace reads it, and stores of that kind to try things on; it shares no code with the
//! product.

use super::content::Record;
use super::vectors::{Vector, floats};
use super::{Arena, copy, fast_directory, no_spawning};
use rusqlite::{Connection, params};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the database.
pub(crate) const EXACT: &str = "sqlite_exact.sqlite3";

/// All that a store holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exact {
    /// Records by collection, in the order of their rows.
    pub(crate) records: BTreeMap<String, Vec<Record>>,
    /// Dimension of each collection.
    pub(crate) dimensions: BTreeMap<String, Option<i64>>,
    /// Rows of `meta`.
    pub(crate) meta: BTreeMap<String, String>,
    /// What the full-text index has for each collection: ids with documents.
    pub(crate) texts: BTreeMap<String, Vec<(String, String)>>,
}

impl Exact {
    /// Reads a palace; a copy of it, so that it stays as it is, log and all.
    pub(crate) fn of(palace: &Path) -> Exact {
        let scratch = tempfile::tempdir_in(fast_directory()).expect("a directory");
        for suffix in ["", "-journal", "-wal"] {
            let name = format!("{EXACT}{suffix}");
            match copy(&palace.join(&name), &scratch.path().join(&name)) {
                Err(error) if suffix.is_empty() => panic!("{}: {error}", palace.display()),
                _ => {}
            }
        }
        let connection = Connection::open(scratch.path().join(EXACT)).expect("a database");
        let complaint: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("pages that can be read");
        assert_eq!(complaint, "ok", "{}", palace.display());
        let collections: Vec<(i64, String, Option<i64>)> =
            rows(&connection, "SELECT id, name, dimension FROM collections");
        let meta: Vec<(String, String)> = rows(&connection, "SELECT key, value FROM meta").into_iter().collect();
        let each = |(number, name, _): &(i64, String, Option<i64>)| (name.clone(), records(&connection, *number));
        let text = |(number, name, _): &(i64, String, Option<i64>)| (name.clone(), texts(&connection, *number));
        Exact {
            records: collections.iter().map(each).collect(),
            texts: collections.iter().map(text).collect(),
            dimensions: collections.into_iter().map(|(_, name, dimension)| (name, dimension)).collect(),
            meta: meta.into_iter().collect(),
        }
    }

    /// Insists on every document being in the full-text index, once, and on nothing else in it.
    #[track_caller]
    pub(crate) fn assert_indexed(&self, what: &str) {
        for (name, records) in &self.records {
            let text = |record: &Record| (record.id.clone(), record.document.clone().unwrap_or_default());
            let mut wanted: Vec<_> = records.iter().map(text).collect();
            wanted.sort();
            assert_eq!(wanted, self.texts[name], "{what}: {name}: full-text index");
        }
    }

    /// Insists on the records of a palace of chromadb's, as far as this store can hold them.
    #[track_caller]
    pub(crate) fn assert_holds(&self, records: &BTreeMap<String, Vec<Record>>, what: &str) {
        assert!(
            self.records.keys().eq(records.keys()),
            "{what}: {:?} against {:?}",
            self.records.keys(),
            records.keys()
        );
        for (name, wanted) in records {
            let found = &self.records[name];
            let ids = |records: &[Record]| records.iter().map(|record| record.id.clone()).collect::<Vec<_>>();
            assert_eq!(ids(found), ids(wanted), "{what}: {name}: ids in their order");
            for (found, wanted) in found.iter().zip(wanted) {
                let wanted = Record { document: Some(wanted.document.clone().unwrap_or_default()), ..wanted.clone() };
                assert!(wanted.is_kept_in(found), "{what}: {name}: {found:#?} instead of {wanted:#?}");
            }
        }
    }
}

fn rows<T: FromRow>(connection: &Connection, sql: &str) -> Vec<T> {
    let mut query = connection.prepare(sql).expect("a table");
    let rows = query.query_map([], T::from_row).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

trait FromRow: Sized {
    fn from_row(row: &rusqlite::Row) -> rusqlite::Result<Self>;
}

impl FromRow for (String, String) {
    fn from_row(row: &rusqlite::Row) -> rusqlite::Result<Self> {
        Ok((row.get(0)?, row.get(1)?))
    }
}

impl FromRow for (i64, String, Option<i64>) {
    fn from_row(row: &rusqlite::Row) -> rusqlite::Result<Self> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    }
}

fn texts(connection: &Connection, number: i64) -> Vec<(String, String)> {
    let sql = format!("SELECT doc_id, document FROM docs_fts WHERE collection_id = {number} ORDER BY doc_id, document");
    rows(connection, &sql)
}

fn records(connection: &Connection, number: i64) -> Vec<Record> {
    let sql = "SELECT rowid, id, document, metadata_json, embedding, dim, wing FROM documents
               WHERE collection_id = ?1 ORDER BY rowid";
    let mut query = connection.prepare(sql).expect("documents");
    let record = |row: &rusqlite::Row| {
        let text: String = row.get(3)?;
        let bytes: Vec<u8> = row.get(4)?;
        let json: Json = serde_json::from_str(&text).expect("metadata is JSON");
        let metadata = json.as_object().expect("metadata is an object");
        let get = floats(&bytes);
        assert_eq!(row.get::<_, i64>(5)? as usize, get.len(), "dim, and floats in the blob");
        assert_eq!(row.get::<_, Option<String>>(6)?.as_deref(), metadata.get("wing").and_then(Json::as_str));
        Ok(Record {
            row: row.get(0)?,
            id: row.get(1)?,
            document: Some(row.get(2)?),
            metadata: metadata.iter().map(|(key, value)| (key.clone(), typed(value))).collect(),
            vector: (!get.is_empty()).then_some(Vector { get, queued: None }),
        })
    };
    query.query_map([number], record).expect("documents").map(|record| record.expect("a record")).collect()
}

/// A value with its type, as [`Record`] has it.
fn typed(value: &Json) -> String {
    match value {
        Json::String(text) => format!("str:{text}"),
        Json::Bool(value) => format!("bool:{value}"),
        Json::Number(number) if number.is_f64() => {
            format!("float:{:016x}", number.as_f64().expect("a float").to_bits())
        }
        Json::Number(number) => format!("int:{number}"),
        Json::Array(values) => {
            let values: Vec<String> = values.iter().map(typed).collect();
            let kind = values[0].split(':').next().unwrap_or_default().to_owned();
            let values: Vec<&str> = values.iter().map(|value| &value[kind.len() + 1..]).collect();
            format!("list:{kind}:{values:?}")
        }
        other => panic!("a value that chromadb cannot hold: {other}"),
    }
}

/// The schema, as MemPalace 3.11 makes it.
const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE collections (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, dimension INTEGER, created_at TEXT NOT NULL);
    CREATE TABLE documents (
        collection_id INTEGER NOT NULL, id TEXT NOT NULL, document TEXT NOT NULL, metadata_json TEXT NOT NULL,
        embedding BLOB NOT NULL, dim INTEGER NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
        wing TEXT GENERATED ALWAYS AS (json_extract(metadata_json, '$.wing')) VIRTUAL,
        room TEXT GENERATED ALWAYS AS (json_extract(metadata_json, '$.room')) VIRTUAL,
        hall TEXT GENERATED ALWAYS AS (json_extract(metadata_json, '$.hall')) VIRTUAL,
        PRIMARY KEY (collection_id, id), FOREIGN KEY(collection_id) REFERENCES collections(id) ON DELETE CASCADE);
    CREATE VIRTUAL TABLE docs_fts USING fts5(collection_id UNINDEXED, doc_id UNINDEXED, document);
    INSERT INTO meta VALUES ('fts5_available', '1'), ('embedder_model:mempalace_drawers', 'minilm');
    INSERT INTO collections VALUES (1, 'mempalace_drawers', 4, '2026-11-25T23:04:49.420358+00:00');";

const DOCUMENT: &str = "
    INSERT INTO documents (collection_id, id, document, metadata_json, embedding, dim, created_at, updated_at)
    VALUES (1, ?1, ?2, ?3, ?4, 4, '2026-11-25T23:04:49.479666+00:00', '2026-11-25T23:04:50+00:00')";

/// A store of MemPalace's kind with a few drawers, made by nobody's code but this.
pub(crate) fn make_exact(arena: &Arena, drawers: usize) {
    std::fs::create_dir_all(arena.palace()).expect("a directory");
    let _open = no_spawning();
    let connection = Connection::open(arena.palace().join(EXACT)).expect("a database");
    connection.execute_batch("PRAGMA journal_mode=WAL").expect("a log");
    connection.execute_batch(SCHEMA).expect("a schema");
    (0..drawers).for_each(|number| add_drawer(&connection, number));
}

fn add_drawer(connection: &Connection, number: usize) {
    let (id, document) = (format!("drawer-{number}"), format!("what is in drawer {number}: thing{number}"));
    let metadata = format!("{{\"chunk\":{number},\"third\":0.30000000000000004,\"wing\":\"west\"}}");
    let bytes: Vec<u8> = (0..4).flat_map(|place| (number as f32 + 0.1 * place as f32 + 0.3).to_le_bytes()).collect();
    connection.execute(DOCUMENT, params![id, document, metadata, bytes]).expect("a drawer");
    let sql = "INSERT INTO docs_fts (collection_id, doc_id, document) VALUES (1, ?1, ?2)";
    connection.execute(sql, params![id, document]).expect("its words");
}

/// Adds drawers as a writer does that is killed then: they are in the log, and only there.
pub(crate) fn add_in_log(arena: &Arena, drawers: std::ops::Range<usize>) {
    let scratch = tempfile::tempdir_in(fast_directory()).expect("a directory");
    let _open = no_spawning();
    let connection = Connection::open(arena.palace().join(EXACT)).expect("a database");
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").expect("a log");
    drawers.for_each(|number| add_drawer(&connection, number));
    let siblings = ["-wal", "-shm"].map(|suffix| format!("{EXACT}{suffix}"));
    for name in &siblings {
        std::fs::copy(arena.palace().join(name), scratch.path().join(name)).expect("it is there while it is open");
    }
    let database = std::fs::read(arena.palace().join(EXACT)).expect("a database");
    drop(connection); // which writes the log into the database, and removes it
    std::fs::write(arena.palace().join(EXACT), database).expect("a database");
    for name in &siblings {
        std::fs::copy(scratch.path().join(name), arena.palace().join(name)).expect("put back");
    }
}

/// Changes a store by SQL.
pub(crate) fn exact_sql(palace: &Path, sql: &str) {
    let _open = no_spawning();
    let connection = Connection::open(palace.join(EXACT)).expect("a database");
    let run = connection.execute_batch(&format!("PRAGMA foreign_keys=OFF; {sql}"));
    run.unwrap_or_else(|error| panic!("{sql}: {error}"));
}
