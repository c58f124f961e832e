//! The steps of a rebuild over files, in the order of a rebuild, under every crash.
//!
//! The store is a few small files here; what matters is which of them stands where at every moment.

use crate::support::explore::{Explorer, FOLDER, PALACE, Scene};
use crate::support::memory::MemoryDisk;
use palacekeeper::disk::Disk;
use palacekeeper::engine::Plan;
use palacekeeper::ops::{Step, World};
use palacekeeper::tree::{self, Copy, Fingerprint, Spot};
use std::cell::Cell;
use std::path::Path;

const DATABASE: &str = "chroma.sqlite3";
const JOURNAL: &str = "chroma.sqlite3-journal";

/// An old store with a hot journal, and a new one that is taken from `next`.
#[derive(Default)]
struct Swap {
    /// Images in which the palace alone was not whole.
    gaps: Cell<u32>,
}

fn put(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    disk.create(&Path::new(PALACE).join(path), bytes).expect("the disk is sound");
}

impl Scene for Swap {
    type Step = Step;

    fn disk(&self) -> MemoryDisk {
        let disk = MemoryDisk::new(&["/keep", PALACE, "/palace/next", "/palace/segment-1"]);
        put(&disk, DATABASE, b"old database");
        put(&disk, JOURNAL, b"its journal");
        put(&disk, "segment-1/header.bin", b"graph");
        put(&disk, "next/chroma.sqlite3", b"new database");
        disk.settle();
        disk
    }

    fn plan(&self, disk: &MemoryDisk) -> Plan<Step> {
        let expects = |name: &str| {
            let found = Fingerprint::of(disk, &Path::new(PALACE).join(name)).expect("the disk is sound");
            found.expect("it was put there")
        };
        let copy = |source: &str, names: &[&str], target: &str| Copy {
            source: Spot::palace(source),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            target: Spot::operation(target),
            bytes: 1,
        };
        let aside = |name: &str| Spot::operation("aside").join(name);
        let set_aside = |name: &str| tree::Step::RenameAside {
            need: tree::Need::Must,
            source: Spot::palace(name),
            target: aside(name),
            expects: expects(name),
        };
        let database = Spot::palace(DATABASE);
        let steps = vec![
            tree::Step::Backup(copy("", &[DATABASE, JOURNAL, "segment-1"], "backup")),
            tree::Step::Copy(copy("next", &[DATABASE], "staging")),
            tree::Step::Copy(copy("segment-1", &["header.bin"], "staging/segment-2")),
            tree::Step::Sync { target: Spot::operation("staging/chroma.sqlite3") },
            tree::Step::CreateDir { target: Spot::operation("aside") },
            tree::Step::Place { source: Spot::operation("staging/segment-2"), target: Spot::palace("segment-2") },
            tree::Step::LinkAside { source: database.clone(), target: aside(DATABASE), expects: expects(DATABASE) },
            set_aside(JOURNAL),
            tree::Step::Replace {
                source: Spot::operation("staging/chroma.sqlite3"),
                target: database,
                expects: expects(DATABASE),
                aside: aside(DATABASE),
                absent: vec![Spot::palace("chroma.sqlite3-wal")],
            },
            set_aside("segment-1"),
            tree::Step::Delete { target: Spot::operation("staging") },
        ];
        Plan { steps: steps.into_iter().map(Step::Tree).collect(), pivot: 7 }
    }

    fn world<'d>(&self, disk: &'d MemoryDisk, plan: &Plan<Step>) -> World<'d> {
        World::new(disk, Path::new(PALACE), Path::new(FOLDER), plan)
    }

    /// I11: complete somewhere, at every instant; and no database ever stands beside the journal of another one.
    fn check(&self, disk: &MemoryDisk) {
        let whole = |directory: &str, database: &str, journal: Option<&str>, segment: &str| {
            let image = disk.image(directory);
            let read = |name: &str| image.get(&Path::new(directory).join(name)).cloned().flatten();
            let bytes = |text: &str| Some(text.as_bytes().to_vec());
            read(DATABASE) == bytes(database)
                && read(JOURNAL) == journal.and_then(bytes)
                && read(&format!("{segment}/header.bin")) == bytes("graph")
        };
        let old = whole(PALACE, "old database", Some("its journal"), "segment-1");
        let new = whole(PALACE, "new database", None, "segment-2");
        let backup = whole(&format!("{FOLDER}/backup"), "old database", Some("its journal"), "segment-1");
        assert!(old || new || backup, "the store is nowhere: {:?}", disk.image("/"));
        self.gaps.set(self.gaps.get() + u32::from(!old && !new));
    }
}

/// I8, I9, I11, I12, for the real steps and the real order. A crash, a crash of what follows, and a crash of what
/// follows that; with `PALACEKEEPER_FAULTS=all` on and on until no new state turns up.
#[test]
fn crash_anywhere_in_the_swap_leaves_one_whole_store() {
    let scene = Swap::default();
    let explorer = Explorer::new(&scene);
    let is_full = std::env::var_os("PALACEKEEPER_FAULTS").is_some_and(|faults| faults == "all");
    let walk = explorer.explore(&[0x9e37_79b9_7f4a_7c15, 12_345_678_901], if is_full { usize::MAX } else { 2 });
    println!("{walk:?}, {} of them between old and new", scene.gaps.get());
    assert!(walk.states > 500 && walk.ended_old > 1 && walk.ended_new > 0, "{walk:?}");
    assert!(walk.left_out == 0 || !is_full, "{walk:?}");
    assert!(scene.gaps.get() > 0, "the moment between two renames was never seen");
}

/// I5, I7, for the same: what a failed sync has dropped is in sight afterwards, and nothing is built upon it.
#[test]
fn what_a_failed_sync_has_dropped_in_the_swap_is_believed() {
    let met = Explorer::new(&Swap::default()).fail_syncs();
    assert!(met.old > 100 && met.new > 100, "only one of the two ends was ever reached: {met:?}");
}
