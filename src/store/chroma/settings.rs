//! How a collection's index is set up, wherever its version of chromadb writes that down.
//!
//! chromadb before 1.0 keeps it in `segment_metadata` (and, from 0.5.5, a copy that says "l2" in the configuration),
//! 1.0 in the configuration, 1.5 in the schema; `collection_metadata` is never the place (CHROMA.md §1.4).

use super::blueprint::NewCollection;
use super::catalog::columns;
use super::error::{During, Error};
use super::format::{Format, SettingsPlace};
use super::{IndexShape, Source, Space};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

/// `schema_str` of a collection as MemPalace has it made, without the name of an embedding function, which chromadb
/// takes for any.
pub(super) const COSINE_SCHEMA: &str = include_str!("schema/cosine.json");

/// What an index is built and searched with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) space: Space,
    /// hnswlib's `M`.
    links: u64,
    /// `ef_construction`.
    candidates: u64,
    ef_search: u64,
    num_threads: u64,
    batch_size: u64,
    sync_threshold: u64,
    resize_factor: f64,
    /// As chromadb 1.x wrote it; older ones write none.
    embedding_function: Option<Value>,
}

impl Default for Settings {
    /// chromadb's own.
    fn default() -> Settings {
        Settings {
            space: Space::L2,
            links: 16,
            candidates: 100,
            ef_search: 100,
            num_threads: 1,
            batch_size: 100,
            sync_threshold: 1000,
            resize_factor: 1.2,
            embedding_function: None,
        }
    }
}

impl Settings {
    /// The settings of a collection, by its UUID and its segment of vectors.
    pub(super) fn of(source: &Source, collection: &str, vector: Option<&str>) -> Result<Settings, Error> {
        let read = || {
            let [config, schema] = texts(source, collection)?;
            let index = &schema["keys"]["#embedding"]["float_list"]["vector_index"]["config"];
            if index["space"].is_string() {
                return Ok(Settings::default().with(&index["hnsw"]).spaced(index));
            }
            let hnsw = &config["vector_index"]["hnsw"];
            let settings = Settings::default().with(hnsw).spaced(hnsw);
            let settings = Settings { embedding_function: function(&config), ..settings };
            // What 1.x finds in the configuration is believed unless it is what it would be without any.
            if hnsw["space"].is_string() && settings.space != Space::L2 {
                return Ok(settings);
            }
            settings.with_old(&source.connection, vector)
        };
        read().during(&source.database, "reading how its indexes are set up")
    }

    /// The settings that stand in an index of a schema, as [`Settings::index`] gives them.
    pub(super) fn from_index(index: &Value, space: Space) -> Settings {
        Settings { space, ..Settings::default().with(&index["hnsw"]).spaced(index) }
    }

    /// As they stand in a schema of chromadb 1.5.
    pub(super) fn index(&self) -> Value {
        let mut index = json!({ "space": self.space.name(), "hnsw": self.hnsw() });
        if let Some(function) = &self.embedding_function {
            index["embedding_function"] = function.clone();
        }
        index
    }

    fn hnsw(&self) -> Value {
        json!({
            "ef_construction": self.candidates,
            "max_neighbors": self.links,
            "ef_search": self.ef_search,
            "num_threads": self.num_threads,
            "batch_size": self.batch_size,
            "sync_threshold": self.sync_threshold,
            "resize_factor": self.resize_factor,
        })
    }

    /// How the graph is built.
    pub(super) fn shape(&self) -> IndexShape {
        IndexShape {
            space: self.space,
            links: self.links.clamp(2, 4096) as usize,
            candidates: self.candidates.clamp(1, 1 << 16) as usize,
        }
    }

    /// The name of an embedding function that is not chromadb's own.
    pub(super) fn foreign_function(&self) -> Option<&str> {
        let function = self.embedding_function.as_ref().filter(|function| function["type"] == "known")?;
        function["name"].as_str().filter(|name| *name != "default")
    }

    fn with(mut self, hnsw: &Value) -> Settings {
        let numbers = [
            ("max_neighbors", &mut self.links),
            ("ef_construction", &mut self.candidates),
            ("ef_search", &mut self.ef_search),
            ("num_threads", &mut self.num_threads),
            ("batch_size", &mut self.batch_size),
            ("sync_threshold", &mut self.sync_threshold),
        ];
        for (key, number) in numbers {
            *number = hnsw[key].as_u64().unwrap_or(*number);
        }
        self.resize_factor = hnsw["resize_factor"].as_f64().unwrap_or(self.resize_factor);
        self
    }

    /// With the distance and the embedding function that stand beside each other in a schema.
    fn spaced(self, index: &Value) -> Settings {
        let space = index["space"].as_str().map_or(self.space, Space::named);
        Settings { space, embedding_function: function(index), ..self }
    }

    fn with_old(mut self, connection: &Connection, vector: Option<&str>) -> rusqlite::Result<Settings> {
        let sql = "SELECT key, coalesce(str_value, int_value, float_value) FROM segment_metadata WHERE segment_id = ?1";
        let mut query = connection.prepare_cached(sql)?;
        let mut rows = query.query([vector])?;
        while let Some(row) = rows.next()? {
            let (key, value): (String, Sql) = (row.get(0)?, row.get(1)?);
            let number = match &value {
                Sql::Integer(number) => u64::try_from(*number).ok(),
                Sql::Text(text) => text.parse().ok(),
                _ => None,
            };
            let field = match (key.as_str(), &value) {
                ("hnsw:space", Sql::Text(space)) => {
                    self.space = Space::named(space);
                    continue;
                }
                ("hnsw:resize_factor", Sql::Real(factor)) => {
                    self.resize_factor = *factor;
                    continue;
                }
                ("hnsw:M", _) => &mut self.links,
                ("hnsw:construction_ef", _) => &mut self.candidates,
                ("hnsw:search_ef", _) => &mut self.ef_search,
                ("hnsw:num_threads", _) => &mut self.num_threads,
                ("hnsw:batch_size", _) => &mut self.batch_size,
                ("hnsw:sync_threshold", _) => &mut self.sync_threshold,
                _ => continue,
            };
            *field = number.unwrap_or(*field);
        }
        Ok(self)
    }

    /// Writes the settings down where a version of chromadb looks for them.
    pub(super) fn write(
        &self,
        connection: &Connection,
        collection: &NewCollection,
        format: &Format,
    ) -> rusqlite::Result<()> {
        let id = &collection.id.new;
        match format.settings_place() {
            SettingsPlace::Segment => {}
            SettingsPlace::SegmentAndConfig => {
                let sql = "UPDATE collections SET config_json_str = ?2 WHERE id = ?1";
                connection.execute(sql, params![id, self.old_config().to_string()])?;
            }
            SettingsPlace::Config => {
                let sql = "UPDATE collections SET config_json_str = ?2 WHERE id = ?1";
                connection.execute(sql, params![id, self.config().to_string()])?;
            }
            SettingsPlace::Schema => {
                let sql = "UPDATE collections SET config_json_str = '{}', schema_str = ?2 WHERE id = ?1";
                connection.execute(sql, params![id, self.schema().to_string()])?;
            }
        }
        let vector = &collection.vector.new;
        connection.execute("DELETE FROM segment_metadata WHERE segment_id = ?1 AND key LIKE 'hnsw:%'", [vector])?;
        match format.settings_place() {
            SettingsPlace::Segment | SettingsPlace::SegmentAndConfig => self.write_old(connection, vector),
            SettingsPlace::Config | SettingsPlace::Schema => Ok(()),
        }
    }

    fn write_old(&self, connection: &Connection, vector: &str) -> rusqlite::Result<()> {
        let mut insert = connection.prepare(
            "INSERT INTO segment_metadata (segment_id, key, str_value, int_value, float_value)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        insert.execute(params![vector, "hnsw:space", self.space.name(), None::<i64>, None::<f64>])?;
        let numbers = [
            ("hnsw:M", self.links),
            ("hnsw:construction_ef", self.candidates),
            ("hnsw:search_ef", self.ef_search),
            ("hnsw:num_threads", self.num_threads),
            ("hnsw:batch_size", self.batch_size),
            ("hnsw:sync_threshold", self.sync_threshold),
        ];
        for (key, number) in numbers {
            insert.execute(params![vector, key, None::<&str>, number as i64, None::<f64>])?;
        }
        let factor = params![vector, "hnsw:resize_factor", None::<&str>, None::<i64>, self.resize_factor];
        insert.execute(factor).map(drop)
    }

    /// As chromadb 0.5 and 0.6 write it.
    fn old_config(&self) -> Value {
        json!({
            "hnsw_configuration": {
                "space": self.space.name(),
                "ef_construction": self.candidates,
                "ef_search": self.ef_search,
                "num_threads": self.num_threads,
                "M": self.links,
                "resize_factor": self.resize_factor,
                // More than the threshold is refused by 0.5 and 0.6, and 1.0 keeps no number at all.
                "batch_size": self.batch_size.min(self.sync_threshold),
                "sync_threshold": self.sync_threshold,
                "_type": "HNSWConfigurationInternal",
            },
            "_type": "CollectionConfigurationInternal",
        })
    }

    /// As chromadb 1.0 writes it.
    fn config(&self) -> Value {
        let mut config = json!({
            "vector_index": { "hnsw": {
                "space": self.space.name(),
                "ef_construction": self.candidates,
                "ef_search": self.ef_search,
                "max_neighbors": self.links,
                "resize_factor": self.resize_factor,
                "sync_threshold": self.sync_threshold,
            } },
        });
        // 1.0 fails on the type "unknown", which 1.5 writes where it knows of none.
        let is_known = |function: &&Value| function["type"] != "unknown";
        if let Some(function) = self.embedding_function.as_ref().filter(is_known) {
            config["embedding_function"] = function.clone();
        }
        config
    }

    /// As chromadb 1.5 writes it; it adds the keys of the metadata by itself.
    pub(super) fn schema(&self) -> Value {
        let mut schema: Value = serde_json::from_str(COSINE_SCHEMA).expect("the schema in this program is JSON");
        for place in ["/defaults", "/keys/#embedding"] {
            let index = schema.pointer_mut(&format!("{place}/float_list/vector_index/config"));
            let index = index.and_then(Value::as_object_mut).into_iter();
            let settings = self.index().as_object().cloned().unwrap_or_default();
            index.for_each(|index| index.extend(settings.clone()));
        }
        schema
    }
}

fn function(beside: &Value) -> Option<Value> {
    beside.get("embedding_function").filter(|function| function.is_object()).cloned()
}

/// Configuration and schema of a collection; null where its version has none, or none that is JSON.
fn texts(source: &Source, collection: &str) -> rusqlite::Result<[Value; 2]> {
    let (known, format) = (columns(&source.connection, "main", "collections")?, source.format);
    let column = |name: &'static str, is_made: bool| {
        if is_made && known.iter().any(|column| column == name) { name } else { "NULL" }
    };
    let config = column("config_json_str", format.has_configuration());
    let schema = column("schema_str", format.settings_place() == SettingsPlace::Schema);
    let sql = format!("SELECT {config}, {schema} FROM collections WHERE id = ?1 LIMIT 1");
    let texts = source
        .connection
        .query_row(&sql, [collection], |row| Ok([row.get::<_, Option<String>>(0)?, row.get(1)?]))
        .optional()?
        .unwrap_or_default();
    Ok(texts.map(|text| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()))
}
