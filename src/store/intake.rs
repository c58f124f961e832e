//! Where the database lies that is made of records from elsewhere, while an operation reads it: whole, or not there.

use super::chroma::DATABASE;
use crate::disk::{self, Disk, remove_tree};
use crate::engine::{Observed, StepError};
use std::path::{Path, PathBuf};

/// The database, and the name it is made under.
fn paths(directory: &Path) -> [PathBuf; 2] {
    let target = directory.join(DATABASE);
    let part = target.with_extension("part");
    [target, part]
}

/// Where the disk stands.
pub(super) fn taken(disk: &dyn Disk, directory: &Path) -> disk::Result<Observed> {
    let [target, part] = paths(directory);
    Ok(match (disk.stat(&target)?, disk.stat(&part)?) {
        (Some(_), _) => Observed::After,
        (None, Some(_)) => Observed::Partial,
        (None, None) => Observed::Before,
    })
}

/// Makes the database, durably; `model` is what it is made of.
pub(super) fn take_in(
    disk: &dyn Disk,
    directory: &Path,
    model: &Path,
    make: &mut dyn FnMut(&Path) -> Result<(), StepError>,
) -> Result<(), StepError> {
    let [target, part] = paths(directory);
    remove_tree(disk, &part)?;
    make(&part)?;
    disk.adopt(&part, model)?;
    disk.sync(&part)?;
    disk.rename(&part, &target)?;
    Ok(disk.sync(directory)?)
}

/// Removes it.
pub(super) fn drop_taken(disk: &dyn Disk, directory: &Path) -> disk::Result<()> {
    for path in paths(directory) {
        remove_tree(disk, &path)?;
    }
    disk.sync(directory)
}
