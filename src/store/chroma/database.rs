//! Opens a palace's database to read it, without changing a byte of it or beside it.
//!
//! A database at rest is opened read-only where it stands. One with a hot journal or a write-ahead log cannot be:
//! reading it would first have to roll it back or forward, in place. It is copied together with its siblings, and the
//! copy is rolled (CHROMA.md §6.4).

use super::amend::{self, Donor, Pages, Preparation};
use super::error::{During, Error};
use super::format::Fit;
use super::salvage::{Finds, Salvaged, salvage};
use super::{Collection, DATABASE, Format, Loss, copies, spare};
use crate::disk::{Disk, Kind, exists, is_file};
use crate::store::scratch::{Room, Scratch};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Files that SQLite keeps beside a database while it is in use, and that belong to it by name.
pub fn siblings(database: &str) -> [String; 3] {
    ["-journal", "-wal", "-shm"].map(|suffix| format!("{database}{suffix}"))
}

/// A palace that is open for reading.
pub struct Source<'d> {
    /// The disk it is on.
    pub(super) disk: &'d dyn Disk,
    /// The connection; nothing can be written through it.
    pub(super) connection: Connection,
    /// The palace, or another directory laid out like one.
    pub(super) directory: PathBuf,
    /// The database that `connection` reads: the palace's own, or the copy.
    pub(super) database: PathBuf,
    /// What wrote it.
    pub(super) format: &'static Format,
    /// How well its migrations go with that.
    pub(super) fit: Fit,
    /// Where segments lie that the database names and the directory has not, and the names that it has.
    elsewhere: Option<(PathBuf, BTreeSet<OsString>)>,
    /// Collections that were merged into others, each with the UUID of that other one.
    merged: Vec<(String, Donor)>,
    /// Copies of the palace that are read beside it.
    copies: Vec<Source<'d>>,
    /// What a salvage of its pages lost and found.
    salvaged: Salvaged,
    /// Holds the copy, and removes it.
    _scratch: Option<Scratch<'d>>,
}

impl<'d> Source<'d> {
    /// Opens the palace in `directory` as it has to be read; a copy, where one is needed, is made in `room`.
    pub fn open(directory: &Path, room: &Room<'d>, preparation: &Preparation) -> Result<Source<'d>, Error> {
        let original = find_database(room.disk, directory)?;
        if is_at_rest(room.disk, &original)? && !preparation.takes_copy() {
            return Source::read(room.disk, [directory, &original], None, Vec::new());
        }
        let (copy, path, salvaged) = scratch_copy(&original, room, preparation)?;
        let source = Source::read(room.disk, [directory, &path], Some(copy), preparation.merged())?;
        let copies = open_copies(directory, room, preparation)?;
        Ok(Source { salvaged, copies, ..source })
    }

    /// Reads a database that is at rest.
    fn read(
        disk: &'d dyn Disk,
        [directory, database]: [&Path; 2],
        scratch: Option<Scratch<'d>>,
        merged: Vec<(String, Donor)>,
    ) -> Result<Source<'d>, Error> {
        let connection = open_read_only(database)?;
        let (format, fit) = Format::detect(&connection, &directory.join(DATABASE))?;
        let (directory, database) = (directory.to_owned(), database.to_owned());
        Ok(Source {
            disk,
            connection,
            directory,
            database,
            format,
            fit,
            elsewhere: None,
            merged,
            salvaged: Salvaged::default(),
            _scratch: scratch,
            copies: Vec::new(),
        })
    }

    /// Says where segments may lie that are not in the directory itself.
    pub fn with_segments_in(self, elsewhere: &Path) -> Result<Source<'d>, Error> {
        let names = self.disk.list(&self.directory)?.into_iter().collect();
        Ok(Source { elsewhere: Some((elsewhere.to_owned(), names)), ..self })
    }

    /// What reading it has cost already.
    pub(super) fn losses(&self) -> Vec<Loss> {
        self.salvaged.losses.clone()
    }

    /// What was found elsewhere than where it should have been: from where, and how much.
    pub fn restored(&self) -> impl Iterator<Item = (String, u64)> {
        self.salvaged.restored.iter().map(|(what, count)| (what.clone(), *count))
    }

    /// The same, one by one.
    pub fn finds(&self) -> &Finds {
        &self.salvaged.finds
    }

    /// Copies of the palace that are read beside it.
    pub(super) fn copies(&self) -> &[Source<'d>] {
        &self.copies
    }

    /// Collections whose records have gone over to this one, as they were.
    pub(super) fn donors_of(&self, collection: &Collection) -> Vec<Collection> {
        let donors = self.merged.iter().filter(|(into, _)| *into == collection.id);
        donors.map(|(_, donor)| donor.as_collection(collection)).collect()
    }

    /// The palace, also where another directory is read instead.
    pub(super) fn palace(&self) -> &Path {
        self.elsewhere.as_ref().map_or(&self.directory, |(palace, _)| palace)
    }

    /// The directory of a segment; it need not exist.
    pub(super) fn segment(&self, name: &str) -> PathBuf {
        match &self.elsewhere {
            Some((elsewhere, names)) if !names.contains(OsStr::new(name)) => elsewhere.join(name),
            _ => self.directory.join(name),
        }
    }

    /// What wrote it.
    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// Whether there is neither a record nor a write that waits to become one.
    pub fn is_empty(&self) -> Result<bool, Error> {
        let query = "SELECT NOT EXISTS (SELECT 1 FROM embeddings) AND NOT EXISTS (SELECT 1 FROM embeddings_queue)";
        self.connection.query_row(query, [], |row| row.get(0)).during(&self.database, "looking for a record")
    }

    /// The address under which another connection can attach what this one reads.
    pub(super) fn uri(&self) -> String {
        uri(&self.database)
    }
}

/// The database in a directory, if it is a palace: looks at names, opens nothing.
pub fn find_database(disk: &dyn Disk, directory: &Path) -> Result<PathBuf, Error> {
    let kind = |path: &Path| Ok::<_, Error>(disk.stat(path)?.map(|stat| stat.kind));
    match disk.resolve(directory)?.map(|real| kind(&real)).transpose()?.flatten() {
        Some(Kind::Directory) => {}
        Some(_) => return Err(Error::NotADirectory(directory.to_owned())),
        None => return Err(Error::NoDirectory(directory.to_owned())),
    }
    let database = directory.join(DATABASE);
    match kind(&database)? {
        Some(Kind::File) => Ok(database),
        Some(_) => Err(Error::NotAFile(database)),
        None => Err(Error::NotAPalace(directory.to_owned())),
    }
}

/// The first hundred bytes, with zeros where the file is shorter.
pub(super) fn header(disk: &dyn Disk, database: &Path) -> Result<[u8; 100], Error> {
    let mut header = [0; 100];
    let file = disk.open(database).map_err(|error| Error::scratch(database, error))?;
    file.read_up_to(&mut header, 0).map_err(|error| Error::scratch(database, error))?;
    Ok(header)
}

/// Whether the main file alone is the whole truth: no siblings, and not in WAL mode (bytes 18 and 19 of the header).
fn is_at_rest(disk: &dyn Disk, database: &Path) -> Result<bool, Error> {
    for name in siblings(DATABASE) {
        if exists(disk, &database.with_file_name(name))? {
            return Ok(false);
        }
    }
    Ok(header(disk, database)?[18..20] == [1, 1])
}

/// A copy of a database in a room, and where it is; it goes with what holds it.
pub(super) fn scratch_copy<'d>(
    original: &Path,
    room: &Room<'d>,
    preparation: &Preparation,
) -> Result<(Scratch<'d>, PathBuf, Salvaged), Error> {
    let directory = Scratch::new(room, original)?;
    let path = directory.path().join(DATABASE);
    let salvaged = prepare_copy(room.disk, [original, &path], preparation)?;
    Ok((directory, path, salvaged))
}

/// A copy of any SQLite database in a room, with what its journal or log says done.
pub(crate) fn take_copy<'d>(original: &Path, room: &Room<'d>) -> Result<(Scratch<'d>, PathBuf), Error> {
    let directory = Scratch::new(room, original)?;
    let path = directory.path().join("copy.sqlite3");
    copy_with_siblings(room.disk, original, &path)?;
    roll(&path)?;
    Ok((directory, path))
}

/// Makes a copy of a database under the name `copy`, rolled, salvaged and amended as it has to be.
pub(super) fn prepare_copy(
    disk: &dyn Disk,
    [original, copy]: [&Path; 2],
    preparation: &Preparation,
) -> Result<Salvaged, Error> {
    let salvaged = match preparation.pages {
        Pages::Sound => {
            copy_with_siblings(disk, original, copy)?;
            roll(copy)?;
            Salvaged::default()
        }
        Pages::Salvaged => {
            let damaged = copy.with_extension("damaged");
            copy_with_siblings(disk, original, &damaged)?;
            let _ = roll(&damaged); // where SQLite cannot even roll it, the file is read as it is
            salvage(disk, &damaged, copy).map_err(|error| match error {
                Error::NotADatabase(_) => Error::NotADatabase(original.to_owned()),
                error => error,
            })?
        }
    };
    let mut connection =
        Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE).during(copy, "opening it")?;
    prepare(&connection).during(copy, "opening it")?;
    let (format, _) = Format::detect(&connection, original)?;
    amend::amend(&mut connection, copy, format, &preparation.amendments)?;
    let room = Room::new(disk, copy.parent().unwrap_or(copy));
    for adopted in open_copies(original.parent().unwrap_or(original), &room, preparation)? {
        copies::adopt(&mut connection, copy, &adopted, format)?;
    }
    Ok(salvaged)
}

/// Opens the copies that a preparation names.
fn open_copies<'d>(palace: &Path, room: &Room<'d>, preparation: &Preparation) -> Result<Vec<Source<'d>>, Error> {
    let open = |name: &String| {
        let copy = spare::copy_named(room.disk, palace, name)?;
        let copy = copy.ok_or_else(|| Error::Journal(format!("a copy “{name}”")))?;
        Source::open(&copy, room, &Preparation::default())
    };
    preparation.adopted.iter().map(open).collect()
}

/// Rolls back or forward what a killed process left half done.
pub(super) fn roll(copy: &Path) -> Result<(), Error> {
    let rolled = || {
        let connection = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        prepare(&connection)?;
        connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get::<_, String>(0))
    };
    match rolled().during(copy, "rolling its journal")?.as_str() {
        "delete" => Ok(()),
        mode => Err(Error::Unreadable { path: copy.to_owned(), what: format!("it stays in mode {mode}") }),
    }
}

fn copy_with_siblings(disk: &dyn Disk, database: &Path, copy: &Path) -> Result<(), Error> {
    let take =
        |source: &Path, target: &Path| disk.copy(source, target).map_err(|error| Error::scratch(database, error));
    take(database, copy)?;
    // The shared-memory index is rebuilt from the log; a stale one would only be believed.
    for suffix in ["-journal", "-wal"] {
        let named = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        // A link is no file of chromadb's, and counts as missing.
        if is_file(disk, &named(database))? {
            take(&named(database), &named(copy))?;
        }
    }
    Ok(())
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
pub(crate) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
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
