//! Directory trees as values: every name with its bytes, so that “not a byte was changed” is one comparison.

use super::{SIBLINGS, read};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everything below a directory, by path relative to it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) BTreeMap<PathBuf, Node>);

/// One entry. Two are equal where kind, mode and bytes are; times and inodes are compared on request.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) inode: u64,
    pub(crate) modified_ns: i64,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Directory,
    Link(PathBuf),
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        (&self.kind, self.mode, self.owner) == (&other.kind, other.mode, other.owner)
    }
}

impl Eq for Node {}

impl Tree {
    /// Reads all below a directory; nothing where there is none.
    pub(crate) fn of(directory: &Path) -> Tree {
        let mut nodes = BTreeMap::new();
        walk(directory, Path::new(""), &mut nodes);
        Tree(nodes)
    }

    /// The entries of a palace that belong to its store, given its segment directories.
    pub(crate) fn store(&self, segments: &BTreeSet<String>) -> Tree {
        self.filter(|top| is_store(top, segments))
    }

    /// Everything that does not belong to the store.
    pub(crate) fn sidecars(&self, segments: &BTreeSet<String>) -> Tree {
        self.filter(|top| !is_store(top, segments))
    }

    fn filter(&self, keeps: impl Fn(&str) -> bool) -> Tree {
        let top = |path: &Path| path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let kept = self.0.iter().filter(|(path, _)| top(path).is_some_and(|top| keeps(&top)));
        Tree(kept.map(|(path, node)| (path.clone(), node.clone())).collect())
    }

    /// What stands directly in the directory.
    pub(crate) fn top(&self) -> BTreeSet<String> {
        let names = self.0.keys().filter(|path| path.components().count() == 1);
        names.map(|path| path.to_string_lossy().into_owned()).collect()
    }

    /// The bytes of one file.
    #[track_caller]
    pub(crate) fn bytes(&self, path: &str) -> &[u8] {
        match self.0.get(Path::new(path)).map(|node| &node.kind) {
            Some(Kind::File(bytes)) => bytes,
            _ => panic!("{path} is not a file of the tree"),
        }
    }

    /// Insists on the same names, modes and bytes.
    #[track_caller]
    pub(crate) fn assert_equals(&self, other: &Tree, what: &str) {
        let difference = self.difference(other, |one, two| one == two);
        assert!(difference.is_empty(), "{what}: {}", difference.join(", "));
    }

    /// Insists on the same names, modes, bytes, inodes and times of change: nobody has written here.
    #[track_caller]
    pub(crate) fn assert_untouched(&self, now: &Tree, what: &str) {
        let is_same =
            |one: &Node, two: &Node| one == two && (one.inode, one.modified_ns) == (two.inode, two.modified_ns);
        let difference = self.difference(now, is_same);
        assert!(difference.is_empty(), "{what}: {}", difference.join(", "));
    }

    /// The same, but for some entries that may be new or touched.
    #[track_caller]
    pub(crate) fn assert_but_for(&self, now: &Tree, except: &[&str]) {
        let but = |tree: &Tree| {
            let kept = tree.0.iter().filter(|(path, _)| !except.iter().any(|name| *path == Path::new(name)));
            Tree(kept.map(|(path, node)| (path.clone(), node.clone())).collect())
        };
        but(self).assert_untouched(&but(now), &format!("all but {except:?}"));
    }

    /// What differs, in words.
    pub(crate) fn difference(&self, other: &Tree, is_same: impl Fn(&Node, &Node) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for (path, node) in &self.0 {
            match other.0.get(path) {
                None => found.push(format!("{} is gone", path.display())),
                Some(now) if !is_same(node, now) => found.push(format!("{} was changed", path.display())),
                Some(_) => {}
            }
        }
        let new = other.0.keys().filter(|path| !self.0.contains_key(*path));
        found.extend(new.map(|path| format!("{} is new", path.display())));
        found
    }
}

fn is_store(name: &str, segments: &BTreeSet<String>) -> bool {
    name == "chroma.sqlite3" || SIBLINGS.contains(&name) || segments.contains(name)
}

fn walk(root: &Path, relative: &Path, nodes: &mut BTreeMap<PathBuf, Node>) {
    let Ok(entries) = fs::read_dir(root.join(relative)) else { return };
    for entry in entries {
        let path = relative.join(entry.expect("an entry").file_name());
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).expect("an entry has metadata");
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link(fs::read_link(&full).expect("a link")),
            kind if kind.is_file() => Kind::File(read(&full).expect("a file can be read")),
            _ => Kind::Link(full.clone()), // a socket or a pipe: its name is all there is to compare
        };
        let modified_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
        let owner = (metadata.uid(), metadata.gid());
        let node = Node { kind, mode: metadata.mode(), owner, inode: metadata.ino(), modified_ns };
        let is_directory = node.kind == Kind::Directory;
        assert!(nodes.insert(path.clone(), node).is_none(), "{:?} twice", path.as_os_str().as_bytes());
        if is_directory {
            walk(root, &path, nodes);
        }
    }
}
