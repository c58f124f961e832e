//! The catalogue: what is said about each collection.

use super::adopt;
use super::code::{Code, Remedy};
use super::directory::nameless;
use super::finding::Finding;
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::hnsw::Hnsw;
use crate::store::chroma::{Amendment, Collection, Donor, Source, Space};
use rusqlite::{OptionalExtension, params};

/// Vectors that are looked at to tell how all of them were stored.
const SAMPLE: u64 = 1000;
/// Ending of the name that MemPalace's repair works under.
const TEMPORARY: &str = "__repair_tmp";

/// What has to be set right before the rows can be understood: segments and dimensions.
pub(super) fn structure(source: &Source, collections: &[Collection]) -> Result<Vec<Finding>, Error> {
    let nameless = nameless(source)?;
    let look = || {
        let mut findings = adopt::check(source, collections, &nameless)?;
        for collection in collections {
            findings.extend(dimension(source, collection)?);
        }
        Ok(findings)
    };
    look().during(&source.database, "reading its collections")
}

/// Everything else.
pub(super) fn check(source: &Source, collections: &[Collection]) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for collection in collections {
        let of_one = || {
            let parts =
                [space(source, collection)?, config(source, collection)?, leftover(source, collection, collections)?];
            Ok(parts)
        };
        let parts: rusqlite::Result<_> = of_one();
        findings.extend(parts.during(&source.database, "reading its collections")?.into_iter().flatten());
    }
    Ok(findings)
}

/// The number of floats that the vectors have, where the collection does not say the same.
fn dimension(source: &Source, collection: &Collection) -> rusqlite::Result<Option<Finding>> {
    let segment = collection.segment_directory(source).and_then(|directory| Hnsw::open(source.disk, &directory).ok());
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
    if !is_asked || collection.shape.space == Space::Cosine {
        return Ok(None);
    }
    let evidence = format!("its metadata asks for cosine, its index works with {:?}", collection.shape.space);
    let finding = Finding::new(Code::CollectionSpace, &*collection.name, evidence);
    let Some(vector) = collection.vector.clone().filter(|_| is_stored_as_cosine(source, collection)) else {
        return Ok(Some(finding));
    };
    let amendment = Amendment::Cosine { collection: collection.id.clone(), vector };
    Ok(Some(finding.with_remedy(Remedy::Amend).with_amendment(amendment)))
}

/// Whether the vectors in an index were made by cosine: each of length one, with a length beside it that can be one.
/// Other spaces leave garbage there. An index that holds nothing speaks for no space.
fn is_stored_as_cosine(source: &Source, collection: &Collection) -> bool {
    let Some(directory) = collection.segment_directory(source) else { return false };
    let Ok(hnsw) = Hnsw::open(source.disk, &directory) else { return collection.vector_sequence.is_none() };
    let is_cosine = |slot| {
        let Ok(Some((vector, Some(length)))) = hnsw.vector(slot) else { return false };
        let sum: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        (sum - 1.0).abs() < 1e-3 && (1e-6..1e6).contains(&length)
    };
    (0..hnsw.count().min(SAMPLE)).all(is_cosine)
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
