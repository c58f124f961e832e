//! Stores that a palace's data can be in.

pub mod chroma;
pub mod sqlite;
