//! Every record and every vector, read from end to end.

use super::code::{Code, Remedy};
use super::finding::Finding;
use super::segments;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::{Amendment, Fault, Flaw, Loss, Origin, Part, Source, Survey};
use std::collections::BTreeMap;

pub(super) fn check(source: &Source, survey: &Survey) -> Result<Vec<Finding>, Error> {
    let Survey { collections, losses, flaws, .. } = survey;
    let mut findings = Vec::new();
    for one in collections {
        let unsound = one.unsound.iter().filter(|unsound| unsound.part != Part::Vectors); // told vector by vector
        findings.extend(unsound.map(|unsound| segments::finding(source, &one.collection, unsound)));
    }
    let mut unread = Vec::new();
    let mut ids = BTreeMap::<(Code, String), Vec<String>>::new();
    let mut note = |code, collection: String, id| ids.entry((code, collection)).or_default().push(id);
    for loss in losses {
        match loss.clone() {
            Loss::Vector { collection, id } => note(Code::VectorMissing, collection, id),
            Loss::Orphan { collection, id } => note(Code::IndexDiverged, collection, id),
            Loss::Unowned { table, rows } => {
                let finding = Finding::new(Code::MetadataOrphan, &*table, "rows of no record");
                findings.push(finding.with_count(rows as u64).with_amendment(Amendment::Unowned { table, rows }))
            }
            Loss::Record { .. } | Loss::Value { .. } | Loss::Incomplete { .. } | Loss::Page { .. } => {
                unread.push(loss.to_string())
            }
            Loss::Length { .. } => {}   // its flaw tells
            Loss::Stranger { .. } => {} // the schema told
            // A salvage has left it out.
            Loss::Older { id: Some(id), .. } => note(Code::RecordDuplicate, "embeddings".into(), id),
            Loss::Write(_) | Loss::Older { .. } | Loss::Unheld { .. } => {} // an amendment would lose it
        }
    }
    if !unread.is_empty() {
        findings.push(Finding::new(Code::DatabasePage, "rows", "they are not restored from anywhere").with_ids(unread));
    }
    let with_ids = |((code, collection), ids): ((Code, String), Vec<String>)| {
        Finding::new(code, collection, format!("{} records", ids.len())).with_ids(ids)
    };
    findings.extend(ids.into_iter().map(with_ids));
    findings.extend(flawed(flaws));
    findings.extend(duplicates(source).during(&source.database, "reading its records")?);
    Ok(findings)
}

/// Vectors that are not as they were, by collection, kind, and whether they are as they should be anywhere else.
fn flawed(flaws: &[Flaw]) -> Vec<Finding> {
    let mut ids = BTreeMap::<(Fault, &str, bool), Vec<String>>::new();
    for Flaw { collection, id, fault, origin } in flaws {
        ids.entry((*fault, collection, *origin != Origin::Segment)).or_default().push(id.clone());
    }
    let finding = |((fault, collection, is_elsewhere), ids): ((Fault, &str, bool), Vec<String>)| {
        let place = match fault {
            _ if is_elsewhere => "as they were they are elsewhere",
            Fault::Changed => "as they were they are nowhere",
            Fault::Length => "their directions are sound, their lengths are lost: they can be kept with length 1",
        };
        let code = if fault == Fault::Changed { Code::VectorChanged } else { Code::IndexLengths };
        let finding = Finding::new(code, collection, format!("{} vectors; {place}", ids.len())).with_ids(ids);
        finding.with_remedy(if is_elsewhere { Remedy::Index } else { code.remedy() })
    };
    ids.into_iter().map(finding).collect()
}

/// Ids that stand for more than one record, behind the back of the index that should forbid it. The one that was
/// written last is the one that counts.
fn duplicates(source: &Source) -> rusqlite::Result<Option<Finding>> {
    // Bytes sort like the numbers in them, and are what a chromadb before 1.0 wrote: integers came later.
    let sql = "SELECT id, embedding_id FROM (
             SELECT id, embedding_id, row_number() OVER (PARTITION BY +segment_id, +embedding_id
                 ORDER BY typeof(seq_id) = 'integer' DESC, seq_id DESC, id DESC) AS place
             FROM embeddings NOT INDEXED
             WHERE (+segment_id, +embedding_id) IN (
                 SELECT segment_id, embedding_id FROM embeddings NOT INDEXED
                 GROUP BY +segment_id, +embedding_id HAVING count(*) > 1))
         WHERE place > 1 ORDER BY id";
    let mut query = source.connection.prepare(sql)?;
    let found = query.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let (rows, ids): (Vec<_>, Vec<_>) = found.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().unzip();
    let finding = Finding::new(Code::RecordDuplicate, "embeddings", "the unique index does not know of them");
    Ok((!rows.is_empty()).then(|| finding.with_ids(ids).with_amendment(Amendment::Older { rows })))
}
