//! Whole operations on the simulated disk, crashed wherever a disk can be.

mod machine;
mod operations;

#[path = "../support/mod.rs"]
mod support;
