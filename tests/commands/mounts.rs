//! Palaces in awkward places: mount points of their own, below what cannot be written to, behind a link. Each is
//! rebuilt, repaired, and killed half-way on both sides of the commit; afterwards every record is as before, and every
//! sidecar.

use crate::support::palace::{
    Arena, BINARY, Content, Mount, Record, Run, Strace, Tree, assert_sound, copy_tree, has, is_root, overwrite,
    segment_directories, segment_of, skip,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const REBUILD: [&str; 2] = ["rebuild", "--yes"];
const NOBODY: u32 = 65534;

/// The moments of a kill, by the only call of its kind, and the side of the commit on which it lies.
const KILLS: [(&str, &str); 2] = [("linkat", "rolled back"), ("rename", "completed")];

/// A palace in its place.
struct Site {
    /// What is mounted for it; unmounted before the directory goes.
    _mounts: Vec<Mount>,
    arena: Arena,
    /// How it is named on the command line.
    named: PathBuf,
    /// Where its keep has to be.
    keep: PathBuf,
    /// What runs the program, and the program.
    program: Vec<String>,
}

impl Site {
    fn of(arena: Arena, mounts: Vec<Mount>, keep: PathBuf) -> Site {
        let (named, program) = (arena.palace(), vec![BINARY.to_owned()]);
        Site { _mounts: mounts, arena, named, keep, program }
    }

    /// Mounts something over the palace, with a copy of the palace in it.
    fn mounted(mount: impl FnOnce(&Path) -> Option<Mount>) -> Option<Site> {
        let arena = Arena::new("1.5.9");
        let palace = arena.root().join("source");
        copy_tree(&arena.palace(), &palace);
        let mount = mount(&arena.palace())?;
        copy_tree(&palace, &arena.palace());
        fs::remove_dir_all(palace).expect("a copy");
        let keep = arena.palace().join(".keep");
        Some(Site::of(arena, vec![mount], keep))
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.wrapped(&[], arguments)
    }

    fn wrapped(&self, wrapper: &[&str], arguments: &[&str]) -> Run {
        let (program, before) = self.program.split_last().expect("a program");
        let words: Vec<&str> = before.iter().map(String::as_str).chain(wrapper.iter().copied()).collect();
        let mut command = Command::new(words.first().copied().unwrap_or(program));
        command.args(words.iter().skip(1));
        if !words.is_empty() {
            command.arg(program);
        }
        command.arg("--palace").arg(&self.named).args(arguments);
        self.arena.confine(&mut command);
        Run::of(&mut command)
    }

    fn sidecars(&self) -> Tree {
        let palace = self.arena.palace();
        let sidecars = Tree::of(&palace).sidecars(&segment_directories(&palace));
        Tree(sidecars.0.into_iter().filter(|(path, _)| !path.starts_with(".keep")).collect())
    }

    /// Rebuilds, repairs, and is killed and recovered: nothing may be lost in any of it.
    fn assert_survives(&self, what: &str) {
        let palace = self.arena.palace();
        let (content, sidecars) = (Content::of(&palace), self.sidecars());
        let assert_same = |when: &str| {
            let differences = content.record_differences_by(&Content::of(&palace), Record::is_kept_in);
            assert!(differences.is_empty(), "{what}, {when}: {}", differences.join("; "));
            sidecars.assert_untouched(&self.sidecars(), &format!("{what}, {when}"));
            assert_sound(&palace, &format!("{what}, {when}"));
        };
        self.run(&["rebuild", "--plan"]).expect(0);
        assert!(!self.keep.exists(), "{what}: a plan makes no keep");
        self.run(&REBUILD).expect(0);
        assert_same("rebuilt");
        assert!(self.keep.join("0001-rebuild/backup/chroma.sqlite3").is_file(), "{what}: where the keep is");
        overwrite(&segment_of(&palace, "mempalace_drawers").join("header.bin"), 0, &[0xff; 16]);
        self.run(&["repair", "--yes"]).expect(0);
        assert_same("repaired");
        for (call, ending) in KILLS {
            let injection = format!("inject={call}:signal=SIGKILL:when=1");
            let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &injection];
            let killed = self.wrapped(&strace, &REBUILD);
            assert_eq!(killed.signal, Some(9), "{what}: {killed:#?}");
            self.run(&["status"]).expect(4);
            self.run(&["recover"]).expect(0).says(ending);
            self.run(&["status"]).expect(0);
            assert_same(&format!("killed at {call}"));
        }
        let swept = self.run(&["sweep", "--keep", "1", "--yes"]).expect(0);
        assert!(!self.keep.join("0001-rebuild").exists(), "{what}: {swept:#?}");
        assert_same("swept");
    }
}

#[test]
fn palace_that_is_a_tmpfs_loses_something() {
    if !Strace::is_here("a palace that is a tmpfs") {
        return;
    }
    let mount = |path: &Path| Mount::over(path, &["-t", "tmpfs", "-o", "size=96m,mode=755", "test"], "a tmpfs");
    let Some(site) = Site::mounted(mount) else { return };
    site.assert_survives("a palace that is a tmpfs");
}

#[test]
fn palace_that_is_an_ext4_of_its_own_loses_something() {
    if !Strace::is_here("a palace that is an ext4") {
        return;
    }
    let disk = tempfile::NamedTempFile::new().expect("a file");
    disk.as_file().set_len(128 << 20).expect("a sparse file");
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.path()).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skip("a palace that is an ext4: mkfs.ext4 does not work");
    }
    let image = disk.path().display().to_string();
    let Some(site) = Site::mounted(|path| Mount::over(path, &["-o", "loop", &image], "an ext4 on a loop device"))
    else {
        return;
    };
    site.assert_survives("a palace that is an ext4");
}

/// The palace is mounted for writing, what lies above it for reading.
#[test]
fn palace_below_a_read_only_mount_loses_something() {
    if !Strace::is_here("a palace below a read-only mount") {
        return;
    }
    let mut arena = Arena::new("1.5.9");
    let above = arena.root().join("above");
    fs::create_dir(&above).expect("a directory");
    arena.rename("above/palace");
    let bind = |path: &Path| Mount::over(path, &["--bind", &path.display().to_string()], "a bind mount");
    let Some(outer) = bind(&above) else { return };
    let Some(inner) = bind(&arena.palace()) else { return };
    outer.remount("bind,ro");
    assert!(fs::write(above.join("file"), "").is_err(), "the parent is read-only");
    let keep = arena.palace().join(".keep");
    Site::of(arena, vec![inner, outer], keep).assert_survives("a palace below a read-only mount");
}

#[test]
fn palace_behind_a_link_loses_something() {
    if !Strace::is_here("a palace behind a link") {
        return;
    }
    let arena = Arena::new("1.5.9");
    let link = arena.root().join("link");
    symlink("palace", &link).expect("a link");
    let keep = arena.keep();
    let site = Site { named: link.clone(), ..Site::of(arena, Vec::new(), keep) };
    site.assert_survives("a palace behind a link");
    assert_eq!(fs::read_link(&link).expect("still a link"), Path::new("palace"));
}

/// The palace is one's own, the directory around it belongs to somebody else.
#[test]
fn palace_below_what_one_may_not_write_to_loses_something() {
    if !Strace::is_here("a palace below what one may not write to") {
        return;
    }
    if !is_root() || !has("setpriv") {
        return skip("a palace below what one may not write to: needs root, and setpriv to stop being root");
    }
    let arena = Arena::new("1.5.9");
    let program = arena.root().join("palacekeeper");
    fs::copy(BINARY, &program).expect("a copy that anybody may run");
    fs::set_permissions(arena.root(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let palace = arena.palace();
    let inside: Vec<_> = Tree::of(&palace).0.into_keys().map(|path| palace.join(path)).collect();
    for path in inside.iter().chain([&palace, &arena.root().join("tmp")]) {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    let keep = palace.join(".keep");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned);
    let words = nobody.into_iter().chain([program.display().to_string()]).collect();
    let site = Site { program: words, ..Site::of(arena, Vec::new(), keep) };
    site.assert_survives("a palace below what one may not write to");
    assert!(!site.arena.keep().exists(), "nothing was made beside it");
}
