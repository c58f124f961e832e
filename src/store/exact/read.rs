//! Reads a `sqlite_exact` store, without changing a byte of it or beside it.

use super::step::model;
use super::{DATABASE, MODEL, SETTINGS};
use crate::disk::Disk;
use crate::store::chroma::{self, During, Error, Given, Intake, Loss, Space, normalise_well, prepare, take_copy};
use crate::store::json;
use crate::store::record::{Embedding, Head, Record, Value};
use crate::store::scratch::{Room, Scratch};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Rows, Statement};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

/// What MemPalace did not make; it adds nothing of its own that is not named here.
const STRANGERS: &str = "SELECT name FROM sqlite_master
    WHERE name NOT IN ('meta', 'collections', 'documents', 'docs_fts') AND name NOT GLOB 'sqlite_*'
        AND name NOT GLOB 'idx_documents_*' AND name NOT GLOB 'docs_fts_*' ORDER BY name";

/// A store that is open for reading.
pub struct Reader<'d> {
    connection: Connection,
    path: PathBuf,
    _scratch: Option<Scratch<'d>>,
}

/// A store without an index that can be read like a palace.
pub struct TakenIn<'d> {
    /// Where the database is; it goes with this.
    pub directory: Scratch<'d>,
    /// What it has no place for.
    pub losses: Vec<Loss>,
}

/// The records of a store, one after the other.
pub(super) struct Records<'r> {
    rows: Rows<'r>,
    collections: Vec<Numbered>,
    path: &'r Path,
    unowned: i64,
}

/// A record, and its vector as it stands in the store.
pub(super) struct Found {
    pub(super) given: Given,
    pub(super) raw: Vec<f32>,
}

/// A collection and its number.
struct Numbered {
    number: i64,
    head: Head,
}

impl<'d> Reader<'d> {
    /// Opens the store in `directory`: a copy of it in `room`, since its log may hold what it does not.
    pub fn open(directory: &Path, room: &Room<'d>) -> Result<Reader<'d>, Error> {
        let original = directory.join(DATABASE);
        let (scratch, path) = take_copy(&original, room)?;
        Reader::read(original, &path, Some(scratch))
    }

    /// Opens a store that has no log.
    pub(super) fn at_rest(directory: &Path) -> Result<Reader<'d>, Error> {
        let path = directory.join(DATABASE);
        Reader::read(path.clone(), &path, None)
    }

    fn read(original: PathBuf, path: &Path, scratch: Option<Scratch<'d>>) -> Result<Reader<'d>, Error> {
        let open = || {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            prepare(&connection)?;
            Ok(connection)
        };
        let connection = open().during(&original, "opening it")?;
        Ok(Reader { connection, path: original, _scratch: scratch })
    }

    /// How many records there are, and how many bytes in them.
    pub fn totals(&self) -> Result<(u64, u64), Error> {
        let sql = "SELECT count(*), coalesce(sum(octet_length(document) + octet_length(metadata_json)
                       + length(embedding)), 0) FROM documents";
        let totals = self.connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let (records, bytes) = totals.during(&self.path, "counting records")?;
        Ok((records as u64, bytes as u64))
    }

    /// The collections, in the order they were made.
    pub fn heads(&self) -> Result<Vec<Head>, Error> {
        Ok(self.collections()?.into_iter().map(|one| one.head).collect())
    }

    /// What is in the store besides its records and collections, and would be left behind; the directory `palace` may
    /// have the note of models that belongs to a palace of chromadb's.
    pub fn besides(&self, disk: &dyn Disk, palace: &Path) -> Result<Vec<Loss>, Error> {
        let names = |sql: &str| {
            let mut query = self.connection.prepare(sql)?;
            let names = query.query_map([], |row| row.get::<_, String>(0))?;
            names.collect::<rusqlite::Result<Vec<_>>>()
        };
        let doing = "looking for what is nobody's";
        let mut losses = Vec::new();
        for name in names(STRANGERS).during(&self.path, doing)? {
            losses.push(Loss::Stranger { name });
        }
        for key in names("SELECT key FROM meta ORDER BY key").during(&self.path, doing)? {
            match key.strip_prefix(MODEL) {
                Some(collection) => {
                    let stored = self.meta(MODEL, collection)?.unwrap_or_default();
                    if model(disk, palace, collection).as_ref() != Some(&stored) {
                        let set = format!("mempalace palace set-embedder --model {stored} writes it down again");
                        let what = format!("the note that {stored} made the vectors ({set})");
                        losses.push(Loss::Unheld { whose: collection.to_owned(), what });
                    }
                }
                None if key == "fts5_available" || key.starts_with(SETTINGS) => {}
                None => losses.push(Loss::Stranger { name: format!("meta.{key}") }),
            }
        }
        Ok(losses)
    }

    fn meta(&self, prefix: &str, name: &str) -> Result<Option<String>, Error> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        let found = self.connection.query_row(sql, [format!("{prefix}{name}")], |row| row.get(0)).optional();
        found.during(&self.path, "reading its settings")
    }

    fn collections(&self) -> Result<Vec<Numbered>, Error> {
        let rows = || {
            let mut query = self.connection.prepare("SELECT id, name, dimension FROM collections ORDER BY id")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(i64, String, Option<i64>)>>>()
        };
        let rows = rows().during(&self.path, "reading its collections")?;
        let numbered = |(number, name, dimension): (i64, String, Option<i64>)| {
            let kept = self.meta(SETTINGS, &name)?.and_then(|text| serde_json::from_str(&text).ok());
            Ok(Numbered { number, head: head(name, dimension, kept) })
        };
        rows.into_iter().map(numbered).collect()
    }

    /// The query behind [`Reader::records`], which has to outlive it.
    pub(super) fn query(&self) -> Result<Statement<'_>, Error> {
        let sql = "SELECT collection_id, id, document, metadata_json, embedding, created_at, rowid FROM documents
                   ORDER BY rowid";
        self.connection.prepare(sql).during(&self.path, "reading its records")
    }

    /// All records, in the order they were written.
    pub(super) fn records<'r>(&'r self, query: &'r mut Statement) -> Result<Records<'r>, Error> {
        let rows = query.query([]).during(&self.path, "reading its records")?;
        Ok(Records { rows, collections: self.collections()?, path: &self.path, unowned: 0 })
    }

    /// SQLite's own check, and whether every document is indexed.
    pub fn check(&self) -> Result<(), Error> {
        let check = || {
            let pages: String = self.connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
            let sql = "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM docs_fts_docsize)";
            let counts: (i64, i64) = self.connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((pages, counts))
        };
        match check().during(&self.path, "checking its pages")? {
            (pages, _) if pages != "ok" => Err(Error::NotEqual(pages)),
            (_, (records, indexed)) if records != indexed => {
                Err(Error::NotEqual(format!("{indexed} of {records} documents are in the full-text index")))
            }
            _ => Ok(()),
        }
    }

    /// The same in a directory of its own in `room`.
    pub fn taken_in<'r>(&self, room: &Room<'r>, watch: &mut dyn FnMut()) -> Result<TakenIn<'r>, Error> {
        let directory = Scratch::new(room, &self.path)?;
        let losses = self.take_in(&directory.path().join(chroma::DATABASE), watch)?;
        Ok(TakenIn { directory, losses })
    }

    /// Makes a database of chromadb's of it, to be read like any palace. Returns what that leaves out.
    pub fn take_in(&self, path: &Path, watch: &mut dyn FnMut()) -> Result<Vec<Loss>, Error> {
        let mut intake = Intake::create(path)?;
        for head in self.heads()? {
            intake.collection(&head)?;
        }
        let mut losses = Vec::new();
        let mut query = self.query()?;
        let mut records = self.records(&mut query)?;
        while let Some(Found { given, .. }) = records.next()? {
            watch();
            losses.extend(given.losses);
            intake.record(given.owner, &given.record)?;
        }
        if records.unowned > 0 {
            losses.push(Loss::Unowned { table: "documents".into(), rows: records.unowned });
        }
        intake.finish()?;
        Ok(losses)
    }
}

impl Records<'_> {
    /// The next record that belongs to a collection.
    pub(super) fn next(&mut self) -> Result<Option<Found>, Error> {
        let doing = "reading its records";
        while let Some(row) = self.rows.next().during(self.path, doing)? {
            let number: i64 = row.get(0).during(self.path, doing)?;
            match self.collections.iter().position(|one| one.number == number) {
                Some(owner) => {
                    let found = found(row, owner, &self.collections[owner].head);
                    return found.during(self.path, doing).map(Some);
                }
                None => self.unowned += 1,
            }
        }
        Ok(None)
    }
}

/// What MemPalace has chromadb make, but for what was kept.
fn head(name: String, dimension: Option<i64>, kept: Option<Json>) -> Head {
    let index = json!({
        "space": "cosine",
        "embedding_function": { "type": "known", "name": "default", "config": {} },
        "hnsw": { "num_threads": 1 },
    });
    let kept = kept.unwrap_or_else(|| {
        let (batch, threshold) = (100, 1000);
        let metadata = json!({
            "hnsw:space": "cosine", "hnsw:num_threads": 1, "hnsw:batch_size": batch, "hnsw:sync_threshold": threshold,
        });
        json!({ "index": index, "metadata": metadata })
    });
    let metadata = json::kept(&kept["metadata"]);
    let space = kept["index"]["space"].as_str().map_or(Space::Cosine, Space::named);
    Head { name, dimension, space, index: kept["index"].clone(), metadata }
}

fn found(row: &Row, owner: usize, head: &Head) -> rusqlite::Result<Found> {
    let text = |column| -> rusqlite::Result<_> {
        let bytes = row.get_ref(column)?.as_bytes()?;
        Ok((String::from_utf8_lossy(bytes).into_owned(), std::str::from_utf8(bytes).is_ok()))
    };
    let [(id, is_id), (document, is_document), (metadata, is_metadata)] = [text(1)?, text(2)?, text(3)?];
    let (metadata, mut losses) = json::metadata(&metadata, &id);
    if !(is_id && is_document && is_metadata) {
        losses.push(Loss::Unheld { whose: id.clone(), what: "text that is not UTF-8".into() });
    }
    let (chunks, rest) = row.get_ref(4)?.as_bytes().unwrap_or_default().as_chunks::<4>();
    let raw: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let is_whole = rest.is_empty() && !raw.is_empty() && head.dimension.is_none_or(|n| n == raw.len() as i64);
    let given = match head.space {
        _ if !is_whole => None,
        Space::Cosine => normalise_well(&raw),
        Space::L2 | Space::InnerProduct => Some((raw.clone(), 1.0)),
    };
    let embedding = given.map(|(floats, length)| Embedding { floats, length });
    let created_at = row.get_ref(5)?.as_str().ok().and_then(time);
    let record = Record { id, document: Some(document), metadata, embedding, created_at };
    Ok(Found { given: Given { row: row.get(6)?, owner, record, losses }, raw })
}

/// `2026-11-25T23:04:49.479666+00:00` as SQLite writes it.
fn time(text: &str) -> Option<String> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Whether two values are the same, floats bit for bit.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits(),
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        _ => one == other,
    }
}
