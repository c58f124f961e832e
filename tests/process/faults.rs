//! Fails the real program at every system call that changes a file, with every error a disk gives, and looks at the
//! palace.
//!
//! A failure is replayed by the line it prints. By default a seeded sample is run; `PALACEKEEPER_FAULTS=all` runs
//! every error at every call.

use crate::support::palace::{
    Arena, Call, Content, Ending, Ground, Indexes, Injection, Point, REBUILD, Random, Strace, Sweep, Tree, calls_of,
    is_wanted, sample, say, segment_directories,
};
use std::sync::Mutex;

/// What a disk, or whoever owns it, answers.
const ERRORS: [&str; 6] = ["EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EINTR"];
/// A call that is interrupted is made again, for ever if need be: so this one happens once only.
const ONCE_ONLY: &str = "EINTR";

const NO_PANIC: &str = "nobody panics while holding it";

#[test]
fn failed_call_leaves_neither_the_old_palace_nor_the_new() {
    sweep_errors("failed_call", "errors, once each", &ERRORS, 36, Injection::Error);
}

/// A disk that stays full, or dead.
#[test]
fn call_that_goes_on_failing_leaves_neither_the_old_palace_nor_the_new() {
    let lasting: Vec<_> = ERRORS.into_iter().filter(|error| *error != ONCE_ONLY).collect();
    sweep_errors("call_that_goes_on_failing", "errors, from then on", &lasting, 18, Injection::ErrorFrom);
}

fn sweep_errors(
    test: &'static str,
    what: &str,
    errors: &[&'static str],
    count: usize,
    injection: fn(Point, &'static str) -> Injection,
) {
    if !Strace::is_here(what) {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let calls = census(&ground);
    let mut random = Random::seeded();
    let jobs =
        errors.iter().flat_map(|error| sample(&calls, count, &mut random).into_iter().map(|call| (*error, call)));
    let sweep = Sweep::new("faults", test);
    let codes = Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    sweep.share(jobs.collect::<Vec<_>>(), |(error, call)| {
        // The error is a part of the point, so that one line replays it.
        let named = Point { call: format!("{error}@{}", call.point.call), nth: call.point.nth };
        sweep.attempt(&[&named], || {
            let arena = ground.fork();
            let landed = Strace(&arena).inject(&REBUILD, &[injection(call.point.clone(), error)]);
            assert!(landed.has_fired(), "the error was not injected: {landed:#?}");
            let code = format!("{error} exit {:?}", landed.run.code.unwrap_or(-1));
            *codes.lock().expect(NO_PANIC).entry(code).or_default() += 1;
            ground.assert_ends_as_it_says(&arena, &landed)
        });
    });
    say(&format!("{what}: {:?}", codes.into_inner().expect(NO_PANIC)));
    sweep.report(what);
}

/// The new palace does not need an old index to be gone. Where the file system does not let it be moved (a mount
/// point, an immutable file, a lower layer of an overlay), it stays, and the operation ends.
#[test]
fn old_index_that_cannot_be_moved_keeps_the_operation_from_its_end() {
    if !Strace::is_here("an old index that cannot be moved") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let is_aside = |call: &&Call| call.point.call == "renameat2" && call.line.contains("/aside/");
    let point = census(&ground).iter().find(is_aside).expect("old indexes are moved aside").point.clone();
    for error in ["EPERM", "EBUSY", "EXDEV"] {
        let arena = ground.fork();
        let before = Tree::of(&arena.palace());
        let landed = Strace(&arena).inject(&REBUILD, &[Injection::Error(point.clone(), error)]);
        assert!(landed.has_fired(), "{landed:#?}");
        assert_eq!(landed.run.code, Some(0), "{error}: {landed:#?}");
        arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
        let segments = segment_directories(&arena.palace());
        let left = Tree::of(&arena.palace()).sidecars(&segments);
        let all_gone = before.top().into_iter().filter(|name| !left.top().contains(name)).count();
        assert_eq!(all_gone, 3, "{error}: two of three old indexes and the old database are gone: {:?}", left.top());
        assert!(
            left.0.iter().all(|(path, node)| before.0.get(path) == Some(node)),
            "{error}: what stayed is as it was"
        );
        Content::of(&arena.operation().join("backup")).assert_equals(&Content::of(&arena.palace()), error);
    }
}

/// I7: the kernel may mark lost pages clean, so a second sync that succeeds proves nothing.
#[test]
fn failed_sync_is_tried_again() {
    if !Strace::is_here("failed syncs") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let calls = census(&ground);
    let is_sync = |call: &&Call| ["fsync", "fdatasync", "sync_file_range"].contains(&call.point.call.as_str());
    let syncs: Vec<_> = calls.iter().filter(is_sync).map(|call| call.point.clone()).collect();
    assert!(syncs.len() > 50, "only {} syncs", syncs.len());
    let sweep = Sweep::new("faults", "failed_sync");
    sweep.share(&syncs, |point| {
        sweep.attempt(&[point], || {
            let arena = ground.fork();
            let landed = Strace(&arena).inject(&REBUILD, &[Injection::Error(point.clone(), "EIO")]);
            let (_, after) = landed.log.split_once("(INJECTED)").expect("the error was injected");
            assert!(!after.contains("sync("), "something was synced after a sync had failed: {after}");
            assert!(matches!(landed.run.code, Some(1 | 4)), "{landed:#?}");
            ground.assert_ends_as_it_says(&arena, &landed)
        });
    });
    sweep.report("failed syncs");
}

/// The operation fails and goes back, and is killed while it does.
#[test]
fn kill_while_a_failed_operation_goes_back_changes_how_it_ends() {
    if !Strace::is_here("kills while a failed operation goes back") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let calls = census(&ground);
    let sweep = Sweep::new("faults", "kill_while_a_failed_operation_goes_back");
    let random = Mutex::new(Random::seeded());
    let failing = [
        ("pwrite64", "/staging/chroma.sqlite3", 60),
        ("copy_file_range", "/staging/", 5),
        ("renameat2", "/staging/", 4),
        ("linkat", "/aside/", 0),
    ];
    sweep.share(failing, |(call, part, nth)| {
        let found = calls.iter().filter(|one| one.point.call == call && one.line.contains(part)).nth(nth);
        let failing = &found.expect("the rebuild makes such a call").point;
        if !is_wanted(&[failing]) {
            return;
        }
        let fails = Injection::Error(failing.clone(), "EIO");
        let going_back = calls_after(&ground, &fails, &calls);
        for point in sample(&going_back, 18, &mut random.lock().expect(NO_PANIC)) {
            sweep.attempt(&[failing, &point], || {
                let arena = ground.fork();
                let landed = Strace(&arena).inject(&REBUILD, &[fails.clone(), Injection::Kill(point.clone())]);
                assert_eq!(landed.run.signal, Some(9), "the kill did not land: {landed:#?}");
                ground.assert_complete(&arena);
                let ending = ground.assert_recovers(&arena);
                assert_eq!(ending, Ending::Old);
                ending
            });
        }
    });
    sweep.report("kills while a failed operation goes back");
}

/// What a rebuild changes after a call of it has failed. A point counts from the start of the process, and strace
/// takes one injection for a call's name: so those of the failing name are left out.
fn calls_after(ground: &Ground, fails: &Injection, calls: &[Call]) -> Vec<Point> {
    let mut names: Vec<_> = calls.iter().map(|call| call.point.call.clone()).collect();
    names.sort();
    names.dedup();
    let arena = ground.fork();
    let log = Strace(&arena).inject_among(&REBUILD, fails, &names.join(","));
    let (before, after) = log.log.split_once("(INJECTED)").expect("the error was injected");
    let name = |line: &str| {
        line.split_once(' ').and_then(|(_, rest)| rest.trim_start().split_once('(')).map(|(name, _)| name.to_owned())
    };
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    before.lines().filter_map(name).for_each(|name| *counts.entry(name).or_default() += 1);
    let numbered = after.lines().filter_map(name).map(|call| {
        let nth = counts.entry(call.clone()).or_default();
        *nth += 1;
        Point { nth: *nth, call }
    });
    let failing = fails.point().call.clone();
    numbered.filter(|point| point.call != failing).collect()
}

/// Everything a rebuild changes, in order.
fn census(ground: &Ground) -> Vec<Call> {
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    calls
}

/// After a failed sync of the commit nobody knows which side of it the operation is on; the next process looks and
/// decides.
#[test]
fn failed_recovery_changes_how_it_ends() {
    if !Strace::is_here("failed recoveries") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let calls = census(&ground);
    let sweep = Sweep::new("faults", "failed_recovery");
    let moments = [
        ("linkat", "/aside/", Ending::Old),
        ("rename", "/chroma.sqlite3", Ending::New),
        ("rmdir", "/staging", Ending::New),
    ];
    sweep.share(moments, |(call, part, wanted)| {
        let cut = calls.iter().find(|one| one.point.call == call && one.line.contains(part)).expect("such a call");
        let points = {
            let arena = ground.killed(&cut.point);
            let (run, calls) = calls_of(&arena, &["recover"]);
            run.expect(0);
            calls
        };
        for (number, point) in points.iter().enumerate() {
            sweep.attempt(&[&cut.point, &point.point], || {
                let arena = ground.killed(&cut.point);
                let error = ERRORS[number % ERRORS.len()];
                let landed = Strace(&arena).inject(&["recover"], &[Injection::Error(point.point.clone(), error)]);
                assert!(landed.has_fired(), "the error was not injected: {landed:#?}");
                assert!(matches!(landed.run.code, Some(0 | 1 | 4)), "{landed:#?}");
                ground.assert_complete(&arena);
                let ending = ground.assert_recovers(&arena);
                assert_eq!(ending, wanted, "after {error}");
                ending
            });
        }
    });
    sweep.report("failed recoveries");
}
