//! Opens a palace's database to read it, without changing a byte of it or beside it.
//!
//! A database at rest is opened read-only where it stands. One with a hot journal or a write-ahead log cannot be:
//! reading it would first have to roll it back or forward, in place. It is copied together with its siblings, and the
//! copy is rolled (CHROMA.md §6.4).

use super::error::{During, Error};
use super::{DATABASE, Format};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Files that SQLite keeps beside a database while it is in use, and that belong to it by name.
pub fn siblings(database: &str) -> [String; 3] {
    ["-journal", "-wal", "-shm"].map(|suffix| format!("{database}{suffix}"))
}

/// A palace that is open for reading.
pub struct Source {
    /// The connection; nothing can be written through it.
    pub(super) connection: Connection,
    /// The palace, or another directory laid out like one.
    pub(super) directory: PathBuf,
    /// The database that `connection` reads: the palace's own, or the copy.
    pub(super) database: PathBuf,
    /// What wrote it.
    pub(super) format: &'static Format,
    /// Holds the copy, and removes it.
    _scratch: Option<tempfile::TempDir>,
}

impl Source {
    /// Opens the palace in `directory`; a copy, where one is needed, is made below `scratch`.
    pub fn open(directory: &Path, scratch: &Path) -> Result<Source, Error> {
        let original = find_database(directory)?;
        let (database, scratch) = match is_at_rest(&original)? {
            true => (original.clone(), None),
            false => {
                let copy = copy_and_roll(&original, scratch)?;
                (copy.path().join(DATABASE), Some(copy))
            }
        };
        let connection = open_read_only(&database)?;
        let format = Format::detect(&connection, &original)?;
        Ok(Source { connection, directory: directory.to_owned(), database, format, _scratch: scratch })
    }

    /// What wrote it.
    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// The address under which another connection can attach what this one reads.
    pub(super) fn uri(&self) -> String {
        uri(&self.database)
    }
}

/// The database in a directory, if it is a palace that can be rebuilt: looks at names and at the first bytes, opens
/// nothing.
pub fn find_database(directory: &Path) -> Result<PathBuf, Error> {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(Error::NotADirectory(directory.to_owned())),
        Err(_) => return Err(Error::NoDirectory(directory.to_owned())),
    }
    let database = directory.join(DATABASE);
    match fs::symlink_metadata(&database) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(Error::NotAFile(database)),
        Err(_) => return Err(Error::NotAPalace(directory.to_owned())),
    }
    match header(&database)?.starts_with(b"SQLite format 3\0") {
        true => Ok(database),
        false => Err(Error::NotADatabase(database)),
    }
}

/// The first hundred bytes, fewer where the file is shorter.
fn header(database: &Path) -> Result<Vec<u8>, Error> {
    let mut header = Vec::new();
    let read = fs::File::open(database).and_then(|file| file.take(100).read_to_end(&mut header));
    read.map_err(|source| Error::Scratch { path: database.to_owned(), source })?;
    header.resize(100, 0);
    Ok(header)
}

/// Whether the main file alone is the whole truth: no siblings, and not in WAL mode (bytes 18 and 19 of the header).
fn is_at_rest(database: &Path) -> Result<bool, Error> {
    Ok(header(database)?[18..20] == [1, 1]
        && siblings(DATABASE).iter().all(|name| !database.with_file_name(name).exists()))
}

fn copy_and_roll(database: &Path, scratch: &Path) -> Result<tempfile::TempDir, Error> {
    let copy = || {
        let copy = tempfile::Builder::new().prefix(".scratch-").tempdir_in(scratch)?;
        fs::copy(database, copy.path().join(DATABASE))?;
        // The shared-memory index is rebuilt from the log; a stale one would only be believed.
        for name in siblings(DATABASE).iter().filter(|name| !name.ends_with("-shm")) {
            match fs::copy(database.with_file_name(name), copy.path().join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(copy)
    };
    let copy = copy().map_err(|source| Error::Scratch { path: database.to_owned(), source })?;
    let path = copy.path().join(DATABASE);
    let connection =
        Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).during(&path, "opening it")?;
    prepare(&connection).during(&path, "rolling its journal")?;
    connection.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).during(&path, "rolling its journal")?;
    Ok(copy)
}

/// Opens a database that no other process is writing to, for reading only.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(path), flags).during(path, "opening it")?;
    prepare(&connection).during(path, "reading its schema")?;
    // One read transaction for as long as the connection lives: one view of the data, and one lock instead of one a
    // query.
    connection.execute_batch("BEGIN").during(path, "reading it")?;
    Ok(connection)
}

/// What every connection begins with. The bundled SQLite switches foreign keys on, and Chroma's schema refers to a
/// table that does not exist, so that any write to `segments` would fail. It is also built to plan a query anew
/// whenever its parameters change, which for queries of one row costs more than the row.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection
        .execute_batch("PRAGMA foreign_keys=OFF; PRAGMA cache_size=-32768; SELECT count(*) FROM sqlite_master;")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// A `file:` address; percent-encoding carries a path of any bytes, UTF-8 or not.
fn uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in OsString::from(path).as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(*byte as char),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?mode=ro"
}
