//! How large a walk is, and what it met where.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// How the machine or the process goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// The process is killed; the machine lives on.
    Kill,
    /// The power goes, and nothing gets through that was not synced.
    Power,
    /// The power goes, and some of it gets through: kept, dropped, torn or garbled, change by change.
    Torn,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cut::Kill => "kill",
            Cut::Power => "power cut",
            Cut::Torn => "torn",
        })
    }
}

/// How often what followed ended in which palace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub old: u64,
    pub new: u64,
    /// A resumption that was not possible, and was answered with a recovery.
    pub refused: u64,
}

impl Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        let Tally { old, new, refused } = other;
        Tally { old: self.old + old, new: self.new + new, refused: self.refused + refused }
    }
}

/// How much of a walk is made; what is left out is chosen by the seeds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'s> {
    /// Fates for moments with so much pending that not all fates are tried, and what chooses moments.
    pub seeds: &'s [u64],
    /// Crashes in a row, beyond which nothing is followed.
    pub generations_max: usize,
    /// Moments at which one run crashes in steps of one kind.
    pub moments_max: usize,
    /// States that are left after so many crashes in a row, beyond the first.
    pub states_max: usize,
}

/// How large the walk was.
#[derive(Default)]
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
    /// States that were not left, because too many crashes had led there already, and moments that were not chosen.
    pub left_out: u64,
    /// What was met in which kind of step, after which kind of crash.
    pub cells: BTreeMap<(String, Cut), Tally>,
    /// These steps, in the order in which they were first met.
    pub steps: Vec<String>,
    /// The runs that took longest, with the way to them.
    pub slowest: Vec<(Duration, String)>,
}

/// Runs that are remembered for having taken long.
const SLOWEST: usize = 5;

impl Walk {
    /// Notes what was met.
    pub fn add(&mut self, step: &str, cut: Cut, met: Tally) {
        if !self.steps.iter().any(|known| known == step) {
            self.steps.push(step.to_owned());
        }
        let tally = self.cells.entry((step.to_owned(), cut)).or_default();
        *tally = *tally + met;
    }

    /// All that was met.
    pub fn total(&self) -> Tally {
        self.cells.values().fold(Tally::default(), |all, one| all + *one)
    }

    pub fn took(&mut self, time: Duration, trace: impl FnOnce() -> String) {
        if self.slowest.len() < SLOWEST || self.slowest.last().is_some_and(|(least, _)| time > *least) {
            self.slowest.push((time, trace()));
            self.slowest.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
            self.slowest.truncate(SLOWEST);
        }
    }
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Walk { moments, images, states, runs, generations, ended_old, ended_new, left_out, .. } = self;
        write!(
            f,
            "{moments} moments, {images} crash images, {states} states, {runs} runs, {generations} generations; \
             {ended_old} ended old, {ended_new} ended new, {left_out} left out"
        )
    }
}
