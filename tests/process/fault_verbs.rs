//! Fails the real program in every command that changes a palace, and in the recovery of each, with every error a disk
//! gives, and looks at the palace. What `faults.rs` is for a rebuild, in samples.
//!
//! A failure is replayed by the line it prints; `PALACEKEEPER_FAULTS=all` runs every call.

use crate::support::palace::{
    Access, Arena, Change, Denial, Ending, Ground, Indexes, Injection, LOOKS, Landed, OPEN_ERRORS, OPENS, Point, READS,
    REBUILD, RECOVER, Random, SIBLINGS, Scene, Shim, Strace, Sweep, accesses_of, calls_of, class, fork_with_keep,
    is_wanted, make_exact, make_hot, make_wal, sample, say,
};
use std::fs;
use std::sync::Mutex;

/// What a disk, or whoever owns it, answers.
const ERRORS: [&str; 6] = ["EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EINTR"];
/// All but the last, which is answered with another attempt, for ever if need be.
const LASTING: usize = ERRORS.len() - 1;
const SIGABRT: i32 = 6;
const NO_PANIC: &str = "nobody panics while holding it";

fn changes() -> Vec<Change> {
    let small = ["--yes", "--accept-loss", "--batch-bytes", "50000"];
    let migrate = |to| [&["migrate", "--to", to], &small[..]].concat();
    let repair = [&["repair"], &small[..]].concat();
    let exact = Arena::new("1.0.20");
    fs::remove_file(exact.database()).expect("a database");
    make_exact(&exact, 60);
    let mended = class("the number of the metadata is poisoned").inflict().arena;
    mended.run(&repair).expect(0);
    vec![
        Change::new("a migration back", Arena::new("1.5.9"), &migrate("chroma-0.6")),
        Change::new("a migration to exact", Arena::new("1.5.9"), &migrate("exact")),
        Change::new("a migration from exact", exact, &migrate("chroma-1.5")),
        Change::new("an amendment", class("the number of the metadata is poisoned").inflict().arena, &repair),
        Change::new("a salvage", class("a page of the metadata is zero").inflict().arena, &repair),
        Change::new("a restore", mended, &["restore", "1", "--yes"]),
        Change::import(&Arena::new("1.5.9")),
    ]
}

/// The error is a part of the point, so that one line replays it.
fn named(error: &str, point: &Point) -> Point {
    Point { call: format!("{error}@{}", point.call), nth: point.nth }
}

fn fail(arena: &Arena, command: &[&str], injection: Injection) -> Landed {
    let landed = Strace(arena).inject(command, &[injection]);
    assert!(landed.has_fired(), "the error was not injected: {landed:#?}");
    landed
}

#[test]
fn failed_call_of_any_command_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("errors in every command") {
        return;
    }
    let mut random = Random::seeded();
    let sweep = Sweep::new("fault_verbs", "failed_call_of_any_command");
    for change in changes() {
        let points = change.sample(9, 9, &mut random);
        sweep.share(points.iter().enumerate(), |(number, point)| {
            let once = number % 3 != 0;
            let error = if once { ERRORS[number % ERRORS.len()] } else { ERRORS[number / 3 % LASTING] };
            sweep.attempt(&[&named(error, point)], || {
                let arena = fork_with_keep(&change.arena);
                let injection = if once { Injection::Error } else { Injection::ErrorFrom };
                let landed = fail(&arena, &change.command(), injection(point.clone(), error));
                change.ending_as_it_says(&arena, &landed)
            });
        });
        say(&format!("{}: failed at {} of {} calls", change.name, points.len(), change.points.len()));
    }
    sweep.report("errors in every command");
}

/// I12: a recovery that fails changes nothing about how the operation ends, in either direction.
#[test]
fn failed_recovery_of_any_command_changes_how_it_ends() {
    if !Strace::is_here("errors in the recovery of every command") {
        return;
    }
    let random = Mutex::new(Random::seeded());
    let sweep = Sweep::new("fault_verbs", "failed_recovery_of_any_command");
    let ends = Mutex::new(Vec::new());
    for change in changes() {
        // One moment in the building, and some around the swap.
        let moments = change.sample(1, 3, &mut random.lock().expect(NO_PANIC));
        sweep.share(moments, |moment| {
            if !is_wanted(&[&moment]) {
                return;
            }
            let arena = fork_with_keep(&change.arena);
            let store = change.store_inodes(&arena);
            change.kill(&arena, &moment);
            let scene = Scene::save(arena, &store);
            let (run, calls) = calls_of(scene.arena(), &RECOVER);
            run.expect(0);
            let wanted = change.ending(scene.arena());
            ends.lock().expect(NO_PANIC).push(wanted);
            let points: Vec<_> = calls.into_iter().map(|call| call.point).collect();
            let points = sample(&points, 4, &mut random.lock().expect(NO_PANIC));
            for (number, point) in points.iter().enumerate() {
                let error = ERRORS[(number + moment.nth) % LASTING];
                sweep.attempt(&[&moment, &named(error, point)], || {
                    scene.restore();
                    let injection = if number % 2 == 0 { Injection::Error } else { Injection::ErrorFrom };
                    let landed = fail(scene.arena(), &RECOVER, injection(point.clone(), error));
                    assert!(matches!(landed.run.code, Some(0 | 1 | 4)), "{}: {landed:#?}", change.name);
                    change.assert_complete(scene.arena());
                    assert_eq!(change.ending(scene.arena()), wanted, "{}: {moment}, {error} at {point}", change.name);
                    wanted
                });
            }
        });
    }
    let ends = ends.into_inner().expect(NO_PANIC);
    let is_both = [Ending::Old, Ending::New].iter().all(|ending| ends.contains(ending));
    assert!(is_both || std::env::var_os("PALACEKEEPER_POINT").is_some(), "only one direction was tried");
    sweep.report("errors in the recovery of every command");
}

/// A file that cannot be opened, for want of descriptors or because a disk is ill, is not a damaged one, and what is in
/// it is not lost: these commands all have consent to lose something.
#[test]
fn file_that_cannot_be_opened_costs_any_command_what_is_in_it() {
    if !Strace::is_here("files that cannot be opened by every command") {
        return;
    }
    let mut random = Random::seeded();
    let sweep = Sweep::new("fault_verbs", "file_that_cannot_be_opened");
    for change in changes() {
        let opens = accesses_of(|| fork_with_keep(&change.arena), &OPENS, &change.command());
        let opens = sample(&opens, 10, &mut random);
        sweep.share(opens.iter().enumerate(), |(number, open)| {
            let error = OPEN_ERRORS[number % OPEN_ERRORS.len()];
            sweep.attempt(&[&open.point(error)], || {
                let arena = fork_with_keep(&change.arena);
                let injection = if number % 4 == 0 { Injection::ErrorFrom } else { Injection::Error };
                let landed = open.fail(&arena, &change.command(), error, injection);
                change.ending_as_it_says(&arena, &landed)
            });
        });
    }
    sweep.report("files that cannot be opened by every command");
}

/// Vectors that are only in a segment which was put aside are found by listing the palace and looking at what is there:
/// a list that a disk refuses is not an empty one, whatever consent was given.
#[test]
fn directory_that_cannot_be_listed_costs_what_is_in_it() {
    if !Strace::is_here("directories that cannot be listed") {
        return;
    }
    let aside = class("an index was put aside as drifted, and it was the only one").inflict().arena;
    let change =
        Change::new("a repair from a segment that was put aside", aside, &["repair", "--yes", "--accept-loss"]);
    let is_palace = |open: &Access| ["palace", ""].iter().any(|path| open.is_of(path));
    let opens = accesses_of(|| fork_with_keep(&change.arena), &OPENS, &change.command());
    let opens: Vec<_> = opens.into_iter().filter(is_palace).collect();
    assert!(opens.len() > 3, "nobody lists the palace: {opens:?}");
    let looks = accesses_of(|| fork_with_keep(&change.arena), &LOOKS, &change.command());
    let looks: Vec<_> = looks.into_iter().filter(|look| look.is_within(".drift-")).collect();
    assert!(looks.len() > 3, "nobody looks at what was put aside: {looks:?}");
    let sweep = Sweep::new("fault_verbs", "directory_that_cannot_be_listed");
    for injection in [Injection::Error as fn(Point, &'static str) -> Injection, Injection::ErrorFrom] {
        sweep.share([&opens[..], &looks].concat(), |access| {
            sweep.attempt(&[&access.point("EIO")], || {
                let arena = fork_with_keep(&change.arena);
                let landed = access.fail(&arena, &change.command(), "EIO", injection);
                change.ending_as_it_says(&arena, &landed)
            });
        });
    }
    sweep.report("directories that cannot be listed");
}

/// What a disk does not let us look at is not missing: a log beside a database has the newest writes, a segment the
/// only vectors.
#[test]
fn path_that_cannot_be_looked_at_counts_as_missing() {
    if !Strace::is_here("paths that cannot be looked at") {
        return;
    }
    let aside = class("an index was put aside as drifted, and it was the only one").inflict().arena;
    let mut changes = changes();
    changes.push(Change::new("a repair from what was put aside", aside, &["repair", "--yes", "--accept-loss"]));
    let mut random = Random::seeded();
    let sweep = Sweep::new("fault_verbs", "path_that_cannot_be_looked_at");
    for change in changes {
        let looks = accesses_of(|| fork_with_keep(&change.arena), &LOOKS, &change.command());
        sweep.share(sample(&looks, 16, &mut random), |look| {
            sweep.attempt(&[&look.point("EIO")], || {
                let arena = fork_with_keep(&change.arena);
                let landed = look.fail(&arena, &change.command(), "EIO", Injection::Error);
                change.ending_as_it_says(&arena, &landed)
            });
        });
    }
    sweep.report("paths that cannot be looked at");
}

/// The same for what lies beside a database: every look at it.
#[test]
fn log_that_cannot_be_looked_at_counts_as_missing() {
    if !Strace::is_here("logs that cannot be looked at") {
        return;
    }
    let [hot, logged] = [Arena::new("1.5.9"), Arena::new("1.5.9")];
    make_hot(&hot.palace());
    make_wal(&logged.palace(), "UPDATE embedding_metadata SET string_value = 'logged' WHERE key = 'room';");
    let sweep = Sweep::new("fault_verbs", "log_that_cannot_be_looked_at");
    for ground in [hot, logged].map(|arena| Ground::new(arena, Indexes::Copied)) {
        let mut looks = accesses_of(|| ground.fork(), &LOOKS, &REBUILD);
        looks.retain(|look| SIBLINGS.iter().any(|name| look.is_of(&format!("palace/{name}"))));
        assert!(looks.len() > 6, "hardly anybody looks: {looks:?}");
        for injection in [Injection::Error as fn(Point, &'static str) -> Injection, Injection::ErrorFrom] {
            sweep.share(&looks, |look| {
                sweep.attempt(&[&look.point("EIO")], || {
                    let arena = ground.fork();
                    let landed = look.fail(&arena, &REBUILD, "EIO", injection);
                    ground.assert_ends_as_it_says(&arena, &landed)
                });
            });
        }
    }
    sweep.report("logs that cannot be looked at");
}

/// Nor is one that a disk refuses to read once, or for ever: that is for a person to know, before anything is built on
/// what is left.
#[test]
fn read_that_fails_costs_any_command_what_it_could_not_read() {
    if !Strace::is_here("reads that fail in every command") {
        return;
    }
    let mut random = Random::seeded();
    let sweep = Sweep::new("fault_verbs", "read_that_fails");
    for change in changes() {
        let reads = accesses_of(|| fork_with_keep(&change.arena), &READS, &change.command());
        let reads = sample(&reads, 8, &mut random);
        sweep.share(reads.iter().enumerate(), |(number, read)| {
            sweep.attempt(&[&read.point("EIO")], || {
                let arena = fork_with_keep(&change.arena);
                let injection = if number % 2 == 0 { Injection::ErrorFrom } else { Injection::Error };
                let landed = read.fail(&arena, &change.command(), "EIO", injection);
                if !matches!(landed.run.code, Some(3 | 5)) {
                    return change.ending_as_it_says(&arena, &landed);
                }
                // SQLite calls what a disk does not give malformed, and so it is called here.
                change.assert_complete(&arena);
                assert_eq!(change.ending(&arena), Ending::Old, "{}: {landed:#?}", change.name);
                Ending::Old
            });
        });
    }
    sweep.report("reads that fail in every command");
}

/// SQLite says that it has no memory, Rust ends the process: neither is damage.
#[test]
fn denied_allocation_costs_any_command_what_it_could_not_read() {
    let what = "denied allocations in every command";
    let Some(shim) = Shim::here(what) else { return };
    if !Strace::is_here(what) {
        return;
    }
    let mut random = Random::seeded();
    let sweep = Sweep::new("fault_verbs", "denied_allocation_costs_any_command");
    for change in changes() {
        let all = shim.allocations(&fork_with_keep(&change.arena), &change.command());
        sweep.share(sample(&all, 8, &mut random), |one| {
            sweep.attempt(&[&one.point()], || {
                let fork = || fork_with_keep(&change.arena);
                let (arena, landed) = shim.starve(fork, &change.command(), Denial::Allocation, &one);
                match landed.run.signal {
                    None => change.ending_as_it_says(&arena, &landed),
                    Some(signal) => {
                        assert_eq!(signal, SIGABRT, "{}: {landed:#?}", change.name);
                        change.assert_complete(&arena);
                        change.ending(&arena)
                    }
                }
            });
        });
    }
    sweep.report(what);
}
