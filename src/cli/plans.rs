//! What is proposed, carried over, found elsewhere and lost, as lines for a person and as JSON.

use crate::keeper::{Outside, Proposal};
use crate::store::chroma::{Finds, Found, LISTED_MAX, Loss, Route};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::fmt::Display;
use std::time::Duration;

/// A person reads this many lines of a list; a program gets all of it.
const LINES_MAX: usize = 20;

pub(super) fn proposal_lines(proposal: &Proposal) -> Vec<String> {
    let becomes = match proposal.target == proposal.format {
        true => String::new(),
        false => format!(", to become one of {}", kind(&proposal.target)),
    };
    let mut lines = vec![format!(
        "A palace of {}{becomes} in {} collections. The {} takes {} steps and {} ({} are free).",
        kind(&proposal.format),
        proposal.collections.len(),
        proposal.title,
        proposal.plan.steps.len(),
        HumanBytes(proposal.bytes_needed),
        HumanBytes(proposal.bytes_free),
    )];
    lines.extend(proposal.outside.as_ref().map(|outside| {
        let (needed, free) = (HumanBytes(outside.bytes_needed), HumanBytes(outside.bytes_free));
        format!("It builds in {}, which takes {needed} there ({free} are free).", outside.directory.display())
    }));
    lines.extend(note_lines(&proposal.notes));
    for collection in &proposal.collections {
        let pending = match collection.pending {
            0 => String::new(),
            writes => format!(" and {writes} waiting writes"),
        };
        lines.push(format!(
            "  {}: {} records{pending}; {}",
            collection.name,
            collection.records,
            route_text(collection.route.as_ref())
        ));
    }
    lines
}

/// The steps of an operation that was run here, in seconds.
pub(super) fn took_json(took: &[(String, Duration)]) -> Vec<Value> {
    took.iter().map(|(step, took)| json!({ "step": step, "seconds": took.as_secs_f64() })).collect()
}

/// What a person should change in MemPalace's own settings.
pub(super) fn note_lines(notes: &[String]) -> impl Iterator<Item = String> {
    notes.iter().map(|note| format!("Note: {note}."))
}

/// What a format is called.
fn kind(format: &str) -> String {
    if format.starts_with(|first: char| first.is_ascii_digit()) {
        format!("chromadb {format}")
    } else {
        format.replace("exact", "sqlite_exact")
    }
}

fn route_text(route: Option<&Route>) -> String {
    match route {
        None => "it gets no index: a search reads every vector".into(),
        Some(Route::Segment) => "its index is sound and is copied".into(),
        Some(Route::Kept) => "its index stays as it is".into(),
        Some(Route::Unpersisted) => "it has no index yet".into(),
        Some(Route::Built { why }) => format!("its index is built anew ({why})"),
    }
}

pub(super) fn restored_lines(restored: &[(String, u64)], finds: &Finds) -> Vec<String> {
    let mut lines: Vec<_> = restored.iter().map(|(what, count)| format!("restored: {count} {what}")).collect();
    lines.extend(finds.listed.iter().take(LINES_MAX).map(|found| format!("  {found}")));
    let more = finds.listed.len().saturating_sub(LINES_MAX) as u64 + finds.more;
    if more > 0 {
        lines.push(format!("  … and {more} more; --json lists up to {LISTED_MAX}"));
    }
    lines
}

/// Rows and values that were found elsewhere than where they should have been, each with its source.
pub(super) fn found_json(finds: &Finds) -> Vec<Value> {
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

pub(super) fn restored_json(restored: &[(String, u64)]) -> Vec<Value> {
    restored.iter().map(|(what, count)| json!({ "what": what, "count": count })).collect()
}

pub(super) fn loss_lines<L: Display>(losses: &[L]) -> Vec<String> {
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
        let index = route_text(one.route.as_ref());
        json!({ "name": one.name, "records": one.records, "pending": one.pending, "index": index })
    });
    json!({
        "format": proposal.format,
        "target": proposal.target,
        "collections": collections.collect::<Vec<_>>(),
        "steps": proposal.plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bytes_needed": proposal.bytes_needed,
        "bytes_free": proposal.bytes_free,
        "notes": proposal.notes,
        "staging": proposal.outside.as_ref().map(|outside| {
            let Outside { directory, bytes_needed, bytes_free } = outside;
            json!({
                "directory": directory.display().to_string(),
                "bytes_needed": bytes_needed,
                "bytes_free": bytes_free,
            })
        }),
        "restored": restored_json(&proposal.restored),
        "found": found_json(&proposal.finds),
        "found_more": proposal.finds.more,
        "losses": proposal.losses.iter().map(Loss::to_string).collect::<Vec<_>>(),
    })
}
