//! Builds an HNSW graph from vectors, on all cores, and the same one on any number of them.
//!
//! The graph is hnswlib's: levels drawn from a geometric distribution, `M` links a level and twice as many on the
//! ground, links chosen by its heuristic (Malkov and Yashunin, algorithm 4). What differs is the order of the work.
//! Elements are inserted in batches, each a small part of what is there already: the batch searches the graph as it
//! stood, in parallel, and only then the links are set, in the order of the elements. No lock is needed, and no
//! thread can change the outcome.
//!
//! # Limits
//! The vectors are in memory, a quarter as much for their quantized copy, and about `8·M + 8` bytes for each element.
//! There may be 2³¹ elements.

use super::candidate::Candidate;
use super::catalog::IndexShape;
use super::kernel::{distance, prefetch, room};
use super::quantized::Quantized;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Mutex;

/// A batch is one part in this many of what has been inserted before it.
const BATCH_PARTS: usize = 64;
/// No batch is larger.
const BATCH_MAX: usize = 4096;
/// Elements that a thread takes at a time.
const PIECE: usize = 16;
/// Vectors lie anywhere in memory, and a search mostly waits for them. So many are fetched ahead.
const AHEAD: usize = 2;
/// The same of quantized ones.
const QUANTIZED_AHEAD: usize = 3;

/// A graph over vectors, which it numbers in the order they came in.
pub(super) struct Graph<'v> {
    vectors: &'v [f32],
    quantized: Quantized,
    dimension: usize,
    shape: IndexShape,
    /// Level of each element.
    levels: Vec<u8>,
    /// For each element a count and up to `2·M` links.
    ground: Vec<u32>,
    /// For each element and level above the ground a count and up to `M` links.
    upper: Vec<Vec<u32>>,
    entry: u32,
}

/// What an insertion found: for each level, from the top, the links of the new element.
type Links = Vec<(u8, Vec<u32>)>;

/// A link back from an element to a new one.
type BackLink = (u8, u32, u32);

impl<'v> Graph<'v> {
    /// Builds the graph over vectors that lie one behind the other.
    pub(super) fn build(vectors: &'v [f32], dimension: usize, shape: IndexShape) -> Graph<'v> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Graph::build_on(threads, vectors, dimension, shape)
    }

    fn build_on(threads: usize, vectors: &'v [f32], dimension: usize, shape: IndexShape) -> Graph<'v> {
        Graph::build_with(Quantized::of(vectors, dimension), threads, vectors, dimension, shape)
    }

    fn build_with(
        quantized: Quantized,
        threads: usize,
        vectors: &'v [f32],
        dimension: usize,
        shape: IndexShape,
    ) -> Graph<'v> {
        let count = vectors.len() / dimension;
        let levels: Vec<u8> = (0..count as u64).map(|element| level(element, shape.links)).collect();
        let upper = levels.iter().map(|level| vec![0; usize::from(*level) * (shape.links + 1)]).collect();
        let mut ground = room(count * (2 * shape.links + 1));
        ground.resize(ground.capacity(), 0);
        let mut graph = Graph { vectors, quantized, dimension, shape, levels, ground, upper, entry: 0 };
        let mut searches: Vec<Search> = (0..threads).map(|_| Search::default()).collect();
        let mut done = count.min(1);
        while done < count {
            let batch = done..count.min(done + (done / BATCH_PARTS).clamp(1, BATCH_MAX));
            done = batch.end;
            graph.insert(&mut searches, batch);
        }
        graph
    }

    /// Elements in the graph.
    pub(super) fn count(&self) -> usize {
        self.levels.len()
    }

    /// Level of an element.
    pub(super) fn level(&self, element: u32) -> u8 {
        self.levels[element as usize]
    }

    /// The element every search starts from; it lies on the highest level.
    pub(super) fn entry(&self) -> u32 {
        self.entry
    }

    /// Vector of an element.
    pub(super) fn vector(&self, element: u32) -> &'v [f32] {
        &self.vectors[element as usize * self.dimension..][..self.dimension]
    }

    /// Links of an element on one of its levels.
    pub(super) fn links(&self, element: u32, level: u8) -> &[u32] {
        let list = self.list(element, level);
        &list[1..][..list[0] as usize]
    }

    /// A count, and room for as many links as there may be.
    fn list(&self, element: u32, level: u8) -> &[u32] {
        let (room, element) = (self.links_max(level) + 1, element as usize);
        match level {
            0 => &self.ground[element * room..][..room],
            _ => &self.upper[element][(usize::from(level) - 1) * room..][..room],
        }
    }

    fn set_links(&mut self, element: u32, level: u8, links: &[u32]) {
        let (room, element) = (self.links_max(level) + 1, element as usize);
        let list = match level {
            0 => &mut self.ground[element * room..][..room],
            _ => &mut self.upper[element][(usize::from(level) - 1) * room..][..room],
        };
        list[0] = links.len() as u32;
        list[1..][..links.len()].copy_from_slice(links);
    }

    fn links_max(&self, level: u8) -> usize {
        if level == 0 { 2 * self.shape.links } else { self.shape.links }
    }

    fn distance(&self, from: &[f32], to: u32) -> f32 {
        distance(self.shape.space, from, self.vector(to))
    }

    /// Inserts a batch of elements into the graph as it stands.
    fn insert(&mut self, searches: &mut [Search], batch: Range<usize>) {
        let elements: Vec<u32> = batch.map(|element| element as u32).collect();
        let found = parallel(searches, &elements, |search, element| self.find_links(search, *element));
        let mut back: Vec<BackLink> = Vec::new();
        for (element, links) in elements.iter().zip(found) {
            for (level, links) in links {
                self.set_links(*element, level, &links);
                back.extend(links.iter().map(|target| (level, *target, *element)));
            }
        }
        back.sort_unstable();
        let groups: Vec<&[BackLink]> = back.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
        let lists = parallel(searches, &groups, |_, group| self.link_back(group));
        for (group, links) in groups.iter().zip(lists) {
            self.set_links(group[0].1, group[0].0, &links);
        }
        for element in elements {
            if self.level(element) > self.level(self.entry) {
                self.entry = element;
            }
        }
    }

    /// The links a new element gets on each of its levels.
    fn find_links(&self, search: &mut Search, element: u32) -> Links {
        let query = self.vector(element);
        let (top, own) = (self.level(self.entry), self.level(element));
        let mut entry = self.descend(query, own.min(top));
        let mut links = Vec::new();
        for level in (0..=own.min(top)).rev() {
            let near = search.run(self, element, entry, level);
            entry = near[0].element();
            links.push((level, self.choose(near, self.shape.links)));
        }
        links
    }

    /// Walks from the entry down to `level`, always to the nearest neighbour.
    fn descend(&self, query: &[f32], level: u8) -> u32 {
        let mut nearest = self.entry;
        let mut nearest_distance = self.distance(query, nearest);
        for level in (level + 1..=self.level(self.entry)).rev() {
            loop {
                let from = nearest;
                for link in self.links(from, level) {
                    let distance = self.distance(query, *link);
                    if distance < nearest_distance {
                        (nearest, nearest_distance) = (*link, distance);
                    }
                }
                if nearest == from {
                    break;
                }
            }
        }
        nearest
    }

    /// hnswlib's heuristic: of candidates in the order of distance, those that are nearer to the element than to any
    /// chosen before them.
    fn choose(&self, candidates: &[Candidate], links_max: usize) -> Vec<u32> {
        if candidates.len() < links_max {
            return candidates.iter().map(|candidate| candidate.element()).collect();
        }
        let mut chosen: Vec<u32> = Vec::with_capacity(links_max);
        for candidate in candidates {
            if chosen.len() == links_max {
                break;
            }
            let (element, distance) = (candidate.element(), candidate.distance());
            if chosen.iter().all(|other| self.is_apart(element, *other, distance)) {
                chosen.push(element);
            }
        }
        chosen
    }

    /// Whether two elements are at least so far from each other. Mostly their quantized vectors tell.
    fn is_apart(&self, one: u32, other: u32, distance: f32) -> bool {
        let bounds = self.quantized.bounds(self.shape.space, one, other);
        bounds.are_above(distance) || !bounds.are_below(distance) && self.distance(self.vector(one), other) >= distance
    }

    /// The links of an element after others have linked to it.
    fn link_back(&self, group: &[BackLink]) -> Vec<u32> {
        let (level, element, _) = group[0];
        let all = self.links(element, level).iter().copied().chain(group.iter().map(|(.., from)| *from));
        let links_max = self.links_max(level);
        if self.links(element, level).len() + group.len() <= links_max {
            return all.collect();
        }
        let vector = self.vector(element);
        let candidate = |element| Candidate::new(self.distance(vector, element), element);
        let mut candidates: Vec<Candidate> = all.map(candidate).collect();
        candidates.sort_unstable();
        self.choose(&candidates, links_max)
    }
}

/// What a thread needs to search: kept from one search to the next.
#[derive(Default)]
struct Search {
    /// The number of the last search that saw an element.
    seen: Vec<u32>,
    number: u32,
    near: Vec<Candidate>,
    /// Links of the candidate that is looked at that were not seen before.
    fresh: Vec<u32>,
}

impl Search {
    /// The elements nearest to an element of the graph on a level that are found from `entry`, nearest first,
    /// `candidates` at most.
    fn run(&mut self, graph: &Graph, element: u32, entry: u32, level: u8) -> &[Candidate] {
        self.begin(graph.count());
        self.see(entry);
        let (query, width) = (graph.vector(element), graph.shape.candidates);
        self.near.push(Candidate::new(graph.distance(query, entry), entry));
        let mut at = 0;
        while let Some(candidate) = self.near.get_mut(at) {
            if candidate.is_expanded() {
                at += 1;
                continue;
            }
            candidate.set_expanded();
            let candidate = *candidate;
            self.look_around(graph, graph.links(candidate.element(), level));
            if self.near.len() == width {
                self.pass_over(graph, element);
            }
            let mut nearest_change = at + 1;
            for place in 0..self.fresh.len() {
                let link = self.fresh[place];
                if let Some(next) = self.fresh.get(place + AHEAD) {
                    prefetch(graph.vector(*next));
                }
                let found = Candidate::new(graph.distance(query, link), link);
                if let Some(place) = self.take(found, width) {
                    prefetch(graph.list(link, level));
                    nearest_change = nearest_change.min(place);
                }
            }
            at = nearest_change;
        }
        &self.near
    }

    /// Gathers the links that were not seen yet, and has the first vectors of them fetched.
    fn look_around(&mut self, graph: &Graph, links: &[u32]) {
        let is_full = self.near.len() == graph.shape.candidates;
        self.fresh.clear();
        for link in links {
            if !self.see(*link) {
                match self.fresh.len() {
                    waiting if is_full && waiting < QUANTIZED_AHEAD => graph.quantized.prefetch(*link),
                    waiting if !is_full && waiting < AHEAD => prefetch(graph.vector(*link)),
                    _ => {}
                }
                self.fresh.push(*link);
            }
        }
    }

    /// Drops the links that are too far away to be taken, as their quantized vectors tell: four in five.
    fn pass_over(&mut self, graph: &Graph, element: u32) {
        let Some(farthest) = self.near.last().map(|candidate| candidate.distance()) else { return };
        let mut kept = 0;
        for place in 0..self.fresh.len() {
            let link = self.fresh[place];
            if let Some(next) = self.fresh.get(place + QUANTIZED_AHEAD) {
                graph.quantized.prefetch(*next);
            }
            if graph.quantized.bounds(graph.shape.space, element, link).are_above(farthest) {
                continue;
            }
            if kept < AHEAD {
                prefetch(graph.vector(link));
            }
            self.fresh[kept] = link;
            kept += 1;
        }
        self.fresh.truncate(kept);
    }

    fn begin(&mut self, count: usize) {
        self.near.clear();
        self.number = self.number.wrapping_add(1);
        if self.seen.len() != count || self.number == 0 {
            self.seen = vec![0; count];
            self.number = 1;
        }
    }

    /// Marks an element as seen; whether it had been.
    fn see(&mut self, element: u32) -> bool {
        std::mem::replace(&mut self.seen[element as usize], self.number) == self.number
    }

    /// Takes a candidate in if it is near enough; where it went.
    fn take(&mut self, found: Candidate, width: usize) -> Option<usize> {
        if self.near.len() == width {
            if self.near[width - 1] <= found {
                return None;
            }
            self.near.pop();
        }
        let place = self.near.partition_point(|other| *other < found);
        self.near.insert(place, found);
        Some(place)
    }
}

/// Level of an element: geometric with mean `1 / ln(M)`, drawn by SplitMix64 from the element's number alone.
fn level(element: u64, links: usize) -> u8 {
    let mut bits = element.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    let uniform = ((bits >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    (-uniform.ln() / (links as f64).ln()).min(32.0) as u8
}

/// Maps items on all cores; results come in the order of the items. A core that has other things to do takes fewer.
fn parallel<T: Sync, R: Send>(
    searches: &mut [Search],
    items: &[T],
    act: impl Fn(&mut Search, &T) -> R + Sync,
) -> Vec<R> {
    let pieces = Mutex::new(items.chunks(PIECE).enumerate());
    let work = |search: &mut Search| {
        let mut done = Vec::new();
        loop {
            let piece = pieces.lock().expect("nothing panics while it is locked").next();
            let Some((number, piece)) = piece else { return done };
            done.push((number, piece.iter().map(|item| act(search, item)).collect::<Vec<R>>()));
        }
    };
    let wanted = items.len().div_ceil(PIECE).clamp(1, searches.len());
    let (own, others) = searches[..wanted].split_first_mut().expect("there is one at least");
    let mut parts = std::thread::scope(|scope| {
        // Where a thread cannot be started, those that are there take its pieces.
        let start = |search| std::thread::Builder::new().spawn_scoped(scope, || work(search)).ok();
        let running: Vec<_> = others.iter_mut().filter_map(start).collect();
        let mut parts = work(own);
        parts.extend(running.into_iter().flat_map(|thread| thread.join().expect("no search panics")));
        parts
    });
    parts.sort_unstable_by_key(|(number, _)| *number);
    parts.into_iter().flat_map(|(_, results)| results).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::chroma::Space;

    const DIMENSION: usize = 24;

    /// Numbers in no order, rounded so that some distances are equal.
    fn vectors(count: usize) -> Vec<f32> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 61) as f32) - 3.5
        };
        (0..count * DIMENSION).map(|_| next()).collect()
    }

    fn lists(graph: &Graph) -> Vec<Vec<u32>> {
        let levels =
            (0..graph.count() as u32).flat_map(|element| (0..=graph.level(element)).map(move |at| (element, at)));
        levels.map(|(element, level)| graph.links(element, level).to_vec()).collect()
    }

    #[test]
    fn quantized_vectors_change_nothing() {
        let vectors = vectors(3000);
        for space in [Space::L2, Space::Cosine, Space::InnerProduct] {
            let shape = IndexShape { space, links: 8, candidates: 40 };
            let with = Graph::build_on(2, &vectors, DIMENSION, shape);
            let without = Graph::build_with(Quantized::blind(3000, DIMENSION), 2, &vectors, DIMENSION, shape);
            assert_eq!(lists(&with), lists(&without), "{space:?}");
        }
    }

    #[test]
    fn number_of_threads_changes_nothing() {
        let vectors = vectors(3000);
        let shape = IndexShape { space: Space::L2, links: 8, candidates: 40 };
        let alone = Graph::build_on(1, &vectors, DIMENSION, shape);
        for threads in [2, 3, 7] {
            let together = Graph::build_on(threads, &vectors, DIMENSION, shape);
            assert_eq!(lists(&alone), lists(&together), "{threads} threads");
            assert_eq!(alone.entry(), together.entry());
        }
    }
}
