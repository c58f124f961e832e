//! Input that makes no sense, places that cannot be written to, and others who are there already: each is told by its
//! exit code and by a message that names the path, and nothing in the palace is touched.

use crate::support::palace::{
    Arena, BINARY, Content, Mount, Point, Run, Strace, Tree, assert_sound, copy_tree, has, is_root, kill, overwrite,
    skip, spawn, sql, truncate,
};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const REBUILD: [&str; 2] = ["rebuild", "--yes"];

/// What is wrong with a palace, the exit code it gets, and what the message has to name.
type Refusal = (&'static str, i32, &'static str, fn(&Arena));

const REFUSALS: [Refusal; 10] = [
    ("there is no such directory", 2, "/palace", |arena| fs::remove_dir_all(arena.palace()).expect("it was there")),
    ("a file stands where the directory should", 2, "/palace", |arena| {
        fs::remove_dir_all(arena.palace()).expect("it was there");
        fs::write(arena.palace(), "a file").expect("a file");
    }),
    ("the directory holds no database", 2, "/palace", |arena| fs::remove_file(arena.database()).expect("it was there")),
    ("the directory is empty", 2, "/palace", |arena| {
        fs::remove_dir_all(arena.palace()).expect("it was there");
        fs::create_dir(arena.palace()).expect("a directory");
    }),
    ("the database is a link", 2, "chroma.sqlite3", |arena| {
        let elsewhere = arena.root().join("elsewhere");
        fs::rename(arena.database(), &elsewhere).expect("it was there");
        symlink(elsewhere, arena.database()).expect("a link");
    }),
    ("the database is a directory", 2, "chroma.sqlite3", |arena| {
        fs::remove_file(arena.database()).expect("it was there");
        fs::create_dir(arena.database()).expect("a directory");
    }),
    ("the database is text", 3, "chroma.sqlite3", |arena| {
        fs::write(arena.database(), "Dear diary, ".repeat(1000)).expect("a file");
    }),
    ("the database is empty", 3, "chroma.sqlite3", |arena| truncate(&arena.database(), 0, 1)),
    ("the database ends in its header", 3, "chroma.sqlite3", |arena| {
        let bytes = fs::read(arena.database()).expect("a database");
        fs::write(arena.database(), &bytes[..50]).expect("a file");
    }),
    ("a migration is newer than this program", 5, "chroma.sqlite3", |arena| {
        sql(
            &arena.palace(),
            "INSERT INTO migrations VALUES ('sysdb', 99, '00099-future.sqlite.sql', 'SELECT 1', 'f00f');",
        );
    }),
];

#[test]
fn palace_that_makes_no_sense_is_touched() {
    for (what, code, names, damage) in REFUSALS {
        let arena = Arena::new("1.5.9");
        damage(&arena);
        for arguments in [&["rebuild", "--plan"][..], &REBUILD] {
            assert_refused(&arena, arguments, code, names, what);
        }
        // Only beside a palace may a keep appear; a mistyped path must not leave directories about.
        if code == 2 && !arena.database().exists() {
            assert!(!arena.keep().exists(), "{what}: a keep was made beside something that is no palace");
        }
    }
}

#[test]
fn rebuild_without_consent_begins() {
    let arena = Arena::new("1.5.9");
    assert_refused(&arena, &["rebuild"], 2, "--yes", "nobody is there to ask");
    arena.run(&["log"]).expect(0).says("No operations on record.");
}

/// Without consent an interrupted operation stays as it is; where it had to be recovered first, that is not denied.
#[test]
fn recovery_that_came_first_is_denied() {
    if !Strace::is_here("a refusal after a recovery") {
        return;
    }
    let arena = Arena::new("1.5.9");
    sql(&arena.palace(), "CREATE TABLE my_notes (text); INSERT INTO my_notes VALUES ('mine');");
    let palace = Tree::of(&arena.palace());
    let link = Point { call: "linkat".into(), nth: 1 };
    kill(&arena, &["rebuild", "--yes", "--accept-loss"], &link);
    let before = Tree::of(arena.root());
    for verb in ["rebuild", "repair"] {
        let run = arena.run(&[verb]).expect(2).says("Nothing was touched");
        assert!(!run.stderr.contains("recovered"), "{run:#?}");
        before.assert_untouched(&Tree::of(arena.root()), "nobody said yes to anything");
        arena.run(&["status"]).expect(4);
    }
    let run = arena.run(&["--quiet", "rebuild", "--yes"]).expect(5);
    let run = run.says("apart from operation 1, which was recovered first");
    arena.run(&["log"]).expect(0).says("rolled back");
    assert!(!arena.operation().join("backup").exists(), "it was recovered: {run:#?}");
    palace.assert_equals(&Tree::of(&arena.palace()), "recovered, and not rebuilt");
    let run = arena.run(&REBUILD).expect(5);
    assert!(!run.stderr.contains("recovered first"), "this time nothing was: {run:#?}");
}

#[test]
fn unknown_table_is_dropped_in_silence() {
    let arena = Arena::new("1.5.9");
    sql(&arena.palace(), "CREATE TABLE my_notes (text); INSERT INTO my_notes VALUES ('mine');");
    assert_refused(&arena, &REBUILD, 5, "my_notes", "a table that chromadb did not make");
    arena.run(&["rebuild", "--yes", "--accept-loss"]).expect(0).says("my_notes");
    arena.run(&["log", "1"]).expect(0).says("my_notes in the database: chromadb did not make it");
    let log = arena.run(&["log", "--json"]).expect(0).json();
    assert_eq!(log["operations"][0]["losses"].as_array().map(Vec::len), Some(1), "{log}");
    fs::remove_file(arena.operation().join("report.json")).expect("it was there");
    arena.run(&["log", "1"]).expect(0).says("was not written down");
    assert!(arena.run(&["log", "--json"]).expect(0).json()["operations"][0]["losses"].is_null(), "nobody knows");
}

#[test]
fn operation_that_does_not_exist_is_shown() {
    let arena = Arena::new("1.5.9");
    arena.run(&["log", "7"]).expect(2).says("7");
}

/// What is wrong with a keep, and what the message has to name. The exit code is always 5: a person must look.
type BadKeep = (&'static str, &'static str, fn(&Arena));

const BAD_KEEPS: [BadKeep; 6] = [
    ("somebody's file lies in the keep", "holiday.jpg", |arena| {
        fs::write(arena.keep().join("holiday.jpg"), "mine").expect("a file");
    }),
    ("somebody's directory lies in the keep", "0001rebuild", |arena| {
        fs::create_dir(arena.keep().join("0001rebuild")).expect("a directory");
    }),
    ("there are two keeps", ".keep", |arena| fs::create_dir(arena.palace().join(".keep")).expect("a directory")),
    ("a journal was written by a newer version", "journal", |arena| {
        let mut header = fs::read(journal(arena)).expect("a journal")[..24].to_vec();
        header[8] = 2;
        header.extend(crc32fast::hash(&header).to_le_bytes());
        overwrite(&journal(arena), 0, &header);
    }),
    ("a frame in the middle of a journal is damaged", "journal", |arena| {
        let length = fs::metadata(journal(arena)).expect("a journal").len();
        overwrite(&journal(arena), length - 40, &[0xff; 4]);
    }),
    ("a journal is no journal", "journal", |arena| fs::write(journal(arena), "Dear diary").expect("a file")),
];

fn journal(arena: &Arena) -> PathBuf {
    arena.operation().join("journal")
}

#[test]
fn keep_that_cannot_be_understood_is_touched() {
    for (what, names, damage) in BAD_KEEPS {
        let arena = Arena::new("1.5.9");
        arena.run(&REBUILD).expect(0);
        damage(&arena);
        let before = Tree::of(arena.root());
        for arguments in [&["status"][..], &["log"], &["recover"], &["recover", "--resume"], &REBUILD] {
            assert_refused(&arena, arguments, 5, names, what);
        }
        let lock = Path::new("palace.keep/lock"); // whoever took the lock signed it
        let unlocked = |tree: Tree| Tree(tree.0.into_iter().filter(|(path, _)| path != lock).collect());
        unlocked(before).assert_equals(&unlocked(Tree::of(arena.root())), what);
    }
}

#[test]
fn link_to_a_palace_is_replaced_by_a_palace() {
    let arena = Arena::new("1.5.9");
    let content = Content::of(&arena.palace());
    let link = arena.root().join("link");
    symlink("palace", &link).expect("a link");
    for verb in ["status", "rebuild --yes", "recover", "log"] {
        let mut command = Command::new(BINARY);
        command.arg("--palace").arg(&link).args(verb.split(' '));
        arena.confine(&mut command);
        Run::of(&mut command).expect(0);
    }
    assert_eq!(fs::read_link(&link).expect("still a link"), Path::new("palace"));
    assert!(arena.keep().is_dir(), "the keep lies beside the real directory");
    assert!(!arena.root().join("link.keep").exists(), "and not beside the link");
    content.assert_equals(&Content::of(&arena.palace()), "through a link");
}

#[test]
fn awkward_name_of_a_palace_leads_elsewhere() {
    let names: [&[u8]; 7] = [
        b"my palace",
        "Палац 宮殿 🏛".as_bytes(),
        b"not \xff\xfe utf-8",
        b"100%25 ?#&=",
        b"'quoted\" \\",
        b"-rf",
        b"line\nbreak",
    ];
    for name in names {
        let name = OsStr::from_bytes(name);
        let mut arena = Arena::new("1.5.9");
        let content = Content::of(&arena.palace());
        arena.rename(name);
        let before = Tree::of(arena.root()).top();
        // The equals sign keeps a leading hyphen from looking like an option.
        arena.run(&["rebuild", "--plan"]).expect(0);
        assert_eq!(Tree::of(arena.root()).top(), before, "{name:?}");
        arena.run(&REBUILD).expect(0);
        arena.run(&["status", "--json"]).expect(0);
        content.assert_equals(&Content::of(&arena.palace()), &format!("{name:?}"));
        assert!(arena.operation().join("backup/chroma.sqlite3").is_file(), "{name:?}");
        assert_eq!(Tree::of(arena.root()).top().len(), before.len() + 1, "{name:?}: one keep and nothing else");
    }
}

/// An idle client holds no lock that could be seen, only open files.
#[test]
fn palace_that_somebody_has_open_is_replaced() {
    let arena = Arena::new("1.5.9");
    let index = crate::support::palace::segment_of(&arena.palace(), "mempalace_drawers").join("data_level0.bin");
    for file in [arena.database(), index] {
        let client = Holder::of(&file);
        let named = format!("process {}", client.0.id());
        assert_refused(&arena, &REBUILD, 6, &named, "somebody has a file open");
        assert_refused(&arena, &REBUILD, 6, &file.display().to_string(), "somebody has a file open");
    }
    arena.run(&REBUILD).expect(0);
}

#[test]
fn two_writers_work_on_one_palace() {
    if !has("flock") {
        return skip("two writers: flock(1) is not installed");
    }
    let arena = Arena::new("1.5.9");
    arena.run(&REBUILD).expect(0);
    let lock = arena.keep().join("lock");
    let holder = Holder::locking(&lock);
    for arguments in [&REBUILD[..], &["rebuild", "--yes", "--accept-loss"]] {
        assert_refused(&arena, arguments, 6, &lock.display().to_string(), "another palacekeeper");
    }
    arena.run(&["status"]).expect(0);
    arena.run(&["rebuild", "--plan"]).expect(0);
    drop(holder);
    arena.run(&REBUILD).expect(0);
}

/// Whoever comes second is told so, or comes after the first has ended.
#[test]
fn rebuilds_at_the_same_time_undo_each_other() {
    let arena = Arena::new("1.5.9");
    let content = Content::of(&arena.palace());
    let rebuilds: Vec<_> = (0..4).map(|_| spawn(&mut arena.command(&REBUILD))).collect();
    let runs: Vec<_> = rebuilds.into_iter().map(|one| Run::from(one.wait_with_output().expect("it ends"))).collect();
    assert!(runs.iter().all(|run| matches!(run.code, Some(0 | 6))), "{runs:#?}");
    let done = runs.iter().filter(|run| run.code == Some(0)).count();
    assert!(done > 0, "all four were refused: {runs:#?}");
    arena.run(&["status"]).expect(0).says(&format!("{done} operations"));
    content.assert_equals(&Content::of(&arena.palace()), "after four rebuilds at the same time");
}

/// MemPalace's own lock of this palace, at the place its source computes (CHROMA.md §6.2).
#[test]
fn palace_is_replaced_under_a_writing_mempalace() {
    if !has("flock") {
        return skip("MemPalace's lock: flock(1) is not installed");
    }
    use sha2::{Digest, Sha256};
    let arena = Arena::new("1.5.9");
    let locks = arena.root().join("home/.mempalace/locks");
    fs::create_dir_all(&locks).expect("a directory");
    let hash = Sha256::digest(arena.palace().canonicalize().expect("a palace").as_os_str().as_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let lock = locks.join(format!("mine_palace_{hash}.lock"));
    let holder = Holder::locking(&lock);
    assert_refused(&arena, &REBUILD, 6, &lock.display().to_string(), "a MemPalace writer");
    drop(holder);
    arena.run(&REBUILD).expect(0);
    let signed = fs::read(&lock).expect("the lock file stays");
    assert_eq!(signed[0], 0, "byte 0 is a sentinel that Windows locks");
    assert_eq!(Tree::of(&locks).top().len(), 1, "one lock, the one MemPalace uses");
}

#[test]
fn read_only_file_system_ends_in_a_half_made_keep() {
    let Some(mount) = Mount::tmpfs("16m", "a read-only file system") else { return };
    let arena = Arena::new("1.5.9");
    copy_tree(&arena.palace(), &mount.path().join("palace"));
    mount.remount("ro");
    let on = |arguments: &[&str]| mount.run(&arena, "palace", arguments);
    let before = Tree::of(mount.path());
    on(&["status"]).expect(0);
    on(&["rebuild", "--plan"]).expect(0);
    on(&REBUILD).expect(1).says("Read-only file system").says("palace");
    before.assert_untouched(&Tree::of(mount.path()), "a read-only file system");
}

/// A rename cannot leave a mount, so the keep goes inside.
#[test]
fn palace_that_is_a_mount_point_is_left_alone() {
    let Some(mount) = Mount::tmpfs("64m", "a palace that is a mount point") else { return };
    let arena = Arena::new("1.5.9");
    let content = Content::of(&arena.palace());
    copy_tree(&arena.palace(), mount.path());
    let before = Tree::of(mount.path());
    mount.run(&arena, "", &["rebuild", "--plan"]).expect(0);
    before.assert_untouched(&Tree::of(mount.path()), "a plan");
    mount.run(&arena, "", &REBUILD).expect(0);
    content.assert_equals(&Content::of(mount.path()), "a mount point");
    assert_sound(mount.path(), "a mount point");
    assert!(mount.path().join(".keep/0001-rebuild/backup/chroma.sqlite3").is_file(), "the keep lies inside");
    mount.run(&arena, "", &["status"]).expect(0).says("1 operations");
    mount.run(&arena, "", &REBUILD).expect(0);
    content.assert_equals(&Content::of(mount.path()), "a mount point, again");
}

/// The palace is one's own, the directory around it is not.
#[test]
fn parent_that_is_not_writable_is_needed() {
    if !is_root() || !has("setpriv") {
        return skip("a parent that is not writable: needs root, and setpriv to stop being root");
    }
    let arena = Arena::new("1.5.9");
    let content = Content::of(&arena.palace());
    let program = arena.root().join("palacekeeper");
    fs::copy(BINARY, &program).expect("a copy that anybody may run");
    fs::set_permissions(arena.root(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.arg("--palace").arg(arena.palace()).args(arguments);
        arena.confine(&mut command);
        Run::of(&mut command)
    };
    let before = Tree::of(arena.root());
    as_nobody(&REBUILD).expect(1).says("palace");
    before.assert_untouched(&Tree::of(arena.root()), "neither the palace nor its parent is writable");
    for path in [arena.palace()].into_iter().chain(before.0.keys().map(|path| arena.root().join(path))) {
        if path.starts_with(arena.palace()) {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("given away");
        }
    }
    as_nobody(&REBUILD).expect(0);
    content.assert_equals(&Content::of(&arena.palace()), "inside");
    assert!(arena.palace().join(".keep/0001-rebuild/aside/chroma.sqlite3").is_file(), "the keep lies inside");
    assert!(!arena.keep().exists(), "and not beside");
}

/// Runs a command that has to be refused, and insists that the palace stays as it is.
#[track_caller]
fn assert_refused(arena: &Arena, arguments: &[&str], code: i32, names: &str, what: &str) {
    let before = Tree::of(arena.root());
    let run = arena.run(arguments);
    assert_eq!(run.code, Some(code), "{what}: {arguments:?}: {run:#?}");
    let run = run.says(names);
    assert!(!run.stderr.is_empty(), "{what}: {arguments:?}: a refusal is told on stderr");
    // The keep is palacekeeper's own, and in the directory for temporary files a copy may have come and gone.
    let palace = |tree: &Tree| {
        let inside = tree.0.iter().filter(|(path, _)| !path.starts_with("palace.keep") && path.as_os_str() != "tmp");
        Tree(inside.map(|(path, node)| (path.clone(), node.clone())).collect())
    };
    palace(&before).assert_untouched(&palace(&Tree::of(arena.root())), what);
}

/// A process of somebody else, ended with this value.
struct Holder(Child);

impl Holder {
    /// One that has a file open and does nothing with it.
    fn of(file: &Path) -> Holder {
        let file = fs::File::open(file).expect("a file");
        Holder(spawn(Command::new("sleep").arg("600").stdin(file).stdout(Stdio::null())))
    }

    /// One that holds a lock, as MemPalace does.
    fn locking(file: &Path) -> Holder {
        let ready = file.with_extension("ready");
        let mut command = Command::new("flock");
        let script = format!("touch '{}' && exec sleep 600", ready.display());
        let holder = Holder(spawn(command.arg("--no-fork").arg(file).args(["sh", "-c", &script]).stdin(Stdio::null())));
        while !ready.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        fs::remove_file(ready).expect("it was there");
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
