//! Pages with rows that no tree leads to: what was below a damaged page, or everything where the schema is lost.

use super::shape::{CONTENT, Shapes};
use super::target::Target;
use super::{Place, Salvager};
use crate::store::sqlite::{Database, Kind, Page, Tree, Value, Visited, decode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// A row, and the page it is on.
struct Row {
    page: u32,
    rowid: i64,
    values: Vec<Value>,
}

/// Rows of one page or of pages below one.
#[derive(Default)]
struct Group {
    rows: Vec<Row>,
    /// Pages with rows that cannot be read.
    broken: Vec<u32>,
}

/// Takes a page.
pub(super) type PageReceiver<'r> = dyn FnMut(&Page) -> io::Result<()> + 'r;

/// Hands on every page with rows that has not been visited.
pub(super) fn each_leaf(database: &Database, visited: &Visited, receive: &mut PageReceiver) -> io::Result<()> {
    for number in 2..=database.pages() {
        if visited.is_taken(number) {
            continue;
        }
        if let Ok(page) = database.tree_page(number)?
            && page.kind == Kind::TableLeaf
            && page.count() > 0
        {
            receive(&page)?;
        }
    }
    Ok(())
}

/// Reads them, group by group, and decides for each which table it is of.
pub(super) fn read(salvager: &mut Salvager, target: &mut Target) -> io::Result<()> {
    let database = salvager.database;
    let tops = tops(database, &salvager.visited)?;
    let mut pages = BTreeMap::<u32, Vec<u32>>::new();
    each_leaf(database, &salvager.visited, &mut |page| {
        pages.entry(tops.get(&page.number).copied().unwrap_or(page.number)).or_default().push(page.number);
        Ok(())
    })?;
    for interior in tops.into_values().collect::<BTreeSet<_>>() {
        salvager.visited.take(interior);
    }
    // The largest group of a shape comes first: it is the one that the others are compared with.
    let mut groups: Vec<Vec<u32>> = pages.into_values().collect();
    groups.sort_by_key(|pages| std::cmp::Reverse(pages.len()));
    let mut of_collections_or_segments = Vec::new();
    for pages in groups {
        let group = group(database, &mut salvager.visited, &pages)?;
        let best: Vec<String> =
            best(&salvager.shapes, &salvager.incomplete, &group.rows).into_iter().map(str::to_owned).collect();
        match best.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => salvager.unread.extend(group.broken),
            [only] => salvager.put(only, group, target),
            ["embedding_metadata", "embedding_metadata_array"] => {
                salvager.put(scalar_or_array(&group.rows, target), group, target);
            }
            ["collection_metadata", "segment_metadata"] => of_collections_or_segments.push(group),
            [.., _] if best.iter().any(|name| name == CONTENT) => salvager.put(CONTENT, group, target),
            [first, ..] => salvager.put(first, group, target),
        }
    }
    // Whose these are is told by the collections and segments, which by now are there; else by their order, in which
    // chromadb made the tables.
    let mut made = ["collection_metadata", "segment_metadata"].into_iter();
    for group in of_collections_or_segments {
        let table = target.owner_of_metadata(&group.rows[0].values).or_else(|| made.next());
        salvager.put(table.unwrap_or("segment_metadata"), group, target);
    }
    Ok(())
}

impl Salvager<'_> {
    fn put(&mut self, table: &str, group: Group, target: &mut Target) {
        let shape = &self.shapes[table];
        for Row { page, rowid, values } in group.rows.iter().filter(|row| shape.has_types_of(&row.values)) {
            let _ = target.put(shape, *rowid, values, Place::Orphan(*page)); // what is there already is what it was
        }
        self.incomplete.entry(table.to_owned()).or_default().extend(group.broken);
    }
}

/// For each page below another one that was not visited, the topmost of these.
fn tops(database: &Database, visited: &Visited) -> io::Result<BTreeMap<u32, u32>> {
    let mut parents = BTreeMap::new();
    for number in (2..=database.pages()).filter(|number| !visited.is_taken(*number)) {
        if let Ok(page) = database.tree_page(number)?
            && page.kind == Kind::TableInterior
        {
            let children = (0..page.count()).filter_map(|index| page.cell(index).ok()?.child).chain(page.right);
            parents.extend(children.map(|child| (child, number)));
        }
    }
    let top = |page: &u32| {
        let (mut top, mut steps) = (*page, 0);
        while let Some(parent) = parents.get(&top).filter(|_| steps < 24) {
            (top, steps) = (*parent, steps + 1);
        }
        (*page, top)
    };
    Ok(parents.keys().map(top).collect())
}

fn group(database: &Database, visited: &mut Visited, pages: &[u32]) -> io::Result<Group> {
    let mut group = Group::default();
    for number in pages.iter().copied() {
        if let Ok(page) = database.tree_page(number)?
            && visited.take(number)
        {
            let mut tree = Tree::new(database, visited);
            tree.cells(&page, &mut |entry| match entry.payload.ok().and_then(|payload| decode(&payload)) {
                Some(values) => group.rows.push(Row { page: entry.page, rowid: entry.rowid, values }),
                None => group.broken.push(entry.page),
            })?;
            group.broken.extend(tree.faults.iter().map(|(page, _)| *page));
        }
    }
    group.broken.dedup();
    Ok(group)
}

/// The tables that most of the rows fit, of those that were not read to their end.
fn best<'s>(shapes: &'s Shapes, incomplete: &BTreeMap<String, Vec<u32>>, rows: &[Row]) -> Vec<&'s str> {
    let mut votes = BTreeMap::<&str, usize>::new();
    for row in rows {
        let fitting = shapes.fitting(&row.values).into_iter().filter(|name| incomplete.contains_key(*name));
        fitting.for_each(|name| *votes.entry(name).or_default() += 1);
    }
    let most = votes.values().copied().max();
    votes.into_iter().filter(|(_, count)| Some(*count) == most).map(|(name, _)| name).collect()
}

/// Both tables have the same columns. Documents are never arrays, a key stands once in a record's scalars, and row
/// numbers are not given twice.
fn scalar_or_array(rows: &[Row], target: &Target) -> &'static str {
    let is_document = |values: &Vec<Value>| values.get(1) == Some(&Value::Text(b"chroma:document".to_vec()));
    if rows.iter().any(|row| is_document(&row.values)) {
        return "embedding_metadata";
    }
    let mut seen = BTreeSet::new();
    let key = |values: &[Value]| match values {
        [Value::Integer(id), Value::Text(key), ..] => Some((*id, key.clone())),
        _ => None,
    };
    let is_repeated = rows.iter().filter_map(|row| key(&row.values)).any(|key| !seen.insert(key));
    let is_taken = rows.iter().any(|row| target.has_metadata_row(row.rowid));
    if is_repeated || is_taken { "embedding_metadata_array" } else { "embedding_metadata" }
}
