//! How findings are told: to a person, and to a program.

use super::plans::{proposal_json, proposal_lines};
use super::report::{Mended, Report};
use crate::keeper::Diagnosis;
use crate::store::chroma::check::{Checked, Depth, Finding, Remedy, Severity};
use serde_json::{Value, json};
use std::path::Path;

/// A person reads this many ids; a program gets all of them.
const IDS_MAX: usize = 5;

impl Report {
    pub(super) fn checked(&self, palace: &Path, depth: Depth, checked: &Checked) {
        let is_sound = checked.findings.iter().all(|finding| finding.severity == Severity::Note);
        let text = || {
            let format = checked.format.as_deref().unwrap_or("?");
            let mut lines: Vec<String> = checked.findings.iter().flat_map(lines).collect();
            lines.push(match (is_sound, depth) {
                (true, Depth::Deep) => format!("A sound palace of chromadb {format}: everything was read."),
                (true, _) => format!("Nothing is wrong at a glance (chromadb {format}); --deep reads everything."),
                (false, _) => format!("{} findings (chromadb {format}).", checked.findings.len()),
            });
            lines.join("\n")
        };
        self.result(text, || {
            json!({
                "palace": palace.display().to_string(),
                "chromadb": checked.format,
                "depth": if depth == Depth::Deep { "deep" } else { "quick" },
                "sound": is_sound,
                "findings": checked.findings.iter().map(finding_json).collect::<Vec<_>>(),
            })
        });
    }

    pub(super) fn diagnosis(&self, diagnosis: &Diagnosis) {
        let text = || {
            let mut all = told("mends", &diagnosis.mended);
            all.extend(told("leaves", &diagnosis.left));
            if let Some(proposal) = &diagnosis.proposal {
                all.extend(proposal_lines(proposal));
                all.extend(proposal.plan.steps.iter().zip(1..).map(|(step, number)| format!("{number:>4}  {step}")));
                all.extend(proposal.losses.iter().map(|loss| format!("not carried over: {loss}")));
            } else {
                all.push("There is nothing to mend.".into());
            }
            all.join("\n")
        };
        self.result(text, || {
            json!({
                "mended": codes(&diagnosis.mended),
                "left": codes(&diagnosis.left),
                "proposal": diagnosis.proposal.as_ref().map(proposal_json),
            })
        });
    }

    pub(super) fn nothing_to_mend(&self, left: &[Finding]) {
        let text = || {
            let mut all: Vec<String> = left.iter().flat_map(lines).collect();
            all.push("There is nothing to mend.".into());
            all.join("\n")
        };
        self.result(text, || json!({ "mended": [], "left": codes(left), "outcome": null }));
    }
}

impl Mended {
    pub(super) fn lines(&self) -> Vec<String> {
        [told("mends", &self.mended), told("leaves", &self.left)].concat()
    }
}

fn told(verb: &str, findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|one| format!("{verb} {}: {} ({})", one.code.name(), one.subject, one.evidence)).collect()
}

/// Names of the kinds of these findings, each once.
pub(super) fn codes(findings: &[Finding]) -> Vec<&'static str> {
    let mut codes: Vec<&str> = findings.iter().map(|finding| finding.code.name()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn lines(finding: &Finding) -> Vec<String> {
    let (code, severity) = (finding.code.name(), finding.severity.name());
    let mut lines = vec![
        format!("{severity}: {code}: {}", finding.subject),
        format!("  {} {}", finding.what(), finding.meaning()),
        format!("  evidence: {}", finding.evidence),
    ];
    if !finding.ids.is_empty() {
        let more = finding.ids.len().saturating_sub(IDS_MAX);
        let more = if more > 0 { format!(" … and {more} more; --json lists all") } else { String::new() };
        let ids = finding.ids.iter().take(IDS_MAX).map(String::as_str).collect::<Vec<_>>();
        lines.push(format!("  records: {}{more}", ids.join(", ")));
    }
    lines.push(format!("  survives: {}", finding.survives()));
    lines.extend(mend(finding).map(|mend| format!("  to mend it: {mend}")));
    lines
}

fn mend(finding: &Finding) -> Option<String> {
    match finding.remedy {
        _ if finding.severity == Severity::Note => None,
        Remedy::Nothing => None,
        Remedy::Amend | Remedy::Index | Remedy::Rebuild => {
            Some(format!("palacekeeper repair --only {}", finding.code.name()))
        }
        Remedy::Recover => Some("palacekeeper recover".into()),
        Remedy::Person(what) => Some(what.into()),
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "code": finding.code.name(),
        "severity": finding.severity.name(),
        "subject": finding.subject,
        "what": finding.what(),
        "meaning": finding.meaning(),
        "evidence": finding.evidence,
        "survives": finding.survives(),
        "ids": finding.ids,
        "count": finding.count,
        "mend": mend(finding),
    })
}
