//! One record's vector: as an index stores it, where it was found, and what may be wrong with it.

use super::digest::Hasher;
use super::history;

/// Where a vector was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The collection's own segment.
    Segment,
    /// A write in the queue, as it should be.
    Queue,
    /// A write in the queue that the segment should have had.
    History,
    /// A segment that was set aside, in a directory of this name, or of another collection.
    Spare(String),
}

/// One record's vector.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vector {
    /// As the index stores it: normalised where the space is cosine.
    pub(super) stored: Vec<f32>,
    /// What `stored` has to be multiplied with; 1 where nothing was normalised.
    pub(super) length: f32,
    /// Where it was found.
    pub(super) origin: Origin,
    /// What is wrong with the one in the segment.
    pub(super) fault: Option<Fault>,
    /// Whether its length was lost, and `length` is 1 in its place.
    pub(super) lacks_length: bool,
}

/// What is wrong with a vector in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is not what was written.
    Changed,
    /// What it has to be multiplied with is no length, or is not there.
    Length,
}

impl Vector {
    /// One of a segment in cosine space. Where what is stored has length one, it is the direction that was written, and
    /// worth keeping without its length: searches compare nothing else. `None` where nothing of it is certain.
    pub(super) fn of_cosine(stored: Vec<f32>, length: Option<f32>) -> Option<Vector> {
        let origin = Origin::Segment;
        let is_zero = stored.iter().all(|value| *value == 0.0);
        // Zero is the length of the zero vector alone.
        let is_length = |length: f32| length.is_finite() && (length > 0.0 || (length == 0.0 && is_zero));
        match length {
            None if is_zero => None,
            _ if !is_normal(&stored) => {
                length.map(|length| Vector { stored, length, origin, fault: Some(Fault::Changed), lacks_length: false })
            }
            Some(length) if is_length(length) => {
                Some(Vector { stored, length, origin, fault: None, lacks_length: false })
            }
            _ => Some(Vector { stored, length: 1.0, origin, fault: Some(Fault::Length), lacks_length: true }),
        }
    }

    /// Whether it is known from end to end, and as it was written.
    pub(super) fn is_whole(&self) -> bool {
        !self.lacks_length && (self.fault.is_none() || self.origin != Origin::Segment)
    }

    /// Whether both point the same way.
    pub(super) fn is_parallel(&self, other: &Vector) -> bool {
        history::is_alike(&self.stored, 1.0, &other.stored, 1.0)
    }

    /// Whether its length was lost, and is 1 now.
    pub(super) fn lacks_length(&self) -> bool {
        self.lacks_length
    }

    /// Bytes of the vector.
    pub(super) fn bytes(&self) -> u64 {
        4 * self.stored.len() as u64
    }

    pub(super) fn hash(&self, hasher: &mut Hasher) {
        hasher.floats(b'v', &self.stored);
        hasher.floats(b'l', &[self.length]);
    }

    /// As the index stores it.
    pub(super) fn stored(&self) -> &[f32] {
        &self.stored
    }

    /// Where it was found.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What is wrong with the one in the segment.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether the index made this of another one.
    pub(super) fn is_alike(&self, other: &Vector) -> bool {
        history::is_alike(&self.stored, self.length, &other.stored, other.length)
    }

    /// What it has to be multiplied with.
    pub(super) fn length(&self) -> f32 {
        self.length
    }
}

/// Whether a vector has length one, or is the zero vector, as what was normalised does.
pub(super) fn is_normal(vector: &[f32]) -> bool {
    let sum: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    sum == 0.0 || (sum - 1.0).abs() < 1e-3
}

/// chromadb's normalisation, bit for bit: a sequential sum, multiplication and addition apart (CHROMA.md §3.3).
pub(crate) fn normalise(vector: &[f32]) -> (Vec<f32>, f32) {
    let mut sum = 0_f32;
    for value in vector {
        sum += value * value;
    }
    let length = sum.sqrt();
    let inverse = 1.0 / (length + 1e-30);
    (vector.iter().map(|value| value * inverse).collect(), length)
}

/// The same of a vector that comes back by that, but for its last bits; `None` where it does not: it is no number,
/// endless, or so long or short that 32 bits cannot hold its length.
pub(crate) fn normalise_well(vector: &[f32]) -> Option<(Vec<f32>, f32)> {
    let (floats, length) = normalise(vector);
    let largest = vector.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
    let is_back = |(float, value): (&f32, &f32)| (float * length - value).abs() <= 1e-5 * largest;
    floats.iter().zip(vector).all(is_back).then_some((floats, length))
}
