//! Planners: what was found and what is wanted, made into a plan of steps.

pub mod amend;
mod files;
mod parts;
pub mod rebuild;
pub mod restore;
mod step;

pub use files::{StoreFiles, Unfit};
pub use step::{Step, World};

use crate::engine::Plan;
use crate::store::chroma::{Blueprint, Loss};

/// A plan, and what a person wants to know before saying yes to it.
pub struct Planned {
    /// The plan.
    pub plan: Plan<Step>,
    /// Bytes that must be free where the keep is.
    pub bytes_needed: u64,
    /// What the new store is going to be.
    pub blueprint: Blueprint,
    /// What the old store had and the new one has not.
    pub losses: Vec<Loss>,
}

/// Names inside an operation's folder.
pub(crate) mod names {
    /// What the operation was going to replace, copied before anything else.
    pub(crate) const BACKUP: &str = "backup";
    /// The new state while it is being built.
    pub(crate) const STAGING: &str = "staging";
    /// The old state after it was replaced.
    pub(crate) const ASIDE: &str = "aside";
}
