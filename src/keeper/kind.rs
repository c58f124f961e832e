//! What kind of store a palace has: told by the names of its files, as MemPalace tells it.

use super::Error;
use crate::disk::{self, Disk, exists};
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

    fn is_in(self, disk: &dyn Disk, palace: &Path) -> disk::Result<bool> {
        exists(disk, &palace.join(self.database()))
    }

    /// The kind of store that a palace has; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::TwoStores`]: MemPalace itself refuses such a palace.
    pub fn of(disk: &dyn Disk, palace: &Path) -> Result<Option<Kind>, Error> {
        match (Kind::Chroma.is_in(disk, palace)?, Kind::Exact.is_in(disk, palace)?) {
            (true, true) => Err(Error::TwoStores { palace: palace.to_owned() }),
            (true, false) => Ok(Some(Kind::Chroma)),
            (false, true) => Ok(Some(Kind::Exact)),
            (false, false) => Ok(None),
        }
    }

    /// Insists on no journal or log lying in the palace without its database: it would be taken for that of whatever
    /// database comes to stand beside it.
    pub(super) fn insist_on_no_stray(disk: &dyn Disk, palace: &Path) -> Result<(), Error> {
        for kind in Kind::ALL {
            if kind.is_in(disk, palace)? {
                continue;
            }
            for path in chroma::siblings(kind.database()).map(|name| palace.join(name)) {
                if exists(disk, &path)? {
                    return Err(Error::Stray { path });
                }
            }
        }
        Ok(())
    }

    /// Insists on a store of chromadb's, where only that can be worked on.
    pub(super) fn insist_on_chroma(disk: &dyn Disk, palace: &Path) -> Result<(), Error> {
        match Kind::of(disk, palace)? {
            Some(Kind::Exact) => Err(Error::Exact { palace: palace.to_owned() }),
            _ => Ok(()),
        }
    }
}
