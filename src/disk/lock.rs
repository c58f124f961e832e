//! A lock file, held by the kernel for as long as the process lives.
//!
//! `flock(2)` through fs2, whose methods are called by their full path: the standard library's own `File::try_lock`
//! would shadow them. The lock file is never deleted, since a deleted file can be locked twice.

use super::{Disk, Error, Lock, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A lock of this machine's kernel.
#[derive(Debug)]
pub(super) struct Flock {
    file: File,
    path: PathBuf,
}

impl Flock {
    /// Takes the lock, making its file where there is none; `None` where another process holds it.
    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Flock>> {
        loop {
            let fail = |source| Error::new("lock", path, source);
            let file = open(path).map_err(fail)?;
            match fs2::FileExt::try_lock_exclusive(&file) {
                Ok(()) if same_file(&file, path) => return Ok(Some(Flock { file, path: path.to_owned() })),
                Ok(()) => continue, // the file was exchanged between open and lock: what we hold guards nothing
                Err(error) if error.kind() == fs2::lock_contended_error().kind() => return Ok(None),
                Err(error) => return Err(fail(error)),
            }
        }
    }
}

impl Lock for Flock {
    fn sign(&mut self, text: &[u8]) -> Result<()> {
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text)
        };
        write(&mut self.file).map_err(|source| Error::new("write to the lock file", &self.path, source))
    }
}

/// What the holder of a lock wrote about itself; empty where nothing can be read.
pub fn holder(disk: &dyn Disk, path: &Path) -> String {
    // A lock file is one short line; whatever else stands there is not worth more memory.
    let mut text = vec![0; 512];
    let read = disk.open(path).ok().and_then(|file| file.read_up_to(&mut text, 0).ok());
    text.truncate(read.unwrap_or(0));
    String::from_utf8_lossy(&text).trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned()
}

/// Never through a link, and never anything but a regular file: the holder is going to be written into it.
fn open(path: &Path) -> io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(no_follow.bits() as i32);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.metadata()) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(_: &File, _: &Path) -> bool {
    true // an open file cannot be exchanged there
}
