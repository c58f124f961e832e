//! Damages palaces in every way of the catalogue: a check finds it and touches nothing, a repair brings back whatever
//! is anywhere on disk, and then a deep check finds nothing any more.

use crate::support::palace::{
    Arena, Case, Class, Content, Depth, GROUPS, Outcome, Tree, VERSIONS, check, is_tolerated, segment_of, treat,
};
use std::collections::BTreeSet;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;

/// Codes that a check may give.
const CODES: [&str; 42] = [
    "collection-config",
    "collection-dimension",
    "collection-segments",
    "collection-space",
    "database-header",
    "database-index",
    "database-journal",
    "database-migrations",
    "database-page",
    "database-schema",
    "database-stranger",
    "database-truncated",
    "fulltext-damaged",
    "fulltext-differs",
    "fulltext-missing",
    "fulltext-orphan",
    "index-diverged",
    "index-header",
    "index-lengths",
    "index-level0",
    "index-links",
    "index-missing",
    "index-pickle",
    "index-sparse",
    "leftover-collection",
    "leftover-copy",
    "leftover-richer",
    "metadata-orphan",
    "operation-interrupted",
    "queue-pending",
    "queue-poison",
    "queue-unpurged",
    "record-duplicate",
    "segment-orphan",
    "segment-quarantined",
    "sequence-ahead",
    "sequence-poisoned",
    "sequence-type",
    "sequence-unreadable",
    "vector-changed",
    "vector-missing",
    "writes-vanish",
];

/// A code that has a test of its own.
const ELSEWHERE: [&str; 1] = ["operation-interrupted"];

/// Classes that are not kept as promised yet, and what is missing. The list may only become shorter.
const OPEN: &[(&str, &str)] = &[
    ("the database ends in the middle", "records of which only the number of the row is left are named by that"),
    ("a repair was killed after a first part of the drawers", "what was filed again keeps the vectors of that"),
];

#[test]
fn damaged_database_loses_a_record() {
    treat_all("database");
}

#[test]
fn damaged_catalog_hides_a_record() {
    treat_all("schema");
}

#[test]
fn damaged_full_text_index_hides_a_document() {
    treat_all("fulltext");
}

#[test]
fn wrong_sequence_number_swallows_a_write() {
    treat_all("sequence");
}

#[test]
fn write_that_cannot_be_applied_stops_all_others() {
    treat_all("queue");
}

#[test]
fn damaged_index_loses_a_vector() {
    treat_all("index");
}

#[test]
fn contradicting_rows_lose_a_record() {
    treat_all("rows");
}

#[test]
fn index_put_aside_loses_its_vectors() {
    treat_all("directories");
}

#[test]
fn killed_repair_of_mempalace_loses_the_rest() {
    treat_all("leftovers");
}

/// Treats every class of a group. `PALACEKEEPER_CATALOGUE` may name one, or a part of its name.
fn treat_all(group: &str) {
    let (_, classes) = GROUPS.iter().find(|(name, _)| *name == group).expect("the group exists");
    let wanted = std::env::var("PALACEKEEPER_CATALOGUE").unwrap_or_default();
    let (mut table, mut complaints) = (String::new(), Vec::new());
    for class in classes.iter().filter(|class| class.name.contains(&wanted)) {
        for fixture in class.fixtures() {
            let (_, outcome) = treat(class, fixture);
            table += &line(class, fixture, &outcome);
            let name = format!("{} ({})", class.name, fixture.trim_start_matches("chroma-"));
            match OPEN.iter().find(|(open, _)| *open == class.name) {
                Some((_, why)) if outcome.complaints.is_empty() => {
                    complaints.push(format!("{name}: is as promised now, so strike it out ({why})"));
                }
                Some(_) => {}
                None => complaints.extend(outcome.complaints.iter().map(|complaint| format!("{name}: {complaint}"))),
            }
        }
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("catalogue");
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join(format!("{group}.md")), table).expect("a table");
    assert!(complaints.is_empty(), "{} complaints:\n\n{}", complaints.len(), complaints.join("\n\n"));
}

/// A line of the table: class, fixture, found, mended, records · documents · vectors.
fn line(class: &Class, fixture: &str, outcome: &Outcome) -> String {
    let verdict = if outcome.complaints.is_empty() { "yes" } else { "NO" };
    let Outcome { found, mended, survived, .. } = outcome;
    let fixture = fixture.trim_start_matches("chroma-");
    format!("| {} ({fixture}) | {found} | {mended} | {survived} | {verdict} |\n", class.name)
}

#[test]
fn catalogue_lacks_a_code() {
    let all: Vec<&Class> = GROUPS.iter().flat_map(|(_, classes)| classes.iter()).collect();
    let names: BTreeSet<_> = all.iter().map(|class| class.name).collect();
    assert_eq!(names.len(), all.len(), "two classes have one name");
    let used: BTreeSet<_> = all.iter().flat_map(|class| class.codes).flat_map(|codes| codes.split('|')).collect();
    let known: BTreeSet<_> = CODES.into_iter().collect();
    let missing: Vec<_> = known.difference(&used).filter(|code| !ELSEWHERE.contains(code)).collect();
    assert!(missing.is_empty(), "no class is about {missing:?}");
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "there is no such code: {unknown:?}");
}

/// A damage that is not done proves nothing.
#[test]
fn injector_does_not_fire() {
    let mut silent = Vec::new();
    for class in GROUPS.iter().flat_map(|(_, classes)| classes.iter()) {
        for fixture in class.fixtures() {
            if std::panic::catch_unwind(|| drop(class.inflict_on(fixture))).is_err() {
                silent.push((class.name, fixture));
            }
        }
    }
    assert!(silent.is_empty(), "{} are not done: {silent:#?}", silent.len());
}

/// A false alarm is a defect.
#[test]
fn healthy_palace_raises_an_alarm() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        for depth in [Depth::Quick, Depth::Deep] {
            let found: Vec<_> = check(&arena, depth).into_iter().filter(|finding| !is_tolerated(finding)).collect();
            assert!(found.is_empty(), "{version}: {depth:?}: {found:#?}");
        }
    }
    let arena = Arena::unpack("chroma-1.5.9-survive");
    assert!(check(&arena, Depth::Deep).is_empty());
}

/// Until chromadb persists an index, its directory is of no use to anybody.
#[test]
fn index_that_was_never_persisted_is_missed() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        fs::remove_dir_all(segment_of(&arena.palace(), "mempalace_closets")).expect("it was there");
        let found: Vec<_> = check(&arena, Depth::Deep).into_iter().filter(|finding| !is_tolerated(finding)).collect();
        assert!(found.is_empty(), "{version}: {found:#?}");
    }
}

#[test]
fn repair_of_a_healthy_palace_changes_it() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let before = Content::of(&arena.palace());
        let report = arena.run(&["repair", "--yes", "--json"]).expect(0).json();
        assert_eq!(report["mended"].as_array().map(Vec::len), Some(0), "{version}: {report:#}");
        before.assert_equals(&Content::of(&arena.palace()), version);
    }
}

/// What a rebuild takes for true, as chromadb does: only a deep check tells it from what was written.
const BELIEVED: [&str; 4] = [
    "a bit of a vector is flipped",
    "a bit of a vector of 0.4.24 is flipped, and the queue has it",
    "the index claims writes that it does not hold",
    "the index claims every write of the queue",
];

/// A rebuild is no repair, but it may not lose anything in silence either.
#[test]
fn rebuild_of_a_damaged_palace_loses_something_in_silence() {
    let mut complaints = Vec::new();
    let groups = GROUPS.iter().filter(|(name, _)| *name != "leftovers");
    let is_believed =
        |class: &&Class| BELIEVED.contains(&class.name) || class.name == "the database ends in the middle";
    for class in groups.flat_map(|(_, classes)| classes.iter()).filter(|class| !is_believed(class)) {
        let case = class.inflict();
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| rebuild(&case))) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            complaints.push(format!("{}: {text}", class.name));
        }
    }
    assert!(complaints.is_empty(), "{} complaints:\n\n{}", complaints.len(), complaints.join("\n\n"));
}

fn rebuild(case: &Case) {
    let before = Tree::of(&case.arena.palace());
    let mut run = case.arena.run(&["rebuild", "--yes", "--json"]);
    let listed = run.stdout.clone();
    if run.code == Some(5) {
        run = case.arena.run(&["rebuild", "--yes", "--json", "--accept-loss"]);
    }
    if run.code != Some(0) {
        assert!(matches!(run.code, Some(1 | 3 | 5)), "{run:#?}");
        before.assert_untouched(&Tree::of(&case.arena.palace()), "refused");
        return;
    }
    let losses: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
    let losses = losses["losses"].to_string();
    let silent: Vec<_> = case.differences().into_iter().filter(|(id, _)| !losses.contains(id.as_str())).collect();
    assert!(silent.is_empty(), "nobody was told of {:?}: {losses}", &silent[..silent.len().min(3)]);
}
