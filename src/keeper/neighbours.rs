//! Who else is there: other keepers, MemPalace's writers, and processes that merely have the palace open.
//!
//! An idle Chroma client holds no lock that could be seen, and goes on writing to files that have been replaced; so
//! beside both locks there is a look through the open files of all processes (CHROMA.md §6).

use super::{Error, Kind, keep::Keep};
use crate::disk::{Disk, Inodes, Lock, holder, is_directory, parent};
use sha2::{Digest, Sha256};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long all of them are waited for together: a backup program, or a client that ends, is gone in a moment.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The time at which nobody is waited for any more.
pub(super) fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// Tries again until somebody has let go of the palace, or it has taken too long.
fn patiently<T>(until: Instant, attempt: &mut dyn FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match attempt() {
            Err(Error::InUse { .. }) if Instant::now() < until => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// Takes every lock there is, and makes sure that nobody has the palace's store open.
pub(super) fn shut_out(disk: &dyn Disk, palace: &Path, keep: &Keep) -> Result<Vec<Box<dyn Lock>>, Error> {
    let until = patience();
    let locks = lock(disk, palace, keep, until)?;
    insist_on_nobody(disk, palace, until)?;
    Ok(locks)
}

/// Takes every lock there is.
pub(super) fn lock(disk: &dyn Disk, palace: &Path, keep: &Keep, until: Instant) -> Result<Vec<Box<dyn Lock>>, Error> {
    let mut locks = vec![patiently(until, &mut || take(disk, &keep.lock_file(), "another palacekeeper"))?];
    if let Some(path) = mempalace_lock(disk, palace)? {
        locks.push(patiently(until, &mut || take(disk, &path, "a MemPalace writer"))?);
    }
    Ok(locks)
}

/// Makes sure that nobody has the palace's store open.
pub(super) fn insist_on_nobody(disk: &dyn Disk, palace: &Path, until: Instant) -> Result<(), Error> {
    patiently(until, &mut || match disk.find_user_of(&store_files(disk, palace)?) {
        Some(who) => Err(Error::InUse { who }),
        None => Ok(()),
    })
}

fn take(disk: &dyn Disk, path: &Path, who: &str) -> Result<Box<dyn Lock>, Error> {
    match disk.try_lock(path)? {
        Some(mut lock) => {
            disk.adopt(path, parent(path))?; // made by root, it would lock its owner out for ever
            // MemPalace's layout: a NUL that Windows locks, then the holder.
            lock.sign(format!("\0{} palacekeeper", std::process::id()).as_bytes())?;
            Ok(lock)
        }
        None => Err(Error::InUse { who: format!("{who} ({}) holds {}", holder(disk, path), path.display()) }),
    }
}

/// MemPalace's own writer lock of this palace (CHROMA.md §6.2); `None` where MemPalace has never run for this user.
fn mempalace_lock(disk: &dyn Disk, palace: &Path) -> Result<Option<PathBuf>, Error> {
    let home = std::env::home_dir().unwrap_or_default().join(".mempalace");
    if !is_directory(disk, &home)? {
        return Ok(None);
    }
    let locks = home.join("locks");
    if !is_directory(disk, &locks)? {
        disk.create_dir(&locks)?;
        disk.adopt(&locks, &home)?;
    }
    let hash = Sha256::digest(palace.as_os_str().as_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(locks.join(format!("mine_palace_{hash}.lock"))))
}

/// The files of a store by what they are rather than by name. One that is gone by now is nobody's.
fn store_files(disk: &dyn Disk, palace: &Path) -> Result<Inodes, Error> {
    let mut files = Inodes::new();
    for path in store_paths(disk, palace)? {
        files.extend(disk.stat(&path)?.map(|found| ((found.device, found.node), path)));
    }
    Ok(files)
}

/// The database of a store, of either kind, with its siblings, and all files of all segments.
pub(super) fn store_paths(disk: &dyn Disk, palace: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for name in disk.list(palace)? {
        let path = palace.join(&name);
        let is_segment = name.to_str().is_some_and(|name| uuid::Uuid::parse_str(name).is_ok());
        if Kind::ALL.iter().any(|kind| name.as_bytes().starts_with(kind.database().as_bytes())) {
            paths.push(path);
        } else if is_segment && is_directory(disk, &path)? {
            paths.extend(disk.list(&path)?.iter().map(|name| path.join(name)));
        }
    }
    Ok(paths)
}
