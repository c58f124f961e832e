//! The write-ahead journal of one operation: a file that is only ever appended to.
//!
//! One append is one frame is one sync, so at most the last frame can be torn (invariant I2). The first append or sync
//! that fails poisons the journal: what the file holds is then unknown until somebody reads it anew.

pub mod frame;
mod record;

pub use frame::{Damage, Header, Tail};
pub use record::{Outcome, Plan, Record};

use crate::disk::{self, Disk, parent};
use frame::Link;
use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The journal cannot be believed, so nothing is done because of it.
    #[error("the journal {} cannot be used: {damage}", path.display())]
    Damaged {
        /// The journal file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// An earlier append failed.
    #[error("the journal {} takes no more records, because an earlier one could not be written", path.display())]
    Poisoned {
        /// The journal file.
        path: PathBuf,
    },
    /// The records are too long for a frame.
    #[error("{bytes} bytes of records do not fit into one frame of the journal {}", path.display())]
    TooLong {
        /// The journal file.
        path: PathBuf,
        /// Bytes of the encoded records.
        bytes: usize,
    },
}

/// A journal that can be appended to.
pub struct Journal<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    header: Header,
    link: Link,
    poisoned: Option<Poisoned>,
}

/// An append was begun and not seen to end.
struct Poisoned;

/// What a journal file held.
#[derive(Debug)]
pub struct Contents<S> {
    /// The file header.
    pub header: Header,
    /// The records of all whole frames, in order.
    pub records: Vec<Record<S>>,
    /// How the file ends.
    pub tail: Tail,
    link: Link,
}

impl<'d> Journal<'d> {
    /// A new journal file with its first records, synced; the directory that names it is the caller's to sync.
    pub fn create<S: Serialize>(
        disk: &'d dyn Disk,
        path: &Path,
        header: Header,
        first: &[Record<S>],
    ) -> Result<Journal<'d>, Error> {
        let mut journal = Journal { disk, path: path.to_owned(), header, link: Link::FIRST, poisoned: None };
        let (frame, link) = journal.encode(first)?;
        disk.create(path, &[&frame::encode_header(&header)[..], &frame].concat())?;
        disk.sync(path)?;
        journal.link = link;
        Ok(journal)
    }

    /// Reads a journal and makes it ready for more. A torn tail is cut off first, durably: nothing may ever stand
    /// behind bytes that mean nothing.
    pub fn open<S: DeserializeOwned>(disk: &'d dyn Disk, path: &Path) -> Result<(Journal<'d>, Contents<S>), Error> {
        let contents = read(disk, path)?;
        if let Tail::Torn { at, .. } = contents.tail {
            disk.truncate(path, at)?;
            disk.sync(path)?;
        }
        let journal =
            Journal { disk, path: path.to_owned(), header: contents.header, link: contents.link, poisoned: None };
        Ok((journal, contents))
    }

    /// Appends records as one frame and makes it durable. After an error the journal takes no more.
    pub fn append<S: Serialize>(&mut self, records: &[Record<S>]) -> Result<(), Error> {
        if self.poisoned.is_some() {
            return Err(Error::Poisoned { path: self.path.clone() });
        }
        let (frame, link) = self.encode(records)?;
        self.poisoned = Some(Poisoned);
        self.disk.append(&self.path, &frame)?;
        self.disk.sync(&self.path)?;
        self.poisoned = None;
        self.link = link;
        Ok(())
    }

    /// The directory that holds the journal.
    pub fn folder(&self) -> &Path {
        parent(&self.path)
    }

    fn encode<S: Serialize>(&self, records: &[Record<S>]) -> Result<(Vec<u8>, Link), Error> {
        let payload = bincode::serde::encode_to_vec(records, bincode::config::standard())
            .expect("records are plain data of known lengths, written into memory");
        match payload.len() <= frame::PAYLOAD_BYTES_MAX {
            true => Ok(frame::encode_frame(self.header.salt, self.link, &payload)),
            false => Err(Error::TooLong { path: self.path.clone(), bytes: payload.len() }),
        }
    }
}

/// bincode counts what it decodes, and one byte of a payload can stand for a number of eight: whatever fits into a
/// frame must fit in here, or it could be written and never be read.
const DECODED_BYTES_MAX: usize = 8 * frame::PAYLOAD_BYTES_MAX;

/// Reads a journal and changes nothing.
pub fn read<S: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Contents<S>, Error> {
    let bytes = disk.read(path, 0, u64::MAX)?;
    decode(&bytes).map_err(|damage| Error::Damaged { path: path.to_owned(), damage })
}

/// The records in a journal's bytes.
pub fn decode<S: DeserializeOwned>(bytes: &[u8]) -> Result<Contents<S>, Damage> {
    let scan = frame::scan(bytes)?;
    let mut records = Vec::new();
    for (at, payload) in scan.payloads {
        let limit = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();
        match bincode::serde::decode_from_slice::<Vec<Record<S>>, _>(payload, limit) {
            Ok((batch, used)) if used == payload.len() => records.extend(batch),
            Ok(_) => return Err(Damage::Payload { at, why: "bytes are left over".into() }),
            Err(error) => return Err(Damage::Payload { at, why: error.to_string() }),
        }
    }
    Ok(Contents { header: scan.header, records, tail: scan.tail, link: scan.link })
}
