//! Distances between vectors: the one place with `unsafe`, for calls into code that this processor was asked for first,
//! and for a hint to it.
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
    for at in (0..size_of_val(items)).step_by(LINE_BYTES) {
        // SAFETY: a hint reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(items.as_ptr().cast::<i8>().wrapping_add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = items;
}

/// The distance between two vectors of equal length: smaller is nearer.
pub(super) fn distance(space: Space, a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has what the function was compiled for, as just asked.
            return unsafe { avx512(space, a, b) };
        }
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2(space, a, b) };
        }
    }
    baseline(space, a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(space: Space, a: &[f32], b: &[f32]) -> f32 {
    baseline(space, a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(space: Space, a: &[f32], b: &[f32]) -> f32 {
    baseline(space, a, b)
}

#[inline(always)]
fn baseline(space: Space, a: &[f32], b: &[f32]) -> f32 {
    match space {
        // Cosine vectors are normalised.
        Space::Cosine | Space::InnerProduct => 1.0 - sum(a, b, |x, y| x * y),
        Space::L2 => sum(a, b, |x, y| (x - y) * (x - y)),
    }
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
