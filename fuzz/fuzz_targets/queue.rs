//! Rows of `embeddings_queue`, of any kind and with any contents: the palace is checked and surveyed or refused,
//! nothing panics, and no write that waits gets lost on the way.
//!
//! The input is a row after another: operation, kind of vector, length of id, vector and metadata (a byte each), then
//! these three.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palacekeeper::disk::RealDisk;
use palacekeeper::store::chroma::check::{self, Depth};
use palacekeeper::store::chroma::{Format, Limits, Preparation, Source, survey};
use palacekeeper::store::scratch::Room;
use rusqlite::{Connection, params};
use std::path::PathBuf;
use std::sync::LazyLock;
use tempfile::TempDir;

const TOPIC: &str = "persistent://default/default/6d1f0b3e-0f6c-4b6e-9d0a-1a2b3c4d5e6f";

struct Palace {
    directory: TempDir,
    template: PathBuf,
}

static PALACE: LazyLock<Palace> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(directory.path().join("palace")).expect("it is new");
    let template = directory.path().join("template");
    let database = Connection::open(&template).expect("it is new");
    database.execute_batch("PRAGMA foreign_keys=OFF").expect("a pragma");
    let format = Format::named("1.5.9").expect("it is known");
    for statement in format.immediate().chain(format.deferred()) {
        database.execute_batch(statement).expect("chromadb's own");
    }
    for row in &format.migrations {
        let values = params![row.dir, row.version, row.filename, row.sql, row.hash];
        database.execute("INSERT INTO migrations VALUES (?1, ?2, ?3, ?4, ?5)", values).expect("chromadb's own");
    }
    let rows = "
        INSERT INTO tenants VALUES ('default_tenant');
        INSERT INTO databases VALUES ('00000000-0000-0000-0000-000000000000', 'default_database', 'default_tenant');
        INSERT INTO collections (id, name, dimension, database_id) VALUES
            ('6d1f0b3e-0f6c-4b6e-9d0a-1a2b3c4d5e6f', 'drawers', 2, '00000000-0000-0000-0000-000000000000');
        INSERT INTO segments VALUES
            ('aaaaaaaa-0000-4000-8000-000000000001', 'urn:chroma:segment/metadata/sqlite', 'METADATA',
             '6d1f0b3e-0f6c-4b6e-9d0a-1a2b3c4d5e6f'),
            ('aaaaaaaa-0000-4000-8000-000000000002', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR',
             '6d1f0b3e-0f6c-4b6e-9d0a-1a2b3c4d5e6f');
        INSERT INTO embeddings (id, segment_id, embedding_id, seq_id) VALUES
            (1, 'aaaaaaaa-0000-4000-8000-000000000001', 'a', 1), (2, 'aaaaaaaa-0000-4000-8000-000000000001', 'b', 2);
        INSERT INTO max_seq_id VALUES ('aaaaaaaa-0000-4000-8000-000000000001', 2);";
    database.execute_batch(rows).expect("they fit");
    drop(database);
    Palace { directory, template }
});

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fuzz_target!(|data: &[u8]| {
    let palace = PALACE.directory.path().join("palace");
    let path = palace.join("chroma.sqlite3");
    std::fs::copy(&PALACE.template, &path).expect("there is room");
    let database = Connection::open(&path).expect("it was copied just now");
    database.execute_batch("PRAGMA foreign_keys=OFF; PRAGMA synchronous=OFF; BEGIN").expect("pragmas");
    let mut rest = data;
    let mut rows = 0_u64;
    while let Some(([operation, kind, id, vector, metadata], tail)) = rest.split_first_chunk() {
        let (id, tail) = tail.split_at(tail.len().min((*id).into()));
        let (vector, tail) = tail.split_at(tail.len().min((*vector).into()));
        let (metadata, tail) = tail.split_at(tail.len().min((*metadata).into()));
        let encoding = ["FLOAT32", "INT32", ""][usize::from(kind % 3)];
        let vector = (kind & 4 == 0).then_some(vector);
        let values = params![i64::from(*operation) - 1, TOPIC, text(id), vector, encoding, text(metadata)];
        let sql = "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        database.execute(sql, values).expect("any row can be queued");
        (rest, rows) = (tail, rows + 1);
    }
    database.execute_batch("COMMIT").expect("there is room");
    drop(database);
    let disk = RealDisk::new();
    let room = Room::new(&disk, PALACE.directory.path());
    let _ = check::check(&palace, &room, Depth::Deep, &mut || ());
    let source = Source::open(&palace, &room, &Preparation::default()).expect("the database is sound");
    let survey = survey(&source, Limits::default(), &mut || ()).expect("the rows can be read");
    assert_eq!(survey.collections[0].totals.pending, rows.saturating_sub(2), "a waiting write was not counted");
});
