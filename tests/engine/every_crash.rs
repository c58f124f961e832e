//! The engine under every crash: an operation ends whole or not at all, however often it is cut short.

use crate::support::explore::{Act, Explorer, FOLDER, Image, PALACE, Planned, Scene, UNBORN, begin, entry};
use crate::support::furnish::Furnish;
use crate::support::memory::{Fate, Fault, MemoryDisk};
use crate::support::toy::Toy;
use palacekeeper::disk::{Disk, remove_tree};
use palacekeeper::engine::{Begin, Contents, Direction, Enclosure, Error, Mark, Operation, Outcome, Watch};
use palacekeeper::journal::Tail;
use std::cell::Cell;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Fates for the few moments at which so much is pending that not all of them are tried.
const SEEDS: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 12_345_678_901, 7];

/// The disks that a crash of the undisturbed run can leave, each once.
fn crash_images(scene: &Furnish) -> Vec<MemoryDisk> {
    let disk = scene.disk().with_history();
    let plan = scene.plan(&disk);
    let mut operation = begin(&disk, &plan).expect("nothing disturbs it");
    operation.run(&mut scene.world(&disk, &plan), &mut ()).expect("nothing disturbs it");
    let mut seen = HashSet::new();
    let images = disk.history();
    let images = images.iter().flat_map(|moment| moment.fates(&SEEDS).into_iter().map(|fate| moment.crash(fate)));
    images.filter(|disk| seen.insert(disk.fingerprint(0))).collect()
}

/// What crashes of the run leave, and what crashes of a recovery of each of them leave.
fn images_of_recoveries(explorer: &Explorer<Planned<Furnish>>) -> Vec<MemoryDisk> {
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    for disk in crash_images(&Furnish).iter().filter(|disk| is_begun(disk)) {
        let recovered = disk.with_history();
        let _ended_before = explorer.act(Act::Recover, &recovered);
        let moments = recovered.history();
        all.extend(moments.iter().map(|moment| moment.crash(Fate::KEEP)));
    }
    all.retain(|disk| seen.insert(disk.fingerprint(0)));
    all
}

fn is_begun(disk: &MemoryDisk) -> bool {
    disk.image("/keep").contains_key(Path::new(FOLDER))
}

/// Where a recovery of the state must lead, by its journal alone (I8, I9).
fn expected<'e>(explorer: &'e Explorer<Planned<Furnish>>, disk: &MemoryDisk) -> &'e Image {
    match is_begun(disk) && entry::<Toy>(disk).expect("I2: no crash makes a journal unreadable").ledger.is_committed() {
        true => &explorer.new,
        false => &explorer.old,
    }
}

/// Everything but what is the engine's own: the journal, which notes that it goes back before it looks, and the room
/// that is kept free for that note.
fn untouched(disk: &MemoryDisk) -> Image {
    let mut image = disk.image("/");
    for name in ["journal", "reserve"] {
        image.remove(&Path::new(FOLDER).join(name));
    }
    image
}

/// I1, I3, I4, I5, I8, I9, I12: the walk ends only when no crash of anything leads to a state that it has not seen.
#[test]
fn crash_of_any_recovery_of_any_crash_ends_old_or_new() {
    let walk = Explorer::new(&Furnish).explore(&SEEDS, usize::MAX);
    println!("{walk:?}");
    assert!(walk.states > 1_000 && walk.generations >= 3 && walk.left_out == 0, "the walk was cut short: {walk:?}");
    assert!(walk.ended_old > 1 && walk.ended_new > 0, "only one of the two ends was ever reached: {walk:?}");
}

/// The walk looks at moments of an undisturbed run. Here the process really stops there, and finds the same disk.
#[test]
fn crash_leaves_what_stood_there_at_that_moment() {
    let run = |disk: &MemoryDisk| {
        let plan = Furnish.plan(disk);
        let (mut operation, _) = Operation::<Toy>::open(disk, Path::new(FOLDER))?;
        operation.run(&mut Furnish.world(disk, &plan), &mut ())
    };
    let start = Furnish.disk();
    begin(&start, &Furnish.plan(&start)).map(drop).expect("nothing disturbs it");
    let undisturbed = start.with_history();
    run(&undisturbed).expect("nothing disturbs it");
    let history = undisturbed.history();
    assert_eq!(history.len() as u32, undisturbed.events() + 1);
    for (event, moment) in history.iter().enumerate().take(undisturbed.events() as usize) {
        let crashed = start.with_fault(event as u32, Fault::Crash);
        run(&crashed).expect_err("the process is gone");
        assert!(crashed.fired() > 0, "no crash at event {event}");
        let [found, remembered] = [&crashed, moment].map(|disk| disk.crash(Fate::KEEP).image("/"));
        assert_eq!(found, remembered, "at event {event}");
        let [found, remembered] = [&crashed, moment].map(|disk| disk.crash(Fate::POWER_CUT).image("/"));
        assert_eq!(found, remembered, "at event {event}");
    }
}

/// A run, and what the next process does after one of its verbs failed; both as the keeper does it. A sync that failed
/// is final (I7): only another process goes on, and here it finds either the page cache or what a power cut leaves.
fn fail_at(explorer: &Explorer<Planned<Furnish>>, event: u32, fault: Fault) {
    let start = Furnish.disk();
    let plan = Furnish.plan(&start);
    let disk = start.with_fault(event, fault);
    let why = format!("{fault:?} at event {event}");
    let failed = begin(&disk, &plan).and_then(|mut one| one.run(&mut Furnish.world(&disk, &plan), &mut ()));
    let failed = failed.expect_err("the fault stops it");
    assert!(disk.fired() > 0, "{why} never struck");
    if is_begun(&disk) && !failed.to_string().contains("cannot sync") && matches!(fault, Fault::Once(_)) {
        let committed = entry::<Toy>(&disk).expect("the journal is readable").ledger.is_committed();
        let act = if committed { Act::Recover } else { Act::Abort };
        let outcome = explorer.act(act, &disk.share()).unwrap_or_else(|error| panic!("{error} after {why}"));
        assert_eq!(disk.image(PALACE), *expected(explorer, &disk), "{act:?} after {why}: {outcome:?}");
    }
    for fate in [Fate::KEEP, Fate::POWER_CUT] {
        let disk = disk.crash(fate);
        let expected = expected(explorer, &disk);
        if is_begun(&disk) && entry::<Toy>(&disk).expect("readable").ledger.outcome().is_none() {
            explorer.act(Act::Recover, &disk).unwrap_or_else(|error| panic!("{error} after {why} and {fate:?}"));
        }
        assert_eq!(disk.crash(Fate::POWER_CUT).image(PALACE), *expected, "{why}, then {fate:?}");
    }
}

/// Fills the disk to the last byte as soon as a step is reached.
struct Fills<'d>(&'d MemoryDisk, usize);

impl Watch for Fills<'_> {
    fn step(&mut self, _: Direction, index: usize, _: &dyn std::fmt::Display) {
        if index == self.1 {
            let held = u64::MAX - self.0.space(Path::new("/")).expect("the disk is sound");
            self.0.limit(held);
        }
    }
}

/// I4: whoever goes back has to be able to say so, also where nobody can write any more.
#[test]
fn full_disk_keeps_an_operation_from_going_back() {
    let mut failed = 0;
    for index in 0.. {
        let disk = Furnish.disk();
        let plan = Furnish.plan(&disk);
        if index >= plan.pivot as usize {
            break;
        }
        let old = disk.image(PALACE);
        let mut operation = begin(&disk, &plan).expect("there is room");
        if operation.run(&mut Furnish.world(&disk, &plan), &mut Fills(&disk, index)).is_ok() {
            continue;
        }
        failed += 1;
        let disk = disk.share();
        let (mut operation, _) = Operation::<Toy>::open(&disk, Path::new(FOLDER)).expect("its journal is readable");
        let back = operation.abort("the disk is full", &mut Furnish.world(&disk, &plan), &mut ());
        assert_eq!(back.expect("there is a reserve"), Outcome::RolledBack, "full at step {index}");
        assert_eq!(disk.image(PALACE), old, "full at step {index}");
        assert!(!disk.image("/keep").contains_key(&Path::new(FOLDER).join("reserve")), "its reserve stays for ever");
    }
    assert!(failed > 2, "the disk was never full: {failed}");
}

/// A sync that fails drops what it was about, and leaves it in sight: whoever takes it for durable, and builds on it,
/// loses with the next power cut what had ended (I5, I7).
#[test]
fn what_a_failed_sync_has_dropped_is_believed() {
    let met = Explorer::new(&Furnish).fail_syncs();
    assert!(met.old > 100 && met.new > 100, "only one of the two ends was ever reached: {met:?}");
}

/// Also where the disk is full for good: the room comes back only with the next process.
#[test]
fn error_at_any_event_rolls_back_or_waits_for_recovery() {
    let explorer = Explorer::new(&Furnish);
    let disk = Furnish.disk().fresh();
    let plan = Furnish.plan(&disk);
    let mut operation = begin(&disk, &plan).expect("nothing disturbs it");
    operation.run(&mut Furnish.world(&disk, &plan), &mut ()).expect("nothing disturbs it");
    for event in 0..disk.events() {
        fail_at(&explorer, event, Fault::Once(ErrorKind::StorageFull));
        fail_at(&explorer, event, Fault::Once(ErrorKind::PermissionDenied));
        fail_at(&explorer, event, Fault::Forever(ErrorKind::StorageFull));
    }
}

/// Files and directories that somebody else could put where the plan has something to do, while nobody recovers.
fn strange_places(committed: bool) -> Vec<&'static str> {
    let places = ["live", "lamp", "hall", "hall/chair0", "staging", "staging/live0", "staging/live1"];
    places.into_iter().filter(|place| !(committed && place.starts_with("staging"))).collect()
}

fn put(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    remove_tree(disk, path).expect("nothing disturbs it");
    disk.create(path, bytes).expect("nothing disturbs it");
    disk.settle();
}

/// I1: what is enclosed is there and whole whenever the operation is.
#[test]
fn crash_parts_an_operation_from_what_is_enclosed() {
    let disk = Furnish.disk().with_history();
    let plan = Furnish.plan(&disk);
    let bytes = b"what was lost".to_vec();
    let enclosure = Enclosure { name: "report.json", contents: Contents::Bytes(bytes.clone()) };
    let begin = Begin { number: 1, title: "test".into(), began_at: 0, plan };
    let begun = Operation::begin(&disk, Path::new(FOLDER), Path::new(UNBORN), begin, std::slice::from_ref(&enclosure));
    drop(begun.expect("nothing disturbs it"));
    let images = disk.history().into_iter().chain([disk]);
    let images = images.flat_map(|moment| moment.fates(&SEEDS).into_iter().map(move |fate| moment.crash(fate)));
    let (mut begun, mut unborn) = (0, 0);
    for image in images.map(|disk| disk.image("/keep")) {
        match image.contains_key(Path::new(FOLDER)) {
            true => {
                assert_eq!(image.get(&Path::new(FOLDER).join(enclosure.name)), Some(&Some(bytes.clone())));
                begun += 1;
            }
            false => unborn += 1,
        }
    }
    assert!(begun > 0 && unborn > 0, "{begun} crashes after the birth, {unborn} before it");
}

/// I6 and I13: what somebody else put there is still there afterwards, and where it is in the way, nothing at all
/// happens until it is gone.
#[test]
fn strangers_file_in_the_way_is_refused_and_kept() {
    let explorer = Explorer::new(&Furnish);
    let (mut refused, mut failed, mut passed) = (0, 0, 0);
    for disk in crash_images(&Furnish).iter().filter(|disk| is_begun(disk)) {
        let ledger = entry::<Toy>(disk).expect("readable").ledger;
        for place in strange_places(ledger.is_committed()).into_iter().filter(|_| ledger.outcome().is_none()) {
            let (disk, path) = (disk.fresh(), Path::new(PALACE).join(place));
            let was = disk.image(PALACE);
            if was.get(&path) == Some(&None) || !was.contains_key(path.parent().expect("it lies in the palace")) {
                continue; // a directory is there, or nothing could be put there
            }
            let right = expected(&explorer, &disk);
            put(&disk, &path, b"a stranger was here");
            let before = untouched(&disk);
            let outcome = explorer.act(Act::Recover, &disk);
            assert_eq!(disk.image(PALACE)[&path], Some(b"a stranger was here".to_vec()), "{place}: {outcome:?}");
            match outcome {
                Ok(_) => passed += 1,
                Err(Error::Refused { .. }) => refused += 1,
                Err(Error::Step { .. }) => failed += 1, // a room that is not empty cannot be torn down
                Err(other) => panic!("{place}: {other}"),
            }
            if matches!(outcome, Err(Error::Refused { .. })) && !ledger.is_committed() {
                assert_eq!(untouched(&disk), before, "{place}: refused, and yet something was changed");
            }
            match was.get(&path) {
                Some(Some(bytes)) => put(&disk, &path, bytes),
                _ => remove_tree(&disk, &path).expect("nothing disturbs it"),
            }
            if outcome.is_err() {
                explorer.act(Act::Recover, &disk).unwrap_or_else(|error| panic!("{place} is mended, and yet: {error}"));
            }
            assert_eq!(disk.image(PALACE), *right, "{place}");
        }
    }
    println!("{refused} refused, {failed} failed, {passed} not in the way");
    assert!(refused > 100, "only {refused} strangers were in the way");
}

/// What was given back is used again at once, and then looks like a stranger's: a recovery that was cut short must not
/// ask for it a second time.
#[test]
fn thing_that_was_given_back_is_used_before_the_next_recovery() {
    let (explorer, lamp) = (Explorer::new(&Furnish), Path::new("/palace/lamp"));
    let committed = |disk: &&MemoryDisk| entry::<Toy>(disk).expect("readable").ledger.is_committed();
    let images: Vec<MemoryDisk> = crash_images(&Furnish).into_iter().filter(is_begun).collect();
    let last = images.iter().rfind(|disk| !committed(disk)).expect("most crashes come before the commit");
    let recovery = last.with_history();
    explorer.act(Act::Recover, &recovery).expect("nothing disturbs it");
    let mut used = 0;
    for disk in recovery.history().iter().map(|moment| moment.crash(Fate::POWER_CUT)) {
        let ledger = entry::<Toy>(&disk).expect("readable").ledger;
        if ledger.mark(2) == Some(Mark::Undone) && ledger.outcome().is_none() {
            put(&disk, lamp, &[3]);
            let outcome = explorer.act(Act::Recover, &disk);
            outcome.unwrap_or_else(|error| panic!("the lamp is nobody's business any more: {error}"));
            assert_eq!(disk.image(PALACE)[lamp], Some(vec![3]));
            used += 1;
        }
    }
    assert!(used > 0, "nothing was given back before the end");
}

/// Cuts the last whole frame off a journal: the offset where it began.
fn last_frame(journal: &[u8]) -> usize {
    let cut = (1..journal.len()).rev().map(|length| palacekeeper::journal::frame::scan(&journal[..length]));
    let shorter = cut.flatten().find(|scan| scan.tail == Tail::Clean);
    shorter.map_or(0, |scan| {
        let (at, payload) = scan.payloads.last().copied().unwrap_or((12, &[]));
        at as usize + 16 + payload.len()
    })
}

/// The journal without its last frame, and with that frame damaged at some of its bytes.
fn damaged_at_the_end(journal: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let at = last_frame(journal);
    let flip = |byte: usize| {
        let mut bytes = journal.to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        bytes
    };
    (journal[..at].to_vec(), (at..journal.len()).step_by(7).map(flip).collect())
}

/// The old palace, the new one, or the one there was; and in the last case it can still be recovered.
fn assert_unmixed(explorer: &Explorer<Planned<Furnish>>, disk: &MemoryDisk, journal: &[u8], act: Act) {
    let disk = disk.fresh();
    put(&disk, &PathBuf::from(FOLDER).join("journal"), journal);
    let before = untouched(&disk);
    let mut outcome = explorer.act(act, &disk);
    if outcome.is_err() && untouched(&disk) != before {
        outcome = explorer.act(Act::Recover, &disk); // a resumption may fail half-way; a recovery mends that
    }
    match outcome {
        Ok(Outcome::Completed) => assert_eq!(disk.image(PALACE), explorer.new, "{act:?}"),
        Ok(Outcome::RolledBack) => assert_eq!(disk.image(PALACE), explorer.old, "{act:?}"),
        Err(error) => assert_eq!(untouched(&disk), before, "{act:?}: {error}, and yet something was changed"),
    }
}

/// No crash takes back what was synced, but a bad sector can. Then nobody knows better than the steps do.
#[test]
fn loss_of_the_last_durable_frame_never_mixes() {
    let explorer = Explorer::new(&Furnish);
    let images = images_of_recoveries(&explorer);
    for disk in &images {
        let journal = disk.read(&PathBuf::from(FOLDER).join("journal"), 0, u64::MAX).expect("nothing disturbs it");
        let (cut, flipped) = damaged_at_the_end(&journal);
        for act in [Act::Recover, Act::Abort] {
            flipped.iter().chain([&cut]).for_each(|journal| assert_unmixed(&explorer, disk, journal, act));
        }
    }
    assert!(images.len() > 150, "only {} crash images", images.len());
}

/// The frame may have said that the operation goes back, and steps that are `Done` may be undone by now: what has lost
/// its last frame is not resumed. (Cut off without a trace, it could not be missed; no sector does that.)
#[test]
fn damage_to_the_last_frame_forbids_to_resume() {
    let explorer = Explorer::new(&Furnish);
    for disk in images_of_recoveries(&explorer) {
        let journal = disk.read(&PathBuf::from(FOLDER).join("journal"), 0, u64::MAX).expect("nothing disturbs it");
        let (_, flipped) = damaged_at_the_end(&journal);
        flipped.iter().for_each(|journal| assert_unmixed(&explorer, &disk, journal, Act::Resume));
    }
}

/// Asks to stop when it has been asked a number of times.
struct StopAfter(Cell<u32>);

impl Watch for StopAfter {
    fn wants_stop(&self) -> bool {
        self.0.set(self.0.get().saturating_sub(1));
        self.0.get() == 0
    }
}

#[test]
fn stop_at_any_step_can_be_resumed_or_undone() {
    let explorer = Explorer::new(&Furnish);
    let mut stopped = 0;
    for after in 1..=8 {
        for act in [Act::Recover, Act::Resume, Act::Abort] {
            let disk = Furnish.disk();
            let plan = Furnish.plan(&disk);
            let mut operation = begin(&disk, &plan).expect("nothing disturbs it");
            let outcome = operation.run(&mut Furnish.world(&disk, &plan), &mut StopAfter(Cell::new(after)));
            match outcome {
                Err(Error::Stopped { done, all }) => assert_eq!((done as u32, all), (after - 1, plan.steps.len())),
                Ok(Outcome::Completed) if after as usize > plan.pivot as usize + 1 => continue,
                other => panic!("stopped at step {after}: {other:?}"),
            }
            stopped += 1;
            let disk = disk.crash(Fate::POWER_CUT);
            let outcome = explorer.act(act, &disk).expect("a stopped operation is at rest");
            let expected = if act == Act::Resume { &explorer.new } else { &explorer.old };
            assert_eq!(disk.image(PALACE), *expected, "{act:?} of one stopped at step {after}: {outcome:?}");
        }
    }
    assert_eq!(stopped, 3 * 6, "it can be stopped before each of the steps up to the pivot, and never after it");
}
