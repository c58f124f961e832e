//! Says what is wrong with a palace, without changing a byte of it.
//!
//! Each layer of the store has its file here, from the pages of the database up to what lies in the directory. A quick
//! check asks what can be asked without reading the rows; a deep one reads everything.

mod adopt;
mod code;
mod collections;
mod database;
mod directory;
mod finding;
mod fulltext;
mod records;
mod segments;
mod sequences;

pub use code::{Code, Remedy, Severity};
pub use finding::Finding;

use super::{Amendment, Collection, Error, Limits, Pages, Preparation, Source, Survey, find_database, survey};
use crate::store::scratch::Room;
use std::path::Path;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Headers, sizes, numbers and counts.
    Quick,
    /// These, and every page of the database.
    Pages,
    /// Every page, every row and every vector.
    Deep,
}

/// What was found.
pub struct Checked {
    /// The version that wrote the database, where that can be told.
    pub format: Option<String>,
    /// What is wrong, the gravest first.
    pub findings: Vec<Finding>,
}

/// A palace that was read from end to end.
pub struct Read<'d> {
    /// What it was read through.
    pub source: Source<'d>,
    /// What it holds.
    pub survey: Survey,
}

/// What was found in a part of a palace, and the survey that was taken for it of the very source that was given.
type Found = (Vec<Finding>, Option<Survey>);

/// Looks through a palace. A copy of the database, where one is needed, is made in `room`; `watch` is told of
/// every record that is read.
pub fn check(palace: &Path, room: &Room, depth: Depth, watch: &mut dyn FnMut()) -> Result<Checked, Error> {
    Ok(check_and_keep(palace, room, (depth, Limits::default()), watch)?.0)
}

/// Looks through a palace, and keeps what a deep look has read, where that was the palace as it stands: a repair need
/// not read it again.
pub fn check_and_keep<'d>(
    palace: &Path,
    room: &Room<'d>,
    (depth, limits): (Depth, Limits),
    watch: &mut dyn FnMut(),
) -> Result<(Checked, Option<Read<'d>>), Error> {
    let original = find_database(room.disk, palace)?;
    let mut findings = database::file(room.disk, &original)?;
    let source = open(palace, room, depth, &original, &mut findings)?;
    let how = (depth, limits);
    let looked = if is_damaged(&findings) { Err(None) } else { look(&source, room, how, watch).map_err(Some) };
    let mut kept = None;
    match looked {
        Ok((found, survey)) => {
            findings.extend(found);
            kept = survey;
        }
        Err(Some(error)) if !error.is_damage() => return Err(error),
        Err(error) => {
            // Where the pages were known to be damaged, the source is a salvaged copy already.
            let met = error.map(|error| Finding::new(Code::DatabasePage, super::DATABASE, error.to_string()));
            let copy = met.as_ref().map(|_| Source::open(palace, room, &salvaged())).transpose()?;
            findings.extend(met);
            let (found, _) = look_at_contents(copy.as_ref().unwrap_or(&source), room, &findings, how, watch)?;
            findings.extend(found);
        }
    }
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    let checked = Checked { format: Some(source.format.name.clone()), findings };
    Ok((checked, kept.map(|survey| Read { source, survey })))
}

/// Every layer of a database that SQLite can read.
fn look(source: &Source, room: &Room, how: (Depth, Limits), watch: &mut dyn FnMut()) -> Result<Found, Error> {
    let mut findings = database::schema(source)?;
    let whole = mended(source, room, &findings, &[Code::DatabaseSchema])?;
    if whole.is_none() {
        findings.extend(fulltext::check(source, room, how.0)?);
    }
    let (found, survey) = look_at_contents(whole.as_ref().unwrap_or(source), room, &findings, how, watch)?;
    findings.extend(found);
    Ok((findings, survey.filter(|_| whole.is_none())))
}

/// The layers above the database itself. What a salvaged copy has by way of schema and full-text index says nothing.
/// `known` is what was found before.
fn look_at_contents(
    source: &Source,
    room: &Room,
    known: &[Finding],
    (depth, limits): (Depth, Limits),
    watch: &mut dyn FnMut(),
) -> Result<Found, Error> {
    let mut findings = collections::structure(source, &Collection::all(source)?)?;
    let whole = mended(source, room, &[known, &findings].concat(), &STRUCTURE)?;
    let source = whole.as_ref().unwrap_or(source);
    let collections = Collection::all(source)?;
    findings.extend(collections::check(source, &collections)?);
    findings.extend(sequences::check(source, &collections)?);
    let survey = if depth == Depth::Deep { Some(survey(source, limits, watch)?) } else { None };
    findings.extend(match &survey {
        None => segments::check(source, &collections)?,
        Some(survey) => records::check(source, survey)?,
    });
    findings.extend(directory::check(source, room)?);
    Ok((findings, survey.filter(|_| whole.is_none())))
}

/// Looks through a store that was read already, as `survey` says, for what is wrong with it in spite of a repair.
pub(super) fn again(source: &Source, survey: &Survey, room: &Room) -> Result<Vec<Finding>, Error> {
    let collections = Collection::all(source)?;
    let mut findings = database::schema(source)?;
    findings.extend(fulltext::check(source, room, Depth::Deep)?);
    findings.extend(collections::structure(source, &collections)?);
    findings.extend(collections::check(source, &collections)?);
    findings.extend(sequences::check(source, &collections)?);
    findings.extend(records::check(source, survey)?);
    Ok(findings)
}

/// What the other layers cannot be understood without.
const STRUCTURE: [Code; 3] = [Code::DatabaseSchema, Code::CollectionSegments, Code::CollectionDimension];

/// The same store as a copy in which findings of these kinds are mended, where there are any.
fn mended<'d>(
    source: &Source,
    room: &Room<'d>,
    findings: &[Finding],
    codes: &[Code],
) -> Result<Option<Source<'d>>, Error> {
    let preparation = Preparation::of(findings, &|finding| codes.contains(&finding.code));
    let is_needed = !preparation.amendments.is_empty();
    is_needed.then(|| Source::open(&source.directory, room, &preparation)).transpose()
}

fn is_damaged(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.code.is_of_pages())
}

fn salvaged() -> Preparation {
    Preparation { pages: Pages::Salvaged, ..Preparation::default() }
}

/// Opens the database as it has to be read, and says what is wrong with its pages.
fn open<'d>(
    palace: &Path,
    room: &Room<'d>,
    depth: Depth,
    original: &Path,
    findings: &mut Vec<Finding>,
) -> Result<Source<'d>, Error> {
    if is_damaged(findings) {
        return Source::open(palace, room, &salvaged());
    }
    match Source::open(palace, room, &Preparation::default()) {
        Ok(source) => {
            if depth != Depth::Quick {
                findings.extend(database::pages(&source)?);
            }
            if depth == Depth::Deep && !is_damaged(findings) {
                findings.extend(database::rows(&source)?);
            }
            if is_damaged(findings) { Source::open(palace, room, &salvaged()) } else { Ok(source) }
        }
        Err(error) if error.is_damage() => {
            let evidence = format!("{}: {error}", original.display());
            findings.push(Finding::new(Code::DatabasePage, super::DATABASE, evidence));
            Source::open(palace, room, &salvaged())
        }
        Err(error) => Err(error),
    }
}

impl Preparation {
    /// How a palace with these findings has to be read so that those which are wanted are mended.
    pub fn of(findings: &[Finding], is_wanted: &dyn Fn(&Finding) -> bool) -> Preparation {
        let is_damaged = is_damaged(findings);
        let wanted = findings.iter().filter(|finding| is_wanted(finding));
        let richer = wanted.clone().filter(|finding| finding.code == Code::LeftoverRicher);
        let adopted = richer.map(|finding| finding.subject.clone()).collect();
        let mut amendments: Vec<Amendment> = wanted.filter_map(|finding| finding.amendment.clone()).collect();
        amendments.dedup();
        Preparation { pages: if is_damaged { Pages::Salvaged } else { Pages::Sound }, amendments, adopted }
    }
}
