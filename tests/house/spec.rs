//! SPEC.md and the code say the same.

use crate::support::sources::rust_files;
use palacekeeper::engine::{Direction, Mark, Observed, verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn spec() -> String {
    text("SPEC.md")
}

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of the rows of the first table under a heading, without its head.
fn table<'t>(text: &'t str, heading: &str) -> Vec<Vec<&'t str>> {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let rows = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What a printed verdict table and `verdict()` disagree about.
fn differences(text: &str) -> Vec<String> {
    let printed = table(text, "## The verdict table");
    let mut differences = Vec::new();
    let mut expected = Vec::new();
    for direction in Direction::ALL {
        for mark in Mark::ALL {
            for observed in Observed::ALL {
                let verdict = verdict(direction, mark, observed);
                expected.push([
                    format!("{direction:?}"),
                    format!("{mark:?}"),
                    format!("{observed:?}"),
                    format!("{verdict:?}"),
                ]);
            }
        }
    }
    if printed.len() != expected.len() {
        differences.push(format!("{} rows are printed, and there are {}", printed.len(), expected.len()));
    }
    for (printed, expected) in printed.iter().zip(&expected) {
        let says = printed.len() == 5 && printed.iter().zip(expected).all(|(one, other)| one == other);
        if !says || printed.last().is_some_and(|why| why.is_empty()) {
            differences.push(format!("printed: {printed:?}, but the code says {expected:?}"));
        }
    }
    differences
}

#[test]
fn verdict_table_differs_from_the_printed_one() {
    let differences = differences(&spec());
    assert!(differences.is_empty(), "{differences:#?}");
}

/// What the README says is proved, a test proves.
#[test]
fn readme_names_a_test_that_is_not_there() {
    let readme = text("README.md");
    let rows = table(&readme, "## Where MemPalace's own repair loses a palace");
    assert!(rows.len() > 5, "{rows:?}");
    let tests = rust_files(&["tests"]).into_iter().map(|(_, text)| text).collect::<String>();
    for row in rows {
        let named: Vec<&str> = row.last().expect("a row has cells").split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{row:?} names no test");
        for test in named {
            assert!(tests.contains(&format!("#[test]\nfn {test}()")), "there is no test {test}");
        }
    }
}

#[test]
fn wrong_row_in_the_printed_table_is_noticed() {
    let right = spec();
    for (from, to) in [
        ("| Back | Untouched | After | Refuse |", "| Back | Untouched | After | Revert |"),
        ("| Forward | Intended | Partial | Apply |", "| Forward | Intended | Before | Apply |"),
        ("## The verdict table", "## Another table"),
    ] {
        let wrong = right.replacen(from, to, 1);
        assert_ne!(wrong, right, "the table has no row {from:?} any more");
        assert!(!differences(&wrong).is_empty(), "{to:?} was not noticed");
    }
}

/// Numbers `n` of all words `I<n>` in a text; only those between asterisks where they are defined.
fn invariants(text: &str, is_definition: bool) -> BTreeSet<u32> {
    let word = |character: char| character.is_alphanumeric() || character == '_';
    let candidates = text.match_indices('I').filter_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + 1..]);
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        let rest = &after[digits.len()..];
        let is_word = !before.ends_with(word) && !rest.starts_with(word);
        let is_bold = before.ends_with("**") && rest.starts_with("**");
        (is_word && (is_bold || !is_definition)).then(|| digits.parse().ok())?
    });
    candidates.collect()
}

/// Every file of some directories that cites invariants, by number.
fn citations(directories: &[&str]) -> BTreeMap<u32, Vec<String>> {
    let mut citations: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (name, text) in rust_files(directories) {
        for number in invariants(&text, false).into_iter().filter(|_| name != "tests/house/spec.rs") {
            citations.entry(number).or_default().push(name.clone());
        }
    }
    citations
}

#[test]
fn invariant_without_a_test_or_citation_without_an_invariant() {
    let defined = invariants(&spec(), true);
    assert!(defined.len() >= 17, "only {defined:?} are defined");
    let tested: BTreeSet<u32> = citations(&["tests"]).into_keys().collect();
    let untested: Vec<_> = defined.difference(&tested).map(|number| format!("I{number}")).collect();
    assert!(untested.is_empty(), "no test cites {untested:?}");
    let cited = citations(&["src", "tests", "examples", "fuzz"]);
    let undefined: BTreeMap<_, _> = cited.iter().filter(|(number, _)| !defined.contains(number)).collect();
    assert!(undefined.is_empty(), "SPEC.md defines no such invariant: {undefined:?}");
}

#[test]
fn citation_is_told_from_other_words() {
    let text = "I1, (I2) `I3`—I4: SI5 I6x XI7 I_8 **I9** I I10.";
    assert_eq!(invariants(text, false), [1, 2, 3, 4, 9, 10].into());
    assert_eq!(invariants(text, true), [9].into());
}
