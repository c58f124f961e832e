//! The annex: a directory of one operation's own, wherever there is room, in which the new state is built.
//!
//! It is the only directory outside of palace and keep that a journal can name, so a name is not enough to be believed:
//! whatever is written or removed there is preceded by a look at the marker in it, which names the operation. No link
//! on the way to it is followed.

use super::{Error, Roots};
use crate::disk::{self, Disk, Kind, evict_tree, remove_tree};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Where an annex is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annex {
    /// The directory it is made in: an absolute path, links resolved.
    directory: String,
    /// That directory's inode. Where another one has its name, its file system is not mounted.
    node: u64,
    /// What makes the annex's name unique.
    token: String,
}

/// What stands in the place of an annex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing, as far as one can see.
    Absent,
    /// It is being made or removed: a directory with nothing in it, or nothing but a marker that is not whole.
    Bare,
    /// The annex.
    Ours,
    /// Something else.
    Foreign,
}

/// Begins the name of every annex.
const NAME: &str = ".palacekeeper-";
/// Name of the file that says whose an annex is.
const MARKER: &str = "marker";

impl Annex {
    /// A new annex in a directory, of which nothing is there yet. `None` where the directory is none, or has no name
    /// that a journal can hold.
    pub fn within(disk: &dyn Disk, directory: &Path) -> disk::Result<Option<Annex>> {
        let found = disk.stat(directory)?.filter(|found| found.kind == Kind::Directory);
        let token = uuid::Uuid::new_v4().to_string();
        let annex = |node| Some(Annex { directory: directory.to_str()?.to_owned(), node, token });
        Ok(found.and_then(|found| annex(found.node)).filter(|annex| annex.path().is_ok()))
    }

    /// The directory it is made in.
    pub fn directory(&self) -> &Path {
        Path::new(&self.directory)
    }

    /// Its path. Nothing that a journal says can make this the path of anything but an annex (invariant I17).
    ///
    /// # Errors
    /// [`Error::NoAnnex`].
    pub fn path(&self) -> Result<PathBuf, Error> {
        let mut parts = self.directory().components();
        let is_rooted = parts.next() == Some(Component::RootDir);
        let is_plain = parts.all(|part| matches!(part, Component::Normal(_))) && !self.directory.contains('\0');
        let is_token = uuid::Uuid::parse_str(&self.token).is_ok_and(|token| token.to_string() == self.token);
        match is_rooted && is_plain && is_token {
            true => Ok(self.directory().join(format!("{NAME}{}", self.token))),
            false => Err(Error::NoAnnex { directory: self.directory.clone(), token: self.token.clone() }),
        }
    }

    /// Whether its directory cannot be seen, so that nobody knows whether the annex is still there.
    pub fn is_out_of_reach(&self, roots: &Roots) -> Result<bool, Error> {
        Ok(self.look(roots)? == State::Absent && !self.is_reached(roots.disk)?)
    }

    /// What stands in its place.
    pub(super) fn look(&self, roots: &Roots) -> Result<State, Error> {
        let (disk, path) = (roots.disk, self.path()?);
        if !is_directory_all_the_way(disk, self.directory())? {
            return Ok(State::Absent);
        }
        let kind = match disk.stat(&path)? {
            None => return Ok(State::Absent),
            Some(found) => found.kind,
        };
        if kind != Kind::Directory {
            return Ok(State::Foreign);
        }
        let (marker, expected) = (path.join(MARKER), self.marker(roots));
        let found = match disk.stat(&marker)? {
            Some(found) if found.kind != Kind::File || found.length > expected.len() as u64 => {
                return Ok(State::Foreign);
            }
            Some(_) => disk.read(&marker, 0, expected.len() as u64)?,
            None => Vec::new(),
        };
        if found == expected {
            return Ok(State::Ours);
        }
        match disk.list(&path)?.iter().all(|name| name == MARKER) {
            true => Ok(State::Bare),
            false => Ok(State::Foreign),
        }
    }

    /// Makes it, durably.
    pub(super) fn make(&self, roots: &Roots) -> Result<(), Error> {
        let (disk, path) = (roots.disk, self.path()?);
        match self.look(roots)? {
            State::Foreign => return Err(Error::NotOurs { path }),
            State::Absent if !self.is_reached(disk)? => {
                return Err(Error::OutOfReach { path: self.directory().to_owned() });
            }
            // Whoever asked for a directory that others use too has not asked for others to read along.
            State::Absent => disk.create_private_dir(&path, &roots.operation)?,
            State::Bare | State::Ours => remove_tree(disk, &path.join(MARKER))?,
        }
        let marker = path.join(MARKER);
        disk.create(&marker, &self.marker(roots))?;
        for made in [&*marker, &path, self.directory()] {
            disk.sync(made)?;
        }
        Ok(())
    }

    /// Removes it with all in it, as far as it can be reached. The marker goes last, and when all else is durably gone:
    /// without it nobody may touch what is left.
    pub(super) fn remove(&self, roots: &Roots) -> Result<(), Error> {
        let (disk, path) = (roots.disk, self.path()?);
        match self.look(roots)? {
            State::Absent => return Ok(()),
            State::Foreign => return Err(Error::NotOurs { path }),
            State::Bare | State::Ours => {}
        }
        for name in disk.list(&path)?.into_iter().filter(|name| name != MARKER) {
            remove_tree(disk, &path.join(name))?;
        }
        disk.sync(&path)?;
        remove_tree(disk, &path.join(MARKER))?;
        disk.remove(&path)?;
        Ok(disk.sync(self.directory())?)
    }

    /// Makes durable whatever a killed process left in the page cache of its file system, also that the annex is gone,
    /// and has what is in it read from the medium (invariant I5).
    pub(super) fn settle(&self, roots: &Roots) -> Result<(), Error> {
        let state = self.look(roots)?;
        if state == State::Foreign || state == State::Absent && !self.is_reached(roots.disk)? {
            return Ok(());
        }
        roots.disk.sync_all(self.directory())?;
        match state {
            State::Ours => Ok(evict_tree(roots.disk, &self.path()?)?),
            _ => Ok(()),
        }
    }

    /// The operation's folder goes by its number wherever the keep is moved.
    fn marker(&self, roots: &Roots) -> Vec<u8> {
        let folder = roots.operation.file_name().unwrap_or_default().to_string_lossy();
        format!("palacekeeper builds here: {folder}, {}\n", self.token).into_bytes()
    }

    fn is_reached(&self, disk: &dyn Disk) -> Result<bool, Error> {
        let is_same = |found: disk::Stat| found.node == self.node;
        Ok(is_directory_all_the_way(disk, self.directory())? && disk.stat(self.directory())?.is_some_and(is_same))
    }
}

/// Whether a path is that of a directory, with no link on the way.
fn is_directory_all_the_way(disk: &dyn Disk, path: &Path) -> Result<bool, Error> {
    let ways = path.ancestors().collect::<Vec<_>>();
    for way in ways.into_iter().rev() {
        if disk.stat(way)?.is_none_or(|found| found.kind != Kind::Directory) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl fmt::Display for Annex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{NAME}{}", self.directory.trim_end_matches('/'), self.token)
    }
}
