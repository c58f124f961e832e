//! Metadata as the text of one JSON object: keys sorted, no spaces, letters as they are, as MemPalace writes it.

use crate::store::chroma::{Loss, of_json};
use crate::store::record::{Metadata, Value};
use serde_json::{Map, Value as Json};

/// The text of some metadata. A number that JSON does not know (NaN, infinity) must have been taken out before.
pub(crate) fn text(metadata: &Metadata) -> String {
    object(metadata).to_string()
}

/// The object; its keys are sorted.
pub(crate) fn object(metadata: &Metadata) -> Json {
    Json::Object(metadata.iter().map(|(key, value)| (key.clone(), json(value))).collect::<Map<_, _>>())
}

fn json(value: &Value) -> Json {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Bool(value) => (*value).into(),
        Value::List(values) => values.iter().map(json).collect(),
    }
}

/// The metadata in a text, and what of it chromadb has no place for; `whose` names the record.
pub(crate) fn metadata(text: &str, whose: &str) -> (Metadata, Vec<Loss>) {
    let loss = |what: String| Loss::Unheld { whose: whose.to_owned(), what };
    let Ok(Json::Object(object)) = serde_json::from_str(text) else {
        return (Metadata::new(), vec![loss("metadata that is no JSON object".into())]);
    };
    let (mut metadata, mut losses) = (Metadata::new(), Vec::new());
    for (key, value) in object {
        let is_free = !key.is_empty() && !key.starts_with("chroma:");
        match of_json(&value).filter(|_| is_free) {
            Some(value) => drop(metadata.insert(key, value)),
            None => losses.push(loss(format!("the value of “{key}”"))),
        }
    }
    (metadata, losses)
}

/// Whether JSON can hold a value.
pub(crate) fn is_json(value: &Value) -> bool {
    match value {
        Value::Float(number) => number.is_finite(),
        Value::List(values) => values.iter().all(is_json),
        _ => true,
    }
}
