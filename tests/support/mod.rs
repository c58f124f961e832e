//! What several test programs need; each uses a part of it.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test program compiles all of this and uses a part"
)]

pub mod explore;
pub mod furnish;
pub mod golden;
pub mod house;
pub mod memory;
pub mod mutants;
pub mod palace;
pub mod power;
pub mod report;
pub mod sources;
pub mod toy;
pub mod vfs;
pub mod whole;
