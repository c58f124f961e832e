//! Lets the real chromadb judge palaces that were damaged and mended: it has to see what it saw before the damage, and
//! to find again what it writes.

use crate::support::palace::{Arena, Case, Judge, class};
use std::fs;
use std::path::Path;

/// A class of every kind that costs nothing.
const CLASSES: [&str; 16] = [
    "the database's header is scrambled",
    "a page of the index of embeddings is zero",
    "a migration is missing",
    "an index is dropped",
    "a collection has no segment of vectors",
    "a collection does not know its dimension",
    "the full-text index is not registered",
    "blocks of the inverted index are missing",
    "both numbers of a collection are poisoned",
    "a number is a blob where an integer belongs",
    "an index's upper links are empty",
    "an index counts more elements than there can be",
    "an inner page of the embeddings is zero",
    "the rest of a long document is zero",
    "an index was put aside as drifted, and it was the only one",
    "a repair was killed when the drawers were deleted",
];

#[test]
fn chromadb_sees_another_palace_after_a_repair() {
    let Some(judge) = Judge::here("chromadb's view of mended palaces") else { return };
    let original = Arena::new("1.5.9");
    let mut unmended = Vec::new();
    let mut cases = Vec::new();
    for name in CLASSES {
        let case = class(name).inflict();
        match case.arena.run(&["repair", "--yes", "--json"]).code {
            Some(0) => cases.push((name, case)),
            code => unmended.push(format!("{name}: the repair ended with {code:?}")),
        }
    }
    let palaces: Vec<_> = cases.iter().map(|(_, case): &(_, Case)| case.arena.palace()).collect();
    let paths: Vec<_> = [original.palace()].into_iter().chain(palaces).collect();
    let report = judge.ask(&original, &["mended"], &paths.iter().map(|path| &**path).collect::<Vec<_>>()).json();
    let mut table = String::new();
    for ((name, _), path) in cases.iter().zip(&paths[1..]) {
        let verdict = report["verdicts"][&path.display().to_string()].as_str().expect("a verdict");
        table += &format!("| {name} | {verdict} |\n");
        if verdict != "content" {
            unmended.push(format!("{name}: {verdict}"));
        }
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("catalogue");
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("chromadb.verdicts"), table).expect("a table");
    assert!(unmended.is_empty(), "{} of {}:\n{}", unmended.len(), CLASSES.len(), unmended.join("\n"));
}
