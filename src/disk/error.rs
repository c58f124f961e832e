//! What can go wrong at the disk, always with the path.

use std::io;
use std::path::{Path, PathBuf};

/// The result of a disk verb.
pub type Result<T> = std::result::Result<T, Error>;

/// A verb of [`super::Disk`] that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {source}", path.display())]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The operating system's answer alone, for whoever names the path himself.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        error.source
    }
}

impl Error {
    /// An error of `verb` at `path`.
    pub fn new(verb: &'static str, path: &Path, source: io::Error) -> Error {
        Error { verb, path: path.to_owned(), source }
    }

    /// The path the verb was called with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The operating system's answer.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Source and target of a rename or link lie on different file systems (EXDEV): copying is the way, not retrying.
    pub fn is_cross_device(&self) -> bool {
        self.kind() == io::ErrorKind::CrossesDevices
    }

    /// The file system does not let this be moved: another file system, a mount point, a lower layer of an overlay, an
    /// immutable file. No second try changes that.
    pub fn is_immovable(&self) -> bool {
        let is_immutable = self.source.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error());
        is_immutable || matches!(self.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::ResourceBusy)
    }

    /// The disk or the quota is full.
    pub fn is_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
