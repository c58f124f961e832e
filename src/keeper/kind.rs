//! What kind of store a palace has: told by the names of its files, as MemPalace tells it.

use super::Error;
use crate::disk::Disk;
use crate::store::{chroma, exact};
use std::path::Path;

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ChromaDB's.
    Chroma,
    /// MemPalace's `sqlite_exact`.
    Exact,
}

impl Kind {
    /// Every kind there is.
    pub(super) const ALL: [Kind; 2] = [Kind::Chroma, Kind::Exact];

    /// Name of its database in a palace.
    pub fn database(self) -> &'static str {
        match self {
            Kind::Chroma => chroma::DATABASE,
            Kind::Exact => exact::DATABASE,
        }
    }

    fn is_in(self, disk: &dyn Disk, palace: &Path) -> bool {
        stands(disk, &palace.join(self.database()))
    }

    /// The kind of store that a palace has; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::TwoStores`]: MemPalace itself refuses such a palace.
    pub fn of(disk: &dyn Disk, palace: &Path) -> Result<Option<Kind>, Error> {
        match Kind::ALL.map(|kind| kind.is_in(disk, palace)) {
            [true, true] => Err(Error::TwoStores { palace: palace.to_owned() }),
            [true, false] => Ok(Some(Kind::Chroma)),
            [false, true] => Ok(Some(Kind::Exact)),
            [false, false] => Ok(None),
        }
    }

    /// Insists on no journal or log lying in the palace without its database: it would be taken for that of whatever
    /// database comes to stand beside it.
    pub(super) fn insist_on_no_stray(disk: &dyn Disk, palace: &Path) -> Result<(), Error> {
        let absent = Kind::ALL.into_iter().filter(|kind| !kind.is_in(disk, palace));
        let mut paths = absent.flat_map(|kind| chroma::siblings(kind.database())).map(|name| palace.join(name));
        match paths.find(|path| stands(disk, path)) {
            Some(path) => Err(Error::Stray { path }),
            None => Ok(()),
        }
    }

    /// Insists on a store of chromadb's, where only that can be worked on.
    pub(super) fn insist_on_chroma(disk: &dyn Disk, palace: &Path) -> Result<(), Error> {
        match Kind::of(disk, palace)? {
            Some(Kind::Exact) => Err(Error::Exact { palace: palace.to_owned() }),
            _ => Ok(()),
        }
    }
}

/// Whether anything stands at `path` that can be seen.
pub(super) fn stands(disk: &dyn Disk, path: &Path) -> bool {
    matches!(disk.stat(path), Ok(Some(_)))
}
