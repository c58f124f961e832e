//! Plans the smallest repair: a copy of the database is amended and takes its place, and single segments are built
//! anew.
//!
//! Rows, documents and sound segments stay as they are and where they are. The database is never amended in place: a
//! transaction that a power cut leaves half done needs the very file it was working on, and this way nobody does.

use super::Planned;
use super::files::StoreFiles;
use super::parts;
use super::step::Step;
use crate::engine::Plan;
use crate::store::chroma::{
    self, Amendment, Blueprint, Format, Loss, NewCollection, Preparation, Renamed, Route, Survey, Surveyed,
};
use crate::tree::Annex;

/// What is set right.
pub struct Order<'o> {
    /// How the old store has to be read.
    pub preparation: Preparation,
    /// What is set right in the database beside that.
    pub amendments: Vec<Amendment>,
    /// Codes of the findings that must not be found in the new store.
    pub mended: Vec<String>,
    /// Whether the segment of a collection is built anew if it is not sound.
    pub builds: &'o dyn Fn(&Surveyed) -> bool,
    /// Where the new store is built, if not in the operation's folder.
    pub annex: Option<Annex>,
}

/// Makes the plan.
pub fn plan(format: &Format, order: Order, files: &StoreFiles, survey: &Survey) -> Planned {
    let Order { preparation, amendments, mended, builds, annex } = order;
    let collections = survey.collections.iter().map(|one| amended(files, one, builds(one))).collect();
    let blueprint = Blueprint { format: format.name.clone(), preparation, collections };
    let mut steps = parts::create_staging(annex.as_ref());
    steps.push(parts::backup(files, parts::replaced(files, &blueprint)));
    steps.push(Step::Chroma(chroma::Step::Amend { blueprint: blueprint.clone(), amendments }));
    steps.extend(parts::sentinel(survey));
    steps.extend(parts::build_indexes(survey, &blueprint));
    let losses = survey.losses.iter().filter(|loss| !stays(&blueprint, loss)).cloned().collect();
    steps.extend(parts::bring(annex.as_ref(), parts::built(Some(files), survey, &blueprint)));
    parts::prove(&mut steps, survey, left(&blueprint, survey), &mended);
    let pivot = parts::Swap::of(Some(files), &blueprint).commit(&mut steps);
    let room = annex.is_some().then(|| parts::annex_room(Some(files), survey, &blueprint));
    steps.extend(parts::delete_annex(annex));
    let backup: u64 = parts::replaced(files, &blueprint).map(|entry| entry.bytes).sum();
    let bytes_needed =
        backup + parts::bytes_of_indexes(survey, &blueprint) + parts::bytes_of_databases(files, &blueprint);
    Planned { annex: room, ..Planned::of(Plan { steps, pivot }, bytes_needed, blueprint, losses) }
}

/// Things that a rebuild would leave out, and that stay where they are. Vectors are not among them: they are known from
/// the counts.
pub fn left(blueprint: &Blueprint, survey: &Survey) -> u64 {
    let is_left = |loss: &&Loss| stays(blueprint, loss) && !matches!(loss, Loss::Vector { .. });
    survey.losses.iter().filter(is_left).count() as u64
}

/// What a rebuild would leave out, and stays where it is.
fn stays(blueprint: &Blueprint, loss: &Loss) -> bool {
    // A write that is taken out of the queue takes its vector along.
    let takes_writes = blueprint.preparation.amendments.iter().any(|one| matches!(one, Amendment::SetAside { .. }));
    let is_kept = |name: &String| {
        let is_same = |new: &NewCollection| new.vector.old.as_ref() == Some(&new.vector.new);
        blueprint.collections.iter().filter(|new| new.name == *name).all(is_same)
    };
    match loss {
        Loss::Orphan { collection, .. } | Loss::Length { collection, .. } => is_kept(collection),
        Loss::Vector { collection, .. } => is_kept(collection) && !takes_writes,
        Loss::Unowned { .. } | Loss::Stranger { .. } => true,
        _ => false,
    }
}

fn amended(files: &StoreFiles, surveyed: &Surveyed, is_built: bool) -> NewCollection {
    let chroma::Collection { id, name, topic, metadata, vector, metadata_sequence, .. } = &surveyed.collection;
    let fresh = || uuid::Uuid::new_v4().to_string();
    let same = |name: &String| Renamed { old: Some(name.clone()), new: name.clone() };
    let kept = |name: &Option<String>| Renamed { old: name.clone(), new: name.clone().unwrap_or_else(fresh) };
    let route = match surveyed.unsound.first() {
        Some(why) if is_built && surveyed.totals.vectors > 0 => Route::Built { why: why.to_string() },
        Some(_) if is_built => Route::Unpersisted,
        _ if files.segment(vector).is_some() => Route::Kept,
        _ => Route::Unpersisted,
    };
    let is_new = is_built && !surveyed.unsound.is_empty();
    NewCollection {
        name: name.clone(),
        id: same(id),
        topic: same(topic),
        metadata: kept(metadata),
        vector: if is_new { Renamed { old: vector.clone(), new: fresh() } } else { kept(vector) },
        metadata_sequence: Some(*metadata_sequence).filter(|number| *number > 0),
        vector_sequence: match route {
            Route::Built { .. } => Some(*metadata_sequence), // the new index holds every write that was applied
            _ => surveyed.collection.vector_sequence.filter(|number| *number > 0 && !is_new),
        },
        route,
    }
}
