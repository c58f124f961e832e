//! Gives the records of a palace away one by one, in the order of their rows, for stores and files of another kind.

use super::error::{During, Error};
use super::records::{self, Head as Row};
use super::settings::Settings;
use super::text::Text;
use super::vectors::Vectors;
use super::{Collection, Loss, Source};
use crate::store::record::{Embedding, Head, Metadata, Record, Value};
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, params};

/// Key of the document among a record's metadata.
pub(super) const DOCUMENT: &str = "chroma:document";

/// A palace that gives its records away.
pub struct Emitter<'d> {
    source: Source<'d>,
    collections: Vec<Collection>,
    vectors: Vec<Vectors>,
}

/// A record that is given away.
pub struct Given {
    /// Its row, which says where it stands in the order.
    pub row: i64,
    /// Index of its collection.
    pub owner: usize,
    /// The record.
    pub record: Record,
    /// What of it is not as it was.
    pub losses: Vec<Loss>,
}

/// Who takes records.
pub type Receiver<'r> = dyn FnMut(Given) -> Result<(), Error> + 'r;

impl<'d> Emitter<'d> {
    /// Finds every collection and every vector.
    pub fn new(source: Source<'d>) -> Result<Emitter<'d>, Error> {
        let collections = Collection::all(&source)?;
        let vectors = collections.iter().map(|one| Vectors::find(&source, one)).collect::<Result<_, _>>()?;
        Ok(Emitter { source, collections, vectors })
    }

    /// What it reads.
    pub fn source(&self) -> &Source<'d> {
        &self.source
    }

    /// The collections, in the order chromadb lists them.
    pub fn heads(&self) -> Result<Vec<Head>, Error> {
        self.collections.iter().map(|collection| self.head(collection)).collect()
    }

    fn head(&self, collection: &Collection) -> Result<Head, Error> {
        let settings = Settings::of(&self.source, &collection.id, collection.vector.as_deref())?;
        let metadata = self.settings_of(collection).during(&self.source.database, "reading its collections")?;
        let (name, dimension, space) = (collection.name.clone(), collection.dimension, settings.space);
        Ok(Head { name, dimension, space, index: settings.index(), metadata })
    }

    fn settings_of(&self, collection: &Collection) -> rusqlite::Result<Metadata> {
        let has_booleans = self.source.format.has_booleans();
        let boolean = if has_booleans { "bool_value" } else { "NULL" };
        let sql = format!(
            "SELECT key, str_value, int_value, float_value, {boolean} FROM collection_metadata
             WHERE collection_id = ?1 ORDER BY key"
        );
        let mut query = self.source.connection.prepare(&sql)?;
        let mut rows = query.query([&collection.id])?;
        let (mut metadata, mut ignored) = (Metadata::new(), true);
        while let Some(row) = rows.next()? {
            if let Some(value) = value(row, &mut ignored)? {
                metadata.insert(row.get::<_, Text>(0)?.to_string(), value);
            }
        }
        Ok(metadata)
    }

    /// Gives away the records of a run of rows, those that belong to no collection left out.
    pub fn run(&self, first: i64, last: i64, receive: &mut Receiver) -> Result<(), Error> {
        let mut after = first.saturating_sub(1);
        loop {
            let rows = records::after(&self.source.connection, after);
            let rows = rows.during(&self.source.database, "reading its records")?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                if row.rowid > last {
                    return Ok(());
                }
                after = row.rowid;
                let is_own = |one: &Collection| one.metadata.as_ref() == Some(&row.segment);
                let Some(owner) = self.collections.iter().position(is_own) else { continue };
                let (record, losses) = self.record(owner, &row)?;
                receive(Given { row: row.rowid, owner, record, losses })?;
            }
        }
    }

    fn record(&self, owner: usize, row: &Row) -> Result<(Record, Vec<Loss>), Error> {
        let vector = self.vectors[owner].get(&self.source, &row.id)?;
        let embedding = vector.map(|vector| Embedding { floats: vector.stored().to_vec(), length: vector.length() });
        let mut is_whole = std::str::from_utf8(&row.id.0).is_ok();
        let read = || -> rusqlite::Result<_> {
            let mut metadata = self.scalars(row.rowid, &mut is_whole)?;
            metadata.extend(self.arrays(row.rowid, &mut is_whole)?);
            let sql = "SELECT CAST(created_at AS TEXT) FROM embeddings WHERE id = ?1";
            let mut query = self.source.connection.prepare_cached(sql)?;
            let created_at = query.query_row([row.rowid], |row| row.get::<_, Option<Text>>(0)).optional()?.flatten();
            Ok((metadata, created_at.map(|text| text.to_string())))
        };
        let (mut metadata, created_at) = { read }().during(&self.source.database, "reading its records")?;
        let document = match metadata.remove(DOCUMENT) {
            Some(Value::Text(document)) => Some(document),
            _ => None,
        };
        let id = row.id.to_string();
        let losses = match is_whole {
            true => Vec::new(),
            false => vec![Loss::Unheld { whose: id.clone(), what: "text that is not UTF-8".into() }],
        };
        Ok((Record { id, document, metadata, embedding, created_at }, losses))
    }

    fn scalars(&self, rowid: i64, is_whole: &mut bool) -> rusqlite::Result<Metadata> {
        let sql = "SELECT key, string_value, int_value, float_value, bool_value FROM embedding_metadata WHERE id = ?1";
        let mut query = self.source.connection.prepare_cached(sql)?;
        let mut rows = query.query([rowid])?;
        let mut metadata = Metadata::new();
        while let Some(row) = rows.next()? {
            if let Some(value) = value(row, is_whole)? {
                metadata.insert(text(row.get_ref(0)?, is_whole), value);
            }
        }
        Ok(metadata)
    }

    fn arrays(&self, rowid: i64, is_whole: &mut bool) -> rusqlite::Result<Metadata> {
        let mut metadata = Metadata::new();
        if !self.source.format.has_arrays() {
            return Ok(metadata);
        }
        let sql = "SELECT key, string_value, int_value, float_value, bool_value FROM embedding_metadata_array
                   WHERE id = ?1 ORDER BY key, rowid";
        let mut query = self.source.connection.prepare_cached(sql)?;
        let mut rows = query.query(params![rowid])?;
        while let Some(row) = rows.next()? {
            let Some(value) = value(row, is_whole)? else { continue };
            let list = metadata.entry(text(row.get_ref(0)?, is_whole)).or_insert_with(|| Value::List(Vec::new()));
            if let Value::List(values) = list {
                values.push(value);
            }
        }
        Ok(metadata)
    }
}

/// The value in four typed columns, in chromadb's order of looking (CHROMA.md §1.6).
fn value(row: &rusqlite::Row, is_whole: &mut bool) -> rusqlite::Result<Option<Value>> {
    let columns = [row.get_ref(1)?, row.get_ref(2)?, row.get_ref(3)?, row.get_ref(4)?];
    Ok(match columns {
        [found @ (ValueRef::Text(_) | ValueRef::Blob(_)), ..] => Some(Value::Text(text(found, is_whole))),
        [_, ValueRef::Integer(number), ..] => Some(Value::Int(number)),
        [_, _, ValueRef::Real(number), _] => Some(Value::Float(number)),
        [_, _, ValueRef::Integer(number), _] => Some(Value::Float(number as f64)),
        [.., ValueRef::Integer(number)] => Some(Value::Bool(number != 0)),
        _ => None,
    })
}

fn text(value: ValueRef, is_whole: &mut bool) -> String {
    let bytes = value.as_bytes().unwrap_or_default();
    *is_whole &= std::str::from_utf8(bytes).is_ok();
    String::from_utf8_lossy(bytes).into_owned()
}
