//! Walks through many faults on all processors, goes on after a failure, and tells all of them at the end, each with
//! the line that replays it.

use super::{Point, say};
use crate::support::report::Part;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

/// How a fault and the recovery after it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// The palace is exactly the old one.
    Old,
    /// It is exactly the new one.
    New,
}

/// What happened in a walk.
pub(crate) struct Sweep {
    /// The command that replays, but for the point.
    replay: String,
    began: Instant,
    endings: Mutex<BTreeMap<(String, Ending), usize>>,
    failures: Mutex<Vec<String>>,
}

const NO_PANIC: &str = "nobody panics while holding it";

impl Sweep {
    /// A sweep of a test, in a module of this test program.
    pub(crate) fn new(module: &str, test: &str) -> Sweep {
        let replay = format!("cargo test --test {} {module}::{test}", env!("CARGO_CRATE_NAME"));
        Sweep { replay, began: Instant::now(), endings: Mutex::default(), failures: Mutex::default() }
    }

    /// Shares jobs out among one worker for each processor.
    pub(crate) fn share<T: Send>(&self, jobs: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
        let queue = Mutex::new(jobs.into_iter().collect::<Vec<_>>().into_iter());
        let worker = || {
            while let Some(job) = next(&queue) {
                work(job)
            }
        };
        let workers = std::thread::available_parallelism().map_or(2, |count| count.get());
        std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(worker))));
    }

    /// Makes the faults of a chain happen, one in each run, and notes how it ended.
    pub(crate) fn attempt(&self, chain: &[&Point], act: impl FnOnce() -> Ending) {
        if !is_wanted(chain) {
            return;
        }
        match catch_unwind(AssertUnwindSafe(act)) {
            Ok(ending) => {
                let last = chain.last().map_or(String::new(), |point| point.call.clone());
                *self.endings.lock().expect(NO_PANIC).entry((last, ending)).or_default() += 1;
            }
            Err(_) => {
                let points = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join("/");
                self.failures.lock().expect(NO_PANIC).push(format!("PALACEKEEPER_POINT={points} {}", self.replay));
            }
        }
    }

    /// Prints what was done and fails if anything did; a sweep in which no fault fired fails too.
    pub(crate) fn report(self, what: &str) {
        let endings = self.endings.into_inner().expect(NO_PANIC);
        let failures = self.failures.into_inner().expect(NO_PANIC);
        let total = |wanted| endings.iter().filter(|((_, ending), _)| *ending == wanted).map(|(_, count)| count).sum();
        let (old, new): (usize, usize) = (total(Ending::Old), total(Ending::New));
        let calls: Vec<_> =
            endings.iter().map(|((call, ending), count)| format!("{call} {count} {ending:?}")).collect();
        say(&format!("{what}: {} faults fired, {old} ended old and {new} new ({})", old + new, calls.join(", ")));
        Part::of_sweep(what, self.replay, self.began.elapsed(), &endings).publish();
        let all = failures.len() + old + new;
        assert!(
            failures.is_empty(),
            "{what}: {} of {all} failed; replay with\n{}",
            failures.len(),
            failures.join("\n")
        );
        assert!(all > 0 || std::env::var_os("PALACEKEEPER_POINT").is_some(), "{what}: no fault fired");
    }
}

fn next<T>(queue: &Mutex<std::vec::IntoIter<T>>) -> Option<T> {
    queue.lock().expect(NO_PANIC).next()
}

/// Whether a chain of points, or the beginning of one, is to be run: `PALACEKEEPER_POINT=CALL:N/CALL:N` narrows a
/// sweep.
pub(crate) fn is_wanted(chain: &[&Point]) -> bool {
    let Ok(only) = std::env::var("PALACEKEEPER_POINT") else { return true };
    let only: Vec<Point> = only.split('/').map(|point| point.parse().expect("CALL:N")).collect();
    only.iter().zip(chain).all(|(wanted, point)| wanted == *point)
}

/// Whether sweeps are to leave nothing out.
pub(crate) fn is_exhaustive() -> bool {
    std::env::var_os("PALACEKEEPER_FAULTS").is_some_and(|wanted| wanted == "all")
}

/// Some of many, spread over all, the same for the same seed; all of them where sweeps are exhaustive.
pub(crate) fn sample<T: Clone>(all: &[T], count: usize, random: &mut Random) -> Vec<T> {
    if is_exhaustive() || std::env::var_os("PALACEKEEPER_POINT").is_some() || all.len() <= count {
        return all.to_vec();
    }
    let part = |index: usize| index * all.len() / count..(index + 1) * all.len() / count;
    (0..count).map(|index| all[part(index).start + random.below(part(index).len())].clone()).collect()
}

/// Numbers that look random and are the same for the same seed; `PALACEKEEPER_SEED` chooses another.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded() -> Random {
        let seed = std::env::var("PALACEKEEPER_SEED").ok().map_or(1, |text| text.parse().expect("a number"));
        say(&format!("PALACEKEEPER_SEED={seed}"));
        Random(seed)
    }

    /// Numbers of one case among many, whichever others are run.
    pub(crate) fn of_case(&self, case: u64) -> Random {
        Random(self.0 ^ case.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// A number below a bound (splitmix64).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
