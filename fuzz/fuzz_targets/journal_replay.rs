//! A journal that somebody else wrote, over a tree of any shape: whatever its bytes are, it is read or refused, carried
//! out or given back; nothing panics, and nothing outside of the palace and the keep is touched.
//!
//! The first byte chooses: even, and the rest is the file; odd, and the rest is cut into payloads (a length of two
//! bytes before each), which are framed as they should be, since a fuzzer never finds a CRC. The next four bytes choose
//! what stands where: a bit for each of [`PLACES`].

#![no_main]

use libfuzzer_sys::fuzz_target;
use palacekeeper::disk::Disk;
use palacekeeper::engine::{self, Operation, Step as _};
use palacekeeper::journal::frame::{self, Link};
use palacekeeper::journal::{Header, decode};
use palacekeeper::ops::{Step, World};
use std::path::Path;
use support::memory::MemoryDisk;
use support::vfs;

/// The tests' own simulated disk, with SQLite on it.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the tests use more of it")]
#[path = "../../tests/support"]
mod support {
    pub mod memory;
    pub mod vfs;
}

const PALACE: &str = "/house/palace";
const KEEP: &str = "/house/palace.keep";
const FOLDER: &str = "/house/palace.keep/0001-test";
/// What nobody may touch, whatever a journal says.
const OUTSIDE: [&str; 3] = ["/house/diary", "/house/palace.keep/0002-other/journal", "/elsewhere/photo"];

/// Names that plans use, and that a tree may have: directories end with a slash.
const PLACES: [&str; 18] = [
    "/house/palace/chroma.sqlite3",
    "/house/palace/chroma.sqlite3-journal",
    "/house/palace/sqlite_exact.sqlite3",
    "/house/palace/6277ec8f-f649-4286-a5eb-c2735c7ad02a/",
    "/house/palace/6277ec8f-f649-4286-a5eb-c2735c7ad02a/header.bin",
    "/house/palace/a",
    "/house/palace/b/",
    "/house/palace.keep/0001-test/staging/",
    "/house/palace.keep/0001-test/staging/chroma.sqlite3",
    "/house/palace.keep/0001-test/staging/a",
    "/house/palace.keep/0001-test/aside/",
    "/house/palace.keep/0001-test/aside/chroma.sqlite3",
    "/house/palace.keep/0001-test/backup/",
    "/house/palace.keep/0001-test/backup/chroma.sqlite3",
    "/house/palace.keep/0001-test/backup.part/",
    "/house/palace.keep/0001-test/intake/",
    "/house/palace.keep/0001-test/input.jsonl",
    "/house/palace.keep/0001-test/reserve",
];

fn house(mask: u32, journal: &[u8]) -> MemoryDisk {
    let disk =
        MemoryDisk::new(&["/house", PALACE, KEEP, FOLDER, "/house/palace.keep/0002-other", "/elsewhere", "/tmp"]);
    for path in OUTSIDE {
        disk.create(Path::new(path), b"a stranger's").expect("the disk is sound");
    }
    for (_, path) in (0..).zip(PLACES).filter(|(bit, _)| mask >> bit & 1 == 1) {
        // What lies in a directory that is not there is not there either; and a failure is the last act of a handle.
        let hand = disk.share();
        let _ = match path.strip_suffix('/') {
            Some(directory) => hand.create_dir(Path::new(directory)),
            None => hand.create(Path::new(path), path.as_bytes()),
        };
    }
    disk.create(&Path::new(FOLDER).join("journal"), journal).expect("the disk is sound");
    disk.settle();
    disk.fresh()
}

fn framed(mut rest: &[u8]) -> Vec<u8> {
    let header = Header { operation: 1, salt: 2 };
    let (mut bytes, mut link) = (frame::encode_header(&header).to_vec(), Link::FIRST);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (payload, after) = after.split_at(after.len().min(u16::from_le_bytes(*length).into()));
        let (frame, next) = frame::encode_frame(header.salt, link, payload);
        bytes.extend(frame);
        (rest, link) = (after, next);
    }
    bytes
}

/// Reads the journal as everybody does, and recovers as a writer does.
fn replay(disk: &MemoryDisk) {
    let Ok(entry) = engine::read::<Step>(disk, &Path::new(FOLDER).join("journal")) else { return };
    entry.preview();
    let world = |disk| World::new(disk, Path::new(PALACE), Path::new(FOLDER), &entry.begin.plan);
    for step in &entry.begin.plan.steps {
        step.to_string();
        step.weight();
        let _ = step.observe(&mut world(disk));
    }
    let Ok((mut operation, _)) = Operation::<Step>::open(disk, Path::new(FOLDER)) else { return };
    let _ = operation.recover(&mut world(disk), &mut ());
}

fuzz_target!(|data: &[u8]| {
    let Some(([choice, mask @ ..], rest)) = data.split_first_chunk::<5>() else { return };
    let bytes = if choice % 2 == 0 { rest.to_vec() } else { framed(rest) };
    if decode::<Step>(&bytes).is_err() {
        return;
    }
    let disk = house(u32::from_le_bytes(*mask), &bytes);
    vfs::on(&disk, || replay(&disk));
    let image = disk.image("/");
    for path in OUTSIDE {
        let found = image.get(Path::new(path)).cloned().flatten();
        assert_eq!(found.as_deref(), Some(&b"a stranger's"[..]), "{path} was touched");
    }
});
