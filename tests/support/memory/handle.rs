//! A file that is open, whatever becomes of its name: what SQLite reads and writes through.

use super::state::{Node, Pending, SEEN};
use super::{Contents, Disk, MemoryDisk};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

/// An open file.
pub struct Handle {
    pub(super) disk: MemoryDisk,
    pub(super) node: Node,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.node)
    }
}

/// What becomes of a file that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Create,
    Refuse,
}

impl MemoryDisk {
    /// Opens a file for reading and writing. Making it is an event.
    pub fn open_file(&self, path: &Path, missing: Missing) -> io::Result<Handle> {
        if missing == Missing::Create && self.stat(path)?.is_none() {
            self.create(path, b"")?;
        }
        let node = self.0.borrow().find(path)?;
        match self.0.borrow().nodes[&node][SEEN].is_directory {
            true => Err(ErrorKind::IsADirectory.into()),
            false => Ok(Handle { disk: self.share(), node }),
        }
    }
}

impl Handle {
    /// The number of the file on its disk.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Writes somewhere in the file: two events, nothing written yet and a half of it.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        state.tick()?;
        state.write_at(self.node, offset as usize, bytes)
    }

    /// Cuts or extends the file: an event.
    pub fn truncate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        state.tick()?;
        state.made += 1;
        let modified_ns = state.made as i64;
        state.change(Pending::Length { node: self.node, length: length as usize, modified_ns });
        Ok(())
    }

    /// Makes the contents durable: an event. One that fails loses what it was about.
    pub fn sync(&self) -> io::Result<()> {
        self.disk.0.borrow_mut().sync(self.node)
    }

    /// Whether the process is gone.
    pub fn is_dead(&self) -> bool {
        self.disk.0.borrow().is_dead()
    }
}

impl Contents for Handle {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.is_dead() {
            true => Err(io::Error::other("crashed")),
            false => Ok(self.disk.0.borrow().nodes[&self.node][SEEN].bytes.read(offset as usize, bytes)),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.0.borrow().nodes[&self.node][SEEN].bytes.len() as u64)
    }
}
