//! Every step an operation can have: over files, or over a store.

use super::names::{INPUT, INTAKE, STAGING};
use crate::disk::Disk;
use crate::engine::{self, Observed, Plan, StepError};
use crate::store::chroma::{self, Workshop};
use crate::store::{exact, lines};
use crate::tree::{self, Roots};
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
    /// Over a `sqlite_exact` store that is being built, or read.
    Exact(exact::Step),
    /// Over the lines of an export.
    Lines(lines::Step),
}

/// What the steps of an operation work with.
pub struct World<'d> {
    roots: Roots<'d>,
    workshop: Workshop<'d>,
    exact: exact::Workshop<'d>,
    intake: PathBuf,
}

impl<'d> World<'d> {
    /// The world of an operation: its palace, its folder, and the store its plan describes.
    pub fn new(disk: &'d dyn Disk, palace: &Path, folder: &Path, plan: &Plan<Step>) -> World<'d> {
        let steps = || plan.steps.iter();
        let blueprint = steps().find_map(|step| match step {
            Step::Chroma(chroma::Step::CreateStore(blueprint) | chroma::Step::Amend { blueprint, .. }) => {
                Some(blueprint.clone())
            }
            _ => None,
        });
        let preparation = steps().find_map(|step| match step {
            Step::Exact(exact::Step::CreateStore { preparation }) => Some(preparation.clone()),
            _ => None,
        });
        let is_taken_in = steps().any(|step| matches!(step, Step::Exact(exact::Step::TakeIn { .. }) | Step::Lines(_)));
        let (staging, intake, palace) = (folder.join(STAGING), folder.join(INTAKE), palace.to_owned());
        let source = if is_taken_in { intake.clone() } else { palace.clone() };
        let blueprint = blueprint.unwrap_or_default();
        World {
            roots: Roots { disk, palace: palace.clone(), operation: folder.to_owned() },
            workshop: Workshop::new(disk, source, staging.clone(), staging.clone(), blueprint),
            exact: exact::Workshop::new(disk, palace, staging, intake.clone(), preparation.unwrap_or_default()),
            intake,
        }
    }
}

impl engine::Step for Step {
    type World<'w> = World<'w>;

    fn observe(&self, world: &mut World<'_>) -> Result<Observed, StepError> {
        match self {
            Step::Tree(step) => Ok(step.observe(&world.roots)?),
            Step::Chroma(step) => step.observe(&mut world.workshop),
            Step::Exact(step) => step.observe(&mut world.exact),
            Step::Lines(step) => step.observe(world.roots.disk, &world.intake),
        }
    }

    fn apply(&self, world: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Step::Tree(step) => Ok(step.apply(&world.roots)?),
            Step::Chroma(step) => step.apply(&mut world.workshop),
            Step::Exact(step) => step.apply(&mut world.exact),
            Step::Lines(step) => step.apply(world.roots.disk, &world.roots.operation.join(INPUT), &world.intake),
        }
    }

    fn revert(&self, world: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Step::Tree(step) => Ok(step.revert(&world.roots)?),
            Step::Chroma(step) => step.revert(&mut world.workshop),
            Step::Exact(step) => step.revert(&mut world.exact),
            Step::Lines(step) => step.revert(world.roots.disk, &world.intake),
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Step::Tree(step) => step.weight(),
            Step::Chroma(step) => step.weight(),
            Step::Exact(step) => step.weight(),
            Step::Lines(step) => step.weight(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Tree(step) => step.fmt(f),
            Step::Chroma(step) => step.fmt(f),
            Step::Exact(step) => step.fmt(f),
            Step::Lines(step) => step.fmt(f),
        }
    }
}
