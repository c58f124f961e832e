//! SQLite on the simulated disk: it keeps the promises it makes on a real one, and none that it does not make. Without
//! that, what `tests/crash` finds would prove nothing.

use crate::support::memory::{Fate, Fault, MemoryDisk};
use crate::support::palace::say;
use crate::support::vfs;
use palacekeeper::disk::Disk;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

const DATABASE: &str = "/d/rooms.sqlite3";
const SEEDS: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 12_345_678_901, 4];

/// What a transaction found, or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Old,
    New,
    Broken,
}

/// A disk with a database of forty rows, durably.
fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new(&["/d"]);
    vfs::on(&disk, || {
        let database = Connection::open(DATABASE).expect("a new database");
        database.execute_batch("CREATE TABLE room (name TEXT, size INTEGER);").expect("a table");
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
                    INSERT INTO room SELECT printf('room %0200d', i), 1 FROM n";
        database.execute_batch(fill).expect("rows");
    });
    disk.settle();
    disk.fresh()
}

/// Makes every room larger, in one transaction.
fn enlarge(pragmas: &str) -> rusqlite::Result<()> {
    let mut database = Connection::open(DATABASE)?;
    database.execute_batch(pragmas)?;
    let transaction = database.transaction()?;
    transaction.execute("UPDATE room SET size = 2, name = name || ' with a view'", [])?;
    transaction.commit()
}

/// Looks at the database as the next process finds it.
fn look(disk: &MemoryDisk) -> Found {
    let looked = vfs::on(disk, || {
        let database = Connection::open(DATABASE)?;
        let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let sizes = "SELECT count(*), min(size), max(size), min(name LIKE '%view'), max(name LIKE '%view') FROM room";
        let row: [i64; 5] = database
            .query_row(sizes, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))?;
        Ok::<_, rusqlite::Error>((verdict, row))
    });
    match looked {
        Ok((verdict, [40, 1, 1, 0, 0])) if verdict == "ok" => Found::Old,
        Ok((verdict, [40, 2, 2, 1, 1])) if verdict == "ok" => Found::New,
        _ => Found::Broken,
    }
}

/// What is found after every crash of a transaction.
fn crash_everywhere(pragmas: &str) -> BTreeMap<Found, u32> {
    let disk = disk().with_history();
    vfs::on(&disk, || enlarge(pragmas)).expect("nothing disturbs it");
    let mut found = BTreeMap::new();
    for moment in disk.history() {
        let fates = moment.fates(&SEEDS).into_iter().map(|fate| moment.crash(fate));
        for image in fates.chain([moment.kill()]) {
            *found.entry(look(&image)).or_default() += 1;
        }
    }
    found
}

#[test]
fn transaction_is_atomic_in_every_crash_image() {
    let found = crash_everywhere("PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL;");
    say(&format!("synced: {found:?}"));
    assert_eq!(found.get(&Found::Broken), None, "{found:?}");
    assert!(found[&Found::Old] > 50 && found[&Found::New] > 1, "{found:?}");
}

/// The disk really forgets: what is not synced is lost, torn or garbled.
#[test]
fn transaction_without_syncs_can_be_broken() {
    let found = crash_everywhere("PRAGMA journal_mode=DELETE; PRAGMA synchronous=OFF;");
    say(&format!("not synced: {found:?}"));
    assert!(found.get(&Found::Broken).is_some_and(|broken| *broken > 5), "{found:?}");
}

#[test]
fn committed_transaction_survives_a_power_cut() {
    let disk = disk();
    vfs::on(&disk, || enlarge("PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA;")).expect("nothing disturbs it");
    assert_eq!(look(&disk.crash(Fate::POWER_CUT)), Found::New);
}

/// Each error is told, or does no harm; what is left is the old rows or the new.
#[test]
fn error_at_any_event_leaves_the_old_rows_or_the_new() {
    let undisturbed = disk();
    vfs::on(&undisturbed, || enlarge("")).expect("nothing disturbs it");
    let (mut told, mut events) = (0, 0);
    for event in 0..undisturbed.events() {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            for fault in [Fault::Once(kind), Fault::Forever(kind)] {
                let disk = disk().with_fault(event, fault);
                told += u32::from(vfs::on(&disk, || enlarge("")).is_err());
                assert!(disk.fired() > 0, "{fault:?} at event {event} never struck");
                events += 1;
                for image in [disk.kill(), disk.crash(Fate::POWER_CUT)] {
                    assert_ne!(look(&image), Found::Broken, "{fault:?} at event {event}");
                }
            }
        }
    }
    say(&format!("{told} of {events} errors were told"));
    assert!(told * 2 > events, "only {told} of {events} errors were told");
}

/// What SQLite needs only for itself is on no disk.
#[test]
fn temporary_files_leave_nothing_behind() {
    let disk = disk();
    let before = disk.image("/");
    vfs::on(&disk, || {
        let database = Connection::open(DATABASE).expect("it is there");
        let sort = "PRAGMA temp_store=FILE; PRAGMA cache_size=2; CREATE TEMP TABLE t AS SELECT a.name || b.name AS n
                    FROM room a, room b ORDER BY n; DROP TABLE t;";
        database.execute_batch(sort).expect("nothing disturbs it");
    });
    assert!(disk.image("/") == before && disk.events() == 0, "something was written to the disk");
}

/// The bytes are a database to everybody.
#[test]
fn database_is_one_on_a_real_disk_too() {
    let disk = disk();
    let bytes = disk.read(Path::new(DATABASE), 0, u64::MAX).expect("it is there");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rooms.sqlite3");
    std::fs::write(&path, bytes).expect("there is room");
    let database = Connection::open(path).expect("a thread that is on no disk is on the real one");
    let count: i64 = database.query_row("SELECT count(*) FROM room", [], |row| row.get(0)).expect("rows");
    assert_eq!(count, 40);
}

#[test]
fn second_connection_waits_for_the_first() {
    let disk = disk();
    vfs::on(&disk, || {
        let [one, other] = [(); 2].map(|()| Connection::open(DATABASE).expect("it is there"));
        other.busy_timeout(std::time::Duration::ZERO).expect("a setting");
        one.execute_batch("BEGIN IMMEDIATE; UPDATE room SET size = 3;").expect("nobody else writes");
        let count = "SELECT count(*) FROM room WHERE size = 1";
        let seen: i64 = other.query_row(count, [], |row| row.get(0)).expect("readers see what was committed");
        assert_eq!(seen, 40);
        other.execute_batch("BEGIN IMMEDIATE").expect_err("the first is writing");
        one.execute_batch("COMMIT").expect("the reader is gone");
        other.execute_batch("BEGIN IMMEDIATE; COMMIT").expect("now it can");
    });
}
