//! Carries rows from one database to another, which may be of another version of chromadb.
//!
//! Rows go over inside SQLite, so every value keeps its type and its bytes. What differs between versions is the type
//! of sequence numbers, a few columns, and where the settings of an index stand.

use super::blueprint::{Blueprint, NewCollection};
use super::catalog::{columns, topic_of};
use super::error::{During, Error};
use super::format::Format;
use super::settings::Settings;
use super::text::Text;
use super::{Collection, Loss, Source};
use rusqlite::{Connection, ToSql, Transaction};

/// Tables that are small, and copied as they are but for the names in them.
const CATALOG: [(&str, &[&str]); 8] = [
    ("tenants", &[]),
    ("databases", &[]),
    ("collections", &["id", "topic"]),
    ("collection_metadata", &["collection_id"]),
    ("segments", &["id", "topic", "collection"]),
    ("segment_metadata", &["segment_id"]),
    ("embeddings_queue_config", &[]),
    ("maintenance_log", &[]),
];

/// Copies the catalogue under its new names.
pub(super) fn copy_catalogue(transaction: &Transaction, from: &Format) -> rusqlite::Result<()> {
    let model = from.model()?;
    CATALOG.iter().try_for_each(|(table, renamed)| copy_table(transaction, &model, table, renamed))
}

/// Copies the rows of a table in their order, as far as both versions have its columns; columns in `renamed` that hold
/// an old name get the new one. A column that the old version, a model of which is given, did not make is not what it
/// is called.
fn copy_table(transaction: &Transaction, model: &Connection, table: &str, renamed: &[&str]) -> rusqlite::Result<()> {
    let (new, known) = (columns(transaction, "main", table)?, columns(model, "main", table)?);
    let mut old = columns(transaction, "source", table)?;
    old.retain(|column| known.contains(column));
    let both: Vec<&str> = new.iter().filter(|column| old.contains(column)).map(String::as_str).collect();
    if both.is_empty() {
        return Ok(()); // one of the versions has no such table
    }
    let value = |column: &&str| match renamed.contains(column) {
        true => format!("coalesce((SELECT new FROM temp.renamed WHERE old = t.{column}), t.{column})"),
        false => format!("t.{column}"),
    };
    let mut values: Vec<String> = both.iter().map(value).collect();
    let mut names = both;
    if new.iter().any(|column| column == "topic") && !old.iter().any(|column| column == "topic") {
        let id = if table == "collections" { "id" } else { "collection" };
        let id = value(&id);
        names.push("topic");
        values.push(format!("'{}' || {id}", topic_of("")));
    }
    // A segment without a collection is nobody's; only 0.4 allows for one.
    let is_whole = |column: &&str| table == "segments" && *column == "collection";
    let only = names.iter().find(|column| is_whole(column) && !new.iter().any(|column| column == "topic"));
    let only = only.map_or(String::new(), |column| format!("WHERE t.{column} IS NOT NULL"));
    let (names, values) = (names.join(", "), values.join(", "));
    let sql =
        format!("INSERT INTO main.{table} ({names}) SELECT {values} FROM source.{table} t {only} ORDER BY t.rowid");
    transaction.execute(&sql, []).map(drop)
}

/// The settings that have to be written down anew, by collection.
pub(super) fn settings<'b>(
    source: &Source,
    blueprint: &'b Blueprint,
    format: &Format,
) -> Result<Vec<(&'b NewCollection, Settings)>, Error> {
    if source.format.settings_place() == format.settings_place() {
        return Ok(Vec::new());
    }
    let read = |new: &'b NewCollection| {
        let old = new.id.old.as_deref().unwrap_or_default();
        Ok((new, Settings::of(source, old, new.vector.old.as_deref())?))
    };
    blueprint.collections.iter().map(read).collect()
}

/// An expression for a sequence number as another version writes it (rule R3): as it is between versions that write the
/// same.
pub(super) fn sequence(value: &str, from: &Format, to: &Format) -> String {
    match (from.has_integer_sequences(), to.has_integer_sequences()) {
        (false, true) => {
            let digit = |place: u32| {
                let digit = format!("(instr('0123456789ABCDEF', substr(hex({value}), {place}, 1)) - 1)");
                format!("({digit} << {})", 4 * (16 - place))
            };
            let number = (1..=16).map(digit).collect::<Vec<_>>().join(" | ");
            format!("CASE WHEN typeof({value}) = 'blob' AND length({value}) = 8 THEN {number} ELSE {value} END")
        }
        (true, false) => {
            format!("CASE typeof({value}) WHEN 'integer' THEN unhex(printf('%016X', {value})) ELSE {value} END")
        }
        _ => value.to_owned(),
    }
}

/// What a palace holds that another version has no place for.
pub fn unheld(source: &Source, format: &Format) -> Result<Vec<Loss>, Error> {
    let connection = &source.connection;
    let mut losses = Vec::new();
    let mut list = |sql: &str, values: &[&dyn ToSql]| {
        let mut query = connection.prepare(sql)?;
        let rows = query.query_map(values, |row| {
            let [whose, what]: [Text; 2] = [row.get(0)?, row.get(1)?];
            Ok(Loss::Unheld { whose: whose.to_string(), what: what.to_string() })
        })?;
        losses.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
        Ok::<_, rusqlite::Error>(())
    };
    let doing = "looking for what the other version cannot hold";
    if source.format.has_arrays() && !format.has_arrays() {
        let arrays = "SELECT e.embedding_id, 'the array ' || m.key FROM embedding_metadata_array m
                      JOIN embeddings e ON e.id = m.id GROUP BY e.id, m.key";
        list(arrays, &[]).during(&source.database, doing)?;
        // Of a write that was applied and is in the queue still, the record has the array as well.
        let waiting = format!("{QUEUED_ARRAYS} AND q.topic = ?1 AND q.seq_id > ?2");
        for one in Collection::all(source)? {
            list(&waiting, &[&one.topic, &one.metadata_sequence]).during(&source.database, doing)?;
        }
    }
    if source.format.has_booleans() && !format.has_booleans() {
        let booleans = "SELECT c.name, 'the setting ' || m.key FROM collection_metadata m
                        JOIN collections c ON c.id = m.collection_id WHERE m.bool_value IS NOT NULL";
        list(booleans, &[]).during(&source.database, doing)?;
    }
    if source.format.has_integer_sequences() && !format.has_integer_sequences() {
        for collection in Collection::all(source)? {
            let settings = Settings::of(source, &collection.id, collection.vector.as_deref())?;
            let what = |name: &str| format!("the name of its embedding function, {name}");
            let loss = |name| Loss::Unheld { whose: collection.name.clone(), what: what(name) };
            losses.extend(settings.foreign_function().map(loss));
        }
    }
    Ok(losses)
}

/// Arrays in the queue.
const QUEUED_ARRAYS: &str = "SELECT DISTINCT q.id, 'the array ' || j.key || ' of a waiting write'
    FROM embeddings_queue q, json_each(q.metadata) j WHERE json_valid(q.metadata) AND j.type = 'array'";

const REMOVE_QUEUED_ARRAY: &str = "UPDATE embeddings_queue SET metadata = json_remove(metadata,
        '$.' || json_quote((SELECT key FROM json_each(metadata) WHERE type = 'array' LIMIT 1)))
    WHERE json_valid(metadata) AND EXISTS (SELECT 1 FROM json_each(metadata) WHERE type = 'array')";

/// Leaves out of a copy what another version has no place for.
pub(super) fn leave_unheld(transaction: &Transaction, from: &Format, to: &Format) -> rusqlite::Result<()> {
    if from.has_arrays() && !to.has_arrays() {
        transaction.execute_batch("DELETE FROM embedding_metadata_array")?;
        // One array of each write at a time: the rest of its text stays as it is.
        let count = format!("SELECT count(*) FROM ({QUEUED_ARRAYS})");
        let mut left: i64 = transaction.query_row(&count, [], |row| row.get(0))?;
        while left > 0 {
            transaction.execute(REMOVE_QUEUED_ARRAY, [])?;
            let before = std::mem::replace(&mut left, transaction.query_row(&count, [], |row| row.get(0))?);
            if left >= before {
                break; // a key that SQLite cannot name in a path; no version of chromadb can write one
            }
        }
    }
    if from.has_booleans() && !to.has_booleans() {
        transaction.execute("DELETE FROM collection_metadata WHERE bool_value IS NOT NULL", [])?;
    }
    Ok(())
}
