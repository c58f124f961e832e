//! What can be wrong with the HNSW segment of a collection.

use super::hnsw;
use std::fmt;

/// What is wrong where one map is not the other turned round.
pub(super) const CONTRADICTION: &str = "index_metadata.pickle: its two maps contradict each other";

/// A reason why a segment must not be taken over as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsound {
    /// The part that is wrong.
    pub part: Part,
    /// What is wrong with it.
    pub what: String,
}

/// A part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The directory.
    Directory,
    /// `header.bin`.
    Header,
    /// `data_level0.bin`.
    Level0,
    /// `length.bin`.
    Lengths,
    /// `link_lists.bin`, or the links on the ground level.
    Links,
    /// `link_lists.bin`, which is far larger than its links.
    Sparse,
    /// `index_metadata.pickle`.
    Pickle,
    /// The number of floats in a vector.
    Dimension,
    /// Vectors that are not as they were written.
    Vectors,
    /// The records it should hold and does not, or the other way round.
    Records,
}

impl Unsound {
    pub(super) fn new(part: Part, what: impl Into<String>) -> Unsound {
        Unsound { part, what: what.into() }
    }
}

impl From<&hnsw::Error> for Unsound {
    fn from(error: &hnsw::Error) -> Unsound {
        Unsound::new(error.part(), error.to_string())
    }
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
