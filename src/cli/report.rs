//! Says what was found and done, to a person or to a program.

use super::findings;
use crate::engine::{Direction, Mark, Outcome, Verdict};
use crate::keeper::{Ended, Error, History, OperationView, Preview, Proposal};
use crate::store::chroma::check::Finding;
use crate::store::chroma::{Finds, Found, LISTED_MAX, Loss, Route};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::{self, Write};

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
}

impl Carried<'_> {
    pub(super) fn nothing() -> Self {
        const NONE: &Finds = &Finds { listed: Vec::new(), more: 0 };
        Carried { losses: &[], restored: &[], finds: NONE }
    }
}

/// A person reads this many lines of a list; a program gets all of it.
const LINES_MAX: usize = 20;

impl Report {
    pub(super) fn new(format: Format, verbosity: Verbosity) -> Report {
        Report { format, verbosity }
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
        if self.format == Format::Json {
            say(io::stdout(), json!({ "error": why, "exit": exit as u8 }));
        }
        say(io::stderr(), format_args!("palacekeeper: {why}"));
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
                "Nothing is unfinished. {} operations on record, {} kept.",
                history.operations.len(),
                HumanBytes(history.operations.iter().map(|operation| operation.bytes).sum())
            ),
        };
        self.result(text, || {
            json!({
                "palace": history.palace.display().to_string(),
                "keep": history.keep.as_ref().map(|keep| keep.display().to_string()),
                "interrupted": history.interrupted().map(operation_json),
                "operations": history.operations.len(),
                "bytes": history.operations.iter().map(|operation| operation.bytes).sum::<u64>(),
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
            false => history.operations.iter().map(line).collect::<Vec<_>>().join("\n"),
        };
        self.result(
            text,
            || json!({ "operations": history.operations.iter().map(operation_json).collect::<Vec<_>>() }),
        );
    }

    pub(super) fn operation(&self, operation: &OperationView) {
        let text = || {
            let mut lines = vec![format!("{} {}: {}", operation.number, operation.title, state(operation))];
            lines.extend(operation.aborted.iter().map(|why| format!("gave up because: {why}")));
            let steps = operation.steps.iter().zip(1..);
            lines.extend(steps.map(|((title, mark), number)| format!("{number:>4}  {:<9} {title}", mark_word(*mark))));
            lines.push(format!("folder: {}", operation.folder.display()));
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

    pub(super) fn recovered_first(&self, ended: &Ended) {
        self.note(&ended_text(ended));
    }

    pub(super) fn ended(&self, ended: &Ended, carried: &Carried, about: Option<&Mended>) {
        let text = || {
            let mut lines = vec![ended_text(ended)];
            lines.extend(about.into_iter().flat_map(Mended::lines));
            lines.extend(restored_lines(carried.restored, carried.finds));
            lines.extend(loss_lines(carried.losses));
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
                "mended": about.map(|about| findings::codes(&about.mended)).unwrap_or_default(),
                "left": about.map(|about| findings::codes(&about.left)).unwrap_or_default(),
                "restored": restored_json(carried.restored),
                "found": found_json(carried.finds),
                "found_more": carried.finds.more,
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
        say(
            io::stderr(),
            format_args!(
                "palacekeeper: {losses} things cannot be carried over, so nothing was touched. Say --accept-loss to go \
                 ahead without them; the old palace is kept in the operation's folder."
            ),
        );
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

pub(super) fn proposal_lines(proposal: &Proposal) -> Vec<String> {
    let mut lines = vec![format!(
        "A palace of chromadb {} in {} collections. The {} takes {} steps and {} ({} are free).",
        proposal.format,
        proposal.collections.len(),
        proposal.title,
        proposal.plan.steps.len(),
        HumanBytes(proposal.bytes_needed),
        HumanBytes(proposal.bytes_free),
    )];
    for collection in &proposal.collections {
        let pending = match collection.pending {
            0 => String::new(),
            writes => format!(" and {writes} waiting writes"),
        };
        lines.push(format!(
            "  {}: {} records{pending}; {}",
            collection.name,
            collection.records,
            route_text(&collection.route)
        ));
    }
    lines
}

fn route_text(route: &Route) -> String {
    match route {
        Route::Segment => "its index is sound and is copied".into(),
        Route::Kept => "its index stays as it is".into(),
        Route::Unpersisted => "it has no index yet".into(),
        Route::Built { why } => format!("its index is not sound ({why}) and is built anew"),
    }
}

fn restored_lines(restored: &[(String, u64)], finds: &Finds) -> Vec<String> {
    let mut lines: Vec<_> = restored.iter().map(|(what, count)| format!("restored: {count} {what}")).collect();
    lines.extend(finds.listed.iter().take(LINES_MAX).map(|found| format!("  {found}")));
    let more = finds.listed.len().saturating_sub(LINES_MAX) as u64 + finds.more;
    if more > 0 {
        lines.push(format!("  … and {more} more; --json lists up to {LISTED_MAX}"));
    }
    lines
}

/// Rows and values that were found elsewhere than where they should have been, each with its source.
fn found_json(finds: &Finds) -> Vec<Value> {
    let one = |found: &Found| {
        json!({
            "table": found.table,
            "row": found.row,
            "collection": found.collection,
            "id": found.id,
            "key": found.key,
            "source": found.source.to_string(),
        })
    };
    finds.listed.iter().map(one).collect()
}

fn restored_json(restored: &[(String, u64)]) -> Vec<Value> {
    restored.iter().map(|(what, count)| json!({ "what": what, "count": count })).collect()
}

fn loss_lines(losses: &[Loss]) -> Vec<String> {
    let mut lines = Vec::new();
    if !losses.is_empty() {
        lines.push(format!("Not carried over: {}", losses.len()));
        lines.extend(losses.iter().take(LINES_MAX).map(|loss| format!("  {loss}")));
    }
    if losses.len() > LINES_MAX {
        lines.push(format!("  … and {} more; --json lists all", losses.len() - LINES_MAX));
    }
    lines
}

pub(super) fn proposal_json(proposal: &Proposal) -> Value {
    let collections = proposal.collections.iter().map(|one| {
        json!({ "name": one.name, "records": one.records, "pending": one.pending, "index": route_text(&one.route) })
    });
    json!({
        "format": proposal.format,
        "collections": collections.collect::<Vec<_>>(),
        "steps": proposal.plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bytes_needed": proposal.bytes_needed,
        "bytes_free": proposal.bytes_free,
        "restored": restored_json(&proposal.restored),
        "found": found_json(&proposal.finds),
        "found_more": proposal.finds.more,
        "losses": proposal.losses.iter().map(Loss::to_string).collect::<Vec<_>>(),
    })
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
        "folder": operation.folder.display().to_string(),
        "steps": steps.collect::<Vec<_>>(),
    })
}

fn interrupted_text(operation: &OperationView) -> String {
    let what = match operation.is_committed {
        true => "It is committed: palacekeeper recover finishes it.",
        false => "The palace is untouched: palacekeeper recover undoes it, palacekeeper recover --resume goes on.",
    };
    format!(
        "Operation {} ({}) was cut short after {} of {} steps. {what}",
        operation.number,
        operation.title,
        operation.done(),
        operation.steps.len()
    )
}

fn ended_text(ended: &Ended) -> String {
    let torn = match ended.torn_bytes {
        0 => String::new(),
        bytes => format!(" {bytes} bytes of an unfinished record were dropped from its journal."),
    };
    let what = match ended.outcome {
        Outcome::Completed => "is completed. What it replaced is kept in",
        Outcome::RolledBack => "is rolled back: the palace is as it was. Its journal is in",
    };
    format!("Operation {} ({}) {what} {}.{torn}", ended.number, ended.title, ended.folder.display())
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

fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".into(), |time| time.to_string())
}
