//! Steps that build a new Chroma store, and the workshop they work in.

use super::blueprint::{Blueprint, Refill, Route};
use super::error::Error;
use super::staging::{Refilled, Staging};
use super::vectors::Vectors;
use super::verify::{self, Expected};
use super::{Batch, Collection, DATABASE, QueueBatch, Source, siblings};
use crate::disk::{self, Disk};
use crate::engine::Observed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// One act on the store that is being built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Makes the new database with its schema, and the collections in it.
    CreateStore(Blueprint),
    /// Copies a run of records, and puts vectors into the queue where they cannot stay in a segment.
    UpsertBatch {
        /// The records.
        batch: Batch,
        /// Numbers for vectors that go into the queue.
        refills: Vec<Refill>,
    },
    /// Copies a run of the queue.
    QueueBatch(QueueBatch),
    /// Copies the writes of a collection that wait to be applied behind its refilled vectors.
    PendingWrites {
        /// Index of the collection in the blueprint.
        collection: u32,
        /// Its last applied write in the old store.
        applied: i64,
        /// Number of the first of them in the new store.
        first: i64,
        /// How many there are.
        writes: u64,
    },
    /// Leaves a collection's last write in the queue, for the sake of its number.
    Sentinel {
        /// Index of the collection in the blueprint.
        collection: u32,
        /// Row of its last record in `embeddings`.
        rowid: i64,
        /// The number.
        sequence: i64,
    },
    /// Builds the indexes that are cheaper to build last.
    BuildIndexes {
        /// Bytes of rows they cover.
        bytes: u64,
    },
    /// Reads the new store as if it were any palace, and compares it with what the old one held.
    Verify(Expected),
}

/// Where the steps work: what they read, what they build, and what both have in common.
pub struct Workshop<'d> {
    disk: &'d dyn Disk,
    palace: PathBuf,
    staging: PathBuf,
    scratch: PathBuf,
    blueprint: Blueprint,
    source: Option<Source>,
    database: Option<Staging>,
    vectors: BTreeMap<u32, Vectors>,
}

impl<'d> Workshop<'d> {
    /// A workshop that reads the palace in `palace`, builds in the directory `staging`, and keeps copies it needs for
    /// reading below `scratch`. Nothing is opened yet.
    pub fn new(disk: &'d dyn Disk, palace: PathBuf, staging: PathBuf, scratch: PathBuf, blueprint: Blueprint) -> Self {
        let vectors = BTreeMap::new();
        Workshop { disk, palace, staging, scratch, blueprint, source: None, database: None, vectors }
    }

    fn path(&self) -> PathBuf {
        self.staging.join(DATABASE)
    }

    fn exists(&self) -> Result<bool, disk::Error> {
        Ok(self.disk.stat(&self.path())?.is_some())
    }

    /// Opens what is read.
    fn open_source(&mut self) -> Result<(), Error> {
        if self.source.is_none() {
            self.source = Some(Source::open(&self.palace, &self.scratch)?);
        }
        Ok(())
    }

    /// Opens what is read and what is built.
    fn open(&mut self) -> Result<(&Source, &mut Staging), Error> {
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
            let old = self.blueprint.collections[collection as usize].id.old.clone();
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
        for name in siblings(DATABASE).iter().map(String::as_str).chain([DATABASE]) {
            disk::remove_tree(self.disk, &self.staging.join(name))?;
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
        if matches!(self, Step::Verify(_)) || !workshop.exists()? {
            return Ok(Observed::Before); // a proof leaves no trace, and can be given again
        }
        Ok(self.count(workshop).unwrap_or(match self {
            Step::CreateStore(_) => Observed::Partial,
            _ => Observed::Before,
        }))
    }

    fn count(&self, workshop: &mut Workshop) -> Result<Observed, Error> {
        let (source, database) = workshop.open()?;
        let format = source.format();
        let (found, all) = match self {
            Step::CreateStore(_) => (database.count_migrations()?, format.migrations.len() as u64),
            Step::UpsertBatch { batch, .. } => (database.count_records(batch)?, batch.records),
            Step::QueueBatch(batch) => (database.count_queue(batch.first, batch.last)?, batch.rows),
            Step::PendingWrites { first, writes, .. } => {
                (database.count_queue(*first, first + *writes as i64 - 1)?, *writes)
            }
            Step::Sentinel { sequence, .. } => (database.count_queue(*sequence, *sequence)?, 1),
            Step::BuildIndexes { .. } => database.count_indexes()?,
            Step::Verify(_) => (0, 1),
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
                if workshop.exists()? {
                    workshop.discard()?;
                }
                workshop.open_source()?;
                let source = workshop.source.as_ref().expect("it was opened just now");
                workshop.database = Some(Staging::create(&workshop.path(), source, blueprint)?);
                workshop.disk.adopt(&workshop.path(), &workshop.palace.join(DATABASE))?;
            }
            Step::UpsertBatch { batch, refills } => {
                for refill in refills {
                    workshop.find_vectors(refill.collection)?;
                }
                workshop.upsert(batch, refills)?;
            }
            Step::QueueBatch(batch) => workshop.open()?.1.copy_queue(batch)?,
            Step::PendingWrites { collection, applied, first, .. } => {
                let collection = workshop.blueprint.collections[*collection as usize].clone();
                workshop.open()?.1.copy_pending(&collection, *applied, *first)?;
            }
            Step::Sentinel { collection, rowid, sequence } => {
                workshop.leave_sentinel(*collection, *rowid, *sequence)?
            }
            Step::BuildIndexes { .. } => workshop.open()?.1.build_indexes()?,
            Step::Verify(expected) => {
                workshop.database = None; // the proof reads what is in the file, not what a connection remembers
                verify::verify(&workshop.palace, &workshop.staging, &workshop.scratch, &workshop.blueprint, expected)?;
            }
        }
        Ok(())
    }

    /// Undoes the step.
    pub fn revert(&self, workshop: &mut Workshop) -> Result<()> {
        Ok(workshop.discard()?)
    }

    /// Bytes this step reads or writes.
    pub fn weight(&self) -> u64 {
        match self {
            Step::UpsertBatch { batch, .. } => batch.bytes,
            Step::QueueBatch(batch) => batch.bytes,
            Step::BuildIndexes { bytes } => *bytes,
            Step::Verify(expected) => expected.bytes,
            Step::CreateStore(_) | Step::PendingWrites { .. } | Step::Sentinel { .. } => 0,
        }
    }
}

impl Workshop<'_> {
    fn upsert(&mut self, batch: &Batch, refills: &[Refill]) -> Result<(), Error> {
        self.open()?;
        let Workshop { source: Some(source), database: Some(database), vectors, blueprint, .. } = self else {
            unreachable!("both were opened just now");
        };
        let refilled: Vec<Refilled> = refills
            .iter()
            .map(|refill| Refilled {
                source,
                vectors: &vectors[&refill.collection],
                collection: &blueprint.collections[refill.collection as usize],
                refill,
            })
            .collect();
        database.upsert(batch, &refilled)
    }

    fn leave_sentinel(&mut self, collection: u32, rowid: i64, sequence: i64) -> Result<(), Error> {
        self.find_vectors(collection)?;
        self.open()?;
        let Workshop { source: Some(source), database: Some(database), vectors, blueprint, .. } = self else {
            unreachable!("both were opened just now");
        };
        let new = &blueprint.collections[collection as usize];
        database.leave_sentinel(source, &vectors[&collection], new, rowid, sequence)
    }
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
            Step::UpsertBatch { batch, .. } => {
                write!(f, "copy {} records, rows {} to {}", batch.records, batch.first, batch.last)
            }
            Step::QueueBatch(batch) => {
                write!(f, "copy {} queued writes, numbers {} to {}", batch.rows, batch.first, batch.last)
            }
            Step::PendingWrites { writes, .. } => write!(f, "copy {writes} writes that wait to be applied"),
            Step::Sentinel { sequence, .. } => write!(f, "leave write {sequence} in the queue"),
            Step::BuildIndexes { .. } => f.write_str("build the indexes"),
            Step::Verify(expected) => {
                let records: u64 = expected.collections.iter().map(|one| one.records).sum();
                write!(f, "prove that all {records} records are equal")
            }
        }
    }
}

impl Route {
    /// Whether the directory of the segment is copied.
    pub fn keeps_segment(&self) -> bool {
        !matches!(self, Route::Queue { .. })
    }
}
