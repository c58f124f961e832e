//! Whether an old database still goes together with indexes that stayed in the palace when it was replaced.
//!
//! Read together, both have to say what they said before. A client may have gone on writing to such an index, for the
//! new database names it as well, and then nobody knows what the old one would make of it.

use crate::ops::amend;
use crate::ops::restore::Held;
use crate::store::chroma::{ExpectedCollection, Loss, Survey, Surveyed};

/// A segment that does not go with the old database any more, and why.
pub(super) type Apart = Option<(String, String)>;

/// Compares what is read now with what was read before the operation.
pub(super) fn apart(held: &Held, survey: &Survey, segments: &[String]) -> Apart {
    let pairs = held.blueprint.collections.iter().zip(&held.expected.collections);
    for (new, expected) in pairs.filter(|(new, _)| segments.contains(&new.vector.new)) {
        let found = named(survey, &new.vector.new).map(|one| ExpectedCollection::from(one.totals));
        if found.as_ref() != Some(expected) {
            let now = found.as_ref().map_or_else(|| "nothing".to_owned(), told);
            let what = format!("“{}” held {} with it, and holds {now}", new.name, told(expected));
            return Some((new.vector.new.clone(), what));
        }
    }
    if amend::left(&held.blueprint, survey) != held.expected.left {
        let first = segments.first().cloned().unwrap_or_default();
        let changed = (first, "other vectors in it have no record than before".to_owned());
        return orphaned(survey, segments).or(Some(changed));
    }
    overtaken(survey, segments, held.sequence)
}

/// Looks at what is read now, where nobody has written down what was read before: every segment has to be sound, and to
/// have what the database has.
pub(super) fn unsound(survey: &Survey, segments: &[String]) -> Apart {
    for segment in segments {
        let Some(found) = named(survey, segment) else {
            return Some((segment.clone(), "the old database does not name it".into()));
        };
        if let Some(why) = found.unsound.first() {
            return Some((segment.clone(), why.to_string()));
        }
        let name = &found.collection.name;
        let is_lost = |loss: &&Loss| matches!(loss, Loss::Vector { collection, .. } if collection == name);
        if let Some(loss) = survey.losses.iter().find(is_lost) {
            return Some((segment.clone(), loss.to_string()));
        }
    }
    orphaned(survey, segments).or_else(|| overtaken(survey, segments, None))
}

fn told(collection: &ExpectedCollection) -> String {
    let ExpectedCollection { records, vectors, pending, digest } = collection;
    format!("{records} records, {vectors} vectors and {pending} waiting writes of digest {digest}")
}

fn named<'s>(survey: &'s Survey, segment: &String) -> Option<&'s Surveyed> {
    survey.collections.iter().find(|one| one.collection.vector.as_ref() == Some(segment))
}

/// A vector that the old database has no record for.
fn orphaned(survey: &Survey, segments: &[String]) -> Apart {
    let owners = segments.iter().filter_map(|segment| Some((segment, &named(survey, segment)?.collection.name)));
    let mut orphans = owners.flat_map(|(segment, name)| {
        let is_its = move |loss: &&Loss| matches!(loss, Loss::Orphan { collection, .. } if collection == name);
        survey.losses.iter().filter(is_its).map(move |loss| (segment.clone(), loss.to_string()))
    });
    orphans.next()
}

/// A segment that knows of later writes than the old database has in its queue: chromadb would drop the next ones (rule
/// R2), unless it would have done so before.
fn overtaken(survey: &Survey, segments: &[String], before: Option<i64>) -> Apart {
    if before == Some(survey.sequence_max) {
        return None;
    }
    let found = segments.iter().filter_map(|segment| Some((segment, named(survey, segment)?.persisted)));
    let (segment, persisted) = found.filter(|(_, persisted)| *persisted > survey.queue_max).max_by_key(|one| one.1)?;
    let what = format!("it knows of write {persisted}, and the old database only of {}", survey.queue_max);
    Some((segment.clone(), what))
}
