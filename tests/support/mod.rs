//! What several test programs need; each uses a part of it.

#![allow(dead_code, unreachable_pub, reason = "every test program compiles all of this and uses a part")]

pub mod memory;
