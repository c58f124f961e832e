//! Every step an operation can have: over files, or over a store.

use super::names::{BACKUP, INPUT, INTAKE, STAGING};
use crate::disk::{self, Disk};
use crate::engine::{self, Observed, Plan, StepError};
use crate::store::chroma::{self, Workshop};
use crate::store::{exact, lines};
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
        let (staging, palace, annex) = (folder.join(STAGING), palace.to_owned(), annex_of(plan).cloned());
        // One whose path is not that of an annex is refused by every step before anything is done there.
        let (built, intake) = match annex.as_ref().and_then(|annex| annex.path().ok()) {
            Some(annex) => (annex.clone(), annex.join(INTAKE)),
            None => (staging.clone(), folder.join(INTAKE)),
        };
        let source = if is_taken_in { intake.clone() } else { palace.clone() };
        let blueprint = blueprint.unwrap_or_default();
        let workshop = Workshop::new(disk, source, built.clone(), blueprint);
        let exact = exact::Workshop::new(disk, palace.clone(), built, intake.clone(), preparation.unwrap_or_default());
        World {
            roots: Roots { disk, palace, operation: folder.to_owned(), annex },
            workshop: workshop.proving_in(staging.clone()),
            exact: exact.proving_in(staging),
            intake,
        }
    }

    fn close(&mut self) {
        self.workshop.close();
        self.exact.close();
    }

    /// Makes durable whatever a killed process left in the page cache of the annex's file system, and has what was
    /// built or copied read from the medium (invariant I5). An operation that is picked up begins with this. What was
    /// set aside is not evicted: it is the palace's own, and may be nowhere but in the cache.
    pub fn settle(&self) -> disk::Result<()> {
        for made in [STAGING, INTAKE, BACKUP] {
            disk::evict_tree(self.roots.disk, &self.roots.operation.join(made))?;
        }
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

impl Step {
    /// Whoever works on a store works in the annex, if there is one. Steps over files look for themselves.
    fn check_annex(&self, world: &World<'_>) -> Result<(), tree::Error> {
        match self {
            Step::Tree(_) => Ok(()),
            Step::Chroma(_) | Step::Exact(_) | Step::Lines(_) => world.roots.check_annex(),
        }
    }
}

impl engine::Step for Step {
    type World<'w> = World<'w>;

    fn observe(&self, world: &mut World<'_>) -> Result<Observed, StepError> {
        match self.check_annex(world) {
            Err(tree::Error::NotOurs { .. }) => return Ok(Observed::Foreign),
            checked => checked?,
        }
        match self {
            Step::Tree(step) => Ok(step.observe(&world.roots)?),
            Step::Chroma(step) => step.observe(&mut world.workshop),
            Step::Exact(step) => step.observe(&mut world.exact),
            Step::Lines(step) => step.observe(world.roots.disk, &world.intake),
        }
    }

    fn apply(&self, world: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Step::Tree(_) => {}
            Step::Chroma(_) | Step::Exact(_) | Step::Lines(_) => world.roots.check_annex_for_building()?,
        }
        match self {
            Step::Tree(step) => {
                if let tree::Step::Bring { .. } = step {
                    world.close(); // a database that is open may be written to
                }
                Ok(step.apply(&world.roots)?)
            }
            Step::Chroma(step) => step.apply(&mut world.workshop),
            Step::Exact(step) => step.apply(&mut world.exact),
            Step::Lines(step) => step.apply(world.roots.disk, &world.roots.operation.join(INPUT), &world.intake),
        }
    }

    fn revert(&self, world: &mut World<'_>) -> Result<(), StepError> {
        self.check_annex(world)?;
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
