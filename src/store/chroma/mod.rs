//! The store that ChromaDB's `PersistentClient` writes: `chroma.sqlite3` and a directory for each HNSW segment.
//!
//! Everything here follows CHROMA's own files, never its code: what is read is believed only after it has been checked,
//! and what is written is what the real client opens. The source is never changed by a byte.

mod amend;
mod apply;
mod blueprint;
mod candidate;
mod carry;
mod catalog;
pub mod check;
mod claims;
mod compare;
mod copies;
mod database;
mod digest;
mod emit;
mod error;
mod format;
mod graph;
mod history;
pub mod hnsw;
mod index;
mod intake;
mod kernel;
mod labels;
mod leave;
mod loss;
pub mod pickle;
mod quantized;
mod records;
mod salvage;
mod settings;
mod spare;
mod staging;
mod step;
mod survey;
mod text;
mod unsound;
mod vector;
mod vectors;
mod verify;

pub use amend::{Amendment, Donor, Pages, Preparation, Scope};
pub use apply::Waiting;
pub(crate) use apply::of_json;
pub use blueprint::{Blueprint, NewCollection, Renamed, Route};
pub use carry::unheld;
pub use catalog::{Collection, IndexShape, Space};
pub use compare::only_in;
pub use database::{Source, find_database, siblings};
pub(crate) use database::{prepare, take_copy};
pub use digest::Digest;
pub use emit::{Emitter, Given, Receiver};
pub(crate) use error::During;
pub use error::Error;
pub use format::Format;
pub use hnsw::is_segment_file;
pub use intake::Intake;
pub use loss::Loss;
pub use salvage::{Finds, Found, FoundIn, LISTED_MAX, Salvaged, salvage};
pub use spare::copies;
pub use step::{Step, Workshop};
pub use survey::{Batch, Flaw, Limits, QueueBatch, Survey, Surveyed, Totals, survey};
pub use unsound::{Part, Unsound};
pub(crate) use vector::normalise_well;
pub use vector::{Fault, Origin};
pub use verify::{Expected, ExpectedCollection};

/// Name of the database in a palace.
pub const DATABASE: &str = "chroma.sqlite3";
