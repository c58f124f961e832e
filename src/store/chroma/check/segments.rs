//! HNSW segments at a glance: headers, sizes, and the pickle.

use super::code::Code;
use super::finding::Finding;
use crate::disk::{exists, is_directory};
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::hnsw::Hnsw;
use crate::store::chroma::unsound::CONTRADICTION;
use crate::store::chroma::{Collection, Part, Source, Unsound, pickle};
use rusqlite::params;
use std::path::Path;

pub(super) fn check(source: &Source, collections: &[Collection]) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for collection in collections {
        let found = glance(source, collection)?;
        findings.extend(found.iter().map(|unsound| finding(source, collection, unsound)));
    }
    Ok(findings)
}

/// A finding about a segment.
pub(super) fn finding(source: &Source, collection: &Collection, unsound: &Unsound) -> Finding {
    let directory = collection.segment_directory(source).unwrap_or_default();
    let code = match unsound.part {
        Part::Directory => Code::IndexMissing,
        Part::Header => Code::IndexHeader,
        Part::Level0 => Code::IndexLevel0,
        Part::Lengths => Code::IndexLengths,
        Part::Links => Code::IndexLinks,
        Part::Sparse => Code::IndexSparse,
        Part::Pickle => Code::IndexPickle,
        Part::Vectors => Code::VectorChanged,
        Part::Dimension | Part::Records => Code::IndexDiverged,
    };
    Finding::new(code, &*collection.name, format!("{}: {}", directory.display(), unsound.what))
}

/// What can be seen without reading vectors and links.
fn glance(source: &Source, collection: &Collection) -> Result<Vec<Unsound>, Error> {
    let has_persisted = collection.vector_sequence.is_some();
    let Some(directory) = collection.segment_directory(source) else { return Ok(Vec::new()) };
    if !is_directory(source.disk, &directory)? {
        let missing = Unsound::new(Part::Directory, "its directory is missing");
        return Ok(if has_persisted { vec![missing] } else { Vec::new() });
    }
    let pickle = directory.join("index_metadata.pickle");
    let hnsw = match Hnsw::open(source.disk, &directory) {
        Ok(hnsw) => hnsw,
        Err(error) if error.is_damage() => {
            let is_wanted = has_persisted || exists(source.disk, &pickle)?;
            return Ok(if is_wanted { vec![Unsound::from(&error)] } else { Vec::new() });
        }
        Err(error) => return Err(Error::Hnsw { path: directory, source: error }),
    };
    let mut unsound = Vec::new();
    match hnsw.check_sizes() {
        Ok(()) => {}
        Err(error) if error.is_damage() => unsound.push(Unsound::from(&error)),
        Err(source) => return Err(Error::Hnsw { path: directory, source }),
    }
    if hnsw.count() > 0 || has_persisted || exists(source.disk, &pickle)? {
        unsound.extend(glance_at_pickle(source, collection, &hnsw, &pickle)?);
    }
    Ok(unsound)
}

/// The pickle against the number of elements and of records.
fn glance_at_pickle(
    source: &Source,
    collection: &Collection,
    hnsw: &Hnsw,
    path: &Path,
) -> Result<Option<Unsound>, Error> {
    let (mut ids, mut labels, mut label_max, mut balance) = (0_i64, 0_i64, 0_i64, 0_u64);
    let summary = pickle::read(source.disk, path, &mut |pair| {
        balance = pair.weigh(balance);
        match pair {
            pickle::Pair::IdToLabel(_, label) => (ids, label_max) = (ids + 1, label_max.max(label)),
            pickle::Pair::LabelToId(..) => labels += 1,
        }
        Ok(())
    });
    let summary = match summary {
        Ok(summary) => summary,
        Err(error) if error.is_damage() => return Ok(Some(Unsound::new(Part::Pickle, error.to_string()))),
        Err(source) => return Err(Error::Pickle { path: path.to_owned(), source }),
    };
    let (count, added) = (hnsw.count() as i64, summary.total_elements_added);
    if ids > count && hnsw.holds(ids as u64) {
        let what = format!("header.bin: it counts {count} elements, and there are {ids}");
        return Ok(Some(Unsound::new(Part::Header, what)));
    }
    if ids != labels || ids > count || label_max > added || (ids == 0 && count > 0) {
        let what = format!("it maps {ids} ids and {labels} labels up to {label_max} of {added}, {count} elements");
        return Ok(Some(Unsound::new(Part::Pickle, what)));
    }
    if balance != 0 {
        return Ok(Some(Unsound::new(Part::Pickle, CONTRADICTION)));
    }
    let persisted = collection.vector_sequence.or(summary.max_seq_id).unwrap_or(0);
    diverged(source, collection, ids, persisted).during(&source.database, "counting records")
}

/// More records than there can be vectors for, or fewer than there must be for the vectors.
fn diverged(source: &Source, collection: &Collection, ids: i64, persisted: i64) -> rusqlite::Result<Option<Unsound>> {
    let count = |sql: &str, range: &dyn rusqlite::ToSql| {
        source.connection.query_row(sql, params![collection.topic, range], |row| row.get::<_, i64>(0))
    };
    let records = source.connection.query_row(
        "SELECT count(*) FROM embeddings WHERE segment_id = ?1",
        [&collection.metadata],
        |row| row.get::<_, i64>(0),
    )?;
    let behind = "SELECT count(*) FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2";
    let (written, deleted) = (
        count(&format!("{behind} AND operation <> 3"), &persisted)?,
        count(&format!("{behind} AND operation = 3"), &persisted)?,
    );
    let waiting = count(behind, &collection.metadata_sequence)?;
    let fits = records <= ids + written + waiting && records + deleted + waiting >= ids;
    let what = format!("{records} records, {ids} vectors, {written} writes and {deleted} deletions to come");
    Ok((!fits).then(|| Unsound::new(Part::Records, what)))
}
