//! What runs on the processor's widest registers, and hints to processor and kernel: the one place with `unsafe`, for
//! calls into code that this processor was asked for first, and for hints.
//!
//! The same Rust is compiled for the baseline and for the wider registers of AVX2 and AVX-512. Products are summed in
//! 32 lanes, and the lanes in one order, whatever the width; nothing is fused. So every machine finds the same
//! distances bit for bit, and builds the same graph.

#![allow(unsafe_code)]

use super::Space;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Partial sums that run side by side.
const LANES: usize = 32;

/// Bytes that a processor fetches at once.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Has memory fetched that is going to be read.
pub(super) fn prefetch<T>(items: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(items) + items.as_ptr().addr() % LINE_BYTES).step_by(LINE_BYTES) {
        // SAFETY: a hint reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(items.as_ptr().cast::<i8>().wrapping_add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = items;
}

/// Room for so many items, in large pages where the system has them: whoever jumps about in small ones waits for the
/// translation of their addresses.
pub(super) fn room<T>(count: usize) -> Vec<T> {
    let mut room = Vec::with_capacity(count);
    #[cfg(target_os = "linux")]
    advise(room.spare_capacity_mut());
    room
}

#[cfg(target_os = "linux")]
fn advise<T>(room: &mut [std::mem::MaybeUninit<T>]) {
    const LARGE_BYTES: usize = 2 << 20;
    let bytes = room.as_mut_ptr().cast::<std::ffi::c_void>();
    let before = bytes.align_offset(LARGE_BYTES);
    let inner = size_of_val(room).saturating_sub(before) / LARGE_BYTES * LARGE_BYTES;
    if inner > 0 {
        // SAFETY: these pages lie in the room, and the hint changes nothing in them. It may be declined.
        let _ =
            unsafe { rustix::mm::madvise(bytes.wrapping_byte_add(before), inner, rustix::mm::Advice::LinuxHugepage) };
    }
}

/// Compiles a function for the baseline and for wider registers, and calls what this processor has.
macro_rules! on_the_widest_registers {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty, $baseline:ident) => {
        $(#[$doc])*
        pub(super) fn $name($($argument: $type),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw")]
                fn avx512($($argument: $type),*) -> $result {
                    $baseline($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) -> $result {
                    $baseline($($argument),*)
                }
                if std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has what the function was compiled for, as just asked.
                    return unsafe { avx512($($argument),*) };
                }
                if std::is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { avx2($($argument),*) };
                }
            }
            $baseline($($argument),*)
        }
    };
}

on_the_widest_registers! {
    /// The distance between two vectors of equal length: smaller is nearer.
    distance(space: Space, a: &[f32], b: &[f32]) -> f32, distance_baseline
}

on_the_widest_registers! {
    /// The dot product of two quantized vectors of equal length.
    dot(a: &[i8], b: &[i8]) -> i32, dot_baseline
}

#[inline(always)]
fn distance_baseline(space: Space, a: &[f32], b: &[f32]) -> f32 {
    match space {
        // Cosine vectors are normalised.
        Space::Cosine | Space::InnerProduct => 1.0 - sum(a, b, |x, y| x * y),
        Space::L2 => sum(a, b, |x, y| (x - y) * (x - y)),
    }
}

#[inline(always)]
fn dot_baseline(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

#[inline(always)]
fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    // Hidden from the optimiser, which would otherwise shape the loop after the additions below and leave the wide
    // registers unused: three times slower.
    let lanes = std::hint::black_box(lanes);
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| term(*a, *b)).sum();
    let halves: [f32; LANES / 2] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + LANES / 2]);
    let quarters: [f32; LANES / 4] = std::array::from_fn(|lane| halves[lane] + halves[lane + LANES / 4]);
    quarters.iter().sum::<f32>() + rest
}
