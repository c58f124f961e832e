//! What happens to palaces: writers that died, files cut short, pages of zeros.

use super::no_spawning;
use rusqlite::Connection;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Runs statements on a palace's database as any client could.
pub(crate) fn sql(palace: &Path, statements: &str) {
    let _open = no_spawning();
    let connection = Connection::open(palace.join("chroma.sqlite3")).expect("a database");
    connection.execute_batch(&format!("PRAGMA foreign_keys=OFF; {statements}")).expect("statements that run");
}

/// Leaves the palace as a writer does that is killed in the middle of a large transaction: some of its pages are in the
/// database already, and only the journal beside it knows what they held before.
pub(crate) fn make_hot(palace: &Path) {
    let _open = no_spawning();
    let scratch = tempfile::tempdir().expect("a directory");
    let database = palace.join("chroma.sqlite3");
    let working = scratch.path().join("chroma.sqlite3");
    fs::copy(&database, &working).expect("a copy");
    let connection = Connection::open(&working).expect("a database");
    let update = "PRAGMA foreign_keys=OFF; PRAGMA cache_size=4; BEGIN;
                  UPDATE embedding_metadata SET string_value = 'HALFWAY' WHERE string_value IS NOT NULL;";
    connection.execute_batch(update).expect("a transaction that spills");
    fs::copy(&working, &database).expect("a copy");
    fs::copy(scratch.path().join("chroma.sqlite3-journal"), palace.join("chroma.sqlite3-journal")).expect("a journal");
    // A fixture that is not torn would prove nothing: without its journal the database shows rows that were never
    // committed.
    let torn = fs::read(&database).expect("a database");
    assert!(torn.windows(7).any(|bytes| bytes == b"HALFWAY"), "no page of the transaction was written");
}

/// Leaves the palace in WAL mode, with `statements` committed to the log and not yet to the database.
pub(crate) fn make_wal(palace: &Path, statements: &str) {
    let _open = no_spawning();
    let scratch = tempfile::tempdir().expect("a directory");
    let database = palace.join("chroma.sqlite3");
    let working = scratch.path().join("chroma.sqlite3");
    fs::copy(&database, &working).expect("a copy");
    let connection = Connection::open(&working).expect("a database");
    let mode = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0));
    assert_eq!(mode.expect("a mode"), "wal");
    let quiet = "PRAGMA foreign_keys=OFF; PRAGMA wal_autocheckpoint=0; BEGIN;";
    connection.execute_batch(&format!("{quiet} {statements} COMMIT;")).expect("statements that run");
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("chroma.sqlite3{suffix}");
        fs::copy(scratch.path().join(&name), palace.join(&name)).expect("a copy");
    }
    let log = fs::metadata(palace.join("chroma.sqlite3-wal")).expect("a log");
    assert!(log.len() > 4096, "nothing was written to the log");
}

/// Cuts a file off after a part of it.
pub(crate) fn truncate(path: &Path, numerator: u64, denominator: u64) {
    let _open = no_spawning();
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    let length = file.metadata().expect("metadata").len();
    assert!(length > 0, "{} has nothing to cut off", path.display());
    file.set_len(length * numerator / denominator).expect("a shorter file");
}

/// Writes over a part of a file.
pub(crate) fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let _open = no_spawning();
    OpenOptions::new().write(true).open(path).and_then(|file| file.write_all_at(bytes, at)).expect("a file");
}

/// Zeroes a leaf page of a table, one of the middle, as a lost write leaves it.
pub(crate) fn zero_leaf(palace: &Path, table: &str) {
    let open = no_spawning();
    let database = palace.join("chroma.sqlite3");
    let connection = Connection::open(&database).expect("a database");
    let leaves = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY path";
    let mut query = connection.prepare(leaves).expect("SQLite was built with dbstat");
    let leaves: Vec<u64> = query
        .query_map([table], |row| row.get::<_, i64>(0))
        .expect("pages")
        .map(|page| page.expect("a page") as u64)
        .collect();
    assert!(leaves.len() >= 3, "{table} has only {} leaves", leaves.len());
    let page_bytes = connection.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0)).expect("a size") as u64;
    drop(query);
    drop(connection);
    let at = (leaves[leaves.len() / 2] - 1) * page_bytes;
    let mut page = vec![0; page_bytes as usize];
    File::open(&database).and_then(|file| file.read_exact_at(&mut page, at)).expect("a page");
    assert!(page.iter().any(|byte| *byte != 0), "the page was empty already");
    drop(open);
    overwrite(&database, at, &vec![0; page_bytes as usize]);
}
