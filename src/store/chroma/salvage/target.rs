//! The sound database, while it is filled.

use super::fill;
use super::found;
use super::free;
use super::free::Offer;
use super::shape::{CONTENT, Shape};
use super::{Place, Salvaged, bound};
use crate::store::chroma::database::prepare;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::format::Format;
use crate::store::chroma::{Loss, staging};
use crate::store::sqlite::Value;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What indexes and full-text copy say, until it is known whether it is needed.
const KNOWN: &str = "
    CREATE TEMP TABLE known_record (row INTEGER PRIMARY KEY, segment TEXT, id TEXT);
    CREATE TEMP TABLE known_key (kind TEXT, row INTEGER, id INTEGER, key TEXT, PRIMARY KEY (kind, row)) WITHOUT ROWID;
    CREATE TEMP TABLE known_value (kind TEXT, row INTEGER, value, PRIMARY KEY (kind, row)) WITHOUT ROWID;
    CREATE TEMP TABLE known_size (id INTEGER PRIMARY KEY, size);
    CREATE TEMP TABLE known_collection (row INTEGER PRIMARY KEY, id TEXT, name TEXT, database TEXT);
    CREATE TEMP TABLE content (id INTEGER PRIMARY KEY, c0);";

/// The database that is filled.
pub(super) struct Target {
    connection: Connection,
    path: PathBuf,
    /// The first failure of SQLite; nothing is put in after it.
    failed: Option<rusqlite::Error>,
    losses: Vec<Loss>,
    /// Rows of records that have another one of the same id, written later.
    older: Vec<i64>,
    restored: BTreeMap<String, u64>,
    /// Indexes that were read to their end.
    trusted: BTreeSet<String>,
}

impl Target {
    pub(super) fn create(path: &Path, format: &Format) -> Result<Target, Error> {
        let connection = Connection::open(path).during(path, "making a sound copy")?;
        let make = || {
            prepare(&connection)?;
            connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;")?;
            format.immediate().try_for_each(|statement| connection.execute_batch(statement))?;
            connection.execute_batch(KNOWN)?;
            connection.execute_batch(found::TABLES)?;
            connection.execute_batch(free::TABLES)
        };
        make().during(path, "making a sound copy")?;
        let (path, losses, older) = (path.to_owned(), Vec::new(), Vec::new());
        let (restored, trusted) = (BTreeMap::new(), BTreeSet::new());
        Ok(Target { connection, path, failed: None, losses, older, restored, trusted })
    }

    /// Takes a row in; says whether it could. Of two with the same key the first one stays, but of two records the one
    /// that was written last.
    pub(super) fn put(&mut self, shape: &Shape, rowid: i64, values: &[Value], place: Place) -> bool {
        let put = if shape.name == CONTENT {
            let sql = "INSERT OR IGNORE INTO temp.content (id, c0) VALUES (?1, ?2)";
            let insert = self.connection.prepare_cached(sql);
            insert.and_then(|mut insert| insert.execute(params![rowid, values.get(1).map(bound)])).map(|rows| rows > 0)
        } else {
            self.insert(shape, rowid, values)
        };
        let is_taken = matches!(put, Ok(true));
        let noted = put.and_then(|is_taken| match place {
            Place::Orphan(page) if is_taken && fill::is_of_value(&shape.name) => {
                let source = format!("rows of {} from pages that nothing led to", shape.name);
                *self.restored.entry(source).or_default() += 1;
                found::note(&self.connection, &shape.name, rowid, page)
            }
            _ => Ok(()),
        });
        if let Err(error) = noted {
            self.failed.get_or_insert(error);
        }
        is_taken
    }

    fn insert(&mut self, shape: &Shape, rowid: i64, values: &[Value]) -> rusqlite::Result<bool> {
        let columns: Vec<&str> = shape.columns.iter().take(values.len()).map(|column| &*column.name).collect();
        // The column that stands for the row's number is stored as nothing.
        let values: Vec<(&str, &Value)> =
            columns.into_iter().zip(values).filter(|(_, one)| **one != Value::Null).collect();
        let names: String = values.iter().map(|(name, _)| format!(", {name}")).collect();
        let places: String = (2..values.len() + 2).map(|place| format!(", ?{place}")).collect();
        let sql = format!("INSERT OR IGNORE INTO main.{} (rowid{names}) VALUES (?1{places})", shape.name);
        let mut insert = self.connection.prepare_cached(&sql)?;
        insert.raw_bind_parameter(1, rowid)?;
        for (place, (_, value)) in (2..).zip(&values) {
            insert.raw_bind_parameter(place, bound(value))?;
        }
        let is_new = insert.raw_execute()? > 0;
        drop(insert);
        if !is_new && shape.name == "embeddings" {
            let value = |name: &str| values.iter().find(|(column, _)| *column == name).map(|(_, value)| *value);
            if let (Some(segment), Some(id), Some(sequence)) =
                (value("segment_id"), value("embedding_id"), value("seq_id"))
            {
                return self.replace_older(&sql, rowid, [segment, id, sequence], &values);
            }
        }
        Ok(is_new)
    }

    /// Two records of one id: chromadb's index had forgotten one of them.
    fn replace_older(
        &mut self,
        sql: &str,
        rowid: i64,
        [segment, id, sequence]: [&Value; 3],
        values: &[(&str, &Value)],
    ) -> rusqlite::Result<bool> {
        let other = "SELECT id, (typeof(seq_id) = 'integer', seq_id, id) < (typeof(?3) = 'integer', ?3, ?4)
                     FROM main.embeddings WHERE segment_id = ?1 AND embedding_id = ?2";
        let key = params![bound(segment), bound(id), bound(sequence), rowid];
        let other = self.connection.query_row(other, key, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)));
        let Some((other, is_older)) = other.optional()?.filter(|(other, _)| *other != rowid) else { return Ok(false) };
        let text = match id {
            Value::Text(id) => String::from_utf8_lossy(id).into_owned(),
            _ => String::new(),
        };
        let lost = if is_older { other } else { rowid };
        self.losses.push(Loss::Older { rowid: lost, id: Some(text) });
        self.older.push(lost);
        if is_older {
            self.connection.execute("DELETE FROM main.embeddings WHERE id = ?1", [other])?;
            let mut insert = self.connection.prepare_cached(sql)?;
            insert.raw_bind_parameter(1, rowid)?;
            for (place, (_, value)) in (2..).zip(values) {
                insert.raw_bind_parameter(place, bound(value))?;
            }
            insert.raw_execute()?;
        }
        Ok(is_older)
    }

    /// Whether nothing of a palace was found.
    pub(super) fn is_empty(&self) -> bool {
        let sql = "SELECT EXISTS (SELECT 1 FROM main.migrations) OR EXISTS (SELECT 1 FROM main.collections)
                       OR EXISTS (SELECT 1 FROM main.embeddings) OR EXISTS (SELECT 1 FROM main.embeddings_queue)";
        self.connection.query_row(sql, [], |row| row.get::<_, bool>(0)) == Ok(false)
    }

    /// Takes note of what an index says of a table that was not read to its end.
    pub(super) fn know(&mut self, index: &str, values: &[Value]) {
        let Some(sql) = fill::note(index) else { return };
        let note = || {
            let mut note = self.connection.prepare_cached(sql)?;
            if note.parameter_count() != values.len() {
                return Ok(0);
            }
            for (place, value) in (1..).zip(values) {
                note.raw_bind_parameter(place, bound(value))?;
            }
            note.raw_execute()
        };
        if let Err(error) = note() {
            self.failed.get_or_insert(error);
        }
    }

    /// Takes note of a row on a free page, if it is proved that there was such a row and it is missing.
    pub(super) fn offer(&mut self, offer: &Offer, page: u32, rowid: i64, values: &[Value]) {
        let offered = || {
            let mut insert = self.connection.prepare_cached(offer.sql)?;
            insert.raw_bind_parameter(1, rowid)?;
            insert.raw_bind_parameter(2, page)?;
            let values = values.iter().chain(std::iter::repeat(&Value::Null));
            for (place, value) in (3..=insert.parameter_count()).zip(values.skip(offer.skipped)) {
                insert.raw_bind_parameter(place, bound(value))?;
            }
            insert.raw_execute()
        };
        if let Err(error) = offered() {
            self.failed.get_or_insert(error);
        }
    }

    /// Takes note that an index was read to its end: what it does not name did not exist.
    pub(super) fn trust(&mut self, index: &str) {
        self.trusted.insert(index.to_owned());
    }

    /// Whether this row of the metadata is taken.
    pub(super) fn has_metadata_row(&self, rowid: i64) -> bool {
        let sql = "SELECT EXISTS (SELECT 1 FROM main.embedding_metadata WHERE rowid = ?1)";
        self.connection.query_row(sql, [rowid], |row| row.get(0)).unwrap_or(false)
    }

    /// Whose metadata a row is: of the segment or the collection of this name. Where one of both tables is lost, it is
    /// of what is not in the other; where both are, nobody knows.
    pub(super) fn owner_of_metadata(&self, values: &[Value]) -> Option<&'static str> {
        let has = |sql: &str| self.connection.query_row(sql, [bound(&values[0])], |row| row.get(0)).unwrap_or(false);
        let has_other = |table: &str| has(&format!("SELECT count(*) > 0 AND sum(id = ?1) = 0 FROM main.{table}"));
        match () {
            () if has("SELECT EXISTS (SELECT 1 FROM main.segments WHERE id = ?1)") => Some("segment_metadata"),
            () if has("SELECT EXISTS (SELECT 1 FROM main.collections WHERE id = ?1)") => Some("collection_metadata"),
            () if has_other("collections") => Some("segment_metadata"),
            () if has_other("segments") => Some("collection_metadata"),
            () => None,
        }
    }

    /// Fills the gaps, writes what every database of the format holds, and says what is lost.
    pub(super) fn finish(
        mut self,
        incomplete: &BTreeMap<String, Vec<u32>>,
        format: &Format,
    ) -> Result<Salvaged, Error> {
        let path = self.path.clone();
        if let Some(error) = self.failed.take() {
            return Err(error).during(&path, "filling a sound copy");
        }
        let finish = || {
            for rowid in &self.older {
                fill::forget(&self.connection, *rowid, format)?;
            }
            let restored = fill::gaps(&self.connection, incomplete, &self.trusted, format)?;
            let losses = fill::losses(&self.connection, incomplete, &self.trusted, format)?;
            let finds = found::list(&self.connection)?;
            self.connection.execute_batch("DELETE FROM main.migrations")?;
            staging::write_migrations(&self.connection, format)?;
            staging::write_fixed_rows(&self.connection, format)?;
            self.connection.execute_batch("COMMIT")?;
            Ok((restored, losses, finds))
        };
        let finished: rusqlite::Result<_> = finish();
        let (restored, losses, finds) = finished.during(&path, "filling a sound copy")?;
        self.restored.extend(restored);
        self.losses.extend(losses);
        Ok(Salvaged { losses: self.losses, restored: self.restored, finds })
    }
}
