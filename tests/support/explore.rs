//! Walks through every state that crashes can leave an operation in, until no new one turns up.
//!
//! From a state a recovery, a resumption and an abort are run, each of them crashes at each of its events with each
//! fate of what was not synced, and what is left is a state again. States are told apart by their fingerprints, so the
//! walk ends; when it does, crashes of recoveries have been followed to *any* generation (invariant I12). Where that
//! would take too long, [`Bounds`] choose by a seed.

mod course;
mod trace;
mod walk;

pub use course::{Act, Course, FOLDER, Image, PALACE, Planned, Scene, Stand, UNBORN, begin, entry};
pub use trace::{Crash, Trace};
pub use walk::{Bounds, Cut, Tally, Walk};

use super::memory::{Fate, Fault, MemoryDisk};
use palacekeeper::disk::Disk;
use palacekeeper::engine::Outcome;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

/// A crash image, and how one gets there: this line is all it takes to come here again.
struct State {
    disk: MemoryDisk,
    trace: Trace,
}

pub struct Explorer<C: Course> {
    course: C,
    era: u64,
    pub old: Image,
    pub new: Image,
    new_disk: MemoryDisk,
    seen: HashSet<u64>,
    seen_moments: HashSet<u64>,
    /// States that nobody has left yet.
    queue: Vec<State>,
    /// Moments at which the power goes after a fault, while the next process is at work; the rest is left out.
    pub moments_max: usize,
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
        let new_disk = disk.crash(Fate::POWER_CUT);
        let new = new_disk.image(PALACE);
        assert_same(&new, &disk.image(PALACE), "what the steps did was not durable when they returned");
        Explorer {
            course,
            era,
            old,
            new,
            new_disk,
            seen: HashSet::new(),
            seen_moments: HashSet::new(),
            queue: Vec::new(),
            moments_max: 3,
            walk: Walk::default(),
        }
    }

    /// Walks from the undisturbed run to every state that this many crashes in a row can lead to.
    pub fn explore(self, seeds: &[u64], generations_max: usize) -> Walk {
        self.explore_within(Bounds { seeds, generations_max, moments_max: usize::MAX, states_max: usize::MAX })
    }

    /// Walks as far as the bounds allow, or along the one trace that is wanted.
    pub fn explore_within(mut self, bounds: Bounds) -> Walk {
        let disk = self.course.disk().with_history();
        self.course.begin(&disk).expect("nothing disturbs it");
        self.walk.runs += 1;
        match Trace::wanted() {
            Some(trace) => self.follow(disk, trace),
            None => self.crash_everywhere(&disk, &Trace::default(), None, bounds),
        }
        for generation in 1.. {
            let mut states = std::mem::take(&mut self.queue);
            let states_max = match generation {
                1 => usize::MAX,
                _ if generation > bounds.generations_max => 0,
                _ => bounds.states_max,
            };
            if states.len() > states_max {
                self.walk.left_out += (states.len() - states_max) as u64;
                states.sort_by_cached_key(|state| rank(bounds, &state.trace));
                states.truncate(states_max);
            }
            if states.is_empty() {
                break;
            }
            states.iter().for_each(|state| self.leave(state, bounds));
        }
        self.walk
    }

    /// Does what the next process would do.
    pub fn act(&self, act: Act, disk: &MemoryDisk) -> Result<Outcome, C::Error> {
        self.course.act(act, disk)
    }

    /// Goes where a trace leads, and looks around there.
    fn follow(&mut self, mut disk: MemoryDisk, trace: Trace) {
        for crash in &trace.0 {
            disk = self.after(disk, crash);
        }
        self.visit(disk, trace);
    }

    /// The disk after a crash of what is being done on it, or of what is done about it next.
    fn after(&self, disk: MemoryDisk, crash: &Crash) -> MemoryDisk {
        let disk = match crash.act {
            None => disk,
            Some(act) => {
                let disk = disk.with_history();
                let _cut_short = self.act(act, &disk);
                disk
            }
        };
        let history = disk.history();
        crash.image(&history[crash.event % history.len()])
    }

    /// Follows crashes one after the other, looks at every image on the way, and recovers what the last one leaves.
    pub fn check(&mut self, crashes: &[Crash]) {
        let mut disk = self.course.disk().with_history();
        self.course.begin(&disk).expect("nothing disturbs it");
        let mut trace = Trace::default();
        for crash in crashes {
            trace = trace.and(*crash);
            disk = self.after(disk, crash);
            self.course.check(&disk);
            if !matches!(self.course.stand(&disk), Stand::Interrupted { .. }) {
                break; // what comes next has nothing to do with it any more
            }
        }
        self.mend(&disk, &trace.to_string());
    }

    /// Does what the next process has to do, whatever a disk has come to, and insists on the old palace or the new.
    pub fn mend(&mut self, disk: &MemoryDisk, why: &str) -> Tally {
        let disk = disk.fresh();
        match self.course.stand(&disk) {
            Stand::Unborn => {
                self.check_unborn(&disk, why);
                Tally { old: 1, ..Tally::default() }
            }
            Stand::Ended(outcome) => {
                self.check_ended(&disk, outcome, why);
                let is_new = u64::from(outcome == Outcome::Completed);
                Tally { old: 1 - is_new, new: is_new, refused: 0 }
            }
            Stand::Interrupted { is_committed, .. } => {
                let outcome = self.act(Act::Recover, &disk);
                self.judge(Act::Recover, &disk, is_committed, outcome, why)
            }
        }
    }

    /// Events of the undisturbed run.
    pub fn events(&self) -> u32 {
        self.undisturbed().events()
    }

    /// Those of them that are syncs.
    pub fn syncs(&self) -> Vec<u32> {
        self.undisturbed().syncs()
    }

    /// Lets every sync of the run fail, one in each run, and the power go at every moment of what comes next.
    pub fn fail_syncs(&mut self) -> Tally {
        self.moments_max = usize::MAX;
        let syncs = self.syncs();
        syncs.into_iter().fold(Tally::default(), |all, sync| all + self.fail(sync, Fault::Once(ErrorKind::Other)))
    }

    fn undisturbed(&self) -> MemoryDisk {
        let disk = self.course.disk().fresh();
        self.course.begin(&disk).expect("nothing disturbs it");
        disk
    }

    /// Bytes that the undisturbed run adds to the disk at most, and a little.
    pub fn bytes(&self) -> u64 {
        let disk = self.course.disk().with_history();
        let before = disk.space(Path::new("/")).expect("the disk is sound");
        self.course.begin(&disk).expect("nothing disturbs it");
        let spaces = disk.history().into_iter().map(|moment| moment.space(Path::new("/")).expect("the disk is sound"));
        before - spaces.min().unwrap_or(before) + (9 << 20) // which a plan asks for, to be on the safe side
    }

    /// Lets a fault strike the run, and looks at what the run says, and at what is left when the machine starts anew.
    pub fn fail(&mut self, event: u32, fault: Fault) -> Tally {
        let disk = self.course.disk().with_fault(event, fault);
        let said = self.course.begin(&disk);
        let why = format!("{fault:?} at event {event}: {said:?}");
        assert!(disk.fired() > 0, "it never struck: {why}");
        self.weigh(&disk, said.ok(), &why)
    }

    /// Lets a fault strike the recovery that follows a crash of the run. `None` where nothing is left to recover, or
    /// the recovery has fewer events.
    pub fn fail_again(&mut self, crash: &Crash, event: u32, fault: Fault) -> Option<Tally> {
        let disk = self.course.disk().with_history();
        self.course.begin(&disk).expect("nothing disturbs it");
        let disk = self.after(disk, crash);
        let Stand::Interrupted { .. } = self.course.stand(&disk) else { return None };
        let disk = disk.with_fault(event, fault);
        let said = self.act(Act::Recover, &disk);
        let why = format!("{}, then {fault:?} at event {event} of the recovery: {said:?}", Trace(vec![*crash]));
        (disk.fired() > 0).then(|| self.weigh(&disk, said.ok(), &why))
    }

    /// Lets the disk have so many bytes more than it holds.
    pub fn cramp(&mut self, room: u64) -> Tally {
        let disk = self.course.disk();
        let held = u64::MAX - disk.space(Path::new("/")).expect("the disk is sound");
        disk.limit(held + room);
        let said = self.course.begin(&disk);
        let why = format!("with room for {room} bytes: {said:?}");
        let said = said.ok();
        disk.limit(u64::MAX);
        self.weigh(&disk, said, &why)
    }

    /// Whoever was told that it is done has the new palace, when the machine starts anew and when it lives on.
    fn weigh(&mut self, disk: &MemoryDisk, said: Option<Outcome>, why: &str) -> Tally {
        let mut all = Tally::default();
        for fate in [Fate::KEEP, Fate::POWER_CUT] {
            all = all + self.mend(&disk.crash(fate), why);
        }
        for act in [Act::Recover, Act::Resume] {
            all = all + self.live_on(act, disk, why);
        }
        assert!(said != Some(Outcome::Completed) || all.old == 0, "it was said to be done, and is not: {why}");
        all
    }

    /// The next process on a machine that lives on sees what a failed sync has dropped, and no sync will ever write
    /// (I5). The power goes at some moments of what it does, and after it.
    fn live_on(&mut self, act: Act, disk: &MemoryDisk, why: &str) -> Tally {
        let disk = disk.with_history();
        let said = self.act(act, &disk);
        let why = format!("{why}, then {act:?} on the same machine: {said:?}");
        let history = disk.history();
        let mut all = Tally::default();
        for moment in history.iter().rev().step_by(history.len().div_ceil(self.moments_max)) {
            all = all + self.mend(&moment.crash(Fate::POWER_CUT), &why);
        }
        let after = disk.crash(Fate::POWER_CUT);
        match (said, self.course.stand(&after)) {
            (Ok(said), Stand::Ended(outcome)) => assert_eq!(said, outcome, "{why}"),
            (Ok(_), _) => panic!("it was said to have ended, and has not: {why}"),
            (Err(_), _) => {} // nothing was interrupted, as far as it could see
        }
        all
    }

    fn crash_everywhere(&mut self, disk: &MemoryDisk, trace: &Trace, act: Option<Act>, bounds: Bounds) {
        let history = disk.history();
        for event in self.chosen(&history, bounds) {
            let moment = &history[event];
            self.walk.moments += 1;
            let fates = moment.fates(bounds.seeds);
            for fate in [None].into_iter().chain(fates.into_iter().map(Some)) {
                let crash = Crash { act, event, fate };
                self.visit(crash.image(moment), trace.and(crash));
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
            events.sort_by_cached_key(|event| rank(bounds, event));
            self.walk.left_out += events.len().saturating_sub(bounds.moments_max) as u64;
            chosen.extend(events.into_iter().take(bounds.moments_max));
        }
        chosen.sort_unstable();
        chosen
    }

    fn visit(&mut self, disk: MemoryDisk, trace: Trace) {
        self.walk.images += 1;
        if self.seen.insert(disk.fingerprint(self.era)) {
            self.walk.states += 1;
            self.walk.generations = self.walk.generations.max(trace.0.len());
            self.course.check(&disk);
            self.queue.push(State { disk, trace });
        }
    }

    /// All ways on from a state.
    fn leave(&mut self, state: &State, bounds: Bounds) {
        let (trace, cut) = (state.trace.to_string(), state.trace.0.last().map_or(Cut::Kill, Crash::cut));
        match self.course.stand(&state.disk) {
            Stand::Unborn => {
                self.check_unborn(&state.disk, &trace);
                self.walk.add("before it began", cut, Tally { old: 1, ..Tally::default() });
            }
            Stand::Ended(outcome) => {
                self.check_ended(&state.disk, outcome, &trace);
                let is_new = u64::from(outcome == Outcome::Completed);
                self.walk.add("after it ended", cut, Tally { old: 1 - is_new, new: is_new, refused: 0 });
            }
            Stand::Interrupted { step, is_committed, is_aborted } => {
                let acts = C::ACTS.iter().filter(|act| **act != Act::Abort || !is_committed && !is_aborted);
                for &act in acts {
                    let (disk, began) = (state.disk.with_history(), Instant::now());
                    let outcome = self.act(act, &disk);
                    self.walk.took(began.elapsed(), || format!("{act:?} after {trace}"));
                    self.walk.runs += 1;
                    let met = self.judge(act, &disk, is_committed, outcome, &trace);
                    self.walk.add(&step, cut, met);
                    // What crashes beyond the last generation leave is looked at where that costs little.
                    if state.trace.0.len() < bounds.generations_max || bounds.moments_max == usize::MAX {
                        self.crash_everywhere(&disk, &state.trace, Some(act), bounds);
                    }
                }
            }
        }
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
                assert!(self.course.is_new(&after, &self.new_disk), "{act:?} after {trace}: not the new palace");
                Tally { new: 1, ..Tally::default() }
            }
            (_, Ok(Outcome::RolledBack)) if !committed => {
                assert_same(&after.image(PALACE), &self.old, &format!("{act:?} after {trace}: not the old palace"));
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
        let disk = &disk.fresh();
        assert_same(&disk.image(PALACE), &self.old, &format!("I1: never begun, and not the old palace: {trace}"));
        let again = self.course.begin(disk);
        assert!(matches!(again, Ok(Outcome::Completed)), "it cannot be begun again: {again:?} after {trace}");
        self.walk.ended_old += 1;
    }

    /// I12: what has ended is left alone: not written to, at most synced.
    fn check_ended(&mut self, disk: &MemoryDisk, outcome: Outcome, trace: &str) {
        let disk = disk.fresh();
        let before = disk.image("/");
        let is_right = match outcome {
            Outcome::Completed => self.course.is_new(&disk.fresh(), &self.new_disk), // reading makes copies
            Outcome::RolledBack => disk.image(PALACE) == self.old,
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

/// What orders things as a shuffle would, and the same way for the same seeds.
fn rank(bounds: Bounds, thing: &impl Display) -> [u8; 32] {
    *blake3::hash(format!("{:?} {thing}", bounds.seeds).as_bytes()).as_bytes()
}

/// Insists that two images are equal, and names what differs.
fn assert_same(found: &Image, expected: &Image, why: &str) {
    let names = found.keys().chain(expected.keys());
    let differing: BTreeSet<_> = names.filter(|path| found.get(*path) != expected.get(*path)).collect();
    assert!(differing.is_empty(), "{why}: {differing:?}");
}
