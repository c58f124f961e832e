//! What a machine does to a process besides killing it: short writes, no memory, no more files, and other processes
//! that do the same at the same moment.

mod support;

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use support::palace::{
    Arena, BINARY, Call, Ending, Ground, Indexes, Judge, Point, REBUILD, RECOVER, Random, Run, Strace, Sweep, calls_of,
    has, kill, sample, say, skip, spawn,
};

/// The shim, made once.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/palace/shim.c");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim.so");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&target).arg(source).arg("-ldl");
        let is_made = has("cc") && spawn(cc.stdout(Stdio::null())).wait().is_ok_and(|status| status.success());
        is_made.then_some(target)
    };
    SHIM.get_or_init(make).as_deref()
}

/// A write that takes only half of what it is given is gone on with: everybody who writes has to loop.
#[test]
fn short_write_is_gone_on_with() {
    let (Some(shim), true) = (shim(), Strace::is_here("short writes")) else { return skip("short writes: no cc") };
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let bytes = |call: &Call| call.line.rsplit("= ").next().and_then(|bytes| bytes.trim().parse::<u64>().ok());
    let is_writing = |call: &Call| ["write", "pwrite64", "copy_file_range"].contains(&&*call.point.call);
    let is_long = |call: &&Call| is_writing(call) && bytes(call).is_some_and(|bytes| bytes > 1);
    let calls: Vec<Call> = calls.iter().filter(is_long).cloned().collect();
    let sweep = Sweep::new("process", "short_write");
    sweep.share(sample(&calls, 24, &mut Random::seeded()), |call| {
        let point = Point { call: format!("short@{}", call.point.call), nth: call.point.nth };
        sweep.attempt(&[&point], || {
            let arena = ground.fork();
            let mark = arena.root().join("mark");
            let mut command = arena.command(&REBUILD);
            command.env("LD_PRELOAD", shim).env("SHIM_MARK", &mark);
            command.env("SHIM_CALL", &call.point.call).env("SHIM_NTH", call.point.nth.to_string());
            Run::of(&mut command).expect(0);
            std::fs::remove_file(mark).expect("the shim leaves a mark where it made a write short");
            ground.assert_ended(&arena)
        });
    });
    sweep.report("short writes");
}

/// Runs a command within a limit that `ulimit` sets.
fn limited(arena: &Arena, limit: &str, arguments: &[&str]) -> Run {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh", BINARY, "--palace"]);
    arena.confine(command.arg(arena.palace()).args(arguments));
    Run::of(&mut command)
}

/// How runs within limits end: whatever a run said, the old palace or the new is there after a recovery without limits.
fn squeeze(ground: &Ground, flag: &str, limits: &[u64], what: &str) {
    let (mut begun, mut old, mut new) = (0, 0, 0);
    for limit in limits {
        let arena = ground.fork();
        let run = limited(&arena, &format!("{flag} {limit}"), &REBUILD);
        begun += u32::from(run.code != Some(0) && arena.keep().join("0001-rebuild").exists());
        ground.assert_complete(&arena);
        match ground.assert_recovers(&arena) {
            Ending::Old => old += 1,
            Ending::New => new += 1,
        }
        assert!(run.code != Some(0) || ground.assert_ended(&arena) == Ending::New, "{what} {limit}: {run:#?}");
    }
    say(&format!("{what}: {} runs, {begun} failed after they had begun, {old} ended old and {new} new", limits.len()));
    assert!(old > 0 && new > 0, "{what}: the limits are all too high, or all too low");
}

/// The least of the limits with which a rebuild comes to its end.
fn enough(ground: &Ground, flag: &str, (mut low, mut high): (u64, u64), step: u64) -> u64 {
    while high - low > step {
        let middle = low.midpoint(high);
        match limited(&ground.fork(), &format!("{flag} {middle}"), &REBUILD).code {
            Some(0) => high = middle,
            _ => low = middle,
        }
    }
    high
}

#[test]
fn process_without_memory_leaves_the_old_palace_or_the_new() {
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let least = enough(&ground, "-v", (1 << 10, 4 << 20), 256);
    // It runs out at different moments the nearer it comes to what is enough.
    let limits: Vec<u64> = (0..12).map(|part| least + 512 - part * least / 24).collect();
    squeeze(&ground, "-v", &limits, "kilobytes of memory");
}

#[test]
fn process_without_descriptors_leaves_the_old_palace_or_the_new() {
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let least = enough(&ground, "-n", (3, 256), 1);
    let limits: Vec<u64> = (3..least + 2).collect();
    squeeze(&ground, "-n", &limits, "descriptors");
}

/// Starts some commands at one moment and waits for all.
fn race(arena: &Arena, count: usize, arguments: &[&str]) -> Vec<Run> {
    let children: Vec<_> = (0..count).map(|_| spawn(&mut arena.command(arguments))).collect();
    children.into_iter().map(|child| Run::from(child.wait_with_output().expect("it ends"))).collect()
}

/// I16: of several rebuilds at once each one works alone, or is told that somebody else has the palace.
#[test]
fn rebuilds_at_one_moment_work_one_after_the_other() {
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    for _ in 0..6 {
        let arena = ground.fork();
        let runs = race(&arena, 4, &REBUILD);
        let done = runs.iter().filter(|run| run.code == Some(0)).count();
        assert!(done > 0 && runs.iter().all(|run| matches!(run.code, Some(0 | 6))), "{runs:#?}");
        arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
        let folders = std::fs::read_dir(arena.keep()).expect("a keep");
        let folders = folders.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count();
        assert_eq!(folders, done, "one folder for each that was done");
        ground.assert_complete(&arena);
    }
}

/// A client that is writing, and what chromadb has acknowledged to it.
struct Writer {
    child: Child,
    acknowledged: Lines<BufReader<ChildStdout>>,
    ids: Vec<String>,
}

impl Writer {
    fn start(judge: &Judge, arena: &Arena, prefix: &str) -> Writer {
        let mut child = spawn(&mut judge.writer(arena, prefix));
        let acknowledged = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut writer = Writer { child, acknowledged, ids: Vec::new() };
        assert_eq!(writer.hear().as_deref(), Some("ready"), "the client does not start");
        writer
    }

    fn hear(&mut self) -> Option<String> {
        self.acknowledged.next().map(|line| line.expect("text"))
    }

    /// Lets it write some drawers.
    fn write(&mut self, count: usize) {
        let ids: Vec<String> = (0..count).map(|_| self.hear().expect("it goes on writing")).collect();
        self.ids.extend(ids);
    }

    /// Kills it wherever it is; what it had said until then was acknowledged.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it can be killed");
        while let Some(id) = self.hear() {
            self.ids.push(id);
        }
        self.child.wait().expect("it ends");
        self.ids
    }
}

/// Insists on every acknowledged drawer being in the palace.
fn assert_kept(arena: &Arena, ids: &[String]) {
    let lines = arena.run(&["export", "--accept-loss"]).expect(0).stdout;
    let missing: Vec<_> = ids.iter().filter(|id| !lines.contains(&format!("\"id\":\"{id}\""))).collect();
    assert!(missing.is_empty() && !ids.is_empty(), "{} of {} are lost: {missing:?}", missing.len(), ids.len());
}

/// Whoever is writing is not disturbed, and loses nothing: neither when somebody wants to rebuild meanwhile, nor by the
/// rebuild that comes when it has been killed.
#[test]
fn client_that_is_writing_loses_what_was_acknowledged() {
    let Some(judge) = Judge::here("a client that is writing") else { return };
    let arena = Arena::new("1.5.9");
    let mut writer = Writer::start(&judge, &arena, "meanwhile");
    for verb in [&REBUILD[..], &["repair", "--yes"], &["migrate", "--to", "chroma-1.0", "--yes", "--accept-loss"]] {
        writer.write(20);
        arena.run(verb).expect(6);
        writer.write(20);
    }
    let ids = writer.kill();
    arena.run(&REBUILD).expect(0);
    assert_kept(&arena, &ids);
    say(&format!("{} drawers were acknowledged while others wanted the palace, and are there", ids.len()));
}

/// A client comes between a kill and the recovery, on either side of the commit: it is in the way as long as it is
/// there, and what was acknowledged to it is in the palace afterwards, or nothing is done and both places are named.
#[test]
fn client_between_a_kill_and_the_recovery_loses_what_was_acknowledged() {
    let (Some(judge), true) =
        (Judge::here("a client before a recovery"), Strace::is_here("a client before a recovery"))
    else {
        return;
    };
    for call in ["linkat", "rename"] {
        let arena = Arena::new("1.5.9");
        kill(&arena, &REBUILD, &Point { call: call.into(), nth: 1 });
        let mut writer = Writer::start(&judge, &arena, call);
        writer.write(5);
        arena.run(&RECOVER).expect(6);
        let ids = writer.kill();
        let run = arena.run(&RECOVER);
        match run.code {
            Some(0) => {}
            Some(5) => drop(run.says(arena.palace().to_str().expect("text"))),
            _ => panic!("{call}: {run:#?}"),
        }
        assert_kept(&arena, &ids);
    }
}

/// I12, I16: of several recoveries at once one acts; the others wait, or find nothing to do, or are told. One of them
/// is killed besides.
#[test]
fn recoveries_at_one_moment_end_in_one_palace() {
    if !Strace::is_here("recoveries that race") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let mut endings = std::collections::BTreeMap::<Ending, u32>::new();
    for call in sample(&calls, 12, &mut Random::seeded()) {
        let arena = ground.fork();
        kill(&arena, &REBUILD, &call.point);
        let mut doomed = spawn(&mut arena.command(&RECOVER));
        let runs = std::thread::scope(|scope| {
            let others = scope.spawn(|| race(&arena, 3, &RECOVER));
            std::thread::sleep(std::time::Duration::from_millis(call.point.nth as u64 % 7));
            doomed.kill().expect("it can be killed");
            doomed.wait().expect("it ends");
            others.join().expect("nobody panics")
        });
        assert!(runs.iter().all(|run| matches!(run.code, Some(0 | 6))), "{runs:#?}");
        *endings.entry(ground.assert_recovers(&arena)).or_default() += 1;
    }
    say(&format!("recoveries that race, one of them killed: {endings:?}"));
    assert_eq!(endings.len(), 2, "only one of the two ends was ever reached: {endings:?}");
}
