//! Every kind of damage that real palaces suffer: how it is done to a palace, what a check must find, and what a repair
//! must bring back.
//!
//! Each [`Class`] breaks a sound palace in one way. Its injector insists that the fault is really there, so that no
//! test passes because nothing was broken.

mod database;
mod directories;
mod fulltext;
mod index;
mod leftovers;
mod means;
mod queue;
mod rows;
mod schema;
mod sequence;

use super::{Arena, Content, Record};
use std::collections::BTreeMap;

pub(crate) use means::{refile, zero_pages};

/// The collection that most damage is done to.
pub(super) const DRAWERS: &str = "mempalace_drawers";

/// The classes, by the part of a palace that is damaged.
pub(crate) const GROUPS: [(&str, &[Class]); 9] = [
    ("database", database::CLASSES),
    ("schema", schema::CLASSES),
    ("fulltext", fulltext::CLASSES),
    ("sequence", sequence::CLASSES),
    ("queue", queue::CLASSES),
    ("index", index::CLASSES),
    ("rows", rows::CLASSES),
    ("directories", directories::CLASSES),
    ("leftovers", leftovers::CLASSES),
];

/// Palaces of the other versions.
const OLDER: &[&str] = &["chroma-0.4.24", "chroma-0.5.23", "chroma-0.6.3", "chroma-1.0.20"];

/// A larger palace, of the same version.
const LARGER: &[&str] = &["chroma-1.5.9-survive"];

/// The class of that name.
#[track_caller]
pub(crate) fn class(name: &str) -> &'static Class {
    let mut all = GROUPS.iter().flat_map(|(_, classes)| classes.iter());
    all.find(|class| class.name == name).unwrap_or_else(|| panic!("there is no class {name}"))
}

/// One way in which a palace is damaged.
pub(crate) struct Class {
    pub(crate) name: &'static str,
    /// The fixture that is damaged.
    pub(crate) fixture: &'static str,
    /// Further fixtures that the same is done to.
    pub(crate) elsewhere: &'static [&'static str],
    /// Codes that a check has to find; alternatives are divided by `|`.
    pub(crate) codes: &'static [&'static str],
    /// Codes that may come along: what follows from the damage.
    pub(crate) also: &'static [&'static str],
    pub(crate) depth: Depth,
    pub(crate) mend: Mend,
    pub(crate) inject: fn(&mut Case),
}

/// How far one has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Quick,
    Deep,
}

/// What a repair can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mend {
    /// It brings everything back.
    Whole,
    /// It may cost something of so many records, and so many records altogether, each of which it names.
    Lossy { changed_max: usize, gone_max: usize },
    /// There is nothing to mend, and the palace is as good as before.
    Note,
    /// Only a person can mend it; nothing is touched.
    Person,
    /// It brings everything back, or leaves that to a person and touches nothing.
    WholeOrPerson,
}

impl Class {
    const fn new(name: &'static str, codes: &'static [&'static str], depth: Depth, inject: fn(&mut Case)) -> Class {
        Class { name, fixture: "chroma-1.5.9", elsewhere: &[], codes, also: &[], depth, mend: Mend::Whole, inject }
    }

    /// A damage that shows without reading everything.
    const fn quick(name: &'static str, codes: &'static [&'static str], inject: fn(&mut Case)) -> Class {
        Class::new(name, codes, Depth::Quick, inject)
    }

    /// A damage that only reading everything shows.
    const fn deep(name: &'static str, codes: &'static [&'static str], inject: fn(&mut Case)) -> Class {
        Class::new(name, codes, Depth::Deep, inject)
    }

    const fn only_deep(self) -> Class {
        Class { depth: Depth::Deep, ..self }
    }

    const fn on(self, fixture: &'static str) -> Class {
        Class { fixture, ..self }
    }

    const fn and_on(self, elsewhere: &'static [&'static str]) -> Class {
        Class { elsewhere, ..self }
    }

    const fn also(self, also: &'static [&'static str]) -> Class {
        Class { also, ..self }
    }

    /// Something of so many records is on the damaged part alone.
    const fn losing(self, changed_max: usize, gone_max: usize) -> Class {
        Class { mend: Mend::Lossy { changed_max, gone_max }, ..self }
    }

    const fn noted(self) -> Class {
        Class { mend: Mend::Note, ..self }
    }

    const fn perhaps_for_a_person(self) -> Class {
        Class { mend: Mend::WholeOrPerson, ..self }
    }

    const fn for_a_person(self) -> Class {
        Class { mend: Mend::Person, ..self }
    }

    /// Every fixture that this is done to.
    pub(crate) fn fixtures(&self) -> impl Iterator<Item = &'static str> {
        [self.fixture].into_iter().chain(self.elsewhere.iter().copied())
    }

    /// Unpacks the palace and damages it.
    pub(crate) fn inflict(&self) -> Case {
        self.inflict_on(self.fixture)
    }

    /// The same to another palace.
    pub(crate) fn inflict_on(&self, fixture: &str) -> Case {
        let mut case = Case::new(fixture);
        (self.inject)(&mut case);
        case
    }

    /// Does other damages to it as well.
    pub(crate) fn inflict_with(&self, others: &[&str]) -> Case {
        let mut case = Case::new(self.fixture);
        // A damaged database takes no statements: what breaks it comes last.
        for other in others {
            (class(other).inject)(&mut case);
        }
        (self.inject)(&mut case);
        case
    }
}

/// A damaged palace.
pub(crate) struct Case {
    pub(crate) arena: Arena,
    /// What the palace must hold when it is mended.
    pub(crate) wanted: Content,
    /// What else must be true of the mended palace.
    pub(crate) checks: Vec<fn(&Arena)>,
    /// Whether the records may come in another order than before.
    pub(crate) in_any_order: bool,
    /// Records that may come back, and need not.
    pub(crate) may_return: Vec<String>,
    /// Whether writes wait in the queue that no row shows yet.
    pub(crate) has_waiting_writes: bool,
}

/// Tables that a repair has to leave as they are; of all others the records are compared.
const KEPT: [&str; 8] = [
    "collections",
    "collection_metadata",
    "databases",
    "embeddings_queue_config",
    "migrations",
    "schema",
    "segment_metadata",
    "tenants",
];

impl Case {
    fn new(fixture: &str) -> Case {
        let arena = Arena::unpack(fixture);
        let wanted = Content::of(&arena.palace());
        Case {
            arena,
            wanted,
            checks: Vec::new(),
            in_any_order: false,
            may_return: Vec::new(),
            has_waiting_writes: false,
        }
    }

    /// What is there now is what must be there in the end.
    fn want_what_is_there(&mut self) {
        self.wanted = Content::of(&self.arena.palace());
    }

    /// What the palace lacks or has otherwise, by the id of the record.
    pub(crate) fn differences(&self) -> Vec<(String, Difference)> {
        self.differences_of(&self.arena)
    }

    /// The same of another palace, a copy of this one that was worked on.
    pub(crate) fn differences_of(&self, arena: &Arena) -> Vec<(String, Difference)> {
        let now = Content::of(&arena.palace());
        assert_eq!(
            self.wanted.records.keys().collect::<Vec<_>>(),
            now.records.keys().collect::<Vec<_>>(),
            "collections"
        );
        let mut found = Vec::new();
        for (name, wanted) in &self.wanted.records {
            let there: BTreeMap<_, _> = now.records[name].iter().map(|record| (&record.id, record)).collect();
            assert_eq!(there.len(), now.records[name].len(), "{name}: an id is there twice");
            for record in wanted {
                match there.get(&record.id) {
                    None => found.push((record.id.clone(), Difference::Gone)),
                    Some(new) if record.is_kept_in(new) => {}
                    Some(new) => found.push((record.id.clone(), Difference::Changed(changes(record, new)))),
                }
            }
            let known: BTreeMap<_, _> = wanted.iter().map(|record| (&record.id, ())).collect();
            let is_new = |id: &&&String| !known.contains_key(**id) && !self.may_return.contains(id);
            let new: Vec<_> = there.keys().filter(is_new).collect();
            assert!(new.is_empty(), "{name}: records that nobody wrote: {new:?}");
            if !self.in_any_order {
                assert_same_order(name, wanted, &now.records[name]);
            }
        }
        found
    }

    /// Insists on collections, their settings and the schema being as they were.
    #[track_caller]
    pub(crate) fn assert_tables_kept(&self) {
        let now = Content::of(&self.arena.palace());
        let kept = |content: &Content| {
            let mut content = content.clone();
            content.tables.retain(|name, _| KEPT.contains(&name.as_str()) && self.wanted.tables.contains_key(name));
            content
        };
        assert_eq!(kept(&self.wanted).table_differences(&kept(&now), &[]), Vec::<String>::new(), "tables");
    }
}

/// What has become of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    Gone,
    Changed(String),
}

fn changes(old: &Record, new: &Record) -> String {
    let mut parts = Vec::new();
    if old.document != new.document {
        parts.push("document".to_owned());
    }
    if old.metadata != new.metadata {
        parts.push(format!("metadata {:?} against {:?}", old.metadata, new.metadata).chars().take(300).collect());
    }
    match (&old.vector, &new.vector) {
        (Some(_), None) => parts.push("no vector".into()),
        (Some(old), Some(new)) if old.get != new.get => parts.push("another vector".into()),
        (None, Some(_)) => parts.push("a vector that was not there".into()),
        _ => {}
    }
    parts.join(", ")
}

#[track_caller]
fn assert_same_order(name: &str, wanted: &[Record], now: &[Record]) {
    let there: Vec<_> = now.iter().map(|record| &record.id).collect();
    let kept: Vec<_> = wanted.iter().map(|record| &record.id).filter(|id| there.contains(id)).collect();
    assert!(kept == there, "{name}: the records are in another order");
}
