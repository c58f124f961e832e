//! Who has a file open, as the kernel tells it.
//!
//! # Limits
//! Only Linux shows the open files of a process, and only those of one's own user, or of all to root.

use super::Inodes;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process other than this one that has one of some files open, and which.
pub(super) fn find(files: &Inodes) -> Option<String> {
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(metadata) = fs::metadata(descriptor.path()) else { continue };
            if let Some(file) = files.get(&(metadata.dev(), metadata.ino())) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("process {pid} ({}) has {} open", name.trim(), file.display()));
            }
        }
    }
    None
}
