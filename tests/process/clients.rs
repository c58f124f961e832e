//! The real chromadb writes to a palace while palacekeeper is at work on it, or between a kill and the recovery. Every
//! drawer that the client saw acknowledged is in the palace in the end, or in a folder that a person was told of.

use crate::support::palace::{
    Arena, Call, Content, Ending, Ground, Indexes, Injection, Judge, Point, REBUILD, RECOVER, RESUME, Random, Run,
    Strace, Sweep, Tree, calls_of, sample, say, spawn,
};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Mutex;
use std::time::Duration;

const DRAWERS: &str = "mempalace_drawers";
const NEW: &str = "made_by_a_client";

/// A client that goes on writing; ended with this value.
struct Client {
    process: Child,
    output: BufReader<ChildStdout>,
    acknowledged: BTreeSet<String>,
}

impl Client {
    /// Starts one and waits until some drawers are acknowledged.
    fn start(judge: &Judge, arena: &Arena, name: &str) -> Client {
        let client = Client::launch(judge, arena, name);
        assert!(!client.acknowledged.is_empty(), "the client cannot write");
        client
    }

    /// The same where it may be that it cannot write: it comes upon a palace while that is replaced.
    fn launch(judge: &Judge, arena: &Arena, name: &str) -> Client {
        let mut command = judge.client(arena, DRAWERS, name, "on");
        let mut process = spawn(command.stdin(Stdio::piped()).stderr(Stdio::null()));
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut client = Client { process, output, acknowledged: BTreeSet::new() };
        while client.acknowledged.len() < 5 && client.read_one() {}
        client
    }

    fn read_one(&mut self) -> bool {
        let mut line = String::new();
        let is_line = self.output.read_line(&mut line).expect("text") > 0;
        is_line && self.acknowledged.insert(line.trim().to_owned())
    }

    /// Lets it end; says what was acknowledged.
    fn end(mut self) -> BTreeSet<String> {
        drop(self.process.stdin.take());
        while self.read_one() {}
        std::mem::take(&mut self.acknowledged)
    }

    /// Kills it in the middle of whatever it is doing.
    fn kill(mut self) -> BTreeSet<String> {
        self.process.kill().expect("it runs");
        while self.read_one() {}
        std::mem::take(&mut self.acknowledged)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Drawers in a palace, or in what a folder keeps of one; none where there is no database.
fn drawers(palace: &Path) -> BTreeSet<String> {
    if !palace.join("chroma.sqlite3").exists() {
        return BTreeSet::new();
    }
    Content::of(palace).records.into_values().flatten().map(|record| record.id).collect()
}

#[track_caller]
fn assert_holds(found: &BTreeSet<String>, acknowledged: &BTreeSet<String>, what: &str) {
    let lost: Vec<_> = acknowledged.difference(found).collect();
    assert!(lost.is_empty(), "{what}: {} of {} drawers are lost: {lost:?}", lost.len(), acknowledged.len());
}

#[test]
fn palace_is_taken_from_a_client_that_writes() {
    let Some(judge) = Judge::here("a client that writes meanwhile") else { return };
    let arena = Arena::new("1.5.9");
    let client = Client::start(&judge, &arena, "meanwhile");
    let migrate = ["migrate", "--to", "chroma-0.6", "--yes", "--accept-loss"];
    for command in [&REBUILD[..], &migrate] {
        arena.run(command).expect(6).says(&format!("process {}", client.process.id()));
        arena.run(&["log"]).expect(0).says("No operations on record.");
    }
    let acknowledged = client.end();
    assert!(acknowledged.len() > 100, "it wrote only {} drawers", acknowledged.len());
    assert_holds(&drawers(&arena.palace()), &acknowledged, "refused");
    arena.run(&REBUILD).expect(0);
    assert_holds(&drawers(&arena.palace()), &acknowledged, "rebuilt");
    say(&format!("a client wrote {} drawers meanwhile", acknowledged.len()));
}

/// A client that is killed leaves a journal behind, or a write half done; what it was told of is there.
#[test]
fn drawer_of_a_client_that_was_killed_is_lost() {
    let Some(judge) = Judge::here("a client that is killed") else { return };
    let arena = Arena::new("1.5.9");
    let acknowledged = Client::start(&judge, &arena, "killed").kill();
    arena.run(&REBUILD).expect(0);
    assert_holds(&drawers(&arena.palace()), &acknowledged, "rebuilt after the client was killed");
}

/// What a client may come upon: a palace whose rebuild was cut short anywhere.
fn cuts(ground: &Ground) -> Vec<Point> {
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let begun = calls.iter().position(|call| call.line.contains(".unborn")).expect("the operation begins");
    let is_swap = |call: &&Call| call.point.call == "linkat";
    let swap = calls.iter().position(|call| is_swap(&call)).expect("the old database is linked aside");
    let points = |calls: &[Call]| calls.iter().map(|call| call.point.clone()).collect::<Vec<_>>();
    let mut random = Random::seeded();
    let spread = sample(&points(&calls[begun..swap]), 4, &mut random);
    let replace = calls.iter().find(|call| call.point.call == "rename").expect("one rename decides");
    // Behind the commit and before the new database: whatever a client writes then stands in the way.
    let between = vec![replace.point.clone(); 2];
    [spread, sample(&points(&calls[swap..]), 8, &mut random), between].concat()
}

/// The verbs that a person may go on with.
const VERBS: [&[&str]; 3] = [&RECOVER, &RESUME, &REBUILD];

#[test]
fn drawer_that_was_acknowledged_before_the_recovery_is_lost() {
    let what = "a client between a kill and the recovery";
    let Some(judge) = Judge::here(what) else { return };
    if !Strace::is_here(what) {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let sweep = Sweep::new("clients", "drawer_that_was_acknowledged");
    let codes = Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    sweep.share(cuts(&ground).iter().enumerate(), |(number, point)| {
        sweep.attempt(&[point], || {
            let arena = ground.killed(point);
            let acknowledged = visit(&judge, &arena, number);
            let verb = VERBS[number % VERBS.len()];
            let before = Tree::of(&arena.palace());
            let run = arena.run(verb);
            let how = format!("{} exit {:?}", verb.join(" "), run.code.unwrap_or(-1));
            *codes.lock().expect("nobody panics while holding it").entry(how).or_default() += 1;
            assert_holds(&drawers(&arena.palace()), &acknowledged, &format!("{verb:?}: {run:#?}"));
            ending(&arena, &before, &run)
        });
    });
    say(&format!("{what}: {:?}", codes.into_inner().expect("nobody panicked")));
    sweep.report(what);
}

/// A client opens the palace, writes, and goes away: it ends, or it is killed, or it has made a collection of its own.
fn visit(judge: &Judge, arena: &Arena, number: usize) -> BTreeSet<String> {
    let collection = match number % 3 {
        0 => return Client::start(judge, arena, "visitor").kill(),
        1 => NEW,
        _ => DRAWERS,
    };
    let run = Run::of(&mut judge.client(arena, collection, "visitor", "3")).expect(0);
    run.stdout.lines().map(str::to_owned).collect()
}

/// Either a person is told what stands in the way, and everything is where it was; or nothing is left to do.
fn ending(arena: &Arena, before: &Tree, run: &Run) -> Ending {
    if run.code == Some(5) {
        assert!(run.stderr.contains("chroma.sqlite3"), "nobody is told what stands in the way: {run:#?}");
        before.assert_untouched(&Tree::of(&arena.palace()), "what was refused");
        arena.run(&["status"]).expect(4).says("recover");
        return Ending::Old;
    }
    assert!(matches!(run.code, Some(0 | 1)), "{run:#?}");
    arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
    arena.run(&RECOVER).expect(0).says("Nothing was cut short.");
    if run.code == Some(0) { Ending::New } else { Ending::Old }
}

/// How long a client stays that has come during a rebuild.
#[derive(Clone, Copy, Debug)]
enum Stay {
    ForAMoment,
    OverTheEnd,
}

/// Each call takes so many microseconds that a client has the time to come just before it.
const STAYS: [(&str, u32, Stay); 5] = [
    ("pwrite64", 12_000, Stay::ForAMoment),
    ("linkat", 3_000_000, Stay::OverTheEnd),
    ("rename", 3_000_000, Stay::ForAMoment),
    ("rename", 3_000_000, Stay::OverTheEnd),
    ("rmdir", 3_000_000, Stay::OverTheEnd),
];

/// A client does not ask for any lock, so it may open a palace that is being rebuilt. What it wrote to the old database
/// is in the palace, or in the folder that the rebuild names.
#[test]
fn drawer_that_was_acknowledged_during_a_rebuild_is_lost() {
    let what = "a client that comes during a rebuild";
    let Some(judge) = Judge::here(what) else { return };
    if !Strace::is_here(what) {
        return;
    }
    let mut wrote = 0;
    for (call, delay_us, stay) in STAYS {
        let arena = Arena::new("1.5.9");
        let slowly = Injection::DelayFrom(Point { call: call.into(), nth: 1 }, delay_us);
        let (landed, acknowledged) = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                while !arena.operation().exists() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let client = Client::launch(&judge, &arena, "during");
                std::thread::sleep(Duration::from_millis(300));
                match stay {
                    Stay::ForAMoment => Err(client.end()),
                    Stay::OverTheEnd => Ok(client),
                }
            });
            let landed = Strace(&arena).inject(&REBUILD, &[slowly]);
            std::thread::sleep(Duration::from_millis(300));
            (landed, client.join().expect("the client writes").map_or_else(|gone| gone, Client::end))
        });
        let run = &landed.run;
        assert!(matches!(run.code, Some(0 | 1 | 4 | 6)), "{run:#?}");
        arena.run(&RECOVER).expect(0);
        let mut found = drawers(&arena.palace());
        let folder = arena.operation();
        let is_named = [&run.stdout, &run.stderr].iter().any(|text| text.contains(&*folder.to_string_lossy()));
        if is_named {
            found.extend(["backup", "aside"].iter().flat_map(|part| drawers(&folder.join(part))));
        }
        let count = acknowledged.len();
        wrote += usize::from(count > 0);
        assert_holds(&found, &acknowledged, &format!("{call} took long: {run:#?}"));
        let code = run.code.unwrap_or(-1);
        say(&format!("a client wrote {count} drawers ({stay:?}) when {call} took long: exit {code}"));
    }
    assert!(wrote > 2, "only {wrote} clients could write during a rebuild");
}
