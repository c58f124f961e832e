//! A small palace and the folder of an operation, for single steps over files.

use palacekeeper::disk::Disk;
use palacekeeper::engine::Observed;
use palacekeeper::tree::{Copy, Fingerprint, Need, Roots, Spot, Step};
use std::path::{Path, PathBuf};

/// A palace with a database, one of its siblings, and a segment; and the folder of an operation.
pub struct House<'d> {
    pub roots: Roots<'d>,
}

impl<'d> House<'d> {
    pub fn build(disk: &'d dyn Disk, root: &Path) -> House<'d> {
        let roots = Roots { disk, palace: root.join("palace"), operation: root.join("operation"), annex: None };
        let house = House { roots };
        for directory in ["palace", "operation", "palace/segment", "operation/staging"] {
            disk.create_dir(&root.join(directory)).expect("the disk is sound");
        }
        house.put(&Spot::palace("db"), b"old");
        house.put(&Spot::palace("db-wal"), b"log");
        house.put(&Spot::palace("segment/header"), b"graph");
        house.put(&Spot::operation("staging/db"), b"new");
        house.put(&Spot::operation("staging/part"), b"new part");
        house
    }

    pub fn path(&self, spot: &Spot) -> PathBuf {
        self.roots.path(spot).expect("the test names no other places")
    }

    pub fn put(&self, spot: &Spot, bytes: &[u8]) {
        self.roots.disk.create(&self.path(spot), bytes).expect("nothing stands there");
    }

    /// What stands there: contents, or the names in a directory.
    pub fn look(&self, spot: &Spot) -> Option<String> {
        let (disk, path) = (self.roots.disk, self.path(spot));
        disk.stat(&path).expect("the disk is sound")?;
        let names = disk.list(&path).map(|names| format!("{names:?}"));
        Some(
            names.unwrap_or_else(|_| {
                String::from_utf8_lossy(&disk.read(&path, 0, 99).expect("it is a file")).into_owned()
            }),
        )
    }

    pub fn fingerprint(&self, spot: &Spot) -> Fingerprint {
        Fingerprint::of(self.roots.disk, &self.path(spot)).expect("the disk is sound").expect("it is there")
    }

    pub fn observe(&self, step: &Step) -> Observed {
        step.observe(&self.roots).unwrap_or_else(|error| panic!("{step}: {error}"))
    }

    pub fn apply(&self, step: &Step) {
        step.apply(&self.roots).unwrap_or_else(|error| panic!("{step}: {error}"));
    }

    /// Every kind of step, ready to be applied; with whether it can be undone, and what it touches.
    pub fn steps(&self) -> Vec<(Step, bool, Vec<Spot>)> {
        let (db, wal, staged) = (Spot::palace("db"), Spot::palace("db-wal"), Spot::operation("staging/db"));
        let (aside, kept) = (Spot::operation("staging/aside"), Spot::operation("staging/kept"));
        let copy = |target: &str| Copy {
            source: Spot::palace(""),
            names: vec!["db".into(), "segment".into()],
            target: Spot::operation(target),
            bytes: 3,
        };
        let place = (Spot::operation("staging/part"), Spot::palace("new"));
        let (expects, expects_wal) = (self.fingerprint(&db), self.fingerprint(&wal));
        let linked = Step::LinkAside { source: db.clone(), target: aside.clone(), expects };
        let moved =
            Step::RenameAside { need: Need::Must, source: wal.clone(), target: kept.clone(), expects: expects_wal };
        vec![
            (Step::Backup(copy("backup")), true, vec![Spot::operation("backup")]),
            (Step::Copy(copy("staging/copy")), true, vec![Spot::operation("staging/copy")]),
            (Step::CreateDir { target: Spot::operation("aside") }, true, vec![Spot::operation("aside")]),
            (Step::Place { source: place.0.clone(), target: place.1.clone() }, true, vec![place.0, place.1]),
            (linked, true, vec![db.clone(), aside.clone()]),
            (moved, true, vec![wal, kept]),
            (replace(&aside, expects), false, vec![db, staged]),
            (Step::Delete { target: Spot::operation("staging") }, false, vec![Spot::operation("staging")]),
        ]
    }
}

pub fn replace(aside: &Spot, expects: Fingerprint) -> Step {
    Step::Replace {
        source: Spot::operation("staging/db"),
        target: Spot::palace("db"),
        expects,
        aside: aside.clone(),
        absent: vec![Spot::palace("db-journal")],
    }
}
