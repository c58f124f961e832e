//! Damage: what a check finds, what a repair mends, and what a salvage saves out of a palace.

mod catalogue;
mod damage;
mod hostile;
mod mending;
mod pages;
mod palaces;
mod salvage;
mod salvage_sources;

#[path = "../support/mod.rs"]
mod support;
