//! The disk that the other tests crash: it must be as forgetful as a real one, or they prove nothing.

use crate::support::memory::{Fate, Fault, MemoryDisk, Missing};
use palacekeeper::disk::Disk;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A disk with a file `/d/f` that is as durable as the syncs say.
fn written(syncs: &[&str]) -> MemoryDisk {
    let disk = MemoryDisk::new(&["/d"]);
    disk.create(path("/d/f"), b"contents").expect("the disk is sound");
    syncs.iter().for_each(|name| disk.sync(path(name)).expect("the disk is sound"));
    disk
}

fn read(disk: &MemoryDisk, name: &str) -> Option<Vec<u8>> {
    disk.read(path(name), 0, u64::MAX).ok()
}

#[test]
fn file_without_a_sync_of_its_directory_is_lost() {
    for syncs in [&[][..], &["/d/f"]] {
        assert_eq!(read(&written(syncs).crash(Fate::POWER_CUT), "/d/f"), None);
        assert_eq!(read(&written(syncs).crash(Fate::KEEP), "/d/f"), Some(b"contents".to_vec()));
    }
}

#[test]
fn contents_without_a_sync_are_lost_torn_or_kept() {
    let disk = written(&["/d"]);
    let fates = disk.fates(&[]);
    let mut found: Vec<_> = fates.iter().take(4).map(|fate| read(&disk.crash(*fate), "/d/f")).collect();
    found.sort();
    assert_eq!(fates.len(), 5, "the fifth is for sectors");
    let all = [&b""[..], &[0; 8], b"cont\0\0\0\0", b"contents"].map(|bytes| Some(bytes.to_vec()));
    assert_eq!(found, all);
    let disk = written(&["/d", "/d/f"]);
    assert_eq!(read(&disk.crash(Fate::POWER_CUT), "/d/f"), Some(b"contents".to_vec()));
}

/// Each sector of an unsynced write is there, or is what it was, or is garbage; what was synced is never touched.
#[test]
fn sectors_of_one_write_go_their_own_ways() {
    let disk = MemoryDisk::new(&[]);
    disk.create(path("/f"), &[1; 2048]).expect("the disk is sound");
    disk.settle();
    let file = disk.open_file(path("/f"), Missing::Refuse).expect("it is there");
    file.write_at(&[2; 1024], 512).expect("the disk is sound");
    let (mut kept, mut old, mut garbage) = (0, 0, 0);
    for seed in 0..40_u64 {
        let bytes = read(&disk.crash(Fate(5 * seed + 4)), "/f").expect("it is there");
        assert_eq!((&bytes[..512], &bytes[1536..]), (&[1; 512][..], &[1; 512][..]), "what was synced was touched");
        for sector in bytes[512..1536].chunks(512) {
            match sector {
                _ if sector == [2; 512] => kept += 1,
                _ if sector == [1; 512] => old += 1,
                _ => garbage += 1,
            }
        }
    }
    assert!(kept > 5 && old > 5 && garbage > 5, "{kept} written, {old} as they were, {garbage} garbage");
}

/// What was opened stays readable when its name goes, until the process goes as well.
#[test]
fn file_that_is_open_outlives_its_name() {
    let disk = written(&["/d", "/d/f"]);
    let file = disk.open(path("/d/f")).expect("it is there");
    disk.remove(path("/d/f")).expect("the disk is sound");
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).expect("it is open");
    assert_eq!((&bytes, read(&disk, "/d/f")), (b"contents", None));
}

/// A full disk takes nothing more, and says so.
#[test]
fn disk_without_room_refuses_what_is_too_much() {
    let disk = written(&["/d", "/d/f"]);
    disk.limit(10);
    assert_eq!(disk.space(path("/")).expect("it answers"), 2);
    disk.append(path("/d/f"), b"ab").expect("there is room for two");
    let refused = disk.append(path("/d/f"), b"c").expect_err("there is no more");
    assert!(refused.is_full(), "{refused}");
    assert_eq!(read(&disk, "/d/f"), Some(b"contentsab".to_vec()));
}

#[test]
fn names_of_one_directory_are_lost_independently() {
    let disk = MemoryDisk::new(&["/d"]);
    disk.create_dir(path("/d/a")).expect("the disk is sound");
    disk.create_dir(path("/d/b")).expect("the disk is sound");
    let names = |fate| disk.crash(fate).list(path("/d")).expect("it is there");
    let found: Vec<Vec<OsString>> = disk.fates(&[]).into_iter().map(names).collect();
    assert_eq!(found, [vec!["a", "b"], vec!["b"], vec!["a"], vec![]]);
}

#[test]
fn rename_is_whole_or_did_not_happen() {
    let disk = MemoryDisk::new(&["/d", "/e"]);
    disk.create(path("/d/f"), b"1").expect("the disk is sound");
    disk.settle();
    disk.rename(path("/d/f"), path("/e/g")).expect("the disk is sound");
    for (fate, [old, new]) in disk.fates(&[]).into_iter().zip([[false, true], [true, false]]) {
        let crashed = disk.crash(fate);
        assert_eq!([read(&crashed, "/d/f").is_some(), read(&crashed, "/e/g").is_some()], [old, new], "{fate:?}");
    }
    disk.sync(path("/e")).expect("the disk is sound");
    assert_eq!(disk.pending(), 0, "a rename is one change, for both directories");
}

/// A name that was given and taken away again before any sync does not come back with a later sync.
#[test]
fn older_change_of_a_name_does_not_overtake_a_newer_one() {
    let disk = MemoryDisk::new(&["/d", "/e"]);
    disk.create(path("/d/f"), b"1").expect("the disk is sound");
    disk.rename(path("/d/f"), path("/e/g")).expect("the disk is sound");
    disk.sync(path("/e")).expect("the disk is sound");
    disk.sync(path("/d")).expect("the disk is sound");
    let crashed = disk.crash(Fate::POWER_CUT);
    assert_eq!([read(&crashed, "/d/f").is_some(), read(&crashed, "/e/g").is_some()], [false, true]);
}

/// A kill loses nothing that could be seen, and makes nothing durable either.
#[test]
fn kill_keeps_what_a_power_cut_then_loses() {
    let killed = written(&["/d"]).kill();
    assert_eq!(read(&killed, "/d/f"), Some(b"contents".to_vec()));
    assert_eq!(read(&killed.crash(Fate::POWER_CUT), "/d/f"), Some(vec![]));
    killed.sync_all(path("/")).expect("the disk is sound");
    assert_eq!(read(&killed.crash(Fate::POWER_CUT), "/d/f"), Some(b"contents".to_vec()));
}

#[test]
fn failed_sync_loses_what_it_was_about() {
    let disk = written(&["/d"]).with_fault(0, Fault::Once(ErrorKind::StorageFull));
    disk.sync(path("/d/f")).expect_err("it fails");
    disk.sync(path("/d/f")).expect_err("this process is told of it again");
    disk.share().sync(path("/d/f")).expect("another one knows nothing of it");
    assert_eq!(disk.fired(), 1);
    assert_eq!(read(&disk, "/d/f"), Some(b"contents".to_vec()));
    assert_eq!(read(&disk.crash(Fate::KEEP), "/d/f"), Some(vec![]), "what was lost came back");
}

#[test]
fn crash_at_the_second_event_of_a_write_leaves_half_of_it() {
    let disk = MemoryDisk::new(&[]).with_fault(1, Fault::Crash);
    disk.create(path("/f"), b"contents").expect_err("the process is gone");
    disk.stat(path("/f")).expect_err("a dead process reads nothing");
    assert_eq!((disk.fired(), read(&disk.crash(Fate::KEEP), "/f")), (1, Some(b"cont".to_vec())));
}
