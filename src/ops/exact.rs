//! Plans a migration of a Chroma store to a `sqlite_exact` one: every record is copied, in its order, and compared.
//!
//! MemPalace refuses a palace that holds both databases, so the swap is as short as that of a rebuild: the new one is
//! placed, the old one goes, and between the two there is only one way.

use super::Planned;
use super::files::StoreFiles;
use super::parts::{self, Swap};
use super::step::Step;
use crate::engine::Plan;
use crate::store::chroma::{ExpectedCollection, Preparation, Survey};
use crate::store::exact;
use crate::tree;

/// Name of the format, as people know it.
pub const EXACT: &str = "exact";

/// Makes the plan.
pub fn plan(preparation: Preparation, files: &StoreFiles, survey: &Survey) -> Planned {
    let bytes: u64 = survey.collections.iter().map(|one| one.totals.row_bytes + one.totals.vector_bytes).sum();
    let expected = survey.collections.iter().map(|one| ExpectedCollection::from(one.totals)).collect();
    let room = parts::bytes_of_old(files, &preparation);
    let mut steps = vec![parts::create_staging(), parts::backup(files, files.segments.iter())];
    steps.push(Step::Exact(exact::Step::CreateStore { preparation }));
    steps.extend(survey.batches.iter().map(|batch| Step::Exact(exact::Step::UpsertBatch(batch.clone()))));
    steps.push(Step::Exact(exact::Step::Verify { expected, bytes }));
    steps.push(parts::tree(tree::Step::Sync { target: parts::staged(exact::DATABASE) }));
    let replaced = files.segments.iter().collect();
    let swap = Swap { database: exact::DATABASE, segments: Vec::new(), old: Some(files), replaced };
    let pivot = swap.commit(&mut steps);
    let backup: u64 = files.segments.iter().map(|entry| entry.bytes).sum();
    Planned {
        plan: Plan { steps, pivot },
        // Documents stand twice in the new database: in their rows, and in the index over their words.
        bytes_needed: backup + room + 3 * bytes,
        target: EXACT.to_owned(),
        collections: survey.collections.iter().map(|one| (one.collection.name.clone(), None)).collect(),
        losses: survey.losses.clone(),
    }
}
