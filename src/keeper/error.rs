//! What can stop a keeper, and what a person can do about it.

use super::Unusable;
use crate::ops;
use crate::store::lines;
use crate::{disk, engine, store::chroma};
use std::path::{Path, PathBuf};

/// An error of the front desk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] chroma::Error),
    /// The disk, before anything had happened.
    #[error("{0}; nothing was changed")]
    Disk(#[from] disk::Error),
    /// The store holds something that cannot be copied.
    #[error("{0}; put the thing itself there if it is a link, or move it away, then try again. Nothing was touched")]
    Unfit(#[from] ops::Unfit),
    /// The journal, or a request to stop.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// Another process has the palace.
    #[error("the palace is in use: {who}; close it, then try again. Nothing was touched")]
    InUse {
        /// Which process, and what it has open.
        who: String,
    },
    /// Nothing can be built where somebody wants it.
    #[error("{} cannot be used for staging: {why}. Nothing was touched", directory.display())]
    NoStaging {
        /// The directory that was named.
        directory: PathBuf,
        /// Why not.
        why: Unusable,
    },
    /// There is not enough room.
    #[error(
        "{} has {free} bytes free, and this needs {needed}; nothing was touched. Free some space, then try again",
        path.display()
    )]
    NoSpace {
        /// Where the room is needed.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A signal stopped the operation between two steps.
    #[error(
        "stopped after {done} of {all} steps; the palace is as it was. Run palacekeeper recover to undo what was \
         begun, or palacekeeper recover --resume to go on"
    )]
    Stopped {
        /// Steps that are done.
        done: usize,
        /// Steps of the plan.
        all: usize,
    },
    /// The operation could not begin.
    #[error("{source}\nThe operation could not begin; the palace was not touched")]
    NotBegun {
        /// Why not.
        source: engine::Error,
    },
    /// The operation failed and was undone.
    #[error("{source}\nOperation {number} was rolled back: the palace is as it was{}", left(left_behind))]
    RolledBack {
        /// Its number.
        number: u32,
        /// Why it failed.
        source: engine::Error,
        /// Its annex, where that is out of reach.
        left_behind: Option<PathBuf>,
    },
    /// The operation could be neither finished nor undone now.
    #[error(
        "{source}\nThe operation in {}{} is interrupted; nothing is lost. When the cause is gone, run: \
         palacekeeper recover",
        folder.display(),
        and(annex)
    )]
    Interrupted {
        /// Its folder.
        folder: PathBuf,
        /// Its annex, if it has one.
        annex: Option<PathBuf>,
        /// What failed.
        source: engine::Error,
    },
    /// The disk holds something that the journal does not expect.
    #[error(
        "{source}\nSomebody else changed {} after the operation was cut short; nothing was touched. If the \
         palace is as you want it, move the operation's folder out of the keep; otherwise put back what was changed \
         and run: palacekeeper recover",
        places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    Refused {
        /// The palace, the operation's folder, and its annex, if it has one.
        places: Box<[PathBuf]>,
        /// What was refused.
        source: engine::Error,
    },
    /// The keep holds something that is not ours.
    #[error(
        "the keep {} holds things that palacekeeper did not make: {}; move them away, then try again. Nothing was \
         touched",
        keep.display(),
        names.join(", ")
    )]
    Strangers {
        /// The keep.
        keep: PathBuf,
        /// What is in it.
        names: Vec<String>,
    },
    /// There is no palace, and beside it lies one that MemPalace moved away.
    #[error(
        "there is no palace in {}, but MemPalace left one beside it: {}. Its migration or rebuild was cut short. \
         palacekeeper repair puts back what was moved aside, or the only copy, if it is sound and nothing stands in \
         its place; otherwise move the right one there. Nothing was touched",
        palace.display(),
        copies.iter().map(|copy| copy.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    MovedAway {
        /// Where the palace should be.
        palace: PathBuf,
        /// Where one is.
        copies: Vec<PathBuf>,
    },
    /// A palace has two keeps.
    #[error(
        "the palace has two keeps, {} and {}; move one of them away, then try again. Nothing was touched",
        outer.display(),
        inner.display()
    )]
    TwoKeeps {
        /// Beside the palace.
        outer: PathBuf,
        /// Inside it.
        inner: PathBuf,
    },
    /// Two operations are open at once.
    #[error(
        "the keep {} holds two operations without an end, {first} and {second}; a person must look. Nothing was \
         touched",
        keep.display()
    )]
    TwoInterrupted {
        /// The keep.
        keep: PathBuf,
        /// One of them.
        first: u32,
        /// The other one.
        second: u32,
    },
    /// It cannot be told which records are whose.
    #[error(
        "“{subject}”: {evidence}. Which of them is its own cannot be told, and a new one would hide its records; \
         nothing was touched. A person has to write the right row of segments first"
    )]
    Unclear {
        /// The collection.
        subject: String,
        /// What it lacks, and what is left over.
        evidence: String,
    },
    /// The lines of an export.
    #[error("{0}; nothing was touched")]
    Lines(#[from] lines::Error),
    /// What an import brought is not what was sent.
    #[error("“{collection}” is not as it was sent: its digest differs; nothing was touched. Export it again")]
    NotAsSent {
        /// The collection.
        collection: String,
    },
    /// An import would have to replace something.
    #[error(
        "{} has a store already, {database}; an import needs a directory without one. Nothing was touched",
        palace.display()
    )]
    HasStore {
        /// The palace.
        palace: PathBuf,
        /// Its database.
        database: &'static str,
    },
    /// Somebody wrote to the palace while it was written out.
    #[error(
        "somebody wrote to {} while it was read, so the export lacks its last line and cannot be imported; close \
         MemPalace, then export it again",
        palace.join(database).display()
    )]
    ChangedMeanwhile {
        /// The palace.
        palace: PathBuf,
        /// Its database.
        database: &'static str,
    },
    /// What is named as a palace belongs to the operations on another one.
    #[error(
        "{} lies in a keep of palacekeeper's, and what is there belongs to its operations; name the palace itself, or \
         copy it out first. Nothing was touched",
        palace.display()
    )]
    InKeep {
        /// What was named.
        palace: PathBuf,
    },
    /// The palace has two stores.
    #[error(
        "{} holds both {} and {}, and MemPalace opens no such palace. Which of them is the palace's own, palacekeeper \
         cannot tell: palacekeeper recover ends a migration that was cut short; otherwise move the other one away. \
         Nothing was touched",
        palace.display(),
        crate::store::chroma::DATABASE,
        crate::store::exact::DATABASE
    )]
    TwoStores {
        /// The palace.
        palace: PathBuf,
    },
    /// The palace has a store without an index.
    #[error(
        "{} is a sqlite_exact palace: it has no index that could be damaged. palacekeeper migrate makes it one of \
         chromadb's; nothing was touched",
        palace.display()
    )]
    Exact {
        /// The palace.
        palace: PathBuf,
    },
    /// The palace has the wanted format.
    #[error("{} has the format {format} already; nothing was touched", palace.display())]
    AlreadyThere {
        /// The palace.
        palace: PathBuf,
        /// The format.
        format: String,
    },
    /// The disk failed in a sweep.
    #[error(
        "{source}\n{} was not wholly removed, and {swept} folders were before it; the palace was not touched. The next \
         command that writes removes what is left under a temporary name; what is still listed is whole",
        folder.display()
    )]
    HalfSwept {
        /// The folder that was being removed.
        folder: PathBuf,
        /// How many folders were removed before it.
        swept: usize,
        /// What failed.
        source: Box<Error>,
    },
    /// An operation replaced nothing that could come back.
    #[error(
        "operation {number} has replaced nothing: {why}. palacekeeper log lists those that have; nothing was touched"
    )]
    NothingReplaced {
        /// Its number.
        number: u32,
        /// Why not.
        why: &'static str,
    },
    /// An operation has not ended.
    #[error("operation {number} was cut short; palacekeeper recover ends it. Nothing was touched")]
    NotEnded {
        /// Its number.
        number: u32,
    },
    /// What an operation replaced cannot come back.
    #[error("operation {number} cannot be restored: {why}. Nothing was touched")]
    Unrestorable {
        /// Its number.
        number: u32,
        /// Why not, and what can be done instead.
        why: String,
    },
    /// A database's journal lies in the palace without its database.
    #[error("{} has no database beside it; move it away, then try again. Nothing was touched", path.display())]
    Stray {
        /// The journal.
        path: PathBuf,
    },
    /// No operation of this number.
    #[error("there is no operation {number}; palacekeeper log lists them")]
    NoOperation {
        /// The number.
        number: u32,
    },
}

fn and(annex: &Option<PathBuf>) -> String {
    annex.as_ref().map_or(String::new(), |annex| format!(", with its annex {},", annex.display()))
}

fn left(annex: &Option<PathBuf>) -> String {
    annex.as_ref().map_or(String::new(), |annex| format!(". {}", left_behind(annex)))
}

/// What is to be said of an annex that is out of reach.
pub(crate) fn left_behind(annex: &Path) -> String {
    let annex = annex.display();
    format!("Its annex {annex} is out of reach and was not removed; if it is still there, it can be deleted")
}
