//! The full-text index: whether it agrees with itself, and with the documents.

use super::Depth;
use super::code::{Code, Remedy};
use super::finding::Finding;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::{Amendment, Preparation, Source, catalog, database};
use crate::store::scratch::Room;
use rusqlite::{Connection, OpenFlags};

const TABLE: &str = "embedding_fulltext_search";
/// The tables it is kept in.
const PARTS: [&str; 5] = ["data", "idx", "content", "docsize", "config"];
const DOCUMENTS: &str = "embedding_metadata WHERE key = 'chroma:document' AND string_value IS NOT NULL";

pub(super) fn check(source: &Source, room: &Room, depth: Depth) -> Result<Vec<Finding>, Error> {
    if catalog::columns(&source.connection, "main", TABLE).unwrap_or_default().is_empty() {
        return Ok(Vec::new()); // the schema has been found wrong already
    }
    // Dropping a table reads its pages.
    let is_sound = |part: &str| verdict(&source.connection, &format!("{TABLE}_{part}")) == Ok("ok".into());
    let is_readable = || PARTS.into_iter().all(is_sound);
    let found = match look(source, room, depth) {
        Err(error) if error.is_damage() && !is_readable() => {
            Some(Finding::new(Code::FulltextDamaged, TABLE, error.to_string()))
        }
        found => found?,
    };
    let Some(finding) = found else { return Ok(Vec::new()) };
    let finding = if is_readable() { finding } else { finding.with_remedy(Remedy::Rebuild) };
    Ok(vec![finding.with_amendment(Amendment::FullText)])
}

fn look(source: &Source, room: &Room, depth: Depth) -> Result<Option<Finding>, Error> {
    let doing = "reading its full-text index";
    if let Some((code, evidence)) = counts(source).during(&source.database, doing)? {
        return Ok(Some(Finding::new(code, TABLE, evidence)));
    }
    if depth != Depth::Deep {
        return Ok(None);
    }
    match differing(source).during(&source.database, doing)? {
        Some(finding) => Ok(Some(finding)),
        None => match damaged(source, room)? {
            Some(finding) => Ok(Some(finding)),
            None => unfindable(source).during(&source.database, doing),
        },
    }
}

/// Rows of the index against records and documents, by number.
fn counts(source: &Source) -> rusqlite::Result<Option<(Code, String)>> {
    let count = |sql: &str| source.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let orphans = format!("FROM {TABLE}_docsize d WHERE NOT EXISTS (SELECT 1 FROM embeddings e WHERE e.id = d.id)");
    let orphaned = count(&format!("SELECT count(*) {orphans}"))?;
    // chromadb 0.4 leaves such rows behind whenever it deletes; they only harm where a new record will get their
    // number.
    let harmful = format!("SELECT count(*) {orphans} AND d.id > (SELECT coalesce(max(id), 0) FROM embeddings)");
    if orphaned > 0 && (source.format.has_configuration() || count(&harmful)? > 0) {
        return Ok(Some((Code::FulltextOrphan, format!("{orphaned} rows of no record"))));
    }
    let indexed = count(&format!("SELECT count(*) FROM {TABLE}_docsize"))? - orphaned;
    // The index over ids and keys is small; the other one holds every document.
    let keys = "embedding_metadata INDEXED BY sqlite_autoindex_embedding_metadata_1 WHERE key = 'chroma:document'";
    if count(&format!("SELECT count(*) FROM {keys}"))? == indexed {
        return Ok(None);
    }
    let documents = count(&format!("SELECT count(*) FROM {DOCUMENTS}"))?;
    let evidence = format!("{documents} documents, {indexed} of them indexed");
    Ok((indexed != documents).then_some((Code::FulltextDiffers, evidence)))
}

/// Documents that the index holds otherwise than the records do.
fn differing(source: &Source) -> rusqlite::Result<Option<Finding>> {
    let sql = format!(
        "SELECT e.embedding_id FROM (SELECT id, string_value FROM {DOCUMENTS}) m
         JOIN embeddings e USING (id) LEFT JOIN {TABLE}_content c USING (id) WHERE c.c0 IS NOT m.string_value"
    );
    let mut query = source.connection.prepare(&sql)?;
    let ids = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let finding = Finding::new(Code::FulltextDiffers, TABLE, "their copies in the index are not the same");
    Ok((!ids.is_empty()).then(|| finding.with_ids(ids)))
}

/// The index against its own content, by SQLite itself. chromadb's SQLite indexes a document up to its first NUL and
/// ours goes on, so where there are such documents a copy is compared whose content ends there too.
fn damaged(source: &Source, room: &Room) -> Result<Option<Finding>, Error> {
    let verdict = verdict(&source.connection, TABLE).during(&source.database, "checking its full-text index")?;
    if verdict == "ok" {
        return Ok(None);
    }
    let with_nul = format!("SELECT count(*) FROM {TABLE}_content WHERE instr(c0, char(0)) > 0");
    let with_nul = source.connection.query_row(&with_nul, [], |row| row.get::<_, i64>(0));
    if with_nul.during(&source.database, "reading its full-text index")? > 0 && is_sound_up_to_nul(source, room)? {
        return Ok(None);
    }
    Ok(Some(Finding::new(Code::FulltextDamaged, TABLE, verdict)))
}

/// Documents that a search for their own first letters does not find: SQLite's own check passes over an index that
/// knows no words at all. Some of the first and of the last are asked for.
fn unfindable(source: &Source) -> rusqlite::Result<Option<Finding>> {
    let sample = format!(
        "SELECT id, substr(string_value, 1, 3) FROM {DOCUMENTS} AND substr(string_value, 1, 3) GLOB '[ -~][ -~][ -~]'"
    );
    let sql = format!(
        "SELECT * FROM (SELECT * FROM ({sample}) ORDER BY id LIMIT 20)
         UNION SELECT * FROM (SELECT * FROM ({sample}) ORDER BY id DESC LIMIT 20)"
    );
    let mut query = source.connection.prepare(&sql)?;
    let documents = query.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let documents = documents.collect::<rusqlite::Result<Vec<_>>>()?;
    let sql = format!("SELECT count(*) FROM {TABLE} WHERE {TABLE} MATCH ?1 AND rowid = ?2");
    let mut search = source.connection.prepare(&sql)?;
    let mut unfound = 0;
    for (rowid, letters) in &documents {
        let phrase = format!("\"{}\"", letters.replace('"', "\"\""));
        let found: i64 = search.query_row(rusqlite::params![phrase, rowid], |row| row.get(0))?;
        unfound += u64::from(found == 0);
    }
    let evidence = format!("{unfound} of {} documents are not found by their own text", documents.len());
    Ok((unfound > 0).then(|| Finding::new(Code::FulltextDamaged, TABLE, evidence).with_count(unfound)))
}

fn verdict(connection: &Connection, table: &str) -> rusqlite::Result<String> {
    connection.query_row(&format!("PRAGMA quick_check({table})"), [], |row| row.get(0))
}

fn is_sound_up_to_nul(source: &Source, room: &Room) -> Result<bool, Error> {
    let (_directory, path, _) = database::scratch_copy(&source.database, room, &Preparation::default())?;
    let check = || {
        let copy = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        database::prepare(&copy)?;
        copy.execute_batch(&format!(
            "PRAGMA synchronous=OFF;
             UPDATE {TABLE}_content SET c0 = substr(c0, 1, instr(c0, char(0)) - 1) WHERE instr(c0, char(0)) > 0"
        ))?;
        verdict(&copy, TABLE)
    };
    Ok(check().during(&path, "checking a copy of its full-text index")? == "ok")
}
