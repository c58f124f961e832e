//! Contents of a file in pages that many versions of it share.

use std::cell::OnceCell;
use std::rc::Rc;

const PAGE: usize = 4096;

/// A page, and its hash once somebody has asked for it.
#[derive(Clone, Debug)]
struct Page {
    bytes: [u8; PAGE],
    hash: OnceCell<[u8; 32]>,
}

/// The contents of a file. A clone costs a pointer a page, and a write copies the pages it meets.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    pages: Vec<Rc<Page>>,
    length: usize,
    /// Of all of it, once somebody has asked for it.
    hash: OnceCell<[u8; 32]>,
}

impl Bytes {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Cuts or extends with zeros. What lies behind the end of the last page is always zero.
    pub(super) fn resize(&mut self, length: usize) {
        self.hash.take();
        let zeros = || Rc::new(Page { bytes: [0; PAGE], hash: OnceCell::new() });
        self.pages.resize_with(length.div_ceil(PAGE), zeros);
        if length < self.length && !length.is_multiple_of(PAGE) {
            let page = self.page(length / PAGE);
            page[length % PAGE..].fill(0);
        }
        self.length = length;
    }

    fn page(&mut self, index: usize) -> &mut [u8; PAGE] {
        self.hash.take();
        let page = Rc::make_mut(&mut self.pages[index]);
        page.hash.take();
        &mut page.bytes
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        if at + bytes.len() > self.length {
            self.resize(at + bytes.len());
        }
        let mut written = 0;
        while written < bytes.len() {
            let (index, from) = ((at + written) / PAGE, (at + written) % PAGE);
            let length = (PAGE - from).min(bytes.len() - written);
            self.page(index)[from..from + length].copy_from_slice(&bytes[written..written + length]);
            written += length;
        }
    }

    /// Reads what there is; says how much.
    pub(super) fn read(&self, at: usize, bytes: &mut [u8]) -> usize {
        let length = bytes.len().min(self.length.saturating_sub(at));
        let mut read = 0;
        while read < length {
            let (index, from) = ((at + read) / PAGE, (at + read) % PAGE);
            let part = (PAGE - from).min(length - read);
            bytes[read..read + part].copy_from_slice(&self.pages[index].bytes[from..from + part]);
            read += part;
        }
        length
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        self.read(0, &mut bytes);
        bytes
    }

    /// A number that stands for the contents.
    pub(super) fn hash(&self) -> [u8; 32] {
        let hash = || {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.length.to_le_bytes());
            for page in &self.pages {
                hasher.update(page.hash.get_or_init(|| *blake3::hash(&page.bytes).as_bytes()));
            }
            *hasher.finalize().as_bytes()
        };
        *self.hash.get_or_init(hash)
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        let same = |(one, other): (&Rc<Page>, &Rc<Page>)| Rc::ptr_eq(one, other) || one.bytes == other.bytes;
        self.length == other.length && self.pages.iter().zip(&other.pages).all(same)
    }
}

impl Eq for Bytes {}
