//! A record as any store and any export holds it: id, document, typed metadata, vector.

use super::chroma::Space;
use std::collections::BTreeMap;

/// A value of metadata, with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A 64-bit integer.
    Int(i64),
    /// A double.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Values of one type, in order.
    List(Vec<Value>),
}

/// A record's metadata, by key.
pub type Metadata = BTreeMap<String, Value>;

/// A vector as an index stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The floats: of length one where the space is cosine.
    pub floats: Vec<f32>,
    /// What they have to be multiplied with; 1 where the space is not cosine.
    pub length: f32,
}

impl Embedding {
    /// The vector as a client gets it.
    pub fn given(&self) -> Vec<f32> {
        self.floats.iter().map(|float| float * self.length).collect()
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its document; none is not the same as an empty one.
    pub document: Option<String>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its vector, where there is one.
    pub embedding: Option<Embedding>,
    /// When it was made, as its store wrote it.
    pub created_at: Option<String>,
}

/// What is said of a collection before its records.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its name.
    pub name: String,
    /// Floats in a vector; unknown until the first write.
    pub dimension: Option<i64>,
    /// How it measures distance.
    pub space: Space,
    /// How its index is set up, as chromadb 1.5 writes it in a schema: `space`, `hnsw`, `embedding_function`.
    pub index: serde_json::Value,
    /// Its own metadata.
    pub metadata: Metadata,
}
