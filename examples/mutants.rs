//! Puts deliberate bugs into a copy of the sources, one at a time, and insists that the tests catch each of them.
//!
//! `cargo run --release --example mutants` takes about an hour; with names after `--` only these are tried, and
//! `--list` names them all. What the bugs are, `tests/mutants/list.txt` says.

#[allow(unreachable_pub, reason = "a test program uses it as well")]
#[path = "../tests/support/mutants.rs"]
mod mutants;

use mutants::Mutant;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Whoever waits this long for a test has found something too.
const TIME_MAX: Duration = Duration::from_secs(900);

/// What became of a mutant.
enum Fate {
    /// A test failed, and which.
    Caught(String),
    Survived,
    /// It does not even build, which says nothing about tests.
    Unviable,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut all = Mutant::all(&root);
    if wanted.iter().any(|argument| argument == "--list") {
        all.iter().for_each(|mutant| println!("{}: {}", mutant.name, mutant.breaks));
        return Ok(ExitCode::SUCCESS);
    }
    all.retain(|mutant| wanted.is_empty() || wanted.contains(&mutant.name));
    let copy = root.join("target/mutants/tree");
    renew(&root, &copy)?;
    let (mut survivors, mut unviable) = (0, 0);
    for mutant in &all {
        let (began, path) = (Instant::now(), copy.join(&mutant.file));
        let source = std::fs::read_to_string(&path)?;
        std::fs::write(&path, mutant.apply(&source)?)?;
        let fate = try_out(mutant, &copy)?;
        std::fs::write(&path, source)?;
        let told = match fate {
            Fate::Caught(test) => format!("caught by {test}"),
            Fate::Survived => {
                survivors += 1;
                "SURVIVED".into()
            }
            Fate::Unviable => {
                unviable += 1;
                "DOES NOT BUILD".into()
            }
        };
        println!("{:40} {told} ({:.0} s)", mutant.name, began.elapsed().as_secs_f64());
    }
    let caught = all.len() - survivors - unviable;
    println!("{} mutants: {caught} caught, {survivors} survived, {unviable} did not build", all.len());
    Ok(if caught == all.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Copies what a build and its tests need.
fn renew(root: &Path, copy: &Path) -> Result<(), Box<dyn Error>> {
    let _ = std::fs::remove_dir_all(copy);
    std::fs::create_dir_all(copy)?;
    let parts = ["src", "tests", "benches", "examples", "Cargo.toml", "Cargo.lock", "SPEC.md", "README.md"];
    let sources = parts.iter().map(|part| root.join(part));
    match Command::new("cp").arg("-a").args(sources).arg(copy).status()?.success() {
        true => Ok(()),
        false => Err("the sources cannot be copied".into()),
    }
}

fn try_out(mutant: &Mutant, copy: &Path) -> Result<Fate, Box<dyn Error>> {
    for test in &mutant.tests {
        let (program, module) = test.split_once('/').unwrap_or((test, ""));
        if !cargo(copy, &["--no-run", "--test", program])?.is_some_and(|passed| passed) {
            return Ok(Fate::Unviable);
        }
        match cargo(copy, &["--test", program, module])? {
            Some(true) => {}
            Some(false) => return Ok(Fate::Caught(test.clone())),
            None => return Ok(Fate::Caught(format!("{test}, which hangs"))),
        }
    }
    Ok(Fate::Survived)
}

/// Runs `cargo test`; says whether it passed, or nothing where it took too long.
fn cargo(copy: &Path, arguments: &[&str]) -> Result<Option<bool>, Box<dyn Error>> {
    let mut command = Command::new(env!("CARGO"));
    command.arg("test").args(arguments).current_dir(copy).stdout(Stdio::null()).stderr(Stdio::null());
    let target = copy.with_file_name("build");
    let mut child = command.env("CARGO_TARGET_DIR", target).env("RUSTFLAGS", "-Awarnings").spawn()?;
    let began = Instant::now();
    while began.elapsed() < TIME_MAX || arguments.contains(&"--no-run") {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}
