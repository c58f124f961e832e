//! Sweeping: removes the folders of operations that have ended, to free their space.
//!
//! A folder gets a temporary name first, by which the operation exists no longer, and is emptied after that was made
//! durable. What a kill leaves of it, the next writer removes like any other leftover. Nothing is removed that may be
//! the only copy of something: [`Hold`] says what.

use super::hold::{self, Hold};
use super::keep::{Folder, Keep};
use super::propose::temporary;
use super::view::{OperationView, look};
use super::{Ended, Error, Keeper, Kind, neighbours, resolve};
use crate::disk::Disk;
use crate::engine::Watch;
use crate::store::chroma::check::{self, Depth, Severity};
use crate::store::chroma::{self, Preparation, Source};
use crate::store::exact::Reader;
use std::cell::LazyCell;
use std::path::Path;

/// How many of the newest operations the usual choice keeps, whatever their age.
pub const USUAL_NEWEST: usize = 2;
/// How young an operation is that the usual choice keeps, in days.
pub const USUAL_DAYS: u32 = 30;

/// Which operations are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Those of these numbers.
    Numbers(Vec<u32>),
    /// Those that ended and began more than so many days ago.
    OlderThan {
        /// Days.
        days: u32,
    },
    /// All that ended but the newest.
    AllBut {
        /// How many are kept.
        newest: usize,
    },
    /// All that ended but the newest [`USUAL_NEWEST`], and those younger than [`USUAL_DAYS`].
    Usual,
}

/// What somebody has agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Only what is elsewhere may go.
    Copies,
    /// What could not be carried over may go too.
    Losses,
}

/// An operation, and what would become of its folder.
pub struct Candidate {
    /// The operation.
    pub operation: OperationView,
    /// Whether it is meant.
    pub is_chosen: bool,
    /// Why it stays nevertheless.
    pub holds: Vec<Hold>,
}

impl Candidate {
    /// Whether its folder goes.
    pub fn goes(&self) -> bool {
        self.is_chosen && self.holds.is_empty()
    }
}

/// Says of every operation what would become of its folder, without a lock and without writing anything.
///
/// # Errors [`Error::NoOperation`] where a number is chosen that there is not.
pub fn plan_sweep(disk: &dyn Disk, palace: &Path, choice: &Choice, consent: Consent) -> Result<Vec<Candidate>, Error> {
    let history = look(disk, palace)?;
    let chosen = chosen(&history.operations, choice)?;
    let unsound = LazyCell::new(|| unsound(disk, &history.palace));
    let candidates = history.operations.into_iter().map(|operation| {
        let is_chosen = chosen.contains(&operation.number);
        let mut holds = operation.holds.clone();
        holds.retain(|hold| consent == Consent::Copies || !hold.yields_to_consent());
        let folder = Folder { number: operation.number, path: operation.folder.clone() };
        if operation.outcome.is_some() && hold::holds_store(disk, &folder)? {
            holds.extend(unsound.clone().map(Hold::Palace));
            let files = hold::files(disk, &folder.path)?;
            let files = files.into_iter().map(|(path, stat)| ((stat.device, stat.node), path));
            holds.extend(disk.find_user_of(&files.collect()).map(Hold::Open));
        }
        Ok(Candidate { operation, is_chosen, holds })
    });
    candidates.collect()
}

fn chosen(operations: &[OperationView], choice: &Choice) -> Result<Vec<u32>, Error> {
    let ended: Vec<&OperationView> = operations.iter().filter(|one| one.outcome.is_some()).collect();
    let now = jiff::Timestamp::now().as_second();
    let is_older = |one: &OperationView, days: u32| one.began_at < now - i64::from(days) * 24 * 60 * 60;
    let but = |newest: usize| &ended[..ended.len().saturating_sub(newest)];
    let numbers = |chosen: &mut dyn Iterator<Item = &&OperationView>| chosen.map(|one| one.number).collect();
    Ok(match choice {
        Choice::Numbers(wanted) => {
            let is_there = |number: &u32| operations.iter().any(|one| one.number == *number);
            match wanted.iter().find(|number| !is_there(number)) {
                Some(&number) => return Err(Error::NoOperation { number }),
                None => wanted.clone(),
            }
        }
        Choice::OlderThan { days } => numbers(&mut ended.iter().filter(|one| is_older(one, *days))),
        Choice::AllBut { newest } => numbers(&mut but(*newest).iter()),
        Choice::Usual => numbers(&mut but(USUAL_NEWEST).iter().filter(|one| is_older(one, USUAL_DAYS))),
    })
}

/// What is wrong with the palace, if so much is that old copies may be needed. Every page is looked at, since what is
/// removed now does not come back; and chromadb makes a new palace, sound and empty, where the old one is gone.
fn unsound(disk: &dyn Disk, palace: &Path) -> Option<String> {
    let look = || match Kind::of(disk, palace) {
        Ok(Some(Kind::Exact)) => unsound_exact(disk, palace).map_err(|error| error.to_string()),
        Ok(_) => unsound_chroma(disk, palace).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    look().unwrap_or_else(Some)
}

fn unsound_exact(disk: &dyn Disk, palace: &Path) -> Result<Option<String>, chroma::Error> {
    let reader = Reader::open(palace, &temporary(disk))?;
    reader.check()?;
    let (records, _) = reader.totals()?;
    Ok((records == 0).then(|| EMPTY.to_owned()))
}

fn unsound_chroma(disk: &dyn Disk, palace: &Path) -> Result<Option<String>, chroma::Error> {
    let room = temporary(disk);
    let checked = check::check(palace, &room, Depth::Pages, &mut || ())?;
    let mut damage = checked.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    if let Some(finding) = damage.next() {
        return Ok(Some(format!("{} in {}", finding.code.name(), finding.subject)));
    }
    let is_empty = Source::open(palace, &room, &Preparation::default())?.is_empty()?;
    Ok(is_empty.then(|| EMPTY.to_owned()))
}

const EMPTY: &str = "it holds no record";

/// A keep, locked for sweeping. The palace itself may be open elsewhere, since it is not touched.
pub struct Sweeper<'d> {
    keeper: Keeper<'d>,
}

impl<'d> Sweeper<'d> {
    /// Takes the locks that every writer takes; `None` where nothing was ever done to the palace. Only where an
    /// operation has to be recovered first, nobody may have the palace open.
    pub fn lock(disk: &'d dyn Disk, palace: &Path) -> Result<Option<Sweeper<'d>>, Error> {
        let palace = resolve(disk, palace)?;
        let Some(keep) = Keep::find(disk, &palace)? else { return Ok(None) };
        let until = neighbours::patience();
        let locks = neighbours::lock(disk, &palace, &keep, until)?;
        keep.tidy(disk)?;
        if keep.interrupted(disk)?.is_some() {
            neighbours::insist_on_nobody(disk, &palace, until)?;
        }
        Ok(Some(Sweeper { keeper: Keeper { disk, palace, keep, _locks: locks } }))
    }

    /// Ends the interrupted operation, if there is one.
    pub fn recover(&mut self, watch: &mut dyn Watch) -> Result<Option<Ended>, Error> {
        self.keeper.recover(watch)
    }

    /// Removes what was chosen and does not have to stay. All is looked at again before: somebody may have thought long
    /// about saying yes. `agreed` are the numbers that were agreed to; whatever else would go by now stays.
    ///
    /// # Errors [`Error::HalfSwept`] where the disk failed on the way.
    pub fn sweep(&mut self, choice: &Choice, consent: Consent, agreed: &[u32]) -> Result<Vec<Candidate>, Error> {
        let disk = self.keeper.disk.afresh();
        let candidates = plan_sweep(&*disk, &self.keeper.palace, choice, consent)?;
        let mut candidates: Vec<_> =
            candidates.into_iter().filter(|one| agreed.contains(&one.operation.number)).collect();
        for (swept, one) in candidates.iter_mut().filter(|one| one.goes()).enumerate() {
            let folder = Folder { number: one.operation.number, path: one.operation.folder.clone() };
            let failed = |source| Error::HalfSwept { folder: folder.path.clone(), swept, source: Box::new(source) };
            self.keeper.keep.sweep(&*disk, &folder).map_err(failed)?;
        }
        Ok(candidates)
    }
}
