//! Proves that a new store is equal to what was read from the old one, by reading it like any other palace.

use super::blueprint::{Blueprint, Route};
use super::check;
use super::error::{During, Error};
use super::{Digest, Limits, Loss, Preparation, Source, Survey, Totals, survey};
use crate::disk::{self, Contents, Disk};
use crate::store::scratch::Room;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// What the new store has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its collections, in the order of the blueprint.
    pub collections: Vec<ExpectedCollection>,
    /// Rows that no collection owns, carried over as they are.
    pub unowned: ExpectedCollection,
    /// Bytes there are to read.
    pub bytes: u64,
    /// Things that no store should hold, and that an amended one keeps because the old one held them.
    pub left: u64,
    /// Codes of the findings that must not be found in it.
    pub mended: Vec<String>,
}

/// What a collection of the new store has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedCollection {
    /// Records.
    pub records: u64,
    /// Records with a vector.
    pub vectors: u64,
    /// Writes that wait to be applied.
    pub pending: u64,
    /// Digest of its records and pending writes.
    pub digest: Digest,
}

impl From<Totals> for ExpectedCollection {
    fn from(totals: Totals) -> ExpectedCollection {
        let Totals { records, vectors, pending, digest, .. } = totals;
        ExpectedCollection { records, vectors, pending, digest }
    }
}

/// Reads the store in `staging` and compares: contents by digest, copied segments by byte, and the numbers that
/// chromadb depends on.
pub(super) fn verify(
    palace: &Path,
    staging: &Path,
    room: &Room,
    blueprint: &Blueprint,
    expected: &Expected,
) -> Result<(), Error> {
    let source = Source::open(staging, room, &Preparation::default())?.with_segments_in(palace)?;
    check_pages(&source)?;
    let found = survey(&source, Limits::default(), &mut || ())?;
    check_contents(&found, blueprint, expected)?;
    // A vector that was lost is known by now from the counts; nothing else may be missing, or be too much.
    let mut strange = found.losses.iter().filter(|loss| !matches!(loss, Loss::Vector { .. }));
    if let Some(loss) = strange.nth(expected.left as usize) {
        return Err(Error::NotEqual(loss.to_string()));
    }
    for (found, new) in found.collections.iter().zip(&blueprint.collections).filter(|(_, new)| new.route != Route::Kept)
    {
        if let Some(why) = found.unsound.first() {
            return Err(Error::NotEqual(format!("the index of “{}” is not sound: {why}", new.name)));
        }
    }
    check_documents(&source)?;
    check_findings(&source, &found, room, &expected.mended)?;
    if found.sequence_max > found.queue_max {
        return Err(Error::NotEqual("chromadb would drop the next write to it (rule R2)".into()));
    }
    for collection in blueprint.collections.iter().filter(|one| one.route == Route::Segment) {
        if let Some(old) = &collection.vector.old {
            check_segment(room.disk, &palace.join(old), &staging.join(&collection.vector.new))?;
        }
    }
    Ok(())
}

/// Nothing of what was to be mended may be found again.
fn check_findings(source: &Source, found: &Survey, room: &Room, mended: &[String]) -> Result<(), Error> {
    if mended.is_empty() {
        return Ok(());
    }
    let again = check::again(source, found, room)?;
    let again = again.into_iter().find(|finding| mended.iter().any(|code| code == finding.code.name()));
    let what = |finding: check::Finding| format!("{} is still there: {}", finding.code.name(), finding.evidence);
    again.map_or(Ok(()), |finding| Err(Error::NotEqual(what(finding))))
}

fn check_contents(found: &Survey, blueprint: &Blueprint, expected: &Expected) -> Result<(), Error> {
    if found.collections.len() != expected.collections.len() {
        return Err(Error::NotEqual(format!("it has {} collections", found.collections.len())));
    }
    let pairs = blueprint.collections.iter().zip(&expected.collections);
    for ((new, expected), found) in pairs.zip(&found.collections) {
        let held = ExpectedCollection::from(found.totals);
        if held != *expected || found.collection.id != new.id.new {
            let what = format!("collection “{}” holds {held:?} instead of {expected:?}", new.name);
            return Err(Error::NotEqual(what));
        }
    }
    let unowned = ExpectedCollection::from(found.unowned);
    match unowned == expected.unowned {
        true => Ok(()),
        false => {
            Err(Error::NotEqual(format!("rows without a collection: {unowned:?} instead of {:?}", expected.unowned)))
        }
    }
}

/// SQLite's own check of its pages. The full-text index is left out: it was written just now, and reading it all
/// again would cost as much as writing it did.
fn check_pages(source: &Source) -> Result<(), Error> {
    for table in ["collections", "segments", "embeddings", "embedding_metadata", "embeddings_queue", "max_seq_id"] {
        let check = || {
            let sql = format!("PRAGMA quick_check({table})");
            source.connection.query_row(&sql, [], |row| row.get::<_, String>(0))
        };
        match check().during(&source.database, "checking its pages")?.as_str() {
            "ok" => {}
            what => return Err(Error::NotEqual(format!("table {table}: {what}"))),
        }
    }
    Ok(())
}

/// Every document must be in the full-text index, and nothing else but what chromadb 0.4 leaves there of records that
/// are gone.
fn check_documents(source: &Source) -> Result<(), Error> {
    let sql =
        "SELECT (SELECT count(*) FROM embedding_metadata WHERE key = 'chroma:document' AND string_value IS NOT NULL),
                      (SELECT count(*) FROM embedding_fulltext_search_docsize WHERE id IN (SELECT id FROM embeddings))";
    let counts = source.connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (documents, indexed): (i64, i64) = counts.during(&source.database, "counting documents")?;
    match documents == indexed {
        true => Ok(()),
        false => Err(Error::NotEqual(format!("{indexed} of {documents} documents are in the full-text index"))),
    }
}

/// A copied segment is the old one byte for byte, graph and all.
fn check_segment(disk: &dyn Disk, old: &Path, new: &Path) -> Result<(), Error> {
    match is_same_tree(disk, old, new) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NotEqual(format!("segment {} is not a copy of {}", new.display(), old.display()))),
        Err(error) => Err(Error::NotEqual(format!("segment {} cannot be compared: {error}", old.display()))),
    }
}

fn is_same_tree(disk: &dyn Disk, old: &Path, new: &Path) -> io::Result<bool> {
    if !disk::is_directory(disk, old)? {
        return is_equal(&*disk.open(old)?, &*disk.open(new)?);
    }
    let names = disk.list(old)?;
    for name in &names {
        if !is_same_tree(disk, &old.join(name), &new.join(name))? {
            return Ok(false);
        }
    }
    Ok(names.len() == disk.list(new)?.len())
}

fn is_equal(old: &dyn Contents, new: &dyn Contents) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let (read, same) = (old.read_up_to(&mut left, at)?, new.read_up_to(&mut right, at)?);
        if left[..read] != right[..same] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
        at += read as u64;
    }
}
