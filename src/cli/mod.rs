//! The voice: what a person types, reads and is asked.
//!
//! Results go to stdout, everything else to stderr. With `--json` stdout carries one JSON object.

mod args;
mod exchange;
mod exit;
mod findings;
mod plans;
mod progress;
mod report;
mod restore;
mod sweep;

pub use exit::Exit;

use crate::disk::{Disk, RealDisk};
use crate::keeper::{self, Diagnosis, Error, Keeper, Means, Proposal};
use crate::store::chroma::Limits;
use crate::store::chroma::check::{Code, Depth, Severity};
use args::{Args, CheckArgs, Command, GoArgs, MigrateArgs, RecoverArgs, RepairArgs};
use clap::Parser;
use progress::Progress;
use report::{Carried, Mended, Report};
use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

/// What every verb works on.
#[derive(Clone, Copy)]
struct Call<'c> {
    disk: &'c dyn Disk,
    palace: &'c Path,
    report: &'c Report,
}

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
    let call = Call { disk: &RealDisk::new(), palace: &palace, report };
    match &args.command {
        Command::Check(check_args) => check(call, check_args),
        Command::Repair(repair_args) => repair(call, repair_args),
        Command::Status => status(call),
        Command::Log { operation } => log(call, *operation),
        Command::Recover(recover_args) => recover(call, recover_args),
        Command::Sweep(sweep_args) => sweep::sweep(call, sweep_args),
        Command::Rebuild(rebuild_args) => rebuild(call, rebuild_args),
        Command::Export(export_args) => exchange::export(call, export_args),
        Command::Import(import_args) => exchange::import(call, import_args),
        Command::Migrate(migrate_args) => migrate(call, migrate_args),
        Command::Restore(restore_args) => restore::restore(call, restore_args),
    }
}

fn status(Call { disk, palace, report }: Call) -> Result<Exit, Error> {
    let history = keeper::look(disk, palace)?;
    report.status(&history);
    Ok(match history.interrupted() {
        Some(_) => Exit::Interrupted,
        None => Exit::Done,
    })
}

fn log(call: Call, operation: Option<u32>) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    let history = keeper::look(disk, palace)?;
    match operation {
        Some(number) => report.operation(history.operation(number)?),
        None => report.log(&history),
    }
    Ok(Exit::Done)
}

fn recover(call: Call, args: &RecoverArgs) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    let Some(preview) = keeper::preview_recovery(disk, palace)? else {
        if !args.plan && !keeper::look(disk, palace)?.leftovers.is_empty() {
            Keeper::lock(disk, palace)?; // which tidies the keep
        }
        report.nothing_to_recover();
        return Ok(Exit::Done);
    };
    if args.plan {
        report.preview(&preview);
        return Ok(Exit::Interrupted);
    }
    let mut keeper = Keeper::lock(disk, palace)?;
    let mut progress = Progress::recovering(report);
    let ended = match args.resume {
        true => keeper.resume(&mut progress)?,
        false => keeper.recover(&mut progress)?,
    };
    progress.finish();
    match ended {
        Some(ended) => report.ended(&ended, &Carried::nothing(), None),
        None => report.nothing_to_recover(),
    }
    Ok(Exit::Done)
}

fn check(call: Call, args: &CheckArgs) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    let depth = if args.deep { Depth::Deep } else { Depth::Quick };
    let reading = Progress::reading(report);
    let checked = keeper::check(disk, palace, depth, &mut || reading.record())?;
    reading.finish();
    report.checked(palace, depth, &checked);
    let has = |code| checked.findings.iter().any(|finding| finding.code == code);
    Ok(match checked.findings.iter().map(|finding| finding.severity).max() {
        _ if has(Code::OperationInterrupted) => Exit::Interrupted,
        None | Some(Severity::Note) => Exit::Done,
        Some(_) => Exit::Damage,
    })
}

fn repair(call: Call, args: &RepairArgs) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    let reading = Progress::reading(report);
    if let Some(moved) = keeper::find_moved(disk, palace).filter(|_| !args.go.plan) {
        let (from, to) = (moved.copy.display().to_string(), moved.palace.display().to_string());
        let agrees = || may_ask(report) && agrees(report, &format!("Put {from} back to {to}? [y/N]"));
        if !args.go.yes && !agrees() {
            return Ok(Exit::Usage);
        }
        moved.put_back(disk, &mut || reading.record())?;
        report.note(&format!("{from} is sound, and is back in its place, {to}."));
    }
    let means = means(call, &args.go)?;
    if args.go.plan {
        let diagnosis = keeper::propose_repair(disk, palace, &args.only, means, &mut || reading.record())?;
        reading.finish();
        report.diagnosis(&diagnosis);
        return Ok(if diagnosis.proposal.is_some() { Exit::Damage } else { nothing_to_mend(&diagnosis) });
    }
    let Some(mut keeper) = lock(call, &args.go)? else { return Ok(Exit::Usage) };
    let diagnosis = keeper.propose_repair(&args.only, means, &mut || reading.record())?;
    reading.finish();
    let exit = nothing_to_mend(&diagnosis);
    let Diagnosis { mended, left, proposal } = diagnosis;
    let Some(proposal) = proposal else {
        report.nothing_to_mend(&left);
        return Ok(exit);
    };
    let about = Mended { mended, left };
    go_ahead(&mut keeper, proposal, &args.go, Some(&about), report)
}

/// Whether a person has to do something about what a program cannot mend.
fn nothing_to_mend(diagnosis: &Diagnosis) -> Exit {
    let is_grave = diagnosis.left.iter().any(|finding| finding.severity > Severity::Note);
    if is_grave { Exit::Refused } else { Exit::Done }
}

fn rebuild(call: Call, args: &GoArgs) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    let means = means(call, args)?;
    let reading = Progress::reading(report);
    if args.plan {
        let proposal = keeper::propose_rebuild(disk, palace, means, &mut || reading.record())?;
        reading.finish();
        report.proposal(&proposal);
        return Ok(if proposal.losses.is_empty() { Exit::Done } else { Exit::Damage });
    }
    let Some(mut keeper) = lock(call, args)? else { return Ok(Exit::Usage) };
    let proposal = keeper.propose_rebuild(means, &mut || reading.record())?;
    reading.finish();
    go_ahead(&mut keeper, proposal, args, None, report)
}

fn migrate(call: Call, args: &MigrateArgs) -> Result<Exit, Error> {
    match migrate_to(call, args) {
        Err(error @ Error::AlreadyThere { .. }) => {
            call.report.nothing_to_do(&error);
            Ok(Exit::Done)
        }
        migrated => migrated,
    }
}

fn migrate_to(call: Call, args: &MigrateArgs) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    let (to, go) = (args.to.into(), &args.go);
    let means = means(call, go)?;
    let reading = Progress::reading(report);
    if go.plan {
        let proposal = keeper::propose_migration(disk, palace, to, means, &mut || reading.record())?;
        reading.finish();
        report.proposal(&proposal);
        return Ok(if proposal.losses.is_empty() { Exit::Done } else { Exit::Damage });
    }
    let Some(mut keeper) = lock(call, go)? else { return Ok(Exit::Usage) };
    let proposal = keeper.propose_migration(to, means, &mut || reading.record())?;
    reading.finish();
    go_ahead(&mut keeper, proposal, go, None, report)
}

/// Looked at before anything is locked or recovered: what makes no sense is refused first.
fn means(call: Call, args: &GoArgs) -> Result<Means, Error> {
    let means = Means::from(Limits { batch_bytes: args.batch_bytes });
    match &args.staging {
        Some(directory) => means.with_staging(call.disk, call.palace, directory),
        None => Ok(means),
    }
}

/// Locks the palace and recovers it; `None` where consent will be needed and nobody is here to give it.
fn lock<'c>(call: Call<'c>, args: &GoArgs) -> Result<Option<Keeper<'c>>, Error> {
    match args.yes || may_ask(call.report) {
        true => lock_now(call).map(Some),
        false => Ok(None),
    }
}

/// Locks the palace and recovers it.
fn lock_now(call: Call<'_>) -> Result<Keeper<'_>, Error> {
    let mut keeper = Keeper::lock(call.disk, call.palace)?;
    recover_first(&mut keeper, call.report)?;
    Ok(keeper)
}

fn recover_first(keeper: &mut Keeper, report: &Report) -> Result<(), Error> {
    if let Some(ended) = keeper.recover(&mut ())? {
        report.recovered_first(&ended);
    }
    Ok(())
}

/// Asks where it has to, and runs what was proposed.
fn go_ahead(
    keeper: &mut Keeper,
    proposal: Proposal,
    args: &GoArgs,
    about: Option<&Mended>,
    report: &Report,
) -> Result<Exit, Error> {
    if !proposal.losses.is_empty() && !args.accept_loss {
        report.refuse_losses(&proposal);
        return Ok(Exit::Refused);
    }
    if !args.yes && !consents(report, &proposal, about) {
        return Ok(Exit::Usage);
    }
    let (losses, restored, finds) = (proposal.losses.clone(), proposal.restored.clone(), proposal.finds.clone());
    let notes = proposal.notes.clone();
    let mut progress = Progress::working(report, proposal.plan.steps.iter().map(crate::engine::Step::weight).sum());
    let ended = keeper.run(proposal, &mut progress);
    progress.finish();
    let took = progress.took();
    report.ended(&ended?, &Carried { losses: &losses, restored: &restored, finds: &finds, notes: &notes, took }, about);
    Ok(Exit::Done)
}

/// Whether somebody is here to be asked.
fn may_ask(report: &Report) -> bool {
    let is_here = io::stdin().is_terminal();
    if !is_here {
        report.refusal("nobody is here to ask: say --yes to go ahead. Nothing was touched", Exit::Usage);
    }
    is_here
}

/// Asks once, on stderr.
fn consents(report: &Report, proposal: &Proposal, about: Option<&Mended>) -> bool {
    agrees(report, &report.question(proposal, about))
}

fn agrees(report: &Report, question: &str) -> bool {
    report.ask(question);
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}
