//! One operation: born whole, driven to its end, picked up again after a crash.

use super::verdict::{Direction, Mark, Observed, Verdict, verdict};
use super::{Illegal, Ledger, Outcome, Plan, Step, StepError, Watch};
use crate::disk::{self, Disk, parent, remove_tree};
use crate::journal::{self, Header, Journal, Record, Tail};
use std::path::{Path, PathBuf};

/// What can stop an operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The journal failed, or cannot be believed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The journal's frames are intact, but no run writes them in this order.
    #[error("the journal {} contradicts itself: {illegal}", path.display())]
    Illegal {
        /// The journal file.
        path: PathBuf,
        /// What is out of order.
        illegal: Illegal,
    },
    /// A step failed.
    #[error("step {number} ({title}) failed: {source}")]
    Step {
        /// Number of the step, from 1.
        number: usize,
        /// What the step is.
        title: String,
        /// Why it failed.
        source: StepError,
    },
    /// The disk holds something the plan does not expect; nothing was touched.
    #[error(
        "step {number} ({title}) was refused: going {direction:?}, its journal says {mark:?} and the disk says \
         {observed:?}"
    )]
    Refused {
        /// Number of the step, from 1.
        number: usize,
        /// What the step is.
        title: String,
        /// Which way the operation was going.
        direction: Direction,
        /// Where the journal says the step stands.
        mark: Mark,
        /// Where the disk says the step stands.
        observed: Observed,
    },
    /// The watcher asked to stop; the journal is at rest and the operation can be resumed or undone.
    #[error("stopped after {done} of {all} steps")]
    Stopped {
        /// Steps that are done.
        done: usize,
        /// Steps of the plan.
        all: usize,
    },
    /// Going forward is not allowed any more.
    #[error("this operation cannot be resumed, because it has begun to go back; recover it")]
    CannotResume,
}

/// What an operation is going to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin<S> {
    /// Its number in the keep.
    pub number: u32,
    /// What it is for, in words.
    pub title: String,
    /// When it began, in seconds since 1970, UTC.
    pub began_at: i64,
    /// Its plan.
    pub plan: Plan<S>,
}

/// A file that is born with an operation, beside its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enclosure {
    /// Its name in the operation's folder.
    pub name: &'static str,
    /// What it holds.
    pub contents: Contents,
}

/// What an enclosed file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What a file on the same file system holds, which is moved in.
    Moved(PathBuf),
}

/// What a journal says about an operation.
#[derive(Debug)]
pub struct Entry<S> {
    /// What it was going to do.
    pub begin: Begin<S>,
    /// How far it got.
    pub ledger: Ledger,
    /// How the journal ends.
    pub tail: Tail,
}

impl<S> Entry<S> {
    /// What recovery would do with each step, in the order of doing, if the disk agrees with the journal. The disk is
    /// not asked: only a recovery may open what an operation left half done.
    pub fn preview(&self) -> Vec<(usize, Verdict)> {
        let direction = self.ledger.direction();
        let walk = self.ledger.walk(direction).into_iter().filter_map(|index| Some((index, self.ledger.mark(index)?)));
        let judged = walk.map(|(index, mark)| {
            let observed = match (direction, mark) {
                (Direction::Back, Mark::Intended | Mark::Done) => Observed::After,
                _ => Observed::Before,
            };
            (index, verdict(direction, mark, observed))
        });
        judged.collect()
    }
}

/// Reads what the journal of an operation says, and changes nothing.
pub fn read<S: Step>(disk: &dyn Disk, journal: &Path) -> Result<Entry<S>, Error> {
    let contents = journal::read(disk, journal)?;
    fold(journal, contents)
}

/// An operation that has begun and not ended.
#[must_use = "an operation that is not driven to its end stays interrupted"]
pub struct Operation<'d, S: Step> {
    disk: &'d dyn Disk,
    journal: Journal<'d>,
    title: String,
    plan: Plan<S>,
    ledger: Ledger,
    /// Noted in the ledger, and not in the journal yet: they ride with the next append.
    pending: Vec<Record<S>>,
}

impl<'d, S: Step> Operation<'d, S> {
    /// Brings an operation into being: its folder appears under its name with a whole, durable `Begin` and what is
    /// enclosed, or does not appear at all (invariant I1).
    pub fn begin(
        disk: &'d dyn Disk,
        folder: &Path,
        unborn: &Path,
        begin: Begin<S>,
        enclosures: &[Enclosure],
    ) -> Result<Self, Error> {
        let header = Header { operation: begin.number, salt: uuid::Uuid::new_v4().as_u64_pair().0 };
        let Begin { title, began_at, plan, .. } = begin;
        remove_tree(disk, unborn)?;
        disk.create_dir(unborn)?;
        let first = Record::Begin { title: title.clone(), began_at, plan: plan.clone() };
        Journal::create(disk, &unborn.join(JOURNAL), header, &[first])?;
        disk.create(&unborn.join(RESERVE), &[0; RESERVE_BYTES])?;
        for Enclosure { name, contents } in enclosures {
            match contents {
                Contents::Bytes(bytes) => disk.create(&unborn.join(name), bytes)?,
                Contents::Moved(path) => disk.rename(path, &unborn.join(name))?,
            }
            disk.sync(&unborn.join(name))?;
        }
        let names = [JOURNAL, RESERVE].into_iter().chain(enclosures.iter().map(|one| one.name));
        for path in names.map(|name| unborn.join(name)).chain([unborn.to_owned()]) {
            disk.adopt(&path, parent(folder))?; // whoever owns the keep can recover what root began
        }
        disk.sync(unborn)?;
        disk.rename(unborn, folder)?;
        disk.sync(parent(folder))?;
        let (journal, _) = Journal::open::<S>(disk, &folder.join(JOURNAL))?;
        Ok(Operation { disk, journal, title, ledger: Ledger::new(&plan), plan, pending: Vec::new() })
    }

    /// Picks up an operation where its journal left it. A torn tail is cut off; unless the operation is committed, it
    /// can then only go back.
    ///
    /// What a killed process left behind is visible and perhaps not durable: neither its last record nor its last
    /// rename may be built upon before it is. So everything is synced before anything is read, and the journal is read
    /// from the medium: a frame that a sync has dropped is still in the page cache, and no other sync would write it
    /// (invariant I5). The same goes for what steps have made, which is the affair of their world.
    pub fn open(disk: &'d dyn Disk, folder: &Path) -> Result<(Self, Entry<S>), Error> {
        let path = folder.join(JOURNAL);
        disk.sync_all(folder)?;
        disk.evict(&path)?;
        // Folded before it is opened for more: a journal that contradicts itself is not even truncated.
        let entry = read::<S>(disk, &path)?;
        let (journal, _) = Journal::open::<S>(disk, &path)?;
        let (title, plan, ledger) = (entry.begin.title.clone(), entry.begin.plan.clone(), entry.ledger.clone());
        let mut operation = Operation { disk, journal, title, plan, ledger, pending: Vec::new() };
        let is_open = !operation.ledger.is_committed() && operation.ledger.outcome().is_none();
        if entry.tail != Tail::Clean && is_open {
            // What was lost may have been an Abort, so the steps that are said to be done may be gone.
            operation.give_up("the end of its journal was lost")?;
        }
        Ok((operation, entry))
    }

    /// Walks the plan to its end, fresh or resumed.
    ///
    /// # Errors
    /// Any; the operation is then interrupted, and its journal and the disk say where.
    pub fn run(&mut self, world: &mut S::World<'_>, watch: &mut dyn Watch) -> Result<Outcome, Error> {
        match self.ledger.may_go_forward() {
            true => self.drive(Direction::Forward, world, watch),
            false => Err(Error::CannotResume),
        }
    }

    /// Ends an interrupted operation: forward where it was committed, back where it was not. One that has ended is left
    /// alone, with an error (invariant I12).
    pub fn recover(&mut self, world: &mut S::World<'_>, watch: &mut dyn Watch) -> Result<Outcome, Error> {
        match self.ledger.direction() {
            Direction::Forward => self.drive(Direction::Forward, world, watch),
            Direction::Back => self.abort("it was cut short", world, watch),
        }
    }

    /// Gives up an operation that is not committed, and goes back. That it goes back is durable before anything is
    /// undone: otherwise a later resume would believe in steps that are gone.
    pub fn abort(&mut self, why: &str, world: &mut S::World<'_>, watch: &mut dyn Watch) -> Result<Outcome, Error> {
        self.give_up(why)?;
        self.look_ahead(world)?;
        self.drive(Direction::Back, world, watch)
    }

    fn give_up(&mut self, why: &str) -> Result<(), Error> {
        if self.ledger.aborted().is_none() {
            self.note(Record::Abort(why.to_owned()))?;
            self.free_reserve()?;
            self.flush()?;
        }
        Ok(())
    }

    /// Refuses to go back before the first step is undone, not half-way, where any step would have to be refused.
    fn look_ahead(&self, world: &mut S::World<'_>) -> Result<(), Error> {
        for index in self.ledger.walk(Direction::Back) {
            self.judge(Direction::Back, index, world)?;
        }
        Ok(())
    }

    /// What it is for, in words.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What it is going to do.
    pub fn plan(&self) -> &Plan<S> {
        &self.plan
    }

    /// How far it got.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The only loop that changes the world.
    fn drive(
        &mut self,
        direction: Direction,
        world: &mut S::World<'_>,
        watch: &mut dyn Watch,
    ) -> Result<Outcome, Error> {
        for index in self.ledger.walk(direction) {
            if watch.wants_stop() && !self.ledger.is_committed() {
                return self.stop();
            }
            let step = self.plan.steps[index].clone();
            watch.step(direction, index, &step);
            let failed = |source| Error::Step { number: index + 1, title: step.to_string(), source };
            match self.judge(direction, index, world)? {
                Verdict::Pass => {}
                Verdict::Settle => self.settle(direction, index)?,
                Verdict::Apply => {
                    self.intend(index)?;
                    step.apply(world).map_err(failed)?;
                    self.settle(direction, index)?;
                }
                Verdict::Revert => {
                    step.revert(world).map_err(failed)?;
                    self.settle(direction, index)?;
                    // Durable at once: what is gone from our hands may be used, and then looks Foreign.
                    self.flush()?;
                }
                Verdict::Refuse => unreachable!("judge returned it as an error"),
            }
            watch.passed(step.weight());
        }
        self.end(direction)
    }

    /// Looks a step up in the table. The disk is asked only where its answer can matter; a refusal is an error.
    fn judge(&self, direction: Direction, index: usize, world: &mut S::World<'_>) -> Result<Verdict, Error> {
        let (number, step) = (index + 1, &self.plan.steps[index]);
        let mark = self.ledger.mark(index).expect("the walk stays inside the plan");
        let observed = match (direction, mark) {
            (Direction::Forward, Mark::Done) | (Direction::Back, Mark::Undone) => Observed::Before,
            _ => step.observe(world).map_err(|source| Error::Step { number, title: step.to_string(), source })?,
        };
        match verdict(direction, mark, observed) {
            Verdict::Refuse => Err(Error::Refused { number, title: step.to_string(), direction, mark, observed }),
            verdict => Ok(verdict),
        }
    }

    /// Makes the intent durable, and with it whatever was pending; at the pivot `Commit` goes first, in the same frame.
    fn intend(&mut self, index: usize) -> Result<(), Error> {
        if self.ledger.mark(index) == Some(Mark::Untouched) {
            if index == self.plan.pivot as usize {
                self.note(Record::Commit)?;
            }
            self.note(Record::Intent(index as u32))?;
        }
        self.flush()
    }

    fn settle(&mut self, direction: Direction, index: usize) -> Result<(), Error> {
        self.note(match direction {
            Direction::Forward => Record::Done(index as u32),
            Direction::Back => Record::Undone(index as u32),
        })
    }

    fn end(&mut self, direction: Direction) -> Result<Outcome, Error> {
        let outcome = match direction {
            Direction::Forward => Outcome::Completed,
            Direction::Back => Outcome::RolledBack,
        };
        if direction == Direction::Forward && !self.ledger.is_committed() {
            self.note(Record::Commit)?; // a plan with nothing past its pivot commits when all of it is done
        }
        self.note(Record::End(outcome))?;
        self.free_reserve()?;
        self.flush()?;
        Ok(outcome)
    }

    /// Makes room for the records of going back: a full disk must not be able to keep us from emptying it.
    fn free_reserve(&self) -> Result<(), Error> {
        remove_tree(self.disk, &self.journal.folder().join(RESERVE))?;
        Ok(self.disk.sync(self.journal.folder())?)
    }

    fn stop(&mut self) -> Result<Outcome, Error> {
        self.flush()?;
        Err(Error::Stopped { done: self.ledger.done(), all: self.plan.steps.len() })
    }

    fn note(&mut self, record: Record<S>) -> Result<(), Error> {
        let path = || self.journal.folder().join(JOURNAL);
        self.ledger.note(&record).map_err(|illegal| Error::Illegal { path: path(), illegal })?;
        self.pending.push(record);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.pending.is_empty() {
            self.journal.append(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }
}

/// Name of a file that only takes room, until the operation ends or goes back.
const RESERVE: &str = "reserve";
/// One block: enough for the records of going back over some hundred steps.
const RESERVE_BYTES: usize = 4 << 10;
/// Name of the journal in the folder of its operation.
pub(super) const JOURNAL: &str = "journal";

fn fold<S: Step>(path: &Path, contents: journal::Contents<S>) -> Result<Entry<S>, Error> {
    let illegal = |illegal| Error::Illegal { path: path.to_owned(), illegal };
    let number = contents.header.operation;
    let mut records = contents.records.into_iter();
    let Some(Record::Begin { title, began_at, plan }) = records.next() else {
        return Err(illegal(Illegal { record: "1".into(), why: "a journal starts with Begin" }));
    };
    if plan.pivot as usize > plan.steps.len() {
        return Err(illegal(Illegal { record: "Begin".into(), why: "its pivot lies outside the plan" }));
    }
    let mut ledger = Ledger::new(&plan);
    for record in records {
        ledger.note(&record).map_err(illegal)?;
    }
    Ok(Entry { begin: Begin { number, title, began_at, plan }, ledger, tail: contents.tail })
}
