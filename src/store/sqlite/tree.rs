//! Walks through a tree of pages, from its root down, around what is damaged.

use super::file::Database;
use super::page::{Kind, Page};
use super::record::{Value, decode};
use std::borrow::Cow;
use std::io;

/// No tree that fits into a file is deeper.
const DEPTH_MAX: usize = 24;

/// Which pages have been used, and are not to be used again.
pub struct Visited(Vec<bool>);

impl Visited {
    /// None of the pages of a database.
    pub fn none(database: &Database) -> Visited {
        Visited(vec![false; database.pages() as usize + 1])
    }

    /// Takes a page, unless it does not exist or was taken before.
    pub fn take(&mut self, page: u32) -> bool {
        let taken = self.0.get_mut(page as usize).filter(|taken| !**taken && page > 0);
        taken.map(|taken| *taken = true).is_some()
    }

    /// Whether a page has been taken.
    pub fn is_taken(&self, page: u32) -> bool {
        self.0.get(page as usize).copied().unwrap_or(true)
    }
}

/// An entry of a tree: a row of a table, or a key of an index.
pub struct Entry<'e> {
    /// The page it is on.
    pub page: u32,
    /// The row's number, in a table.
    pub rowid: i64,
    /// What it holds, or why that cannot be read.
    pub payload: Result<Cow<'e, [u8]>, String>,
}

/// Pages that cannot be used, and why.
pub type PageFaults = Vec<(u32, String)>;

/// Takes entries as they come.
pub type Receiver<'r> = dyn FnMut(Entry) + 'r;

/// A tree, while it is walked through.
pub struct Tree<'t> {
    database: &'t Database,
    visited: &'t mut Visited,
    /// Pages that cannot be used, and why.
    pub faults: PageFaults,
    /// Entries that were met.
    pub entries: u64,
}

impl<'t> Tree<'t> {
    /// A tree of a database. Pages that were visited by another one are not used again.
    pub fn new(database: &'t Database, visited: &'t mut Visited) -> Tree<'t> {
        Tree { database, visited, faults: Vec::new(), entries: 0 }
    }

    /// Walks through everything below a page, in order.
    pub fn walk(&mut self, root: u32, receive: &mut Receiver) -> io::Result<()> {
        self.descend(root, None, (i64::MIN, i64::MAX), DEPTH_MAX, receive)
    }

    fn descend(
        &mut self,
        number: u32,
        expected: Option<bool>,
        (least, most): (i64, i64),
        depth: usize,
        receive: &mut Receiver,
    ) -> io::Result<()> {
        let mut wrong = |what: &str| {
            self.faults.push((number, what.into()));
            Ok(())
        };
        if depth == 0 || self.visited.is_taken(number) {
            return wrong("it lies outside the file, or belongs to something else");
        }
        // What a wrong number leads to may be another's: it is taken only once it is known to fit.
        let page = match self.database.tree_page(number)? {
            Ok(page) if expected.is_none_or(|is_table| is_table == page.kind.is_table()) => page,
            Ok(_) => return wrong("it is a page of another kind of tree"),
            Err(what) => return wrong(&what),
        };
        if page.kind == Kind::TableLeaf && page.count() > 0 && !page.has_row_in(least, most) {
            return wrong("its rows belong elsewhere");
        }
        self.visited.take(number);
        if page.has_overlap() {
            self.faults.push((number, "its cells overlap".into()));
        } else if page.has_gap() {
            self.faults.push((number, "its cells do not fill it".into()));
        }
        let mut last = least;
        for index in 0..page.count() {
            let cell = match page.cell(index) {
                Ok(cell) => cell,
                Err(what) => {
                    self.faults.push((number, what));
                    continue;
                }
            };
            let is_ordered = cell.rowid > last || (cell.rowid == i64::MIN && last == i64::MIN);
            if page.kind.is_table() && (!is_ordered || cell.rowid > most) {
                self.faults.push((number, format!("row {} is out of order", cell.rowid)));
            }
            if let Some(child) = cell.child {
                self.descend(child, Some(page.kind.is_table()), (last, cell.rowid), depth - 1, receive)?;
            }
            last = if page.kind.is_table() { cell.rowid } else { last };
            if page.kind != Kind::TableInterior {
                self.receive(&page, &cell, receive)?;
            }
        }
        match page.right {
            Some(right) => self.descend(right, Some(page.kind.is_table()), (last, most), depth - 1, receive),
            None => Ok(()),
        }
    }

    /// Hands the cells of one page on, whatever tree it belongs to.
    pub fn cells(&mut self, page: &Page, receive: &mut Receiver) -> io::Result<()> {
        for index in 0..page.count() {
            match page.cell(index) {
                Ok(cell) => self.receive(page, &cell, receive)?,
                Err(what) => self.faults.push((page.number, what)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, page: &Page, cell: &super::Cell, receive: &mut Receiver) -> io::Result<()> {
        let visited = &mut *self.visited;
        let payload = page.payload(self.database, cell, &mut |number| visited.take(number))?;
        if let Err(what) = &payload {
            self.faults.push((page.number, what.clone()));
        }
        self.entries += 1;
        receive(Entry { page: page.number, rowid: cell.rowid, payload });
        Ok(())
    }
}

/// A row of the schema: a table or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table it belongs to.
    pub table: String,
    /// The root of its tree; 0 where it has none.
    pub root: u32,
    /// The statement that made it; SQLite's own indexes have none.
    pub sql: Option<String>,
}

/// What the schema names, as far as it can be read, and what is wrong with its pages.
pub fn objects(database: &Database, visited: &mut Visited) -> io::Result<(Vec<Object>, PageFaults)> {
    let mut objects = Vec::new();
    let mut tree = Tree::new(database, visited);
    tree.walk(1, &mut |entry| {
        let values = entry.payload.ok().and_then(|payload| decode(&payload));
        objects.extend(values.as_deref().and_then(object));
    })?;
    Ok((objects, tree.faults))
}

fn object(values: &[Value]) -> Option<Object> {
    let text = |value: &Value| match value {
        Value::Text(text) => String::from_utf8(text.clone()).ok(),
        _ => None,
    };
    let [kind, name, table, root, sql] = values else { return None };
    let root = match root {
        Value::Integer(root) => u32::try_from(*root).ok()?,
        _ => 0,
    };
    Some(Object { kind: text(kind)?, name: text(name)?, table: text(table)?, root, sql: text(sql) })
}
