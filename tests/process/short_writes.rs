//! Carries out writes of the real program by half, as a kernel may: whoever writes has to go on where the kernel
//! stopped, and nobody is to notice.
//!
//! A failure is replayed by the line it prints. By default a seeded sample is run; `PALACEKEEPER_FAULTS=all` runs all.

use crate::support::palace::{
    Arena, Call, Denial, Ending, Ground, Indexes, REBUILD, RECOVER, Random, Shim, Strace, Sweep, calls_of, sample, say,
};
use std::fs;

#[test]
fn short_write_is_taken_for_a_whole_one() {
    let Some(shim) = Shim::here("writes that are carried out by half") else { return };
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let writes = shim.writes(&ground.fork(), &REBUILD);
    for call in ["write", "pwrite64", "copy_file_range"] {
        assert!(writes.iter().any(|one| one.point.call == call), "the shim does not see {call}");
    }
    let sweep = Sweep::new("short_writes", "short_write_is_taken");
    sweep.share(of_every_kind(&writes), |call| {
        sweep.attempt(&[&call.point], || {
            let arena = ground.fork();
            let landed = shim.deny(&arena, &REBUILD, &Denial::Short(call.point.clone()));
            assert!(landed.has_fired(), "the write was not cut short: {landed:#?}");
            assert_eq!(landed.run.code, Some(0), "{landed:#?}");
            ground.assert_ended(&arena)
        });
    });
    sweep.report("short writes in a rebuild");
}

/// Some of the calls of each name: copies and appends are few among thousands of pages.
fn of_every_kind(writes: &[Call]) -> Vec<Call> {
    let mut random = Random::seeded();
    let of = |name: &str| writes.iter().filter(|one| one.point.call == name).cloned().collect::<Vec<_>>();
    let mut some = |name, count| sample(&of(name), count, &mut random);
    [some("write", 30), some("pwrite64", 40), some("copy_file_range", 30)].concat()
}

/// A recovery appends to a journal that is all there is to go by, in both directions.
#[test]
fn short_write_in_a_recovery_is_taken_for_a_whole_one() {
    let what = "short writes in a recovery";
    let Some(shim) = Shim::here(what) else { return };
    if !Strace::is_here(what) {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let sweep = Sweep::new("short_writes", "short_write_in_a_recovery");
    for (call, part, wanted) in [("linkat", "/aside/", Ending::Old), ("rename", "/chroma.sqlite3", Ending::New)] {
        let cut = calls.iter().find(|one| one.point.call == call && one.line.contains(part)).expect("such a call");
        let killed = || ground.killed(&cut.point);
        sweep.share(shim.writes(&killed(), &RECOVER), |call| {
            sweep.attempt(&[&cut.point, &call.point], || {
                let arena = killed();
                let landed = shim.deny(&arena, &RECOVER, &Denial::Short(call.point.clone()));
                assert!(landed.has_fired(), "the write was not cut short: {landed:#?}");
                assert_eq!(landed.run.code, Some(0), "{landed:#?}");
                assert_eq!(ground.assert_ended(&arena), wanted);
                wanted
            });
        });
    }
    sweep.report(what);
}

/// A file system that never takes all of anything.
#[test]
fn writes_that_are_all_short_make_another_palace() {
    let Some(shim) = Shim::here("writes that are all carried out by half") else { return };
    let whole = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let torn = Ground::new(Arena::unpack("chroma-1.5.9-survive"), Indexes::Built);
    let back = Ground::new(Arena::new("1.5.9"), Indexes::Migrated);
    let migrate = ["migrate", "--to", "chroma-0.6", "--yes", "--accept-loss", "--batch-bytes", "100000"];
    for (ground, command) in [(&whole, &REBUILD[..]), (&torn, &REBUILD), (&back, &migrate)] {
        let arena = ground.fork();
        let landed = shim.deny(&arena, command, &Denial::ShortAlways);
        let fired = landed.log.matches("(INJECTED)").count();
        assert!(fired > 300, "only {fired} writes were cut short");
        assert_eq!(landed.run.code, Some(0), "{landed:#?}");
        assert_eq!(ground.assert_ended(&arena), Ending::New);
        say(&format!("{}: {fired} writes were cut short", command.join(" ")));
    }
}

/// An export, and the palace that an import makes of it.
#[test]
fn export_or_import_in_short_writes_is_another() {
    let Some(shim) = Shim::here("exports and imports in short writes") else { return };
    let arena = Arena::new("1.5.9");
    let wanted = arena.run(&["export"]).expect(0).stdout;
    let landed = shim.deny(&arena, &["export"], &Denial::ShortAlways);
    assert!(landed.has_fired() && landed.run.code == Some(0), "{landed:#?}");
    assert_eq!(landed.run.stdout, wanted);
    let empty = Arena::empty();
    let lines = empty.root().join("lines.jsonl");
    fs::write(&lines, &wanted).expect("a file");
    let import = ["import", "--yes", lines.to_str().expect("a path")];
    let landed = shim.deny(&empty, &import, &Denial::ShortAlways);
    assert!(landed.has_fired() && landed.run.code == Some(0), "{landed:#?}");
    assert_eq!(empty.run(&["export"]).expect(0).stdout, wanted);
}
