//! Lets the real chromadb and the real mempalace judge what a rebuild made.

use crate::support::palace::{
    Arena, Judge, Point, REBUILD, RESUME, Strace, VERSIONS, fixtures, kill, segment_of, sql, truncate,
};

#[test]
fn chromadb_sees_another_palace_after_a_rebuild() {
    let Some(judge) = Judge::here("chromadb's view of a rebuilt palace") else { return };
    for fixture in VERSIONS.map(|version| format!("chroma-{version}")).into_iter().chain(["chroma-1.5.9-killed".into()])
    {
        let arena = Arena::unpack(&fixture);
        let before = judge.dump(&arena, "before");
        arena.run(&REBUILD).expect(0);
        let after = judge.dump(&arena, "after");
        judge.compare(&arena, &before, &after, &[]);
        judge.compare(&arena, &fixtures().join(format!("{fixture}.expected.json.gz")), &after, allowances(&fixture));
    }
}

/// A judge that is content with anything would prove nothing.
#[test]
fn judge_is_content_with_a_palace_that_was_changed() {
    let Some(judge) = Judge::here("whether the judge sees a change") else { return };
    let changes = [
        "UPDATE embedding_metadata SET float_value = float_value + 0.0000001 WHERE id = 3 AND key = 'third';",
        "UPDATE embedding_metadata SET string_value = string_value || ' ' WHERE id = 5 AND key = 'chroma:document';",
        "DELETE FROM embedding_metadata WHERE id = 7 AND key = 'empty';",
    ];
    let arena = Arena::new("1.5.9");
    let before = judge.dump(&arena, "before");
    for change in changes {
        let changed = arena.fork();
        sql(&changed.palace(), change);
        let after = judge.dump(&changed, "after");
        let run = judge.run(&arena, &["compare"], &[&before, &after]);
        assert_eq!(run.code, Some(1), "{change}: {run:#?}");
    }
}

/// What a client of 0.x returned may differ from what 1.5.9 returns for the very same files.
fn allowances(fixture: &str) -> &'static [&'static str] {
    match fixture {
        "chroma-0.4.24" => &["--ulps", "1", "--any-order"],
        "chroma-0.5.23" | "chroma-0.6.3" => &["--ulps", "1"],
        _ => &[],
    }
}

#[test]
fn rebuilt_palace_loses_what_chromadb_writes_to_it() {
    let Some(judge) = Judge::here("chromadb's writes to a rebuilt palace") else { return };
    for version in VERSIONS {
        let arena = Arena::new(version);
        arena.run(&REBUILD).expect(0);
        judge.ask(&arena, &["exercise"], &[&arena.palace()]);
    }
}

#[test]
fn mempalace_quarantines_a_rebuilt_palace() {
    let Some(judge) = Judge::here("mempalace's view of a rebuilt palace") else { return };
    for version in VERSIONS {
        let arena = Arena::new(version);
        arena.run(&REBUILD).expect(0);
        judge.ask(&arena, &["mempalace"], &[&arena.palace()]);
    }
}

/// The index was damaged, its vectors went through the queue, and chromadb built the graph anew.
#[test]
fn palace_with_a_new_index_answers_otherwise() {
    let Some(judge) = Judge::here("a palace whose index chromadb builds anew") else { return };
    for fixture in ["chroma-0.6.3", "chroma-1.5.9-killed"] {
        let arena = Arena::unpack(fixture);
        let before = judge.dump(&arena, "before");
        for collection in ["mempalace_drawers", "notes-l2"] {
            truncate(&segment_of(&arena.palace(), collection).join("link_lists.bin"), 1, 2);
        }
        arena.run(&REBUILD).expect(0);
        let after = judge.dump(&arena, "after");
        judge.compare(&arena, &before, &after, &[]);
        judge.ask(&arena, &["exercise"], &[&arena.palace()]);
        judge.ask(&arena, &["mempalace"], &[&arena.palace()]);
    }
}

/// A kill half-way, and then on to the end.
#[test]
fn resumed_palace_is_another() {
    let Some(judge) = Judge::here("chromadb's view of a resumed palace") else { return };
    if !Strace::is_here("a palace resumed after a kill") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let before = judge.dump(&arena, "before");
    kill(&arena, &REBUILD, &"pwrite64:100".parse::<Point>().expect("a point"));
    arena.run(&RESUME).expect(0).says("completed");
    judge.compare(&arena, &before, &judge.dump(&arena, "after"), &[]);
}
