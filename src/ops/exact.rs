//! Plans a migration of a Chroma store to a `sqlite_exact` one: every record is copied, in its order, and compared.
//!
//! MemPalace refuses a palace that holds both databases, so the swap is as short as that of a rebuild: the new one is
//! placed, the old one goes, and between the two there is only one way.

use super::files::StoreFiles;
use super::parts::{self, Swap};
use super::step::Step;
use super::{AnnexRoom, Planned};
use crate::engine::Plan;
use crate::store::chroma::{ExpectedCollection, Preparation, Survey};
use crate::store::exact;
use crate::tree::{self, Annex};

/// Name of the format, as people know it.
pub const EXACT: &str = "exact";

/// Makes the plan.
pub fn plan(preparation: Preparation, annex: Option<Annex>, files: &StoreFiles, survey: &Survey) -> Planned {
    let bytes: u64 = survey.collections.iter().map(|one| one.totals.row_bytes + one.totals.vector_bytes).sum();
    let expected = survey.collections.iter().map(|one| ExpectedCollection::from(one.totals)).collect();
    let scratch = parts::bytes_of_scratch(files, &preparation);
    let built = 3 * bytes; // documents stand in their rows, and in the index over their words
    let mut steps = parts::create_staging(annex.as_ref());
    steps.push(parts::backup(files, files.segments.iter()));
    steps.push(Step::Exact(exact::Step::CreateStore { preparation }));
    steps.extend(survey.batches.iter().map(|batch| Step::Exact(exact::Step::UpsertBatch(batch.clone()))));
    steps.extend(parts::bring(annex.as_ref(), [(exact::DATABASE, bytes)].into_iter()));
    steps.push(parts::tree(tree::Step::Sync { target: parts::staged(exact::DATABASE) })); // see `parts::prove`
    steps.push(Step::Exact(exact::Step::Verify { expected, bytes }));
    let replaced = files.segments.iter().collect();
    let swap = Swap { database: exact::DATABASE, segments: Vec::new(), old: Some(files), replaced };
    let pivot = swap.commit(&mut steps);
    let room = AnnexRoom { needed: scratch + built + parts::SLACK_BYTES, spared: scratch };
    let room = annex.is_some().then_some(room);
    steps.extend(parts::delete_annex(annex));
    let backup = files.segments.iter().map(|entry| entry.bytes).sum::<u64>() + parts::bytes_of_old(files);
    Planned {
        plan: Plan { steps, pivot },
        bytes_needed: backup + scratch + built + parts::SLACK_BYTES,
        annex: room,
        target: EXACT.to_owned(),
        collections: survey.collections.iter().map(|one| (one.collection.name.clone(), None)).collect(),
        losses: survey.losses.clone(),
    }
}
