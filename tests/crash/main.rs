//! Whole operations on the simulated disk, crashed wherever a disk can be.

mod machine;
mod operations;
mod unsynced;

#[path = "../support/mod.rs"]
mod support;
