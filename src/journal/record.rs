//! What the frames of a journal mean.
//!
//! Variants are append-only: their order is part of the format, pinned by the golden journals in `tests/golden`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The ordered steps of an operation and its point of no return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan<S> {
    /// The steps, in the order they are applied.
    pub steps: Vec<S>,
    /// Index of the first step that happens only after `Commit`; `steps.len()` where every step can be undone.
    pub pivot: u32,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The new state stands, whole.
    Completed,
    /// The old state stands, as it was.
    RolledBack,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Completed => "completed",
            Outcome::RolledBack => "rolled back",
        })
    }
}

/// One entry of the journal. Steps are named by their index in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<S> {
    /// The operation exists, with its whole plan; nothing has happened yet.
    Begin {
        /// What the operation is for, in words.
        title: String,
        /// When it began, in seconds since 1970, UTC.
        began_at: i64,
        /// Everything it is going to do.
        plan: Plan<S>,
    },
    /// The step is about to be applied.
    Intent(u32),
    /// The step has been applied.
    Done(u32),
    /// From here on there is only forward.
    Commit,
    /// The operation gave up, and why; from here on there is only back.
    Abort(String),
    /// The step has been reverted, or was found not to have happened.
    Undone(u32),
    /// Nothing is left to do.
    End(Outcome),
}
