//! The store that MemPalace's `sqlite_exact` backend writes: `sqlite_exact.sqlite3`, one row a record, no index.
//!
//! A search reads every vector, and distances are always cosine. There is no schema version, no marker and no sidecar;
//! what MemPalace finds in a palace is told by the name of the file. The schema is MemPalace 3.11's own.

mod read;
mod step;
mod write;

pub use read::{Reader, TakenIn};
pub use step::{Step, Workshop};
pub use write::{fit, fit_head};

/// Name of the database in a palace.
pub const DATABASE: &str = "sqlite_exact.sqlite3";

/// Beginning of the keys in `meta` under which a collection's settings are kept for the way back; MemPalace leaves
/// rows alone that it does not know.
const SETTINGS: &str = "palacekeeper:collection:";

/// MemPalace's own note, beside a store of chromadb's, of the models that made its vectors; a store without an index
/// has it in `meta`.
const EMBEDDER_NOTE: &str = "mempalace_embedder.json";

/// Beginning of the keys in `meta` that say which model made a collection's vectors.
const MODEL: &str = "embedder_model:";

/// As MemPalace 3.11 makes it; it compares nothing, and adds what is missing.
const SCHEMA: &str = include_str!("schema.sql");
