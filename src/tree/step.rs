//! The steps themselves. Each is durable when it returns: what it moved, and the directories that name it.

use super::compare;
use super::copy::{self, part};
use super::{Annex, Error, Fingerprint, Roots, Spot, annex};
use crate::disk::{Disk, parent, remove_tree};
use crate::engine::Observed;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Entries of a directory, or all of them, copied into a directory of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Where they are.
    pub source: Spot,
    /// Their names there; none where the whole directory is meant.
    pub names: Vec<String>,
    /// The new directory that holds the copies.
    pub target: Spot,
    /// Bytes to be written.
    pub bytes: u64,
}

/// Whether a thing has to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// Nothing goes on while it stands there.
    Must,
    /// It is in nobody's way: where the file system does not let it be moved (a mount point, an immutable file, a lower
    /// layer of an overlay), it stays.
    May,
}

/// One act on files and directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Copies what the operation is going to replace, and keeps the copy.
    Backup(Copy),
    /// Copies what the new state takes over as it is.
    Copy(Copy),
    /// Makes a directory; undoing it removes the directory with all that later steps left in it.
    CreateDir {
        /// The directory.
        target: Spot,
    },
    /// Makes the contents of a file durable that another step wrote without syncing.
    Sync {
        /// The file.
        target: Spot,
    },
    /// Moves something new to a free name.
    Place {
        /// What is moved.
        source: Spot,
        /// The free name.
        target: Spot,
    },
    /// Gives the file that will be replaced a second name, under which it stays.
    LinkAside {
        /// The file.
        source: Spot,
        /// Its second name.
        target: Spot,
        /// The file as it was read.
        expects: Fingerprint,
    },
    /// Moves something that the old state needed out of the way, and keeps it.
    RenameAside {
        /// Whether the new state needs it to be gone.
        need: Need,
        /// What is moved.
        source: Spot,
        /// Where it is kept.
        target: Spot,
        /// The thing as it was read.
        expects: Fingerprint,
    },
    /// Moves a new file over an old one in one rename.
    Replace {
        /// The new file.
        source: Spot,
        /// The file it replaces.
        target: Spot,
        /// The old file as it was read.
        expects: Fingerprint,
        /// Where the old file has its second name.
        aside: Spot,
        /// Names that must be free beside the old file: whoever made one of them wrote to it.
        absent: Vec<Spot>,
    },
    /// Removes what only this operation made and nobody needs any more.
    Delete {
        /// What is removed.
        target: Spot,
    },
    /// Reads a copy again, and what it was made from, and compares them byte for byte.
    Compare(Copy),
    /// Makes the annex; undoing it removes the annex with all that later steps left in it.
    CreateAnnex(Annex),
    /// Takes something that was built in the annex to where the palace is.
    Bring {
        /// What is brought.
        source: Spot,
        /// Where it is needed.
        target: Spot,
        /// Bytes to be written, if both are on different file systems.
        bytes: u64,
    },
    /// Removes the annex with all in it, if it can be reached.
    DeleteAnnex(Annex),
}

impl Step {
    /// Says where the disk stands.
    pub fn observe(&self, roots: &Roots) -> Result<Observed, Error> {
        let disk = roots.disk;
        let exists = |spot: &Spot| -> Result<bool, Error> { Ok(disk.stat(&roots.path(spot)?)?.is_some()) };
        Ok(match self {
            Step::Backup(copy) | Step::Copy(copy) => observe_copy(disk, &roots.path(&copy.target)?)?,
            Step::CreateDir { target } if exists(target)? => Observed::After,
            Step::CreateDir { .. } => Observed::Before,
            // Nobody can see whether bytes are durable or were compared; doing it again is harmless.
            Step::Sync { .. } | Step::Compare(_) => Observed::Before,
            Step::Place { source, target } => match (exists(source)?, exists(target)?) {
                (_, false) => Observed::Before,
                (false, true) => Observed::After,
                (true, true) => Observed::Foreign,
            },
            Step::LinkAside { source, target, expects } => observe_link(roots, source, target, expects)?,
            Step::RenameAside { source, target, expects, .. } => observe_rename(roots, source, target, expects)?,
            Step::Replace { source, target, expects, aside, absent } => {
                observe_replace(roots, [source, target, aside], expects, absent)?
            }
            Step::Delete { target } if exists(target)? => Observed::Before,
            Step::Delete { .. } => Observed::After,
            Step::CreateAnnex(annex) => match annex.look(roots)? {
                annex::State::Absent => Observed::Before,
                annex::State::Bare => Observed::Partial,
                annex::State::Ours => Observed::After,
                annex::State::Foreign => Observed::Foreign,
            },
            Step::Bring { target, .. } => observe_copy(disk, &roots.path(target)?)?,
            Step::DeleteAnnex(annex) => match annex.look(roots)? {
                annex::State::Foreign => Observed::Foreign,
                // One that is gone was perhaps only unmounted, or a person was faster; nobody needs it, and removing it
                // again is harmless.
                _ => Observed::Before,
            },
        })
    }

    /// Carries the step out.
    pub fn apply(&self, roots: &Roots) -> Result<(), Error> {
        let disk = roots.disk;
        match self {
            Step::Backup(copy) | Step::Copy(copy) => {
                copy::make(roots, copy)?;
            }
            Step::CreateDir { target } => {
                let target = roots.path(target)?;
                disk.create_dir(&target)?;
                disk.adopt(&target, parent(&target))?;
                disk.sync(parent(&target))?;
            }
            Step::Sync { target } => {
                let target = roots.path(target)?;
                disk.sync(&target)?;
                disk.sync(parent(&target))?;
            }
            Step::Place { source, target } => rename(disk, &roots.path(source)?, &roots.path(target)?)?,
            Step::RenameAside { source, target, need, .. } => {
                match rename(disk, &roots.path(source)?, &roots.path(target)?) {
                    Err(Error::Disk(error)) if *need == Need::May && error.is_immovable() => {}
                    result => result?,
                }
            }
            Step::LinkAside { source, target, expects } => {
                let (source, target) = (roots.path(source)?, roots.path(target)?);
                if Fingerprint::of(disk, &source)? != Some(*expects) {
                    return Err(Error::Changed { path: source });
                }
                disk.link(&source, &target)?;
                disk.sync(parent(&target))?;
            }
            Step::Replace { source, target, .. } => {
                let (source, target) = (roots.path(source)?, roots.path(target)?);
                disk.replace(&source, &target)?;
                disk.sync(parent(&target))?;
                disk.sync(parent(&source))?;
            }
            Step::Delete { target } => remove(disk, &roots.path(target)?)?,
            Step::Compare(copy) => compare::compare(roots, copy)?,
            Step::CreateAnnex(annex) => annex.make(roots)?,
            Step::Bring { source, target, .. } => copy::bring(disk, &roots.path(source)?, &roots.path(target)?)?,
            Step::DeleteAnnex(annex) => annex.remove(roots)?,
        }
        Ok(())
    }

    /// Undoes the step.
    pub fn revert(&self, roots: &Roots) -> Result<(), Error> {
        let disk = roots.disk;
        match self {
            Step::Backup(Copy { target, .. }) | Step::Copy(Copy { target, .. }) | Step::Bring { target, .. } => {
                let target = roots.path(target)?;
                remove_tree(disk, &part(&target))?;
                remove(disk, &target)?;
            }
            Step::CreateAnnex(annex) => annex.remove(roots)?,
            Step::CreateDir { target } | Step::LinkAside { target, .. } => remove(disk, &roots.path(target)?)?,
            Step::Place { source, target } | Step::RenameAside { source, target, .. } => {
                rename(disk, &roots.path(target)?, &roots.path(source)?)?;
            }
            Step::Sync { .. } | Step::Compare(_) => {}
            Step::Replace { .. } | Step::Delete { .. } | Step::DeleteAnnex(_) => return Err(Error::CannotRevert),
        }
        Ok(())
    }

    /// What the step leaves in the operation's folder: where, and for the thing itself, not a copy of it, what it was
    /// when it was read.
    pub fn keeps(&self) -> Vec<(Spot, Option<&Fingerprint>)> {
        match self {
            Step::Backup(copy) => copy.names.iter().map(|name| (copy.target.join(name), None)).collect(),
            Step::LinkAside { target, expects, .. } | Step::RenameAside { target, expects, .. } => {
                vec![(target.clone(), Some(expects))]
            }
            _ => Vec::new(),
        }
    }

    /// Bytes this step reads or writes.
    pub fn weight(&self) -> u64 {
        match self {
            Step::Backup(copy) | Step::Copy(copy) | Step::Compare(copy) => copy.bytes,
            Step::Bring { bytes, .. } => *bytes,
            _ => 0,
        }
    }
}

fn observe_copy(disk: &dyn Disk, target: &Path) -> Result<Observed, Error> {
    Ok(match (disk.stat(target)?, disk.stat(&part(target))?) {
        (Some(_), _) => Observed::After,
        (None, Some(_)) => Observed::Partial,
        (None, None) => Observed::Before,
    })
}

/// A second name that is not there has not been made, whatever has become of the file; that is looked at when it is
/// made. One that is there may be the last, if the first has been taken away or given to another file.
fn observe_link(roots: &Roots, source: &Spot, target: &Spot, expects: &Fingerprint) -> Result<Observed, Error> {
    let source = Fingerprint::of(roots.disk, &roots.path(source)?)?;
    Ok(match (source, Fingerprint::of(roots.disk, &roots.path(target)?)?) {
        (_, None) => Observed::Before,
        (Some(first), Some(second)) if first.is_same_node(&second) && second.is_same_node(expects) => Observed::After,
        _ => Observed::Foreign,
    })
}

fn observe_rename(roots: &Roots, source: &Spot, target: &Spot, expects: &Fingerprint) -> Result<Observed, Error> {
    let source = Fingerprint::of(roots.disk, &roots.path(source)?)?;
    let target = Fingerprint::of(roots.disk, &roots.path(target)?)?;
    Ok(match (source, target) {
        (Some(found), None) if found == *expects => Observed::Before,
        (None, Some(kept)) if kept.is_same_node(expects) => Observed::After,
        _ => Observed::Foreign,
    })
}

fn observe_replace(
    roots: &Roots,
    [source, target, aside]: [&Spot; 3],
    expects: &Fingerprint,
    absent: &[Spot],
) -> Result<Observed, Error> {
    let disk = roots.disk;
    let new = disk.stat(&roots.path(source)?)?;
    let live = Fingerprint::of(disk, &roots.path(target)?)?;
    let kept = Fingerprint::of(disk, &roots.path(aside)?)?;
    for spot in absent {
        if disk.stat(&roots.path(spot)?)?.is_some() && live == Some(*expects) {
            return Ok(Observed::Foreign);
        }
    }
    Ok(match (new, live, kept) {
        (_, Some(live), _) if live == *expects => Observed::Before,
        (None, Some(live), Some(kept)) if kept.is_same_node(expects) && !live.is_same_node(expects) => Observed::After,
        _ => Observed::Foreign,
    })
}

pub(super) fn rename(disk: &dyn Disk, source: &Path, target: &Path) -> Result<(), Error> {
    disk.rename(source, target)?;
    disk.sync(parent(target))?;
    disk.sync(parent(source))?;
    Ok(())
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    remove_tree(disk, path)?;
    disk.sync(parent(path))?;
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Backup(copy) => write!(f, "back up {} of {} to {}", count(copy), copy.source, copy.target),
            Step::Copy(copy) => write!(f, "copy {} of {} to {}", count(copy), copy.source, copy.target),
            Step::CreateDir { target } => write!(f, "make {target}"),
            Step::Sync { target } => write!(f, "sync {target}"),
            Step::Place { source, target } => write!(f, "place {source} as {target}"),
            Step::LinkAside { source, target, .. } => write!(f, "keep {source} also as {target}"),
            Step::RenameAside { source, target, .. } => write!(f, "move {source} aside to {target}"),
            Step::Replace { source, target, .. } => write!(f, "replace {target} by {source}"),
            Step::Delete { target } => write!(f, "remove {target}"),
            Step::Compare(copy) => {
                write!(f, "prove that {} of {} and {} are equal", count(copy), copy.source, copy.target)
            }
            Step::CreateAnnex(annex) => write!(f, "make the annex {annex}"),
            Step::Bring { source, target, .. } => write!(f, "bring {source} to {target}"),
            Step::DeleteAnnex(annex) => write!(f, "remove the annex {annex}"),
        }
    }
}

fn count(copy: &Copy) -> String {
    match copy.names.len() {
        0 => "all".into(),
        1 => "1 entry".into(),
        names => format!("{names} entries"),
    }
}
