//! Directories of indexes that nothing names, or that somebody has put aside.

use super::super::copy_tree;
use super::{Case, Class, DRAWERS};
use std::fs;

pub(super) const CLASSES: &[Class] = &[
    Class::quick("an index belongs to nobody", &["segment-orphan"], |case| {
        let index = case.index(DRAWERS);
        copy_tree(&index, &case.arena.palace().join("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"));
    })
    .noted(),
    quarantined("an index was put aside as drifted, and it was the only one", |case| {
        put_aside(case, ".drift-20260301-120000");
    })
    .and_on(&["chroma-0.5.23", "chroma-0.6.3", "chroma-1.0.20"]),
    quarantined("an index was put aside as corrupt, and it was the only one", |case| {
        put_aside(case, ".corrupt-20260301-120000");
    }),
    quarantined("an index was put aside, and chromadb has begun an empty one", |case| {
        let index = case.index(DRAWERS);
        put_aside(case, ".drift-20260301-120000");
        copy_tree(&case.index("mempalace_closets"), &index);
        assert!(!index.join("index_metadata.pickle").exists(), "the new index is not empty");
    }),
    Class::quick("an index was put aside, and the one in its place is sound", &["segment-quarantined"], |case| {
        let index = case.index(DRAWERS);
        copy_tree(&index, &index.with_extension("drift-20260301-120000"));
    })
    .noted(),
];

const fn quarantined(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["segment-quarantined"], inject).also(&[
        "index-missing",
        "index-pickle",
        "index-diverged",
        "vector-missing",
    ])
}

fn put_aside(case: &Case, suffix: &str) {
    let index = case.index(DRAWERS);
    let mut aside = index.clone().into_os_string();
    aside.push(suffix);
    fs::rename(&index, aside).expect("the index can be renamed");
    assert!(!index.exists(), "the index is still there");
}
