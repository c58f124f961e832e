//! Whether a segment holds the writes that its number claims.
//!
//! A number that is too high hides writes that wait in the queue; one that is too low does no harm, since applying a
//! write twice, and all that came after it, leads to the same. So where the pickle contradicts the number, everything
//! that the queue still has is applied again.

use super::{Collection, Source, pickle};
use rusqlite::params;
use std::collections::HashMap;

/// The last write that the files of a segment can be said to hold, given the number that `max_seq_id` claims.
pub(super) fn proved(source: &Source, collection: &Collection) -> rusqlite::Result<Option<i64>> {
    let Some((claimed, directory)) = collection.vector_sequence.zip(collection.segment_directory(source)) else {
        return Ok(collection.vector_sequence);
    };
    let sql = "SELECT count(*), coalesce(min(seq_id), 0) FROM embeddings_queue WHERE topic = ?1 AND seq_id <= ?2";
    let range = params![collection.topic, claimed];
    let (rows, first): (i64, i64) = source.connection.query_row(sql, range, |row| Ok((row.get(0)?, row.get(1)?)))?;
    if rows < 2 {
        return Ok(Some(claimed)); // chromadb keeps the row of the number itself, and no other one is done
    }
    let mut last = last_writes(source, collection, claimed)?;
    let mut is_contradicted = false;
    let read = pickle::read(source.disk, &directory.join("index_metadata.pickle"), &mut |pair| {
        if let pickle::Pair::IdToLabel(id, _) = pair {
            is_contradicted |= last.remove(id) == Some(Last::Deleted);
        }
        Ok(())
    });
    is_contradicted |= last.values().any(|last| *last == Last::Written);
    Ok(Some(if read.is_ok() && is_contradicted { first - 1 } else { claimed }))
}

/// What the last write to a record made of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Written,
    Deleted,
}

/// The last write to each record, where the record is as that write left it: one that is lost says nothing about the
/// segment.
fn last_writes(source: &Source, collection: &Collection, claimed: i64) -> rusqlite::Result<HashMap<Vec<u8>, Last>> {
    let sql = "SELECT id, operation FROM (
                   SELECT id, operation, max(seq_id) FROM embeddings_queue WHERE topic = ?1 AND seq_id <= ?2
                       AND (operation = 3 OR operation IN (0, 2) AND typeof(vector) = 'blob' AND length(vector) > 0
                            AND (?3 IS NULL OR length(vector) = 4 * ?3))
                   GROUP BY id) AS last
               WHERE (operation <> 3)
                   = EXISTS (SELECT 1 FROM embeddings WHERE segment_id = ?4 AND embedding_id = last.id)";
    let mut query = source.connection.prepare(sql)?;
    let range = params![collection.topic, claimed, collection.dimension, collection.metadata];
    let rows = query.query_map(range, |row| {
        let id: super::text::Text = row.get(0)?;
        Ok((id.0, if row.get::<_, i64>(1)? == 3 { Last::Deleted } else { Last::Written }))
    })?;
    rows.collect()
}
