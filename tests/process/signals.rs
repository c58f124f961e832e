//! Signals that ask the program to stop: between two steps it does, with its journal at rest.

use crate::support::palace::{
    Arena, Call, Ending, Ground, Indexes, Injection, Landed, Point, REBUILD, RECOVER, RESUME, Random, Run, Strace,
    Sweep, calls_of, sample, spawn,
};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// A person presses Control-C, or the machine shuts down, in the middle of many steps.
#[test]
fn signal_leaves_an_operation_that_cannot_be_ended() {
    for signal in ["INT", "TERM"] {
        for (verb, outcome) in [(&["recover"][..], "rolled back"), (&RESUME, "completed")] {
            let arena = Arena::unpack("chroma-1.5.9-survive");
            let ground = Ground::new(arena, Indexes::Copied);
            let arena = ground.fork();
            let run = signal_half_way(&arena, signal);
            assert_eq!(run.code, Some(130), "SIG{signal}: {run:#?}");
            assert!(run.stderr.contains("recover"), "nobody is told what to do: {}", run.stderr);
            ground.assert_complete(&arena);
            let status = arena.run(&["status", "--json"]).expect(4).json();
            assert_eq!(status["interrupted"]["torn_bytes"], 0, "the journal is at rest");
            arena.run(verb).expect(0).says(outcome);
            let wanted = if outcome == "completed" { Ending::New } else { Ending::Old };
            assert_eq!(ground.assert_ended(&arena), wanted);
        }
    }
}

/// Starts a rebuild of a thousand steps and signals it when some are done.
fn signal_half_way(arena: &Arena, signal: &str) -> Run {
    let mut command = arena.command(&["rebuild", "--yes", "--batch-bytes", "1"]);
    let child = spawn(&mut command);
    let journal = arena.operation().join("journal");
    let patience = Instant::now() + Duration::from_secs(60);
    // The plan takes about 60 bytes for each of its steps, and a step that is done 21.
    let planned = loop {
        match fs::metadata(&journal) {
            Ok(metadata) => break metadata.len(),
            Err(_) => assert!(Instant::now() < patience, "the rebuild never began"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    while fs::metadata(&journal).is_ok_and(|metadata| metadata.len() < planned + 40 * 21) {
        assert!(Instant::now() < patience, "the rebuild does not go on");
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the signal was not sent");
    Run::from(child.wait_with_output().expect("it ends"))
}

/// What asks a program to stop: a person, the machine, a terminal that is closed.
const SIGNALS: [&str; 3] = ["SIGINT", "SIGTERM", "SIGHUP"];

/// Runs a command and signals it at a call.
fn signal_at(arena: &Arena, arguments: &[&str], point: &Point, signal: &'static str) -> Landed {
    let landed = Strace(arena).inject(arguments, &[Injection::Signal(point.clone(), signal)]);
    assert!(landed.log.lines().count() >= point.nth, "the signal was not sent: {landed:#?}");
    landed
}

fn census(arena: &Arena, arguments: &[&str]) -> Vec<Call> {
    let (run, calls) = calls_of(arena, arguments);
    run.expect(0);
    calls
}

/// Wherever a signal comes: before the commit the operation is interrupted, after it there is only the way to the end.
#[test]
fn signal_at_a_system_call_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("signals at system calls") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let calls = census(&ground.fork(), &REBUILD);
    let first = calls.iter().position(|call| call.line.contains(".unborn")).expect("the operation begins");
    let calls = sample(&calls[first..], 60, &mut Random::seeded());
    let sweep = Sweep::new("signals", "signal_at_a_system_call");
    sweep.share(calls.iter().enumerate(), |(number, call)| {
        sweep.attempt(&[&call.point], || {
            let arena = ground.fork();
            let landed = signal_at(&arena, &REBUILD, &call.point, SIGNALS[number % SIGNALS.len()]);
            ground.assert_complete(&arena);
            let verb = if number % 2 == 0 { &RECOVER[..] } else { &RESUME };
            assert_stopped_or_ended(&ground, &arena, &landed, verb)
        });
    });
    sweep.report("signals");
}

fn assert_stopped_or_ended(ground: &Ground, arena: &Arena, landed: &Landed, verb: &[&str]) -> Ending {
    match (landed.run.code, landed.run.signal) {
        (Some(130), None) => {
            assert_at_rest(arena, landed);
            arena.run(verb).expect(0);
            let ending = ground.assert_ended(arena);
            assert_eq!(ending == Ending::New, verb == RESUME, "stopped before the commit");
            ending
        }
        (Some(0), None) => {
            assert_eq!(ground.assert_ended(arena), Ending::New, "it came too late to stop anything");
            Ending::New
        }
        // Before the operation begins nobody listens, and the signal ends the program as it ends any.
        (None, Some(1 | 2 | 15)) => {
            assert_eq!(ground.assert_recovers(arena), Ending::Old);
            Ending::Old
        }
        _ => panic!("{landed:#?}"),
    }
}

/// What was stopped says so, and what to do; its journal ends with a whole record.
fn assert_at_rest(arena: &Arena, landed: &Landed) {
    assert!(landed.run.stderr.contains("recover"), "nobody is told what to do: {landed:#?}");
    let status = arena.run(&["status", "--json"]).expect(4).json();
    assert_eq!(status["interrupted"]["torn_bytes"], 0, "the journal is at rest: {status}");
}

/// A recovery that is asked to stop stops between two steps, or ends; what is begun again ends as it would have.
#[test]
fn signal_in_a_recovery_changes_how_it_ends() {
    if !Strace::is_here("signals in a recovery") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let calls = census(&ground.fork(), &REBUILD);
    let mut random = Random::seeded();
    let sweep = Sweep::new("signals", "signal_in_a_recovery");
    let moments = [
        ("linkat", "/aside/", &RECOVER[..], Ending::Old),
        ("rename", "/chroma.sqlite3", &RECOVER, Ending::New),
        ("copy_file_range", "/staging/", &RESUME, Ending::New),
    ];
    for (call, part, verb, wanted) in moments {
        let cut = calls.iter().find(|one| one.point.call == call && one.line.contains(part)).expect("such a call");
        let killed = || ground.killed(&cut.point);
        let points = sample(&census(&killed(), verb), 20, &mut random);
        sweep.share(points.iter().enumerate(), |(number, one)| {
            sweep.attempt(&[&cut.point, &one.point], || {
                let arena = killed();
                let landed = signal_at(&arena, verb, &one.point, SIGNALS[number % SIGNALS.len()]);
                ground.assert_complete(&arena);
                match (landed.run.code, landed.run.signal) {
                    (Some(130), None) => assert_at_rest(&arena, &landed),
                    (Some(0), None) | (None, Some(1 | 2 | 15)) => {}
                    _ => panic!("{landed:#?}"),
                }
                arena.run(verb).expect(0);
                assert_eq!(ground.assert_ended(&arena), wanted, "{landed:#?}");
                wanted
            });
        });
    }
    sweep.report("signals in a recovery");
}
