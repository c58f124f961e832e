//! One page of a tree, and the cells on it (§1.6).

use super::file::{Database, HEADER_BYTES};
use super::record::varint;
use std::borrow::Cow;
use std::io;

/// What a page of a tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keys of an index, and pages below.
    IndexInterior,
    /// Row numbers of a table, and pages below.
    TableInterior,
    /// Keys of an index.
    IndexLeaf,
    /// Rows of a table.
    TableLeaf,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        match byte {
            2 => Some(Kind::IndexInterior),
            5 => Some(Kind::TableInterior),
            10 => Some(Kind::IndexLeaf),
            13 => Some(Kind::TableLeaf),
            _ => None,
        }
    }

    /// Whether there are pages below.
    pub fn is_interior(self) -> bool {
        matches!(self, Kind::IndexInterior | Kind::TableInterior)
    }

    /// Whether it is part of a table with row numbers.
    pub fn is_table(self) -> bool {
        matches!(self, Kind::TableInterior | Kind::TableLeaf)
    }
}

/// A page of a tree.
pub struct Page {
    /// Its number, from 1.
    pub number: u32,
    /// What it holds.
    pub kind: Kind,
    /// The last page below, on an interior page.
    pub right: Option<u32>,
    bytes: Vec<u8>,
    cells: Vec<usize>,
    usable: usize,
}

/// A cell, as far as it lies on its page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The row's number, in a table.
    pub rowid: i64,
    /// The page below, on an interior page.
    pub child: Option<u32>,
    payload_bytes: u64,
    local: std::ops::Range<usize>,
    overflow: Option<u32>,
    begin: usize,
    end: usize,
}

impl Cell {
    /// Whether it goes on on other pages.
    pub fn flows_over(&self) -> bool {
        self.overflow.is_some()
    }
}

/// Whether bytes could be a page of a tree that is in use: its cells fill it from the end.
pub(super) fn looks_like_a_tree(bytes: &[u8], usable: usize) -> bool {
    Page::parse(2, bytes.to_vec(), usable).is_ok_and(|page| {
        let ends: Option<Vec<usize>> = (0..page.count()).map(|index| Some(page.cell(index).ok()?.end)).collect();
        ends.is_some_and(|ends| ends.into_iter().max() == Some(usable))
    })
}

impl Page {
    /// Reads the head of a page and where its cells begin.
    pub(super) fn parse(number: u32, bytes: Vec<u8>, usable: usize) -> Result<Page, String> {
        let at = if number == 1 { HEADER_BYTES } else { 0 };
        let kind = Kind::of(bytes[at]).ok_or_else(|| format!("{} is no type of page", bytes[at]))?;
        let two = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let count = two(at + 3);
        let head = if kind.is_interior() { 12 } else { 8 };
        let first = at + head + 2 * count;
        if first > usable {
            return Err(format!("it claims {count} cells"));
        }
        let cells: Vec<usize> = (0..count).map(|index| two(at + head + 2 * index)).collect();
        if cells.iter().any(|cell| *cell < first || *cell + 4 > usable) {
            return Err("a cell lies outside of it".into());
        }
        let right = u32::from_be_bytes([bytes[at + 8], bytes[at + 9], bytes[at + 10], bytes[at + 11]]);
        let right = kind.is_interior().then_some(right);
        Ok(Page { number, kind, right, bytes, cells, usable })
    }

    /// Cells on it.
    pub fn count(&self) -> usize {
        self.cells.len()
    }

    /// A cell.
    pub fn cell(&self, index: usize) -> Result<Cell, String> {
        let begin = self.cells[index];
        let wrong = || format!("cell {index} does not fit");
        let mut at = begin;
        let mut child = None;
        if self.kind.is_interior() {
            let number = self.bytes.get(at..at + 4).ok_or_else(wrong)?;
            child = Some(u32::from_be_bytes(number.try_into().expect("four bytes")));
            at += 4;
        }
        if self.kind == Kind::TableInterior {
            let (rowid, taken) = varint(&self.bytes[at..self.usable]).ok_or_else(wrong)?;
            let end = at + taken;
            return Ok(Cell { rowid, child, payload_bytes: 0, local: at..at, overflow: None, begin, end });
        }
        let (payload_bytes, taken) = varint(&self.bytes[at..self.usable]).ok_or_else(wrong)?;
        at += taken;
        let mut rowid = 0;
        if self.kind == Kind::TableLeaf {
            let taken;
            (rowid, taken) = varint(self.bytes.get(at..self.usable).ok_or_else(wrong)?).ok_or_else(wrong)?;
            at += taken;
        }
        let payload_bytes = u64::try_from(payload_bytes).map_err(|_| wrong())?;
        let local_bytes = self.local_bytes(payload_bytes);
        let local = at..at + local_bytes;
        let mut end = local.end;
        let mut overflow = None;
        if (local_bytes as u64) < payload_bytes {
            let number = self.bytes.get(end..end + 4).ok_or_else(wrong)?;
            overflow = Some(u32::from_be_bytes(number.try_into().expect("four bytes")));
            end += 4;
        }
        if end > self.usable {
            return Err(wrong());
        }
        Ok(Cell { rowid, child, payload_bytes, local, overflow, begin, end })
    }

    /// How much of a payload lies on the page itself (§1.6, "Cell Payload Overflow Pages").
    fn local_bytes(&self, payload_bytes: u64) -> usize {
        let usable = self.usable as u64;
        let least = (usable - 12) * 32 / 255 - 23;
        let most = if self.kind == Kind::TableLeaf { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
        let part = || least + (payload_bytes - least) % (usable - 4);
        match payload_bytes {
            bytes if bytes <= most => bytes as usize,
            _ if part() <= most => part() as usize,
            _ => least as usize,
        }
    }

    /// What a cell holds, its overflow pages included. `take` is asked for each of them whether it may be used.
    ///
    /// # Errors
    /// The outer one is about reading the file, the inner one says what is wrong with the cell.
    pub fn payload(
        &self,
        database: &Database,
        cell: &Cell,
        take: &mut dyn FnMut(u32) -> bool,
    ) -> io::Result<Result<Cow<'_, [u8]>, String>> {
        let local = &self.bytes[cell.local.clone()];
        let Some(mut next) = cell.overflow else { return Ok(Ok(Cow::Borrowed(local))) };
        if cell.payload_bytes > database.bytes() {
            return Ok(Err(format!("a row claims {} bytes", cell.payload_bytes)));
        }
        let mut payload = local.to_vec();
        let mut last = self.number;
        while (payload.len() as u64) < cell.payload_bytes {
            let wrong = |what: &str| Ok(Err(format!("overflow page {next}, to which page {last} leads, {what}")));
            let Some(bytes) = database.page(next)? else { return wrong("lies outside the file") };
            let after = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"));
            // Pages of trees are told by this as well: their first byte makes it a number that few files reach.
            if after > database.pages() {
                return wrong("is none");
            }
            if bytes.iter().all(|byte| *byte == 0) {
                return wrong("is empty");
            }
            if !take(next) {
                return wrong("belongs to something else");
            }
            let left = (cell.payload_bytes - payload.len() as u64).min(self.usable as u64 - 4) as usize;
            payload.extend_from_slice(&bytes[4..4 + left]);
            (last, next) = (next, after);
        }
        if next != 0 {
            return Ok(Err(format!("overflow page {last} goes on where the row ends")));
        }
        Ok(Ok(Cow::Owned(payload)))
    }

    /// Whether any row is above `least` and not above `most`; the lowest number of all is above itself.
    pub(super) fn has_row_in(&self, least: i64, most: i64) -> bool {
        let mut cells = (0..self.count()).filter_map(|index| self.cell(index).ok());
        cells.any(|cell| (cell.rowid > least || least == i64::MIN) && cell.rowid <= most)
    }

    /// Whether two cells overlap, by where they begin and the bytes they hold on the page.
    pub(super) fn has_overlap(&self) -> bool {
        let spans = (0..self.count()).filter_map(|index| self.cell(index).ok());
        let mut spans: Vec<(usize, usize)> = spans.map(|cell| (cell.begin, cell.end)).collect();
        spans.sort_unstable();
        spans.windows(2).any(|pair| pair[0].1 > pair[1].0)
    }

    /// Whether cells, free blocks and fragments are all of the content area, as they are on a sound page.
    pub(super) fn has_gap(&self) -> bool {
        let head = if self.number == 1 { HEADER_BYTES } else { 0 };
        let two = |at: usize| self.bytes.get(at..at + 2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])));
        let content = match two(head + 5) {
            Some(0) => 65536,
            begin => begin.unwrap_or(0),
        };
        // No cell is given less than a free block takes.
        let cells =
            (0..self.count()).filter_map(|index| self.cell(index).ok()).map(|cell| (cell.end - cell.begin).max(4));
        let mut bytes = cells.sum::<usize>() + usize::from(self.bytes[head + 7]);
        let mut block = two(head + 1).unwrap_or(0);
        while block > 0 {
            let (Some(next), Some(size)) = (two(block), two(block + 2)) else { return true };
            bytes += size;
            if next > 0 && next <= block {
                return true;
            }
            block = next;
        }
        content + bytes != self.usable
    }
}
