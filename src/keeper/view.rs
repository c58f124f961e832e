//! What a keep says about its palace, read without a lock and without changing anything.

use super::hold::{self, Hold};
use super::keep::{Folder, JOURNAL, Keep};
use super::{Account, Error, Preview, resolve};
use crate::disk::Disk;
use crate::engine::{self, Entry, Outcome};
use crate::journal::Tail;
use crate::ops::Step;
use std::path::{Path, PathBuf};

/// All operations of a palace.
pub struct History {
    /// The palace.
    pub palace: PathBuf,
    /// Its keep, if it has one.
    pub keep: Option<PathBuf>,
    /// Its operations, oldest first.
    pub operations: Vec<OperationView>,
    /// Names in the keep that a killed process left behind before its operation began; the next writer removes them.
    pub leftovers: Vec<String>,
}

/// One operation, as its journal tells it.
pub struct OperationView {
    /// Its number.
    pub number: u32,
    /// What it was for.
    pub title: String,
    /// When it began, in seconds since 1970, UTC.
    pub began_at: i64,
    /// How it ended; `None` while it has not.
    pub outcome: Option<Outcome>,
    /// Why it gave up, where it did.
    pub aborted: Option<String>,
    /// Whether it has passed its point of no return.
    pub is_committed: bool,
    /// Its steps, each with where the journal says it stands.
    pub steps: Vec<(String, engine::Mark)>,
    /// Bytes of a torn end of its journal.
    pub torn_bytes: u64,
    /// Bytes its folder takes on the disk.
    pub bytes: u64,
    /// What it could not carry over and what it found elsewhere, as it was written down when it began; `None` where
    /// nothing was.
    pub account: Option<Account>,
    /// What its folder has to be kept for, as far as the folder itself says.
    pub holds: Vec<Hold>,
    /// Its folder.
    pub folder: PathBuf,
}

impl OperationView {
    /// Steps that are done.
    pub fn done(&self) -> usize {
        self.steps.iter().filter(|(_, mark)| *mark == engine::Mark::Done).count()
    }
}

impl History {
    /// The operation without an end, if there is one.
    pub fn interrupted(&self) -> Option<&OperationView> {
        self.operations.iter().find(|operation| operation.outcome.is_none())
    }

    /// Bytes that all operations take on the disk.
    pub fn bytes(&self) -> u64 {
        self.operations.iter().map(|operation| operation.bytes).sum()
    }

    /// Bytes that a sweep could free without anybody giving up anything, if the palace is sound.
    pub fn sweepable_bytes(&self) -> u64 {
        self.operations.iter().filter(|operation| operation.holds.is_empty()).map(|operation| operation.bytes).sum()
    }

    /// The operation of a number.
    pub fn operation(&self, number: u32) -> Result<&OperationView, Error> {
        self.operations.iter().find(|one| one.number == number).ok_or(Error::NoOperation { number })
    }
}

/// Reads the history of a palace.
pub fn look(disk: &dyn Disk, palace: &Path) -> Result<History, Error> {
    let palace = resolve(disk, palace)?;
    let Some(keep) = Keep::find(disk, &palace)? else {
        return Ok(History { palace, keep: None, operations: Vec::new(), leftovers: Vec::new() });
    };
    let folders = keep.folders(disk)?;
    let operations = folders.iter().map(|folder| view(disk, folder)).collect::<Result<_, _>>()?;
    let leftovers = keep.leftovers(disk)?;
    Ok(History { palace, keep: Some(keep.path().to_owned()), operations, leftovers })
}

/// What recovering the palace would do; `None` where nothing is interrupted.
pub fn preview_recovery(disk: &dyn Disk, palace: &Path) -> Result<Option<Preview>, Error> {
    let palace = resolve(disk, palace)?;
    match Keep::find(disk, &palace)? {
        Some(keep) => preview(disk, &keep),
        None => Ok(None),
    }
}

fn preview(disk: &dyn Disk, keep: &Keep) -> Result<Option<Preview>, Error> {
    let Some(folder) = keep.interrupted(disk)? else { return Ok(None) };
    let entry: Entry<Step> = engine::read(disk, &folder.path.join(JOURNAL))?;
    let steps =
        entry.preview().into_iter().map(|(index, verdict)| (entry.begin.plan.steps[index].to_string(), verdict));
    let (steps, direction) = (steps.collect(), entry.ledger.direction());
    Ok(Some(Preview { number: folder.number, title: entry.begin.title, direction, steps }))
}

fn view(disk: &dyn Disk, folder: &Folder) -> Result<OperationView, Error> {
    let entry: Entry<Step> = engine::read(disk, &folder.path.join(JOURNAL))?;
    let account = Account::read(disk, &folder.path)?;
    let holds = hold::holds(disk, folder, &entry, account.as_ref())?;
    let ledger = &entry.ledger;
    let steps = entry.begin.plan.steps.iter().enumerate();
    let steps = steps.map(|(index, step)| (step.to_string(), ledger.mark(index).unwrap_or(engine::Mark::Untouched)));
    Ok(OperationView {
        number: folder.number,
        steps: steps.collect(),
        outcome: ledger.outcome(),
        aborted: ledger.aborted().map(str::to_owned),
        is_committed: ledger.is_committed(),
        torn_bytes: if let Tail::Torn { bytes, .. } = entry.tail { bytes } else { 0 },
        bytes: bytes_of(disk, &folder.path)?,
        account,
        holds,
        folder: folder.path.clone(),
        title: entry.begin.title,
        began_at: entry.begin.began_at,
    })
}

/// Space a tree takes on the disk.
fn bytes_of(disk: &dyn Disk, path: &Path) -> Result<u64, Error> {
    let Some(stat) = disk.stat(path)? else { return Ok(0) };
    let mut bytes = stat.allocated;
    if stat.kind == crate::disk::Kind::Directory {
        for name in disk.list(path)? {
            bytes += bytes_of(disk, &path.join(name))?;
        }
    }
    Ok(bytes)
}
