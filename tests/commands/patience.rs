//! Whoever holds a palace for a moment is waited for; whoever goes on holding it is named, and nothing is touched.

use crate::support::palace::{Arena, Content, Tree, has, skip, spawn};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const REBUILD: [&str; 2] = ["rebuild", "--yes"];
/// How long somebody holds on who lets go in time.
const MOMENT: &str = "0.5";
/// Longer than anybody is waited for.
const AGE: &str = "600";

/// Everything by which a palace can be held: what it is called, and a process that holds it so many seconds.
type Hold = (&'static str, fn(&Arena, &str) -> Holder);

const HOLDS: [Hold; 3] = [
    ("the keep's lock", |arena, seconds| Holder::locking(&arena.keep().join("lock"), seconds)),
    ("MemPalace's lock", |arena, seconds| Holder::locking(&mempalace_lock(arena), seconds)),
    ("the open database", |arena, seconds| Holder::opening(&arena.database(), seconds)),
];

#[test]
fn palace_that_is_held_for_a_moment_is_refused() {
    if !has("flock") {
        return skip("locks that are held for a moment: flock(1) is not installed");
    }
    for (what, hold) in HOLDS {
        let arena = held_before();
        let content = Content::of(&arena.palace());
        let (holder, started) = (hold(&arena, MOMENT), Instant::now());
        let run = arena.run(&REBUILD);
        assert_eq!(run.code, Some(0), "{what}: {run:#?}");
        assert!(started.elapsed() >= Duration::from_millis(400), "{what}: nobody was waited for");
        drop(holder);
        content.assert_equals(&Content::of(&arena.palace()), what);
    }
}

#[test]
fn palace_that_somebody_goes_on_holding_is_waited_for_without_end() {
    if !has("flock") {
        return skip("locks that are held on: flock(1) is not installed");
    }
    for (what, hold) in HOLDS {
        let arena = held_before();
        let before = Tree::of(&arena.palace());
        let (holder, started) = (hold(&arena, AGE), Instant::now());
        let run = arena.run(&REBUILD);
        let waited = started.elapsed();
        assert_eq!(run.code, Some(6), "{what}: {run:#?}");
        let run = run.says(&holder.names);
        assert!(waited >= Duration::from_secs(2), "{what}: it waited only {waited:?}");
        assert!(waited < Duration::from_secs(20), "{what}: it waited {waited:?}: {run:#?}");
        before.assert_untouched(&Tree::of(&arena.palace()), what);
    }
}

/// A palace with a keep, a home with a MemPalace, and both locks.
fn held_before() -> Arena {
    let arena = Arena::new("1.5.9");
    fs::create_dir_all(arena.root().join("home/.mempalace/locks")).expect("a directory");
    arena.run(&REBUILD).expect(0);
    arena
}

fn mempalace_lock(arena: &Arena) -> PathBuf {
    let locks = arena.root().join("home/.mempalace/locks");
    let mut files = fs::read_dir(locks).expect("a directory").map(|entry| entry.expect("an entry").path());
    files.next().expect("the first rebuild took MemPalace's lock")
}

/// Somebody else, ended with this value.
struct Holder {
    process: Child,
    /// What a refusal has to name.
    names: String,
}

impl Holder {
    /// Holds a lock as another program does, and signs it with its process number.
    fn locking(file: &Path, seconds: &str) -> Holder {
        let ready = file.with_extension("ready");
        let mut command = Command::new("flock");
        let script = format!("echo $$ > '{}' && touch '{}' && exec sleep {seconds}", file.display(), ready.display());
        let process = spawn(command.arg("--no-fork").arg(file).args(["sh", "-c", &script]).stdin(Stdio::null()));
        while !ready.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::remove_file(ready).expect("it was there");
        Holder { names: format!("({})", process.id()), process }
    }

    /// Has a file open and does nothing with it.
    fn opening(file: &Path, seconds: &str) -> Holder {
        let file = File::open(file).expect("a file");
        let process = spawn(Command::new("sleep").arg(seconds).stdin(file).stdout(Stdio::null()));
        Holder { names: format!("process {} (sleep)", process.id()), process }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
