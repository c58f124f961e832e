//! Every order of records there is, up to a length: the ledger takes the legal ones and no other.

use palacekeeper::engine::{Direction, Ledger, Mark, Outcome, Plan};
use palacekeeper::journal::Record;

type Toy = Record<u32>;

const LENGTH: usize = 11;

/// The records of a plan of `steps` steps.
fn alphabet(steps: u32) -> Vec<Toy> {
    let each = (0..=steps).flat_map(|step| [Toy::Intent(step), Toy::Done(step), Toy::Undone(step)]);
    let begin = Toy::Begin { title: String::new(), began_at: 0, plan: Plan { steps: vec![], pivot: 0 } };
    let once =
        [Toy::Commit, Toy::Abort("tired".into()), Toy::End(Outcome::Completed), Toy::End(Outcome::RolledBack), begin];
    each.chain(once).collect()
}

/// Whether `next` may follow `before`, told from the whole history instead of a state: invariant I3 and SPEC.md's life
/// of an operation, said once more in other words.
fn is_legal(before: &[Toy], next: &Toy, steps: u32, pivot: u32) -> bool {
    let has = |record: &Toy| before.contains(record);
    let is_aborted = before.iter().any(|record| matches!(record, Toy::Abort(_)));
    let is_committed = has(&Toy::Commit);
    let is_open = |step: u32| has(&Toy::Intent(step)) && !has(&Toy::Undone(step));
    let is_done = |step: u32| has(&Toy::Done(step)) && !has(&Toy::Undone(step));
    if before.iter().any(|record| matches!(record, Toy::End(_))) {
        return false;
    }
    match next {
        Toy::Begin { .. } => false,
        Toy::Intent(step) if *step >= steps || has(&Toy::Intent(*step)) || is_aborted => false,
        Toy::Intent(step) => (0..*step).all(is_done) && is_committed == (*step >= pivot),
        Toy::Done(step) => is_open(*step) && !has(&Toy::Done(*step)),
        Toy::Undone(step) => is_open(*step) && !is_committed,
        Toy::Commit => !is_committed && !is_aborted && (0..pivot).all(is_done),
        Toy::Abort(_) => !is_committed,
        Toy::End(Outcome::Completed) => is_committed && (0..steps).all(is_done),
        Toy::End(Outcome::RolledBack) => !is_committed && !(0..steps).any(is_open),
    }
}

/// Follows every legal order, and tries every record behind it. Returns how many orders there were.
fn follow(ledger: &Ledger, before: &mut Vec<Toy>, alphabet: &[Toy], steps: u32, pivot: u32) -> u64 {
    let mut orders = 1;
    for next in alphabet {
        let mut after = ledger.clone();
        let taken = after.note(next).is_ok();
        assert_eq!(
            taken,
            is_legal(before, next, steps, pivot),
            "{next:?} after {before:?}, {steps} steps, pivot {pivot}"
        );
        if !taken {
            assert_eq!(after, *ledger, "{next:?} was refused, and yet noted");
            continue;
        }
        if before.len() < LENGTH {
            before.push(next.clone());
            check(&after, before, steps);
            orders += follow(&after, before, alphabet, steps, pivot);
            before.pop();
        }
    }
    orders
}

/// What the ledger says is what the records say.
fn check(ledger: &Ledger, records: &[Toy], steps: u32) {
    let is_committed = records.contains(&Toy::Commit);
    assert_eq!(ledger.direction() == Direction::Forward, is_committed, "{records:?}");
    let marks: Vec<Mark> = (0..steps as usize).map(|step| ledger.mark(step).expect("it is in the plan")).collect();
    for (step, mark) in (0..).zip(&marks) {
        let last = records.iter().rev().find_map(|record| match record {
            Toy::Intent(one) if *one == step => Some(Mark::Intended),
            Toy::Done(one) if *one == step => Some(Mark::Done),
            Toy::Undone(one) if *one == step => Some(Mark::Undone),
            _ => None,
        });
        assert_eq!(*mark, last.unwrap_or(Mark::Untouched), "{records:?}");
    }
    assert_eq!(ledger.mark(steps as usize), None);
    let walk = ledger.walk(Direction::Back);
    let begun = marks.iter().take_while(|mark| **mark != Mark::Untouched).count();
    assert_eq!(walk, (0..(begun + 1).min(marks.len())).rev().collect::<Vec<_>>(), "{records:?}");
}

#[test]
fn record_out_of_order_is_refused_and_every_other_is_taken() {
    let mut orders = 0;
    for steps in 0..=3 {
        for pivot in 0..=steps {
            let plan = Plan { steps: (0..steps).collect(), pivot };
            orders += follow(&Ledger::new(&plan), &mut Vec::new(), &alphabet(steps), steps, pivot);
        }
    }
    println!("{orders} orders of up to {LENGTH} records");
    assert!(orders > 1_000, "only {orders} orders");
}
