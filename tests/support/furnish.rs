//! The scene most tests of the engine play in: steps that need each other, and a pivot in between.

use super::explore::{PALACE, Scene};
use super::memory::MemoryDisk;
use super::toy::{Hall, Toy};
use palacekeeper::disk::Disk;
use palacekeeper::engine::Plan;
use std::path::Path;

/// A new room is furnished, a lamp is switched, and what is live is exchanged.
pub struct Furnish;

impl Scene for Furnish {
    type Step = Toy;

    fn disk(&self) -> MemoryDisk {
        let disk = MemoryDisk::new(&["/keep", PALACE, "/palace/attic"]);
        for (path, bytes) in [("/palace/live", &b"old"[..]), ("/palace/lamp", &[7]), ("/palace/attic/box", b"junk")] {
            disk.create(Path::new(path), bytes).expect("the disk is sound");
        }
        disk.settle();
        disk
    }

    fn plan(&self, _: &MemoryDisk) -> Plan<Toy> {
        let thing = |room: &str, name: &str, pieces| Toy::Thing { room: room.into(), name: name.into(), pieces };
        let steps = vec![
            Toy::Room("staging".into()),
            thing("staging", "live", 2),
            Toy::Switch { name: "lamp".into(), from: 7, to: 9 },
            Toy::Room("hall".into()),
            thing("hall", "chair", 1),
            Toy::Install { source: "staging/live0".into(), target: "live".into(), old: b"old".to_vec() },
            Toy::Discard("staging".into()),
            Toy::Discard("attic".into()),
        ];
        Plan { steps, pivot: 5 }
    }

    fn world<'d>(&self, disk: &'d MemoryDisk, _: &Plan<Toy>) -> Hall<'d> {
        Hall { disk, path: PALACE.into() }
    }
}
