//! A disk in memory that can lose what was never synced.
//!
//! Every node and every directory entry exists twice: as running programs see it, and as the platter holds it. Between
//! the two lies a list of pending changes, in the order they were made; [`Disk::sync`] moves those of one file or one
//! directory to the platter, and [`MemoryDisk::crash`] lets a [`Fate`] decide, change by change, which of the others
//! got there by themselves. A rename is one change, as on every journaling file system; all others fall independently,
//! as POSIX allows.
//!
//! Every mutating verb is one *event*, and a verb that writes bytes is two: nothing written yet, and a part of it
//! written. A [`Fault`] strikes at one event, and [`MemoryDisk::fired`] says whether it did.

mod bytes;
mod handle;
mod lock;
mod state;

pub use handle::{Handle, Missing};

use lock::Locked;
use palacekeeper::disk::{Contents, Disk, Error, Inodes, Kind, Lock, Poison, Result, Stat};
use state::{Inode, Node, Pending, SEEN, State};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What happens at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is gone: this verb and all later ones fail.
    Crash,
    /// This verb fails, and later ones do not.
    Once(ErrorKind),
    /// This verb and all later ones that change something fail.
    Forever(ErrorKind),
}

/// What a crash does with each pending change: a digit for each, the lowest for the oldest change. 0 keeps it, 1 drops
/// it; of written bytes 2 keeps the first half and then zeros, 3 keeps only the length, and 4 lets each sector be
/// written, stay as it was, or become garbage. Any random number is a fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate(pub u64);

impl Fate {
    /// Everything got through.
    pub const KEEP: Fate = Fate(0);
    /// The power went, and nothing got through that was not synced.
    pub const POWER_CUT: Fate = Fate(u64::MAX);
}

/// The disk.
pub struct MemoryDisk(Rc<RefCell<State>>, Cell<Option<Poison>>);

impl MemoryDisk {
    fn of(state: State) -> MemoryDisk {
        MemoryDisk(Rc::new(RefCell::new(state)), Cell::new(None))
    }

    /// A disk with the directories of these paths.
    pub fn new(directories: &[&str]) -> MemoryDisk {
        let disk = MemoryDisk::of(State::new());
        for directory in directories {
            disk.create_dir(Path::new(directory)).expect("a new disk is empty");
        }
        disk.settle();
        disk
    }

    /// Another handle of this very disk, as a process gets that has not failed yet.
    pub fn share(&self) -> MemoryDisk {
        MemoryDisk(Rc::clone(&self.0), Cell::new(None))
    }

    /// Lets all files together have no more bytes than this.
    pub fn limit(&self, room: u64) {
        self.0.borrow_mut().room = room;
    }

    /// Copies a real directory to `at`, durably.
    pub fn load(&self, real: &Path, at: &Path) {
        if self.stat(at).expect("the disk is sound").is_none() {
            self.create_dir(at).expect("its parent is there");
        }
        for entry in std::fs::read_dir(real).expect("a directory") {
            let entry = entry.expect("an entry");
            let target = at.join(entry.file_name());
            match entry.file_type().expect("an entry").is_dir() {
                true => self.load(&entry.path(), &target),
                false => self.create(&target, &std::fs::read(entry.path()).expect("a file")).expect("it is new"),
            }
        }
        self.settle();
    }

    /// The same disk again, with a fault that waits at an event from here on.
    pub fn with_fault(&self, event: u32, fault: Fault) -> MemoryDisk {
        let mut state = self.0.borrow().clone();
        (state.events, state.fired, state.fault, state.history) = (0, 0, Some((event, fault)), None);
        state.syncs.clear();
        state.locks.clear();
        MemoryDisk::of(state)
    }

    /// The same disk again, without a fault, and with its events counted from here on.
    pub fn fresh(&self) -> MemoryDisk {
        self.with_fault(u32::MAX, Fault::Crash)
    }

    /// The same disk again, remembering how it was at each event: what a crash there would find.
    pub fn with_history(&self) -> MemoryDisk {
        let disk = self.fresh();
        disk.0.borrow_mut().history = Some(Vec::new());
        disk
    }

    /// The disk at each event, the first one first, and as it is now.
    pub fn history(&self) -> Vec<MemoryDisk> {
        let mut now = self.0.borrow().clone();
        let mut history = now.history.take().expect("somebody wanted to know");
        history.push(now);
        history.into_iter().map(MemoryDisk::of).collect()
    }

    /// Makes a directory the root of a file system of its own.
    pub fn mount_on(&self, path: &Path) {
        self.0.borrow_mut().mount(path).expect("a file system is mounted on a directory");
    }

    /// Events so far.
    pub fn events(&self) -> u32 {
        self.0.borrow().events
    }

    /// Those of them that were syncs.
    pub fn syncs(&self) -> Vec<u32> {
        self.0.borrow().syncs.clone()
    }

    /// How often the fault struck.
    pub fn fired(&self) -> u32 {
        self.0.borrow().fired
    }

    /// Changes that a crash could still lose.
    pub fn pending(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// Makes everything durable: what a person did between two crashes has long reached the platter.
    pub fn settle(&self) {
        self.0.borrow_mut().settle();
    }

    /// The fates that make a difference: all of them where there are few, otherwise both extremes and the seeds.
    pub fn fates(&self, seeds: &[u64]) -> Vec<Fate> {
        let all = self.0.borrow().pending.iter().try_fold(1_u64, |all, change| all.checked_mul(change.fates()));
        match all {
            Some(all @ 0..=32) => (0..all).map(Fate).collect(),
            _ => [Fate::KEEP, Fate::POWER_CUT].into_iter().chain(seeds.iter().copied().map(Fate)).collect(),
        }
    }

    /// The disk as the next process finds it while the machine lives on: nothing is lost yet, and nothing more is
    /// durable.
    pub fn kill(&self) -> MemoryDisk {
        self.fresh()
    }

    /// The disk as the next process finds it after the machine went down.
    pub fn crash(&self, fate: Fate) -> MemoryDisk {
        let mut state = self.0.borrow().clone();
        let mut digits = fate.0;
        state.survive(fate.0, |change| {
            let digit = if fate == Fate::POWER_CUT { 1 } else { digits % change.fates() };
            digits /= change.fates();
            digit
        });
        MemoryDisk::of(state).fresh()
    }

    /// Everything below a directory as programs see it: contents of files, `None` for directories.
    pub fn image(&self, directory: &str) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let state = self.0.borrow();
        let (mut image, mut todo) = (BTreeMap::new(), vec![PathBuf::from(directory)]);
        while let Some(path) = todo.pop() {
            let Ok(node) = state.find(&path) else { continue };
            let inode = &state.nodes[&node][SEEN];
            todo.extend(state.entries(node).map(|name| path.join(name)));
            image.insert(path, (!inode.is_directory).then(|| inode.bytes.to_vec()));
        }
        image
    }

    /// The clock: every node and every time so far is at most this.
    pub fn now(&self) -> u64 {
        self.0.borrow().made
    }

    /// A number that is the same for two disks on which everything goes the same way; see `State::fingerprint`.
    pub fn fingerprint(&self, era: u64) -> u64 {
        self.0.borrow().fingerprint(era)
    }

    /// The mode of an entry.
    pub fn mode(&self, path: &Path) -> u32 {
        let state = self.0.borrow();
        state.nodes[&state.find(path).expect("somebody asks for the mode of something")][SEEN].mode
    }

    /// Changes the mode of an entry, durably.
    pub fn set_mode(&self, path: &Path, mode: u32) {
        let mut state = self.0.borrow_mut();
        let node = state.find(path).expect("somebody changes the mode of something");
        state.change(Pending::Mode { node, mode });
        state.settle();
    }

    /// A change, unless one has failed before.
    fn change<T>(&self, verb: &'static str, path: &Path, act: impl FnOnce(&mut State) -> io::Result<T>) -> Result<T> {
        let changed = match self.1.get() {
            Some(_) => Err(io::Error::other("an earlier write or sync failed")),
            None => act(&mut self.0.borrow_mut()),
        };
        changed.map_err(|source| Error::new(verb, path, source))
    }

    /// One event, then the change, if nothing strikes.
    fn act<T>(&self, verb: &'static str, path: &Path, act: impl FnOnce(&mut State) -> io::Result<T>) -> Result<T> {
        self.change(verb, path, |state| state.tick().and_then(|()| act(state)))
    }

    /// The same for what leaves a disk in doubt when it fails; the real disk takes no more changes after that either.
    fn write<T>(&self, verb: &'static str, path: &Path, act: impl FnOnce(&mut State) -> io::Result<T>) -> Result<T> {
        self.act(verb, path, act).inspect_err(|_| self.1.set(self.1.get().or(Some(Poison::Write))))
    }

    /// The same for a sync of one kind or the other, which knows its event itself.
    fn flush(&self, verb: &'static str, path: &Path, sync: fn(&mut State, Node) -> io::Result<()>) -> Result<()> {
        let node = self.change(verb, path, |state| state.find(path))?;
        let synced = self.change(verb, path, |state| sync(state, node));
        synced.inspect_err(|_| self.1.set(self.1.get().or(Some(Poison::Sync))))
    }

    fn look<T>(&self, verb: &'static str, path: &Path, look: impl FnOnce(&State) -> io::Result<T>) -> Result<T> {
        let state = self.0.borrow();
        let outcome = if state.is_dead() { Err(io::Error::other("crashed")) } else { look(&state) };
        outcome.map_err(|source| Error::new(verb, path, source))
    }
}

impl Disk for MemoryDisk {
    fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        self.look("look at", path, |state| {
            let Ok(node) = state.find(path) else { return Ok(None) };
            let inode = &state.nodes[&node][SEEN];
            let kind = if inode.is_directory { Kind::Directory } else { Kind::File };
            let (length, modified_ns) = (inode.bytes.len() as u64, inode.modified_ns);
            Ok(Some(Stat { kind, device: inode.device, node, length, allocated: length, modified_ns }))
        })
    }

    fn list(&self, directory: &Path) -> Result<Vec<OsString>> {
        self.look("list", directory, |state| {
            let node = state.find(directory)?;
            if !state.nodes[&node][SEEN].is_directory {
                return Err(ErrorKind::NotADirectory.into());
            }
            Ok(state.entries(node).cloned().collect())
        })
    }

    fn read(&self, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.look("read", path, |state| {
            let found = &state.nodes[&state.find(path)?][SEEN].bytes;
            let length = length.min((found.len() as u64).saturating_sub(offset));
            let mut bytes = vec![0; length as usize];
            found.read(offset as usize, &mut bytes);
            Ok(bytes)
        })
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Contents>> {
        self.look("open", path, |state| {
            let node = state.find(path)?;
            match state.nodes[&node][SEEN].is_directory {
                true => Err(ErrorKind::NotFound.into()),
                false => Ok(Box::new(Handle { disk: self.share(), node }) as Box<dyn Contents>),
            }
        })
    }

    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>> {
        self.look("find", path, |state| Ok(state.find(path).ok().map(|_| path.to_owned())))
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        if self.stat(path)?.is_none() {
            self.create(path, b"")?;
        }
        let node = self.look("lock", path, |state| state.find(path))?;
        if !self.0.borrow_mut().locks.insert(node) {
            return Ok(None);
        }
        Ok(Some(Box::new(Locked::new(self.share(), path, node))))
    }

    /// Nobody else is on this machine.
    fn find_user_of(&self, _: &Inodes) -> Option<String> {
        None
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write("create", path, |state| {
            let node = state.make(path, false)?;
            state.write(node, bytes)
        })
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write("append to", path, |state| {
            let node = state.find(path)?;
            state.write(node, bytes)
        })
    }

    fn truncate(&self, path: &Path, length: u64) -> Result<()> {
        self.write("truncate", path, |state| {
            let node = state.find(path)?;
            state.made += 1;
            let modified_ns = state.made as i64;
            state.change(Pending::Length { node, length: length as usize, modified_ns });
            Ok(())
        })
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.act("create the directory", path, |state| state.make(path, true).map(drop))
    }

    fn create_private_dir(&self, path: &Path, _: &Path) -> Result<()> {
        self.act("create the directory", path, |state| {
            let node = state.make(path, true)?;
            state.change(Pending::Mode { node, mode: 0o700 });
            Ok(())
        })
    }

    fn copy(&self, source: &Path, target: &Path) -> Result<()> {
        self.write("write", target, |state| {
            let Inode { bytes, mode, .. } = state.nodes[&state.find(source)?][SEEN].clone();
            let node = state.make(target, false)?;
            state.write(node, &bytes.to_vec())?;
            state.change(Pending::Mode { node, mode });
            Ok(())
        })
    }

    fn link(&self, source: &Path, target: &Path) -> Result<()> {
        self.act("link", target, |state| {
            let (node, key) = (state.find(source)?, state.free(target)?);
            state.check_device(node, &key)?;
            state.change(Pending::Names(vec![(key, Some(node))]));
            Ok(())
        })
    }

    fn rename(&self, source: &Path, target: &Path) -> Result<()> {
        self.act("rename to", target, |state| {
            let key = state.free(target)?;
            state.rename(source, key)
        })
    }

    fn replace(&self, source: &Path, target: &Path) -> Result<()> {
        self.act("replace", target, |state| {
            let key = state.key(target)?;
            state.rename(source, key)
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.act("remove", path, |state| {
            let (node, key) = (state.find(path)?, state.key(path)?);
            if state.entries(node).next().is_some() {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            state.change(Pending::Names(vec![(key, None)]));
            Ok(())
        })
    }

    fn adopt(&self, path: &Path, model: &Path) -> Result<()> {
        self.act("set the mode of", path, |state| {
            let mode = state.nodes[&state.find(model)?][SEEN].mode;
            let node = state.find(path)?;
            state.change(Pending::Mode { node, mode });
            Ok(())
        })
    }

    fn sync(&self, path: &Path) -> Result<()> {
        self.flush("sync", path, State::sync)
    }

    fn sync_all(&self, directory: &Path) -> Result<()> {
        self.flush("sync the file system of", directory, State::sync_device)
    }

    fn evict(&self, path: &Path) -> Result<()> {
        let node = self.look("read anew", path, |state| state.find(path))?;
        self.0.borrow_mut().evict(node);
        Ok(())
    }

    fn mount(&self, path: &Path) -> Result<Option<u64>> {
        Ok(self.stat(path)?.map(|found| found.device))
    }

    fn insist_on_access(&self, directory: &Path) -> Result<()> {
        self.look("write to", directory, |state| state.find(directory).map(drop))
    }

    fn space(&self, _: &Path) -> Result<u64> {
        let state = self.0.borrow();
        Ok(state.room.saturating_sub(state.used()))
    }

    fn poison(&self) -> Option<Poison> {
        self.1.get()
    }

    fn afresh(&self) -> Box<dyn Disk + '_> {
        Box::new(self.share())
    }
}
