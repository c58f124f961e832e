//! Reads a whole palace once: what it holds, how it can be carried over in batches, and what cannot.
//!
//! The same survey is taken of the old store before a plan is made and of the new one before it is committed; the two
//! must say the same (invariant I10).

use super::digest::{Digest, Hasher};
use super::error::{During, Error};
use super::loss::Loss;
use super::records::{self, Head};
use super::text::Text;
use super::unsound::{Part, Unsound};
use super::vector::{Fault, Origin};
use super::vectors::Vectors;
use super::{Collection, Source};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How large the parts of the work may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of rows and vectors in one batch; a record larger than this is a batch by itself.
    pub batch_bytes: u64,
}

impl Default for Limits {
    /// Large enough that one SQLite transaction for each costs nothing, small enough to be done again after a kill.
    fn default() -> Limits {
        Limits { batch_bytes: 16 << 20 }
    }
}

/// What a palace holds.
pub struct Survey {
    /// Its collections, in the order chromadb lists them.
    pub collections: Vec<Surveyed>,
    /// Rows of collections that were deleted: several versions of chromadb leave them behind, and a rebuild deletes
    /// nothing.
    pub unowned: Totals,
    /// All readable records, in runs.
    pub batches: Vec<Batch>,
    /// Sequence numbers in the queue, in runs.
    pub queue: Vec<QueueBatch>,
    /// What cannot be carried over.
    pub losses: Vec<Loss>,
    /// Vectors that are not as they were in their segment.
    pub flaws: Vec<Flaw>,
    /// The highest sequence number in use anywhere.
    pub sequence_max: i64,
    /// The highest sequence number in the queue.
    pub queue_max: i64,
}

/// A collection and what it holds.
pub struct Surveyed {
    /// The collection.
    pub collection: Collection,
    /// What it holds.
    pub totals: Totals,
    /// Why its segment must not be taken over as it is; empty where it may.
    pub unsound: Vec<Unsound>,
    /// Vectors that were not where they should be, by where they were.
    pub restored: BTreeMap<Origin, u64>,
    /// The last write its segment knows of.
    pub persisted: i64,
}

/// Counts and digests of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records.
    pub records: u64,
    /// Records that have a vector.
    pub vectors: u64,
    /// Bytes of rows.
    pub row_bytes: u64,
    /// Bytes of vectors.
    pub vector_bytes: u64,
    /// Writes that are acknowledged and not applied yet.
    pub pending: u64,
    /// Digest of all records and pending writes.
    pub digest: Digest,
}

/// A vector that is not as it was in its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Name of its collection.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// What is wrong with it.
    pub fault: Fault,
    /// Where it is carried over from; its own segment where it is nowhere else.
    pub origin: Origin,
}

/// A run of records: all that lie between two rows of `embeddings`, both included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// First row.
    pub first: i64,
    /// Last row.
    pub last: i64,
    /// Records in the run.
    pub records: u64,
    /// Bytes of rows and vectors.
    pub bytes: u64,
}

/// A run of rows of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueBatch {
    /// First sequence number.
    pub first: i64,
    /// Last sequence number.
    pub last: i64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the rows.
    pub bytes: u64,
}

/// Reads a palace from end to end. `watch` is told of every record.
pub fn survey(source: &Source, limits: Limits, watch: &mut dyn FnMut()) -> Result<Survey, Error> {
    let collections = Collection::all(source)?;
    let vectors: Vec<Vectors> =
        collections.iter().map(|collection| Vectors::find(source, collection)).collect::<Result<_, _>>()?;
    let mut surveyor = Surveyor {
        source,
        limits,
        collections: &collections,
        vectors: &vectors,
        totals: vec![Totals::default(); collections.len()],
        restored: vec![BTreeMap::new(); collections.len()],
        flaws: Vec::new(),
        unowned: Totals::default(),
        batches: Vec::new(),
        open: Batch::default(),
        losses: Vec::new(),
        dangling: BTreeSet::new(),
    };
    surveyor.read_records(watch)?;
    surveyor.read_pending().during(&source.database, "reading its queue")?;
    surveyor.find_orphans()?;
    surveyor.find_strangers().during(&source.database, "looking for what chromadb did not write")?;
    let Surveyor { totals, unowned, batches, mut losses, dangling, mut restored, flaws, .. } = surveyor;
    losses.extend(source.losses());
    losses.sort();
    losses.dedup();
    let mut surveyed = Vec::new();
    let parts = collections.into_iter().zip(vectors).zip(totals).enumerate();
    for (owner, ((collection, vectors), totals)) in parts {
        let (mut unsound, persisted) = (vectors.unsound, vectors.persisted);
        let restored = std::mem::take(&mut restored[owner]);
        if dangling.contains(&owner) {
            unsound.push(Unsound::new(Part::Records, "it holds vectors without records"));
        }
        // Also one that keeps its direction gets another length.
        let is_replaced = |flaw: &Flaw| flaw.origin != Origin::Segment || flaw.fault == Fault::Length;
        let mut replaced = flaws.iter().filter(|flaw| flaw.collection == collection.name && is_replaced(flaw));
        if unsound.is_empty() && replaced.next().is_some() {
            unsound.push(Unsound::new(Part::Vectors, "vectors are not as they were written"));
        }
        if unsound.is_empty() && restored.values().sum::<u64>() > 0 {
            unsound.push(Unsound::new(Part::Records, "it lacks vectors that are elsewhere"));
        }
        surveyed.push(Surveyed { collection, totals, unsound, restored, persisted });
    }
    let queue = queue(source, limits).during(&source.database, "reading its queue")?;
    let queue_max = queue.last().map_or(0, |batch| batch.last);
    let known = surveyed.iter().flat_map(|one| [one.collection.metadata_sequence, one.persisted]);
    let sequence_max = known.max().unwrap_or(0).max(queue_max);
    Ok(Survey { collections: surveyed, unowned, batches, queue, losses, flaws, sequence_max, queue_max })
}

struct Surveyor<'s> {
    source: &'s Source<'s>,
    limits: Limits,
    collections: &'s [Collection],
    vectors: &'s [Vectors],
    totals: Vec<Totals>,
    restored: Vec<BTreeMap<Origin, u64>>,
    flaws: Vec<Flaw>,
    unowned: Totals,
    batches: Vec<Batch>,
    open: Batch,
    losses: Vec<Loss>,
    /// Collections, by index, that hold a vector whose record is nowhere or cannot be read.
    dangling: BTreeSet<usize>,
}

impl Surveyor<'_> {
    /// Goes on from what was really read; a read that finds nothing ends it.
    fn read_records(&mut self, watch: &mut dyn FnMut()) -> Result<(), Error> {
        let mut after = i64::MIN;
        loop {
            let heads = records::after(&self.source.connection, after);
            let heads = heads.during(&self.source.database, "reading its records")?;
            if heads.is_empty() {
                break;
            }
            for head in heads {
                after = self.read_record(head)?;
                watch();
            }
        }
        self.close_batch();
        Ok(())
    }

    fn read_record(&mut self, head: Head) -> Result<i64, Error> {
        let mut hasher = Hasher::default();
        let row_bytes = records::hash(self.source, &head, &mut hasher);
        let row_bytes = row_bytes.during(&self.source.database, "reading its records")?;
        let owner = self.collections.iter().position(|collection| collection.metadata.as_ref() == Some(&head.segment));
        let Some(owner) = owner else {
            hasher.bytes(b'S', head.segment.as_bytes());
            self.unowned.digest.add(hasher.finish());
            self.unowned.records += 1;
            return Ok(self.take(head.rowid, row_bytes));
        };
        let vector = self.vectors[owner].get(self.source, &head.id)?;
        let totals = &mut self.totals[owner];
        let mut bytes = row_bytes;
        match &vector {
            Some(vector) => {
                vector.hash(&mut hasher);
                match vector.origin() {
                    Origin::Segment | Origin::Queue => {}
                    origin => *self.restored[owner].entry(origin.clone()).or_default() += 1,
                }
                if let Some(fault) = vector.fault() {
                    let (collection, id) = (self.collections[owner].name.clone(), head.id.to_string());
                    self.flaws.push(Flaw { collection, id, fault, origin: vector.origin().clone() });
                }
                if vector.lacks_length() {
                    let (collection, id) = (self.collections[owner].name.clone(), head.id.to_string());
                    self.losses.push(Loss::Length { collection, id });
                }
                bytes += vector.bytes();
                totals.vectors += 1;
                totals.vector_bytes += vector.bytes();
            }
            None if self.is_pending(owner, &head.id)? => {}
            None => {
                let (collection, id) = (self.collections[owner].name.clone(), head.id.to_string());
                self.losses.push(Loss::Vector { collection, id });
            }
        }
        let totals = &mut self.totals[owner];
        totals.digest.add(hasher.finish());
        totals.records += 1;
        totals.row_bytes += row_bytes;
        Ok(self.take(head.rowid, bytes))
    }

    /// Takes a record into the open batch.
    fn take(&mut self, rowid: i64, bytes: u64) -> i64 {
        if self.open.records == 0 {
            self.open.first = rowid;
        }
        self.open.last = rowid;
        self.open.records += 1;
        self.open.bytes += bytes;
        if self.open.bytes >= self.limits.batch_bytes {
            self.close_batch();
        }
        rowid
    }

    fn close_batch(&mut self) {
        let batch = std::mem::take(&mut self.open);
        if batch.records > 0 {
            self.batches.push(batch);
        }
    }

    /// Whether a write to this record waits in the queue: then its vector may be ahead of its row.
    fn is_pending(&self, owner: usize, id: &Text) -> Result<bool, Error> {
        let collection = &self.collections[owner];
        let sql = "SELECT EXISTS (SELECT 1 FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2 AND id = ?3)";
        let range = params![collection.topic, collection.metadata_sequence, id];
        let found =
            self.source.connection.prepare_cached(sql).and_then(|mut query| query.query_row(range, |row| row.get(0)));
        found.during(&self.source.database, "reading its queue")
    }

    /// Hashes the writes that wait in the queue, each with its place in the order.
    fn read_pending(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT operation, id, vector, encoding, metadata FROM embeddings_queue
                   WHERE topic = ?1 AND seq_id > ?2 ORDER BY seq_id";
        for (collection, totals) in self.collections.iter().zip(&mut self.totals) {
            let mut query = self.source.connection.prepare_cached(sql)?;
            let mut rows = query.query(params![collection.topic, collection.metadata_sequence])?;
            while let Some(row) = rows.next()? {
                let mut hasher = Hasher::default();
                hasher.bytes(b'P', &totals.pending.to_le_bytes());
                for column in 0..5 {
                    hasher.value(row.get_ref(column)?);
                }
                totals.digest.add(hasher.finish());
                totals.pending += 1;
            }
        }
        Ok(())
    }

    /// Vectors without a record; counted first, since a sound palace has none.
    fn find_orphans(&mut self) -> Result<(), Error> {
        for (owner, collection) in self.collections.iter().enumerate() {
            let vectors = &self.vectors[owner];
            if vectors.count(self.source)? as u64 == self.totals[owner].vectors {
                continue;
            }
            let segment = collection.metadata.as_deref().unwrap_or_default();
            let mut ids = vectors.ids_after(self.source, &Text::default())?;
            while let Some(last) = ids.last().cloned() {
                for id in ids {
                    let exists = records::exists(&self.source.connection, segment, &id);
                    let exists = exists.during(&self.source.database, "looking for records")?;
                    if !exists && !self.is_pending(owner, &id)? {
                        self.dangling.insert(owner);
                        self.losses.push(Loss::Orphan { collection: collection.name.clone(), id: id.to_string() });
                    }
                }
                ids = vectors.ids_after(self.source, &last)?;
            }
        }
        Ok(())
    }

    /// Rows and tables that no collection accounts for.
    fn find_strangers(&mut self) -> rusqlite::Result<()> {
        let connection = &self.source.connection;
        for table in ["embedding_metadata", "embedding_metadata_array"] {
            let orphans = format!(
                "SELECT count(*) FROM {table} m WHERE NOT EXISTS (SELECT 1 FROM embeddings e WHERE e.id = m.id)"
            );
            // A table that is not there has no rows; one that cannot be read to its end was reported record by record.
            if let Ok(rows @ 1..) = connection.query_row(&orphans, [], |row| row.get::<_, i64>(0)) {
                self.losses.push(Loss::Unowned { table: table.into(), rows });
            }
        }
        self.losses.extend(strangers(self.source)?.into_iter().map(|name| Loss::Stranger { name }));
        Ok(())
    }
}

/// Tables, columns, indexes, views and triggers that chromadb did not make.
pub(super) fn strangers(source: &Source) -> rusqlite::Result<Vec<String>> {
    let mut strangers = source.format.strange_columns(&source.connection)?;
    let mut objects = source.connection.prepare("SELECT name FROM sqlite_master WHERE sql IS NOT NULL")?;
    for name in objects.query_map([], |row| row.get::<_, String>(0))? {
        let name = name?;
        let is_shadow = ["data", "idx", "content", "docsize", "config"]
            .iter()
            .any(|part| name.strip_prefix("embedding_fulltext_search_") == Some(part));
        let is_sqlite = name.starts_with("sqlite_") || is_shadow;
        if !is_sqlite && name != "acquire_write" && !source.format.makes(&name) {
            strangers.push(name);
        }
    }
    Ok(strangers)
}

/// Cuts the queue into runs.
fn queue(source: &Source, limits: Limits) -> rusqlite::Result<Vec<QueueBatch>> {
    let bytes = "coalesce(length(vector), 0) + coalesce(octet_length(metadata), 0) + octet_length(id) + 64";
    let sql = format!("SELECT seq_id, {bytes} FROM embeddings_queue ORDER BY seq_id");
    let mut query = source.connection.prepare(&sql)?;
    let mut rows = query.query([])?;
    let mut batches: Vec<QueueBatch> = Vec::new();
    while let Some(row) = rows.next()? {
        let (sequence, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
        match batches.last_mut() {
            Some(batch) if batch.bytes < limits.batch_bytes => {
                batch.last = sequence;
                batch.rows += 1;
                batch.bytes += bytes as u64;
            }
            _ => batches.push(QueueBatch { first: sequence, last: sequence, rows: 1, bytes: bytes as u64 }),
        }
    }
    Ok(batches)
}
