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
    let looked = if is_damaged(&findings) { Err(None) } else { look(&source, scratch, depth, watch).map_err(Some) };
    findings.extend(match looked {
        Ok(found) => found,
        Err(Some(error)) if !error.is_damage() => return Err(error),
        Err(error) => {
            let met = error.map(|error| Finding::new(Code::DatabasePage, super::DATABASE, error.to_string()));
            let source = Source::open(palace, scratch, &salvaged())?;
            let mut found = look_at_contents(&source, depth, watch)?;
            found.extend(met);
            found
        }
    });
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    Ok(Checked { format: Some(source.format.name.clone()), findings })
}

/// Every layer of a database that SQLite can read.
fn look(source: &Source, scratch: &Path, depth: Depth, watch: &mut dyn FnMut()) -> Result<Vec<Finding>, Error> {
    let mut findings = database::schema(source)?;
    if findings.iter().any(|finding| finding.code == Code::DatabaseSchema) {
        // The other layers read a copy in which nothing is missing.
        let only = |finding: &Finding| finding.code == Code::DatabaseSchema;
        let whole = Source::open(&source.directory, scratch, &Preparation::of(&findings, &only))?;
        findings.extend(look_at_contents(&whole, depth, watch)?);
    } else {
        findings.extend(fulltext::check(source, scratch, depth)?);
        findings.extend(look_at_contents(source, depth, watch)?);
    }
    Ok(findings)
}

/// The layers above the database itself. What a salvaged copy has by way of schema and full-text index says nothing.
fn look_at_contents(source: &Source, depth: Depth, watch: &mut dyn FnMut()) -> Result<Vec<Finding>, Error> {
    let collections = Collection::all(source)?;
    let mut findings = collections::check(source, &collections)?;
    findings.extend(sequences::check(source, &collections)?);
    findings.extend(match depth {
        Depth::Quick | Depth::Pages => segments::check(source, &collections)?,
        Depth::Deep => records::check(source, watch)?,
    });
    findings.extend(directory::check(source)?);
    Ok(findings)
}

fn is_damaged(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.code.is_of_pages())
}

fn salvaged() -> Preparation {
    Preparation { pages: Pages::Salvaged, amendments: Vec::new() }
}

/// Opens the database as it has to be read, and says what is wrong with its pages.
fn open(
    palace: &Path,
    scratch: &Path,
    depth: Depth,
    original: &Path,
    findings: &mut Vec<Finding>,
) -> Result<Source, Error> {
    if is_damaged(findings) {
        return Source::open(palace, scratch, &salvaged());
    }
    match Source::open(palace, scratch, &Preparation::default()) {
        Ok(source) => {
            if depth != Depth::Quick {
                findings.extend(database::pages(&source.database)?);
            }
            Ok(source)
        }
        Err(error) if error.is_damage() => {
            let evidence = format!("{}: {error}", original.display());
            findings.push(Finding::new(Code::DatabasePage, super::DATABASE, evidence));
            Source::open(palace, scratch, &salvaged())
        }
        Err(error) => Err(error),
    }
}

impl Preparation {
    /// How a palace with these findings has to be read so that those which are wanted are mended.
    pub fn of(findings: &[Finding], is_wanted: &dyn Fn(&Finding) -> bool) -> Preparation {
        let is_damaged = is_damaged(findings);
        let wanted = findings.iter().filter(|finding| is_wanted(finding));
        let mut amendments: Vec<Amendment> = wanted.filter_map(|finding| finding.amendment.clone()).collect();
        amendments.dedup();
        Preparation { pages: if is_damaged { Pages::Salvaged } else { Pages::Sound }, amendments }
    }
}
