//! Which segments a collection has lost the rows of: told by the records that both of them know.
//!
//! Records name the segment they belong to, a directory's pickle names its records, and the queue names those of a
//! collection. What a deleted collection left behind looks the same, so a segment is only adopted where that tells it
//! apart, and a new one is only made where none is left over that could be the right one.

use super::code::{Code, Remedy};
use super::finding::Finding;
use crate::store::chroma::hnsw::Hnsw;
use crate::store::chroma::{Amendment, Collection, Scope, Source, pickle};
use rusqlite::params;
use std::collections::BTreeSet;
use std::path::Path;

const PERSON: &str = "which of the segments that are left over is its own cannot be told; nothing is changed until a \
                      person has written the right row of segments";

/// Where a lost segment is.
enum Fate {
    /// It is this one.
    Found(String),
    /// Nothing is left over that could be it: there is nothing to lose, and a new one is made.
    Gone,
    /// It is one of these, or none of them.
    Unclear(Vec<String>),
}

/// Findings for each collection without one of its segments, or both, from what is left over of segments: directories
/// that no row names.
pub(super) fn check(
    source: &Source,
    collections: &[Collection],
    nameless: &[String],
) -> rusqlite::Result<Vec<Finding>> {
    let (mut findings, mut taken) = (Vec::new(), BTreeSet::new());
    // Those that can be told go first: what they take is no longer left over for the others.
    for collection in collections.iter().filter(|collection| collection.metadata.is_none()) {
        if let Fate::Found(segment) = find_metadata(source, collection, &BTreeSet::new())? {
            taken.insert(segment);
        }
    }
    for collection in collections {
        let mut metadata = collection.metadata.clone();
        if metadata.is_none() {
            let fate = find_metadata(source, collection, &taken)?;
            findings.push(finding(collection, Scope::Metadata, &fate));
            metadata = if let Fate::Found(segment) = fate { Some(segment) } else { None };
        }
        if collection.vector.is_none() {
            let fate = find_vectors(source, collection, metadata.as_deref(), nameless)?;
            findings.push(finding(collection, Scope::Vector, &fate));
        }
    }
    Ok(findings)
}

fn finding(collection: &Collection, scope: Scope, fate: &Fate) -> Finding {
    let finding = |what: String| {
        let evidence = format!("no segment of scope {}; {what}", scope.names()[1]);
        Finding::new(Code::CollectionSegments, &*collection.name, evidence)
    };
    match fate {
        Fate::Found(segment) => {
            let (collection, segment) = (collection.id.clone(), segment.clone());
            let what = format!("{segment} holds its records");
            finding(what).with_amendment(Amendment::Segment { collection, scope, segment })
        }
        Fate::Gone => finding("none is left over that could be it".into()),
        Fate::Unclear(some) => {
            finding(format!("left over are {}", some.join(", "))).with_remedy(Remedy::Person(PERSON))
        }
    }
}

/// The segment of its records, among those that records name and the catalogue does not.
fn find_metadata(source: &Source, collection: &Collection, taken: &BTreeSet<String>) -> rusqlite::Result<Fate> {
    let sql = "SELECT DISTINCT segment_id FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments)";
    let mut query = source.connection.prepare(sql)?;
    let left = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    if left.is_empty() {
        return Ok(Fate::Gone);
    }
    let mut known = queued(source, collection)?;
    if let Some(directory) = collection.segment_directory(source) {
        known.extend(named(source, &directory).unwrap_or_default());
    }
    let mut found = Vec::new();
    for segment in &left {
        let shared = count_of(source, segment, &known)?;
        if shared > 0 {
            found.push((shared, segment.clone()));
        }
    }
    let majority = |found: &[(usize, String)]| {
        let most = found.iter().filter(|(shared, _)| 2 * shared > known.len()).collect::<Vec<_>>();
        if let [(_, segment)] = *most { Some(segment.clone()) } else { None }
    };
    Ok(match (&*found, majority(&found)) {
        ([(_, segment)], _) => Fate::Found(segment.clone()),
        (_, Some(segment)) => Fate::Found(segment),
        ([], None) if !known.is_empty() => Fate::Gone,
        _ => {
            let left: Vec<String> = left.into_iter().filter(|segment| !taken.contains(segment)).collect();
            if left.is_empty() { Fate::Gone } else { Fate::Unclear(left) }
        }
    })
}

/// What the pickle in a directory says about its owner.
#[derive(PartialEq, Eq)]
enum Claim {
    /// It names this collection's records.
    Own,
    /// It names others, or holds nothing.
    Strange,
    /// It cannot be read.
    Unreadable,
}

/// The directory of its vectors, among those that no row of `segments` names.
fn find_vectors(
    source: &Source,
    collection: &Collection,
    metadata: Option<&str>,
    nameless: &[String],
) -> rusqlite::Result<Fate> {
    let (mut own, mut unreadable) = (Vec::new(), Vec::new());
    for name in nameless {
        match claim(source, metadata, name)? {
            Claim::Own => own.push(name.clone()),
            Claim::Unreadable => unreadable.push(name.clone()),
            Claim::Strange => {}
        }
    }
    // Since 1.0 chromadb takes a segment's number and settings out with its collection.
    let numbered = |names: &[String]| -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT EXISTS (SELECT 1 FROM max_seq_id WHERE segment_id = ?1)
                       OR EXISTS (SELECT 1 FROM segment_metadata WHERE segment_id = ?1)";
        let mut query = source.connection.prepare(sql)?;
        let mut found = Vec::new();
        for name in names {
            if query.query_row([name], |row| row.get(0))? {
                found.push(name.clone());
            }
        }
        Ok(found)
    };
    for names in [&own, &unreadable] {
        match &*numbered(names)? {
            [name] => return Ok(Fate::Found(name.clone())),
            [] => {}
            several => return Ok(Fate::Unclear(several.to_vec())),
        }
    }
    if is_all_queued(source, collection, metadata)? {
        return Ok(Fate::Gone);
    }
    Ok(match (&*own, &*unreadable) {
        ([name], _) => Fate::Found(name.clone()),
        ([], []) => Fate::Gone,
        ([], unclear) | (unclear, _) => Fate::Unclear(unclear.to_vec()),
    })
}

fn claim(source: &Source, metadata: Option<&str>, name: &str) -> rusqlite::Result<Claim> {
    let directory = source.directory.join(name);
    let Some(ids) = named(source, &directory) else {
        let is_empty = Hnsw::open(source.disk, &directory).is_ok_and(|hnsw| hnsw.count() == 0);
        return Ok(if is_empty { Claim::Strange } else { Claim::Unreadable });
    };
    let known = metadata.map_or(Ok(0), |segment| count_of(source, segment, &ids))?;
    Ok(if 2 * known > ids.len() { Claim::Own } else { Claim::Strange })
}

/// Whether the queue holds a vector for every record, as it does until a segment is first persisted.
fn is_all_queued(source: &Source, collection: &Collection, metadata: Option<&str>) -> rusqlite::Result<bool> {
    let sql = "SELECT NOT EXISTS (SELECT 1 FROM embeddings WHERE segment_id = ?1 AND embedding_id NOT IN
                   (SELECT id FROM embeddings_queue WHERE topic = ?2 AND vector IS NOT NULL))";
    source.connection.query_row(sql, params![metadata, collection.topic], |row| row.get(0))
}

/// Records that the queue writes to and does not delete again.
fn queued(source: &Source, collection: &Collection) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT id FROM (SELECT id, operation, max(seq_id) FROM embeddings_queue WHERE topic = ?1 GROUP BY id)
               WHERE operation <> 3 AND typeof(id) = 'text'";
    source.connection.prepare(sql)?.query_map([&collection.topic], |row| row.get(0))?.collect()
}

/// Records that the pickle in a directory names; `None` where it cannot be read.
fn named(source: &Source, directory: &Path) -> Option<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    let read = pickle::read(source.disk, &directory.join("index_metadata.pickle"), &mut |pair| {
        if let pickle::Pair::IdToLabel(id, _) = pair {
            ids.insert(String::from_utf8_lossy(id).into_owned());
        }
        Ok(())
    });
    read.is_ok().then_some(ids)
}

/// How many of these records a segment has.
fn count_of(source: &Source, segment: &str, ids: &BTreeSet<String>) -> rusqlite::Result<usize> {
    let sql = "SELECT count(*) FROM embeddings WHERE segment_id = ?1 AND embedding_id = ?2";
    let mut query = source.connection.prepare(sql)?;
    let mut count = 0;
    for id in ids {
        count += usize::from(query.query_row([segment, id], |row| row.get::<_, i64>(0))? > 0);
    }
    Ok(count)
}
