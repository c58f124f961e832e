//! A journal that somebody else wrote: whatever its bytes are, it is read or refused, and nothing panics.
//!
//! The first byte chooses: even, and the rest is the file; odd, and the rest is cut into payloads (a length of two
//! bytes before each), which are framed as they should be, since a fuzzer never finds a CRC. What decodes is folded,
//! previewed, printed, and its steps over files are asked where they stand.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palacekeeper::disk::RealDisk;
use palacekeeper::engine::{self, Step as _};
use palacekeeper::journal::frame::{self, Link};
use palacekeeper::journal::{Header, decode};
use palacekeeper::ops::{Step, World};
use std::path::PathBuf;
use std::sync::LazyLock;
use tempfile::TempDir;

/// `palace/` and `operation/journal`, made once.
static HOUSE: LazyLock<TempDir> = LazyLock::new(|| {
    let house = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(house.path().join("palace")).expect("it is empty");
    std::fs::create_dir(house.path().join("operation")).expect("it is empty");
    house
});

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

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let bytes = if choice % 2 == 0 { rest.to_vec() } else { framed(rest) };
    if decode::<Step>(&bytes).is_err() {
        return;
    }
    let path = |name: &str| -> PathBuf { HOUSE.path().join(name) };
    std::fs::write(path("operation/journal"), bytes).expect("there is room");
    let disk = RealDisk::new();
    let Ok(entry) = engine::read::<Step>(&disk, &path("operation/journal")) else { return };
    entry.preview();
    let mut world = World::new(&disk, &path("palace"), &path("operation"), &entry.begin.plan);
    for step in &entry.begin.plan.steps {
        step.to_string();
        step.weight();
        let _ = step.observe(&mut world);
    }
});
