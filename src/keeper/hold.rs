//! Why an operation's folder stays: whatever in it may be the only copy of something, or is not ours (invariant I13).

use super::account::ACCOUNT;
use super::keep::{Folder, JOURNAL};
use super::{Account, Error, Kind as Store};
use crate::disk::{Disk, Kind, Stat};
use crate::engine::Entry;
use crate::ops::{Step, names};
use crate::store::chroma::{is_segment_file, siblings};
use crate::tree::{Fingerprint, Roots};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a folder stays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// The operation has not ended.
    Unended,
    /// The palace has no database, or it is damaged: old stores may be all there is.
    Palace(String),
    /// Somebody wrote to what was replaced, after it was.
    Changed(PathBuf),
    /// Somebody has what was replaced open.
    Open(String),
    /// So many things could not be carried over: this folder has the only copy of them.
    Lossy(usize),
    /// Whether something could not be carried over was not written down.
    Unknown,
    /// Something that palacekeeper did not make.
    Stranger(PathBuf),
}

impl Hold {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Hold::Unended => "unended",
            Hold::Palace(_) => "palace",
            Hold::Changed(_) => "changed",
            Hold::Open(_) => "open",
            Hold::Lossy(_) => "lossy",
            Hold::Unknown => "unknown",
            Hold::Stranger(_) => "stranger",
        }
    }

    /// Whether consent to the loss is enough.
    pub fn yields_to_consent(&self) -> bool {
        matches!(self, Hold::Lossy(_) | Hold::Unknown)
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Unended => f.write_str("it has not ended"),
            Hold::Palace(why) => write!(f, "the palace is not sound ({why}), so this may be all there is"),
            Hold::Changed(path) => write!(f, "{} was written to after it was replaced", path.display()),
            Hold::Open(who) => write!(f, "{who}"),
            Hold::Lossy(count) => {
                write!(f, "{count} things could not be carried over and are nowhere else; --accept-loss gives them up")
            }
            Hold::Unknown => {
                f.write_str("whether all was carried over was not written down; --accept-loss gives up what was not")
            }
            Hold::Stranger(path) => write!(f, "palacekeeper did not make {}", path.display()),
        }
    }
}

/// What an operation's folder has to be kept for, as far as the folder itself says.
pub(super) fn holds(
    disk: &dyn Disk,
    folder: &Folder,
    entry: &Entry<Step>,
    account: Option<&Account>,
) -> Result<Vec<Hold>, Error> {
    if entry.ledger.outcome().is_none() {
        return Ok(vec![Hold::Unended]);
    }
    let mut holds = Look { disk, folder, entry, kept: kept(disk, folder, entry) }.folder()?;
    if holds_store(disk, folder)? {
        match account {
            None => holds.push(Hold::Unknown),
            Some(account) if !account.losses.is_empty() => holds.push(Hold::Lossy(account.losses.len())),
            Some(_) => {}
        }
    }
    Ok(holds)
}

/// Whether a folder has more than the history of its operation.
pub(super) fn holds_store(disk: &dyn Disk, folder: &Folder) -> Result<bool, Error> {
    let has = |name: &str| Ok::<_, Error>(disk.stat(&folder.path.join(name))?.is_some());
    Ok(has(names::BACKUP)? || has(names::ASIDE)?)
}

/// Everything in a folder.
pub(super) fn files(disk: &dyn Disk, path: &Path) -> Result<Vec<(PathBuf, Stat)>, Error> {
    let Some(stat) = disk.stat(path)? else { return Ok(Vec::new()) };
    let mut found = vec![(path.to_owned(), stat)];
    if stat.kind == Kind::Directory {
        for name in disk.list(path)? {
            found.extend(files(disk, &path.join(name))?);
        }
    }
    Ok(found)
}

/// What the steps of an operation have left in its folder: where, and for the thing itself, what it was when it was
/// read.
fn kept(disk: &dyn Disk, folder: &Folder, entry: &Entry<Step>) -> BTreeMap<PathBuf, Option<Fingerprint>> {
    // A place in the palace or in an annex is in no folder, whatever the palace is called.
    let roots = Roots { disk, palace: PathBuf::from("/"), operation: folder.path.clone(), annex: None };
    let steps = entry.begin.plan.steps.iter().filter_map(|step| match step {
        Step::Tree(step) => Some(step.keeps()),
        _ => None,
    });
    steps.flatten().filter_map(|(spot, expects)| Some((roots.path(&spot).ok()?, expects.copied()))).collect()
}

/// Whether SQLite keeps a file of this name beside the database of any store.
fn is_sibling(name: &OsStr) -> bool {
    Store::ALL.iter().flat_map(|store| siblings(store.database())).any(|sibling| *name == *sibling)
}

struct Look<'l> {
    disk: &'l dyn Disk,
    folder: &'l Folder,
    entry: &'l Entry<Step>,
    kept: BTreeMap<PathBuf, Option<Fingerprint>>,
}

impl Look<'_> {
    fn folder(&self) -> Result<Vec<Hold>, Error> {
        let mut holds = Vec::new();
        for name in self.disk.list(&self.folder.path)? {
            let path = self.folder.path.join(&name);
            let kind = self.disk.stat(&path)?.map(|stat| stat.kind);
            let is_ours = name == JOURNAL || name == ACCOUNT;
            let is_store = name == names::BACKUP || name == names::ASIDE;
            match kind {
                Some(Kind::File) if is_ours => {}
                // An import that was rolled back: nobody knows whether the export is anywhere else.
                Some(Kind::File) if name == names::INPUT => holds.push(Hold::Lossy(1)),
                Some(Kind::Directory) if is_store => holds.extend(self.store(&path)?),
                _ => holds.push(Hold::Stranger(path)),
            }
        }
        Ok(holds)
    }

    /// What is wrong with the backup, or with what was set aside.
    fn store(&self, directory: &Path) -> Result<Vec<Hold>, Error> {
        let mut holds = Vec::new();
        for name in self.disk.list(directory)? {
            let path = directory.join(&name);
            match self.kept.get(&path) {
                Some(expects) => holds.extend(self.thing(&path, expects.as_ref())?),
                // Whoever still has the old database open writes such a thing beside it.
                None if is_sibling(&name) => holds.push(Hold::Changed(path)),
                None => holds.push(Hold::Stranger(path)),
            }
        }
        Ok(holds)
    }

    fn thing(&self, path: &Path, expects: Option<&Fingerprint>) -> Result<Option<Hold>, Error> {
        if expects.is_some() && Fingerprint::of(self.disk, path)?.as_ref() != expects {
            return Ok(Some(Hold::Changed(path.to_owned())));
        }
        for (file, stat) in files(self.disk, path)?.into_iter().filter(|(file, _)| file != path) {
            let is_known = stat.kind == Kind::File && file.file_name().is_some_and(is_segment_file);
            if !is_known || file.parent() != Some(path) {
                return Ok(Some(Hold::Stranger(file)));
            }
            if expects.is_some() && self.is_changed(&file, stat)? {
                return Ok(Some(Hold::Changed(file)));
            }
        }
        Ok(None)
    }

    /// A directory's fingerprint says nothing of its files. One that was written to since the operation began is
    /// compared with the copy that was made before anything else.
    fn is_changed(&self, file: &Path, stat: Stat) -> Result<bool, Error> {
        if stat.modified_ns < self.entry.begin.began_at.saturating_mul(1_000_000_000) {
            return Ok(false);
        }
        let (backup, aside) = (self.folder.path.join(names::BACKUP), self.folder.path.join(names::ASIDE));
        let Ok(name) = file.strip_prefix(&aside) else { return Ok(true) };
        let copy = backup.join(name);
        match self.disk.stat(&copy)? {
            Some(found) if found.kind == Kind::File && found.length == stat.length => {
                Ok(!is_same(self.disk, [file, &copy], stat.length)?)
            }
            _ => Ok(true),
        }
    }
}

fn is_same(disk: &dyn Disk, [one, other]: [&Path; 2], length: u64) -> Result<bool, Error> {
    const PART_BYTES: u64 = 1 << 20;
    for at in (0..length).step_by(PART_BYTES as usize) {
        if disk.read(one, at, PART_BYTES)? != disk.read(other, at, PART_BYTES)? {
            return Ok(false);
        }
    }
    Ok(true)
}
