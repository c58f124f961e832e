//! The database file: its header, its pages, its length, and what lies beside it.

use super::super::{make_hot, make_wal, overwrite, truncate};
use super::means::{PAGE_BYTES, zero_pages};
use super::{Case, Class, LARGER, OLDER};
use rusqlite::Connection;

pub(super) const CLASSES: &[Class] = &[
    Class::quick("the database's header is scrambled", &["database-header"], |case| {
        case.overwrite(&case.arena.database(), 0, &[0xa5; 100]);
        case.assert_malformed();
    })
    .and_on(OLDER),
    Class::quick("the database's magic is gone", &["database-header"], |case| {
        case.overwrite(&case.arena.database(), 0, &[0; 16]);
        case.assert_malformed();
    }),
    Class::quick("the database's page size is nonsense", &["database-header"], |case| {
        case.overwrite(&case.arena.database(), 16, &[0x12, 0x34]);
        case.assert_malformed();
    }),
    Class::quick("the database's first page is zero", &["database-header"], |case| {
        zero_pages(&case.arena.palace(), &[1]);
        case.assert_malformed();
    })
    .also(&["database-page"]),
    Class::quick("the database ends in the middle", &["database-truncated"], |case| {
        truncate(&case.arena.database(), 1, 2);
        case.assert_malformed();
    })
    .also(AFTER_LOST_PAGES)
    .losing(220, 220),
    Class::quick("the database lacks its last pages", &["database-truncated"], |case| {
        let pages: i64 = case.one("PRAGMA page_count");
        case.set_length(&case.arena.database(), (pages as u64 - 3) * PAGE_BYTES as u64);
        case.assert_malformed();
    })
    .also(AFTER_LOST_PAGES)
    .losing(60, 60),
    table_page("a page of the embeddings is zero", |case| zero_middle(case, "embeddings", "leaf")).and_on(LARGER),
    table_page("a page of the metadata is zero", |case| zero_middle(case, "embedding_metadata", "leaf")).and_on(OLDER),
    table_page("an inner page of the metadata is zero", |case| zero_middle(case, "embedding_metadata", "internal"))
        .and_on(LARGER),
    table_page("an inner page of the embeddings is zero", |case| zero_middle(case, "embeddings", "internal")),
    table_page("a page of the queue is zero", |case| zero_middle(case, "embeddings_queue", "leaf")),
    table_page("a page of the metadata is garbage", |case| trash_middle(case, "embedding_metadata")),
    table_page("a page's cell pointers are garbage", |case| {
        let page = middle(case, "embedding_metadata", "leaf");
        let at = (page - 1) * PAGE_BYTES as u64;
        case.overwrite(&case.arena.database(), at + 8, &[0xff; 8]);
        case.assert_malformed();
    }),
    table_page("the rest of a long document is zero", |case| {
        let page = case.pages("embedding_metadata", "overflow")[0];
        zero_pages(&case.arena.palace(), &[page]);
        case.assert_malformed();
    }),
    Class::deep("the page of the collections is zero", &["database-page"], |case| {
        zero_middle(case, "collections", "leaf");
        case.wanted.tables.remove("collections"); // names are in an index, settings in another table
    })
    .also(AFTER_LOST_PAGES)
    .losing(0, 0),
    index_page("a page of the index of embeddings is zero", |case| {
        zero_middle(case, "sqlite_autoindex_embeddings_1", "leaf");
    })
    .and_on(OLDER),
    index_page("a page of the index of embeddings is garbage", |case| {
        trash_middle(case, "sqlite_autoindex_embeddings_1");
    }),
    index_page("an inner page of the index of metadata is zero", |case| {
        zero_middle(case, "sqlite_autoindex_embedding_metadata_1", "internal");
    }),
    index_page("a page of the index of strings is zero", |case| {
        zero_middle(case, "embedding_metadata_string_value", "leaf");
    }),
    index_page("an index lacks rows of its table", index_lacks_rows),
    Class::quick("a writer was killed in a transaction", &["database-journal"], |case| {
        make_hot(&case.arena.palace());
    })
    .noted(),
    Class::quick("a writer was killed in a transaction on a palace of 0.6.3", &["database-journal"], |case| {
        make_hot(&case.arena.palace());
    })
    .on("chroma-0.6.3")
    .noted(),
    Class::quick("commits are in the write-ahead log only", &["database-journal"], |case| {
        let commits = "UPDATE embedding_metadata SET string_value = 'committed' WHERE key = 'wing' AND id < 9;";
        make_wal(&case.arena.palace(), commits);
        case.want_what_is_there();
        case.assert_rows("embedding_metadata WHERE string_value = 'committed'", 6);
    })
    .noted(),
];

/// What may follow from pages that are lost.
const AFTER_LOST_PAGES: &[&str] = &[
    "database-page",
    "database-index",
    "database-schema",
    "database-migrations",
    "fulltext-missing",
    "fulltext-damaged",
    "fulltext-differs",
    "fulltext-orphan",
    "metadata-orphan",
    "index-diverged",
    "vector-missing",
    "collection-segments",
    "collection-dimension",
    "collection-space",
    "sequence-ahead",
    "writes-vanish",
    "segment-orphan",
];

/// A page of a table: a leaf holds a few dozen rows, which other pages repeat in part.
const fn table_page(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::deep(name, &["database-page"], inject).also(AFTER_LOST_PAGES).losing(60, 60)
}

/// A page of an index holds nothing that the table does not. Whose page it is, only a deep check can say.
const fn index_page(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::deep(name, &["database-index"], inject).also(&["database-page"])
}

fn middle(case: &Case, name: &str, kind: &str) -> u64 {
    let pages = case.pages(name, kind);
    assert!(!pages.is_empty(), "{name} has no {kind} page");
    pages[pages.len() / 2]
}

fn zero_middle(case: &Case, name: &str, kind: &str) {
    zero_pages(&case.arena.palace(), &[middle(case, name, kind)]);
    case.assert_malformed();
}

fn trash_middle(case: &Case, name: &str) {
    let page = middle(case, name, "leaf");
    let garbage: Vec<u8> = (0..PAGE_BYTES).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    overwrite(&case.arena.database(), (page - 1) * PAGE_BYTES as u64, &garbage);
    case.assert_malformed();
}

/// Rows are written while SQLite does not know of the index.
fn index_lacks_rows(case: &mut Case) {
    let palace = case.arena.palace();
    let name = "embedding_metadata_int_value";
    let entry: String = case.one("SELECT sql FROM sqlite_master WHERE name = 'embedding_metadata_int_value'");
    let root: i64 = case.one("SELECT rootpage FROM sqlite_master WHERE name = 'embedding_metadata_int_value'");
    case.schema_sql(&format!("DELETE FROM sqlite_master WHERE name = '{name}';"));
    case.sql("UPDATE embedding_metadata SET int_value = int_value + 1 WHERE id BETWEEN 20 AND 24;");
    let connection = Connection::open(palace.join("chroma.sqlite3")).expect("a database");
    connection.execute_batch("PRAGMA writable_schema = ON").expect("a pragma");
    let insert = "INSERT INTO sqlite_master VALUES ('index', ?1, 'embedding_metadata', ?2, ?3)";
    connection.execute(insert, rusqlite::params![name, root, entry]).expect("an entry");
    drop(connection);
    case.assert_malformed();
    case.want_what_is_there();
}
