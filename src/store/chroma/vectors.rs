//! Where the authoritative vector of each record is.
//!
//! The truth is the HNSW files as of the last persisted write, and then the queue, in order (CHROMA.md §2.5). The map
//! from record to place is kept in a temporary SQLite database, which spills to disk: memory does not grow with the
//! palace.

use super::catalog::{floats, persisted};
use super::database::prepare;
use super::error::{During, Error};
use super::history;
use super::hnsw::{self, Hnsw};
use super::intake::NORMALISED;
use super::labels;
use super::pickle::{self, Pair, Summary};
use super::spare;
use super::text::Text;
use super::unsound::{CONTRADICTION, Part, Unsound};
use super::vector::{Fault, Origin, Vector, normalise};
use super::{Collection, IndexShape, Source, Space};
use crate::disk::{exists, is_directory};
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};

/// The vectors of one collection.
pub(super) struct Vectors {
    collection: Collection,
    /// Where its segment lies, if it has one.
    directory: Option<PathBuf>,
    index: Connection,
    hnsw: Option<Hnsw>,
    /// Why the segment must not be taken over as it is.
    pub(super) unsound: Vec<Unsound>,
    /// The highest number of a write that the segment knows of.
    pub(super) persisted: i64,
    /// Other places that hold vectors of these records, asked in this order where this one has none.
    spares: Vec<Spare>,
}

/// Another place that holds vectors.
struct Spare {
    /// Which copy of the palace it is in, if it is in one.
    copy: Option<usize>,
    vectors: Vectors,
}

/// Where the vector of a record may be.
struct Places {
    /// The number of a write that waits in the queue; without a number it is a deletion.
    queued: Option<Option<i64>>,
    /// Its place in the segment.
    slot: Option<i64>,
    /// The number of the write that once put it there, and whether that is certain.
    past: Option<(i64, bool)>,
}

const TABLES: &str = "
    PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
    CREATE TABLE label (id TEXT PRIMARY KEY, label INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE element (label INTEGER PRIMARY KEY, slot INTEGER NOT NULL);
    BEGIN;";

impl Vectors {
    /// Finds every vector of a collection.
    pub(super) fn find(source: &Source, collection: &Collection) -> Result<Vectors, Error> {
        let mut vectors = Vectors::of(source, collection, collection.segment_directory(source))?;
        vectors.read_queue(source).during(&source.database, "reading its queue")?;
        for donor in source.donors_of(collection) {
            vectors.spares.push(Spare { copy: None, vectors: Vectors::find(source, &donor)? });
        }
        for (index, copy) in source.copies().iter().enumerate() {
            let mut same = Collection::all(copy)?.into_iter().filter(|other| other.name == collection.name);
            if let Some(other) = same.next().filter(|other| other.shape.space == collection.shape.space) {
                vectors.spares.push(Spare { copy: Some(index), vectors: Vectors::find(copy, &other)? });
            }
        }
        if !vectors.unsound.is_empty() || vectors.lacks_some(source)? {
            let segment = collection.vector.as_deref();
            let directories = segment.map(|segment| spare::directories(source.disk, source.palace(), segment));
            for directory in directories.transpose()?.unwrap_or_default() {
                vectors.spares.push(Spare { copy: None, vectors: Vectors::of(source, collection, Some(directory))? });
            }
        }
        Ok(vectors)
    }

    fn read_queue(&self, source: &Source) -> rusqlite::Result<()> {
        let Vectors { collection, index, unsound, persisted, .. } = self;
        history::read_queue(source, collection, *persisted, unsound, index)?;
        history::read_past(source, collection, *persisted, index)
    }

    /// The vectors that a segment holds by itself.
    fn of(source: &Source, collection: &Collection, directory: Option<PathBuf>) -> Result<Vectors, Error> {
        let index = Connection::open("").during(&source.database, "making a temporary index")?;
        prepare(&index)
            .and_then(|()| index.execute_batch(TABLES))
            .and_then(|()| index.execute_batch(history::TABLES))
            .during(&source.database, "making a temporary index")?;
        let (collection, unsound, spares) = (collection.clone(), Vec::new(), Vec::new());
        let mut vectors = Vectors { collection, directory, index, hnsw: None, unsound, persisted: 0, spares };
        let summary = match vectors.directory.clone() {
            Some(directory) if is_directory(source.disk, &directory)? => vectors.read_segment(source, &directory)?,
            _ if vectors.collection.vector_sequence.is_some() => {
                vectors.unsound.push(Unsound::new(Part::Directory, "its directory is missing"));
                None
            }
            _ => None,
        };
        vectors.persisted = persisted(&vectors.collection, summary.as_ref());
        Ok(vectors)
    }

    /// Whether there are more records than vectors for them.
    fn lacks_some(&self, source: &Source) -> Result<bool, Error> {
        let sql = "SELECT count(*) FROM embeddings WHERE segment_id = ?1";
        let records = source.connection.query_row(sql, [&self.collection.metadata], |row| row.get::<_, i64>(0));
        Ok(records.during(&source.database, "counting records")? > self.count(source)?)
    }

    /// How the graph over them is built.
    pub(super) fn shape(&self) -> IndexShape {
        self.collection.shape
    }

    /// Vectors there are, whether or not a record goes with them.
    pub(super) fn count(&self, source: &Source) -> Result<i64, Error> {
        let sql = "SELECT (SELECT count(*) FROM label WHERE id NOT IN (SELECT id FROM queued))
                        + (SELECT count(*) FROM queued WHERE seq_id IS NOT NULL)";
        self.index.query_row(sql, [], |row| row.get(0)).during(&source.database, "counting vectors")
    }

    /// Ids that have a vector, some at a time, in order: those after `after`.
    pub(super) fn ids_after(&self, source: &Source, after: &Text) -> Result<Vec<Text>, Error> {
        let ids = || {
            let mut query = self.index.prepare_cached(
                "SELECT id FROM label WHERE id > ?1 AND id NOT IN (SELECT id FROM queued)
                 UNION SELECT id FROM queued WHERE id > ?1 AND seq_id IS NOT NULL ORDER BY id LIMIT 512",
            )?;
            query.query_map([after], |row| row.get(0))?.collect::<rusqlite::Result<Vec<Text>>>()
        };
        ids().during(&source.database, "listing vectors")
    }

    /// The vector of a record; `None` where there is none, or it cannot be read.
    pub(super) fn get(&self, source: &Source, id: &Text) -> Result<Option<Vector>, Error> {
        let during = "reading a vector";
        let places = self.places(id).during(&source.database, during)?;
        match places.queued {
            Some(Some(sequence)) => return self.in_queue(source, sequence).during(&source.database, during),
            Some(None) => return Ok(None),
            None => {}
        }
        let stored = places.slot.map_or(Ok(None), |slot| self.in_segment(slot))?;
        let fault = stored.as_ref().and_then(|vector| vector.fault);
        // The queue may still hold the write that once put the vector there.
        let past = places.past.map_or(Ok(None), |past| self.in_past(source, past));
        let past = past.during(&source.database, during)?;
        // A direction that is known tells whether what is elsewhere is the same vector, with its length.
        let direction = stored.as_ref().filter(|stored| stored.lacks_length);
        let is_same = |other: &Vector| direction.is_none_or(|direction| direction.is_parallel(other));
        match (stored.as_ref().filter(|stored| stored.fault.is_none()), past) {
            (Some(stored), Some((past, true))) if !stored.is_alike(&past) => {
                return Ok(Some(Vector { fault: Some(Fault::Changed), ..past }));
            }
            (Some(_), _) => return Ok(stored),
            (None, Some((past, is_certain))) if is_certain || is_same(&past) => {
                return Ok(Some(Vector { fault, ..past }));
            }
            (None, _) => {}
        }
        let mut without_length = None;
        for spare in &self.spares {
            let Some(vector) = self.in_spare(source, spare, id)? else { continue };
            match vector.lacks_length {
                true => without_length = without_length.or(Some(Vector { fault, ..vector })),
                false if vector.is_whole() && is_same(&vector) => return Ok(Some(Vector { fault, ..vector })),
                false => {}
            }
        }
        Ok(stored.or(without_length))
    }

    /// What a spare has of a record, if it is of the right dimension.
    fn in_spare(&self, source: &Source, spare: &Spare, id: &Text) -> Result<Option<Vector>, Error> {
        let from = spare.copy.map_or(source, |index| &source.copies()[index]);
        let has_dimension = |vector: &Vector| self.collection.dimension.is_none_or(|n| vector.stored.len() as i64 == n);
        let found = spare.vectors.get(from, id)?.filter(has_dimension);
        // A vector with a fault that was found in a segment is no better than none.
        let found = found.filter(|vector| vector.lacks_length || vector.is_whole());
        Ok(found.map(|vector| Vector { origin: Origin::Spare(spare.vectors.place()), ..vector }))
    }

    /// Where the vector of a record may be. One query: every record is asked for, and most of what that takes is the
    /// asking.
    fn places(&self, id: &Text) -> rusqlite::Result<Places> {
        let sql = "SELECT q.id IS NOT NULL, q.seq_id, e.slot, p.seq_id, p.is_certain FROM (SELECT 1)
                   LEFT JOIN queued q ON q.id = ?1
                   LEFT JOIN label l ON l.id = ?1 LEFT JOIN element e ON e.label = l.label
                   LEFT JOIN past p ON p.id = ?1 AND p.seq_id IS NOT NULL";
        self.index.prepare_cached(sql)?.query_row([id], |row| {
            let is_queued: bool = row.get(0)?;
            let queued = if is_queued { Some(row.get(1)?) } else { None };
            let past = row.get::<_, Option<i64>>(3)?.zip(row.get(4)?);
            Ok(Places { queued, slot: row.get(2)?, past })
        })
    }

    /// The last write of a vector that the segment should hold, and whether that is certain.
    fn in_past(
        &self,
        source: &Source,
        (sequence, is_certain): (i64, bool),
    ) -> rusqlite::Result<Option<(Vector, bool)>> {
        let vector = self.in_queue(source, sequence)?;
        Ok(vector.map(|vector| (Vector { origin: Origin::History, ..vector }, is_certain)))
    }

    /// What a person calls the place these come from.
    fn place(&self) -> String {
        let name = self.directory.as_ref().map(|directory| directory.display().to_string());
        name.unwrap_or_else(|| self.collection.name.clone())
    }

    fn in_queue(&self, source: &Source, sequence: i64) -> rusqlite::Result<Option<Vector>> {
        let sql = "SELECT vector, encoding IS ?2 FROM embeddings_queue WHERE seq_id = ?1";
        let mut query = source.connection.prepare_cached(sql)?;
        let found = query.query_row(params![sequence, NORMALISED], |row| Ok((floats(row.get_ref(0)?), row.get(1)?)))?;
        let (Some(mut original), is_normalised) = found else { return Ok(None) };
        if is_normalised && let Some(length) = original.pop() {
            return Ok(Some(Vector {
                stored: original,
                length,
                origin: Origin::Queue,
                fault: None,
                lacks_length: false,
            }));
        }
        Ok(Some({
            let (stored, length) = match self.collection.shape.space {
                Space::Cosine => normalise(&original),
                Space::L2 | Space::InnerProduct => (original, 1.0),
            };
            Vector { stored, length, origin: Origin::Queue, fault: None, lacks_length: false }
        }))
    }

    fn in_segment(&self, slot: i64) -> Result<Option<Vector>, Error> {
        let Some(hnsw) = &self.hnsw else { return Ok(None) };
        let vector = hnsw.vector(slot as u64).map_err(|error| self.broken(error))?;
        Ok(vector.and_then(|(stored, length)| match self.collection.shape.space {
            Space::Cosine => Vector::of_cosine(stored, length),
            Space::L2 | Space::InnerProduct => {
                Some(Vector { stored, length: 1.0, origin: Origin::Segment, fault: None, lacks_length: false })
            }
        }))
    }

    fn broken(&self, error: hnsw::Error) -> Error {
        Error::Hnsw { path: self.directory.clone().unwrap_or_default(), source: error }
    }

    /// Reads the HNSW files and their pickle. What is wrong with them is noted, and what can be read is used.
    fn read_segment(&mut self, source: &Source, directory: &Path) -> Result<Option<Summary>, Error> {
        let hnsw = match Hnsw::open(source.disk, directory) {
            Ok(hnsw) => hnsw,
            Err(error) if !error.is_damage() => return Err(self.broken(error)),
            Err(error) => {
                // A directory that was never written to holds nothing to be missed.
                if self.collection.vector_sequence.is_some() || exists(source.disk, &directory.join(PICKLE))? {
                    self.unsound.push(Unsound::from(&error));
                }
                let Some(hnsw) = self.open_without_header(source, directory, &error) else { return Ok(None) };
                hnsw
            }
        };
        self.read_elements(source, &hnsw)?;
        match hnsw.inspect() {
            _ if !self.unsound.is_empty() => {} // what its header says is not known
            Ok(()) => {}
            Err(error) if error.is_damage() => self.unsound.push(Unsound::from(&error)),
            Err(error) => return Err(self.broken(error)),
        }
        if self.collection.dimension.is_some_and(|dimension| dimension as u64 != hnsw.dimension()) {
            let what = format!("its vectors have {} dimensions", hnsw.dimension());
            self.unsound.push(Unsound::new(Part::Dimension, what));
        }
        let has_elements = hnsw.count() > 0;
        self.hnsw = Some(hnsw);
        if !exists(source.disk, &directory.join(PICKLE))? {
            if has_elements || self.collection.vector_sequence.is_some() {
                self.unsound.push(Unsound::new(Part::Pickle, format!("{PICKLE} is missing")));
                self.prove_labels(source)?;
            }
            return Ok(None);
        }
        self.read_pickle(source, &directory.join(PICKLE))
    }

    fn open_without_header(&self, source: &Source, directory: &Path, error: &hnsw::Error) -> Option<Hnsw> {
        let dimension = self.collection.dimension.filter(|dimension| (1..1 << 16).contains(dimension))?;
        let is_lost = !self.unsound.is_empty() && error.part() == Part::Header;
        let open = || {
            Hnsw::open_without_header(source.disk, directory, [dimension as u64, self.collection.shape.links as u64])
        };
        if is_lost { open().ok() } else { None }
    }

    fn read_elements(&self, source: &Source, hnsw: &Hnsw) -> Result<(), Error> {
        let insert = self.index.prepare("INSERT OR IGNORE INTO element VALUES (?1, ?2)");
        let mut insert = insert.during(&source.database, "indexing vectors")?;
        hnsw.elements(&mut |elements| {
            for element in elements.iter().filter(|element| !element.is_deleted) {
                let inserted = insert.execute(params![element.label as i64, element.slot as i64]);
                inserted.during(&source.database, "indexing vectors")?;
            }
            Ok(())
        })
        .map_err(|error| self.broken(error))?
    }

    fn read_pickle(&mut self, source: &Source, path: &Path) -> Result<Option<Summary>, Error> {
        let insert = self.index.prepare("INSERT OR IGNORE INTO label VALUES (?1, ?2)");
        let mut insert = insert.during(&source.database, "indexing vectors")?;
        let (mut ids, mut labels, mut label_max, mut balance) = (0_i64, 0_i64, 0_i64, 0_u64);
        let summary = pickle::read(source.disk, path, &mut |pair| {
            balance = pair.weigh(balance);
            match pair {
                Pair::IdToLabel(id, label) => {
                    (ids, label_max) = (ids + 1, label_max.max(label));
                    let inserted = insert.execute(params![Text(id.to_vec()), label]);
                    inserted.map(drop).map_err(|error| pickle::Error::Receiver(error.to_string()))
                }
                Pair::LabelToId(..) => {
                    labels += 1;
                    Ok(())
                }
            }
        });
        let summary = match summary {
            Ok(summary) => summary,
            Err(error) if !error.is_damage() => {
                return Err(Error::Pickle { path: path.to_owned(), source: error });
            }
            Err(error) => {
                drop(insert);
                self.unsound.push(Unsound::new(Part::Pickle, format!("{PICKLE}: {error}")));
                self.prove_labels(source)?;
                return Ok(None);
            }
        };
        drop(insert);
        let (mut found, mut elements) = self.count_elements(source)?;
        if found < ids && self.recount(source, summary.total_elements_added)? {
            (found, elements) = self.count_elements(source)?;
        }
        if ids == labels && balance != 0 {
            self.unsound.push(Unsound::new(Part::Pickle, CONTRADICTION));
        }
        if ids != labels || ids != found || ids != elements || label_max > summary.total_elements_added {
            let what = format!(
                "{PICKLE} maps {ids} ids and {labels} labels up to {label_max} of {}, {found} to {elements} elements",
                summary.total_elements_added
            );
            self.unsound.push(Unsound::new(Part::Pickle, what));
            if found < elements {
                self.prove_labels(source)?;
            }
        }
        Ok(Some(summary))
    }

    /// Live elements that a record goes with, and all there are.
    fn count_elements(&self, source: &Source) -> Result<(i64, i64), Error> {
        let live = "SELECT (SELECT count(*) FROM label JOIN element USING (label)), (SELECT count(*) FROM element)";
        let live = self.index.query_row(live, [], |row| Ok((row.get(0)?, row.get(1)?)));
        live.during(&source.database, "indexing vectors")
    }

    /// Reads elements that the files hold and the header does not count. Says whether there are any.
    fn recount(&mut self, source: &Source, most: i64) -> Result<bool, Error> {
        let Some(mut hnsw) = self.hnsw.take() else { return Ok(false) };
        let before = hnsw.count();
        let is_more = hnsw.recount(most.max(0) as u64).map_err(|error| self.broken(error))?;
        if is_more {
            let what = format!("header.bin: it counts {before} elements, and there are {}", hnsw.count());
            self.unsound.retain(|unsound| unsound.part != Part::Header);
            self.unsound.push(Unsound::new(Part::Header, what));
            self.read_elements(source, &hnsw)?;
        }
        self.hnsw = Some(hnsw);
        Ok(is_more)
    }

    /// Finds the labels of the records without the pickle. What could be read of it stays where nothing can be proved.
    fn prove_labels(&mut self, source: &Source) -> Result<(), Error> {
        let Some(hnsw) = &self.hnsw else { return Ok(()) };
        let pairs = labels::prove(source, &self.collection, &self.index, hnsw)?;
        let insert = || {
            let mut insert = self.index.prepare("INSERT OR REPLACE INTO label VALUES (?1, ?2)")?;
            pairs.iter().try_for_each(|(id, label)| insert.execute(params![id, label]).map(drop))
        };
        insert().during(&source.database, "indexing vectors")?;
        if let Some(unsound) = self.unsound.last_mut().filter(|_| !pairs.is_empty()) {
            unsound.what.push_str(&format!("; the labels of {} records are proved by their order", pairs.len()));
        }
        Ok(())
    }
}

const PICKLE: &str = "index_metadata.pickle";
