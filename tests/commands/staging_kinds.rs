//! Stores of other kinds, built elsewhere: to `sqlite_exact` and back, and out of an export.

use crate::support::palace::{
    Arena, BINARY, Content, Injection, Mount, RECOVER, Record, Run, Strace, Tree, calls_of, kill,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A command that builds in a directory, in small steps.
fn building_in<'a>(directory: &'a Path, command: &[&'a str]) -> Vec<&'a str> {
    let directory = directory.to_str().expect("a path of a test is text");
    [command, &["--yes", "--accept-loss", "--batch-bytes", "100000", "--staging", directory]].concat()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("an entry").path()).collect()
}

#[track_caller]
fn assert_same_records(before: &Content, palace: &Path) {
    let differences = before.record_differences_by(&Content::of(palace), Record::is_kept_in);
    assert!(differences.is_empty(), "{differences:?}");
}

#[test]
fn store_of_another_kind_that_was_built_elsewhere_is_another_one() {
    let Some(far) = Mount::tmpfs("64m", "a migration on another file system") else { return };
    let directory = far.path().to_str().expect("a path of a test is text");
    let arena = Arena::new("1.5.9");
    let near = arena.fork();
    for (target, code) in [("exact", 3), ("chroma-1.5", 0)] {
        let command = ["migrate", "--to", target];
        let plan = arena.run(&[&command[..], &["--plan", "--json", "--staging", directory]].concat());
        let plan = plan.expect(code).json();
        assert_eq!(plan["staging"]["directory"], directory, "{plan}");
        arena.run(&building_in(far.path(), &command)).expect(0);
        near.run(&[&command[..], &["--yes", "--accept-loss"]].concat()).expect(0);
        assert!(entries(far.path()).is_empty(), "{target}: {:?}", entries(far.path()));
    }
    assert_same_records(&Content::of(&near.palace()), &arena.palace());
    arena.run(&["check", "--deep"]).expect(0);
    arena.run(&["sweep", "1", "2", "--yes", "--accept-loss"]).expect(0);
    assert!(!arena.operation().exists(), "an operation with an annex looks as if a stranger had been in its folder");
}

/// The export itself stays on the palace's disk; what is made of it for reading does not.
#[test]
fn import_that_was_built_elsewhere_lacks_a_record() {
    let Some(far) = Mount::tmpfs("64m", "an import on another file system") else { return };
    let arena = Arena::new("1.5.9");
    let (export, new) = (arena.root().join("export.jsonl"), arena.root().join("new"));
    let [export, palace] = [&export, &new].map(|path| path.to_str().expect("a path of a test is text"));
    arena.run(&["export", "--to", export]).expect(0);
    let run = |directory: &Path| {
        let mut command = Command::new(BINARY);
        command.args(["--palace", palace]).args(building_in(directory, &["import", export]));
        arena.confine(&mut command);
        Run::of(&mut command)
    };
    run(&arena.root().join("nowhere")).expect(2).says("Nothing was touched");
    assert!(!new.exists(), "a palace was made for nothing");
    run(far.path()).expect(0);
    assert_same_records(&Content::of(&arena.palace()), &new);
    assert!(entries(far.path()).is_empty(), "{:?}", entries(far.path()));
    let folder = arena.root().join("new.keep/0001-import");
    assert_eq!(Tree::of(&folder).top(), ["aside", "journal", "report.json"].map(str::to_owned).into());
}

/// Neither an error nor a kill on the way leaves anything behind, in the palace or elsewhere.
#[test]
fn migration_to_another_kind_that_is_cut_short_leaves_something_behind() {
    if !Strace::is_here("a migration that is cut short") {
        return;
    }
    let (arena, far) = (Arena::new("1.5.9"), tempfile::tempdir().expect("a directory"));
    for target in ["exact", "chroma-1.5"] {
        let command = building_in(far.path(), &["migrate", "--to", target]);
        let (run, calls) = calls_of(&arena.fork(), &command);
        run.expect(0);
        let is_bring = |line: &str| line.contains("/.palacekeeper-") && line.contains("/staging/");
        let bring = calls.iter().find(|call| call.point.call == "renameat2" && is_bring(&call.line));
        let point = &bring.expect("the database is brought").point;
        let [failing, killed] = [arena.fork(), arena.fork()];
        let before = [&failing, &killed].map(|arena| Tree::of(&arena.palace()));
        let landed = Strace(&failing).inject(&command, &[Injection::Error(point.clone(), "EIO")]);
        assert!(landed.has_fired(), "{landed:#?}");
        landed.run.expect(1).says("rolled back");
        kill(&killed, &command, point);
        assert_eq!(entries(far.path()).len(), 1, "{target}: the kill came too early or too late");
        killed.run(&RECOVER).expect(0);
        for (arena, before) in [failing, killed].iter().zip(before) {
            before.assert_untouched(&Tree::of(&arena.palace()), target);
            assert_eq!(Tree::of(&arena.operation()).top(), ["journal", "report.json"].map(str::to_owned).into());
        }
        assert!(entries(far.path()).is_empty(), "{target}: {:?}", entries(far.path()));
        arena.run(&["migrate", "--to", target, "--yes", "--accept-loss"]).expect(0);
    }
}
