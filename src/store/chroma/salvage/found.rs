//! What was found elsewhere than in its own place, one thing at a time.
//!
//! All of it is noted in the temporary database, which spills to disk; a part that is bounded is handed on.

use super::fill::perhaps_text;
use rusqlite::{Connection, OptionalExtension, params};
use std::fmt;

/// So many things are listed. What is trusted least comes first, and the rest is counted.
pub const LISTED_MAX: usize = 10_000;

/// What was found elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finds {
    /// At most [`LISTED_MAX`] of them.
    pub listed: Vec<Found>,
    /// How many there are beside these.
    pub more: u64,
}

/// A row, or what was lost of it, that did not come from its own place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The table it belongs to.
    pub table: String,
    /// Its number in the table.
    pub row: i64,
    /// The name of the collection, where that is known.
    pub collection: Option<String>,
    /// The id of the record, where it is of one.
    pub id: Option<String>,
    /// The key, where it is a value.
    pub key: Option<String>,
    /// Where it was.
    pub source: FoundIn,
}

/// Where something was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundIn {
    /// On a free page: it may be older than what was lost.
    FreePage(u32),
    /// In a write in the queue, by its number.
    Write(i64),
    /// In the copy of the documents that the full-text index keeps.
    FullText,
    /// In an index of this name.
    Index(String),
    /// In another table, which refers to it.
    Table(String),
    /// On a page that nothing led to.
    Page(u32),
}

impl FoundIn {
    /// The source of a rank, with the number or the name that goes with it.
    fn of(rank: i64, number: i64, name: String) -> FoundIn {
        let page = || u32::try_from(number).unwrap_or(0);
        match rank {
            FREE_PAGE => FoundIn::FreePage(page()),
            WRITE => FoundIn::Write(number),
            FULL_TEXT => FoundIn::FullText,
            INDEX => FoundIn::Index(name),
            TABLE => FoundIn::Table(name),
            _ => FoundIn::Page(page()),
        }
    }
}

impl fmt::Display for FoundIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FoundIn::FreePage(page) => write!(f, "free page {page}"),
            FoundIn::Write(sequence) => write!(f, "write {sequence} in the queue"),
            FoundIn::FullText => write!(f, "full-text copy"),
            FoundIn::Index(name) => write!(f, "index {name}"),
            FoundIn::Table(name) => write!(f, "table {name}"),
            FoundIn::Page(page) => write!(f, "page {page}"),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { table, row, collection, id, key, source } = self;
        match (key, id, collection) {
            (Some(key), Some(id), _) => write!(f, "{key} of {id}")?,
            (_, Some(id), _) => write!(f, "record {id}")?,
            (_, None, Some(_)) if table == "collections" => write!(f, "a collection")?,
            _ => write!(f, "row {row} of {table}")?,
        }
        if let Some(collection) = collection {
            write!(f, " ({collection})")?;
        }
        write!(f, ": from {source}")
    }
}

pub(super) const FREE_PAGE: i64 = 1;
pub(super) const WRITE: i64 = 2;
pub(super) const FULL_TEXT: i64 = 3;
pub(super) const INDEX: i64 = 4;
pub(super) const TABLE: i64 = 5;
pub(super) const PAGE: i64 = 6;

pub(super) const TABLES: &str = "CREATE TEMP TABLE found (rank INTEGER, what, tbl TEXT, row INTEGER);";

/// Takes note of a row on a page that nothing led to.
pub(super) fn note(connection: &Connection, table: &str, row: i64, page: u32) -> rusqlite::Result<()> {
    let sql = "INSERT INTO temp.found (rank, what, tbl, row) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute(params![PAGE, page, table, row]).map(drop)
}

pub(super) const INSERT: &str = "INSERT";
pub(super) const UPDATE: &str = "UPDATE";

/// Where a statement takes what it fills gaps with.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) rank: i64,
    /// What happens to the rows of `table`.
    pub(super) event: &'static str,
    pub(super) table: &'static str,
    /// The page, the write or the name, as an expression over the row that is `new`.
    pub(super) source: &'static str,
}

/// A statement that fills gaps of a table.
pub(super) struct Fill {
    /// What a person is told.
    pub(super) what: &'static str,
    place: Place,
    before: String,
    sql: String,
}

impl Fill {
    pub(super) fn new(what: &'static str, place: Place, sql: String) -> Fill {
        Fill { what, place, before: String::new(), sql }
    }

    /// The same after statements that prepare it.
    pub(super) fn after(self, before: String) -> Fill {
        Fill { before, ..self }
    }

    /// Runs it, and takes note of each row that it made or changed. Returns how many.
    pub(super) fn run(&self, connection: &Connection) -> rusqlite::Result<u64> {
        let Place { rank, event, table, source } = self.place;
        connection.execute_batch(&self.before)?;
        connection.execute_batch(&format!(
            "CREATE TEMP TRIGGER tracing AFTER {event} ON main.{table} BEGIN
                 INSERT INTO found (rank, what, tbl, row) VALUES ({rank}, {source}, '{table}', new.rowid);
             END;"
        ))?;
        let rows = connection.execute(&self.sql, [])?;
        connection.execute_batch("DROP TRIGGER temp.tracing")?;
        Ok(rows as u64)
    }
}

/// Lists what was noted, of the rows that are still there.
pub(super) fn list(connection: &Connection) -> rusqlite::Result<Finds> {
    for table in ["embeddings", "embedding_metadata"] {
        let gone =
            format!("DELETE FROM temp.found WHERE tbl = '{table}' AND row NOT IN (SELECT rowid FROM main.{table})");
        connection.execute(&gone, [])?;
    }
    let count: i64 = connection.query_row("SELECT count(*) FROM temp.found", [], |row| row.get(0))?;
    let sql = "SELECT rank, CAST(what AS INTEGER), CAST(what AS TEXT), tbl, row FROM temp.found
               ORDER BY rank, tbl, row LIMIT ?1";
    let mut query = connection.prepare(sql)?;
    let listed = query.query_map([LISTED_MAX as i64], |row| {
        let (number, name): (Option<i64>, Option<String>) = (row.get(1)?, row.get(2)?);
        let source = FoundIn::of(row.get(0)?, number.unwrap_or_default(), name.unwrap_or_default());
        let found = Found { table: row.get(3)?, row: row.get(4)?, collection: None, id: None, key: None, source };
        named(connection, found)
    })?;
    let listed = listed.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Finds { more: count as u64 - listed.len() as u64, listed })
}

/// The same with what a person calls it.
fn named(connection: &Connection, found: Found) -> rusqlite::Result<Found> {
    let record = "CAST(e.embedding_id AS TEXT), (SELECT CAST(c.name AS TEXT) FROM main.segments s
                      JOIN main.collections c ON c.id = s.collection WHERE s.id = e.segment_id)";
    let sql = match found.table.as_str() {
        "embeddings" => format!("SELECT NULL, {record} FROM main.embeddings e WHERE e.id = ?1"),
        table @ ("embedding_metadata" | "embedding_metadata_array") => format!(
            "SELECT CAST(m.key AS TEXT), {record} FROM main.{table} m LEFT JOIN main.embeddings e ON e.id = m.id
             WHERE m.rowid = ?1"
        ),
        "collections" => "SELECT NULL, NULL, CAST(name AS TEXT) FROM main.collections WHERE rowid = ?1".to_owned(),
        _ => return Ok(found),
    };
    let mut query = connection.prepare_cached(&sql)?;
    let names = query.query_row([found.row], |row| Ok([0, 1, 2].map(|index| perhaps_text(row, index)))).optional()?;
    let [key, id, collection] = names.unwrap_or([Ok(None), Ok(None), Ok(None)]);
    Ok(Found { key: key?, id: id?, collection: collection?, ..found })
}
