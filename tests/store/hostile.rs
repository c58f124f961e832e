//! Databases that no SQLite wrote: whatever the bytes are, they are looked through and salvaged within a bounded
//! time, and nothing panics. The same is done for longer by `fuzz/fuzz_targets/pages.rs`.

use crate::support::palace::{Arena, Random, Rows, say};
use palacekeeper::disk::{Disk, RealDisk};
use palacekeeper::store::chroma::{Error, Loss, Salvaged, salvage};
use palacekeeper::store::sqlite::{Database, Inspection, inspect};
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};

const PAGE_BYTES: usize = 4096;
/// No small database takes this long, on a machine that does something else besides.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Looks through a file and salvages it.
fn digest(path: &Path) -> (Inspection, Salvaged, Rows) {
    let (disk, began) = (RealDisk::new(), Instant::now());
    let database = Database::new(disk.open(path).expect("a file")).expect("it can be read");
    let inspection = inspect(&database).expect("it can be read");
    let target = path.with_extension("salvaged");
    let salvaged = match salvage(&disk, path, &target) {
        Ok(salvaged) => salvaged,
        // What holds nothing of a palace is refused, and that is told too.
        Err(Error::NotADatabase(_)) => {
            Salvaged { losses: vec![Loss::Page { table: "any table".into(), page: 1 }], ..Salvaged::default() }
        }
        Err(error) => panic!("it is given up: {error}"),
    };
    let rows = Rows::of(&target);
    std::fs::remove_file(target).expect("it is there");
    assert!(began.elapsed() < TIME_MAX, "it took {:?}", began.elapsed());
    (inspection, salvaged, rows)
}

fn digest_bytes(bytes: &[u8]) -> (Inspection, Salvaged, Rows) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("chroma.sqlite3");
    std::fs::write(&path, bytes).expect("there is room");
    digest(&path)
}

fn sound() -> Vec<u8> {
    std::fs::read(Arena::new("1.5.9").database()).expect("a database")
}

/// Root page of a table.
fn root(bytes: &[u8], name: &str) -> usize {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("chroma.sqlite3");
    std::fs::write(&path, bytes).expect("there is room");
    let connection = Connection::open(&path).expect("a database");
    let sql = "SELECT rootpage FROM sqlite_master WHERE name = ?1";
    connection.query_row(sql, [name], |row| row.get::<_, u32>(0)).expect("a table") as usize
}

fn page(bytes: &mut [u8], number: usize) -> &mut [u8] {
    &mut bytes[(number - 1) * PAGE_BYTES..number * PAGE_BYTES]
}

#[test]
fn file_that_is_no_database() {
    for bytes in [vec![], vec![0; 50], vec![0xff; 50], vec![0; PAGE_BYTES * 20], b"SQLite format 3\0".to_vec()] {
        let (_, _, rows) = digest_bytes(&bytes);
        assert_eq!(rows.count("embeddings"), 0);
    }
}

#[test]
fn header_that_lies() {
    let sound = sound();
    let (_, _, rows) = digest_bytes(&sound);
    let lies: [(&str, usize, &[u8]); 8] = [
        ("pages of 512 bytes", 16, &[2, 0]),
        ("pages of 65536 bytes", 16, &[0, 1]),
        ("pages of 3 bytes", 16, &[0, 3]),
        ("255 reserved bytes", 20, &[255]),
        ("32 reserved bytes", 20, &[32]),
        ("4294967295 pages", 28, &[255; 4]),
        ("free pages from 4294967295 on", 32, &[255; 4]),
        ("free pages from the first on", 32, &[0, 0, 0, 1]),
    ];
    for (what, at, bytes) in lies {
        let mut lying = sound.clone();
        lying[at..at + bytes.len()].copy_from_slice(bytes);
        let (inspection, salvaged, found) = digest_bytes(&lying);
        let is_whole = found.count("embedding_metadata") == rows.count("embedding_metadata");
        let is_told = !inspection.faults.is_empty() || !salvaged.losses.is_empty();
        assert!(is_whole || is_told, "{what}: {} rows in silence", found.count("embedding_metadata"));
        if at == 32 || at == 28 || what.contains("255") || what.contains("3 bytes") {
            assert!(is_whole, "{what}: {} values", found.count("embedding_metadata"));
        }
    }
}

/// Pages of a tree that lead back, into nothing, or to each other.
#[test]
fn tree_that_is_none() {
    let sound = sound();
    let root = root(&sound, "embedding_metadata");
    for child in [0, 1, root as u32, root as u32 + 1, 100_000, u32::MAX] {
        for what in ["rightmost", "every cell"] {
            let mut bytes = sound.clone();
            let top = page(&mut bytes, root);
            assert_eq!(top[0], 5, "the root is no interior page");
            let count = usize::from(u16::from_be_bytes([top[3], top[4]]));
            if what == "rightmost" {
                top[8..12].copy_from_slice(&child.to_be_bytes());
            } else {
                for index in 0..count {
                    let cell = usize::from(u16::from_be_bytes([top[12 + 2 * index], top[13 + 2 * index]]));
                    top[cell..cell + 4].copy_from_slice(&child.to_be_bytes());
                }
            }
            let (inspection, _, found) = digest_bytes(&bytes);
            assert!(!inspection.faults.is_empty(), "{what} leads to page {child}");
            let (_, _, rows) = digest_bytes(&sound);
            assert_eq!(found.0["embedding_metadata"].len(), rows.0["embedding_metadata"].len(), "{what} to {child}");
        }
    }
}

#[test]
fn cell_that_is_none() {
    let sound = sound();
    let root = root(&sound, "embeddings");
    let leaf = |bytes: &[u8]| {
        let top = &bytes[(root - 1) * PAGE_BYTES..root * PAGE_BYTES];
        let cell = usize::from(u16::from_be_bytes([top[12], top[13]]));
        if top[0] == 13 { root } else { u32::from_be_bytes(top[cell..cell + 4].try_into().expect("four")) as usize }
    };
    let leaf = leaf(&sound);
    type Change = (&'static str, fn(&mut [u8]));
    let changes: [Change; 7] = [
        ("65535 cells", |page| page[3..5].fill(255)),
        ("no cells", |page| page[3..5].fill(0)),
        ("cells at the very end", |page| page[8..20].fill(255)),
        ("cells upon each other", |page| {
            let one = [page[8], page[9]];
            (0..10).for_each(|index| page[8 + 2 * index..10 + 2 * index].copy_from_slice(&one));
        }),
        ("a payload of 2⁶⁴-1 bytes", |page| {
            let cell = usize::from(u16::from_be_bytes([page[8], page[9]]));
            page[cell..cell + 9].fill(255);
        }),
        ("a payload of 2⁶³-1 bytes", |page| {
            let cell = usize::from(u16::from_be_bytes([page[8], page[9]]));
            page[cell..cell + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]);
        }),
        ("free blocks in a circle", |page| {
            let cell = [page[8], page[9]];
            page[1..3].copy_from_slice(&cell);
            let cell = usize::from(u16::from_be_bytes(cell));
            let own = (cell as u16).to_be_bytes();
            page[cell..cell + 2].copy_from_slice(&own);
        }),
    ];
    let (_, _, rows) = digest_bytes(&sound);
    for (what, change) in changes {
        let mut bytes = sound.clone();
        change(page(&mut bytes, leaf));
        let (inspection, _, found) = digest_bytes(&bytes);
        assert!(inspection.faults.iter().any(|fault| fault.page as usize == leaf), "{what}: {:?}", inspection.faults);
        assert_eq!(found.count("embeddings"), rows.count("embeddings"), "{what}: the index names them");
    }
}

/// A chain of overflow pages that never ends, and one that belongs to another row.
#[test]
fn overflow_chain_that_loops() {
    let sound = sound();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("chroma.sqlite3");
    std::fs::write(&path, &sound).expect("there is room");
    let connection = Connection::open(&path).expect("a database");
    let sql = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'overflow'";
    let mut query = connection.prepare(sql).expect("pages");
    let pages = query.query_map(["embedding_metadata"], |row| row.get::<_, u32>(0)).expect("pages");
    let pages: Vec<u32> = pages.map(|page| page.expect("a page")).collect();
    assert!(pages.len() > 1, "nothing goes on elsewhere");
    for (from, to) in [(0, pages[0]), (0, pages[1]), (1, pages[0]), (0, 1), (0, 2)] {
        let mut bytes = sound.clone();
        page(&mut bytes, pages[from] as usize)[..4].copy_from_slice(&to.to_be_bytes());
        let is_other = bytes != sound;
        let (inspection, _, _) = digest_bytes(&bytes);
        assert!(!is_other || !inspection.faults.is_empty(), "page {} leads to {to}", pages[from]);
    }
}

/// A database that is no palace but uses its names.
#[test]
fn schema_of_somebody_else() {
    let statements = [
        "CREATE TABLE embeddings (x, y, z, zz, zzz, zzzz, zzzzz); INSERT INTO embeddings VALUES (1, 2, 3, 4, 5, 6, 7);",
        "CREATE TABLE embeddings (id TEXT PRIMARY KEY, segment_id, embedding_id, seq_id, created_at) WITHOUT ROWID;
         INSERT INTO embeddings VALUES ('a', 'b', 'c', 4, 5), ('b', 'b', 'c', 4, 5);",
        "CREATE TABLE embedding_metadata (id INTEGER, key TEXT);
         INSERT INTO embedding_metadata VALUES (1, 'a'), (1, 'a');",
        "CREATE TABLE collections (id INTEGER PRIMARY KEY); INSERT INTO collections VALUES (1), (-1);",
        "CREATE VIEW embeddings AS SELECT 1; CREATE TABLE migrations (a); CREATE TABLE \"a\"\"'b\" (x);",
        "CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id BLOB, created_at);
         INSERT INTO embeddings VALUES (1, 's', CAST(x'ff00fe' AS TEXT), 1, '2020-01-01'),
                                       (2, 's', CAST(x'ff00fe' AS TEXT), 2, '2020-01-01');",
    ];
    for text in statements {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("chroma.sqlite3");
        Connection::open(&path).and_then(|connection| connection.execute_batch(text)).expect(text);
        let (inspection, _, _) = digest(&path);
        assert_eq!(inspection.faults, Vec::new(), "{text}");
    }
}

/// Bytes of ids need not be UTF-8; of two rows of one record the later one stays, and the other is listed.
#[test]
fn duplicate_row_of_bytes_that_are_no_text() {
    let arena = Arena::new("1.5.9");
    let connection = Connection::open(arena.database()).expect("a database");
    let statements = "PRAGMA foreign_keys=OFF; PRAGMA writable_schema=ON;
        UPDATE embeddings SET embedding_id = CAST(x'ff00fe' AS TEXT) WHERE id = 1;
        CREATE TABLE twins (id INTEGER PRIMARY KEY, segment_id, embedding_id, seq_id, created_at);
        INSERT INTO twins SELECT * FROM embeddings;
        INSERT INTO twins SELECT 9999, segment_id, embedding_id, 9999, created_at FROM embeddings WHERE id = 1;
        UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'twins')
            WHERE name = 'embeddings' AND type = 'table';
        DELETE FROM sqlite_master WHERE name = 'twins';";
    connection.execute_batch(statements).expect("statements that run");
    drop(connection);
    let (_, salvaged, rows) = digest(&arena.database());
    let of_it: Vec<_> = rows.0["embeddings"].iter().filter(|row| row.values[2] == "'\\xff\\x00\\xfe'").collect();
    assert_eq!(of_it.len(), 1, "{of_it:?}");
    assert_eq!(of_it[0].values[0], "9999");
    assert!(salvaged.losses.iter().any(|loss| matches!(loss, Loss::Older { rowid: 1, .. })), "{:?}", salvaged.losses);
}

/// Holes take neither memory nor minutes.
#[test]
fn file_of_holes() {
    let directory = tempfile::tempdir().expect("a directory");
    for head in [Vec::new(), sound()] {
        let path = directory.path().join("chroma.sqlite3");
        std::fs::write(&path, &head).expect("there is room");
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(256 << 20))
            .expect("a sparse file");
        let began = Instant::now();
        let (inspection, _, rows) = digest(&path);
        assert!(!inspection.faults.is_empty(), "nothing leads to the holes");
        assert_eq!(rows.count("embeddings") > 0, !head.is_empty());
        say(&format!("256 MiB of holes: {:?}", began.elapsed()));
    }
}

/// A few bytes anywhere are others.
#[test]
fn mutated_database() {
    let random = Random::seeded();
    let small = {
        let arena = Arena::new("1.5.9");
        let connection = Connection::open(arena.database()).expect("a database");
        let statements = "PRAGMA foreign_keys=OFF; DELETE FROM embedding_metadata WHERE id > 12;
            DELETE FROM embeddings WHERE id > 12; DELETE FROM embeddings_queue WHERE seq_id > 12;
            DELETE FROM embedding_fulltext_search WHERE rowid > 12; VACUUM;";
        connection.execute_batch(statements).expect("statements that run");
        std::fs::read(arena.database()).expect("a database")
    };
    for case in 0..150 {
        let mut random = random.of_case(case);
        let mut bytes = small.clone();
        for _ in 0..=random.below(12) {
            let at = random.below(bytes.len() / PAGE_BYTES) * PAGE_BYTES;
            // Heads of pages are where most is decided.
            let at = at + if random.below(3) > 0 { random.below(40) } else { random.below(PAGE_BYTES) };
            bytes[at] = match random.below(4) {
                0 => 0,
                1 => 255,
                2 => bytes[at] ^ 1 << random.below(8),
                _ => random.below(256) as u8,
            };
        }
        if case % 10 == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        digest_bytes(&bytes);
    }
}
