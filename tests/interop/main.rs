//! The real chromadb and the real mempalace as the judges of what palacekeeper leaves behind.

mod catalogue;
mod exact;
mod migrate;
mod rebuild;

#[path = "../support/mod.rs"]
mod support;
