//! A command that changes a palace, with the palace before it and what has to be there after it, whatever kind of store
//! that is.

use super::{
    Arena, Content, EXACT, Ending, Exact, Landed, Point, RECOVER, Random, Record, Tree, calls_of, copy_tree, kill,
    sample,
};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A command that changes a palace, ready to be cut short or failed again and again.
pub(crate) struct Change {
    pub(crate) name: &'static str,
    pub(crate) arena: Arena,
    command: Vec<String>,
    before: Tree,
    wanted: Wanted,
    /// What the command changes, in order, as far as two runs do the same: with other UUIDs, a page more or less can be
    /// split.
    pub(crate) points: Vec<Point>,
}

/// What a reader of another kind finds afterwards.
enum Wanted {
    Exact(Box<Exact>),
    Chroma(Box<Content>),
    /// A palace that comes back does so byte for byte.
    Bytes(Tree),
}

impl Change {
    /// Runs the command to its end on copies, to learn what it does and what it makes.
    pub(crate) fn new(name: &'static str, arena: Arena, command: &[&str]) -> Change {
        let whole = || {
            let whole = fork_with_keep(&arena);
            let (run, calls) = calls_of(&whole, command);
            run.expect(0);
            (whole, calls.into_iter().map(|call| call.point).collect::<Vec<_>>())
        };
        let ((whole, mut points), (_again, others)) = (whole(), whole());
        let all = points.len();
        points.retain(|point| others.contains(point));
        assert!(all - points.len() <= 6, "{name}: of {all} calls only {} are in both runs", points.len());
        let wanted = match whole.palace().join(EXACT).exists() {
            _ if command[0] == "restore" => Wanted::Bytes(Tree::of(&whole.palace())),
            true => Wanted::Exact(Box::new(Exact::of(&whole.palace()))),
            false => Wanted::Chroma(Box::new(Content::of(&whole.palace()))),
        };
        let before = Tree::of(&arena.palace());
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Change { name, arena, command, before, wanted, points }
    }

    /// An import of what a palace holds into an empty directory.
    pub(crate) fn import(palace: &Arena) -> Change {
        let text = palace.run(&["export"]).expect(0).stdout;
        let empty = Arena::empty();
        fs::create_dir(empty.palace()).expect("a directory");
        let lines = empty.root().join("lines.jsonl");
        fs::write(&lines, text).expect("a file");
        let lines = lines.to_str().expect("a path").to_owned();
        Change::new("an import", empty, &["import", "--yes", "--batch-bytes", "20000", &lines])
    }

    pub(crate) fn command(&self) -> Vec<&str> {
        self.command.iter().map(String::as_str).collect()
    }

    /// Points spread over the command, and every one of its end, where stores change places.
    pub(crate) fn sample(&self, spread: usize, end: usize, random: &mut Random) -> Vec<Point> {
        let (before, after) = self.points.split_at(self.points.len().saturating_sub(40));
        [sample(before, spread, random), sample(after, end, random)].concat()
    }

    pub(crate) fn kill(&self, arena: &Arena, point: &Point) {
        kill(arena, &self.command(), point);
        self.assert_complete(arena);
    }

    /// I11: what was there is there, or what is coming; and it can be told which.
    pub(crate) fn assert_complete(&self, arena: &Arena) {
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
            // Old segments may still lie there, on their way out.
            Wanted::Bytes(wanted) => {
                let now = Tree::of(&palace);
                wanted.0.iter().all(|(path, node)| now.0.get(path) == Some(node))
            }
        }
    }

    /// Recovers, and insists on an end: exactly the old palace or the new one, never parts of both (I8, I9), and
    /// nothing left to do (I12).
    pub(crate) fn ending(&self, arena: &Arena) -> Ending {
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
        let stores = ["chroma.sqlite3", EXACT].map(|store| names.iter().any(|name| name.starts_with(store)));
        let is_only = match &self.wanted {
            Wanted::Exact(_) => stores == [false, true],
            Wanted::Chroma(_) => stores == [true, false],
            Wanted::Bytes(wanted) => *wanted == now,
        };
        assert!(is_only, "{}: {names:?}", self.name);
        assert!(self.holds(arena), "{}: the new store", self.name);
        Ending::New
    }

    /// The same after an error, of which the exit code tells the truth: 0, the new palace; 1, the old one, and nothing
    /// is left to do; 4, something is.
    pub(crate) fn ending_as_it_says(&self, arena: &Arena, landed: &Landed) -> Ending {
        self.assert_complete(arena);
        let wanted = match landed.run.code {
            Some(0) => Some(Ending::New),
            Some(1) => Some(Ending::Old),
            Some(4) => None,
            // Whoever cannot open a file takes the palace for an unfit one, or for one that somebody may have; but the
            // true cause is said.
            Some(2 | 6) if landed.run.stderr.contains("os error") => Some(Ending::Old),
            _ => panic!("{}: an exit code for this is not published: {landed:#?}", self.name),
        };
        if wanted.is_some() {
            arena.run(&["status"]).expect(0);
        }
        let ending = self.ending(arena);
        assert!(wanted.is_none_or(|wanted| wanted == ending), "{}: {ending:?} after {landed:#?}", self.name);
        ending
    }

    /// What an operation recognises by its inode: databases, their siblings, segments.
    pub(crate) fn store_inodes(&self, arena: &Arena) -> BTreeSet<u64> {
        let tree = Tree::of(&arena.palace());
        let others = sidecars(&tree);
        let store = tree.0.iter().filter(|(path, _)| !others.0.contains_key(*path) && path.components().count() == 1);
        store.map(|(_, node)| node.inode).collect()
    }
}

/// Everything in a palace that is neither of the stores.
fn sidecars(tree: &Tree) -> Tree {
    let is_store = |name: &str| name.starts_with("chroma.sqlite3") || name.starts_with(EXACT) || name.len() == 36;
    let top = |path: &Path| path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let kept = tree.0.iter().filter(|(path, _)| top(path).is_some_and(|name| !is_store(&name)));
    Tree(kept.map(|(path, node)| (path.clone(), node.clone())).collect())
}

/// A copy of an arena's palace and of its keep, if there is one.
pub(crate) fn fork_with_keep(arena: &Arena) -> Arena {
    let fork = arena.fork();
    if arena.keep().exists() {
        copy_tree(&arena.keep(), &fork.keep());
    }
    fork
}
