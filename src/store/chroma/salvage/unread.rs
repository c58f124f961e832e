//! Pages that cannot be read and whose table nothing names, because the schema is damaged as well.

use super::Salvager;
use crate::store::sqlite::{Kind, Page, Tree};
use std::collections::BTreeSet;
use std::io;

/// Finds every page that is no part of anything, and those that should be there and are not.
pub(super) fn find(salvager: &mut Salvager) -> io::Result<()> {
    let database = salvager.database;
    let mut unread = BTreeSet::new();
    // What is left of trees are those of indexes; the pages on which their entries go on are theirs.
    for number in 2..=database.pages() {
        let Ok(page) = database.tree_page(number)? else { continue };
        unread.extend(children(&page).filter(|child| *child > database.pages()));
        if salvager.visited.take(number) {
            Tree::new(database, &mut salvager.visited).cells(&page, &mut |_| ())?;
        }
    }
    let is_left = |page: &u32| *page != database.lock_page() && !salvager.visited.is_taken(*page);
    unread.extend((2..=database.pages()).filter(is_left));
    unread.extend(database.pages() + 1..=database.said_pages().unwrap_or(0));
    if database.pages() == 0 {
        unread.insert(1);
    }
    salvager.unread.extend(unread);
    Ok(())
}

fn children(page: &Page) -> impl Iterator<Item = u32> {
    let is_interior = page.kind == Kind::TableInterior;
    let cells = (0..page.count()).filter_map(|index| page.cell(index).ok()?.child).chain(page.right);
    cells.filter(move |_| is_interior)
}
