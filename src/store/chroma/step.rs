//! Steps that build a new Chroma store, and the workshop they work in.

use super::amend::{Amendment, listed};
use super::blueprint::Blueprint;
use super::database;
use super::error::Error;
use super::graph::Graph;
use super::index::{self, Contents, Era};
use super::kernel::room;
use super::staging::Staging;
use super::vectors::Vectors;
use super::verify::{self, Expected};
use super::{Batch, Collection, DATABASE, QueueBatch, Source, siblings};
use crate::disk::{self, Disk};
use crate::engine::Observed;
use crate::store::exact;
use crate::store::scratch::Room;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// One act on the store that is being built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Makes the new database with its schema, and the collections in it.
    CreateStore(Blueprint),
    /// Copies a run of records.
    UpsertBatch(Batch),
    /// Copies a run of the queue.
    QueueBatch(QueueBatch),
    /// Leaves a write that does nothing in the queue, for the sake of its number.
    Sentinel {
        /// Index of the collection in the blueprint.
        collection: u32,
        /// The number.
        sequence: i64,
    },
    /// Builds the indexes that are cheaper to build last.
    BuildIndexes {
        /// Bytes of rows they cover.
        bytes: u64,
    },
    /// Builds the HNSW segment of a collection from its vectors, wherever these were found.
    BuildIndex {
        /// Index of the collection in the blueprint.
        collection: u32,
        /// Vectors in it.
        vectors: u64,
        /// Bytes of the vectors.
        bytes: u64,
    },
    /// Reads the new store as if it were any palace, and compares it with what the old one held.
    Verify(Expected),
    /// Makes the new database of a copy of the old one, and sets right what is wrong with it.
    Amend {
        /// What the new store is going to be.
        blueprint: Blueprint,
        /// What is set right, beside the names and numbers of the blueprint.
        amendments: Vec<Amendment>,
    },
    /// Rolls a staged copy of a database back or forward, as whoever opens it next would, so that it stands alone.
    Roll,
}

/// Where the steps work: what they read, what they build, and what both have in common.
pub struct Workshop<'d> {
    disk: &'d dyn Disk,
    palace: PathBuf,
    staging: PathBuf,
    room: Room<'d>,
    /// What is proved: where the new store stands before it takes its place.
    proved: PathBuf,
    blueprint: Blueprint,
    source: Option<Source<'d>>,
    database: Option<Staging>,
    vectors: BTreeMap<u32, Vectors>,
}

impl<'d> Workshop<'d> {
    /// A workshop that reads the palace in `palace` and builds in the directory `staging`, where it also keeps copies
    /// that it needs for reading. Nothing is opened yet.
    pub fn new(disk: &'d dyn Disk, palace: PathBuf, staging: PathBuf, blueprint: Blueprint) -> Self {
        let (proved, room, vectors) = (staging.clone(), Room::new(disk, &staging), BTreeMap::new());
        Workshop { disk, palace, staging, room, proved, blueprint, source: None, database: None, vectors }
    }

    /// The same workshop where what it builds is brought elsewhere before it is proved.
    pub fn proving_in(self, proved: PathBuf) -> Self {
        Workshop { proved, ..self }
    }

    /// Closes the new database, so that it can be moved or copied. It is opened again where it is needed.
    pub fn close(&mut self) {
        self.database = None;
    }

    fn path(&self) -> PathBuf {
        self.staging.join(DATABASE)
    }

    fn is_made(&self) -> Result<bool, disk::Error> {
        Ok(self.disk.stat(&self.path())?.is_some())
    }

    /// Opens what is read.
    fn open_source(&mut self) -> Result<(), Error> {
        if self.source.is_none() {
            self.source = Some(Source::open(&self.palace, &self.room, &self.blueprint.preparation)?);
        }
        Ok(())
    }

    /// Opens what is read and what is built.
    fn open(&mut self) -> Result<(&Source<'d>, &mut Staging), Error> {
        self.open_source()?;
        let source = self.source.as_ref().expect("it was opened just now");
        if self.database.is_none() {
            self.database = Some(Staging::open(&self.staging.join(DATABASE), source, &self.blueprint)?);
        }
        Ok((source, self.database.as_mut().expect("it was opened just now")))
    }

    /// Makes the vectors of a collection known, once.
    fn find_vectors(&mut self, collection: u32) -> Result<(), Error> {
        self.open_source()?;
        let source = self.source.as_ref().expect("it was opened just now");
        if !self.vectors.contains_key(&collection) {
            let old = self.blueprint.collection(collection)?.id.old.clone();
            let all = Collection::all(source)?;
            let Some(found) = all.iter().find(|one| Some(&one.id) == old.as_ref()) else {
                let what = "a collection of the plan is gone from the palace".to_owned();
                return Err(Error::Unreadable { path: self.palace.join(DATABASE), what });
            };
            self.vectors.insert(collection, Vectors::find(source, found)?);
        }
        Ok(())
    }

    /// Removes the new database. A part of it is never undone alone: nobody needs a store that is half there.
    fn discard(&mut self) -> Result<(), disk::Error> {
        self.database = None;
        let part = format!("{DATABASE}.part");
        for database in [DATABASE, &part] {
            for name in siblings(database).iter().map(String::as_str).chain([database]) {
                disk::remove_tree(self.disk, &self.staging.join(name))?;
            }
        }
        self.disk.sync(&self.staging)
    }
}

/// An error of a step: of the disk, or of the store.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

impl Step {
    /// Says where the new database stands. One that is not whole is the affair of the step that made it: that one is
    /// `Partial`, and those behind it have not happened.
    pub fn observe(&self, workshop: &mut Workshop) -> Result<Observed> {
        match self {
            // A proof leaves no trace, and can be given again; what was rolled can be rolled again.
            Step::Verify(_) | Step::Roll => return Ok(Observed::Before),
            Step::BuildIndex { collection, .. } => return workshop.observe_index(*collection),
            Step::Amend { .. } => return Ok(workshop.observe_part(&workshop.path())?),
            _ if !workshop.is_made()? => return Ok(Observed::Before),
            _ => {}
        }
        Ok(self.count(workshop).unwrap_or(match self {
            Step::CreateStore(_) => Observed::Partial,
            _ => Observed::Before,
        }))
    }

    fn count(&self, workshop: &mut Workshop) -> Result<Observed, Error> {
        let format = workshop.blueprint.target()?;
        let (_, database) = workshop.open()?;
        let (found, all) = match self {
            Step::CreateStore(_) => (database.count_migrations()?, format.migrations.len() as u64),
            Step::UpsertBatch(batch) => (database.count_records(batch)?, batch.records),
            Step::QueueBatch(batch) => (database.count_queue(batch.first, batch.last)?, batch.rows),
            Step::Sentinel { sequence, .. } => (database.count_queue(*sequence, *sequence)?, 1),
            Step::BuildIndexes { .. } => database.count_indexes()?,
            Step::BuildIndex { .. } | Step::Verify(_) | Step::Amend { .. } | Step::Roll => (0, 1),
        };
        Ok(match found {
            _ if found == all => Observed::After,
            0 => Observed::Before,
            _ => Observed::Partial,
        })
    }

    /// Carries the step out.
    pub fn apply(&self, workshop: &mut Workshop) -> Result<()> {
        match self {
            Step::CreateStore(blueprint) => {
                if workshop.is_made()? {
                    workshop.discard()?;
                }
                workshop.open_source()?;
                let source = workshop.source.as_ref().expect("it was opened just now");
                workshop.database = Some(Staging::create(&workshop.path(), source, blueprint)?);
                workshop.disk.adopt(&workshop.path(), &workshop.palace.join(DATABASE))?;
            }
            Step::UpsertBatch(batch) => workshop.open()?.1.upsert(batch)?,
            Step::QueueBatch(batch) => workshop.open()?.1.copy_queue(batch)?,
            Step::Sentinel { collection, sequence } => workshop.leave_sentinel(*collection, *sequence)?,
            Step::Amend { blueprint, amendments } => workshop.amend(blueprint, amendments)?,
            Step::Roll => workshop.roll()?,
            Step::BuildIndexes { .. } => workshop.open()?.1.build_indexes()?,
            Step::BuildIndex { collection, .. } => workshop.build_index(*collection)?,
            Step::Verify(expected) => {
                workshop.close(); // the proof reads what is in the file, not what a connection remembers
                verify::verify(&workshop.palace, &workshop.proved, &workshop.room, &workshop.blueprint, expected)?;
            }
        }
        Ok(())
    }

    /// Undoes the step.
    pub fn revert(&self, workshop: &mut Workshop) -> Result<()> {
        match self {
            Step::BuildIndex { collection, .. } => workshop.discard_index(*collection),
            Step::Roll => Ok(()), // the copy goes with the step that made it
            _ => Ok(workshop.discard()?),
        }
    }

    /// Bytes this step reads or writes.
    pub fn weight(&self) -> u64 {
        match self {
            Step::UpsertBatch(batch) => batch.bytes,
            Step::QueueBatch(batch) => batch.bytes,
            Step::BuildIndexes { bytes } => *bytes,
            Step::Verify(expected) => expected.bytes,
            // Inserting a vector looks at hundreds of others.
            Step::BuildIndex { bytes, .. } => 50 * bytes,
            Step::CreateStore(_) | Step::Sentinel { .. } | Step::Amend { .. } | Step::Roll => 0,
        }
    }
}

impl Workshop<'_> {
    /// Where the segment of a collection is built, and the name it is built under.
    fn index_paths(&self, collection: u32) -> Result<[PathBuf; 2], Error> {
        let name = self.blueprint.segment(collection)?;
        let target = self.staging.join(name);
        Ok([target.clone(), part_of(&target)])
    }

    fn observe_index(&self, collection: u32) -> Result<Observed> {
        let [target, _] = self.index_paths(collection)?;
        Ok(self.observe_part(&target)?)
    }

    /// Where something stands that is made under another name first.
    fn observe_part(&self, target: &Path) -> Result<Observed, disk::Error> {
        Ok(match (self.disk.stat(target)?, self.disk.stat(&part_of(target))?) {
            (Some(_), _) => Observed::After,
            (None, Some(_)) => Observed::Partial,
            (None, None) => Observed::Before,
        })
    }

    fn discard_index(&self, collection: u32) -> Result<()> {
        for path in self.index_paths(collection)? {
            disk::remove_tree(self.disk, &path)?;
        }
        Ok(self.disk.sync(&self.staging)?)
    }

    fn build_index(&mut self, collection: u32) -> Result<()> {
        self.find_vectors(collection)?;
        self.open()?;
        let Workshop { source: Some(source), database: Some(database), vectors, blueprint, .. } = self else {
            unreachable!("both were opened just now");
        };
        let new = blueprint.collection(collection)?;
        let vectors = &vectors[&collection];
        let (mut ids, mut floats, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let all = database.ids(new)?;
        let count = all.len();
        for id in all {
            if let Some(vector) = vectors.get(source, &id)? {
                if ids.is_empty() {
                    floats = room(count * vector.stored().len());
                }
                floats.extend_from_slice(vector.stored());
                lengths.push(vector.length());
                ids.push(id);
            }
        }
        let shape = vectors.shape();
        let dimension = floats.len() / ids.len();
        let graph = Graph::build(&floats, dimension, shape);
        let contents = Contents {
            ids: &ids,
            lengths: &lengths,
            dimension,
            links: shape.links,
            candidates: shape.candidates,
            sequence: new.vector_sequence.unwrap_or(0),
            era: if blueprint.target()?.has_integer_sequences() { Era::Rust } else { Era::Python },
        };
        let [target, part] = self.index_paths(collection)?;
        disk::remove_tree(self.disk, &part)?;
        self.disk.create_dir(&part)?;
        index::write(self.disk, &part, &graph, &contents)?;
        self.disk.adopt(&part, &self.palace)?;
        self.disk.sync(&part)?;
        self.disk.rename(&part, &target)?;
        Ok(self.disk.sync(&self.staging)?)
    }

    fn leave_sentinel(&mut self, collection: u32, sequence: i64) -> Result<(), Error> {
        self.open()?;
        let Workshop { database: Some(database), blueprint, .. } = self else {
            unreachable!("it was opened just now");
        };
        database.leave_sentinel(blueprint.collection(collection)?, sequence)
    }

    /// What is left of its siblings after that belongs to no transaction any more, and would only be believed by
    /// whoever finds it.
    fn roll(&self) -> Result<()> {
        for database in [DATABASE, exact::DATABASE] {
            let path = self.staging.join(database);
            if self.disk.stat(&path)?.is_some() {
                database::roll(&path)?;
            }
            for name in siblings(database) {
                disk::remove_tree(self.disk, &self.staging.join(name))?;
            }
        }
        Ok(self.disk.sync(&self.staging)?)
    }

    fn amend(&mut self, blueprint: &Blueprint, amendments: &[Amendment]) -> Result<()> {
        let (target, original) = (self.path(), self.palace.join(DATABASE));
        self.discard()?;
        let part = part_of(&target);
        let mut preparation = blueprint.preparation.clone();
        preparation.amendments.extend_from_slice(amendments);
        database::prepare_copy(self.disk, [&original, &part], &preparation)?;
        Staging::amend(&part, blueprint)?;
        self.disk.adopt(&part, &original)?;
        self.disk.sync(&part)?;
        self.disk.rename(&part, &target)?;
        Ok(self.disk.sync(&self.staging)?)
    }
}

/// The name something has while it is being made.
fn part_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateStore(blueprint) => {
                write!(
                    f,
                    "make a new database in format chroma {}, {} collections",
                    blueprint.format,
                    blueprint.collections.len()
                )
            }
            Step::UpsertBatch(batch) => {
                write!(f, "copy {} records, rows {} to {}", batch.records, batch.first, batch.last)
            }
            Step::QueueBatch(batch) => {
                write!(f, "copy {} queued writes, numbers {} to {}", batch.rows, batch.first, batch.last)
            }
            Step::Sentinel { sequence, .. } => write!(f, "keep number {sequence} taken in the queue"),
            Step::Amend { amendments, .. } => write!(f, "amend a copy of the database{}", listed(amendments)),
            Step::BuildIndexes { .. } => f.write_str("build the indexes of the database"),
            Step::BuildIndex { vectors, .. } => write!(f, "build an HNSW index over {vectors} vectors"),
            Step::Roll => f.write_str("roll the database back or forward to its last commit"),
            Step::Verify(expected) => {
                let records: u64 = expected.collections.iter().map(|one| one.records).sum();
                write!(f, "prove that all {records} records are equal")
            }
        }
    }
}
