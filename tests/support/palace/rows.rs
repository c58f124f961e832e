//! The rows of a database as SQLite reads them, the pages that each of them lies on, and a judge of what was salvaged.

use super::no_spawning;
use palacekeeper::store::chroma::Loss;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A row, each value written out with its type, and the pages that it lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) values: Vec<String>,
    pub(crate) pages: BTreeSet<u32>,
}

/// The rows of every table, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rows(pub(crate) BTreeMap<String, Vec<Row>>);

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) missing: usize,
    pub(crate) strange: usize,
}

/// Tables that are written anew whatever the old ones held; `acquire_write` is nothing but a lock.
const ANEW: [&str; 4] = ["migrations", "acquire_write", "maintenance_log", "embeddings_queue_config"];

impl Rows {
    /// Reads a database that is sound.
    pub(crate) fn of(database: &Path) -> Rows {
        let _open = no_spawning();
        let connection = Connection::open(database).expect("a database");
        let bytes = std::fs::read(database).expect("a database");
        let pages = pages_of_rows(&connection, &bytes);
        let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0
                   AND name NOT LIKE 'embedding_fulltext_search%' AND name NOT LIKE 'sqlite_%'";
        let mut names = connection.prepare(sql).expect("a schema");
        let names = names.query_map([], |row| row.get::<_, String>(0)).expect("a schema");
        let read = |name: String| {
            let mut query =
                connection.prepare(&format!("SELECT rowid, * FROM {name} ORDER BY rowid")).expect("a table");
            let columns = query.column_count();
            let rows = query.query_map([], |row| {
                let pages = pages.get(&(name.clone(), row.get(0)?)).cloned().unwrap_or_default();
                let values = (1..columns).map(|column| Ok(written(row.get_ref(column)?)));
                Ok(Row { values: values.collect::<rusqlite::Result<_>>()?, pages })
            });
            let rows = rows.expect("rows").map(|row| row.expect("a row")).collect();
            (name.clone(), rows)
        };
        Rows(names.map(|name| read(name.expect("a name"))).collect())
    }

    pub(crate) fn count(&self, table: &str) -> usize {
        self.0.get(table).map_or(0, Vec::len)
    }

    /// Compares what was salvaged with what there was. Rows on none of the damaged pages must be there, every missing
    /// one must be listed, and at most `altered_max` may be other than they were.
    pub(crate) fn judge(&self, after: &Rows, damaged: &BTreeSet<u32>, losses: &[Loss], altered_max: usize) -> Verdict {
        let ids: BTreeMap<&str, &str> =
            self.0["embeddings"].iter().map(|row| (&*row.values[0], &*row.values[2])).collect();
        let mut verdict = Verdict::default();
        for (table, rows) in self.0.iter().filter(|(table, _)| !ANEW.contains(&table.as_str())) {
            let mut found = after.0.get(table).unwrap_or_else(|| panic!("{table} is gone")).clone();
            let is_hit = |row: &Row| row.pages.iter().any(|page| damaged.contains(page));
            let mut missing = Vec::new();
            for row in rows {
                let exact = found.iter().position(|other| other.values == row.values);
                let same = || found.iter().position(|other| is_hit(row) && is_restored(table, row, other));
                match exact.or_else(same) {
                    Some(place) => drop(found.remove(place)),
                    None => missing.push(row),
                }
            }
            let far: Vec<_> = missing.iter().filter(|row| !is_hit(row)).collect();
            assert!(far.is_empty(), "{table}: on none of the damaged pages: {far:?}");
            assert!(found.len() <= altered_max, "{table}: rows that nobody wrote: {found:?}");
            let silent: Vec<_> = missing.iter().filter(|row| !is_listed(table, row, &ids, losses)).collect();
            assert!(silent.len() <= altered_max, "{table}: not among the losses {losses:?}: {silent:?}");
            verdict.missing += missing.len();
            verdict.strange += found.len();
        }
        verdict
    }

    /// Rows of the records, those of `sqlite3 .recover` counted by what was there before.
    pub(crate) fn known(&self, before: &Rows, table: &str) -> usize {
        let keys = |rows: &Rows| -> BTreeSet<Vec<String>> {
            let key = |row: &Row| match table {
                "embeddings" => vec![row.values[0].clone(), row.values[2].clone()],
                _ => row.values.clone(),
            };
            rows.0.get(table).into_iter().flatten().map(key).collect()
        };
        keys(self).intersection(&keys(before)).count()
    }
}

fn written(value: ValueRef) -> String {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => format!("{value} = {:016x}", value.to_bits()),
        ValueRef::Text(text) => format!("'{}'", text.escape_ascii()),
        ValueRef::Blob(bytes) => format!("x'{}'", bytes.escape_ascii()),
    }
}

/// Whether a row was made of what an index says of it.
fn is_restored(table: &str, row: &Row, other: &Row) -> bool {
    match table {
        "embeddings" => {
            let is_unnumbered = ["0", "x'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'"].contains(&&*other.values[3]);
            row.values[..3] == other.values[..3] && is_unnumbered && other.values[4].starts_with("'1970-01-01")
        }
        "collections" => {
            let placeholder = format!("'recovered-{}'", &row.values[0][1..9]);
            row.values[0] == other.values[0] && [&row.values[1], &placeholder].contains(&&other.values[1])
        }
        // The queue holds numbers as text, and its client has not always read them to the last bit.
        "embedding_metadata" => {
            let bits = |row: &Row| u64::from_str_radix(row.values[4].rsplit(' ').next()?, 16).ok();
            let is_close = bits(row).zip(bits(other)).is_some_and(|(one, two)| one.abs_diff(two) <= 1);
            row.values[..4] == other.values[..4] && is_close
        }
        _ => false,
    }
}

fn is_listed(table: &str, row: &Row, ids: &BTreeMap<&str, &str>, losses: &[Loss]) -> bool {
    let quoted = |text: &str| format!("'{}'", text.as_bytes().escape_ascii());
    losses.iter().any(|loss| match loss {
        Loss::Page { table: of, .. } if of == table => true,
        Loss::Page { table: of, page } => of == "some table" && (*page == 1 || row.pages.contains(page)),
        Loss::Record { rowid, .. } => table == "embeddings" && row.values[0] == rowid.to_string(),
        Loss::Value { id, key } => {
            let is_record = ids.get(&*row.values[0]) == Some(&&*quoted(id)) || *id == format!("row {}", row.values[0]);
            table.starts_with("embedding_metadata") && is_record && row.values[1] == quoted(key)
        }
        _ => false,
    })
}

/// For each row of a table the pages that it lies on: read from the leaves that SQLite itself says are the table's.
fn pages_of_rows(connection: &Connection, bytes: &[u8]) -> BTreeMap<(String, i64), BTreeSet<u32>> {
    let sql = "SELECT d.name, d.pageno FROM dbstat d JOIN sqlite_master m USING (name)
               WHERE m.type = 'table' AND d.pagetype = 'leaf'";
    let mut query = connection.prepare(sql).expect("SQLite was built with dbstat");
    let leaves = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?))).expect("pages");
    let mut pages = BTreeMap::new();
    for (name, number) in leaves.map(|leaf| leaf.expect("a page")) {
        let page = page(bytes, number);
        if page[0] != 13 {
            continue; // a table without row numbers
        }
        for cell in 0..two(page, 3) {
            let (rowid, own) = row_at(bytes, number, two(page, 8 + 2 * cell));
            pages.insert((name.clone(), rowid), own);
        }
    }
    pages
}

fn row_at(bytes: &[u8], number: u32, at: usize) -> (i64, BTreeSet<u32>) {
    let page = page(bytes, number);
    let (length, taken) = varint(&page[at..]);
    let (rowid, more) = varint(&page[at + taken..]);
    let (usable, length) = (page.len(), length as usize);
    let mut pages = BTreeSet::from([number]);
    if length > usable - 35 {
        let least = (usable - 12) * 32 / 255 - 23;
        let part = least + (length - least) % (usable - 4);
        let local = if part <= usable - 35 { part } else { least };
        let mut next = four(page, at + taken + more + local);
        while next > 0 {
            pages.insert(next);
            next = four(self::page(bytes, next), 0);
        }
    }
    (rowid, pages)
}

fn varint(bytes: &[u8]) -> (i64, usize) {
    let mut value = 0_i64;
    for (index, byte) in bytes.iter().enumerate().take(8) {
        value = value << 7 | i64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return (value, index + 1);
        }
    }
    (value << 8 | i64::from(bytes[8]), 9)
}

fn page(bytes: &[u8], number: u32) -> &[u8] {
    let size = two(bytes, 16);
    &bytes[(number as usize - 1) * size..number as usize * size]
}

fn two(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
