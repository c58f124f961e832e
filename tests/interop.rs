//! Lets the real chromadb and the real mempalace judge what a rebuild made.
//!
//! They run in a virtual environment under the target directory, made once from `interop/requirements.txt`.
//! `PALACEKEEPER_INTEROP_PYTHON` may name a Python that has them already.

mod support;

use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::palace::{
    Arena, Point, REBUILD, RESUME, Run, Strace, VERSIONS, fixtures, kill, say, segment_of, skip, sql, truncate,
};

#[test]
fn chromadb_sees_another_palace_after_a_rebuild() {
    let Some(judge) = Judge::here("chromadb's view of a rebuilt palace") else { return };
    for fixture in VERSIONS.map(|version| format!("chroma-{version}")).into_iter().chain(["chroma-1.5.9-killed".into()])
    {
        let arena = Arena::unpack(&fixture);
        let before = judge.dump(&arena, "before");
        arena.run(&REBUILD).expect(0);
        let after = judge.dump(&arena, "after");
        judge.compare(&arena, &before, &after, &[]);
        judge.compare(&arena, &fixtures().join(format!("{fixture}.expected.json.gz")), &after, allowances(&fixture));
    }
}

/// A judge that is content with anything would prove nothing.
#[test]
fn judge_is_content_with_a_palace_that_was_changed() {
    let Some(judge) = Judge::here("whether the judge sees a change") else { return };
    let changes = [
        "UPDATE embedding_metadata SET float_value = float_value + 0.0000001 WHERE id = 3 AND key = 'third';",
        "UPDATE embedding_metadata SET string_value = string_value || ' ' WHERE id = 5 AND key = 'chroma:document';",
        "DELETE FROM embedding_metadata WHERE id = 7 AND key = 'empty';",
    ];
    let arena = Arena::new("1.5.9");
    let before = judge.dump(&arena, "before");
    for change in changes {
        let changed = arena.fork();
        sql(&changed.palace(), change);
        let after = judge.dump(&changed, "after");
        let run = judge.run(&arena, &["compare"], &[&before, &after]);
        assert_eq!(run.code, Some(1), "{change}: {run:#?}");
    }
}

/// What a client of 0.x returned may differ from what 1.5.9 returns for the very same files.
fn allowances(fixture: &str) -> &'static [&'static str] {
    match fixture {
        "chroma-0.4.24" => &["--ulps", "1", "--any-order"],
        "chroma-0.5.23" | "chroma-0.6.3" => &["--ulps", "1"],
        _ => &[],
    }
}

#[test]
fn rebuilt_palace_loses_what_chromadb_writes_to_it() {
    let Some(judge) = Judge::here("chromadb's writes to a rebuilt palace") else { return };
    for version in VERSIONS {
        let arena = Arena::new(version);
        arena.run(&REBUILD).expect(0);
        judge.ask(&arena, &["exercise"], &[&arena.palace()]);
    }
}

#[test]
fn mempalace_quarantines_a_rebuilt_palace() {
    let Some(judge) = Judge::here("mempalace's view of a rebuilt palace") else { return };
    for version in VERSIONS {
        let arena = Arena::new(version);
        arena.run(&REBUILD).expect(0);
        judge.ask(&arena, &["mempalace"], &[&arena.palace()]);
    }
}

/// The index was damaged, its vectors went through the queue, and chromadb built the graph anew.
#[test]
fn palace_with_a_new_index_answers_otherwise() {
    let Some(judge) = Judge::here("a palace whose index chromadb builds anew") else { return };
    for fixture in ["chroma-0.6.3", "chroma-1.5.9-killed"] {
        let arena = Arena::unpack(fixture);
        let before = judge.dump(&arena, "before");
        for collection in ["mempalace_drawers", "notes-l2"] {
            truncate(&segment_of(&arena.palace(), collection).join("link_lists.bin"), 1, 2);
        }
        arena.run(&REBUILD).expect(0);
        let after = judge.dump(&arena, "after");
        judge.compare(&arena, &before, &after, &[]);
        judge.ask(&arena, &["exercise"], &[&arena.palace()]);
        judge.ask(&arena, &["mempalace"], &[&arena.palace()]);
    }
}

/// A kill half-way, and then on to the end.
#[test]
fn resumed_palace_is_another() {
    let Some(judge) = Judge::here("chromadb's view of a resumed palace") else { return };
    if !Strace::is_here("a palace resumed after a kill") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let before = judge.dump(&arena, "before");
    kill(&arena, &REBUILD, &"pwrite64:100".parse::<Point>().expect("a point"));
    arena.run(&RESUME).expect(0).says("completed");
    judge.compare(&arena, &before, &judge.dump(&arena, "after"), &[]);
}

/// The judge, and the Python that runs it.
struct Judge {
    python: PathBuf,
}

impl Judge {
    /// Finds or makes the environment; says SKIPPED where that does not work.
    fn here(what: &str) -> Option<Judge> {
        static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match PYTHON.get_or_init(python) {
            Ok(python) => Some(Judge { python: python.clone() }),
            Err(why) => {
                skip(&format!("{what}: {why}"));
                None
            }
        }
    }

    /// Everything chromadb returns for a copy of the palace.
    fn dump(&self, arena: &Arena, name: &str) -> PathBuf {
        let run = self.ask(arena, &["dump"], &[&arena.palace()]);
        let path = arena.root().join(format!("{name}.json"));
        fs::write(&path, run.stdout).expect("a file");
        path
    }

    #[track_caller]
    fn compare(&self, arena: &Arena, before: &Path, after: &Path, allowances: &[&str]) {
        let compared = self.ask(arena, &[&["compare"], allowances].concat(), &[before, after]).json();
        assert!(compared["records"].as_u64().is_some_and(|records| records > 0), "nothing was compared: {compared}");
    }

    /// Runs a command of the judge, which has to be content.
    #[track_caller]
    fn ask(&self, arena: &Arena, arguments: &[&str], paths: &[&Path]) -> Run {
        self.run(arena, arguments, paths).expect(0)
    }

    fn run(&self, arena: &Arena, arguments: &[&str], paths: &[&Path]) -> Run {
        let mut command = Command::new(&self.python);
        command.arg(interop().join("judge.py")).args(arguments).args(paths);
        arena.confine(&mut command);
        Run::of(&mut command)
    }
}

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

fn python() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("PALACEKEEPER_INTEROP_PYTHON") {
        return Ok(python.into());
    }
    let requirements = interop().join("requirements.txt");
    let text = fs::read(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let hash: String = Sha256::digest(&text).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-{hash}"));
    let python = directory.join("bin/python");
    let complete = directory.join("complete");
    if !complete.exists() {
        say(&format!("making {} from {}; this takes some minutes, once", directory.display(), requirements.display()));
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
        run(Command::new(&python).args(["-m", "pip", "install", "-q", "--no-deps", "-r"]).arg(&requirements))?;
        fs::write(&complete, hash).map_err(|error| error.to_string())?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
