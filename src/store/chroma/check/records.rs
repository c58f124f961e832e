//! Every record and every vector, read from end to end.

use super::code::{Code, Remedy};
use super::finding::Finding;
use super::segments;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::{Fault, Flaw, Loss, Origin, Part, Source, Survey};
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
                findings.push(Finding::new(Code::MetadataOrphan, table, "rows of no record").with_count(rows as u64))
            }
            Loss::Record { .. } | Loss::Value { .. } | Loss::Page { .. } => unread.push(loss.to_string()),
            Loss::Stranger { .. } => {} // the schema told
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
        let place = if is_elsewhere { "as they were they are elsewhere" } else { "as they were they are nowhere" };
        let code = if fault == Fault::Changed { Code::VectorChanged } else { Code::IndexLengths };
        let finding = Finding::new(code, collection, format!("{} vectors; {place}", ids.len())).with_ids(ids);
        finding.with_remedy(if is_elsewhere { Remedy::Index } else { Code::VectorChanged.remedy() })
    };
    ids.into_iter().map(finding).collect()
}

/// Ids that stand for more than one record, behind the back of the index that should forbid it.
fn duplicates(source: &Source) -> rusqlite::Result<Option<Finding>> {
    let sql = "SELECT embedding_id FROM embeddings NOT INDEXED GROUP BY +segment_id, +embedding_id HAVING count(*) > 1";
    let mut query = source.connection.prepare(sql)?;
    let ids = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let finding = Finding::new(Code::RecordDuplicate, "embeddings", "the unique index does not know of them");
    Ok((!ids.is_empty()).then(|| finding.with_ids(ids)))
}
