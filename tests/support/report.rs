//! A page that a person can look at: what the harness tried, where, and how it ended.
//!
//! Each test that walks through faults leaves a part below `target/tmp/report`, and makes the page anew of all parts
//! that are there. The page needs no network.

use super::explore::{Cut, Tally, Walk};
use super::palace::Ending;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// What one test tried.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// `simulated disk`, `real process`, `power cut`.
    pub tier: String,
    /// What was done to the palace.
    pub operation: String,
    /// The line that runs it again.
    pub replay: String,
    pub seconds: f64,
    /// What was counted, and how much of it.
    pub counts: BTreeMap<String, u64>,
    /// How it ended, by step or system call, and by fault: old, new, refused.
    pub cells: Vec<Cell>,
    /// The slowest cases: seconds, and the way to them.
    pub slowest: Vec<(f64, String)>,
}

/// One field of the matrix.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Cell {
    pub step: String,
    pub fault: String,
    pub old: u64,
    pub new: u64,
    pub refused: u64,
}

impl Part {
    /// The part of a walk on the simulated disk.
    pub fn of_walk(operation: &str, replay: String, took: Duration, walk: &Walk) -> Part {
        let counts = [
            ("moments", walk.moments),
            ("crash images", walk.images),
            ("states", walk.states),
            ("runs", walk.runs),
            ("crashes in a row", walk.generations as u64),
            ("left out", walk.left_out),
        ];
        let cell = |((step, cut), tally): (&(String, Cut), &Tally)| Cell {
            step: step.clone(),
            fault: cut.to_string(),
            old: tally.old,
            new: tally.new,
            refused: tally.refused,
        };
        let mut cells: Vec<Cell> = walk.cells.iter().map(cell).collect();
        cells.sort_by_key(|cell| walk.steps.iter().position(|step| *step == cell.step));
        Part {
            tier: "simulated disk".into(),
            operation: operation.into(),
            replay,
            seconds: took.as_secs_f64(),
            counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            cells,
            slowest: walk.slowest.iter().map(|(time, trace)| (time.as_secs_f64(), trace.clone())).collect(),
        }
    }

    /// The part of a sweep through the system calls of the real program; an error stands before its call, as
    /// `EIO@fsync`, and before the file where it depends on that, as `EIO@openat@palace,chroma.sqlite3`.
    pub fn of_sweep(
        operation: &str,
        replay: String,
        took: Duration,
        endings: &BTreeMap<(String, Ending), usize>,
    ) -> Part {
        let mut cells = BTreeMap::<(String, String), Cell>::new();
        for ((point, ending), count) in endings {
            let (fault, place) = point.split_once('@').unwrap_or((operation, point));
            let (step, fault) = (step_at(place), fault.to_owned());
            let empty = Cell { step: step.clone(), fault: fault.clone(), old: 0, new: 0, refused: 0 };
            let cell = cells.entry((step, fault)).or_insert(empty);
            *if *ending == Ending::Old { &mut cell.old } else { &mut cell.new } += *count as u64;
        }
        Part {
            tier: "real process".into(),
            operation: operation.into(),
            replay,
            seconds: took.as_secs_f64(),
            counts: BTreeMap::from([("faults".into(), endings.values().sum::<usize>() as u64)]),
            cells: cells.into_values().collect(),
            slowest: Vec::new(),
        }
    }

    /// The part of power cuts under a real file system.
    pub fn of_power_cuts(operation: &str, replay: String, took: Duration, counts: &[(&str, u64)], met: Tally) -> Part {
        let cell = Cell {
            step: "between two flushes".into(),
            fault: "power cut".into(),
            old: met.old,
            new: met.new,
            refused: 0,
        };
        Part {
            tier: "real file system".into(),
            operation: operation.into(),
            replay,
            seconds: took.as_secs_f64(),
            counts: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            cells: vec![cell],
            slowest: Vec::new(),
        }
    }

    /// Leaves it where the page is made, and makes the page. Returns where that is.
    pub fn publish(&self) -> PathBuf {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("report");
        fs::create_dir_all(&directory).expect("a directory");
        let name = format!("{} {}.json", self.tier, self.operation).replace(['/', ' '], "-");
        fs::write(directory.join(name), serde_json::to_vec(self).expect("plain data")).expect("there is room");
        let page = directory.join("index.html");
        fs::write(&page, render(&parts(&directory))).expect("there is room");
        page
    }
}

/// What a row is called: segments have other names in every run, and allocations are told by the writes before them.
fn step_at(place: &str) -> String {
    let is_segment = |name: &str| uuid::Uuid::parse_str(name).is_ok();
    match (place.split_once('@'), place.parse::<usize>()) {
        (Some((call, path)), _) => match path.rsplit(',').next() {
            Some(name) if !is_segment(name) => format!("{call} {name}").trim_end().to_owned(),
            _ => format!("{call} a segment"),
        },
        (None, Ok(writes)) => format!("after {writes:>3} writes"),
        (None, Err(_)) => place.to_owned(),
    }
}

fn parts(directory: &PathBuf) -> Vec<Part> {
    let entries = fs::read_dir(directory).expect("it was made");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
    let mut parts: Vec<Part> = paths.filter_map(read).collect();
    parts.sort_by(|one, other| (&one.tier, &one.operation).cmp(&(&other.tier, &other.operation)));
    parts
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>palacekeeper: what was tried</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.15rem .7rem;text-align:left;border-bottom:1px solid #e4e4e4}
td.n{text-align:right;font-variant-numeric:tabular-nums}
code{background:#f4f4f2;padding:0 .25rem;border-radius:3px;overflow-wrap:anywhere}
.key{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em;vertical-align:-.1em}
svg text{font:12px system-ui,sans-serif;fill:#333}svg text.in{fill:#fff;font-size:11px}
</style>";
const OLD: &str = "#4477aa";
const NEW: &str = "#228833";
const REFUSED: &str = "#bbbbbb";

fn render(parts: &[Part]) -> String {
    let mut page = HEAD.to_owned();
    let faults: u64 = parts.iter().flat_map(|part| &part.cells).map(|cell| cell.old + cell.new).sum();
    let seconds: f64 = parts.iter().map(|part| part.seconds).sum();
    let _ = write!(
        page,
        "<h1>What was tried</h1><p>{} walks, {faults} endings in {seconds:.0} s. Every one of them was looked at: the \
         palace was exactly the old one or exactly the new one, or the test that made this page has failed.</p>
         <p><i class=key style='background:{OLD}'></i>the old palace<i class=key style='background:{NEW}'></i>the new \
         palace<i class=key style='background:{REFUSED}'></i>could not be resumed, and was recovered</p>",
        parts.len()
    );
    summary(&mut page, parts);
    for part in parts {
        section(&mut page, part);
    }
    page
}

fn summary(page: &mut String, parts: &[Part]) {
    page.push_str("<table><tr><th>tier<th>operation<th>endings<th>old<th>new<th>seconds");
    for part in parts {
        let old: u64 = part.cells.iter().map(|cell| cell.old).sum();
        let new: u64 = part.cells.iter().map(|cell| cell.new).sum();
        let _ = write!(
            page,
            "<tr><td>{}<td><a href='#{}'>{}</a><td class=n>{}<td class=n>{old}<td class=n>{new}<td class=n>{:.1}",
            escape(&part.tier),
            anchor(part),
            escape(&part.operation),
            old + new,
            part.seconds
        );
    }
    page.push_str("</table>");
}

fn section(page: &mut String, part: &Part) {
    let (tier, operation) = (escape(&part.tier), escape(&part.operation));
    let _ = write!(page, "<h2 id='{}'>{operation} <small>({tier})</small></h2><p>", anchor(part));
    let counts: Vec<_> = part.counts.iter().map(|(name, count)| format!("{count} {}", escape(name))).collect();
    let _ = write!(page, "{}; {:.1} s. <code>{}</code></p>", counts.join(", "), part.seconds, escape(&part.replay));
    matrix(page, part);
    if !part.slowest.is_empty() {
        page.push_str("<table><tr><th>slowest<th>the way there");
        for (seconds, trace) in &part.slowest {
            let _ = write!(page, "<tr><td class=n>{seconds:.3} s<td><code>{}</code>", escape(trace));
        }
        page.push_str("</table>");
    }
}

const LABEL: usize = 230;
const CELL: usize = 150;
const ROW: usize = 26;

/// Steps down, in the order of the cells, faults across; each field is divided like its endings.
fn matrix(page: &mut String, part: &Part) {
    let mut steps: Vec<&str> = part.cells.iter().map(|cell| &*cell.step).collect();
    steps.dedup();
    let faults: BTreeSet<&str> = part.cells.iter().map(|cell| &*cell.fault).collect();
    // The heading of the last column may be longer than the column.
    let (width, height) = (2 * LABEL + CELL * faults.len(), ROW * (steps.len() + 1));
    let _ = write!(page, "<svg width={width} height={height} role=img>");
    for (column, fault) in faults.iter().enumerate() {
        let _ = write!(page, "<text x={} y=16>{}</text>", LABEL + column * CELL, escape(fault));
    }
    for (row, step) in (1..).zip(&steps) {
        let _ = write!(page, "<text x=0 y={}>{}</text>", row * ROW + 16, escape(step));
        for (column, fault) in faults.iter().enumerate() {
            let found = part.cells.iter().find(|cell| cell.step == *step && cell.fault == *fault);
            found.into_iter().for_each(|cell| field(page, (LABEL + column * CELL, row * ROW), cell));
        }
    }
    page.push_str("</svg>");
}

fn field(page: &mut String, (mut x, y): (usize, usize), cell: &Cell) {
    let all = (cell.old + cell.new + cell.refused).max(1);
    for (count, colour) in [(cell.old, OLD), (cell.new, NEW), (cell.refused, REFUSED)] {
        let width = (CELL as u64 - 8) * count / all;
        if count == 0 {
            continue;
        }
        let (width, height) = (width.max(3), ROW - 4);
        let _ = write!(
            page,
            "<rect x={x} y={y} width={width} height={height} fill='{colour}'><title>{}, {}: {count}</title></rect>",
            escape(&cell.step),
            escape(&cell.fault)
        );
        if width > 30 {
            let _ = write!(page, "<text class=in x={} y={}>{count}</text>", x + 5, y + 15);
        }
        x += width as usize;
    }
}

fn anchor(part: &Part) -> String {
    format!("{}-{}", part.tier, part.operation).replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}
