//! The real chromadb and the real mempalace, asked what they think of a palace.
//!
//! They run in virtual environments under the target directory, each made once: chromadb 1.5.9 with mempalace from
//! `interop/requirements.txt`, every older chromadb from `fixtures/requirements`. `PALACEKEEPER_INTEROP_PYTHON` may
//! name a Python that has the former already, `PALACEKEEPER_INTEROP_VENVS` a directory with one environment for each
//! of the latter.

use super::{Arena, Run, VERSIONS, say, skip};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The judge, and the Python that runs it.
pub(crate) struct Judge {
    python: PathBuf,
}

impl Judge {
    /// Finds or makes the environment; says SKIPPED where that does not work.
    pub(crate) fn here(what: &str) -> Option<Judge> {
        static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match PYTHON.get_or_init(python) {
            Ok(python) => Some(Judge { python: python.clone() }),
            Err(why) => {
                skip(&format!("{what}: {why}"));
                None
            }
        }
    }

    /// A judge of every version, in the order of the versions. What has to be made for that is made side by side.
    pub(crate) fn of_all_versions(what: &str) -> Option<Vec<Judge>> {
        static PYTHONS: OnceLock<Result<Vec<PathBuf>, String>> = OnceLock::new();
        match PYTHONS.get_or_init(pythons) {
            Ok(pythons) => Some(pythons.iter().map(|python| Judge { python: python.clone() }).collect()),
            Err(why) => {
                skip(&format!("{what}: {why}"));
                None
            }
        }
    }

    /// Everything chromadb returns for a copy of the palace.
    pub(crate) fn dump(&self, arena: &Arena, name: &str) -> PathBuf {
        let run = self.ask(arena, &["dump"], &[&arena.palace()]);
        let path = arena.root().join(format!("{name}.json"));
        fs::write(&path, run.stdout).expect("a file");
        path
    }

    #[track_caller]
    pub(crate) fn compare(&self, arena: &Arena, before: &Path, after: &Path, allowances: &[&str]) {
        let compared = self.ask(arena, &[&["compare"], allowances].concat(), &[before, after]).json();
        assert!(compared["records"].as_u64().is_some_and(|records| records > 0), "nothing was compared: {compared}");
    }

    /// Runs a command of the judge, which has to be content.
    #[track_caller]
    pub(crate) fn ask(&self, arena: &Arena, arguments: &[&str], paths: &[&Path]) -> Run {
        self.run(arena, arguments, paths).expect(0)
    }

    /// The judge only ever opens copies, so it can be asked again.
    pub(crate) fn run(&self, arena: &Arena, arguments: &[&str], paths: &[&Path]) -> Run {
        for _ in 1..ATTEMPTS {
            let run = self.run_once(arena, arguments, paths);
            if !run.stderr.contains(RACE) {
                return run;
            }
            say("chromadb has overtaken its own upgrade of a 0.4 palace, and is asked again");
        }
        self.run_once(arena, arguments, paths)
    }

    /// A client that writes to a palace itself; see `client.py`.
    pub(crate) fn client(&self, arena: &Arena, collection: &str, name: &str, count: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(interop().join("client.py")).arg(arena.palace()).args([collection, name, count]);
        arena.confine(&mut command);
        command
    }

    fn run_once(&self, arena: &Arena, arguments: &[&str], paths: &[&Path]) -> Run {
        let mut command = Command::new(&self.python);
        command.arg(interop().join("judge.py")).args(arguments).args(paths);
        arena.confine(&mut command);
        Run::of(&mut command)
    }
}

/// chromadb 1.5.9 opens several connections while it upgrades a palace of 0.4. Now and then, on a busy machine, one
/// of them still knows the tables from before the column was added, and panics; so it does on palaces that nobody has
/// touched.
const RACE: &str = "ColumnNotFound(\"bool_value\")";
const ATTEMPTS: usize = 4;

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

fn python() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("PALACEKEEPER_INTEROP_PYTHON") {
        return Ok(python.into());
    }
    environment("interop", &interop().join("requirements.txt"))
}

/// One Python for each version.
fn pythons() -> Result<Vec<PathBuf>, String> {
    std::thread::scope(|scope| {
        let start = |version| scope.spawn(move || if version == "1.5.9" { python() } else { older(version) });
        let threads = VERSIONS.map(start);
        threads.into_iter().map(|thread| thread.join().expect("making an environment does not panic")).collect()
    })
}

/// A chromadb that fixtures were made with.
fn older(version: &str) -> Result<PathBuf, String> {
    if let Some(directory) = std::env::var_os("PALACEKEEPER_INTEROP_VENVS") {
        return Ok(PathBuf::from(directory).join(version).join("bin/python"));
    }
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/requirements");
    environment(&format!("chromadb-{version}"), &requirements.join(format!("{version}.txt")))
}

/// What chromadb asks for and imports only when it is a cluster, or downloads a model. To unpack it takes most of the
/// time.
const UNUSED: [&str; 4] = ["kubernetes", "pulsar-client", "uvloop", "hf-xet"];

/// Makes a virtual environment, once for each text of its requirements.
fn environment(name: &str, requirements: &Path) -> Result<PathBuf, String> {
    let text = fs::read_to_string(requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let hash: String = Sha256::digest(&text).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{hash}"));
    let python = directory.join("bin/python");
    let complete = directory.join("complete");
    if !complete.exists() {
        say(&format!("making {} from {}; this takes some minutes, once", directory.display(), requirements.display()));
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
        let is_used = |line: &&str| UNUSED.iter().all(|unused| !line.starts_with(&format!("{unused}==")));
        let used = text.lines().filter(is_used).map(|line| format!("{line}\n")).collect::<String>();
        let list = directory.join("requirements.txt");
        fs::write(&list, used).map_err(|error| error.to_string())?;
        let install = ["-m", "pip", "install", "-q", "--no-deps", "--no-compile", "-r"];
        run(Command::new(&python).args(install).arg(&list))?;
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
