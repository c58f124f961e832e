//! Starts several keepers on one palace at the same moment: one acts at a time, the others wait their turn or are
//! refused, and nobody builds on what another one is half-way through (I16).

use crate::support::palace::{
    Arena, Call, Content, Ending, Ground, Indexes, Injection, Point, REBUILD, RECOVER, RESUME, Random, Run, Strace,
    Sweep, Tree, calls_of, kill, sample, say, spawn,
};
use std::process::Child;
use std::time::Duration;

/// So many keepers at once.
const RIVALS: usize = 4;
const ROUNDS: usize = 5;

/// Starts all commands before it waits for any.
fn race<'a>(arena: &Arena, commands: impl IntoIterator<Item = &'a [&'a str]>) -> Vec<Run> {
    let running: Vec<Child> = commands.into_iter().map(|words| spawn(&mut arena.command(words))).collect();
    running.into_iter().map(|child| Run::from(child.wait_with_output().expect("it ends"))).collect()
}

fn ended_with(runs: &[Run], code: i32) -> usize {
    runs.iter().filter(|run| run.code == Some(code)).count()
}

/// Folders of operations in the keep.
fn folders(arena: &Arena) -> Vec<String> {
    Tree::of(&arena.keep()).top().into_iter().filter(|name| name.contains('-')).collect()
}

/// Everybody's operation is in the log, whole and completed, and what nobody knows of is not there.
fn assert_all_ended(arena: &Arena, completed: usize) {
    arena.run(&["status"]).expect(0).says("Nothing is unfinished.");
    let log = arena.run(&["log", "--json"]).expect(0).json();
    let operations = log["operations"].as_array().expect("operations");
    let ended = operations.iter().filter(|one| one["outcome"] == "completed").count();
    assert_eq!((operations.len(), ended), (completed, completed), "{log:#}");
    assert_eq!(folders(arena).len(), completed, "{:?}", folders(arena));
    let before = Tree::of(arena.root());
    arena.run(&RECOVER).expect(0).says("Nothing was cut short.");
    before.assert_untouched(&Tree::of(arena.root()), "a recovery after the end");
}

/// A rebuild of a small palace takes less time than somebody is waited for, so some or all come to act, one after
/// another: each on the palace that the one before left.
#[test]
fn rebuilds_that_start_together_act_together() {
    let template = Arena::new("1.5.9");
    let (content, mut counts) = (Content::of(&template.palace()), Vec::new());
    for round in 0..ROUNDS {
        let arena = template.fork();
        let runs = race(&arena, [&REBUILD[..]; RIVALS]);
        let acted = ended_with(&runs, 0);
        assert_eq!(acted + ended_with(&runs, 6), RIVALS, "round {round}: {runs:#?}");
        assert!(acted > 0, "round {round}: nobody acted: {runs:#?}");
        assert_all_ended(&arena, acted);
        content.assert_equals(&Content::of(&arena.palace()), &format!("round {round}"));
        counts.push(acted);
    }
    say(&format!("{RIVALS} rebuilds at once, {ROUNDS} times: so many of them acted: {counts:?}"));
}

/// Where the one that acts takes longer than somebody is waited for, the others are refused.
#[test]
fn rebuild_that_takes_long_is_joined_by_another() {
    if !Strace::is_here("rebuilds that start together and take long") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let content = Content::of(&arena.palace());
    let slowly = Injection::DelayFrom(Point { call: "pwrite64".into(), nth: 1 }, 20_000);
    let runs = std::thread::scope(|scope| {
        let start = |_| scope.spawn(|| Strace(&arena).inject(&REBUILD, std::slice::from_ref(&slowly)).run);
        let running: Vec<_> = (0..RIVALS).map(start).collect();
        running.into_iter().map(|thread| thread.join().expect("it ends")).collect::<Vec<_>>()
    });
    assert_eq!((ended_with(&runs, 0), ended_with(&runs, 6)), (1, RIVALS - 1), "{runs:#?}");
    assert_all_ended(&arena, 1);
    content.assert_equals(&Content::of(&arena.palace()), "one of them acted");
}

/// I16: between the opening of a lock file and the lock, the file may be exchanged; a lock on a file that nobody finds
/// any more guards nothing.
#[test]
fn lock_is_held_on_a_file_that_has_no_name_any_more() {
    if !Strace::is_here("a lock file that is exchanged") {
        return;
    }
    let arena = Arena::new("1.5.9");
    arena.run(&REBUILD).expect(0);
    let (lock, other) = (arena.keep().join("lock"), arena.root().join("other"));
    std::fs::write(&other, b"").expect("there is room");
    let slowly = Injection::DelayFrom(Point { call: "flock".into(), nth: 1 }, 1_500_000);
    let landed = std::thread::scope(|scope| {
        let keeper = scope.spawn(|| Strace(&arena).inject(&REBUILD, &[slowly]));
        std::thread::sleep(Duration::from_millis(700));
        std::fs::rename(&other, &lock).expect("it is ours");
        keeper.join().expect("it ends")
    });
    assert_eq!(landed.run.code, Some(0), "{landed:#?}");
    let locks = landed.log.lines().filter(|line| line.contains("flock(") && line.contains("/lock>")).count();
    assert_eq!(locks, 2, "the file that has the name now is locked as well: {landed:#?}");
}

/// An operation that was killed at the first call of this name whose line holds this text.
fn cut_short(ground: &Ground, calls: &[Call], call: &str, part: &str) -> (Arena, Point) {
    let cut = calls.iter().find(|one| one.point.call == call && one.line.contains(part)).expect("such a call");
    let arena = ground.killed(&cut.point);
    (arena, cut.point.clone())
}

const MOMENTS: [(&str, &str, Ending); 2] =
    [("linkat", "/aside/", Ending::Old), ("rename", "/chroma.sqlite3", Ending::New)];

#[test]
fn recoveries_that_start_together_act_together() {
    if !Strace::is_here("recoveries that start together") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    for (call, part, wanted) in MOMENTS {
        for round in 0..ROUNDS {
            let (arena, _) = cut_short(&ground, &calls, call, part);
            let runs = race(&arena, [&RECOVER[..]; RIVALS]);
            let acted = runs.iter().filter(|run| run.code == Some(0) && !run.stdout.contains("Nothing was cut short"));
            assert_eq!(acted.count(), 1, "round {round}: {runs:#?}");
            assert_eq!(ended_with(&runs, 0) + ended_with(&runs, 6), RIVALS, "round {round}: {runs:#?}");
            assert_eq!(ground.assert_ended(&arena), wanted, "round {round}");
        }
    }
}

/// One goes back, one goes on, one begins anew: whoever comes first decides, and the others find what it left.
#[test]
fn recovery_and_resume_of_one_operation_make_a_mixture() {
    if !Strace::is_here("a recovery and a resume at once") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let mut ends = Vec::new();
    for (call, part, wanted) in MOMENTS {
        for round in 0..ROUNDS {
            let (arena, _) = cut_short(&ground, &calls, call, part);
            let verbs = if round % 2 == 0 { [&RECOVER[..], &RESUME] } else { [&RESUME, &RECOVER[..]] };
            let runs = race(&arena, verbs);
            assert_eq!(ended_with(&runs, 0) + ended_with(&runs, 6), 2, "{runs:#?}");
            let ending = ground.assert_ended(&arena);
            assert!(ending == wanted || wanted == Ending::Old, "behind the commit there is only one way: {runs:#?}");
            ends.push(ending);
        }
    }
    say(&format!("a recovery and a resume at once: {ends:?}"));
}

/// The kernel frees a dead keeper's locks, and whoever waited for them goes on from wherever it died.
#[test]
fn recovery_that_is_killed_beside_others_changes_how_it_ends() {
    if !Strace::is_here("a recovery that is killed beside others") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let mut random = Random::seeded();
    let sweep = Sweep::new("rivals", "recovery_that_is_killed_beside_others");
    for (call, part, wanted) in MOMENTS {
        let (arena, cut) = cut_short(&ground, &calls, call, part);
        let (run, calls) = calls_of(&arena, &RECOVER);
        run.expect(0);
        sweep.share(sample(&calls, 10, &mut random), |one| {
            sweep.attempt(&[&cut, &one.point], || {
                let arena = ground.killed(&cut);
                let others = race_behind(&arena, &one.point);
                assert_eq!(ended_with(&others, 0) + ended_with(&others, 6), 2, "{others:#?}");
                ground.assert_complete(&arena);
                assert_eq!(ground.assert_recovers(&arena), wanted);
                wanted
            });
        });
    }
    sweep.report("recoveries beside one that is killed");
}

/// Starts a recovery that is killed at a point, and as soon as it has the palace, two others; says how these ended.
fn race_behind(arena: &Arena, point: &Point) -> Vec<Run> {
    let signature = || std::fs::read(arena.keep().join("lock")).expect("a lock file");
    let before = signature();
    std::thread::scope(|scope| {
        let victim = scope.spawn(|| kill(arena, &RECOVER, point));
        while signature() == before && !victim.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let others = race(arena, [&RECOVER[..]; 2]);
        victim.join().expect("the kill lands");
        others
    })
}
