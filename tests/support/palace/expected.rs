//! Compares a palace with what the real client of its version returned for it when the fixture was made.

use super::content::{Content, Record};
use super::fixtures;
use super::vectors::{bits, floats, ulps};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Insists on ids in the order of `get()`, documents, typed metadata and embeddings, all as the client returned them.
#[track_caller]
pub(crate) fn assert_as_expected(palace: &Path, version: &str) {
    records_as_expected(&Content::of(palace).records, version);
}

/// The same of records that were read already. Where they have a document, and the client returned none, it is empty.
#[track_caller]
pub(crate) fn records_as_expected(content: &BTreeMap<String, Vec<Record>>, version: &str) {
    let recorded = recorded(version);
    let collections = recorded["collections"].as_array().expect("collections");
    assert_eq!(collections.len(), content.len(), "{version}: number of collections");
    for collection in collections {
        let name = collection["name"].as_str().expect("a name");
        let mut records = content[name].clone();
        if version.starts_with("0.4") {
            records.sort_by(|one, two| one.id.cmp(&two.id)); // that version lists records by id, not by age
        }
        assert_eq!(collection["count"], records.len(), "{version}: {name}: count");
        for (position, record) in records.iter().enumerate() {
            let what = format!("{version}: {name}: record {position}");
            compare(record, collection, position, version, &what);
        }
    }
}

fn recorded(version: &str) -> Value {
    let path = fixtures().join(format!("chroma-{version}.expected.json.gz"));
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip of JSON");
    serde_json::from_str(&text).expect("JSON")
}

fn compare(record: &Record, collection: &Value, position: usize, version: &str, what: &str) {
    let field = |name: &str| &collection[name][position];
    assert_eq!(field("ids"), record.id.as_str(), "{what}");
    let document = record.document.as_deref().filter(|text| !(text.is_empty() && field("documents").is_null()));
    assert_eq!(field("documents").as_str(), document, "{what}: {}: document", record.id);
    assert_eq!(metadata(field("metadatas")), record.metadata, "{what}: {}: metadata", record.id);
    let wanted = floats(&unhex(field("embeddings").as_str().expect("an embedding")));
    let vector = record.vector.as_ref().unwrap_or_else(|| panic!("{what}: {}: no vector", record.id));
    // The 0.x client answers from its buffer what is not in the index yet: the vector as it was handed in, before it
    // was normalised and multiplied out again.
    if version.starts_with("0.") && vector.queued.is_some() {
        let distance = ulps(&wanted, &vector.get);
        assert!(distance <= 1, "{what}: {}: the embedding is {distance} units off", record.id);
        return;
    }
    assert_eq!(bits(&wanted), bits(&vector.get), "{what}: {}: embedding", record.id);
}

/// Metadata in the form in which [`Record`] has it.
fn metadata(recorded: &Value) -> BTreeMap<String, String> {
    let Some(recorded) = recorded.as_object() else { return BTreeMap::new() };
    recorded.iter().map(|(key, value)| (key.clone(), typed(value))).collect()
}

fn typed(value: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value["t"].as_str().expect("a type") {
        "float" => format!("float:{}", text(&value["hex"])),
        "list" => {
            let values: Vec<String> = value["v"].as_array().expect("a list").iter().map(text).collect();
            format!("list:{}:{values:?}", text(&value["of"]))
        }
        kind => format!("{kind}:{}", text(&value["v"])),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal text");
    (0..text.len()).step_by(2).map(digit).collect()
}
