//! Copies that are whole or not there: built under a `.part` name, synced, then renamed.

use super::step::rename;
use super::{Copy, Error, Roots};
use crate::disk::{Disk, Kind, parent, remove_tree};
use std::path::{Path, PathBuf};

/// Where a copy to `target` is being built.
pub(super) fn part(target: &Path) -> PathBuf {
    let mut name = target.file_name().expect("a copy has a name").to_owned();
    name.push(".part");
    target.with_file_name(name)
}

/// Makes a copy, durably.
pub(super) fn make(roots: &Roots, copy: &Copy) -> Result<(), Error> {
    let (disk, source, target) = (roots.disk, &roots.directory(&copy.source)?, &roots.path(&copy.target)?);
    let entries = match copy.names.as_slice() {
        [] => disk.list(source)?.into_iter().map(|name| (name.clone(), source.join(name))).collect(),
        names => {
            let entries = names.iter().map(|name| Ok((name.into(), roots.entry(&copy.source, name)?)));
            entries.collect::<Result<Vec<_>, Error>>()?
        }
    };
    let part = part(target);
    remove_tree(disk, &part)?;
    disk.create_dir(&part)?;
    for (name, entry) in entries {
        copy_entry(disk, &entry, &part.join(name))?;
    }
    disk.adopt(&part, source)?;
    disk.sync(&part)?;
    disk.rename(&part, target)?;
    disk.sync(parent(target))?;
    Ok(())
}

/// Moves something to a free name, durably. Where that lies on another file system, and only there, the thing is copied
/// and stays where it was: no other error is a reason to think that a copy would do better.
pub(super) fn bring(disk: &dyn Disk, source: &Path, target: &Path) -> Result<(), Error> {
    match rename(disk, source, target) {
        Err(Error::Disk(error)) if error.is_cross_device() => {}
        moved => return moved,
    }
    let part = part(target);
    remove_tree(disk, &part)?;
    copy_entry(disk, source, &part)?;
    disk.rename(&part, target)?;
    Ok(disk.sync(parent(target))?)
}

/// One file, or a directory with all below it, synced; the entry itself is the caller's to sync.
fn copy_entry(disk: &dyn Disk, source: &Path, target: &Path) -> Result<(), Error> {
    match disk.stat(source)?.map(|stat| stat.kind) {
        Some(Kind::Directory) => {
            disk.create_dir(target)?;
            for name in disk.list(source)? {
                copy_entry(disk, &source.join(&name), &target.join(&name))?;
            }
            disk.adopt(target, source)?; // last, because it may forbid to add anything
        }
        Some(Kind::Other) => return Err(Error::NotAFile { path: source.to_owned() }),
        _ => disk.copy(source, target)?,
    }
    disk.sync(target)?;
    Ok(())
}
