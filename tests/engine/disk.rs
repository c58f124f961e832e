//! The real disk: its verbs refuse what they must, and the first failure is the last.

use palacekeeper::disk::{Disk, Poison, RealDisk, evict_tree, holder, remove_tree};
use std::io::ErrorKind;
use std::path::Path;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Every verb that changes something, on a directory with a file `f` in it.
fn changes(disk: &RealDisk, root: &Path) -> Vec<(&'static str, bool)> {
    let (file, other) = (root.join("f"), root.join("other"));
    vec![
        ("create", disk.create(&other, b"").is_ok()),
        ("append", disk.append(&file, b"x").is_ok()),
        ("truncate", disk.truncate(&file, 0).is_ok()),
        ("create_dir", disk.create_dir(&root.join("d")).is_ok()),
        ("copy", disk.copy(&file, &root.join("copy")).is_ok()),
        ("link", disk.link(&file, &root.join("link")).is_ok()),
        ("rename", disk.rename(&file, &root.join("renamed")).is_ok()),
        ("replace", disk.replace(&file, &other).is_ok()),
        ("remove", disk.remove(&file).is_ok()),
        ("adopt", disk.adopt(&file, root).is_ok()),
        ("sync", disk.sync(&file).is_ok()),
        ("sync_all", disk.sync_all(root).is_ok()),
        ("remove_tree", remove_tree(disk, &file).is_ok()),
    ]
}

/// I7: the kernel's own full disk stands in for a full disk, and a file that cannot be synced for one that fails to be.
#[test]
fn failed_write_or_sync_is_the_last_change_of_this_disk() {
    for poison in [Poison::Write, Poison::Sync] {
        let (disk, directory) = (RealDisk::new(), directory());
        disk.create(&directory.path().join("f"), b"contents").expect("there is room");
        assert_eq!(disk.poison(), None);
        let failed = match poison {
            Poison::Write => disk.append(Path::new("/dev/full"), b"x"),
            Poison::Sync => disk.sync(Path::new("/dev/full")),
        };
        let failed = failed.expect_err("that device takes nothing");
        assert!(failed.is_full() || poison == Poison::Sync, "{failed}");
        assert_eq!(disk.poison(), Some(poison), "{failed}");
        for (verb, succeeded) in changes(&disk, directory.path()) {
            assert!(!succeeded, "{verb} after a failed {poison:?}");
        }
        let left = disk.list(directory.path()).expect("reading is not forbidden");
        assert_eq!(left, ["f"], "a poisoned disk was changed");
        assert_eq!(disk.read(&directory.path().join("f"), 0, 99).expect("it is there"), b"contents");
        assert_eq!(disk.poison(), Some(poison), "the first failure is the one that counts");
    }
}

/// A name that is taken is an answer, not a failure of the disk.
#[test]
fn taken_name_is_refused_and_poisons_nothing() {
    let (disk, directory) = (RealDisk::new(), directory());
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    disk.create(&old, b"old").expect("there is room");
    disk.create(&new, b"new").expect("there is room");
    let refused = [disk.rename(&new, &old), disk.link(&new, &old), disk.create_dir(&old)];
    for answer in refused {
        assert_eq!(answer.expect_err("the name is taken").kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(disk.read(&old, 0, 99).expect("it is there"), b"old");
    assert_eq!(disk.poison(), None);
    disk.create(&old, b"other").expect_err("the name is taken");
    assert_eq!(disk.read(&old, 0, 99).expect("it is there"), b"old");
}

#[test]
fn directory_that_is_not_empty_is_not_removed() {
    let (disk, directory) = (RealDisk::new(), directory());
    let full = directory.path().join("full");
    disk.create_dir(&full).expect("there is room");
    disk.create(&full.join("f"), b"").expect("there is room");
    disk.remove(&full).expect_err("it is not empty");
    assert!(full.join("f").exists());
    remove_tree(&disk, &full).expect("that is what it is for");
    remove_tree(&disk, &full).expect("what is not there is no error");
    assert!(!full.exists());
}

/// I17: whatever a link leads to belongs to somebody else.
#[test]
fn link_is_removed_with_what_it_leads_to() {
    let (disk, directory) = (RealDisk::new(), directory());
    let (theirs, ours) = (directory.path().join("theirs"), directory.path().join("ours"));
    for made in [&theirs, &ours] {
        disk.create_dir(made).expect("there is room");
    }
    disk.create(&theirs.join("f"), b"not yours").expect("there is room");
    std::os::unix::fs::symlink(&theirs, ours.join("link")).expect("there is room");
    remove_tree(&disk, &ours).expect("that is what it is for");
    assert!(!ours.exists());
    assert_eq!(disk.read(&theirs.join("f"), 0, 99).expect("it is there"), b"not yours");
}

/// I16, within one machine: the lock is the kernel's, and goes with its owner.
#[test]
fn second_lock_is_not_given_while_the_first_lives() {
    let (disk, directory) = (RealDisk::new(), directory());
    let path = directory.path().join("lock");
    let mut first = disk.try_lock(&path).expect("the disk is sound").expect("nobody has it");
    first.sign(b"\0 17 somebody").expect("the disk is sound");
    assert!(disk.try_lock(&path).expect("the disk is sound").is_none(), "two have it");
    assert_eq!(holder(&disk, &path), "17 somebody");
    drop(first);
    assert!(path.exists(), "a lock file that is deleted can be locked twice");
    let second = disk.try_lock(&path).expect("the disk is sound");
    assert!(second.is_some(), "it was set free");
}

/// I16: whoever still holds a lock file that was exchanged holds nothing.
#[test]
fn exchanged_lock_file_is_locked_anew() {
    let (disk, directory) = (RealDisk::new(), directory());
    let path = directory.path().join("lock");
    let _held = disk.try_lock(&path).expect("the disk is sound").expect("nobody has it");
    std::fs::write(directory.path().join("new"), b"").expect("there is room");
    std::fs::rename(directory.path().join("new"), &path).expect("there is room");
    let lock = disk.try_lock(&path).expect("the disk is sound");
    assert!(lock.is_some(), "the file that has the name now is free");
}

/// A path that nothing can have is one where nothing stands; whatever else keeps us from looking is told.
#[test]
fn what_cannot_be_looked_at_counts_as_missing() {
    let (disk, directory) = (RealDisk::new(), directory());
    let at = |name: &str| directory.path().join(name);
    disk.create(&at("f"), b"").expect("there is room");
    std::os::unix::fs::symlink(at("loop"), at("loop")).expect("there is room");
    for name in ["missing", "f/below", &"long".repeat(100), "nul\0"] {
        assert_eq!(disk.stat(&at(name)).expect("it is known"), None, "{name:?}");
        assert_eq!(disk.resolve(&at(name)).expect("it is known"), None, "{name:?}");
    }
    disk.stat(&at("loop/below")).expect_err("nobody knows");
    disk.resolve(&at("loop")).expect_err("nobody knows");
}

/// What is not there cannot be synced, which is no failed sync.
#[test]
fn missing_file_fails_a_sync_and_poisons_the_disk() {
    let (disk, directory) = (RealDisk::new(), directory());
    disk.sync(&directory.path().join("f")).expect_err("it is not there");
    disk.sync_all(&directory.path().join("d")).expect_err("it is not there");
    assert_eq!(disk.poison(), None);
}

/// Evicting changes nothing that a sound disk holds, also what is not synced yet.
#[test]
fn evicted_file_loses_something() {
    let (disk, directory) = (RealDisk::new(), directory());
    let path = directory.path().join("f");
    disk.create(&path, b"synced").expect("there is room");
    disk.sync(&path).expect("the disk is sound");
    disk.append(&path, b", not synced").expect("there is room");
    evict_tree(&disk, directory.path()).expect("the disk is sound");
    assert_eq!(disk.read(&path, 0, 99).expect("it is there"), b"synced, not synced");
}
