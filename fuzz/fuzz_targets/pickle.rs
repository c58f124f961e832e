//! An `index_metadata.pickle` of any bytes: it is read or refused, and nothing panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palacekeeper::disk::RealDisk;
use palacekeeper::store::chroma::pickle;
use std::sync::LazyLock;
use tempfile::NamedTempFile;

static FILE: LazyLock<NamedTempFile> = LazyLock::new(|| NamedTempFile::new().expect("a temporary file"));

fuzz_target!(|data: &[u8]| {
    std::fs::write(FILE.path(), data).expect("there is room");
    let mut pairs = 0_u64;
    let _ = pickle::read(&RealDisk::new(), FILE.path(), &mut |_| {
        pairs += 1;
        Ok(())
    });
    assert!(pairs <= data.len() as u64, "more pairs than bytes");
});
