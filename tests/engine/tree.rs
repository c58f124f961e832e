//! The steps over files: on the real disk and in memory, each seen before, half-way and after, and with a stranger's
//! hand in it.

use crate::support::house::{House, replace};
use crate::support::memory::{Fate, Fault, MemoryDisk};
use palacekeeper::disk::{Disk, RealDisk};
use palacekeeper::engine::Observed;
use palacekeeper::tree::{Copy, Error, Fingerprint, Need, Roots, Spot, Step};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Runs a test in memory and on the disk of this machine.
fn on_both_disks(test: impl Fn(&dyn Disk, &Path)) {
    test(&MemoryDisk::new(&[]), Path::new("/"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    test(&RealDisk::new(), directory.path());
}

/// I6: a clock ticks seldom, and anybody can set a file's time; SQLite counts its changes in the head of the file.
#[test]
fn change_that_the_clock_does_not_show_is_not_noticed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (disk, path) = (RealDisk::new(), directory.path().join("db"));
    disk.create(&path, &[7; 9000]).expect("there is room");
    let print = || Fingerprint::of(&disk, &path).expect("the disk is sound").expect("it is there");
    let before = print();
    let change = |byte: u8| {
        let file = std::fs::File::options().write(true).open(&path).expect("it is there");
        let time = file.metadata().and_then(|metadata| metadata.modified()).expect("it has one");
        std::os::unix::fs::FileExt::write_all_at(&file, &[byte], 27).expect("there is room");
        file.set_modified(time).expect("it is ours");
    };
    change(8);
    assert_ne!(before, print(), "one byte of the head is another");
    change(7);
    assert_eq!(before, print(), "nothing but that byte was another");
}

/// I4: a second time does no harm, though it may be an error.
#[test]
fn step_done_twice_and_undone_twice_is_as_done_once() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        for (step, can_be_undone, spots) in house.steps() {
            if matches!(step, Step::Replace { .. }) {
                assert_eq!(house.observe(&step), Observed::Before, "{step}: what it expects beside it is there by now");
                house.apply(&house.steps()[4].0); // the replaced file's second name
            }
            let look = || spots.iter().map(|spot| house.look(spot)).collect::<Vec<_>>();
            let before = look();
            assert_eq!(house.observe(&step), Observed::Before, "{step}");
            house.apply(&step);
            let after = look();
            assert_ne!(after, before, "{step} did nothing");
            assert_eq!(house.observe(&step), Observed::After, "{step}");
            let _may_fail = step.apply(&house.roots);
            assert_eq!((house.observe(&step), look()), (Observed::After, after), "{step}, twice");
            for _ in 0..2 {
                let undone = step.revert(&house.roots);
                assert!(can_be_undone || matches!(undone, Err(Error::CannotRevert)), "{step}: {undone:?}");
                if can_be_undone {
                    assert_eq!((house.observe(&step), look()), (Observed::Before, before.clone()), "{step}, undone");
                }
            }
        }
    });
}

/// I5: a step that is said to be done, or undone, has to be so after a power cut.
#[test]
fn effect_of_a_step_is_lost_in_a_power_cut() {
    let fates = [Fate::POWER_CUT, Fate(0x9e37_79b9_7f4a_7c15), Fate(12_345_678_901)];
    let disk = MemoryDisk::new(&[]);
    let house = House::build(&disk, Path::new("/"));
    disk.settle();
    let (pivot, all) = (6, house.steps());
    for (index, (step, can_be_undone, spots)) in all.iter().enumerate() {
        let stands = |disk: &MemoryDisk| {
            let house = House { roots: roots(disk) };
            spots.iter().map(|spot| house.look(spot)).collect::<Vec<_>>()
        };
        let assert_durable = |what: &str, wanted: &[Option<String>]| {
            for fate in fates {
                assert_eq!(stands(&disk.crash(fate)), wanted, "{step} was {what}, and then came {fate:?}");
            }
        };
        let before = stands(&disk);
        house.apply(step);
        assert_durable("done", &stands(&disk));
        if *can_be_undone {
            step.revert(&house.roots).expect("it can be undone");
            assert_durable("undone", &before);
        }
        if index + 1 < pivot {
            house.apply(step); // the replaced file needs its second name, and the others do no harm
        }
    }
}

#[test]
fn sync_of_a_file_makes_it_durable_and_leaves_no_trace() {
    let disk = MemoryDisk::new(&[]);
    let house = House::build(&disk, Path::new("/"));
    disk.settle();
    house.put(&Spot::operation("staging/late"), b"written without a sync");
    let step = Step::Sync { target: Spot::operation("staging/late") };
    house.apply(&step);
    assert_eq!(house.observe(&step), Observed::Before);
    let crashed = disk.crash(Fate::POWER_CUT);
    let found = crashed.read(Path::new("/operation/staging/late"), 0, 99);
    assert_eq!(found.expect("the sync made it durable"), b"written without a sync");
}

fn roots(disk: &MemoryDisk) -> Roots<'_> {
    Roots { disk, palace: "/palace".into(), operation: "/operation".into(), annex: None }
}

/// I4: wherever a copy is cut short, it is seen as partial or not begun, can be done again, and is whole then.
#[test]
fn copy_cut_short_is_partial_and_whole_when_done_again() {
    let disk = MemoryDisk::new(&[]);
    let step = House::build(&disk, Path::new("/")).steps().swap_remove(1).0;
    disk.settle();
    let whole = disk.fresh();
    step.apply(&roots(&whole)).expect("nothing disturbs it");
    let (events, whole) = (whole.events(), whole.image("/operation"));
    let (mut partial, mut redone) = (0, 0);
    for event in 0..events {
        let faulty = disk.with_fault(event, Fault::Crash);
        step.apply(&roots(&faulty)).expect_err("the process is gone");
        assert!(faulty.fired() > 0, "no crash at event {event}");
        for fate in faulty.fates(&[0x9e37_79b9_7f4a_7c15]) {
            let crashed = faulty.crash(fate);
            match step.observe(&roots(&crashed)).expect("the disk is sound") {
                Observed::After => assert_eq!(crashed.image("/operation"), whole, "event {event}, {fate:?}"),
                Observed::Foreign => panic!("its own effect was not recognised: event {event}, {fate:?}"),
                observed => {
                    partial += u32::from(observed == Observed::Partial);
                    redone += 1;
                    let again = crashed.fresh();
                    step.apply(&roots(&again)).expect("a step can be carried out from Partial");
                    assert_eq!(again.crash(Fate::POWER_CUT).image("/operation"), whole, "event {event}, {fate:?}");
                    step.revert(&roots(&crashed)).expect("a step can be undone from Partial");
                    assert_eq!(crashed.image("/operation"), disk.image("/operation"), "event {event}, {fate:?}");
                }
            }
        }
    }
    assert!(partial > 10 && redone > partial, "{partial} partial, {redone} redone");
}

/// I6: whoever wrote to a file after it was read is noticed, by every step that would replace it or move it.
#[test]
fn changed_file_is_foreign_to_whatever_would_replace_it() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        let link = house.steps()[4].0.clone();
        for (index, changed) in [(5, "db-wal"), (6, "db")] {
            let step = match index {
                6 => replace(&Spot::operation("none"), house.fingerprint(&Spot::palace(changed))),
                index => house.steps()[index].0.clone(),
            };
            assert_eq!(house.observe(&step), Observed::Before, "{step}");
            disk.append(&house.path(&Spot::palace(changed)), b"!").expect("the disk is sound");
            assert_eq!(house.observe(&step), Observed::Foreign, "{step}");
        }
        // A second name that is not there yet is undone whatever has become of the file; but it is not made any more.
        assert_eq!(house.observe(&link), Observed::Before, "{link}");
        assert!(matches!(link.apply(&house.roots), Err(Error::Changed { .. })), "{link}");
        assert_eq!(house.observe(&link), Observed::Before, "{link}");
    });
}

/// I6: same length and same bytes, but another file.
#[test]
fn exchanged_file_is_foreign() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        let (step, db) = (house.steps()[4].0.clone(), house.path(&Spot::palace("db")));
        disk.create(&root.join("other"), b"old").expect("the disk is sound");
        disk.replace(&root.join("other"), &db).expect("the disk is sound");
        assert!(matches!(step.apply(&house.roots), Err(Error::Changed { .. })));
        disk.remove(&db).expect("the disk is sound");
        assert!(matches!(step.apply(&house.roots), Err(Error::Changed { .. })), "and so is no file at all");
        assert_eq!(house.observe(&step), Observed::Before, "nothing was made of it");
    });
}

#[test]
fn new_sibling_of_the_replaced_file_is_foreign() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        let step = replace(&Spot::operation("none"), house.fingerprint(&Spot::palace("db")));
        assert_eq!(house.observe(&step), Observed::Before);
        house.put(&Spot::palace("db-journal"), b"somebody writes");
        assert_eq!(house.observe(&step), Observed::Foreign);
    });
}

#[test]
fn something_at_the_free_name_is_foreign_and_not_overwritten() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        for (index, target) in [(3, Spot::palace("new")), (4, Spot::operation("staging/aside"))] {
            let step = house.steps()[index].0.clone();
            house.put(&target, b"a stranger's");
            assert_eq!(house.observe(&step), Observed::Foreign, "{step}");
            step.apply(&house.roots).expect_err("a taken name is an error");
            assert_eq!(house.look(&target).as_deref(), Some("a stranger's"), "{step}");
        }
    });
}

/// I17: a journal is only a file, and somebody else may have written it.
#[test]
fn name_that_leads_out_is_refused() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        house.put(&Spot::palace("db-shm"), b"");
        let secret = root.join("secret");
        disk.create(&secret, b"not yours").expect("the disk is sound");
        let everything = disk.list(root).expect("the disk is sound");
        let absolute = secret.to_str().expect("a temporary path is text");
        let hostile = ["..", "../secret", "a/../../secret", ".", "./db", "a//b", "/", "db/", "a\0b", absolute];
        for name in hostile {
            for spot in [Spot::palace(name), Spot::operation(name), Spot::palace("segment").join(name)] {
                let delete = Step::Delete { target: spot.clone() };
                assert!(matches!(delete.observe(&house.roots), Err(Error::LeadsOut { .. })), "{name:?}");
                assert!(matches!(delete.apply(&house.roots), Err(Error::LeadsOut { .. })), "{name:?}");
                let place = Step::Place { source: Spot::palace("db-shm"), target: spot };
                assert!(matches!(place.apply(&house.roots), Err(Error::LeadsOut { .. })), "{name:?}");
            }
        }
        assert_eq!(disk.list(root).expect("the disk is sound"), everything);
    });
}

/// I17, for the names inside a copy, which are joined to two directories.
#[test]
fn copied_name_that_leads_out_is_refused() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        disk.create(&root.join("secret"), b"not yours").expect("the disk is sound");
        let absolute = root.join("secret").to_str().expect("a temporary path is text").to_owned();
        let hostile = ["..", ".", "", "../secret", "segment/../../secret", "a\0b", "segment/header", &absolute];
        for name in hostile {
            let (source, target) = (Spot::palace(""), Spot::operation("copied"));
            let copy = Step::Copy(Copy { source, names: vec![name.into()], target: target.clone(), bytes: 0 });
            let refused = copy.apply(&house.roots);
            assert!(matches!(refused, Err(Error::LeadsOut { .. })), "{name:?}: {refused:?}");
            assert_eq!(house.look(&target), None, "{name:?}");
            assert_eq!(house.look(&Spot::operation("secret")), None, "{name:?}");
        }
    });
}

/// I13, I17: what other operations have kept is read, and never changed.
#[test]
fn folder_of_another_operation_is_changed() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        disk.create_dir(&root.join("kept")).expect("the disk is sound");
        disk.create(&root.join("kept/db"), b"older").expect("the disk is sound");
        let (kept, staged) = (Spot::keep("kept"), Spot::operation("copied"));
        let copy = Copy { source: kept.clone(), names: vec!["db".into()], target: staged.clone(), bytes: 5 };
        house.apply(&Step::Copy(copy.clone()));
        house.apply(&Step::Compare(copy.clone()));
        assert_eq!(house.look(&staged.join("db")).as_deref(), Some("older"));
        let (db, new) = (Spot::palace("db"), kept.join("new"));
        let (expects, need) = (house.fingerprint(&db), Need::Must);
        let (source, target) = (db.clone(), new.clone());
        let absent = Vec::new();
        for step in [
            Step::Copy(Copy { source: Spot::palace(""), names: vec!["db".into()], target: new.clone(), bytes: 0 }),
            Step::CreateDir { target: new.clone() },
            Step::Sync { target: kept.join("db") },
            Step::Place { source: kept.join("db"), target: Spot::palace("new") },
            Step::Place { source: db.clone(), target: new.clone() },
            Step::LinkAside { source: db.clone(), target: new.clone(), expects },
            Step::RenameAside { need, source, target, expects },
            Step::Replace { source: kept.join("db"), target: db, expects, aside: new, absent },
            Step::Delete { target: kept },
        ] {
            let done = step.apply(&house.roots);
            assert!(matches!(done, Err(Error::LeadsOut { .. })), "{step}: {done:?}");
        }
        assert_eq!(disk.list(&root.join("kept")).expect("the disk is sound"), ["db"]);
        for name in ["", "..", "../secret", "kept/../../secret", "a//b"] {
            let copy = Step::Copy(Copy { source: Spot::keep(name), names: Vec::new(), ..copy.clone() });
            assert!(matches!(copy.apply(&house.roots), Err(Error::LeadsOut { .. })), "{name:?}");
        }
    });
}

/// A byte, a name, a kind: whatever differs is seen.
#[test]
fn copy_that_is_not_equal_passes_for_one() {
    on_both_disks(|disk, root| {
        let house = House::build(disk, root);
        let copied = Spot::operation("copied");
        let names = vec!["db".into(), "segment".into()];
        let copy = Copy { source: Spot::palace(""), names, target: copied.clone(), bytes: 8 };
        let compare = Step::Compare(copy.clone());
        let remove = |spot: &Spot| disk.remove(&house.path(spot)).expect("the disk is sound");
        house.apply(&Step::Copy(copy));
        house.apply(&compare);
        assert_eq!(house.observe(&compare), Observed::Before, "a comparison leaves no trace");
        let changes: [&dyn Fn(); 4] = [
            &|| house.put(&copied.join("segment/more"), b""),
            &|| disk.append(&house.path(&copied.join("db")), b"!").expect("the disk is sound"),
            &|| remove(&copied.join("db")),
            &|| disk.create_dir(&house.path(&copied.join("db"))).expect("the disk is sound"),
        ];
        for change in changes {
            change();
            let compared = compare.apply(&house.roots);
            assert!(matches!(compared, Err(Error::NotEqual { .. })), "{compared:?}");
        }
    });
}

#[test]
fn symbolic_link_is_neither_followed_nor_copied() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (disk, root) = (RealDisk::new(), directory.path());
    let house = House::build(&disk, root);
    symlink(root.join("palace/db"), root.join("palace/segment/link")).expect("a symbolic link");
    let refused = house.steps()[1].0.apply(&house.roots);
    assert!(matches!(&refused, Err(Error::NotAFile { path }) if path.ends_with("segment/link")), "{refused:?}");
    symlink(root.join("palace/segment"), root.join("operation/staging/out")).expect("a symbolic link");
    house.apply(&Step::Delete { target: Spot::operation("staging") });
    assert!(root.join("palace/segment/header").exists(), "the removal followed a link");
    assert_eq!(house.look(&Spot::operation("staging")), None);
}

#[test]
fn copy_keeps_modes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (disk, root) = (RealDisk::new(), directory.path());
    let house = House::build(&disk, root);
    let modes = [("db", 0o640), ("segment", 0o710), ("segment/header", 0o400), ("", 0o751)];
    for (name, mode) in modes {
        let path = house.roots.palace.join(name);
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("the file is ours");
    }
    house.apply(&house.steps()[1].0);
    for (name, mode) in modes {
        let copy = house.path(&Spot::operation("staging/copy")).join(name);
        assert_eq!(copy.metadata().expect("it was copied").mode() & 0o7777, mode, "{name:?}");
    }
}

/// A copy of a read-only directory must be filled, and emptied again when it is undone.
#[test]
fn copy_of_a_read_only_directory_can_be_undone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (disk, root) = (RealDisk::new(), directory.path());
    let house = House::build(&disk, root);
    let segment = house.path(&Spot::palace("segment"));
    std::fs::set_permissions(&segment, PermissionsExt::from_mode(0o555)).expect("the directory is ours");
    let step = house.steps()[1].0.clone();
    house.apply(&step);
    let copy = house.path(&Spot::operation("staging/copy/segment"));
    assert_eq!(copy.metadata().expect("it was copied").mode() & 0o7777, 0o755);
    step.revert(&house.roots).unwrap_or_else(|error| panic!("{step}: {error}"));
    std::fs::set_permissions(&segment, PermissionsExt::from_mode(0o755)).expect("the directory is ours");
}

/// Damaged palaces have held a file of 20 GB that was almost all hole.
#[test]
fn copy_of_a_sparse_file_stays_sparse() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let (disk, root) = (RealDisk::new(), directory.path());
    let house = House::build(&disk, root);
    let sparse = house.path(&Spot::palace("segment/links"));
    let data = [7; 8192];
    let file = std::fs::File::create(&sparse).expect("the disk is sound");
    for offset in [3 << 20, 70 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&file, &data, offset).expect("the disk is sound");
    }
    file.set_len(100 << 20).expect("the disk is sound");
    let allocated = |path: &Path| disk.stat(path).expect("the disk is sound").expect("it is there").allocated;
    house.apply(&house.steps()[1].0);
    let copy = house.path(&Spot::operation("staging/copy/segment/links"));
    assert_eq!(disk.stat(&copy).expect("the disk is sound").expect("it was copied").length, 100 << 20);
    for offset in [3 << 20, 70 << 20] {
        assert_eq!(disk.read(&copy, offset - 1, 8194).expect("it was copied")[1..8193], data);
    }
    if allocated(&sparse) >= 100 << 20 {
        println!("SKIPPED: the file system of {} makes no holes", env!("CARGO_TARGET_TMPDIR"));
        return;
    }
    assert!(allocated(&copy) <= allocated(&sparse) + (1 << 20), "{} bytes allocated", allocated(&copy));
}
