//! Kills a rebuild in the middle, and shows that nothing is lost.
//!
//! `cargo run --release --example survive` unpacks a palace of 1,200 drawers that chromadb 1.5.9 wrote, starts a
//! rebuild of it in a child process, kills the child with SIGKILL half-way, opens the palace again, and compares
//! every drawer.

use flate2::read::GzDecoder;
use palacekeeper::disk::RealDisk;
use palacekeeper::keeper::{self, Keeper};
use palacekeeper::store::chroma::{Digest, Limits, Preparation, Source, survey};
use palacekeeper::store::scratch::Room;
use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

const PALACE: &[u8] = include_bytes!("../tests/fixtures/palaces/chroma-1.5.9-survive.tar.gz");
/// Small batches make many steps, so that there is a middle to be killed in.
const LIMITS: Limits = Limits { batch_bytes: 8 << 10 };

fn main() -> Result<ExitCode, Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(palace) => rebuild(palace.as_ref()).map(|()| ExitCode::SUCCESS),
        None => show(),
    }
}

/// The child: a rebuild like any other.
fn rebuild(palace: &Path) -> Result<(), Box<dyn Error>> {
    let disk = RealDisk::new();
    let mut keeper = Keeper::lock(&disk, palace)?;
    let proposal = keeper.propose_rebuild(LIMITS, &mut || ())?;
    keeper.run(proposal, &mut ())?;
    Ok(())
}

/// The parent: kills the child, and looks.
fn show() -> Result<ExitCode, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let palace = directory.path().join("palace");
    tar::Archive::new(GzDecoder::new(PALACE)).unpack(directory.path())?;
    let before = contents(&palace)?;
    println!("A palace made by chromadb: {} drawers, digest {}.", before.0, before.1);

    let child = Command::new(std::env::current_exe()?).arg(&palace).spawn()?;
    if !kill_half_way(child, &palace)? {
        println!("The rebuild was done before it could be killed; run this again.");
        return Ok(ExitCode::FAILURE);
    }
    let disk = RealDisk::new();
    let recovered = palacekeeper::open(&disk, &palace)?.recovered.ok_or("nothing was found to recover")?;
    println!("Opened again: the {} was cut short, and is now {}.", recovered.title, recovered.outcome);
    let after = contents(&palace)?;
    println!("The palace holds {} drawers, digest {}.", after.0, after.1);

    rebuild(&palace)?;
    let rebuilt = contents(&palace)?;
    println!("Rebuilt without being killed: {} drawers, digest {}.", rebuilt.0, rebuilt.1);
    match before == after && before == rebuilt {
        true => println!("Every drawer is there: ids, documents, metadata and vectors, bit for bit."),
        false => println!("THIS IS A BUG: something is missing. Please report it."),
    }
    Ok(if before == after && before == rebuilt { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until half of the steps are done, then sends SIGKILL. False where the child was faster.
fn kill_half_way(mut child: Child, palace: &Path) -> Result<bool, Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline && child.try_wait()?.is_none() {
        // The journal is being written while it is read here; a look that comes too early is made again.
        if let Ok(history) = keeper::look(&RealDisk::new(), palace)
            && let Some(operation) = history.interrupted()
            && operation.done() * 2 >= operation.steps.len()
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill()?;
    child.wait()?;
    let history = keeper::look(&RealDisk::new(), palace)?;
    let Some(operation) = history.interrupted() else { return Ok(false) };
    println!("Killed the rebuild after {} of {} steps.", operation.done(), operation.steps.len());
    Ok(true)
}

/// How many drawers a palace holds, and the digest of all that is in them.
fn contents(palace: &Path) -> Result<(u64, Digest), Box<dyn Error>> {
    let disk = RealDisk::new();
    let room = Room::new(&disk, palace.parent().unwrap_or(palace));
    let source = Source::open(palace, &room, &Preparation::default())?;
    let survey = survey(&source, Limits::default(), &mut || ())?;
    let totals = survey.collections.first().ok_or("the palace has no collection")?.totals;
    Ok((totals.records, totals.digest))
}
