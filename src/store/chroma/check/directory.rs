//! What lies in the palace's directory, and beside it.

use super::code::Code;
use super::finding::Finding;
use crate::disk::is_directory;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::{Preparation, Source, copies, spare};
use crate::store::scratch::Room;
use std::collections::BTreeSet;
use std::path::Path;

pub(super) fn check(source: &Source, room: &Room) -> Result<Vec<Finding>, Error> {
    let nameless = nameless(source)?;
    let orphan = |name: String| Finding::new(Code::SegmentOrphan, name, "no row of segments names it");
    let mut findings: Vec<Finding> = nameless.into_iter().map(orphan).collect();
    for directory in spare::quarantined(source.disk, &source.directory)? {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        findings.push(Finding::new(Code::SegmentQuarantined, name, directory.display().to_string()));
    }
    findings.extend(spare::copies(source.disk, &source.directory)?.iter().map(|copy| compared(source, copy, room)));
    Ok(findings)
}

/// A copy, and whether it holds what the palace has not.
fn compared(source: &Source, copy: &Path, room: &Room) -> Finding {
    let name = copy.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let surplus = Source::open(copy, room, &Preparation::default()).and_then(|copy| copies::surplus(source, &copy));
    match surplus {
        Ok(surplus) if surplus.ids.is_empty() && surplus.pending == 0 => {
            Finding::new(Code::LeftoverCopy, name, format!("{}: the palace has all of it", copy.display()))
        }
        Ok(surplus) => {
            let (ids, pending) = (surplus.ids.len(), surplus.pending);
            let evidence = format!("{}: {ids} records, {pending} writes that wait", copy.display());
            Finding::new(Code::LeftoverRicher, name, evidence).with_ids(surplus.ids)
        }
        Err(error) => {
            Finding::new(Code::LeftoverCopy, name, format!("{}: it cannot be compared: {error}", copy.display()))
        }
    }
}

/// Directories under a UUID that no row of segments names, in the order of their names.
pub(super) fn nameless(source: &Source) -> Result<Vec<String>, Error> {
    let named = named(source).during(&source.database, "reading its segments")?;
    let mut found = Vec::new();
    for name in source.disk.list(&source.directory)?.into_iter().filter_map(|name| name.into_string().ok()) {
        let is_segment = uuid::Uuid::parse_str(&name).is_ok() && !named.contains(&name);
        if is_segment && is_directory(source.disk, &source.directory.join(&name))? {
            found.push(name);
        }
    }
    Ok(found)
}

fn named(source: &Source) -> rusqlite::Result<BTreeSet<String>> {
    let mut query = source.connection.prepare("SELECT id FROM segments")?;
    query.query_map([], |row| row.get(0))?.collect()
}
