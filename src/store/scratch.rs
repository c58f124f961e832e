//! Directories for copies that are made for reading: nobody's state, and gone with what holds them.

use super::chroma::Error;
use crate::disk::{self, Disk, remove_tree};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes that are taken from a pipe at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Where a palace is read: its disk, and a directory there that has room for copies.
#[derive(Clone)]
pub struct Room<'d> {
    /// The disk.
    pub disk: &'d dyn Disk,
    /// The directory.
    pub directory: PathBuf,
}

impl<'d> Room<'d> {
    /// The room in a directory.
    pub fn new(disk: &'d dyn Disk, directory: &Path) -> Room<'d> {
        Room { disk, directory: directory.to_owned() }
    }
}

/// Such a directory.
pub struct Scratch<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
}

impl<'d> Scratch<'d> {
    /// Makes one in a room, for reading `original`. In a keep, what a kill leaves of it is removed by the next writer.
    pub fn new(room: &Room<'d>, original: &Path) -> Result<Scratch<'d>, Error> {
        let path = room.directory.join(format!(".scratch-{}", uuid::Uuid::new_v4().simple()));
        match room.disk.create_private_dir(&path, &room.directory) {
            Ok(()) => Ok(Scratch { disk: room.disk, path }),
            Err(error) => Err(Error::scratch(original, error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts all that can be read of a pipe or a file into a file of its own; returns where that is, and its bytes.
    pub fn spool(&self, name: &str, input: &mut dyn Read) -> Result<(PathBuf, u64), Error> {
        let path = self.path().join(name);
        let bytes = self.fill(&path, input).map_err(|source| Error::Scratch { path: path.clone(), source })?;
        Ok((path, bytes))
    }

    fn fill(&self, path: &Path, input: &mut dyn Read) -> io::Result<u64> {
        self.disk.create(path, &[])?;
        let (mut bytes, mut chunk) = (0, Vec::new());
        loop {
            chunk.clear();
            match input.take(CHUNK_BYTES).read_to_end(&mut chunk)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
            self.disk.append(path, &chunk)?;
        }
    }
}

impl Drop for Scratch<'_> {
    /// A disk that is poisoned would keep it; what is nobody's state can go all the same.
    fn drop(&mut self) {
        let _: disk::Result<()> = remove_tree(&*self.disk.afresh(), &self.path);
    }
}
