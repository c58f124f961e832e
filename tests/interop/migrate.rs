//! Lets the real chromadb of every version judge palaces that were migrated to it.

use crate::support::palace::{Arena, Judge, Sweep, VERSIONS, class, fixtures, is_there, migrate, say};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// The client that a target is meant for.
const CLIENTS: [(&str, &str); 5] = [
    ("chroma-0.4", "0.4.24"),
    ("chroma-0.5", "0.5.23"),
    ("chroma-0.6", "0.6.3"),
    ("chroma-1.0", "1.0.20"),
    ("chroma-1.5", "1.5.9"),
];

/// For each target a source whose migrated palace its client writes to, adds past a threshold, and opens again.
const WRITTEN_TO: [(&str, &str); 8] = [
    ("1.5.9", "chroma-0.4"),
    ("1.0.20", "chroma-0.5"),
    ("1.5.9", "chroma-0.6"),
    ("0.4.24", "chroma-0.6"),
    ("0.5.23", "chroma-1.0"),
    ("1.5.9", "chroma-1.0"),
    ("0.4.24", "chroma-1.5"),
    ("0.6.3", "chroma-1.5"),
];

/// One test, so that the environments are made once and every processor has something to do until the end.
#[test]
fn client_of_the_other_version_sees_another_palace_or_loses_what_it_writes() {
    let started = Instant::now();
    let Some(judges) = Judge::of_all_versions("migrated palaces, by every chromadb") else { return };
    let made = started.elapsed().as_secs();
    let judges: BTreeMap<_, _> = VERSIONS.into_iter().zip(&judges).collect();
    let pairs = VERSIONS.iter().flat_map(|version| CLIENTS.map(|(target, client)| (*version, target, client)));
    let pairs: Vec<_> = pairs.filter(|(version, target, _)| !is_there(version, target)).collect();
    let table = Mutex::new(Vec::new());
    Sweep::new("migrate", "client_of_the_other_version").share(pairs, |(version, target, client)| {
        let verdict = judge(judges[client], version, target);
        table.lock().expect("nobody panics while holding it").push((version, client, verdict));
    });
    let mut table = table.into_inner().expect("nobody panicked");
    table.sort();
    let lines: Vec<_> =
        table.iter().map(|(version, client, verdict)| format!("| {version} | {client} | {verdict} |")).collect();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("migrate");
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(directory.join("matrix"), lines.join("\n")))
        .expect("a table");
    let all = started.elapsed().as_secs();
    say(&format!("{}\nmatrix: {all} s, {made} of them for the environments", lines.join("\n")));
    let content = table.iter().filter(|(.., verdict)| verdict.starts_with("equal")).count();
    assert_eq!(content, table.len(), "pairs of which a client is not content:\n{}", lines.join("\n"));
}

/// What the client of the target says of a migrated palace.
fn judge(judge: &Judge, version: &str, target: &str) -> String {
    let fixture = format!("chroma-{version}");
    let arena = Arena::unpack(&fixture);
    migrate(&arena, target);
    let expected = fixtures().join(format!("{fixture}.expected.json.gz"));
    let dumped = judge.run(&arena, &["dump"], &[&arena.palace()]);
    if dumped.code != Some(0) {
        return dumped.stderr;
    }
    let dump = arena.root().join("dump.json");
    fs::write(&dump, dumped.stdout).expect("a file");
    let allowed = allowances(version, target);
    let compared = judge.run(&arena, &[&["compare"], &allowed[..]].concat(), &[&expected, &dump]);
    if compared.code != Some(0) {
        return compared.stderr;
    }
    assert!(compared.json()["records"].as_u64().is_some_and(|records| records > 200), "{compared:#?}");
    let mut verdict = ["equal"].into_iter().chain(allowed).collect::<Vec<_>>().join(" ");
    let mut ask = |what: &str| {
        let run = judge.run(&arena, &[what], &[&arena.palace()]);
        verdict = match run.code {
            Some(0) => format!("{verdict}, {what}"),
            _ => run.stderr,
        };
    };
    if WRITTEN_TO.contains(&(version, target)) {
        ask("exercise");
    }
    if target == "chroma-1.5" {
        ask("mempalace");
    }
    verdict
}

/// 0.x returns a vector that is not in its index yet as it was given, 1.x as it will be; 0.4 lists records by id; only
/// 1.5 has arrays.
fn allowances(version: &str, target: &str) -> Vec<&'static str> {
    let mut allowed = Vec::new();
    let is_raw = |name: &str| name.starts_with("0.");
    if is_raw(version) || is_raw(target.trim_start_matches("chroma-")) {
        allowed.extend(["--ulps", "1"]);
    }
    if version.starts_with("0.4") || target == "chroma-0.4" {
        allowed.push("--any-order");
    }
    if version == "1.5.9" {
        allowed.push("--no-arrays");
    }
    allowed
}

/// A palace whose writes vanished takes writes again, whichever version it becomes.
#[test]
fn writes_vanish_still_after_a_migration() {
    let Some(judges) = Judge::of_all_versions("writes to a palace that dropped them") else { return };
    let case = class("the next writes vanish: the queue is empty behind a full index").inflict();
    let targets = [(0, "chroma-0.4"), (2, "chroma-0.6"), (3, "chroma-1.0")];
    Sweep::new("migrate", "writes_vanish").share(targets, |(judge, target)| {
        let arena = case.arena.fork();
        migrate(&arena, target);
        judges[judge].ask(&arena, &["exercise"], &[&arena.palace()]);
    });
}
