//! Crashes in a row, chosen by the input: whatever they are, the operation ends whole or not at all.
//!
//! Ten bytes are a crash: what is done about the one before (recover, resume, abort; the first crash is of the run
//! itself), at which of its events it strikes (two bytes), and what becomes of what was not synced (seven bytes, or
//! nothing is lost where the first byte is odd). The walks of `tests/engine/every_crash.rs` reach the same states in
//! order; here a fuzzer looks for the long chains that they leave out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use support::explore::{Act, Crash, Explorer, Planned};
use support::furnish::Furnish;
use support::memory::Fate;

/// The tests' own simulated disk, and what plays on it.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the tests use more of it")]
#[path = "../../tests/support"]
mod support {
    pub mod explore;
    pub mod furnish;
    pub mod memory;
    pub mod toy;
}

/// No schedule is longer: each crash is followed by a whole recovery.
const CRASHES_MAX: usize = 12;

thread_local! {
    static EXPLORER: RefCell<Explorer<Planned<'static, Furnish>>> = RefCell::new(Explorer::new(&Furnish));
}

fn crash(index: usize, bytes: &[u8]) -> Crash {
    let act = [Act::Recover, Act::Resume, Act::Abort][usize::from(bytes[0] >> 1) % 3];
    let fate = bytes[3..].iter().fold(0, |fate, byte| fate << 8 | u64::from(*byte));
    Crash {
        act: (index > 0).then_some(act),
        event: u16::from_le_bytes([bytes[1], bytes[2]]).into(),
        fate: (bytes[0] & 1 == 0).then_some(Fate(fate)),
    }
}

fuzz_target!(|data: &[u8]| {
    let crashes: Vec<Crash> =
        data.chunks_exact(10).take(CRASHES_MAX).enumerate().map(|(index, bytes)| crash(index, bytes)).collect();
    EXPLORER.with_borrow_mut(|explorer| explorer.check(&crashes));
});
