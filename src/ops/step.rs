//! Every step an operation can have: over files, or over a store.

use super::names::STAGING;
use crate::disk::Disk;
use crate::engine::{self, Observed, Plan, StepError};
use crate::store::chroma::{self, Workshop};
use crate::tree::{self, Roots};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

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
        let staging = folder.join(STAGING);
        World {
            roots: Roots { disk, palace: palace.to_owned(), operation: folder.to_owned() },
            workshop: Workshop::new(disk, palace.to_owned(), staging.clone(), staging, blueprint),
        }
    }
}

impl engine::Step for Step {
    type World<'w> = World<'w>;

    fn observe(&self, world: &mut World<'_>) -> Result<Observed, StepError> {
        match self {
            Step::Tree(step) => Ok(step.observe(&world.roots)?),
            Step::Chroma(step) => step.observe(&mut world.workshop),
        }
    }

    fn apply(&self, world: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Step::Tree(step) => Ok(step.apply(&world.roots)?),
            Step::Chroma(step) => step.apply(&mut world.workshop),
        }
    }

    fn revert(&self, world: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Step::Tree(step) => Ok(step.revert(&world.roots)?),
            Step::Chroma(step) => step.revert(&mut world.workshop),
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
