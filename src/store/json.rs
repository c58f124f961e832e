//! Metadata as the text of one JSON object: keys sorted, no spaces, letters as they are, as MemPalace writes it.

use crate::store::chroma::{Loss, of_json};
use crate::store::record::{Metadata, Value};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;

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
    let Ok(Json::Object(object)) = serde_json::from_str(&narrow(text)) else {
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

/// A text of JSON with null in place of every integer of more than 64 bits: it would be read as a float, and nobody
/// would notice. What is not well-formed stays so.
pub(crate) fn narrow(text: &str) -> Cow<'_, str> {
    let mut narrowed = String::new();
    let (mut done, mut at, mut is_text) = (0, 0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => is_text = !is_text,
            b'\\' if is_text => at += 1, // what is escaped ends no text
            b'-' | b'0'..=b'9' if !is_text => {
                let is_number = |byte: &u8| matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end =
                    bytes[at..].iter().position(|byte| !is_number(byte)).map_or(bytes.len(), |length| at + length);
                let digits = text[at..end].trim_start_matches('-');
                if digits.len() > 19 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    narrowed.push_str(&text[done..at]);
                    narrowed.push_str("null");
                    done = end;
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    match done {
        0 => Cow::Borrowed(text),
        _ => Cow::Owned(narrowed + &text[done..]),
    }
}

/// Metadata that was written by [`object`].
pub(crate) fn kept(json: &Json) -> Metadata {
    let values = json.as_object().into_iter().flatten();
    values.filter_map(|(key, value)| Some((key.clone(), of_json(value)?))).collect()
}

/// Takes out what JSON cannot hold, and says what that is.
pub(crate) fn fit(metadata: &mut Metadata, whose: &str) -> Vec<Loss> {
    let mut losses = Vec::new();
    metadata.retain(|key, value| {
        let is_held = is_json(value);
        if !is_held {
            losses.push(Loss::Unheld { whose: whose.to_owned(), what: format!("the value of “{key}”") });
        }
        is_held
    });
    losses
}

/// Whether JSON can hold a value.
fn is_json(value: &Value) -> bool {
    match value {
        Value::Float(number) => number.is_finite(),
        Value::List(values) => values.iter().all(is_json),
        _ => true,
    }
}
