//! Intent, effect, proof: the loop that changes the world, and that is also the recovery.
//!
//! An [`Operation`] is a [`Plan`] with a journal. Each step is written to the journal before it is carried out, so
//! that after a crash the journal and the disk together say where it stands, and [`verdict()`] says what follows. A
//! fresh run walks the plan forward; a recovery walks it forward where the operation was committed and back where it
//! was not; both are one walk, `Operation::drive`. The engine knows nothing of what a step does.

mod ledger;
mod operation;
mod verdict;

pub use crate::journal::{Outcome, Plan};
pub use ledger::{Illegal, Ledger};
pub use operation::{Begin, Contents, Enclosure, Entry, Error, Operation, read};
pub use verdict::{Direction, Mark, Observed, Verdict, verdict};

use serde::{Serialize, de::DeserializeOwned};
use std::fmt;

/// Why a step could not be observed, applied or reverted.
pub type StepError = Box<dyn std::error::Error + Send + Sync>;

/// One act, wholly data, with the world it expects. All three verbs can be repeated without harm (invariant I4).
pub trait Step: Clone + fmt::Display + Serialize + DeserializeOwned {
    /// The live handles a step works with; never persisted.
    type World<'w>;

    /// Says where the disk stands. A step of which nothing has happened is `Before`, also where earlier steps of the
    /// plan have been reverted.
    ///
    /// Before anything is undone every step is observed while all of them still stand, so no two steps before the
    /// pivot may act on the same thing. The first step behind the pivot must be `Before` while nothing of the plan
    /// has happened.
    fn observe(&self, world: &mut Self::World<'_>) -> Result<Observed, StepError>;

    /// Carries the step out, from `Before` or `Partial`.
    fn apply(&self, world: &mut Self::World<'_>) -> Result<(), StepError>;

    /// Undoes the step, from `Partial` or `After`.
    fn revert(&self, world: &mut Self::World<'_>) -> Result<(), StepError>;

    /// How much work the step is, in bytes, for progress and ETA.
    fn weight(&self) -> u64;
}

/// Somebody who watches an operation, and may ask it to stop.
pub trait Watch {
    /// A step is about to be judged: its index, all steps of the plan, and what it is.
    fn step(&mut self, _direction: Direction, _index: usize, _title: &dyn fmt::Display) {}

    /// A step is behind us, whose weight was this.
    fn passed(&mut self, _weight: u64) {}

    /// Whether to stop at the next step. Past `Commit` nobody is asked.
    fn wants_stop(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl Watch for () {}
