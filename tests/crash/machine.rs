//! Any sequence of operations, crashes, recoveries, restores, sweeps and strangers' writes on a real palace, against a
//! model of a few lines: a palace holds what it held, plus what was written to it, and `restore` knows what each
//! operation replaced.

use crate::support::explore::{Image, PALACE};
use crate::support::memory::{Fate, Fault, MemoryDisk};
use crate::support::palace::is_exhaustive;
use crate::support::vfs;
use crate::support::whole::{KEEP, Verb, Whole, export, is_of_store};
use palacekeeper::disk::Disk;
use palacekeeper::engine::Outcome;
use palacekeeper::keeper::{self, Choice, Consent, Error, Keeper, Sweeper, Target};
use palacekeeper::store::chroma::{Format, Limits};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;
use std::path::Path;

/// Small batches make many steps.
const LIMITS: Limits = Limits { batch_bytes: 24 << 10 };

/// A crash, if it comes to that: at which event, and what becomes of what was not synced; `None` where only the process
/// is killed.
type Crash = (u32, Option<u64>);

#[derive(Clone, Debug)]
enum Action {
    Rebuild(Vec<Crash>),
    /// To the other of two formats.
    Migrate(Vec<Crash>),
    /// Of one of the operations there are.
    Restore(usize, Vec<Crash>),
    /// Of all but so many.
    Sweep(usize, Vec<Crash>),
    /// A client writes to the palace, and goes away.
    Write(u8),
    /// Somebody puts a file into the palace.
    Put(u8),
}

fn crashes() -> impl Strategy<Value = Vec<Crash>> {
    let fate = prop_oneof![Just(None), Just(Some(Fate::POWER_CUT.0)), any::<u64>().prop_map(Some)];
    let event = prop_oneof![0..60_u32, 0..1_500_u32];
    prop::collection::vec((event, fate), 0..4)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => crashes().prop_map(Action::Rebuild),
        3 => crashes().prop_map(Action::Migrate),
        3 => (any::<usize>(), crashes()).prop_map(|(which, crashes)| Action::Restore(which, crashes)),
        1 => (0..3_usize, crashes()).prop_map(|(newest, crashes)| Action::Sweep(newest, crashes)),
        2 => any::<u8>().prop_map(Action::Write),
        1 => any::<u8>().prop_map(Action::Put),
    ]
}

/// What must be true.
struct Model {
    /// The lines of the palace, all but the first, which names a format.
    lines: Vec<u8>,
    sidecars: Image,
    /// What each operation replaced, as long as its folder is there.
    replaced: BTreeMap<u32, Vec<u8>>,
}

struct Machine {
    disk: MemoryDisk,
    model: Model,
}

impl Machine {
    fn new() -> Machine {
        let disk = crate::support::explore::Course::disk(&Whole::new(Verb::Rebuild));
        let mut machine =
            Machine { disk, model: Model { lines: Vec::new(), sidecars: Image::new(), replaced: BTreeMap::new() } };
        machine.model.lines = lines(&machine.disk);
        machine.model.sidecars = machine.sidecars();
        machine
    }

    fn sidecars(&self) -> Image {
        self.disk.image(PALACE).into_iter().filter(|(path, _)| !is_of_store(path)).collect()
    }

    fn next_number(&self) -> u32 {
        let names = self.disk.list(Path::new(KEEP)).unwrap_or_default();
        let numbers = names.iter().filter_map(|name| name.to_str()?.split_once('-')?.0.parse::<u32>().ok());
        numbers.max().unwrap_or(0)
    }

    /// Does something, crashes as often as it is to, and each time lets the next process recover. Returns whether an
    /// operation came to its end in this, and which.
    fn act(&mut self, crashes: &[Crash], act: &dyn Fn(&MemoryDisk) -> Result<(), Error>) {
        let mut act = act;
        for (event, fate) in crashes {
            let disk = self.disk.with_fault(*event, Fault::Crash);
            let done = vfs::on(&disk, || act(&disk));
            if disk.fired() == 0 {
                done.expect("nothing disturbs it");
                self.disk = disk.fresh();
                return;
            }
            self.disk = fate.map_or_else(|| disk.kill(), |fate| disk.crash(Fate(fate)));
            act = &recover;
        }
        let disk = self.disk.fresh();
        vfs::on(&disk, || act(&disk)).expect("nothing disturbs it");
        self.disk = disk;
    }

    /// What the last operation has come to, if it is a new one.
    fn ended(&self, before: u32) -> Option<(u32, Outcome)> {
        let history = keeper::look(&self.disk, Path::new(PALACE)).expect("it can be read");
        let last = history.operations.last().filter(|last| last.number > before)?;
        Some((last.number, last.outcome.expect("nothing is interrupted any more")))
    }

    /// An operation after which the palace holds `then`, if it completes.
    fn operate(&mut self, crashes: &[Crash], then: Vec<u8>, act: &dyn Fn(&MemoryDisk) -> Result<(), Error>) {
        let before = self.next_number();
        self.act(crashes, act);
        if let Some((number, Outcome::Completed)) = self.ended(before) {
            self.model.replaced.insert(number, std::mem::replace(&mut self.model.lines, then));
        }
    }

    /// What the palace holds after something that nobody disturbs: the other format has no place for some things.
    fn led_to(&self, act: &dyn Fn(&MemoryDisk) -> Result<(), Error>) -> Vec<u8> {
        let disk = self.disk.fresh();
        vfs::on(&disk, || act(&disk)).expect("nothing disturbs it");
        lines(&disk)
    }

    fn run(&mut self, action: &Action) {
        let same = self.model.lines.clone();
        match action {
            Action::Rebuild(crashes) => self.operate(crashes, same, &rebuild),
            Action::Migrate(crashes) => {
                let then = self.led_to(&migrate);
                self.operate(crashes, then, &migrate);
            }
            Action::Restore(which, crashes) => {
                let Some((&number, then)) = self.model.replaced.iter().nth(which % self.model.replaced.len().max(1))
                else {
                    return;
                };
                let then = then.clone();
                self.operate(crashes, then, &|disk| restore(disk, number));
            }
            Action::Sweep(newest, crashes) => {
                self.act(crashes, &|disk| sweep(disk, *newest));
                let names = self.disk.list(Path::new(KEEP)).unwrap_or_default();
                let is_there = |number: &u32| {
                    let folder = format!("{number:04}-");
                    names.iter().any(|name| name.to_string_lossy().starts_with(&folder))
                };
                self.model.replaced.retain(|number, _| is_there(number));
            }
            Action::Write(tag) => {
                vfs::on(&self.disk, || write(*tag)).expect("a palace in order can be written to");
                self.disk.settle();
                self.model.lines = lines(&self.disk);
                let id = format!("\"id\":\"written-{tag}\"");
                let text = String::from_utf8_lossy(&self.model.lines);
                assert!(text.contains(&id), "an acknowledged write is not there: {id}");
            }
            Action::Put(tag) => {
                let path = Path::new(PALACE).join(format!("stranger-{tag}"));
                if self.disk.stat(&path).expect("the disk is sound").is_none() {
                    self.disk.create(&path, &[*tag]).expect("the disk is sound");
                    self.disk.settle();
                    self.model.sidecars.insert(path, Some(vec![*tag]));
                }
            }
        }
    }

    /// I8, I11: the palace holds what the model says, and nothing waits to be recovered.
    fn check(&self, action: &Action) {
        let preview =
            vfs::on(&self.disk, || keeper::preview_recovery(&self.disk, Path::new(PALACE)).map(|one| one.is_some()));
        assert!(!preview.expect("it can be read"), "{action:?}: something is interrupted");
        let found = lines(&self.disk);
        let differs = found
            .split(|byte| *byte == b'\n')
            .zip(self.model.lines.split(|byte| *byte == b'\n'))
            .find(|(one, other)| one != other);
        let differs = differs.map(|(one, other)| [one, other].map(String::from_utf8_lossy));
        assert!(found == self.model.lines, "{action:?}: the palace holds something else: {differs:?}");
        assert_eq!(self.sidecars(), self.model.sidecars, "{action:?}: a sidecar has changed");
    }
}

/// I13: wherever a sweep is cut short, a folder is there, whole, or it is not.
#[test]
fn sweep_that_is_cut_short_leaves_half_a_folder() {
    let mut machine = Machine::new();
    for _ in 0..2 {
        machine.act(&[], &rebuild);
    }
    machine.disk.settle();
    let folder = Path::new(KEEP).join("0001-rebuild");
    let whole = machine.disk.image(folder.to_str().expect("text"));
    let disk = machine.disk.with_history();
    vfs::on(&disk, || sweep(&disk, 1)).expect("nothing disturbs it");
    let seeds: Vec<u64> = (1..9).map(|seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let (mut gone, mut there) = (0, 0);
    for (event, moment) in disk.history().iter().enumerate() {
        for fate in moment.fates(&seeds) {
            let left = moment.crash(fate);
            let found = left.image(folder.to_str().expect("text"));
            assert!(found.is_empty() || found == whole, "event {event}, {fate:?}: half of it is there");
            *if found.is_empty() { &mut gone } else { &mut there } += 1;
            vfs::on(&left, || sweep(&left, 1)).unwrap_or_else(|error| panic!("event {event}, {fate:?}: {error}"));
            let names = left.list(Path::new(KEEP)).expect("the disk is sound");
            assert_eq!(names, ["0002-rebuild", "lock"], "event {event}, {fate:?}");
        }
    }
    assert!(gone > 0 && there > 0, "{gone} gone, {there} there");
}

/// The lines of a palace in order, without the first and the last: the last has a hash of the others.
fn lines(disk: &MemoryDisk) -> Vec<u8> {
    let text = vfs::on(disk, || export(disk)).expect("a palace in order can be read");
    let text = String::from_utf8(text).expect("JSON");
    // A write that waits is applied for the export, and then is as old as that.
    let lines: Vec<&str> = text.lines().map(|line| line.split(",\"created_at\"").next().unwrap_or(line)).collect();
    lines[1..lines.len() - 1].join("\n").into_bytes()
}

fn recover(disk: &MemoryDisk) -> Result<(), Error> {
    Keeper::lock(disk, Path::new(PALACE))?.recover(&mut ()).map(drop)
}

fn rebuild(disk: &MemoryDisk) -> Result<(), Error> {
    let mut keeper = Keeper::lock(disk, Path::new(PALACE))?;
    let proposal = keeper.propose_rebuild(LIMITS, &mut || ())?;
    keeper.run(proposal, &mut ()).map(drop)
}

fn migrate(disk: &MemoryDisk) -> Result<(), Error> {
    let mut keeper = Keeper::lock(disk, Path::new(PALACE))?;
    let to = |name| Target::Chroma(Format::named(name).expect("a format"));
    let there = keeper.propose_migration(to("1.0.20"), LIMITS, &mut || ());
    let proposal = match there {
        Err(Error::AlreadyThere { .. }) => keeper.propose_migration(to("1.5.9"), LIMITS, &mut || ())?,
        there => there?,
    };
    keeper.run(proposal, &mut ()).map(drop)
}

/// A palace that has gone on since may be refused, and is then left alone.
fn restore(disk: &MemoryDisk, number: u32) -> Result<(), Error> {
    let mut keeper = Keeper::lock(disk, Path::new(PALACE))?;
    match keeper.propose_restore(number, &mut || ()) {
        Ok(restoration) => keeper.run(restoration.proposal, &mut ()).map(drop),
        Err(Error::Unrestorable { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn sweep(disk: &MemoryDisk, newest: usize) -> Result<(), Error> {
    let Some(mut sweeper) = Sweeper::lock(disk, Path::new(PALACE))? else { return Ok(()) };
    sweeper.recover(&mut ())?;
    let choice = Choice::AllBut { newest };
    let candidates = keeper::plan_sweep(disk, Path::new(PALACE), &choice, Consent::Copies)?;
    let agreed: Vec<u32> = candidates.iter().filter(|one| one.goes()).map(|one| one.operation.number).collect();
    sweeper.sweep(&choice, Consent::Copies, &agreed).map(drop)
}

/// An acknowledged write, as chromadb leaves it: a row of the queue.
fn write(tag: u8) -> rusqlite::Result<()> {
    let database = rusqlite::Connection::open(Path::new(PALACE).join("chroma.sqlite3"))?;
    let (collection, dimension): (String, u32) = database.query_row(
        "SELECT id, dimension FROM collections WHERE dimension IS NOT NULL ORDER BY name LIMIT 1",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let vector: Vec<u8> = (0..dimension).flat_map(|at| (1.0 + f32::from(tag) + at as f32).to_le_bytes()).collect();
    let topic = "SELECT DISTINCT topic FROM embeddings_queue WHERE topic LIKE '%' || ?1";
    let topic: String = database
        .query_row(topic, [&collection], |row| row.get(0))
        .unwrap_or_else(|_| format!("persistent://default/default/{collection}"));
    database.execute(
        "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)
         VALUES (2, ?1, 'written-' || ?2, ?3, 'FLOAT32', '{\"tag\":' || ?2 || '}')",
        rusqlite::params![topic, tag, vector],
    )?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if is_exhaustive() { 2_000 } else { 40 },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/machine.regressions"))),
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    })]

    /// I8, I9, I11, I12, I13: whatever was done, in whatever order, and however often it was cut short.
    #[test]
    fn palace_holds_what_the_model_says(actions in prop::collection::vec(action(), 1..7)) {
        let mut machine = Machine::new();
        for action in &actions {
            machine.run(action);
            machine.check(action);
        }
    }
}
