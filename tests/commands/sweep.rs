//! Sweeping frees space, and never takes the only copy of anything (I13): each reason to stay is made to hold, and a
//! kill at any system call leaves a folder whole or gone.

use crate::support::palace::{
    Arena, Content, Ending, Ground, Indexes, Injection, Point, REBUILD, Random, Run, Strace, Sweep, Tree, User,
    calls_of, kill, overwrite, sample, segment_of, sql, truncate, zero_leaf,
};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SWEEP: [&str; 3] = ["sweep", "1", "--yes"];
const LOSSY: [&str; 4] = ["sweep", "1", "--yes", "--accept-loss"];

/// A palace that was rebuilt so often.
fn rebuilt(times: usize) -> Arena {
    let arena = Arena::new("1.5.9");
    (0..times).for_each(|_| drop(arena.run(&["rebuild", "--yes"]).expect(0)));
    arena
}

fn aside(arena: &Arena, name: &str) -> std::path::PathBuf {
    arena.operation().join("aside").join(name)
}

/// A file of a segment that was set aside.
fn aside_segment(arena: &Arena) -> std::path::PathBuf {
    let entries = fs::read_dir(arena.operation().join("aside")).expect("a directory");
    let mut segments = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir());
    segments.next().expect("a segment was set aside")
}

/// Why the folder of operation 1 stays, as its code says.
fn stays(arena: &Arena) -> Vec<String> {
    let plan = arena.run(&["sweep", "1", "--plan", "--json"]).expect(5).json();
    let first = &plan["folders"][0];
    assert_eq!((&first["operation"], &first["goes"]), (&1.into(), &false.into()), "{plan}");
    let codes = first["stays"].as_array().expect("reasons").iter();
    codes.map(|one| one["code"].as_str().expect("a code").to_owned()).collect()
}

/// What is done to a palace and its keep, and the code of the reason.
type Reason = (&'static str, &'static str, fn(&Arena));

const REASONS: [Reason; 13] = [
    ("the palace has no database", "palace", |arena| fs::remove_file(arena.database()).expect("it was there")),
    ("the database is damaged", "palace", |arena| truncate(&arena.database(), 1, 2)),
    ("a page of documents is zeroed", "palace", |arena| zero_leaf(&arena.palace(), "embedding_metadata")),
    ("an index is damaged", "palace", |arena| {
        truncate(&segment_of(&arena.palace(), "mempalace_drawers").join("data_level0.bin"), 1, 2);
    }),
    ("a client wrote to the old database", "changed", |arena| {
        sql(&arena.operation().join("aside"), "UPDATE collections SET name = name || '!';");
    }),
    ("a client wrote the same bytes to the old database", "changed", |arena| {
        overwrite(&aside(arena, "chroma.sqlite3"), 0, b"SQLite");
    }),
    ("a client left a journal beside the old database", "changed", |arena| {
        fs::write(aside(arena, "chroma.sqlite3-journal"), "half").expect("a file");
    }),
    ("a client left a log beside the old database", "changed", |arena| {
        fs::write(aside(arena, "chroma.sqlite3-wal"), "half").expect("a file");
    }),
    ("a client wrote to an old index", "changed", |arena| {
        let file = aside_segment(arena).join("length.bin");
        let _ = OpenOptions::new().write(true).open(file).and_then(|file| file.write_all_at(&[7], 0));
    }),
    ("somebody's file lies in the folder", "stranger", |arena| {
        fs::write(arena.operation().join("holiday.jpg"), "mine").expect("a file");
    }),
    ("somebody's file lies in the backup", "stranger", |arena| {
        fs::write(arena.operation().join("backup/holiday.jpg"), "mine").expect("a file");
    }),
    ("somebody's file lies in an old index", "stranger", |arena| {
        fs::write(aside_segment(arena).join("holiday.jpg"), "mine").expect("a file");
    }),
    ("nothing was written down of losses", "unknown", |arena| {
        fs::remove_file(arena.operation().join("report.json")).expect("it was there");
    }),
];

#[test]
fn only_copy_of_something_is_swept() {
    for (what, code, damage) in REASONS {
        let arena = rebuilt(1);
        damage(&arena);
        let before = Tree::of(&arena.operation());
        assert_eq!(stays(&arena), [code], "{what}");
        let run = arena.run(&SWEEP);
        assert_eq!(run.code, Some(5), "{what}: {run:#?}");
        before.assert_untouched(&Tree::of(&arena.operation()), what);
        // Who does not name it is not refused, and it stays all the same.
        arena.run(&["sweep", "--keep", "0", "--yes"]).expect(0).says("stays");
        before.assert_untouched(&Tree::of(&arena.operation()), what);
        let consented = arena.run(&LOSSY);
        assert_eq!(consented.code, Some(if code == "unknown" { 0 } else { 5 }), "{what}: {consented:#?}");
    }
}

/// Where a palace is gone, chromadb makes a new one, and nothing is wrong with that.
#[test]
fn palace_that_was_made_anew_and_is_empty_costs_the_old_one() {
    let arena = rebuilt(1);
    let tables = ["embeddings", "embedding_metadata", "embeddings_queue", "max_seq_id"];
    let tables = tables.iter().chain(&["segment_metadata", "segments", "collection_metadata", "collections"]);
    sql(&arena.palace(), &tables.map(|table| format!("DELETE FROM {table};")).collect::<String>());
    let check = arena.run(&["check", "--json"]).json();
    let mut findings = check["findings"].as_array().expect("findings").iter();
    assert!(!findings.any(|one| one["severity"] == "damage"), "{check}");
    assert_eq!(stays(&arena), ["palace"]);
    arena.run(&SWEEP).expect(5).says("it holds no record");
    assert!(arena.operation().join("aside/chroma.sqlite3").is_file(), "it is all there is");
}

/// A client that had the old database open before it was replaced, and has it open still.
#[test]
fn old_store_that_somebody_has_open_is_swept() {
    let arena = rebuilt(1);
    let client = User::of(&aside(&arena, "chroma.sqlite3"));
    assert_eq!(stays(&arena), ["open"]);
    arena.run(&SWEEP).expect(5).says(&format!("process {}", client.id()));
    drop(client);
    let idle = User::of(&arena.database());
    arena.run(&SWEEP).expect(0).says("gone"); // the palace itself may be open
    drop(idle);
    arena.run(&["log"]).expect(0).says("No operations on record.");
}

#[test]
fn what_could_not_be_carried_over_is_swept_unasked() {
    let arena = Arena::new("1.5.9");
    sql(&arena.palace(), "CREATE TABLE my_notes (text); INSERT INTO my_notes VALUES ('mine');");
    arena.run(&["rebuild", "--yes", "--accept-loss"]).expect(0);
    assert_eq!(stays(&arena), ["lossy"]);
    arena.run(&SWEEP).expect(5).says("--accept-loss").says("my_notes");
    arena.run(&LOSSY).expect(0);
    assert!(!arena.operation().exists(), "it was consented to");
}

#[test]
fn number_of_a_swept_operation_is_used_again() {
    let arena = rebuilt(2);
    let content = Content::of(&arena.palace());
    arena.run(&["sweep", "--keep", "0", "--yes"]).expect(0).says("2 of 2 folders removed");
    assert_eq!(Tree::of(&arena.keep()).top(), ["last", "lock"].map(String::from).into());
    arena.run(&["status"]).expect(0).says("0 operations");
    content.assert_equals(&Content::of(&arena.palace()), "after a sweep");
    arena.run(&["rebuild", "--yes"]).expect(0);
    arena.run(&["sweep", "3", "--yes"]).expect(0);
    arena.run(&["rebuild", "--yes"]).expect(0);
    assert!(arena.keep().join("0004-rebuild").is_dir(), "1, 2 and 3 are taken");
    fs::write(arena.keep().join("last"), "four").expect("a file");
    arena.run(&["rebuild", "--yes"]).expect(5).says("last");
}

#[test]
fn question_writes_something() {
    let arena = rebuilt(3);
    let before = Tree::of(arena.root());
    arena.run(&["sweep"]).expect(0).says("0 of 3 folders would be removed");
    let plan = arena.run(&["sweep", "1", "3", "--plan", "--json"]).expect(0).json();
    let goes: Vec<_> = plan["folders"].as_array().expect("folders").iter().map(|one| one["goes"] == true).collect();
    assert_eq!(goes, [true, false, true], "{plan}");
    let log = arena.run(&["log", "--json"]).expect(0).json();
    assert_eq!(log["bytes"], log["sweepable_bytes"], "{log}");
    let bytes = |number: usize| log["operations"][number]["bytes"].as_u64().expect("bytes");
    assert_eq!(plan["bytes"].as_u64(), Some(bytes(0) + bytes(2)), "{plan}");
    arena.run(&["sweep", "--older-than", "1", "--plan"]).expect(0).says("0 of 3 folders would be removed");
    for nonsense in
        [&["sweep", "--yes"][..], &["sweep", "1", "--keep", "1"], &["sweep", "--keep", "1", "--older-than", "1"]]
    {
        arena.run(nonsense).expect(2);
    }
    arena.run(&["sweep", "7", "--yes"]).expect(2).says("no operation 7");
    arena.run(&["sweep", "1"]).expect(2).says("--yes");
    before.assert_equals_but_for_locks(&Tree::of(arena.root()));
    std::thread::sleep(std::time::Duration::from_millis(1100)); // ages are counted in seconds
    arena.run(&["sweep", "--older-than", "0", "--yes", "--json"]).expect(0);
    arena.run(&["log"]).expect(0).says("No operations on record.");
    arena.run(&["sweep", "--keep", "2", "--yes"]).expect(0).says("No operations on record.");
}

/// Without a choice the usual one is printed, as a command that can be run; nothing is removed.
#[test]
fn usual_choice_takes_what_is_young_or_new() {
    let arena = rebuilt(4);
    arena.run(&["sweep"]).expect(0).says("nothing else can go");
    for number in [1, 3, 4] {
        age(&arena.keep().join(format!("000{number}-rebuild/journal")), 31 * 24 * 60 * 60);
    }
    let command = format!("palacekeeper --palace '{}' sweep 1", arena.palace().display());
    arena.run(&["sweep"]).expect(0).says(&format!("run {command}"));
    let plan = arena.run(&["sweep", "--json"]).expect(0).json();
    assert_eq!(plan["suggestion"], command.as_str(), "2 is too young, 3 and 4 are too new: {plan}");
    assert_eq!(plan["removed"], false, "{plan}");
    arena.run(&["sweep", "--older-than", "30", "--yes"]).expect(0).says("3 of 4 folders removed");
    assert!(arena.keep().join("0002-rebuild").is_dir(), "it is younger");
}

/// Makes an operation begin so many seconds earlier.
fn age(journal: &Path, seconds: i64) {
    use palacekeeper::disk::{Disk, RealDisk};
    use palacekeeper::journal::{Contents, Journal, Record, read};
    let disk = RealDisk::new();
    let Contents { header, mut records, .. } = read::<palacekeeper::ops::Step>(&disk, journal).expect("a journal");
    let Some(Record::Begin { began_at, .. }) = records.first_mut() else { panic!("a journal starts with Begin") };
    *began_at -= seconds;
    disk.remove(journal).expect("it was there");
    drop(Journal::create(&disk, journal, header, &records).expect("a journal"));
}

trait ButForLocks {
    fn assert_equals_but_for_locks(&self, now: &Tree);
}

impl ButForLocks for Tree {
    #[track_caller]
    fn assert_equals_but_for_locks(&self, now: &Tree) {
        let unlocked = |tree: &Tree| {
            let kept = tree.0.iter().filter(|(path, _)| !path.ends_with("palace.keep/lock"));
            Tree(kept.map(|(path, node)| (path.clone(), node.clone())).collect())
        };
        unlocked(self).assert_equals(&unlocked(now), "a question");
    }
}

#[test]
fn sweep_of_what_never_was_makes_a_keep() {
    let arena = Arena::new("1.5.9");
    arena.run(&["sweep", "--keep", "2", "--yes"]).expect(0).says("No operations on record.");
    arena.run(&SWEEP).expect(2).says("no operation 1");
    assert!(!arena.keep().exists(), "nothing was asked for that needs one");
}

/// An interrupted operation is recovered first, as before every writing verb; what was rolled back holds nothing.
#[test]
fn operation_without_an_end_is_swept() {
    if !Strace::is_here("a sweep beside an interrupted operation") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    let (_, calls) = calls_of(&arena.fork(), &REBUILD);
    let link = calls.iter().find(|call| call.point.call == "linkat").expect("the old database is linked aside");
    kill(&arena, &REBUILD, &link.point);
    assert_eq!(stays(&arena), ["unended"]);
    let idle = User::of(&arena.database());
    arena.run(&SWEEP).expect(6).says(&format!("process {}", idle.id()));
    drop(idle);
    arena.run(&SWEEP).expect(0).says("is rolled back").says("gone");
    before.assert_untouched(&Tree::of(&arena.palace()), "a sweep after a rollback");
}

/// A palace with a folder to sweep, as both are before.
struct Swept {
    arena: Arena,
    palace: Tree,
    folder: Tree,
}

impl Swept {
    fn new(ground: &Ground) -> Swept {
        let arena = ground.fork();
        arena.run(&REBUILD).expect(0);
        let (palace, folder) = (Tree::of(&arena.palace()), Tree::of(&arena.operation()));
        Swept { arena, palace, folder }
    }

    /// The folder is whole and listed, or it is gone, and the next writer removes what is left of it. The palace is not
    /// touched.
    fn assert_whole_or_gone(&self) -> Ending {
        let arena = &self.arena;
        self.palace.assert_untouched(&Tree::of(&arena.palace()), "the palace under a sweep that was cut short");
        let is_whole = arena.operation().exists();
        if is_whole {
            self.folder.assert_untouched(&Tree::of(&arena.operation()), "a folder that is still there");
            arena.run(&["log"]).expect(0).says("completed");
        } else {
            assert_gone(arena);
        }
        arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
        arena.run(&["recover"]).expect(0);
        if is_whole {
            arena.run(&SWEEP).expect(0);
        }
        assert_gone(arena);
        assert_eq!(Tree::of(&arena.keep()).top(), ["last", "lock"].map(String::from).into(), "nothing is left");
        self.palace.assert_untouched(&Tree::of(&arena.palace()), "the palace after a sweep");
        arena.run(&REBUILD).expect(0);
        assert!(arena.keep().join("0002-rebuild").is_dir(), "no number is used twice");
        if is_whole { Ending::Old } else { Ending::New }
    }
}

/// I13, under a kill at every system call that changes a file.
#[test]
fn kill_in_a_sweep_leaves_half_an_operation() {
    if !Strace::is_here("a kill at every system call of a sweep") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&Swept::new(&ground).arena, &SWEEP);
    run.expect(0);
    let sweep = Sweep::new("sweep", "kill_in_a_sweep");
    sweep.share(calls.iter().map(|call| call.point.clone()), |point| {
        sweep.attempt(&[&point], || {
            let swept = Swept::new(&ground);
            kill(&swept.arena, &SWEEP, &point);
            swept.assert_whole_or_gone()
        });
    });
    sweep.report("kills in a sweep");
}

/// And under errors there, each once and from then on: a sweep that says it is done is.
#[test]
fn failed_call_in_a_sweep_leaves_half_an_operation() {
    if !Strace::is_here("errors in a sweep") {
        return;
    }
    const ERRORS: [&str; 5] = ["EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES"];
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&Swept::new(&ground).arena, &SWEEP);
    run.expect(0);
    let sweep = Sweep::new("sweep", "failed_call_in_a_sweep");
    for (offset, injection) in
        [(0, Injection::Error as fn(Point, &'static str) -> Injection), (2, Injection::ErrorFrom)]
    {
        sweep.share(sample(&calls, 16, &mut Random::seeded()).iter().enumerate(), |(number, call)| {
            let error = ERRORS[(number + offset) % ERRORS.len()];
            let named = Point { call: format!("{error}@{}", call.point.call), nth: call.point.nth };
            sweep.attempt(&[&named], || {
                let swept = Swept::new(&ground);
                let landed = Strace(&swept.arena).inject(&SWEEP, &[injection(call.point.clone(), error)]);
                assert!(landed.has_fired(), "the error was not injected: {landed:#?}");
                assert!(matches!(landed.run.code, Some(0 | 1)), "{landed:#?}");
                assert!(landed.run.code != Some(0) || !swept.arena.operation().exists(), "it is not done: {landed:#?}");
                swept.assert_whole_or_gone()
            });
        });
    }
    sweep.report("errors in a sweep");
}

#[track_caller]
fn assert_gone(arena: &Arena) -> Run {
    arena.run(&["log"]).expect(0).says("No operations on record.")
}
