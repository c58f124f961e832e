//! Which records one palace has and another has not.

use super::error::{During, Error};
use super::{Collection, Source, records};
use std::collections::BTreeMap;

/// Records that a palace has and another has not, counted by the name of their collection: a rebuild gives collections
/// other ids, and keeps their names.
pub fn only_in(source: &Source, other: &Source, watch: &mut dyn FnMut()) -> Result<BTreeMap<String, u64>, Error> {
    let segments = |collection: Collection| Some((collection.metadata?, collection.name));
    let here: BTreeMap<String, String> = Collection::all(source)?.into_iter().filter_map(segments).collect();
    let mut there: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (segment, name) in Collection::all(other)?.into_iter().filter_map(segments) {
        there.entry(name).or_default().push(segment);
    }
    let mut counts = BTreeMap::new();
    let mut after = i64::MIN;
    loop {
        let heads = records::after(&source.connection, after).during(&source.database, "reading its records")?;
        let Some(last) = heads.last() else { return Ok(counts) };
        after = last.rowid;
        for head in heads {
            watch();
            let Some(name) = here.get(&head.segment) else { continue };
            let mut is_there = false;
            for segment in there.get(name).into_iter().flatten() {
                let found = records::exists(&other.connection, segment, &head.id);
                is_there |= found.during(&other.database, "looking for records")?;
            }
            if !is_there {
                *counts.entry(name.clone()).or_default() += 1;
            }
        }
    }
}
