//! Takes a damaged palace through check and repair, and insists on what its class promises.

use super::catalogue::{Case, Class, Depth, Difference, Mend};
use super::{Arena, Run, Tree, assert_sound};
use serde_json::Value;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const CHECK: [&str; 2] = ["check", "--json"];
const CHECK_DEEP: [&str; 3] = ["check", "--deep", "--json"];
const PLAN: [&str; 3] = ["repair", "--plan", "--json"];
const REPAIR: [&str; 3] = ["repair", "--yes", "--json"];
const REPAIR_AT_A_COST: [&str; 4] = ["repair", "--yes", "--json", "--accept-loss"];

/// One thing that a check has found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) code: String,
    pub(crate) severity: String,
    pub(crate) all: Value,
}

/// What came of a class, as a line of the closing table.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) found: String,
    pub(crate) mended: String,
    pub(crate) survived: String,
    pub(crate) complaints: Vec<String>,
}

/// Checks, repairs, and checks again; every complaint is in the outcome.
pub(crate) fn treat(class: &Class, fixture: &str) -> (Option<Case>, Outcome) {
    let mut outcome = Outcome::default();
    let Some(case) = attempt(&mut outcome, "inflict", |_| class.inflict_on(fixture)) else { return (None, outcome) };
    attempt(&mut outcome, "check", |outcome| diagnose(class, &case, outcome));
    attempt(&mut outcome, "plan", |_| plan(&case));
    attempt(&mut outcome, "repair", |outcome| mend(class, &case, outcome));
    (Some(case), outcome)
}

fn attempt<T>(outcome: &mut Outcome, stage: &str, act: impl FnOnce(&mut Outcome) -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| act(outcome))) {
        Ok(value) => Some(value),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
            outcome.complaints.push(format!("{stage}: {text}"));
            None
        }
    }
}

/// Runs a check, which has to touch nothing and to end as its findings say.
#[track_caller]
pub(crate) fn check(arena: &Arena, depth: Depth) -> Vec<Finding> {
    let arguments: &[&str] = if depth == Depth::Deep { &CHECK_DEEP } else { &CHECK };
    let before = surroundings(arena);
    let run = arena.run(arguments);
    before.assert_untouched(&surroundings(arena), "the check");
    findings(&run, depth)
}

/// What a check has found, as its JSON says it.
#[track_caller]
pub(crate) fn findings(run: &Run, depth: Depth) -> Vec<Finding> {
    assert!(matches!(run.code, Some(0 | 3)), "the check ended otherwise: {}", brief(run));
    let report = run.json();
    let wanted = if depth == Depth::Deep { "deep" } else { "quick" };
    assert_eq!(report["depth"], wanted, "the check ended otherwise: {}", brief(run));
    let listed = report["findings"].as_array().expect("findings").iter();
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let found: Vec<Finding> = listed
        .map(|one| Finding { code: text(one, "code"), severity: text(one, "severity"), all: one.clone() })
        .collect();
    let is_grave = found.iter().any(|finding| finding.severity != "note");
    assert_eq!(run.code, Some(if is_grave { 3 } else { 0 }), "exit code; it found {found:#?}");
    assert_eq!(report["sound"].as_bool(), Some(!is_grave), "soundness; it found {found:#?}");
    found.iter().for_each(assert_told);
    found
}

/// A finding without words helps nobody.
#[track_caller]
fn assert_told(finding: &Finding) {
    assert!(["note", "warning", "damage"].contains(&finding.severity.as_str()), "severity: {finding:#?}");
    for field in ["subject", "what", "meaning", "evidence"] {
        assert!(finding.all[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {finding:#?}");
    }
    assert!(finding.all["ids"].is_array(), "ids: {finding:#?}");
    if finding.severity == "damage" {
        assert!(finding.all["survives"].as_str().is_some_and(|text| !text.is_empty()), "survives: {finding:#?}");
    }
}

/// The palace and all beside it, but for what comes and goes: temporary files, and the lock of the keep.
pub(crate) fn surroundings(arena: &Arena) -> Tree {
    let mut tree = Tree::of(arena.root());
    if let Some(temporary) = tree.0.get_mut(Path::new("tmp")) {
        temporary.modified_ns = 0;
    }
    for lock in ["palace.keep/lock", "palace.keep"] {
        let is_all = !tree.0.keys().any(|path| path.starts_with(lock) && path != Path::new(lock));
        if is_all {
            tree.0.remove(Path::new(lock));
        }
    }
    tree
}

/// A run in few words.
fn brief(run: &Run) -> String {
    let part = |text: &str| text.chars().take(900).collect::<String>();
    format!("exit {:?}, signal {:?}, {} {}", run.code, run.signal, part(&run.stdout), part(&run.stderr))
}

fn codes(findings: &[Finding]) -> BTreeSet<&str> {
    findings.iter().map(|finding| finding.code.as_str()).collect()
}

fn names_one_of(alternatives: &str, codes: &BTreeSet<&str>) -> bool {
    alternatives.split('|').any(|code| codes.contains(code))
}

fn diagnose(class: &Class, case: &Case, outcome: &mut Outcome) {
    let quick = check(&case.arena, Depth::Quick);
    let deep = check(&case.arena, Depth::Deep);
    let (quick_codes, deep_codes) = (codes(&quick), codes(&deep));
    let list = |codes: &BTreeSet<&str>| codes.iter().copied().collect::<Vec<_>>().join(" ");
    outcome.found = match quick_codes == deep_codes {
        true => list(&deep_codes),
        false => format!("quick: {}; deep: {}", list(&quick_codes), list(&deep_codes)),
    };
    let mut wrong = Vec::new();
    for wanted in class.codes {
        if !names_one_of(wanted, &deep_codes) {
            wrong.push(format!("deep does not find {wanted}"));
        }
        if class.depth == Depth::Quick && !names_one_of(wanted, &quick_codes) {
            wrong.push(format!("quick does not find {wanted}"));
        }
    }
    for found in [&quick, &deep] {
        let is_expected = |finding: &&Finding| {
            let expected = class.codes.iter().flat_map(|codes| codes.split('|')).chain(class.also.iter().copied());
            is_tolerated(finding) || expected.into_iter().any(|code| code == finding.code)
        };
        let alarms = found.iter().filter(|finding| !is_expected(finding));
        wrong.extend(alarms.map(|finding| format!("false alarm: {}", finding.all)));
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}; found: {}", wrong.join("; "), outcome.found);
    if class.mend == Mend::Note {
        assert!(deep.iter().all(|finding| finding.severity == "note"), "{deep:#?}");
    }
}

/// Chromadb itself leaves the index of a collection that is deleted, as in most fixtures.
pub(crate) fn is_tolerated(finding: &Finding) -> bool {
    finding.code == "segment-orphan" && finding.severity == "note"
}

fn plan(case: &Case) {
    let before = surroundings(&case.arena);
    let run = case.arena.run(&PLAN);
    before.assert_untouched(&surroundings(&case.arena), "the plan");
    assert!(matches!(run.code, Some(0 | 3 | 5)), "it ended otherwise: {}", brief(&run));
    let _ = run.json();
}

fn mend(class: &Class, case: &Case, outcome: &mut Outcome) {
    let before = surroundings(&case.arena);
    let mut run = case.arena.run(&REPAIR);
    let is_left = class.mend == Mend::WholeOrPerson && run.code == Some(5);
    if class.mend == Mend::Person || is_left {
        return refuse(class, case, &before, &run, outcome);
    }
    if run.code == Some(5) && matches!(class.mend, Mend::Lossy { .. }) {
        before.assert_untouched(&surroundings(&case.arena), "a repair that would cost something");
        outcome.mended = "with consent: ".into();
        run = case.arena.run(&REPAIR_AT_A_COST);
    }
    assert_eq!(run.code, Some(0), "it ended otherwise: {}", brief(&run));
    let report = run.json();
    let mended = texts(&report["mended"]);
    outcome.mended += &mended.join(" ");
    case.arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
    assert_survived(class, case, &report, outcome);
    let mended: BTreeSet<_> = mended.iter().map(String::as_str).collect();
    // One remedy may mend several findings; the check that follows says whether all are gone.
    let is_about_it =
        |code: &&str| class.also.contains(code) || class.codes.iter().any(|all| all.split('|').any(|one| one == *code));
    let must_mend = class.mend != Mend::Note && !class.codes.is_empty();
    assert!(!must_mend || mended.iter().any(is_about_it), "{:?} is not among what was mended: {report:#}", class.codes);
    assert_clean(class, case);
    if !case.has_waiting_writes {
        assert_sound(&case.arena.palace(), "the mended palace");
    }
    case.checks.iter().for_each(|check| check(&case.arena));
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
}

/// What only a person can mend is left, with consent or without, and nothing is touched.
fn refuse(class: &Class, case: &Case, before: &Tree, run: &Run, outcome: &mut Outcome) {
    for run in [run, &case.arena.run(&REPAIR_AT_A_COST)] {
        assert_eq!(run.code, Some(5), "it ended otherwise: {}", brief(run));
        before.assert_untouched(&surroundings(&case.arena), "a repair that has to be a person's");
        let left = texts(&run.json()["left"]);
        let left: BTreeSet<_> = left.iter().map(String::as_str).collect();
        assert!(class.codes.iter().all(|wanted| names_one_of(wanted, &left)), "{left:?}: {}", brief(run));
    }
    outcome.mended = "left to a person (exit 5)".into();
    outcome.survived = "untouched".into();
}

/// Everything is there, or it was said to be lost.
fn assert_survived(class: &Class, case: &Case, report: &Value, outcome: &mut Outcome) {
    let differences = case.differences();
    let gone = differences.iter().filter(|(_, difference)| *difference == Difference::Gone).count();
    let changed = differences.len() - gone;
    let records: usize = case.wanted.records.values().map(Vec::len).sum();
    let without = |part: &str| {
        let is_hit = |difference: &Difference| match difference {
            Difference::Gone => true,
            Difference::Changed(what) => what.contains(part),
        };
        differences.iter().filter(|(_, difference)| is_hit(difference)).count()
    };
    outcome.survived = format!(
        "{}/{records} · {}/{records} · {}/{records}",
        records - gone,
        records - without("document"),
        records - without("vector")
    );
    let (changed_max, gone_max) = match class.mend {
        Mend::Lossy { changed_max, gone_max } => (changed_max, gone_max),
        _ => (0, 0),
    };
    let first = differences.iter().take(3).collect::<Vec<_>>();
    assert!(gone <= gone_max, "{gone} records are gone, {first:?}: {report:#}");
    assert!(changed <= changed_max + (gone_max - gone), "{changed} records are changed, {first:?}");
    let losses = texts(&report["losses"]);
    let is_named = |id: &str| losses.iter().any(|line| line.contains(id));
    let silent: Vec<_> = differences.iter().filter(|(id, _)| !is_named(id)).take(3).collect();
    assert!(silent.is_empty(), "nobody was told of {silent:?}; the losses were {losses:?}");
    if differences.is_empty() {
        case.assert_tables_kept();
    }
}

/// A deep check finds nothing but notes, and that lost vectors are lost.
fn assert_clean(class: &Class, case: &Case) {
    let after = check(&case.arena, Depth::Deep);
    let is_lossy = matches!(class.mend, Mend::Lossy { .. });
    let is_left = |finding: &&Finding| {
        finding.severity != "note" && !(is_lossy && finding.code == "vector-missing") && !is_tolerated(finding)
    };
    let left: Vec<_> = after.iter().filter(is_left).collect();
    assert!(left.is_empty(), "after the repair: {left:#?}");
}
