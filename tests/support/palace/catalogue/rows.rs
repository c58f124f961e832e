//! Rows that contradict each other.

use super::means::{delete_rows, segment, topic};
use super::{Case, Class, DRAWERS};
use rusqlite::Connection;
use std::path::Path;

pub(super) const CLASSES: &[Class] = &[
    duplicate("a record is there twice", |case| {
        duplicate_record(case, "drawer");
    })
    .losing(0, 0),
    duplicate("a record is there twice, and the later is another", |case| {
        duplicate_record(case, "another document");
        let id: String = case.one("SELECT embedding_id FROM embeddings WHERE id = 9");
        let wanted = case.wanted.records.get_mut(DRAWERS).expect("drawers");
        let record = wanted.iter_mut().find(|record| record.id == id).expect("the record");
        record.document = Some("another document".into());
    })
    .losing(0, 0),
    Class::deep("metadata belong to no record", &["metadata-orphan"], |case| {
        case.sql(
            "INSERT INTO embedding_metadata (id, key, string_value) VALUES (5000, 'wing', 'ghost');
             INSERT INTO embedding_metadata_array (id, key, int_value) VALUES (5001, 'list', 7);",
        );
        case.assert_rows("embedding_metadata WHERE id NOT IN (SELECT id FROM embeddings)", 1);
        case.checks.push(|arena| {
            let ghosts = "SELECT count(*) FROM embedding_metadata WHERE id NOT IN (SELECT id FROM embeddings)";
            assert_eq!(super::means::one::<i64>(&arena.palace(), ghosts), 0, "metadata of no record");
        });
    })
    .losing(0, 0),
    Class::deep("metadata of 0.6.3 belong to no record", &["metadata-orphan"], |case| {
        case.sql("INSERT INTO embedding_metadata (id, key, string_value) VALUES (5000, 'wing', 'ghost');");
        case.assert_rows("embedding_metadata WHERE id NOT IN (SELECT id FROM embeddings)", 1);
    })
    .on("chroma-0.6.3")
    .losing(0, 0),
    Class::deep("a record's vector is nowhere", &["vector-missing"], |case| {
        case.sql(&format!("DELETE FROM embeddings_queue WHERE topic = {} AND id = 'closet-003';", topic(CLOSETS)));
        case.assert_rows("embeddings_queue WHERE id = 'closet-003'", 0);
        case.want_what_is_there();
        assert!(case.wanted.record(CLOSETS, "closet-003").vector.is_none(), "the vector is somewhere");
    })
    .for_a_person(),
    Class::deep("a record's rows are lost, and its write is in the queue", &["index-diverged"], |case| {
        let row: i64 = case.one("SELECT id FROM embeddings WHERE embedding_id = 'closet-004'");
        delete_rows(case, row);
        case.assert_rows("embeddings WHERE embedding_id = 'closet-004'", 0);
        case.assert_rows("embeddings_queue WHERE id = 'closet-004'", 1);
        // The write has everything, but for one unit in the last place of some floats; the row may come back or not.
        case.wanted.forget(&[row].into());
        case.may_return.push("closet-004".into());
    })
    .losing(0, 0),
];

const CLOSETS: &str = "mempalace_closets";

const fn duplicate(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::deep(name, &["record-duplicate"], inject).also(&["database-index", "fulltext-differs"])
}

/// Writes a record a second time, behind the back of the index that would not have it.
fn duplicate_record(case: &mut Case, document: &str) {
    case.in_any_order = true;
    let path = case.arena.database();
    let index = "sqlite_autoindex_embeddings_1";
    let root: i64 = case.one(&format!("SELECT rootpage FROM sqlite_master WHERE name = '{index}'"));
    let table: String = case.one("SELECT sql FROM sqlite_master WHERE name = 'embeddings'");
    let unguarded = table.replace("UNIQUE (segment_id, embedding_id)", "CHECK (1)");
    assert_ne!(table, unguarded, "the table is another than it was");
    let sql = "UPDATE sqlite_master SET sql = ?1 WHERE name = 'embeddings'";
    let connection = writable(&path);
    connection.execute(sql, [&unguarded]).expect("a change");
    connection.execute("DELETE FROM sqlite_master WHERE name = ?1", [index]).expect("a change");
    drop(connection);
    case.sql(
        "INSERT INTO embeddings (id, segment_id, embedding_id, seq_id)
         SELECT 900, segment_id, embedding_id, 299 FROM embeddings WHERE id = 9;
         INSERT INTO embedding_metadata SELECT 900, key, string_value, int_value, float_value, bool_value
         FROM embedding_metadata WHERE id = 9;",
    );
    if document != "drawer" {
        case.sql(&format!(
            "UPDATE embedding_metadata SET string_value = '{document}' WHERE id = 900 AND key = 'chroma:document';"
        ));
    }
    case.sql(
        "INSERT INTO embedding_fulltext_search (rowid, string_value)
         SELECT 900, string_value FROM embedding_metadata WHERE id = 900 AND key = 'chroma:document';",
    );
    let connection = writable(&path);
    connection.execute(sql, [&table]).expect("a change");
    let insert = "INSERT INTO sqlite_master VALUES ('index', ?1, 'embeddings', ?2, NULL)";
    connection.execute(insert, rusqlite::params![index, root]).expect("an entry");
    drop(connection);
    let twice = format!(
        "(SELECT embedding_id FROM embeddings NOT INDEXED WHERE +segment_id = {}
          GROUP BY embedding_id HAVING count(*) > 1)",
        segment(DRAWERS, "METADATA")
    );
    case.assert_rows(&twice, 1);
}

/// A connection that may change the schema itself.
fn writable(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a database");
    connection.execute_batch("PRAGMA writable_schema = ON").expect("a pragma");
    connection
}
