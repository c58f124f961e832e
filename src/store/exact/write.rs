//! Writes a `sqlite_exact` store, row by row, from records of any other one.

use super::{DATABASE, MODEL, SCHEMA, SETTINGS};
use crate::store::chroma::{During, Error, Loss, Space, prepare};
use crate::store::json;
use crate::store::record::{Head, Record};
use rusqlite::{Connection, OpenFlags, params};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The store that is being filled.
pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
}

/// Written at once and without syncs, as every staged database; MemPalace turns to a write-ahead log when it opens it.
const BUILDING: &str = "PRAGMA journal_mode=DELETE; PRAGMA synchronous=OFF;";

impl Writer {
    /// Makes the database with its collections, in one transaction.
    pub(super) fn create(path: &Path, heads: &[Head], models: &[Option<String>]) -> Result<Writer, Error> {
        let flags = OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_READ_WRITE;
        let mut writer = Writer::connect(path, flags)?;
        let mut create = || {
            let transaction = writer.connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            let now = now();
            for ((head, model), number) in heads.iter().zip(models).zip(1_i64..) {
                let sql = "INSERT INTO collections (id, name, dimension, created_at) VALUES (?1, ?2, ?3, ?4)";
                transaction.execute(sql, params![number, head.name, head.dimension, now])?;
                let settings =
                    json!({ "index": head.index, "metadata": json::object(&fit_head(head).0.metadata) }).to_string();
                let rows = [(SETTINGS, Some(&settings)), (MODEL, model.as_ref())];
                for (prefix, value) in rows.into_iter().filter_map(|(prefix, value)| Some((prefix, value?))) {
                    let key = format!("{prefix}{}", head.name);
                    transaction.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
                }
            }
            transaction.commit()
        };
        create().during(path, "making the new database")?;
        Ok(writer)
    }

    /// Opens a database that was made before; what a kill left half done is rolled back by that.
    pub(super) fn open(path: &Path) -> Result<Writer, Error> {
        Writer::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Writer, Error> {
        let connect = || {
            let connection = Connection::open_with_flags(path, flags)?;
            prepare(&connection)?;
            connection.execute_batch(BUILDING)?;
            Ok(connection)
        };
        Ok(Writer { connection: connect().during(path, "opening the new database")?, path: path.to_owned() })
    }

    /// Whether the database is whole: its collections are written down.
    pub(super) fn is_made(&self) -> bool {
        let sql = "SELECT count(*) FROM meta WHERE key = 'fts5_available'";
        self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)) == Ok(1)
    }

    /// Records between two rows that are here.
    pub(super) fn count(&self, first: i64, last: i64) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM documents WHERE rowid BETWEEN ?1 AND ?2";
        let found = self.connection.query_row(sql, [first, last], |row| row.get::<_, i64>(0));
        Ok(found.during(&self.path, "counting rows")? as u64)
    }

    /// Begins a batch: it is here after the commit, or none of it is.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.connection.execute_batch("BEGIN").during(&self.path, "copying records")
    }

    pub(super) fn commit(&self) -> Result<(), Error> {
        self.connection.execute_batch("COMMIT").during(&self.path, "copying records")
    }

    /// Writes a record under a row number; MemPalace lists records by it.
    pub(super) fn put(&self, row: i64, collection: usize, record: &Record) -> Result<(), Error> {
        let number = collection as i64 + 1;
        let (fitted, _) = fit(record);
        let floats = fitted.embedding.as_ref().map(|embedding| embedding.given()).unwrap_or_default();
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        let document = fitted.document.as_deref().unwrap_or_default();
        let put = || {
            let sql = "INSERT INTO documents
                           (rowid, collection_id, id, document, metadata_json, embedding, dim, created_at, updated_at)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)";
            let made = record.created_at.as_deref().and_then(time).unwrap_or_else(now);
            let text = json::text(&fitted.metadata);
            let values = params![row, number, record.id, document, text, bytes, floats.len() as i64, made];
            self.connection.prepare_cached(sql)?.execute(values)?;
            let sql = "INSERT INTO docs_fts (rowid, collection_id, doc_id, document) VALUES (?1, ?2, ?3, ?4)";
            self.connection.prepare_cached(sql)?.execute(params![row, number, record.id, document]).map(drop)
        };
        put().during(&self.path, "copying records")
    }
}

/// A record without what the store has no place for, and what that is.
pub fn fit(record: &Record) -> (Record, Vec<Loss>) {
    let mut fitted = record.clone();
    let loss = |what: String| Loss::Unheld { whose: record.id.clone(), what };
    let mut losses = Vec::new();
    if record.document.is_none() {
        fitted.document = Some(String::new());
        losses.push(loss("that there is no document rather than an empty one".into()));
    }
    losses.extend(json::fit(&mut fitted.metadata, &record.id));
    (fitted, losses)
}

/// A collection without what the store has no place for, and what that is.
pub fn fit_head(head: &Head) -> (Head, Vec<Loss>) {
    let mut fitted = head.clone();
    let mut losses = json::fit(&mut fitted.metadata, &head.name);
    if head.space != Space::Cosine {
        let what = format!("the distance {}: {DATABASE} always measures by cosine", head.space.name());
        losses.push(Loss::Unheld { whose: head.name.clone(), what });
    }
    (fitted, losses)
}

/// `2026-11-25 23:04:49` as MemPalace writes it.
fn time(text: &str) -> Option<String> {
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text).ok()?;
    Some(format!("{}+00:00", time.strftime("%Y-%m-%dT%H:%M:%S")))
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}
