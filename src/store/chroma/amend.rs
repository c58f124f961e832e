//! What is set right in a database before it is read, or before it takes the place of the old one.
//!
//! Nothing is ever amended in a palace: always a copy, in one transaction, and the copy is proved before it replaces
//! anything.

use super::Collection;
use super::apply::Waiting;
use super::error::{During, Error};
use super::format::Format;
use super::{carry, leave, staging};
use rusqlite::{Connection, Transaction, params};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// How a palace's database has to be read. The default reads it as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preparation {
    /// Whether its pages can be left to SQLite.
    pub pages: Pages,
    /// What is set right in a copy before anything is read.
    pub amendments: Vec<Amendment>,
    /// Names of directories beside the palace whose records are taken over, where the palace has not got them.
    pub adopted: Vec<String>,
}

/// Whether SQLite can read a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// It can.
    #[default]
    Sound,
    /// Pages are damaged: everything that can be read of them is gathered into a sound copy first.
    Salvaged,
}

/// One thing that is set right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amendment {
    /// Makes the tables and indexes that are missing.
    Schema,
    /// Takes writes out of the queue that chromadb would fail on for ever.
    SetAside {
        /// Their sequence numbers.
        sequences: Vec<i64>,
    },
    /// Writes down how many floats the vectors of a collection have.
    Dimension {
        /// The collection's UUID.
        collection: String,
        /// The number.
        dimension: i64,
    },
    /// Writes the `_type` into a configuration that chromadb 0.5 and 0.6 cannot read without.
    ConfigType {
        /// The collection's UUID.
        collection: String,
    },
    /// Writes down a segment that a collection has and does not name.
    Segment {
        /// The collection's UUID.
        collection: String,
        /// Whether it holds the vectors, or all else.
        scope: Scope,
        /// The segment's UUID.
        segment: String,
    },
    /// Gives a collection the name it had before it was moved away.
    Rename {
        /// The collection's UUID.
        collection: String,
        /// The name.
        name: String,
    },
    /// Moves the records that only one collection has into another, and ends the first.
    Merge {
        /// The collection that ends.
        from: Donor,
        /// UUID of the one that goes on.
        into: String,
    },
    /// Makes the full-text index anew, from the documents.
    FullText,
    /// Leaves out metadata of no record.
    Unowned {
        /// The table it is in.
        table: String,
        /// How many rows there are of it.
        rows: i64,
    },
    /// Leaves out records that have another one of the same id which was written later.
    Older {
        /// Their rows in `embeddings`.
        rows: Vec<i64>,
    },
    /// Writes down that a collection measures by cosine, as its vectors were stored.
    Cosine {
        /// The collection's UUID.
        collection: String,
        /// Its segment of vectors.
        vector: String,
    },
    /// Leaves out what another version of chromadb has no place for.
    Fit {
        /// Name of that version's format.
        format: String,
    },
    /// Applies the writes that wait, as chromadb would.
    Apply(Vec<Waiting>),
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Ids, metadata and documents.
    Metadata,
    /// Vectors.
    Vector,
}

impl Scope {
    /// Type and scope, as chromadb writes them.
    pub(super) fn names(self) -> [&'static str; 2] {
        match self {
            Scope::Metadata => ["urn:chroma:segment/metadata/sqlite", "METADATA"],
            Scope::Vector => ["urn:chroma:segment/vector/hnsw-local-persisted", "VECTOR"],
        }
    }
}

/// What must be known of a collection that ends, to find its vectors afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Donor {
    /// Its UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its topic in the queue.
    pub topic: String,
    /// Its vector segment.
    pub vector: Option<String>,
    /// Last write applied to its metadata.
    pub metadata_sequence: i64,
    /// Last write persisted in its vector segment.
    pub vector_sequence: Option<i64>,
}

impl From<&Collection> for Donor {
    fn from(collection: &Collection) -> Donor {
        let Collection { id, name, topic, vector, metadata_sequence, vector_sequence, .. } = collection.clone();
        Donor { id, name, topic, vector, metadata_sequence, vector_sequence }
    }
}

impl Donor {
    /// The collection it was, as far as vectors need it; `into` says the rest.
    pub(super) fn as_collection(&self, into: &Collection) -> Collection {
        let Donor { id, name, topic, vector, metadata_sequence, vector_sequence } = self.clone();
        Collection { id, name, topic, vector, metadata_sequence, vector_sequence, ..into.clone() }
    }
}

impl Preparation {
    /// Collections that end in others.
    pub(super) fn merged(&self) -> Vec<(String, Donor)> {
        let merged = self.amendments.iter().filter_map(|amendment| match amendment {
            Amendment::Merge { from, into } => Some((into.clone(), from.clone())),
            _ => None,
        });
        merged.collect()
    }

    /// Whether reading takes a copy.
    pub(super) fn takes_copy(&self) -> bool {
        *self != Preparation::default()
    }
}

/// Carries amendments out, all of them or none.
pub(super) fn amend(
    connection: &mut Connection,
    path: &Path,
    format: &Format,
    amendments: &[Amendment],
) -> Result<(), Error> {
    let mut all = || {
        let transaction = connection.transaction()?;
        amendments.iter().try_for_each(|amendment| amendment.apply(&transaction, format))?;
        transaction.commit()
    };
    if amendments.is_empty() { Ok(()) } else { all().during(path, "amending a copy of it") }
}

impl Amendment {
    fn apply(&self, transaction: &Transaction, format: &Format) -> rusqlite::Result<()> {
        match self {
            Amendment::Schema => make_missing(transaction, format),
            Amendment::SetAside { sequences } => sequences.iter().try_for_each(|sequence| {
                transaction.execute("DELETE FROM embeddings_queue WHERE seq_id = ?1", [sequence]).map(drop)
            }),
            Amendment::Dimension { collection, dimension } => transaction
                .execute("UPDATE collections SET dimension = ?2 WHERE id = ?1", params![collection, dimension])
                .map(drop),
            Amendment::ConfigType { collection } => transaction
                .execute(
                    "UPDATE collections SET config_json_str =
                         json_set(config_json_str, '$._type', 'CollectionConfigurationInternal') WHERE id = ?1",
                    [collection],
                )
                .map(drop),
            Amendment::Segment { collection, scope, segment } => {
                let [kind, scope] = scope.names();
                let sql = "INSERT INTO segments (id, type, scope, collection) VALUES (?1, ?2, ?3, ?4)";
                transaction.execute(sql, [segment, kind, scope, collection]).map(drop)
            }
            Amendment::Rename { collection, name } => {
                transaction.execute("UPDATE collections SET name = ?2 WHERE id = ?1", [collection, name]).map(drop)
            }
            Amendment::Merge { from, into } => merge(transaction, &from.id, into),
            Amendment::FullText => index_anew(transaction, format),
            Amendment::Unowned { table, .. } => leave::unowned(transaction, table),
            Amendment::Older { rows } => leave::older(transaction, rows),
            Amendment::Cosine { collection, vector } => leave::cosine(transaction, collection, vector),
            Amendment::Apply(waiting) => waiting.iter().try_for_each(|one| one.apply(transaction, format)),
            Amendment::Fit { format: name } => {
                Format::named(name).map_or(Ok(()), |to| carry::leave_unheld(transaction, format, to))
            }
        }
    }
}

/// Amendments, as the end of a sentence.
pub(super) fn listed(amendments: &[Amendment]) -> String {
    let words: Vec<String> = amendments.iter().map(Amendment::to_string).collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) }
}

impl fmt::Display for Amendment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amendment::Schema => f.write_str("make missing tables"),
            Amendment::SetAside { sequences } => write!(f, "take {} writes out of the queue", sequences.len()),
            Amendment::Dimension { dimension, .. } => write!(f, "write down that vectors have {dimension} floats"),
            Amendment::ConfigType { .. } => f.write_str("complete a configuration"),
            Amendment::Segment { segment, .. } => write!(f, "write segment {segment} down"),
            Amendment::Rename { name, .. } => write!(f, "give “{name}” its name back"),
            Amendment::Merge { from, .. } => write!(f, "merge “{}” into the collection it was taken from", from.name),
            Amendment::FullText => f.write_str("make the full-text index anew"),
            Amendment::Unowned { rows, .. } => write!(f, "leave out {rows} rows of no record"),
            Amendment::Older { rows } => write!(f, "leave out {} older copies of records", rows.len()),
            Amendment::Cosine { .. } => f.write_str("write down that distances are cosine"),
            Amendment::Apply(_) => f.write_str("apply the writes that wait"),
            Amendment::Fit { format } => write!(f, "leave out what chromadb {format} cannot hold"),
        }
    }
}

/// A full-text table without its row in the schema leaves its own tables behind; they go first.
fn make_missing(transaction: &Transaction, format: &Format) -> rusqlite::Result<()> {
    let missing: Vec<String> = format.missing(transaction)?.into_iter().map(str::to_owned).collect();
    for name in &missing {
        if name == FULL_TEXT {
            index_anew(transaction, format)?;
        } else if let Some(statement) = format.statement(name) {
            transaction.execute_batch(statement)?;
        }
    }
    Ok(())
}

const FULL_TEXT: &str = "embedding_fulltext_search";

fn index_anew(transaction: &Transaction, format: &Format) -> rusqlite::Result<()> {
    transaction.execute_batch(&format!("DROP TABLE IF EXISTS {FULL_TEXT}"))?;
    for part in ["data", "idx", "content", "docsize", "config"] {
        transaction.execute_batch(&format!("DROP TABLE IF EXISTS {FULL_TEXT}_{part}"))?;
    }
    transaction.execute_batch(format.statement(FULL_TEXT).expect("every format has a full-text table"))?;
    staging::index_documents(transaction, [i64::MIN, i64::MAX])
}

/// A record that both have, and that is the same in both, keeps the lower one of its row numbers: that one is as old
/// as the record was before, and chromadb lists records by it.
fn keep_rows(transaction: &Transaction, source: &str, target: &str) -> rusqlite::Result<()> {
    let has_arrays = !super::catalog::columns(transaction, "main", "embedding_metadata_array")?.is_empty();
    let values = "string_value, int_value, float_value, bool_value";
    let scalars = |id: &str| format!("SELECT key, {values} FROM embedding_metadata WHERE id = {id}");
    let arrays = |id: &str| {
        format!(
            "SELECT key, row_number() OVER (PARTITION BY key ORDER BY rowid), {values}
             FROM embedding_metadata_array WHERE id = {id}"
        )
    };
    let is_same = |of: &dyn Fn(&str) -> String| {
        let (old, new) = (of("o.id"), of("n.id"));
        format!("NOT EXISTS ({old} EXCEPT {new}) AND NOT EXISTS ({new} EXCEPT {old})")
    };
    let has_same_arrays = if has_arrays { is_same(&arrays) } else { "1".into() };
    transaction.execute(
        &format!(
            "CREATE TEMP TABLE kept AS SELECT o.id AS old, n.id AS new FROM embeddings o JOIN embeddings n
                 ON n.segment_id = ?2 AND n.embedding_id = o.embedding_id
             WHERE o.segment_id = ?1 AND o.id < n.id AND {} AND {has_same_arrays}",
            is_same(&scalars)
        ),
        [source, target],
    )?;
    let array = if has_arrays { "embedding_metadata_array" } else { "embedding_metadata" };
    transaction.execute_batch(&format!(
        "DELETE FROM embedding_metadata WHERE id IN (SELECT old FROM temp.kept);
         DELETE FROM {array} WHERE id IN (SELECT old FROM temp.kept);
         DELETE FROM embeddings WHERE id IN (SELECT old FROM temp.kept);
         UPDATE embeddings SET id = (SELECT old FROM temp.kept WHERE new = id) WHERE id IN (SELECT new FROM temp.kept);
         UPDATE embedding_metadata SET id = (SELECT old FROM temp.kept WHERE new = id)
             WHERE id IN (SELECT new FROM temp.kept);
         UPDATE {array} SET id = (SELECT old FROM temp.kept WHERE new = id) WHERE id IN (SELECT new FROM temp.kept);
         DELETE FROM {FULL_TEXT} WHERE rowid IN (SELECT new FROM temp.kept);
         DROP TABLE temp.kept;"
    ))
}

/// Records of `from` that `into` has not, go over; the rest of `from` ends with it.
fn merge(transaction: &Transaction, from: &str, into: &str) -> rusqlite::Result<()> {
    let segment = |collection: &str| {
        let sql = "SELECT id FROM segments WHERE collection = ?1 AND scope = 'METADATA'";
        transaction.query_row(sql, [collection], |row| row.get::<_, String>(0))
    };
    let (source, target) = (segment(from)?, segment(into)?);
    keep_rows(transaction, &source, &target)?;
    transaction.execute("UPDATE OR IGNORE embeddings SET segment_id = ?2 WHERE segment_id = ?1", [&source, &target])?;
    let left = "SELECT id FROM embeddings WHERE segment_id = ?1";
    for (table, key) in [("embedding_metadata", "id"), ("embedding_metadata_array", "id"), (FULL_TEXT, "rowid")] {
        if !super::catalog::columns(transaction, "main", table)?.is_empty() {
            transaction.execute(&format!("DELETE FROM {table} WHERE {key} IN ({left})"), [&source])?;
        }
    }
    transaction.execute("DELETE FROM embeddings WHERE segment_id = ?1", [&source])?;
    for sql in [
        "DELETE FROM max_seq_id WHERE segment_id IN (SELECT id FROM segments WHERE collection = ?1)",
        "DELETE FROM segment_metadata WHERE segment_id IN (SELECT id FROM segments WHERE collection = ?1)",
        "DELETE FROM segments WHERE collection = ?1",
        "DELETE FROM collection_metadata WHERE collection_id = ?1",
        "DELETE FROM collections WHERE id = ?1",
    ] {
        transaction.execute(sql, [from])?;
    }
    Ok(())
}
