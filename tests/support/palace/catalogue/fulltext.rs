//! The full-text index: its registration, its inverted index, and its copy of the documents.

use super::means::zero_pages;
use super::{Case, Class, OLDER};

pub(super) const CLASSES: &[Class] = &[
    Class::quick("the full-text index is not registered", &["fulltext-missing"], |case| {
        case.schema_sql("DELETE FROM sqlite_master WHERE name = 'embedding_fulltext_search';");
        case.assert_rows("sqlite_master WHERE name = 'embedding_fulltext_search'", 0);
        case.assert_rows("sqlite_master WHERE name LIKE 'embedding_fulltext_search%'", 5);
    })
    .also(&["database-schema"])
    .and_on(OLDER),
    Class::quick("the full-text index is gone", &["fulltext-missing"], |case| {
        case.sql("DROP TABLE embedding_fulltext_search;");
        case.assert_rows("sqlite_master WHERE name LIKE 'embedding_fulltext_search%'", 0);
    })
    .also(&["database-schema"]),
    damaged("blocks of the inverted index are zero", |case| {
        case.shadow(
            "UPDATE embedding_fulltext_search_data SET block = zeroblob(length(block)) WHERE id > 274877906944;",
        );
        assert_malformed(case);
    }),
    damaged("blocks of the inverted index are missing", |case| {
        case.shadow("DELETE FROM embedding_fulltext_search_data WHERE id > 274877906944;");
        assert_malformed(case);
    }),
    damaged("the inverted index knows no terms", |case| {
        case.shadow("DELETE FROM embedding_fulltext_search_idx;");
        assert_malformed(case);
    }),
    Class::deep("a page of the inverted index is zero", &["fulltext-damaged|database-page|database-index"], |case| {
        zero_leaf_of(case, "embedding_fulltext_search_data");
    })
    .also(&["database-page", "database-index", "fulltext-damaged"]),
    Class::deep(
        "a page of the full-text index's documents is zero",
        &["fulltext-damaged|database-page|database-index"],
        |case| {
            zero_leaf_of(case, "embedding_fulltext_search_content");
        },
    )
    .also(&["database-page", "database-index", "fulltext-damaged", "fulltext-differs"]),
    differs("a document in the full-text index is another", |case| {
        case.shadow("UPDATE embedding_fulltext_search_content SET c0 = 'nobody wrote this' WHERE id = 9;");
        case.assert_rows("embedding_fulltext_search WHERE rowid = 9 AND string_value = 'nobody wrote this'", 1);
    }),
    differs("a document is another, and so is what one finds it by", |case| {
        case.sql("UPDATE embedding_fulltext_search SET string_value = 'nobody wrote this' WHERE rowid = 9;");
        case.assert_rows("embedding_fulltext_search WHERE embedding_fulltext_search MATCH 'nobody'", 1);
    }),
    differs("a document is missing in the full-text index", |case| {
        case.sql("DELETE FROM embedding_fulltext_search WHERE rowid IN (9, 10);");
        case.assert_rows("embedding_fulltext_search WHERE rowid IN (9, 10)", 0);
    }),
    Class::quick("a document of no record is where the next will be", &["fulltext-orphan"], |case| {
        case.sql(
            "INSERT INTO embedding_fulltext_search (rowid, string_value)
             SELECT max(id) + 1, 'left by a delete' FROM embeddings;",
        );
        case.assert_rows("embedding_fulltext_search WHERE string_value = 'left by a delete'", 1);
    }),
    Class::quick("a document of no record is where the next of 0.4.24 will be", &["fulltext-orphan"], |case| {
        case.sql(
            "INSERT INTO embedding_fulltext_search (rowid, string_value)
             SELECT max(id) + 1, 'left by a delete' FROM embeddings;",
        );
        case.assert_rows("embedding_fulltext_search WHERE string_value = 'left by a delete'", 1);
    })
    .on("chroma-0.4.24"),
];

/// The inverted index can always be made again.
const fn damaged(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::deep(name, &["fulltext-damaged"], inject)
}

/// The documents are in the metadata too.
const fn differs(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::deep(name, &["fulltext-differs"], inject).also(&["fulltext-damaged"])
}

impl Case {
    /// Writes to a table that is the full-text index's own.
    fn shadow(&self, statements: &str) {
        let before = self.shadow_digest();
        self.sql(statements);
        assert_ne!(before, self.shadow_digest(), "{statements}: nothing was changed");
    }

    fn shadow_digest(&self) -> String {
        self.one(
            "SELECT (SELECT group_concat(hex(substr(block, 1, 40))) FROM embedding_fulltext_search_data)
                 || (SELECT count(*) FROM embedding_fulltext_search_idx)
                 || (SELECT group_concat(c0) FROM embedding_fulltext_search_content)",
        )
    }
}

/// SQLite looks into a full-text index only if it is asked this way.
#[track_caller]
fn assert_malformed(case: &Case) {
    let (_scratch, connection) = super::super::open_copy(&case.arena.palace());
    let check = "INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('integrity-check')";
    let documents = "DELETE FROM embedding_fulltext_search WHERE instr(string_value, char(0))";
    let _ = connection.execute_batch(documents); // newer SQLites object to them in a sound index
    assert!(connection.execute_batch(check).is_err(), "the full-text index is sound");
}

#[track_caller]
fn zero_leaf_of(case: &Case, table: &str) {
    let pages = case.pages(table, "leaf");
    zero_pages(&case.arena.palace(), &[pages[pages.len() / 2]]);
    let (_scratch, connection) = super::super::open_copy(&case.arena.palace());
    let walk = format!("SELECT count(*), sum(length(quote({}))) FROM {table}", column_of(table));
    let read = connection.query_row(&walk, [], |row| row.get::<_, i64>(0));
    assert!(read.is_err(), "{table} can be read: {read:?}");
}

fn column_of(table: &str) -> &'static str {
    if table.ends_with("_data") { "block" } else { "c0" }
}
