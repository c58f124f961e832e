//! Whole operations on real palaces on the simulated disk: planned, begun, run and recovered by the keeper, with
//! SQLite writing to the same disk.

use super::explore::{Act, Course, Image, PALACE, Stand};
use super::memory::MemoryDisk;
use super::palace::Arena;
use super::vfs;
use palacekeeper::disk::Disk;
use palacekeeper::engine::{self, Outcome};
use palacekeeper::keeper::{self, Error, Keeper, Means, Proposal, Target};
use palacekeeper::ops::Step;
use palacekeeper::store::chroma::check::Depth;
use palacekeeper::store::chroma::{DATABASE, Format, Limits};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the palace's keep is.
pub const KEEP: &str = "/palace.keep";
/// A directory on a file system of its own.
pub const FAR: &str = "/far";
/// Small batches make many steps.
const LIMITS: Limits = Limits { batch_bytes: 24 << 10 };

/// What is done to the palace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Rebuild,
    /// A rebuild whose new store is built on another file system.
    Staged,
    Repair,
    Migrate {
        to: &'static str,
    },
    ToExact,
    FromExact,
    Import,
    Restore,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verb::Rebuild => f.write_str("rebuild"),
            Verb::Staged => f.write_str("rebuild, staged elsewhere"),
            Verb::Repair => f.write_str("repair"),
            Verb::Migrate { to } => write!(f, "migration to {to}"),
            Verb::ToExact => f.write_str("migration to exact"),
            Verb::FromExact => f.write_str("migration from exact"),
            Verb::Import => f.write_str("import"),
            Verb::Restore => f.write_str("restore"),
        }
    }
}

/// Why nothing was done, or not all.
#[derive(Debug)]
pub enum Halt {
    /// Nothing was interrupted.
    Nothing,
    Failed(Error),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Halt::Nothing => f.write_str("nothing is interrupted"),
            Halt::Failed(error) => error.fmt(f),
        }
    }
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Halt {
        Halt::Failed(error.into())
    }
}

/// An operation on a palace that chromadb wrote.
pub struct Whole {
    verb: Verb,
    disk: MemoryDisk,
    /// Its folder in the keep.
    folder: PathBuf,
    /// Lines that are imported.
    lines: Vec<u8>,
    /// What palaces hold that were read before, by their bytes.
    known: RefCell<HashMap<blake3::Hash, Holding>>,
}

/// What a palace holds, whatever the names of its segments and the layout of its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Its lines as an export has them, but the first; or why there are none.
    lines: Result<Vec<u8>, String>,
    /// Codes of what a deep check finds.
    findings: Vec<String>,
    sidecars: Image,
}

impl Holding {
    /// What a person wants to know where two palaces are not the same.
    fn differs_from(&self, other: &Holding) -> String {
        let lines = |holding: &Holding| match &holding.lines {
            Ok(lines) => String::from_utf8_lossy(lines).lines().map(str::to_owned).collect(),
            Err(error) => vec![error.clone()],
        };
        let [ours, theirs] = [lines(self), lines(other)];
        let line = ours.iter().zip(&theirs).find(|(one, other)| one != other);
        format!(
            "{} lines, not {}, the first that differ are {line:?}; findings {:?}, not {:?}; sidecars are {}equal",
            ours.len(),
            theirs.len(),
            self.findings,
            other.findings,
            if self.sidecars == other.sidecars { "" } else { "not " }
        )
    }
}

impl Whole {
    pub fn new(verb: Verb) -> Whole {
        let version = if verb == (Verb::Migrate { to: "1.5.9" }) { "0.6.3" } else { "1.5.9" };
        let (arena, disk) = (Arena::new(version), MemoryDisk::new(&[FAR]));
        disk.load(&arena.palace(), Path::new(PALACE));
        make_directories(&disk, &std::env::temp_dir());
        disk.mount_on(Path::new(FAR));
        let mut number = 1;
        let lines = vfs::on(&disk, || prepare(verb, &disk, &mut number));
        disk.settle();
        let title = match verb {
            Verb::Rebuild | Verb::Staged => "rebuild",
            Verb::Repair => "repair",
            Verb::Migrate { .. } | Verb::ToExact | Verb::FromExact => "migrate",
            Verb::Import => "import",
            Verb::Restore => "restore",
        };
        let folder = Path::new(KEEP).join(format!("{number:04}-{title}"));
        Whole { verb, disk: disk.fresh(), folder, lines, known: RefCell::default() }
    }

    /// Plans it.
    fn propose<'d>(&self, keeper: &Keeper<'d>, disk: &'d MemoryDisk) -> Result<Proposal<'d>, Error> {
        propose(self.verb, keeper, disk, &self.lines)
    }

    /// Opens the palace to write to it; says how what was interrupted has ended.
    pub fn open(&self, disk: &MemoryDisk) -> Result<Option<Outcome>, Error> {
        let opened = vfs::on(disk, || keeper::open(disk, Path::new(PALACE)))?;
        Ok(opened.recovered.map(|ended| ended.outcome))
    }

    /// What the palace on a disk holds.
    pub fn holding(&self, disk: &MemoryDisk) -> Holding {
        let image = disk.image(PALACE);
        let mut hasher = blake3::Hasher::new();
        for (path, bytes) in &image {
            hasher.update(path.as_os_str().as_encoded_bytes()).update(bytes.as_deref().unwrap_or(b"/"));
            hasher.update(&[0, u8::from(bytes.is_some())]);
        }
        let hash = hasher.finalize();
        if let Some(known) = self.known.borrow().get(&hash) {
            return known.clone();
        }
        let holding = vfs::on(disk, || hold(disk, image));
        self.known.borrow_mut().insert(hash, holding.clone());
        holding
    }
}

/// Brings the palace into the state that the verb needs; returns lines to be imported.
fn prepare(verb: Verb, disk: &MemoryDisk, number: &mut u32) -> Vec<u8> {
    match verb {
        Verb::Repair => disk.remove(&persisted(disk).join("link_lists.bin")).expect("it is there"),
        Verb::Restore => *number += run(Verb::Rebuild, disk),
        Verb::FromExact => *number += run(Verb::ToExact, disk),
        Verb::Import => {
            let lines = export(disk).expect("a palace");
            for path in disk.image(PALACE).into_keys().rev().filter(|path| is_of_store(path)) {
                disk.remove(&path).expect("it is there");
            }
            return lines;
        }
        _ => {}
    }
    Vec::new()
}

fn run(verb: Verb, disk: &MemoryDisk) -> u32 {
    let mut keeper = Keeper::lock(disk, Path::new(PALACE)).expect("a palace");
    let proposal = propose(verb, &keeper, disk, &[]).expect("a plan");
    keeper.run(proposal, &mut ()).expect("nothing disturbs it").number
}

fn propose<'d>(verb: Verb, keeper: &Keeper<'d>, disk: &'d MemoryDisk, lines: &[u8]) -> Result<Proposal<'d>, Error> {
    let watch = &mut || ();
    let format = |name| Format::named(name).expect("a format");
    match verb {
        Verb::Rebuild => keeper.propose_rebuild(LIMITS, watch),
        Verb::Staged => {
            let means = Means::from(LIMITS).with_staging(disk, Path::new(PALACE), Path::new(FAR))?;
            keeper.propose_rebuild(means, watch)
        }
        Verb::Repair => {
            let diagnosis = keeper.propose_repair(&[], LIMITS, watch)?;
            Ok(diagnosis.proposal.expect("something is damaged"))
        }
        Verb::Migrate { to } => keeper.propose_migration(Target::Chroma(format(to)), LIMITS, watch),
        Verb::ToExact => keeper.propose_migration(Target::Exact, LIMITS, watch),
        Verb::FromExact => keeper.propose_migration(Target::Chroma(format("1.5.9")), LIMITS, watch),
        Verb::Import => keeper.propose_import(&mut &*lines, format("1.5.9"), LIMITS, watch),
        Verb::Restore => Ok(keeper.propose_restore(1, watch)?.proposal),
    }
}

/// A segment that holds vectors.
fn persisted(disk: &MemoryDisk) -> PathBuf {
    let has_links = |path: &&PathBuf| path.ends_with("index_metadata.pickle");
    let image = disk.image(PALACE);
    image.keys().find(has_links).and_then(|path| path.parent()).expect("a segment").to_owned()
}

/// Whether a path below the palace belongs to its store.
pub fn is_of_store(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(PALACE) else { return false };
    let Some(first) = below.iter().next().and_then(|name| name.to_str()) else { return false };
    first.starts_with(DATABASE) || first.starts_with("sqlite_exact") || uuid::Uuid::parse_str(first).is_ok()
}

fn make_directories(disk: &MemoryDisk, directory: &Path) {
    for path in directory.ancestors().collect::<Vec<_>>().into_iter().rev() {
        if disk.stat(path).expect("the disk is sound").is_none() {
            disk.create_dir(path).expect("the disk is sound");
        }
    }
}

pub fn export(disk: &MemoryDisk) -> Result<Vec<u8>, Error> {
    let mut lines = Vec::new();
    keeper::export(disk, Path::new(PALACE), &mut || ())?.write(&mut lines, &mut || ())?;
    Ok(lines)
}

fn hold(disk: &MemoryDisk, image: Image) -> Holding {
    let checked = keeper::check(disk, Path::new(PALACE), Depth::Deep, &mut || ());
    let findings = match checked {
        Ok(checked) => checked.findings.iter().map(|one| format!("{} {}", one.code.name(), one.subject)).collect(),
        Err(error) => vec![error.to_string()],
    };
    let lines = export(disk).map_err(|error| error.to_string());
    Holding { lines, findings, sidecars: image.into_iter().filter(|(path, _)| !is_of_store(path)).collect() }
}

impl Course for Whole {
    type Error = Halt;
    const ACTS: &'static [Act] = &[Act::Recover, Act::Resume];

    fn disk(&self) -> MemoryDisk {
        self.disk.fresh()
    }

    fn begin(&self, disk: &MemoryDisk) -> Result<Outcome, Halt> {
        vfs::on(disk, || {
            let palace = Path::new(PALACE);
            let mut keeper = match self.verb {
                Verb::Import => Keeper::lock_empty(disk, palace)?,
                _ => Keeper::lock(disk, palace)?,
            };
            let proposal = self.propose(&keeper, disk)?;
            Ok(keeper.run(proposal, &mut ())?.outcome)
        })
    }

    /// As the command line does it: whoever has nothing to recover takes no lock.
    fn act(&self, act: Act, disk: &MemoryDisk) -> Result<Outcome, Halt> {
        vfs::on(disk, || {
            let palace = Path::new(PALACE);
            if keeper::preview_recovery(disk, palace)?.is_none() {
                return Err(Halt::Nothing);
            }
            let mut keeper = Keeper::lock(disk, palace)?;
            let ended = if act == Act::Resume { keeper.resume(&mut ()) } else { keeper.recover(&mut ()) };
            match ended {
                Ok(ended) => Ok(ended.ok_or(Halt::Nothing)?.outcome),
                // What was resumed may fail its proof: then it has gone back.
                Err(Error::RolledBack { .. }) => Ok(Outcome::RolledBack),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn stand(&self, disk: &MemoryDisk) -> Stand {
        match disk.stat(&self.folder).expect("the disk is sound") {
            None => Stand::Unborn,
            Some(_) => match engine::read::<Step>(disk, &self.folder.join("journal")) {
                Ok(entry) => Stand::of(&entry),
                Err(error) => panic!("I1: {error}"),
            },
        }
    }

    fn wants_recovery(&self, error: &Halt) -> bool {
        let Halt::Failed(error) = error else { return false };
        matches!(error, Error::Engine(engine::Error::CannotResume) | Error::Refused { .. })
    }

    fn is_new(&self, found: &MemoryDisk, new: &MemoryDisk) -> bool {
        let [found, new] = [found, new].map(|disk| self.holding(disk));
        if found != new {
            println!("{}", found.differs_from(&new));
        }
        found == new
    }

    /// Nothing lies around but what SPEC.md names.
    fn check_ended(&self, disk: &MemoryDisk) {
        drop(vfs::on(disk, || Keeper::lock(disk, Path::new(PALACE))).map_err(Halt::from)); // which tidies the keep
        let allowed = ["journal", "report.json", "backup", "aside", "input.jsonl"];
        let mut names = BTreeMap::new();
        for path in disk.image("/").into_keys() {
            let place = path.strip_prefix(KEEP).ok().map(|below| below.iter().take(2).collect::<PathBuf>());
            names.extend(place.map(|place| (place, path)));
        }
        for (place, path) in names {
            let parts: Vec<_> = place.iter().filter_map(|part| part.to_str()).collect();
            let is_known = match &parts[..] {
                [] | ["lock" | "last"] => true,
                [folder] => folder.split_once('-').is_some_and(|(number, _)| number.parse::<u32>().is_ok()),
                [_, part, ..] => allowed.contains(part),
            };
            assert!(is_known, "{} lies around", path.display());
        }
        assert_eq!(disk.image(FAR).len(), 1, "something is left of the annex: {:?}", disk.image(FAR).keys());
    }
}
