//! What an amendment leaves out: rows that are no record's, older copies of one record, writes that cannot be applied.

use super::Loss;
use super::amend::{Amendment, Preparation};
use super::settings::COSINE_SCHEMA;
use rusqlite::Transaction;

impl Preparation {
    /// What reading the store this way leaves out.
    pub fn losses(&self) -> Vec<Loss> {
        let of_one = |amendment: &Amendment| match amendment {
            Amendment::SetAside { sequences } => sequences.iter().map(|sequence| Loss::Write(*sequence)).collect(),
            Amendment::Older { rows } => rows.iter().map(|rowid| Loss::Older { rowid: *rowid, id: None }).collect(),
            Amendment::Unowned { table, rows } => vec![Loss::Unowned { table: table.clone(), rows: *rows }],
            _ => Vec::new(),
        };
        self.amendments.iter().flat_map(of_one).collect()
    }
}

/// Deletes rows of a table of metadata that no record has.
pub(super) fn unowned(transaction: &Transaction, table: &str) -> rusqlite::Result<()> {
    for known in ["embedding_metadata", "embedding_metadata_array"] {
        if known == table {
            let sql = format!("DELETE FROM {known} WHERE id NOT IN (SELECT id FROM embeddings)");
            transaction.execute(&sql, [])?;
        }
    }
    Ok(())
}

/// Deletes records that have another one of the same id which was written later. The index that should have forbidden
/// them does not know of all, and is made anew; SQLite passes over what it lacks only while its schema is writable.
pub(super) fn older(transaction: &Transaction, rows: &[i64]) -> rusqlite::Result<()> {
    transaction.execute_batch("PRAGMA writable_schema=ON")?;
    for rowid in rows {
        for table in ["embedding_metadata", "embedding_metadata_array"] {
            if !super::catalog::columns(transaction, "main", table)?.is_empty() {
                transaction.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [rowid])?;
            }
        }
        transaction.execute("DELETE FROM embeddings WHERE id = ?1", [rowid])?;
    }
    transaction.execute_batch("PRAGMA writable_schema=RESET; REINDEX embeddings")
}

/// Writes down that a collection measures by cosine, where chromadb looks for it: in the schema or the configuration,
/// if they say otherwise; else in the segment's metadata (CHROMA.md §1.4).
pub(super) fn cosine(transaction: &Transaction, collection: &str, vector: &str) -> rusqlite::Result<()> {
    let places = [
        ("schema_str", "$.keys.\"#embedding\".float_list.vector_index.config.space"),
        ("config_json_str", "$.vector_index.hnsw.space"),
    ];
    let columns = super::catalog::columns(transaction, "main", "collections")?;
    for (column, path) in places.into_iter().filter(|(column, _)| columns.iter().any(|known| known == column)) {
        let sql = format!(
            "UPDATE collections SET {column} = json_set({column}, ?2, 'cosine')
             WHERE id = ?1 AND json_valid({column}) AND json_type({column}, ?2) = 'text'"
        );
        if transaction.execute(&sql, [collection, path])? > 0 {
            return Ok(());
        }
    }
    if columns.iter().any(|known| known == "schema_str") {
        // A whole schema is needed where there was one: chromadb writes it for every collection that it makes.
        let sql = "UPDATE collections SET schema_str = ?2 WHERE id = ?1 AND schema_str IS NULL
                       AND coalesce(config_json_str, '{}') = '{}'";
        if transaction.execute(sql, [collection, COSINE_SCHEMA])? > 0 {
            return Ok(());
        }
    }
    let sql =
        "INSERT OR REPLACE INTO segment_metadata (segment_id, key, str_value) VALUES (?1, 'hnsw:space', 'cosine')";
    transaction.execute(sql, [vector]).map(drop)
}
