//! Parts that every plan over a Chroma store is made of: the backup, the indexes, the proof, and the swap.

use super::AnnexRoom;
use super::files::{Entry, StoreFiles};
use super::names::{ASIDE, BACKUP, INPUT, INTAKE, STAGING};
use super::rebuild::Origin;
use super::step::Step;
use crate::store::chroma::{
    self, Blueprint, DATABASE, Expected, ExpectedCollection, NewCollection, Preparation, Renamed, Route, Survey,
    Surveyed,
};
use crate::tree::{self, Annex, Copy, Need, Spot};

/// Room for what is not counted: directories, the journal, SQLite's rollback journal.
pub(super) const SLACK_BYTES: u64 = 8 << 20;

/// A copy of the database, which comes first, its siblings and some of its segments.
pub(super) fn backup<'f>(files: &'f StoreFiles, segments: impl Iterator<Item = &'f Entry>) -> Step {
    let entries = [&files.database].into_iter().chain(&files.siblings).chain(segments);
    let (names, bytes): (Vec<_>, Vec<_>) = entries.map(|entry| (entry.name.clone(), entry.bytes)).unzip();
    let (source, target) = (Spot::palace(""), Spot::operation(BACKUP));
    tree(tree::Step::Backup(Copy { source, names, target, bytes: bytes.iter().sum() }))
}

/// Needed only where the old palace was in the state that rule R2 describes.
pub(super) fn sentinel(survey: &Survey) -> Option<Step> {
    if survey.queue_max >= survey.sequence_max {
        return None;
    }
    let highest = |one: &chroma::Surveyed| one.collection.metadata_sequence.max(one.persisted);
    let collection = survey.collections.iter().position(|one| highest(one) == survey.sequence_max)?;
    Some(Step::Chroma(chroma::Step::Sentinel { collection: collection as u32, sequence: survey.sequence_max }))
}

/// Builds the segments that are not taken over.
pub(super) fn build_indexes(survey: &Survey, blueprint: &Blueprint) -> Vec<Step> {
    let built = survey.collections.iter().zip(&blueprint.collections).zip(0..);
    let built = built.filter(|((_, new), _)| matches!(new.route, Route::Built { .. }));
    let steps = built.map(|((one, _), collection)| {
        let (vectors, bytes) = (one.totals.vectors, one.totals.vector_bytes);
        Step::Chroma(chroma::Step::BuildIndex { collection, vectors, bytes })
    });
    steps.collect()
}

/// The sync that makes the database durable, and then the proof. `left` things stay in the new store that no plan
/// carries over by itself; `mended` are the codes that must not be found in it again.
pub(super) fn prove(steps: &mut Vec<Step>, survey: &Survey, left: u64, mended: &[String]) {
    let expected = Expected {
        collections: survey.collections.iter().map(|one| ExpectedCollection::from(one.totals)).collect(),
        unowned: ExpectedCollection::from(survey.unowned),
        bytes: survey.collections.iter().map(|one| one.totals.row_bytes + one.totals.vector_bytes).sum(),
        left,
        mended: mended.to_vec(),
    };
    // What was proved stays proved: over a power cut, a database that had not been synced before would be another one.
    steps.push(tree(tree::Step::Sync { target: staged(DATABASE) }));
    steps.push(Step::Chroma(chroma::Step::Verify(expected)));
}

/// One store takes the place of another.
pub(super) struct Swap<'s> {
    /// Name of the new database, in staging and then in the palace.
    pub(super) database: &'s str,
    /// Names of the segments that come with it.
    pub(super) segments: Vec<&'s str>,
    /// The store that gives way, if there is one.
    pub(super) old: Option<&'s StoreFiles>,
    /// Segments of it that go.
    pub(super) replaced: Vec<&'s Entry>,
}

impl<'s> Swap<'s> {
    /// The store of a blueprint takes the place of the one it was made from.
    pub(super) fn of(files: Option<&'s StoreFiles>, blueprint: &'s Blueprint) -> Swap<'s> {
        let is_new = |new: &&NewCollection| matches!(new.route, Route::Segment | Route::Built { .. });
        let segments = blueprint.collections.iter().filter(is_new).map(|new| &*new.vector.new).collect();
        let replaced = files.into_iter().flat_map(|files| replaced(files, blueprint)).collect();
        Swap { database: DATABASE, segments, old: files, replaced }
    }

    /// The steps that change what the palace is. Returns the pivot: the first step that cannot be undone.
    pub(super) fn commit(self, steps: &mut Vec<Step>) -> u32 {
        steps.push(tree(tree::Step::CreateDir { target: Spot::operation(ASIDE) }));
        for name in &self.segments {
            steps.push(tree(tree::Step::Place { source: staged(name), target: Spot::palace(*name) }));
        }
        let pivot = match self.old {
            Some(old) if old.database.name == self.database => Swap::replace(old, steps),
            other => self.place(other, steps),
        };
        steps.extend(self.replaced.into_iter().map(|entry| set_aside(entry, Need::May)));
        steps.push(tree(tree::Step::Delete { target: Spot::operation(STAGING) }));
        pivot
    }

    /// Both databases have the same name: one rename.
    fn replace(old: &StoreFiles, steps: &mut Vec<Step>) -> u32 {
        let expects = old.database.fingerprint;
        let target = Spot::palace(&*old.database.name);
        let aside = Spot::operation(ASIDE).join(&old.database.name);
        steps.push(tree(tree::Step::LinkAside { source: target.clone(), target: aside.clone(), expects }));
        let pivot = steps.len() as u32;
        // A stale journal or log of the old database would destroy the new one: both belong to a name, not to a file.
        steps.extend(old.siblings.iter().map(|entry| set_aside(entry, Need::Must)));
        let absent = old.absent.iter().map(|name| Spot::palace(&**name)).collect();
        let source = staged(&old.database.name);
        steps.push(tree(tree::Step::Replace { source, target, expects, aside, absent }));
        pivot
    }

    /// The new database has a name of its own. It is there before the old one goes: there is no moment without one.
    fn place(&self, old: Option<&StoreFiles>, steps: &mut Vec<Step>) -> u32 {
        let pivot = steps.len() as u32;
        let target = Spot::palace(self.database);
        steps.push(tree(tree::Step::Place { source: staged(self.database), target }));
        let entries = old.into_iter().flat_map(|old| [&old.database].into_iter().chain(&old.siblings));
        steps.extend(entries.map(|entry| set_aside(entry, Need::Must)));
        pivot
    }
}

/// Segments of the old store that the new one does not name.
pub(super) fn replaced<'f>(files: &'f StoreFiles, blueprint: &'f Blueprint) -> impl Iterator<Item = &'f Entry> {
    let keeps = |Renamed { old, new }: &Renamed, entry: &Entry| old.as_ref() == Some(new) && *new == entry.name;
    files.segments.iter().filter(move |entry| !blueprint.collections.iter().any(|new| keeps(&new.vector, entry)))
}

fn set_aside(entry: &Entry, need: Need) -> Step {
    let (source, target) = (Spot::palace(&*entry.name), Spot::operation(ASIDE).join(&entry.name));
    tree(tree::Step::RenameAside { need, source, target, expects: entry.fingerprint })
}

/// Room for the database with its siblings: in the backup, in staging, and for a copy to read where one is needed.
pub(super) fn bytes_of_databases(files: &StoreFiles, blueprint: &Blueprint) -> u64 {
    bytes_of_scratch(files, &blueprint.preparation) + bytes_of_old(files) + bytes_of_new(files) + SLACK_BYTES
}

/// Room for a copy to read, where one is needed.
pub(super) fn bytes_of_scratch(files: &StoreFiles, preparation: &Preparation) -> u64 {
    let takes_copy = files.is_hot() || *preparation != Preparation::default();
    if takes_copy { bytes_of_new(files) } else { 0 }
}

pub(super) fn bytes_of_old(files: &StoreFiles) -> u64 {
    files.database.bytes + files.siblings.iter().map(|entry| entry.bytes).sum::<u64>()
}

/// A store filled batch by batch is now and then a little larger than the one it came from.
fn bytes_of_new(files: &StoreFiles) -> u64 {
    bytes_of_old(files) + bytes_of_old(files) / 4
}

/// Room for a database of records that are in none yet. Each text stands in its row, in the full-text index and in that
/// index's copy.
pub(super) fn bytes_of_rows(survey: &Survey) -> u64 {
    survey.collections.iter().map(|one| 4 * one.totals.row_bytes + one.totals.vector_bytes).sum()
}

/// Room for the segments that are built.
pub(super) fn bytes_of_indexes(survey: &Survey, blueprint: &Blueprint) -> u64 {
    built_indexes(survey, blueprint).map(|(one, _)| bytes_of_index(one)).sum()
}

fn bytes_of_index(one: &Surveyed) -> u64 {
    one.totals.vector_bytes + 512 * one.totals.vectors
}

/// Collections whose segments are built anew.
fn built_indexes<'b>(
    survey: &'b Survey,
    blueprint: &'b Blueprint,
) -> impl Iterator<Item = (&'b Surveyed, &'b NewCollection)> {
    let pairs = survey.collections.iter().zip(&blueprint.collections);
    pairs.filter(|(_, new)| matches!(new.route, Route::Built { .. }))
}

/// What is not a palace is made one first, for reading: in the annex, if there is one.
pub(super) fn take_in(origin: &Origin, annex: Option<&Annex>) -> Vec<Step> {
    let target = if annex.is_some() { Spot::annex(INTAKE) } else { Spot::operation(INTAKE) };
    match origin {
        Origin::Palace => Vec::new(),
        Origin::Intake(step) => vec![tree(tree::Step::CreateDir { target }), step.clone()],
    }
}

/// Nobody needs that any more, nor the copy of an export it was made of. What is in the annex goes with it.
pub(super) fn drop_intake(origin: &Origin, annex: Option<&Annex>) -> Vec<Step> {
    let intake = matches!(origin, Origin::Intake(_)).then_some(INTAKE).filter(|_| annex.is_none());
    let input = matches!(origin, Origin::Intake(Step::Lines(_))).then_some(INPUT);
    let names = intake.into_iter().chain(input);
    names.map(|name| tree(tree::Step::Delete { target: Spot::operation(name) })).collect()
}

pub(super) fn staged(name: &str) -> Spot {
    Spot::operation(STAGING).join(name)
}

/// Makes what is needed to build in.
pub(super) fn create_staging(annex: Option<&Annex>) -> Vec<Step> {
    let annex = annex.map(|annex| tree(tree::Step::CreateAnnex(annex.clone())));
    annex.into_iter().chain([tree(tree::Step::CreateDir { target: Spot::operation(STAGING) })]).collect()
}

/// What is built of a Chroma store, with the bytes of each thing.
pub(super) fn built<'b>(
    files: Option<&StoreFiles>,
    survey: &'b Survey,
    blueprint: &'b Blueprint,
) -> impl Iterator<Item = (&'b str, u64)> {
    let database = files.map_or_else(|| bytes_of_rows(survey), |files| files.database.bytes);
    let indexes = built_indexes(survey, blueprint).map(|(one, new)| (&*new.vector.new, bytes_of_index(one)));
    [(DATABASE, database)].into_iter().chain(indexes)
}

/// Brings what was built in the annex to the staging directory, where the rest goes on as if it had been built there.
pub(super) fn bring<'b>(annex: Option<&Annex>, built: impl Iterator<Item = (&'b str, u64)>) -> Vec<Step> {
    let bring = |(name, bytes)| {
        let (source, target) = (Spot::annex(name), staged(name));
        tree(tree::Step::Bring { source, target, bytes })
    };
    if annex.is_some() { built.map(bring).collect() } else { Vec::new() }
}

/// Clears away what nobody needs once the new store has taken its place.
pub(super) fn delete_annex(annex: Option<Annex>) -> Option<Step> {
    annex.map(|annex| tree(tree::Step::DeleteAnnex(annex)))
}

/// The room that an annex takes and gives.
pub(super) fn annex_room(files: Option<&StoreFiles>, survey: &Survey, blueprint: &Blueprint) -> AnnexRoom {
    let (spared, database) = match files {
        Some(files) => (bytes_of_scratch(files, &blueprint.preparation), bytes_of_new(files)),
        None => (bytes_of_rows(survey), bytes_of_rows(survey)), // as it is taken in, and as it is built
    };
    AnnexRoom { needed: spared + database + bytes_of_indexes(survey, blueprint) + SLACK_BYTES, spared }
}

pub(super) fn tree(step: tree::Step) -> Step {
    Step::Tree(step)
}
