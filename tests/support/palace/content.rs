//! What a palace holds, as a value that can be compared: every row of every table under names instead of UUIDs, every
//! record as `get()` would return it, every index file.

use super::vectors::{Shelf, Vector, bits};
use super::{copy, fast_directory, read};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// All a palace holds, but for UUIDs, and for `acquire_write`, in which every client that opens a palace leaves a row.
#[derive(Clone)]
pub(crate) struct Content {
    /// Rows by table; `schema` and `header` count as tables.
    pub(crate) tables: BTreeMap<String, Vec<Line>>,
    /// Records by collection, in the order of `embeddings.id`.
    pub(crate) records: BTreeMap<String, Vec<Record>>,
    /// Index files by collection and name.
    pub(crate) indexes: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// One row of a table, with the record it belongs to, if that is a number in its first column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) record: i64,
    pub(crate) text: String,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) row: i64,
    pub(crate) id: String,
    pub(crate) document: Option<String>,
    /// Each value with its type, floats as bits.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) vector: Option<Vector>,
}

/// Tables in which the order of rows means something, and the order.
const ORDERED: [(&str, &str); 2] = [("collections", "rowid"), ("embedding_metadata_array", "id, key, rowid")];

impl Content {
    /// Reads a palace; a copy of it, so that the palace stays as it is, journals and all.
    pub(crate) fn of(palace: &Path) -> Content {
        let (_scratch, connection) = open_copy(palace);
        let names = names(&connection);
        let mut tables = BTreeMap::new();
        for table in table_names(&connection) {
            tables.insert(table.clone(), lines(&connection, &table, &names));
        }
        tables.insert("schema".into(), schema(&connection));
        tables.insert("header".into(), header(&connection));
        let (mut records, mut indexes) = (BTreeMap::new(), BTreeMap::new());
        for collection in collections(&connection) {
            records.insert(collection.name.clone(), collection.records(&connection, palace));
            indexes.insert(collection.name.clone(), files(&palace.join(&collection.vector)));
        }
        Content { tables, records, indexes }
    }

    /// Insists on everything being equal.
    #[track_caller]
    pub(crate) fn assert_equals(&self, other: &Content, what: &str) {
        let mut differences = self.table_differences(other, &[]);
        differences.extend(self.record_differences(other));
        if self.indexes != other.indexes {
            differences.push("an index file differs".into());
        }
        assert!(differences.is_empty(), "{what}: {}", differences.join("; "));
    }

    /// Differences of the tables, but for some of them.
    pub(crate) fn table_differences(&self, other: &Content, except: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let names: BTreeSet<_> = self.tables.keys().chain(other.tables.keys()).collect();
        for name in names.into_iter().filter(|name| !except.contains(&name.as_str())) {
            let (Some(ours), Some(theirs)) = (self.tables.get(name), other.tables.get(name)) else {
                found.push(format!("table {name} is in one of them only"));
                continue;
            };
            let differs = ours.iter().zip(theirs).find(|(one, two)| one != two);
            match differs {
                Some((one, two)) => found.push(format!("{name}: {} against {}", short(&one.text), short(&two.text))),
                None if ours.len() != theirs.len() => {
                    found.push(format!("{name}: {} rows against {}: {:?}", ours.len(), theirs.len(), ours.last()));
                }
                None => {}
            }
        }
        found
    }

    /// Differences of the records, vectors bit for bit.
    pub(crate) fn record_differences(&self, other: &Content) -> Vec<String> {
        self.record_differences_by(other, Record::is_same)
    }

    /// Differences of the records, as `is_kept` sees them.
    pub(crate) fn record_differences_by(
        &self,
        other: &Content,
        is_kept: impl Fn(&Record, &Record) -> bool,
    ) -> Vec<String> {
        let mut found = Vec::new();
        if !self.records.keys().eq(other.records.keys()) {
            found.push(format!("collections {:?} against {:?}", self.records.keys(), other.records.keys()));
        }
        for (name, ours) in &self.records {
            let theirs = other.records.get(name).map(Vec::as_slice).unwrap_or_default();
            if ours.len() != theirs.len() {
                found.push(format!("{name}: {} records against {}", ours.len(), theirs.len()));
            }
            let differs = ours.iter().zip(theirs).find(|(one, two)| !is_kept(one, two));
            found.extend(differs.map(|(one, two)| format!("{name}: record {} against {}", one.id, two.id)));
        }
        found
    }

    /// Takes some records out, as if they had never been there.
    pub(crate) fn forget(&mut self, rows: &BTreeSet<i64>) {
        for (table, lines) in &mut self.tables {
            if table.starts_with("embedding") && !table.starts_with("embeddings_queue") {
                lines.retain(|line| !rows.contains(&line.record));
            }
        }
        for records in self.records.values_mut() {
            records.retain(|record| !rows.contains(&record.row));
        }
    }

    /// The record of an id.
    #[track_caller]
    pub(crate) fn record(&self, collection: &str, id: &str) -> &Record {
        let found = self.records[collection].iter().find(|record| record.id == id);
        found.unwrap_or_else(|| panic!("{collection} has no record {id}"))
    }
}

impl Record {
    /// Whether two records are equal, their vectors bit for bit.
    pub(crate) fn is_same(&self, other: &Record) -> bool {
        let bits = |record: &Record| record.vector.as_ref().map(Vector::bits);
        (&self.id, &self.document, &self.metadata, bits(self))
            == (&other.id, &other.document, &other.metadata, bits(other))
    }

    /// Whether this record came over with `get()` returning its vector bit for bit as before, wherever that is kept
    /// now.
    pub(crate) fn is_kept_in(&self, new: &Record) -> bool {
        let bits = |record: &Record| record.vector.as_ref().map(|vector| bits(&vector.get));
        (&self.id, &self.document, &self.metadata, bits(self)) == (&new.id, &new.document, &new.metadata, bits(new))
    }

    /// Bits of what would have to be handed in to get this record's vector.
    pub(crate) fn handed_in(&self) -> Option<Vec<u32>> {
        self.vector.as_ref().map(|vector| bits(vector.queued.as_ref().unwrap_or(&vector.get)))
    }
}

/// A copy of a palace's database, with its journal rolled back or its log applied by SQLite itself.
pub(crate) fn open_copy(palace: &Path) -> (tempfile::TempDir, Connection) {
    let scratch = tempfile::tempdir_in(fast_directory()).expect("a directory");
    for name in ["chroma.sqlite3", "chroma.sqlite3-journal", "chroma.sqlite3-wal"] {
        match copy(&palace.join(name), &scratch.path().join(name)) {
            Err(error) if name == "chroma.sqlite3" => panic!("{}: {error}", palace.display()),
            _ => {}
        }
    }
    let connection = Connection::open(scratch.path().join("chroma.sqlite3")).expect("a database");
    connection.execute_batch("PRAGMA foreign_keys=OFF").expect("a database that can be read");
    (scratch, connection)
}

/// Names of the directories that the segments of a palace have, or would have.
pub(crate) fn segment_directories(palace: &Path) -> BTreeSet<String> {
    let (_scratch, connection) = open_copy(palace);
    collections(&connection).into_iter().map(|collection| collection.vector).collect()
}

/// The directory of a collection's index.
pub(crate) fn segment_of(palace: &Path, collection: &str) -> PathBuf {
    let (_scratch, connection) = open_copy(palace);
    let found = collections(&connection).into_iter().find(|one| one.name == collection);
    palace.join(found.expect("the collection exists").vector)
}

/// Insists on what chromadb needs beside equal content: sound pages, a full-text index that answers, no vector
/// without its record, and a next sequence number that is free (a palace in any other state drops its next write in
/// silence).
#[track_caller]
pub(crate) fn assert_sound(palace: &Path, what: &str) {
    let (_scratch, connection) = open_copy(palace);
    assert_eq!(page_complaints(&connection), Vec::<String>::new(), "{what}");
    assert_eq!(documents_not_found(&connection), Vec::<i64>::new(), "{what}: documents a search does not find");
    let last = connection
        .query_row("SELECT coalesce(max(seq_id), 0) FROM embeddings_queue", [], |row| row.get::<_, i64>(0))
        .expect("a queue");
    for collection in collections(&connection) {
        for segment in [&collection.metadata, &collection.vector] {
            let sql = "SELECT CAST(CASE typeof(seq_id) WHEN 'blob' THEN '0x' || hex(seq_id) ELSE seq_id END AS TEXT)
                       FROM max_seq_id WHERE segment_id = ?1";
            let known = connection.query_row(sql, [segment], |row| row.get::<_, String>(0)).unwrap_or("0".into());
            let known = match known.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16).expect("a number"),
                None => known.parse().expect("a number"),
            };
            assert!(known <= last, "{what}: {} is at {known}, the queue ends at {last}", collection.name);
        }
        let records: BTreeSet<_> =
            collection.records(&connection, palace).into_iter().map(|record| record.id).collect();
        let vectors = collection.shelf(&connection, palace).vectors();
        let ghosts: Vec<_> = vectors.keys().filter(|id| !records.contains(*id)).collect();
        assert!(ghosts.is_empty(), "{what}: {} has vectors without records: {ghosts:?}", collection.name);
    }
}

/// What `PRAGMA integrity_check` says. SQLite since 3.47 indexes a document past its first NUL and calls an index
/// malformed that stops there, as the SQLite inside chromadb does; so with such a document in it, the index is left
/// to the search.
fn page_complaints(connection: &Connection) -> Vec<String> {
    let mut query = connection.prepare("PRAGMA integrity_check").expect("a pragma");
    let complaints =
        query.query_map([], |row| row.get::<_, String>(0)).expect("a pragma").map(|line| line.expect("a line"));
    let nul = "SELECT 1 FROM embedding_metadata WHERE key = 'chroma:document' AND instr(string_value, char(0))";
    let has_nul = connection.prepare(nul).expect("a query").exists([]).expect("a query");
    let is_excused = |line: &str| line == "ok" || has_nul && line.contains("table main.embedding_fulltext_search");
    complaints.filter(|line| !is_excused(line)).collect()
}

/// Rows whose documents the full-text index does not find by a piece of their text.
fn documents_not_found(connection: &Connection) -> Vec<i64> {
    let documents = "SELECT id, string_value FROM embedding_metadata WHERE key = 'chroma:document'";
    let found = "SELECT 1 FROM embedding_fulltext_search WHERE embedding_fulltext_search MATCH ?1 AND rowid = ?2";
    let (mut documents, mut found) =
        (connection.prepare(documents).expect("documents"), connection.prepare(found).expect("an index"));
    let rows = documents.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))).expect("documents");
    let rows = rows.map(|row| row.expect("a document"));
    let mut is_missing = |(id, text): &(i64, String)| {
        let before_nul: Vec<char> = text.split('\0').next().unwrap_or_default().chars().collect();
        let piece: String = before_nul[before_nul.len() / 2..].iter().take(12).collect();
        // The index is one of trigrams: fewer characters are found by nobody.
        piece.chars().count() >= 3
            && !found.exists((format!("\"{}\"", piece.replace('"', "\"\"")), id)).expect("a search")
    };
    rows.filter(|row| is_missing(row)).map(|(id, _)| id).collect()
}

struct Collection {
    name: String,
    topic: String,
    metadata: String,
    vector: String,
    is_cosine: bool,
}

fn collections(connection: &Connection) -> Vec<Collection> {
    let sql = "SELECT c.name, c.id,
                   (SELECT id FROM segments WHERE collection = c.id AND scope = 'METADATA'),
                   (SELECT id FROM segments WHERE collection = c.id AND scope = 'VECTOR'),
                   (SELECT str_value FROM collection_metadata WHERE collection_id = c.id AND key = 'hnsw:space')
               FROM collections c ORDER BY c.rowid";
    let mut query = connection.prepare(sql).expect("collections");
    let collection = |row: &Row| {
        Ok(Collection {
            name: row.get(0)?,
            topic: format!("persistent://default/default/{}", row.get::<_, String>(1)?),
            metadata: row.get(2)?,
            vector: row.get(3)?,
            is_cosine: row.get::<_, Option<String>>(4)?.as_deref() == Some("cosine"),
        })
    };
    query.query_map([], collection).expect("collections").map(|one| one.expect("a collection")).collect()
}

impl Collection {
    fn shelf<'s>(&'s self, connection: &'s Connection, palace: &'s Path) -> Shelf<'s> {
        let (topic, segment, is_cosine) = (&self.topic, &self.vector, self.is_cosine);
        Shelf { connection, palace, topic, segment, is_cosine }
    }

    fn records(&self, connection: &Connection, palace: &Path) -> Vec<Record> {
        let mut vectors = self.shelf(connection, palace).vectors();
        let sql = "SELECT id, embedding_id FROM embeddings WHERE segment_id = ?1 ORDER BY id";
        let mut query = connection.prepare(sql).expect("embeddings");
        let heads = query.query_map([&self.metadata], |row| Ok((row.get(0)?, row.get(1)?))).expect("embeddings");
        let record = |head: rusqlite::Result<(i64, String)>| {
            let (row, id) = head.expect("a record");
            let mut metadata = metadata(connection, row);
            let document = metadata.remove("chroma:document");
            let document = document.map(|text| text.strip_prefix("str:").expect("a document is text").to_owned());
            Record { row, document, metadata, vector: vectors.remove(&id), id }
        };
        heads.map(record).collect()
    }
}

/// Metadata with types: `int:1`, `float:<bits>`, `str:…`, `bool:true`, `list:int:[1,2]`.
fn metadata(connection: &Connection, row: i64) -> BTreeMap<String, String> {
    let has_bool = has_column(connection, "embedding_metadata", "bool_value");
    let columns =
        ["key, string_value, int_value, float_value", if has_bool { "bool_value" } else { "NULL" }].join(", ");
    let read = |table: &str, order: &str| -> Vec<(String, String)> {
        let sql = format!("SELECT {columns} FROM {table} WHERE id = ?1 ORDER BY {order}");
        let mut query = connection.prepare_cached(&sql).expect("metadata");
        let rows = query.query_map([row], |row| Ok((row.get(0)?, typed(row)))).expect("metadata");
        rows.map(|row| row.expect("a metadata row")).collect()
    };
    let mut metadata: BTreeMap<_, _> = read("embedding_metadata", "key").into_iter().collect();
    if has_column(connection, "embedding_metadata_array", "key") {
        let mut lists = BTreeMap::<String, Vec<String>>::new();
        for (key, value) in read("embedding_metadata_array", "rowid") {
            lists.entry(key).or_default().push(value);
        }
        for (key, values) in lists {
            let kind = values[0].split(':').next().unwrap_or_default().to_owned();
            let values: Vec<_> = values.iter().map(|value| &value[kind.len() + 1..]).collect();
            metadata.insert(key, format!("list:{kind}:{values:?}"));
        }
    }
    metadata
}

fn typed(row: &Row) -> String {
    let get = |column| row.get_ref(column).expect("a column");
    match (get(1), get(2), get(3), get(4)) {
        (ValueRef::Text(text), ..) => format!("str:{}", String::from_utf8_lossy(text)),
        (_, ValueRef::Integer(value), ..) => format!("int:{value}"),
        (_, _, ValueRef::Real(value), _) => format!("float:{:016x}", value.to_bits()),
        (_, _, _, ValueRef::Integer(value)) => format!("bool:{}", value != 0),
        other => panic!("a metadata row without a value: {other:?}"),
    }
}

/// What to call each UUID.
fn names(connection: &Connection) -> BTreeMap<String, String> {
    let pairs = |sql: &str| -> Vec<(String, String)> {
        let mut query = connection.prepare(sql).expect("the catalog");
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("the catalog");
        rows.map(|row| row.expect("a name")).collect()
    };
    let collections = pairs("SELECT id, '<' || name || '>' FROM collections");
    let segments = pairs(
        "SELECT s.id, '<' || c.name || ' ' || s.scope || '>' FROM segments s JOIN collections c ON s.collection = c.id",
    );
    collections.into_iter().chain(segments).collect()
}

/// Tables, without SQLite's own and the shadows of the full-text index; the index itself is one of them.
fn table_names(connection: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let mut query = connection.prepare(sql).expect("a schema");
    let names = query.query_map([], |row| row.get::<_, String>(0)).expect("a schema");
    let names = names.map(|name| name.expect("a name"));
    names.filter(|name| name != "acquire_write" && !name.starts_with("embedding_fulltext_search_")).collect()
}

fn lines(connection: &Connection, table: &str, names: &BTreeMap<String, String>) -> Vec<Line> {
    // 0.4 left documents of deleted records in the full-text index; they belong to nothing.
    let source = match table {
        "embedding_fulltext_search" => {
            "(SELECT rowid AS id, string_value FROM embedding_fulltext_search
              WHERE rowid IN (SELECT id FROM embeddings))"
        }
        table => table,
    };
    let order = ORDERED.iter().find(|(name, _)| *name == table).map(|(_, order)| *order);
    let sql = format!("SELECT * FROM {source} ORDER BY {}", order.unwrap_or("1"));
    let mut query = connection.prepare(&sql).expect("a table");
    let columns: Vec<String> = query.column_names().map(str::to_owned).collect();
    let line = |row: &Row| {
        let values = columns.iter().enumerate();
        let values = values.map(|(index, name)| Ok(format!("{name}={}", value(row.get_ref(index)?, names))));
        let text = values.collect::<rusqlite::Result<Vec<_>>>()?.join(" ");
        let record = row.get_ref(0)?.as_i64().unwrap_or(0);
        Ok(Line { record, text })
    };
    let rows = query.query_map([], line).expect("a table");
    let mut lines: Vec<_> = rows.map(|row| row.expect("a row")).collect();
    if order.is_none() {
        lines.sort();
    }
    lines
}

fn value(value: ValueRef, names: &BTreeMap<String, String>) -> String {
    match value {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(value) => format!("i{value}"),
        ValueRef::Real(value) => format!("r{:016x}", value.to_bits()),
        ValueRef::Blob(bytes) => format!("x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        ValueRef::Text(bytes) => {
            let text = bytes.escape_ascii().to_string();
            let (path, last) = text.rsplit_once('/').map_or(("", &*text), |(path, last)| (path, last));
            match names.get(last) {
                Some(name) => format!("t“{path}/{name}”"),
                None => format!("t“{text}”"),
            }
        }
    }
}

fn schema(connection: &Connection) -> Vec<Line> {
    let sql = "SELECT type || ' ' || name || ': ' || sql FROM sqlite_master
               WHERE sql IS NOT NULL AND name NOT LIKE 'embedding_fulltext_search_%' ORDER BY 1";
    let mut query = connection.prepare(sql).expect("a schema");
    let lines = query.query_map([], |row| row.get::<_, String>(0)).expect("a schema");
    lines.map(|text| Line { record: 0, text: text.expect("a statement") }).collect()
}

fn header(connection: &Connection) -> Vec<Line> {
    let pragmas = ["page_size", "encoding", "user_version", "application_id", "auto_vacuum"];
    let line = |pragma: &str| {
        let read = |row: &Row| Ok(format!("{pragma} {:?}", row.get_ref(0)?));
        let text = connection.query_row(&format!("PRAGMA {pragma}"), [], read).expect("a pragma");
        Line { record: 0, text }
    };
    pragmas.map(line).into()
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let file = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, read(&path).expect("an index file"))
    };
    entries.map(|entry| file(entry.path())).collect()
}

fn has_column(connection: &Connection, table: &str, column: &str) -> bool {
    let sql = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2";
    connection.prepare_cached(sql).expect("a pragma").exists([table, column]).expect("a pragma")
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}
