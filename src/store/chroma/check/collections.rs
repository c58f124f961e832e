//! The catalogue: what is said about each collection.

use super::code::Code;
use super::finding::Finding;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::hnsw::Hnsw;
use crate::store::chroma::{Amendment, Collection, Donor, Scope, Source, Space, pickle};
use rusqlite::{OptionalExtension, params};

/// Ending of the name that MemPalace's repair works under.
const TEMPORARY: &str = "__repair_tmp";

pub(super) fn check(source: &Source, collections: &[Collection]) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for collection in collections {
        let of_one = || {
            let parts = [
                segments(source, collection, collections)?,
                dimension(source, collection)?,
                space(source, collection)?,
                config(source, collection)?,
                leftover(source, collection, collections)?,
            ];
            Ok(parts)
        };
        let parts: rusqlite::Result<_> = of_one();
        findings.extend(parts.during(&source.database, "reading its collections")?.into_iter().flatten());
    }
    Ok(findings)
}

/// A missing segment is written down again where only one is left that nobody names.
fn segments(source: &Source, collection: &Collection, all: &[Collection]) -> rusqlite::Result<Option<Finding>> {
    let (scope, word) = match (&collection.metadata, &collection.vector) {
        (Some(_), Some(_)) => return Ok(None),
        (None, Some(_)) => (Scope::Metadata, "METADATA"),
        (Some(_), None) => (Scope::Vector, "VECTOR"),
        (None, None) => {
            let evidence = "no segment at all";
            return Ok(Some(Finding::new(Code::CollectionSegments, &*collection.name, evidence)));
        }
    };
    let is_alike = |other: &&Collection| match scope {
        Scope::Metadata => other.metadata.is_none(),
        Scope::Vector => other.vector.is_none(),
    };
    let mut nameless = match scope {
        Scope::Metadata => nameless_rows(source)?,
        Scope::Vector => {
            let mut nameless = super::directory::nameless(source)?;
            nameless.retain(|name| holds_records_of(source, collection, name));
            nameless
        }
    };
    let finding = Finding::new(Code::CollectionSegments, &*collection.name, format!("no segment of scope {word}"));
    Ok(Some(match nameless.pop() {
        Some(segment) if nameless.is_empty() && all.iter().filter(is_alike).count() == 1 => {
            let collection = collection.id.clone();
            finding.with_amendment(Amendment::Segment { collection, scope, segment })
        }
        _ => finding,
    }))
}

/// Whether a directory's pickle names at least one record of a collection, and hardly any that it has not.
fn holds_records_of(source: &Source, collection: &Collection, name: &str) -> bool {
    let pickle = source.directory.join(name).join("index_metadata.pickle");
    let sql = "SELECT count(*) FROM embeddings WHERE segment_id = ?1 AND embedding_id = ?2";
    let (mut known, mut strange) = (0, 0);
    let read = pickle::read(&pickle, &mut |pair| {
        if let pickle::Pair::IdToLabel(id, _) = pair {
            let id = std::str::from_utf8(id).unwrap_or_default();
            let row = source.connection.prepare_cached(sql);
            let found = row.and_then(|mut row| row.query_row(params![collection.metadata, id], |row| row.get(0)));
            if found == Ok(1) { known += 1 } else { strange += 1 }
        }
        Ok(())
    });
    read.is_ok() && known > strange
}

/// Segments that records name and the catalogue does not.
fn nameless_rows(source: &Source) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT DISTINCT segment_id FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments)";
    source.connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// The number of floats that the vectors have, where the collection does not say the same.
fn dimension(source: &Source, collection: &Collection) -> rusqlite::Result<Option<Finding>> {
    let segment = collection.segment_directory(source).and_then(|directory| Hnsw::open(&directory).ok());
    let stored = segment.filter(|segment| segment.count() > 0).map(|segment| segment.dimension() as i64);
    let sql = "SELECT length(vector) / 4 FROM embeddings_queue
               WHERE topic = ?1 AND seq_id <= ?2 AND length(vector) > 0 ORDER BY seq_id DESC LIMIT 1";
    let queued = || {
        let range = params![collection.topic, collection.metadata_sequence];
        source.connection.query_row(sql, range, |row| row.get::<_, i64>(0)).optional()
    };
    let Some(dimension) = stored.map_or_else(queued, |stored| Ok(Some(stored)))? else { return Ok(None) };
    Ok((collection.dimension != Some(dimension)).then(|| {
        let said = collection.dimension.map_or("nothing".into(), |said| said.to_string());
        let evidence = format!("it says {said}, its vectors have {dimension} floats");
        let amendment = Amendment::Dimension { collection: collection.id.clone(), dimension };
        Finding::new(Code::CollectionDimension, &*collection.name, evidence).with_amendment(amendment)
    }))
}

/// MemPalace asks for cosine distance in the collection's metadata, which chromadb does not read (CHROMA.md §1.4).
fn space(source: &Source, collection: &Collection) -> rusqlite::Result<Option<Finding>> {
    let sql = "SELECT str_value FROM collection_metadata WHERE collection_id = ?1 AND key = 'hnsw:space'";
    let asked = source.connection.query_row(sql, [&collection.id], |row| row.get::<_, Option<String>>(0));
    let is_asked = asked.optional()?.flatten().as_deref() == Some("cosine");
    let evidence = format!("its metadata asks for cosine, its index works with {:?}", collection.shape.space);
    let is_wrong = is_asked && collection.shape.space != Space::Cosine;
    Ok(is_wrong.then(|| Finding::new(Code::CollectionSpace, &*collection.name, evidence)))
}

/// chromadb 0.5 and 0.6 look a configuration's type up without asking whether it is there.
fn config(source: &Source, collection: &Collection) -> rusqlite::Result<Option<Finding>> {
    if source.format.has_integer_sequences() || !source.format.has_configuration() {
        return Ok(None);
    }
    let sql = "SELECT config_json_str FROM collections WHERE id = ?1";
    let config: Option<String> = source.connection.query_row(sql, [&collection.id], |row| row.get(0))?;
    let config = config.and_then(|config| serde_json::from_str::<serde_json::Value>(&config).ok());
    let is_wrong = config.is_some_and(|config| config.is_object() && config["_type"].is_null());
    let amendment = Amendment::ConfigType { collection: collection.id.clone() };
    Ok(is_wrong.then(|| {
        Finding::new(Code::CollectionConfig, &*collection.name, "config_json_str has no _type")
            .with_amendment(amendment)
    }))
}

/// What a MemPalace repair was working in when it was cut short. Its records go to the collection they were taken from;
/// where that is gone, the whole collection gets its name back.
fn leftover(source: &Source, collection: &Collection, all: &[Collection]) -> rusqlite::Result<Option<Finding>> {
    let Some(name) = collection.name.strip_suffix(TEMPORARY) else { return Ok(None) };
    let sql = "SELECT count(*) FROM embeddings WHERE segment_id = ?1";
    let records =
        |collection: &Collection| source.connection.query_row(sql, [&collection.metadata], |row| row.get::<_, i64>(0));
    let live = all.iter().find(|other| other.name == name);
    let (evidence, amendment) = match live {
        None => {
            let evidence = format!("it holds {} records; there is no “{name}”", records(collection)?);
            (evidence, Amendment::Rename { collection: collection.id.clone(), name: name.to_owned() })
        }
        Some(live) => {
            let (held, kept) = (records(collection)?, records(live)?);
            let evidence = format!("it holds {held} records, “{name}” holds {kept}");
            (evidence, Amendment::Merge { from: Donor::from(collection), into: live.id.clone() })
        }
    };
    let finding = Finding::new(Code::LeftoverCollection, &*collection.name, evidence);
    // Writes that wait for the temporary collection would be lost with it.
    let pending = "SELECT count(*) FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2";
    let range = params![collection.topic, collection.metadata_sequence];
    let pending: i64 = source.connection.query_row(pending, range, |row| row.get(0))?;
    let is_mendable = live.is_none() || pending == 0;
    Ok(Some(if is_mendable { finding.with_amendment(amendment) } else { finding }))
}
