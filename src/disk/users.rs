//! Who has a file open, as the kernel tells it.
//!
//! # Limits
//! Only Linux shows the open files of a process, and only those of one's own user, or of all to root.

use super::Inodes;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A process other than this one that has one of some files open, and which. Where that cannot be found out, somebody
/// may have: only a process that is gone, or another user's, is passed over.
pub(super) fn find(files: &Inodes) -> Option<String> {
    look(files).unwrap_or_else(|error| Some(format!("nobody can tell which process has it open: {error}")))
}

fn look(files: &Inodes) -> io::Result<Option<String>> {
    for process in list(Path::new("/proc"))? {
        let Some(pid) = process.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        for descriptor in list(&process.join("fd"))? {
            let Some(metadata) = seen(fs::metadata(descriptor))? else { continue };
            if let Some(file) = files.get(&(metadata.dev(), metadata.ino())) {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                return Ok(Some(format!("process {pid} ({}) has {} open", name.trim(), file.display())));
            }
        }
    }
    Ok(None)
}

/// What a directory holds; nothing where it is not there, or not ours to see.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = seen(fs::read_dir(directory))? else { return Ok(Vec::new()) };
    let entries = entries.map(|entry| seen(entry.map(|entry| entry.path()))).collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().flatten().collect())
}

/// A failure for want of descriptors or memory says nothing of what is there; every other one does.
fn seen<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    use rustix::io::Errno;
    const BLIND: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if BLIND.iter().any(|blind| error.raw_os_error() == Some(blind.raw_os_error())) => Err(error),
        Err(_) => Ok(None),
    }
}
