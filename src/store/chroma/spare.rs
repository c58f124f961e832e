//! Segments that were set aside and may hold vectors that are nowhere else.
//!
//! MemPalace renames a segment it does not trust to `<segment>.drift-<time>` or `<segment>.corrupt-<time>`, and its own
//! backups lie beside the palace under names that begin with the palace's. Both are only read.

use super::file;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Endings of what MemPalace leaves beside a palace.
const COPIES: [&str; 4] = [".backup", ".old", ".pre-migrate.", ".pre-rebuild-"];

/// Directories that once were this segment, those in the palace first, in the order of their names.
pub(super) fn directories(palace: &Path, segment: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        quarantined(palace).into_iter().filter(|path| name(path).starts_with(&format!("{segment}."))).collect();
    let copies = copies(palace).into_iter().map(|copy| copy.join(segment));
    found.extend(copies.filter(|path| file::is_directory(path)));
    found
}

/// Segments in a palace that MemPalace has set aside.
pub(super) fn quarantined(palace: &Path) -> Vec<PathBuf> {
    directories_in(palace, |name| {
        let Some((segment, why)) = name.split_once('.') else { return false };
        uuid::Uuid::parse_str(segment).is_ok() && (why.starts_with("drift-") || why.starts_with("corrupt-"))
    })
}

/// What MemPalace's own repair, migrate and rebuild have left beside a palace.
pub fn copies(palace: &Path) -> Vec<PathBuf> {
    let (Some(parent), Some(palace)) = (palace.parent(), palace.file_name().and_then(OsStr::to_str)) else {
        return Vec::new();
    };
    directories_in(parent, |name| {
        name.strip_prefix(palace).is_some_and(|ending| COPIES.iter().any(|copy| ending.starts_with(copy)))
    })
}

/// The copy of this name beside a palace; no other directory is ever read because of a name (invariant I17).
pub(super) fn copy_named(palace: &Path, wanted: &str) -> Option<PathBuf> {
    copies(palace).into_iter().find(|copy| name(copy) == wanted)
}

fn directories_in(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| file::is_directory(path)).collect();
    found.retain(|path| is_wanted(&name(path)));
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
