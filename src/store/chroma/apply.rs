//! Applies writes that wait in the queue to the rows of a copy, as chromadb would at its next read.
//!
//! Vectors need no applying: the queue is where they are read from (CHROMA.md §2.5). An addition of what is there and
//! an update of what is not do nothing; an update and an upsert change the keys they name, and null takes one away.

use super::intake::write_value;
use super::text::Text;
use super::{Collection, Format, Survey};
use crate::store::record::Value;
use rusqlite::types::Value as Sql;
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

/// A collection with writes that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its topic in the queue.
    pub topic: String,
    /// Its metadata segment.
    pub segment: String,
    /// The last write that was applied.
    pub after: i64,
}

impl Waiting {
    /// The collections of a palace that have any.
    pub fn of(survey: &Survey) -> Vec<Waiting> {
        let waiting = survey.collections.iter().filter(|one| one.totals.pending > 0);
        waiting.filter_map(|one| Waiting::for_writes_to(&one.collection)).collect()
    }

    fn for_writes_to(collection: &Collection) -> Option<Waiting> {
        let Collection { topic, metadata, metadata_sequence, .. } = collection;
        Some(Waiting { topic: topic.clone(), segment: metadata.clone()?, after: *metadata_sequence })
    }

    /// Applies them in their order.
    pub(super) fn apply(&self, transaction: &Transaction, format: &Format) -> rusqlite::Result<()> {
        let sql = "SELECT seq_id, operation, id, metadata FROM embeddings_queue
                   WHERE topic = ?1 AND seq_id > ?2 ORDER BY seq_id";
        let mut query = transaction.prepare(sql)?;
        let mut rows = query.query(params![self.topic, self.after])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let (sequence, operation): (i64, i64) = (row.get(0)?, row.get(1)?);
            let metadata = row.get::<_, Option<Text>>(3)?;
            self.write(transaction, format, operation, &row.get(2)?, metadata, sequence)?;
            last = Some(sequence);
        }
        let Some(last) = last else { return Ok(()) };
        let sql = "INSERT OR REPLACE INTO max_seq_id (segment_id, seq_id) VALUES (?1, ?2)";
        transaction.execute(sql, params![self.segment, number(format, last)]).map(drop)
    }

    fn write(
        &self,
        transaction: &Transaction,
        format: &Format,
        operation: i64,
        id: &Text,
        metadata: Option<Text>,
        sequence: i64,
    ) -> rusqlite::Result<()> {
        let sql = "SELECT id FROM embeddings WHERE segment_id = ?1 AND embedding_id = ?2";
        let found = transaction.query_row(sql, params![self.segment, id], |row| row.get::<_, i64>(0)).optional()?;
        let row = match (operation, found) {
            (0 | 2, None) => {
                let sql = "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?1, ?2, ?3)";
                transaction.execute(sql, params![self.segment, id, number(format, sequence)])?;
                transaction.last_insert_rowid()
            }
            (1 | 2, Some(row)) => row,
            (3, Some(row)) => {
                delete(transaction, format, row, None)?;
                return transaction.execute("DELETE FROM embeddings WHERE id = ?1", [row]).map(drop);
            }
            _ => return Ok(()),
        };
        let changes = metadata.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text.0).ok());
        for (key, value) in changes.iter().filter_map(serde_json::Value::as_object).flatten() {
            delete(transaction, format, row, Some(key))?;
            if let Some(value) = of_json(value) {
                write_value(transaction, row, key, &value)?;
            }
        }
        Ok(())
    }
}

/// A value of metadata as JSON has it; `None` for what metadata cannot be.
pub(crate) fn of_json(value: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match value {
        Json::String(text) => Value::Text(text.clone()),
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None if number.is_f64() => Value::Float(number.as_f64()?),
            None => return None, // more than 63 bits
        },
        Json::Array(values) => {
            let list = values.iter().map(of_json).collect::<Option<Vec<_>>>()?;
            let kind = list.first().map(std::mem::discriminant)?;
            let is_plain = |value: &Value| std::mem::discriminant(value) == kind && !matches!(value, Value::List(_));
            return list.iter().all(is_plain).then_some(Value::List(list));
        }
        Json::Null | Json::Object(_) => return None,
    })
}

fn delete(transaction: &Transaction, format: &Format, row: i64, key: Option<&str>) -> rusqlite::Result<()> {
    let arrays = format.has_arrays().then_some("embedding_metadata_array");
    for table in ["embedding_metadata"].into_iter().chain(arrays) {
        let sql = format!("DELETE FROM {table} WHERE id = ?1 AND (?2 IS NULL OR key = ?2)");
        transaction.prepare_cached(&sql)?.execute(params![row, key])?;
    }
    Ok(())
}

/// A sequence number as the format writes it (rule R3).
pub(super) fn number(format: &Format, sequence: i64) -> Sql {
    match format.has_integer_sequences() {
        true => Sql::Integer(sequence),
        false => Sql::Blob(sequence.to_be_bytes().into()),
    }
}
