//! The house: its rules, its contract with SPEC.md, and its list of deliberate bugs.

mod mutants;
mod spec;
mod tidy;

#[path = "../support/mod.rs"]
mod support;
