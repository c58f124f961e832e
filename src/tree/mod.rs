//! Steps over files and directories that any store could use: copy, place, set aside, replace, delete.
//!
//! Every step works between two directories, the palace and the operation's own folder, and names things relative to
//! them, so that a keep and its palace can be moved together and recovered elsewhere. What earlier operations have kept
//! can be read as well, and only read. One more directory, the [`Annex`], lies wherever there is room, and only where
//! somebody asked for it.

mod annex;
mod compare;
mod copy;
mod fingerprint;
mod step;

pub use annex::Annex;
pub use compare::is_same;
pub use fingerprint::Fingerprint;
pub use step::{Copy, Need, Step};

use crate::disk::{self, Disk, parent};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Which directory a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// The live directory.
    Palace,
    /// The operation's folder in the keep.
    Operation,
    /// The keep, with the folders of all operations: to read from, never to change.
    Keep,
    /// The operation's annex, if it has one.
    Annex,
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

    /// A place in the operation's annex.
    pub fn annex(name: impl Into<String>) -> Spot {
        Spot { root: Root::Annex, name: name.into() }
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
            Root::Annex => write!(f, "annex/{}", self.name),
        }
    }
}

/// The directories, and the disk they are on. The keep is the directory that holds the operation's folder.
pub struct Roots<'d> {
    /// The disk.
    pub disk: &'d dyn Disk,
    /// The live directory, symbolic links resolved.
    pub palace: PathBuf,
    /// The operation's folder.
    pub operation: PathBuf,
    /// The operation's annex, if its plan has one.
    pub annex: Option<Annex>,
}

impl Roots<'_> {
    /// The path of a place inside one of the directories that may be changed. A name that is empty or leads out is
    /// refused, whatever journal it stands in: nothing is ever done to the palace itself, or beside it, or to what
    /// another operation has kept (invariants I13 and I17).
    pub fn path(&self, spot: &Spot) -> Result<PathBuf, Error> {
        match spot.root {
            Root::Palace | Root::Operation | Root::Annex => self.readable(spot),
            Root::Keep => Err(Error::LeadsOut { spot: spot.clone() }),
        }
    }

    /// The path of a place that is only read.
    pub fn readable(&self, spot: &Spot) -> Result<PathBuf, Error> {
        let mut path = self.root(spot)?;
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
            Root::Palace | Root::Operation | Root::Annex if spot.name.is_empty() => self.root(spot),
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

    /// What stands in the annex's place must be this operation's own, or nothing (invariants I6 and I17). Always so
    /// where there is no annex.
    ///
    /// # Errors
    /// [`Error::NotOurs`], and nothing is done there.
    pub fn check_annex(&self) -> Result<(), Error> {
        let Some(annex) = &self.annex else { return Ok(()) };
        match annex.look(self)? {
            annex::State::Foreign => Err(Error::NotOurs { path: annex.path()? }),
            _ => Ok(()),
        }
    }

    /// The same for whoever is going to build there: without its marker an annex is nobody's.
    pub fn check_annex_for_building(&self) -> Result<(), Error> {
        self.check_annex()?;
        let Some(annex) = &self.annex else { return Ok(()) };
        match annex.look(self)? {
            annex::State::Bare => Err(Error::NotOurs { path: annex.path()? }),
            _ => Ok(()),
        }
    }

    /// Makes durable whatever a killed process left in the page cache of the annex's file system (invariant I5); the
    /// keep's is the engine's to see to.
    pub fn settle_annex(&self) -> Result<(), Error> {
        self.annex.as_ref().map_or(Ok(()), |annex| annex.settle(self))
    }

    fn root(&self, spot: &Spot) -> Result<PathBuf, Error> {
        match (spot.root, &self.annex) {
            (Root::Palace, _) => Ok(self.palace.clone()),
            (Root::Operation, _) => Ok(self.operation.clone()),
            (Root::Keep, _) => Ok(parent(&self.operation).to_owned()),
            (Root::Annex, None) => Err(Error::LeadsOut { spot: spot.clone() }),
            (Root::Annex, Some(annex)) => {
                self.check_annex()?;
                annex.path()
            }
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
    /// A plan names something outside the palace, the operation's folder and its annex.
    #[error("the plan names “{spot}”, which does not lie inside the palace or what belongs to the operation")]
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
    /// A plan names a directory for its annex that no operation would make.
    #[error("the plan puts its annex into “{directory}” as “{token}”, and no operation would do that")]
    NoAnnex {
        /// The directory.
        directory: String,
        /// What should be the end of the annex's name.
        token: String,
    },
    /// Something else stands where this operation has its annex.
    #[error("{} is not this operation's, and was not touched; move it away, then try again", path.display())]
    NotOurs {
        /// Where it stands.
        path: PathBuf,
    },
    /// The directory in which the annex was to be made is gone, or another one.
    #[error("{} is not the directory that was asked for any more; is its file system mounted?", path.display())]
    OutOfReach {
        /// The directory.
        path: PathBuf,
    },
    /// A plan has such a step before its pivot.
    #[error("this step cannot be undone, and the plan should not have put it before its point of no return")]
    CannotRevert,
}
