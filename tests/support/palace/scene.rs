//! A state that a kill left behind, to be set up again as often as a test wants to go on from it.
//!
//! A copy will not do: the journal recognises what it is about to replace by inode. So those few inodes are kept
//! alive in a vault and put back under their old names; everything else is written anew.

use super::{Arena, Kind, Tree, no_spawning, segment_directories};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// An arena that goes back to the state in which it was saved.
pub(crate) struct Scene {
    arena: Arena,
    saved: Tree,
    precious: BTreeSet<u64>,
}

impl Scene {
    /// Saves the present state of an arena. `store` names what stood in the palace when the interrupted operation
    /// began, by inode.
    pub(crate) fn save(arena: Arena, store: &BTreeSet<u64>) -> Scene {
        let vault = arena.root().join("vault");
        fs::create_dir(&vault).expect("a vault");
        let saved = Tree(Tree::of(arena.root()).0.into_iter().filter(|(path, _)| is_state(path)).collect());
        Scene { arena, saved, precious: store.clone() }
    }

    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Goes back to the saved state.
    pub(crate) fn restore(&self) {
        let root = self.arena.root();
        self.fill_vault(root);
        let _open = no_spawning();
        for name in [self.arena.palace(), self.arena.keep()] {
            let _ = fs::remove_dir_all(name);
        }
        for (path, node) in &self.saved.0 {
            let (target, kept) = (root.join(path), self.vault(node.inode));
            match &node.kind {
                Kind::Directory if kept.exists() => fs::rename(kept, target).expect("out of the vault"),
                Kind::Directory if target.exists() => {}
                Kind::Directory => fs::create_dir(target).expect("a directory"),
                Kind::File(_) if target.exists() => {} // it came with its directory
                Kind::File(bytes) if kept.exists() => {
                    fs::hard_link(&kept, &target).expect("out of the vault");
                    assert!(
                        fs::read(&target).is_ok_and(|now| now == *bytes),
                        "{} was changed in place",
                        path.display()
                    );
                }
                Kind::File(bytes) => {
                    fs::write(&target, bytes).expect("a file");
                    fs::set_permissions(&target, fs::Permissions::from_mode(node.mode)).expect("a mode");
                }
                Kind::Link(_) => unreachable!("no fixture holds a link"),
            }
        }
    }

    /// Moves what must survive into the vault: files by a second name, directories themselves.
    fn fill_vault(&self, root: &Path) {
        for (path, node) in &Tree::of(root).0 {
            let kept = self.vault(node.inode);
            match node.kind {
                _ if !self.precious.contains(&node.inode) || kept.exists() => {}
                Kind::Directory => fs::rename(root.join(path), kept).expect("into the vault"),
                _ => fs::hard_link(root.join(path), kept).expect("into the vault"),
            }
        }
    }

    fn vault(&self, inode: u64) -> PathBuf {
        self.arena.root().join("vault").join(inode.to_string())
    }
}

/// The inodes by which an operation recognises the store it replaces.
pub(crate) fn store_inodes(arena: &Arena) -> BTreeSet<u64> {
    let store = Tree::of(&arena.palace()).store(&segment_directories(&arena.palace()));
    let top = store.0.iter().filter(|(path, _)| path.components().count() == 1);
    top.map(|(_, node)| node.inode).collect()
}

/// The palace and its keep; not the home, the temporary files, the vault.
fn is_state(path: &Path) -> bool {
    path.to_string_lossy().starts_with("palace")
}
