//! With what a plan is made: how large its steps are, and where the new store is built.

use super::keep::Keep;
use super::{Error, resolve};
use crate::disk::{Disk, is_directory};
use crate::ops::AnnexRoom;
use crate::store::chroma::Limits;
use crate::tree::Annex;
use std::path::{Path, PathBuf};

/// With what a plan is made.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// How large a step may be.
    pub limits: Limits,
    /// Where the new store is built, if not in the keep.
    pub annex: Option<Annex>,
}

impl From<Limits> for Means {
    fn from(limits: Limits) -> Means {
        Means { limits, annex: None }
    }
}

/// The room that an operation needs outside of the keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The directory in which its annex will be.
    pub directory: PathBuf,
    /// Bytes that must be free there.
    pub bytes_needed: u64,
    /// Bytes that are free there.
    pub bytes_free: u64,
}

impl Means {
    /// Means with a place for an annex in a directory, which is only looked at.
    ///
    /// # Errors
    /// [`Error::NoStaging`] where nothing can be built there.
    pub fn with_staging(self, disk: &dyn Disk, palace: &Path, directory: &Path) -> Result<Means, Error> {
        // One that is not there yet is the affair of whoever makes it.
        let palace = match disk.resolve(palace)? {
            Some(_) => resolve(disk, palace)?,
            None => std::path::absolute(palace).unwrap_or_else(|_| palace.to_owned()),
        };
        let unfit = |why| Error::NoStaging { directory: directory.to_owned(), why };
        let real = match disk.resolve(directory) {
            Ok(real) => real.ok_or_else(|| unfit(Unusable::Missing))?,
            Err(error) => return Err(unfit(Unusable::Unreachable(error.into()))),
        };
        if !is_directory(disk, &real)? {
            return Err(unfit(Unusable::NotADirectory));
        }
        let keep = Keep::find(disk, &palace)?.map(|keep| keep.path().to_owned());
        if real.starts_with(&palace) || keep.is_some_and(|keep| real.starts_with(keep)) {
            return Err(unfit(Unusable::Inside));
        }
        disk.insist_on_access(&real).map_err(|error| unfit(Unusable::Unwritable(error.into())))?;
        let annex = Annex::within(disk, &real)?.ok_or_else(|| unfit(Unusable::Unnameable))?;
        Ok(Means { annex: Some(annex), ..self })
    }
}

/// Why nothing can be built in a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// It is not there.
    #[error("there is no such directory")]
    Missing,
    /// It cannot be looked at.
    #[error("{0}")]
    Unreachable(std::io::Error),
    /// It is something else.
    #[error("it is not a directory")]
    NotADirectory,
    /// It belongs to what is being worked on.
    #[error("it lies inside the palace or its keep")]
    Inside,
    /// Nothing can be made in it.
    #[error("nothing can be made in it: {0}")]
    Unwritable(std::io::Error),
    /// A journal cannot hold its name.
    #[error("its path is not UTF-8")]
    Unnameable,
}

/// What an operation needs in the keep, and outside of it, given what it needs altogether.
///
/// On one file system what was built is only renamed, and all of it counts there. That two directories lie on one is
/// not enough for that: between two mounts of a file system nothing can be renamed.
pub(super) fn share(
    disk: &dyn Disk,
    space: &Path,
    altogether: u64,
    annex: Option<(&Annex, AnnexRoom)>,
) -> Result<(u64, Option<Outside>), Error> {
    let Some((annex, room)) = annex else { return Ok((altogether, None)) };
    let directory = annex.directory().to_owned();
    let device = |path: &Path| Ok::<_, Error>(disk.stat(path)?.map(|found| found.device));
    let is_same_device = device(space)? == device(&directory)?;
    let bytes_needed = match (is_same_device, disk.mount(space)? == disk.mount(&directory)?) {
        (true, true) => altogether,
        (true, false) => altogether + room.needed, // what is built lies there twice for a while
        (false, _) => altogether.saturating_sub(room.spared),
    };
    let bytes_free = disk.space(&directory)?;
    Ok((bytes_needed, Some(Outside { directory, bytes_needed: room.needed, bytes_free })))
}
