//! Looks through a palace and plans what could be done about it. Nothing is changed by that.

use super::keep::Keep;
use super::means::{self, Means, Outside};
use super::{Error, Kind, Target, look, resolve};
use crate::disk::Disk;
use crate::engine::{Enclosure, Plan};
use crate::ops::{Planned, Step, StoreFiles, amend, rebuild};
use crate::store::chroma::check::{self, Checked, Code, Depth, Finding, Read, Remedy, Severity};
use crate::store::chroma::{
    self, Amendment, Finds, Format, Limits, Loss, Origin, Pages, Preparation, Route, Source, Survey, survey,
};
use crate::store::scratch::{Room, Scratch};
use crate::tree::Annex;
use std::path::Path;

/// What would be done.
pub struct Proposal<'d> {
    /// `rebuild`, `repair` or `restore`.
    pub title: &'static str,
    /// What is going to be run.
    pub plan: Plan<Step>,
    /// What cannot be carried over.
    pub losses: Vec<Loss>,
    /// What was found elsewhere than where it should have been: from where, and how much.
    pub restored: Vec<(String, u64)>,
    /// Rows and values among these, one by one.
    pub finds: Finds,
    /// The collections, with their counts.
    pub collections: Vec<ProposedCollection>,
    /// The format the palace has.
    pub format: String,
    /// The format it is going to have.
    pub target: String,
    /// Bytes that must be free where the keep is.
    pub bytes_needed: u64,
    /// Bytes that are free there.
    pub bytes_free: u64,
    /// What is needed elsewhere beside that, if the new store is built there.
    pub outside: Option<Outside>,
    /// What a person should change elsewhere, in MemPalace's own settings.
    pub notes: Vec<String>,
    /// A file that is born with the operation, and the directory that holds it until then.
    pub(super) enclosed: Option<(Enclosure, Scratch<'d>)>,
}

/// A collection in a proposal.
pub struct ProposedCollection {
    /// Its name.
    pub name: String,
    /// Records in it.
    pub records: u64,
    /// Writes that wait to be applied, carried over as they are.
    pub pending: u64,
    /// The way its vectors take; `None` where the new store has no index.
    pub route: Option<Route>,
}

/// What is wrong with a palace, and what would mend it.
pub struct Diagnosis<'d> {
    /// Findings that the proposal mends.
    pub mended: Vec<Finding>,
    /// Findings that it leaves: nothing has to be done, nobody asked for it, or only a person can.
    pub left: Vec<Finding>,
    /// What would be done; `None` where there is nothing to mend.
    pub proposal: Option<Proposal<'d>>,
}

/// Looks through a palace without a lock and without writing anything, the keep included.
pub fn check(disk: &dyn Disk, palace: &Path, depth: Depth, watch: &mut dyn FnMut()) -> Result<Checked, Error> {
    let palace = resolve(disk, palace)?;
    let interrupted = look(disk, &palace)?.interrupted().map(|operation| {
        let evidence = format!("{} ({})", operation.folder.display(), operation.title);
        Finding::new(Code::OperationInterrupted, "the keep", evidence)
    });
    let mut checked = match Kind::of(disk, &palace) {
        // Of an import that was cut short, or of a migration between its last two renames, nothing else is to be said.
        Err(Error::TwoStores { .. }) | Ok(None) if interrupted.is_some() => {
            Checked { format: None, findings: Vec::new() }
        }
        kind => {
            kind?;
            Kind::insist_on_chroma(disk, &palace)?;
            check::check(&palace, &temporary(disk), depth, watch)?
        }
    };
    checked.findings.splice(0..0, interrupted);
    Ok(checked)
}

/// Plans a rebuild without a lock and without writing anything, the keep included.
pub fn propose_rebuild<'d>(
    disk: &'d dyn Disk,
    palace: &Path,
    means: impl Into<Means>,
    watch: &mut dyn FnMut(),
) -> Result<Proposal<'d>, Error> {
    let palace = resolve(disk, palace)?;
    let space = Keep::place(disk, &palace)?;
    let Means { limits, annex } = means.into();
    Desk { palace: &palace, room: temporary(disk), space: &space, annex }.rebuild(limits, watch)
}

/// Plans a migration without a lock and without writing anything, the keep included.
pub fn propose_migration<'d>(
    disk: &'d dyn Disk,
    palace: &Path,
    to: Target,
    means: impl Into<Means>,
    watch: &mut dyn FnMut(),
) -> Result<Proposal<'d>, Error> {
    let palace = resolve(disk, palace)?;
    let space = Keep::place(disk, &palace)?;
    let Means { limits, annex } = means.into();
    Desk { palace: &palace, room: temporary(disk), space: &space, annex }.migrate(to, limits, watch)
}

/// Plans a repair without a lock and without writing anything, the keep included. No code means all of them.
pub fn propose_repair<'d>(
    disk: &'d dyn Disk,
    palace: &Path,
    wanted: &[Code],
    means: impl Into<Means>,
    watch: &mut dyn FnMut(),
) -> Result<Diagnosis<'d>, Error> {
    let palace = resolve(disk, palace)?;
    let space = Keep::place(disk, &palace)?;
    let Means { limits, annex } = means.into();
    Desk { palace: &palace, room: temporary(disk), space: &space, annex }.repair(wanted, limits, watch)
}

/// Where copies are made for reading by whoever writes nothing else.
pub(super) fn temporary(disk: &dyn Disk) -> Room<'_> {
    Room::new(disk, &std::env::temp_dir())
}

/// Where proposals are made.
pub(super) struct Desk<'d, 'p> {
    pub(super) palace: &'p Path,
    /// Where copies are made for reading.
    pub(super) room: Room<'d>,
    /// Where room is needed.
    pub(super) space: &'p Path,
    /// Where the new store is built, if not in the keep.
    pub(super) annex: Option<Annex>,
}

impl<'d> Desk<'d, '_> {
    pub(super) fn rebuild(&self, limits: Limits, watch: &mut dyn FnMut()) -> Result<Proposal<'d>, Error> {
        self.renew("rebuild", None, limits, watch)
    }

    /// A palace of another format of chromadb's, made from everything that can be read.
    pub(super) fn to_format(
        &self,
        to: &'static Format,
        limits: Limits,
        watch: &mut dyn FnMut(),
    ) -> Result<Proposal<'d>, Error> {
        self.renew("migrate", Some(to), limits, watch)
    }

    fn renew(
        &self,
        title: &'static str,
        to: Option<&'static Format>,
        limits: Limits,
        watch: &mut dyn FnMut(),
    ) -> Result<Proposal<'d>, Error> {
        Kind::insist_on_chroma(self.room.disk, self.palace)?;
        let checked = check::check(self.palace, &self.room, Depth::Pages, &mut || ())?;
        let preparation = self.preparation(&checked)?;
        let mended = if to.is_some() { sound_codes(&checked.findings) } else { Vec::new() };
        let renewed = |preparation: &Preparation, watch: &mut dyn FnMut()| {
            let (preparation, unheld) = self.fitted(preparation.clone(), to)?;
            let plan = |source: &Source, files: &StoreFiles, survey: &Survey| {
                let (from, mended, preparation) = (source.format(), mended.clone(), preparation.clone());
                let (to, origin, annex) = (to.unwrap_or(from), rebuild::Origin::Palace, self.annex.clone());
                let order = rebuild::Order { from, to, preparation, mended, origin, annex };
                let planned = rebuild::plan(order, rebuild::Replaced::Store(files), survey);
                Planned { losses: [planned.losses, unheld.clone()].concat(), ..planned }
            };
            let files = self.files()?;
            self.propose(title, files, (self.read(limits, &preparation, watch)?, &preparation), &plan)
        };
        let read = reading(&preparation);
        match renewed(&read, watch) {
            // SQLite objects to a page in which nothing wrong was seen: everything is read without it.
            Err(Error::Store(error)) if error.is_damage() && read.pages == Pages::Sound => {
                renewed(&Preparation { pages: Pages::Salvaged, ..read }, watch)
            }
            proposed => proposed,
        }
    }

    /// How a palace with these findings has to be read, all of it.
    pub(super) fn preparation(&self, checked: &Checked) -> Result<Preparation, Error> {
        if let Some(finding) = checked.findings.iter().find(|finding| hides_records(finding)) {
            return Err(Error::Unclear { subject: finding.subject.clone(), evidence: finding.evidence.clone() });
        }
        // What a cut-short MemPalace left is only put in order where that was asked for.
        let is_leftover = |code| matches!(code, Code::LeftoverCollection | Code::LeftoverRicher);
        Ok(Preparation::of(&checked.findings, &|finding| !is_leftover(finding.code)))
    }

    /// How the store has to be read for a format that may have no place for all it holds, and what that leaves out.
    fn fitted(&self, mut preparation: Preparation, to: Option<&Format>) -> Result<(Preparation, Vec<Loss>), Error> {
        let Some(to) = to else { return Ok((preparation, Vec::new())) };
        let source = Source::open(self.palace, &self.room, &preparation)?;
        if source.format().name == to.name {
            return Err(Error::AlreadyThere { palace: self.palace.to_owned(), format: to.name.clone() });
        }
        let unheld = chroma::unheld(&source, to)?;
        if !unheld.is_empty() {
            preparation.amendments.push(Amendment::Fit { format: to.name.clone() });
        }
        Ok((preparation, unheld))
    }

    pub(super) fn repair(
        &self,
        wanted: &[Code],
        limits: Limits,
        watch: &mut dyn FnMut(),
    ) -> Result<Diagnosis<'d>, Error> {
        let files = self.files()?;
        let how = (Depth::Deep, limits);
        let (checked, kept) = check::check_and_keep(self.palace, &self.room, how, watch)?;
        let is_clear = !checked.findings.iter().any(hides_records);
        // What a copy has and the palace has not may have been deleted: it comes back only where that was asked for.
        let is_meant = |finding: &Finding| wanted.is_empty() && finding.code != Code::LeftoverRicher;
        let is_asked = |finding: &Finding| is_meant(finding) || wanted.contains(&finding.code) || is_needed(finding);
        let is_wanted = |finding: &Finding| is_clear && is_mendable(finding) && is_asked(finding);
        let preparation = Preparation::of(&checked.findings, &is_wanted);
        let (mut mended, mut left): (Vec<_>, Vec<_>) = checked.findings.into_iter().partition(|one| is_wanted(one));
        if mended.is_empty() {
            return Ok(Diagnosis { mended, left, proposal: None });
        }
        let is_rebuilt =
            preparation.pages == Pages::Salvaged || mended.iter().any(|finding| finding.remedy == Remedy::Rebuild);
        let read = reading(&preparation);
        let palace = match kept.filter(|_| read == Preparation::default()) {
            Some(kept) => kept,
            None => self.read(limits, &read, watch)?,
        };
        let proposal = if is_rebuilt {
            // Whatever else is wrong is mended on the way.
            let also;
            (also, left) = left.into_iter().partition(|finding| {
                matches!(finding.remedy, Remedy::Index | Remedy::Amend) && finding.amendment.is_none()
            });
            mended.extend(also);
            let plan = |source: &Source, files: &StoreFiles, survey: &Survey| {
                let (from, mended) = (source.format(), codes(&mended, &left));
                let (preparation, origin, annex) = (read.clone(), rebuild::Origin::Palace, self.annex.clone());
                let order = rebuild::Order { from, to: from, preparation, mended, origin, annex };
                rebuild::plan(order, rebuild::Replaced::Store(files), survey)
            };
            self.propose("repair", files, (palace, &read), &plan)?
        } else {
            let amendments = preparation.amendments.iter().filter(|one| is_of_index(one)).cloned().collect::<Vec<_>>();
            let builds = |one: &chroma::Surveyed| {
                let is_about = |finding: &&Finding| finding.subject == one.collection.name;
                mended.iter().filter(is_about).any(|finding| finding.remedy == Remedy::Index)
            };
            let plan = |source: &Source, files: &StoreFiles, survey: &Survey| {
                let (preparation, amendments, mended) = (read.clone(), amendments.clone(), codes(&mended, &left));
                let annex = self.annex.clone();
                let order = amend::Order { preparation, amendments, mended, builds: &builds, annex };
                amend::plan(source.format(), order, files, survey)
            };
            self.propose("repair", files, (palace, &read), &plan)?
        };
        Ok(Diagnosis { mended, left, proposal: Some(proposal) })
    }

    /// The files are looked at first: whoever writes to them from here on is noticed.
    pub(super) fn files(&self) -> Result<StoreFiles, Error> {
        Kind::insist_on_chroma(self.room.disk, self.palace)?;
        let files = StoreFiles::look(self.room.disk, self.palace, chroma::DATABASE)?;
        files.ok_or_else(|| chroma::Error::NotAPalace(self.palace.to_owned()).into())
    }

    /// Reads the palace from end to end as a preparation says.
    fn read(&self, limits: Limits, preparation: &Preparation, watch: &mut dyn FnMut()) -> Result<Read<'d>, Error> {
        let source = Source::open(self.palace, &self.room, preparation)?;
        let survey = survey(&source, limits, watch)?;
        Ok(Read { source, survey })
    }

    fn propose(
        &self,
        title: &'static str,
        mut files: StoreFiles,
        (read, preparation): (Read<'d>, &Preparation),
        plan: &dyn Fn(&Source, &StoreFiles, &Survey) -> Planned,
    ) -> Result<Proposal<'d>, Error> {
        let Read { source, survey } = read;
        files.look_at_segments(self.room.disk, self.palace, &survey)?;
        let mut planned = plan(&source, &files, &survey);
        planned.losses.extend(preparation.losses());
        self.proposal(title, source.format().name.clone(), planned, &survey, gathered(&source, &survey))
    }

    /// A plan with what a person wants to know about it.
    pub(super) fn proposal(
        &self,
        title: &'static str,
        format: String,
        planned: Planned,
        survey: &Survey,
        (restored, finds): Gathered,
    ) -> Result<Proposal<'d>, Error> {
        let disk = self.room.disk;
        let Planned { plan, bytes_needed, annex, target, collections, mut losses } = planned;
        let (bytes_needed, outside) = means::share(disk, self.space, bytes_needed, self.annex.as_ref().zip(annex))?;
        losses.sort();
        losses.dedup();
        let collections = survey.collections.iter().zip(collections).map(|(one, (name, route))| {
            let (records, pending) = (one.totals.records, one.totals.pending);
            ProposedCollection { name, records, pending, route }
        });
        Ok(Proposal {
            title,
            plan,
            restored,
            finds,
            collections: collections.collect(),
            losses,
            format,
            target,
            bytes_needed,
            bytes_free: disk.space(self.space)?,
            outside,
            notes: Vec::new(),
            enclosed: None,
        })
    }
}

/// Whether records are there of which nobody can say whose they are. Whatever is written now could lose them.
fn hides_records(finding: &Finding) -> bool {
    finding.code == Code::CollectionSegments && matches!(finding.remedy, Remedy::Person(_))
}

/// Whether no other finding can be mended without this one.
fn is_needed(finding: &Finding) -> bool {
    finding.code == Code::CollectionSegments
}

/// Codes that must be gone afterwards: those that are mended wherever they were found.
fn codes(mended: &[Finding], left: &[Finding]) -> Vec<String> {
    let is_left = |code: Code| left.iter().any(|finding| finding.code == code);
    let mut codes: Vec<&str> =
        mended.iter().map(|one| one.code).filter(|code| !is_left(*code)).map(Code::name).collect();
    codes.sort_unstable();
    codes.dedup();
    codes.into_iter().map(str::to_owned).collect()
}

/// What a new format could get wrong, and must not: kinds that even a quick look at the old store would have shown.
const OF_FORMAT: [Code; 11] = [
    Code::DatabaseMigrations,
    Code::DatabaseSchema,
    Code::FulltextMissing,
    Code::SequencePoisoned,
    Code::SequenceType,
    Code::SequenceUnreadable,
    Code::SequenceAhead,
    Code::WritesVanish,
    Code::QueuePoison,
    Code::CollectionSpace,
    Code::CollectionConfig,
];

/// Codes that must not be found in a store of another format: it is sound, but for what the old one had wrong.
fn sound_codes(kept: &[Finding]) -> Vec<String> {
    let is_kept =
        |code: &Code| kept.iter().any(|finding| finding.code == *code && matches!(finding.remedy, Remedy::Person(_)));
    OF_FORMAT.iter().filter(|code| !is_kept(code)).map(|code| code.name().to_owned()).collect()
}

/// Whether a program can mend it.
fn is_mendable(finding: &Finding) -> bool {
    match finding.remedy {
        Remedy::Amend | Remedy::Index => finding.severity > Severity::Note,
        Remedy::Rebuild => finding.code != Code::LeftoverCollection || finding.amendment.is_some(),
        Remedy::Nothing | Remedy::Recover | Remedy::Person(_) => false,
    }
}

/// Indexes that are made from the rows need not be in order for the rows to be read.
fn is_of_index(amendment: &Amendment) -> bool {
    *amendment == Amendment::FullText
}

pub(super) fn reading(preparation: &Preparation) -> Preparation {
    let amendments = preparation.amendments.iter().filter(|amendment| !is_of_index(amendment));
    Preparation { amendments: amendments.cloned().collect(), ..preparation.clone() }
}

/// What was found elsewhere than where it should have been: counts by place, and one by one.
pub(super) type Gathered = (Vec<(String, u64)>, Finds);

pub(super) fn gathered(source: &Source, survey: &Survey) -> Gathered {
    (source.restored().chain(restored(survey)).collect(), source.finds().clone())
}

fn restored(survey: &Survey) -> Vec<(String, u64)> {
    let vectors = survey.collections.iter().flat_map(|one| {
        let name = &one.collection.name;
        one.restored.iter().filter_map(move |(origin, count)| {
            let place = match origin {
                Origin::History => "a write in the queue".to_owned(),
                Origin::Spare(place) => place.clone(),
                _ => return None,
            };
            Some((format!("vectors of {name} from {place}"), *count))
        })
    });
    vectors.collect()
}
