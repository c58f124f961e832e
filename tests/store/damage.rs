//! Rebuilds palaces that are damaged: whatever can be read comes over, whatever cannot is named before anything
//! begins (I14).

use crate::support::palace::{
    Arena, Content, Record, Tree, VERSIONS, assert_sound, open_copy, overwrite, read, segment_of, sql, truncate,
    zero_leaf,
};
use std::collections::BTreeSet;
use std::path::Path;

const DRAWERS: &str = "mempalace_drawers";

/// What a damage may cost.
#[derive(Clone, Copy, PartialEq)]
enum Cost {
    /// Every vector is still readable.
    Nothing,
    /// Some vectors are gone, some are not.
    Some,
    /// Some vectors have lost their length.
    SomeLengths,
    /// All that only the index held have lost their length.
    Lengths,
    /// All that only the index held.
    All,
    /// Some of it, or nothing where the order of rows proves the rest.
    Proved,
    /// All of it but what the order of rows proves.
    Unproved,
}

type Damage = (&'static str, Cost, fn(&Path));

/// What happens to the index of a collection, each given the index's directory.
const DAMAGES: [Damage; 13] = [
    ("link_lists.bin is cut short", Cost::Nothing, |index| truncate(&index.join("link_lists.bin"), 1, 2)),
    ("link_lists.bin is empty", Cost::Nothing, |index| truncate(&index.join("link_lists.bin"), 0, 1)),
    ("an element links to one that does not exist", Cost::Nothing, |index| {
        overwrite(&index.join("data_level0.bin"), 4, &[0xff; 4]);
    }),
    ("the entry point lies outside the index", Cost::Nothing, |index| {
        overwrite(&index.join("header.bin"), 56, &[0xee; 4]);
    }),
    ("data_level0.bin is cut short", Cost::Some, |index| cut_elements(index, "data_level0.bin")),
    ("length.bin is cut short", Cost::SomeLengths, |index| cut_elements(index, "length.bin")),
    ("length.bin is missing", Cost::Lengths, |index| {
        std::fs::remove_file(index.join("length.bin")).expect("it was there");
    }),
    ("header.bin is garbage", Cost::Nothing, |index| overwrite(&index.join("header.bin"), 0, &[0xa5; 100])),
    ("header.bin is cut short", Cost::Nothing, |index| truncate(&index.join("header.bin"), 1, 2)),
    ("index_metadata.pickle is empty", Cost::Unproved, |index| truncate(&index.join("index_metadata.pickle"), 0, 1)),
    ("index_metadata.pickle is missing", Cost::Unproved, |index| {
        std::fs::remove_file(index.join("index_metadata.pickle")).expect("it was there");
    }),
    ("index_metadata.pickle is cut short", Cost::Proved, |index| truncate(&index.join("index_metadata.pickle"), 1, 4)),
    ("the directory is missing", Cost::All, |index| std::fs::remove_dir_all(index).expect("it was there")),
];

/// Cuts a file off in the middle of the elements there are: 0.x makes its files longer than that.
fn cut_elements(index: &Path, name: &str) {
    let header = read(&index.join("header.bin")).expect("a header");
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let element_bytes = if name == "length.bin" { 4 } else { number(28) };
    let file = std::fs::OpenOptions::new().write(true).open(index.join(name)).expect("a file");
    file.set_len(number(20) / 2 * element_bytes).expect("a shorter file");
}

#[test]
fn damaged_index_costs_a_vector_that_nobody_was_told_of() {
    for version in VERSIONS {
        let template = Arena::new(version);
        for (title, cost, damage) in DAMAGES {
            let what = format!("{version}: {title}");
            let arena = template.fork();
            let before = Content::of(&arena.palace());
            damage(&segment_of(&arena.palace(), DRAWERS));
            let lost = rebuild(&arena, &what);
            let held_by_index_only = held_by_index_only(&arena, &before);
            let lost: BTreeSet<String> = lost.iter().map(|line| lost_vector(line, cost, &what)).collect();
            let needless: Vec<_> = lost.difference(&held_by_index_only).collect();
            assert!(needless.is_empty(), "{what}: the queue still holds the vectors of {needless:?}");
            match cost {
                _ if held_by_index_only.is_empty() => {}
                Cost::Nothing => assert_eq!(lost.len(), 0, "{what}"),
                Cost::Some | Cost::SomeLengths => {
                    assert!((1..held_by_index_only.len()).contains(&lost.len()), "{what}: {}", lost.len())
                }
                Cost::Proved => assert!((0..held_by_index_only.len()).contains(&lost.len()), "{what}: {}", lost.len()),
                Cost::Unproved => {
                    assert!((1..=held_by_index_only.len()).contains(&lost.len()), "{what}: {}", lost.len())
                }
                Cost::All | Cost::Lengths => assert_eq!(lost, held_by_index_only, "{what}"),
            }
            assert_indexed_anew(&before, &Content::of(&arena.palace()), (&lost, cost), &what);
            assert_sound(&arena.palace(), &what);
        }
    }
}

/// A lost write leaves a page of zeros: what indexes, full-text index and queue know of it comes over, what nothing
/// knows is named, and all others are as they were.
#[test]
fn unreadable_page_costs_a_record_that_nobody_was_told_of() {
    for version in VERSIONS {
        for table in ["embedding_metadata", "embeddings"] {
            let what = format!("{version}: a page of {table} is zero");
            let arena = Arena::new(version);
            let mut before = Content::of(&arena.palace());
            zero_leaf(&arena.palace(), table);
            let unreadable = unreadable(&arena, &before);
            assert!(!unreadable.is_empty(), "{what}: everything can still be read");
            let lost = rebuild(&arena, &what);
            let rows = before.tables["embeddings"].iter().map(|line| line.record);
            let ids = before.records.values().flatten().map(|record| record.id.clone()).collect::<BTreeSet<_>>();
            assert!(ids.len() > unreadable.len() && rows.count() > unreadable.len(), "{what}: a part is damaged");
            // The lines name single values by record; the records are compared without those.
            let is_named = |record: &Record| lost.iter().any(|line| line.contains(&format!(" of {}: it", record.id)));
            assert!(lost.len() <= unreadable.len() * 20, "{what}: {lost:?}");
            let after = Content::of(&arena.palace());
            let is_kept = |old: &Record, new: &Record| is_named(old) || old.is_kept_in(new);
            let differences = before.record_differences_by(&after, is_kept);
            assert_eq!(differences, Vec::<String>::new(), "{what}");
            before.forget(&unreadable);
            let mut kept = after;
            kept.forget(&unreadable);
            assert_eq!(before.table_differences(&kept, &INDEXED_ANEW), Vec::<String>::new(), "{what}");
            assert_sound(&arena.palace(), &what);
        }
    }
}

/// What can be made again from something else is no loss.
#[test]
fn unreadable_page_of_an_index_costs_a_record() {
    for (version, page) in [
        ("1.5.9", "embedding_fulltext_search_data"),
        ("1.5.9", "embedding_metadata_string_value"),
        ("0.6.3", "embedding_metadata_int_value"),
    ] {
        let what = format!("{version}: a page of {page} is zero");
        let arena = Arena::new(version);
        let before = Content::of(&arena.palace());
        zero_leaf(&arena.palace(), page);
        arena.run(&["rebuild", "--yes"]).expect(0);
        before.assert_equals(&Content::of(&arena.palace()), &what);
        assert_sound(&arena.palace(), &what);
    }
}

/// All writes are applied and the queue is empty: chromadb would hand the last numbers out again, and drop what gets
/// them.
#[test]
fn rebuilt_palace_drops_its_next_write() {
    let arena = Arena::new("1.5.9");
    let before = Content::of(&arena.palace());
    let numbers = "UPDATE max_seq_id SET seq_id = 400 WHERE segment_id IN (SELECT s.id FROM segments s
                   JOIN collections c ON s.collection = c.id WHERE c.name = 'notes-l2' AND s.scope = 'METADATA');";
    sql(&arena.palace(), numbers);
    arena.run(&["rebuild", "--yes"]).expect(0);
    assert_sound(&arena.palace(), "a number beyond the queue");
    let after = Content::of(&arena.palace());
    assert_eq!(before.record_differences(&after), Vec::<String>::new());
    let (_scratch, connection) = open_copy(&arena.palace());
    let sql = "SELECT q.id, operation FROM embeddings_queue q JOIN collections c ON q.topic LIKE '%/' || c.id
               WHERE seq_id = 400 AND c.name = 'notes-l2'";
    let row = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (id, operation): (String, i64) = row.expect("the row that keeps the number taken");
    assert_eq!(operation, 3, "a deletion");
    assert!(after.records["notes-l2"].iter().all(|record| record.id != id), "of a record that nobody has");
}

#[test]
fn emptied_queue_loses_a_write_after_the_rebuild() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        sql(&arena.palace(), "DELETE FROM embeddings_queue;");
        let lost = rebuild(&arena, version);
        assert!(!lost.is_empty(), "{version}: vectors that only the queue held are lost");
        assert_sound(&arena.palace(), version);
    }
}

/// Rebuilds; where something is lost, first sees the rebuild refuse it, touching nothing. Returns the losses, as
/// listed.
fn rebuild(arena: &Arena, what: &str) -> Vec<String> {
    let before = Tree::of(&arena.palace());
    let refused = arena.run(&["rebuild", "--yes", "--json"]);
    if refused.code == Some(0) {
        return Vec::new();
    }
    assert_eq!(refused.code, Some(5), "{what}: {refused:#?}");
    before.assert_untouched(&Tree::of(&arena.palace()), what);
    let lines = |run: &crate::support::palace::Run| -> Vec<String> {
        let losses = run.json()["losses"].as_array().expect("losses").clone();
        losses.iter().map(|line| line.as_str().expect("a line").to_owned()).collect()
    };
    let lost = lines(&refused);
    assert!(!lost.is_empty(), "{what}: refused without a loss");
    let plan = arena.run(&["rebuild", "--plan", "--json"]).expect(3);
    assert_eq!(lines(&plan), lost, "{what}: the plan lists the same");
    let accepted = arena.run(&["rebuild", "--yes", "--json", "--accept-loss"]).expect(0);
    assert_eq!(lines(&accepted), lost, "{what}: what was listed is what was lost");
    lost
}

fn lost_vector(line: &str, cost: Cost, what: &str) -> String {
    let (prefix, suffix) = match cost {
        Cost::SomeLengths | Cost::Lengths => {
            ("length of vector of ", " in mempalace_drawers: lost; kept with length 1")
        }
        _ => ("vector of ", " in mempalace_drawers: it is nowhere"),
    };
    let id = line.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
    id.unwrap_or_else(|| panic!("{what}: an unexpected loss: {line}")).to_owned()
}

/// Drawers whose vectors stand nowhere in the queue.
fn held_by_index_only(arena: &Arena, before: &Content) -> BTreeSet<String> {
    let old = arena.operation().join("backup");
    let (_scratch, connection) = open_copy(&old);
    let sql = "SELECT DISTINCT q.id FROM embeddings_queue q JOIN collections c ON q.topic LIKE '%/' || c.id
               WHERE c.name = ?1 AND q.vector IS NOT NULL";
    let mut query = connection.prepare(sql).expect("a queue");
    let queued = query.query_map([DRAWERS], |row| row.get::<_, String>(0)).expect("a queue");
    let queued: BTreeSet<_> = queued.map(|id| id.expect("an id")).collect();
    before.records[DRAWERS].iter().map(|record| record.id.clone()).filter(|id| !queued.contains(id)).collect()
}

/// Rows of records of which something cannot be read, asked of SQLite record by record.
fn unreadable(arena: &Arena, before: &Content) -> BTreeSet<i64> {
    let (_scratch, connection) = open_copy(&arena.palace());
    let reads = |sql: &str, row: i64| {
        let mut query = connection.prepare_cached(sql).expect("a query");
        let mut rows = query.query([row]).expect("a query");
        loop {
            match rows.next() {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    let is_whole = |row: i64| {
        reads("SELECT * FROM embeddings WHERE id = ?1", row)
            && reads("SELECT * FROM embedding_metadata WHERE id = ?1", row)
    };
    before.tables["embeddings"].iter().map(|line| line.record).filter(|row| !is_whole(*row)).collect()
}

/// A new index holds all writes that were applied, so it says so; nothing else may differ.
const INDEXED_ANEW: [&str; 1] = ["max_seq_id"];

/// Everything is as before, every row of every table and every vector bit for bit; only the drawers' index was built
/// anew, and vectors that are lost are absent, or point where they did.
#[track_caller]
fn assert_indexed_anew(before: &Content, after: &Content, (lost, cost): (&BTreeSet<String>, Cost), what: &str) {
    let is_kept = |old: &Record, new: &Record| match cost {
        _ if !lost.contains(&old.id) => old.is_kept_in(new),
        Cost::SomeLengths | Cost::Lengths => is_direction_kept(old, new),
        _ => Record { vector: None, ..old.clone() }.is_kept_in(new),
    };
    let mut differences = before.table_differences(after, &INDEXED_ANEW);
    differences.extend(before.record_differences_by(after, is_kept));
    let others = |content: &Content| {
        let mut indexes = content.indexes.clone();
        indexes.remove(DRAWERS);
        indexes
    };
    assert!(others(before) == others(after), "{what}: indexes of other collections");
    assert_eq!(differences, Vec::<String>::new(), "{what}");
}

/// The same record, with a vector of length one that points the same way.
fn is_direction_kept(old: &Record, new: &Record) -> bool {
    let (Some(was), Some(is)) = (&old.vector, &new.vector) else { return false };
    let length = |vector: &[f32]| vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let product: f64 = was.get.iter().zip(&is.get).map(|(one, two)| f64::from(*one) * f64::from(*two)).sum();
    let is_same_way = (product / length(&was.get) - 1.0).abs() < 1e-5 && (length(&is.get) - 1.0).abs() < 1e-5;
    is_same_way && Record { vector: new.vector.clone(), ..old.clone() }.is_kept_in(new)
}

/// An index that was set aside has the lengths.
#[test]
fn lost_length_is_given_up_though_a_spare_has_it() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let before = Content::of(&arena.palace());
        let index = segment_of(&arena.palace(), DRAWERS);
        copy_aside(&index);
        std::fs::remove_file(index.join("length.bin")).expect("it was there");
        assert_eq!(rebuild(&arena, version), Vec::<String>::new(), "{version}");
        let after = Content::of(&arena.palace());
        assert_eq!(before.record_differences_by(&after, Record::is_kept_in), Vec::<String>::new(), "{version}");
    }
}

/// What a spare has under an id may be an older vector: another direction has another length.
#[test]
fn lost_length_is_taken_from_another_vector() {
    let arena = Arena::new("1.5.9");
    let before = Content::of(&arena.palace());
    let index = segment_of(&arena.palace(), DRAWERS);
    let spare = copy_aside(&index);
    let (header, level0) = (read(&index.join("header.bin")).expect("a header"), read(&index.join("data_level0.bin")));
    let (number, level0) =
        (|at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes), level0.expect("vectors"));
    let [count, size, label_at, vector_at] = [20, 28, 36, 44].map(|at| number(at).expect("eight bytes"));
    for slot in 0..count {
        overwrite(
            &spare.join("data_level0.bin"),
            slot * size + vector_at,
            &level0[vector_at as usize..label_at as usize],
        );
    }
    std::fs::remove_file(index.join("length.bin")).expect("it was there");
    let lost = rebuild(&arena, "a spare of other vectors");
    let lost: BTreeSet<_> = lost.iter().map(|line| lost_vector(line, Cost::Lengths, "a spare")).collect();
    let held = held_by_index_only(&arena, &before);
    assert!(lost.is_subset(&held) && lost.len() + 1 >= held.len(), "{} of {}", lost.len(), held.len());
    assert_indexed_anew(&before, &Content::of(&arena.palace()), (&lost, Cost::Lengths), "a spare of other vectors");
}

/// A copy of an index under the name that MemPalace gives it when it sets one aside.
fn copy_aside(index: &Path) -> std::path::PathBuf {
    let spare = index.with_extension("drift-20260101-000000");
    std::fs::create_dir(&spare).expect("a directory");
    for file in std::fs::read_dir(index).expect("an index") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), spare.join(file.file_name())).expect("a copy");
    }
    spare
}
