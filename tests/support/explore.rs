//! Walks through every state that crashes can leave an operation in, until no new one turns up.
//!
//! From a state a recovery, a resumption and an abort are run, each of them crashes at each of its events with each
//! fate of what was not synced, and what is left is a state again. States are told apart by their fingerprints, so the
//! walk ends; when it does, crashes of recoveries have been followed to *any* generation (invariant I12).

use super::memory::{Fate, MemoryDisk};
use palacekeeper::engine::{Begin, Entry, Error, Operation, Outcome, Plan, Step, read};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

/// Where every scene has its operation.
pub const FOLDER: &str = "/keep/0001-test";
pub const UNBORN: &str = "/keep/.unborn";
/// Where every scene has its palace.
pub const PALACE: &str = "/palace";

/// Files below the palace: contents, or `None` for a directory.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// An operation to be crashed.
pub trait Scene {
    type Step: Step;
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

/// How large the walk was.
#[derive(Debug, Default)]
pub struct Walk {
    /// Moments at which something crashed.
    pub moments: u64,
    /// Crash images that were looked at: those of moments that differ.
    pub images: u64,
    /// Images that differ.
    pub states: u64,
    /// Runs, recoveries, resumptions and aborts.
    pub runs: u64,
    /// The longest chain of crashes that led to a state nobody had seen.
    pub generations: usize,
    pub ended_old: u64,
    pub ended_new: u64,
    /// States that were not left, because too many crashes had led there already.
    pub left_out: u64,
}

/// What is done to an interrupted operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Recover,
    Resume,
    Abort,
}

/// A crash image, and how one gets there: this line is all it takes to come here again.
struct State {
    disk: MemoryDisk,
    trace: Vec<String>,
}

pub struct Explorer<'s, C: Scene> {
    scene: &'s C,
    plan: Plan<C::Step>,
    era: u64,
    pub old: Image,
    pub new: Image,
    seen: HashSet<u64>,
    seen_moments: HashSet<u64>,
    queue: VecDeque<State>,
    pub walk: Walk,
}

pub fn begin<'d, S: Step>(disk: &'d MemoryDisk, plan: &Plan<S>) -> Result<Operation<'d, S>, Error> {
    let begin = Begin { number: 1, title: "test".into(), began_at: 0, plan: plan.clone() };
    Operation::begin(disk, Path::new(FOLDER), Path::new(UNBORN), begin, &[])
}

pub fn entry<S: Step>(disk: &MemoryDisk) -> Result<Entry<S>, Error> {
    read(disk, &Path::new(FOLDER).join("journal"))
}

impl<'s, C: Scene> Explorer<'s, C> {
    /// Runs the operation once, undisturbed, to know where it leads.
    pub fn new(scene: &'s C) -> Explorer<'s, C> {
        let disk = scene.disk();
        let (plan, era, old) = (scene.plan(&disk), disk.now(), disk.image(PALACE));
        let outcome = begin(&disk, &plan).and_then(|mut one| one.run(&mut scene.world(&disk, &plan), &mut ()));
        assert!(matches!(outcome, Ok(Outcome::Completed)), "the undisturbed run: {outcome:?}");
        let new = disk.crash(Fate::POWER_CUT).image(PALACE);
        assert_eq!(new, disk.image(PALACE), "what the steps did was not durable when they returned");
        let (seen, seen_moments) = (HashSet::new(), HashSet::new());
        Explorer { scene, plan, era, old, new, seen, seen_moments, queue: VecDeque::new(), walk: Walk::default() }
    }

    /// Walks from the undisturbed run to every state that this many crashes in a row can lead to.
    pub fn explore(mut self, seeds: &[u64], generations_max: usize) -> Walk {
        let disk = self.scene.disk().with_history();
        let mut operation = begin(&disk, &self.plan).expect("nothing disturbs it");
        operation.run(&mut self.scene.world(&disk, &self.plan), &mut ()).expect("nothing disturbs it");
        self.walk.runs += 1;
        self.crash_everywhere(&disk, &["run".to_owned()], "", seeds);
        while let Some(state) = self.queue.pop_front() {
            match state.trace.len() - 1 > generations_max {
                true => self.walk.left_out += 1,
                false => self.leave(&state, seeds),
            }
        }
        self.walk
    }

    fn crash_everywhere(&mut self, disk: &MemoryDisk, trace: &[String], act: &str, seeds: &[u64]) {
        for (event, moment) in disk.history().iter().enumerate() {
            self.walk.moments += 1;
            if !self.seen_moments.insert(moment.fingerprint(self.era)) {
                continue; // the same crashes, by another way
            }
            let kill = || format!("{act} kill at event {event}");
            self.visit(moment.kill(), || trace.iter().cloned().chain([kill()]).collect());
            for fate in moment.fates(seeds) {
                let crash = || format!("{act} crash at event {event} with fate {}", fate.0);
                self.visit(moment.crash(fate), || trace.iter().cloned().chain([crash()]).collect());
            }
        }
    }

    fn visit(&mut self, disk: MemoryDisk, trace: impl FnOnce() -> Vec<String>) {
        self.walk.images += 1;
        if self.seen.insert(disk.fingerprint(self.era)) {
            let trace = trace();
            self.walk.states += 1;
            self.walk.generations = self.walk.generations.max(trace.len() - 1);
            self.scene.check(&disk);
            self.queue.push_back(State { disk, trace });
        }
    }

    /// All ways on from a state.
    fn leave(&mut self, state: &State, seeds: &[u64]) {
        let trace = state.trace.join(", then ");
        if !state.disk.image("/keep").contains_key(Path::new(FOLDER)) {
            return self.check_unborn(&state.disk, &trace);
        }
        let entry = entry::<C::Step>(&state.disk).unwrap_or_else(|error| panic!("I1: {error} after {trace}"));
        if let Some(outcome) = entry.ledger.outcome() {
            return self.check_ended(&state.disk, outcome, &trace);
        }
        let committed = entry.ledger.is_committed();
        for &act in C::ACTS {
            if act == Act::Abort && (committed || entry.ledger.aborted().is_some()) {
                continue;
            }
            let disk = state.disk.with_history();
            let outcome = self.act(act, &disk);
            self.walk.runs += 1;
            self.judge(act, &disk, committed, outcome, &trace);
            self.crash_everywhere(&disk, &state.trace, &format!("{act:?}"), seeds);
        }
    }

    /// Does what the next process would do.
    pub fn act(&self, act: Act, disk: &MemoryDisk) -> Result<Outcome, Error> {
        let (mut operation, _) = Operation::<C::Step>::open(disk, Path::new(FOLDER))?;
        let mut world = self.scene.world(disk, &self.plan);
        match act {
            Act::Recover => operation.recover(&mut world, &mut ()),
            Act::Resume => operation.run(&mut world, &mut ()),
            Act::Abort => operation.abort("tired of it", &mut world, &mut ()),
        }
    }

    /// I8 and I9: exactly the old palace, or exactly the new one, and which of them the journal had said before.
    fn judge(&self, act: Act, disk: &MemoryDisk, committed: bool, outcome: Result<Outcome, Error>, trace: &str) {
        let after = disk.crash(Fate::POWER_CUT);
        match (act, outcome) {
            (Act::Recover | Act::Resume, Ok(Outcome::Completed)) if committed || act == Act::Resume => {
                assert_eq!(after.image(PALACE), self.new, "{act:?} after {trace}: not the new palace");
            }
            (Act::Recover | Act::Abort, Ok(Outcome::RolledBack)) if !committed => {
                assert_eq!(after.image(PALACE), self.old, "{act:?} after {trace}: not the old palace");
            }
            (Act::Resume, Err(Error::CannotResume | Error::Refused { .. })) if !committed => {
                let outcome = self.act(Act::Recover, &after);
                self.judge(Act::Recover, &after, committed, outcome, trace);
            }
            (act, outcome) => panic!("{act:?} after {trace}: {outcome:?} (committed: {committed})"),
        }
    }

    fn check_unborn(&mut self, disk: &MemoryDisk, trace: &str) {
        assert_eq!(disk.image(PALACE), self.old, "I1: never begun, and not the old palace: {trace}");
        let again =
            begin(disk, &self.plan).and_then(|mut one| one.run(&mut self.scene.world(disk, &self.plan), &mut ()));
        assert!(matches!(again, Ok(Outcome::Completed)), "it cannot be begun again: {again:?} after {trace}");
        self.walk.ended_old += 1;
    }

    /// I12: what has ended is left alone: not written to, at most synced.
    fn check_ended(&mut self, disk: &MemoryDisk, outcome: Outcome, trace: &str) {
        let disk = disk.fresh();
        let before = disk.image("/");
        let expected = match outcome {
            Outcome::Completed => &self.new,
            Outcome::RolledBack => &self.old,
        };
        assert_eq!(disk.image(PALACE), *expected, "{outcome:?} after {trace}");
        for act in [Act::Recover, Act::Resume, Act::Abort] {
            let answer = self.act(act, &disk);
            assert!(answer.is_err(), "{act:?} of an operation that has ended: {answer:?} after {trace}");
        }
        assert!(disk.image("/") == before && disk.events() <= 3, "what had ended was written to, after {trace}");
        self.scene.check_ended(&disk);
        match outcome {
            Outcome::Completed => self.walk.ended_new += 1,
            Outcome::RolledBack => self.walk.ended_old += 1,
        }
    }
}
