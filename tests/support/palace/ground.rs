//! The palace that faults are made on, and what must be true of it after each.

use super::{Arena, Content, Ending, Injection, Landed, Point, Record, SIBLINGS, Strace, Tree};
use super::{segment_directories, without_arrays};
use std::collections::BTreeSet;
use std::path::Path;

/// Small batches, so that several steps fill the new store.
pub(crate) const REBUILD: [&str; 4] = ["rebuild", "--yes", "--batch-bytes", "100000"];
pub(crate) const RECOVER: [&str; 1] = ["recover"];
pub(crate) const RESUME: [&str; 2] = ["recover", "--resume"];

/// A palace, as it is before.
pub(crate) struct Ground {
    arena: Arena,
    tree: Tree,
    content: Content,
    sidecars: Tree,
    segments: BTreeSet<String>,
    indexes: Indexes,
}

/// What becomes of the indexes of a palace in a rebuild.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexes {
    /// They are sound, and copied byte for byte.
    Copied,
    /// Some are damaged, and built anew.
    Built,
    /// They and the tables become those of another version, which may have no place for arrays.
    Migrated,
}

impl Ground {
    pub(crate) fn new(arena: Arena, indexes: Indexes) -> Ground {
        let (tree, content) = (Tree::of(&arena.palace()), Content::of(&arena.palace()));
        let segments = segment_directories(&arena.palace());
        let sidecars = tree.sidecars(&segments);
        Ground { arena, tree, content, sidecars, segments, indexes }
    }

    /// A copy to work on.
    pub(crate) fn fork(&self) -> Arena {
        self.arena.fork()
    }

    /// A palace whose rebuild was killed at a point.
    pub(crate) fn killed(&self, point: &Point) -> Arena {
        let arena = self.fork();
        kill(&arena, &REBUILD, point);
        arena
    }

    /// What lies there before anybody recovers it: the store, complete, in the palace (I11). Only where the old
    /// database has lost its hot journal to `aside`, for the length of one step behind the commit, is it the backup
    /// that is complete.
    pub(crate) fn assert_complete(&self, arena: &Arena) {
        let tree = Tree::of(&arena.palace());
        let stands = |name: &str| tree.0.get(Path::new(name)) == self.tree.0.get(Path::new(name));
        let is_old = stands("chroma.sqlite3");
        if is_old && self.tree.store(&self.segments).0.iter().all(|(path, node)| tree.0.get(path) == Some(node)) {
            return; // the old store, byte for byte
        }
        let is_torn = is_old && !SIBLINGS.iter().all(|name| stands(name));
        let place = if is_torn { arena.operation().join("backup") } else { arena.palace() };
        self.assert_holds(&place, "the palace as the fault left it");
    }

    /// Recovers, and insists on an end: exactly the old palace (I8) or exactly the new (I9), nothing that does not
    /// belong, and nothing left to do (I12).
    pub(crate) fn assert_recovers(&self, arena: &Arena) -> Ending {
        arena.run(&RECOVER).expect(0);
        self.assert_ended(arena)
    }

    /// Insists on an end without recovering first.
    pub(crate) fn assert_ended(&self, arena: &Arena) -> Ending {
        let ending = self.ending(arena);
        arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
        let before = Tree::of(arena.root());
        arena.run(&RECOVER).expect(0).says("Nothing was cut short.");
        before.assert_untouched(&Tree::of(arena.root()), "a recovery after the end");
        ending
    }

    /// The exit code tells the truth: 0, the new palace; 1, the old one and nothing left to do; 4, something is left to
    /// do.
    pub(crate) fn assert_ends_as_it_says(&self, arena: &Arena, landed: &Landed) -> Ending {
        self.assert_complete(arena);
        match landed.run.code {
            Some(0) => {
                assert_eq!(self.assert_ended(arena), Ending::New, "exit 0: {landed:#?}");
                Ending::New
            }
            // Whoever cannot look at something in a palace takes it for an unfit one; but the true cause is said.
            Some(2) if landed.run.stderr.contains("os error") => {
                assert_eq!(self.assert_recovers(arena), Ending::Old, "exit 2: {landed:#?}");
                Ending::Old
            }
            Some(1) => {
                arena.run(&["status"]).expect(0);
                let ending = self.assert_recovers(arena);
                assert_eq!(ending, Ending::Old, "exit 1: {landed:#?}");
                ending
            }
            Some(4) => {
                // Where nothing can be written any more, nothing can be said either.
                let is_mute = landed.log.contains("write(2<");
                assert!(is_mute || landed.run.stderr.contains("recover"), "nobody is told what to do: {landed:#?}");
                let status = arena.run(&["status"]);
                // Where nothing but the sync of the very last record failed, there is nothing left to do that anybody
                // could see.
                if status.code == Some(0) {
                    return self.assert_ended(arena);
                }
                assert_eq!(status.code, Some(4), "{status:#?}");
                self.assert_recovers(arena)
            }
            _ => panic!("an exit code for this is not published: {landed:#?}"),
        }
    }

    /// Insists on the same content.
    fn assert_holds(&self, palace: &Path, what: &str) {
        let now = Content::of(palace);
        if self.indexes == Indexes::Copied {
            return self.content.assert_equals(&now, what);
        }
        if self.indexes == Indexes::Migrated {
            let (before, now) = (without_arrays(&self.content), without_arrays(&now));
            assert_eq!(before.record_differences_by(&now, Record::is_kept_in), Vec::<String>::new(), "{what}");
            return;
        }
        // A new index holds all writes that were applied, and says so in `max_seq_id`.
        let tables = self.content.table_differences(&now, &["max_seq_id"]);
        let differences = [tables, self.content.record_differences_by(&now, Record::is_kept_in)].concat();
        assert!(differences.is_empty(), "{what}: {}", differences.join("; "));
    }

    fn ending(&self, arena: &Arena) -> Ending {
        let tree = Tree::of(&arena.palace());
        let keep = Tree::of(&arena.keep()).top();
        let name = arena.operation().file_name().expect("a name").to_string_lossy().into_owned();
        let folder = Tree::of(&arena.operation()).top();
        assert_eq!(Tree::of(&arena.root().join("tmp")).top(), BTreeSet::new(), "temporary files");
        if self.tree == tree {
            assert_one_of(&keep, &[&[], &["lock"], &[&name, "lock"]], "the keep");
            assert_one_of(&folder, &[&[], &["journal", "report.json"]], "the operation's folder");
            return Ending::Old;
        }
        let segments = segment_directories(&arena.palace());
        self.assert_holds(&arena.palace(), "the new palace");
        self.sidecars.assert_equals(&tree.sidecars(&segments), "sidecars");
        let store = tree.store(&segments).top();
        assert!(store.iter().all(|name| name == "chroma.sqlite3" || segments.contains(name)), "the store: {store:?}");
        assert_one_of(&keep, &[&[&name, "lock"]], "the keep");
        assert_one_of(&folder, &[&["aside", "backup", "journal", "report.json"]], "the operation's folder");
        Ending::New
    }
}

#[track_caller]
fn assert_one_of(found: &BTreeSet<String>, allowed: &[&[&str]], what: &str) {
    let is_allowed = allowed.iter().any(|names| found.iter().map(String::as_str).eq(names.iter().copied()));
    assert!(is_allowed, "{what} holds {found:?}");
}

/// Runs a command and kills it; a kill that does not land would prove nothing.
pub(crate) fn kill(arena: &Arena, arguments: &[&str], point: &Point) {
    assert!(try_to_kill(arena, arguments, point), "the kill at {point} did not land");
}

/// Runs a command and kills it if it gets as far as that. One that ends by itself has to end well.
pub(crate) fn try_to_kill(arena: &Arena, arguments: &[&str], point: &Point) -> bool {
    let landed = Strace(arena).inject(arguments, &[Injection::Kill(point.clone())]);
    assert!(landed.has_fired() || landed.run.code == Some(0), "{landed:#?}");
    landed.has_fired()
}
