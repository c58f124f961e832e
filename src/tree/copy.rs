//! Copies that are whole or not there: built under a `.part` name, synced, then renamed.

use super::Error;
use crate::disk::{Disk, Kind, parent, remove_tree};
use std::path::{Path, PathBuf};

/// Where a copy to `target` is being built.
pub(super) fn part(target: &Path) -> PathBuf {
    let mut name = target.file_name().expect("a copy has a name").to_owned();
    name.push(".part");
    target.with_file_name(name)
}

/// Copies the named entries of `source` into a new directory `target`, durably.
pub(super) fn copy_entries(disk: &dyn Disk, source: &Path, names: &[String], target: &Path) -> Result<(), Error> {
    let part = part(target);
    remove_tree(disk, &part)?;
    disk.create_dir(&part)?;
    disk.adopt(&part, source)?;
    for name in names {
        copy_entry(disk, &source.join(name), &part.join(name))?;
    }
    disk.sync(&part)?;
    disk.rename(&part, target)?;
    disk.sync(parent(target))?;
    Ok(())
}

/// One file, or a directory with all below it, synced; the entry itself is the caller's to sync.
fn copy_entry(disk: &dyn Disk, source: &Path, target: &Path) -> Result<(), Error> {
    match disk.stat(source)?.map(|stat| stat.kind) {
        Some(Kind::Directory) => {
            disk.create_dir(target)?;
            disk.adopt(target, source)?;
            for name in disk.list(source)? {
                copy_entry(disk, &source.join(&name), &target.join(&name))?;
            }
        }
        Some(Kind::Other) => return Err(Error::NotAFile { path: source.to_owned() }),
        _ => disk.copy(source, target)?,
    }
    disk.sync(target)?;
    Ok(())
}
