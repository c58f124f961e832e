//! Whole operations on real palaces, crashed at every event of the disk and of SQLite, and crashed again while they
//! are recovered.
//!
//! What a crash leaves is chosen by fate: whatever was not synced is kept, dropped, torn or garbled. A failure names
//! the trace that led to it; `PALACEKEEPER_TRACE=… cargo test --release --test crash NAME` goes there again. By default
//! a seeded sample is walked, and every moment of the swap; `PALACEKEEPER_FAULTS=all` leaves out no moment and no state
//! that one crash or two in a row can lead to, and takes hours. The page that `tests/support/report.rs` makes shows
//! what was tried.

use crate::support::explore::{Bounds, Course, Crash, Cut, Explorer, Stand, Tally, Walk};
use crate::support::memory::{Fate, Fault, MemoryDisk};
use crate::support::palace::{Random, is_exhaustive, sample, say};
use crate::support::report::Part;
use crate::support::whole::{Verb, Whole};
use palacekeeper::engine::Outcome;
use std::io::ErrorKind;
use std::time::Instant;

/// Walks through the crashes of an operation.
fn walk(test: &str, verb: Verb) -> Walk {
    let seed = std::env::var("PALACEKEEPER_SEED").ok().map_or(1, |text| text.parse().expect("a number"));
    let mixed = |number: u64| (seed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let seeds = [mixed(1), mixed(2)];
    let bounds = match is_exhaustive() {
        true => Bounds { seeds: &seeds, generations_max: 2, moments_max: usize::MAX, states_max: usize::MAX },
        false => Bounds { seeds: &seeds, generations_max: 2, moments_max: 2, states_max: 40 },
    };
    let began = Instant::now();
    let walk = Explorer::of(Whole::new(verb)).explore_within(bounds);
    let replay = format!("PALACEKEEPER_SEED={seed} cargo test --release --test crash {test}");
    let page = Part::of_walk(&verb.to_string(), replay, began.elapsed(), &walk).publish();
    say(&format!("{verb}, seed {seed}: {walk:?}, {:.1} s; {}", began.elapsed().as_secs_f64(), page.display()));
    assert!(walk.ended_old > 0 && walk.ended_new > 0, "only one of the two ends was ever reached: {walk:?}");
    walk
}

/// I8 to I13, for the product as it is.
#[test]
fn crash_in_a_rebuild_leaves_the_old_palace_or_the_new() {
    walk("rebuild", Verb::Rebuild);
}

#[test]
fn crash_in_a_rebuild_on_another_file_system_leaves_the_old_palace_or_the_new() {
    walk("another_file_system", Verb::Staged);
}

#[test]
fn crash_in_a_repair_leaves_the_damaged_palace_or_the_mended() {
    walk("repair", Verb::Repair);
}

#[test]
fn crash_in_a_migration_leaves_the_old_palace_or_the_new() {
    walk("in_a_migration_leaves", Verb::Migrate { to: "1.5.9" });
}

#[test]
fn crash_in_a_migration_to_one_file_leaves_the_old_palace_or_the_new() {
    walk("to_one_file", Verb::ToExact);
}

#[test]
fn crash_in_a_migration_from_one_file_leaves_the_old_palace_or_the_new() {
    walk("from_one_file", Verb::FromExact);
}

#[test]
fn crash_in_an_import_leaves_no_palace_or_a_whole_one() {
    walk("import", Verb::Import);
}

#[test]
fn crash_in_a_restore_leaves_the_new_palace_or_the_old() {
    walk("restore", Verb::Restore);
}

/// What a disk answers, once or from then on.
const FAULTS: [Fault; 4] = [
    Fault::Once(ErrorKind::Other),
    Fault::Once(ErrorKind::StorageFull),
    Fault::Forever(ErrorKind::Other),
    Fault::Forever(ErrorKind::StorageFull),
];

/// I7: an error of the disk, at any event of the operation, SQLite's own among them. Whoever was told that all is done
/// has the new palace; whoever was not has the old one, or a recovery decides.
fn fail(test: &str, verb: Verb) {
    let mut random = Random::seeded();
    let mut explorer = Explorer::of(Whole::new(verb));
    let began = Instant::now();
    let events: Vec<u32> = (0..explorer.events()).collect();
    let mut walk = Walk::default();
    for fault in FAULTS {
        for event in sample(&events, 12, &mut random) {
            let met = explorer.fail(event, fault);
            walk.runs += 1;
            walk.add(&format!("{fault:?}"), Cut::Kill, met);
        }
    }
    for event in explorer.syncs() {
        let met = explorer.fail(event, Fault::Once(ErrorKind::Other));
        walk.runs += 1;
        walk.add("a sync failed", Cut::Kill, met);
    }
    let before = walk.runs;
    for event in sample(&events, 12, &mut random) {
        let crash = Crash { act: None, event: event as usize, fate: Some(Fate::POWER_CUT) };
        for fault in FAULTS {
            if let Some(met) = explorer.fail_again(&crash, random.below(40) as u32, fault) {
                walk.runs += 1;
                walk.add(&format!("{fault:?}, in the recovery"), Cut::Kill, met);
            }
        }
    }
    assert!(walk.runs > before + 8, "hardly any recovery was met by an error: {walk:?}");
    let needed = explorer.bytes();
    for part in 0..12 {
        let met = explorer.cramp(needed * part / 12);
        walk.runs += 1;
        walk.add("no room", Cut::Kill, met);
    }
    let Tally { old, new, .. } = walk.total();
    say(&format!("{verb}: {} errors, {old} endings old, {new} new, {:.1} s", walk.runs, began.elapsed().as_secs_f64()));
    let replay = format!("cargo test --release --test crash {test}");
    Part::of_walk(&format!("{verb}, errors"), replay, began.elapsed(), &walk).publish();
    assert!(old > 0 && new > 0, "only one of the two ends was ever reached");
}

#[test]
fn error_in_a_rebuild_is_told_and_leaves_the_old_palace_or_the_new() {
    fail("error_in_a_rebuild", Verb::Rebuild);
}

#[test]
fn error_in_a_repair_is_told_and_leaves_the_damaged_palace_or_the_mended() {
    fail("error_in_a_repair", Verb::Repair);
}

#[test]
fn error_in_a_migration_is_told_and_leaves_the_old_palace_or_the_new() {
    fail("error_in_a_migration", Verb::ToExact);
}

#[test]
fn error_in_a_restore_is_told_and_leaves_the_new_palace_or_the_old() {
    fail("error_in_a_restore", Verb::Restore);
}

/// I5: an End that only the page cache has is made durable before the next operation builds upon it; one that a sync
/// has dropped is none.
#[test]
fn next_operation_builds_on_an_end_that_is_not_durable() {
    let whole = Whole::new(Verb::Rebuild);
    let has_ended = |disk: &MemoryDisk| matches!(whole.stand(disk), Stand::Ended(Outcome::Completed));
    let disk = whole.disk().with_history();
    whole.begin(&disk).expect("nothing disturbs it");
    let history = disk.history();
    let is_in_sight = |moment: &&MemoryDisk| has_ended(&moment.kill()) && !has_ended(&moment.crash(Fate::POWER_CUT));
    let killed = history.iter().find(is_in_sight).expect("an append comes before its sync").kill();
    whole.begin(&killed).expect("the palace is sound");
    assert!(has_ended(&killed.crash(Fate::POWER_CUT)), "the first operation is interrupted below the second");

    let sync = *disk.syncs().last().expect("the End is synced");
    let failed = whole.disk().with_fault(sync, Fault::Once(ErrorKind::Other));
    whole.begin(&failed).expect_err("it is not done");
    let failed = failed.kill();
    assert!(has_ended(&failed), "what was dropped is out of sight: this tries nothing");
    assert_eq!(whole.open(&failed).expect("the palace is sound"), Some(Outcome::Completed), "it was not recovered");
    assert!(has_ended(&failed.crash(Fate::POWER_CUT)), "it was said to have ended");
}
