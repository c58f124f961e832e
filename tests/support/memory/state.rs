//! What a disk in memory holds, on both sides of a sync.

use super::Fault;
use super::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::rc::Rc;

pub(super) type Node = u64;
/// An entry, by its directory and its name there.
type Key = (Node, OsString);
const ROOT: Node = 1;

/// Index of what programs see, and of what the platter holds.
pub(super) const SEEN: usize = 0;
const PLATTER: usize = 1;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<Node, Rc<[Inode; 2]>>,
    names: [BTreeMap<Key, Node>; 2],
    pub(super) pending: Vec<Pending>,
    /// Nodes and writes made so far: the next inode number, and the clock.
    pub(super) made: u64,
    pub(super) events: u32,
    /// The events that were syncs.
    pub(super) syncs: Vec<u32>,
    pub(super) fault: Option<(u32, Fault)>,
    pub(super) fired: u32,
    /// Bytes that all files together may have.
    pub(super) room: u64,
    /// Lock files that somebody holds.
    pub(super) locks: BTreeSet<Node>,
    /// The disk as it was at each event, where somebody wants to know.
    pub(super) history: Option<Vec<State>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) is_directory: bool,
    pub(super) bytes: Bytes,
    pub(super) mode: u32,
    pub(super) modified_ns: i64,
    /// The file system it is on.
    pub(super) device: u64,
}

/// A change that is not durable yet.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Names(Vec<(Key, Option<Node>)>),
    Bytes { node: Node, at: usize, bytes: Rc<[u8]>, modified_ns: i64 },
    Length { node: Node, length: usize, modified_ns: i64 },
    Mode { node: Node, mode: u32 },
}

impl Pending {
    /// How many ways a crash can go for it.
    pub(super) fn fates(&self) -> u64 {
        if let Pending::Bytes { .. } = self { 5 } else { 2 }
    }

    fn is_contents_of(&self, file: Node) -> bool {
        matches!(self, Pending::Bytes { node, .. } | Pending::Length { node, .. } if *node == file)
    }

    /// What gets through of a change on a file that holds `old`; `None` where nothing does.
    fn survivor(self, fate: u64, salt: u64, old: &Bytes) -> Option<Pending> {
        match (fate, self) {
            (0, change) => Some(change),
            (2 | 3, Pending::Bytes { node, at, bytes, modified_ns }) => {
                let intact = if fate == 2 { bytes.len() / 2 } else { 0 };
                let mut torn = bytes.to_vec();
                torn[intact..].fill(0);
                Some(Pending::Bytes { node, at, bytes: torn.into(), modified_ns })
            }
            (4, Pending::Bytes { node, at, bytes, modified_ns }) => {
                let bytes = garbled(at, &bytes, salt, old);
                Some(Pending::Bytes { node, at, bytes, modified_ns })
            }
            _ => None,
        }
    }
}

/// Bytes that a disk writes as a whole, or loses as a whole.
const SECTOR: usize = 512;

/// What a write leaves where each sector goes its own way: it is written, or stays as it was, or is garbage.
fn garbled(at: usize, bytes: &[u8], salt: u64, old: &Bytes) -> Rc<[u8]> {
    let mut left = bytes.to_vec();
    let mut from = 0;
    while from < left.len() {
        let to = left.len().min(from + SECTOR - (at + from) % SECTOR);
        let garbage = *blake3::hash(format!("{salt} {}", at + from).as_bytes()).as_bytes();
        match garbage[0] % 3 {
            0 => {}
            1 => {
                left[from..to].fill(0);
                old.read(at + from, &mut left[from..to]);
            }
            _ => left[from..to].iter_mut().zip(garbage.iter().cycle()).for_each(|(byte, noise)| *byte = *noise),
        }
        from = to;
    }
    left.into()
}

impl State {
    pub(super) fn new() -> State {
        let mut state = State { made: ROOT, room: u64::MAX, ..State::default() };
        let root = Inode { is_directory: true, mode: 0o755, ..Inode::default() };
        state.nodes.insert(ROOT, Rc::new([root.clone(), root]));
        state
    }

    /// One event; an error where the fault strikes.
    pub(super) fn tick(&mut self) -> io::Result<()> {
        let event = self.events;
        self.events += 1;
        self.remember();
        let error = match self.fault {
            None => return Ok(()),
            Some((at, Fault::Once(_))) if event != at => return Ok(()),
            Some((at, _)) if event < at => return Ok(()),
            Some((_, Fault::Crash)) => io::Error::other("crashed"),
            Some((_, Fault::Once(kind) | Fault::Forever(kind))) => kind.into(),
        };
        self.fired += 1;
        Err(error)
    }

    fn remember(&mut self) {
        if let Some(mut history) = self.history.take() {
            history.push(self.clone());
            self.history = Some(history);
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.fired > 0 && matches!(self.fault, Some((_, Fault::Crash)))
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Node> {
        let mut node = ROOT;
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(name) => {
                    node = *self.names[SEEN].get(&(node, name.to_owned())).ok_or(ErrorKind::NotFound)?;
                }
                _ => return Err(io::Error::other("a path that must never be made")),
            }
        }
        Ok(node)
    }

    /// The key of an entry, whether it exists or not.
    pub(super) fn key(&self, path: &Path) -> io::Result<Key> {
        let parent = self.find(path.parent().ok_or(ErrorKind::InvalidInput)?)?;
        match self.nodes[&parent][SEEN].is_directory {
            true => Ok((parent, path.file_name().unwrap_or(OsStr::new("")).to_owned())),
            false => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// The key of an entry that does not exist.
    pub(super) fn free(&self, path: &Path) -> io::Result<Key> {
        match self.find(path) {
            Ok(_) => Err(ErrorKind::AlreadyExists.into()),
            Err(_) => self.key(path),
        }
    }

    pub(super) fn entries(&self, directory: Node) -> impl Iterator<Item = &OsString> {
        let keys = self.names[SEEN].range((directory, OsString::new())..(directory + 1, OsString::new()));
        keys.map(|((_, name), _)| name)
    }

    /// A new node under a free name. A node itself is never lost; without a name nobody finds it.
    pub(super) fn make(&mut self, path: &Path, is_directory: bool) -> io::Result<Node> {
        let key = self.free(path)?;
        self.made += 1;
        let mode = if is_directory { 0o755 } else { 0o644 };
        let device = self.nodes[&key.0][SEEN].device;
        let inode = Inode { is_directory, mode, bytes: Bytes::default(), modified_ns: self.made as i64, device };
        self.nodes.insert(self.made, Rc::new([inode.clone(), inode]));
        self.change(Pending::Names(vec![(key, Some(self.made))]));
        Ok(self.made)
    }

    /// Writes at the end of a file.
    pub(super) fn write(&mut self, node: Node, bytes: &[u8]) -> io::Result<()> {
        let at = self.nodes[&node][SEEN].bytes.len();
        self.write_at(node, at, bytes)
    }

    /// Writes somewhere. The event lies between the first half and the whole.
    pub(super) fn write_at(&mut self, node: Node, at: usize, bytes: &[u8]) -> io::Result<()> {
        let end = (at + bytes.len()).saturating_sub(self.nodes[&node][SEEN].bytes.len());
        if self.room < u64::MAX && self.used() + end as u64 > self.room {
            return Err(ErrorKind::StorageFull.into());
        }
        self.made += 1;
        let modified_ns = self.made as i64;
        let written = |bytes: &[u8]| Pending::Bytes { node, at, bytes: bytes.into(), modified_ns };
        self.change(written(&bytes[..bytes.len() / 2]));
        self.tick()?;
        self.pending.pop();
        self.change(written(bytes));
        Ok(())
    }

    /// Bytes that all files together have, as programs see them: whatever has lost its last name takes no room.
    pub(super) fn used(&self) -> u64 {
        let named: BTreeSet<&Node> = self.names[SEEN].values().collect();
        named.into_iter().map(|node| self.nodes[node][SEEN].bytes.len() as u64).sum()
    }

    pub(super) fn rename(&mut self, source: &Path, target: Key) -> io::Result<()> {
        let (node, from) = (self.find(source)?, self.key(source)?);
        self.check_device(node, &target)?;
        self.change(Pending::Names(vec![(from, None), (target, Some(node))]));
        Ok(())
    }

    pub(super) fn change(&mut self, change: Pending) {
        self.apply(SEEN, &change);
        self.pending.push(change);
    }

    fn apply(&mut self, side: usize, change: &Pending) {
        match change {
            Pending::Names(effects) => {
                for (key, node) in effects {
                    self.names[side].remove(key);
                    self.names[side].extend(node.map(|node| (key.clone(), node)));
                }
            }
            Pending::Bytes { node, at, bytes, modified_ns } => {
                let inode = self.inode(side, node);
                inode.bytes.write(*at, bytes);
                inode.modified_ns = *modified_ns;
            }
            Pending::Length { node, length, modified_ns } => {
                let inode = self.inode(side, node);
                inode.bytes.resize(*length);
                inode.modified_ns = *modified_ns;
            }
            Pending::Mode { node, mode } => self.inode(side, node).mode = *mode,
        }
    }

    fn inode(&mut self, side: usize, node: &Node) -> &mut Inode {
        let node = self.nodes.get_mut(node).expect("nodes with a pending change are never removed");
        &mut Rc::make_mut(node)[side]
    }

    /// Takes out what a sync of `node` is about: its own contents, and every change of a name in it. A change of the
    /// same name that is older and stays pending is overtaken.
    fn take_pending(&mut self, node: Node) -> Vec<Pending> {
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.pending) {
            match &change {
                Pending::Names(effects) if effects.iter().any(|((directory, _), _)| *directory == node) => {
                    left.iter_mut().for_each(|older| overtake(older, effects));
                    taken.push(change);
                }
                Pending::Bytes { node: of, .. } | Pending::Length { node: of, .. } | Pending::Mode { node: of, .. }
                    if *of == node =>
                {
                    taken.push(change);
                }
                _ => left.push(change),
            }
        }
        self.pending = left;
        taken
    }

    fn make_durable(&mut self, changes: &[Pending]) {
        changes.iter().for_each(|change| self.apply(PLATTER, change));
    }

    /// Nothing has two names, or moves, between two file systems.
    pub(super) fn check_device(&self, node: Node, target: &Key) -> io::Result<()> {
        match self.nodes[&node][SEEN].device == self.nodes[&target.0][SEEN].device {
            true => Ok(()),
            false => Err(ErrorKind::CrossesDevices.into()),
        }
    }

    pub(super) fn mount(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        for side in [SEEN, PLATTER] {
            self.inode(side, &node).device = node;
        }
        Ok(())
    }

    /// Makes durable all that is pending on the file system of a node, and nothing else: an event like [`State::sync`].
    pub(super) fn sync_device(&mut self, node: Node) -> io::Result<()> {
        self.syncs.push(self.events);
        let synced = self.tick();
        if self.is_dead() {
            return synced;
        }
        let device = |node: &Node| self.nodes[node][SEEN].device;
        let is_there = |change: &Pending| match change {
            Pending::Names(effects) => effects.iter().any(|((directory, _), _)| device(directory) == device(&node)),
            Pending::Bytes { node: of, .. } | Pending::Length { node: of, .. } | Pending::Mode { node: of, .. } => {
                device(of) == device(&node)
            }
        };
        let (mut taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(is_there);
        self.pending = left;
        match synced {
            Ok(()) => self.make_durable(&taken),
            Err(_) => {
                taken.retain(|change| matches!(change, Pending::Names(_) | Pending::Mode { .. }));
                self.pending.extend(taken);
            }
        }
        synced
    }

    /// Makes a file's contents or a directory's entries durable: an event. One that fails loses contents for good: the
    /// kernel marks the pages clean, and no later sync knows of them. Names stay where they are: a file system that
    /// cannot write those takes no more changes.
    pub(super) fn sync(&mut self, node: Node) -> io::Result<()> {
        self.syncs.push(self.events);
        let synced = self.tick();
        match synced {
            Ok(()) => {
                let taken = self.take_pending(node);
                self.make_durable(&taken);
            }
            Err(_) if self.is_dead() => {}
            Err(_) => self.pending.retain(|change| !change.is_contents_of(node)),
        }
        synced
    }

    /// Shows of a file what the platter holds; what is still to be written stays in sight.
    pub(super) fn evict(&mut self, node: Node) {
        if !self.pending.iter().any(|change| change.is_contents_of(node)) {
            let bytes = self.nodes[&node][PLATTER].bytes.clone();
            self.inode(SEEN, &node).bytes = bytes;
        }
    }

    pub(super) fn settle(&mut self) {
        let changes = std::mem::take(&mut self.pending);
        self.make_durable(&changes);
    }

    /// What is left after a crash, with a fate for each pending change, the oldest first.
    pub(super) fn survive(&mut self, salt: u64, mut fate: impl FnMut(&Pending) -> u64) {
        let none = Bytes::default();
        for change in std::mem::take(&mut self.pending) {
            let fate = fate(&change);
            let old = match &change {
                Pending::Bytes { node, .. } => self.nodes[node][PLATTER].bytes.clone(),
                _ => none.clone(),
            };
            let survivor = change.survivor(fate, salt, &old);
            self.make_durable(survivor.as_slice());
        }
        self.names[SEEN] = self.names[PLATTER].clone();
        let named: BTreeSet<Node> = self.names[SEEN].values().copied().chain([ROOT]).collect();
        self.nodes.retain(|node, _| named.contains(node));
        for node in self.nodes.values_mut().filter(|node| node[SEEN] != node[PLATTER]) {
            let [seen, platter] = Rc::make_mut(node);
            seen.clone_from(platter);
        }
    }

    /// A number that is the same for two disks on which everything goes the same way, whatever crashes. Inodes and
    /// times that are newer than `era` count only by the order in which they are met: nobody can have noted them down.
    pub(super) fn fingerprint(&self, era: u64) -> u64 {
        let (mut hasher, mut known) = (DefaultHasher::new(), BTreeMap::new());
        self.hash_side(SEEN, era, &mut hasher, &mut known);
        if self.pending.is_empty() {
            return hasher.finish();
        }
        self.hash_side(PLATTER, era, &mut hasher, &mut known);
        let mut number = |node: Node| number(node, era, &mut known);
        for change in &self.pending {
            match change {
                Pending::Names(effects) => effects.iter().for_each(|((directory, name), node)| {
                    (0, number(*directory), name, node.map(&mut number)).hash(&mut hasher);
                }),
                Pending::Bytes { node, at, bytes, .. } => {
                    (1, number(*node), at, blake3::hash(bytes).as_bytes()).hash(&mut hasher);
                }
                Pending::Length { node, length, .. } => (2, number(*node), length).hash(&mut hasher),
                Pending::Mode { node, mode } => (3, number(*node), mode).hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    fn hash_side(&self, side: usize, era: u64, hasher: &mut DefaultHasher, known: &mut BTreeMap<Node, u64>) {
        let mut todo = vec![ROOT];
        while let Some(directory) = todo.pop() {
            let entries = self.names[side].range((directory, OsString::new())..(directory + 1, OsString::new()));
            for ((_, name), node) in entries {
                let Inode { is_directory, bytes, mode, modified_ns, .. } = &self.nodes[node][side];
                let contents = bytes.hash();
                (tame(name), number(*node, era, known), is_directory, contents, mode).hash(hasher);
                (*modified_ns <= era as i64).then_some(modified_ns).hash(hasher);
                todo.extend(is_directory.then_some(*node));
            }
            0xff_u8.hash(hasher);
        }
    }
}

/// A name as far as it means anything: the tail of a scratch directory's is drawn at random.
fn tame(name: &OsStr) -> &OsStr {
    const SCRATCH: &str = ".scratch-";
    if name.as_encoded_bytes().starts_with(SCRATCH.as_bytes()) { OsStr::new(SCRATCH) } else { name }
}

/// The number a node goes by: its own if it is old, else that of its turn.
fn number(node: Node, era: u64, known: &mut BTreeMap<Node, u64>) -> u64 {
    let next = era + known.len() as u64 + 1;
    if node <= era { node } else { *known.entry(node).or_insert(next) }
}

fn overtake(older: &mut Pending, newer: &[(Key, Option<Node>)]) {
    if let Pending::Names(effects) = older {
        effects.retain(|(key, _)| newer.iter().all(|(other, _)| other != key));
    }
}
