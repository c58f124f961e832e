//! What an operation reads and replaces, looked at before anything is read, so that whoever writes to it later is
//! noticed.

use crate::disk::{self, Disk, Kind};
use crate::store::chroma::{Survey, siblings};
use crate::tree::Fingerprint;
use std::path::{Path, PathBuf};

/// The files of a store, as they were before they were read.
pub struct StoreFiles {
    pub(super) database: Entry,
    pub(super) siblings: Vec<Entry>,
    pub(super) segments: Vec<Entry>,
    /// Siblings that are not there, and must not appear.
    pub(super) absent: Vec<String>,
}

/// One of them.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) fingerprint: Fingerprint,
    pub(super) bytes: u64,
}

impl StoreFiles {
    /// Looks at the database and its siblings; must be called before the database is read, so that whoever writes to it
    /// later is noticed.
    pub fn look(disk: &dyn Disk, palace: &Path, database: &str) -> Result<Option<StoreFiles>, Unfit> {
        let Some(database) = Entry::look(disk, palace, database)? else { return Ok(None) };
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for name in siblings(&database.name) {
            match Entry::look(disk, palace, &name)? {
                Some(entry) => present.push(entry),
                None => absent.push(name),
            }
        }
        Ok(Some(StoreFiles { database, siblings: present, segments: Vec::new(), absent }))
    }

    /// Looks at the directories of the segments that the collections name.
    pub fn look_at_segments(&mut self, disk: &dyn Disk, palace: &Path, survey: &Survey) -> Result<(), Unfit> {
        let names = survey.collections.iter().filter_map(|one| one.collection.vector.as_deref());
        self.look_at_named(disk, palace, names)
    }

    /// Looks at those of some segments that are there.
    pub fn look_at_named<'n>(
        &mut self,
        disk: &dyn Disk,
        directory: &Path,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<(), Unfit> {
        for name in names {
            self.segments.extend(Entry::look(disk, directory, name)?);
        }
        Ok(())
    }

    /// Space that all of it takes.
    pub(super) fn bytes(&self) -> u64 {
        let parts = [&self.database].into_iter().chain(&self.siblings).chain(&self.segments);
        parts.map(|entry| entry.bytes).sum()
    }

    pub(super) fn segment(&self, name: &Option<String>) -> Option<&Entry> {
        self.segments.iter().find(|entry| Some(&entry.name) == name.as_ref())
    }

    /// Whether reading the database takes a copy of it.
    pub(super) fn is_hot(&self) -> bool {
        !self.siblings.is_empty()
    }
}

impl Entry {
    fn look(disk: &dyn Disk, palace: &Path, name: &str) -> Result<Option<Entry>, Unfit> {
        let path = palace.join(name);
        let Some(fingerprint) = Fingerprint::of(disk, &path)? else { return Ok(None) };
        Ok(Some(Entry { name: name.to_owned(), fingerprint, bytes: bytes(disk, &path)? }))
    }
}

/// Why the files of a store cannot be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Something in it is neither a file nor a directory.
    #[error("{} is neither a regular file nor a directory", .0.display())]
    NotAFile(PathBuf),
}

/// Space that a file or a directory takes on the disk.
fn bytes(disk: &dyn Disk, path: &Path) -> Result<u64, Unfit> {
    let Some(stat) = disk.stat(path)? else { return Ok(0) };
    match stat.kind {
        Kind::File => Ok(stat.allocated),
        Kind::Directory => disk.list(path)?.into_iter().map(|name| bytes(disk, &path.join(name))).sum(),
        Kind::Other => Err(Unfit::NotAFile(path.to_owned())),
    }
}
