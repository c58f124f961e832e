//! Walks through every state that crashes can leave an operation in, until no new one turns up.
//!
//! From a state a recovery, a resumption and an abort are run, each of them crashes at each of its events with each
//! fate of what was not synced, and what is left is a state again. States are told apart by their fingerprints, so the
//! walk ends; when it does, crashes of recoveries have been followed to *any* generation (invariant I12). Where that
//! would take too long, [`Bounds`] choose by a seed.

mod course;
mod walk;

pub use course::{Act, Course, FOLDER, Image, PALACE, Planned, Scene, Stand, UNBORN, begin, entry};
pub use walk::{Bounds, Cut, Tally, Walk};

use super::memory::{Fate, MemoryDisk};
use palacekeeper::engine::Outcome;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Instant;

/// A crash image, and how one gets there: this line is all it takes to come here again.
struct State {
    disk: MemoryDisk,
    trace: Vec<String>,
    cut: Cut,
}

pub struct Explorer<C: Course> {
    course: C,
    era: u64,
    pub old: Image,
    pub new: Image,
    seen: HashSet<u64>,
    seen_moments: HashSet<u64>,
    queue: VecDeque<State>,
    pub walk: Walk,
}

impl<'s, C: Scene> Explorer<Planned<'s, C>> {
    /// Walks through what the engine alone does with a plan.
    pub fn new(scene: &'s C) -> Explorer<Planned<'s, C>> {
        Explorer::of(Planned::new(scene))
    }
}

impl<C: Course> Explorer<C> {
    /// Runs the operation once, undisturbed, to know where it leads.
    pub fn of(course: C) -> Explorer<C> {
        let disk = course.disk();
        let (era, old) = (disk.now(), disk.image(PALACE));
        let outcome = course.begin(&disk);
        assert!(matches!(outcome, Ok(Outcome::Completed)), "the undisturbed run: {outcome:?}");
        let new = disk.crash(Fate::POWER_CUT).image(PALACE);
        assert_eq!(new, disk.image(PALACE), "what the steps did was not durable when they returned");
        let (seen, seen_moments) = (HashSet::new(), HashSet::new());
        Explorer { course, era, old, new, seen, seen_moments, queue: VecDeque::new(), walk: Walk::default() }
    }

    /// Walks from the undisturbed run to every state that this many crashes in a row can lead to.
    pub fn explore(self, seeds: &[u64], generations_max: usize) -> Walk {
        self.explore_within(Bounds { seeds, generations_max, moments_max: usize::MAX })
    }

    /// Walks as far as the bounds allow.
    pub fn explore_within(mut self, bounds: Bounds) -> Walk {
        let disk = self.course.disk().with_history();
        self.course.begin(&disk).expect("nothing disturbs it");
        self.walk.runs += 1;
        self.crash_everywhere(&disk, &["run".to_owned()], "", bounds);
        while let Some(state) = self.queue.pop_front() {
            match state.trace.len() - 1 > bounds.generations_max {
                true => self.walk.left_out += 1,
                false => self.leave(&state, bounds),
            }
        }
        self.walk
    }

    /// Does what the next process would do.
    pub fn act(&self, act: Act, disk: &MemoryDisk) -> Result<Outcome, C::Error> {
        self.course.act(act, disk)
    }

    fn crash_everywhere(&mut self, disk: &MemoryDisk, trace: &[String], act: &str, bounds: Bounds) {
        let history = disk.history();
        for event in self.chosen(&history, bounds) {
            let moment = &history[event];
            self.walk.moments += 1;
            let kill = || format!("{act} kill at event {event}");
            self.visit(moment.kill(), Cut::Kill, || trace.iter().cloned().chain([kill()]).collect());
            for fate in moment.fates(bounds.seeds) {
                let crash = || format!("{act} crash at event {event} with fate {}", fate.0);
                let cut = if fate == Fate::POWER_CUT { Cut::PowerCut } else { Cut::Torn };
                self.visit(moment.crash(fate), cut, || trace.iter().cloned().chain([crash()]).collect());
            }
        }
    }

    /// The moments at which it crashes: those that nobody has seen, of each kind of step no more than are wanted.
    fn chosen(&mut self, history: &[MemoryDisk], bounds: Bounds) -> Vec<usize> {
        let mut unseen: Vec<usize> = (0..history.len()).collect();
        unseen.retain(|event| self.seen_moments.insert(history[*event].fingerprint(self.era)));
        if unseen.len() <= bounds.moments_max {
            return unseen;
        }
        let mut by_step = BTreeMap::<String, Vec<usize>>::new();
        for event in unseen {
            // What a killed process would find says which step it was in.
            let step = match self.course.stand(&history[event].kill()) {
                Stand::Unborn => "unborn".into(),
                Stand::Interrupted { step, .. } => step,
                Stand::Ended(_) => "ended".into(),
            };
            by_step.entry(step).or_default().push(event);
        }
        let mut chosen = Vec::new();
        for mut events in by_step.into_values() {
            // A hash of the seed and the event is as good as a shuffle, and the same for a replay.
            let rank = |event: &usize| blake3::hash(format!("{:?} {event}", bounds.seeds).as_bytes()).to_hex();
            events.sort_by_cached_key(rank);
            self.walk.left_out += events.len().saturating_sub(bounds.moments_max) as u64;
            chosen.extend(events.into_iter().take(bounds.moments_max));
        }
        chosen.sort_unstable();
        chosen
    }

    fn visit(&mut self, disk: MemoryDisk, cut: Cut, trace: impl FnOnce() -> Vec<String>) {
        self.walk.images += 1;
        if self.seen.insert(disk.fingerprint(self.era)) {
            let trace = trace();
            self.walk.states += 1;
            self.walk.generations = self.walk.generations.max(trace.len() - 1);
            self.course.check(&disk);
            self.queue.push_back(State { disk, trace, cut });
        }
    }

    /// All ways on from a state.
    fn leave(&mut self, state: &State, bounds: Bounds) {
        let trace = state.trace.join(", then ");
        match self.course.stand(&state.disk) {
            Stand::Unborn => {
                self.check_unborn(&state.disk, &trace);
                self.tally("before it began", state.cut).old += 1;
            }
            Stand::Ended(outcome) => {
                self.check_ended(&state.disk, outcome, &trace);
                let tally = self.tally("after it ended", state.cut);
                *if outcome == Outcome::Completed { &mut tally.new } else { &mut tally.old } += 1;
            }
            Stand::Interrupted { step, is_committed, is_aborted } => {
                let acts = C::ACTS.iter().filter(|act| **act != Act::Abort || !is_committed && !is_aborted);
                for &act in acts {
                    let (disk, began) = (state.disk.with_history(), Instant::now());
                    let outcome = self.act(act, &disk);
                    self.walk.took(began.elapsed(), || format!("{act:?} after {trace}"));
                    self.walk.runs += 1;
                    let met = self.judge(act, &disk, is_committed, outcome, &trace);
                    let tally = self.tally(&step, state.cut);
                    (tally.old, tally.new) = (tally.old + met.old, tally.new + met.new);
                    tally.refused += met.refused;
                    self.crash_everywhere(&disk, &state.trace, &format!("{act:?}"), bounds);
                }
            }
        }
    }

    fn tally(&mut self, step: &str, cut: Cut) -> &mut Tally {
        self.walk.cells.entry((step.to_owned(), cut)).or_default()
    }

    /// I8 and I9: exactly the old palace, or exactly the new one, and which of them the journal had said before.
    fn judge(
        &self,
        act: Act,
        disk: &MemoryDisk,
        committed: bool,
        outcome: Result<Outcome, C::Error>,
        trace: &str,
    ) -> Tally {
        let after = disk.crash(Fate::POWER_CUT);
        match (act, outcome) {
            (Act::Recover | Act::Resume, Ok(Outcome::Completed)) if committed || act == Act::Resume => {
                let found = after.image(PALACE);
                assert!(self.course.is_new(&found, &self.new), "{act:?} after {trace}: not the new palace");
                Tally { new: 1, ..Tally::default() }
            }
            (_, Ok(Outcome::RolledBack)) if !committed => {
                assert_eq!(after.image(PALACE), self.old, "{act:?} after {trace}: not the old palace");
                Tally { old: 1, ..Tally::default() }
            }
            (Act::Resume, Err(error)) if !committed && self.course.wants_recovery(&error) => {
                let outcome = self.act(Act::Recover, &after);
                let met = self.judge(Act::Recover, &after, committed, outcome, trace);
                Tally { refused: 1, ..met }
            }
            (act, outcome) => panic!("{act:?} after {trace}: {outcome:?} (committed: {committed})"),
        }
    }

    fn check_unborn(&mut self, disk: &MemoryDisk, trace: &str) {
        assert_eq!(disk.image(PALACE), self.old, "I1: never begun, and not the old palace: {trace}");
        let again = self.course.begin(disk);
        assert!(matches!(again, Ok(Outcome::Completed)), "it cannot be begun again: {again:?} after {trace}");
        self.walk.ended_old += 1;
    }

    /// I12: what has ended is left alone: not written to, at most synced.
    fn check_ended(&mut self, disk: &MemoryDisk, outcome: Outcome, trace: &str) {
        let disk = disk.fresh();
        let before = disk.image("/");
        let found = disk.image(PALACE);
        let is_right = match outcome {
            Outcome::Completed => self.course.is_new(&found, &self.new),
            Outcome::RolledBack => found == self.old,
        };
        assert!(is_right, "{outcome:?} after {trace}, and it is another palace");
        for act in [Act::Recover, Act::Resume, Act::Abort] {
            let answer = self.act(act, &disk);
            assert!(answer.is_err(), "{act:?} of an operation that has ended: {answer:?} after {trace}");
        }
        assert!(disk.image("/") == before && disk.events() <= 3, "what had ended was written to, after {trace}");
        self.course.check_ended(&disk);
        match outcome {
            Outcome::Completed => self.walk.ended_new += 1,
            Outcome::RolledBack => self.walk.ended_old += 1,
        }
    }
}
