//! Takes memory and file descriptors away from the real program, and looks at the palace.
//!
//! Rust ends a process that is out of memory; SQLite says so and goes on. Both happen here, at allocations that a shim
//! denies and under limits that the kernel keeps. A failure is replayed by the line it prints. By default a seeded
//! sample is run; `PALACEKEEPER_FAULTS=all` runs every fiftieth allocation, those around the swap, and every call.

use crate::support::palace::{
    Allocation, Arena, BINARY, Denial, Ending, Ground, Indexes, Injection, Landed, OPEN_ERRORS, OPENS, Point, REBUILD,
    RECOVER, RESUME, Random, Run, Shim, Strace, Sweep, User, accesses_of, calls_of, is_exhaustive, sample, say,
    segment_directories,
};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Mutex;

const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;
const NO_PANIC: &str = "nobody panics while holding it";

/// How often runs ended in which way, in words.
#[derive(Default)]
struct Endings(Mutex<BTreeMap<String, usize>>);

impl Endings {
    fn note(&self, run: &Run) {
        let how = match (run.code, run.signal) {
            (Some(code), _) => format!("exit {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(-1)),
        };
        *self.0.lock().expect(NO_PANIC).entry(how).or_default() += 1;
    }

    fn say(self, what: &str) {
        say(&format!("{what}: {:?}", self.0.into_inner().expect(NO_PANIC)));
    }
}

/// An orderly end, or a death in the middle of everything; the palace is the old one or the new.
fn assert_ends(ground: &Ground, arena: &Arena, landed: &Landed) -> Ending {
    match landed.run.signal {
        // Whoever cannot open a file, or has no memory for its name, finds no palace, or one that somebody may have.
        None if matches!(landed.run.code, Some(2 | 6)) => {
            assert!(!is_begun(arena), "{landed:#?}");
            ground.assert_recovers(arena)
        }
        None => ground.assert_ends_as_it_says(arena, landed),
        Some(SIGABRT | SIGSEGV) => {
            ground.assert_complete(arena);
            ground.assert_recovers(arena)
        }
        Some(_) => panic!("nobody sent this signal: {landed:#?}"),
    }
}

fn is_begun(arena: &Arena) -> bool {
    arena.operation().join("journal").exists()
}

/// Allocations, half of them spread over all, half of them around the swap.
fn chosen(all: &[Allocation], count: usize, random: &mut Random) -> Vec<Allocation> {
    let last = all.last().expect("it allocates").after;
    let (before, swap) = all.split_at(all.partition_point(|one| one.after + SWAP_WRITES < last));
    let every = if is_exhaustive() { EVERY_NTH } else { 1 };
    let spread = sample(before, count.div_ceil(2), random).into_iter().step_by(every);
    spread.chain(sample(swap, count / 2, random)).collect()
}

/// Records of the journal from the link to the old database to the end, and the message.
const SWAP_WRITES: usize = 9;
/// Of the tens of thousands that there are before, an exhaustive sweep takes one in so many.
const EVERY_NTH: usize = 50;

#[test]
fn denied_allocation_leaves_neither_the_old_palace_nor_the_new() {
    let Some(shim) = Shim::here("denied allocations") else { return };
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let all = shim.allocations(&ground.fork(), &REBUILD);
    let mut random = Random::seeded();
    let (endings, begun, ways) = (Endings::default(), Mutex::new(0), Mutex::new(BTreeSet::new()));
    let sweep = Sweep::new("starved", "denied_allocation");
    for denial in [Denial::Allocation as fn(Allocation) -> Denial, Denial::AllocationsFrom] {
        sweep.share(chosen(&all, 60, &mut random), |one| {
            sweep.attempt(&[&one.point()], || {
                let (arena, landed) = shim.starve(|| ground.fork(), &REBUILD, denial, &one);
                endings.note(&landed.run);
                *begun.lock().expect(NO_PANIC) += usize::from(landed.run.code != Some(0) && is_begun(&arena));
                let ending = assert_ends(&ground, &arena, &landed);
                ways.lock().expect(NO_PANIC).insert((landed.run.code.is_some(), ending));
                ending
            });
        });
    }
    let (begun, ways) = (begun.into_inner().expect(NO_PANIC), ways.into_inner().expect(NO_PANIC));
    let is_whole = std::env::var_os("PALACEKEEPER_POINT").is_none();
    assert!(begun > 0 || !is_whole, "none failed after the operation began");
    let deaths = [(false, Ending::Old), (false, Ending::New)];
    assert!(deaths.iter().all(|way| ways.contains(way)) || !is_whole, "only one side of the commit was hit: {ways:?}");
    endings.say(&format!("denied allocations, {begun} of them fatal after the operation began"));
    sweep.report("denied allocations of a rebuild");
}

/// Where a rebuild is killed first, with what it is recovered, and how that has to end; a resume may end either way.
const MOMENTS: [(&str, &str, &[&str], Option<Ending>); 3] = [
    ("linkat", "/aside/", &RECOVER, Some(Ending::Old)),
    ("rename", "/chroma.sqlite3", &RECOVER, Some(Ending::New)),
    ("fsync", "/staging/chroma.sqlite3>", &RESUME, None),
];

/// A recovery that runs out of memory changes nothing about how the operation ends, in either direction, or resumed.
#[test]
fn denied_allocation_in_a_recovery_changes_how_it_ends() {
    let what = "denied allocations of a recovery";
    let Some(shim) = Shim::here(what) else { return };
    if !Strace::is_here(what) {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let mut random = Random::seeded();
    let endings = Endings::default();
    let sweep = Sweep::new("starved", "denied_allocation_in_a_recovery");
    for (call, part, verb, wanted) in MOMENTS {
        let cut = calls.iter().find(|one| one.point.call == call && one.line.contains(part)).expect("such a call");
        let killed = || ground.killed(&cut.point);
        let all = shim.allocations(&killed(), verb);
        sweep.share(chosen(&all, 20, &mut random), |one| {
            sweep.attempt(&[&cut.point, &one.point()], || {
                let (arena, landed) = shim.starve(killed, verb, Denial::Allocation, &one);
                assert!(matches!((landed.run.code, landed.run.signal), (Some(0 | 1 | 4), _) | (_, Some(SIGABRT))));
                endings.note(&landed.run);
                ground.assert_complete(&arena);
                let ending = ground.assert_recovers(&arena);
                assert!(wanted.is_none_or(|wanted| ending == wanted), "{ending:?}: {landed:#?}");
                assert!(
                    wanted.is_some()
                        || (ending == Ending::New) == (landed.run.code == Some(0))
                        || landed.run.code.is_none()
                );
                ending
            });
        });
    }
    endings.say(what);
    sweep.report(what);
}

/// Runs the binary under a limit that the shell sets.
fn limited(arena: &Arena, option: &str, limit: usize, arguments: &[&str]) -> Landed {
    let script = format!("ulimit {option} {limit} && exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", BINARY, "--palace"]).arg(arena.palace()).args(arguments);
    arena.confine(&mut command);
    Landed { run: Run::of(&mut command), log: String::new() }
}

/// The smallest limit with which a command succeeds; `most` is enough.
fn enough(ground: &Ground, option: &str, mut least: usize, mut most: usize, fineness: usize) -> usize {
    while most - least > fineness {
        let middle = (least + most) / 2;
        match limited(&ground.fork(), option, middle, &REBUILD).run.code {
            Some(0) => most = middle,
            _ => least = middle,
        }
    }
    most
}

/// The loader cannot even load the program, or a shell not start it.
const NOT_STARTED: [i32; 2] = [126, 127];

/// Runs a rebuild under each of some limits; says how many failed after the operation had begun.
fn sweep_limits(ground: &Ground, test: &str, option: &str, limits: &[usize], what: &str) -> usize {
    let sweep = Sweep::new("starved", test);
    let (endings, begun) = (Endings::default(), Mutex::new(0));
    sweep.share(limits, |limit| {
        let point = Point { call: format!("ulimit{option}"), nth: *limit };
        sweep.attempt(&[&point], || {
            let arena = ground.fork();
            let landed = limited(&arena, option, *limit, &REBUILD);
            endings.note(&landed.run);
            *begun.lock().expect(NO_PANIC) += usize::from(landed.run.code != Some(0) && is_begun(&arena));
            if landed.run.code.is_some_and(|code| NOT_STARTED.contains(&code)) {
                return ground.assert_recovers(&arena);
            }
            assert_ends(ground, &arena, &landed)
        });
    });
    endings.say(what);
    sweep.report(what);
    begun.into_inner().expect(NO_PANIC)
}

/// Address space of every size from too small to load the program to enough.
#[test]
fn too_little_memory_leaves_neither_the_old_palace_nor_the_new() {
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let enough = enough(&ground, "-v", 0, 1 << 20, 64);
    let coarse = (1..=10).map(|part| enough * part / 10);
    // What a rebuild needs and does not need to begin is little: it is there that sizes lie close together.
    let fine = (0..24).map(|part| enough.saturating_sub(part * 128));
    let limits: Vec<_> = coarse.chain(fine).collect();
    let begun = sweep_limits(&ground, "too_little_memory", "-v", &limits, "address spaces of many sizes");
    say(&format!("{enough} KiB of address space are enough; with less, {begun} failed after the operation began"));
    assert!(begun > 0 || std::env::var_os("PALACEKEEPER_POINT").is_some(), "every one failed before it began");
}

/// Every number of descriptors from too few to start to enough.
#[test]
fn too_few_descriptors_leave_neither_the_old_palace_nor_the_new() {
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let enough = enough(&ground, "-n", 3, 64, 1);
    let limits: Vec<_> = (3..=enough).collect();
    sweep_limits(&ground, "too_few_descriptors", "-n", &limits, "few descriptors");
    say(&format!("{enough} descriptors are enough"));
}

/// Somebody else has taken the last descriptor of the process, or of the machine; or the disk does not give the file.
#[test]
fn file_that_cannot_be_opened_leaves_neither_the_old_palace_nor_the_new() {
    let what = "files that cannot be opened";
    if !Strace::is_here(what) {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let opens = accesses_of(|| ground.fork(), &OPENS, &REBUILD);
    let mut random = Random::seeded();
    let endings = Endings::default();
    let sweep = Sweep::new("starved", "file_that_cannot_be_opened_leaves");
    for injection in [Injection::Error as fn(Point, &'static str) -> Injection, Injection::ErrorFrom] {
        sweep.share(sample(&opens, 60, &mut random).iter().enumerate(), |(number, open)| {
            let error = OPEN_ERRORS[number % OPEN_ERRORS.len()];
            sweep.attempt(&[&open.point(error)], || {
                let arena = ground.fork();
                let landed = open.fail(&arena, &REBUILD, error, injection);
                endings.note(&landed.run);
                assert_ends(&ground, &arena, &landed)
            });
        });
    }
    endings.say(what);
    sweep.report(what);
}

/// I12: whoever goes back, or on, and cannot open a file has not lost the way.
#[test]
fn file_that_a_recovery_cannot_open_changes_how_it_ends() {
    let what = "files that a recovery cannot open";
    if !Strace::is_here(what) {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let mut random = Random::seeded();
    let endings = Endings::default();
    let sweep = Sweep::new("starved", "file_that_a_recovery_cannot_open");
    for (call, part, verb, wanted) in MOMENTS {
        let cut = calls.iter().find(|one| one.point.call == call && one.line.contains(part)).expect("such a call");
        let killed = || ground.killed(&cut.point);
        let opens = sample(&accesses_of(killed, &OPENS, verb), 20, &mut random);
        sweep.share(opens.iter().enumerate(), |(number, open)| {
            let error = OPEN_ERRORS[number % OPEN_ERRORS.len()];
            sweep.attempt(&[&cut.point, &open.point(error)], || {
                let arena = killed();
                let injection = if number % 2 == 0 { Injection::Error } else { Injection::ErrorFrom };
                let landed = open.fail(&arena, verb, error, injection);
                endings.note(&landed.run);
                ground.assert_complete(&arena);
                if landed.run.code == Some(0) {
                    assert_eq!(ground.assert_ended(&arena), wanted.unwrap_or(Ending::New), "{landed:#?}");
                }
                let ending = ground.assert_recovers(&arena);
                assert!(wanted.is_none_or(|wanted| ending == wanted), "{ending:?}: {landed:#?}");
                // SQLite does not tell why it could not open a file, only that.
                let causes = ["os error", "unable to open database file"];
                let is_told = causes.iter().any(|cause| landed.run.stderr.contains(cause));
                assert!(is_told || landed.run.code == Some(0), "the cause is not said: {landed:#?}");
                ending
            });
        });
    }
    endings.say(what);
    sweep.report(what);
}

/// I16: whoever cannot look who has the palace open must not take it that nobody has.
#[test]
fn palace_is_taken_from_its_user_because_nobody_can_look() {
    let what = "looks at open files that fail";
    if !Strace::is_here(what) {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let arena = ground.fork();
    let user = User::of(&arena.database());
    let open_files = format!("/proc/{}/fd", user.id());
    for (path, error) in [("/proc", "ENFILE"), (&open_files, "EMFILE"), (&open_files, "ENOMEM")] {
        let point = Point { call: "openat".into(), nth: 1 };
        let landed = Strace(&arena).inject_on(path.as_ref(), &REBUILD, &Injection::ErrorFrom(point, error));
        assert!(landed.has_fired(), "the error was not injected: {landed:#?}");
        assert_eq!(landed.run.code, Some(6), "{error} of {path}: {landed:#?}");
        arena.run(&["log"]).expect(0).says("No operations on record.");
    }
    let segment = segment_directories(&arena.palace()).pop_first().expect("it has indexes");
    for directory in [arena.palace(), arena.palace().join(segment)] {
        let point = Point { call: "openat".into(), nth: 1 };
        let landed = Strace(&arena).inject_on(&directory, &REBUILD, &Injection::Error(point, "EMFILE"));
        assert!(landed.has_fired(), "the error was not injected: {landed:#?}");
        assert!(matches!(landed.run.code, Some(1 | 6)), "{}: {landed:#?}", directory.display());
        arena.run(&["log"]).expect(0).says("No operations on record.");
    }
    drop(user);
    assert_eq!(ground.assert_recovers(&arena), Ending::Old);
}

/// Threads make it faster, and the program can do without every one of them.
#[test]
fn process_that_may_not_start_threads_gives_up() {
    let what = "threads that do not start";
    if !Strace::is_here(what) {
        return;
    }
    let migrate = ["migrate", "--to", "chroma-0.6", "--yes", "--accept-loss"];
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Migrated);
    let arena = ground.fork();
    let point = |call: &str| Point { call: call.into(), nth: 1 };
    let injections = ["clone", "clone3"].map(|call| Injection::ErrorFrom(point(call), "EAGAIN"));
    let landed = Strace(&arena).inject(&migrate, &injections);
    let fired = landed.log.matches("(INJECTED)").count();
    assert!(fired > 1, "only {fired} threads were to be started: {landed:#?}");
    assert_eq!(landed.run.code, Some(0), "{landed:#?}");
    assert_eq!(ground.assert_ended(&arena), Ending::New);
}
