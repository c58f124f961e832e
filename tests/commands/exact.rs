//! Migrates palaces to MemPalace's `sqlite_exact` and back, and compares with a reader that shares no code.

use crate::support::palace::{
    Arena, Content, EXACT, Exact, Record, Tree, VERSIONS, add_in_log, assert_sound, exact_sql, make_exact, make_wal,
    records_as_expected, segment_directories, segment_of, sql,
};

const TO_EXACT: [&str; 5] = ["migrate", "--to", "exact", "--yes", "--accept-loss"];
const FORMATS: [&str; 4] = ["chroma-0.4", "chroma-0.5", "chroma-1.0", "chroma-1.5"];

fn to_format(format: &str) -> [&str; 5] {
    ["migrate", "--to", format, "--yes", "--accept-loss"]
}

/// All of a palace but its store, whichever kind that is.
fn sidecars(arena: &Arena) -> Tree {
    let segments = match arena.database().exists() {
        true => segment_directories(&arena.palace()),
        false => Default::default(),
    };
    let mut tree = Tree::of(&arena.palace()).sidecars(&segments);
    tree.0.retain(|path, _| !path.to_string_lossy().starts_with(EXACT));
    tree
}

/// I10: every record is in the new store, in its order, and comes back out of it.
#[test]
fn record_is_lost_or_changed_on_the_way_to_exact_and_back() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let (store, others) = (Tree::of(&arena.palace()), sidecars(&arena));
        let content = Content::of(&arena.palace());
        arena.run(&TO_EXACT).expect(0).says("is completed");
        let exact = Exact::of(&arena.palace());
        exact.assert_holds(&content.records, version);
        exact.assert_indexed(version);
        assert_eq!(exact.meta["embedder_model:mempalace_drawers"], model(&arena), "{version}");
        others.assert_untouched(&sidecars(&arena), &format!("{version}: sidecars"));
        let segments = content.indexes.len();
        assert!(!arena.database().exists() && segments > 0, "{version}: both databases are there");
        let folder = arena.keep().join("0001-migrate");
        let old = Tree::of(&folder.join("aside"));
        let difference = store.difference(&old, |one, other| one == other);
        let is_sidecar = |line: &&String| others.top().iter().any(|name| line.starts_with(name.as_str()));
        let strange: Vec<_> = difference.iter().filter(|line| !is_sidecar(line)).collect();
        assert!(strange.is_empty(), "{version}: what was set aside: {strange:?}");
        for format in FORMATS {
            there_and_back(&arena, &exact, &others, &format!("{version}, {format}"), format);
        }
    }
}

fn model(arena: &Arena) -> String {
    let text = std::fs::read_to_string(arena.palace().join("mempalace_embedder.json")).expect("a sidecar");
    let note: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    note["mempalace_drawers"]["model_name"].as_str().expect("a model").to_owned()
}

fn there_and_back(arena: &Arena, exact: &Exact, others: &Tree, what: &str, format: &str) {
    let arena = arena.fork();
    arena.run(&to_format(format)).expect(0);
    others.assert_equals(&sidecars(&arena), &format!("{what}: sidecars"));
    assert_sound(&arena.palace(), what);
    arena.run(&["check", "--deep"]);
    let between = Content::of(&arena.palace());
    arena.run(&TO_EXACT).expect(0);
    let again = Exact::of(&arena.palace());
    again.assert_holds(&between.records, what);
    again.assert_indexed(what);
    assert_eq!(exact.dimensions, again.dimensions, "{what}");
    for (name, records) in &exact.records {
        for (one, other) in records.iter().zip(&again.records[name]) {
            let has_lists = format != "chroma-1.5" && one.metadata.values().any(|value| value.starts_with("list:"));
            let mut one = one.clone();
            one.metadata.retain(|_, value| !has_lists || !value.starts_with("list:"));
            assert_close(&one, other, what);
        }
    }
}

/// A vector that is normalised and multiplied out again is not the same in its last bits.
#[track_caller]
fn assert_close(one: &Record, other: &Record, what: &str) {
    assert_eq!((&one.id, &one.document, &one.metadata), (&other.id, &other.document, &other.metadata), "{what}");
    let vectors = one.vector.as_ref().zip(other.vector.as_ref());
    let Some((one, other)) = vectors else { return assert_eq!(one.vector, other.vector, "{what}: a vector") };
    let is_close = |(one, other): (&f32, &f32)| (one - other).abs() <= 1e-6 * one.abs().max(1e-3);
    assert!(one.get.iter().zip(&other.get).all(is_close), "{what}: {one:?} against {other:?}");
}

/// I14: and nothing is touched until somebody agrees.
#[test]
fn loss_is_silent_or_begins_without_consent() {
    let arena = Arena::new("1.5.9");
    sql(
        &arena.palace(),
        "INSERT INTO embedding_metadata (id, key, float_value) VALUES (3, 'endless', 9e999), (3, 'negative', -9e999);
         INSERT INTO embedding_metadata (id, key, string_value) VALUES (6, 'torn', CAST(x'61ff62' AS TEXT));
         INSERT INTO embedding_metadata_array (id, key, float_value) VALUES (5, 'reach', 9e999);
         INSERT INTO embeddings (segment_id, embedding_id, seq_id)
             VALUES ('00000000-0000-4000-8000-00000000dead', 'x', 1);",
    );
    let before = Tree::of(arena.root());
    for flags in [&["--yes"][..], &["--plan"]] {
        let run = arena.run(&[&["migrate", "--to", "exact"], flags].concat());
        let run = run.expect(if flags[0] == "--yes" { 5 } else { 3 });
        let run = run.says("no document").says("endless").says("negative").says("reach").says("distance l2");
        run.says("UTF-8").says("deleted");
        before.assert_but_for(&Tree::of(arena.root()), &["palace.keep", "palace.keep/lock", "tmp"]);
    }
    arena.run(&TO_EXACT).expect(0);
    let exact = Exact::of(&arena.palace());
    let record = exact.records["mempalace_drawers"].iter().find(|record| record.row == 3).expect("a record");
    assert!(!record.metadata.contains_key("endless") && record.metadata.contains_key("wing"), "{record:#?}");
}

/// Writes that wait are applied: the client that made them was killed before it did so itself.
#[test]
fn waiting_write_is_forgotten() {
    let arena = Arena::unpack("chroma-1.5.9-killed");
    arena.run(&TO_EXACT).expect(0);
    let exact = Exact::of(&arena.palace());
    exact.assert_indexed("killed");
    records_as_expected(&exact.records, "1.5.9-killed");
}

/// An update, an upsert, a deletion, null for a key, and a list, as the queue holds them.
#[test]
fn waiting_write_is_applied_otherwise_than_by_chromadb() {
    let arena = Arena::new("1.5.9");
    let before = Content::of(&arena.palace());
    let records = &before.records["mempalace_drawers"];
    let [one, two, three] = [&records[10], &records[11], &records[12]].map(|record| record.id.clone());
    let put = |operation: i64, id: &str, vector: &str, metadata: &str| {
        format!(
            "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)
             SELECT {operation}, 'persistent://default/default/' || id, '{id}', {vector},
                 iif({vector} IS NULL, NULL, 'FLOAT32'), {metadata} FROM collections WHERE name = 'mempalace_drawers';"
        )
    };
    let vector = "unhex(replace(printf('%016d', 0), '0000', '0000803f0000803f0000803f0000803f'))";
    sql(
        &arena.palace(),
        &[
            put(1, &one, "NULL", r#"'{"wing":null,"fresh":[1,2],"truth":true,"chroma:document":"changed"}'"#),
            put(2, "new", vector, r#"'{"chroma:document":"a new one","half":0.5}'"#),
            put(2, &two, vector, r#"'{"half":0.5}'"#),
            put(3, &three, "NULL", "NULL"),
            put(1, "nobody", "NULL", r#"'{"half":0.5}'"#),
            put(0, &two, vector, r#"'{"half":7.5}'"#),
        ]
        .concat(),
    );
    arena.run(&TO_EXACT).expect(0);
    let exact = Exact::of(&arena.palace());
    exact.assert_indexed("queued writes");
    let now = &exact.records["mempalace_drawers"];
    let record = |id: &str| now.iter().find(|record| record.id == id);
    let [first, second] = [&one, &two].map(|id| record(id).expect("it is there"));
    assert_eq!(first.document.as_deref(), Some("changed"));
    assert!(!first.metadata.contains_key("wing"), "{first:#?}");
    assert_eq!(first.metadata["fresh"], "list:int:[\"1\", \"2\"]");
    assert_eq!(first.metadata["truth"], "bool:true");
    assert_eq!(second.metadata["half"], format!("float:{:016x}", 0.5_f64.to_bits()));
    assert_eq!(second.document, records[11].document, "an upsert without a document leaves it");
    assert!(record(&three).is_none() && record("nobody").is_none());
    assert_eq!(now.last().map(|record| &*record.id), Some("new"), "a new record is the last one");
}

/// The last commits of a chroma palace are in the log only.
#[test]
fn log_of_the_old_store_is_left_out() {
    let arena = Arena::new("1.5.9");
    make_wal(
        &arena.palace(),
        "UPDATE embedding_metadata SET string_value = 'committed' WHERE key = 'wing' AND id < 9;",
    );
    let content = Content::of(&arena.palace());
    arena.run(&TO_EXACT).expect(0);
    Exact::of(&arena.palace()).assert_holds(&content.records, "a log");
    assert_eq!(Tree::of(&arena.palace()).store(&Default::default()).top(), Default::default());
}

/// MemPalace writes into a log; a process that was killed leaves it, and half of the drawers are only there.
#[test]
fn drawer_in_the_log_is_left_out() {
    for has_index in [true, false] {
        let arena = Arena::empty();
        make_exact(&arena, 20);
        add_in_log(&arena, 20..50);
        if !has_index {
            std::fs::remove_file(arena.palace().join(format!("{EXACT}-shm"))).expect("it was there");
        }
        let (before, exact) = (Tree::of(&arena.palace()), Exact::of(&arena.palace()));
        assert_eq!(exact.records["mempalace_drawers"].len(), 50);
        arena.run(&to_format("chroma-1.5")).expect(0);
        let content = Content::of(&arena.palace());
        assert_eq!(content.records["mempalace_drawers"].len(), 50);
        for (one, other) in exact.records["mempalace_drawers"].iter().zip(&content.records["mempalace_drawers"]) {
            assert_close(one, other, "from the log");
        }
        let left = Tree::of(&arena.palace()).top();
        assert!(left.iter().all(|name| !name.starts_with(EXACT)), "{left:?}");
        before.assert_equals(&Tree::of(&arena.keep().join("0001-migrate/aside")), "what was replaced");
        arena.run(&["check", "--deep"]).expect(0);
        // I10: and comes back as whoever opened it next would have seen it.
        arena.run(&["restore", "1", "--yes"]).expect(0);
        assert_eq!(Exact::of(&arena.palace()), exact);
        assert!(!arena.database().exists());
    }
}

#[test]
fn palace_with_two_stores_is_worked_on() {
    let arena = Arena::new("1.5.9");
    make_exact(&arena, 3);
    let before = Tree::of(&arena.palace());
    for verb in ["migrate --to exact --yes", "migrate --to chroma-1.0 --yes", "export", "check", "rebuild --yes"] {
        arena.run(&verb.split(' ').collect::<Vec<_>>()).expect(5).says(EXACT).says("chroma.sqlite3");
        before.assert_untouched(&Tree::of(&arena.palace()), verb);
    }
}

#[test]
fn verb_that_needs_an_index_works_on_a_palace_without_one() {
    let arena = Arena::empty();
    make_exact(&arena, 3);
    let before = Tree::of(&arena.palace());
    for verb in ["check", "check --deep", "rebuild --yes", "rebuild --plan", "repair --yes", "repair --plan"] {
        arena.run(&verb.split(' ').collect::<Vec<_>>()).expect(2).says("sqlite_exact");
        before.assert_untouched(&Tree::of(&arena.palace()), verb);
    }
    arena.run(&["migrate", "--to", "exact", "--yes"]).expect(0).says("already");
    before.assert_untouched(&Tree::of(&arena.palace()), "a migration to what it is");
    arena.run(&["status"]).expect(0);
    arena.run(&["log"]).expect(0);
}

/// A journal or log is found by its name, and would be taken for that of the new database.
#[test]
fn stray_log_is_taken_for_that_of_the_new_database() {
    for suffix in ["-wal", "-journal", "-shm"] {
        let arena = Arena::new("1.5.9");
        let stray = arena.palace().join(format!("{EXACT}{suffix}"));
        std::fs::write(&stray, vec![7; 8192]).expect("a file");
        let before = Tree::of(&arena.palace());
        arena.run(&TO_EXACT).expect(5).says(&format!("{EXACT}{suffix}"));
        before.assert_untouched(&Tree::of(&arena.palace()), suffix);
        let arena = Arena::empty();
        make_exact(&arena, 3);
        std::fs::write(arena.palace().join(format!("chroma.sqlite3{suffix}")), vec![7; 8192]).expect("a file");
        let before = Tree::of(&arena.palace());
        arena.run(&to_format("chroma-1.5")).expect(5).says(&format!("chroma.sqlite3{suffix}"));
        before.assert_untouched(&Tree::of(&arena.palace()), suffix);
    }
}

/// What somebody else wrote into a store of this kind, and a word that the list of losses must have about it.
const HOSTILE: [(&str, &str); 14] = [
    (
        "UPDATE documents SET metadata_json = json_set(metadata_json, '$.deep', json('{\"a\":1}')) WHERE rowid = 2",
        "deep",
    ),
    ("UPDATE documents SET metadata_json = json_set(metadata_json, '$.none', NULL) WHERE rowid = 2", "none"),
    ("UPDATE documents SET metadata_json = '{\"mixed\":[1,\"a\"]}' WHERE rowid = 2", "mixed"),
    ("UPDATE documents SET metadata_json = '{\"empty\":[]}' WHERE rowid = 2", "empty"),
    ("UPDATE documents SET metadata_json = '{\"huge\":99999999999999999999}' WHERE rowid = 2", "huge"),
    ("UPDATE documents SET metadata_json = '{\"chroma:document\":\"x\"}' WHERE rowid = 2", "chroma:document"),
    ("UPDATE documents SET metadata_json = '{\"\":1}' WHERE rowid = 2", "“”"),
    ("UPDATE documents SET metadata_json = '[1]' WHERE rowid = 2", "no JSON object"),
    ("UPDATE documents SET embedding = x'0000803f', dim = 1 WHERE rowid = 2", "vector"),
    ("UPDATE documents SET embedding = x'0000803f00', dim = 1 WHERE rowid = 2", "vector"),
    ("UPDATE documents SET embedding = x'', dim = 0 WHERE rowid = 2", "vector"),
    ("UPDATE documents SET collection_id = 77 WHERE rowid = 2", "documents"),
    ("UPDATE documents SET document = CAST(x'61ff62' AS TEXT) WHERE rowid = 2", "UTF-8"),
    ("CREATE TABLE mine (a); INSERT INTO mine VALUES (1)", "mine"),
];

/// I14: each is listed, nothing begins without consent, and the rest comes over.
#[test]
fn hostile_store_is_believed_or_ends_in_a_panic() {
    for (statement, word) in HOSTILE {
        let arena = Arena::empty();
        make_exact(&arena, 9);
        exact_sql(&arena.palace(), statement);
        let before = Tree::of(&arena.palace());
        let run = arena.run(&["migrate", "--to", "chroma-1.5", "--yes"]);
        assert_eq!(run.code, Some(5), "{statement}: {run:#?}");
        assert!(run.stdout.contains(word) || run.stderr.contains(word), "{statement}: {run:#?}");
        before.assert_untouched(&Tree::of(&arena.palace()), statement);
        arena.run(&to_format("chroma-1.5")).expect(0);
        assert_sound(&arena.palace(), statement);
        let content = Content::of(&arena.palace());
        let is_gone = statement.contains("collection_id = 77");
        assert_eq!(content.records["mempalace_drawers"].len(), 9 - usize::from(is_gone), "{statement}");
    }
}

/// Nothing of this can be carried over at all: it is said, and nothing is touched.
#[test]
fn store_that_makes_no_sense_ends_in_a_panic() {
    for statement in [
        "UPDATE documents SET collection_id = 'x' WHERE rowid = 2",
        "UPDATE documents SET id = CAST(x'ff' AS TEXT) WHERE rowid = 2",
        "UPDATE documents SET id = '' WHERE rowid = 2",
        "UPDATE documents SET id = CAST('drawer-2' AS BLOB) WHERE rowid = 2",
        "UPDATE documents SET embedding = 'text' WHERE rowid = 2",
        "UPDATE documents SET embedding = x'0000c07f0000807f000080ff00000000' WHERE rowid = 2",
        "UPDATE documents SET embedding = zeroblob(16)",
        "UPDATE collections SET dimension = -1",
        "UPDATE collections SET dimension = 9223372036854775807",
        "UPDATE collections SET dimension = 'many'",
        "UPDATE collections SET dimension = NULL",
        "UPDATE collections SET name = ''",
        "UPDATE collections SET name = CAST(x'ff' AS TEXT)",
        "DELETE FROM collections",
        "DELETE FROM documents",
        "DROP TABLE collections",
        "DROP TABLE meta",
        "DROP TABLE docs_fts",
        "INSERT INTO meta VALUES ('palacekeeper:collection:mempalace_drawers', 'no JSON')",
        "INSERT INTO meta VALUES ('palacekeeper:collection:mempalace_drawers', '[]')",
        "INSERT INTO meta VALUES ('palacekeeper:collection:mempalace_drawers', '{\"index\":7,\"metadata\":\"x\"}')",
        "INSERT INTO meta VALUES ('palacekeeper:collection:mempalace_drawers',
             '{\"index\":{\"space\":\"odd\",\"hnsw\":{\"max_neighbors\":-1,\"ef_search\":1e99,\"num_threads\":\"x\"}},
               \"metadata\":{\"\":1,\"a\":null,\"hnsw:M\":99999999999}}')",
        "INSERT INTO meta VALUES ('palacekeeper:collection:mempalace_drawers',
             '{\"index\":{\"hnsw\":{\"max_neighbors\":100000,\"ef_construction\":1}},\"metadata\":{\"a\":[1]}}')",
    ] {
        let arena = Arena::empty();
        make_exact(&arena, 9);
        exact_sql(&arena.palace(), statement);
        let before = Tree::of(&arena.palace());
        let run = arena.run(&to_format("chroma-1.5"));
        let said = format!("{statement}: exit {:?} {}{}", run.code, run.stdout, run.stderr);
        assert!(matches!(run.code, Some(0..=5)) && !said.contains("panicked"), "{said}");
        match run.code {
            Some(0) => assert_sound(&arena.palace(), statement),
            _ => before.assert_untouched(&Tree::of(&arena.palace()), statement),
        }
        let run = arena.run(&["export", "--accept-loss"]);
        assert!(run.signal.is_none() && !run.stderr.contains("panicked"), "{statement}: {run:#?}");
        if std::env::var_os("VERBOSE").is_some() {
            crate::support::palace::say(&said);
        }
    }
}

/// The database of such a palace is damaged: it is said, never believed.
#[test]
fn damaged_exact_store_is_migrated_in_part() {
    for at in [0_u64, 30, 4096, 8192, 20_000] {
        let arena = Arena::empty();
        make_exact(&arena, 400);
        let database = arena.palace().join(EXACT);
        crate::support::palace::overwrite(&database, at, &[0xff; 600]);
        let before = Tree::of(&arena.palace());
        for verb in [&to_format("chroma-1.5")[..], &["export", "--accept-loss"]] {
            let run = arena.run(verb);
            assert!(matches!(run.code, Some(0 | 3 | 5)) && !run.stderr.contains("panicked"), "{at}: {run:#?}");
            if run.code == Some(0) {
                assert!(run.stderr.contains("400 records") || verb[0] == "migrate", "{at}: {run:#?}");
            } else {
                before.assert_untouched(&Tree::of(&arena.palace()), "refused");
            }
        }
        if arena.database().exists() {
            assert_eq!(Content::of(&arena.palace()).records["mempalace_drawers"].len(), 400, "{at}");
        }
    }
}

/// A change of kind is taken back like any other operation, byte for byte (I10), and both stores can be swept.
#[test]
fn restore_brings_back_another_store_or_leaves_both() {
    let arena = Arena::new("1.5.9");
    let first = Tree::of(&arena.palace());
    arena.run(&TO_EXACT).expect(0);
    let second = Tree::of(&arena.palace());
    arena.run(&to_format("chroma-1.5")).expect(0);
    let third = Tree::of(&arena.palace());
    for (number, present, wanted) in [(2, &third, &second), (1, &second, &first)] {
        arena.run(&["restore", &number.to_string(), "--yes"]).expect(0);
        wanted.assert_equals(&Tree::of(&arena.palace()), "what comes back");
        let folder = arena.keep().join(format!("000{}-restore", 5 - number));
        let aside = Tree::of(&folder.join("aside"));
        let gone: Vec<_> = present.0.keys().filter(|path| !wanted.0.contains_key(*path)).collect();
        assert!(!gone.is_empty() && gone.iter().all(|path| aside.0.contains_key(*path)), "{gone:?}");
    }
    let before = Tree::of(&arena.palace());
    arena.run(&["sweep", "1", "2", "3", "4", "--yes", "--accept-loss"]).expect(0);
    before.assert_untouched(&Tree::of(&arena.palace()), "a sweep");
    assert_eq!(Tree::of(&arena.keep()).top(), ["last", "lock"].map(str::to_owned).into());
    arena.run(&TO_EXACT).expect(0);
    arena.run(&["sweep", "5", "--yes", "--accept-loss"]).expect(0);
    Exact::of(&arena.palace()).assert_indexed("after a sweep");
}

/// The settings of a collection have no place in the store, and are kept for the way back.
#[test]
fn way_back_forgets_how_a_collection_was_set_up() {
    let arena = Arena::new("1.5.9");
    sql(
        &arena.palace(),
        "INSERT INTO collection_metadata (collection_id, key, str_value) SELECT id, 'note', 'é\"' FROM collections",
    );
    let before = Content::of(&arena.palace());
    arena.run(&TO_EXACT).expect(0);
    arena.run(&to_format("chroma-1.5")).expect(0);
    let after = Content::of(&arena.palace());
    let texts = |content: &Content| {
        content.tables["collection_metadata"].iter().map(|line| line.text.clone()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&before), texts(&after));
    assert!(segment_of(&arena.palace(), "notes-l2").join("header.bin").exists(), "an index of another distance");
}
