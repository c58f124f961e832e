//! The real program on a real file system: killed, failed, starved, raced and interrupted.

mod clients;
mod exchange_kill;
mod fault_verbs;
mod faults;
mod kill;
mod migrate_kill;
mod restore_kill;
mod rivals;
mod short_writes;
mod signals;
mod starved;

#[path = "../support/mod.rs"]
mod support;
