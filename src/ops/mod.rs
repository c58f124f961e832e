//! Planners: what was found and what is wanted, made into a plan of steps.

pub mod amend;
mod files;
mod parts;
pub mod rebuild;
mod step;

pub use files::{StoreFiles, Unfit};
pub use step::{Step, World, annex_of};

use crate::engine::Plan;
use crate::store::chroma::{Blueprint, Loss};

/// A plan, and what a person wants to know before saying yes to it.
pub struct Planned {
    /// The plan.
    pub plan: Plan<Step>,
    /// Bytes that must be free where the keep is, if all is done there.
    pub bytes_needed: u64,
    /// What changes about that with an annex; `None` where the plan has none.
    pub annex: Option<AnnexRoom>,
    /// What the new store is going to be.
    pub blueprint: Blueprint,
    /// What the old store had and the new one has not.
    pub losses: Vec<Loss>,
}

/// The room that an annex takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnexRoom {
    /// Bytes that must be free where it is.
    pub needed: u64,
    /// Bytes that are not needed where the keep is, if that is another file system: what is built is brought there, but
    /// what is only needed for building is not.
    pub spared: u64,
}

/// Names inside an operation's folder.
pub(crate) mod names {
    /// What the operation was going to replace, copied before anything else.
    pub(crate) const BACKUP: &str = "backup";
    /// The new state while it is being built, or once it was brought from the annex.
    pub(crate) const STAGING: &str = "staging";
    /// The old state after it was replaced.
    pub(crate) const ASIDE: &str = "aside";
}
