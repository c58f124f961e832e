//! The four files of an HNSW segment, of any bytes: they are read or refused, and nothing panics.
//!
//! The input is `header.bin` (100 bytes), then two lengths of two bytes, then `data_level0.bin` and `length.bin` of
//! these lengths; `link_lists.bin` is what is left.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palacekeeper::disk::RealDisk;
use palacekeeper::store::chroma::hnsw::Hnsw;
use std::sync::LazyLock;
use tempfile::TempDir;

static SEGMENT: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

fn split(rest: &[u8], length: [u8; 2]) -> (&[u8], &[u8]) {
    rest.split_at(rest.len().min(u16::from_le_bytes(length).into()))
}

fuzz_target!(|data: &[u8]| {
    let Some((header, rest)) = data.split_at_checked(100) else { return };
    let Some(([a, b, c, d], rest)) = rest.split_first_chunk() else { return };
    let (level0, rest) = split(rest, [*a, *b]);
    let (lengths, links) = split(rest, [*c, *d]);
    for (name, bytes) in
        [("header.bin", header), ("data_level0.bin", level0), ("length.bin", lengths), ("link_lists.bin", links)]
    {
        std::fs::write(SEGMENT.path().join(name), bytes).expect("there is room");
    }
    let Ok(segment) = Hnsw::open(&RealDisk::new(), SEGMENT.path()) else { return };
    let is_sound = segment.inspect().is_ok();
    let mut elements = 0;
    let _ = segment.elements(&mut |some| {
        elements += some.len() as u64;
        Ok::<_, ()>(())
    });
    for slot in 0..segment.count().min(16) {
        let vector = segment.vector(slot).expect("the files can be read");
        assert!(vector.is_some() || !is_sound, "a sound segment has no vector {slot}");
    }
    assert!(elements == segment.count() || !is_sound, "a sound segment holds fewer elements than it counts");
});
