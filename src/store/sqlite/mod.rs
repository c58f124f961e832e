//! Reads the pages of an SQLite file without SQLite, so that one bad page costs what is on it and nothing else.
//!
//! Written from the public description of the file format (sqlite.org/fileformat2.html); section numbers refer to it.
//! Nothing in the file is believed: every offset is checked before it is used, a chain or a tree is never followed
//! twice through one page, and no length is allocated that the file cannot hold.
//!
//! # Limits UTF-8 databases without auto-vacuum, which is what chromadb writes. A write-ahead log is not looked at:
//! the database has to be rolled first. One byte is held for each page.

mod file;
mod inspect;
mod page;
mod record;
mod tree;

pub use file::Database;
pub use inspect::{Fault, Inspection, Owner, free_pages, inspect};
pub use page::{Cell, Kind, Page};
pub use record::{Value, decode};
pub use tree::{Entry, Object, PageFaults, Receiver, Tree, Visited, objects};
