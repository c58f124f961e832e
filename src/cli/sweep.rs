//! `sweep`: what is asked, what is said, and how it ends.

use super::args::{GoneArgs, SweepArgs};
use super::plans::loss_lines;
use super::report::{Report, when};
use super::{Call, Exit, agrees, may_ask};
use crate::keeper::{self, Candidate, Choice, Consent, Error, Hold, Sweeper, USUAL_DAYS, USUAL_NEWEST};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::path::Path;

/// What is said of a sweep.
struct Told<'t> {
    candidates: &'t [Candidate],
    /// What became of the folders, or would.
    tense: Tense,
    /// The command that makes the usual choice, if anything would go, where no other choice was made.
    suggestion: Option<Option<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tense {
    Would,
    Did,
}

pub(super) fn sweep(Call { disk, palace, report }: Call, args: &SweepArgs) -> Result<Exit, Error> {
    let (choice, consent) = (choice(&args.gone), consent(args));
    if args.plan || choice == Choice::Usual {
        let candidates = keeper::plan_sweep(disk, palace, &choice, consent)?;
        let suggestion = (choice == Choice::Usual).then(|| suggestion(palace, &candidates));
        Told { candidates: &candidates, tense: Tense::Would, suggestion }.tell(report);
        return Ok(exit(&choice, &candidates));
    }
    if !args.yes && !may_ask(report) {
        return Ok(Exit::Usage);
    }
    let Some(mut sweeper) = Sweeper::lock(disk, palace)? else {
        let candidates = keeper::plan_sweep(disk, palace, &choice, consent)?; // which knows whether a number is missing
        Told { candidates: &candidates, tense: Tense::Did, suggestion: None }.tell(report);
        return Ok(Exit::Done);
    };
    if let Some(ended) = sweeper.recover(&mut ())? {
        report.recovered_first(&ended);
    }
    let mut candidates = keeper::plan_sweep(disk, palace, &choice, consent)?;
    let agreed: Vec<u32> = candidates.iter().filter(|one| one.goes()).map(|one| one.operation.number).collect();
    if !agreed.is_empty() {
        if !args.yes && !agrees(report, &question(&candidates)) {
            return Ok(Exit::Usage);
        }
        for swept in sweeper.sweep(&choice, consent, &agreed)? {
            let place = candidates.iter().position(|one| one.operation.number == swept.operation.number);
            if let Some(place) = place {
                candidates[place] = swept;
            }
        }
    }
    Told { candidates: &candidates, tense: Tense::Did, suggestion: None }.tell(report);
    Ok(exit(&choice, &candidates))
}

fn choice(args: &GoneArgs) -> Choice {
    match args {
        GoneArgs { older_than: Some(days), .. } => Choice::OlderThan { days: *days },
        GoneArgs { keep: Some(newest), .. } => Choice::AllBut { newest: *newest },
        GoneArgs { numbers, .. } if !numbers.is_empty() => Choice::Numbers(numbers.clone()),
        _ => Choice::Usual,
    }
}

fn consent(args: &SweepArgs) -> Consent {
    if args.accept_loss { Consent::Losses } else { Consent::Copies }
}

/// Whoever names a number wants that folder gone, and has to hear it where it stays.
fn exit(choice: &Choice, candidates: &[Candidate]) -> Exit {
    let stays = candidates.iter().any(|one| one.is_chosen && !one.goes());
    match choice {
        Choice::Numbers(_) if stays => Exit::Refused,
        _ => Exit::Done,
    }
}

/// The whole command, with the palace it is about: whoever pastes it must not sweep another one.
fn suggestion(palace: &Path, candidates: &[Candidate]) -> Option<String> {
    let palace = palace.display().to_string().replace('\'', r"'\''");
    let numbers: Vec<_> =
        candidates.iter().filter(|one| one.goes()).map(|one| one.operation.number.to_string()).collect();
    (!numbers.is_empty()).then(|| format!("palacekeeper --palace '{palace}' sweep {}", numbers.join(" ")))
}

fn question(candidates: &[Candidate]) -> String {
    let told = Told { candidates, tense: Tense::Would, suggestion: None };
    format!("{}\nRemove for good? [y/N]", told.lines().join("\n"))
}

impl Told<'_> {
    fn tell(&self, report: &Report) {
        report.result(|| self.lines().join("\n"), || self.json());
    }

    fn lines(&self) -> Vec<String> {
        if self.candidates.is_empty() {
            return vec!["No operations on record.".into()];
        }
        let mut lines: Vec<String> = self.candidates.iter().flat_map(|one| self.about(one)).collect();
        let goes = self.candidates.iter().filter(|one| one.goes()).count();
        let what = if self.tense == Tense::Did { "removed" } else { "would be removed" };
        lines.push(format!("{goes} of {} folders {what}: {}", self.candidates.len(), HumanBytes(self.bytes())));
        lines.extend(self.suggestion.as_ref().map(|command| {
            format!(
                "Nothing was removed. The newest {USUAL_NEWEST} and everything younger than {USUAL_DAYS} days are \
                 usually kept: {}",
                command.as_ref().map_or("nothing else can go".into(), |command| format!("to do that, run {command}"))
            )
        }));
        lines
    }

    fn about(&self, one: &Candidate) -> Vec<String> {
        let operation = &one.operation;
        let bytes = HumanBytes(operation.bytes).to_string();
        let act = match (one.goes(), self.tense) {
            (true, Tense::Did) => "gone",
            (true, Tense::Would) => "goes",
            (false, _) => "stays",
        };
        let why = match (one.is_chosen, one.holds.as_slice()) {
            (false, []) => ": it is not meant".to_owned(),
            (_, holds) => holds.iter().map(|hold| format!(": {hold}")).collect(),
        };
        let begun = when(operation.began_at);
        let mut lines =
            vec![format!("{:>4}  {:<10} {begun}  {bytes:<12} {act}{why}", operation.number, operation.title)];
        if one.is_chosen && one.holds.iter().any(|hold| matches!(hold, Hold::Lossy(_))) {
            let losses = operation.account.iter().flat_map(|account| &account.losses).collect::<Vec<_>>();
            lines.extend(loss_lines(&losses).into_iter().map(|line| format!("      {line}")));
        }
        lines
    }

    fn bytes(&self) -> u64 {
        self.candidates.iter().filter(|one| one.goes()).map(|one| one.operation.bytes).sum()
    }

    fn json(&self) -> Value {
        let folders = self.candidates.iter().map(|one| {
            json!({
                "operation": one.operation.number,
                "title": one.operation.title,
                "began_at": when(one.operation.began_at),
                "bytes": one.operation.bytes,
                "folder": one.operation.folder.display().to_string(),
                "chosen": one.is_chosen,
                "goes": one.goes(),
                "stays": stays_json(&one.holds),
            })
        });
        json!({
            "removed": self.tense == Tense::Did,
            "bytes": self.bytes(),
            "folders": folders.collect::<Vec<_>>(),
            "suggestion": self.suggestion,
        })
    }
}

/// Why a folder stays.
pub(super) fn stays_json(holds: &[Hold]) -> Vec<Value> {
    holds.iter().map(|hold| json!({ "code": hold.code(), "why": hold.to_string() })).collect()
}
