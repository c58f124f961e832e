//! Checks and repairs that do not fit into a table: several damages at once, one of several, a palace that is gone, an
//! operation that was cut short, a file larger than the disk.

use crate::support::palace::{
    Arena, Content, Depth, Ending, Finding, Kind, Mount, REBUILD, Random, Record, Run, Strace, Sweep, Tree,
    assert_sound, calls_of, check, class, copy_tree, findings, is_tolerated, kill, read, sample, segment_of,
    surroundings,
};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const DRAWERS: &str = "mempalace_drawers";
const REPAIR: [&str; 3] = ["repair", "--yes", "--json"];

#[test]
fn several_damages_at_once_cost_more_than_each() {
    for damages in [
        &["both numbers of a collection are poisoned", "an index counts more elements than there can be"][..],
        &["the full-text index is not registered", "a page of the index of strings is zero", "a migration is missing"],
        &["an index's upper links are empty", "a document is missing in the full-text index", "a number is a word"],
        &["a collection does not know its dimension", "an index's header is scrambled"],
        &["the database's header is scrambled", "an index's upper links are cut short"],
        &["a writer was killed in a transaction", "an index's pickle knows labels one way only"],
        &["commits are in the write-ahead log only", "the number of the metadata is poisoned"],
    ] {
        let what = damages.join(", and ");
        let case = class(damages[0]).inflict_with(&damages[1..]);
        let found = check(&case.arena, Depth::Deep);
        for damage in damages {
            for wanted in class(damage).codes {
                // In a database that has to be salvaged first, nobody sees everything.
                let is_found = found.iter().any(|finding| finding.code.starts_with("database-") && is_left(finding))
                    || found.iter().any(|finding| wanted.split('|').any(|code| code == finding.code));
                assert!(is_found, "{what}: {wanted} is not among {:?}", codes(&found));
            }
        }
        let mut run = case.arena.run(&REPAIR);
        if run.code == Some(5) && what.contains("header is scrambled") {
            run = case.arena.run(&[&REPAIR[..], &["--accept-loss"]].concat());
        }
        run.expect(0);
        let lost = case.differences();
        assert!(lost.is_empty() || what.contains("index's header is scrambled"), "{what}: {lost:?}");
        let after = check(&case.arena, Depth::Deep);
        let left: Vec<_> = after.iter().filter(|one| is_left(one) && one.code != "vector-missing").collect();
        assert!(left.is_empty(), "{what}: {left:#?}");
        assert_sound(&case.arena.palace(), &what);
    }
}

/// What is not asked for is left as it is, and found again.
#[test]
fn repair_of_one_damage_touches_another() {
    let case = class("the full-text index is not registered").inflict_with(&["the number of the metadata is poisoned"]);
    let report = case.arena.run(&[&REPAIR[..], &["--only", "sequence-poisoned"]].concat()).expect(0).json();
    assert_eq!(report["mended"], serde_json::json!(["sequence-poisoned"]), "{report:#}");
    let left = codes(&check(&case.arena, Depth::Quick));
    assert!(left.contains(&"fulltext-missing".to_owned()), "{left:?}");
    assert!(!left.contains(&"sequence-poisoned".to_owned()), "{left:?}");
    case.arena.run(&REPAIR).expect(0);
    assert_eq!(case.differences(), Vec::new());
    assert_eq!(codes(&check(&case.arena, Depth::Deep)), Vec::<String>::new());
}

#[test]
fn code_that_does_not_exist_is_repaired() {
    let arena = Arena::new("1.5.9");
    let before = surroundings(&arena);
    let run = arena.run(&["repair", "--yes", "--only", "no-such-code"]);
    assert!(!matches!(run.code, Some(0)), "{run:#?}");
    before.assert_untouched(&surroundings(&arena), "a repair of nothing");
}

/// A migration of MemPalace was killed between its two renames: there is no palace, and all is in `.old`.
#[test]
fn palace_that_is_gone_is_not_found_again() {
    let arena = Arena::new("1.5.9");
    let before = Content::of(&arena.palace());
    let old = arena.root().join("palace.old");
    fs::rename(arena.palace(), &old).expect("the palace can be renamed");
    let tree = surroundings(&arena);
    for arguments in [&["check"][..], &["check", "--json"], &["repair", "--plan"]] {
        let run = arena.run(arguments);
        assert!(run.code != Some(0), "{run:#?}");
        assert!(said(&run).contains("palace.old"), "nobody is told where the palace is: {run:#?}");
        tree.assert_untouched(&surroundings(&arena), "a check");
    }
    let run = arena.run(&REPAIR);
    if run.code == Some(5) {
        assert!(said(&run).contains("palace.old"), "nobody is told where the palace is: {run:#?}");
        tree.assert_untouched(&surroundings(&arena), "a repair that is left to a person");
        return;
    }
    run.expect(0);
    before.assert_equals(&Content::of(&arena.palace()), "the palace that was found again");
    assert_eq!(check(&arena, Depth::Deep).iter().filter(|one| is_left(one)).count(), 0);
}

/// The same, and the palace's name is taken by an empty directory, as a client leaves it that was asked to open it.
#[test]
fn empty_directory_hides_the_old_palace() {
    let arena = Arena::new("1.5.9");
    let before = Content::of(&arena.palace());
    fs::rename(arena.palace(), arena.root().join("palace.old")).expect("the palace can be renamed");
    fs::create_dir(arena.palace()).expect("a directory");
    let tree = surroundings(&arena);
    let run = arena.run(&["check", "--json"]);
    assert!(run.code != Some(0) && said(&run).contains("palace.old"), "{run:#?}");
    let run = arena.run(&REPAIR);
    if run.code == Some(5) {
        tree.assert_untouched(&surroundings(&arena), "a repair that is left to a person");
        return;
    }
    run.expect(0);
    before.assert_equals(&Content::of(&arena.palace()), "the palace that was found again");
}

#[test]
fn interrupted_operation_is_not_told_of() {
    if !Strace::is_here("a check of a palace whose rebuild was killed") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let before = Content::of(&arena.palace());
    kill(&arena, &REBUILD, &"pwrite64:100".parse().expect("a point"));
    let tree = surroundings(&arena);
    let run = arena.run(&["check", "--json"]);
    assert_eq!(run.code, Some(4), "{run:#?}");
    let report = run.json();
    let listed = report["findings"].as_array().expect("findings");
    assert!(listed.iter().any(|finding| finding["code"] == "operation-interrupted"), "{report:#}");
    tree.assert_untouched(&surroundings(&arena), "a check");
    // As with every verb that changes something, what was cut short comes first.
    arena.run(&REPAIR).expect(0).says("rolled back");
    assert_eq!(check(&arena, Depth::Deep).iter().filter(|one| is_left(one)).count(), 0);
    before.assert_equals(&Content::of(&arena.palace()), "the recovered palace");
}

/// Duplicate adds have made a file of 20 GB out of a few pages. Whoever reads or copies the hole fills the disk.
#[test]
fn hole_in_the_links_is_read_or_copied() {
    let Some(mount) = Mount::tmpfs("64m", "a file of links that is larger than the disk") else { return };
    let arena = Arena::new("1.5.9");
    let before = Content::of(&arena.palace());
    let palace = mount.path().join("palace");
    copy_tree(&arena.palace(), &palace);
    let links = segment_of(&palace, DRAWERS).join("link_lists.bin");
    fs::File::options().write(true).open(&links).and_then(|file| file.set_len(20 << 30)).expect("a hole");
    let metadata = fs::metadata(&links).expect("metadata");
    assert!(metadata.len() == 20 << 30 && metadata.blocks() < 64, "it is no hole: {metadata:?}");
    for (depth, arguments) in [(Depth::Quick, &["check", "--json"][..]), (Depth::Deep, &["check", "--deep", "--json"])]
    {
        let run = mount.run(&arena, "palace", arguments);
        assert!(codes(&findings(&run, depth)).contains(&"index-sparse".to_owned()), "{run:#?}");
    }
    mount.run(&arena, "palace", &REPAIR).expect(0);
    let links = segment_of(&palace, DRAWERS).join("link_lists.bin");
    assert!(fs::metadata(&links).expect("metadata").len() < 1 << 20, "the new index has the hole again");
    let after = Content::of(&palace);
    assert_eq!(before.record_differences_by(&after, Record::is_kept_in), Vec::<String>::new());
    let run = mount.run(&arena, "palace", &["check", "--deep", "--json"]);
    assert!(!findings(&run, Depth::Deep).iter().any(is_left), "{run:#?}");
}

/// A disk that was full has left a file of no bytes. The segments still hold vectors, and an empty palace in its place
/// would be taken for all there is.
#[test]
fn empty_database_is_taken_for_an_empty_palace() {
    let arena = Arena::new("1.5.9");
    fs::write(arena.database(), b"").expect("a file");
    let before = surroundings(&arena);
    for arguments in [&["check"][..], &["repair", "--yes", "--accept-loss"], &["rebuild", "--yes", "--accept-loss"]] {
        let run = arena.run(arguments);
        assert!(matches!(run.code, Some(3 | 5)), "{run:#?}");
        before.assert_untouched(&surroundings(&arena), "an empty database");
    }
}

/// `--json` is for programs; a person reads the same in words.
#[test]
fn person_is_told_less_than_a_program() {
    let case = class("the number of the metadata is poisoned").inflict();
    let run = case.arena.run(&["check"]);
    assert_eq!(run.code, Some(3), "{run:#?}");
    run.says("sequence-poisoned").says("repair");
    let healthy = Arena::new("1.5.9");
    healthy.run(&["check"]).expect(0);
    let nothing = Arena::new("1.5.9");
    fs::remove_dir_all(nothing.palace()).expect("a palace");
    assert_eq!(nothing.run(&["check", "--json"]).code, Some(2));
}

/// What a repair replaced is kept, byte for byte.
#[test]
fn repair_keeps_no_backup() {
    for name in
        ["the number of the metadata is poisoned", "an index's pickle is missing", "a page of the metadata is zero"]
    {
        let case = class(name).inflict();
        let (database, indexes) = (read(&case.arena.database()).expect("a database"), index_files(&case.arena));
        case.arena.run(&[&REPAIR[..], &["--accept-loss"]].concat()).expect(0);
        let keep = Tree::of(&case.arena.keep());
        let holds = |bytes: &[u8]| keep.0.values().any(|node| matches!(&node.kind, Kind::File(file) if file == bytes));
        assert!(holds(&database), "{name}: the old database is in no backup");
        for (bytes, path) in indexes {
            let stands = read(&path).is_ok_and(|now| now == bytes);
            assert!(stands || holds(&bytes), "{name}: {} is in no backup", path.display());
        }
    }
}

/// Every index file of a palace.
fn index_files(arena: &Arena) -> Vec<(Vec<u8>, PathBuf)> {
    let tree = Tree::of(&arena.palace());
    let is_index = |path: &Path| path.extension().is_some_and(|extension| extension == "bin" || extension == "pickle");
    let paths = tree.0.keys().filter(|path| is_index(path));
    paths.map(|path| (tree.bytes(&path.to_string_lossy()).to_vec(), arena.palace().join(path))).collect()
}

/// A repair that is killed leaves the damage or the mended palace, whatever it was that it did: amend a copy, build an
/// index, build the palace anew, or promote what was copied aside.
#[test]
fn kill_in_a_repair_leaves_neither_the_damaged_palace_nor_the_mended() {
    if !Strace::is_here("kills in a repair") {
        return;
    }
    let sweep = Sweep::new("mending", "kill_in_a_repair");
    for name in [
        "both numbers of a collection are poisoned",
        "an index's upper links are empty",
        "a migration is missing",
        "a repair was killed when the drawers were deleted",
    ] {
        let damaged = class(name).inflict();
        let tree = Tree::of(&damaged.arena.palace());
        let (run, calls) = calls_of(&damaged.arena.fork(), &REPAIR);
        run.expect(0);
        let calls: Vec<_> = calls.into_iter().map(|call| call.point).collect();
        let commit = calls.iter().position(|point| point.call == "linkat").expect("the old database is linked aside");
        let (before, after) = calls.split_at(commit);
        let mut random = Random::seeded();
        sweep.share([sample(before, 8, &mut random), sample(after, 8, &mut random)].concat(), |point| {
            sweep.attempt(&[&point], || {
                let arena = damaged.arena.fork();
                kill(&arena, &REPAIR, &point);
                arena.run(&["recover"]).expect(0);
                arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
                let is_old = tree == Tree::of(&arena.palace());
                if is_old {
                    arena.run(&REPAIR).expect(0);
                }
                assert_eq!(damaged.differences_of(&arena), Vec::new(), "{name}: {point}");
                assert!(!check(&arena, Depth::Deep).iter().any(is_left), "{name}: {point}");
                if is_old { Ending::Old } else { Ending::New }
            });
        });
    }
    sweep.report("kills in a repair");
}

fn codes(found: &[Finding]) -> Vec<String> {
    found.iter().filter(|finding| !is_tolerated(finding)).map(|finding| finding.code.clone()).collect()
}

fn is_left(finding: &Finding) -> bool {
    finding.severity != "note" && !is_tolerated(finding)
}

fn said(run: &Run) -> String {
    format!("{}{}", run.stdout, run.stderr)
}
