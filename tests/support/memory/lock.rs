//! Locks on a disk in memory.

use super::MemoryDisk;
use super::state::Node;
use palacekeeper::disk::{Disk, Lock, Result};
use std::path::{Path, PathBuf};

/// A lock that is held.
pub(super) struct Locked {
    disk: MemoryDisk,
    path: PathBuf,
    node: Node,
}

impl Locked {
    pub(super) fn new(disk: MemoryDisk, path: &Path, node: Node) -> Locked {
        Locked { disk, path: path.to_owned(), node }
    }
}

impl std::fmt::Debug for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the lock {}", self.path.display())
    }
}

impl Lock for Locked {
    fn sign(&mut self, text: &[u8]) -> Result<()> {
        self.disk.truncate(&self.path, 0)?;
        self.disk.append(&self.path, text)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.disk.0.borrow_mut().locks.remove(&self.node);
    }
}
