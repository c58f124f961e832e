//! What can go wrong with a Chroma store.

use super::{hnsw, pickle};
use crate::disk;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the store, with what a person can do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory does not exist.
    #[error("there is no directory {}; name the palace with --palace", .0.display())]
    NoDirectory(PathBuf),
    /// It exists and is no directory.
    #[error("{} is not a directory; name the palace's directory with --palace", .0.display())]
    NotADirectory(PathBuf),
    /// The directory holds no database.
    #[error("{} is not a palace: it holds no chroma.sqlite3", .0.display())]
    NotAPalace(PathBuf),
    /// The database is a link, or something that cannot be replaced by a rename.
    #[error("{} is not a regular file; put the file itself into the palace, then try again", .0.display())]
    NotAFile(PathBuf),
    /// The file is no SQLite database.
    #[error(
        "{} is no palace's database, and nothing of one can be read from it; nothing was touched. The HNSW segments \
         may still hold vectors: keep the directory as it is",
        .0.display()
    )]
    NotADatabase(PathBuf),
    /// The database was written by a chromadb this program does not know.
    #[error(
        "{} was written by a chromadb that this palacekeeper does not know (migrations {found}); it knows {known}",
        path.display()
    )]
    UnknownFormat {
        /// The database.
        path: PathBuf,
        /// Migrations found, by directory.
        found: String,
        /// Versions known.
        known: String,
    },
    /// SQLite refused.
    #[error("{}: {doing}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The database cannot be read, or not be copied to be read.
    #[error("cannot read {}, or make the copy that reading it takes: {source}", path.display())]
    Scratch {
        /// The database.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// An HNSW segment.
    #[error("segment {}: {source}", path.display())]
    Hnsw {
        /// The segment's directory.
        path: PathBuf,
        /// What is wrong.
        source: hnsw::Error,
    },
    /// An `index_metadata.pickle`.
    #[error("{}: {source}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pickle::Error,
    },
    /// The store holds something that cannot be understood.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// What cannot be understood.
        what: String,
    },
    /// A step that no plan of this program has.
    #[error("the journal names {0}; nothing is done because of it")]
    Journal(String),
    /// What was built is not what was read.
    #[error("the new store is not equal to the old one: {0}")]
    NotEqual(String),
}

impl Error {
    /// Whether it says that the database is damaged, rather than something about the machine or the command.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let Error::Sqlite { source, .. } = self else { return matches!(self, Error::NotADatabase(_)) };
        match source {
            rusqlite::Error::SqliteFailure(failure, _) => {
                matches!(failure.code, DatabaseCorrupt | NotADatabase | rusqlite::ErrorCode::Unknown)
            }
            _ => true, // a value of a type that no chromadb writes there
        }
    }

    /// Whether it says nothing about what was to be read, only that the machine could not read it: a full disk, say, or
    /// no descriptor left.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        match self {
            Error::Scratch { .. } | Error::Disk(_) => true,
            Error::Sqlite { .. } => !self.is_damage(),
            Error::Hnsw { source, .. } => !source.is_damage(),
            Error::Pickle { source, .. } => !source.is_damage(),
            _ => false,
        }
    }
}

impl Error {
    /// Whether the database refused what it was given, rather than failed: the same id again, say.
    pub(crate) fn is_refusal(&self) -> bool {
        use rusqlite::ErrorCode::ConstraintViolation;
        matches!(self, Error::Sqlite { source: rusqlite::Error::SqliteFailure(failure, _), .. }
            if failure.code == ConstraintViolation)
    }
}

impl Error {
    /// What kept a database from being read, or from being copied to be read.
    pub(crate) fn scratch(path: &Path, source: impl Into<io::Error>) -> Error {
        Error::Scratch { path: path.to_owned(), source: source.into() }
    }
}

/// Attaches to an SQLite error where it happened.
pub(crate) trait During<T> {
    fn during(self, path: &Path, doing: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for rusqlite::Result<T> {
    fn during(self, path: &Path, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Sqlite { path: path.to_owned(), doing, source })
    }
}
