//! Plans a rebuild: a new store of the same format, made from everything that can be read of the old one.
//!
//! Until the pivot the palace only gains things that nothing names. The pivot is one rename, of the new database over
//! the old; SPEC.md, "The rebuild", draws the order of the steps and why it is this one.

use super::names::{ASIDE, BACKUP, STAGING};
use super::step::Step;
use crate::disk::{self, Disk, Kind};
use crate::engine::Plan;
use crate::store::chroma::{
    self, Blueprint, Collection, DATABASE, Expected, ExpectedCollection, Format, NewCollection, Renamed, Route, Survey,
    Surveyed, siblings,
};
use crate::tree::{self, Copy, Fingerprint, Need, Spot};
use std::path::{Path, PathBuf};

/// Room for what is not counted: directories, the journal, SQLite's rollback journal.
const SLACK_BYTES: u64 = 8 << 20;

/// The files a rebuild reads and replaces, as they were before they were read.
pub struct StoreFiles {
    database: Entry,
    siblings: Vec<Entry>,
    segments: Vec<Entry>,
    /// Siblings that are not there, and must not appear.
    absent: Vec<String>,
}

struct Entry {
    name: String,
    fingerprint: Fingerprint,
    bytes: u64,
}

impl StoreFiles {
    /// Looks at the database and its siblings; must be called before the database is read, so that whoever writes to it
    /// later is noticed.
    pub fn look(disk: &dyn Disk, palace: &Path) -> Result<Option<StoreFiles>, Unfit> {
        let Some(database) = Entry::look(disk, palace, DATABASE)? else { return Ok(None) };
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for name in siblings(DATABASE) {
            match Entry::look(disk, palace, &name)? {
                Some(entry) => present.push(entry),
                None => absent.push(name),
            }
        }
        Ok(Some(StoreFiles { database, siblings: present, segments: Vec::new(), absent }))
    }

    /// Looks at the directories of the segments that the collections name.
    pub fn look_at_segments(&mut self, disk: &dyn Disk, palace: &Path, survey: &Survey) -> Result<(), Unfit> {
        for name in survey.collections.iter().filter_map(|one| one.collection.vector.as_deref()) {
            self.segments.extend(Entry::look(disk, palace, name)?);
        }
        Ok(())
    }

    fn segment(&self, name: &Option<String>) -> Option<&Entry> {
        self.segments.iter().find(|entry| Some(&entry.name) == name.as_ref())
    }

    /// Whether reading the database takes a copy of it.
    fn is_hot(&self) -> bool {
        !self.siblings.is_empty()
    }
}

impl Entry {
    fn look(disk: &dyn Disk, palace: &Path, name: &str) -> Result<Option<Entry>, Unfit> {
        let path = palace.join(name);
        let Some(fingerprint) = Fingerprint::of(disk, &path)? else { return Ok(None) };
        Ok(Some(Entry { name: name.to_owned(), fingerprint, bytes: bytes(disk, &path)? }))
    }
}

/// Why the files of a store cannot be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Something in it is neither a file nor a directory.
    #[error("{} is neither a regular file nor a directory", .0.display())]
    NotAFile(PathBuf),
}

/// Space that a file or a directory takes on the disk.
fn bytes(disk: &dyn Disk, path: &Path) -> Result<u64, Unfit> {
    let Some(stat) = disk.stat(path)? else { return Ok(0) };
    match stat.kind {
        Kind::File => Ok(stat.allocated),
        Kind::Directory => disk.list(path)?.into_iter().map(|name| bytes(disk, &path.join(name))).sum(),
        Kind::Other => Err(Unfit::NotAFile(path.to_owned())),
    }
}

/// A plan, and what a person wants to know before saying yes to it.
pub struct Rebuild {
    /// The plan.
    pub plan: Plan<Step>,
    /// Bytes that must be free where the keep is.
    pub bytes_needed: u64,
}

/// Makes the plan. Two plans for the same palace differ only in the new UUIDs.
pub fn plan(format: &Format, files: &StoreFiles, survey: &Survey) -> Rebuild {
    let ids = fresh_ids(survey);
    let collections = survey.collections.iter().zip(ids).map(|(one, id)| new_collection(files, one, id));
    let blueprint = Blueprint { format: format.name.clone(), collections: collections.collect() };
    let row_bytes = survey.collections.iter().map(|one| one.totals.row_bytes).sum();
    let expected = expected(survey);

    let mut steps = vec![tree(tree::Step::CreateDir { target: Spot::operation(STAGING) }), backup(files)];
    steps.push(Step::Chroma(chroma::Step::CreateStore(blueprint.clone())));
    steps.extend(survey.batches.iter().map(|batch| Step::Chroma(chroma::Step::UpsertBatch(batch.clone()))));
    steps.extend(survey.queue.iter().map(|batch| Step::Chroma(chroma::Step::QueueBatch(*batch))));
    steps.extend(sentinel(survey));
    if format.deferred().next().is_some() {
        steps.push(Step::Chroma(chroma::Step::BuildIndexes { bytes: row_bytes }));
    }
    steps.extend(copy_segments(files, &blueprint));
    steps.extend(build_indexes(survey, &blueprint));
    steps.push(Step::Chroma(chroma::Step::Verify(expected)));
    steps.push(tree(tree::Step::Sync { target: staged(DATABASE) }));
    let pivot = commit(&mut steps, files, &blueprint);
    let bytes_needed = bytes_needed(files, survey, &blueprint);
    Rebuild { plan: Plan { steps, pivot }, bytes_needed }
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

fn new_collection(files: &StoreFiles, surveyed: &Surveyed, new_id: String) -> NewCollection {
    let Collection { id, name, topic, metadata, vector, .. } = &surveyed.collection;
    let fresh = || uuid::Uuid::new_v4().to_string();
    let route = match &surveyed.unsound {
        Some(why) if surveyed.totals.vectors > 0 => Route::Built { why: why.clone() },
        Some(_) => Route::Unpersisted,
        None if files.segment(vector).is_some() => Route::Segment,
        None => Route::Unpersisted,
    };
    let applied = surveyed.collection.metadata_sequence;
    NewCollection {
        name: name.clone(),
        topic: Renamed { old: Some(topic.clone()), new: topic.replace(id.as_str(), &new_id) },
        id: Renamed { old: Some(id.clone()), new: new_id },
        metadata: Renamed { old: metadata.clone(), new: fresh() },
        vector: Renamed { old: vector.clone(), new: fresh() },
        metadata_sequence: Some(applied).filter(|number| *number > 0),
        vector_sequence: match route {
            Route::Built { .. } => Some(applied), // the new index holds every write that was applied
            _ => surveyed.collection.vector_sequence.filter(|_| surveyed.unsound.is_none()),
        },
        route,
    }
}

/// Needed only where the old palace was in the state that rule R2 describes.
fn sentinel(survey: &Survey) -> Option<Step> {
    if survey.queue_max >= survey.sequence_max {
        return None;
    }
    let mut highest = survey
        .collections
        .iter()
        .zip(0..)
        .filter(|(one, _)| one.collection.metadata_sequence.max(one.persisted) == survey.sequence_max);
    let (collection, rowid) = highest.find_map(|(one, collection)| Some((collection, one.last?)))?;
    Some(Step::Chroma(chroma::Step::Sentinel { collection, rowid, sequence: survey.sequence_max }))
}

fn expected(survey: &Survey) -> Expected {
    Expected {
        collections: survey.collections.iter().map(|one| ExpectedCollection::from(one.totals)).collect(),
        unowned: ExpectedCollection::from(survey.unowned),
        bytes: survey.collections.iter().map(|one| one.totals.row_bytes + one.totals.vector_bytes).sum(),
    }
}

fn build_indexes(survey: &Survey, blueprint: &Blueprint) -> Vec<Step> {
    let built = survey.collections.iter().zip(&blueprint.collections).zip(0..);
    let built = built.filter(|((_, new), _)| matches!(new.route, Route::Built { .. }));
    let steps = built.map(|((one, _), collection)| {
        let (vectors, bytes) = (one.totals.vectors, one.totals.vector_bytes);
        Step::Chroma(chroma::Step::BuildIndex { collection, vectors, bytes })
    });
    steps.collect()
}

fn backup(files: &StoreFiles) -> Step {
    let entries = [&files.database].into_iter().chain(&files.siblings).chain(&files.segments);
    let (names, bytes): (Vec<_>, Vec<_>) = entries.map(|entry| (entry.name.clone(), entry.bytes)).unzip();
    let (source, target) = (Spot::palace(""), Spot::operation(BACKUP));
    tree(tree::Step::Backup(Copy { source, names, target, bytes: bytes.iter().sum() }))
}

fn copy_segments(files: &StoreFiles, blueprint: &Blueprint) -> Vec<Step> {
    let kept = kept_segments(files, blueprint);
    let steps = kept.map(|(entry, new)| {
        let (source, target) = (Spot::palace(&*entry.name), staged(new));
        tree(tree::Step::Copy(Copy { source, names: Vec::new(), target, bytes: entry.bytes }))
    });
    steps.collect()
}

fn kept_segments<'f>(files: &'f StoreFiles, blueprint: &'f Blueprint) -> impl Iterator<Item = (&'f Entry, &'f str)> {
    let kept = blueprint.collections.iter().filter(|new| new.route == Route::Segment);
    kept.filter_map(|new| Some((files.segment(&new.vector.old)?, &*new.vector.new)))
}

/// The steps that change what the palace is. Returns the pivot: the first step that cannot be undone.
fn commit(steps: &mut Vec<Step>, files: &StoreFiles, blueprint: &Blueprint) -> u32 {
    steps.push(tree(tree::Step::CreateDir { target: Spot::operation(ASIDE) }));
    for new in blueprint.collections.iter().filter(|new| new.route != Route::Unpersisted).map(|new| &*new.vector.new) {
        steps.push(tree(tree::Step::Place { source: staged(new), target: Spot::palace(new) }));
    }
    let expects = files.database.fingerprint;
    let (source, aside) = (Spot::palace(DATABASE), Spot::operation(ASIDE).join(DATABASE));
    steps.push(tree(tree::Step::LinkAside { source: source.clone(), target: aside.clone(), expects }));
    let pivot = steps.len() as u32;
    // A stale journal or log of the old database would destroy the new one: both belong to a name, not to a file.
    steps.extend(files.siblings.iter().map(|entry| set_aside(entry, Need::Must)));
    let absent = files.absent.iter().map(|name| Spot::palace(&**name)).collect();
    steps.push(tree(tree::Step::Replace { source: staged(DATABASE), target: source, expects, aside, absent }));
    steps.extend(files.segments.iter().map(|entry| set_aside(entry, Need::May)));
    steps.push(tree(tree::Step::Delete { target: Spot::operation(STAGING) }));
    pivot
}

fn set_aside(entry: &Entry, need: Need) -> Step {
    let (source, target) = (Spot::palace(&*entry.name), Spot::operation(ASIDE).join(&entry.name));
    tree(tree::Step::RenameAside { need, source, target, expects: entry.fingerprint })
}

/// Backup and new store side by side, and a copy to read from where one is needed.
fn bytes_needed(files: &StoreFiles, survey: &Survey, blueprint: &Blueprint) -> u64 {
    let database = files.database.bytes + files.siblings.iter().map(|entry| entry.bytes).sum::<u64>();
    let backup = database + files.segments.iter().map(|entry| entry.bytes).sum::<u64>();
    let segments: u64 = kept_segments(files, blueprint).map(|(entry, _)| entry.bytes).sum();
    let pairs = survey.collections.iter().zip(&blueprint.collections);
    let built: u64 = pairs
        .filter(|(_, new)| matches!(new.route, Route::Built { .. }))
        .map(|(one, _)| one.totals.vector_bytes + 512 * one.totals.vectors)
        .sum();
    let scratch = if files.is_hot() { database } else { 0 };
    // A store filled batch by batch is now and then a little larger than the one it came from.
    backup + segments + built + scratch + database + database / 4 + SLACK_BYTES
}

fn staged(name: &str) -> Spot {
    Spot::operation(STAGING).join(name)
}

fn tree(step: tree::Step) -> Step {
    Step::Tree(step)
}
