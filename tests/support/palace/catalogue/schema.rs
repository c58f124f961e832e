//! What chromadb finds its way by: migrations, tables, collections and their segments.

use super::means::segment;
use super::{Case, Class, DRAWERS};

pub(super) const CLASSES: &[Class] = &[
    migrations("a migration is missing", |case| {
        case.sql("DELETE FROM migrations WHERE dir = 'metadb' AND version = 3;");
        case.assert_rows("migrations", 17);
    }),
    migrations("the last migration is missing", |case| {
        case.sql("DELETE FROM migrations WHERE dir = 'sysdb' AND version = 10;");
        case.assert_rows("migrations", 17);
    }),
    migrations("all migrations are missing", |case| {
        case.sql("DELETE FROM migrations;");
        case.assert_rows("migrations", 0);
    }),
    migrations("a migration's hash is another", |case| {
        case.sql(
            "UPDATE migrations SET hash = 'd41d8cd98f00b204e9800998ecf8427e' WHERE dir = 'sysdb' AND version = 2;",
        );
        case.assert_rows("migrations WHERE hash = 'd41d8cd98f00b204e9800998ecf8427e'", 1);
    }),
    migrations("a migration's text has a space more", |case| {
        case.sql("UPDATE migrations SET sql = sql || ' ' WHERE dir = 'embeddings_queue' AND version = 1;");
        case.assert_rows("migrations WHERE sql LIKE '% '", 1);
    }),
    schema("an index is dropped", |case| {
        case.sql("DROP INDEX embedding_metadata_int_value;");
        case.assert_rows("sqlite_master WHERE name = 'embedding_metadata_int_value'", 0);
    }),
    schema("the table of sequence numbers is dropped", |case| {
        case.sql("DROP TABLE max_seq_id;");
        case.assert_rows("sqlite_master WHERE name = 'max_seq_id'", 0);
    })
    .also(&["queue-pending"]),
    schema("the queue's settings are dropped", |case| {
        case.sql("DROP TABLE embeddings_queue_config;");
        case.assert_rows("sqlite_master WHERE name = 'embeddings_queue_config'", 0);
    }),
    schema("the table of tenants is dropped", |case| {
        case.sql("DROP TABLE tenants;");
        case.assert_rows("sqlite_master WHERE name = 'tenants'", 0);
    }),
    schema("the tenant's row is missing", |case| {
        case.sql("DELETE FROM tenants;");
        case.assert_rows("tenants", 0);
    }),
    schema("the database's row is missing", |case| {
        case.sql("DELETE FROM databases;");
        case.assert_rows("databases", 0);
    }),
    Class::quick("somebody keeps a table of their own", &["database-stranger"], |case| {
        case.sql("CREATE TABLE my_notes (text TEXT); INSERT INTO my_notes VALUES ('keep me');");
        case.want_what_is_there();
        case.checks.push(|arena| {
            assert_eq!(super::means::one::<String>(&arena.palace(), "SELECT text FROM my_notes"), "keep me");
        });
    })
    .noted(),
    collection("a collection has no segment of metadata", &["collection-segments"], |case| {
        lose_segment(case, "METADATA")
    }),
    collection("a collection has no segment of vectors", &["collection-segments"], |case| lose_segment(case, "VECTOR"))
        .also(&["segment-orphan", "index-missing", "vector-missing", "queue-pending"]),
    collection("a collection has no segments", &["collection-segments"], |case| {
        case.sql(&format!("DELETE FROM segments WHERE collection = {};", collection_id(DRAWERS)));
        case.assert_rows("segments", 6);
    })
    .also(&["segment-orphan", "index-missing", "vector-missing", "queue-pending"]),
    collection("a collection has become one of l2", &["collection-space"], |case| {
        case.sql("UPDATE collections SET schema_str = NULL WHERE name = 'mempalace_drawers';");
        case.assert_rows("collections WHERE schema_str IS NULL", 1);
        case.wanted.tables.remove("collections"); // the keys of a schema may come in another order
        case.checks.push(|arena| {
            let space = "SELECT schema_str ->> '$.keys.#embedding.float_list.vector_index.config.space'
                         FROM collections WHERE name = 'mempalace_drawers'";
            assert_eq!(super::means::one::<String>(&arena.palace(), space), "cosine", "the space");
        });
    })
    .perhaps_for_a_person(),
    collection("a collection of 0.6.3 has become one of l2", &["collection-space"], |case| {
        let vector = segment(DRAWERS, "VECTOR");
        case.sql(&format!("DELETE FROM segment_metadata WHERE segment_id = {vector} AND key = 'hnsw:space';"));
        case.assert_rows(&format!("segment_metadata WHERE segment_id = {vector} AND key = 'hnsw:space'"), 0);
    })
    .on("chroma-0.6.3")
    .perhaps_for_a_person(),
    collection("a collection does not know its dimension", &["collection-dimension"], |case| {
        case.sql("UPDATE collections SET dimension = NULL WHERE name = 'mempalace_drawers';");
        case.assert_rows("collections WHERE dimension IS NULL", 2);
    }),
    collection("a collection has another dimension", &["collection-dimension"], |case| {
        case.sql("UPDATE collections SET dimension = 17 WHERE name = 'mempalace_drawers';");
        case.assert_rows("collections WHERE dimension = 17", 1);
    })
    .also(&["queue-poison"]),
    collection("a collection of 0.6.3 does not say its type", &["collection-config"], lose_type).on("chroma-0.6.3"),
    collection("a collection of 0.5.23 does not say its type", &["collection-config"], lose_type).on("chroma-0.5.23"),
];

const fn migrations(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["database-migrations"], inject)
}

const fn schema(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["database-schema"], inject)
}

const fn collection(name: &'static str, codes: &'static [&'static str], inject: fn(&mut Case)) -> Class {
    Class::quick(name, codes, inject)
}

fn collection_id(name: &str) -> String {
    format!("(SELECT id FROM collections WHERE name = '{name}')")
}

fn lose_segment(case: &Case, scope: &str) {
    case.sql(&format!("DELETE FROM segments WHERE id = {};", segment(DRAWERS, scope)));
    case.assert_rows("segments", 7);
}

/// As the versions before 0.5.4 left it, and MemPalace's shim did not mend it.
fn lose_type(case: &mut Case) {
    case.sql(
        "UPDATE collections SET config_json_str = json_remove(config_json_str, '$._type')
         WHERE name = 'mempalace_drawers';",
    );
    case.assert_rows("collections WHERE config_json_str -> '$._type' IS NULL", 1);
    case.wanted.tables.remove("collections"); // the keys may come in another order
}
