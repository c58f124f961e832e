//! Planners: what was found and what is wanted, made into a plan of steps.

pub mod rebuild;
mod step;

pub use step::{Step, World};

/// Names inside an operation's folder.
pub(crate) mod names {
    /// What the operation was going to replace, copied before anything else.
    pub(crate) const BACKUP: &str = "backup";
    /// The new state while it is being built.
    pub(crate) const STAGING: &str = "staging";
    /// The old state after it was replaced.
    pub(crate) const ASIDE: &str = "aside";
}
