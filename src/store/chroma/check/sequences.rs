//! Sequence numbers and the queue: which writes are done, which wait, and which will get lost.

use super::code::Code;
use super::finding::Finding;
use crate::store::chroma::catalog::{Stored, highest_queued, persisted, stored_sequence, unpoison};
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::{Amendment, Collection, Source, pickle};
use rusqlite::params;

/// Writes in the queue that nobody needs any more, from which on they are worth a word.
const UNPURGED_MAX: i64 = 200;

pub(super) fn check(source: &Source, collections: &[Collection]) -> Result<Vec<Finding>, Error> {
    let look = || {
        let mut findings = Vec::new();
        let mut highest = 0;
        for collection in collections {
            let persisted = persisted_by_files(source, collection);
            highest = highest.max(collection.metadata_sequence).max(persisted);
            findings.extend(stored(source, collection)?);
            findings.extend(pending(source, collection)?);
            findings.extend(poison(source, collection, persisted)?);
            findings.extend(unpurged(source, collection, persisted)?);
        }
        let queued = highest_queued(&source.connection)?;
        if highest > queued {
            let evidence = format!("write {highest} is done, and the queue ends at {queued}");
            findings.push(Finding::new(Code::WritesVanish, "embeddings_queue", evidence));
        }
        Ok(findings)
    };
    look().during(&source.database, "reading its sequence numbers")
}

/// The last write that the files of a segment hold; what a pickle says is only asked for where the database says
/// nothing.
fn persisted_by_files(source: &Source, collection: &Collection) -> i64 {
    let summary = || {
        let pickle = collection.segment_directory(source)?.join("index_metadata.pickle");
        pickle::read(source.disk, &pickle, &mut |_| Ok(())).ok()
    };
    persisted(collection, if collection.vector_sequence.is_none() { summary() } else { None }.as_ref())
}

/// The two numbers of a collection, as they are written down.
fn stored(source: &Source, collection: &Collection) -> rusqlite::Result<Vec<Finding>> {
    let segments = [
        ("METADATA", &collection.metadata, collection.metadata_sequence),
        ("VECTOR", &collection.vector, collection.vector_sequence.unwrap_or(0)),
    ];
    let mut findings = Vec::new();
    for (scope, segment, taken_for) in segments {
        let stored = stored_sequence(source, segment.as_deref())?;
        let value = match stored {
            Stored::Absent => continue,
            Stored::Integer(value) | Stored::Bytes(value) => value,
            Stored::Strange => {
                let evidence = format!("{scope}: taken for {taken_for}");
                findings.push(Finding::new(Code::SequenceUnreadable, &*collection.name, evidence));
                continue;
            }
        };
        let fits = matches!(stored, Stored::Integer(_)) == source.format.has_integer_sequences();
        let code = match unpoison(value) {
            number if number != value => Code::SequencePoisoned,
            number if number < 0 => Code::SequenceUnreadable,
            number if number != taken_for => Code::SequenceAhead,
            _ if !fits => Code::SequenceType,
            _ => continue,
        };
        let kind = if matches!(stored, Stored::Integer(_)) { "integer" } else { "8 bytes" };
        let evidence = format!("{scope}: {kind}, {value}; taken for {taken_for}");
        findings.push(Finding::new(code, &*collection.name, evidence));
    }
    Ok(findings)
}

fn pending(source: &Source, collection: &Collection) -> rusqlite::Result<Option<Finding>> {
    let sql = "SELECT count(*), min(seq_id), max(seq_id) FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2";
    let range = params![collection.topic, collection.metadata_sequence];
    source.connection.query_row(sql, range, |row| {
        let count: i64 = row.get(0)?;
        if count == 0 {
            return Ok(None);
        }
        let evidence = format!("numbers {} to {}", row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
        Ok(Some(Finding::new(Code::QueuePending, &*collection.name, evidence).with_count(count as u64)))
    })
}

/// Writes that chromadb has yet to read and cannot: of no known kind, with a vector of another length, with an encoding
/// or metadata that are none.
fn poison(source: &Source, collection: &Collection, persisted: i64) -> rusqlite::Result<Option<Finding>> {
    let sql = "SELECT seq_id, CAST(id AS TEXT) FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2 AND (
                   operation NOT IN (0, 1, 2, 3)
                   OR (vector IS NOT NULL AND (typeof(vector) <> 'blob' OR length(vector) <> 4 * ?3
                                               OR encoding IS NULL OR encoding <> 'FLOAT32'))
                   OR (operation IN (0, 2) AND vector IS NULL)
                   OR (?4 AND strftime('%s', created_at) IS NULL)
                   OR CASE WHEN metadata IS NULL THEN 0 WHEN NOT json_valid(metadata, ?5) THEN 1
                      ELSE json_type(metadata) <> 'object' OR EXISTS (
                          SELECT 1 FROM json_tree(metadata) WHERE parent IS NOT NULL AND type = 'object'
                              OR fullkey = '$.\"chroma:document\"' AND type NOT IN ('text', 'null')) END)
               ORDER BY seq_id";
    let is_rust = source.format.has_integer_sequences();
    // Python wrote numbers that are none as NaN, which only the wider grammar knows.
    let grammar = if is_rust { 1 } else { 2 };
    let Some(dimension) = collection.dimension else { return Ok(None) };
    let mut query = source.connection.prepare(sql)?;
    let behind = persisted.min(collection.metadata_sequence);
    let range = params![collection.topic, behind, dimension, is_rust, grammar];
    let rows = query.query_map(range, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Ok(None);
    }
    let (sequences, ids): (Vec<i64>, Vec<String>) = rows.into_iter().unzip();
    let evidence = format!("numbers {}", sequences.iter().map(i64::to_string).collect::<Vec<_>>().join(", "));
    let finding = Finding::new(Code::QueuePoison, &*collection.name, evidence).with_ids(ids);
    Ok(Some(finding.with_amendment(Amendment::SetAside { sequences })))
}

/// chromadb 0.4 never purges, and a palace that says so keeps its queue.
fn unpurged(source: &Source, collection: &Collection, persisted: i64) -> rusqlite::Result<Option<Finding>> {
    if !source.format.has_configuration() {
        return Ok(None);
    }
    let purges = "SELECT coalesce(max(json_extract(config_json_str, '$.automatically_purge')), 0)
                  FROM embeddings_queue_config WHERE json_valid(config_json_str)";
    if source.connection.query_row(purges, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let sql = "SELECT count(*) FROM embeddings_queue WHERE topic = ?1 AND seq_id < ?2";
    let range = params![collection.topic, persisted.min(collection.metadata_sequence)];
    let rows: i64 = source.connection.query_row(sql, range, |row| row.get(0))?;
    let finding = || Finding::new(Code::QueueUnpurged, &*collection.name, format!("{rows} writes"));
    Ok((rows > UNPURGED_MAX).then(|| finding().with_count(rows as u64)))
}
