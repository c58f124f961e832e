//! Writes an HNSW segment: the four binary files and the pickle that chromadb loads without replaying anything.
//!
//! Formats: CHROMA.md §3.1, §3.2 and §3.4. Labels start at 1 and follow the order of the records; nothing is deleted.

use super::graph::Graph;
use super::text::Text;
use crate::disk::{self, Disk};
use std::path::{Path, PathBuf};

/// Bytes gathered before they are written.
const CHUNK_BYTES: usize = 1 << 20;

/// What a segment is made of, beside the graph.
pub(super) struct Contents<'c> {
    /// Ids in the order of the graph's elements.
    pub(super) ids: &'c [Text],
    /// Length of each vector before it was normalised.
    pub(super) lengths: &'c [f32],
    /// Floats in a vector.
    pub(super) dimension: usize,
    /// Links on each level above the ground.
    pub(super) links: usize,
    /// Candidates the graph was built with.
    pub(super) candidates: usize,
    /// The last write that the segment holds.
    pub(super) sequence: i64,
    /// Which chromadb is going to read the pickle.
    pub(super) era: Era,
}

/// Who reads the pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// chromadb before 1.0 wants an instance of its own class, with the sequence number of every record.
    Python,
    /// chromadb since 1.0 wants a plain dict.
    Rust,
}

/// Writes all files of a segment into a new directory, synced; the directory itself is the caller's to sync.
pub(super) fn write(disk: &dyn Disk, directory: &Path, graph: &Graph, contents: &Contents) -> disk::Result<()> {
    let create = |name: &str| Output::create(disk, directory.join(name));
    let mut header = create("header.bin")?;
    header.put(&encode_header(graph, contents))?;
    header.finish()?;
    let (mut level0, mut lengths) = (create("data_level0.bin")?, create("length.bin")?);
    let mut upper = create("link_lists.bin")?;
    for element in 0..graph.count() as u32 {
        level0.put(&encode_list(graph.links(element, 0), 2 * contents.links))?;
        level0.put(&graph.vector(element).iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
        level0.put(&(u64::from(element) + 1).to_le_bytes())?;
        lengths.put(&contents.lengths[element as usize].to_le_bytes())?;
        let lists =
            (1..=graph.level(element)).flat_map(|level| encode_list(graph.links(element, level), contents.links));
        let lists: Vec<u8> = lists.collect();
        upper.put(&(lists.len() as u32).to_le_bytes())?;
        upper.put(&lists)?;
    }
    level0.finish()?;
    lengths.finish()?;
    upper.finish()?;
    let mut pickle = create("index_metadata.pickle")?;
    write_pickle(&mut pickle, contents)?;
    pickle.finish()
}

/// A count, and as many slots as there may be.
fn encode_list(links: &[u32], links_max: usize) -> Vec<u8> {
    let unused = std::iter::repeat_n(0, links_max - links.len());
    let words = [links.len() as u32].into_iter().chain(links.iter().copied()).chain(unused);
    words.flat_map(u32::to_le_bytes).collect()
}

fn encode_header(graph: &Graph, contents: &Contents) -> Vec<u8> {
    let (count, links) = (graph.count() as u64, contents.links as u64);
    let vector_at = 4 + 4 * 2 * links;
    let label_at = vector_at + 4 * contents.dimension as u64;
    let mut bytes = Vec::with_capacity(100);
    bytes.extend(1_i32.to_le_bytes());
    for value in [0, count, count, label_at + 8, label_at, vector_at] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(i32::from(graph.level(graph.entry())).to_le_bytes());
    bytes.extend(graph.entry().to_le_bytes());
    for value in [links, 2 * links, links] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend((1.0 / (links as f64).ln()).to_le_bytes());
    bytes.extend((contents.candidates as u64).to_le_bytes());
    bytes
}

/// Protocol 2: every chromadb reads it.
fn write_pickle(output: &mut Output, contents: &Contents) -> disk::Result<()> {
    let count = contents.ids.len() as i64;
    output.put(&[0x80, 2])?;
    if contents.era == Era::Python {
        output.put(b"cchromadb.segment.impl.vector.local_persistent_hnsw\nPersistentData\n)\x81")?;
    }
    output.put(b"}(")?;
    for (key, value) in [
        ("dimensionality", contents.dimension as i64),
        ("total_elements_added", count),
        ("max_seq_id", contents.sequence),
    ] {
        output.put(&[text(key.as_bytes()), int(value)].concat())?;
    }
    let labels = || contents.ids.iter().zip(1_i64..);
    write_map(output, "id_to_label", labels().map(|(id, label)| [text(&id.0), int(label)]))?;
    write_map(output, "label_to_id", labels().map(|(id, label)| [int(label), text(&id.0)]))?;
    let sequences = labels().filter(|_| contents.era == Era::Python);
    write_map(output, "id_to_seq_id", sequences.map(|(id, _)| [text(&id.0), int(contents.sequence)]))?;
    output.put(if contents.era == Era::Python { b"ub." } else { b"u." })
}

fn write_map(output: &mut Output, key: &str, pairs: impl Iterator<Item = [Vec<u8>; 2]>) -> disk::Result<()> {
    output.put(&[text(key.as_bytes()), b"}(".to_vec()].concat())?;
    for pair in pairs {
        output.put(&pair.concat())?;
    }
    output.put(b"u")
}

/// BINUNICODE.
fn text(bytes: &[u8]) -> Vec<u8> {
    [b"X".as_slice(), &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// BININT where it fits, else LONG1.
fn int(value: i64) -> Vec<u8> {
    match i32::try_from(value) {
        Ok(value) => [b"J".as_slice(), &value.to_le_bytes()].concat(),
        Err(_) => [[0x8a, 8].as_slice(), &value.to_le_bytes()].concat(),
    }
}

/// A file that is written from its beginning to its end.
struct Output<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    waiting: Vec<u8>,
}

impl<'d> Output<'d> {
    fn create(disk: &'d dyn Disk, path: PathBuf) -> disk::Result<Output<'d>> {
        disk.create(&path, &[])?;
        Ok(Output { disk, path, waiting: Vec::with_capacity(CHUNK_BYTES) })
    }

    fn put(&mut self, bytes: &[u8]) -> disk::Result<()> {
        self.waiting.extend(bytes);
        if self.waiting.len() >= CHUNK_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> disk::Result<()> {
        self.disk.append(&self.path, &self.waiting)?;
        self.waiting.clear();
        Ok(())
    }

    fn finish(mut self) -> disk::Result<()> {
        self.write()?;
        self.disk.sync(&self.path)
    }
}
