//! Steps over files and directories that any store could use: copy, place, set aside, replace, delete.
//!
//! Every step works between two directories, the palace and the operation's own folder, and names things relative to
//! them, so that a keep and its palace can be moved together and recovered elsewhere. What earlier operations have kept
//! can be read as well, and only read.

mod compare;
mod copy;
mod fingerprint;
mod step;

pub use compare::is_same;
pub use fingerprint::Fingerprint;
pub use step::{Copy, Need, Step};

use crate::disk::{self, Disk, parent};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Which directory a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// The live directory.
    Palace,
    /// The operation's folder in the keep.
    Operation,
    /// The keep, with the folders of all operations: to read from, never to change.
    Keep,
}

/// A place on the disk, relative to one of these directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    root: Root,
    name: String,
}

impl Spot {
    /// A place in the palace; the empty name is the palace itself.
    pub fn palace(name: impl Into<String>) -> Spot {
        Spot { root: Root::Palace, name: name.into() }
    }

    /// A place in the operation's folder.
    pub fn operation(name: impl Into<String>) -> Spot {
        Spot { root: Root::Operation, name: name.into() }
    }

    /// A place in the keep, which begins with the name of an operation's folder.
    pub fn keep(name: impl Into<String>) -> Spot {
        Spot { root: Root::Keep, name: name.into() }
    }

    /// A place below this one.
    pub fn join(&self, name: &str) -> Spot {
        let name = if self.name.is_empty() { name.to_owned() } else { format!("{}/{name}", self.name) };
        Spot { root: self.root, name }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.root {
            Root::Palace => write!(f, "palace/{}", self.name),
            Root::Operation => f.write_str(&self.name),
            Root::Keep => write!(f, "keep/{}", self.name),
        }
    }
}

/// The two directories, and the disk they are on. The keep is the directory that holds the operation's folder.
pub struct Roots<'d> {
    /// The disk.
    pub disk: &'d dyn Disk,
    /// The live directory, symbolic links resolved.
    pub palace: PathBuf,
    /// The operation's folder.
    pub operation: PathBuf,
}

impl Roots<'_> {
    /// The path of a place inside one of the two directories. A name that is empty or leads out is refused, whatever
    /// journal it stands in: nothing is ever done to the palace itself, or beside it, or to what another operation has
    /// kept (invariants I13 and I17).
    pub fn path(&self, spot: &Spot) -> Result<PathBuf, Error> {
        match spot.root {
            Root::Palace | Root::Operation => self.readable(spot),
            Root::Keep => Err(Error::LeadsOut { spot: spot.clone() }),
        }
    }

    /// The path of a place that is only read.
    pub fn readable(&self, spot: &Spot) -> Result<PathBuf, Error> {
        let mut path = self.root(spot).to_owned();
        for part in spot.name.split('/') {
            if part.is_empty() || part == "." || part == ".." || part.contains('\0') {
                return Err(Error::LeadsOut { spot: spot.clone() });
            }
            path.push(part);
        }
        Ok(path)
    }

    /// The path of a directory that is only read, which may be the palace itself.
    pub fn directory(&self, spot: &Spot) -> Result<PathBuf, Error> {
        match spot.root {
            Root::Palace | Root::Operation if spot.name.is_empty() => Ok(self.root(spot).to_owned()),
            _ => self.readable(spot),
        }
    }

    /// The path of an entry of a directory that is only read, by a name without slashes.
    pub fn entry(&self, directory: &Spot, name: &str) -> Result<PathBuf, Error> {
        let spot = directory.join(name);
        match name.contains('/') {
            true => Err(Error::LeadsOut { spot }),
            false => self.readable(&spot),
        }
    }

    fn root(&self, spot: &Spot) -> &Path {
        match spot.root {
            Root::Palace => &self.palace,
            Root::Operation => &self.operation,
            Root::Keep => parent(&self.operation),
        }
    }
}

/// What can go wrong with a step over files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// A plan names something outside palace and operation folder.
    #[error("the plan names “{spot}”, which does not lie inside the palace or the operation's folder")]
    LeadsOut {
        /// What it names.
        spot: Spot,
    },
    /// Something that is neither a file nor a directory stands where files are copied.
    #[error("{} is neither a file nor a directory; move it away, then try again", path.display())]
    NotAFile {
        /// Where it stands.
        path: PathBuf,
    },
    /// Somebody wrote to a file after it was read.
    #[error("{} has changed since it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A copy is not what it was made from.
    #[error("{} is not equal to {}", copy.display(), original.display())]
    NotEqual {
        /// What it was made from.
        original: PathBuf,
        /// The copy.
        copy: PathBuf,
    },
    /// A plan has such a step before its pivot.
    #[error("this step cannot be undone, and the plan should not have put it before its point of no return")]
    CannotRevert,
}
