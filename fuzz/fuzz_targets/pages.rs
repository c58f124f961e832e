//! A database file of any bytes: its pages are looked through and salvaged, and nothing panics or takes for ever.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palacekeeper::disk::{Disk, RealDisk};
use palacekeeper::store::chroma::salvage;
use palacekeeper::store::sqlite::{Database, inspect};
use std::sync::LazyLock;
use tempfile::TempDir;

static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

fuzz_target!(|data: &[u8]| {
    let (damaged, sound) = (DIRECTORY.path().join("damaged"), DIRECTORY.path().join("sound"));
    std::fs::write(&damaged, data).expect("there is room");
    let disk = RealDisk::new();
    let database = Database::new(disk.open(&damaged).expect("a file")).expect("it can be read");
    inspect(&database).expect("it can be read");
    let _ = salvage(&disk, &damaged, &sound); // refused where nothing of a palace is in it
    std::fs::remove_file(&sound).expect("it was made");
});
