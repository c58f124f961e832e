//! Every record and every vector, read from end to end.

use super::code::Code;
use super::finding::Finding;
use super::segments;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::{Limits, Loss, Source, Survey, survey};
use std::collections::BTreeMap;

pub(super) fn check(source: &Source, watch: &mut dyn FnMut()) -> Result<Vec<Finding>, Error> {
    let Survey { collections, losses, changed, .. } = survey(source, Limits::default(), watch)?;
    let mut findings = Vec::new();
    for one in &collections {
        findings.extend(one.unsound.iter().map(|unsound| segments::finding(source, &one.collection, unsound)));
    }
    let mut unread = Vec::new();
    let mut ids = BTreeMap::<(Code, String), Vec<String>>::new();
    let mut note = |code, collection: String, id| ids.entry((code, collection)).or_default().push(id);
    for loss in losses {
        match loss {
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
    for (collection, id) in changed {
        note(Code::VectorChanged, collection, id);
    }
    let with_ids = |((code, collection), ids): ((Code, String), Vec<String>)| {
        Finding::new(code, collection, format!("{} records", ids.len())).with_ids(ids)
    };
    findings.extend(ids.into_iter().map(with_ids));
    findings.extend(duplicates(source).during(&source.database, "reading its records")?);
    Ok(findings)
}

/// Ids that stand for more than one record, behind the back of the index that should forbid it.
fn duplicates(source: &Source) -> rusqlite::Result<Option<Finding>> {
    let sql = "SELECT embedding_id FROM embeddings NOT INDEXED GROUP BY +segment_id, +embedding_id HAVING count(*) > 1";
    let mut query = source.connection.prepare(sql)?;
    let ids = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let finding = Finding::new(Code::RecordDuplicate, "embeddings", "the unique index does not know of them");
    Ok((!ids.is_empty()).then(|| finding.with_ids(ids)))
}
