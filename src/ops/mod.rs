//! Planners: what was found and what is wanted, made into a plan of steps.

pub mod amend;
pub mod exact;
mod files;
mod parts;
pub mod rebuild;
pub mod restore;
mod step;

pub use files::{StoreFiles, Unfit};
pub use step::{Step, World, annex_of};

use crate::engine::Plan;
use crate::store::chroma::{Blueprint, Loss, Route};

/// A plan, and what a person wants to know before saying yes to it.
pub struct Planned {
    /// The plan.
    pub plan: Plan<Step>,
    /// Bytes that must be free where the keep is, if all is done there.
    pub bytes_needed: u64,
    /// What changes about that with an annex; `None` where the plan has none.
    pub annex: Option<AnnexRoom>,
    /// What the new store is written as.
    pub target: String,
    /// The collections of the new store by name, each with the way its vectors take; none where there is no index.
    pub collections: Vec<(String, Option<Route>)>,
    /// What the old store had and the new one has not.
    pub losses: Vec<Loss>,
}

impl Planned {
    /// A plan without an annex, whose new store is that of a blueprint.
    fn of(plan: Plan<Step>, bytes_needed: u64, blueprint: Blueprint, losses: Vec<Loss>) -> Planned {
        let target = blueprint.format;
        let collections = blueprint.collections.into_iter().map(|new| (new.name, Some(new.route))).collect();
        Planned { plan, bytes_needed, annex: None, target, collections, losses }
    }

    /// The same, where so many bytes more are needed to read the old store.
    pub fn taking_in(self, bytes: u64) -> Planned {
        let more = |AnnexRoom { needed, spared }| AnnexRoom { needed: needed + bytes, spared: spared + bytes };
        Planned { bytes_needed: self.bytes_needed + bytes, annex: self.annex.map(more), ..self }
    }
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
    /// The lines of an import.
    pub(crate) const INPUT: &str = "input.jsonl";
    /// The records of another kind of store, to be read like a palace.
    pub(crate) const INTAKE: &str = "intake";
    /// The old state after it was replaced.
    pub(crate) const ASIDE: &str = "aside";
}
