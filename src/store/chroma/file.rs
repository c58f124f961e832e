//! Opens a file that somebody else has written, for reading.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a regular file. A link is not followed out of the palace, and a pipe is not waited for: neither is something
/// that chromadb wrote, so the file counts as missing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "it is not a regular file");
    match path.symlink_metadata()?.is_file() {
        true => {}
        false => return Err(missing()),
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(missing()) }
}

/// Whether a directory is there: the directory itself, not a link that leads to one.
pub(super) fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}
