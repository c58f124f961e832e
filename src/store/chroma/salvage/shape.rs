//! The tables of a format, and how to tell whose row a row is.

use crate::store::chroma::format::Format;
use crate::store::sqlite::Value;
use std::collections::BTreeMap;
use std::ops::Index;

/// The full-text copy of the documents, which SQLite makes by itself.
pub(super) const CONTENT: &str = "embedding_fulltext_search_content";
/// What the configuration of the queue calls itself.
const QUEUE_CONFIG: &str = "\"EmbeddingsQueueConfigurationInternal\"";
/// Later versions have added as many columns to a table; rows from before do without them.
const ADDED_MAX: usize = 3;

/// All tables that are salvaged, by name.
pub(super) struct Shapes(BTreeMap<String, Shape>);

/// A table.
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
}

/// A column.
pub(super) struct Column {
    pub(super) name: String,
    kind: Kind,
    is_required: bool,
}

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The row's number under another name: stored as nothing.
    Alias,
    Integer,
    Real,
    Text,
    /// A time, which SQLite stores as it came.
    Time,
    Blob,
    Any,
}

impl Shapes {
    pub(super) fn of(format: &Format) -> rusqlite::Result<Shapes> {
        let model = format.model()?;
        let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite_%'
                   AND (name NOT LIKE 'embedding_fulltext_search%' OR name = ?1) AND name <> 'acquire_write'";
        let mut query = model.prepare(sql)?;
        let names = query.query_map([CONTENT], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        let mut shapes = BTreeMap::new();
        for name in names {
            let mut query = model.prepare("SELECT name, upper(type), \"notnull\", pk FROM pragma_table_info(?1)")?;
            let columns = query.query_map([&name], |row| {
                let (kind, is_required, key): (String, bool, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
                Ok((key > 0, Column { name: row.get(0)?, kind: Kind::of(&kind), is_required: is_required || key > 0 }))
            })?;
            let mut columns = columns.collect::<rusqlite::Result<Vec<_>>>()?;
            // A key of one column that holds integers is the row's number itself; one of several columns is not.
            let mut keys = columns.iter_mut().filter(|(is_key, _)| *is_key);
            if let (Some((_, column)), None) = (keys.next(), keys.next())
                && column.kind == Kind::Integer
            {
                column.kind = Kind::Alias;
            }
            let mut columns: Vec<Column> = columns.into_iter().map(|(_, column)| column).collect();
            if let (CONTENT, [_, document]) = (&*name, &mut columns[..]) {
                document.kind = Kind::Text; // SQLite declares no types here
            }
            shapes.insert(name.clone(), Shape { name, columns });
        }
        Ok(Shapes(shapes))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Tables that a row could be of.
    pub(super) fn fitting(&self, values: &[Value]) -> Vec<&str> {
        let fitting = self.0.values().filter(|shape| shape.has_types_of(values) && shape.is_plausible(values));
        fitting.map(|shape| &*shape.name).collect()
    }
}

impl Index<&str> for Shapes {
    type Output = Shape;

    fn index(&self, name: &str) -> &Shape {
        &self.0[name]
    }
}

impl Kind {
    fn of(declared: &str) -> Kind {
        match declared {
            "INTEGER" => Kind::Integer,
            "REAL" => Kind::Real,
            "TEXT" => Kind::Text,
            "TIMESTAMP" => Kind::Time,
            "BLOB" => Kind::Blob,
            _ => Kind::Any,
        }
    }

    fn holds(self, value: &Value) -> bool {
        match self {
            Kind::Alias => *value == Value::Null,
            Kind::Integer => matches!(value, Value::Integer(_)),
            Kind::Real => matches!(value, Value::Real(_) | Value::Integer(_)),
            Kind::Text => matches!(value, Value::Text(_)),
            Kind::Time => matches!(value, Value::Text(_) | Value::Integer(_)),
            // Sequence numbers are integers in a column that was made for blobs.
            Kind::Blob => matches!(value, Value::Blob(_) | Value::Integer(_)),
            Kind::Any => true,
        }
    }
}

impl Shape {
    /// Whether a row has the types of this table's columns. A number that is no number is damage of its own, and a row
    /// that has one is still a row.
    pub(super) fn has_types_of(&self, values: &[Value]) -> bool {
        let is_long_enough = values.len() + ADDED_MAX >= self.columns.len() && !values.is_empty();
        let fits = |(column, value): (&Column, &Value)| {
            let is_lax = column.name == "seq_id" && column.kind != Kind::Alias;
            let is_absent = *value == Value::Null && (!column.is_required || column.kind == Kind::Alias);
            is_lax || is_absent || column.kind.holds(value)
        };
        let missing = self.columns.iter().skip(values.len()).any(|column| column.is_required);
        is_long_enough && !missing && values.len() <= self.columns.len() && self.columns.iter().zip(values).all(fits)
    }

    /// Whether a row that belongs to no tree looks like chromadb's own.
    fn is_plausible(&self, values: &[Value]) -> bool {
        let text = |index: usize| match values.get(index) {
            Some(Value::Text(text)) => std::str::from_utf8(text).unwrap_or(""),
            _ => "",
        };
        let is_uuid = |index: usize| uuid::Uuid::parse_str(text(index)).is_ok();
        match self.name.as_str() {
            "migrations" => migration(values).is_some(),
            "embeddings" => is_uuid(1),
            "embedding_metadata" | "embedding_metadata_array" => {
                matches!(values[0], Value::Integer(1..))
                    && values[2..].iter().filter(|one| **one != Value::Null).count() <= 1
            }
            "embeddings_queue" => text(3).starts_with("persistent://"),
            "collections" => is_uuid(0) && !text(1).is_empty() && !text(1).starts_with("urn:"),
            "segments" => is_uuid(0) && text(1).starts_with("urn:"),
            // Not three, as those of `databases`.
            "collection_metadata" | "segment_metadata" => is_uuid(0) && values.len() >= 5,
            "max_seq_id" => is_uuid(0),
            "databases" => is_uuid(0) && values.len() == 3 && !text(1).starts_with("urn:"),
            "tenants" => !text(0).is_empty(),
            "embeddings_queue_config" => text(1).contains(QUEUE_CONFIG),
            CONTENT => !text(1).contains(QUEUE_CONFIG),
            _ => true,
        }
    }
}

/// Directory and version of a row of `migrations`.
pub(super) fn migration(values: &[Value]) -> Option<(String, i64)> {
    let [Value::Text(dir), Value::Integer(version), Value::Text(_), Value::Text(_), Value::Text(_)] = values else {
        return None;
    };
    let dir = std::str::from_utf8(dir).ok()?;
    ["sysdb", "metadb", "embeddings_queue"].contains(&dir).then(|| (dir.to_owned(), *version))
}
