//! Whatever others left in the page cache, a client or a killed keeper: nothing is built upon it before it is durable,
//! and nothing that is nowhere else is let go (I5).

use crate::support::explore::{Act, Course, PALACE, Stand};
use crate::support::memory::{Fate, Fault, MemoryDisk};
use crate::support::vfs;
use crate::support::whole::{KEEP, Verb, Whole};
use palacekeeper::disk::Disk;
use palacekeeper::keeper::{self, Choice, Consent, Error, Keeper, Sweeper};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

fn database() -> PathBuf {
    Path::new(PALACE).join("chroma.sqlite3")
}

/// The palace with its database put there anew, as a person does with `cp`: its name is durable, its contents are not.
fn copied(disk: &MemoryDisk) -> MemoryDisk {
    let bytes = disk.read(&database(), 0, u64::MAX).expect("it is there");
    disk.remove(&database()).expect("the disk is sound");
    disk.create(&database(), &bytes).expect("the disk is sound");
    disk.sync(Path::new(PALACE)).expect("the disk is sound");
    disk.fresh()
}

fn sweep(disk: &MemoryDisk) -> Result<(), Error> {
    vfs::on(disk, || {
        let mut sweeper = Sweeper::lock(disk, Path::new(PALACE))?.expect("there is a keep");
        let choice = Choice::AllBut { newest: 0 };
        let candidates = keeper::plan_sweep(disk, Path::new(PALACE), &choice, Consent::Copies)?;
        let agreed: Vec<u32> = candidates.iter().filter(|one| one.goes()).map(|one| one.operation.number).collect();
        assert!(!agreed.is_empty(), "there is nothing to be swept");
        sweeper.sweep(&choice, Consent::Copies, &agreed).map(drop)
    })
}

/// I8, I9, I11: what was read and replaced is durable, whoever wrote it.
#[test]
fn power_cut_takes_back_what_a_client_never_synced() {
    let whole = Whole::new(Verb::Rebuild);
    let disk = copied(&whole.disk());
    let old = disk.image(PALACE);
    let disk = disk.with_history();
    whole.begin(&disk).expect("nothing disturbs it");
    let mut ended = [0, 0];
    for moment in disk.history() {
        let cut = moment.crash(Fate::POWER_CUT);
        match whole.stand(&cut) {
            Stand::Unborn => continue, // nothing was promised yet
            Stand::Interrupted { .. } => drop(whole.act(Act::Recover, &cut).expect("it can be recovered")),
            Stand::Ended(_) => {}
        }
        let is_old = cut.image(PALACE) == old;
        assert!(is_old || whole.is_new(&cut, &disk), "neither the old palace nor the new");
        ended[usize::from(is_old)] += 1;
    }
    assert!(ended.iter().all(|count| *count > 0), "only one of the two ends was ever reached: {ended:?}");
}

/// I11: a client's sync has failed, and its database is nowhere but in the page cache, where it reads well.
#[test]
fn recovery_lets_go_of_what_only_the_page_cache_has() {
    let whole = Whole::new(Verb::Rebuild);
    let failing = copied(&whole.disk()).with_fault(0, Fault::Once(ErrorKind::Other));
    failing.sync(&database()).expect_err("it fails");
    let disk = failing.fresh();
    let old = disk.image(PALACE);
    let disk = disk.with_history();
    whole.begin(&disk).expect("nothing disturbs it");
    let mut recovered = 0;
    for moment in disk.history() {
        let killed = moment.kill();
        if let Stand::Interrupted { .. } = whole.stand(&killed) {
            whole.act(Act::Recover, &killed).expect("it can be recovered");
            assert!(killed.image(PALACE) == old || whole.is_new(&killed, &disk), "neither the old palace nor the new");
            recovered += 1;
        }
    }
    assert!(recovered > 100, "only {recovered} moments were recovered");
}

/// I13: a palace that is sound in the page cache alone is no reason to sweep.
#[test]
fn sweep_relies_on_a_palace_that_is_not_durable() {
    let whole = Whole::new(Verb::Rebuild);
    let disk = whole.disk();
    whole.begin(&disk).expect("nothing disturbs it");
    disk.settle();
    let disk = copied(&disk);
    let held = whole.holding(&disk);
    sweep(&disk).expect("the palace is sound");
    assert_eq!(whole.holding(&disk.crash(Fate::POWER_CUT)), held);
}

/// I1: what a killed process had named last is durable before it is built upon, or taken apart.
#[test]
fn name_that_was_never_synced_is_built_upon() {
    let whole = Whole::new(Verb::Rebuild);
    let at = |disk: &MemoryDisk, path: &Path| disk.stat(path).expect("the disk is sound").is_some();
    let (keep, folder) = (Path::new(KEEP), Path::new(KEEP).join("0001-rebuild"));
    let disk = whole.disk().with_history();
    whole.begin(&disk).expect("nothing disturbs it");
    let is_made = |one: &&MemoryDisk| at(&one.kill(), keep) && !at(&one.crash(Fate::POWER_CUT), keep);
    let killed = disk.history().iter().find(is_made).expect("it is made before it is synced").kill();
    whole.begin(&killed).expect("the palace is sound");
    assert!(at(&killed.crash(Fate::POWER_CUT), &folder), "the keep is lost, with all that it kept");

    disk.settle();
    let disk = disk.with_history();
    sweep(&disk).expect("the palace is sound");
    let is_swept = |one: &&MemoryDisk| !at(&one.kill(), &folder) && at(&one.crash(Fate::POWER_CUT), &folder);
    let killed = disk.history().iter().find(is_swept).expect("it is renamed before that is synced").with_history();
    let lock = |disk: &MemoryDisk| vfs::on(disk, || Keeper::lock(disk, Path::new(PALACE)).map(drop));
    lock(&killed).expect("it can be locked");
    for moment in killed.history() {
        for fate in moment.fates(&[0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 12_345_678_901]) {
            lock(&moment.crash(fate)).expect("no folder is left by half");
        }
    }
}
