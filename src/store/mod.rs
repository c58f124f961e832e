//! Stores that a palace's data can be in.

pub mod chroma;
pub mod exact;
mod intake;
mod json;
pub mod lines;
pub mod record;
pub mod scratch;
pub mod sqlite;
