//! Directories for copies that are made for reading: nobody's state, and gone with what holds them.

use super::chroma::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Such a directory.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes one below `directory`, for reading `original`. In a keep, what a kill leaves of it is removed by the next
    /// writer.
    pub fn below(directory: &Path, original: &Path) -> Result<Scratch, Error> {
        let made = tempfile::Builder::new().prefix(".scratch-").tempdir_in(directory);
        made.map(Scratch).map_err(|source| Error::Scratch { path: original.to_owned(), source })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts all that can be read of a pipe or a file into a file of its own; returns where that is, and its bytes.
    pub fn spool(&self, name: &str, input: &mut dyn Read) -> Result<(PathBuf, u64), Error> {
        let path = self.path().join(name);
        let spooled = File::create_new(&path).and_then(|mut file| io::copy(input, &mut file));
        let bytes = spooled.map_err(|source| Error::Scratch { path: path.clone(), source })?;
        Ok((path, bytes))
    }
}
