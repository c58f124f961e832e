//! The commands as a person uses them: what they do, where they do it, and what they refuse.

mod exact;
mod exchange;
mod exchange_damage;
mod exchange_full;
mod full;
mod import;
mod migrate;
mod mounts;
mod patience;
mod refusals;
mod restore;
mod staging;
mod staging_kinds;
mod strangers;
mod sweep;
mod unfit_staging;

#[path = "../support/mod.rs"]
mod support;
