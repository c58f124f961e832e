//! Sequence numbers: the state in which chromadb acknowledges writes and drops them.

use super::means::{segment, topic};
use super::{Case, Class, DRAWERS};

pub(super) const CLASSES: &[Class] = &[
    poisoned("the number of the metadata is poisoned", |case| poison(case, &["METADATA"])),
    poisoned("the number of the vectors is poisoned", |case| poison(case, &["VECTOR"])),
    poisoned("both numbers of a collection are poisoned", |case| poison(case, &["METADATA", "VECTOR"])),
    poisoned("all numbers are poisoned", |case| {
        let numbers = numbers(case);
        for (segment, number) in &numbers {
            case.sql(&format!("UPDATE max_seq_id SET seq_id = {} WHERE segment_id = '{segment}';", poison_of(*number)));
        }
        case.assert_rows("max_seq_id WHERE seq_id > 1000000", numbers.len() as i64);
    }),
    Class::quick("a number is a blob where an integer belongs", &["sequence-type"], |case| {
        case.sql(&format!("UPDATE max_seq_id SET seq_id = x'000000000000012b' WHERE segment_id = {};", metadata()));
        case.assert_rows("max_seq_id WHERE typeof(seq_id) = 'blob'", 1);
    }),
    Class::quick("a number of 1.0.20 is a blob where an integer belongs", &["sequence-type"], |case| {
        let number: i64 = case.one(&format!("SELECT seq_id FROM max_seq_id WHERE segment_id = {}", metadata()));
        let blob = format!("UPDATE max_seq_id SET seq_id = x'{number:016x}' WHERE segment_id = {};", metadata());
        case.sql(&blob);
        case.assert_rows("max_seq_id WHERE typeof(seq_id) = 'blob'", 1);
    })
    .on("chroma-1.0.20"),
    Class::quick("all numbers of 0.6.3 are integers where blobs belong", &["sequence-type"], to_integers)
        .on("chroma-0.6.3"),
    Class::quick("all numbers of 0.5.23 are integers where blobs belong", &["sequence-type"], to_integers)
        .on("chroma-0.5.23"),
    unreadable("a number is a word", |case| set(case, "METADATA", "'garbage'", "typeof(seq_id) = 'text'")),
    unreadable("a number is three bytes", |case| {
        set(case, "VECTOR", "x'010203'", "length(seq_id) = 3 AND typeof(seq_id) = 'blob'")
    }),
    unreadable("a number is a fraction", |case| set(case, "VECTOR", "12.5", "typeof(seq_id) = 'real'")),
    unreadable("a number is nothing", |case| set(case, "METADATA", "NULL", "seq_id IS NULL")),
    unreadable("a number is negative", |case| set(case, "METADATA", "-7", "seq_id < 0")),
    ahead("the number of the metadata is too high", |case| set(case, "METADATA", "5000", "seq_id = 5000")),
    ahead("the number of the vectors is too high", |case| set(case, "VECTOR", "5000", "seq_id = 5000")),
    ahead("the index claims writes that it does not hold", |case| set(case, "VECTOR", "290", "seq_id = 290")),
    ahead("the index claims every write of the queue", |case| {
        set(case, "VECTOR", "299", "seq_id = 299");
    }),
    Class::quick("the next writes vanish: the queue is empty behind a full index", &["writes-vanish"], |case| {
        index_all_and_empty_the_queue(case);
    })
    .also(&["sequence-ahead"]),
    Class::quick(
        "the next writes vanish: a collection without vectors has the highest number",
        &["writes-vanish"],
        |case| {
            let insert = format!("INSERT INTO max_seq_id VALUES ({}, 500);", segment("empty", "METADATA"));
            case.sql(&insert);
            case.assert_rows("max_seq_id WHERE seq_id > (SELECT max(seq_id) FROM embeddings_queue)", 1);
        },
    )
    .also(&["sequence-ahead"]),
];

const fn poisoned(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["sequence-poisoned"], inject).also(&["writes-vanish", "queue-pending"])
}

const fn unreadable(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["sequence-unreadable"], inject).also(&["queue-pending"])
}

const fn ahead(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["sequence-ahead"], inject).also(&["writes-vanish", "queue-pending"])
}

fn metadata() -> String {
    segment(DRAWERS, "METADATA")
}

/// What chromadb's fifth migration makes of a number that was an integer already: it takes the decimal digits for
/// bytes, and each nibble that is zero becomes a one.
fn poison_of(number: i64) -> i64 {
    let mut bytes = [0x11; 8];
    let digits = number.to_string();
    bytes[8 - digits.len()..].copy_from_slice(digits.as_bytes());
    i64::from_be_bytes(bytes)
}

fn numbers(case: &Case) -> Vec<(String, i64)> {
    let (_scratch, connection) = super::super::open_copy(&case.arena.palace());
    let mut query = connection.prepare("SELECT segment_id, seq_id FROM max_seq_id").expect("numbers");
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("numbers");
    rows.map(|row| row.expect("a number")).collect()
}

fn poison(case: &Case, scopes: &[&str]) {
    assert_eq!(poison_of(2500), 1_229_782_938_803_318_832);
    for scope in scopes {
        let segment = segment(DRAWERS, scope);
        let number: i64 = case.one(&format!("SELECT seq_id FROM max_seq_id WHERE segment_id = {segment}"));
        case.sql(&format!("UPDATE max_seq_id SET seq_id = {} WHERE segment_id = {segment};", poison_of(number)));
    }
    case.assert_rows("max_seq_id WHERE seq_id > 1000000000000000000", scopes.len() as i64);
}

/// As old MemPalace did it, for a chromadb that takes it for poison.
fn to_integers(case: &mut Case) {
    let numbers = {
        let (_scratch, connection) = super::super::open_copy(&case.arena.palace());
        let mut query = connection.prepare("SELECT segment_id, seq_id FROM max_seq_id").expect("numbers");
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, [u8; 8]>(1)?)));
        rows.expect("numbers").map(|row| row.expect("eight bytes")).collect::<Vec<_>>()
    };
    assert!(!numbers.is_empty());
    for (segment, bytes) in &numbers {
        // A column of blobs keeps what it is given.
        let number = u64::from_be_bytes(*bytes);
        case.sql(&format!("UPDATE max_seq_id SET seq_id = {number} WHERE segment_id = '{segment}';"));
    }
    case.assert_rows("max_seq_id WHERE typeof(seq_id) = 'integer'", numbers.len() as i64);
}

fn set(case: &Case, scope: &str, value: &str, condition: &str) {
    let segment = segment(DRAWERS, scope);
    case.sql(&format!("UPDATE max_seq_id SET seq_id = {value} WHERE segment_id = {segment};"));
    case.assert_rows(&format!("max_seq_id WHERE segment_id = {segment} AND {condition}"), 1);
}

/// Everything is in the index, and no row keeps the last number taken.
fn index_all_and_empty_the_queue(case: &mut Case) {
    for collection in [DRAWERS, "notes-l2"] {
        super::super::truncate(&case.index(collection).join("link_lists.bin"), 0, 1);
    }
    case.arena.run(&["rebuild", "--yes"]).expect(0);
    std::fs::remove_dir_all(case.arena.keep()).expect("a keep");
    let (drawers, notes) = (topic(DRAWERS), topic("notes-l2"));
    case.sql(&format!("DELETE FROM embeddings_queue WHERE topic IN ({drawers}, {notes});"));
    let highest: i64 = case.one("SELECT max(seq_id) FROM max_seq_id");
    let queued: i64 = case.one("SELECT max(seq_id) FROM embeddings_queue");
    assert!(highest > queued, "the queue ends at {queued}, the numbers at {highest}");
    assert_eq!(case.differences(), Vec::new(), "something is lost already");
}
