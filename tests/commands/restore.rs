//! What an operation replaced comes back, byte for byte, or nothing is touched.

use crate::support::palace::{
    Arena, Content, Depth, Judge, Mount, Run, SIBLINGS, Strace, Tree, check, class, copy_tree, is_tolerated, kill,
    make_hot, make_wal, read, segment_directories, segment_of, sql, surroundings,
};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const DRAWERS: &str = "mempalace_drawers";
const REBUILD: [&str; 3] = ["rebuild", "--yes", "--json"];
const REPAIR: [&str; 4] = ["repair", "--yes", "--json", "--accept-loss"];
const RESTORE: [&str; 4] = ["restore", "1", "--yes", "--json"];

fn digests(side: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let holdings = side.as_array().expect("collections").iter();
    let mut digests: Vec<_> = holdings.map(|one| (text(&one["name"]), text(&one["digest"]))).collect();
    digests.sort();
    digests
}

/// The folder of an operation.
fn folder(arena: &Arena, beginning: &str) -> PathBuf {
    let entries = fs::read_dir(arena.keep()).expect("a keep").flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
    entries.into_iter().find(is_it).unwrap_or_else(|| panic!("no operation {beginning}"))
}

fn fork_with_keep(arena: &Arena) -> Arena {
    let fork = arena.fork();
    copy_tree(&arena.keep(), &fork.keep());
    fork
}

#[track_caller]
fn refuses(arena: &Arena, arguments: &[&str], code: i32, text: &str) -> Run {
    let untouched = || {
        let mut tree = surroundings(arena);
        // Copies that are made for reading come and go there.
        if let Some(keep) = tree.0.get_mut(Path::new("palace.keep")) {
            keep.modified_ns = 0;
        }
        tree
    };
    let before = untouched();
    let run = arena.run(arguments).expect(code).says(text);
    before.assert_untouched(&untouched(), "a restore that is refused");
    run
}

/// Restores the first operation, and insists on the palace it began with.
#[track_caller]
fn comes_back(arena: &Arena, before: &Tree, what: &str) {
    arena.run(&RESTORE).expect(0);
    before.assert_equals(&Tree::of(&arena.palace()), what);
    arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
}

/// A rebuild gives everything new names; all of it comes back under the old ones. I13: what was kept is still there.
#[test]
fn restored_palace_is_another_than_the_one_that_was_rebuilt() {
    for fixture in ["chroma-0.4.24", "chroma-0.6.3", "chroma-1.5.9"] {
        let arena = Arena::unpack(fixture);
        let before = Tree::of(&arena.palace());
        arena.run(&REBUILD).expect(0);
        let rebuilt = Tree::of(&arena.palace());
        let kept = Tree::of(&folder(&arena, "0001"));
        assert!(before != rebuilt, "{fixture}: the rebuild did nothing");
        let tree = surroundings(&arena);
        let plan = arena.run(&["restore", "1", "--plan", "--json"]).expect(0).json();
        tree.assert_untouched(&surroundings(&arena), "the plan of a restore");
        assert_eq!(digests(&plan["then"]), digests(&plan["now"]), "{fixture}: {plan:#}");
        arena.run(&["restore", "1", "--plan"]).expect(0).says("What comes back:").says("replace palace/chroma.sqlite3");
        comes_back(&arena, &before, fixture);
        kept.assert_untouched(&Tree::of(&folder(&arena, "0001")), "what the rebuild has kept");
        arena.run(&["log"]).expect(0).says("restore");
        // The restore is an operation like any other, and can be taken back.
        arena.run(&["restore", "2", "--yes"]).expect(0);
        rebuilt.assert_equals(&Tree::of(&arena.palace()), "the restore of the restore");
        comes_back(&arena, &before, fixture);
    }
}

/// What could not be read before cannot be read again; that it is the same is seen from its bytes.
#[test]
fn damage_does_not_come_back_as_it_was() {
    for name in [
        "the database's header is scrambled",
        "a page of the metadata is zero",
        "a migration is missing",
        "an index's pickle is missing",
        "an index's upper links are empty",
        "the number of the metadata is poisoned",
        "the full-text index is not registered",
    ] {
        let case = class(name).inflict();
        let before = Tree::of(&case.arena.palace());
        case.arena.run(&REPAIR).expect(0);
        let (mended, content) = (Tree::of(&case.arena.palace()), Content::of(&case.arena.palace()));
        case.arena.run(&["restore", "1", "--plan", "--json"]).expect(0).json();
        comes_back(&case.arena, &before, name);
        case.arena.run(&["restore", "2", "--yes"]).expect(0);
        mended.assert_equals(&Tree::of(&case.arena.palace()), name);
        content.assert_equals(&Content::of(&case.arena.palace()), name);
    }
}

/// A repair that amends leaves sound indexes where they are. They were not copied, and both databases name them.
#[test]
fn amended_palace_comes_back_without_its_indexes() {
    let case = class("the number of the metadata is poisoned").inflict();
    let before = Tree::of(&case.arena.palace());
    case.arena.run(&REPAIR).expect(0);
    let drawers = segment_of(&case.arena.palace(), DRAWERS);
    assert!(before.0.contains_key(Path::new(drawers.file_name().expect("a name"))), "the index was not kept");
    let node = |arena: &Arena| Tree::of(&arena.palace()).0[Path::new(drawers.file_name().expect("a name"))].inode;
    let inode = node(&case.arena);
    comes_back(&case.arena, &before, "an amended palace");
    assert_eq!(inode, node(&case.arena), "the index was moved, though it was where it should be");
    assert!(!check(&case.arena, Depth::Deep).is_empty(), "the damage is gone");
}

/// The index that a repair left in place has gone on since: with the old database it would be another palace.
#[test]
fn index_that_has_moved_on_is_taken_for_the_old_one() {
    let sparse = |arena: &Arena, part: &str| {
        let segment = segment_of(&arena.palace(), DRAWERS);
        let bytes = read(&segment.join(part)).expect("a file");
        (segment.join(part), bytes)
    };
    let repaired = || {
        let case = class("the number of the metadata is poisoned").inflict();
        case.arena.run(&REPAIR).expect(0);
        case
    };
    // A vector's float has become another one.
    let case = repaired();
    let (path, mut bytes) = sparse(&case.arena, "data_level0.bin");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x11);
    fs::write(path, bytes).expect("a file");
    refuses(&case.arena, &RESTORE, 5, "has been written to since").says("leftover-richer");
    // The index of a palace with more records.
    let case = repaired();
    let segment = segment_of(&case.arena.palace(), DRAWERS);
    let larger = Arena::unpack("chroma-1.5.9-survive");
    fs::remove_dir_all(&segment).expect("a segment");
    copy_tree(&segment_of(&larger.palace(), DRAWERS), &segment);
    refuses(&case.arena, &RESTORE, 5, "has been written to since")
        .says(&segment.file_name().expect("a name").to_string_lossy());
    refuses(&case.arena, &["restore", "1", "--plan"], 5, "has been written to since");
    // It is gone.
    let case = repaired();
    fs::remove_dir_all(segment_of(&case.arena.palace(), DRAWERS)).expect("a segment");
    refuses(&case.arena, &RESTORE, 5, "restore that one first");
}

/// An index whose vectors are the same and whose number is higher makes chromadb drop the next writes (rule R2).
#[test]
fn index_that_has_only_a_higher_number_is_taken_for_the_old_one() {
    let case = class("a document is missing in the full-text index").inflict_on("chroma-0.4.24");
    case.arena.run(&REPAIR).expect(0);
    let pickle = segment_of(&case.arena.palace(), "notes-l2").join("index_metadata.pickle");
    let mut bytes = read(&pickle).expect("a pickle");
    let number = b"max_seq_id\x94K";
    let at = bytes.windows(number.len()).position(|window| window == number).expect("the number") + number.len() - 1;
    bytes.splice(at..at + 2, *b"M\xe8\x03"); // 1000, in two bytes
    assert_eq!(bytes[2], 0x95, "a frame begins there");
    bytes[3] = bytes[3].checked_add(1).expect("the frame's length has room");
    fs::write(&pickle, bytes).expect("a file");
    refuses(&case.arena, &RESTORE, 5, "it knows of write 1000");
}

/// The same, as chromadb itself does it.
#[test]
fn chromadb_writes_to_an_index_and_the_old_database_comes_back() {
    let Some(judge) = Judge::here("a restore after chromadb has written to a kept index") else { return };
    let case = class("the number of the metadata is poisoned").inflict();
    case.arena.run(&REPAIR).expect(0);
    let drawers = Tree::of(&segment_of(&case.arena.palace(), DRAWERS));
    judge.ask(&case.arena, &["append"], &[&case.arena.palace()]);
    assert!(drawers != Tree::of(&segment_of(&case.arena.palace(), DRAWERS)), "chromadb has written nothing there");
    refuses(&case.arena, &RESTORE, 5, "has been written to since").says("its record is nowhere");
    // What it has added is in its own database, so a store of other names can still come back.
    case.arena.run(&REBUILD).expect(0);
    case.arena.run(&["restore", "2", "--yes"]).expect(0);
}

/// A client that still had the old files open has gone on writing to them.
#[test]
fn writes_to_what_was_set_aside_come_back_as_well() {
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    arena.run(&REBUILD).expect(0);
    let aside = folder(&arena, "0001").join("aside");
    sql(&aside, "DELETE FROM embedding_metadata WHERE id = 3;");
    let written = read(&aside.join("chroma.sqlite3")).expect("a database");
    arena.run(&["restore", "1", "--plan"]).expect(0).says("Note:").says("is not as it was replaced");
    comes_back(&arena, &before, "a palace whose old database was written to");
    assert!(read(&aside.join("chroma.sqlite3")).is_ok_and(|now| now == written), "what was written is lost");
}

/// A person has thrown away one of the two, or both.
#[test]
fn half_of_what_was_kept_is_taken_for_all() {
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    arena.run(&REBUILD).expect(0);
    let [backup, aside] = ["backup", "aside"].map(|part| folder(&arena, "0001").join(part));
    let segments: Vec<_> = segment_directories(&aside).into_iter().collect();
    fs::remove_dir_all(backup.join(&segments[0])).expect("a segment");
    arena.run(&["restore", "1", "--plan"]).expect(0).says("is not whole").says(&segments[0]);
    comes_back(&arena, &before, "a palace restored from what was set aside");
    arena.run(&["restore", "2", "--yes"]).expect(0);
    sql(&aside, "DELETE FROM embedding_metadata WHERE id = 3;");
    arena.run(&["restore", "1", "--plan"]).expect(0).says("and that comes back as well");
    fs::remove_dir_all(aside.join(&segments[1])).expect("a segment");
    let run = refuses(&arena, &RESTORE, 5, "cannot be restored");
    for path in [&backup, &aside] {
        assert!(run.stderr.contains(&*path.to_string_lossy()), "{} is not named: {run:#?}", path.display());
    }
    fs::remove_dir_all(&backup).expect("a backup");
    fs::remove_dir_all(&aside).expect("what was set aside");
    refuses(&arena, &RESTORE, 5, "cannot be restored");
}

/// Its journal was beside the old database; it comes back as whoever opens it would have seen it.
#[test]
fn torn_palace_comes_back_torn() {
    for (what, tear) in [
        ("a hot journal", make_hot as fn(&Path)),
        ("a log", |palace| make_wal(palace, "UPDATE embedding_metadata SET float_value = 0.5 WHERE key = 'third';")),
    ] {
        let arena = Arena::new("1.5.9");
        tear(&arena.palace());
        let (before, content) = (Tree::of(&arena.palace()), Content::of(&arena.palace()));
        arena.run(&REBUILD).expect(0);
        let rebuilt = Tree::of(&arena.palace());
        arena.run(&RESTORE).expect(0);
        content.assert_equals(&Content::of(&arena.palace()), what);
        let now = Tree::of(&arena.palace());
        let changed = before.difference(&now, |one, two| one == two);
        let is_database = |line: &String| line.starts_with("chroma.sqlite3");
        assert!(changed.iter().all(is_database), "{what}: {changed:?}");
        assert!(SIBLINGS.iter().all(|name| !now.top().contains(*name)), "{what} is still there");
        assert_eq!(codes(&arena), Vec::<String>::new(), "{what}");
        arena.run(&["restore", "2", "--yes"]).expect(0);
        rebuilt.assert_equals(&Tree::of(&arena.palace()), what);
    }
}

/// A torn database must not come back without its journal, nor with one that is not its own.
#[test]
fn torn_database_comes_back_without_its_journal() {
    let torn = || {
        let arena = Arena::new("1.5.9");
        make_hot(&arena.palace());
        arena.run(&REBUILD).expect(0);
        let parts = ["backup", "aside"].map(|part| folder(&arena, "0001").join(part));
        (arena, parts)
    };
    let (arena, [backup, _]) = torn();
    fs::write(backup.join("chroma.sqlite3"), [7; 8192]).expect("a file");
    refuses(&arena, &RESTORE, 5, "cannot be rolled back");
    let (arena, [backup, aside]) = torn();
    fs::remove_file(backup.join("chroma.sqlite3-journal")).expect("a journal");
    let database = fs::File::options().append(true).open(aside.join("chroma.sqlite3"));
    database.and_then(|mut file| file.write_all(&[0; 4096])).expect("a file that can be written to");
    refuses(&arena, &RESTORE, 5, "its journal does not fit any more");
    fs::remove_file(aside.join("chroma.sqlite3-journal")).expect("a journal");
    refuses(&arena, &RESTORE, 5, "chroma.sqlite3-journal is missing");
    // Somebody has the copy open, or was killed while he had.
    let arena = Arena::new("1.5.9");
    arena.run(&REBUILD).expect(0);
    make_hot(&folder(&arena, "0001").join("backup"));
    arena.run(&["restore", "1", "--plan"]).expect(0).says("somebody left chroma.sqlite3-journal there");
}

/// A palace that somebody tears after a rebuild: its journal must not stay beside the database that comes back.
#[test]
fn journal_of_the_present_database_stays_beside_the_old_one() {
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    arena.run(&REBUILD).expect(0);
    make_hot(&arena.palace());
    let content = Content::of(&arena.palace());
    comes_back(&arena, &before, "a palace restored over a torn one");
    arena.run(&["restore", "2", "--yes"]).expect(0);
    content.assert_equals(&Content::of(&arena.palace()), "the torn one again");
}

/// The present palace is broken or gone, which is when a restore is needed most.
#[test]
fn palace_that_cannot_be_read_keeps_the_old_one_away() {
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    arena.run(&REBUILD).expect(0);
    let broken = fork_with_keep(&arena);
    fs::write(broken.database(), b"").expect("a file");
    broken.run(&RESTORE).expect(0).says("cannot be read");
    let is_back = |arena: &Arena, what: &str| {
        let (now, mut lost) = (Tree::of(&arena.palace()), before.clone());
        lost.0.retain(|path, node| now.0.get(path) != Some(node));
        assert!(lost.0.is_empty(), "{what}: {:?}", lost.top());
    };
    is_back(&broken, "a palace restored over an empty file");
    let gone = fork_with_keep(&arena);
    fs::remove_file(gone.database()).expect("a database");
    fs::write(gone.palace().join("chroma.sqlite3-journal"), b"whose?").expect("a file");
    refuses(&gone, &RESTORE, 5, "chroma.sqlite3-journal");
    fs::remove_file(gone.palace().join("chroma.sqlite3-journal")).expect("a file");
    gone.run(&RESTORE).expect(0);
    is_back(&gone, "a palace restored where none was");
    refuses(&gone, &["restore", "2", "--yes"], 2, "has replaced nothing");
}

#[test]
fn operation_that_replaced_nothing_is_restored() {
    let arena = Arena::new("1.5.9");
    refuses(&arena, &["restore", "1", "--plan"], 2, "there is no operation 1");
    refuses(&arena, &["restore", "1", "--yes"], 2, "there is no operation 1");
    arena.run(&REBUILD).expect(0);
    refuses(&arena, &["restore", "7", "--yes"], 2, "there is no operation 7");
    refuses(&arena, &["restore", "1"], 2, "nobody is here to ask");
    if !Strace::is_here("a restore of what was cut short") {
        return;
    }
    kill(&arena, &REBUILD, &"pwrite64:100".parse().expect("a point"));
    refuses(&arena, &["restore", "2", "--plan"], 4, "was cut short");
    // As with every verb that changes something, what was cut short comes first.
    arena.run(&["restore", "2", "--yes"]).expect(2).says("rolled back").says("has replaced nothing");
    refuses(&arena, &["restore", "2", "--plan", "--json"], 2, "has replaced nothing");
}

/// What is lost from view is counted: records that were written since.
#[test]
fn records_that_go_out_of_view_are_not_told_of() {
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    arena.run(&REBUILD).expect(0);
    let rename = "UPDATE embeddings SET embedding_id = embedding_id || '-new' WHERE id IN (3, 5);";
    sql(&arena.palace(), rename);
    let plan = arena.run(&["restore", "1", "--plan", "--json"]).expect(0).json();
    let alone = |side: &str| {
        let holdings = plan[side].as_array().expect("collections").iter();
        holdings.map(|one| one["alone"].as_u64().expect("a number")).sum::<u64>()
    };
    assert_eq!((alone("then"), alone("now")), (2, 2), "{plan:#}");
    arena.run(&["restore", "1", "--plan"]).expect(0).says("will not be in the palace then");
    comes_back(&arena, &before, "a palace that was written to");
    let kept = folder(&arena, "0002").join("backup");
    assert!(read(&kept.join("chroma.sqlite3")).is_ok_and(|bytes| !bytes.is_empty()), "what was written since is gone");
}

/// There is no room for what comes back beside what is there.
#[test]
fn restore_begins_on_a_disk_that_is_too_small() {
    let Some(mount) = Mount::tmpfs("16m", "a restore without room") else { return };
    let arena = Arena::new("1.5.9");
    let palace = mount.path().join("palace");
    copy_tree(&arena.palace(), &palace);
    mount.run(&arena, "palace", &REBUILD).expect(0);
    fs::write(mount.path().join("filler"), vec![7; 5 << 20]).expect("room");
    let before = Tree::of(&palace);
    mount.run(&arena, "palace", &RESTORE).expect(1).says("bytes free");
    before.assert_untouched(&Tree::of(&palace), "a restore without room");
}

/// chromadb sees what it saw before.
#[test]
fn chromadb_sees_another_palace_after_a_restore() {
    let Some(judge) = Judge::here("chromadb's view of a restored palace") else { return };
    for version in ["0.6.3", "1.5.9"] {
        let arena = Arena::new(version);
        let before = judge.dump(&arena, "before");
        arena.run(&REBUILD).expect(0);
        judge.ask(&arena, &["append"], &[&arena.palace()]);
        arena.run(&RESTORE).expect(0);
        judge.compare(&arena, &before, &judge.dump(&arena, "after"), &[]);
        judge.ask(&arena, &["exercise"], &[&arena.palace()]);
    }
}

fn codes(arena: &Arena) -> Vec<String> {
    let found = check(arena, Depth::Deep).into_iter().filter(|finding| !is_tolerated(finding));
    found.map(|finding| finding.code).collect()
}

/// After a restore the palace's indexes have their old names again, and go on under them.
#[test]
fn index_that_came_back_and_went_on_is_overwritten() {
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    arena.run(&REBUILD).expect(0);
    comes_back(&arena, &before, "the first time");
    let level0 = segment_of(&arena.palace(), DRAWERS).join("data_level0.bin");
    let mut bytes = read(&level0).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&level0, bytes).expect("a file");
    refuses(&arena, &RESTORE, 5, "palacekeeper rebuild first");
    arena.run(&REBUILD).expect(0);
    comes_back(&arena, &before, "the second time");
}
