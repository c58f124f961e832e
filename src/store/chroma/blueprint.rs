//! How a new store differs from the one it is made from: names, and the way the vectors take.

use super::{Error, Format, Preparation};
use serde::{Deserialize, Serialize};

/// What a new store is going to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blueprint {
    /// Name of its [`super::Format`].
    pub format: String,
    /// How the old store has to be read.
    pub preparation: Preparation,
    /// Its collections.
    pub collections: Vec<NewCollection>,
}

/// A collection under its old and new names. New UUIDs let the old and the new store lie side by side until one rename
/// decides (rule R9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCollection {
    /// What people call it.
    pub name: String,
    /// Its UUID, old and new.
    pub id: Renamed,
    /// Its topic in the queue, old and new.
    pub topic: Renamed,
    /// Its metadata segment, old and new.
    pub metadata: Renamed,
    /// Its vector segment, old and new.
    pub vector: Renamed,
    /// The way its vectors take.
    pub route: Route,
    /// `max_seq_id` of its metadata segment; no row where `None`.
    pub metadata_sequence: Option<i64>,
    /// `max_seq_id` of its vector segment; no row where `None`.
    pub vector_sequence: Option<i64>,
}

/// An old name, if there was one, and the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// `None` where the old store had lost it.
    pub old: Option<String>,
    /// The new name.
    pub new: String,
}

/// The way the vectors of a collection take into the new store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Route {
    /// The segment is sound: its directory is copied, the graph stays as it is.
    Segment,
    /// There is no segment yet: all vectors are in the queue, and stay there.
    Unpersisted,
    /// The segment is not sound: a new one is built from every vector that can be read.
    Built {
        /// What is wrong with the segment.
        why: String,
    },
    /// The segment stays where it is, under its own name.
    Kept,
}

impl Blueprint {
    /// What the new store is written as.
    pub(super) fn target(&self) -> Result<&'static Format, Error> {
        Format::named(&self.format).ok_or_else(|| Error::Journal(format!("a format “{}”", self.format)))
    }

    /// A collection that a step names.
    pub(super) fn collection(&self, index: u32) -> Result<&NewCollection, Error> {
        let collection = self.collections.get(index as usize);
        collection
            .ok_or_else(|| Error::Journal(format!("collection {index}, and there are {}", self.collections.len())))
    }

    /// The directory of a new segment: one name, which leads nowhere else (invariant I17).
    pub(super) fn segment(&self, index: u32) -> Result<&str, Error> {
        let name = &*self.collection(index)?.vector.new;
        match name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            true => Err(Error::Journal(format!("a segment “{name}”"))),
            false => Ok(name),
        }
    }

    /// Every old name with its new one.
    pub(super) fn renamed(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self
            .collections
            .iter()
            .flat_map(|collection| [&collection.id, &collection.topic, &collection.metadata, &collection.vector]);
        names.filter_map(|renamed| Some((renamed.old.as_deref()?, &*renamed.new)))
    }
}
