//! Palaces for whole-process tests: unpacked from the fixtures, worked on by the real binary, and looked at by a reader
//! that shares no code with the product.

#![allow(unused_imports, reason = "every test program compiles all of this and uses a part")]

mod catalogue;
mod change;
mod content;
mod crossing;
mod damage;
mod exact;
mod exchange;
mod expected;
mod ground;
mod judge;
mod mount;
mod pickle;
mod rows;
mod scene;
mod shim;
mod strace;
mod sweep;
mod trees;
mod vectors;
mod ward;

pub(crate) use catalogue::{Case, Class, Depth, GROUPS, Mend, class};
pub(crate) use change::{Change, fork_with_keep};
pub(crate) use content::{Content, Record, assert_sound, open_copy, segment_directories, segment_of};
pub(crate) use crossing::{Crossing, TARGETS, assert_refused, format_of, is_there, migrate, without_arrays};
pub(crate) use damage::{make_hot, make_wal, overwrite, sql, truncate, zero_leaf};
pub(crate) use exact::{EXACT, Exact, add_in_log, exact_sql, make_exact};
pub(crate) use exchange::{IMPORT, assert_nothing, body, export, import, refuses, with_lines};
pub(crate) use expected::{assert_as_expected, records_as_expected};
pub(crate) use ground::{Ground, Indexes, REBUILD, RECOVER, RESUME, kill, try_to_kill};
pub(crate) use judge::Judge;
pub(crate) use mount::Mount;
pub(crate) use rows::{Row, Rows, Verdict};
pub(crate) use scene::{Scene, store_inodes};
pub(crate) use shim::{Allocation, Denial, Shim};
pub(crate) use strace::{
    Access, Call, Injection, LOOKS, Landed, OPEN_ERRORS, OPENS, Point, READS, Strace, accesses_of, calls_in, calls_of,
};
pub(crate) use sweep::{Ending, Random, Sweep, is_exhaustive, is_wanted, sample};
pub(crate) use trees::{Kind, Node, Tree};
pub(crate) use ward::{Finding, Outcome, check, findings, is_tolerated, surroundings, treat};

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Every chromadb whose palaces there are fixtures of.
pub(crate) const VERSIONS: [&str; 5] = ["0.4.24", "0.5.23", "0.6.3", "1.0.20", "1.5.9"];

/// The real binary.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_palacekeeper");

/// Names that belong to a palace's database besides the database itself.
pub(crate) const SIBLINGS: [&str; 3] = ["chroma.sqlite3-journal", "chroma.sqlite3-wal", "chroma.sqlite3-shm"];

/// A directory of its own with a palace, a home and a place for temporary files in it.
pub(crate) struct Arena {
    root: tempfile::TempDir,
    /// Name of the palace's directory below the root.
    name: OsString,
}

impl Arena {
    /// Unpacks the small palace of a version.
    pub(crate) fn new(version: &str) -> Arena {
        Arena::unpack(&format!("chroma-{version}"))
    }

    /// Unpacks a fixture by its name.
    pub(crate) fn unpack(fixture: &str) -> Arena {
        let arena = Arena::empty();
        unpack(fixture, arena.root.path());
        arena
    }

    /// An arena whose palace is a copy of this one's; inode numbers and times are new.
    pub(crate) fn fork(&self) -> Arena {
        let arena = Arena::empty();
        copy_tree(&self.palace(), &arena.palace());
        arena
    }

    /// An arena without a palace.
    pub(crate) fn empty() -> Arena {
        let root = tempfile::Builder::new().prefix("palacekeeper-").tempdir_in(fast_directory()).expect("a directory");
        for name in ["home", "tmp"] {
            std::fs::create_dir(root.path().join(name)).expect("a directory");
        }
        Arena { root, name: "palace".into() }
    }

    /// The same arena, with its palace in another place below the root.
    pub(crate) fn with_palace_in(self, name: impl Into<OsString>) -> Arena {
        Arena { name: name.into(), ..self }
    }

    /// Gives the palace's directory another name.
    pub(crate) fn rename(&mut self, name: impl Into<OsString>) {
        let old = self.palace();
        self.name = name.into();
        std::fs::rename(old, self.palace()).expect("the palace can be renamed");
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn palace(&self) -> PathBuf {
        self.root.path().join(&self.name)
    }

    /// The keep beside the palace.
    pub(crate) fn keep(&self) -> PathBuf {
        let mut name = self.name.clone();
        name.push(".keep");
        self.root.path().join(name)
    }

    /// The folder of the first operation; a rebuild's where there is none yet.
    pub(crate) fn operation(&self) -> PathBuf {
        let migration = self.keep().join("0001-migrate");
        if migration.exists() { migration } else { self.keep().join("0001-rebuild") }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.palace().join("chroma.sqlite3")
    }

    /// A command line on this palace, in an environment that holds nothing of this machine's own palaces.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--palace").arg(self.palace()).args(arguments);
        self.confine(&mut command);
        command
    }

    /// Gives any command this arena's home and no terminal.
    pub(crate) fn confine(&self, command: &mut Command) {
        command.env_clear().env("HOME", self.root.path().join("home")).env("TMPDIR", self.root.path().join("tmp"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Between fork and exec a child has every file open that this process has open, and the product, which looks for
/// whoever has the palace open, would find it. So nobody spawns while a file of a palace is open here.
static SPAWNING: RwLock<()> = RwLock::new(());

/// Keeps others from spawning while a file of a palace is open.
pub(crate) fn no_spawning() -> RwLockReadGuard<'static, ()> {
    SPAWNING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a command while no file of a palace is open here.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _alone = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// A process that has a file open and does nothing with it; ended with this value.
pub(crate) struct User(Child);

impl User {
    pub(crate) fn of(file: &Path) -> User {
        let file = std::fs::File::open(file).expect("a file");
        User(spawn(Command::new("sleep").arg("600").stdin(file).stdout(Stdio::null()).stderr(Stdio::null())))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a file of a palace.
pub(crate) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let _open = no_spawning();
    std::fs::read(path)
}

/// Copies a file of a palace.
pub(crate) fn copy(source: &Path, target: &Path) -> std::io::Result<u64> {
    let _open = no_spawning();
    std::fs::copy(source, target)
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Run {
        let child = spawn(command);
        let watchdog = Watchdog::over(child.id());
        let output = child.wait_with_output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(!watchdog.has_bitten(), "{command:?} did not end within {TIME_MAX_S} seconds");
        Run::from(output)
    }

    /// Insists on an exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "exit code; it was {self:#?}");
        self
    }

    /// Insists on something having been said, on either stream.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Run {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "nothing was said of “{text}” in {self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

/// No command on a small palace takes this long, whatever happens to it.
const TIME_MAX_S: u64 = 240;

/// Kills a process that hangs: a test that never ends tells nobody why.
struct Watchdog {
    ended: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    fn over(process: u32) -> Watchdog {
        let (ended, waiting) = channel::<()>();
        let watch = move || {
            let is_late = waiting.recv_timeout(Duration::from_secs(TIME_MAX_S)) == Err(RecvTimeoutError::Timeout);
            if is_late {
                let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
            }
            is_late
        };
        Watchdog { ended, thread: std::thread::spawn(watch) }
    }

    fn has_bitten(self) -> bool {
        drop(self.ended);
        self.thread.join().expect("a watchdog does not panic")
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        Run {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Says loudly that something was not tested, past libtest's capture. Where `CI=true` it is a failure instead.
pub(crate) fn skip(what: &str) {
    say(&format!("SKIPPED: {what}"));
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "nothing may be skipped under CI=true: {what}");
}

/// Says something on the real stderr, past libtest's capture: figures that a person wants to see of a passing test too.
pub(crate) fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Whether this process is root; some faults cannot be made without.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}

/// A kill of a process takes nothing out of the page cache, so most tests lose nothing by working in memory.
fn fast_directory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let is_usable = tempfile::tempfile_in(memory).is_ok();
    if is_usable { memory.to_owned() } else { std::env::temp_dir() }
}

fn unpack(fixture: &str, target: &Path) {
    let path = fixtures().join(format!("{fixture}.tar.gz"));
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let _open = no_spawning();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    archive.unpack(target).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Where the fixtures are.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/palaces")
}

/// Copies a directory with all below it.
pub(crate) fn copy_tree(source: &Path, target: &Path) {
    std::fs::create_dir_all(target).expect("a directory");
    for entry in std::fs::read_dir(source).expect("a directory to copy") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        match entry.file_type().expect("a type").is_dir() {
            true => copy_tree(&from, &to),
            false => drop(copy(&from, &to).expect("a copy")),
        }
    }
}
