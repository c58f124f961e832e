//! `restore`: says what comes back and what gives way, asks, and lets it be done.

use super::args::RestoreArgs;
use super::progress::Progress;
use super::report::Carried;
use super::{Call, Exit, agrees, lock_now, may_ask};
use crate::engine::Step;
use crate::keeper::{self, Error, Holding, Restoration};
use indicatif::HumanBytes;
use serde_json::{Value, json};

pub(super) fn restore(call: Call, args: &RestoreArgs) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    let reading = Progress::reading(report);
    if args.plan {
        let restoration = keeper::propose_restore(disk, palace, args.operation, &mut || reading.record())?;
        reading.finish();
        let steps = restoration.proposal.plan.steps.iter().zip(1..);
        let steps = steps.map(|(step, number)| format!("{number:>4}  {step}"));
        report.result(
            || lines(&restoration).into_iter().chain(steps).collect::<Vec<_>>().join("\n"),
            || as_json(&restoration),
        );
        return Ok(Exit::Done);
    }
    keeper::look(disk, palace)?.operation(args.operation)?; // nobody is asked about what is not there
    if !args.yes && !may_ask(report) {
        return Ok(Exit::Usage);
    }
    let mut keeper = lock_now(call)?;
    let restoration = keeper.propose_restore(args.operation, &mut || reading.record())?;
    reading.finish();
    let told = lines(&restoration).join("\n");
    match args.yes {
        true => report.note(&told),
        false if agrees(report, &format!("{told}\nGo ahead? [y/N]")) => {}
        false => return Ok(Exit::Usage),
    }
    let proposal = restoration.proposal;
    let mut progress = Progress::working(report, proposal.plan.steps.iter().map(Step::weight).sum());
    let ended = keeper.run(proposal, &mut progress);
    progress.finish();
    report.ended(&ended?, &Carried::nothing(), None);
    Ok(Exit::Done)
}

fn lines(restoration: &Restoration) -> Vec<String> {
    let Restoration { number, title, from, then, now, notes, proposal } = restoration;
    let mut lines = vec![format!(
        "What operation {number} ({title}) replaced comes back from {}. That takes {} steps and {} ({} are free).",
        from.display(),
        proposal.plan.steps.len(),
        HumanBytes(proposal.bytes_needed),
        HumanBytes(proposal.bytes_free),
    )];
    lines.push("What comes back:".into());
    lines.extend(holding_lines(then, "the palace has not now"));
    lines.push("What is in the palace now, and will be in the folder of the new operation:".into());
    lines.extend(holding_lines(now, "will not be in the palace then"));
    lines.extend(notes.iter().map(|note| format!("Note: {note}.")));
    lines
}

fn holding_lines(holdings: &Option<Vec<Holding>>, alone: &str) -> Vec<String> {
    let line = |one: &Holding| {
        let pending = match one.pending {
            0 => String::new(),
            writes => format!(" and {writes} waiting writes"),
        };
        let alone = match one.alone {
            0 => String::new(),
            records => format!("; {records} of them {alone}"),
        };
        format!("  {}: {} records{pending}, digest {}{alone}", one.name, one.records, one.digest)
    };
    match holdings {
        None => vec!["  it cannot be read".into()],
        Some(holdings) if holdings.is_empty() => vec!["  no collection".into()],
        Some(holdings) => holdings.iter().map(line).collect(),
    }
}

fn as_json(restoration: &Restoration) -> Value {
    let Restoration { number, title, from, then, now, notes, proposal } = restoration;
    json!({
        "restores": number,
        "title": title,
        "from": from.display().to_string(),
        "then": then.as_deref().map(holdings_json),
        "now": now.as_deref().map(holdings_json),
        "notes": notes,
        "format": proposal.format,
        "steps": proposal.plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bytes_needed": proposal.bytes_needed,
        "bytes_free": proposal.bytes_free,
    })
}

fn holdings_json(holdings: &[Holding]) -> Vec<Value> {
    let one = |one: &Holding| {
        json!({
            "name": one.name,
            "records": one.records,
            "pending": one.pending,
            "digest": one.digest.to_string(),
            "alone": one.alone,
        })
    };
    holdings.iter().map(one).collect()
}
