//! The annex: what is built on another file system and brought over, under every crash; and a journal that names a
//! stranger's directory as its annex.

use crate::support::explore::{Explorer, FOLDER, PALACE, Scene, entry};
use crate::support::golden;
use crate::support::memory::{Fault, MemoryDisk};
use palacekeeper::disk::{Disk, RealDisk};
use palacekeeper::engine::{Observed, Plan, Step as _};
use palacekeeper::ops::{Step, World};
use palacekeeper::store::chroma;
use palacekeeper::tree::{self, Annex, Copy, Error, Fingerprint, Roots, Spot};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const DATABASE: &str = "chroma.sqlite3";
const FAR: &str = "/far";

fn put(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    disk.create(Path::new(path), bytes).expect("the disk is sound");
}

fn plain(directory: &str, node: u64, token: &str) -> Annex {
    let json = serde_json::json!({ "directory": directory, "node": node, "token": token });
    serde_json::from_value(json).expect("the fields are those of an annex")
}

const TOKEN: &str = "00112233-4455-4677-8899-aabbccddeeff";

fn annex(disk: &dyn Disk, directory: &Path) -> Annex {
    let node = disk.stat(directory).expect("the disk is sound").expect("it is there").node;
    plain(directory.to_str().expect("text"), node, TOKEN)
}

/// A new store is built in an annex, brought over, and takes the place of the old one.
struct Brought {
    /// Whether the annex is on a file system of its own.
    is_far: bool,
}

impl Scene for Brought {
    type Step = Step;

    fn disk(&self) -> MemoryDisk {
        let disk = MemoryDisk::new(&["/keep", PALACE, "/palace/next", "/palace/segment-1", FAR]);
        if self.is_far {
            disk.mount_on(Path::new(FAR));
        }
        put(&disk, "/palace/chroma.sqlite3", b"old database");
        put(&disk, "/palace/segment-1/header.bin", b"graph");
        put(&disk, "/palace/next/chroma.sqlite3", b"new database");
        disk.settle();
        disk
    }

    fn plan(&self, disk: &MemoryDisk) -> Plan<Step> {
        let database = Spot::palace(DATABASE);
        let expects = Fingerprint::of(disk, Path::new("/palace/chroma.sqlite3")).expect("the disk is sound");
        let expects = expects.expect("it was put there");
        let annex = annex(disk, Path::new(FAR));
        let copy = |source: &str, name: &str, target| Copy {
            source: Spot::palace(source),
            names: vec![name.into()],
            target,
            bytes: 1,
        };
        let bring = |source: &str, target: &str| tree::Step::Bring {
            source: Spot::annex(source),
            target: Spot::operation("staging").join(target),
            bytes: 1,
        };
        let aside = Spot::operation("aside").join(DATABASE);
        let steps = vec![
            tree::Step::CreateAnnex(annex.clone()),
            tree::Step::CreateDir { target: Spot::operation("staging") },
            tree::Step::Backup(copy("", DATABASE, Spot::operation("backup"))),
            tree::Step::Copy(copy("next", DATABASE, Spot::annex("built"))),
            tree::Step::Copy(copy("segment-1", "header.bin", Spot::annex("segment-2"))),
            bring("built/chroma.sqlite3", DATABASE),
            bring("segment-2", "segment-2"),
            tree::Step::CreateDir { target: Spot::operation("aside") },
            tree::Step::Place { source: Spot::operation("staging/segment-2"), target: Spot::palace("segment-2") },
            tree::Step::LinkAside { source: database.clone(), target: aside.clone(), expects },
            tree::Step::Replace {
                source: Spot::operation("staging").join(DATABASE),
                target: database,
                expects,
                aside,
                absent: vec![],
            },
            tree::Step::Delete { target: Spot::operation("staging") },
            tree::Step::DeleteAnnex(annex),
        ];
        Plan { steps: steps.into_iter().map(Step::Tree).collect(), pivot: 10 }
    }

    fn world<'d>(&self, disk: &'d MemoryDisk, plan: &Plan<Step>) -> World<'d> {
        let world = World::new(disk, Path::new(PALACE), Path::new(FOLDER), plan);
        // As the keeper does, which leaves what has ended alone.
        if entry::<Step>(disk).is_ok_and(|entry| entry.ledger.outcome().is_none()) {
            let _gone_with_the_process = world.settle();
        }
        world
    }

    fn check(&self, disk: &MemoryDisk) {
        let image = disk.image(PALACE);
        let database = image.get(Path::new("/palace/chroma.sqlite3")).cloned().flatten().unwrap_or_default();
        let has_segment = image.contains_key(Path::new("/palace/segment-2/header.bin"));
        assert!(database == b"old database" || (database == b"new database" && has_segment), "{image:?}");
    }

    fn check_ended(&self, disk: &MemoryDisk) {
        assert_eq!(disk.image(FAR).len(), 1, "something is left in the annex's directory: {:?}", disk.image(FAR));
    }
}

/// I8, I9, I11, I12 and I13 for what is brought, between two file systems and within one. With
/// `PALACEKEEPER_FAULTS=all` on and on until no new state turns up.
#[test]
fn crash_anywhere_between_two_file_systems_leaves_one_whole_store() {
    let is_full = std::env::var_os("PALACEKEEPER_FAULTS").is_some_and(|faults| faults == "all");
    for is_far in [true, false] {
        let scene = Brought { is_far };
        let walk = Explorer::new(&scene)
            .explore(&[0x9e37_79b9_7f4a_7c15], if is_full { usize::MAX } else { 1 + usize::from(is_far) });
        println!("far: {is_far}, {walk:?}");
        assert!(walk.states > 300 && walk.ended_old > 1 && walk.ended_new > 0, "{walk:?}");
        assert!(walk.left_out == 0 || !is_full, "{walk:?}");
    }
}

/// I5: nothing is built upon what a failed sync has dropped, neither in the annex nor in the folder.
#[test]
fn what_a_failed_sync_has_dropped_between_two_file_systems_is_believed() {
    for is_far in [true, false] {
        let met = Explorer::new(&Brought { is_far }).fail_syncs();
        assert!(met.old > 100 && met.new > 100, "far: {is_far}, only one of the two ends was ever reached: {met:?}");
    }
}

/// The step that brings the database, with everything before it done.
fn about_to_bring(is_far: bool) -> (MemoryDisk, Plan<Step>) {
    let scene = Brought { is_far };
    let disk = scene.disk();
    let plan = scene.plan(&disk);
    disk.create_dir(Path::new(FOLDER)).expect("the disk is sound");
    let mut world = World::new(&disk, Path::new(PALACE), Path::new(FOLDER), &plan);
    plan.steps[..5].iter().for_each(|step| step.apply(&mut world).expect("nothing disturbs it"));
    drop(world);
    disk.settle();
    (disk, plan)
}

/// Only EXDEV is a reason to copy, and the source stays then.
#[test]
fn any_error_of_a_rename_leads_to_a_copy() {
    for is_far in [true, false] {
        let (disk, plan) = about_to_bring(is_far);
        let disk = disk.fresh();
        let mut world = World::new(&disk, Path::new(PALACE), Path::new(FOLDER), &plan);
        plan.steps[5].apply(&mut world).expect("nothing disturbs it");
        let source = format!("{FAR}/.palacekeeper-{TOKEN}/built/chroma.sqlite3");
        assert_eq!(disk.stat(Path::new(&source)).expect("the disk is sound").is_some(), is_far);
        assert_eq!(plan.steps[5].observe(&mut world).expect("the disk is sound"), Observed::After);
        assert_eq!(disk.pending(), 0, "what was brought is not durable");
        for _ in 0..2 {
            plan.steps[5].revert(&mut world).expect("nothing disturbs it");
            assert_eq!(plan.steps[5].observe(&mut world).expect("the disk is sound"), Observed::Before);
        }
    }
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::StorageFull, ErrorKind::ResourceBusy, ErrorKind::Other];
    for kind in [&kinds[..], &[ErrorKind::CrossesDevices]].concat() {
        let (disk, plan) = about_to_bring(false);
        let faulty = disk.with_fault(0, Fault::Once(kind));
        let mut world = World::new(&faulty, Path::new(PALACE), Path::new(FOLDER), &plan);
        let outcome = plan.steps[5].apply(&mut world);
        assert_eq!(faulty.fired(), 1);
        let image = faulty.image(FOLDER);
        let is_brought = image.contains_key(&Path::new(FOLDER).join("staging/chroma.sqlite3"));
        assert_eq!((outcome.is_ok(), is_brought), (kind == ErrorKind::CrossesDevices, outcome.is_ok()), "{kind:?}");
        assert!(!image.contains_key(&Path::new(FOLDER).join("staging/chroma.sqlite3.part")), "{kind:?}");
        let error = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(is_brought || error.contains("cannot rename to"), "{kind:?} does not surface as itself: {error}");
    }
}

/// A directory with a palace, an operation's folder, and a stranger's things.
struct House {
    root: tempfile::TempDir,
}

impl House {
    fn new() -> House {
        let root = tempfile::tempdir().expect("a temporary directory");
        for directory in ["palace", "keep/0001-rebuild/staging", "far", "stranger"] {
            fs::create_dir_all(root.path().join(directory)).expect("it is empty");
        }
        fs::write(root.path().join("stranger/chroma.sqlite3"), b"not ours").expect("there is room");
        House { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().expect("it is there").join(name)
    }

    fn roots<'d>(&self, disk: &'d dyn Disk, annex: &Annex) -> Roots<'d> {
        let (palace, operation) = (self.path("palace"), self.path("keep/0001-rebuild"));
        Roots { disk, palace, operation, annex: Some(annex.clone()) }
    }

    fn assert_stranger_stands(&self, what: &str) {
        let bytes = fs::read(self.path("stranger/chroma.sqlite3"));
        assert_eq!(bytes.expect(what), b"not ours", "{what}");
    }

    /// Does to an annex whatever a journal could order.
    fn misuse(&self, annex: &Annex, what: &str) {
        let disk = RealDisk::new();
        let (roots, spot) = (self.roots(&disk, annex), Spot::annex(DATABASE));
        for step in [
            tree::Step::CreateAnnex(annex.clone()),
            tree::Step::DeleteAnnex(annex.clone()),
            tree::Step::Delete { target: spot.clone() },
            tree::Step::CreateDir { target: spot.clone() },
            tree::Step::Bring { source: spot.clone(), target: Spot::operation("staging/brought"), bytes: 1 },
            tree::Step::Place { source: spot.clone(), target: Spot::palace("placed") },
            tree::Step::Sync { target: spot },
        ] {
            let _may_fail = step.observe(&roots);
            assert!(step.apply(&roots).is_err(), "{what}: {step}");
            let _may_fail = step.revert(&roots);
        }
        let mut steps = [golden::plan().steps, golden::plan_of_migrations().steps].concat();
        steps.retain(|step| !matches!(step, Step::Tree(_)));
        let steps = [vec![Step::Tree(tree::Step::CreateAnnex(annex.clone()))], steps].concat();
        let plan = Plan { steps, pivot: 1 };
        let world = || World::new(&disk, &self.path("palace"), &self.path("keep/0001-rebuild"), &plan);
        for step in &plan.steps[1..] {
            let _may_fail = step.observe(&mut world());
            assert!(step.apply(&mut world()).is_err(), "{what}: {step}");
            assert!(step.revert(&mut world()).is_err(), "{what}: {step}");
        }
        let _may_fail = world().settle();
    }
}

/// I6, I13 and I17: a journal is only a file, and somebody else may have written it.
#[test]
fn forged_journal_removes_the_directory_of_a_stranger() {
    let tokens = ["", ".", "..", "../stranger", "x/../../stranger", "0011", &TOKEN.to_uppercase(), "a\0b"];
    for token in tokens {
        let house = House::new();
        let node = RealDisk::new().stat(&house.path("far")).expect("it can be seen").expect("it is there").node;
        house.misuse(&plain(house.path("far").to_str().expect("text"), node, token), token);
        house.assert_stranger_stands(token);
        assert_eq!(fs::read_dir(house.path("far")).expect("it is there").count(), 0, "{token:?}");
    }
    for directory in ["", "far", "./far", "/../far", "/a\0b"] {
        let house = House::new();
        house.misuse(&plain(directory, 1, TOKEN), directory);
    }
}

/// I6: the name alone does not make a directory an annex, nor does a marker that names another operation.
#[test]
fn directory_without_the_right_marker_is_taken_for_the_annex() {
    let disk = RealDisk::new();
    type Fill = fn(&House, &Path);
    let fills: [(&str, Fill); 6] = [
        ("no marker", |_, place| {
            fs::create_dir(place).and_then(|()| fs::write(place.join("theirs"), b"x")).expect("there is room");
        }),
        ("a long marker", |_, place| {
            fs::create_dir(place).and_then(|()| fs::write(place.join("marker"), [b'x'; 4096])).expect("there is room");
        }),
        ("the marker of another operation", |house, place| {
            let annex = annex(&RealDisk::new(), &house.path("far"));
            let disk = RealDisk::new();
            let roots = Roots { operation: house.path("keep/0002-rebuild"), ..house.roots(&disk, &annex) };
            fs::create_dir(house.path("keep/0002-rebuild")).expect("it is free");
            tree::Step::CreateAnnex(annex).apply(&roots).expect("nothing disturbs it");
            fs::write(place.join("theirs"), b"x").expect("there is room");
        }),
        ("a link to a stranger", |house, place| {
            std::os::unix::fs::symlink(house.path("stranger"), place).expect("it is free");
        }),
        ("a file", |_, place| fs::write(place, b"x").expect("it is free")),
        ("a marker that is a link", |house, place| {
            fs::create_dir(place).expect("it is free");
            std::os::unix::fs::symlink(house.path("stranger/chroma.sqlite3"), place.join("marker")).expect("free");
        }),
    ];
    for (what, fill) in fills {
        let house = House::new();
        let annex = annex(&disk, &house.path("far"));
        let place = annex.path().expect("it is one");
        fill(&house, &place);
        let before = snapshot(&house.path("far"));
        let roots = house.roots(&disk, &annex);
        for step in [tree::Step::CreateAnnex(annex.clone()), tree::Step::DeleteAnnex(annex.clone())] {
            assert_eq!(step.observe(&roots).expect("it can be seen"), Observed::Foreign, "{what}: {step}");
            assert!(matches!(step.apply(&roots), Err(Error::NotOurs { .. })), "{what}: {step}");
        }
        let mut steps = golden::plan().steps;
        steps.retain(|step| matches!(step, Step::Chroma(chroma::Step::CreateStore(_))));
        steps.insert(0, Step::Tree(tree::Step::CreateAnnex(annex.clone())));
        let plan = Plan { steps, pivot: 1 };
        let mut world = World::new(&disk, &house.path("palace"), &house.path("keep/0001-rebuild"), &plan);
        assert_eq!(plan.steps[1].observe(&mut world).expect("it can be seen"), Observed::Foreign, "{what}");
        drop(world);
        house.misuse(&annex, what);
        assert_eq!(snapshot(&house.path("far")), before, "{what}");
        house.assert_stranger_stands(what);
    }
}

fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it can be read").map(|entry| entry.expect("an entry").path()) {
        found.push((entry.clone(), fs::read(&entry).unwrap_or_default()));
        if entry.symlink_metadata().expect("it is there").is_dir() {
            found.extend(snapshot(&entry));
        }
    }
    found.sort();
    found
}

/// I17: no link is followed, neither on the way to the annex nor in it.
#[test]
fn link_leads_out_of_the_annex() {
    let (disk, house) = (RealDisk::new(), House::new());
    let annex = annex(&disk, &house.path("far"));
    let (place, roots) = (annex.path().expect("it is one"), house.roots(&disk, &annex));
    let create = tree::Step::CreateAnnex(annex.clone());
    create.apply(&roots).expect("nothing disturbs it");
    std::os::unix::fs::symlink(house.path("stranger"), place.join("link")).expect("it is free");
    create.revert(&roots).expect("a link is removed, and not what it leads to");
    assert!(!place.exists());
    house.assert_stranger_stands("through a link in the annex");

    create.apply(&roots).expect("nothing disturbs it");
    fs::rename(house.path("far"), house.path("elsewhere")).expect("it can be moved");
    std::os::unix::fs::symlink(house.path("elsewhere"), house.path("far")).expect("it is free");
    assert_eq!(create.observe(&roots).expect("it can be seen"), Observed::Before);
    assert!(annex.is_out_of_reach(&roots).expect("it can be seen"));
    tree::Step::DeleteAnnex(annex.clone()).apply(&roots).expect("what cannot be reached need not be removed");
    assert!(matches!(create.apply(&roots), Err(Error::OutOfReach { .. })));
    assert!(house.path("elsewhere").join(place.file_name().expect("a name")).join("marker").exists());
}

/// Others may use the directory too; nobody asked for them to read along.
#[test]
fn annex_is_open_to_others() {
    use std::os::unix::fs::MetadataExt;
    let (disk, house) = (RealDisk::new(), House::new());
    let annex = annex(&disk, &house.path("far"));
    tree::Step::CreateAnnex(annex.clone()).apply(&house.roots(&disk, &annex)).expect("nothing disturbs it");
    let found = annex.path().expect("it is one").metadata().expect("it was made");
    let owner = house.path("keep/0001-rebuild").metadata().expect("it is there").uid();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o700, owner));
}
