//! Signals that ask the program to stop: between two steps it does, with its journal at rest.

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use support::palace::{
    Arena, Ending, Ground, Indexes, Injection, Landed, REBUILD, RESUME, Random, Run, Strace, Sweep, calls_of, sample,
    spawn,
};

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

/// Wherever a signal comes: before the commit the operation is interrupted, after it there is only the way to the end.
#[test]
fn signal_at_a_system_call_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("signals at system calls") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let (run, calls) = calls_of(&ground.fork(), &REBUILD);
    run.expect(0);
    let first = calls.iter().position(|call| call.line.contains(".unborn")).expect("the operation begins");
    let calls = sample(&calls[first..], 60, &mut Random::seeded());
    let sweep = Sweep::new("signals", "signal_at_a_system_call");
    sweep.share(calls.iter().enumerate(), |(number, call)| {
        sweep.attempt(&[&call.point], || {
            let arena = ground.fork();
            let signal = if number % 2 == 0 { "SIGINT" } else { "SIGTERM" };
            let landed = Strace(&arena).inject(&REBUILD, &[Injection::Signal(call.point.clone(), signal)]);
            assert!(landed.log.lines().count() >= call.point.nth, "the signal was not sent: {landed:#?}");
            ground.assert_complete(&arena);
            assert_stopped_or_ended(&ground, &arena, &landed, signal)
        });
    });
    sweep.report("signals");
}

fn assert_stopped_or_ended(ground: &Ground, arena: &Arena, landed: &Landed, signal: &str) -> Ending {
    match (landed.run.code, landed.run.signal) {
        (Some(130), None) => {
            arena.run(&["status"]).expect(4);
            assert_eq!(ground.assert_recovers(arena), Ending::Old, "stopped before the commit");
            Ending::Old
        }
        (Some(0), None) => {
            assert_eq!(ground.assert_ended(arena), Ending::New, "it came too late to stop anything");
            Ending::New
        }
        // Before the operation begins nobody listens, and the signal ends the program as it ends any.
        (None, Some(2 | 15)) => {
            assert_eq!(ground.assert_recovers(arena), Ending::Old);
            Ending::Old
        }
        _ => panic!("{signal}: {landed:#?}"),
    }
}
