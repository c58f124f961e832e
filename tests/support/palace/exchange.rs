//! Exports, imports of them, and what must be true where an import is refused.

use super::{Arena, Run, Tree};
use std::fs;
use std::path::PathBuf;

pub(crate) const IMPORT: [&str; 2] = ["import", "--yes"];

/// The text of an export, to stdout.
pub(crate) fn export(arena: &Arena) -> String {
    arena.run(&["export"]).expect(0).stdout
}

/// An arena without a palace, and a file with these lines beside it.
pub(crate) fn with_lines(lines: impl AsRef<[u8]>) -> (Arena, PathBuf) {
    let arena = Arena::empty();
    let path = arena.root().join("lines");
    fs::write(&path, lines).expect("a file");
    (arena, path)
}

pub(crate) fn import(lines: impl AsRef<[u8]>) -> (Arena, Run) {
    let (arena, path) = with_lines(lines);
    let run = arena.run(&[&IMPORT[..], &[path.to_str().expect("a path")]].concat());
    (arena, run)
}

/// All lines but the header.
pub(crate) fn body(text: &str) -> &str {
    text.split_once('\n').expect("a header").1
}

/// Insists on a refusal that names a line or a collection, and on nothing being made.
#[track_caller]
pub(crate) fn refuses(lines: &[u8], what: &str) {
    let (arena, run) = import(lines);
    assert_eq!(run.code, Some(3), "{what}: {run:#?}");
    assert!(run.stderr.contains("line ") || run.stderr.contains("as it was sent"), "{what}: {run:#?}");
    assert_nothing(&arena, what);
}

/// Nothing but an empty keep, and an empty directory.
#[track_caller]
pub(crate) fn assert_nothing(arena: &Arena, what: &str) {
    assert_eq!(Tree::of(&arena.palace()).top(), [].into(), "{what}: the palace");
    let keep = Tree::of(&arena.keep()).top();
    assert!(keep.iter().all(|name| name == "lock"), "{what}: the keep holds {keep:?}");
    assert_eq!(Tree::of(&arena.root().join("tmp")).top(), [].into(), "{what}: temporary files");
}
