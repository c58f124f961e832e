//! What a search for near vectors has come by, in one integer.

/// Something a search has come by: its distance, its number, and whether its links were looked at, in one integer. They
/// sort by distance, and where that is equal by number: no tie is left to chance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    pub(super) fn new(distance: f32, element: u32) -> Candidate {
        Candidate(u64::from(in_order(distance)) << 32 | u64::from(element) << 1)
    }

    pub(super) fn distance(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 1 { ordered ^ 1 << 31 } else { !ordered })
    }

    pub(super) fn element(self) -> u32 {
        self.0 as u32 >> 1
    }

    pub(super) fn is_expanded(self) -> bool {
        self.0 & 1 == 1
    }

    pub(super) fn set_expanded(&mut self) {
        self.0 |= 1;
    }
}

/// An integer that sorts like the number, in IEEE 754's total order.
fn in_order(number: f32) -> u32 {
    let bits = number.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_sort_by_distance_and_then_by_number() {
        let distances = [f32::NEG_INFINITY, -1.0, -0.0, 0.0, f32::MIN_POSITIVE, 1.0, f32::INFINITY, f32::NAN];
        let sorted: Vec<Candidate> =
            distances.iter().flat_map(|distance| [0, 1, 7].map(|element| Candidate::new(*distance, element))).collect();
        assert!(sorted.is_sorted());
        for (candidate, distance) in sorted.iter().step_by(3).zip(distances) {
            let mut candidate = *candidate;
            candidate.set_expanded();
            assert_eq!((candidate.distance().to_bits(), candidate.element()), (distance.to_bits(), 0));
        }
    }
}
