//! Kills the real program at every system call that changes a file, then recovers, and looks.
//!
//! A failure is replayed by the line it prints. `PALACEKEEPER_POINT=CALL:N` narrows a sweep to one point;
//! `PALACEKEEPER_KILL=all` runs the sweeps that are sampled by default in full.

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use support::palace::{Arena, Call, Content, Injection, Point, Strace, Tree, calls_of, say, segment_directories};

/// Small batches, so that several steps fill the new store.
const REBUILD: [&str; 4] = ["rebuild", "--yes", "--batch-bytes", "60000"];
const RECOVER: [&str; 1] = ["recover"];
const RESUME: [&str; 2] = ["recover", "--resume"];

/// How a kill and the recovery after it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Old,
    New,
}

/// The palace that is worked on, as it is before.
struct Ground {
    arena: Arena,
    tree: Tree,
    content: Content,
    sidecars: Tree,
}

impl Ground {
    fn new(arena: Arena) -> Ground {
        let (tree, content) = (Tree::of(&arena.palace()), Content::of(&arena.palace()));
        let sidecars = tree.sidecars(&segment_directories(&arena.palace()));
        Ground { arena, tree, content, sidecars }
    }

    /// What lies there before anybody recovers it: the store is complete in the palace, old or new (I11); a hot one at least in
    /// the backup.
    fn assert_complete(&self, arena: &Arena) {
        let place = match Content::of(&arena.palace()) {
            content if content.record_differences(&self.content).is_empty() => arena.palace(),
            _ => arena.operation().join("backup"),
        };
        self.content.assert_equals(&Content::of(&place), "before the recovery");
    }

    /// Recovers, and insists on an end: exactly the old palace (I8) or exactly the new (I9), nothing that does not belong, and
    /// nothing left to do (I12).
    fn assert_recovers(&self, arena: &Arena) -> Ending {
        arena.run(&RECOVER).expect(0);
        let ending = self.ending(arena);
        arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
        let before = Tree::of(arena.root());
        arena.run(&RECOVER).expect(0).says("Nothing was cut short.");
        before.assert_untouched(&Tree::of(arena.root()), "a second recovery");
        ending
    }

    fn ending(&self, arena: &Arena) -> Ending {
        let tree = Tree::of(&arena.palace());
        let is_old = self.tree == tree;
        if !is_old {
            let segments = segment_directories(&arena.palace());
            self.content.assert_equals(&Content::of(&arena.palace()), "the new palace");
            self.sidecars.assert_equals(&tree.sidecars(&segments), "sidecars");
            let has_sibling = tree.top().iter().any(|name| name.starts_with("chroma.sqlite3-"));
            assert!(!has_sibling, "the new palace has a journal: {:?}", tree.top());
        }
        let keep: Vec<_> = Tree::of(&arena.keep()).top().into_iter().collect();
        let allowed: &[&[&str]] =
            if is_old { &[&[], &["lock"], &["0001-rebuild", "lock"]] } else { &[&["0001-rebuild", "lock"]] };
        assert!(
            allowed.contains(&keep.iter().map(String::as_str).collect::<Vec<_>>().as_slice()),
            "the keep holds {keep:?}"
        );
        let folder: Vec<_> = Tree::of(&arena.operation()).top().into_iter().collect();
        let allowed: &[&[&str]] = if is_old { &[&[], &["journal"]] } else { &[&["aside", "backup", "journal"]] };
        assert!(
            allowed.contains(&folder.iter().map(String::as_str).collect::<Vec<_>>().as_slice()),
            "the operation's folder holds {folder:?}"
        );
        if is_old { Ending::Old } else { Ending::New }
    }
}

#[test]
fn kill_at_a_system_call_of_a_rebuild_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("a kill at every system call of a rebuild") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"));
    let points = points(&census(&ground.arena.fork(), &REBUILD));
    let sweep = Sweep::new("kill_at_a_system_call_of_a_rebuild");
    sweep.run(&points, |point| {
        let arena = ground.arena.fork();
        kill(&arena, &REBUILD, point);
        ground.assert_complete(&arena);
        ground.assert_recovers(&arena)
    });
    sweep.report("rebuild");
}

/// Everything a command changes, in order; run twice, because a point must mean the same in every run.
fn census(arena: &Arena, arguments: &[&str]) -> Vec<Call> {
    let again = arena.fork();
    let (run, calls) = calls_of(arena, arguments);
    run.expect(0);
    let (run, same) = calls_of(&again, arguments);
    run.expect(0);
    let names = |calls: &[Call]| calls.iter().map(|call| call.point.clone()).collect::<Vec<_>>();
    assert_eq!(names(&calls), names(&same), "two runs make different calls");
    calls
}

fn points(calls: &[Call]) -> Vec<Point> {
    calls.iter().map(|call| call.point.clone()).collect()
}

/// Runs a command and kills it; a kill that does not land would prove nothing.
fn kill(arena: &Arena, arguments: &[&str], point: &Point) {
    let landed = Strace(arena).inject(arguments, &Injection::Kill(point.clone()));
    assert_eq!(landed.run.signal, Some(9), "the kill did not land: {landed:#?}");
}

/// A walk through many points on all processors, which goes on after a failure and tells all of them at the end.
struct Sweep {
    test: &'static str,
    endings: Mutex<BTreeMap<(String, Ending), usize>>,
    failures: Mutex<Vec<String>>,
}

impl Sweep {
    fn new(test: &'static str) -> Sweep {
        Sweep { test, endings: Mutex::default(), failures: Mutex::default() }
    }

    fn run(&self, points: &[Point], attempt: impl Fn(&Point) -> Ending + Sync) {
        let only: Option<Point> = std::env::var("PALACEKEEPER_POINT").ok().map(|text| text.parse().expect("CALL:N"));
        let wanted: Vec<_> = points.iter().filter(|point| only.as_ref().is_none_or(|only| only == *point)).collect();
        let queue = Mutex::new(wanted.into_iter());
        let work = || loop {
            let Some(point) = queue.lock().expect("no worker panics with it").next() else { break };
            match catch_unwind(AssertUnwindSafe(|| attempt(point))) {
                Ok(ending) => self.count(&point.call, ending),
                Err(_) => self.fail(point),
            }
        };
        let workers = std::thread::available_parallelism().map_or(2, |count| count.get());
        std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    }

    fn count(&self, call: &str, ending: Ending) {
        *self.endings.lock().expect("no worker panics with it").entry((call.to_owned(), ending)).or_default() += 1;
    }

    fn fail(&self, point: &Point) {
        let line = format!("PALACEKEEPER_POINT={point} cargo test --test kill {}", self.test);
        self.failures.lock().expect("no worker panics with it").push(line);
    }

    /// Prints what was done and fails if anything did.
    fn report(self, what: &str) {
        let endings = self.endings.into_inner().expect("no worker panics with it");
        let total =
            |wanted| endings.iter().filter(|((_, ending), _)| *ending == wanted).map(|(_, count)| count).sum::<usize>();
        let calls: Vec<_> =
            endings.iter().map(|((call, ending), count)| format!("{call} {ending:?} {count}")).collect();
        let (old, new) = (total(Ending::Old), total(Ending::New));
        say(&format!("{what}: {} kills landed, {old} ended old, {new} new ({})", old + new, calls.join(", ")));
        let failures = self.failures.into_inner().expect("no worker panics with it");
        assert!(
            failures.is_empty(),
            "{} of {} failed; replay with\n{}",
            failures.len(),
            failures.len() + old + new,
            failures.join("\n")
        );
        assert!(old + new > 0, "nothing was killed");
    }
}
