//! The database as a file, its pages and its schema.

use super::code::Code;
use super::finding::Finding;
use crate::disk::Disk;
use crate::store::chroma::database::header;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::format::Fit;
use crate::store::chroma::{Amendment, DATABASE, Source, survey};
use crate::store::sqlite::{self, Owner};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What a rollback journal begins with while it is hot.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// A write-ahead log that holds anything is longer than its header.
const WAL_HEADER_BYTES: u64 = 32;

/// Faults of one owner that are told one by one.
const FAULTS_MAX: usize = 10;

/// Looks at the header, at the length and at what lies beside the file.
pub(super) fn file(disk: &dyn Disk, database: &Path) -> Result<Vec<Finding>, Error> {
    let header = header(disk, database)?;
    let look = || Ok((disk.open(database)?.length()?, journal(disk, database)?));
    let looked: io::Result<(u64, Option<String>)> = look();
    let (bytes, journal) = looked.map_err(|source| Error::scratch(database, source))?;
    let mut findings = Vec::new();
    if let Some(what) = wrong_in(&header) {
        findings.push(Finding::new(Code::DatabaseHeader, DATABASE, format!("{}: {what}", database.display())));
    } else if journal.is_none() {
        findings.extend(truncated(&header, bytes));
    }
    findings.extend(journal.map(|what| Finding::new(Code::DatabaseJournal, DATABASE, what)));
    Ok(findings)
}

/// What no SQLite database has in its header (its file format, §1.3).
fn wrong_in(header: &[u8]) -> Option<&'static str> {
    let page_bytes = u16::from_be_bytes([header[16], header[17]]);
    match () {
        () if !header.starts_with(b"SQLite format 3\0") => Some("the first 16 bytes are wrong"),
        () if page_bytes != 1 && (page_bytes < 512 || !page_bytes.is_power_of_two()) => Some("no such page size"),
        () if header[21..24] != [64, 32, 32] => Some("the payload fractions are wrong"),
        () if !(1..=2).contains(&header[18]) || !(1..=2).contains(&header[19]) => Some("no such format version"),
        () => None,
    }
}

/// The header's number of pages counts only where it was written together with the change counter.
fn truncated(header: &[u8], bytes: u64) -> Option<Finding> {
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        page_bytes => u64::from(page_bytes),
    };
    let expected = u64::from(number(28)) * page_bytes;
    let is_short = number(24) == number(92) && bytes < expected;
    let evidence = format!("{DATABASE} has {bytes} of {expected} bytes");
    is_short.then(|| Finding::new(Code::DatabaseTruncated, DATABASE, evidence))
}

fn journal(disk: &dyn Disk, database: &Path) -> io::Result<Option<String>> {
    let beside = |suffix: &str| database.with_file_name(format!("{DATABASE}{suffix}"));
    let mut magic = [0; 8];
    let is_hot = match disk.open(&beside("-journal")) {
        Ok(journal) => journal.read_up_to(&mut magic, 0)? == magic.len() && magic == JOURNAL_MAGIC,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    if is_hot {
        return Ok(Some(format!("{DATABASE}-journal is hot")));
    }
    let log = disk.stat(&beside("-wal"))?.map_or(0, |stat| stat.length);
    Ok((log > WAL_HEADER_BYTES).then(|| format!("{DATABASE}-wal holds {log} bytes")))
}

/// The pages, read without SQLite.
pub(super) fn pages(source: &Source) -> Result<Vec<Finding>, Error> {
    let database = &source.database;
    let inspect = || sqlite::inspect(&sqlite::Database::new(source.disk.open(database)?)?);
    let inspection = inspect().map_err(|error| Error::scratch(database, error))?;
    let mut by_owner = BTreeMap::<Owner, Vec<String>>::new();
    for fault in inspection.faults {
        by_owner.entry(fault.owner).or_default().push(format!("page {}: {}", fault.page, fault.what));
    }
    Ok(by_owner.into_iter().map(|(owner, faults)| of_owner(owner, &faults)).collect())
}

/// Rows against indexes, by SQLite itself: pages that are sound one by one need not agree with each other.
pub(super) fn rows(source: &Source) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    for table in ["embeddings", "embedding_metadata", "embedding_metadata_array", "collections", "segments"] {
        if !source.format.makes(table) {
            continue;
        }
        let check = || {
            let mut query = source.connection.prepare(&format!("PRAGMA integrity_check({table})"))?;
            let lines = query.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(lines)
        };
        let lines: rusqlite::Result<Vec<String>> = check();
        found.extend(lines.during(&source.database, "comparing rows and indexes")?);
    }
    found.retain(|line| line != "ok");
    let count = found.len() as u64;
    found.truncate(FAULTS_MAX);
    let finding = || Finding::new(Code::DatabaseIndex, "rows and indexes", found.join("; ")).with_count(count);
    Ok(if count > 0 { vec![finding()] } else { Vec::new() })
}

/// What damaged pages mean depends on whose they are: an index is made anew, and so is everything of the full-text
/// table.
fn of_owner(owner: Owner, faults: &[String]) -> Finding {
    let (code, subject) = match owner {
        Owner::Index(name) => (Code::DatabaseIndex, name),
        Owner::Table(name) if name.starts_with("embedding_fulltext_search") => (Code::DatabaseIndex, name),
        Owner::Table(name) => (Code::DatabasePage, name),
        Owner::Schema => (Code::DatabasePage, "the schema".to_owned()),
        Owner::Free => (Code::DatabaseIndex, "free pages".to_owned()),
        Owner::Lost => (Code::DatabasePage, "pages without an owner".to_owned()),
        Owner::Nobody => (Code::DatabaseIndex, "pages without an owner".to_owned()),
    };
    let more = faults.len().saturating_sub(FAULTS_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let told = faults.iter().take(FAULTS_MAX).cloned().collect::<Vec<_>>().join("; ");
    Finding::new(code, subject, told + &more).with_count(faults.len() as u64)
}

/// Migrations, tables and indexes.
pub(super) fn schema(source: &Source) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    if source.fit == Fit::Migrations {
        let evidence = format!("they are not those of chromadb {}, whose tables it has", source.format.name);
        findings.push(Finding::new(Code::DatabaseMigrations, "migrations", evidence));
    }
    let doing = "reading its schema";
    let missing = source.format.missing(&source.connection).during(&source.database, doing)?;
    for name in missing {
        findings.push(match name {
            "embedding_fulltext_search" => Finding::new(Code::FulltextMissing, name, "the schema does not name it")
                .with_amendment(Amendment::FullText),
            _ => Finding::new(Code::DatabaseSchema, name, "the schema does not name it")
                .with_amendment(Amendment::Schema),
        });
    }
    for table in source.format.lost_rows(&source.connection) {
        let finding = Finding::new(Code::DatabaseSchema, table, "a row without which chromadb opens nothing is gone");
        findings.push(finding.with_amendment(Amendment::Schema));
    }
    let strangers = survey::strangers(source).during(&source.database, doing)?;
    let strange = |name: String| Finding::new(Code::DatabaseStranger, name, "it is in the schema");
    findings.extend(strangers.into_iter().map(strange));
    Ok(findings)
}
