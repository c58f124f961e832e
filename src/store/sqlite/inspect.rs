//! Looks through every page of a database, and says whose the bad ones are.

use super::file::Database;
use super::record::is_record;
use super::tree::{Object, PageFaults, Tree, Visited, objects};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Of a table, and nothing leads to it.
    Lost,
    /// Nobody's: of no table, whatever else it once was.
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
    let mut note = |owner: Owner, found: PageFaults| {
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
    note(Owner::Free, free_pages(database, &mut visited, &mut |_| ())?);
    for page in (1..=database.pages()).filter(|page| *page != database.lock_page()) {
        if !visited.is_taken(page) {
            let is_table = database.tree_page(page)?.is_ok_and(|page| page.kind.is_table());
            let owner = if is_table { Owner::Lost } else { Owner::Nobody };
            note(owner, vec![(page, "nothing leads to it".into())]);
        }
    }
    let missing = database.said_pages().filter(|pages| *pages > database.pages());
    note(Owner::Lost, missing.map(|pages| (pages, "the file ends before it".into())).into_iter().collect());
    // A page that something leads to and that is none is that one's.
    let is_nobodys = |fault: &Fault| matches!(fault.owner, Owner::Nobody | Owner::Lost);
    let owned: BTreeSet<u32> = faults.iter().filter(|fault| !is_nobodys(fault)).map(|fault| fault.page).collect();
    faults.retain(|fault| !is_nobodys(fault) || !owned.contains(&fault.page));
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

/// Visits the free pages (§1.5), and says what is wrong with their list. Where the header does not say where it
/// begins, its trunks are looked for: what is free must not be taken for rows. `receive` is handed the pages on which
/// everything is as it was when they became free.
pub fn free_pages(database: &Database, visited: &mut Visited, receive: &mut dyn FnMut(u32)) -> io::Result<PageFaults> {
    let mut faults = Vec::new();
    if !database.has_header() {
        for page in 2..=database.pages() {
            if let Some(trunk) = Trunk::read(database, page)?.filter(|trunk| trunk.is_likely(database)) {
                visited.take(page);
                trunk.leaves.into_iter().filter(|leaf| visited.take(*leaf)).for_each(&mut *receive);
            }
        }
        return Ok(faults);
    }
    let mut next = database.number(32);
    while next != 0 {
        let Some(trunk) = Trunk::read(database, next)?.filter(|_| visited.take(next)) else {
            faults.push((next, "it is no part of the list of free pages".into()));
            break;
        };
        for leaf in trunk.leaves {
            match visited.take(leaf) {
                true => receive(leaf),
                false => faults.push((leaf, "it is free, and belongs to something as well".into())),
            }
        }
        next = trunk.next;
    }
    Ok(faults)
}

/// A page of the list of free pages.
struct Trunk {
    next: u32,
    leaves: Vec<u32>,
}

impl Trunk {
    fn read(database: &Database, page: u32) -> io::Result<Option<Trunk>> {
        let Some(bytes) = database.page(page)? else { return Ok(None) };
        let number = |index: usize| u32::from_be_bytes(bytes[4 * index..4 * index + 4].try_into().expect("four bytes"));
        let count = number(1) as usize;
        let leaves = (count <= database.usable() / 4 - 2).then(|| (2..2 + count).map(number).collect());
        Ok(leaves.map(|leaves| Trunk { next: number(0), leaves }))
    }

    /// Whether it can hardly be anything else: every number is one of another page, none of them twice.
    fn is_likely(&self, database: &Database) -> bool {
        let mut leaves = self.leaves.clone();
        leaves.sort_unstable();
        leaves.dedup();
        let is_page = |page: &u32| (2..=database.pages()).contains(page);
        !leaves.is_empty()
            && leaves.len() == self.leaves.len()
            && leaves.iter().all(is_page)
            && (self.next == 0 || is_page(&self.next))
    }
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
