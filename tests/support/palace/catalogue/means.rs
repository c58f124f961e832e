//! What the injectors share: pages of the database, rows of the catalog, a reader that says whether SQLite is content.

use super::super::{Record, copy_tree, no_spawning, open_copy, overwrite, read, segment_of};
use super::Case;
use rusqlite::types::FromSql;
use rusqlite::{Connection, params};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

pub(super) const PAGE_BYTES: usize = 4096;

/// This SQLite indexes a document past its first NUL and chromadb's does not: what one of them has inserted, the other
/// cannot delete without leaving traces.
const FULLTEXT_ANEW: &str = "INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('rebuild');";

/// A segment's id, as an expression in SQL.
pub(super) fn segment(collection: &str, scope: &str) -> String {
    format!(
        "(SELECT s.id FROM segments s JOIN collections c ON s.collection = c.id
          WHERE c.name = '{collection}' AND s.scope = '{scope}')"
    )
}

/// A collection's topic in the queue, as an expression in SQL.
pub(super) fn topic(collection: &str) -> String {
    format!("(SELECT 'persistent://default/default/' || id FROM collections WHERE name = '{collection}')")
}

/// One value out of a palace's database.
#[track_caller]
pub(super) fn one<T: FromSql>(palace: &Path, query: &str) -> T {
    let (_scratch, connection) = open_copy(palace);
    connection.query_row(query, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{query}: {error}"))
}

impl Case {
    /// Runs statements on the palace's database as any client could.
    pub(super) fn sql(&self, statements: &str) {
        super::super::sql(&self.arena.palace(), statements);
    }

    /// Runs statements that no client may, on the schema itself.
    pub(super) fn schema_sql(&self, statements: &str) {
        self.sql(&format!("PRAGMA writable_schema = ON; {statements} PRAGMA writable_schema = RESET;"));
    }

    /// The directory of a collection's index.
    pub(super) fn index(&self, collection: &str) -> PathBuf {
        segment_of(&self.arena.palace(), collection)
    }

    #[track_caller]
    pub(super) fn one<T: FromSql>(&self, query: &str) -> T {
        one(&self.arena.palace(), query)
    }

    /// Insists on how many rows a query finds: the fault is there.
    #[track_caller]
    pub(super) fn assert_rows(&self, from: &str, count: i64) {
        assert_eq!(self.one::<i64>(&format!("SELECT count(*) FROM {from}")), count, "{from}");
    }

    /// Insists on SQLite objecting to the database.
    #[track_caller]
    pub(super) fn assert_malformed(&self) {
        let complaint = complaint(&self.arena.palace());
        assert_ne!(complaint.as_deref(), None, "SQLite is content with the database");
    }

    /// Pages of a table or index, of one kind.
    pub(super) fn pages(&self, name: &str, kind: &str) -> Vec<u64> {
        pages(&self.arena.palace(), name, kind)
    }

    /// Writes over a file in the palace, and insists on that being a change.
    #[track_caller]
    pub(super) fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) {
        let before = read(path).expect("a file");
        overwrite(path, at, bytes);
        assert_ne!(read(path).expect("a file"), before, "{} was so already", path.display());
    }

    /// Makes a file as long as that.
    pub(super) fn set_length(&self, path: &Path, length: u64) {
        let _open = no_spawning();
        let file = OpenOptions::new().write(true).open(path).expect("a file");
        assert_ne!(file.metadata().expect("metadata").len(), length, "{} was so already", path.display());
        file.set_len(length).expect("another length");
    }

    /// A place beside the palace.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.arena.palace().file_name().expect("a name").to_owned();
        name.push(suffix);
        self.arena.root().join(name)
    }

    /// Copies the palace beside itself.
    pub(super) fn copy_beside(&self, suffix: &str) -> PathBuf {
        let target = self.beside(suffix);
        copy_tree(&self.arena.palace(), &target);
        target
    }
}

/// What SQLite objects to, if anything; a full-text index that an older SQLite made is not what it is asked about.
pub(super) fn complaint(palace: &Path) -> Option<String> {
    let _open = no_spawning();
    let scratch = tempfile::tempdir().expect("a directory");
    let copy = scratch.path().join("chroma.sqlite3");
    fs::copy(palace.join("chroma.sqlite3"), &copy).expect("a copy");
    let connection = Connection::open(&copy).expect("a file");
    let lines = || -> rusqlite::Result<Vec<String>> {
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        let mut query = connection.prepare("PRAGMA integrity_check")?;
        query.query_map([], |row| row.get(0))?.collect()
    };
    match lines() {
        Err(error) => Some(error.to_string()),
        Ok(lines) => lines.into_iter().find(|line| line != "ok" && !line.contains("embedding_fulltext_search")),
    }
}

/// Pages of a table or an index, in the order of its keys; `kind` is `leaf`, `internal` or `overflow`.
pub(super) fn pages(palace: &Path, name: &str, kind: &str) -> Vec<u64> {
    let (_scratch, connection) = open_copy(palace);
    let sql = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = ?2 ORDER BY path";
    let mut query = connection.prepare(sql).expect("SQLite was built with dbstat");
    let pages = query.query_map([name, kind], |row| row.get::<_, i64>(0)).expect("pages");
    pages.map(|page| page.expect("a page") as u64).collect()
}

/// Writes zeros over some pages of a palace's database.
#[track_caller]
pub(crate) fn zero_pages(palace: &Path, pages: &[u64]) {
    assert!(!pages.is_empty(), "there is no such page");
    let database = palace.join("chroma.sqlite3");
    let before = read(&database).expect("a database");
    for page in pages {
        let at = (*page as usize - 1) * PAGE_BYTES;
        assert!(before[at..at + PAGE_BYTES].iter().any(|byte| *byte != 0), "page {page} was empty already");
        overwrite(&database, at as u64, &[0; PAGE_BYTES]);
    }
}

/// Files some records of a collection once more, under another name, with their vectors in the queue alone: what an
/// interrupted rebuild of MemPalace leaves.
pub(crate) fn refile(palace: &Path, from: &str, to: &str, records: &[Record]) {
    let _open = no_spawning();
    let connection = Connection::open(palace.join("chroma.sqlite3")).expect("a database");
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).expect("a number");
    let statement = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection.execute(sql, values).unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    connection.execute_batch("PRAGMA foreign_keys = OFF; BEGIN").expect("a transaction");
    let uuid = || uuid::Uuid::new_v4().to_string();
    let (id, vector, metadata) = (uuid(), uuid(), uuid());
    let collection = "INSERT INTO collections (id, name, dimension, database_id, config_json_str, schema_str)
                      SELECT ?1, ?2, dimension, database_id, config_json_str, schema_str
                      FROM collections WHERE name = ?3";
    statement(collection, params![id, to, from]);
    let settings = "INSERT INTO collection_metadata SELECT ?1, key, str_value, int_value, float_value, bool_value
                    FROM collection_metadata WHERE collection_id = (SELECT id FROM collections WHERE name = ?2)";
    statement(settings, params![id, from]);
    for (segment, kind, scope) in [
        (&vector, "urn:chroma:segment/vector/hnsw-local-persisted", "VECTOR"),
        (&metadata, "urn:chroma:segment/metadata/sqlite", "METADATA"),
    ] {
        statement("INSERT INTO segments VALUES (?1, ?2, ?3, ?4)", params![segment, kind, scope, id]);
    }
    let first_row = number("SELECT max(id) + 1 FROM embeddings");
    let first_write = number("SELECT max(seq_id) + 1 FROM embeddings_queue");
    for (record, offset) in records.iter().zip(0..) {
        let (row, write) = (first_row + offset, first_write + offset);
        let head = "INSERT INTO embeddings (id, segment_id, embedding_id, seq_id) VALUES (?1, ?2, ?3, ?4)";
        statement(head, params![row, metadata, record.id, write]);
        for table in ["embedding_metadata", "embedding_metadata_array"] {
            let copy = format!(
                "INSERT INTO {table} SELECT ?1, key, string_value, int_value, float_value, bool_value
                 FROM {table} WHERE id = ?2 ORDER BY rowid"
            );
            statement(&copy, params![row, record.row]);
        }
        let text = "INSERT INTO embedding_fulltext_search (rowid, string_value)
                    SELECT ?1, string_value FROM embedding_metadata WHERE id = ?1 AND key = 'chroma:document'";
        statement(text, params![row]);
        let bits = record.handed_in().expect("a vector");
        let bytes: Vec<u8> = bits.into_iter().flat_map(u32::to_le_bytes).collect();
        let write_row = "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding, metadata)
                         VALUES (?1, 0, 'persistent://default/default/' || ?2, ?3, ?4, 'FLOAT32', '{}')";
        statement(write_row, params![write, id, record.id, bytes]);
    }
    let last = first_write + records.len() as i64 - 1;
    statement("INSERT INTO max_seq_id VALUES (?1, ?2)", params![metadata, last]);
    connection.execute_batch(FULLTEXT_ANEW).expect("a full-text index");
    connection.execute_batch("COMMIT").expect("a transaction");
}

/// Deletes a collection as chromadb does: all rows, its queue, and not its index.
pub(super) fn delete_collection(case: &Case, name: &str) {
    let (metadata, vector, topic) = (segment(name, "METADATA"), segment(name, "VECTOR"), topic(name));
    let rows = format!("(SELECT id FROM embeddings WHERE segment_id = {metadata})");
    let collection = format!("(SELECT id FROM collections WHERE name = '{name}')");
    case.sql(&format!(
        "DELETE FROM embedding_metadata WHERE id IN {rows};
         DELETE FROM embedding_metadata_array WHERE id IN {rows};
         DELETE FROM embedding_fulltext_search WHERE rowid IN {rows};
         DELETE FROM embeddings WHERE segment_id = {metadata};
         DELETE FROM embeddings_queue WHERE topic = {topic};
         DELETE FROM max_seq_id WHERE segment_id IN ({metadata}, {vector});
         DELETE FROM segments WHERE collection = {collection};
         DELETE FROM collection_metadata WHERE collection_id = {collection};
         DELETE FROM collections WHERE name = '{name}';
         {FULLTEXT_ANEW}"
    ));
}

/// Deletes one record's rows, and nothing of its vector.
pub(super) fn delete_rows(case: &Case, row: i64) {
    case.sql(&format!(
        "DELETE FROM embedding_metadata WHERE id = {row};
         DELETE FROM embedding_metadata_array WHERE id = {row};
         DELETE FROM embedding_fulltext_search WHERE rowid = {row};
         DELETE FROM embeddings WHERE id = {row};"
    ));
}
