//! The only door to the file system.
//!
//! Everything the engine makes durable passes through the verbs of [`Disk`], so that a test can stand in for the disk
//! and decide what survives a crash. Verbs change the page cache; nothing is durable until [`Disk::sync`] has returned
//! for the file, and for the directory that names it.

mod error;
mod lock;
mod real;

pub use error::{Error, Result};
pub use lock::Lock;
pub use real::{Poison, RealDisk};

use std::ffi::OsString;
use std::path::Path;

/// What a directory entry is. Symbolic links are never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, socket, pipe or device: never opened, never copied.
    Other,
}

/// What `lstat` says of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What the entry is.
    pub kind: Kind,
    /// Device number; it may change when the machine starts anew.
    pub device: u64,
    /// Inode number.
    pub node: u64,
    /// Length in bytes.
    pub length: u64,
    /// Space taken on the disk, in bytes; less than `length` where the file has holes.
    pub allocated: u64,
    /// Time of the last change of contents, in nanoseconds since 1970.
    pub modified_ns: i64,
}

/// The file system, as far as this program may touch it.
pub trait Disk {
    /// What stands at `path`; `None` where nothing does.
    fn stat(&self, path: &Path) -> Result<Option<Stat>>;
    /// The names in a directory, sorted by their bytes.
    fn list(&self, directory: &Path) -> Result<Vec<OsString>>;
    /// Up to `length` bytes from `offset`; fewer where the file ends before.
    fn read(&self, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>>;
    /// A new file with these contents; an error where something stands there already.
    fn create(&self, path: &Path, bytes: &[u8]) -> Result<()>;
    /// Adds bytes at the end of a file.
    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()>;
    /// Cuts a file to `length` bytes.
    fn truncate(&self, path: &Path, length: u64) -> Result<()>;
    /// A new directory.
    fn create_dir(&self, path: &Path) -> Result<()>;
    /// A new directory that nobody but its owner can enter, who is the owner of `model`.
    fn create_private_dir(&self, path: &Path, model: &Path) -> Result<()>;
    /// A new file with the contents, holes, mode and owner of another.
    fn copy(&self, source: &Path, target: &Path) -> Result<()>;
    /// A second name for a file.
    fn link(&self, source: &Path, target: &Path) -> Result<()>;
    /// Moves to a name that is free; an error where it is not.
    fn rename(&self, source: &Path, target: &Path) -> Result<()>;
    /// Moves a file over another one, in one step.
    fn replace(&self, source: &Path, target: &Path) -> Result<()>;
    /// Removes a file or an empty directory.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Gives `path` the owner of `model`, and if both are files or both directories, its mode; a directory stays
    /// writable for its owner, or nobody could empty it.
    fn adopt(&self, path: &Path, model: &Path) -> Result<()>;
    /// Makes a file's contents, or a directory's entries, durable.
    fn sync(&self, path: &Path) -> Result<()>;
    /// Makes durable whatever the page cache still holds of the file system of `directory`, whoever wrote it.
    fn sync_all(&self, directory: &Path) -> Result<()>;
    /// Bytes free for this user on the file system that holds `directory`.
    fn space(&self, directory: &Path) -> Result<u64>;
}

/// The directory that names `path`.
///
/// # Panics
/// On a path without a parent: no step ever acts on the root of the file system.
pub fn parent(path: &Path) -> &Path {
    path.parent().expect("every path the engine acts on lies inside a palace or a keep")
}

/// Removes `path` and all below it, deepest first; a path that is not there is no error.
pub fn remove_tree(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.stat(path)?.map(|stat| stat.kind) {
        None => return Ok(()),
        Some(Kind::Directory) => {
            for name in disk.list(path)? {
                remove_tree(disk, &path.join(name))?;
            }
        }
        Some(_) => {}
    }
    disk.remove(path)
}
