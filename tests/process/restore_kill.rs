//! Kills a restore, its recovery, and its going on, and insists on the present palace or the old one.

use crate::support::palace::{
    Arena, Ending, Point, RECOVER, RESUME, Random, SIBLINGS, Scene, Strace, Sweep, Tree, calls_of, class,
    fork_with_keep, is_wanted, kill, sample, store_inodes, try_to_kill,
};
use std::sync::Mutex;

const REBUILD: [&str; 2] = ["rebuild", "--yes"];
const REPAIR: [&str; 3] = ["repair", "--yes", "--accept-loss"];
const RESTORE: [&str; 3] = ["restore", "1", "--yes"];

/// All of a palace but its store.
fn sidecars(arena: &Arena) -> Tree {
    let mut tree = Tree::of(&arena.palace());
    tree.0.retain(|path, _| {
        let top = path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
        top.is_some_and(|top| top != "chroma.sqlite3" && !SIBLINGS.contains(&&*top) && top.len() != 36)
    });
    tree
}

/// A palace after an operation, ready to be restored again and again.
struct Ready {
    arena: Arena,
    present: Tree,
    old: Tree,
    /// What a restore changes, in order.
    points: Vec<Point>,
}

impl Ready {
    fn after(name: &str, operation: &[&str]) -> Ready {
        let arena = class(name).inflict().arena;
        arena.run(operation).expect(0);
        let whole = fork_with_keep(&arena);
        let (run, calls) = calls_of(&whole, &RESTORE);
        run.expect(0);
        let (present, old) = (Tree::of(&arena.palace()), Tree::of(&whole.palace()));
        assert!(old != present, "{name}: nothing comes back");
        Ready { arena, present, old, points: calls.into_iter().map(|call| call.point).collect() }
    }

    /// Points spread over the restore, more of them where the store is swapped.
    fn sample(&self, random: &mut Random) -> Vec<Point> {
        let commit = self.points.iter().position(|point| point.call == "linkat").expect("the database is linked aside");
        let (before, after) = self.points.split_at(commit);
        [sample(before, 8, random), sample(after, 12, random)].concat()
    }

    fn killed(&self, point: &Point) -> Arena {
        let arena = fork_with_keep(&self.arena);
        kill(&arena, &RESTORE, point);
        arena
    }

    /// Recovers, and insists on an end: exactly the present palace or exactly the old one, sidecars included.
    fn ending(&self, arena: &Arena) -> Ending {
        arena.run(&RECOVER).expect(0);
        arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
        sidecars(&self.arena).assert_equals(&sidecars(arena), "sidecars");
        let now = Tree::of(&arena.palace());
        if now == self.present {
            return Ending::Old;
        }
        self.old.assert_equals(&now, "the palace that came back");
        Ending::New
    }
}

/// What a restore comes after: indexes that stayed, a palace built anew, a journal that has to be rolled back.
const BEFORE: [(&str, &[&str]); 3] = [
    ("the number of the metadata is poisoned", &REPAIR),
    ("a page of the metadata is zero", &REPAIR),
    ("a writer was killed in a transaction", &REBUILD),
];

/// I8, I9: a restore that is killed leaves what was there or what comes back.
#[test]
fn kill_in_a_restore_leaves_neither_the_present_palace_nor_the_old() {
    if !Strace::is_here("kills in a restore") {
        return;
    }
    let sweep = Sweep::new("restore_kill", "kill_in_a_restore");
    for (name, operation) in BEFORE {
        let ready = Ready::after(name, operation);
        sweep.share(ready.sample(&mut Random::seeded()), |point| {
            sweep.attempt(&[&point], || ready.ending(&ready.killed(&point)));
        });
    }
    sweep.report("kills in a restore");
}

/// I12: so does its recovery.
#[test]
fn kill_in_the_recovery_of_a_restore_changes_how_it_ends() {
    if !Strace::is_here("kills in the recovery of a restore") {
        return;
    }
    let sweep = Sweep::new("restore_kill", "kill_in_the_recovery");
    for (name, operation) in BEFORE {
        let ready = Ready::after(name, operation);
        let mut random = Random::seeded();
        let points = ready.sample(&mut random);
        let random = Mutex::new(random);
        sweep.share(points, |point| {
            if !is_wanted(&[&point]) {
                return;
            }
            let arena = fork_with_keep(&ready.arena);
            let store = store_inodes(&arena);
            kill(&arena, &RESTORE, &point);
            let scene = Scene::save(arena, &store);
            let (run, calls) = calls_of(scene.arena(), &RECOVER);
            run.expect(0);
            let wanted = ready.ending(scene.arena());
            let points: Vec<_> = calls.into_iter().map(|call| call.point).collect();
            let points = sample(&points, 2, &mut random.lock().expect("nobody panics while holding it"));
            for second in &points {
                sweep.attempt(&[&point, second], || {
                    scene.restore();
                    try_to_kill(scene.arena(), &RECOVER, second);
                    assert_eq!(ready.ending(scene.arena()), wanted, "{name}: {point}, {second}");
                    wanted
                });
            }
        });
    }
    sweep.report("kills in the recovery of a restore");
}

/// Going on leads to the old palace, from wherever it was cut short.
#[test]
fn resumed_restore_is_another() {
    if !Strace::is_here("a restore that is resumed") {
        return;
    }
    let sweep = Sweep::new("restore_kill", "resumed_restore");
    for (name, operation) in BEFORE {
        let ready = Ready::after(name, operation);
        let begun = ready.points.iter().position(|point| point.call == "renameat2").expect("the folder gets its name");
        sweep.share(sample(&ready.points[begun + 2..], 6, &mut Random::seeded()), |point| {
            sweep.attempt(&[&point], || {
                let arena = ready.killed(&point);
                arena.run(&RESUME).expect(0);
                assert_eq!(ready.ending(&arena), Ending::New, "{name}: {point}");
                Ending::New
            });
        });
    }
    sweep.report("restores that are resumed");
}
