//! What the queue says about vectors: the writes that the files do not hold yet, and those that they should hold.

use super::text::Text;
use super::unsound::Unsound;
use super::{Collection, Source};
use rusqlite::{Connection, params};

/// Tables that the answers go to. In `queued`, a row without a number is a deletion; in `past` too.
pub(super) const TABLES: &str = "
    CREATE TABLE queued (id TEXT PRIMARY KEY, seq_id INTEGER) WITHOUT ROWID;
    CREATE TABLE past (id TEXT PRIMARY KEY, seq_id INTEGER, is_certain INTEGER NOT NULL) WITHOUT ROWID;";

/// `embeddings_queue.operation` (CHROMA.md §2.1).
enum Operation {
    Add,
    Update,
    Upsert,
    Delete,
    Unknown,
}

impl From<i64> for Operation {
    fn from(code: i64) -> Operation {
        match code {
            0 => Operation::Add,
            1 => Operation::Update,
            2 => Operation::Upsert,
            3 => Operation::Delete,
            _ => Operation::Unknown,
        }
    }
}

/// Applies the queue to what the files hold, up to the last write whose metadata was applied too. What comes after that
/// is pending: chromadb has acknowledged it and applies it at its next read.
pub(super) fn read_queue(
    source: &Source,
    collection: &Collection,
    persisted: i64,
    unsound: &[Unsound],
    index: &Connection,
) -> rusqlite::Result<()> {
    let sql = "SELECT seq_id, operation, id, vector IS NOT NULL FROM embeddings_queue
               WHERE topic = ?1 AND seq_id > ?2 AND seq_id <= ?3 ORDER BY seq_id";
    let mut query = source.connection.prepare(sql)?;
    let mut rows = query.query(params![collection.topic, persisted, collection.metadata_sequence])?;
    let known_sql = "SELECT coalesce((SELECT seq_id IS NOT NULL FROM queued WHERE id = ?1),
                                     EXISTS (SELECT 1 FROM label WHERE id = ?1))";
    let mut known = index.prepare(known_sql)?;
    let mut set = index.prepare("INSERT OR REPLACE INTO queued VALUES (?1, ?2)")?;
    while let Some(row) = rows.next()? {
        let (sequence, operation, id, has_vector): (i64, i64, Text, bool) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let is_known: bool = known.query_row([&id], |row| row.get(0))?;
        // Where the files cannot be trusted, nobody knows what they knew: the record that is there speaks for them.
        match (Operation::from(operation), is_known || !unsound.is_empty(), has_vector) {
            (Operation::Add, ..) if has_vector && !is_known => drop(set.execute(params![id, sequence])?),
            (Operation::Update, true, true) | (Operation::Upsert, _, true) => {
                set.execute(params![id, sequence])?;
            }
            (Operation::Delete, true, _) => drop(set.execute(params![id, None::<i64>])?),
            _ => {}
        }
    }
    Ok(())
}

/// The last write of a vector to each id among those that the files should hold, as far as the queue still has them. It
/// is certain where it does not depend on what the record was before: chromadb passes over an addition of what is
/// there, and an update of what is not.
pub(super) fn read_past(
    source: &Source,
    collection: &Collection,
    persisted: i64,
    index: &Connection,
) -> rusqlite::Result<()> {
    let is_whole: bool = source.connection.query_row(
        "SELECT coalesce(min(seq_id), 0) = 1 AND count(*) = max(seq_id) FROM embeddings_queue",
        [],
        |row| row.get(0),
    )?;
    let sql = "SELECT seq_id, operation, id FROM embeddings_queue
               WHERE topic = ?1 AND seq_id <= ?2 AND (vector IS NOT NULL OR operation = 3) ORDER BY seq_id";
    let mut query = source.connection.prepare(sql)?;
    let mut rows = query.query(params![collection.topic, persisted])?;
    let mut state = index.prepare(
        "SELECT coalesce((SELECT CASE WHEN NOT is_certain THEN 0 WHEN seq_id IS NULL THEN 1 ELSE 2 END
                          FROM past WHERE id = ?1), 0)",
    )?;
    let mut set = index.prepare("INSERT OR REPLACE INTO past VALUES (?1, ?2, ?3)")?;
    while let Some(row) = rows.next()? {
        let (sequence, operation, id): (i64, i64, Text) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (unclear, gone, there) = (0, 1, 2);
        let before = match state.query_row([&id], |row| row.get::<_, i64>(0))? {
            0 if is_whole => gone,
            before => before,
        };
        match Operation::from(operation) {
            Operation::Add if before == there => continue,
            Operation::Update if before == gone => continue,
            Operation::Add | Operation::Update => set.execute(params![id, sequence, before != unclear])?,
            Operation::Upsert => set.execute(params![id, sequence, true])?,
            Operation::Delete => set.execute(params![id, None::<i64>, true])?,
            Operation::Unknown => continue,
        };
    }
    Ok(())
}

/// A vector as the queue holds it, against what the index made of it.
pub(super) fn is_alike(stored: &[f32], length: f32, original: &[f32], original_length: f32) -> bool {
    // Other machines may sum up in another order; what is damaged differs by more.
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
    stored.len() == original.len()
        && near(length, original_length)
        && stored.iter().zip(original).all(|(a, b)| near(*a, *b))
}
