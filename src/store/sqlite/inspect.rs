//! Looks through every page of a database, and says whose the bad ones are.

use super::file::Database;
use super::record::is_record;
use super::tree::{Object, Tree, Visited, objects};
use std::collections::BTreeMap;
use std::io;

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The page, from 1.
    pub page: u32,
    /// Whose page it is.
    pub owner: Owner,
    /// What is wrong.
    pub what: String,
}

/// Whose a page is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// Of a table of this name.
    Table(String),
    /// Of an index of this name.
    Index(String),
    /// Of the schema.
    Schema,
    /// Of the list of free pages.
    Free,
    /// Nobody's.
    Nobody,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Pages in the file.
    pub pages: u32,
    /// What is wrong, page by page.
    pub faults: Vec<Fault>,
}

/// Looks through every page.
pub fn inspect(database: &Database) -> io::Result<Inspection> {
    let mut visited = Visited::none(database);
    let mut faults = Vec::new();
    let mut note = |owner: Owner, found: Vec<(u32, String)>| {
        faults.extend(found.into_iter().map(|(page, what)| Fault { page, owner: owner.clone(), what }));
    };
    let (objects, found) = objects(database, &mut visited)?;
    note(Owner::Schema, found);
    let mut entries = BTreeMap::new();
    for object in objects.iter().filter(|object| object.root > 0) {
        let mut tree = Tree::new(database, &mut visited);
        let mut broken = Vec::new();
        tree.walk(object.root, &mut |entry| {
            if entry.payload.is_ok_and(|payload| !is_record(&payload)) {
                broken.push((entry.page, format!("row {} is no record", entry.rowid)));
            }
        })?;
        entries.insert(object.name.as_str(), tree.entries);
        let (found, owner) = (tree.faults, owner(object));
        note(owner.clone(), found);
        note(owner, broken);
    }
    note(Owner::Free, free_pages(database, &mut visited)?);
    let is_lost = |page: &u32| !visited.is_taken(*page) && *page != database.lock_page();
    note(
        Owner::Nobody,
        (1..=database.pages()).filter(is_lost).map(|page| (page, "nothing leads to it".into())).collect(),
    );
    let missing = database.said_pages().filter(|pages| *pages > database.pages());
    note(Owner::Nobody, missing.map(|pages| (pages, "the file ends before it".into())).into_iter().collect());
    if faults.is_empty() {
        faults.extend(miscounted(&objects, &entries));
    }
    Ok(Inspection { pages: database.pages(), faults })
}

fn owner(object: &Object) -> Owner {
    match object.kind.as_str() {
        "index" => Owner::Index(object.name.clone()),
        _ => Owner::Table(object.name.clone()),
    }
}

/// Walks through the list of free pages (§1.5).
fn free_pages(database: &Database, visited: &mut Visited) -> io::Result<Vec<(u32, String)>> {
    let mut faults = Vec::new();
    let mut trunk = if database.has_header() { database.number(32) } else { 0 };
    while trunk != 0 {
        let Some(bytes) = database.page(trunk)?.filter(|_| visited.take(trunk)) else {
            faults.push((trunk, "it lies outside the file, or belongs to something else".into()));
            break;
        };
        let number = |index: usize| u32::from_be_bytes(bytes[4 * index..4 * index + 4].try_into().expect("four bytes"));
        let leaves = number(1) as usize;
        if leaves > database.usable() / 4 - 2 {
            faults.push((trunk, format!("it claims {leaves} free pages")));
            break;
        }
        for leaf in (2..2 + leaves).map(number) {
            if !visited.take(leaf) {
                faults.push((leaf, "it is free, and belongs to something as well".into()));
            }
        }
        trunk = number(0);
    }
    Ok(faults)
}

/// An index without a condition has an entry for each row of its table.
fn miscounted(objects: &[Object], entries: &BTreeMap<&str, u64>) -> Vec<Fault> {
    let indexes = objects.iter().filter(|object| object.kind == "index" && object.root > 0);
    let whole = indexes.filter(|index| !index.sql.as_deref().unwrap_or("").to_uppercase().contains(" WHERE "));
    let wrong = whole.filter_map(|index| {
        let (found, rows) = (entries.get(&*index.name)?, entries.get(&*index.table)?);
        let what = format!("it has {found} entries for {rows} rows");
        (found != rows).then(|| Fault { page: index.root, owner: Owner::Index(index.name.clone()), what })
    });
    wrong.collect()
}
