//! The voice: what a person types, reads and is asked.
//!
//! Results go to stdout, everything else to stderr. With `--json` stdout carries one JSON object.

mod args;
mod exit;
mod progress;
mod report;

pub use exit::Exit;

use crate::keeper::{self, Ended, Error, Keeper, Proposal};
use crate::store::chroma::Limits;
use args::{Args, Command, RebuildArgs, RecoverArgs};
use clap::Parser;
use progress::Progress;
use report::Report;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the command line and says how it went.
pub fn main() -> ExitCode {
    raise_file_limit();
    let args = Args::parse();
    let report = Report::new(args.format(), args.verbosity());
    let exit = match run(&args, &report) {
        Ok(exit) => exit,
        Err(error) => {
            report.error(&error);
            Exit::of(&error)
        }
    };
    exit.into()
}

/// Every collection with an index keeps two files open while a palace is read, and the usual limit allows for 500 of
/// them.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }); // not being allowed to changes nothing
}

fn run(args: &Args, report: &Report) -> Result<Exit, Error> {
    let palace = args.palace();
    match &args.command {
        Command::Status => status(palace, report),
        Command::Log { operation } => log(palace, *operation, report),
        Command::Recover(recover_args) => recover(palace, recover_args, report),
        Command::Rebuild(rebuild_args) => rebuild(palace, rebuild_args, report),
    }
}

fn status(palace: PathBuf, report: &Report) -> Result<Exit, Error> {
    let history = keeper::look(&palace)?;
    report.status(&history);
    Ok(match history.interrupted() {
        Some(_) => Exit::Interrupted,
        None => Exit::Done,
    })
}

fn log(palace: PathBuf, operation: Option<u32>, report: &Report) -> Result<Exit, Error> {
    let history = keeper::look(&palace)?;
    match operation {
        Some(number) => report.operation(history.operation(number)?),
        None => report.log(&history),
    }
    Ok(Exit::Done)
}

fn recover(palace: PathBuf, args: &RecoverArgs, report: &Report) -> Result<Exit, Error> {
    let Some(preview) = keeper::preview_recovery(&palace)? else {
        if !args.plan && !keeper::look(&palace)?.leftovers.is_empty() {
            Keeper::lock(&palace)?; // which tidies the keep
        }
        report.nothing_to_recover();
        return Ok(Exit::Done);
    };
    if args.plan {
        report.preview(&preview);
        return Ok(Exit::Interrupted);
    }
    let mut keeper = Keeper::lock(&palace)?;
    let mut progress = Progress::recovering(report);
    let ended = match args.resume {
        true => keeper.resume(&mut progress)?,
        false => keeper.recover(&mut progress)?,
    };
    progress.finish();
    match ended {
        Some(ended) => report.ended(&ended, &[]),
        None => report.nothing_to_recover(),
    }
    Ok(Exit::Done)
}

fn rebuild(palace: PathBuf, args: &RebuildArgs, report: &Report) -> Result<Exit, Error> {
    let limits = Limits { batch_bytes: args.batch_bytes };
    if args.plan {
        let mut reading = Progress::reading(report);
        let proposal = keeper::propose_rebuild(&palace, limits, &mut || reading.record())?;
        reading.finish();
        report.proposal(&proposal);
        return Ok(if proposal.losses.is_empty() { Exit::Done } else { Exit::Damage });
    }
    let mut keeper = Keeper::lock(&palace)?;
    if let Some(ended) = keeper.recover(&mut ())? {
        report.recovered_first(&ended);
    }
    let mut reading = Progress::reading(report);
    let proposal = keeper.propose_rebuild(limits, &mut || reading.record())?;
    reading.finish();
    if !proposal.losses.is_empty() && !args.accept_loss {
        report.refuse_losses(&proposal);
        return Ok(Exit::Refused);
    }
    if !args.yes && !consents(report, &proposal)? {
        return Ok(Exit::Usage);
    }
    let losses = proposal.losses.clone();
    let ended = execute(&mut keeper, proposal, report)?;
    report.ended(&ended, &losses);
    Ok(Exit::Done)
}

fn execute(keeper: &mut Keeper, proposal: Proposal, report: &Report) -> Result<Ended, Error> {
    let mut progress = Progress::working(report, proposal.plan.steps.iter().map(crate::engine::Step::weight).sum());
    let ended = keeper.rebuild(proposal, &mut progress);
    progress.finish();
    ended
}

/// Asks once, on stderr. Where nobody can answer, nobody has consented.
fn consents(report: &Report, proposal: &Proposal) -> Result<bool, Error> {
    if !io::stdin().is_terminal() {
        report.refusal("nobody is here to ask: say --yes to go ahead. Nothing was touched", Exit::Usage);
        return Ok(false);
    }
    report.question(proposal);
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
