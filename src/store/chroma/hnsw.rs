//! Reads the four binary files of an HNSW segment, without believing any of them.
//!
//! chromadb loads these files with almost no validation and crashes on what does not fit (CHROMA.md §3.5), so
//! whatever is kept as it is has been looked through here first: every length, every link, every level. The files are
//! read at positions, never mapped: a file that shrinks under a map kills the process.
//!
//! # Limits
//! [`Hnsw::inspect`] holds one byte for each element.

use super::unsound::Part;
use crate::disk::{Contents, Disk, Reader};
use std::io;
use std::path::Path;

const HEADER_BYTES: usize = 100;
/// Elements read at a time while walking through a segment.
const CHUNK_BYTES: u64 = 1 << 20;
/// hnswlib draws levels from a geometric distribution; no real graph comes near this.
const LEVEL_MAX: u64 = 64;
/// chromadb grows the file in steps.
const LINKS_SLACK_BYTES: u64 = 1 << 20;
/// More links of one element on one level are no index that chromadb built.
const LINKS_MAX: u64 = 1 << 12;
/// No embedding has more dimensions.
const DIMENSION_MAX: u64 = 1 << 16;

/// An HNSW segment whose header makes sense.
#[derive(Debug)]
pub struct Hnsw {
    header: Header,
    level0: Box<dyn Contents>,
    level0_bytes: u64,
    /// Not there where the file is missing: the vectors can be read without it.
    lengths: Option<Box<dyn Contents>>,
    /// The same.
    links: Option<Box<dyn Contents>>,
}

/// `header.bin`, as far as it is needed (CHROMA.md §3.1).
#[derive(Clone, Copy, Debug)]
struct Header {
    count: u64,
    element_bytes: u64,
    vector_at: u64,
    label_at: u64,
    links_max: u64,
    links_max_level0: u64,
    level_max: i32,
    entry: u32,
}

/// One element of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its place in the files.
    pub slot: u64,
    /// The label the pickle knows it by.
    pub label: u64,
    /// Whether it has been deleted.
    pub is_deleted: bool,
}

/// What is wrong with a segment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is missing or cannot be read.
    #[error("{name}: {source}")]
    Io {
        /// Name of the file.
        name: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file does not hold what the others say.
    #[error("{name}: {what}")]
    Unsound {
        /// Name of the file.
        name: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A file is far larger than what it holds.
    #[error("{name}: it has {bytes} bytes, and {most} would be more than enough")]
    Bloated {
        /// Name of the file.
        name: &'static str,
        /// Its length.
        bytes: u64,
        /// More than its contents can take.
        most: u64,
    },
}

impl Error {
    /// Whether the file is not there or ends too early. Any other failure to read says something about the machine, not
    /// about the file.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
            }
            Error::Unsound { .. } | Error::Bloated { .. } => true,
        }
    }

    /// The part of the segment it is about.
    pub(super) fn part(&self) -> Part {
        let (Error::Io { name, .. } | Error::Unsound { name, .. } | Error::Bloated { name, .. }) = self;
        match *name {
            LINKS if matches!(self, Error::Bloated { .. }) => Part::Sparse,
            HEADER => Part::Header,
            LENGTHS => Part::Lengths,
            LINKS => Part::Links,
            _ => Part::Level0,
        }
    }
}

const HEADER: &str = "header.bin";
const LEVEL0: &str = "data_level0.bin";
const LENGTHS: &str = "length.bin";
const LINKS: &str = "link_lists.bin";

/// Whether a file of this name belongs to a segment: those of hnswlib, and chromadb's pickle.
pub fn is_segment_file(name: &std::ffi::OsStr) -> bool {
    [HEADER, LEVEL0, LENGTHS, LINKS, "index_metadata.pickle"].iter().any(|known| name == *known)
}
/// A vector as it is stored, and its length where that is there.
pub type Stored = (Vec<f32>, Option<f32>);

/// Takes the slot of an element and its lists, one level after the other.
type LinkReceiver<'r> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'r;

impl Hnsw {
    /// Opens the segment in `directory`. Only the header is checked here.
    pub fn open(disk: &dyn Disk, directory: &Path) -> Result<Hnsw, Error> {
        Hnsw::with_header(disk, directory, Header::read(&*open(disk, directory, HEADER)?)?)
    }

    /// Opens a segment whose header is lost, to read its vectors, where its two other files agree on how many there
    /// are; they have so many dimensions and links.
    pub fn open_without_header(disk: &dyn Disk, directory: &Path, [dimension, links]: [u64; 2]) -> Result<Hnsw, Error> {
        let mut hnsw = Hnsw::with_header(disk, directory, Header::guessed(dimension, links))?;
        hnsw.header.count = hnsw.lengths()?.unwrap_or(0) / 4;
        match hnsw.header.count * hnsw.header.element_bytes == hnsw.level0_bytes {
            true => Ok(hnsw),
            false => unsound(HEADER, "it cannot be told from the other files".into()),
        }
    }

    fn with_header(disk: &dyn Disk, directory: &Path, header: Header) -> Result<Hnsw, Error> {
        let level0 = open(disk, directory, LEVEL0)?;
        let level0_bytes = level0.length().map_err(|source| Error::Io { name: LEVEL0, source })?;
        let open_if_there = |name| match open(disk, directory, name) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Hnsw { header, level0, level0_bytes, lengths: open_if_there(LENGTHS)?, links: open_if_there(LINKS)? })
    }

    /// Bytes of lengths; `None` where their file is missing.
    fn lengths(&self) -> Result<Option<u64>, Error> {
        let bytes = self.lengths.as_ref().map(|file| file.length());
        bytes.transpose().map_err(|source| Error::Io { name: LENGTHS, source })
    }

    /// Counts anew, up to `most`, where the files hold more elements than the header says. Says whether they do.
    pub(super) fn recount(&mut self, most: u64) -> Result<bool, Error> {
        let lengths = self.lengths()?.unwrap_or(0) / 4;
        let found = most.min(lengths).min(self.level0_bytes / self.header.element_bytes);
        let is_more = found > self.header.count;
        self.header.count = self.header.count.max(found);
        Ok(is_more)
    }

    /// Whether the file of vectors has room for so many elements, whatever the header says.
    pub(super) fn holds(&self, count: u64) -> bool {
        self.level0_bytes / self.header.element_bytes >= count
    }

    /// Elements the header counts, deleted ones among them.
    pub fn count(&self) -> u64 {
        self.header.count
    }

    /// Floats in a vector.
    pub fn dimension(&self) -> u64 {
        (self.header.label_at - self.header.vector_at) / 4
    }

    /// The vector of an element as it is stored, and the length it had before it was normalised (cosine only; in other
    /// spaces that number is garbage). The inner `None` stands where the lengths end before it, the outer one where the
    /// vectors do.
    pub fn vector(&self, slot: u64) -> Result<Option<Stored>, Error> {
        let mut bytes = vec![0; 4 * self.dimension() as usize];
        let at = slot * self.header.element_bytes + self.header.vector_at;
        if !read_at(&*self.level0, LEVEL0, &mut bytes, at)? {
            return Ok(None);
        }
        let mut length = [0; 4];
        let has_length = match &self.lengths {
            Some(lengths) => read_at(&**lengths, LENGTHS, &mut length, slot * 4)?,
            None => false,
        };
        let vector = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(Some((vector, has_length.then_some(f32::from_le_bytes(length)))))
    }

    /// Walks through the elements that the files hold, in the order of the slots, and hands them on some at a time.
    ///
    /// The outer result is about the files, the inner one is the receiver's.
    pub fn elements<E>(&self, receive: &mut dyn FnMut(&[Element]) -> Result<(), E>) -> Result<Result<(), E>, Error> {
        let mut elements = Vec::new();
        for first in self.chunk_starts() {
            let chunk = self.chunk(first)?;
            let parts = chunk.chunks_exact(self.header.element_bytes as usize).zip(first..);
            elements.clear();
            elements.extend(parts.map(|(bytes, slot)| {
                let label = bytes[self.header.label_at as usize..].try_into().expect("a label is the last eight bytes");
                Element { slot, label: u64::from_le_bytes(label), is_deleted: bytes[2] & 1 != 0 }
            }));
            if let Err(error) = receive(&elements) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Whether the files can hold what the header counts.
    ///
    /// # Errors
    /// Where one is too short, or `link_lists.bin` far too long.
    pub fn check_sizes(&self) -> Result<(), Error> {
        let count = self.header.count;
        if self.lengths.is_none() {
            return unsound(LENGTHS, "it is missing".into());
        }
        let Some(links) = &self.links else { return unsound(LINKS, "it is missing".into()) };
        let links = links.length().map_err(|source| Error::Io { name: LINKS, source })?;
        let parts = [
            (LEVEL0, self.level0_bytes, count * self.header.element_bytes),
            (LENGTHS, self.lengths()?.unwrap_or(0), count * 4),
            (LINKS, links, count * 4),
        ];
        for (name, found, least) in parts {
            if found < least {
                return unsound(name, format!("it ends before its {count} elements do"));
            }
        }
        // A sixteenth of all elements lie above the ground; no graph has one level more for each.
        let most = count * (4 + self.level_bytes()) + LINKS_SLACK_BYTES;
        if links > most {
            return Err(Error::Bloated { name: LINKS, bytes: links, most });
        }
        Ok(())
    }

    /// Looks through every link of the graph.
    ///
    /// # Errors
    /// What chromadb would crash on.
    pub fn inspect(&self) -> Result<(), Error> {
        let header = &self.header;
        self.check_sizes()?;
        if header.count == 0 {
            return Ok(());
        }
        let levels = self.levels()?;
        match levels.get(header.entry as usize) {
            Some(level) if i32::from(*level) == header.level_max => {}
            _ => return unsound(HEADER, "the entry point does not lie on the highest level".into()),
        }
        for first in self.chunk_starts() {
            for (bytes, slot) in self.chunk(first)?.chunks_exact(header.element_bytes as usize).zip(first..) {
                self.check_links(LEVEL0, slot, bytes, header.links_max_level0, 0, &levels)?;
            }
        }
        Ok(())
    }

    /// Reads `link_lists.bin`: the level of each element, with the links above the ground checked on a second pass.
    fn levels(&self) -> Result<Vec<u8>, Error> {
        let mut levels = Vec::new();
        self.link_lists(&mut |_, lists| {
            levels.push((lists.len() as u64 / self.level_bytes()) as u8);
            Ok(())
        })?;
        self.link_lists(&mut |slot, lists| {
            for (index, bytes) in lists.chunks_exact(self.level_bytes() as usize).enumerate() {
                self.check_links(LINKS, slot, bytes, self.header.links_max, index as u8 + 1, &levels)?;
            }
            Ok(())
        })?;
        Ok(levels)
    }

    /// Hands the link lists of each element above the ground level to `receive`, with its slot.
    fn link_lists(&self, receive: &mut LinkReceiver) -> Result<(), Error> {
        let io = |source| Error::Io { name: LINKS, source };
        let Some(links) = &self.links else { return unsound(LINKS, "it is missing".into()) };
        let mut input = io::BufReader::with_capacity(CHUNK_BYTES as usize, Reader::new(&**links));
        for slot in 0..self.header.count {
            let mut length = [0; 4];
            io::Read::read_exact(&mut input, &mut length).map_err(io)?;
            let length = u64::from(u32::from_le_bytes(length));
            if !length.is_multiple_of(self.level_bytes()) || length / self.level_bytes() > LEVEL_MAX {
                return unsound(LINKS, format!("element {slot} claims {length} bytes of links"));
            }
            let mut lists = vec![0; length as usize];
            io::Read::read_exact(&mut input, &mut lists).map_err(io)?;
            receive(slot, &lists)?;
        }
        Ok(())
    }

    fn level_bytes(&self) -> u64 {
        4 + 4 * self.header.links_max
    }

    /// A list is a count (16 bits; the rest of its word is flags) and that many slots, each of an element that exists
    /// on this level and is not the element itself.
    fn check_links(
        &self,
        name: &'static str,
        slot: u64,
        list: &[u8],
        links_max: u64,
        level: u8,
        levels: &[u8],
    ) -> Result<(), Error> {
        let count = u64::from(u16::from_le_bytes([list[0], list[1]]));
        if count > links_max {
            return unsound(name, format!("element {slot} claims {count} links on level {level}"));
        }
        for link in list[4..].chunks_exact(4).take(count as usize) {
            let link = u32::from_le_bytes([link[0], link[1], link[2], link[3]]);
            match levels.get(link as usize) {
                Some(reached) if *reached >= level => {}
                _ => {
                    return unsound(
                        name,
                        format!("element {slot} links to {link} on level {level}, where there is none"),
                    );
                }
            }
        }
        Ok(())
    }

    /// Slots at which chunks of elements begin, as far as the file holds whole elements.
    fn chunk_starts(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.whole()).step_by(self.chunk_elements() as usize)
    }

    fn chunk(&self, first: u64) -> Result<Vec<u8>, Error> {
        let element_bytes = self.header.element_bytes;
        let mut chunk = vec![0; (self.chunk_elements().min(self.whole() - first) * element_bytes) as usize];
        let read = self.level0.read_exact_at(&mut chunk, first * element_bytes);
        read.map_err(|source| Error::Io { name: LEVEL0, source })?;
        Ok(chunk)
    }

    fn whole(&self) -> u64 {
        self.header.count.min(self.level0_bytes / self.header.element_bytes)
    }

    fn chunk_elements(&self) -> u64 {
        (CHUNK_BYTES / self.header.element_bytes).max(1)
    }
}

/// Fills `bytes`; says no where the file ends before them.
fn read_at(file: &dyn Contents, name: &'static str, bytes: &mut [u8], at: u64) -> Result<bool, Error> {
    match file.read_exact_at(bytes, at).map_err(|source| Error::Io { name, source }) {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(disk: &dyn Disk, directory: &Path, name: &'static str) -> Result<Box<dyn Contents>, Error> {
    disk.open(&directory.join(name)).map_err(|error| Error::Io { name, source: error.into() })
}

impl Header {
    /// The header of an empty segment of this shape.
    fn guessed(dimension: u64, links: u64) -> Header {
        let vector_at = 4 + 4 * 2 * links;
        let label_at = vector_at + 4 * dimension;
        Header {
            count: 0,
            element_bytes: label_at + 8,
            vector_at,
            label_at,
            links_max: links,
            links_max_level0: 2 * links,
            level_max: 0,
            entry: 0,
        }
    }

    fn read(file: &dyn Contents) -> Result<Header, Error> {
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).map_err(|source| Error::Io { name: HEADER, source })?;
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let header = Header {
            count: u64_at(20),
            element_bytes: u64_at(28),
            label_at: u64_at(36),
            vector_at: u64_at(44),
            level_max: u32_at(52) as i32,
            entry: u32_at(56),
            links_max: u64_at(60),
            links_max_level0: u64_at(68),
        };
        let fits = u32_at(0) == 1
            && u64_at(4) == 0
            && (1..=LINKS_MAX).contains(&header.links_max)
            && (1..=2 * LINKS_MAX).contains(&header.links_max_level0)
            && header.vector_at == 4 + 4 * header.links_max_level0
            && header.label_at > header.vector_at
            && header.label_at - header.vector_at <= 4 * DIMENSION_MAX
            && (header.label_at - header.vector_at).is_multiple_of(4)
            && header.element_bytes == header.label_at + 8
            && u64_at(12) >= header.count
            && u64_at(76) == header.links_max
            && header.count < u64::from(u32::MAX)
            && (header.count == 0 || u64::from(header.entry) < header.count);
        match fits {
            true => Ok(header),
            false => unsound(HEADER, "its numbers do not fit together".into()),
        }
    }
}

fn unsound<T>(name: &'static str, what: String) -> Result<T, Error> {
    Err(Error::Unsound { name, what })
}
