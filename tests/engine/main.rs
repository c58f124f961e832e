//! The engine and what it stands on: the journal, the steps over files, the real disk and the simulated one.

mod annex;
mod disk;
mod every_crash;
mod journal;
mod ledger;
mod memory;
mod random;
mod steps;
mod swap;
mod tree;
mod vfs;

#[path = "../support/mod.rs"]
mod support;
