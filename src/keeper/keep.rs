//! The keep: our own directory beside a palace, and every name in it.

use super::Error;
use crate::disk::{self, Disk, is_directory, is_file, parent, remove_tree};
use crate::engine;
use crate::ops::Step;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Name of the journal in an operation's folder.
pub(super) const JOURNAL: &str = "journal";
/// The file that writers lock.
const LOCK: &str = "lock";
/// Where an operation's folder is made before it is one.
const UNBORN: &str = ".unborn";
/// The highest number of a folder that was swept; there is none before that happens.
const LAST: &str = "last";
/// The same, while it is being written.
const NEW_LAST: &str = ".last";
/// Beginning of the names of folders that are being removed.
const SWEPT: &str = ".swept-";
/// Beginning of the names of copies made for reading.
const SCRATCH: &str = ".scratch-";

/// A keep that exists.
#[derive(Clone, Debug)]
pub(super) struct Keep {
    path: PathBuf,
}

/// The folder of one operation.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) number: u32,
    pub(super) path: PathBuf,
}

impl Keep {
    /// The keep of a palace, if it has one.
    pub(super) fn find(disk: &dyn Disk, palace: &Path) -> Result<Option<Keep>, Error> {
        let [outer, inner] = Keep::places(palace);
        match (disk.stat(&outer)?.is_some(), disk.stat(&inner)?.is_some()) {
            (true, true) => Err(Error::TwoKeeps { outer, inner }),
            (true, false) => Ok(Some(Keep { path: outer })),
            (false, true) => Ok(Some(Keep { path: inner })),
            (false, false) => Ok(None),
        }
    }

    /// Makes the keep of a palace on the palace's own file system, beside it where that is possible.
    pub(super) fn create(disk: &dyn Disk, palace: &Path) -> Result<Keep, Error> {
        let path = Keep::wanted(disk, palace)?;
        match disk.create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {} // another keeper was faster
            made => made?,
        }
        disk.adopt(&path, palace)?;
        disk.sync(parent(&path))?;
        Ok(Keep { path })
    }

    /// A directory on the file system where the keep is, or would be.
    pub(super) fn place(disk: &dyn Disk, palace: &Path) -> Result<PathBuf, Error> {
        match Keep::find(disk, palace)? {
            Some(keep) => Ok(keep.path),
            None => Ok(parent(&Keep::wanted(disk, palace)?).to_owned()),
        }
    }

    /// Beside the palace, and inside it.
    fn places(palace: &Path) -> [PathBuf; 2] {
        let mut name = palace.file_name().unwrap_or(OsStr::new("palace")).to_owned();
        name.push(".keep");
        [palace.with_file_name(name), palace.join(".keep")]
    }

    /// Inside where the palace is a mount point or its parent cannot be written to.
    fn wanted(disk: &dyn Disk, palace: &Path) -> Result<PathBuf, Error> {
        let [outer, inner] = Keep::places(palace);
        let Some(parent) = palace.parent() else { return Ok(inner) };
        let device = |path: &Path| Ok::<_, Error>(disk.stat(path)?.map(|stat| stat.device));
        let is_beside = device(parent)? == device(palace)? && disk.mount(parent)? == disk.mount(palace)?;
        let is_writable = disk.insist_on_access(parent).is_ok();
        Ok(if is_beside && is_writable { outer } else { inner })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    pub(super) fn unborn(&self) -> PathBuf {
        self.path.join(UNBORN)
    }

    /// Clears up after others; the caller holds the lock. What the page cache has of the palace and the keep is made
    /// durable, since all that follows builds upon it (invariant I5): a client's last writes, the End of the operation
    /// before, the names of the keep and of a folder that is on its way out. Then what killed processes were making and
    /// nothing names yet is removed.
    pub(super) fn tidy(&self, disk: &dyn Disk) -> Result<(), Error> {
        disk.sync_all(&self.path).map_err(|failed| self.unsettled(disk, failed))?;
        for name in disk.list(&self.path)? {
            if is_temporary(&name) {
                remove_tree(disk, &self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// What could not be made durable, and what is interrupted by that.
    fn unsettled(&self, disk: &dyn Disk, failed: disk::Error) -> Error {
        match self.interrupted(disk) {
            Ok(Some(folder)) => Error::Interrupted { folder: folder.path, annex: None, source: failed.into() },
            _ => failed.into(),
        }
    }

    /// Names of what a killed process was making and nothing names yet.
    pub(super) fn leftovers(&self, disk: &dyn Disk) -> Result<Vec<String>, Error> {
        let names = disk.list(&self.path)?.into_iter().filter(|name| is_temporary(name));
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    /// The folders of all operations, by number.
    pub(super) fn folders(&self, disk: &dyn Disk) -> Result<Vec<Folder>, Error> {
        let (mut folders, mut strangers) = (Vec::new(), Vec::new());
        for name in disk.list(&self.path)? {
            let path = self.path.join(&name);
            match number(&name) {
                // A journal that is a pipe would be waited for without end.
                Some(number) if is_directory(disk, &path)? && is_file(disk, &path.join(JOURNAL))? => {
                    folders.push(Folder { number, path });
                }
                _ if name == LOCK || name == LAST || is_temporary(&name) => {}
                _ => strangers.push(name.to_string_lossy().into_owned()),
            }
        }
        folders.sort_by_key(|folder| folder.number);
        match strangers.is_empty() {
            true => Ok(folders),
            false => Err(Error::Strangers { keep: self.path.clone(), names: strangers }),
        }
    }

    /// The folder of the operation of a number.
    pub(super) fn folder(&self, disk: &dyn Disk, number: u32) -> Result<Folder, Error> {
        let found = self.folders(disk)?.into_iter().find(|folder| folder.number == number);
        found.ok_or(Error::NoOperation { number })
    }

    /// The one operation that has no end, if there is one. An End that a failed sync has dropped is none, so the medium
    /// is asked (invariant I5).
    pub(super) fn interrupted(&self, disk: &dyn Disk) -> Result<Option<Folder>, Error> {
        let mut found: Option<Folder> = None;
        let folders = self.folders(disk)?;
        if let Some(newest) = folders.last() {
            disk.evict(&newest.path.join(JOURNAL))?;
        }
        for folder in folders {
            if engine::read::<Step>(disk, &folder.path.join(JOURNAL))?.ledger.outcome().is_some() {
                continue;
            }
            if let Some(first) = found {
                let (first, second) = (first.number, folder.number);
                return Err(Error::TwoInterrupted { keep: self.path.clone(), first, second });
            }
            found = Some(folder);
        }
        Ok(found)
    }

    /// The folder of the next operation; it does not exist yet.
    pub(super) fn next(&self, disk: &dyn Disk, title: &str) -> Result<Folder, Error> {
        let number = self.last(disk)?.saturating_add(1);
        Ok(Folder { number, path: self.path.join(format!("{number:04}-{title}")) })
    }

    /// The highest number that an operation ever had here; 0 before the first.
    fn last(&self, disk: &dyn Disk) -> Result<u32, Error> {
        let standing = self.folders(disk)?.last().map_or(0, |last| last.number);
        let path = self.path.join(LAST);
        match disk.stat(&path)? {
            None => Ok(standing),
            Some(_) => match String::from_utf8_lossy(&disk.read(&path, 0, 16)?).trim().parse::<u32>() {
                Ok(swept) => Ok(standing.max(swept)),
                Err(_) => Err(Error::Strangers { keep: self.path.clone(), names: vec![LAST.into()] }),
            },
        }
    }

    /// Removes an operation's folder: it is not there any more, durably, before the first file of it goes.
    pub(super) fn sweep(&self, disk: &dyn Disk, folder: &Folder) -> Result<(), Error> {
        let is_newest = self.folders(disk)?.last().is_some_and(|last| last.number == folder.number);
        if is_newest {
            self.remember(disk, self.last(disk)?)?; // no number is ever used twice
        }
        let mut name = std::ffi::OsString::from(SWEPT);
        name.push(folder.path.file_name().unwrap_or_default());
        let swept = self.path.join(name);
        disk.rename(&folder.path, &swept)?;
        disk.sync(&self.path)?;
        remove_tree(disk, &swept)?;
        Ok(disk.sync(&self.path)?)
    }

    fn remember(&self, disk: &dyn Disk, number: u32) -> Result<(), Error> {
        let (new, last) = (self.path.join(NEW_LAST), self.path.join(LAST));
        disk.create(&new, format!("{number}\n").as_bytes())?;
        disk.adopt(&new, &self.path)?;
        disk.sync(&new)?;
        disk.replace(&new, &last)?;
        Ok(disk.sync(&self.path)?)
    }
}

fn is_temporary(name: &OsStr) -> bool {
    let begins = |with: &str| name.to_str().is_some_and(|name| name.starts_with(with));
    name == UNBORN || name == NEW_LAST || begins(SCRATCH) || begins(SWEPT)
}

/// Whether a path is a keep, or lies in one: what is there belongs to operations.
pub(super) fn is_in_keep(disk: &dyn Disk, path: &Path) -> Result<bool, Error> {
    for directory in path.ancestors() {
        let is_named = directory.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b".keep"));
        if is_named && is_file(disk, &directory.join(LOCK))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number in a folder's name, `0007-rebuild`.
fn number(name: &OsStr) -> Option<u32> {
    let (digits, title) = name.to_str()?.split_once('-')?;
    let is_number = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !title.is_empty()).then(|| digits.parse().ok())?
}
