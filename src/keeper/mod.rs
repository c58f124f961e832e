//! The front desk: opens a palace, ends what was interrupted, and runs operations on it.
//!
//! [`open`] is what a program calls that wants a palace in order: it recovers first, and says what it did. A
//! [`Keeper`] holds the locks for as long as it lives; [`look`] only reads.

mod account;
mod error;
mod exchange;
mod hold;
mod keep;
mod kind;
mod means;
pub(crate) mod mempalace;
mod moved;
mod neighbours;
mod propose;
mod restore;
mod sweep;
mod together;
mod transfer;
mod view;

pub use account::Account;
pub use error::Error;
pub(crate) use error::left_behind;
pub use exchange::{Export, export, propose_import};
pub use hold::Hold;
pub use kind::Kind;
pub use means::{Means, Outside, Unusable};
pub use moved::{Moved, find_moved};
pub use propose::{Diagnosis, Proposal, ProposedCollection, check, propose_migration, propose_rebuild, propose_repair};
pub use restore::{Holding, Restoration, propose_restore};
pub use sweep::{Candidate, Choice, Consent, Sweeper, USUAL_DAYS, USUAL_NEWEST, plan_sweep};
pub use transfer::Target;
pub use view::{History, OperationView, look, preview_recovery};

use crate::disk::{self, Disk, Lock, Poison};
use crate::engine::{self, Begin, Direction, Operation, Outcome, Verdict, Watch};
use crate::journal::{self, Tail};
use crate::ops::{Step, World};
use crate::store::chroma;
use crate::store::chroma::check::Code;
use crate::store::scratch::Room;
use crate::tree::Annex;
use keep::{Folder, Keep};
use propose::Desk;
use std::path::{Path, PathBuf};

/// A palace, locked for writing.
pub struct Keeper<'d> {
    /// Each operation works with a fresh one, so that one that failed can be undone.
    disk: &'d dyn Disk,
    palace: PathBuf,
    keep: Keep,
    _locks: Vec<Box<dyn Lock>>,
}

/// A palace that is in order, and how it came to be.
pub struct Opened<'d> {
    /// The palace.
    pub keeper: Keeper<'d>,
    /// What had been cut short, and how it ended now; `None` where nothing had been.
    pub recovered: Option<Ended>,
}

/// An operation that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its number.
    pub number: u32,
    /// What it was for.
    pub title: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it gave up, where it did.
    pub aborted: Option<String>,
    /// Bytes of a torn end of its journal that were dropped; 0 where it was whole.
    pub torn_bytes: u64,
    /// Its folder in the keep.
    pub folder: PathBuf,
    /// Its annex, where that is out of reach, so that it could not be removed if it is still there.
    pub left_behind: Option<PathBuf>,
}

/// An interrupted operation, and what recovering it would do.
pub struct Preview {
    /// Its number.
    pub number: u32,
    /// What it was for.
    pub title: String,
    /// Which way recovery goes.
    pub direction: Direction,
    /// What would be done with each step, in the order of doing.
    pub steps: Vec<(String, Verdict)>,
}

/// Opens a palace for writing, and first ends whatever was interrupted on it.
///
/// # Errors [`Error::InUse`] where somebody else has it open; [`Error::Refused`] and [`Error::Interrupted`] where the
/// recovery did not come to its end; the palace has then not been touched, or the next recovery goes on.
pub fn open<'d>(disk: &'d dyn Disk, palace: &Path) -> Result<Opened<'d>, Error> {
    let mut keeper = Keeper::lock(disk, palace)?;
    let recovered = keeper.recover(&mut ())?;
    Ok(Opened { keeper, recovered })
}

impl<'d> Keeper<'d> {
    /// Locks a palace. The keep is made where there is none.
    pub fn lock(disk: &'d dyn Disk, palace: &Path) -> Result<Keeper<'d>, Error> {
        let palace = resolve(disk, palace)?;
        // No keep is made for what is no palace.
        if Keep::find(disk, &palace)?.is_none() && Kind::of(disk, &palace)? != Some(Kind::Exact) {
            chroma::find_database(disk, &palace)?;
        }
        Keeper::lock_directory(disk, palace)
    }

    fn lock_directory(disk: &'d dyn Disk, palace: PathBuf) -> Result<Keeper<'d>, Error> {
        if keep::is_in_keep(disk, &palace)? {
            return Err(Error::InKeep { palace });
        }
        let fresh = disk.afresh();
        let keep = match Keep::find(&*fresh, &palace)? {
            Some(keep) => {
                keep.folders(&*fresh)?; // a keep that holds strangers is not even locked
                keep
            }
            None => Keep::create(&*fresh, &palace)?,
        };
        let locks = neighbours::shut_out(&*fresh, &palace, &keep)?;
        keep.tidy(&*fresh)?;
        Ok(Keeper { disk, palace, keep, _locks: locks })
    }

    /// The palace's directory, symbolic links resolved.
    pub fn palace(&self) -> &Path {
        &self.palace
    }

    /// Ends the interrupted operation, if there is one: forward where it was committed, back where it was not.
    pub fn recover(&mut self, watch: &mut dyn Watch) -> Result<Option<Ended>, Error> {
        let disk = self.disk.afresh();
        let Some(folder) = self.keep.interrupted(&*disk)? else { return Ok(None) };
        let (mut operation, tail, mut world) = self.pick_up(&*disk, &folder)?;
        match operation.recover(&mut world, watch) {
            Ok(outcome) => Ok(Some(ended(&folder, (&operation, &world), tail, outcome))),
            Err(error) => Err(self.interrupted(&folder, error)),
        }
    }

    /// Goes on with the interrupted operation from where it was cut short, if the journal allows it.
    pub fn resume(&mut self, watch: &mut dyn Watch) -> Result<Option<Ended>, Error> {
        let disk = self.disk.afresh();
        let Some(folder) = self.keep.interrupted(&*disk)? else { return Ok(None) };
        let (operation, tail, _) = self.pick_up(&*disk, &folder)?;
        self.drive(&*disk, &folder, (operation, tail), watch).map(Some)
    }

    /// Opens an operation that has begun, and makes durable what was left of it, wherever it works (invariant I5).
    fn pick_up<'o>(
        &self,
        disk: &'o dyn Disk,
        folder: &Folder,
    ) -> Result<(Operation<'o, Step>, Tail, World<'o>), Error> {
        let stopped = |error| self.interrupted(folder, error);
        let (operation, entry) = Operation::open(disk, &folder.path).map_err(stopped)?;
        let world = World::new(disk, &self.palace, &folder.path, operation.plan());
        world.settle().map_err(|error| stopped(error.into()))?;
        Ok((operation, entry.tail, world))
    }

    /// Reads the palace and plans a rebuild. Nothing is changed.
    pub fn propose_rebuild(&self, means: impl Into<Means>, watch: &mut dyn FnMut()) -> Result<Proposal<'d>, Error> {
        let Means { limits, annex } = means.into();
        self.desk(annex).rebuild(limits, watch)
    }

    /// Reads the palace and plans its migration to another format. Nothing is changed.
    pub fn propose_migration(
        &self,
        to: Target,
        means: impl Into<Means>,
        watch: &mut dyn FnMut(),
    ) -> Result<Proposal<'d>, Error> {
        let Means { limits, annex } = means.into();
        self.desk(annex).migrate(to, limits, watch)
    }

    /// Looks through the palace and plans a repair of what is wanted. Nothing is changed.
    pub fn propose_repair(
        &self,
        wanted: &[Code],
        means: impl Into<Means>,
        watch: &mut dyn FnMut(),
    ) -> Result<Diagnosis<'d>, Error> {
        let Means { limits, annex } = means.into();
        self.desk(annex).repair(wanted, limits, watch)
    }

    /// Finds what an operation replaced and plans its return. Nothing is changed.
    pub fn propose_restore(&self, number: u32, watch: &mut dyn FnMut()) -> Result<Restoration<'d>, Error> {
        self.desk(None).restore(&self.keep, number, watch)
    }

    fn desk(&self, annex: Option<Annex>) -> Desk<'d, '_> {
        let (room, space) = (Room::new(self.disk, self.keep.path()), self.keep.path());
        Desk { palace: &self.palace, room, space, annex }
    }

    /// Runs what was proposed.
    ///
    /// # Errors [`Error::NoSpace`] before anything has happened; [`Error::RolledBack`] where it failed and the palace
    /// is as it was; [`Error::Interrupted`] where it could be neither finished nor undone now.
    pub fn run(&mut self, proposal: Proposal, watch: &mut dyn Watch) -> Result<Ended, Error> {
        let here = (self.keep.path(), proposal.bytes_needed, proposal.bytes_free);
        let outside = proposal.outside.as_ref().map(|one| (&*one.directory, one.bytes_needed, one.bytes_free));
        if let Some((path, needed, free)) = [here].into_iter().chain(outside).find(|(_, needed, free)| needed > free) {
            return Err(Error::NoSpace { path: path.to_owned(), needed, free });
        }
        let disk = self.disk.afresh();
        let folder = self.keep.next(&*disk, proposal.title)?;
        let began_at = jiff::Timestamp::now().as_second();
        let (number, title) = (folder.number, proposal.title.to_owned());
        let enclosures: Vec<_> = [Account::of(&proposal).enclosure()]
            .into_iter()
            .chain(proposal.enclosed.iter().map(|(enclosure, _)| enclosure.clone()))
            .collect();
        let begin = Begin { number, title, began_at, plan: proposal.plan };
        match Operation::begin(&*disk, &folder.path, &self.keep.unborn(), begin, &enclosures) {
            Ok(operation) => self.drive(&*disk, &folder, (operation, Tail::Clean), watch),
            Err(failed) if disk.stat(&folder.path)?.is_some() => Err(self.interrupted(&folder, failed)),
            Err(failed) => Err(Error::NotBegun { source: failed }),
        }
    }

    /// Drives an operation forward. Where that fails before the commit, it is undone by what undoes it after a crash: a
    /// fresh look at the disk, and the same walk.
    fn drive(
        &self,
        disk: &dyn Disk,
        folder: &Folder,
        (mut operation, tail): (Operation<Step>, Tail),
        watch: &mut dyn Watch,
    ) -> Result<Ended, Error> {
        let mut world = World::new(disk, &self.palace, &folder.path, operation.plan());
        let failed = match operation.run(&mut world, watch) {
            Ok(outcome) => return Ok(ended(folder, (&operation, &world), tail, outcome)),
            Err(engine::Error::Stopped { done, all }) => return Err(Error::Stopped { done, all }),
            Err(failed @ engine::Error::CannotResume) => return Err(failed.into()),
            Err(failed) => failed,
        };
        // After a failed sync nothing this process reads proves anything (invariant I7).
        if operation.ledger().is_committed() || disk.poison() == Some(Poison::Sync) {
            return Err(self.interrupted(folder, failed));
        }
        drop((operation, world));
        let disk = disk.afresh();
        let (mut operation, _, mut world) = self.pick_up(&*disk, folder)?;
        match operation.abort(&failed.to_string(), &mut world, watch) {
            Ok(_) => {
                let left_behind = world.annex_out_of_reach();
                Err(Error::RolledBack { number: folder.number, source: failed, left_behind })
            }
            Err(error) => Err(self.interrupted(folder, error)),
        }
    }

    fn interrupted(&self, folder: &Folder, source: engine::Error) -> Error {
        let (palace, folder) = (self.palace.clone(), folder.path.clone());
        let annex = annex(self.disk, &folder);
        match source {
            engine::Error::Stopped { done, all } => Error::Stopped { done, all },
            engine::Error::Refused { .. } => {
                let places = [palace, folder].into_iter().chain(annex).collect();
                Error::Refused { places, source }
            }
            source @ (engine::Error::Illegal { .. } | engine::Error::Journal(journal::Error::Damaged { .. })) => {
                source.into()
            }
            source => Error::Interrupted { folder, annex, source },
        }
    }
}

/// Where the operation in a folder has its annex, if its journal can be read and names one.
fn annex(disk: &dyn Disk, folder: &Path) -> Option<PathBuf> {
    let entry = engine::read::<Step>(disk, &folder.join(keep::JOURNAL)).ok()?;
    crate::ops::annex_of(&entry.begin.plan)?.path().ok()
}

fn ended(folder: &Folder, (operation, world): (&Operation<Step>, &World), tail: Tail, outcome: Outcome) -> Ended {
    Ended {
        left_behind: world.annex_out_of_reach(),
        number: folder.number,
        title: operation.title().to_owned(),
        outcome,
        aborted: operation.ledger().aborted().map(str::to_owned),
        torn_bytes: if let Tail::Torn { bytes, .. } = tail { bytes } else { 0 },
        folder: folder.path.clone(),
    }
}

/// The real directory behind a path: what is renamed and locked is the palace, never a link to it.
pub(crate) fn resolve(disk: &dyn Disk, palace: &Path) -> Result<PathBuf, Error> {
    let has_database = |directory: &Path| !matches!(Kind::of(disk, directory), Ok(None));
    if !has_database(palace) {
        let palace = std::path::absolute(palace).unwrap_or_else(|_| palace.to_owned());
        let copies: Vec<PathBuf> =
            chroma::copies(disk, &palace)?.into_iter().filter(|copy| has_database(copy)).collect();
        if !copies.is_empty() {
            return Err(Error::MovedAway { palace, copies });
        }
    }
    let real = disk.resolve(palace)?.ok_or_else(|| chroma::Error::NoDirectory(palace.to_owned()))?;
    match disk::is_directory(disk, &real)? {
        true => Ok(real),
        false => Err(chroma::Error::NotADirectory(palace.to_owned()).into()),
    }
}
