//! The versions of chromadb whose databases this program reads and writes.
//!
//! What each carries byte for byte (rule R4 of CHROMA.md) was written by chromadb itself and is kept in
//! `schema/*.json`, which `schema/make.py` generates.

use super::catalog::columns;
use super::error::{During, Error};
use rusqlite::Connection;
use serde::Deserialize;
use std::cmp::Reverse;
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

/// How well the table `migrations` of a database goes with its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Every row is as chromadb wrote it.
    Exact,
    /// Rows are missing or changed; the tables say which format it is.
    Migrations,
}

/// Where a version of chromadb keeps the settings of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingsPlace {
    /// With the segment (0.4 to 0.5.4).
    Segment,
    /// With the segment, and in the configuration, where nobody reads them (to 0.6).
    SegmentAndConfig,
    /// In the configuration (1.0).
    Config,
    /// In the schema (1.3 and later).
    Schema,
}

/// A row of a database's `migrations`: directory, version, hash, statements.
type Row = (String, i64, String, String);

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

    /// The format a database was written in: told by all of its migrations, or where these are damaged, by its tables.
    pub fn detect(connection: &Connection, path: &Path) -> Result<(&'static Format, Fit), Error> {
        let rows = || {
            let mut query =
                connection.prepare("SELECT dir, version, hash, sql FROM migrations ORDER BY dir, version")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            rows.collect::<rusqlite::Result<Vec<Row>>>()
        };
        let found = match rows() {
            Ok(found) => found,
            Err(_) if columns(connection, "main", "migrations").is_ok_and(|columns| columns.is_empty()) => Vec::new(),
            Err(error) => Err(error).during(path, "reading which chromadb wrote it")?,
        };
        let alike = Format::all().iter().filter(|format| format.counts_like(&found));
        if let Some(format) = alike.max_by_key(|format| format.matches(&found)) {
            let fit = format.fit(&found);
            let later = || format.holds_later_things(connection).during(path, "reading its schema");
            if fit == Fit::Migrations || !later()? {
                return Ok((format, fit));
            }
        }
        let by_tables = Format::by_tables(connection, &found).during(path, "reading its schema")?;
        by_tables.filter(|_| !is_newer(&found)).map(|format| (format, format.fit(&found))).ok_or_else(|| {
            Error::UnknownFormat {
                path: path.to_owned(),
                found: count(&found),
                known: Format::all().iter().map(|format| &*format.name).collect::<Vec<_>>().join(", "),
            }
        })
    }

    /// Whether these are as many migrations as this format has, directory by directory.
    fn counts_like(&self, found: &[Row]) -> bool {
        let mut known: Vec<_> = self.migrations.iter().map(|row| (&*row.dir, row.version)).collect();
        known.sort_unstable();
        known.into_iter().eq(found.iter().map(|(dir, version, ..)| (&**dir, *version)))
    }

    /// Migrations among these that are this format's, word for word (rule R4).
    fn matches(&self, found: &[Row]) -> usize {
        let is_known = |(dir, version, hash, sql): &&Row| {
            let mut known = self.migrations.iter().filter(|row| row.dir == *dir && row.version == *version);
            known.any(|row| row.hash == *hash && row.sql == *sql)
        };
        found.iter().filter(is_known).count()
    }

    fn fit(&self, found: &[Row]) -> Fit {
        let is_exact = self.counts_like(found) && self.matches(found) == found.len();
        if is_exact { Fit::Exact } else { Fit::Migrations }
    }

    /// Whether the database has something that only a later chromadb makes: then migrations are missing. A column that
    /// holds nothing of chromadb's says nothing: anybody can add one.
    fn holds_later_things(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let later = Format::all().iter().skip_while(|format| format.name != self.name);
        let is_later = |name: &str| later.clone().any(|format| format.makes(name));
        let mut names = connection.prepare("SELECT name FROM sqlite_master WHERE sql IS NOT NULL")?;
        let names = names.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        if names.iter().any(|name| !self.makes(name) && is_later(name)) {
            return Ok(true);
        }
        let strange = self.strange_columns(connection)?;
        for column in ["config_json_str", "schema_str"] {
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM collections WHERE CASE WHEN json_valid({column})
                    THEN json_type({column}) = 'object' AND json({column}) <> '{{}}' END)"
            );
            if strange.contains(&format!("collections.{column}")) && connection.query_row(&sql, [], |row| row.get(0))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The format that has most of a database's tables, column for column with their types; of several, the one with
    /// most of its migrations, and with fewest that it lacks. None where it has no table of chromadb's.
    fn by_tables(connection: &Connection, found: &[Row]) -> rusqlite::Result<Option<&'static Format>> {
        let mut best = None;
        for format in Format::all() {
            let model = format.model()?;
            let mut same = 0;
            for table in format.immediate().filter_map(made_by) {
                let found = typed_columns(connection, table).unwrap_or_default(); // a broken one is not the same
                same += usize::from(typed_columns(&model, table)? == found);
            }
            let matches = format.matches(found);
            let score = (same, matches, Reverse(format.migrations.len().saturating_sub(matches)));
            if same > 2 && best.is_none_or(|(most, _)| score > most) {
                best = Some((score, format));
            }
        }
        Ok(best.map(|(_, format)| format))
    }

    /// An empty database of this format, in memory.
    pub(super) fn model(&self) -> rusqlite::Result<Connection> {
        let model = Connection::open_in_memory()?;
        self.immediate().try_for_each(|statement| model.execute_batch(statement))?;
        Ok(model)
    }

    /// Whether it has this migration.
    pub(super) fn has_migration(&self, dir: &str, version: i64) -> bool {
        self.migrations.iter().any(|row| row.dir == dir && row.version == version)
    }

    /// Tables and indexes that this format has and the database has not.
    pub(super) fn missing(&self, connection: &Connection) -> rusqlite::Result<Vec<&str>> {
        let mut query = connection.prepare("SELECT count(*) FROM sqlite_master WHERE name = ?1")?;
        let mut missing = Vec::new();
        for name in self.ddl.iter().filter_map(|statement| made_by(statement)) {
            if query.query_row([name], |row| row.get::<_, i64>(0))? == 0 {
                missing.push(name);
            }
        }
        missing.retain(|name| *name != "acquire_write"); // chromadb makes it anew
        Ok(missing)
    }

    /// Whether `max_seq_id` holds integers; 8-byte big-endian blobs otherwise (rule R3).
    pub fn has_integer_sequences(&self) -> bool {
        self.migrations.iter().any(|row| row.dir == "metadb" && row.version == 5)
    }

    /// Whether collections and queue have a configuration (since 0.5).
    pub fn has_configuration(&self) -> bool {
        self.ddl.iter().any(|statement| statement.contains("config_json_str"))
    }

    /// Whether a collection carries its topic, and the pickle of a segment the last write it holds (0.4).
    pub fn has_topics(&self) -> bool {
        self.statement("collections").is_some_and(|statement| statement.contains("topic"))
    }

    /// Where the settings of an index are written down.
    pub(super) fn settings_place(&self) -> SettingsPlace {
        match () {
            () if self.ddl.iter().any(|statement| statement.contains("schema_str")) => SettingsPlace::Schema,
            () if self.has_integer_sequences() => SettingsPlace::Config,
            () if self.has_configuration() => SettingsPlace::SegmentAndConfig,
            () => SettingsPlace::Segment,
        }
    }

    /// Whether an index of this format has to be written anew for another: before 1.0 the pickle is an instance of a
    /// class and knows the number of every record, and in 0.4 the last write as well.
    pub fn rewrites_index_for(&self, other: &Format) -> bool {
        !other.has_integer_sequences() && (self.has_integer_sequences() || (other.has_topics() && !self.has_topics()))
    }

    /// Whether the metadata of a collection can be true or false.
    pub fn has_booleans(&self) -> bool {
        self.statement("collection_metadata").is_some_and(|statement| statement.contains("bool_value"))
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
        let model = self.model()?;
        let mut strange = Vec::new();
        for table in self.immediate().filter_map(made_by) {
            let known = columns(&model, "main", table)?;
            let found = columns(connection, "main", table)?.into_iter().filter(|column| !known.contains(column));
            strange.extend(found.map(|column| format!("{table}.{column}")));
        }
        Ok(strange)
    }

    /// Tables in which a row is gone that every database of this format holds. A table that cannot be read is not among
    /// them.
    pub(super) fn lost_rows(&self, connection: &Connection) -> Vec<&str> {
        let is_lost = |(table, rows): &(&String, &Vec<BTreeMap<String, serde_json::Value>>)| {
            rows.iter().any(|row| {
                let key = if row.contains_key("id") { "id" } else { "name" };
                let value = row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned);
                let sql = format!("SELECT count(*) FROM {table} WHERE CAST({key} AS TEXT) = ?1");
                connection.query_row(&sql, [value], |row| row.get::<_, i64>(0)) == Ok(0)
            })
        };
        let catalogue = self.rows.iter().filter(|(table, _)| ["tenants", "databases"].contains(&table.as_str()));
        catalogue.filter(is_lost).map(|(table, _)| &**table).collect()
    }

    /// The statement that makes the table or index of this name.
    pub(super) fn statement(&self, name: &str) -> Option<&str> {
        self.ddl.iter().map(String::as_str).find(|statement| made_by(statement) == Some(name))
    }

    /// Whether any statement makes the table or index of this name.
    pub fn makes(&self, name: &str) -> bool {
        self.statement(name).is_some()
    }
}

/// The columns of a table, each with the type it was declared with.
fn typed_columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut query = connection.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
    query.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
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

/// Whether a directory holds a migration that no known version has.
fn is_newer(found: &[Row]) -> bool {
    let known = |dir: &str| {
        let all = Format::all().iter().flat_map(|format| &format.migrations);
        all.filter(|row| row.dir == dir).map(|row| row.version).max().unwrap_or(0)
    };
    found.iter().any(|(dir, version, ..)| *version > known(dir))
}

fn count(rows: &[Row]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    rows.iter().for_each(|(dir, ..)| *counts.entry(dir).or_default() += 1);
    counts.iter().map(|(dir, rows)| format!("{dir} {rows}")).collect::<Vec<_>>().join(", ")
}
