//! A new store that is built elsewhere and brought over, on real file systems, and what can go wrong with that.

use crate::support::palace::{
    Arena, BINARY, Call, Content, Ending, Ground, Indexes, Injection, Mount, Point, RECOVER, Random, Record, Run,
    Strace, Sweep, Tree, calls_of, copy_tree, kill, make_hot, overwrite, sample, say, segment_directories, segment_of,
    sql, try_to_kill,
};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A command that builds in a directory, in small steps.
fn building_in(verb: &str, directory: &Path) -> Vec<String> {
    let directory = directory.to_str().expect("a path of a test is text");
    [verb, "--yes", "--batch-bytes", "100000", "--staging", directory].map(str::to_owned).into()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

fn run(arena: &Arena, command: &[String]) -> Run {
    arena.run(&words(command))
}

fn census(ground: &Ground, command: &[String]) -> Vec<Call> {
    let (run, calls) = calls_of(&ground.fork(), &words(command));
    run.expect(0);
    calls
}

/// The call that takes the new database out of its annex.
fn bring(calls: &[Call]) -> Point {
    find(calls, "renameat2", &["/.palacekeeper-", "/staging/chroma.sqlite3"])
}

fn find(calls: &[Call], name: &str, parts: &[&str]) -> Point {
    let is_it = |call: &&Call| call.point.call == name && parts.iter().all(|part| call.line.contains(part));
    calls.iter().find(is_it).unwrap_or_else(|| panic!("no {name} of {parts:?}")).point.clone()
}

#[track_caller]
fn assert_empty(directory: &Path, what: &str) {
    assert!(Tree::of(directory).0.is_empty(), "{what}: {:?}", Tree::of(directory).top());
}

/// Makes an element link to one that does not exist, so that the index has to be built.
fn damage_an_index(palace: &Path) {
    overwrite(&segment_of(palace, "mempalace_drawers").join("data_level0.bin"), 4, &[0xff; 4]);
}

/// Whether a log of strace holds the making of a copy of the new database.
fn is_copied(log: &str) -> bool {
    log.lines().any(|line| line.contains("/staging/chroma.sqlite3.part") && line.contains("O_CREAT"))
}

#[test]
fn store_that_was_built_elsewhere_is_another_one() {
    for version in ["0.6.3", "1.5.9"] {
        let Some(far) = Mount::tmpfs("64m", "staging on another file system") else { return };
        for indexes in [Indexes::Copied, Indexes::Built] {
            let arena = Arena::new(version);
            if indexes == Indexes::Built {
                damage_an_index(&arena.palace());
                make_hot(&arena.palace()); // and is read through a copy, which lies in the annex
            }
            let ground = Ground::new(arena, indexes);
            let arena = ground.fork();
            run(&arena, &building_in("rebuild", far.path())).expect(0);
            assert_eq!(ground.assert_ended(&arena), Ending::New, "{version}");
            assert_empty(far.path(), version);
        }
    }
}

#[test]
fn repair_that_was_built_elsewhere_mends_something_else() {
    let Some(far) = Mount::tmpfs("64m", "staging on another file system") else { return };
    let arena = Arena::new("1.5.9");
    damage_an_index(&arena.palace());
    sql(&arena.palace(), "DELETE FROM embedding_fulltext_search WHERE rowid % 3 = 0");
    let (content, segments) = (Content::of(&arena.palace()), segment_directories(&arena.palace()));
    let sidecars = Tree::of(&arena.palace()).sidecars(&segments);
    let plan = arena.run(&["repair", "--plan", "--json", "--staging", far.path().to_str().expect("text")]);
    let text = plan.expect(3).stdout;
    assert!(text.contains("amend a copy") && text.contains("bring annex/"), "{text}");
    run(&arena, &building_in("repair", far.path())).expect(0);
    let now = Content::of(&arena.palace());
    let differences = content.record_differences_by(&now, Record::is_kept_in);
    assert!(differences.is_empty(), "{differences:?}");
    let segments = segment_directories(&arena.palace());
    sidecars.assert_equals(&Tree::of(&arena.palace()).sidecars(&segments), "sidecars");
    arena.run(&["check", "--deep"]).expect(0);
    assert_empty(far.path(), "after the repair");
}

#[test]
fn migration_that_was_built_elsewhere_changes_a_record() {
    let Some(far) = Mount::tmpfs("64m", "a migration on another file system") else { return };
    let arena = Arena::new("0.6.3");
    let before = Content::of(&arena.palace());
    let command = [building_in("migrate", far.path()), ["--to", "chroma-1.5"].map(str::to_owned).into()].concat();
    run(&arena, &command).expect(0);
    let differences = before.record_differences_by(&Content::of(&arena.palace()), Record::is_kept_in);
    assert!(differences.is_empty(), "{differences:?}");
    arena.run(&["check", "--deep"]).expect(0);
    assert_empty(far.path(), "after the migration");
}

/// A copy would need the room that was to be spared.
#[test]
fn store_is_copied_on_one_file_system() {
    if !Strace::is_here("what is renamed and what is copied") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let near = arena.root().join("tmp");
    let (run, log) = Strace(&arena).watch("all", &words(&building_in("rebuild", &near)));
    run.expect(0);
    assert!(log.lines().any(|line| line.contains("/.palacekeeper-") && line.contains("/staging/chroma.sqlite3\"")));
    assert!(!is_copied(&log), "it was copied");
    assert_empty(&near, "after the rebuild");
}

/// EXDEV, and only EXDEV, leads to a copy.
#[test]
fn error_of_the_rename_is_answered_with_a_copy() {
    if !Strace::is_here("errors of a rename") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let near = tempfile::tempdir_in(ground.fork().root().parent().expect("it has one")).expect("a directory");
    let command = building_in("rebuild", near.path());
    let calls = census(&ground, &command);
    for (error, text) in [
        ("EXDEV", ""),
        ("EIO", "Input/output error"),
        ("EACCES", "Permission denied"),
        ("ENOSPC", "No space left"),
        ("EPERM", "not permitted"),
        ("EBUSY", "busy"),
    ] {
        let arena = ground.fork();
        let injection = Injection::Error(bring(&calls), error);
        let landed = Strace(&arena).inject_among(&words(&command), &injection, "all");
        assert!(landed.has_fired(), "{landed:#?}");
        let is_copied = is_copied(&landed.log);
        assert_eq!(is_copied, error == "EXDEV", "{error}");
        assert_empty(near.path(), error);
        if is_copied {
            landed.run.expect(0);
            assert_eq!(ground.assert_ended(&arena), Ending::New, "{error}");
        } else {
            landed.run.expect(1).says(text);
            assert_eq!(ground.assert_ended(&arena), Ending::Old, "{error}");
        }
    }
    // A rename that never leaves the palace's file system has no business with EXDEV.
    for parts in [&["/backup.part", "/backup"][..], &["/staging/", "/palace/"]] {
        let arena = ground.fork();
        let landed =
            Strace(&arena).inject(&words(&command), &[Injection::Error(find(&calls, "renameat2", parts), "EXDEV")]);
        assert!(landed.has_fired(), "{landed:#?}");
        landed.run.expect(1).says("cross-device");
        assert_eq!(ground.assert_ended(&arena), Ending::Old, "{parts:?}");
        assert_empty(near.path(), "rolled back");
    }
}

/// A rollback that cannot finish names what it could not touch, keeps all of it, and goes on later.
#[test]
fn rollback_that_cannot_finish_loses_its_journal() {
    if !Strace::is_here("errors of a rollback") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let near = tempfile::tempdir_in(ground.fork().root().parent().expect("it has one")).expect("a directory");
    let command = building_in("rebuild", near.path());
    let calls = census(&ground, &command);
    let point = bring(&calls);
    let place = calls.iter().position(|call| call.point == point).expect("it was found there");
    let unlinks = calls[..place].iter().filter(|call| call.point.call == "unlink").count();
    let rmdirs = calls[..place].iter().filter(|call| call.point.call == "rmdir").count();
    // The first file that is removed is the reserve; those behind it are what the steps made.
    for (call, nth) in
        [("unlink", unlinks + 1), ("unlink", unlinks + 2), ("unlink", unlinks + 30), ("rmdir", rmdirs + 1)]
    {
        let arena = ground.fork();
        let fails = Injection::ErrorFrom(Point { call: call.into(), nth }, "EIO");
        let landed = Strace(&arena).inject(&words(&command), &[Injection::Error(point.clone(), "EACCES"), fails]);
        let said = landed.run.expect(4).says("Input/output error").says("recover").stderr;
        for path in [arena.operation(), near.path().join(".palacekeeper-")] {
            assert!(said.contains(path.to_str().expect("text")), "{} is not named: {said}", path.display());
        }
        arena.run(&["status"]).expect(4);
        assert!(arena.operation().join("journal").exists(), "{call}:{nth}: the journal is gone");
        ground.assert_complete(&arena);
        assert_eq!(ground.assert_recovers(&arena), Ending::Old, "{call}:{nth}");
        assert_empty(near.path(), "recovered");
    }
}

/// Real disks that fill up: the one that is built on, and the palace's while the new database is brought to it.
#[test]
fn disk_that_fills_up_on_either_side_leaves_something_behind() {
    if !Strace::is_here("disks that fill up") {
        return;
    }
    for fills_far in [true, false] {
        let Some(far) = Mount::tmpfs("24m", "staging on a disk that fills up") else { return };
        let Some(here) = Mount::tmpfs("24m", "a palace on a disk that fills up") else { return };
        let arena = Arena::new("1.5.9");
        let palace = here.path().join("palace");
        copy_tree(&arena.palace(), &palace);
        let before = Tree::of(&palace);
        let folder = here.path().join("palace.keep/0001-rebuild");
        let (full, has_come): (&Mount, Box<dyn Fn() -> bool + Sync>) = match fills_far {
            true => (&far, Box::new(|| annexes(far.path()).iter().any(|annex| annex.join("chroma.sqlite3").exists()))),
            false => (&here, Box::new(|| folder.join("staging/chroma.sqlite3.part").exists())),
        };
        let run = run_while_filling(&arena, &palace, (far.path(), full.path()), &*has_come);
        run.expect(1).says("rolled back");
        fs::remove_file(full.path().join("ballast")).expect("the disk was filled");
        before.assert_untouched(&Tree::of(&palace), "rolled back");
        assert_eq!(
            Tree::of(&folder).top(),
            ["journal", "report.json"].map(str::to_owned).into(),
            "in the operation's folder"
        );
        assert_empty(far.path(), "rolled back");
        here.run(&arena, "palace", &RECOVER).expect(0).says("Nothing was cut short.");
    }
}

fn annexes(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains("/.palacekeeper-")).collect()
}

/// Runs a rebuild, slowed down so that a disk can be filled as soon as something has come.
fn run_while_filling(
    arena: &Arena,
    palace: &Path,
    (far, full): (&Path, &Path),
    has_come: &(dyn Fn() -> bool + Sync),
) -> Run {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| {
            while !has_come() {
                if is_over.load(Ordering::Relaxed) {
                    return false;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            let mut ballast = fs::File::create(full.join("ballast")).expect("a file");
            for block_bytes in [1 << 16, 1 << 12] {
                while ballast.write(&vec![0; block_bytes]).is_ok_and(|written| written == block_bytes) {}
            }
            true
        });
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,copy_file_range,sendfile"]);
        command.args(["-e", "inject=pwrite64:delay_enter=4000"]);
        command.args(["-e", "inject=copy_file_range,sendfile:delay_enter=150000"]);
        command.arg(BINARY).arg("--palace").arg(palace).args(building_in("rebuild", far));
        arena.confine(&mut command);
        let run = Run::of(&mut command);
        is_over.store(true, Ordering::Relaxed);
        assert!(filler.join().expect("the filler does not panic"), "too fast to fill the disk: {run:#?}");
        run
    })
}

/// Whether the annex is there when the operation is recovered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Far {
    /// It was unmounted, and is mounted again.
    Back,
    /// It was unmounted.
    Gone,
}

/// Nothing of the palace needs the annex: an operation ends whole without it, and says what it could not remove.
#[test]
fn file_system_that_is_unmounted_costs_the_palace() {
    if !Strace::is_here("a file system that is unmounted") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let Some(disk) = Mount::tmpfs("64m", "a file system that is unmounted") else { return };
    let stored = disk.path().join("stored");
    fs::create_dir(&stored).expect("there is room");
    let point = disk.path().join("point");
    fs::create_dir(&point).expect("there is room");
    let command = building_in("rebuild", &point);
    let calls = {
        let _mounted = Mount::bind(&stored, &point);
        census(&ground, &command)
    };
    let moments = [
        (find(&calls, "pwrite64", &["/.palacekeeper-"]), Ending::Old),
        (find(&calls, "fsync", &["/staging/chroma.sqlite3.part"]), Ending::Old),
        (find(&calls, "linkat", &["/aside/"]), Ending::Old),
        (find(&calls, "rename", &["/palace/chroma.sqlite3"]), Ending::New),
        (find(&calls, "unlink", &["/.palacekeeper-", "/marker"]), Ending::New),
    ];
    for (moment, ending) in moments {
        for far in [Far::Gone, Far::Back] {
            let arena = ground.fork();
            {
                let _mounted = Mount::bind(&stored, &point);
                kill(&arena, &words(&command), &moment);
            }
            assert_eq!(annexes(&stored).len(), 1, "{moment}: the kill came too early or too late");
            let mounted = (far == Far::Back).then(|| Mount::bind(&stored, &point));
            let run = arena.run(&RECOVER).expect(0);
            assert_eq!(run.stdout.contains("out of reach"), far == Far::Gone, "{moment}: {run:#?}");
            assert_eq!(ground.assert_ended(&arena), ending, "{moment} {far:?}");
            drop(mounted);
            let left = annexes(&stored);
            assert_eq!(left.len(), usize::from(far == Far::Gone), "{moment} {far:?}");
            left.iter().for_each(|annex| fs::remove_dir_all(annex).expect("a person may remove it"));
            assert_empty(&stored, "the rest");
        }
    }
}

/// Going on needs what was built; without it the operation goes back, and does not build in the mount point.
#[test]
fn resume_without_its_file_system_builds_in_the_mount_point() {
    if !Strace::is_here("a resume without its file system") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let Some(disk) = Mount::tmpfs("64m", "a resume without its file system") else { return };
    let [stored, point] = ["stored", "point"].map(|name| disk.path().join(name));
    fs::create_dir(&stored).and_then(|()| fs::create_dir(&point)).expect("there is room");
    let command = building_in("rebuild", &point);
    let calls = {
        let _mounted = Mount::bind(&stored, &point);
        census(&ground, &command)
    };
    let begun = Point { call: "mkdir".into(), nth: find(&calls, "mkdir", &["/.palacekeeper-"]).nth };
    for moment in [begun, find(&calls, "pwrite64", &["/.palacekeeper-"])] {
        let arena = ground.fork();
        {
            let _mounted = Mount::bind(&stored, &point);
            kill(&arena, &words(&command), &moment);
        }
        arena.run(&["recover", "--resume"]).expect(1).says("out of reach");
        assert_empty(&point, "the mount point");
        assert_eq!(ground.assert_ended(&arena), Ending::Old, "{moment}");
        annexes(&stored).iter().for_each(|annex| fs::remove_dir_all(annex).expect("a person may remove it"));
    }
}

/// I8, I9 and I12 across two file systems: a kill in the rebuild, and another one in what recovers it.
#[test]
fn kill_between_two_file_systems_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("kills between two file systems") {
        return;
    }
    let arena = Arena::new("1.5.9");
    damage_an_index(&arena.palace());
    make_hot(&arena.palace());
    let ground = Ground::new(arena, Indexes::Built);
    let Some(far) = Mount::tmpfs("256m", "kills between two file systems") else { return };
    let calls = census(&ground, &building_in("rebuild", far.path()));
    let mut random = Random::seeded();
    let second = ["write", "fsync", "unlink", "rmdir", "renameat2"];
    let mut pick = || Point { call: second[random.below(second.len())].into(), nth: 1 + random.below(8) };
    let jobs: Vec<_> = calls.iter().map(|call| (call.point.clone(), pick())).collect();
    let commit = calls.iter().position(|call| call.point.call == "linkat").expect("the old database is linked aside");
    let (before, after) = jobs.split_at(commit);
    let jobs = [sample(before, 50, &mut Random::seeded()), sample(after, 25, &mut Random::seeded())].concat();
    let (sweep, number, landed) = (Sweep::new("staging", "kill_between_two"), AtomicUsize::new(0), AtomicUsize::new(0));
    sweep.share(jobs, |(first, second)| {
        sweep.attempt(&[&first, &second], || {
            let arena = ground.fork();
            let directory = far.path().join(number.fetch_add(1, Ordering::Relaxed).to_string());
            fs::create_dir(&directory).expect("there is room");
            kill(&arena, &words(&building_in("rebuild", &directory)), &first);
            ground.assert_complete(&arena);
            if try_to_kill(&arena, &RECOVER, &second) {
                landed.fetch_add(1, Ordering::Relaxed);
                ground.assert_complete(&arena);
            }
            let ending = ground.assert_recovers(&arena);
            assert_empty(&directory, "after the recovery");
            ending
        });
    });
    say(&format!("kills between two file systems: the second landed {} times", landed.into_inner()));
    sweep.report("kills between two file systems");
}
