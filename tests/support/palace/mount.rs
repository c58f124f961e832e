//! File systems of their own for palaces: small ones, and ones that turn read-only.

use super::{Arena, BINARY, Run, is_root, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something mounted, unmounted with this value.
pub(crate) struct Mount {
    path: PathBuf,
    /// Where the mount point was made, if it was made for this.
    _root: Option<tempfile::TempDir>,
}

impl Mount {
    /// Mounts a tmpfs of this size; says SKIPPED where that is not allowed.
    pub(crate) fn tmpfs(size: &str, what: &str) -> Option<Mount> {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("mount");
        std::fs::create_dir(&path).expect("a directory");
        let options = format!("size={size},mode=755");
        let mut mount = Mount::over(&path, &["-t", "tmpfs", "-o", &options, "palacekeeper-test"], what)?;
        mount._root = Some(root);
        Some(mount)
    }

    /// Mounts something over a directory; says SKIPPED where that is not allowed.
    pub(crate) fn over(path: &Path, options: &[&str], what: &str) -> Option<Mount> {
        let mounts =
            is_root() && Command::new("mount").args(options).arg(path).output().is_ok_and(|run| run.status.success());
        if !mounts {
            skip(&format!("{what}: mounting needs root, and a kernel that allows it"));
            return None;
        }
        Some(Mount { path: path.to_owned(), _root: None })
    }

    /// Mounts a directory of a mounted file system at another place; what is in it stays when this is unmounted.
    pub(crate) fn bind(source: &Path, target: &Path) -> Mount {
        let source = source.to_str().expect("a path of a test is text");
        Mount::over(target, &["--bind", source], "a directory at another place").expect("what is mounted can be bound")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts it again with other options.
    pub(crate) fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.path).status();
        assert!(done.is_ok_and(|status| status.success()), "remount {options}");
    }

    /// Runs the binary on a palace on this file system, with the home of an arena.
    pub(crate) fn run(&self, arena: &Arena, palace: &str, arguments: &[&str]) -> Run {
        let mut command = Command::new(BINARY);
        command.arg("--palace").arg(self.path.join(palace)).args(arguments);
        arena.confine(&mut command);
        Run::of(&mut command)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}
