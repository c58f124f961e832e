//! Rebuilds real palaces of every supported chromadb and compares everything with everything.

use crate::support::palace::{
    Arena, Content, Strace, Tree, VERSIONS, assert_as_expected, assert_sound, make_hot, make_wal, segment_directories,
};
use std::collections::BTreeSet;

const REBUILD: [&str; 2] = ["rebuild", "--yes"];

/// I10: what was proved equal before the commit is equal for an independent reader after it.
#[test]
fn rebuild_loses_or_changes_a_row_a_vector_or_a_sidecar() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        assert_as_expected(&arena.palace(), version);
        let (before, content) = (Before::of(&arena), Content::of(&arena.palace()));
        arena.run(&REBUILD).expect(0).says("is completed");
        content.assert_equals(&Content::of(&arena.palace()), version);
        assert_as_expected(&arena.palace(), version);
        assert_sound(&arena.palace(), version);
        before.assert_kept(&arena, version);
    }
}

/// Writes that chromadb has acknowledged and not applied yet wait in the queue, in their order; and a larger palace.
#[test]
fn waiting_write_is_lost_or_applied_twice() {
    for fixture in ["chroma-1.5.9-killed", "chroma-1.5.9-survive"] {
        let arena = Arena::unpack(fixture);
        let (before, content) = (Before::of(&arena), Content::of(&arena.palace()));
        arena.run(&REBUILD).expect(0);
        content.assert_equals(&Content::of(&arena.palace()), fixture);
        before.assert_kept(&arena, fixture);
    }
}

#[test]
fn rebuild_of_a_rebuilt_palace_differs() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let content = Content::of(&arena.palace());
        arena.run(&REBUILD).expect(0);
        let between = Tree::of(&arena.palace()).store(&segment_directories(&arena.palace()));
        arena.run(&REBUILD).expect(0);
        content.assert_equals(&Content::of(&arena.palace()), version);
        let second = arena.keep().join("0002-rebuild");
        between
            .assert_equals(&Tree::of(&second.join("aside")), &format!("{version}: what the second rebuild replaced"));
        assert_eq!(Tree::of(&arena.keep()).top(), names(["0001-rebuild", "0002-rebuild", "lock"]), "{version}");
    }
}

#[test]
fn reading_verbs_write_something() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let before = Tree::of(arena.root());
        for verb in ["rebuild --plan", "rebuild --plan --json", "status", "log", "recover", "recover --plan"] {
            arena.run(&verb.split(' ').collect::<Vec<_>>()).expect(0);
            before.assert_untouched(&Tree::of(arena.root()), &format!("{version}: {verb}"));
        }
    }
}

/// I15: what is replaced in the end is, until then, never so much as opened for writing.
#[test]
fn rebuild_opens_a_file_of_the_palace_for_writing() {
    if !Strace::is_here("files opened for writing") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let (run, log) = Strace(&arena).watch("open,openat,openat2,creat", &REBUILD);
    run.expect(0);
    let palace = format!("\"{}/", arena.palace().display());
    let opened: Vec<_> = log.lines().filter(|line| line.contains(&palace)).collect();
    assert!(opened.iter().any(|line| line.contains("chroma.sqlite3\"")), "nothing was seen: {log}");
    let written =
        opened.into_iter().filter(|line| ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag)));
    assert_eq!(written.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn one_record_in_a_step_makes_another_palace() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let content = Content::of(&arena.palace());
        arena.run(&["rebuild", "--yes", "--batch-bytes", "1"]).expect(0);
        content.assert_equals(&Content::of(&arena.palace()), version);
        let log = arena.run(&["log", "1", "--json"]).expect(0).json();
        let steps = log["steps"].as_array().expect("steps").iter().map(|step| step["step"].as_str().expect("a step"));
        let copies = steps.filter(|step| step.starts_with("copy 1 records,")).count();
        let records: usize = content.tables["embeddings"].len();
        assert_eq!(copies, records, "{version}: steps of one record each");
    }
}

/// A writer was killed in the middle of a transaction: what counts is what was committed.
#[test]
fn hot_journal_is_not_rolled_back() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let content = Content::of(&arena.palace());
        make_hot(&arena.palace());
        let before = Before::of(&arena);
        arena.run(&REBUILD).expect(0);
        content.assert_equals(&Content::of(&arena.palace()), version);
        assert_sound(&arena.palace(), version);
        before.assert_kept(&arena, version);
        assert!(
            !arena.palace().join("chroma.sqlite3-journal").exists(),
            "{version}: a stale journal destroys the new store"
        );
    }
}

/// The last commits are in the log only.
#[test]
fn write_ahead_log_is_left_out() {
    let commits = "UPDATE embedding_metadata SET string_value = 'committed' WHERE key = 'wing' AND id < 9;
                   DELETE FROM embedding_metadata WHERE key = 'room' AND id = 3;";
    for version in VERSIONS {
        for with_index in [true, false] {
            let what = format!("{version}, shared memory: {with_index}");
            let arena = Arena::new(version);
            let stale = Content::of(&arena.palace());
            make_wal(&arena.palace(), commits);
            if !with_index {
                std::fs::remove_file(arena.palace().join("chroma.sqlite3-shm")).expect("it was there");
            }
            let (before, content) = (Before::of(&arena), Content::of(&arena.palace()));
            assert_ne!(
                stale.tables["embedding_metadata"], content.tables["embedding_metadata"],
                "nothing was committed"
            );
            arena.run(&REBUILD).expect(0);
            content.assert_equals(&Content::of(&arena.palace()), &what);
            assert_sound(&arena.palace(), &what);
            before.assert_kept(&arena, &what);
        }
    }
}

/// A palace before it is rebuilt: the store that must be kept, the sidecars that must stay.
struct Before {
    store: Tree,
    sidecars: Tree,
}

impl Before {
    fn of(arena: &Arena) -> Before {
        let segments = segment_directories(&arena.palace());
        let tree = Tree::of(&arena.palace());
        Before { store: tree.store(&segments), sidecars: tree.sidecars(&segments) }
    }

    /// The palace holds the sidecars as they were and nothing besides the new store; the keep holds the old store
    /// twice and nothing besides (I13).
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
        assert_eq!(
            Tree::of(&folder).top(),
            names(["aside", "backup", "journal", "report.json"]),
            "{what}: the operation's folder"
        );
        assert_eq!(Tree::of(&arena.keep()).top(), names(["0001-rebuild", "lock"]), "{what}: the keep");
        assert_eq!(Tree::of(arena.root()).top(), names(["home", "palace", "palace.keep", "tmp"]), "{what}");
        for place in ["home", "tmp"] {
            assert_eq!(Tree::of(&arena.root().join(place)).top(), names([]), "{what}: {place}");
        }
    }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}
