//! Kills a migration at the system calls that change a file, and its recovery, and goes on with one that is long.
//!
//! A failure is replayed by the line it prints. `PALACEKEEPER_FAULTS=all` runs in full what is sampled by default.

use crate::support::palace::{
    Arena, Call, Content, Ground, Indexes, Mount, Point, RECOVER, RESUME, Random, Scene, Strace, Sweep, Tree, calls_of,
    is_wanted, kill, sample, say, store_inodes, without_arrays,
};
use palacekeeper::disk::RealDisk;
use palacekeeper::journal::{self, Record};
use palacekeeper::ops::Step;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const BACK: [&str; 7] = ["migrate", "--to", "chroma-0.6", "--yes", "--accept-loss", "--batch-bytes", "100000"];
const FORTH: [&str; 6] = ["migrate", "--to", "chroma-1.5", "--yes", "--batch-bytes", "100000"];

/// I8, I9, I12: as of a rebuild. Here every table is written in another way, and indexes are built.
#[test]
fn kill_in_a_migration_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("kills in a migration") {
        return;
    }
    let sweep = Sweep::new("migrate_kill", "kill_in_a_migration");
    for (version, arguments) in [("1.5.9", &BACK[..]), ("0.6.3", &FORTH[..])] {
        let ground = Ground::new(Arena::new(version), Indexes::Migrated);
        let calls = points(&ground, arguments);
        let commit = calls.iter().position(|point| point.call == "linkat").expect("the old database is linked aside");
        let (before, after) = calls.split_at(commit);
        let mut random = Random::seeded();
        let wanted = [sample(before, 16, &mut random), sample(after, 14, &mut random)].concat();
        sweep.share(wanted, |point| {
            sweep.attempt(&[&point], || {
                let arena = ground.fork();
                kill(&arena, arguments, &point);
                ground.assert_complete(&arena);
                ground.assert_recovers(&arena)
            });
        });
    }
    sweep.report("kills in a migration");
}

/// The same where the new store is built on another file system, and brought over.
#[test]
fn kill_in_a_migration_between_two_file_systems_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("kills in a migration between two file systems") {
        return;
    }
    let Some(far) = Mount::tmpfs("256m", "kills in a migration between two file systems") else { return };
    let (sweep, number) = (Sweep::new("migrate_kill", "kill_in_a_migration_between_two"), AtomicUsize::new(0));
    for (version, arguments) in [("1.5.9", &BACK[..]), ("0.6.3", &FORTH[..])] {
        let building_in = |directory: &Path| -> Vec<String> {
            let staging = ["--staging", directory.to_str().expect("a path of a test is text")];
            arguments.iter().chain(&staging).map(|word| word.to_string()).collect()
        };
        let ground = Ground::new(Arena::new(version), Indexes::Migrated);
        let calls = points(&ground, &words(&building_in(far.path())));
        let commit = calls.iter().position(|point| point.call == "linkat").expect("the old database is linked aside");
        let (before, after) = calls.split_at(commit);
        let mut random = Random::seeded();
        let wanted = [sample(before, 12, &mut random), sample(after, 8, &mut random)].concat();
        sweep.share(wanted, |point| {
            sweep.attempt(&[&point], || {
                let arena = ground.fork();
                let directory = far.path().join(number.fetch_add(1, Ordering::Relaxed).to_string());
                fs::create_dir(&directory).expect("there is room");
                kill(&arena, &words(&building_in(&directory)), &point);
                ground.assert_complete(&arena);
                let ending = ground.assert_recovers(&arena);
                assert_eq!(Tree::of(&directory).top(), [].into(), "{}: what was built elsewhere", directory.display());
                ending
            });
        });
    }
    sweep.report("kills in a migration between two file systems");
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

#[test]
fn kill_in_the_recovery_of_a_migration_changes_how_it_ends() {
    if !Strace::is_here("kills in the recovery of a migration") {
        return;
    }
    let sweep = Sweep::new("migrate_kill", "kill_in_the_recovery_of_a_migration");
    let random = Mutex::new(Random::seeded());
    for (version, arguments) in [("1.5.9", &BACK[..]), ("0.6.3", &FORTH[..])] {
        let ground = Ground::new(Arena::new(version), Indexes::Migrated);
        let calls = points(&ground, arguments);
        let commit = calls.iter().position(|point| point.call == "linkat").expect("the old database is linked aside");
        let (before, after) = calls.split_at(commit);
        let pick = |all: &[Point], count| sample(all, count, &mut random.lock().expect("nobody panicked"));
        let moments = [pick(before, 3), pick(after, 3)].concat();
        sweep.share(moments, |moment| {
            if !is_wanted(&[&moment]) {
                return;
            }
            let arena = ground.fork();
            let store = store_inodes(&arena);
            kill(&arena, arguments, &moment);
            let scene = Scene::save(arena, &store);
            scene.restore();
            let (run, calls) = calls_of(scene.arena(), &RECOVER);
            run.expect(0);
            let wanted = ground.assert_ended(scene.arena());
            let calls: Vec<_> = calls.into_iter().map(|call| call.point).collect();
            for point in sample(&calls, 4, &mut random.lock().expect("nobody panicked")) {
                sweep.attempt(&[&moment, &point], || {
                    scene.restore();
                    kill(scene.arena(), &RECOVER, &point);
                    ground.assert_complete(scene.arena());
                    let ending = ground.assert_recovers(scene.arena());
                    assert_eq!(ending, wanted, "{moment}, then {point}");
                    ending
                });
            }
        });
    }
    sweep.report("kills in the recovery of a migration");
}

/// A migration in many steps is killed early, half-way and near its end. Going on does nothing again that was done.
#[test]
fn resumed_migration_does_again_what_was_done() {
    if !Strace::is_here("a long migration that is resumed") {
        return;
    }
    let arguments = [&BACK[..6], &["4000"]].concat();
    let original = Arena::unpack("chroma-1.5.9-survive");
    let before = without_arrays(&Content::of(&original.palace()));
    let whole = original.fork();
    let (run, calls) = calls_of(&whole, &arguments);
    run.expect(0);
    let frames: Vec<&Call> = calls.iter().filter(|call| is_frame(call)).collect();
    let steps = records(&whole).len();
    assert!(steps > 200, "it has only {steps} records, two for each step");
    let wanted = Content::of(&whole.palace());
    for percent in [10, 50, 95] {
        let arena = original.fork();
        let at = frames.len() * percent / 100;
        kill(&arena, &arguments, &frames[at].point);
        let journal = fs::read(arena.operation().join("journal")).expect("a journal");
        let done = done(&records(&arena));
        let (run, resumed) = calls_of(&arena, &RESUME);
        run.expect(0).says("is completed");

        let what = format!("killed after {done} steps");
        assert!(done + 2 >= at && done <= at, "{what}, and that is not {percent} % of {}", frames.len());
        let now = fs::read(arena.operation().join("journal")).expect("a journal");
        assert!(now.starts_with(&journal), "{what}: what was in the journal is there no more");
        for (step, count) in intents(&records(&arena)) {
            assert_eq!(count, 1, "{what}: step {step} was intended {count} times");
        }
        let written = resumed.iter().filter(|call| is_frame(call)).count();
        assert!(written <= frames.len() - done + 1, "{what}: {written} frames of {} were written", frames.len());
        let (rest, all) = (pages_written(&resumed), pages_written(&calls));
        say(&format!("{what} of {}, the rest took {written} frames and {rest} of {all} page writes", frames.len()));
        assert!(rest * 100 <= all * (100 - percent + 15), "{what}: {rest} of {all} page writes were made again");

        let content = Content::of(&arena.palace());
        assert_eq!(
            before.record_differences_by(&content, crate::support::palace::Record::is_kept_in),
            Vec::<String>::new()
        );
        content.assert_equals(&wanted, &what);
        arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
    }
}

/// Whether a call appends a frame to the journal.
fn is_frame(call: &Call) -> bool {
    call.point.call == "write" && call.line.contains("/journal>")
}

/// Pages that were written to the staged database: every row that is copied costs some.
fn pages_written(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.point.call == "pwrite64" && call.line.contains("/staging/chroma.sqlite3>")).count()
}

fn records(arena: &Arena) -> Vec<Record<Step>> {
    let journal: &Path = &arena.operation().join("journal");
    journal::read::<Step>(&RealDisk::new(), journal).expect("a journal").records
}

fn done(records: &[Record<Step>]) -> usize {
    records.iter().filter(|record| matches!(record, Record::Done(_))).count()
}

fn intents(records: &[Record<Step>]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        if let Record::Intent(step) = record {
            *counts.entry(*step).or_default() += 1;
        }
    }
    counts
}

/// The calls by which a command changes the palace, as far as two runs make the same ones: with other UUIDs, a page
/// more or less can be split.
fn points(ground: &Ground, arguments: &[&str]) -> Vec<Point> {
    let calls = || {
        let (run, calls) = calls_of(&ground.fork(), arguments);
        run.expect(0);
        calls.into_iter().map(|call| call.point).collect::<Vec<_>>()
    };
    let (mut calls, again) = (calls(), calls());
    let all = calls.len();
    calls.retain(|point| again.contains(point));
    assert!(all - calls.len() <= 3, "of {all} calls only {} are in both runs", calls.len());
    calls
}
