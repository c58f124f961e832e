//! Plans a restore: the store that an operation replaced comes back as it was.
//!
//! It is copied out of that operation's folder, where nothing is changed, compared with what it was copied from, and
//! takes the place of the present store by the swap that ends every operation. Nothing in it is read to be understood:
//! damage comes back as well.

use super::files::{Entry, StoreFiles};
use super::names::{ASIDE, STAGING};
use super::parts::{self, Swap};
use super::step::Step;
use crate::engine::Plan;
use crate::store::chroma::{self, Blueprint, Expected, Route};
use crate::tree::{self, Copy, Fingerprint, Spot};

/// What an operation replaced, as its plan tells it.
pub struct Replaced {
    /// Name of the database.
    pub database: String,
    /// Names of the files that belonged to it while it was in use.
    pub siblings: Vec<String>,
    /// Names of the segments that were copied with it.
    pub segments: Vec<String>,
    /// Names of the segments that stayed in the palace, because the new store named them too.
    pub kept: Vec<String>,
    /// The database as it was read, where its inode was kept.
    pub expects: Option<Fingerprint>,
    /// What the store held, where the plan says it.
    pub held: Option<Held>,
}

/// What a store held that an operation replaced.
pub struct Held {
    /// How it was read.
    pub blueprint: Blueprint,
    /// What was read.
    pub expected: Expected,
    /// The highest number that anything in it knew of, where that was not in its queue.
    pub sequence: Option<i64>,
}

impl Replaced {
    /// Reads it out of a plan; `None` where there was nothing to replace.
    pub fn of(plan: &Plan<Step>) -> Option<Replaced> {
        let backup = plan.steps.iter().find_map(|step| match step {
            Step::Tree(tree::Step::Backup(copy)) => Some(&copy.names),
            _ => None,
        });
        let (database, rest) = backup?.split_first()?;
        let beside = chroma::siblings(database);
        let (siblings, segments) = rest.iter().cloned().partition(|name| beside.contains(name));
        let aside = Spot::operation(ASIDE).join(database);
        let expects = plan.steps.iter().find_map(|step| match step {
            Step::Tree(
                tree::Step::LinkAside { target, expects, .. } | tree::Step::RenameAside { target, expects, .. },
            ) if *target == aside => Some(*expects),
            _ => None,
        });
        let held = Held::of(plan);
        let kept = held.iter().flat_map(|held| &held.blueprint.collections);
        let kept = kept.filter(|one| one.route == Route::Kept).map(|one| one.vector.new.clone());
        Some(Replaced { database: database.clone(), siblings, segments, kept: kept.collect(), expects, held })
    }

    /// The siblings without which the database is not whole. The shared-memory index is none: it is made anew from the
    /// log.
    pub fn vital(&self) -> impl Iterator<Item = &String> {
        self.siblings.iter().filter(|name| is_vital(name))
    }
}

impl Held {
    fn of(plan: &Plan<Step>) -> Option<Held> {
        let (mut blueprint, mut expected, mut sequence) = (None, None, None);
        for step in &plan.steps {
            match step {
                Step::Chroma(chroma::Step::CreateStore(made) | chroma::Step::Amend { blueprint: made, .. }) => {
                    blueprint = Some(made.clone());
                }
                Step::Chroma(chroma::Step::Verify(proof)) => expected = Some(proof.clone()),
                Step::Chroma(chroma::Step::Sentinel { sequence: highest, .. }) => sequence = Some(*highest),
                _ => {}
            }
        }
        Some(Held { blueprint: blueprint?, expected: expected?, sequence })
    }
}

/// Whether a sibling holds a part of what was committed.
fn is_vital(sibling: &str) -> bool {
    !sibling.ends_with("-shm")
}

/// What comes back, and what gives way.
pub struct Order<'o> {
    /// Where it was kept.
    pub source: Spot,
    /// What is kept there.
    pub old: &'o StoreFiles,
    /// Segments that it names and that stand in the palace.
    pub standing: &'o [String],
    /// The present store, if there is one.
    pub now: Option<&'o StoreFiles>,
}

/// Makes the plan, and says how many bytes must be free.
pub fn plan(order: Order) -> (Plan<Step>, u64) {
    let Order { source, old, standing, now } = order;
    let is_standing = |entry: &&Entry| standing.contains(&entry.name);
    let siblings: Vec<&Entry> = old.siblings.iter().filter(|entry| is_vital(&entry.name)).collect();
    let placed: Vec<&Entry> = old.segments.iter().filter(|entry| !is_standing(entry)).collect();
    let copied = [&old.database].into_iter().chain(siblings.iter().copied()).chain(placed.iter().copied());
    let (names, bytes): (Vec<_>, Vec<_>) = copied.map(|entry| (entry.name.clone(), entry.bytes)).unzip();
    let copy = Copy { source, names, target: Spot::operation(STAGING), bytes: bytes.iter().sum() };
    // What is rolled forward may make the database longer by all that its log holds.
    let rolled: u64 = siblings.iter().map(|entry| entry.bytes).sum();
    let mut bytes_needed = copy.bytes + rolled + parts::SLACK_BYTES;
    let mut steps = Vec::new();
    if let Some(now) = now {
        // All of it, also what stays where it is: then whoever restores this restore needs nothing else.
        steps.push(parts::backup(now, now.segments.iter()));
        bytes_needed += now.bytes();
    }
    steps.push(parts::tree(tree::Step::Copy(copy.clone())));
    steps.push(parts::tree(tree::Step::Compare(copy)));
    if !siblings.is_empty() {
        steps.push(Step::Chroma(chroma::Step::Roll));
        steps.push(parts::tree(tree::Step::Sync { target: parts::staged(&old.database.name) }));
    }
    let is_named = |entry: &&Entry| is_standing(entry) || old.segments.iter().any(|one| one.name == entry.name);
    let replaced = now.into_iter().flat_map(|now| &now.segments).filter(|entry| !is_named(entry)).collect();
    let segments = placed.iter().map(|entry| &*entry.name).collect();
    let swap = Swap { database: &old.database.name, segments, old: now, replaced };
    let pivot = swap.commit(&mut steps);
    (Plan { steps, pivot }, bytes_needed)
}
