//! Plans what leads from one kind of store to another.

use super::propose::{Desk, Gathered, gathered, reading};
use super::{Error, Kind, Proposal, mempalace};
use crate::ops::{Planned, Step, StoreFiles, exact as to_exact, rebuild};
use crate::store::chroma::check::{self, Depth};
use crate::store::chroma::{
    self, Amendment, Emitter, Format, Limits, Loss, Preparation, Source, Survey, Waiting, survey,
};
use crate::store::exact::{self, Reader, TakenIn};
use std::path::Path;

/// What a palace can be migrated to.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A format of chromadb's.
    Chroma(&'static Format),
    /// MemPalace's `sqlite_exact`.
    Exact,
}

impl<'d> Desk<'d, '_> {
    pub(super) fn migrate(&self, to: Target, limits: Limits, watch: &mut dyn FnMut()) -> Result<Proposal<'d>, Error> {
        match (Kind::of(self.room.disk, self.palace)?, to) {
            (Some(Kind::Exact), Target::Exact) => {
                Err(Error::AlreadyThere { palace: self.palace.to_owned(), format: to_exact::EXACT.to_owned() })
            }
            (Some(Kind::Exact), Target::Chroma(format)) => {
                let proposal = self.exact_to_format(format, limits, watch)?;
                Ok(Proposal { notes: mempalace::notes(self.palace, Kind::Chroma), ..proposal })
            }
            (_, Target::Exact) => {
                let proposal = self.format_to_exact(limits, watch)?;
                Ok(Proposal { notes: mempalace::notes(self.palace, Kind::Exact), ..proposal })
            }
            (_, Target::Chroma(format)) => self.to_format(format, limits, watch),
        }
    }

    /// Writes that wait are applied on the way: the new store has no queue.
    fn format_to_exact(&self, limits: Limits, watch: &mut dyn FnMut()) -> Result<Proposal<'d>, Error> {
        let mut files = self.files()?;
        Kind::insist_on_no_stray(self.room.disk, self.palace)?;
        let checked = check::check(self.palace, &self.room, Depth::Pages, &mut || ())?;
        let mut preparation = reading(&self.preparation(&checked)?);
        let (source, found) = self.read_applied(self.palace, &mut preparation, limits, watch)?;
        files.look_at_segments(self.room.disk, self.palace, &found)?;
        let format = source.format().name.clone();
        let mut planned = to_exact::plan(preparation.clone(), self.annex.clone(), &files, &found);
        planned.losses.extend(preparation.losses());
        let gathered = gathered(&source, &found);
        planned.losses.extend(unheld(source, &found)?);
        self.proposal("migrate", format, planned, &found, gathered)
    }

    /// Reads a store for where there is no queue: what waits is applied to a copy first, and the preparation says so.
    pub(super) fn read_applied(
        &self,
        directory: &Path,
        preparation: &mut Preparation,
        limits: Limits,
        watch: &mut dyn FnMut(),
    ) -> Result<(Source<'d>, Survey), Error> {
        let source = Source::open(directory, &self.room, preparation)?;
        let found = survey(&source, limits, watch)?;
        let waiting = Waiting::of(&found);
        if waiting.is_empty() {
            return Ok((source, found));
        }
        preparation.amendments.push(Amendment::Apply(waiting));
        let source = Source::open(directory, &self.room, preparation)?;
        let found = survey(&source, limits, watch)?;
        Ok((source, found))
    }

    /// The old store is made a database of chromadb's first, here for reading, and then by the operation's own step.
    fn exact_to_format(
        &self,
        to: &'static Format,
        limits: Limits,
        watch: &mut dyn FnMut(),
    ) -> Result<Proposal<'d>, Error> {
        let files = StoreFiles::look(self.room.disk, self.palace, exact::DATABASE)?;
        let files = files.ok_or_else(|| chroma::Error::NotAPalace(self.palace.to_owned()))?;
        Kind::insist_on_no_stray(self.room.disk, self.palace)?;
        let reader = Reader::open(self.palace, &self.room)?;
        let TakenIn { directory, losses: mut unheld } = reader.taken_in(&self.room, watch)?;
        unheld.extend(reader.besides(self.room.disk, self.palace)?);
        let (records, bytes) = reader.totals()?;
        let step = Step::Exact(exact::Step::TakeIn { records, bytes });
        let replaced = rebuild::Replaced::Store(&files);
        let (planned, found) = self.plan_of_intake(directory.path(), step, (to, limits), replaced, &mut unheld)?;
        let losses = [planned.losses, unheld].concat();
        let planned = Planned { losses, ..planned }.taking_in(2 * bytes);
        self.proposal("migrate", to_exact::EXACT.to_owned(), planned, &found, Gathered::default())
    }

    /// Plans a palace of what was taken in to `directory`; `step` is what takes it in again.
    pub(super) fn plan_of_intake(
        &self,
        directory: &Path,
        step: Step,
        (to, limits): (&'static Format, Limits),
        replaced: rebuild::Replaced,
        losses: &mut Vec<Loss>,
    ) -> Result<(Planned, Survey), Error> {
        let mut preparation = Preparation::default();
        let mut source = Source::open(directory, &self.room, &preparation)?;
        let without = chroma::unheld(&source, to)?;
        if !without.is_empty() && source.format().name != to.name {
            losses.extend(without);
            preparation.amendments.push(Amendment::Fit { format: to.name.clone() });
            source = Source::open(directory, &self.room, &preparation)?;
        }
        let mut found = survey(&source, limits, &mut || ())?;
        // The queue only holds what vectors are read from; all that a new one needs of it is its highest number.
        found.queue.clear();
        found.queue_max = 0;
        let (from, mended, origin) = (source.format(), Vec::new(), rebuild::Origin::Intake(step));
        let order = rebuild::Order { from, to, preparation, mended, origin, annex: self.annex.clone() };
        Ok((rebuild::plan(order, replaced, &found), found))
    }
}

/// What a `sqlite_exact` store has no place for.
fn unheld(source: Source, found: &Survey) -> Result<Vec<Loss>, Error> {
    let emitter = Emitter::new(source)?;
    let mut losses: Vec<Loss> = emitter.heads()?.iter().flat_map(|head| exact::fit_head(head).1).collect();
    if found.unowned.records > 0 {
        let what = format!("{} records", found.unowned.records);
        losses.push(Loss::Unheld { whose: "collections that were deleted".into(), what });
    }
    emitter.run(i64::MIN, i64::MAX, &mut |given| {
        losses.extend(given.losses);
        losses.extend(exact::fit(&given.record).1);
        Ok(())
    })?;
    Ok(losses)
}
