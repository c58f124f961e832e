//! Somebody else's work after an operation was cut short: it is never overwritten (I6), never deleted (I13), and
//! where it stands in the way, a person is told.

use crate::support::palace::{
    Arena, Call, Content, Point, REBUILD, RECOVER, RESUME, Strace, Tree, calls_of, kill, sql,
};
use std::fs;

/// Kills a rebuild at the first call of this name whose line, as strace prints it, holds this text.
fn cut_short(call: &str, text: &str) -> Option<Arena> {
    if !Strace::is_here("a stranger after a kill") {
        return None;
    }
    let arena = Arena::new("1.5.9");
    let (run, calls) = calls_of(&arena.fork(), &REBUILD);
    run.expect(0);
    let is_it = |one: &&Call| one.point.call == call && one.line.contains(text);
    let point: Point = calls.iter().find(is_it).expect("the rebuild makes such a call").point.clone();
    kill(&arena, &REBUILD, &point);
    Some(arena)
}

const WRITE: &str =
    "UPDATE embedding_metadata SET string_value = 'a stranger wrote this' WHERE key = 'wing' AND id = 1;";

fn has_the_strangers_write(arena: &Arena) -> bool {
    let content = Content::of(&arena.palace());
    content.tables["embedding_metadata"].iter().any(|line| line.text.contains("a stranger wrote this"))
}

/// MemPalace went on with the old palace, which nobody had touched yet.
#[test]
fn write_before_the_commit_is_undone_with_the_operation() {
    let Some(arena) = cut_short("copy_file_range", "/staging/") else { return };
    sql(&arena.palace(), WRITE);
    let now = Tree::of(&arena.palace());
    arena.run(&RECOVER).expect(0).says("rolled back");
    now.assert_untouched(&Tree::of(&arena.palace()), "the stranger's palace");
    assert!(has_the_strangers_write(&arena));
    arena.run(&REBUILD).expect(0);
    assert!(has_the_strangers_write(&arena), "the next rebuild carries it over");
}

/// Resuming would replace what was read with what was built from it, and the write in between would be gone.
#[test]
fn write_before_the_commit_is_lost_by_a_resume() {
    let Some(arena) = cut_short("copy_file_range", "/staging/") else { return };
    sql(&arena.palace(), WRITE);
    arena.run(&RESUME).expect(1).says("chroma.sqlite3").says("rolled back");
    arena.run(&["status"]).expect(0);
    assert!(has_the_strangers_write(&arena));
}

/// The commit is durable and the old database is not replaced yet: only forward is left, and forward is over the write.
#[test]
fn write_after_the_commit_is_overwritten() {
    let Some(arena) = cut_short("rename", "/chroma.sqlite3") else { return };
    sql(&arena.palace(), WRITE);
    let now = Tree::of(&arena.palace());
    for arguments in [&RECOVER[..], &RESUME, &REBUILD] {
        arena.run(arguments).expect(5).says("chroma.sqlite3");
        now.assert_untouched(&Tree::of(&arena.palace()), "the stranger's palace");
    }
    arena.run(&["status"]).expect(4).says("recover");
    assert!(has_the_strangers_write(&arena));
}

/// A live client's journal beside the old database: whoever made it is writing.
#[test]
fn journal_of_a_live_writer_is_orphaned_by_the_replacement() {
    let Some(arena) = cut_short("rename", "/chroma.sqlite3") else { return };
    let journal = arena.palace().join("chroma.sqlite3-journal");
    fs::write(&journal, "somebody's journal").expect("a file");
    arena.run(&RECOVER).expect(5);
    assert_eq!(fs::read(&journal).expect("still there"), b"somebody's journal");
    fs::remove_file(&journal).expect("it was there");
    arena.run(&RECOVER).expect(0).says("completed");
}

/// The name under which the operation was going to keep the old database is taken.
#[test]
fn file_in_the_way_is_overwritten() {
    let Some(arena) = cut_short("linkat", "/aside/") else { return };
    let taken = arena.operation().join("aside/chroma.sqlite3");
    fs::write(&taken, "somebody's file").expect("a file");
    for arguments in [&RESUME[..], &RECOVER] {
        arena.run(arguments).expect(5).says("chroma.sqlite3");
        assert_eq!(fs::read(&taken).expect("still there"), b"somebody's file", "{arguments:?}");
    }
    fs::remove_file(&taken).expect("it was there");
    arena.run(&RECOVER).expect(0).says("rolled back");
}

/// Sidecars change all the time, and are nobody's business here.
#[test]
fn changed_sidecar_stands_in_the_way_of_a_recovery() {
    for (call, text, outcome) in [("linkat", "/aside/", "rolled back"), ("rename", "/chroma.sqlite3", "completed")] {
        let Some(arena) = cut_short(call, text) else { return };
        let sidecar = arena.palace().join("replica.json");
        fs::write(&sidecar, "a new identity").expect("a file");
        fs::write(arena.palace().join("peers.json"), "a new file").expect("a file");
        fs::remove_file(arena.palace().join("corrupt_ids.txt")).expect("it was there");
        arena.run(&RECOVER).expect(0).says(outcome);
        assert_eq!(fs::read(&sidecar).expect("still there"), b"a new identity");
        assert!(arena.palace().join("peers.json").exists() && !arena.palace().join("corrupt_ids.txt").exists());
    }
}

/// Keep and palace name each other by place, not by path: both may be moved before the recovery.
#[test]
fn moved_palace_is_not_recovered() {
    for (call, text, outcome) in [("linkat", "/aside/", "rolled back"), ("rename", "/chroma.sqlite3", "completed")] {
        let Some(mut arena) = cut_short(call, text) else { return };
        let keep = arena.keep();
        arena.rename("moved");
        fs::rename(keep, arena.keep()).expect("the keep moves along");
        arena.run(&["status"]).expect(4);
        arena.run(&RECOVER).expect(0).says(outcome);
    }
}
