//! An import minds what it finds: it makes nothing that it does not need, and takes nothing that is somebody's.

use crate::support::palace::{Arena, BINARY, Run, Strace, Tree, kill};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// A place without a palace, and an export of a real one.
fn place() -> (Arena, PathBuf) {
    let arena = Arena::new("1.5.9");
    let lines = arena.root().join("lines");
    fs::write(&lines, arena.run(&["export"]).expect(0).stdout).expect("a file");
    fs::remove_dir_all(arena.palace()).expect("it was there");
    (arena, lines)
}

#[test]
fn plan_of_an_import_writes_something() {
    let (arena, lines) = place();
    let before = Tree::of(arena.root()).top();
    arena.run(&["import", "--plan", lines.to_str().expect("a path")]).expect(0);
    assert_eq!(Tree::of(arena.root()).top(), before);
    assert_eq!(Tree::of(&arena.root().join("tmp")).top(), [].into(), "temporary files");
}

/// Whoever was moved away by MemPalace can be put back only while nothing stands in its place.
#[test]
fn refused_import_leaves_a_directory() {
    let (arena, lines) = place();
    let garbage = arena.root().join("garbage");
    fs::write(&garbage, "no export\n").expect("a file");
    arena.run(&["import", "--yes", garbage.to_str().expect("a path")]).expect(3);
    assert!(!arena.palace().exists(), "a directory was left");
    let other = Arena::new("1.5.9");
    fs::rename(other.palace(), arena.root().join("palace.old")).expect("they are on one file system");
    arena.run(&["import", "--yes", lines.to_str().expect("a path")]).expect(5);
    assert!(!arena.palace().exists(), "a directory was left");
    arena.run(&["repair", "--yes"]).expect(0);
    assert!(arena.database().exists(), "the palace is not back");
}

/// I16: what was true before the lock was taken need not be true behind it.
#[test]
fn store_that_came_while_the_lock_was_waited_for_gets_company() {
    let (arena, lines) = place();
    let other = Arena::new("1.5.9");
    other.run(&["migrate", "--to", "exact", "--yes", "--accept-loss"]).expect(0);
    fs::create_dir(arena.palace()).expect("a directory");
    fs::create_dir(arena.keep()).expect("a directory");
    let lock = fs::File::create(arena.keep().join("lock")).expect("a file");
    lock.lock().expect("nobody else has it");
    let (from, to) = (other.palace().join("sqlite_exact.sqlite3"), arena.palace().join("sqlite_exact.sqlite3"));
    let run = thread::scope(|scope| {
        let run = scope.spawn(|| arena.run(&["import", "--yes", lines.to_str().expect("a path")]));
        thread::sleep(Duration::from_millis(400));
        fs::copy(from, to).expect("a copy");
        lock.unlock().expect("it was locked");
        run.join().expect("it does not panic")
    });
    run.expect(2).says("has a store already");
    assert!(!arena.database().exists(), "the palace has two stores");
}

#[test]
fn check_passes_over_an_import_that_was_cut_short() {
    if !Strace::is_here("an import that is cut short") {
        return;
    }
    let (arena, lines) = place();
    kill(&arena, &["import", "--yes", lines.to_str().expect("a path")], &"fsync:10".parse().expect("a point"));
    arena.run(&["status"]).expect(4);
    arena.run(&["check"]).expect(4).says("operation-interrupted");
    arena.run(&["recover"]).expect(0);
}

fn run_on(arena: &Arena, palace: &Path, arguments: &[&str]) -> Run {
    let mut command = Command::new(BINARY);
    command.arg("--palace").arg(palace).args(arguments);
    arena.confine(&mut command);
    Run::of(&mut command)
}

/// I13: what is in the folder of one operation is no palace for another one.
#[test]
fn keep_is_taken_for_a_palace() {
    let arena = Arena::new("1.5.9");
    arena.run(&["rebuild", "--yes"]).expect(0);
    let before = Tree::of(&arena.keep());
    let backup = arena.operation().join("backup");
    for (palace, verb) in [(&backup, "rebuild"), (&backup, "repair"), (&arena.keep(), "rebuild")] {
        run_on(&arena, palace, &[verb, "--yes"]).expect(2);
        before.assert_untouched(&Tree::of(&arena.keep()), verb);
    }
    run_on(&arena, &backup, &["check"]).expect(0);
}

/// I13: a directory that only has the name of a keep is refused before anything in it is touched.
#[test]
fn stranger_in_the_keep_is_removed_before_it_is_refused() {
    let arena = Arena::new("1.5.9");
    fs::create_dir_all(arena.keep().join(".scratch-mine")).expect("a directory");
    for name in [".scratch-mine/diary", "lock", "readme"] {
        fs::write(arena.keep().join(name), "mine").expect("a file");
    }
    let before = Tree::of(arena.root());
    arena.run(&["rebuild", "--yes"]).expect(5).says("did not make: readme");
    before.assert_untouched(&Tree::of(arena.root()), "a keep of somebody else's");
}
