//! Finds what an operation replaced, makes sure that it still goes together, and plans its return.
//!
//! The copy that was made before anything else is preferred to the store that was set aside: a client that still had
//! the old files open may have gone on writing to those.

use super::keep::{Folder, JOURNAL, Keep};
use super::propose::{Desk, temporary};
use super::{Error, Kind, Proposal, resolve, together};
use crate::disk::{Disk, exists};
use crate::engine::{self, Entry, Outcome};
use crate::ops::names::{ASIDE, BACKUP};
use crate::ops::restore::{self, Order, Replaced};
use crate::ops::{Step, StoreFiles};
use crate::store::chroma::{self, Digest, Finds, Limits, Pages, Preparation, Source, Survey, Totals};
use crate::store::exact;
use crate::store::scratch::Scratch;
use crate::tree::{Fingerprint, Spot, is_same};
use std::path::{Path, PathBuf};

/// What would come back, and what would give way.
pub struct Restoration<'d> {
    /// The operation whose work is taken back.
    pub number: u32,
    /// What that was for.
    pub title: String,
    /// Where what it replaced was kept.
    pub from: PathBuf,
    /// What comes back; `None` where its damage does not let it be read.
    pub then: Option<Vec<Holding>>,
    /// What is in the palace now; `None` where it cannot be read.
    pub now: Option<Vec<Holding>>,
    /// What a person should know before saying yes.
    pub notes: Vec<String>,
    /// What is going to be run.
    pub proposal: Proposal<'d>,
}

/// What a collection holds.
pub struct Holding {
    /// Its name.
    pub name: String,
    /// Records.
    pub records: u64,
    /// Records that the other palace has not; 0 where that one cannot be read.
    pub alone: u64,
    /// Writes that wait to be applied.
    pub pending: u64,
    /// Digest of its records and waiting writes.
    pub digest: Digest,
}

/// Plans a restore without a lock and without writing anything, the keep included.
pub fn propose_restore<'d>(
    disk: &'d dyn Disk,
    palace: &Path,
    number: u32,
    watch: &mut dyn FnMut(),
) -> Result<Restoration<'d>, Error> {
    let palace = resolve(disk, palace)?;
    let keep = Keep::find(disk, &palace)?.ok_or(Error::NoOperation { number })?;
    Desk { palace: &palace, room: temporary(disk), space: keep.path(), annex: None }.restore(&keep, number, watch)
}

/// A store that can be read, and what was read.
type Reading<'d> = (Source<'d>, Survey, Option<Scratch<'d>>);

impl<'d> Desk<'d, '_> {
    pub(super) fn restore(&self, keep: &Keep, number: u32, watch: &mut dyn FnMut()) -> Result<Restoration<'d>, Error> {
        let disk = self.room.disk;
        let folder = keep.folder(disk, number)?;
        let entry: Entry<Step> = engine::read(disk, &folder.path.join(JOURNAL))?;
        let replaced = match entry.ledger.outcome() {
            None => return Err(Error::NotEnded { number }),
            Some(Outcome::RolledBack) => return Err(Error::NothingReplaced { number, why: "it was rolled back" }),
            Some(Outcome::Completed) => Replaced::of(&entry.begin.plan),
        };
        let replaced = replaced.ok_or(Error::NothingReplaced { number, why: "no store was there before it" })?;
        let mut now = self.present(disk)?;
        let mut find = Find { disk, palace: self.palace, folder: &folder, replaced: &replaced, notes: Vec::new() };
        let part = find.place()?;
        let place = folder.path.join(part);
        let (old, standing) = find.store(&place)?;
        let before = self.read_store(&place, watch)?;
        if replaced.vital().next().is_some() {
            self.roll(&find, &place)?;
        }
        self.prove(&find, &place, &standing, watch)?;
        let after = if now.is_some() { self.read_store(self.palace, watch)? } else { None };
        match (&mut now, &after) {
            (Some(now), Some((_, survey, _))) => now.look_at_segments(disk, self.palace, survey)?,
            (Some(_), None) => find.notes.push(
                "what is in the palace now cannot be read; its indexes stay in the palace, under names that nothing \
                 uses"
                    .into(),
            ),
            (None, _) => {}
        }
        let name = folder.path.file_name().unwrap_or_default().to_string_lossy();
        let source = Spot::keep(format!("{name}/{part}"));
        let order = Order { source, old: &old, standing: &standing.names(), now: now.as_ref() };
        let (plan, bytes_needed) = restore::plan(order);
        let proposal = Proposal {
            title: "restore",
            plan,
            losses: Vec::new(),
            restored: Vec::new(),
            finds: Finds::default(),
            collections: Vec::new(),
            target: String::new(),
            enclosed: None,
            format: before.as_ref().map_or_else(String::new, |(source, ..)| source.format().name.clone()),
            bytes_needed,
            bytes_free: disk.space(self.space)?,
            outside: None,
            notes: Vec::new(),
        };
        let then = holdings(&before, &after, watch)?;
        let now = if now.is_some() { holdings(&after, &before, watch)? } else { Some(Vec::new()) };
        let (notes, title) = (find.notes, entry.begin.title);
        Ok(Restoration { number, title, from: place, then, now, notes, proposal })
    }

    /// What cannot be rolled back cannot stand alone, and must not come back without its journal.
    fn roll(&self, find: &Find, place: &Path) -> Result<(), Error> {
        let rolled = match find.replaced.database == exact::DATABASE {
            true => exact::Reader::open(place, &self.room).map(drop),
            false => Source::open(place, &self.room, &Preparation::default()).map(drop),
        };
        rolled.map_err(|error| match error.is_of_the_machine() {
            true => error.into(),
            false => find.refuse(format!("its journal cannot be rolled back: {error}")),
        })
    }

    /// The store that would give way, looked at before it is read.
    fn present(&self, disk: &dyn Disk) -> Result<Option<StoreFiles>, Error> {
        let kind = Kind::of(disk, self.palace)?.unwrap_or(Kind::Chroma);
        let now = StoreFiles::look(disk, self.palace, kind.database())?;
        Kind::insist_on_no_stray(disk, self.palace)?;
        Ok(now)
    }

    /// Reads a store as well as it can be read.
    fn read_store(&self, directory: &Path, watch: &mut dyn FnMut()) -> Result<Option<Reading<'d>>, Error> {
        if matches!(Kind::of(self.room.disk, directory), Ok(Some(Kind::Exact))) {
            return Ok(self.read_exact(directory, watch).ok());
        }
        for pages in [Pages::Sound, Pages::Salvaged] {
            let preparation = Preparation { pages, ..Preparation::default() };
            match self.survey(directory, &preparation, watch) {
                Ok(reading) => return Ok(Some(reading)),
                Err(error @ chroma::Error::Scratch { .. }) => return Err(error.into()),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn survey(
        &self,
        directory: &Path,
        preparation: &Preparation,
        watch: &mut dyn FnMut(),
    ) -> Result<Reading<'d>, chroma::Error> {
        let source = Source::open(directory, &self.room, preparation)?.with_segments_in(self.palace)?;
        let survey = chroma::survey(&source, Limits::default(), watch)?;
        Ok((source, survey, None))
    }

    /// Reads a store without an index as one of chromadb's.
    fn read_exact(&self, directory: &Path, watch: &mut dyn FnMut()) -> Result<Reading<'d>, chroma::Error> {
        let taken = exact::Reader::open(directory, &self.room)?.taken_in(&self.room, watch)?;
        let (source, survey, _) = self.survey(taken.directory.path(), &Preparation::default(), watch)?;
        Ok((source, survey, Some(taken.directory)))
    }

    /// Makes sure that segments which stayed in the palace are those that the old database knows: read together, both
    /// must say what they said before the operation.
    fn prove(&self, find: &Find, place: &Path, standing: &Standing, watch: &mut dyn FnMut()) -> Result<(), Error> {
        if standing.unproved.is_empty() {
            return Ok(());
        }
        // Copies beside the palace, which a repair has read as well, may have changed since or be gone.
        let held = find.replaced.held.as_ref().filter(|held| held.blueprint.preparation.adopted.is_empty());
        let preparation = held.map(|held| held.blueprint.preparation.clone()).unwrap_or_default();
        let survey = match self.survey(place, &preparation, watch) {
            Ok((_, survey, _)) => survey,
            Err(error) if error.is_of_the_machine() => return Err(error.into()),
            Err(error) => return Err(find.moved_on(place, &standing.unproved[0], &error.to_string())),
        };
        // Of those that only could not be moved aside nothing was written down.
        let is_kept = standing.unproved.iter().all(|name| find.replaced.kept.contains(name));
        let apart = match held.filter(|_| is_kept) {
            Some(held) => together::apart(held, &survey, &standing.unproved),
            None => together::unsound(&survey, &standing.unproved),
        };
        match apart {
            Some((segment, what)) => Err(find.moved_on(place, &segment, &what)),
            None => Ok(()),
        }
    }
}

/// Segments that the old database names and that stand in the palace.
struct Standing {
    /// They are equal to the copy, byte for byte.
    equal: Vec<String>,
    /// There is no copy.
    unproved: Vec<String>,
}

impl Standing {
    fn names(&self) -> Vec<String> {
        self.equal.iter().chain(&self.unproved).cloned().collect()
    }
}

/// Looks for what an operation replaced.
struct Find<'f> {
    disk: &'f dyn Disk,
    palace: &'f Path,
    folder: &'f Folder,
    replaced: &'f Replaced,
    notes: Vec<String>,
}

impl Find<'_> {
    /// The part of the operation's folder that holds all of it.
    fn place(&mut self) -> Result<&'static str, Error> {
        let [backup, aside] = [BACKUP, ASIDE].map(|part| self.folder.path.join(part));
        let missing = self.missing(&backup, None)?;
        if missing.is_empty() {
            self.compare(&backup, &aside)?;
            return Ok(BACKUP);
        }
        // Where a segment could not be moved aside, it still stands in the palace.
        let also = self.missing(&aside, Some(self.palace))?;
        if !also.is_empty() {
            let (missing, also) = (missing.join(", "), also.join(", "));
            let (backup, aside) = (backup.display(), aside.display());
            return Err(self.refuse(format!("{backup} is not whole ({missing}), and neither is {aside} ({also})")));
        }
        self.notes.push(format!("{} is not whole ({}); {} is", backup.display(), missing.join(", "), aside.display()));
        let found = Fingerprint::of(self.disk, &aside.join(&self.replaced.database))?;
        if found != self.replaced.expects {
            if self.replaced.vital().next().is_some() {
                let what =
                    "somebody wrote to the database after it was replaced, and its journal does not fit any more";
                return Err(self.refuse(format!("{}: {what}", aside.display())));
            }
            let what = "somebody wrote to the database in it after it was replaced, and that comes back as well";
            self.notes.push(format!("{}: {what}", aside.display()));
        }
        Ok(ASIDE)
    }

    /// What keeps a directory from being all that was replaced, where its segments may also stand elsewhere.
    fn missing(&self, place: &Path, elsewhere: Option<&Path>) -> Result<Vec<String>, Error> {
        let Replaced { database, segments, .. } = self.replaced;
        let mut missing = Vec::new();
        for name in [database].into_iter().chain(self.replaced.vital()) {
            if !exists(self.disk, &place.join(name))? {
                missing.push(format!("{name} is missing"));
            }
        }
        for name in segments {
            let mut stands = exists(self.disk, &place.join(name))?;
            if let Some(elsewhere) = elsewhere {
                stands |= exists(self.disk, &elsewhere.join(name))?;
            }
            if !stands {
                missing.push(format!("{name} is missing"));
            }
        }
        for name in chroma::siblings(database).into_iter().filter(|name| !self.replaced.siblings.contains(name)) {
            if exists(self.disk, &place.join(&name))? {
                missing.push(format!("somebody left {name} there"));
            }
        }
        Ok(missing)
    }

    /// Notes what was written to the old store after it was replaced.
    fn compare(&mut self, backup: &Path, aside: &Path) -> Result<(), Error> {
        let Replaced { database, segments, .. } = self.replaced;
        for name in [database].into_iter().chain(self.replaced.vital()).chain(segments) {
            let (copy, kept) = (backup.join(name), aside.join(name));
            if self.disk.stat(&kept)?.is_some() && !is_same(self.disk, &copy, &kept)? {
                self.notes.push(format!(
                    "{} is not as it was replaced: somebody has written to it since, or to the copy in {}. The copy \
                     comes back, and the other stays where it is",
                    kept.display(),
                    backup.display()
                ));
            }
        }
        Ok(())
    }

    /// Looks at the store in a place, and at what of it stands in the palace.
    fn store(&self, place: &Path) -> Result<(StoreFiles, Standing), Error> {
        let Replaced { database, segments, kept, .. } = self.replaced;
        let Some(mut old) = StoreFiles::look(self.disk, place, database)? else {
            return Err(self.refuse(format!("{} is gone", place.join(database).display())));
        };
        old.look_at_named(self.disk, place, segments.iter().map(String::as_str))?;
        let mut standing = Standing { equal: Vec::new(), unproved: Vec::new() };
        for name in segments.iter().chain(kept) {
            let (copy, live) = (place.join(name), self.palace.join(name));
            let (has_copy, is_live) = (self.disk.stat(&copy)?.is_some(), self.disk.stat(&live)?.is_some());
            match (has_copy, is_live) {
                (true, true) if is_same(self.disk, &copy, &live)? => standing.equal.push(name.clone()),
                (true, true) => {
                    return Err(self.refuse(format!(
                        "the index {} has been written to since it was copied to {}, and the old one has the same \
                         name. Run palacekeeper rebuild first, which gives the indexes of the palace other names",
                        live.display(),
                        place.display()
                    )));
                }
                (true, false) => {}
                (false, true) => standing.unproved.push(name.clone()),
                (false, false) => {
                    return Err(self.refuse(format!(
                        "the index {name} is not in {} any more, where it stayed; if a later operation replaced it, \
                         restore that one first",
                        self.palace.display()
                    )));
                }
            }
        }
        Ok((old, standing))
    }

    fn refuse(&self, why: String) -> Error {
        Error::Unrestorable { number: self.folder.number, why }
    }

    fn moved_on(&self, place: &Path, segment: &str, what: &str) -> Error {
        let (palace, place, number) = (self.palace.display(), place.display(), self.folder.number);
        self.refuse(format!(
            "the index {segment} in {palace} has been written to since, and does not go with the old database any more \
             ({what}). To have the old records all the same, copy the palace to {palace}.pre-rebuild-{number}, put \
             what is in {place} into that copy, and run palacekeeper repair --only leftover-richer, which takes over \
             what the palace lacks; or run palacekeeper rebuild on that copy"
        ))
    }
}

fn holdings(
    reading: &Option<Reading>,
    other: &Option<Reading>,
    watch: &mut dyn FnMut(),
) -> Result<Option<Vec<Holding>>, Error> {
    let Some((source, survey, _)) = reading else { return Ok(None) };
    let mut alone = match other {
        Some((other, ..)) => chroma::only_in(source, other, watch)?,
        None => Default::default(),
    };
    let holdings = survey.collections.iter().map(|one| {
        let Totals { records, pending, digest, .. } = one.totals;
        let name = one.collection.name.clone();
        Holding { alone: alone.remove(&name).unwrap_or(0), name, records, pending, digest }
    });
    Ok(Some(holdings.collect()))
}
