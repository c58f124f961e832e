//! Says what was found and done, to a person or to a program.

use super::findings;
use super::plans::{
    found_json, loss_lines, note_lines, proposal_json, proposal_lines, restored_json, restored_lines, took_json,
};
use super::sweep::stays_json;
use crate::engine::{Direction, Mark, Outcome, Verdict};
use crate::keeper::{Ended, Error, History, OperationView, Preview, Proposal, left_behind};
use crate::store::chroma::check::Finding;
use crate::store::chroma::{Finds, Loss};
use crate::store::lines::Summary;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

/// How much is said beside the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verbosity {
    Normal,
    Quiet,
}

/// Where everything is said.
pub(super) struct Report {
    format: Format,
    verbosity: Verbosity,
    /// The operation that was recovered before the command itself could begin.
    recovered: Cell<Option<u32>>,
}

/// What a repair is about.
pub(super) struct Mended {
    /// Findings it mends.
    pub(super) mended: Vec<Finding>,
    /// Findings it leaves.
    pub(super) left: Vec<Finding>,
}

/// What became of what was there.
pub(super) struct Carried<'c> {
    /// What could not be carried over.
    pub(super) losses: &'c [Loss],
    /// What was found elsewhere than where it should have been.
    pub(super) restored: &'c [(String, u64)],
    /// Rows and values among these.
    pub(super) finds: &'c Finds,
    /// What has to be changed in MemPalace's own settings.
    pub(super) notes: &'c [String],
    /// The steps, with how long each took.
    pub(super) took: &'c [(String, Duration)],
}

impl Carried<'_> {
    pub(super) fn nothing() -> Self {
        const NONE: &Finds = &Finds { listed: Vec::new(), more: 0 };
        Carried { losses: &[], restored: &[], finds: NONE, notes: &[], took: &[] }
    }
}

impl Report {
    pub(super) fn new(format: Format, verbosity: Verbosity) -> Report {
        Report { format, verbosity, recovered: Cell::new(None) }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.verbosity == Verbosity::Quiet
    }

    /// A remark on stderr.
    pub(super) fn note(&self, text: &str) {
        if !self.is_quiet() {
            say(io::stderr(), text);
        }
    }

    pub(super) fn error(&self, error: &Error) {
        self.refusal(&error.to_string(), super::Exit::of(error));
    }

    /// Something was not done, and why.
    pub(super) fn refusal(&self, why: &str, exit: super::Exit) {
        let why = self.apart_from_recovery(why);
        if self.format == Format::Json {
            say(io::stdout(), json!({ "error": why, "exit": exit as u8 }));
        }
        say(io::stderr(), format_args!("palacekeeper: {why}"));
    }

    /// Who recovered an operation first must not claim that nothing at all was done.
    fn apart_from_recovery(&self, why: &str) -> String {
        match self.recovered.get() {
            Some(number) => format!("{why}\nThat is apart from operation {number}, which was recovered first"),
            None => why.to_owned(),
        }
    }

    pub(super) fn result(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) {
        match self.format {
            Format::Text => say(io::stdout(), text()),
            Format::Json => say(io::stdout(), json()),
        }
    }

    pub(super) fn status(&self, history: &History) {
        let text = || match history.interrupted() {
            Some(operation) => interrupted_text(operation),
            None => format!(
                "Nothing is unfinished. {} operations on record, {}",
                history.operations.len(),
                space_text(history)
            ),
        };
        self.result(text, || {
            json!({
                "palace": history.palace.display().to_string(),
                "keep": history.keep.as_ref().map(|keep| keep.display().to_string()),
                "interrupted": history.interrupted().map(operation_json),
                "operations": history.operations.len(),
                "bytes": history.bytes(),
                "sweepable_bytes": history.sweepable_bytes(),
            })
        });
    }

    pub(super) fn log(&self, history: &History) {
        let line = |one: &OperationView| {
            let bytes = HumanBytes(one.bytes).to_string();
            format!("{:>4}  {:<10} {}  {:<12} {bytes}", one.number, one.title, when(one.began_at), state(one))
        };
        let text = || match history.operations.is_empty() {
            true => "No operations on record.".into(),
            false => {
                let lines = history.operations.iter().map(line);
                lines.chain([format!("In all: {}", space_text(history))]).collect::<Vec<_>>().join("\n")
            }
        };
        self.result(text, || {
            json!({
                "bytes": history.bytes(),
                "sweepable_bytes": history.sweepable_bytes(),
                "operations": history.operations.iter().map(operation_json).collect::<Vec<_>>(),
            })
        });
    }

    pub(super) fn operation(&self, operation: &OperationView) {
        let text = || {
            let mut lines = vec![format!("{} {}: {}", operation.number, operation.title, state(operation))];
            lines.extend(operation.aborted.iter().map(|why| format!("gave up because: {why}")));
            let steps = operation.steps.iter().zip(1..);
            lines.extend(steps.map(|((title, mark), number)| format!("{number:>4}  {:<9} {title}", mark_word(*mark))));
            lines.extend(account_lines(operation));
            lines.extend(operation.holds.iter().map(|hold| format!("sweep leaves it: {hold}")));
            lines.push(format!("folder: {} ({})", operation.folder.display(), HumanBytes(operation.bytes)));
            lines.join("\n")
        };
        self.result(text, || operation_json(operation));
    }

    pub(super) fn preview(&self, preview: &Preview) {
        let acts: Vec<_> = preview.steps.iter().filter(|(_, verdict)| *verdict != Verdict::Pass).collect();
        let text = || {
            let way = way(preview.direction);
            let head =
                format!("Operation {} ({}) was cut short. Recovery would go {way}:", preview.number, preview.title);
            let steps = acts.iter().map(|(title, verdict)| format!("  {} {title}", verdict_word(*verdict)));
            [head].into_iter().chain(steps).collect::<Vec<_>>().join("\n")
        };
        self.result(text, || {
            let steps = acts.iter().map(|(title, verdict)| json!({ "step": title, "act": verdict_word(*verdict) }));
            json!({
                "operation": preview.number,
                "title": preview.title,
                "direction": way(preview.direction),
                "steps": steps.collect::<Vec<_>>(),
            })
        });
    }

    pub(super) fn nothing_to_recover(&self) {
        self.result(|| "Nothing was cut short.".into(), || json!({ "recovered": null }));
    }

    /// What an export cannot write out: on stderr, since the drawers go to stdout.
    pub(super) fn losses(&self, losses: &[Loss]) {
        say(io::stderr(), loss_lines(losses).join("\n"));
    }

    pub(super) fn refuse_export(&self, losses: &[Loss]) {
        let losses = losses.len();
        let why = format!("{losses} things cannot be written out, so nothing was; say --accept-loss to leave them out");
        say(io::stderr(), format_args!("palacekeeper: {why}"));
    }

    /// What was written out: on stderr where the drawers themselves went to stdout.
    pub(super) fn exported(&self, summary: &Summary, path: Option<&Path>) {
        let text = || format!("{} records of {} collections are written out.", summary.records, summary.digests.len());
        let json = || json!({ "records": summary.records, "digests": summary.digests });
        match path {
            Some(_) => self.result(text, json),
            None => self.note(&text()),
        }
    }

    /// What was asked for is there already.
    pub(super) fn nothing_to_do(&self, why: &Error) {
        self.result(|| why.to_string(), || json!({ "operation": null, "why": why.to_string() }));
    }

    pub(super) fn recovered_first(&self, ended: &Ended) {
        self.recovered.set(Some(ended.number));
        self.note(&ended_text(ended));
    }

    pub(super) fn ended(&self, ended: &Ended, carried: &Carried, about: Option<&Mended>) {
        let text = || {
            let mut lines = vec![ended_text(ended)];
            lines.extend(about.into_iter().flat_map(Mended::lines));
            lines.extend(restored_lines(carried.restored, carried.finds));
            lines.extend(loss_lines(carried.losses));
            lines.extend(note_lines(carried.notes));
            lines.join("\n")
        };
        self.result(text, || {
            json!({
                "operation": ended.number,
                "title": ended.title,
                "outcome": ended.outcome.to_string(),
                "aborted": ended.aborted,
                "torn_bytes": ended.torn_bytes,
                "folder": ended.folder.display().to_string(),
                "left_behind": ended.left_behind.as_ref().map(|path| path.display().to_string()),
                "mended": about.map(|about| findings::codes(&about.mended)).unwrap_or_default(),
                "left": about.map(|about| findings::codes(&about.left)).unwrap_or_default(),
                "restored": restored_json(carried.restored),
                "found": found_json(carried.finds),
                "found_more": carried.finds.more,
                "notes": carried.notes,
                "took": took_json(carried.took),
                "losses": carried.losses.iter().map(Loss::to_string).collect::<Vec<_>>(),
            })
        });
    }

    pub(super) fn proposal(&self, proposal: &Proposal) {
        let text = || {
            let mut lines = proposal_lines(proposal);
            lines.extend(proposal.plan.steps.iter().zip(1..).map(|(step, number)| format!("{number:>4}  {step}")));
            lines.extend(restored_lines(&proposal.restored, &proposal.finds));
            lines.extend(loss_lines(&proposal.losses));
            lines.join("\n")
        };
        self.result(text, || proposal_json(proposal));
    }

    /// What cannot be carried over, and how to go ahead in spite of it.
    pub(super) fn refuse_losses(&self, proposal: &Proposal) {
        self.result(|| loss_lines(&proposal.losses).join("\n"), || proposal_json(proposal));
        let losses = proposal.losses.len();
        let why = format!(
            "{losses} things cannot be carried over, so nothing was touched. Say --accept-loss to go ahead without \
             them; the old palace is kept in the operation's folder."
        );
        say(io::stderr(), format_args!("palacekeeper: {}", self.apart_from_recovery(&why)));
    }

    /// A question, whatever else is quiet.
    pub(super) fn ask(&self, question: &str) {
        say(io::stderr(), question);
    }

    pub(super) fn question(&self, proposal: &Proposal, about: Option<&Mended>) -> String {
        let lines = about.into_iter().flat_map(Mended::lines).chain(proposal_lines(proposal)).collect::<Vec<_>>();
        format!("{}\nGo ahead? [y/N]", lines.join("\n"))
    }
}

/// Prints a line. That nobody can read it changes nothing about what was done, nor about the exit code.
fn say(mut stream: impl Write, text: impl Display) {
    let _ = writeln!(stream, "{text}").and_then(|()| stream.flush());
}

/// What was written down when the operation began.
fn account_lines(operation: &OperationView) -> Vec<String> {
    match &operation.account {
        Some(account) => [restored_lines(&account.restored, &Finds::default()), loss_lines(&account.losses)].concat(),
        None => vec!["What it could not carry over was not written down.".into()],
    }
}

fn operation_json(operation: &OperationView) -> Value {
    let steps = operation.steps.iter().map(|(title, mark)| json!({ "step": title, "mark": mark_word(*mark) }));
    json!({
        "operation": operation.number,
        "title": operation.title,
        "began_at": when(operation.began_at),
        "outcome": operation.outcome.map(|outcome| outcome.to_string()),
        "aborted": operation.aborted,
        "committed": operation.is_committed,
        "torn_bytes": operation.torn_bytes,
        "bytes": operation.bytes,
        "restored": operation.account.as_ref().map(|account| restored_json(&account.restored)),
        "losses": operation.account.as_ref().map(|account| &account.losses),
        "stays": stays_json(&operation.holds),
        "folder": operation.folder.display().to_string(),
        "steps": steps.collect::<Vec<_>>(),
    })
}

fn space_text(history: &History) -> String {
    let (bytes, free) = (HumanBytes(history.bytes()), HumanBytes(history.sweepable_bytes()));
    format!("{bytes} kept; palacekeeper sweep could free {free}.")
}

fn interrupted_text(operation: &OperationView) -> String {
    let what = match operation.is_committed {
        true => "It is committed: palacekeeper recover finishes it.",
        false => "The palace is untouched: palacekeeper recover undoes it, palacekeeper recover --resume goes on.",
    };
    format!(
        "Operation {} ({}) was cut short after {} of {} steps; it takes {}. {what}",
        operation.number,
        operation.title,
        operation.done(),
        operation.steps.len(),
        HumanBytes(operation.bytes)
    )
}

fn ended_text(ended: &Ended) -> String {
    let torn = match ended.torn_bytes {
        0 => String::new(),
        bytes => format!(" {bytes} bytes of an unfinished record were dropped from its journal."),
    };
    let what = match ended.outcome {
        Outcome::Completed if ended.title == "import" => "is completed. Its journal is in",
        Outcome::Completed => "is completed. What it replaced is kept in",
        Outcome::RolledBack => "is rolled back: the palace is as it was. Its journal is in",
    };
    let left = ended.left_behind.as_ref().map_or(String::new(), |annex| format!(" {}.", left_behind(annex)));
    format!("Operation {} ({}) {what} {}.{torn}{left}", ended.number, ended.title, ended.folder.display())
}

fn state(operation: &OperationView) -> String {
    operation.outcome.map_or("interrupted".into(), |outcome| outcome.to_string())
}

fn mark_word(mark: Mark) -> &'static str {
    match mark {
        Mark::Untouched => "untouched",
        Mark::Intended => "intended",
        Mark::Done => "done",
        Mark::Undone => "undone",
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Apply => "do",
        Verdict::Revert => "undo",
        Verdict::Settle => "record",
        Verdict::Pass => "leave",
        Verdict::Refuse => "refuse",
    }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "forward",
        Direction::Back => "back",
    }
}

pub(super) fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".into(), |time| time.to_string())
}
