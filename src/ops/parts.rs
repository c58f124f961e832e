//! Parts that every plan over a Chroma store is made of: the backup, the indexes, the proof, and the swap.

use super::files::{Entry, StoreFiles};
use super::names::{ASIDE, BACKUP, INPUT, INTAKE, STAGING};
use super::rebuild::Origin;
use super::step::Step;
use crate::store::chroma::{
    self, Blueprint, DATABASE, Expected, ExpectedCollection, Preparation, Renamed, Route, Survey,
};
use crate::tree::{self, Copy, Need, Spot};

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

/// The proof, and the sync that makes the database durable. `left` things stay in the new store that no plan carries
/// over by itself; `mended` are the codes that must not be found in it again.
pub(super) fn prove(steps: &mut Vec<Step>, survey: &Survey, left: u64, mended: &[String]) {
    let expected = Expected {
        collections: survey.collections.iter().map(|one| ExpectedCollection::from(one.totals)).collect(),
        unowned: ExpectedCollection::from(survey.unowned),
        bytes: survey.collections.iter().map(|one| one.totals.row_bytes + one.totals.vector_bytes).sum(),
        left,
        mended: mended.to_vec(),
    };
    steps.push(Step::Chroma(chroma::Step::Verify(expected)));
    steps.push(tree(tree::Step::Sync { target: staged(DATABASE) }));
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
        let is_new = |new: &&chroma::NewCollection| matches!(new.route, Route::Segment | Route::Built { .. });
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
    let database = bytes_of_database(files);
    // A store filled batch by batch is now and then a little larger than the one it came from.
    bytes_of_old(files, &blueprint.preparation) + database + database / 4
}

/// Room for the old database: in the backup, and for a copy to read where one is needed.
pub(super) fn bytes_of_old(files: &StoreFiles, preparation: &Preparation) -> u64 {
    let database = bytes_of_database(files);
    let takes_copy = files.is_hot() || *preparation != Preparation::default();
    let scratch = if takes_copy { database + database / 4 } else { 0 };
    database + scratch + SLACK_BYTES
}

/// Room for a database of records that are in none yet, twice: as it is taken in, and as it is built. Each text stands
/// in its row, in the full-text index and in that index's copy.
pub(super) fn bytes_of_rows(survey: &Survey) -> u64 {
    let bytes: u64 = survey.collections.iter().map(|one| 4 * one.totals.row_bytes + one.totals.vector_bytes).sum();
    2 * bytes + SLACK_BYTES
}

fn bytes_of_database(files: &StoreFiles) -> u64 {
    files.database.bytes + files.siblings.iter().map(|entry| entry.bytes).sum::<u64>()
}

/// Room for the segments that are built.
pub(super) fn bytes_of_indexes(survey: &Survey, blueprint: &Blueprint) -> u64 {
    let pairs = survey.collections.iter().zip(&blueprint.collections);
    let built = pairs.filter(|(_, new)| matches!(new.route, Route::Built { .. }));
    built.map(|(one, _)| one.totals.vector_bytes + 512 * one.totals.vectors).sum()
}

/// What is not a palace is made one first, for reading.
pub(super) fn take_in(origin: &Origin) -> Vec<Step> {
    match origin {
        Origin::Palace => Vec::new(),
        Origin::Intake(step) => vec![tree(tree::Step::CreateDir { target: Spot::operation(INTAKE) }), step.clone()],
    }
}

/// Nobody needs that any more, nor the copy of an export it was made of.
pub(super) fn drop_intake(origin: &Origin) -> Vec<Step> {
    let names: &[&str] = match origin {
        Origin::Palace => &[],
        Origin::Intake(Step::Lines(_)) => &[INTAKE, INPUT],
        Origin::Intake(_) => &[INTAKE],
    };
    names.iter().map(|name| tree(tree::Step::Delete { target: Spot::operation(*name) })).collect()
}

pub(super) fn staged(name: &str) -> Spot {
    Spot::operation(STAGING).join(name)
}

pub(super) fn create_staging() -> Step {
    tree(tree::Step::CreateDir { target: Spot::operation(STAGING) })
}

pub(super) fn tree(step: tree::Step) -> Step {
    Step::Tree(step)
}
