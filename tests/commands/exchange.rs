//! Palaces as text: out of every store, through pipes and damage, and in again.

use crate::support::palace::{
    Arena, Content, Exact, IMPORT, Record, Run, Tree, VERSIONS, add_in_log, assert_nothing, assert_sound, body, export,
    import, make_exact, refuses, spawn, sql, with_lines,
};
use std::fs;
use std::io::Read;
use std::process::Stdio;

/// Records that are equal but for where a vector is kept.
#[track_caller]
fn assert_same_records(before: &Content, after: &Content, what: &str) {
    let differences = before.record_differences_by(after, Record::is_kept_in);
    assert!(differences.is_empty(), "{what}: {}", differences.join("; "));
}

/// I10, I15: the export changes nothing, and what is made of it is the same.
#[test]
fn record_is_lost_or_changed_between_export_and_import() {
    for version in VERSIONS {
        let arena = Arena::new(version);
        let before = Tree::of(arena.root());
        let text = export(&arena);
        before.assert_but_for(&Tree::of(arena.root()), &["tmp"]);
        let (new, run) = import(&text);
        run.expect(0);
        assert_sound(&new.palace(), version);
        new.run(&["check", "--deep"]).expect(0);
        assert_same_records(&Content::of(&arena.palace()), &Content::of(&new.palace()), version);
        assert_eq!(body(&text), body(&export(&new)), "{version}: an export of the import");
        let folder = Tree::of(&new.keep().join("0001-import"));
        assert!(folder.top().iter().all(|name| !name.starts_with("in")), "{version}: {:?}", folder.top());
        let entries = Tree::of(&new.palace()).top();
        assert!(entries.iter().all(|name| name == "chroma.sqlite3" || name.len() == 36), "{version}: {entries:?}");
    }
}

/// Into every format there is.
#[test]
fn import_into_an_old_format_is_another_palace() {
    let arena = Arena::new("1.5.9");
    let text = export(&arena);
    for format in ["chroma-0.4", "chroma-0.5", "chroma-1.0"] {
        let (new, path) = with_lines(&text);
        let arguments = ["import", "--yes", "--accept-loss", "--to", format, path.to_str().expect("a path")];
        new.run(&arguments).expect(0);
        assert_sound(&new.palace(), format);
        let (before, after) = (Content::of(&arena.palace()), Content::of(&new.palace()));
        for (name, records) in &before.records {
            assert_eq!(records.len(), after.records[name].len(), "{format}: {name}");
            let pairs = records.iter().zip(&after.records[name]);
            let differs = pairs.filter(|(one, other)| one.id != other.id || one.document != other.document).count();
            assert_eq!(differs, 0, "{format}: {name}");
        }
    }
}

/// Writes that wait are in it, and so is what a killed writer of the other kind left in its log.
#[test]
fn write_that_waits_or_lies_in_a_log_is_left_out() {
    let arena = Arena::unpack("chroma-1.5.9-killed");
    let (new, run) = import(export(&arena));
    run.expect(0);
    crate::support::palace::records_as_expected(&Content::of(&new.palace()).records, "1.5.9-killed");
    let arena = Arena::empty();
    make_exact(&arena, 10);
    add_in_log(&arena, 10..30);
    let before = Tree::of(&arena.palace());
    let text = export(&arena);
    before.assert_untouched(&Tree::of(&arena.palace()), "an export");
    let (new, run) = import(&text);
    run.expect(0);
    assert_eq!(body(&text), body(&export(&new)));
    new.run(&["migrate", "--to", "exact", "--yes"]).expect(0);
    let (one, other) = (Exact::of(&arena.palace()), Exact::of(&new.palace()));
    assert_eq!(one.texts, other.texts);
    assert_eq!(other.records["mempalace_drawers"].len(), 30);
}

/// I14: what text cannot hold is listed, and nothing is written out without consent.
#[test]
fn value_that_no_text_can_hold_goes_in_silence() {
    let arena = Arena::new("1.5.9");
    sql(
        &arena.palace(),
        "INSERT INTO embedding_metadata (id, key, float_value) VALUES (3, 'endless', 9e999);
         INSERT INTO embedding_metadata (id, key, string_value) VALUES (6, 'torn', CAST(x'61ff62' AS TEXT));",
    );
    let run = arena.run(&["export"]).expect(5).says("endless").says("UTF-8");
    assert_eq!(run.stdout, "");
    let run = arena.run(&["export", "--accept-loss"]).expect(0).says("endless");
    let (new, run) = import(&run.stdout);
    run.expect(0);
    let content = Content::of(&new.palace());
    let record = content.records["mempalace_drawers"].iter().find(|record| record.id == "drawer_garden_0002");
    let record = record.expect("it is there");
    assert!(!record.metadata.contains_key("endless") && record.metadata.contains_key("wing"), "{record:#?}");
}

/// Vectors that are no numbers, endless, or too long or short to be measured in 32 bits, from a store that holds them:
/// they are lost, and that is said. One of zeros comes over.
#[test]
fn odd_vector_comes_back_as_another() {
    for (bytes, is_held) in [
        ("00000000000000000000008000000000", true),
        ("0000c07f0000000000000000000080ff", false),
        ("ffff7f7fffff7f7fffff7f7fffff7f7f", false),
        ("01000000010000800100000001000000", false),
        ("0000807f0000803f0000803f0000803f", false),
    ] {
        let arena = Arena::empty();
        make_exact(&arena, 5);
        let statement = format!("UPDATE documents SET embedding = x'{bytes}' WHERE rowid = 2");
        crate::support::palace::exact_sql(&arena.palace(), &statement);
        if !is_held {
            arena.run(&["export"]).expect(5).says("vector of drawer-1");
        }
        let text = arena.run(&["export", "--accept-loss"]).expect(0).stdout;
        let (new, path) = with_lines(&text);
        new.run(&["import", "--yes", "--accept-loss", path.to_str().expect("a path")]).expect(0);
        let again = new.run(&["export", "--accept-loss"]).expect(0).stdout;
        assert_eq!(body(&text), body(&again), "{bytes}");
        new.run(&["check", "--deep"]).expect(if is_held { 0 } else { 3 });
    }
}

/// Both ends at once, through a pipe that holds little.
#[test]
fn pipe_between_export_and_import_hangs_or_loses_lines() {
    let (source, target) = (Arena::unpack("chroma-1.5.9-survive"), Arena::empty());
    let mut from = source.command(&["export"]);
    let mut sender = spawn(&mut from);
    let mut to = target.command(&IMPORT);
    to.stdin(Stdio::from(sender.stdout.take().expect("it is piped")));
    Run::of(&mut to).expect(0);
    assert!(sender.wait().expect("it ends").success());
    assert_same_records(&Content::of(&source.palace()), &Content::of(&target.palace()), "a pipe");
}

#[test]
fn export_replaces_a_file_or_leaves_a_part_of_one() {
    let arena = Arena::new("1.5.9");
    let out = arena.root().join("out");
    fs::create_dir(&out).expect("a directory");
    let path = out.join("palace.jsonl");
    let arguments = ["export", "--to", path.to_str().expect("a path")];
    arena.run(&arguments).expect(0).says("220 records");
    let before = Tree::of(&out);
    assert_eq!(before.top(), ["palace.jsonl".to_owned()].into());
    assert_eq!(fs::read_to_string(&path).expect("a file"), export(&arena));
    arena.run(&arguments).expect(1).says("exists");
    before.assert_untouched(&Tree::of(&out), "a second export");
    let other = out.join("other.jsonl");
    fs::write(out.join("other.jsonl.part"), "somebody's").expect("a file");
    arena.run(&["export", "--to", other.to_str().expect("a path")]).expect(1).says("other.jsonl.part");
    assert_eq!(fs::read_to_string(out.join("other.jsonl.part")).expect("a file"), "somebody's");
    arena.run(&["export", "--to", out.join("none/x").to_str().expect("a path")]).expect(1);
    let mut relative = arena.command(&["export", "--to", "here.jsonl", "--json"]);
    relative.current_dir(&out);
    assert_eq!(Run::of(&mut relative).expect(0).json()["records"], 220);
    assert!(out.join("here.jsonl").exists());
}

#[test]
fn reader_that_goes_away_makes_a_panic() {
    let arena = Arena::unpack("chroma-1.5.9-survive");
    let mut child = spawn(&mut arena.command(&["export"]));
    let mut first = [0; 10];
    child.stdout.as_mut().expect("it is piped").read_exact(&mut first).expect("a header");
    drop(child.stdout.take());
    let run = Run::from(child.wait_with_output().expect("it ends"));
    assert!(!run.stderr.contains("panicked"), "{run:#?}");
    run.expect(1);
}

#[test]
fn import_touches_a_palace_that_is_there() {
    let text = export(&Arena::new("1.5.9"));
    let chroma = Arena::new("1.0.20");
    let exact = Arena::empty();
    make_exact(&exact, 2);
    for arena in [&chroma, &exact] {
        let path = arena.root().join("lines");
        fs::write(&path, &text).expect("a file");
        let before = Tree::of(&arena.palace());
        arena.run(&["import", "--yes", path.to_str().expect("a path")]).expect(2);
        before.assert_untouched(&Tree::of(&arena.palace()), "an import");
    }
    let stray = Arena::empty();
    fs::create_dir(stray.palace()).expect("a directory");
    fs::write(stray.palace().join("chroma.sqlite3-wal"), [7; 5000]).expect("a file");
    fs::write(stray.root().join("lines"), &text).expect("a file");
    let path = stray.root().join("lines");
    stray.run(&["import", "--yes", path.to_str().expect("a path")]).expect(5).says("chroma.sqlite3-wal");
    // Sidecars are nobody's business.
    let furnished = Arena::empty();
    fs::create_dir_all(furnished.palace().join("rooms")).expect("a directory");
    fs::write(furnished.palace().join("rooms/a"), "kept").expect("a file");
    fs::write(furnished.root().join("lines"), &text).expect("a file");
    let path = furnished.root().join("lines");
    furnished.run(&["import", "--yes", path.to_str().expect("a path")]).expect(0);
    assert_eq!(fs::read_to_string(furnished.palace().join("rooms/a")).expect("a file"), "kept");
}

/// Whoever cannot be asked is not left waiting for lines first.
#[test]
fn import_reads_before_it_says_that_nobody_agreed() {
    let arena = Arena::empty();
    let mut command = arena.command(&["import"]);
    command.stdin(Stdio::piped());
    let mut child = spawn(&mut command);
    let input = child.stdin.take();
    let run = Run::from(child.wait_with_output().expect("it ends"));
    drop(input); // open until now
    run.expect(2).says("--yes");
    assert!(!arena.palace().exists() && !arena.keep().exists());
}

/// A plan makes nothing, and says what would be made.
#[test]
fn plan_of_an_import_makes_something() {
    let (arena, path) = with_lines(export(&Arena::new("1.5.9")));
    arena.run(&["import", "--plan", path.to_str().expect("a path")]).expect(0).says("mempalace_drawers");
    assert_nothing(&arena, "a plan");
}

/// Somebody writes to the palace while it is read: the last line is missing, so nobody takes it for whole.
#[test]
fn export_of_two_moments_looks_whole() {
    let arena = Arena::unpack("chroma-1.5.9-survive");
    let mut child = spawn(&mut arena.command(&["export"]));
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut begun = [0; 10];
    stdout.read_exact(&mut begun).expect("a header"); // and from here on the pipe is full
    let index = crate::support::palace::segment_of(&arena.palace(), "mempalace_drawers").join("length.bin");
    let bytes = crate::support::palace::read(&index).expect("an index");
    fs::write(&index, bytes).expect("an index that is written again");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    let run = Run::from(child.wait_with_output().expect("it ends"));
    run.expect(6);
    assert!(!rest.contains("\"end\""), "it looks whole");
    let header = String::from_utf8_lossy(&begun);
    refuses(format!("{header}{rest}").as_bytes(), "an export of two moments");
}
