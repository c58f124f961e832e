//! The decision table: what to do with a step, given which way we go, what the journal says and what the disk says.
//!
//! SPEC.md prints every row with a sentence on how one gets there; `tests/spec.rs` compares the two.

/// Which way an operation is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the new state.
    Forward,
    /// To the old state.
    Back,
}

/// Where the journal says a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// No record names it.
    Untouched,
    /// It was about to be applied.
    Intended,
    /// It was applied.
    Done,
    /// It was reverted.
    Undone,
}

/// Where the disk says a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Nothing of it has happened.
    Before,
    /// Some of it has happened.
    Partial,
    /// All of it has happened.
    After,
    /// Something stands there that neither this step nor its plan expects.
    Foreign,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry the step out.
    Apply,
    /// Undo the step.
    Revert,
    /// Record what has already happened.
    Settle,
    /// Nothing is to be done.
    Pass,
    /// A person must look; nothing is touched.
    Refuse,
}

impl Direction {
    /// Both directions, in the order of the table.
    pub const ALL: [Direction; 2] = [Direction::Forward, Direction::Back];
}

impl Mark {
    /// All marks, in the order of the table.
    pub const ALL: [Mark; 4] = [Mark::Untouched, Mark::Intended, Mark::Done, Mark::Undone];
}

impl Observed {
    /// All observations, in the order of the table.
    pub const ALL: [Observed; 4] = [Observed::Before, Observed::Partial, Observed::After, Observed::Foreign];
}

/// The whole table (invariants I5 and I6).
pub const fn verdict(direction: Direction, mark: Mark, observed: Observed) -> Verdict {
    use {Direction::*, Mark::*, Observed::*, Verdict::*};
    match (direction, mark, observed) {
        (Forward, Done, _) | (Back, Undone, _) => Pass,
        (Back, Untouched, Before | Foreign) => Pass,
        // An effect without an intent: the end of the journal was lost after it was durable. Going back over it could
        // tear a new state apart, and that is the one thing that must never happen.
        (Back, Untouched, Partial | After) => Refuse,
        (Forward, Undone, _) => Refuse,
        (_, _, Foreign) => Refuse,
        (Forward, Untouched, Before) => Apply,
        (Forward, Untouched, Partial | After) => Refuse,
        (Forward, Intended, Before | Partial) => Apply,
        (Forward, Intended, After) => Settle,
        (Back, Intended | Done, Before) => Settle,
        (Back, Intended | Done, Partial | After) => Revert,
    }
}
