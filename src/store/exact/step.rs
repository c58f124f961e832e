//! Steps that build a `sqlite_exact` store, or read one, and the workshop they work in.

use super::read::{Found, Reader, is_same};
use super::write::{Writer, fit, fit_head};
use super::{DATABASE, EMBEDDER_NOTE};
use crate::disk::{self, Disk};
use crate::engine::Observed;
use crate::store::chroma::{
    self, Batch, Emitter, Error, ExpectedCollection, Given, Limits, Preparation, Source, siblings, survey,
};
use crate::store::intake;
use crate::store::scratch::Room;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// One act on the store that is being built, or read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Makes the new database, and the collections in it.
    CreateStore {
        /// How the old store has to be read.
        preparation: Preparation,
    },
    /// Copies a run of records.
    UpsertBatch(Batch),
    /// Reads the new store from its beginning to its end, and compares it with the old one, record by record.
    Verify {
        /// What the old store held when the plan was made.
        expected: Vec<ExpectedCollection>,
        /// Bytes there are to read.
        bytes: u64,
    },
    /// Makes a database of chromadb's of the old store, to be read like any palace.
    TakeIn {
        /// Records in it.
        records: u64,
        /// Bytes of them.
        bytes: u64,
    },
}

/// Where the steps work.
pub struct Workshop<'d> {
    disk: &'d dyn Disk,
    palace: PathBuf,
    staging: PathBuf,
    intake: PathBuf,
    /// What is proved: where the new store stands before it takes its place.
    proved: PathBuf,
    preparation: Preparation,
    source: Option<Emitter<'d>>,
    database: Option<Writer>,
}

/// An error of a step: of the disk, or of the store.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

impl<'d> Workshop<'d> {
    /// A workshop that reads the palace in `palace`, builds in `staging`, and takes in to the directory `intake`.
    pub fn new(
        disk: &'d dyn Disk,
        palace: PathBuf,
        staging: PathBuf,
        intake: PathBuf,
        preparation: Preparation,
    ) -> Self {
        let proved = staging.clone();
        Workshop { disk, palace, staging, intake, proved, preparation, source: None, database: None }
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

    fn read(&self) -> Result<Emitter<'d>, Error> {
        Emitter::new(Source::open(&self.palace, &Room::new(self.disk, &self.staging), &self.preparation)?)
    }

    fn open(&mut self) -> Result<(&Emitter<'d>, &Writer), Error> {
        if self.source.is_none() {
            self.source = Some(self.read()?);
        }
        if self.database.is_none() {
            self.database = Some(Writer::open(&self.path())?);
        }
        let opened = self.source.as_ref().zip(self.database.as_ref());
        Ok(opened.expect("both were opened just now"))
    }

    fn create(&mut self) -> Result<()> {
        self.discard()?;
        let source = self.read()?;
        let heads = source.heads()?;
        let models: Vec<_> = heads.iter().map(|head| model(self.disk, &self.palace, &head.name)).collect();
        self.database = Some(Writer::create(&self.path(), &heads, &models)?);
        self.disk.adopt(&self.path(), &self.palace.join(chroma::DATABASE))?;
        self.source = Some(source);
        Ok(())
    }

    fn upsert(&mut self, batch: &Batch) -> Result<(), Error> {
        let (source, database) = self.open()?;
        database.begin()?;
        source.run(batch.first, batch.last, &mut |given| database.put(given.row, given.owner, &given.record))?;
        database.commit()
    }

    fn take_in(&mut self) -> Result<()> {
        let (palace, intake) = (&self.palace, &self.intake);
        intake::take_in(self.disk, intake, &palace.join(DATABASE), &mut |part| {
            Reader::open(palace, &Room::new(self.disk, intake))?.take_in(part, &mut || ())?;
            Ok(())
        })
    }

    /// Removes the new database. A part of it is never undone alone: nobody needs a store that is half there.
    fn discard(&mut self) -> Result<(), disk::Error> {
        (self.database, self.source) = (None, None);
        for name in siblings(DATABASE).iter().map(String::as_str).chain([DATABASE]) {
            disk::remove_tree(self.disk, &self.staging.join(name))?;
        }
        self.disk.sync(&self.staging)
    }

    fn observe(&mut self, step: &Step) -> Result<Observed> {
        let exists = |path: &Path| Ok::<_, disk::Error>(self.disk.stat(path)?.is_some());
        Ok(match step {
            Step::Verify { .. } => Observed::Before,
            Step::TakeIn { .. } => intake::taken(self.disk, &self.intake)?,
            _ if !exists(&self.path())? => Observed::Before,
            Step::CreateStore { .. } => match Writer::open(&self.path()) {
                Ok(database) if database.is_made() => Observed::After,
                _ => Observed::Partial,
            },
            Step::UpsertBatch(batch) => {
                match Writer::open(&self.path()).and_then(|one| one.count(batch.first, batch.last)) {
                    Ok(1..) => Observed::After,
                    _ => Observed::Before,
                }
            }
        })
    }

    /// The old store still holds what it held, and the new one holds the same, in the same order.
    fn verify(&mut self, expected: &[ExpectedCollection]) -> Result<(), Error> {
        (self.database, self.source) = (None, None);
        let source = self.read()?;
        let found = survey(source.source(), Limits::default(), &mut || ())?;
        let held = found.collections.iter().map(|one| ExpectedCollection::from(one.totals));
        if !held.eq(expected.iter().cloned()) {
            return Err(Error::NotEqual("the old store has changed since it was read".into()));
        }
        let reader = Reader::at_rest(&self.proved)?;
        reader.check()?;
        compare(&source, &reader)
    }
}

fn compare(source: &Emitter, reader: &Reader) -> Result<(), Error> {
    let heads: Vec<_> = source.heads()?.iter().map(|head| fit_head(head).0).collect();
    if heads != reader.heads()? {
        return Err(Error::NotEqual("its collections differ".into()));
    }
    let mut query = reader.query()?;
    let mut records = reader.records(&mut query)?;
    source.run(i64::MIN, i64::MAX, &mut |old| match records.next()? {
        Some(new) if is_equal(&old, &new) => Ok(()),
        Some(new) => Err(Error::NotEqual(format!("record {} is {}", old.record.id, new.given.record.id))),
        None => Err(Error::NotEqual(format!("record {} is missing", old.record.id))),
    })?;
    match records.next()? {
        None => Ok(()),
        Some(new) => Err(Error::NotEqual(format!("record {} is too much", new.given.record.id))),
    }
}

/// Whether a record of the new store is what the old one has, as far as the new one can hold it.
fn is_equal(old: &Given, new: &Found) -> bool {
    let (fitted, _) = fit(&old.record);
    let record = &new.given.record;
    let has_same_metadata = fitted.metadata.len() == record.metadata.len()
        && fitted.metadata.iter().zip(&record.metadata).all(|(one, other)| one.0 == other.0 && is_same(one.1, other.1));
    let bits = |floats: &[f32]| floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>();
    let vector = fitted.embedding.map(|embedding| embedding.given()).unwrap_or_default();
    let is_there = old.owner == new.given.owner && fitted.id == record.id && fitted.document == record.document;
    is_there && has_same_metadata && bits(&vector) == bits(&new.raw)
}

impl Step {
    /// Says where the disk stands.
    pub fn observe(&self, workshop: &mut Workshop) -> Result<Observed> {
        workshop.observe(self)
    }

    /// Carries the step out.
    pub fn apply(&self, workshop: &mut Workshop) -> Result<()> {
        match self {
            Step::CreateStore { .. } => workshop.create(),
            Step::UpsertBatch(batch) => Ok(workshop.upsert(batch)?),
            Step::Verify { expected, .. } => Ok(workshop.verify(expected)?),
            Step::TakeIn { .. } => workshop.take_in(),
        }
    }

    /// Undoes the step.
    pub fn revert(&self, workshop: &mut Workshop) -> Result<()> {
        match self {
            Step::TakeIn { .. } => Ok(intake::drop_taken(workshop.disk, &workshop.intake)?),
            _ => Ok(workshop.discard()?),
        }
    }

    /// Bytes this step reads or writes.
    pub fn weight(&self) -> u64 {
        match self {
            Step::UpsertBatch(batch) => batch.bytes,
            Step::Verify { bytes, .. } | Step::TakeIn { bytes, .. } => *bytes,
            Step::CreateStore { .. } => 0,
        }
    }
}

/// Which model made the vectors of a collection, by MemPalace's own note in a palace of chromadb's.
pub(super) fn model(disk: &dyn Disk, palace: &Path, collection: &str) -> Option<String> {
    let note = disk.open(&palace.join(EMBEDDER_NOTE)).ok()?;
    let note: serde_json::Value = serde_json::from_reader(BufReader::new(disk::Reader::new(&*note))).ok()?;
    note[collection]["model_name"].as_str().map(str::to_owned)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateStore { .. } => write!(f, "make a new {DATABASE}"),
            Step::UpsertBatch(batch) => {
                write!(f, "copy {} records, rows {} to {}", batch.records, batch.first, batch.last)
            }
            Step::Verify { expected, .. } => {
                let records: u64 = expected.iter().map(|one| one.records).sum();
                write!(f, "prove that all {records} records are equal")
            }
            Step::TakeIn { records, .. } => write!(f, "read {records} records of {DATABASE}"),
        }
    }
}
