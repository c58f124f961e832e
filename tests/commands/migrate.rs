//! Migrates palaces between all supported versions of chromadb, and compares everything that both have a place for.

use crate::support::palace::{
    Arena, Class, Content, Crossing, Record, Sweep, TARGETS, VERSIONS, assert_refused, assert_sound, class, format_of,
    is_there, migrate, open_copy, segment_of, sql, truncate, without_arrays,
};
use std::collections::BTreeMap;

/// I10, I13, I14: all is carried over but arrays, which only 1.5 has a place for, and somebody is asked about these.
#[test]
fn migration_loses_or_changes_a_record_a_vector_a_waiting_write_or_a_sidecar() {
    let pairs = VERSIONS.iter().flat_map(|version| TARGETS.map(|(target, _)| (*version, target)));
    Sweep::new("migrate", "migration_loses").share(pairs, |(version, target)| {
        let (what, arena) = (format!("{version} to {target}"), Arena::new(version));
        let arguments = ["migrate", "--to", target, "--yes"];
        if is_there(version, target) {
            assert_refused(&arena, &arguments, 0).says("already");
            return;
        }
        let before = Crossing::of(&arena);
        if version == "1.5.9" {
            let refused = assert_refused(&arena, &[&arguments[..], &["--json"]].concat(), 5);
            assert_eq!(arrays(&before.content), listed(&refused.json()), "{what}: the arrays that are listed");
            migrate(&arena, target);
        } else {
            arena.run(&arguments).expect(0).says("is completed");
        }
        before.assert_arrived(&arena, target, &what);
        assert_sound(&arena.palace(), &what);
    });
}

/// Every array of a palace, in the words in which a loss names it.
fn arrays(content: &Content) -> Vec<String> {
    let records = content.records.values().flatten();
    let mut arrays: Vec<_> = records
        .flat_map(|record| {
            let keys = record.metadata.iter().filter(|(_, value)| value.starts_with("list:")).map(|(key, _)| key);
            keys.map(|key| format!("the array {key} of {}: the new format has no place for it", record.id))
        })
        .collect();
    arrays.sort();
    assert!(!arrays.is_empty(), "the fixture has no arrays");
    arrays
}

/// Losses of a proposal, in their order.
fn listed(proposal: &serde_json::Value) -> Vec<String> {
    let losses = proposal["losses"].as_array().expect("losses").iter();
    let mut losses: Vec<_> = losses.map(|loss| loss.as_str().expect("a loss").to_owned()).collect();
    losses.sort();
    losses
}

/// I15: a plan is a thought.
#[test]
fn plan_of_a_migration_writes_something() {
    for (version, target, format, code) in [
        ("0.6.3", "chroma-1.5", "1.5.9", 0),
        ("1.5.9", "chroma-0.4", "0.4.24", 3),
        ("0.4.24", "chroma-1.0", "1.0.20", 0),
    ] {
        let arena = Arena::new(version);
        assert_refused(&arena, &["migrate", "--to", target, "--plan"], code).says("to become one of");
        let plan = assert_refused(&arena, &["migrate", "--to", target, "--plan", "--json"], code).json();
        assert_eq!(plan["target"], format, "{version}: {plan:#}");
        assert_eq!(plan["losses"].as_array().map(Vec::is_empty), Some(code == 0), "{version}: {plan:#}");
        assert_refused(&arena, &["migrate", "--to", target], 2); // nobody is here to say yes
    }
    let arena = Arena::new("0.6.3");
    let done = arena.run(&["migrate", "--to", "chroma-1.5", "--yes", "--json"]).expect(0).json();
    assert_eq!((&done["title"], &done["operation"]), (&"migrate".into(), &1.into()), "{done:#}");
    let again = assert_refused(&arena, &["migrate", "--to", "chroma-1.5", "--yes", "--json"], 0).json();
    assert!(again["operation"].is_null() && again["why"].is_string(), "{again:#}");
}

#[test]
fn round_trip_through_other_versions_changes_what_a_client_sees() {
    let arena = Arena::new("1.0.20");
    let (before, settings) = (Crossing::of(&arena), settings_of(&arena, "mempalace_drawers"));
    for target in ["chroma-0.4", "chroma-1.5", "chroma-1.0"] {
        arena.run(&["migrate", "--to", target, "--yes"]).expect(0);
        let found = before.content.record_differences_by(&Content::of(&arena.palace()), Record::is_kept_in);
        assert_eq!(found, Vec::<String>::new(), "{target}");
        assert_sound(&arena.palace(), target);
    }
    assert_eq!(settings_of(&arena, "mempalace_drawers"), settings);
    let (was, is) = (&before.content.tables, &Content::of(&arena.palace()).tables);
    for table in ["collection_metadata", "embeddings", "embedding_metadata", "embeddings_queue", "schema", "migrations"]
    {
        assert_eq!(was[table], is[table], "{table}");
    }
}

/// A writer was killed between the acknowledgement and the index: what waits in the queue goes over with the rest, and
/// loses its arrays like the rest.
#[test]
fn waiting_write_is_lost_in_a_migration() {
    for (target, _) in TARGETS.into_iter().take(4) {
        let arena = Arena::unpack("chroma-1.5.9-killed");
        let put = |key: &str, which: &str| {
            let set = format!("json_set(metadata, '$.\"{key}\"', json('[1, 2]'))");
            let row = format!("(SELECT {which}(seq_id) FROM embeddings_queue WHERE operation = 0)");
            sql(&arena.palace(), &format!("UPDATE embeddings_queue SET metadata = {set} WHERE seq_id = {row};"));
        };
        put("late tags", "max");
        put("long applied", "min");
        let id: String =
            one(&arena, "SELECT id FROM embeddings_queue WHERE operation = 0 ORDER BY seq_id DESC LIMIT 1");
        let before = Crossing::of(&arena);
        let run = assert_refused(&arena, &["migrate", "--to", target, "--yes", "--json"], 5);
        let losses = listed(&run.json());
        let is_named = |loss: &&String| loss.contains("late tags") && loss.contains(&id);
        assert_eq!(losses.iter().filter(is_named).count(), 1, "{target}: {losses:#?}");
        let waiting = losses.iter().filter(|loss| loss.contains("waiting write")).count();
        assert_eq!(waiting, 1, "{target}: what was applied is no loss of its own: {losses:#?}");
        assert_eq!(losses.len() - waiting, arrays(&before.content).len(), "{target}: {losses:#?}");
        migrate(&arena, target);
        before.assert_arrived(&arena, target, target);
        let left: i64 = one(
            &arena,
            "SELECT count(*) FROM embeddings_queue q, json_each(q.metadata) j WHERE j.type IN ('array', 'object')",
        );
        assert_eq!(left, 0, "{target}: arrays that wait in the queue");
    }
}

/// Only 0.4 has no place for a collection's metadata that is true or false.
#[test]
fn true_or_false_of_a_collection_is_dropped_in_silence() {
    for version in ["0.6.3", "1.5.9"] {
        let arena = Arena::new(version);
        sql(
            &arena.palace(),
            "INSERT INTO collection_metadata (collection_id, key, bool_value)
             SELECT id, 'pinned', 1 FROM collections WHERE name = 'notes-l2';",
        );
        let before = Content::of(&arena.palace());
        let run = assert_refused(&arena, &["migrate", "--to", "chroma-0.4", "--yes", "--json"], 5);
        let losses = listed(&run.json());
        let named: Vec<_> = losses.iter().filter(|loss| loss.contains("pinned") && loss.contains("notes-l2")).collect();
        assert_eq!(named.len(), 1, "{version}: {losses:#?}");
        migrate(&arena, "chroma-0.4");
        let now = Content::of(&arena.palace());
        let lines = now.tables["collection_metadata"].len();
        assert_eq!(lines, before.tables["collection_metadata"].len() - 1, "{version}: the other settings");
        assert_sound(&arena.palace(), version);
    }
    let arena = Arena::new("0.6.3");
    let put = "INSERT INTO collection_metadata (collection_id, key, bool_value)
               SELECT id, 'pinned', 1 FROM collections WHERE name = 'notes-l2';";
    sql(&arena.palace(), put);
    arena.run(&["migrate", "--to", "chroma-1.5", "--yes"]).expect(0);
    let kept: i64 = one(&arena, "SELECT count(*) FROM collection_metadata WHERE key = 'pinned' AND bool_value = 1");
    assert_eq!(kept, 1);
}

#[test]
fn damaged_index_is_carried_over_as_it_is() {
    for (version, target) in
        [("1.5.9", "chroma-1.0"), ("1.5.9", "chroma-0.6"), ("0.6.3", "chroma-1.5"), ("0.4.24", "chroma-0.6")]
    {
        let arena = Arena::new(version);
        truncate(&segment_of(&arena.palace(), "mempalace_drawers").join("link_lists.bin"), 1, 2);
        let before = Crossing::of(&arena);
        migrate(&arena, target);
        before.assert_arrived(&arena, target, &format!("{version} to {target}"));
        assert_sound(&arena.palace(), target);
        assert_eq!(grave(&arena), Vec::<String>::new(), "{version} to {target}");
    }
}

/// The states in which chromadb acknowledges writes and drops them do not survive a migration (rules R2 and R3).
#[test]
fn migrated_palace_drops_the_next_write() {
    for (name, targets) in [
        ("the next writes vanish: the queue is empty behind a full index", &TARGETS[..4]),
        ("both numbers of a collection are poisoned", &TARGETS[..4]),
        ("the number of the metadata is poisoned", &TARGETS[1..2]),
        ("all numbers of 0.6.3 are integers where blobs belong", &[TARGETS[0], TARGETS[4]]),
        ("a number of 1.0.20 is a blob where an integer belongs", &[TARGETS[0], TARGETS[4]]),
        ("a number is a word", &TARGETS[3..4]),
    ] {
        let class: &Class = class(name);
        for (target, _) in targets {
            let mut case = class.inflict();
            case.wanted = without_arrays(&case.wanted);
            migrate(&case.arena, target);
            assert_eq!(case.differences(), Vec::new(), "{name}: {target}");
            assert_sound(&case.arena.palace(), &format!("{name}: {target}"));
            assert_eq!(grave(&case.arena), Vec::<String>::new(), "{name}: {target}");
        }
    }
}

/// What a deep check finds that is worse than a note.
fn grave(arena: &Arena) -> Vec<String> {
    let found = crate::support::palace::check(arena, crate::support::palace::Depth::Deep);
    found.into_iter().filter(|one| one.severity != "note").map(|one| format!("{}: {}", one.code, one.all)).collect()
}

/// A palace is what all of its migrations and tables say, not what one column does.
#[test]
fn added_column_makes_another_version_of_a_palace() {
    for (version, target, column, value) in [
        ("0.6.3", "chroma-1.5", "schema_str", "NULL"),
        ("0.6.3", "chroma-1.5", "schema_str", "'{}'"),
        ("0.6.3", "chroma-1.0", "schema_str", "'{\"keys\": {}}'"),
        ("0.4.24", "chroma-1.5", "config_json_str", "NULL"),
        ("0.4.24", "chroma-0.6", "schema_str", "'x'"),
        ("1.0.20", "chroma-1.5", "topic", "'x'"),
        ("0.6.3", "chroma-0.4", "topic", "'x'"),
        ("1.0.20", "chroma-1.5", "schema_str", "NULL"),
    ] {
        let what = format!("{version} with {column} = {value} to {target}");
        let arena = Arena::new(version);
        let before = Crossing::of(&arena);
        let format = format_of(&arena);
        let add =
            format!("ALTER TABLE collections ADD COLUMN {column} TEXT; UPDATE collections SET {column} = {value};");
        sql(&arena.palace(), &add);
        assert_eq!(format_of(&arena), format, "{what}");
        migrate(&arena, target);
        let found = before.content.record_differences_by(&Content::of(&arena.palace()), Record::is_kept_in);
        assert_eq!(found, Vec::<String>::new(), "{what}");
        let space = |name: &str| settings_of(&arena, name).remove("space");
        assert_eq!(space("mempalace_drawers").as_deref(), Some("cosine"), "{what}");
        assert_eq!(space("notes-l2").as_deref(), Some("l2"), "{what}");
        assert_eq!(grave(&arena), Vec::<String>::new(), "{what}");
    }
}

/// M, ef_construction, ef_search and the rest, each unlike the default of any version.
const UNUSUAL: [(&str, &str, &str); 8] = [
    ("space", "hnsw:space", "ip"),
    ("max_neighbors", "hnsw:M", "24"),
    ("ef_construction", "hnsw:construction_ef", "150"),
    ("ef_search", "hnsw:search_ef", "77"),
    ("num_threads", "hnsw:num_threads", "3"),
    ("batch_size", "hnsw:batch_size", "50"),
    ("sync_threshold", "hnsw:sync_threshold", "500"),
    ("resize_factor", "hnsw:resize_factor", "1.5"),
];

/// Settings for which 1.0 has no place.
const NOT_IN_1_0: [&str; 2] = ["num_threads", "batch_size"];

#[test]
fn index_is_set_up_otherwise_after_a_migration() {
    for version in VERSIONS {
        for (target, _) in TARGETS.into_iter().filter(|(target, _)| !is_there(version, target)) {
            let what = format!("{version} to {target}");
            let arena = Arena::new(version);
            set_up(&arena, version, "empty");
            let mut wanted: BTreeMap<String, String> =
                UNUSUAL.iter().map(|(name, _, value)| (name.to_string(), value.to_string())).collect();
            if version == "1.0.20" || target == "chroma-1.0" {
                wanted.retain(|name, _| !NOT_IN_1_0.contains(&name.as_str()));
            }
            migrate(&arena, target);
            let mut found = settings_of(&arena, "empty");
            if version == "1.0.20" {
                found.retain(|name, _| !NOT_IN_1_0.contains(&name.as_str()));
            }
            assert_eq!(found, wanted, "{what}");
            for (name, space) in [("mempalace_drawers", "cosine"), ("notes-l2", "l2")] {
                assert_eq!(settings_of(&arena, name)["space"], space, "{what}: {name}");
            }
        }
    }
}

const SCHEMA: &str = "$.keys.\"#embedding\".float_list.vector_index.config";

/// Gives a collection unusual settings, where its version keeps them.
fn set_up(arena: &Arena, version: &str, name: &str) {
    let segment = format!(
        "(SELECT s.id FROM segments s JOIN collections c ON s.collection = c.id
          WHERE c.name = '{name}' AND s.scope = 'VECTOR')"
    );
    let meant = format!(
        "UPDATE collection_metadata SET str_value = 'ip'
         WHERE key = 'hnsw:space' AND collection_id = (SELECT id FROM collections WHERE name = '{name}');"
    );
    let quoted = |value: &str| if value == "ip" { "'ip'".to_owned() } else { value.to_owned() };
    let statements = UNUSUAL.map(|(new, old, value)| match version {
        "1.0.20" if NOT_IN_1_0.contains(&new) => String::new(),
        "1.0.20" => format!(
            "UPDATE collections SET config_json_str = json_set(config_json_str, '$.vector_index.hnsw.{new}', {})
             WHERE name = '{name}';",
            quoted(value)
        ),
        "1.5.9" => {
            let at = if new == "space" { format!("{SCHEMA}.space") } else { format!("{SCHEMA}.hnsw.{new}") };
            let set = format!("json_set(schema_str, '{at}', {})", quoted(value));
            format!("UPDATE collections SET schema_str = {set} WHERE name = '{name}';")
        }
        _ => {
            let column = match value {
                "ip" => "str_value",
                value if value.contains('.') => "float_value",
                _ => "int_value",
            };
            format!(
                "INSERT OR REPLACE INTO segment_metadata (segment_id, key, {column})
                 VALUES ({segment}, '{old}', {});",
                quoted(value)
            )
        }
    });
    sql(&arena.palace(), &[meant, statements.concat()].concat());
}

/// The settings of a collection, by the names of 1.x, from where the palace's version keeps them.
fn settings_of(arena: &Arena, name: &str) -> BTreeMap<String, String> {
    let (_scratch, connection) = open_copy(&arena.palace());
    let place = match format_of(arena).as_str() {
        "1.5.9" => format!(
            "SELECT key, value FROM collections, json_each(schema_str, '{SCHEMA}.hnsw') WHERE name = ?1
             UNION SELECT 'space', json_extract(schema_str, '{SCHEMA}.space') FROM collections WHERE name = ?1"
        ),
        "1.0.20" => "SELECT key, value FROM collections, json_each(config_json_str, '$.vector_index.hnsw')
             WHERE name = ?1"
            .into(),
        _ => "SELECT m.key, coalesce(m.str_value, m.int_value, m.float_value) FROM segment_metadata m
              JOIN segments s ON s.id = m.segment_id JOIN collections c ON c.id = s.collection WHERE c.name = ?1"
            .into(),
    };
    let mut query = connection.prepare(&place).expect("settings");
    let rows = query.query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, rusqlite::types::Value>(1)?)));
    let named = |row: rusqlite::Result<(String, rusqlite::types::Value)>| {
        let (key, value) = row.expect("a setting");
        let key = UNUSUAL.iter().find(|(_, old, _)| *old == key).map_or(key, |(new, _, _)| new.to_string());
        let value = match value {
            rusqlite::types::Value::Text(text) => text,
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Real(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        (key, value)
    };
    rows.expect("settings").map(named).collect()
}

fn one<T: rusqlite::types::FromSql>(arena: &Arena, query: &str) -> T {
    let (_scratch, connection) = open_copy(&arena.palace());
    connection.query_row(query, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{query}: {error}"))
}
