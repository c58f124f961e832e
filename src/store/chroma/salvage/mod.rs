//! Makes a sound database of a damaged one: everything that can be read of its pages, under the same numbers.
//!
//! Rows are taken in the order in which they can be trusted: from the trees that the schema names; from pages that
//! belong to no tree any more, told by the shape of their rows; and where an index proves that something existed,
//! from the indexes, the full-text copy of the documents, the queue, and at last from free pages. What existed and is
//! nowhere is listed. The damaged file is only read, and the same bytes give the same database.

mod detect;
mod fill;
mod found;
mod free;
mod orphans;
mod shape;
mod target;
mod unread;

use super::Loss;
use super::error::{During, Error};
use super::format::Format;
use crate::disk::Disk;
use crate::store::sqlite::{Database, Object, Tree, Value, Visited, decode, free_pages, objects};
use detect::Schema;
pub use found::{Finds, Found, FoundIn, LISTED_MAX};
use shape::Shapes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use target::Target;

/// What became of a damaged database.
#[derive(Clone, Debug, Default)]
pub struct Salvaged {
    /// What could not be read.
    pub losses: Vec<Loss>,
    /// What was found elsewhere than where it should have been: from where, and how much.
    pub restored: BTreeMap<String, u64>,
    /// The same, one by one.
    pub finds: Finds,
}

/// Where a row was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tree,
    /// A page that nothing leads to.
    Orphan(u32),
}

/// Makes the sound database in `path`, a new file. A journal beside the damaged one is not looked at, and the full-text
/// index is left empty: it is made anew from the documents.
///
/// # Errors
/// Files that cannot be read or written; [`Error::NotADatabase`] where nothing of a palace is in the bytes.
pub fn salvage(disk: &dyn Disk, original: &Path, path: &Path) -> Result<Salvaged, Error> {
    let failed = |source: io::Error| Error::scratch(original, source);
    let database = disk.open(original).map_err(io::Error::from).and_then(Database::new).map_err(failed)?;
    let mut visited = Visited::none(&database);
    let (objects, faults) = objects(&database, &mut visited).map_err(failed)?;
    let schema = if faults.is_empty() && !objects.is_empty() { Schema::Whole } else { Schema::Damaged };
    let format = detect::format(&database, &objects, schema, path)?;
    let mut target = Target::create(path, format)?;
    let mut salvager = Salvager {
        shapes: Shapes::of(format).during(path, "reading its schema")?,
        database: &database,
        objects: &objects,
        visited,
        incomplete: BTreeMap::new(),
        unread: BTreeSet::new(),
    };
    salvager.read_trees(&mut target).map_err(failed)?;
    let mut freed = Visited::none(&database);
    free_pages(&database, &mut salvager.visited, &mut |page| {
        freed.take(page);
    })
    .map_err(failed)?;
    orphans::read(&mut salvager, &mut target).map_err(failed)?;
    free::read(&salvager, &freed, &mut target).map_err(failed)?;
    if target.is_empty() {
        return Err(Error::NotADatabase(original.to_owned()));
    }
    if !salvager.is_complete() {
        unread::find(&mut salvager).map_err(failed)?;
    }
    if !salvager.unread.is_empty() {
        salvager.incomplete.insert("some table".into(), salvager.unread.iter().copied().collect());
    }
    let mut salvaged = target.finish(&salvager.incomplete, format)?;
    let strangers = objects.iter().filter(|object| is_strange(object, format)).map(|object| object.name.clone());
    salvaged.losses.extend(strangers.map(|name| Loss::Stranger { name }));
    Ok(salvaged)
}

struct Salvager<'s> {
    database: &'s Database,
    objects: &'s [Object],
    shapes: Shapes,
    visited: Visited,
    /// Tables that were not read to their end, with the pages that could not be.
    incomplete: BTreeMap<String, Vec<u32>>,
    /// Pages that could not be read of which nothing says whose they are.
    unread: BTreeSet<u32>,
}

impl Salvager<'_> {
    fn read_trees(&mut self, target: &mut Target) -> io::Result<()> {
        let names: Vec<String> = self.shapes.names().map(str::to_owned).collect();
        for name in names {
            match self.root(&name) {
                Some(root) => self.read_table(&name, root, target)?,
                None => drop(self.incomplete.insert(name, Vec::new())),
            }
        }
        let objects = self.objects;
        for object in objects.iter().filter(|object| object.root > 0) {
            if object.name == fill::SIZES {
                self.read_sizes(object, target)?;
            } else if !self.shapes.has(&object.name) {
                self.read_index(object, target)?;
            }
        }
        Ok(())
    }

    /// Whether the schema names every table that holds something.
    fn is_complete(&self) -> bool {
        self.shapes.names().filter(|name| fill::is_of_value(name)).all(|name| self.root(name).is_some())
    }

    fn root(&self, name: &str) -> Option<u32> {
        let mut named = self.objects.iter().filter(|object| object.kind == "table" && object.name == name);
        named.next().map(|object| object.root).filter(|root| *root > 0)
    }

    fn read_table(&mut self, name: &str, root: u32, target: &mut Target) -> io::Result<()> {
        let shape = &self.shapes[name];
        let mut broken = Vec::new();
        let mut tree = Tree::new(self.database, &mut self.visited);
        tree.walk(root, &mut |entry| {
            let values = entry.payload.ok().and_then(|payload| decode(&payload));
            match values.filter(|values| shape.has_types_of(values)) {
                // Two rows with one key: a bit of one of them is another now.
                Some(values) if !target.put(shape, entry.rowid, &values, Place::Tree) => broken.push(entry.page),
                Some(_) => {}
                None => broken.push(entry.page),
            }
        })?;
        broken.extend(tree.faults.iter().map(|(page, _)| *page));
        if !broken.is_empty() {
            broken.sort_unstable();
            broken.dedup();
            self.incomplete.insert(name.to_owned(), broken);
        }
        Ok(())
    }

    /// Reads an index of a table that was not read to its end; of others, only which pages are theirs.
    fn read_index(&mut self, object: &Object, target: &mut Target) -> io::Result<()> {
        let is_wanted = object.kind == "index" && self.incomplete.contains_key(&object.table);
        let mut tree = Tree::new(self.database, &mut self.visited);
        tree.walk(object.root, &mut |entry| {
            let payload = entry.payload.ok().filter(|_| is_wanted);
            if let Some(values) = payload.and_then(|payload| decode(&payload)) {
                target.know(&object.name, &values);
            }
        })?;
        if is_wanted && tree.faults.is_empty() {
            target.trust(&object.name);
        }
        Ok(())
    }

    /// Reads how long each document is, in the words of the full-text index.
    fn read_sizes(&mut self, object: &Object, target: &mut Target) -> io::Result<()> {
        let is_wanted = self.incomplete.contains_key("embedding_metadata");
        let mut tree = Tree::new(self.database, &mut self.visited);
        tree.walk(object.root, &mut |entry| {
            let payload = entry.payload.ok().filter(|_| is_wanted);
            if let Some([_, size]) = payload.and_then(|payload| decode(&payload)).as_deref() {
                target.know(&object.name, &[Value::Integer(entry.rowid), size.clone()]);
            }
        })
    }
}

fn is_strange(object: &Object, format: &Format) -> bool {
    let is_sqlite = object.name.starts_with("sqlite_") || object.name.starts_with("embedding_fulltext_search");
    !is_sqlite && object.name != "acquire_write" && !format.makes(&object.name)
}

/// A value as SQLite takes it.
fn bound(value: &Value) -> rusqlite::types::ToSqlOutput<'_> {
    use rusqlite::types::{ToSqlOutput, ValueRef};
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(value) => ValueRef::Integer(*value),
        Value::Real(value) => ValueRef::Real(*value),
        Value::Text(bytes) => ValueRef::Text(bytes),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    })
}
