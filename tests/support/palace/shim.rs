//! Runs the real binary with a small library between it and the C library, which carries out a write by half or denies
//! an allocation: faults that `strace` cannot make.
//!
//! The library is `tests/support/shim.c`; it is compiled once. It writes down what it did the way strace does, so that
//! a census and the question whether a fault fired are the same for both.

use super::{Arena, Call, Landed, Point, Run, calls_in, has, skip};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What the library does.
#[derive(Clone, Debug)]
pub(crate) enum Denial {
    /// Nothing but write down every call that writes, and how many allocations there were before it.
    Nothing,
    /// The n-th call of a name is carried out by half.
    Short(Point),
    /// Every call that writes is.
    ShortAlways,
    /// An allocation fails.
    Allocation(Allocation),
    /// An allocation fails, and every later one.
    AllocationsFrom(Allocation),
}

/// The n-th allocation behind so many write calls.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) after: usize,
    pub(crate) nth: usize,
}

impl Allocation {
    /// A name that can be replayed.
    pub(crate) fn point(&self) -> Point {
        Point { call: format!("malloc@{}", self.after), nth: self.nth }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denial::Nothing => write!(f, "census - 0 once"),
            Denial::Short(Point { call, nth }) => write!(f, "short {call} {nth} once"),
            Denial::ShortAlways => write!(f, "short * 1 from"),
            Denial::Allocation(Allocation { after, nth }) => write!(f, "alloc {after} {nth} once"),
            Denial::AllocationsFrom(Allocation { after, nth }) => write!(f, "alloc {after} {nth} from"),
        }
    }
}

/// The compiled library.
pub(crate) struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles it where that has not been done; says SKIPPED where it cannot be.
    pub(crate) fn here(what: &str) -> Option<Shim> {
        static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match LIBRARY.get_or_init(compile) {
            Ok(library) => Some(Shim { library: library.clone() }),
            Err(why) => {
                skip(&format!("{what}: {why}"));
                None
            }
        }
    }

    /// Runs the binary and denies it something.
    pub(crate) fn deny(&self, arena: &Arena, arguments: &[&str], denial: &Denial) -> Landed {
        let log = arena.root().join("shim.log");
        let mut command = arena.command(arguments);
        command.env("LD_PRELOAD", &self.library).env("PALACE_SHIM", format!("{denial} {}", log.display()));
        let run = Run::of(&mut command);
        let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        Landed { run, log: text }
    }

    /// Denies a command an allocation, and says on which palace. How many allocations there are depends on how many
    /// processes are looked at: where one never comes, an earlier one is denied, on a fresh palace.
    pub(crate) fn starve(
        &self,
        fork: impl Fn() -> Arena,
        arguments: &[&str],
        denial: fn(Allocation) -> Denial,
        one: &Allocation,
    ) -> (Arena, Landed) {
        let mut one = one.clone();
        loop {
            let arena = fork();
            let landed = self.deny(&arena, arguments, &denial(one.clone()));
            if landed.has_fired() {
                return (arena, landed);
            }
            assert!(one.nth > 1, "nothing was denied: {landed:#?}");
            one.nth = one.nth * 2 / 3;
        }
    }

    /// Every call of a command that writes more than a byte, in order. The palace is worked on.
    pub(crate) fn writes(&self, arena: &Arena, arguments: &[&str]) -> Vec<Call> {
        let Landed { run, log } = self.deny(arena, arguments, &Denial::Nothing);
        run.expect(0);
        calls_in(&log)
    }

    /// Every allocation of a command until the last write, in order. The palace is worked on.
    pub(crate) fn allocations(&self, arena: &Arena, arguments: &[&str]) -> Vec<Allocation> {
        let count = |line: &str| line.split_once(" after ")?.1.strip_suffix(" allocations")?.parse::<usize>().ok();
        let writes = self.writes(arena, arguments);
        let writes = writes.iter().filter(|call| call.point.call == "write");
        let mut before = 0;
        let spans = writes.enumerate().flat_map(|(after, call)| {
            let now = count(&call.line).expect("a census says how many there were");
            let nths = 1..=now - std::mem::replace(&mut before, now);
            nths.map(move |nth| Allocation { after, nth })
        });
        spans.collect()
    }
}

fn compile() -> Result<PathBuf, String> {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) || !has("cc") {
        return Err("there is no C compiler here, or no glibc".into());
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/shim.c");
    let text = std::fs::read(&source).map_err(|error| error.to_string())?;
    let hash: String = Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shim-{hash}.so"));
    if library.exists() {
        return Ok(library);
    }
    // Two test programs may do this at once: each under a name of its own.
    let making = library.with_extension(std::process::id().to_string());
    let arguments = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"];
    let output = Command::new("cc").args(arguments).arg(&making).arg(source).output();
    match output {
        Ok(output) if output.status.success() => {
            std::fs::rename(making, &library).map_err(|error| error.to_string())?
        }
        Ok(output) => panic!("the shim does not compile: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return Err(format!("cc: {error}")),
    }
    Ok(library)
}
