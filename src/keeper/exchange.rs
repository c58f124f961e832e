//! Palaces as text: out of any store, and into a directory that has none.

use super::propose::{Desk, Gathered, reading, temporary};
use super::{Error, Keeper, Kind, Means, Proposal, neighbours, resolve};
use crate::disk::{self, Disk, is_directory};
use crate::engine::{Contents, Enclosure};
use crate::ops::{Step, names, rebuild};
use crate::store::chroma::check::{self, Depth};
use crate::store::chroma::{self, DATABASE, Emitter, Format, Intake, Limits, Loss, Preparation, Survey};
use crate::store::exact::{Reader, TakenIn};
use crate::store::lines::{self, Summary};
use crate::store::scratch::{Room, Scratch};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// A palace that is about to be written out.
pub struct Export<'d> {
    disk: &'d dyn Disk,
    palace: PathBuf,
    kind: Kind,
    before: Vec<(PathBuf, u64, i64)>,
    emitter: Emitter<'d>,
    found: Survey,
    /// Names of the collections of which something cannot be written out.
    partial: BTreeSet<String>,
    /// What cannot be written out.
    pub losses: Vec<Loss>,
    /// Holds what was taken in of a store that is not chromadb's.
    _scratch: Option<Scratch<'d>>,
}

/// Reads a palace of any kind for writing it out, without a lock and without changing a byte of it.
pub fn export<'d>(disk: &'d dyn Disk, palace: &Path, watch: &mut dyn FnMut()) -> Result<Export<'d>, Error> {
    let palace = resolve(disk, palace)?;
    let kind = Kind::of(disk, &palace)?.ok_or_else(|| chroma::Error::NotAPalace(palace.clone()))?;
    let before = state(disk, &palace)?;
    let room = temporary(disk);
    let (directory, mut losses, held, mut preparation) = match kind {
        Kind::Chroma => {
            let checked = check::check(&palace, &room, Depth::Pages, &mut || ())?;
            let preparation = reading(&desk(&palace, &room).preparation(&checked)?);
            (palace.clone(), preparation.losses(), None, preparation)
        }
        Kind::Exact => {
            let TakenIn { directory, losses } = Reader::open(&palace, &room)?.taken_in(&room, watch)?;
            (directory.path().to_owned(), losses, Some(directory), Preparation::default())
        }
    };
    let desk = desk(&palace, &room);
    let (source, found) = desk.read_applied(&directory, &mut preparation, Limits::default(), watch)?;
    losses.extend(found.losses.iter().cloned());
    let emitter = Emitter::new(source)?;
    let partial = unwritable(&emitter, &mut losses, watch)?;
    losses.sort();
    losses.dedup();
    Ok(Export { disk, palace, kind, before, emitter, found, partial, losses, _scratch: held })
}

/// What text cannot hold; returns the names of the collections it is in.
fn unwritable(
    emitter: &Emitter,
    losses: &mut Vec<Loss>,
    watch: &mut dyn FnMut(),
) -> Result<BTreeSet<String>, chroma::Error> {
    let heads = emitter.heads()?;
    for head in &heads {
        losses.extend(lines::fit(&mut head.metadata.clone(), &head.name));
    }
    let mut partial = BTreeSet::new();
    emitter.run(i64::MIN, i64::MAX, &mut |mut given| {
        watch();
        given.losses.extend(lines::fit(&mut given.record.metadata, &given.record.id));
        if !given.losses.is_empty() {
            partial.insert(heads[given.owner].name.clone());
            losses.append(&mut given.losses);
        }
        Ok(())
    })?;
    Ok(partial)
}

impl Export<'_> {
    /// How many records there are.
    pub fn records(&self) -> u64 {
        self.found.collections.iter().map(|one| one.totals.records).sum()
    }

    /// Writes it out.
    ///
    /// # Errors
    /// [`Error::ChangedMeanwhile`] where somebody wrote to the palace while it was read: what was written out may then
    /// be of two moments, and lacks its last line.
    pub fn write(self, output: &mut dyn Write, watch: &mut dyn FnMut()) -> Result<Summary, Error> {
        let whole = self.found.collections.iter().filter(|one| !self.partial.contains(&one.collection.name));
        let digests = whole.map(|one| (one.collection.name.clone(), one.totals.digest));
        let digests: BTreeMap<_, _> = digests.collect();
        let (palace, before) = (&self.palace, &self.before);
        let is_unchanged = || state(self.disk, palace).is_ok_and(|now| now == *before);
        match lines::write(&self.emitter, &digests, output, &is_unchanged, watch)? {
            Some(summary) => Ok(summary),
            None => Err(Error::ChangedMeanwhile { palace: palace.clone(), database: self.kind.database() }),
        }
    }
}

/// The files of a store, with length and time of change: enough to notice that somebody wrote to one.
fn state(disk: &dyn Disk, palace: &Path) -> Result<Vec<(PathBuf, u64, i64)>, Error> {
    let mut files = Vec::new();
    for path in neighbours::store_paths(disk, palace)? {
        let found = disk.stat(&path)?;
        files.extend(found.map(|found| (path, found.length, found.modified_ns)));
    }
    files.sort();
    Ok(files)
}

fn desk<'d, 'p>(palace: &'p Path, room: &'p Room<'d>) -> Desk<'d, 'p> {
    Desk { palace, room: room.clone(), space: &room.directory, annex: None }
}

impl<'d> Keeper<'d> {
    /// Opens a directory that has no store, to import one; it is made where there is none.
    pub fn lock_empty(disk: &'d dyn Disk, palace: &Path) -> Result<Keeper<'d>, Error> {
        if let Err(moved @ Error::MovedAway { .. }) = resolve(disk, palace) {
            return Err(moved);
        }
        if disk.resolve(palace)?.is_none() {
            let absolute = std::path::absolute(palace).unwrap_or_else(|_| palace.to_owned());
            disk.create_dir(&absolute)?;
        }
        let palace = resolve(disk, palace)?;
        insist_on_no_store(disk, &palace)?;
        Keeper::lock_directory(disk, palace)
    }

    /// Removes the directory that was made for an import which came to nothing.
    pub fn leave_empty(self) -> Result<(), Error> {
        let disk = self.disk.afresh();
        if self.keep.interrupted(&*disk)?.is_none() && disk.list(&self.palace)?.is_empty() {
            disk.remove(&self.palace)?;
        }
        Ok(())
    }

    /// Reads lines to their end, and plans a palace of them. They are kept in the keep until the import has ended.
    pub fn propose_import(
        &self,
        input: &mut dyn BufRead,
        to: &'static Format,
        means: impl Into<Means>,
        watch: &mut dyn FnMut(),
    ) -> Result<Proposal<'d>, Error> {
        let Means { limits, annex } = means.into();
        self.desk(annex).import(input, to, limits, watch)
    }
}

/// Plans an import without a lock and without writing anything, the keep and the palace's directory included.
pub fn propose_import<'d>(
    disk: &'d dyn Disk,
    palace: &Path,
    input: &mut dyn BufRead,
    to: &'static Format,
    means: impl Into<Means>,
    watch: &mut dyn FnMut(),
) -> Result<Proposal<'d>, Error> {
    let palace = std::path::absolute(palace).unwrap_or_else(|_| palace.to_owned());
    let mut there = &*palace;
    while !is_directory(disk, there)? {
        there = there.parent().unwrap_or(Path::new("/"));
    }
    let Means { limits, annex } = means.into();
    Desk { palace: &palace, room: temporary(disk), space: there, annex }.import(input, to, limits, watch)
}

fn insist_on_no_store(disk: &dyn Disk, palace: &Path) -> Result<(), Error> {
    match Kind::of(disk, palace)? {
        Some(kind) => Err(Error::HasStore { palace: palace.to_owned(), database: kind.database() }),
        None => Ok(()),
    }
}

impl<'d> Desk<'d, '_> {
    fn import(
        &self,
        input: &mut dyn BufRead,
        to: &'static Format,
        limits: Limits,
        watch: &mut dyn FnMut(),
    ) -> Result<Proposal<'d>, Error> {
        // Looked at again behind the lock: somebody may have been faster, or a recovery has brought a store.
        insist_on_no_store(self.room.disk, self.palace)?;
        Kind::insist_on_no_stray(self.room.disk, self.palace)?;
        let scratch = Scratch::new(&self.room, self.palace)?;
        let (spool, bytes) = scratch.spool(names::INPUT, input)?;
        let taken = Scratch::new(&self.room, self.palace)?; // nobody needs it when the operation runs
        let mut intake = Intake::create(&taken.path().join(DATABASE))?;
        let lines = self.room.disk.open(&spool)?;
        let summary = lines::read(&mut BufReader::new(disk::Reader::new(&*lines)), &mut intake, watch)?;
        intake.finish()?;
        let step = Step::Lines(lines::Step::TakeIn { records: summary.records, bytes });
        let mut unheld = Vec::new();
        let (mut planned, found) =
            self.plan_of_intake(taken.path(), step, (to, limits), rebuild::Replaced::Nothing, &mut unheld)?;
        prove(&summary, &found, unheld.is_empty())?;
        planned.losses.extend(unheld);
        planned.bytes_needed += bytes;
        let proposal = self.proposal("import", "an export".to_owned(), planned, &found, Gathered::default())?;
        let enclosure = Enclosure { name: names::INPUT, contents: Contents::Moved(spool) };
        Ok(Proposal { enclosed: Some((enclosure, scratch)), ..proposal })
    }
}

/// What came is what was sent, by the digests that were sent along; `is_whole` where nothing had to be left out.
fn prove(summary: &Summary, found: &Survey, is_whole: bool) -> Result<(), Error> {
    let came = |name: &String| found.collections.iter().find(|one| one.collection.name == *name);
    let is_as_sent = |name: &String, sent: &String| {
        came(name).is_some_and(|one| !is_whole || one.totals.digest.to_string() == *sent)
    };
    match summary.digests.iter().find(|(name, sent)| !is_as_sent(name, sent)) {
        Some((name, _)) => Err(Error::NotAsSent { collection: name.clone() }),
        None => Ok(()),
    }
}
