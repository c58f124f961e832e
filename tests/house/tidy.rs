//! The house rules that a machine can check.

use crate::support::sources::{bare, rust_files};

/// The floors, from the top: each may import only from those below it.
const FLOORS: [&str; 8] = ["cli", "keeper", "ops", "store", "tree", "engine", "journal", "disk"];
/// The floors that any store could be kept by.
const COMMON: [&str; 4] = ["tree", "engine", "journal", "disk"];
const LINES_MAX: usize = 450;
const FUNCTION_LINES_MAX: usize = 60;
const COLUMNS_MAX: usize = 120;

/// What reaches for files, whoever is asked to do it.
const REACHES: [&str; 10] = [
    "std::fs",
    "rustix::fs",
    "File::",
    "OpenOptions",
    "symlink_metadata",
    ".exists()",
    ".is_dir()",
    ".is_file()",
    ".canonicalize()",
    "tempfile::",
];

/// Where that is done and not through the disk, and why it is right.
const ALLOWED: [(&str, &str); 2] = [
    ("src/cli/exchange.rs", "an export goes where a person wants it, outside of every palace"),
    ("src/keeper/mempalace.rs", "MemPalace's settings are a person's own, and only read"),
];

/// Something a rule objects to: file, line, and what.
type Findings = Vec<String>;
type Rule = fn(&str, &str) -> Findings;

fn at(name: &str, text: &str, offset: usize, what: &str) -> String {
    format!("{name}:{}: {what}", text[..offset].matches('\n').count() + 1)
}

/// Every place where one of some words stands.
fn find(name: &str, text: &str, words: &[&str], what: &str) -> Findings {
    let places = words.iter().flat_map(|word| text.match_indices(word).map(move |(offset, _)| (offset, word)));
    places.map(|(offset, word)| at(name, text, offset, &format!("{what}: {word}"))).collect()
}

fn floor(name: &str) -> Option<usize> {
    let directory = name.strip_prefix("src/")?.split('/').next()?;
    FLOORS.iter().position(|floor| *floor == directory)
}

/// The first names behind a `crate::`, one, or all of a group in braces.
fn imported(path: &str) -> Vec<&str> {
    let word = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let Some(group) = path.strip_prefix('{') else { return vec![&path[..word(path)]] };
    let (mut depth, mut start, mut names) = (0, true, Vec::new());
    for (offset, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ if start && !character.is_whitespace() => {
                names.push(&group[offset..offset + word(&group[offset..])]);
                start = false;
            }
            _ => {}
        }
    }
    names
}

fn import_from_above(name: &str, text: &str) -> Findings {
    let Some(own) = floor(name) else { return Vec::new() };
    let bare = bare(text);
    let mut findings = Vec::new();
    for (offset, path) in bare.match_indices("crate::") {
        for import in imported(&bare[offset + path.len()..]) {
            if FLOORS.iter().position(|floor| *floor == import).is_some_and(|other| other < own) {
                findings.push(at(name, &bare, offset, &format!("{} imports from {import} above it", FLOORS[own])));
            }
        }
    }
    // A file is as deep in the tree of modules as in that of directories; so many `super::` lead out of its floor.
    let depth = name.trim_end_matches("/mod.rs").matches('/').count();
    let root = "super::".repeat(depth);
    findings.extend(find(name, &bare, &[&root], "reaches the other floors without naming the crate"));
    findings
}

fn chroma_on_a_common_floor(name: &str, text: &str) -> Findings {
    let is_common = floor(name).is_some_and(|floor| COMMON.contains(&FLOORS[floor]));
    if is_common { find(name, &text.to_lowercase(), &["chroma"], "any store could be kept here") } else { Vec::new() }
}

fn past_the_disk(name: &str, text: &str) -> Findings {
    if name.starts_with("src/disk/") || ALLOWED.iter().any(|(allowed, _)| *allowed == name) {
        return Vec::new();
    }
    find(name, &bare(text), &REACHES, "reaches for files and not through the disk")
}

fn unwrap(name: &str, text: &str) -> Findings {
    find(name, &bare(text), &[".unwrap()"], "expect(\"why it holds\")")
}

/// Nothing is left undone here: these are the words that the rule refuses in every other file, and a rule has to name
/// what it looks for.
fn unfinished(name: &str, text: &str) -> Findings {
    find(name, text, &["TODO", "FIXME", "todo!", "dbg!", "unimplemented!"], "is not finished")
}

fn bool_parameter(name: &str, text: &str) -> Findings {
    let bare = bare(text);
    let functions = bare.match_indices("fn ").filter(|(offset, _)| {
        let line = bare[..*offset].rsplit('\n').next().unwrap_or("").trim();
        line == "pub" || line == "pub const" || (line.starts_with("pub(") && line.ends_with(')'))
    });
    let bools = functions.filter(|(offset, _)| {
        let signature = bare[*offset..].split(['{', ';']).next().unwrap_or("");
        let parameters = signature.split("->").next().unwrap_or("");
        parameters.split(|c: char| !c.is_alphanumeric()).any(|word| word == "bool")
    });
    bools.map(|(offset, _)| at(name, &bare, offset, "a bool says nothing where it is passed: an enum")).collect()
}

fn long_file(name: &str, text: &str) -> Findings {
    let lines = text.lines().count();
    if lines > LINES_MAX { vec![format!("{name}: {lines} lines: rooms, not halls")] } else { Vec::new() }
}

fn long_function(name: &str, text: &str) -> Findings {
    let bare = bare(text);
    let is_word = |offset: usize| offset == 0 || !bare[..offset].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let functions = bare.match_indices("fn ").filter(|(offset, _)| is_word(*offset));
    let long = functions.filter_map(|(offset, _)| {
        let lines = body_lines(&bare[offset..]);
        (lines > FUNCTION_LINES_MAX).then(|| at(name, &bare, offset, &format!("a function of {lines} lines")))
    });
    long.collect()
}

/// Lines from the start of a function to the end of its body; 0 where it has none.
fn body_lines(function: &str) -> usize {
    let mut depth = 0;
    for (offset, character) in function.char_indices() {
        match character {
            ';' if depth == 0 => return 0,
            '{' => depth += 1,
            '}' if depth == 1 => return function[..offset].matches('\n').count() + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    0
}

fn file_without_a_word(name: &str, text: &str) -> Findings {
    if text.starts_with("//! ") { Vec::new() } else { vec![format!("{name}: does not say what it is for")] }
}

fn long_line(name: &str, text: &str) -> Findings {
    let lines = text.lines().zip(1..).filter(|(line, _)| line.chars().count() > COLUMNS_MAX);
    lines.map(|(line, number)| format!("{name}:{number}: {} columns", line.chars().count())).collect()
}

const ALL: &[&str] = &["src", "tests", "examples", "fuzz"];

/// Every rule, where it holds, and a file that breaks it.
const RULES: [(Rule, &[&str], &str, &str); 10] = [
    (import_from_above, &["src"], "src/engine/ledger.rs", "use crate::{disk, tree::Step};\n"),
    (chroma_on_a_common_floor, &["src"], "src/tree/step.rs", "// As ChromaDB does.\n"),
    (past_the_disk, &["src"], "src/keeper/keep.rs", "fn f() { std::fs::rename(a, b); }\n"),
    (unwrap, &["src"], "src/cli/mod.rs", "fn f() { x.unwrap(); }\n"),
    (unfinished, ALL, "src/cli/mod.rs", "// TO\u{44}O: later\n"),
    (bool_parameter, &["src"], "src/cli/mod.rs", "pub(crate) fn f(\n    is_dry: bool,\n) {}\n"),
    (long_file, ALL, "src/cli/mod.rs", "\n*451"),
    (long_function, &["src"], "src/cli/mod.rs", "fn f() {\n*60}\n"),
    (file_without_a_word, &["src", "tests", "examples"], "src/cli/mod.rs", "use std::fs;\n"),
    (long_line, ALL, "src/cli/mod.rs", " *121"),
];

/// Writes out the one repetition that a broken file may have: a character, a star, and how often.
fn written_out(text: &str) -> String {
    let Some((before, after)) = text.split_once('*') else { return text.to_owned() };
    let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let times: usize = after[..digits].parse().expect("a star is followed by a number");
    let repeated = before.chars().last().expect("a star follows a character").to_string();
    [before, &repeated.repeat(times - 1), &after[digits..]].concat()
}

#[test]
fn house_rule_is_broken() {
    let mut findings = Vec::new();
    for (rule, directories, ..) in RULES {
        let files = rust_files(directories).into_iter().filter(|(name, _)| name != "tests/house/tidy.rs");
        findings.extend(files.flat_map(|(name, text)| rule(&name, &text)));
    }
    assert!(findings.is_empty(), "{findings:#?}");
}

/// A rule that objects to nothing is no rule.
#[test]
fn every_rule_objects_to_what_breaks_it() {
    for (index, (rule, _, name, text)) in RULES.into_iter().enumerate() {
        assert!(!rule(name, &written_out(text)).is_empty(), "rule {index} lets this pass: {text:?}");
    }
    for (name, text) in [
        ("src/disk/real.rs", "use crate::journal;"),
        ("src/engine/mod.rs", "use super::keeper;"),
        ("src/store/chroma/step.rs", "fn f() { crate::ops::plan() }"),
        ("src/store/chroma/step.rs", "use super::super::super::keeper;"),
    ] {
        assert!(!import_from_above(name, text).is_empty(), "{text:?} in {name}");
    }
}

#[test]
fn rules_let_pass_what_is_right() {
    for (name, text) in [
        ("src/engine/ledger.rs", "//! Fine.\nuse super::Step;\nuse crate::{disk::{self, Disk}, journal};\n"),
        ("src/store/chroma/step.rs", "//! Fine.\nuse super::super::names;\nuse crate::engine;\n"),
        ("src/keeper/mod.rs", "//! `x.unwrap()` in words.\nconst S: &str = \"fs::rename\"; // fs::rename\n"),
        (
            "src/keeper/mod.rs",
            "//! Fine.\npub fn f<'a>(c: &'a str) -> bool { c == '\"' && r#\"a\".unwrap()\"# == '{' }\n",
        ),
    ] {
        let findings: Findings = RULES.iter().flat_map(|(rule, ..)| rule(name, text)).collect();
        assert!(findings.is_empty(), "{findings:?}");
    }
}

#[test]
fn allowance_that_nobody_needs() {
    let files = rust_files(&["src"]);
    for (name, why) in ALLOWED {
        let is_used = |text: &str| REACHES.iter().any(|word| bare(text).contains(word));
        assert!(
            files.iter().any(|(file, text)| file == name && is_used(text)),
            "{name} is allowed ({why}) for nothing"
        );
    }
}
