//! Kills a migration to `sqlite_exact`, one back, and an import, their recoveries and what goes on after them, and
//! insists on the old palace or the new.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use support::palace::{
    Arena, Content, EXACT, Ending, Exact, Point, RECOVER, RESUME, Random, Record, Scene, Strace, Sweep, Tree, calls_of,
    copy_tree, is_wanted, kill, make_exact, sample, try_to_kill,
};

const TO_EXACT: [&str; 7] = ["migrate", "--to", "exact", "--yes", "--accept-loss", "--batch-bytes", "20000"];
const TO_CHROMA: [&str; 7] = ["migrate", "--to", "chroma-1.5", "--yes", "--accept-loss", "--batch-bytes", "20000"];

/// What is being killed.
struct Case {
    name: &'static str,
    arena: Arena,
    command: Vec<String>,
    before: Tree,
    /// What a reader of another kind finds afterwards.
    wanted: Wanted,
    /// What the command changes, in order.
    points: Vec<Point>,
}

enum Wanted {
    Exact(Box<Exact>),
    Chroma(Box<Content>),
}

/// Everything in a palace that is neither of the stores.
fn sidecars(tree: &Tree) -> Tree {
    let is_store = |name: &str| name.starts_with("chroma.sqlite3") || name.starts_with(EXACT) || name.len() == 36;
    let top =
        |path: &std::path::Path| path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let kept = tree.0.iter().filter(|(path, _)| top(path).is_some_and(|name| !is_store(&name)));
    Tree(kept.map(|(path, node)| (path.clone(), node.clone())).collect())
}

impl Case {
    fn new(name: &'static str, arena: Arena, command: &[&str]) -> Case {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let before = Tree::of(&arena.palace());
        let whole = fork(&arena);
        let (run, calls) = calls_of(&whole, &words(&command));
        run.expect(0);
        let wanted = match whole.palace().join(EXACT).exists() {
            true => Wanted::Exact(Box::new(Exact::of(&whole.palace()))),
            false => Wanted::Chroma(Box::new(Content::of(&whole.palace()))),
        };
        let points = calls.into_iter().map(|call| call.point).collect();
        Case { name, arena, command, before, wanted, points }
    }

    fn all() -> [Case; 3] {
        let exact = Arena::new("1.0.20");
        fs::remove_file(exact.database()).expect("a database");
        make_exact(&exact, 60);
        let text = Arena::new("1.5.9").run(&["export"]).expect(0).stdout;
        let empty = Arena::empty();
        fs::create_dir(empty.palace()).expect("a directory");
        let lines = empty.root().join("lines.jsonl");
        fs::write(&lines, text).expect("a file");
        let import = ["import", "--yes", "--batch-bytes", "20000", lines.to_str().expect("a path")];
        [
            Case::new("to exact", Arena::new("1.5.9"), &TO_EXACT),
            Case::new("from exact", exact, &TO_CHROMA),
            Case::new("an import", empty, &import),
        ]
    }

    /// Points spread over the command, and every one of its end, where stores change places.
    fn sample(&self, spread: usize, end: usize, random: &mut Random) -> Vec<Point> {
        let (before, after) = self.points.split_at(self.points.len().saturating_sub(40));
        [sample(before, spread, random), sample(after, end, random)].concat()
    }

    fn kill(&self, arena: &Arena, point: &Point) {
        kill(arena, &words(&self.command), point);
        // I11: what was there is there, or what is coming; and it can be told which.
        let tree = Tree::of(&arena.palace());
        let is_old = self.before.0.iter().all(|(path, node)| tree.0.get(path) == Some(node));
        assert!(is_old || self.holds(arena), "{}: neither store is complete", self.name);
    }

    /// Whether the new store is in the palace, whole.
    fn holds(&self, arena: &Arena) -> bool {
        let palace = arena.palace();
        match &self.wanted {
            Wanted::Exact(wanted) => palace.join(EXACT).exists() && Exact::of(&palace).records == wanted.records,
            Wanted::Chroma(wanted) => {
                let is_there = palace.join("chroma.sqlite3").exists();
                is_there && wanted.record_differences_by(&Content::of(&palace), Record::is_kept_in).is_empty()
            }
        }
    }

    /// Recovers, and insists on an end: exactly the old palace or the new one, never parts of both (I8, I9), and
    /// nothing left to do (I12).
    fn ending(&self, arena: &Arena) -> Ending {
        arena.run(&RECOVER).expect(0);
        let before = Tree::of(arena.root());
        arena.run(&RECOVER).expect(0).says("Nothing was cut short.");
        before.assert_untouched(&Tree::of(arena.root()), "a recovery after the end");
        let now = Tree::of(&arena.palace());
        sidecars(&self.before).assert_equals(&sidecars(&now), "sidecars");
        let left: BTreeSet<String> =
            Tree::of(&arena.keep()).0.keys().map(|path| path.to_string_lossy().into()).collect();
        let is_junk =
            |path: &&String| ["staging", "intake", ".unborn", ".scratch"].iter().any(|part| path.contains(part));
        assert_eq!(left.iter().find(is_junk), None, "{}: left in the keep", self.name);
        assert_eq!(Tree::of(&arena.root().join("tmp")).top(), BTreeSet::new(), "temporary files");
        if now == self.before {
            return Ending::Old; // what an import that was rolled back had read is kept: it may have come through a pipe
        }
        assert!(!left.iter().any(|path| path.ends_with(".jsonl")), "{left:?}");
        let names = now.top();
        let is_exact = matches!(self.wanted, Wanted::Exact(_));
        let [has_chroma, has_exact] =
            ["chroma.sqlite3", EXACT].map(|store| names.iter().any(|name| name.starts_with(store)));
        assert!((has_chroma, has_exact) == (!is_exact, is_exact), "{}: {names:?}", self.name);
        assert!(self.holds(arena), "{}: the new store", self.name);
        Ending::New
    }
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

fn fork(arena: &Arena) -> Arena {
    let fork = arena.fork();
    if arena.keep().exists() {
        copy_tree(&arena.keep(), &fork.keep());
    }
    fork
}

/// What an operation recognises by its inode: databases, their siblings, segments.
fn store_inodes(arena: &Arena) -> BTreeSet<u64> {
    let others = sidecars(&Tree::of(&arena.palace()));
    let tree = Tree::of(&arena.palace());
    let store = tree.0.iter().filter(|(path, _)| !others.0.contains_key(*path) && path.components().count() == 1);
    store.map(|(_, node)| node.inode).collect()
}

#[test]
fn kill_in_a_change_of_store_leaves_both_or_none() {
    if !Strace::is_here("kills in a change of store") {
        return;
    }
    let sweep = Sweep::new("exchange_kill", "kill_in_a_change_of_store");
    for case in Case::all() {
        sweep.share(case.sample(8, 20, &mut Random::seeded()), |point| {
            sweep.attempt(&[&point], || {
                let arena = fork(&case.arena);
                case.kill(&arena, &point);
                case.ending(&arena)
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
    for case in Case::all() {
        let mut random = Random::seeded();
        let points = case.sample(2, 6, &mut random);
        let random = Mutex::new(random);
        sweep.share(points, |point| {
            if !is_wanted(&[&point]) {
                return;
            }
            let arena = fork(&case.arena);
            let store = store_inodes(&arena);
            case.kill(&arena, &point);
            let scene = Scene::save(arena, &store);
            let (run, calls) = calls_of(scene.arena(), &RECOVER);
            run.expect(0);
            let wanted = case.ending(scene.arena());
            let points: Vec<_> = calls.into_iter().map(|call| call.point).collect();
            let points = sample(&points, 2, &mut random.lock().expect("nobody panics while holding it"));
            for second in &points {
                sweep.attempt(&[&point, second], || {
                    scene.restore();
                    try_to_kill(scene.arena(), &RECOVER, second);
                    assert_eq!(case.ending(scene.arena()), wanted, "{}: {point}, {second}", case.name);
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
    for case in Case::all() {
        let begun = case.points.iter().position(|point| point.call == "renameat2").expect("the folder gets its name");
        sweep.share(sample(&case.points[begun + 2..], 8, &mut Random::seeded()), |point| {
            sweep.attempt(&[&point], || {
                let arena = fork(&case.arena);
                case.kill(&arena, &point);
                arena.run(&RESUME).expect(0);
                assert_eq!(case.ending(&arena), Ending::New, "{}: {point}", case.name);
                Ending::New
            });
        });
    }
    sweep.report("changes of store that are resumed");
}
