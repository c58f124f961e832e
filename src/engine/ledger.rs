//! What the records of a journal add up to: a pure fold, with an error for an order that no run can produce.

use super::verdict::{Direction, Mark};
use crate::journal::{Outcome, Plan, Record};

/// Where an operation stands, by its journal alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    pivot: usize,
    marks: Vec<Mark>,
    committed: bool,
    aborted: Option<String>,
    outcome: Option<Outcome>,
}

/// A record that cannot follow the records before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {record} is out of order: {why}")]
pub struct Illegal {
    /// The record, printed.
    pub record: String,
    /// What forbids it.
    pub why: &'static str,
}

impl Ledger {
    /// The ledger of a plan of which nothing has happened.
    pub fn new<S>(plan: &Plan<S>) -> Ledger {
        let marks = vec![Mark::Untouched; plan.steps.len()];
        Ledger { pivot: plan.pivot as usize, marks, committed: false, aborted: None, outcome: None }
    }

    /// Takes one more record in.
    ///
    /// # Errors
    /// [`Illegal`], and the ledger is as it was.
    pub fn note<S>(&mut self, record: &Record<S>) -> Result<(), Illegal> {
        let illegal = |why| Err(Illegal { record: name(record), why });
        if self.outcome.is_some() {
            return illegal("the operation has ended");
        }
        match record {
            Record::Begin { .. } => return illegal("the operation has begun"),
            Record::Intent(step) => {
                if let Err(why) = self.may_intend(*step as usize) {
                    return illegal(why);
                }
                self.marks[*step as usize] = Mark::Intended;
            }
            Record::Done(step) => match self.mark(*step as usize) {
                Some(Mark::Intended) => self.marks[*step as usize] = Mark::Done,
                _ => return illegal("the step was not intended"),
            },
            Record::Commit if self.committed => return illegal("it is committed already"),
            Record::Commit if self.aborted.is_some() => return illegal("it was aborted"),
            Record::Commit if self.marks[..self.pivot].iter().any(|mark| *mark != Mark::Done) => {
                return illegal("a step before the pivot is not done");
            }
            Record::Commit => self.committed = true,
            Record::Abort(_) if self.committed => return illegal("it is committed"),
            Record::Abort(why) => self.aborted = Some(why.clone()),
            Record::Undone(_) if self.committed => return illegal("it is committed"),
            Record::Undone(step) => match self.mark(*step as usize) {
                Some(Mark::Intended | Mark::Done) => self.marks[*step as usize] = Mark::Undone,
                _ => return illegal("the step never happened"),
            },
            Record::End(outcome) => match self.may_end(*outcome) {
                true => self.outcome = Some(*outcome),
                false => return illegal("steps are still open"),
            },
        }
        Ok(())
    }

    /// Invariant I3: steps are intended in order, one at a time, and past the pivot only after `Commit`.
    fn may_intend(&self, step: usize) -> Result<(), &'static str> {
        match () {
            () if self.aborted.is_some() => Err("the operation was aborted"),
            () if self.mark(step) != Some(Mark::Untouched) => Err("the step is not untouched"),
            () if self.marks[..step].iter().any(|mark| *mark != Mark::Done) => Err("an earlier step is not done"),
            () if (step >= self.pivot) != self.committed => Err("the commit stands on the wrong side of it"),
            () => Ok(()),
        }
    }

    fn may_end(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Completed => self.committed && self.marks.iter().all(|mark| *mark == Mark::Done),
            Outcome::RolledBack => {
                !self.committed && self.marks.iter().all(|mark| matches!(mark, Mark::Untouched | Mark::Undone))
            }
        }
    }

    /// Where a step stands; `None` past the end of the plan.
    pub fn mark(&self, step: usize) -> Option<Mark> {
        self.marks.get(step).copied()
    }

    /// Steps that are done.
    pub fn done(&self) -> usize {
        self.marks.iter().filter(|mark| **mark == Mark::Done).count()
    }

    /// Which way a recovery goes.
    pub fn direction(&self) -> Direction {
        match self.committed {
            true => Direction::Forward,
            false => Direction::Back,
        }
    }

    /// Steps in the order of a walk. Going back starts at the first step that no record names: nothing later can have
    /// happened, and that one only if the end of the journal was lost.
    pub fn walk(&self, direction: Direction) -> Vec<usize> {
        let all = self.marks.len();
        let untouched = self.marks.iter().position(|mark| *mark == Mark::Untouched);
        match direction {
            Direction::Forward => (0..all).collect(),
            Direction::Back => (0..untouched.map_or(all, |index| index + 1)).rev().collect(),
        }
    }

    /// Whether the point of no return has been passed.
    pub fn is_committed(&self) -> bool {
        self.committed
    }

    /// Whether going forward is still allowed: nothing has been aborted or undone.
    pub fn may_go_forward(&self) -> bool {
        self.aborted.is_none() && !self.marks.contains(&Mark::Undone)
    }

    /// Why the operation gave up, if it did.
    pub fn aborted(&self) -> Option<&str> {
        self.aborted.as_deref()
    }

    /// How the operation ended; `None` while it has not.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}

fn name<S>(record: &Record<S>) -> String {
    match record {
        Record::Begin { .. } => "Begin".into(),
        Record::Intent(step) => format!("Intent({step})"),
        Record::Done(step) => format!("Done({step})"),
        Record::Commit => "Commit".into(),
        Record::Abort(_) => "Abort".into(),
        Record::Undone(step) => format!("Undone({step})"),
        Record::End(outcome) => format!("End({outcome:?})"),
    }
}
