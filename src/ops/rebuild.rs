//! Plans a rebuild: a new store of the same format, made from everything that can be read of the old one.
//!
//! Until the pivot the palace only gains things that nothing names. The pivot is one rename, of the new database over
//! the old; SPEC.md, "The rebuild", draws the order of the steps and why it is this one.

use super::Planned;
use super::files::{Entry, StoreFiles};
use super::parts;
use super::step::Step;
use crate::engine::Plan;
use crate::store::chroma::{
    self, Blueprint, Collection, Format, NewCollection, Preparation, Renamed, Route, Survey, Surveyed,
};
use crate::tree::{self, Annex, Copy, Spot};

/// What is wanted.
pub struct Order {
    /// What the old store is written as.
    pub from: &'static Format,
    /// What the new store is written as.
    pub to: &'static Format,
    /// How the old store has to be read.
    pub preparation: Preparation,
    /// Codes of the findings that must not be found in the new store.
    pub mended: Vec<String>,
    /// Whether what is read is a palace, or was taken in from elsewhere first.
    pub origin: Origin,
    /// Where the new store is built, if not in the operation's folder.
    pub annex: Option<Annex>,
}

/// What the new store takes the place of.
#[derive(Clone, Copy)]
pub enum Replaced<'f> {
    /// An old one.
    Store(&'f StoreFiles),
    /// Nothing: the palace has no store yet.
    Nothing,
}

impl<'f> Replaced<'f> {
    fn files(self) -> Option<&'f StoreFiles> {
        match self {
            Replaced::Store(files) => Some(files),
            Replaced::Nothing => None,
        }
    }
}

/// Where the records come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The palace itself.
    Palace,
    /// Another kind of store, or a file: the step makes a database of chromadb's of it first. It has no index, and a
    /// queue that is nobody's.
    Intake(Step),
}

/// Makes the plan. Two plans for the same palace differ only in the new UUIDs.
pub fn plan(order: Order, replaced: Replaced, survey: &Survey) -> Planned {
    let files = replaced.files();
    let Order { from, to, preparation, mended, origin, annex } = order;
    let ids = fresh_ids(survey);
    let index = |one: &Surveyed| route(from, to, &origin, files, one);
    let collections = survey.collections.iter().zip(ids).map(|(one, id)| new_collection(from, to, index(one), one, id));
    let collections = collections.collect();
    let blueprint = Blueprint { format: to.name.clone(), preparation, collections };
    let row_bytes = survey.collections.iter().map(|one| one.totals.row_bytes).sum();

    let mut steps = parts::create_staging(annex.as_ref());
    steps.extend(files.map(|files| parts::backup(files, files.segments.iter())));
    steps.extend(parts::take_in(&origin, annex.as_ref()));
    steps.push(Step::Chroma(chroma::Step::CreateStore(blueprint.clone())));
    steps.extend(survey.batches.iter().map(|batch| Step::Chroma(chroma::Step::UpsertBatch(batch.clone()))));
    steps.extend(survey.queue.iter().map(|batch| Step::Chroma(chroma::Step::QueueBatch(*batch))));
    steps.extend(parts::sentinel(survey));
    if to.deferred().next().is_some() {
        steps.push(Step::Chroma(chroma::Step::BuildIndexes { bytes: row_bytes }));
    }
    steps.extend(files.iter().flat_map(|files| copy_segments(files, &blueprint)));
    steps.extend(parts::build_indexes(survey, &blueprint));
    steps.extend(parts::bring(annex.as_ref(), parts::built(files, survey, &blueprint)));
    parts::prove(&mut steps, survey, 0, &mended);
    let pivot = parts::Swap::of(files, &blueprint).commit(&mut steps);
    steps.extend(parts::drop_intake(&origin, annex.as_ref()));
    let room = annex.is_some().then(|| parts::annex_room(files, survey, &blueprint));
    steps.extend(parts::delete_annex(annex));
    let bytes_needed = bytes_needed(files, survey, &blueprint);
    Planned { annex: room, ..Planned::of(Plan { steps, pivot }, bytes_needed, blueprint, survey.losses.clone()) }
}

/// New ids in the order of the old ones: chromadb lists collections by id.
fn fresh_ids(survey: &Survey) -> Vec<String> {
    let mut fresh: Vec<String> = survey.collections.iter().map(|_| uuid::Uuid::new_v4().to_string()).collect();
    fresh.sort_unstable();
    let mut old: Vec<(&str, usize)> = survey.collections.iter().map(|one| &*one.collection.id).zip(0..).collect();
    old.sort_unstable();
    let mut ids = vec![String::new(); old.len()];
    for ((_, index), id) in old.into_iter().zip(fresh) {
        ids[index] = id;
    }
    ids
}

/// The way the vectors of a collection take.
fn route(from: &Format, to: &Format, origin: &Origin, files: Option<&StoreFiles>, surveyed: &Surveyed) -> Route {
    let segment = files.and_then(|files| files.segment(&surveyed.collection.vector));
    let why = match surveyed.unsound.first() {
        _ if *origin != Origin::Palace => "there is none yet".to_owned(),
        Some(why) => why.to_string(),
        None if segment.is_none() => return Route::Unpersisted,
        None if from.rewrites_index_for(to) => format!("chromadb {} does not read one of {}", to.name, from.name),
        None => return Route::Segment,
    };
    if surveyed.totals.vectors > 0 { Route::Built { why } } else { Route::Unpersisted }
}

fn new_collection(from: &Format, to: &Format, route: Route, surveyed: &Surveyed, new_id: String) -> NewCollection {
    let Collection { id, name, topic, metadata, vector, .. } = &surveyed.collection;
    let fresh = || uuid::Uuid::new_v4().to_string();
    let applied = surveyed.collection.metadata_sequence;
    // Chromadb 0.4 keeps this number with the index; later ones look for it in the database.
    let persisted = match from.has_topics() && !to.has_topics() {
        true => Some(surveyed.persisted),
        false => surveyed.collection.vector_sequence,
    };
    NewCollection {
        name: name.clone(),
        topic: Renamed { old: Some(topic.clone()), new: topic.replace(id.as_str(), &new_id) },
        id: Renamed { old: Some(id.clone()), new: new_id },
        metadata: Renamed { old: metadata.clone(), new: fresh() },
        vector: Renamed { old: vector.clone(), new: fresh() },
        metadata_sequence: Some(applied).filter(|number| *number > 0),
        vector_sequence: match route {
            Route::Built { .. } => Some(applied), // the new index holds every write that was applied
            Route::Segment => persisted.filter(|number| *number > 0),
            _ => surveyed.collection.vector_sequence.filter(|number| *number > 0 && surveyed.unsound.is_empty()),
        },
        route,
    }
}

fn copy_segments(files: &StoreFiles, blueprint: &Blueprint) -> Vec<Step> {
    let kept = copied_segments(files, blueprint);
    let steps = kept.map(|(entry, new)| {
        let (source, target) = (Spot::palace(&*entry.name), parts::staged(new));
        parts::tree(tree::Step::Copy(Copy { source, names: Vec::new(), target, bytes: entry.bytes }))
    });
    steps.collect()
}

fn copied_segments<'f>(files: &'f StoreFiles, blueprint: &'f Blueprint) -> impl Iterator<Item = (&'f Entry, &'f str)> {
    let kept = blueprint.collections.iter().filter(|new| new.route == Route::Segment);
    kept.filter_map(|new| Some((files.segment(&new.vector.old)?, &*new.vector.new)))
}

/// Backup and new store side by side.
fn bytes_needed(files: Option<&StoreFiles>, survey: &Survey, blueprint: &Blueprint) -> u64 {
    let indexes = parts::bytes_of_indexes(survey, blueprint);
    let Some(files) = files else { return indexes + 2 * parts::bytes_of_rows(survey) + parts::SLACK_BYTES };
    let backup: u64 = files.segments.iter().map(|entry| entry.bytes).sum();
    let copied: u64 = copied_segments(files, blueprint).map(|(entry, _)| entry.bytes).sum();
    backup + copied + indexes + parts::bytes_of_databases(files, blueprint)
}
