//! Shows how far long work is, with rate and time left, on stderr; and hears the signals that ask it to stop.

use super::report::Report;
use crate::engine::{Direction, Watch};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Display;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A bar, or nothing where nobody looks.
pub(super) struct Progress {
    bar: ProgressBar,
    stop: &'static AtomicBool,
    open: Option<(String, Instant)>,
    took: Vec<(String, Duration)>,
}

const WORKING: &str = "{bar:24} {percent:>3}%  {bytes_per_sec}, {eta} left  {wide_msg}";
const RECOVERING: &str = "{spinner} {wide_msg}";
const READING: &str = "{spinner} reading the palace: {human_pos} records, {per_sec}";

impl Progress {
    /// Progress through work of so many bytes. From here on a signal stops the work between two steps.
    pub(super) fn working(report: &Report, bytes: u64) -> Progress {
        Progress::of(bar(report, Some(bytes), WORKING), stop_on_signal())
    }

    /// Progress through a recovery, whose work is short.
    pub(super) fn recovering(report: &Report) -> Progress {
        Progress::of(bar(report, None, RECOVERING), stop_on_signal())
    }

    /// Progress through work whose size nobody knows. A signal ends the program at once: nothing has begun.
    pub(super) fn reading(report: &Report) -> Progress {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Progress::of(bar(report, None, READING), &NEVER)
    }

    fn of(bar: ProgressBar, stop: &'static AtomicBool) -> Progress {
        Progress { bar, stop, open: None, took: Vec::new() }
    }

    /// The steps that are behind us, with how long each took.
    pub(super) fn took(&self) -> &[(String, Duration)] {
        &self.took
    }

    pub(super) fn record(&self) {
        self.bar.inc(1);
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn step(&mut self, direction: Direction, _index: usize, title: &dyn Display) {
        let title = match direction {
            Direction::Forward => title.to_string(),
            Direction::Back => format!("undo: {title}"),
        };
        self.bar.set_message(title.clone());
        self.open = Some((title, Instant::now()));
    }

    fn passed(&mut self, weight: u64) {
        self.took.extend(self.open.take().map(|(title, since)| (title, since.elapsed())));
        self.bar.inc(weight);
    }

    fn wants_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn bar(report: &Report, length: Option<u64>, template: &str) -> ProgressBar {
    if report.is_quiet() {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_style(ProgressStyle::with_template(template).expect("the templates above are well formed"));
    // The bar would panic where no thread can be started, and one that moves only with the work is a bar all the same.
    if !bar.is_hidden() && std::thread::Builder::new().spawn(|| ()).is_ok() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}

/// SIGINT, SIGTERM and SIGHUP raise a flag. A process that cannot install a handler stops the hard way, which the
/// journal survives too.
fn stop_on_signal() -> &'static AtomicBool {
    static STOP: AtomicBool = AtomicBool::new(false);
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    INSTALLED.get_or_init(|| ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).is_ok());
    &STOP
}
