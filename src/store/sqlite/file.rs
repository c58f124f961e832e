//! The file as a row of pages.

use super::page::{Page, looks_like_a_tree};
use crate::disk::Contents;
use std::io;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of the header; the first page's tree begins behind it.
pub(super) const HEADER_BYTES: usize = 100;
/// Pages looked at to find out how large a page is, where the header does not say.
const SAMPLES: u64 = 64;

/// An SQLite file, read page by page.
#[derive(Debug)]
pub struct Database {
    file: Box<dyn Contents>,
    bytes: u64,
    header: Vec<u8>,
    page_bytes: u64,
    usable: usize,
}

impl Database {
    /// Takes an open file. Where its header is scrambled, the size of a page is found out from the pages themselves.
    pub fn new(file: Box<dyn Contents>) -> io::Result<Database> {
        let bytes = file.length()?;
        let mut header = vec![0; HEADER_BYTES.min(bytes as usize)];
        file.read_exact_at(&mut header, 0)?;
        header.resize(HEADER_BYTES, 0);
        let mut database = Database { file, bytes, header, page_bytes: 4096, usable: 4096 };
        match database.said_page_bytes() {
            // A header that lies finds no page where it says that pages are.
            Some((page_bytes, reserved)) if database.score(page_bytes, reserved)? > 0 => {}
            Some((page_bytes, reserved)) => {
                database.guess_page_bytes()?;
                if database.score(database.page_bytes, 0)? == 0 {
                    database.set_page_bytes(page_bytes, reserved);
                }
            }
            None => database.guess_page_bytes()?,
        }
        Ok(database)
    }

    /// Whether the header is one (§1.3).
    pub fn has_header(&self) -> bool {
        self.said_page_bytes().is_some()
    }

    fn said_page_bytes(&self) -> Option<(u64, usize)> {
        let page_bytes = match u16::from_be_bytes([self.header[16], self.header[17]]) {
            1 => 65536,
            bytes => u64::from(bytes),
        };
        let fits = self.header.starts_with(MAGIC)
            && page_bytes.is_power_of_two()
            && page_bytes >= 512
            && self.header[21..24] == [64, 32, 32]
            && self.header[20] <= 32;
        fits.then_some((page_bytes, usize::from(self.header[20])))
    }

    fn set_page_bytes(&mut self, page_bytes: u64, reserved: usize) {
        self.page_bytes = page_bytes;
        self.usable = page_bytes as usize - reserved;
    }

    /// The size with which most pages look like pages of a tree; chromadb's own where none does.
    fn guess_page_bytes(&mut self) -> io::Result<()> {
        let mut best = (0, 4096);
        for page_bytes in (9..=16).map(|power| 1_u64 << power) {
            let score = self.score(page_bytes, 0)?;
            if score > best.0 {
                best = (score, page_bytes);
            }
        }
        self.set_page_bytes(best.1, 0);
        Ok(())
    }

    /// How many bytes of plausible pages there are among some of this size: small sizes find more pages, and more that
    /// are none.
    fn score(&mut self, page_bytes: u64, reserved: usize) -> io::Result<u64> {
        self.set_page_bytes(page_bytes, reserved);
        let stride = (u64::from(self.pages()) / SAMPLES).max(1) as usize;
        let mut trees = 0;
        for number in (2..=self.pages()).step_by(stride) {
            trees += u64::from(self.page(number)?.is_some_and(|bytes| looks_like_a_tree(&bytes, self.usable)));
        }
        Ok(trees * page_bytes)
    }

    /// Whole pages in the file.
    pub fn pages(&self) -> u32 {
        u32::try_from(self.bytes / self.page_bytes).unwrap_or(u32::MAX)
    }

    /// Pages there should be, where the header says so credibly (§1.3.7).
    pub fn said_pages(&self) -> Option<u32> {
        let is_current = self.number(24) == self.number(92);
        (self.has_header() && is_current && self.number(28) > 0).then(|| self.number(28))
    }

    /// A four-byte number of the header.
    pub(super) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().expect("four bytes"))
    }

    /// Bytes of a page that hold data.
    pub(super) fn usable(&self) -> usize {
        self.usable
    }

    /// Bytes of the whole file: nothing in it is longer.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The page that holds the bytes SQLite locks, and nothing else (§1.4).
    pub fn lock_page(&self) -> u32 {
        (0x4000_0000 / self.page_bytes) as u32 + 1
    }

    /// The bytes of a page; `None` where the file ends before its end.
    pub(super) fn page(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        if number == 0 || number > self.pages() {
            return Ok(None);
        }
        let mut bytes = vec![0; self.page_bytes as usize];
        self.file.read_exact_at(&mut bytes, u64::from(number - 1) * self.page_bytes)?;
        Ok(Some(bytes))
    }

    /// A page of a tree; the inner error says why it is none.
    pub fn tree_page(&self, number: u32) -> io::Result<Result<Page, String>> {
        Ok(match self.page(number)? {
            Some(bytes) => Page::parse(number, bytes, self.usable),
            None => Err("it lies outside the file".into()),
        })
    }
}
