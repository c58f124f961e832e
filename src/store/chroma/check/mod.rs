//! Says what is wrong with a palace, without changing a byte of it.
//!
//! Each layer of the store has its file here, from the pages of the database up to what lies in the directory. A quick
//! check asks what can be asked without reading the rows; a deep one reads everything.

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

use super::{Amendment, Collection, Error, Pages, Preparation, Source, find_database};
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

/// Looks through a palace. A copy of the database, where one is needed, is made below `scratch`; `watch` is told of every
/// record that is read.
pub fn check(palace: &Path, scratch: &Path, depth: Depth, watch: &mut dyn FnMut()) -> Result<Checked, Error> {
    let original = find_database(palace)?;
    let mut findings = database::file(&original)?;
    let source = open(palace, scratch, depth, &original, &mut findings)?;
    findings.extend(database::schema(&source)?);
    let source = if findings.iter().any(|finding| finding.code == Code::DatabaseSchema) {
        // The other layers read a copy in which nothing is missing.
        Source::open(palace, scratch, &Preparation::of(&findings, &|finding| finding.code == Code::DatabaseSchema))?
    } else {
        source
    };
    let collections = Collection::all(&source)?;
    findings.extend(collections::check(&source, &collections)?);
    findings.extend(sequences::check(&source, &collections)?);
    findings.extend(fulltext::check(&source, scratch, depth)?);
    findings.extend(match depth {
        Depth::Quick | Depth::Pages => segments::check(&source, &collections)?,
        Depth::Deep => records::check(&source, watch)?,
    });
    findings.extend(directory::check(&source)?);
    Ok(checked(Some(&source), findings))
}

/// Opens the database as it has to be read, and says what is wrong with its pages.
fn open(
    palace: &Path,
    scratch: &Path,
    depth: Depth,
    original: &Path,
    findings: &mut Vec<Finding>,
) -> Result<Source, Error> {
    let is_damaged = |findings: &[Finding]| findings.iter().any(|finding| finding.code.is_of_pages());
    let salvaged = Preparation { pages: Pages::Salvaged, amendments: Vec::new() };
    if is_damaged(findings) {
        return Source::open(palace, scratch, &salvaged);
    }
    match Source::open(palace, scratch, &Preparation::default()) {
        Ok(source) => {
            if depth != Depth::Quick {
                findings.extend(database::pages(&source.database)?);
            }
            if is_damaged(findings) { Source::open(palace, scratch, &salvaged) } else { Ok(source) }
        }
        Err(error) if error.is_damage() => {
            let evidence = format!("{}: {error}", original.display());
            findings.push(Finding::new(Code::DatabasePage, super::DATABASE, evidence));
            Source::open(palace, scratch, &salvaged)
        }
        Err(error) => Err(error),
    }
}

fn checked(source: Option<&Source>, mut findings: Vec<Finding>) -> Checked {
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    Checked { format: source.map(|source| source.format.name.clone()), findings }
}

impl Preparation {
    /// How a palace with these findings has to be read so that those which are wanted are mended.
    pub fn of(findings: &[Finding], is_wanted: &dyn Fn(&Finding) -> bool) -> Preparation {
        let is_damaged = findings.iter().any(|finding| finding.code.is_of_pages());
        let wanted = findings.iter().filter(|finding| is_wanted(finding));
        let mut amendments: Vec<Amendment> = wanted.filter_map(|finding| finding.amendment.clone()).collect();
        amendments.dedup();
        Preparation { pages: if is_damaged { Pages::Salvaged } else { Pages::Sound }, amendments }
    }
}
