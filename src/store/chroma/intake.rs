//! A palace's database made of records that come from elsewhere: another kind of store, or an export.
//!
//! It is no palace that anybody opens. It lets everything that reads a palace read what is about to become one: ids,
//! rows and metadata stand where chromadb has them, and every vector is a write in the queue.

use super::emit::DOCUMENT;
use super::error::{During, Error};
use super::format::Format;
use super::settings::Settings;
use super::{Scope, catalog::topic_of, staging};
use crate::store::record::{Head, Metadata, Record, Value};
use rusqlite::{Connection, OpenFlags, params};
use std::path::{Path, PathBuf};

/// `encoding` of a vector that is normalised already and carries its length behind it; chromadb never sees one.
pub(super) const NORMALISED: &str = "NORMALISED";

/// A database that takes records in.
pub struct Intake {
    connection: Connection,
    path: PathBuf,
    collections: Vec<Taken>,
    rows: i64,
}

/// A collection of it.
struct Taken {
    id: String,
    metadata: String,
    topic: String,
    rows: i64,
}

impl Intake {
    /// Makes an empty one; what stands at `path` must not be there.
    pub fn create(path: &Path) -> Result<Intake, Error> {
        let create = || {
            let flags = OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_READ_WRITE;
            let connection = Connection::open_with_flags(path, flags)?;
            super::database::prepare(&connection)?;
            connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;")?;
            for statement in format().immediate() {
                connection.execute_batch(statement)?;
            }
            staging::write_migrations(&connection, format())?;
            staging::write_fixed_rows(&connection, format())?;
            Ok(connection)
        };
        let connection = create().during(path, "making a database to read from")?;
        Ok(Intake { connection, path: path.to_owned(), collections: Vec::new(), rows: 0 })
    }

    /// Takes a collection in, and says under which index its records are expected.
    pub fn collection(&mut self, head: &Head) -> Result<usize, Error> {
        let [id, metadata, vector] = ["collection", "metadata", "vector"].map(|what| uuid_of(what, &head.name));
        let write = || {
            let sql = "INSERT INTO collections (id, name, dimension, database_id, config_json_str, schema_str)
                       VALUES (?1, ?2, ?3, '00000000-0000-0000-0000-000000000000', '{}', ?4)";
            let schema = Settings::from_index(&head.index, head.space).schema().to_string();
            self.connection.execute(sql, params![id, head.name, head.dimension, schema])?;
            for (segment, scope) in [(&metadata, Scope::Metadata), (&vector, Scope::Vector)] {
                let [kind, scope] = scope.names();
                let sql = "INSERT INTO segments (id, type, scope, collection) VALUES (?1, ?2, ?3, ?4)";
                self.connection.execute(sql, params![segment, kind, scope, id])?;
            }
            let sql =
                "INSERT INTO collection_metadata (collection_id, key, str_value, int_value, float_value, bool_value)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let mut insert = self.connection.prepare(sql)?;
            for (key, value) in &head.metadata {
                let [text, int, float, boolean] = columns(value);
                insert.execute(params![id, key, text, int, float, boolean])?;
            }
            Ok(())
        };
        write().during(&self.path, "writing a collection")?;
        self.collections.push(Taken { metadata, topic: topic_of(&id), id, rows: 0 });
        Ok(self.collections.len() - 1)
    }

    /// Says how many floats a collection's vectors have, once that is known.
    pub fn dimension(&mut self, collection: usize, dimension: Option<i64>) -> Result<(), Error> {
        let id = &self.collections[collection].id;
        let set =
            self.connection.execute("UPDATE collections SET dimension = ?2 WHERE id = ?1", params![id, dimension]);
        set.during(&self.path, "writing a collection").map(drop)
    }

    /// Takes a record in. Its vector is taken as it is: where it is normalised, it stays as it is.
    pub fn record(&mut self, collection: usize, record: &Record) -> Result<(), Error> {
        self.rows += 1;
        let row = self.rows;
        let taken = &mut self.collections[collection];
        taken.rows = row;
        let write = || {
            let sql = "INSERT INTO embeddings (id, segment_id, embedding_id, seq_id, created_at)
                       VALUES (?1, ?2, ?3, ?1, coalesce(?4, CURRENT_TIMESTAMP))";
            let mut insert = self.connection.prepare_cached(sql)?;
            insert.execute(params![row, taken.metadata, record.id, record.created_at])?;
            if let Some(document) = &record.document {
                write_value(&self.connection, row, DOCUMENT, &Value::Text(document.clone()))?;
            }
            write_metadata(&self.connection, row, &record.metadata)?;
            if let Some(embedding) = &record.embedding {
                let floats = embedding.floats.iter().chain([&embedding.length]);
                let bytes: Vec<u8> = floats.flat_map(|float| float.to_le_bytes()).collect();
                let sql = "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding)
                           VALUES (?1, 0, ?2, ?3, ?4, ?5)";
                let mut insert = self.connection.prepare_cached(sql)?;
                insert.execute(params![row, taken.topic, record.id, bytes, NORMALISED])?;
            }
            Ok(())
        };
        write().during(&self.path, "writing a record")
    }

    /// Ends it: from here on it is read.
    pub fn finish(self) -> Result<(), Error> {
        let finish = || {
            for taken in self.collections.iter().filter(|one| one.rows > 0) {
                let sql = "INSERT INTO max_seq_id (segment_id, seq_id) VALUES (?1, ?2)";
                self.connection.execute(sql, params![taken.metadata, taken.rows])?;
            }
            for statement in format().deferred() {
                self.connection.execute_batch(statement)?;
            }
            self.connection.execute_batch("COMMIT")
        };
        finish().during(&self.path, "making a database to read from")
    }
}

/// The newest: it holds whatever any other one holds.
fn format() -> &'static Format {
    Format::all().last().expect("there is one")
}

/// The same name gives the same UUID, so that a database that is made twice is the same twice.
fn uuid_of(what: &str, name: &str) -> String {
    let hash = blake3::hash(format!("{what}\0{name}").as_bytes());
    let bytes = hash.as_bytes().first_chunk::<16>().expect("a hash is longer");
    uuid::Builder::from_random_bytes(*bytes).into_uuid().to_string()
}

fn write_metadata(connection: &Connection, row: i64, metadata: &Metadata) -> rusqlite::Result<()> {
    metadata.iter().try_for_each(|(key, value)| write_value(connection, row, key, value))
}

pub(super) fn write_value(connection: &Connection, row: i64, key: &str, value: &Value) -> rusqlite::Result<()> {
    let (table, values) = match value {
        Value::List(values) => ("embedding_metadata_array", values.as_slice()),
        value => ("embedding_metadata", std::slice::from_ref(value)),
    };
    let sql = format!(
        "INSERT INTO {table} (id, key, string_value, int_value, float_value, bool_value)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
    );
    let mut insert = connection.prepare_cached(&sql)?;
    for value in values {
        let [text, int, float, boolean] = columns(value);
        insert.execute(params![row, key, text, int, float, boolean])?;
    }
    Ok(())
}

/// A value in four typed columns.
fn columns(value: &Value) -> [rusqlite::types::Value; 4] {
    use rusqlite::types::Value as Sql;
    let null = || Sql::Null;
    match value {
        Value::Text(text) => [Sql::Text(text.clone()), null(), null(), null()],
        Value::Int(number) => [null(), Sql::Integer(*number), null(), null()],
        Value::Float(number) => [null(), null(), Sql::Real(*number), null()],
        Value::Bool(value) => [null(), null(), null(), Sql::Integer((*value).into())],
        Value::List(_) => [null(), null(), null(), null()], // lists are written element by element
    }
}
