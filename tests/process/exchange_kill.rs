//! Kills a migration to `sqlite_exact`, one back, and an import, their recoveries and what goes on after them, and
//! insists on the old palace or the new.

use crate::support::palace::{
    Arena, Change, Ending, RECOVER, RESUME, Random, Scene, Strace, Sweep, calls_of, fork_with_keep, is_wanted,
    make_exact, sample, try_to_kill,
};
use std::fs;
use std::sync::Mutex;

const TO_EXACT: [&str; 7] = ["migrate", "--to", "exact", "--yes", "--accept-loss", "--batch-bytes", "20000"];
const TO_CHROMA: [&str; 7] = ["migrate", "--to", "chroma-1.5", "--yes", "--accept-loss", "--batch-bytes", "20000"];

fn changes() -> [Change; 3] {
    let exact = Arena::new("1.0.20");
    fs::remove_file(exact.database()).expect("a database");
    make_exact(&exact, 60);
    [
        Change::new("to exact", Arena::new("1.5.9"), &TO_EXACT),
        Change::new("from exact", exact, &TO_CHROMA),
        Change::import(&Arena::new("1.5.9")),
    ]
}

#[test]
fn kill_in_a_change_of_store_leaves_both_or_none() {
    if !Strace::is_here("kills in a change of store") {
        return;
    }
    let sweep = Sweep::new("exchange_kill", "kill_in_a_change_of_store");
    for change in changes() {
        sweep.share(change.sample(8, 20, &mut Random::seeded()), |point| {
            sweep.attempt(&[&point], || {
                let arena = fork_with_keep(&change.arena);
                change.kill(&arena, &point);
                change.ending(&arena)
            });
        });
    }
    sweep.report("kills in changes of store");
}

/// I12: a recovery that is killed changes nothing about how the operation ends.
#[test]
fn kill_in_the_recovery_of_a_change_of_store_changes_how_it_ends() {
    if !Strace::is_here("kills in the recovery of a change of store") {
        return;
    }
    let sweep = Sweep::new("exchange_kill", "kill_in_the_recovery");
    for change in changes() {
        let mut random = Random::seeded();
        let points = change.sample(2, 6, &mut random);
        let random = Mutex::new(random);
        sweep.share(points, |point| {
            if !is_wanted(&[&point]) {
                return;
            }
            let arena = fork_with_keep(&change.arena);
            let store = change.store_inodes(&arena);
            change.kill(&arena, &point);
            let scene = Scene::save(arena, &store);
            let (run, calls) = calls_of(scene.arena(), &RECOVER);
            run.expect(0);
            let wanted = change.ending(scene.arena());
            let points: Vec<_> = calls.into_iter().map(|call| call.point).collect();
            let points = sample(&points, 2, &mut random.lock().expect("nobody panics while holding it"));
            for second in &points {
                sweep.attempt(&[&point, second], || {
                    scene.restore();
                    try_to_kill(scene.arena(), &RECOVER, second);
                    assert_eq!(change.ending(scene.arena()), wanted, "{}: {point}, {second}", change.name);
                    wanted
                });
            }
        });
    }
    sweep.report("kills in recoveries of changes of store");
}

/// Going on leads to the new store, from wherever it was cut short.
#[test]
fn resumed_change_of_store_is_another() {
    if !Strace::is_here("a change of store that is resumed") {
        return;
    }
    let sweep = Sweep::new("exchange_kill", "resumed_change_of_store");
    for change in changes() {
        let begun = change.points.iter().position(|point| point.call == "renameat2").expect("the folder gets its name");
        sweep.share(sample(&change.points[begun + 2..], 8, &mut Random::seeded()), |point| {
            sweep.attempt(&[&point], || {
                let arena = fork_with_keep(&change.arena);
                change.kill(&arena, &point);
                arena.run(&RESUME).expect(0);
                assert_eq!(change.ending(&arena), Ending::New, "{}: {point}", change.name);
                Ending::New
            });
        });
    }
    sweep.report("changes of store that are resumed");
}
