//! Checks, repairs and recovers MemPalace palaces without ever losing one.
//!
//! A palace is a directory with ChromaDB's `chroma.sqlite3`, its HNSW segments and MemPalace's sidecars. Every step
//! that changes one is written to an fsynced intent journal first, so that after a kill, a full disk or a power cut
//! [`open`] finishes or undoes whatever was cut short. SPEC.md is the contract.
//!
//! ```no_run
//! let disk = palacekeeper::disk::RealDisk::new();
//! let opened = palacekeeper::open(&disk, "palace".as_ref())?;
//! if let Some(recovered) = &opened.recovered {
//!     println!("operation {} had been cut short; {:?}", recovered.number, recovered.outcome);
//! }
//! # Ok::<(), palacekeeper::Error>(())
//! ```
//!
//! The floors of the house, each importing only from those below it:
//!
//! ```text
//! cli → keeper → ops → store → tree → engine → journal → disk
//! ```

pub mod cli;
pub mod disk;
pub mod engine;
pub mod journal;
pub mod keeper;
pub mod ops;
pub mod store;
pub mod tree;

pub use keeper::{Ended, Error, Keeper, Opened, open};
