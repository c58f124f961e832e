//! Rows on free pages: the last resort.
//!
//! What stands on a free page may have been deleted, or be older than what was there last. So a row of one is used only
//! where something sound proves that exactly this row existed and is lost: an entry of an index with its number and
//! key, or the length of the document that the full-text index keeps. Where two rows of free pages differ about one
//! key, or one of them differs from what is sound, none is used.

use super::Salvager;
use super::fill::digits;
use super::found::{FREE_PAGE, INSERT, Place, UPDATE};
use super::shape::CONTENT;
use super::target::Target;
use crate::store::chroma::format::Format;
use crate::store::sqlite::{Kind, Page, Value, Visited, decode};
use std::collections::BTreeSet;
use std::io;

/// What free pages have of that which is missing. `renumbered` names records whose number was another one's before:
/// values under this number may be that one's.
pub(super) const TABLES: &str = "
    CREATE TEMP TABLE free_record (row INTEGER, seq_id, created_at, page INTEGER);
    CREATE INDEX temp.free_record_row ON free_record (row);
    CREATE TEMP TABLE free_value (row INTEGER, id INTEGER, key TEXT, s, i, f, b, page INTEGER);
    CREATE INDEX temp.free_value_key ON free_value (id, key);
    CREATE TEMP TABLE renumbered (row INTEGER PRIMARY KEY);
    CREATE TEMP TABLE measured (id INTEGER PRIMARY KEY, size);";

/// A way to take a row: the statement gets the row's number, the page, and then its values.
pub(super) struct Offer {
    pub(super) sql: &'static str,
    /// Values that are left out, at the beginning.
    pub(super) skipped: usize,
}

const RECORD: Offer = Offer {
    skipped: 1,
    sql: "INSERT INTO temp.free_record (row, page, seq_id, created_at) SELECT ?1, ?2, ?5, ?6 FROM temp.known_record
          WHERE row = ?1 AND segment = ?3 AND id = ?4 AND NOT EXISTS (SELECT 1 FROM main.embeddings WHERE id = ?1)",
};

const RENUMBERED: Offer = Offer {
    skipped: 1,
    sql: "INSERT OR IGNORE INTO temp.renumbered (row) SELECT ?1 WHERE ?2 AND (
              EXISTS (SELECT 1 FROM main.embeddings WHERE id = ?1 AND (segment_id, embedding_id) IS NOT (?3, ?4))
              OR EXISTS (SELECT 1 FROM temp.known_record WHERE row = ?1 AND (segment, id) IS NOT (?3, ?4)))",
};

const VALUE: Offer = Offer {
    skipped: 0,
    sql: "INSERT INTO temp.free_value (row, page, id, key, s, i, f, b) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
          WHERE NOT EXISTS (SELECT 1 FROM main.embedding_metadata WHERE id = ?3 AND key = ?4) AND CASE ?4
              WHEN 'chroma:document' THEN EXISTS (SELECT 1 FROM temp.known_size WHERE id = ?3)
              ELSE EXISTS (SELECT 1 FROM temp.known_key
                           WHERE kind = 'scalar' AND row = ?1 AND id = ?3 AND key = ?4) END",
};

/// The full-text copy of a document, under the number of the record.
const DOCUMENT: Offer = Offer {
    skipped: 1,
    sql: "INSERT INTO temp.free_value (page, id, key, s) SELECT ?2, ?1, 'chroma:document', ?3
          WHERE EXISTS (SELECT 1 FROM temp.known_size WHERE id = ?1) AND NOT EXISTS
              (SELECT 1 FROM main.embedding_metadata WHERE id = ?1 AND key = 'chroma:document')",
};

/// Looks through the free pages for rows that are missing.
pub(super) fn read(salvager: &Salvager, freed: &Visited, target: &mut Target) -> io::Result<()> {
    let is_wanted = ["embeddings", "embedding_metadata"].iter().any(|name| salvager.incomplete.contains_key(*name));
    for number in (2..=salvager.database.pages()).filter(|number| is_wanted && freed.is_taken(*number)) {
        if let Ok(page) = salvager.database.tree_page(number)?
            && page.kind == Kind::TableLeaf
        {
            read_page(salvager, freed, &page, target)?;
        }
    }
    Ok(())
}

fn read_page(salvager: &Salvager, freed: &Visited, page: &Page, target: &mut Target) -> io::Result<()> {
    // What a row goes on on may belong to another one by now.
    let mut may_hold_more = |number: u32| freed.is_taken(number) || !salvager.visited.is_taken(number);
    for cell in (0..page.count()).filter_map(|index| page.cell(index).ok()) {
        let payload = page.payload(salvager.database, &cell, &mut may_hold_more)?;
        let Some(values) = payload.ok().and_then(|payload| decode(&payload)) else { continue };
        let tables = salvager.shapes.fitting(&values);
        let is_document = || values.get(1) == Some(&Value::Text(b"chroma:document".to_vec()));
        let mut offer = |offer: &Offer| target.offer(offer, page.number, cell.rowid, &values);
        match () {
            () if tables.contains(&"embeddings") => {
                offer(&RECORD);
                offer(&RENUMBERED);
            }
            // Only the length of a document tells whether what it goes on on is still its own.
            () if tables.contains(&"embedding_metadata") && (is_document() || !cell.flows_over()) => offer(&VALUE),
            () if tables.contains(&CONTENT) => offer(&DOCUMENT),
            () => {}
        }
    }
    Ok(())
}

/// Where the two below find what they fill gaps with.
pub(super) const NUMBER: Place = Place {
    rank: FREE_PAGE,
    event: UPDATE,
    table: "embeddings",
    source: "(SELECT min(page) FROM free_record f WHERE f.row = new.id)",
};
pub(super) const FOUND: Place = Place {
    rank: FREE_PAGE,
    event: INSERT,
    table: "embedding_metadata",
    source: "(SELECT min(page) FROM free_value c WHERE c.id = new.id AND c.key = new.key)",
};

/// Gives records of which only their index knew the number and the time of their row, where this is no number of a
/// write that their segment has not seen.
pub(super) fn numbers(format: &Format) -> String {
    let kind = if format.has_integer_sequences() { "integer" } else { "blob" };
    let (own, seen) = (digits("f.seq_id"), digits("m.seq_id"));
    format!(
        "UPDATE main.embeddings AS e SET seq_id = f.seq_id, created_at = f.created_at FROM temp.free_record f
         WHERE f.row = e.id AND typeof(f.seq_id) = '{kind}' AND NOT EXISTS
             (SELECT 1 FROM temp.free_record o WHERE o.row = f.row
                  AND (o.seq_id IS NOT f.seq_id OR o.created_at IS NOT f.created_at))
         AND {own} <= (SELECT {seen} FROM main.max_seq_id m WHERE m.segment_id = e.segment_id)"
    )
}

/// Measures the documents as the full-text index does.
pub(super) const MEASURE: &str = "
    CREATE VIRTUAL TABLE temp.measure USING fts5(string_value, tokenize='trigram');
    INSERT OR IGNORE INTO temp.measure (rowid, string_value)
        SELECT id, min(s) FROM temp.free_value WHERE key = 'chroma:document' GROUP BY id ORDER BY id;
    INSERT INTO temp.measured (id, size) SELECT id, sz FROM temp.measure_docsize;
    DROP TABLE temp.measure;";

/// Values whose key is proved and that nothing contradicts. What an index over values says of the row has to be the
/// value; where such an index was read to its end, it says something of every row with a value of its kind.
pub(super) fn values(trusted: &BTreeSet<String>) -> String {
    let agrees = |kind: &str, value: &str| {
        let said = format!(
            "SELECT 1 FROM temp.known_value v WHERE v.kind = 'scalar {kind}' AND v.row = coalesce(k.row, c.row)"
        );
        let silent = match trusted.contains(&format!("embedding_metadata_{kind}_value")) {
            true => format!("AND ({value} IS NULL OR EXISTS ({said}))"),
            false => String::new(),
        };
        format!("AND NOT EXISTS ({said} AND v.value IS NOT {value}) {silent}")
    };
    let all = [agrees("string", "c.s"), agrees("int", "c.i"), agrees("float", "c.f")].concat();
    // An index that was read to its end names every key there was.
    let is_whole = trusted.contains("sqlite_autoindex_embedding_metadata_1");
    let join = if is_whole { "JOIN" } else { "LEFT JOIN" };
    format!(
        "INSERT OR IGNORE INTO main.embedding_metadata
             (rowid, id, key, string_value, int_value, float_value, bool_value)
         SELECT k.row, c.id, c.key, c.s, c.i, c.f, c.b FROM temp.free_value c JOIN main.embeddings e ON e.id = c.id
         {join} temp.known_key k ON k.kind = 'scalar' AND k.id = c.id AND k.key = c.key
         WHERE (k.row IS NULL OR c.row IS NULL OR c.row = k.row)
             AND c.id NOT IN (SELECT row FROM temp.renumbered)
             AND NOT EXISTS (SELECT 1 FROM temp.free_value o WHERE o.id = c.id AND o.key = c.key
                 AND (o.s IS NOT c.s OR o.i IS NOT c.i OR o.f IS NOT c.f OR o.b IS NOT c.b))
             AND (c.key <> 'chroma:document' OR (SELECT size FROM temp.known_size z WHERE z.id = c.id)
                 IS (SELECT size FROM temp.measured z WHERE z.id = c.id))
             {all}
         ORDER BY c.id, c.key"
    )
}
