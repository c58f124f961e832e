//! Rows that are lost in their own place and stand elsewhere: of each it is said where it was. From a free page they
//! come back where it is proved that they were there, and nothing else of such a page does.

use crate::support::palace::{Arena, Rows, VERSIONS, no_spawning, open_copy, sql};
use palacekeeper::disk::RealDisk;
use palacekeeper::store::chroma::{Found, FoundIn, LISTED_MAX, Loss, Salvaged, salvage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PAGE_BYTES: usize = 4096;
const NOTE: &str = "from free pages, which may be older than those lost";
/// What else knows the values.
const COPIES: [&str; 4] = [
    "embedding_metadata_string_value",
    "embedding_metadata_int_value",
    "embedding_metadata_float_value",
    "embedding_fulltext_search_content",
];

/// A sound database with free pages and nothing in its queue, which knows values as well.
struct Bench {
    arena: Arena,
    bytes: Vec<u8>,
    owners: BTreeMap<u32, String>,
    damaged: BTreeSet<u32>,
}

impl Bench {
    fn new(version: &'static str) -> Bench {
        let arena = Arena::new(version);
        let free = "DELETE FROM embeddings_queue; CREATE TABLE filler (x);
             INSERT INTO filler SELECT zeroblob(3000) FROM embeddings; DROP TABLE filler;";
        sql(&arena.palace(), free);
        Bench::of(arena)
    }

    fn of(arena: Arena) -> Bench {
        let _open = no_spawning();
        let connection = rusqlite::Connection::open(arena.database()).expect("a database");
        let mut query = connection.prepare("SELECT pageno, name FROM dbstat").expect("SQLite has dbstat");
        let owners = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("pages");
        let owners = owners.map(|owner| owner.expect("a page")).collect();
        drop(query);
        drop(connection);
        let bytes = std::fs::read(arena.database()).expect("a database");
        Bench { arena, bytes, owners, damaged: BTreeSet::new() }
    }

    /// The same after a change that SQLite makes.
    fn changed(self, change: &str) -> Bench {
        sql(&self.arena.palace(), change);
        Bench::of(self.arena)
    }

    fn page(&self, page: u32) -> Vec<u8> {
        self.bytes[(page as usize - 1) * PAGE_BYTES..page as usize * PAGE_BYTES].to_vec()
    }

    fn put(&mut self, page: u32, image: &[u8]) {
        assert!(self.page(page) != image, "nothing happens to page {page}");
        self.bytes[(page as usize - 1) * PAGE_BYTES..page as usize * PAGE_BYTES].copy_from_slice(image);
    }

    fn leaves(&self, table: &str) -> Vec<u32> {
        let leaves = self.owners.iter().filter(|(page, name)| *name == table && self.page(**page)[0] == 13);
        leaves.map(|(page, _)| *page).collect()
    }

    /// The leaf of a table with most rows on it.
    fn leaf(&self, table: &str) -> u32 {
        self.leaves(table).into_iter().max_by_key(|page| rows_on(&self.page(*page))).expect("a leaf")
    }

    fn zero(&mut self, page: u32) {
        self.put(page, &[0; PAGE_BYTES]);
        self.damaged.insert(page);
    }

    fn zero_all(&mut self, names: &[&str]) {
        let pages = self.owners.iter().filter(|(_, name)| names.contains(&name.as_str()));
        pages.map(|(page, _)| *page).collect::<Vec<_>>().into_iter().for_each(|page| self.zero(page));
    }

    /// Pages that the first page of the list of free pages names.
    fn free(&self) -> Vec<u32> {
        let four = |page: &[u8], at: usize| u32::from_be_bytes(page[at..at + 4].try_into().expect("four bytes"));
        let trunk = self.page(four(&self.bytes, 32));
        let free: Vec<_> = (0..four(&trunk, 4) as usize).map(|index| four(&trunk, 8 + 4 * index)).collect();
        assert!(free.len() > 4, "only {free:?} are free");
        free
    }

    /// Salvages it, and insists that every row is as it was or listed, and that no other is there.
    fn salvage(&self) -> Salvaged {
        let before = Rows::of(&self.arena.database());
        let directory = tempfile::tempdir().expect("a directory");
        let [damaged, target] = ["damaged", "salvaged"].map(|name| directory.path().join(name));
        std::fs::write(&damaged, &self.bytes).expect("there is room");
        let salvaged = salvage(&RealDisk::new(), &damaged, &target).expect("something of a palace");
        before.judge(&Rows::of(&target), &self.damaged, &salvaged.losses, 0);
        assert_sound(&target);
        let counted: u64 = salvaged.restored.values().sum();
        assert_eq!(salvaged.finds.listed.len() as u64 + salvaged.finds.more, counted, "{:?}", salvaged.restored);
        self.assert_named(&salvaged.finds.listed);
        salvaged
    }

    /// There is a record, or a value, of each name that is given.
    fn assert_named(&self, listed: &[Found]) {
        let (_scratch, connection) = open_copy(&self.arena.palace());
        for found in listed.iter().filter(|found| found.table.starts_with("embedding") && found.id.is_some()) {
            let sql = "SELECT count(DISTINCT e.id) FROM embeddings e LEFT JOIN embedding_metadata m ON m.id = e.id
                       LEFT JOIN segments s ON s.id = e.segment_id LEFT JOIN collections c ON c.id = s.collection
                       WHERE CAST(e.embedding_id AS TEXT) = ?1 AND c.name IS ?2 AND (?3 IS NULL OR m.key = ?3)";
            let name = (&found.id, &found.collection, &found.key);
            assert_eq!(connection.query_row(sql, name, |row| row.get(0)), Ok(1), "{found}");
        }
        let is_named = |found: &Found| found.id.is_some() && found.key.is_some() == (found.table != "embeddings");
        let named = ["embeddings", "embedding_metadata"];
        let nameless = listed.iter().find(|found| named.contains(&found.table.as_str()) && !is_named(found));
        assert_eq!(nameless, None, "it is known what it is called");
    }
}

fn rows_on(leaf: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([leaf[3], leaf[4]]))
}

/// What was found in one place.
fn from<'s>(salvaged: &'s Salvaged, source: &FoundIn) -> Vec<&'s Found> {
    salvaged.finds.listed.iter().filter(|found| found.source == *source).collect()
}

fn assert_sound(path: &Path) {
    let _open = no_spawning();
    let connection = rusqlite::Connection::open(path).expect("a database");
    let answer: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(answer, "ok");
}

/// How many values, or numbers and times of records, came from free pages.
fn taken(salvaged: &Salvaged, what: &str) -> u64 {
    let of_free = salvaged.restored.iter().filter(|(source, _)| source.starts_with(what) && source.ends_with(NOTE));
    of_free.map(|(_, count)| count).sum()
}

fn lost(salvaged: &Salvaged) -> BTreeSet<(&str, &str)> {
    let lost = salvaged.losses.iter().filter_map(|loss| match loss {
        Loss::Value { id, key } => Some((id.as_str(), key.as_str())),
        _ => None,
    });
    lost.collect()
}

#[test]
fn lost_value_is_given_up_though_it_stands_on_a_free_page() {
    for version in VERSIONS {
        let mut bench = Bench::new(version);
        let (leaf, free) = (bench.leaf("embedding_metadata"), bench.free()[1]);
        let image = bench.page(leaf);
        bench.zero(leaf);
        bench.zero_all(&COPIES);
        let without = bench.salvage();
        let count = lost(&without).len();
        assert!(count > 20 && taken(&without, "values") == 0, "{version}: {count} values are nowhere else");
        bench.put(free, &image);
        let with = bench.salvage();
        assert_eq!((lost(&with).len(), taken(&with, "values")), (0, count as u64), "{version}");
        assert_eq!(from(&with, &FoundIn::FreePage(free)).len(), count, "{version}: {:?}", with.finds);
    }
}

/// The index over ids knows that a record existed, and neither its number nor its time.
#[test]
fn lost_number_of_a_record_is_given_up_though_it_stands_on_a_free_page() {
    for version in VERSIONS {
        let mut bench = Bench::new(version);
        let (leaf, free) = (bench.leaf("embeddings"), bench.free()[1]);
        let image = bench.page(leaf);
        bench.zero(leaf);
        assert_eq!(taken(&bench.salvage(), "numbers"), 0, "{version}");
        bench.put(free, &image);
        let rows = rows_on(&image);
        let salvaged = bench.salvage();
        assert_eq!(taken(&salvaged, "numbers"), rows as u64, "{version}: rows of the page");
        let index = FoundIn::Index("sqlite_autoindex_embeddings_1".into());
        assert_eq!(
            [index, FoundIn::FreePage(free)].map(|source| from(&salvaged, &source).len()),
            [rows; 2],
            "{version}"
        );
        // A number that its segment has not seen yet cannot be its own.
        let mut bench = bench.changed("UPDATE max_seq_id SET seq_id = iif(typeof(seq_id) = 'blob', zeroblob(8), 0);");
        bench.zero(leaf);
        bench.put(free, &image);
        assert_eq!(taken(&bench.salvage(), "numbers"), 0, "{version}: numbers that nobody has seen");
    }
}

/// Of the rows on the free page some were deleted since.
#[test]
fn deleted_row_comes_back_from_a_free_page() {
    for version in VERSIONS {
        let bench = Bench::new(version);
        let images = ["embeddings", "embedding_metadata"].map(|table| bench.page(bench.leaf(table)));
        let deleted = "DELETE FROM embedding_metadata WHERE id % 3 > 0; DELETE FROM embeddings WHERE id % 3 = 1;
                       DELETE FROM embedding_metadata WHERE key = 'chroma:document' AND id % 2 = 0;
                       DELETE FROM embedding_fulltext_search WHERE rowid % 3 > 0 OR rowid % 2 = 0;";
        let mut bench = bench.changed(deleted);
        let pages = ["embeddings", "embedding_metadata"].map(|table| bench.leaves(table));
        pages.into_iter().flatten().for_each(|page| bench.zero(page));
        bench.zero_all(&COPIES);
        for (free, image) in bench.free().into_iter().skip(1).zip(images) {
            bench.put(free, &image);
        }
        let salvaged = bench.salvage();
        let found = ["values", "numbers"].map(|what| taken(&salvaged, what));
        assert!(found[0] > 5 && found[1] > 5, "{version}: {found:?} of what was not deleted");
        // An index that has lost a page proves as much as is left of it.
        let index = |page: &u32| bench.owners[page] == "sqlite_autoindex_embedding_metadata_1";
        let page = bench.owners.keys().copied().filter(index).find(|page| bench.page(*page)[0] == 10);
        bench.zero(page.expect("a leaf of the index"));
        bench.salvage();
    }
}

/// Two free pages say different things: nobody knows which was the last.
#[test]
fn one_of_two_values_is_picked() {
    for version in VERSIONS {
        let bench = Bench::new(version);
        let (leaf, old) = (bench.leaf("embedding_metadata"), bench.page(bench.leaf("embedding_metadata")));
        let change = "UPDATE embedding_metadata SET int_value = int_value + 1 WHERE int_value BETWEEN 2 AND 99;";
        let mut bench = bench.changed(change);
        let new = bench.page(leaf);
        bench.zero(leaf);
        bench.zero_all(&COPIES);
        bench.put(bench.free()[1], &new);
        let all = bench.salvage();
        assert!(lost(&all).is_empty(), "{version}: {:?}", all.losses);
        bench.put(bench.free()[2], &old);
        let some = bench.salvage();
        assert!(lost(&some).len() > 3, "{version}: nothing is told two ways");
        assert_eq!(taken(&some, "values") + lost(&some).len() as u64, taken(&all, "values"), "{version}");
    }
}

/// The full-text index says how long each document is, an index over values what they are.
#[test]
fn value_that_something_contradicts_is_taken() {
    for version in VERSIONS {
        let bench = Bench::new(version);
        let (leaf, image) = (bench.leaf("embedding_metadata"), bench.page(bench.leaf("embedding_metadata")));
        let change = "UPDATE embedding_metadata SET string_value = string_value || '.' WHERE key = 'chroma:document';
                      UPDATE embedding_fulltext_search SET string_value = string_value || '.';";
        let mut bench = bench.changed(change);
        bench.zero(leaf);
        bench.zero_all(&COPIES);
        bench.put(bench.free()[1], &image);
        let salvaged = bench.salvage();
        let lost = lost(&salvaged);
        assert!(!lost.is_empty() && lost.iter().all(|(_, key)| *key == "chroma:document"), "{version}: {lost:?}");
        assert!(taken(&salvaged, "values") > 5, "{version}");
    }
    for version in VERSIONS.into_iter().filter(|version| *version != "0.4.24") {
        let bench = Bench::new(version);
        let (leaf, image) = (bench.leaf("embedding_metadata"), bench.page(bench.leaf("embedding_metadata")));
        let change = "UPDATE embedding_metadata SET int_value = NULL, bool_value = 1 WHERE int_value IS NOT NULL;";
        let mut bench = bench.changed(change);
        bench.zero(leaf);
        bench.put(bench.free()[1], &image);
        let salvaged = bench.salvage();
        assert!(lost(&salvaged).len() > 5, "{version}: the index has no integers any more");
    }
}

/// Where the index over keys is lost as well, the length of a document alone proves that there was one.
#[test]
fn document_that_only_its_length_proves_is_given_up() {
    for version in VERSIONS {
        let mut bench = Bench::new(version);
        let (leaf, free) = (bench.leaf("embedding_metadata"), bench.free()[1]);
        let image = bench.page(leaf);
        bench.zero(leaf);
        bench.zero_all(&COPIES);
        bench.zero_all(&["sqlite_autoindex_embedding_metadata_1"]);
        assert_eq!(taken(&bench.salvage(), "values"), 0, "{version}");
        bench.put(free, &image);
        let salvaged = bench.salvage();
        assert!(taken(&salvaged, "values") > 5, "{version}: {:?}", salvaged.restored);
    }
}

/// A number is given again once the record that had it is deleted: its values are not those of the new one.
#[test]
fn value_of_a_record_comes_back_under_another() {
    for version in VERSIONS {
        let bench = Bench::new(version);
        let (leaf, image) = (bench.leaf("embedding_metadata"), bench.page(bench.leaf("embedding_metadata")));
        let records: Vec<_> = bench.leaves("embeddings").into_iter().map(|page| bench.page(page)).collect();
        let mut bench = bench.changed("UPDATE embeddings SET embedding_id = embedding_id || '-new';");
        bench.zero(leaf);
        bench.zero_all(&COPIES);
        let free = bench.free();
        bench.put(free[1], &image);
        let all = taken(&bench.salvage(), "values");
        for (page, image) in free[2..].iter().zip(&records) {
            bench.put(*page, image);
        }
        let none = bench.salvage();
        assert_eq!((taken(&none, "values"), lost(&none).len() as u64), (0, all), "{version}");
    }
}

/// Below a damaged root: every row is from the leaf that it is on.
#[test]
fn row_of_a_lost_leaf_is_said_to_be_from_another_page() {
    for version in VERSIONS {
        let mut bench = Bench::new(version);
        let leaves = bench.leaves("embedding_metadata");
        let counts: Vec<_> = leaves.iter().map(|page| rows_on(&bench.page(*page))).collect();
        let is_root = |page: &u32| bench.owners[page] == "embedding_metadata" && bench.page(*page)[0] == 5;
        let roots: Vec<_> = bench.owners.keys().copied().filter(is_root).collect();
        assert!(!roots.is_empty(), "{version}: a tree of one page");
        roots.into_iter().for_each(|page| bench.zero(page));
        let salvaged = bench.salvage();
        let found = leaves.iter().map(|page| from(&salvaged, &FoundIn::Page(*page)).len()).collect::<Vec<_>>();
        assert_eq!(found, counts, "{version}");
        assert_eq!(salvaged.finds.listed.len(), counts.iter().sum::<usize>(), "{version}: nothing else was damaged");
    }
}

/// A value is from the index over values of its type, a document from the full-text copy, and what the queue still has
/// from the write that had it last.
#[test]
fn value_is_said_to_be_from_another_place() {
    for version in VERSIONS {
        let mut bench = Bench::of(Arena::new(version));
        let leaf = bench.leaf("embedding_metadata");
        bench.zero(leaf);
        let salvaged = bench.salvage();
        let index = |kind: &str| from(&salvaged, &FoundIn::Index(format!("embedding_metadata_{kind}_value"))).len();
        let [texts, integers] = ["string", "int"].map(index);
        assert_eq!((texts > 5, integers > 5), (version != "0.4.24", version != "0.4.24"), "{version}: {texts} texts");
        bench.zero_all(&COPIES[..3]);
        let salvaged = bench.salvage();
        let documents = from(&salvaged, &FoundIn::FullText);
        assert!(documents.len() > 5, "{version}");
        assert!(documents.iter().all(|found| found.key.as_deref() == Some("chroma:document")), "{version}");
        let (_scratch, connection) = open_copy(&bench.arena.palace());
        let mut writes = 0;
        for found in &salvaged.finds.listed {
            let FoundIn::Write(sequence) = found.source else { continue };
            let sql = "SELECT max(seq_id) FROM embeddings_queue q, json_each(q.metadata) j
                       WHERE q.id = ?1 AND j.key = ?2 AND seq_id <= ?3";
            let last = connection.query_row(sql, (&found.id, &found.key, sequence), |row| row.get(0));
            assert_eq!(last, Ok(sequence), "{version}: {found}");
            writes += 1;
        }
        assert!(writes > 5, "{version}: {:?}", salvaged.restored);
    }
}

/// However many there are, so many are listed and the rest is counted.
#[test]
fn list_of_what_was_found_grows_with_the_palace() {
    let rows = "WITH RECURSIVE more (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more WHERE n < 12000)
         INSERT INTO embeddings_queue (operation, topic, id) SELECT 3, 'persistent://default/default/x', n FROM more;";
    let mut bench = Bench::new("1.5.9").changed(rows);
    let is_root = |page: &u32| bench.owners[page] == "embeddings_queue" && bench.page(*page)[0] == 5;
    let roots: Vec<_> = bench.owners.keys().copied().filter(is_root).collect();
    roots.into_iter().for_each(|page| bench.zero(page));
    let salvaged = bench.salvage();
    assert_eq!((salvaged.finds.listed.len(), salvaged.finds.more), (LISTED_MAX, 12_000 - LISTED_MAX as u64));
}

/// A program gets all of it, from a plan as from what was done; a person gets examples.
#[test]
fn source_of_a_value_is_not_told() {
    let mut bench = Bench::new("1.5.9");
    let (leaf, free) = (bench.leaf("embedding_metadata"), bench.free()[1]);
    let image = bench.page(leaf);
    bench.zero(leaf);
    bench.zero_all(&COPIES);
    bench.put(free, &image);
    let listed = bench.salvage().finds.listed;
    std::fs::write(bench.arena.database(), &bench.bytes).expect("a damaged palace");
    let told = |report: &serde_json::Value| {
        let report = report.get("proposal").unwrap_or(report);
        assert_eq!(report["found_more"], 0);
        let found = report["found"].as_array().expect("a list").iter();
        let text = |one: &serde_json::Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
        found.map(|one| ["key", "id", "collection", "source"].map(|name| text(one, name))).collect::<Vec<_>>()
    };
    let wanted: Vec<_> = listed
        .iter()
        .map(|one| [&one.key, &one.id, &one.collection].map(|part| part.clone().unwrap_or_default()))
        .map(|[key, id, collection]| [key, id, collection, format!("free page {free}")])
        .collect();
    // What is lost here are vectors that only the queue had.
    let commands: [(&[&str], _); 3] = [
        (&["repair", "--plan", "--json"], 3),
        (&["rebuild", "--plan", "--json"], 3),
        (&["repair", "--yes", "--json", "--accept-loss"], 0),
    ];
    for (command, code) in commands {
        assert_eq!(told(&bench.arena.fork().run(command).expect(code).json()), wanted, "{command:?}");
    }
    let run = bench.arena.run(&["rebuild", "--plan"]).expect(3);
    assert_eq!(run.stdout.matches(&format!(": from free page {free}\n")).count(), 20, "{}", run.stdout);
    run.says(&format!("… and {} more; --json lists up to {LISTED_MAX}", wanted.len() - 20));
}
