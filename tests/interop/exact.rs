//! Lets the real mempalace judge the `sqlite_exact` stores that a migration makes, and chromadb those that come back.

use crate::support::palace::{Arena, Judge, VERSIONS, assert_sound, sql};

const TO_EXACT: [&str; 5] = ["migrate", "--to", "exact", "--yes", "--accept-loss"];
const TO_CHROMA: [&str; 5] = ["migrate", "--to", "chroma-1.5", "--yes", "--accept-loss"];

/// I10, as MemPalace and chromadb see it.
#[test]
fn mempalace_sees_another_palace_in_an_exact_store() {
    let Some(judge) = Judge::here("mempalace's view of an exact store") else { return };
    for fixture in VERSIONS.map(|version| format!("chroma-{version}")).into_iter().chain(["chroma-1.5.9-killed".into()])
    {
        let arena = Arena::unpack(&fixture);
        let before = judge.dump(&arena, "before");
        arena.run(&TO_EXACT).expect(0);
        let seen = judge.ask(&arena, &["exact"], &[&arena.palace(), &before]).json();
        assert!(seen["records"].as_u64().is_some_and(|records| records > 0), "{fixture}: {seen}");
        arena.run(&TO_CHROMA).expect(0);
        assert_sound(&arena.palace(), &fixture);
        let after = judge.dump(&arena, "after");
        judge.compare(&arena, &before, &after, &["--ulps", "2", "--any-document"]);
        judge.ask(&arena, &["exercise"], &[&arena.palace()]);
        judge.ask(&arena, &["mempalace"], &[&arena.palace()]);
    }
}

/// Writes that wait are applied as the real client applies them.
#[test]
fn chromadb_applies_waiting_writes_otherwise() {
    let Some(judge) = Judge::here("waiting writes on their way to an exact store") else { return };
    let arena = Arena::unpack("chroma-1.5.9-killed");
    let put = |operation: i64, id: &str, metadata: &str| {
        format!(
            "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)
             SELECT {operation}, 'persistent://default/default/' || id, {id}, NULL, NULL, {metadata}
             FROM collections WHERE name = 'mempalace_drawers';"
        )
    };
    let id = |place: usize| {
        format!(
            "(SELECT embedding_id FROM embeddings e JOIN segments s ON s.id = e.segment_id
              JOIN collections c ON c.id = s.collection WHERE c.name = 'mempalace_drawers'
              ORDER BY e.id LIMIT 1 OFFSET {place})"
        )
    };
    let writes = [
        put(1, &id(3), r#"'{"wing":null,"fresh":[1,2],"truth":true,"chroma:document":"changed"}'"#),
        put(1, &id(4), r#"'{"fresh":["a","b"],"half":0.5,"big":9007199254740993}'"#),
        put(1, &id(4), r#"'{"fresh":null,"third":0.1}'"#),
        put(3, &id(6), "NULL"),
        put(1, "'nobody'", r#"'{"half":0.5}'"#),
        put(0, &id(7), r#"'{"half":7.5}'"#),
        put(1, &id(8), "NULL"),
    ];
    sql(&arena.palace(), &writes.concat());
    let before = judge.dump(&arena, "before");
    arena.run(&TO_EXACT).expect(0);
    judge.ask(&arena, &["exact"], &[&arena.palace(), &before]);
}

/// A palace that mempalace made as an exact one, written to and closed, becomes one of chromadb's.
#[test]
fn store_of_mempalaces_own_is_misread() {
    let Some(judge) = Judge::here("an exact store that mempalace made") else { return };
    let arena = Arena::empty();
    let made = judge.ask(&arena, &["make-exact"], &[&arena.palace()]);
    let before = arena.root().join("before.json");
    std::fs::write(&before, made.stdout).expect("a file");
    arena.run(&TO_CHROMA).expect(0);
    let after = judge.dump(&arena, "after");
    judge.compare(&arena, &before, &after, &["--ulps", "2", "--any-document"]);
    judge.ask(&arena, &["exercise"], &[&arena.palace()]);
    judge.ask(&arena, &["mempalace"], &[&arena.palace()]);
    arena.run(&TO_EXACT).expect(0);
    judge.ask(&arena, &["exact"], &[&arena.palace(), &after]);
}
