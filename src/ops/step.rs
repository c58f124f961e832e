//! Every step an operation can have: over files, or over a store.

use super::names::STAGING;
use crate::disk::{self, Disk};
use crate::engine::{self, Observed, Plan, StepError};
use crate::store::chroma::{self, Workshop};
use crate::tree::{self, Annex, Roots};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// One step of a plan, as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Over files and directories.
    Tree(tree::Step),
    /// Over a Chroma store that is being built.
    Chroma(chroma::Step),
}

/// What the steps of an operation work with.
pub struct World<'d> {
    roots: Roots<'d>,
    workshop: Workshop<'d>,
}

impl<'d> World<'d> {
    /// The world of an operation: its palace, its folder, and the store its plan describes.
    pub fn new(disk: &'d dyn Disk, palace: &Path, folder: &Path, plan: &Plan<Step>) -> World<'d> {
        let blueprint = plan.steps.iter().find_map(|step| match step {
            Step::Chroma(chroma::Step::CreateStore(blueprint) | chroma::Step::Amend { blueprint, .. }) => {
                Some(blueprint.clone())
            }
            _ => None,
        });
        let blueprint = blueprint.unwrap_or_default();
        let annex = annex_of(plan).cloned();
        let staging = folder.join(STAGING);
        // One whose path is not that of an annex is refused by every step before anything is done there.
        let built = annex.as_ref().and_then(|annex| annex.path().ok()).unwrap_or_else(|| staging.clone());
        let workshop = Workshop::new(disk, palace.to_owned(), built.clone(), built, blueprint);
        World {
            roots: Roots { disk, palace: palace.to_owned(), operation: folder.to_owned(), annex },
            workshop: workshop.proving_in(staging),
        }
    }

    /// Makes durable whatever a killed process left in the page cache of the annex's file system. An operation that is
    /// picked up begins with this.
    pub fn settle(&self) -> disk::Result<()> {
        match self.roots.settle_annex() {
            Err(tree::Error::Disk(error)) => Err(error),
            _ => Ok(()), // a plan whose annex cannot be believed is refused by its steps
        }
    }

    /// The annex, where its file system is not here, so that nobody knows whether it is gone.
    pub fn annex_out_of_reach(&self) -> Option<PathBuf> {
        let annex = self.roots.annex.as_ref()?;
        let is_out_of_reach = annex.is_out_of_reach(&self.roots).unwrap_or(true);
        annex.path().ok().filter(|_| is_out_of_reach)
    }
}

/// The annex of a plan, if it has one.
pub fn annex_of(plan: &Plan<Step>) -> Option<&Annex> {
    plan.steps.iter().find_map(|step| match step {
        Step::Tree(tree::Step::CreateAnnex(annex)) => Some(annex),
        _ => None,
    })
}

impl engine::Step for Step {
    type World<'w> = World<'w>;

    fn observe(&self, world: &mut World<'_>) -> Result<Observed, StepError> {
        match self {
            Step::Tree(step) => Ok(step.observe(&world.roots)?),
            Step::Chroma(step) => match world.roots.check_annex() {
                Err(tree::Error::NotOurs { .. }) => Ok(Observed::Foreign),
                checked => checked.map_err(StepError::from).and_then(|()| step.observe(&mut world.workshop)),
            },
        }
    }

    fn apply(&self, world: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Step::Tree(step) => {
                if let tree::Step::Bring { .. } = step {
                    world.workshop.close(); // a database that is open may be written to
                }
                Ok(step.apply(&world.roots)?)
            }
            Step::Chroma(step) => {
                world.roots.check_annex()?;
                step.apply(&mut world.workshop)
            }
        }
    }

    fn revert(&self, world: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Step::Tree(step) => Ok(step.revert(&world.roots)?),
            Step::Chroma(step) => {
                world.roots.check_annex()?;
                step.revert(&mut world.workshop)
            }
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Step::Tree(step) => step.weight(),
            Step::Chroma(step) => step.weight(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Tree(step) => step.fmt(f),
            Step::Chroma(step) => step.fmt(f),
        }
    }
}
