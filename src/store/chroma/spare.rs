//! Segments that were set aside and may hold vectors that are nowhere else.
//!
//! MemPalace renames a segment it does not trust to `<segment>.drift-<time>` or `<segment>.corrupt-<time>`, and its own
//! backups lie beside the palace under names that begin with the palace's. Both are only read.

use super::error::Error;
use crate::disk::{Disk, is_directory};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Endings of what MemPalace leaves beside a palace.
const COPIES: [&str; 4] = [".backup", ".old", ".pre-migrate.", ".pre-rebuild-"];

/// Directories that once were this segment, those in the palace first, in the order of their names.
pub(super) fn directories(disk: &dyn Disk, palace: &Path, segment: &str) -> Result<Vec<PathBuf>, Error> {
    let mut found = quarantined(disk, palace)?;
    found.retain(|path| name(path).starts_with(&format!("{segment}.")));
    let copies = copies(disk, palace)?.into_iter().map(|copy| copy.join(segment));
    found.extend(seen(disk, copies)?);
    Ok(found)
}

/// Segments in a palace that MemPalace has set aside.
pub(super) fn quarantined(disk: &dyn Disk, palace: &Path) -> Result<Vec<PathBuf>, Error> {
    directories_in(disk, palace, |name| {
        let Some((segment, why)) = name.split_once('.') else { return false };
        uuid::Uuid::parse_str(segment).is_ok() && (why.starts_with("drift-") || why.starts_with("corrupt-"))
    })
}

/// What MemPalace's own repair, migrate and rebuild have left beside a palace.
pub fn copies(disk: &dyn Disk, palace: &Path) -> Result<Vec<PathBuf>, Error> {
    let (Some(parent), Some(palace)) = (palace.parent(), palace.file_name().and_then(OsStr::to_str)) else {
        return Ok(Vec::new());
    };
    directories_in(disk, parent, |name| {
        name.strip_prefix(palace).is_some_and(|ending| COPIES.iter().any(|copy| ending.starts_with(copy)))
    })
}

/// The copy of this name beside a palace; no other directory is ever read because of a name (invariant I17).
pub(super) fn copy_named(disk: &dyn Disk, palace: &Path, wanted: &str) -> Result<Option<PathBuf>, Error> {
    Ok(copies(disk, palace)?.into_iter().find(|copy| name(copy) == wanted))
}

/// Nothing where this user may not look: what is not ours to see is not ours to save. Whatever else keeps us from
/// looking must not pass for there being nothing.
fn directories_in(disk: &dyn Disk, directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
    let names = match disk.list(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Vec::new(),
        names => names.map_err(|error| Error::Scratch { path: directory.to_owned(), source: error.into() })?,
    };
    seen(disk, names.iter().map(|name| directory.join(name)).filter(|path| is_wanted(&name(path))))
}

/// Those of some paths that are directories which this user may see.
fn seen(disk: &dyn Disk, paths: impl Iterator<Item = PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for path in paths {
        match is_directory(disk, &path) {
            Ok(true) => found.push(path),
            Err(error) if error.kind() != ErrorKind::PermissionDenied => return Err(error.into()),
            Ok(false) | Err(_) => {}
        }
    }
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
