//! A copy of vectors in a quarter of the room, which mostly tells how two of them compare without a look at them.
//!
//! Each number is rounded to one of 255 steps of its vector's largest, so a vector is a scale, a byte for each
//! dimension, and a rest. How long the rest is, is known; so by the inequality of Cauchy and Schwarz there are bounds
//! to every distance, and these leave room for the rounding of the distance itself. Whoever only asks whether a
//! distance is above or below something gets the answer that the vectors would have given, or none.

use super::Space;
use super::kernel::{dot, prefetch, room};

/// Steps on either side of zero.
const STEPS: f32 = 127.0;
/// With more dimensions a sum of products of steps might not fit its integer.
const DIMENSION_MAX: usize = 1 << 16;
/// With vectors that are longer, distances might overflow.
const NORM_MAX: f64 = 1e18;

/// Quantized vectors, numbered like the vectors.
pub(super) struct Quantized {
    dimension: usize,
    steps: Vec<i8>,
    rows: Vec<Row>,
}

/// What a vector is beside its steps.
#[derive(Clone, Copy)]
struct Row {
    /// Size of a step.
    scale: f32,
    /// Length of the vector, or a little more.
    norm: f32,
    /// Length of what is left of the vector when its steps are taken away, or a little more. Endless where nothing is
    /// known.
    rest: f32,
}

/// Two numbers between which a distance lies.
pub(super) struct Bounds {
    least: f64,
    most: f64,
}

impl Bounds {
    /// Whether the distance is above this one for certain.
    pub(super) fn are_above(&self, distance: f32) -> bool {
        self.least > f64::from(distance)
    }

    /// Whether the distance is below this one for certain.
    pub(super) fn are_below(&self, distance: f32) -> bool {
        self.most < f64::from(distance)
    }
}

impl Quantized {
    /// Quantizes vectors that lie one behind the other.
    pub(super) fn of(vectors: &[f32], dimension: usize) -> Quantized {
        let mut quantized =
            Quantized { dimension, steps: room(vectors.len()), rows: Vec::with_capacity(vectors.len() / dimension) };
        for vector in vectors.chunks_exact(dimension) {
            quantized.push(vector);
        }
        quantized
    }

    fn push(&mut self, vector: &[f32]) {
        let largest = vector.iter().fold(0_f32, |largest, number| largest.max(number.abs()));
        let (scale, first) = (largest / STEPS, self.steps.len());
        // The cast truncates, so this rounds; what it makes of the impossible is written off as rest below.
        let step = |number: &f32| (number / scale + 0.5_f32.copysign(*number)) as i8;
        self.steps.extend(vector.iter().map(step));
        let (mut norm, mut rest) = (0.0, 0.0);
        for (number, step) in vector.iter().zip(&self.steps[first..]) {
            let (number, stepped) = (f64::from(*number), f64::from(*step) * f64::from(scale));
            norm += number * number;
            rest += (number - stepped) * (number - stepped);
        }
        let up = |square: f64| (square.sqrt() as f32).next_up();
        // Anything that is no number makes the norm none, and is not below.
        self.rows.push(match norm.sqrt() < NORM_MAX && self.dimension <= DIMENSION_MAX {
            true => Row { scale, norm: up(norm), rest: up(rest) },
            false => Row { scale: 0.0, norm: 0.0, rest: f32::INFINITY },
        });
    }

    /// Has a vector fetched.
    pub(super) fn prefetch(&self, element: u32) {
        prefetch(self.steps(element));
        prefetch(std::slice::from_ref(&self.rows[element as usize]));
    }

    fn steps(&self, element: u32) -> &[i8] {
        &self.steps[element as usize * self.dimension..][..self.dimension]
    }

    /// Where the distance between two vectors lies, as [`distance`](super::kernel::distance) would find it.
    pub(super) fn bounds(&self, space: Space, a: u32, b: u32) -> Bounds {
        let dot = f64::from(dot(self.steps(a), self.steps(b)));
        let [a, b] = [a, b].map(|element| self.rows[element as usize]);
        let dot = dot * f64::from(a.scale) * f64::from(b.scale);
        let [norms, rests] = [[a.norm, b.norm], [a.rest, b.rest]].map(|pair| pair.map(f64::from));
        let error = rests[0] * norms[1] + (norms[0] + rests[0]) * rests[1];
        // Each of the numbers that are summed may be rounded a few times, and lose what is below the smallest.
        let rounding = (self.dimension + 8) as f64 * f64::from(f32::EPSILON);
        let (middle, size, error) = match space {
            Space::Cosine | Space::InnerProduct => (1.0 - dot, 1.0 + norms[0] * norms[1], error),
            Space::L2 => {
                let squares = norms[0] * norms[0] + norms[1] * norms[1];
                (squares - 2.0 * dot, 2.0 * squares, 2.0 * error)
            }
        };
        let error = error + rounding * (size + f64::from(f32::MIN_POSITIVE));
        Bounds { least: middle - error, most: middle + error }
    }
}

#[cfg(test)]
impl Quantized {
    /// Knows nothing, so that everybody has to look at the vectors.
    pub(super) fn blind(count: usize, dimension: usize) -> Quantized {
        let row = Row { scale: 0.0, norm: 0.0, rest: f32::INFINITY };
        Quantized { dimension, steps: vec![0; count * dimension], rows: vec![row; count] }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::distance;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const SPACES: [Space; 3] = [Space::Cosine, Space::InnerProduct, Space::L2];

    /// Whatever somebody may have put into an index, and vectors as they are, of some size.
    fn vector(dimension: usize) -> impl Strategy<Value = Vec<f32>> {
        let any = vec(any::<f32>(), dimension);
        let like = (vec(-1.0_f32..1.0, dimension), -44..38_i32)
            .prop_map(|(numbers, size)| numbers.into_iter().map(|number| number * 10_f32.powi(size)).collect());
        prop_oneof![any, like, vec(-1.0_f32..1.0, dimension)]
    }

    fn pair() -> impl Strategy<Value = (usize, Vec<f32>, Vec<f32>)> {
        (1_usize..100).prop_flat_map(|dimension| (Just(dimension), vector(dimension), vector(dimension)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn distance_lies_between_its_bounds((dimension, one, other) in pair(), near in any::<bool>()) {
            let other = if near { one.iter().map(|number| number * 1.001).collect() } else { other };
            let quantized = Quantized::of(&[&one[..], &other].concat(), dimension);
            for space in SPACES {
                let (found, bounds) = (distance(space, &one, &other), quantized.bounds(space, 0, 1));
                let is_between = !bounds.are_below(found) && !bounds.are_above(found);
                prop_assert!(is_between, "{space:?}: {found} is not between {} and {}", bounds.least, bounds.most);
            }
        }
    }

    /// Bounds that are far apart would be true and of no use.
    #[test]
    fn bounds_are_close() {
        let vectors: Vec<f32> = (0..2 * 384).map(|place| (place as f32 * 1.7).sin() / 192_f32.sqrt()).collect();
        let quantized = Quantized::of(&vectors, 384);
        for space in SPACES {
            let bounds = quantized.bounds(space, 0, 1);
            assert!(bounds.most - bounds.least < 0.03, "{space:?}: {} to {}", bounds.least, bounds.most);
        }
    }
}
