//! What is walked through: an operation, and what the next process does to it.

use crate::support::memory::MemoryDisk;
use palacekeeper::engine::{Begin, Entry, Error, Mark, Operation, Outcome, Plan, Step, read};
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::path::{Path, PathBuf};

/// Where every scene has its operation.
pub const FOLDER: &str = "/keep/0001-test";
pub const UNBORN: &str = "/keep/.unborn";
/// Where every scene has its palace.
pub const PALACE: &str = "/palace";

/// Files below the palace: contents, or `None` for a directory.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What is done to an interrupted operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Recover,
    Resume,
    Abort,
}

/// Where a disk stands.
pub enum Stand {
    /// The operation has not begun, as far as anybody can tell.
    Unborn,
    /// It has begun and not ended.
    Interrupted {
        /// The kind of step it was in.
        step: String,
        is_committed: bool,
        is_aborted: bool,
    },
    /// It has ended.
    Ended(Outcome),
}

impl Stand {
    /// By what an entry of a journal says.
    pub fn of<S: Step + Debug>(entry: &Entry<S>) -> Stand {
        let ledger = &entry.ledger;
        if let Some(outcome) = ledger.outcome() {
            return Stand::Ended(outcome);
        }
        let steps = &entry.begin.plan.steps;
        let intended = (0..steps.len()).find(|index| ledger.mark(*index) == Some(Mark::Intended));
        let step = intended.map_or_else(|| "between two steps".into(), |index| kind(&steps[index]));
        Stand::Interrupted { step, is_committed: ledger.is_committed(), is_aborted: ledger.aborted().is_some() }
    }
}

/// The variant of a step, without the floor it comes from: `Replace` of `Tree(Replace { … })`.
fn kind(step: &impl Debug) -> String {
    let text = format!("{step:?}");
    let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase());
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_name);
    let floor = words.next().unwrap_or_default();
    let inner = matches!(floor, "Tree" | "Chroma" | "Exact" | "Lines").then(|| words.next()).flatten();
    inner.unwrap_or(floor).to_owned()
}

/// An operation that can be crashed, and what a process does that comes after.
pub trait Course {
    /// Why something was not done.
    type Error: Debug + Display;
    /// What is done in each state.
    const ACTS: &'static [Act];
    /// A disk with the old palace in [`PALACE`].
    fn disk(&self) -> MemoryDisk;
    /// Begins the operation and runs it.
    fn begin(&self, disk: &MemoryDisk) -> Result<Outcome, Self::Error>;
    /// Does what the next process would do.
    fn act(&self, act: Act, disk: &MemoryDisk) -> Result<Outcome, Self::Error>;
    /// Reads the journal.
    fn stand(&self, disk: &MemoryDisk) -> Stand;
    /// Whether an answer to [`Act::Resume`] asks for a recovery instead.
    fn wants_recovery(&self, error: &Self::Error) -> bool;
    /// Whether the palace is the new one. The old one is always the same byte for byte.
    fn is_new(&self, found: &MemoryDisk, new: &MemoryDisk) -> bool {
        found.image(PALACE) == new.image(PALACE)
    }
    /// What must hold in every crash image, before anybody has recovered it.
    fn check(&self, _disk: &MemoryDisk) {}
    /// What must hold once the operation has ended.
    fn check_ended(&self, _disk: &MemoryDisk) {}
}

/// A plan to be crashed by the engine alone.
pub trait Scene {
    type Step: Step + Debug;
    /// What is done in each state.
    const ACTS: &'static [Act] = &[Act::Recover, Act::Resume];
    /// A disk with `/keep` and the old palace in `/palace`.
    fn disk(&self) -> MemoryDisk;
    /// What is going to be done to that palace.
    fn plan(&self, disk: &MemoryDisk) -> Plan<Self::Step>;
    fn world<'d>(&self, disk: &'d MemoryDisk, plan: &Plan<Self::Step>) -> <Self::Step as Step>::World<'d>;
    /// What must hold in every crash image, before anybody has recovered it.
    fn check(&self, _disk: &MemoryDisk) {}
    /// What must hold once the operation has ended.
    fn check_ended(&self, _disk: &MemoryDisk) {}
}

/// A scene with its plan.
pub struct Planned<'s, C: Scene> {
    scene: &'s C,
    plan: Plan<C::Step>,
}

impl<'s, C: Scene> Planned<'s, C> {
    pub fn new(scene: &'s C) -> Planned<'s, C> {
        Planned { scene, plan: scene.plan(&scene.disk()) }
    }
}

impl<C: Scene> Course for Planned<'_, C> {
    type Error = Error;
    const ACTS: &'static [Act] = C::ACTS;

    fn disk(&self) -> MemoryDisk {
        self.scene.disk()
    }

    fn begin(&self, disk: &MemoryDisk) -> Result<Outcome, Error> {
        begin(disk, &self.plan)?.run(&mut self.scene.world(disk, &self.plan), &mut ())
    }

    fn act(&self, act: Act, disk: &MemoryDisk) -> Result<Outcome, Error> {
        let (mut operation, _) = Operation::<C::Step>::open(disk, Path::new(FOLDER))?;
        let mut world = self.scene.world(disk, &self.plan);
        match act {
            Act::Recover => operation.recover(&mut world, &mut ()),
            Act::Resume => operation.run(&mut world, &mut ()),
            Act::Abort => operation.abort("tired of it", &mut world, &mut ()),
        }
    }

    fn stand(&self, disk: &MemoryDisk) -> Stand {
        if !disk.image("/keep").contains_key(Path::new(FOLDER)) {
            return Stand::Unborn;
        }
        Stand::of(&entry::<C::Step>(disk).unwrap_or_else(|error| panic!("I1: {error}")))
    }

    fn wants_recovery(&self, error: &Error) -> bool {
        matches!(error, Error::CannotResume | Error::Refused { .. })
    }

    fn check(&self, disk: &MemoryDisk) {
        self.scene.check(disk);
    }

    fn check_ended(&self, disk: &MemoryDisk) {
        self.scene.check_ended(disk);
    }
}

pub fn begin<'d, S: Step>(disk: &'d MemoryDisk, plan: &Plan<S>) -> Result<Operation<'d, S>, Error> {
    let begin = Begin { number: 1, title: "test".into(), began_at: 0, plan: plan.clone() };
    Operation::begin(disk, Path::new(FOLDER), Path::new(UNBORN), begin, &[])
}

pub fn entry<S: Step>(disk: &MemoryDisk) -> Result<Entry<S>, Error> {
    read(disk, &Path::new(FOLDER).join("journal"))
}
