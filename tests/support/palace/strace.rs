//! Runs the real binary under `strace`, which kills it or fails it at one chosen system call.
//!
//! Never with `--seccomp-bpf`: that silently drops injected signals. Whoever injects a fault asserts that it fired.

use super::{Arena, BINARY, Run, has, skip};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every system call by which the product, and SQLite inside it, changes a file system. A call that the census does
/// not find costs nothing.
const CALLS: &str = "write,writev,pwrite64,pwritev,copy_file_range,sendfile,ftruncate,truncate,fallocate,fsync,\
                     fdatasync,sync_file_range,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
                     unlink,unlinkat,rmdir,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,utimensat";

/// The n-th time that a process makes a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) call: String,
    pub(crate) nth: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.call, self.nth)
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let (call, nth) = text.split_once(':').ok_or("a point is CALL:N")?;
        Ok(Point { call: call.into(), nth: nth.parse().map_err(|error| format!("{text}: {error}"))? })
    }
}

/// What happens at a point.
#[derive(Clone, Debug)]
pub(crate) enum Injection {
    /// The process is killed before the call is carried out.
    Kill(Point),
    /// The call fails once.
    Error(Point, &'static str),
    /// The call fails, and every later one of its kind.
    ErrorFrom(Point, &'static str),
    /// The process gets a signal it may handle; the call is carried out.
    Signal(Point, &'static str),
    /// This call and every later one of its kind takes so many microseconds longer.
    DelayFrom(Point, u32),
}

impl Injection {
    pub(crate) fn point(&self) -> &Point {
        match self {
            Injection::Kill(point) | Injection::Error(point, _) | Injection::ErrorFrom(point, _) => point,
            Injection::Signal(point, _) | Injection::DelayFrom(point, _) => point,
        }
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { call, nth } = self.point();
        match self {
            Injection::Kill(_) => write!(f, "{call}:signal=SIGKILL:when={nth}"),
            Injection::Error(_, error) => write!(f, "{call}:error={error}:when={nth}"),
            Injection::ErrorFrom(_, error) => write!(f, "{call}:error={error}:when={nth}+"),
            Injection::Signal(_, signal) => write!(f, "{call}:signal={signal}:when={nth}"),
            Injection::DelayFrom(_, microseconds) => write!(f, "{call}:delay_enter={microseconds}:when={nth}+"),
        }
    }
}

/// A run in which a fault was injected.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) run: Run,
    /// The calls that were traced, each with its result.
    pub(crate) log: String,
}

impl Landed {
    /// Whether the fault fired: a kill shows in how the process ended, an error is marked by strace.
    pub(crate) fn has_fired(&self) -> bool {
        self.run.signal == Some(9) || self.log.contains("(INJECTED)")
    }
}

/// One system call of a census.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) point: Point,
    /// As strace prints it, with the paths of descriptors.
    pub(crate) line: String,
}

/// Tracing the binary on one arena's palace.
pub(crate) struct Strace<'a>(pub(crate) &'a Arena);

impl Strace<'_> {
    /// Whether strace is here and may trace; says SKIPPED where not.
    pub(crate) fn is_here(what: &str) -> bool {
        let works = has("strace")
            && Command::new("strace").args(["-o", "/dev/null", "true"]).output().is_ok_and(|run| run.status.success());
        if !works {
            skip(&format!("{what}: strace is not installed, or may not trace"));
        }
        works
    }

    /// Runs the binary and makes the faults happen.
    pub(crate) fn inject(&self, arguments: &[&str], injections: &[Injection]) -> Landed {
        let calls: Vec<_> = injections.iter().map(|injection| injection.point().call.as_str()).collect();
        let mut options = vec!["-y".to_owned(), "-e".into(), format!("trace={}", calls.join(","))];
        for injection in injections {
            options.extend(["-e".into(), format!("inject={injection}")]);
        }
        let (run, log) = self.strace(&options, arguments);
        Landed { run, log }
    }

    /// Runs the binary, makes one fault happen, and writes down calls of other names too.
    pub(crate) fn inject_among(&self, arguments: &[&str], injection: &Injection, calls: &str) -> Landed {
        let options = ["-y", "-e", &format!("trace={calls}"), "-e", &format!("inject={injection}")].map(str::to_owned);
        let (run, log) = self.strace(&options, arguments);
        Landed { run, log }
    }

    /// Runs the binary and makes a fault happen in calls on one path alone.
    pub(crate) fn inject_on(&self, path: &Path, arguments: &[&str], injection: &Injection) -> Landed {
        let path = path.to_string_lossy().into_owned();
        let calls = format!("trace={}", injection.point().call);
        let inject = format!("inject={injection}");
        let options = ["-y", "-P", &path, "-e", &calls, "-e", &inject].map(str::to_owned);
        let (run, log) = self.strace(&options, arguments);
        Landed { run, log }
    }

    /// Runs the binary and writes down some calls; see strace's `-e trace=`.
    pub(crate) fn watch(&self, calls: &str, arguments: &[&str]) -> (Run, String) {
        let options = ["-y", "-s", "4096", "-e", &format!("trace={calls}")].map(str::to_owned);
        self.strace(&options, arguments)
    }

    fn strace(&self, options: &[String], arguments: &[&str]) -> (Run, String) {
        let log = self.log();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&log).args(options);
        command.arg(BINARY).arg("--palace").arg(self.0.palace()).args(arguments);
        self.0.confine(&mut command);
        let run = Run::of(&mut command);
        let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        (run, text)
    }

    /// One for each run: several may work on one palace.
    fn log(&self) -> PathBuf {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        self.0.root().join(format!("strace-{}.log", RUNS.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Every changing call of a command, in order, each with its number among those of its name. The palace is worked on.
pub(crate) fn calls_of(arena: &Arena, arguments: &[&str]) -> (Run, Vec<Call>) {
    let (run, log) = Strace(arena).watch(CALLS, arguments);
    (run, calls_in(&log))
}

/// The n-th time that a command opens a file or reads from it, named by its path below the arena: how many files it
/// opens in all depends on how many processes it looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Access {
    call: &'static str,
    path: PathBuf,
    nth: usize,
}

impl Access {
    /// Injects an error there.
    pub(crate) fn fail(
        &self,
        arena: &Arena,
        arguments: &[&str],
        error: &'static str,
        injection: fn(Point, &'static str) -> Injection,
    ) -> Landed {
        let point = Point { call: self.call.into(), nth: self.nth };
        let landed = Strace(arena).inject_on(&arena.root().join(&self.path), arguments, &injection(point, error));
        assert!(landed.has_fired(), "the error was not injected: {landed:#?}");
        landed
    }

    /// Whether it is one to this path below the arena.
    pub(crate) fn is_of(&self, path: &str) -> bool {
        self.path == Path::new(path)
    }

    /// Whether it is one to a path with this in it.
    pub(crate) fn is_within(&self, part: &str) -> bool {
        self.path.to_string_lossy().contains(part)
    }

    /// A name that can be replayed, with the error a part of it.
    pub(crate) fn point(&self, error: &str) -> Point {
        let path = self.path.to_string_lossy().replace('/', ",");
        Point { call: format!("{error}@{}@{path}", self.call), nth: self.nth }
    }
}

pub(crate) const OPENS: [&str; 1] = ["openat"];
pub(crate) const READS: [&str; 2] = ["read", "pread64"];
/// How Rust looks at a path; SQLite does it by another call.
pub(crate) const LOOKS: [&str; 1] = ["statx"];

/// What keeps a file from being opened, or made: no descriptor left in the process or on the machine, and whatever a
/// disk answers.
pub(crate) const OPEN_ERRORS: [&str; 7] = ["EMFILE", "EIO", "ENFILE", "EACCES", "EMFILE", "ENOSPC", "EROFS"];

/// Every access to a file of an arena by a command, in order, as far as two runs do the same: new segments have new
/// names.
pub(crate) fn accesses_of(fork: impl Fn() -> Arena, calls: &[&'static str], arguments: &[&str]) -> Vec<Access> {
    let accesses = || accesses_once(&fork(), calls, arguments);
    let (mut accesses, others) = (accesses(), accesses().into_iter().collect::<BTreeSet<_>>());
    accesses.retain(|access| others.contains(access));
    accesses
}

fn accesses_once(arena: &Arena, calls: &[&'static str], arguments: &[&str]) -> Vec<Access> {
    let (run, log) = Strace(arena).watch(&calls.join(","), arguments);
    run.expect(0);
    let mut counts = BTreeMap::<(&str, PathBuf), usize>::new();
    let access = |line: &str| {
        let (_, rest) = line.split_once(' ')?;
        let call = *calls.iter().find(|call| rest.trim_start().starts_with(&format!("{call}(")))?;
        // strace shows a descriptor with its path, and a path to be opened in quotes.
        let path = match READS.contains(&call) {
            true => rest.split(['<', '>']).nth(1)?,
            false => rest.split_once("AT_FDCWD")?.1.split('"').nth(1)?,
        };
        let path = Path::new(path).strip_prefix(arena.root()).ok()?.to_owned();
        let nth = counts.entry((call, path.clone())).or_default();
        *nth += 1;
        Some(Access { call, path, nth: *nth })
    };
    log.lines().filter_map(access).collect()
}

/// The calls of a log, each with its number among those of its name.
pub(crate) fn calls_in(log: &str) -> Vec<Call> {
    let mut counts = BTreeMap::<String, usize>::new();
    let mut processes = BTreeMap::<&str, &str>::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        processes.entry(process).or_insert(rest);
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        calls.push(Call { point: Point { call: name.to_owned(), nth: *count }, line: rest.to_owned() });
    }
    // strace counts for each thread by itself; one changing thread is what makes a point mean the same in every run.
    assert!(processes.len() <= 1, "more than one thread changes files: {processes:?}");
    calls
}
