//! Times a rebuild, or a migration, beside `cp -a` + `sync` of the same palace, and beside filling the full-text index
//! alone, in one run.
//!
//! `cargo bench --bench rebuild -- PALACE [FORMAT]` works on a copy next to the palace and removes it.
//! benches/README.md says how to make a palace and how to read the numbers.

use palacekeeper::disk::RealDisk;
use palacekeeper::engine::{Direction, Watch};
use palacekeeper::keeper::{Keeper, Target};
use palacekeeper::store::chroma::{DATABASE, Format, Limits};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).filter(|argument| !argument.to_string_lossy().starts_with("--"));
    let Some(palace) = arguments.next().map(PathBuf::from) else {
        println!("usage: cargo bench --bench rebuild -- PALACE [FORMAT]");
        return Ok(());
    };
    let named = |name: std::ffi::OsString| match &*name.to_string_lossy() {
        "exact" => Ok(Target::Exact),
        name => Format::named(name).map(Target::Chroma).ok_or("no format has this name"),
    };
    let to = arguments.next().map(named).transpose()?;
    let title = if to.is_some() { "migration" } else { "rebuild" };
    let palace = palace.canonicalize()?;
    let work = tempfile::tempdir_in(palace.parent().ok_or("the palace has no parent")?)?;
    let copy = work.path().join("palace");
    run("cp", &["-a".as_ref(), palace.as_ref(), copy.as_ref()])?;
    run("sync", &[])?;

    let (copied, ()) = timed(|| {
        run("cp", &["-a".as_ref(), copy.as_ref(), work.path().join("copy").as_ref()])?;
        run("sync", &[])
    })?;
    let (indexed, documents) = timed(|| index(&copy, &work.path().join("index.sqlite3")))?;
    let before = peak_bytes()?;
    let mut steps = Steps::default();
    let (rebuilt, records) = timed(|| rebuild(&copy, to, &mut steps))?;
    let rest = rebuilt.saturating_sub(indexed);

    println!("{records} records, {documents} documents, {:.0} MiB", mib(size(&copy)?));
    println!("cp -a + sync               {:>8.2} s", copied.as_secs_f64());
    println!("full-text index alone      {:>8.2} s", indexed.as_secs_f64());
    println!("{title:<26} {:>8.2} s", rebuilt.as_secs_f64());
    for (kind, took) in &steps.took {
        println!("  {kind:<24} {:>8.2} s", took.as_secs_f64());
    }
    let part = format!("{title} without the index");
    println!("{part:<26} {:>6.1} × cp -a + sync", rest.as_secs_f64() / copied.as_secs_f64());
    println!("peak memory                {:>8.0} MiB ({:.0} before the {title})", mib(peak_bytes()?), mib(before));
    Ok(())
}

fn timed<T>(act: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let result = act()?;
    Ok((start.elapsed(), result))
}

/// The floor: what SQLite takes to fill a trigram index with the documents, in one transaction, unsynced.
fn index(palace: &Path, target: &Path) -> Result<usize> {
    let connection = Connection::open(target)?;
    connection.execute("ATTACH ?1 AS source", [palace.join(DATABASE).to_string_lossy()])?;
    connection.execute_batch(
        "PRAGMA synchronous=OFF; PRAGMA cache_size=-65536; BEGIN;
         CREATE VIRTUAL TABLE documents USING fts5(string_value, tokenize='trigram');",
    )?;
    let rows = connection.execute(
        "INSERT INTO documents (rowid, string_value)
         SELECT id, string_value FROM source.embedding_metadata WHERE key = 'chroma:document' ORDER BY id",
        [],
    )?;
    connection.execute_batch("COMMIT")?;
    Ok(rows)
}

/// What each kind of step took, by the first words of its title.
#[derive(Default)]
struct Steps {
    took: BTreeMap<String, Duration>,
    open: Option<(String, Instant)>,
}

impl Watch for Steps {
    fn step(&mut self, _direction: Direction, _index: usize, title: &dyn Display) {
        let title = title.to_string();
        let kind = title.split(' ').take_while(|word| !word.contains(|c: char| c.is_ascii_digit())).take(4);
        self.open = Some((kind.collect::<Vec<_>>().join(" "), Instant::now()));
    }

    fn passed(&mut self, _weight: u64) {
        if let Some((kind, since)) = self.open.take() {
            *self.took.entry(kind).or_default() += since.elapsed();
        }
    }
}

fn rebuild(palace: &Path, to: Option<Target>, steps: &mut Steps) -> Result<u64> {
    let disk = RealDisk::new();
    let mut keeper = Keeper::lock(&disk, palace)?;
    let proposal = match to {
        Some(to) => keeper.propose_migration(to, Limits::default(), &mut || ())?,
        None => keeper.propose_rebuild(Limits::default(), &mut || ())?,
    };
    let records = proposal.collections.iter().map(|collection| collection.records).sum();
    keeper.run(proposal, steps)?;
    Ok(records)
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    match Command::new(program).args(arguments).status()?.success() {
        true => Ok(()),
        false => Err(format!("{program} failed").into()),
    }
}

/// The most memory this process ever had resident.
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
