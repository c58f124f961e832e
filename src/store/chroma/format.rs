//! The versions of chromadb whose databases this program reads and writes.
//!
//! What each carries byte for byte (rule R4 of CHROMA.md) was written by chromadb itself and is kept in
//! `schema/*.json`, which `schema/make.py` generates.

use super::catalog::columns;
use super::error::{During, Error};
use rusqlite::Connection;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

static FORMATS: LazyLock<Vec<Format>> = LazyLock::new(|| {
    [
        include_str!("schema/0.4.24.json"),
        include_str!("schema/0.5.0.json"),
        include_str!("schema/0.5.3.json"),
        include_str!("schema/0.5.5.json"),
        include_str!("schema/0.5.23.json"),
        include_str!("schema/1.0.20.json"),
        include_str!("schema/1.4.1.json"),
        include_str!("schema/1.5.9.json"),
    ]
    .map(|json| serde_json::from_str(json).expect("the schema files were generated and are tested"))
    .into()
});

/// The database of one version of chromadb, or of several that write the same.
#[derive(Debug, Deserialize)]
pub struct Format {
    /// The version that wrote the schema file.
    #[serde(rename = "chromadb")]
    pub name: String,
    /// `CREATE` statements in order, without those that SQLite makes by itself.
    pub ddl: Vec<String>,
    /// Rows of the table `migrations`.
    pub migrations: Vec<Migration>,
    /// Rows that a fresh database of this version holds, by table.
    pub rows: BTreeMap<String, Vec<BTreeMap<String, serde_json::Value>>>,
}

/// A row of the table `migrations`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct Migration {
    /// `sysdb`, `metadb` or `embeddings_queue`.
    pub dir: String,
    /// Number within `dir`.
    pub version: i64,
    /// Name of the file it came from.
    pub filename: String,
    /// The statements it ran.
    pub sql: String,
    /// MD5 of `sql`.
    pub hash: String,
}

impl Format {
    /// All known formats, oldest first.
    pub fn all() -> &'static [Format] {
        &FORMATS
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<&'static Format> {
        Format::all().iter().find(|format| format.name == name)
    }

    /// The format a database was written in, told by all of its migrations.
    pub fn detect(connection: &Connection, path: &Path) -> Result<&'static Format, Error> {
        let rows = || {
            let mut query = connection.prepare("SELECT dir, version, hash FROM migrations ORDER BY dir, version")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, i64, String)>>>()
        };
        let found = rows().during(path, "reading which chromadb wrote it")?;
        let fits = |format: &&Format| {
            let known = format.migrations.iter().map(|row| (&*row.dir, row.version, &*row.hash));
            let mut known: Vec<_> = known.collect();
            known.sort_unstable();
            known.into_iter().eq(found.iter().map(|(dir, version, hash)| (&**dir, *version, &**hash)))
        };
        Format::all().iter().find(fits).ok_or_else(|| Error::UnknownFormat {
            path: path.to_owned(),
            found: count(&found),
            known: Format::all().iter().map(|format| &*format.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether `max_seq_id` holds integers; 8-byte big-endian blobs otherwise (rule R3).
    pub fn has_integer_sequences(&self) -> bool {
        self.migrations.iter().any(|row| row.dir == "metadb" && row.version == 5)
    }

    /// Whether metadata values can be arrays.
    pub fn has_arrays(&self) -> bool {
        self.migrations.iter().any(|row| row.dir == "metadb" && row.version == 6)
    }

    /// Statements that make what rows are written into.
    pub fn immediate(&self) -> impl Iterator<Item = &str> {
        self.ddl.iter().map(String::as_str).filter(|statement| !is_index(statement))
    }

    /// Statements that make indexes which no insert needs: cheaper to build last, by sorting, than row by row. Their
    /// order in the schema does not matter to chromadb.
    pub fn deferred(&self) -> impl Iterator<Item = &str> {
        self.ddl.iter().map(String::as_str).filter(|statement| is_index(statement))
    }

    /// Columns of a database that this format's tables do not have, as `table.column`.
    pub(super) fn strange_columns(&self, connection: &Connection) -> rusqlite::Result<Vec<String>> {
        let model = Connection::open_in_memory()?;
        self.immediate().try_for_each(|statement| model.execute_batch(statement))?;
        let mut strange = Vec::new();
        for table in self.immediate().filter_map(made_by) {
            let known = columns(&model, "main", table)?;
            let found = columns(connection, "main", table)?.into_iter().filter(|column| !known.contains(column));
            strange.extend(found.map(|column| format!("{table}.{column}")));
        }
        Ok(strange)
    }

    /// Whether any statement makes the table or index of this name.
    pub fn makes(&self, name: &str) -> bool {
        self.ddl.iter().any(|statement| made_by(statement) == Some(name))
    }
}

/// The name in a `CREATE TABLE` or `CREATE INDEX`.
fn made_by(statement: &str) -> Option<&str> {
    let words = statement.split(|c: char| c.is_whitespace() || matches!(c, '(' | '"' | '\'' | '`'));
    let mut words = words.filter(|word| !word.is_empty());
    words.find(|word| word.eq_ignore_ascii_case("table") || word.eq_ignore_ascii_case("index"))?;
    words.find(|word| !["if", "not", "exists"].iter().any(|noise| word.eq_ignore_ascii_case(noise)))
}

fn is_index(statement: &str) -> bool {
    statement.starts_with("CREATE INDEX")
}

fn count(rows: &[(String, i64, String)]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    rows.iter().for_each(|(dir, ..)| *counts.entry(dir).or_default() += 1);
    counts.iter().map(|(dir, rows)| format!("{dir} {rows}")).collect::<Vec<_>>().join(", ")
}
