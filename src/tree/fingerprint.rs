//! How a file is recognised: enough to notice that somebody wrote to it.

use crate::disk::{Disk, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Bytes of the beginning of a file that the fingerprint covers. An SQLite file counts its changes in bytes 24 to 27,
/// so every committed change shows here even where length and time do not.
const HEAD_BYTES: u64 = 4096;

/// A file's identity and state. The device number is left out: it may change when the machine starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    node: u64,
    length: u64,
    modified_ns: i64,
    head_crc32: u32,
}

impl Fingerprint {
    /// The fingerprint of what stands at `path`; `None` where nothing does. A directory's is its inode alone.
    pub fn of(disk: &dyn Disk, path: &Path) -> Result<Option<Fingerprint>> {
        let Some(stat) = disk.stat(path)? else { return Ok(None) };
        Ok(Some(match stat.kind {
            crate::disk::Kind::File => Fingerprint {
                node: stat.node,
                length: stat.length,
                modified_ns: stat.modified_ns,
                head_crc32: crc32fast::hash(&disk.read(path, 0, HEAD_BYTES)?),
            },
            _ => Fingerprint { node: stat.node, length: 0, modified_ns: 0, head_crc32: 0 },
        }))
    }

    /// Whether both are the same inode, whatever has been written to it.
    pub fn is_same_node(&self, other: &Fingerprint) -> bool {
        self.node == other.node
    }
}
