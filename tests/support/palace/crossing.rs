//! A palace before it is migrated, and what must be there of it afterwards.

use super::content::{Content, Record, open_copy, segment_directories};
use super::ward::{check, is_tolerated, surroundings};
use super::{Arena, Depth, Tree};
use rusqlite::types::Value as Sql;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// What a palace can be migrated to, and the name of the format that it has then.
pub(crate) const TARGETS: [(&str, &str); 5] = [
    ("chroma-0.4", "0.4.24"),
    ("chroma-0.5", "0.5.23"),
    ("chroma-0.6", "0.5.23"), // which writes what 0.5 writes
    ("chroma-1.0", "1.0.20"),
    ("chroma-1.5", "1.5.9"),
];

/// Whether a fixture's version writes what the target writes.
pub(crate) fn is_there(fixture: &str, target: &str) -> bool {
    let format = |version: &str| TARGETS.iter().position(|(name, _)| version.starts_with(&name["chroma-".len()..]));
    let format = |version: &str| format(version).map(|index| TARGETS[index].1);
    format(fixture) == format(target.trim_start_matches("chroma-"))
}

/// Runs a migration that is to succeed.
#[track_caller]
pub(crate) fn migrate(arena: &Arena, target: &str) {
    arena.run(&["migrate", "--to", target, "--yes", "--accept-loss"]).expect(0).says("is completed");
}

/// Records as every version can hold them: without arrays, which only 1.5 has a place for.
pub(crate) fn without_arrays(content: &Content) -> Content {
    let mut content = content.clone();
    for record in content.records.values_mut().flatten() {
        record.metadata.retain(|_, value| !value.starts_with("list:"));
    }
    content
}

/// A palace before it is migrated.
pub(crate) struct Crossing {
    pub(crate) content: Content,
    store: Tree,
    sidecars: Tree,
    complaints: BTreeSet<String>,
    queue: Vec<String>,
}

/// Tables whose rows every version holds, as far as it has their columns.
const HELD: [&str; 6] =
    ["tenants", "databases", "collection_metadata", "embeddings", "embedding_metadata", "embedding_fulltext_search"];

impl Crossing {
    pub(crate) fn of(arena: &Arena) -> Crossing {
        let segments = segment_directories(&arena.palace());
        let tree = Tree::of(&arena.palace());
        Crossing {
            content: Content::of(&arena.palace()),
            store: tree.store(&segments),
            sidecars: tree.sidecars(&segments),
            complaints: complaints(arena),
            queue: queue(&arena.palace()),
        }
    }

    /// Insists on everything having come over that the target has a place for, and on nothing else having changed.
    #[track_caller]
    pub(crate) fn assert_arrived(&self, arena: &Arena, target: &str, what: &str) {
        let now = Content::of(&arena.palace());
        let (old, new) = match target {
            "chroma-1.5" => (self.content.clone(), now),
            _ => (without_arrays(&self.content), now),
        };
        let mut differences = old.record_differences_by(&new, Record::is_kept_in);
        for table in HELD {
            let lines = |content: &Content| content.tables[table].iter().map(|line| plain(&line.text)).collect();
            let (ours, theirs): (BTreeSet<String>, BTreeSet<String>) = (lines(&old), lines(&new));
            differences.extend(ours.symmetric_difference(&theirs).take(2).map(|line| format!("{table}: {line}")));
        }
        let ours: BTreeSet<_> = self.queue.iter().collect();
        let now_queued = queue(&arena.palace());
        // A number that would otherwise be handed out again is kept by a row that deletes nothing.
        let theirs = now_queued.iter().filter(|line| !line.contains("palacekeeper-sentinel")).collect();
        differences.extend(ours.symmetric_difference(&theirs).take(2).map(|line| format!("the queue: {line}")));
        assert!(differences.is_empty(), "{what}: {}", differences.join("; "));
        self.assert_kept(arena, what);
        let format = TARGETS.iter().find(|(name, _)| *name == target).expect("a target").1;
        assert_eq!(format_of(arena), format, "{what}");
        let new: Vec<_> = complaints(arena).difference(&self.complaints).cloned().collect();
        assert_eq!(new, Vec::<String>::new(), "{what}: found by a deep check, and not before");
    }

    /// The palace holds the sidecars as they were and nothing besides the new store; the keep has the old store twice.
    #[track_caller]
    fn assert_kept(&self, arena: &Arena, what: &str) {
        let segments = segment_directories(&arena.palace());
        let now = Tree::of(&arena.palace());
        self.sidecars.assert_untouched(&now.sidecars(&segments), &format!("{what}: sidecars"));
        let store = now.store(&segments).top();
        assert!(store.iter().all(|name| name == "chroma.sqlite3" || segments.contains(name)), "{what}: {store:?}");
        let folder = arena.operation();
        self.store.assert_equals(&Tree::of(&folder.join("backup")), &format!("{what}: backup"));
        self.store.assert_untouched(&Tree::of(&folder.join("aside")), &format!("{what}: aside"));
    }
}

/// Insists on a command being refused with a code, and on nothing being touched by it.
#[track_caller]
pub(crate) fn assert_refused(arena: &Arena, arguments: &[&str], code: i32) -> super::Run {
    let before = surroundings(arena);
    let run = arena.run(arguments).expect(code);
    before.assert_untouched(&surroundings(arena), &arguments.join(" "));
    run
}

/// The format a check says the palace has.
pub(crate) fn format_of(arena: &Arena) -> String {
    arena.run(&["check", "--json"]).json()["chromadb"].as_str().expect("a version").to_owned()
}

/// What a deep check calls damage or a warning.
fn complaints(arena: &Arena) -> BTreeSet<String> {
    let found = check(arena, Depth::Deep);
    let grave = found.into_iter().filter(|finding| finding.severity != "note" && !is_tolerated(finding));
    grave.map(|finding| format!("{} of {}", finding.code, finding.all["subject"])).collect()
}

/// A row as every version would write it: sequence numbers as integers, no column that some lack.
fn plain(line: &str) -> String {
    let number = |word: &str| {
        let digits = word.strip_prefix("seq_id=x").filter(|digits| digits.len() == 16)?;
        i64::from_str_radix(digits, 16).ok()
    };
    let words = line.split(' ').filter(|word| *word != "bool_value=null");
    let words = words.map(|word| number(word).map_or(word.to_owned(), |number| format!("seq_id=i{number}")));
    words.collect::<Vec<_>>().join(" ")
}

/// The writes of a palace's queue, their metadata without arrays, their collections by name.
fn queue(palace: &Path) -> Vec<String> {
    let (_scratch, connection) = open_copy(palace);
    let sql = "SELECT q.seq_id, q.created_at, q.operation, c.name, q.id, q.vector, q.encoding, q.metadata
               FROM embeddings_queue q LEFT JOIN collections c ON q.topic LIKE '%/' || c.id ORDER BY q.seq_id";
    let mut query = connection.prepare(sql).expect("a queue");
    let line = |row: &rusqlite::Row| {
        let mut values = (0..8).map(|column| row.get(column)).collect::<rusqlite::Result<Vec<Sql>>>()?;
        if let Sql::Text(text) = &values[7] {
            values[7] = Sql::Text(scalars(text));
        }
        Ok(format!("{values:?}"))
    };
    query.query_map([], line).expect("a queue").map(|row| row.expect("a row of the queue")).collect()
}

/// An object's members but for arrays; the very text where it has none.
fn scalars(text: &str) -> String {
    let Ok(Value::Object(mut members)) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    members.retain(|_, value| !value.is_array());
    Value::Object(members).to_string()
}
