//! The only door to the file system.
//!
//! Everything that is read of a palace and everything that is made durable passes through the verbs of [`Disk`], so
//! that a test can stand in for the machine and decide what survives a crash. SQLite alone opens its files by itself,
//! through a VFS that a test can replace as well. Verbs change the page cache; nothing is durable until [`Disk::sync`]
//! has returned for the file, and for the directory that names it.

mod error;
mod lock;
mod real;
mod users;

pub use error::{Error, Result};
pub use lock::holder;
pub use real::RealDisk;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

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

/// A file that is open for reading, whatever becomes of its name.
pub trait Contents: fmt::Debug {
    /// Reads into `bytes` from `offset` on; says how many there were, 0 at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Length in bytes, as it is now.
    fn length(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_up_to(bytes, offset)? {
            all if all == bytes.len() => Ok(()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Fills as much of `bytes` as the file has from `offset` on; says how much.
    fn read_up_to(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Reads a file from its beginning to its end.
#[derive(Debug)]
pub struct Reader<'c> {
    contents: &'c dyn Contents,
    at: u64,
}

impl<'c> Reader<'c> {
    /// A reader at the beginning of a file.
    pub fn new(contents: &'c dyn Contents) -> Reader<'c> {
        Reader { contents, at: 0 }
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.contents.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Files by what they are rather than by name: device and inode, and a path that leads there.
pub type Inodes = HashMap<(u64, u64), PathBuf>;

/// An exclusive lock; dropping it sets it free.
pub trait Lock: fmt::Debug {
    /// Writes who holds the lock, for the message another process shows; it decides nothing.
    fn sign(&mut self, text: &[u8]) -> Result<()>;
}

/// The file system, as far as this program may touch it.
pub trait Disk {
    /// What stands at `path`; `None` where nothing does, or nothing can.
    fn stat(&self, path: &Path) -> Result<Option<Stat>>;
    /// The names in a directory, sorted by their bytes.
    fn list(&self, directory: &Path) -> Result<Vec<OsString>>;
    /// Up to `length` bytes from `offset`; fewer where the file ends before.
    fn read(&self, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>>;
    /// Opens a regular file for reading. A link is not followed, and a pipe is not waited for: either counts as
    /// missing, since nobody whose files are read here makes any.
    fn open(&self, path: &Path) -> Result<Box<dyn Contents>>;
    /// The path without links, relative parts and detours; `None` where nothing is at its end.
    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>>;
    /// Takes the exclusive lock of a lock file, which is made where there is none, and never deleted: a deleted file
    /// can be locked twice. `None` where another process holds it.
    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>>;
    /// Says which process other than this one has one of some files open, or that this cannot be found out; `None`
    /// where nobody has, as far as this user may see.
    fn find_user_of(&self, files: &Inodes) -> Option<String>;
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
    /// Evicts a file from the page cache, so that what is read of it is what the medium holds: a sync that failed may
    /// have left there what no sync will ever write. What is not synced stays; so does all of it where the kernel does
    /// not take the advice (SPEC.md, "Limits"), and nothing is evicted of a file that this user may not read.
    fn evict(&self, path: &Path) -> Result<()>;
    /// The mount that a path lies in, where the kernel says: two mounts of one file system cannot be renamed between.
    fn mount(&self, path: &Path) -> Result<Option<u64>>;
    /// Insists that this user may make things in `directory`.
    fn insist_on_access(&self, directory: &Path) -> Result<()>;
    /// Bytes free for this user on the file system that holds `directory`.
    fn space(&self, directory: &Path) -> Result<u64>;
    /// What failed first, if anything did: afterwards this disk takes no more changes.
    fn poison(&self) -> Option<Poison>;
    /// The same disk for another try, as a new process would see it: not poisoned.
    fn afresh(&self) -> Box<dyn Disk + '_>;
}

/// What a failed change leaves behind it; none is ever tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// A write: the page cache holds what it held, so a fresh look at the disk may go back.
    Write,
    /// A sync: the kernel may have marked lost pages clean, so nothing this process reads proves anything any more.
    Sync,
}

/// Whether a directory stands at `path`: the directory itself, not a link that leads to one. What cannot be looked at
/// is an error here, and not missing.
pub fn is_directory(disk: &dyn Disk, path: &Path) -> Result<bool> {
    Ok(disk.stat(path)?.is_some_and(|stat| stat.kind == Kind::Directory))
}

/// Whether a regular file stands at `path`; a link to one counts as missing.
pub fn is_file(disk: &dyn Disk, path: &Path) -> Result<bool> {
    Ok(disk.stat(path)?.is_some_and(|stat| stat.kind == Kind::File))
}

/// Whether anything stands at `path`.
pub fn exists(disk: &dyn Disk, path: &Path) -> Result<bool> {
    Ok(disk.stat(path)?.is_some())
}

/// The directory that names `path`.
///
/// # Panics
/// On a path without a parent: no step ever acts on the root of the file system.
pub fn parent(path: &Path) -> &Path {
    path.parent().expect("every path the engine acts on lies inside a palace or a keep")
}

/// Evicts every file at or below `path` from the page cache, as far as this user may look.
pub fn evict_tree(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.stat(path)?.map(|stat| stat.kind) {
        Some(Kind::File) => disk.evict(path),
        Some(Kind::Directory) => match disk.list(path) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            names => names?.iter().try_for_each(|name| evict_tree(disk, &path.join(name))),
        },
        Some(Kind::Other) | None => Ok(()),
    }
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
