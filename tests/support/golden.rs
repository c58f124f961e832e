//! The golden journals: what they hold, and the bytes that stand in `tests/golden`.
//!
//! A change of the format makes new files, never other bytes in these: journals that were written keep being read.

use super::memory::MemoryDisk;
use palacekeeper::disk::Disk;
use palacekeeper::journal::frame::Header;
use palacekeeper::journal::{Journal, Outcome, Plan, Record};
use palacekeeper::ops::Step;
use palacekeeper::store::chroma::{
    self, Amendment, Batch, Blueprint, Donor, Expected, ExpectedCollection, NewCollection, Pages, Preparation,
    QueueBatch, Renamed, Route, Scope, Waiting,
};
use palacekeeper::store::{exact, lines};
use palacekeeper::tree::{self, Copy, Fingerprint, Need, Spot};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// Salt of all golden journals.
pub const HEADER: Header = Header { operation: 7, salt: 0x0123_4567_89ab_cdef };

/// A journal in `tests/golden`.
pub struct Golden<S: 'static> {
    pub name: &'static str,
    /// Its records, frame by frame.
    pub frames: Vec<Vec<Record<S>>>,
    pub bytes: &'static [u8],
}

impl<S: Serialize> Golden<S> {
    /// The bytes this program writes for these records.
    pub fn written(&self) -> Vec<u8> {
        let (disk, path) = (MemoryDisk::new(&[]), Path::new("/journal"));
        let (first, rest) = self.frames.split_first().expect("a journal has a first frame");
        let mut journal = Journal::create(&disk, path, HEADER, first).expect("the disk is sound");
        rest.iter().for_each(|records| journal.append(records).expect("the disk is sound"));
        disk.read(path, 0, u64::MAX).expect("the disk is sound")
    }
}

impl<S> Golden<S> {
    pub fn records(&self) -> Vec<&Record<S>> {
        self.frames.iter().flatten().collect()
    }

    /// Offsets at which frames begin, and the end of the last one.
    pub fn boundaries(&self) -> Vec<usize> {
        let mut boundaries = vec![28];
        while let Some(length) = self.bytes.get(boundaries[boundaries.len() - 1]..).and_then(|rest| rest.first_chunk())
        {
            boundaries.push(boundaries[boundaries.len() - 1] + 16 + u32::from_le_bytes(*length) as usize);
        }
        boundaries
    }
}

/// Every record there is, over steps that are plain numbers.
pub fn records() -> Golden<u32> {
    let plan = Plan { steps: vec![11, 300], pivot: 1 };
    let frames = vec![
        vec![Record::Begin { title: "golden".into(), began_at: 1_760_000_000, plan }],
        vec![Record::Intent(0)],
        vec![Record::Done(0), Record::Commit, Record::Intent(1)],
        vec![Record::Done(1), Record::End(Outcome::Completed)],
        vec![Record::Abort("disk full".into())],
        vec![Record::Undone(0), Record::Undone(300), Record::End(Outcome::RolledBack)],
    ];
    Golden { name: "records.journal", frames, bytes: include_bytes!("../golden/records.journal") }
}

/// Every step there is, in an order that no operation has.
pub fn plan() -> Plan<Step> {
    let tree = tree_steps().into_iter().map(Step::Tree);
    Plan { steps: tree.chain(chroma_steps().into_iter().map(Step::Chroma)).collect(), pivot: 5 }
}

/// A journal that has begun that plan.
pub fn steps() -> Golden<Step> {
    let frames = vec![
        vec![Record::Begin { title: "rebuild".into(), began_at: -1, plan: plan() }],
        vec![Record::Intent(0)],
        vec![Record::Done(0), Record::Intent(1)],
    ];
    Golden { name: "steps.journal", frames, bytes: include_bytes!("../golden/steps.journal") }
}

/// What came with migrations, in an order that no operation has.
pub fn plan_of_migrations() -> Plan<Step> {
    let waiting = Waiting { topic: "persistent://a".into(), segment: "c".into(), after: 300 };
    let amendments = vec![Amendment::Fit { format: "0.5.23".into() }, Amendment::Apply(vec![waiting])];
    let expected: ExpectedCollection =
        plain(r#"{"records":99,"vectors":98,"pending":0,"digest":[1,2,3,18446744073709551615]}"#);
    let (records, bytes) = (99, 1 << 20);
    let exact = [
        exact::Step::CreateStore { preparation: Preparation { amendments, ..Preparation::default() } },
        exact::Step::UpsertBatch(Batch { first: 1, last: 100, records, bytes }),
        exact::Step::Verify { expected: vec![expected], bytes },
        exact::Step::TakeIn { records, bytes },
    ];
    let lines = [Step::Lines(lines::Step::TakeIn { records, bytes })];
    Plan { steps: exact.map(Step::Exact).into_iter().chain(lines).collect(), pivot: 3 }
}

/// A journal that has begun that plan.
pub fn migrations() -> Golden<Step> {
    let frames = vec![
        vec![Record::Begin { title: "migrate".into(), began_at: 1_790_000_000, plan: plan_of_migrations() }],
        vec![Record::Intent(0)],
    ];
    Golden { name: "migrations.journal", frames, bytes: include_bytes!("../golden/migrations.journal") }
}

/// What came with the annex.
pub fn plan_with_annex() -> Plan<Step> {
    let annex = || plain(r#"{"directory":"/mnt/größer","node":70000,"token":"00112233-4455-4677-8899-aabbccddeeff"}"#);
    let (source, target) = (Spot::annex("chroma.sqlite3"), Spot::operation("staging/chroma.sqlite3"));
    let steps = [
        tree::Step::CreateAnnex(annex()),
        tree::Step::Bring { source, target, bytes: 5 << 30 },
        tree::Step::DeleteAnnex(annex()),
    ];
    Plan { steps: steps.map(Step::Tree).into(), pivot: 2 }
}

/// A journal that has begun that plan.
pub fn annex() -> Golden<Step> {
    let begin = Record::Begin { title: "rebuild".into(), began_at: 1, plan: plan_with_annex() };
    let frames = vec![vec![begin], vec![Record::Intent(0)]];
    Golden { name: "annex.journal", frames, bytes: include_bytes!("../golden/annex.journal") }
}

/// A value that has no public constructor, from its fields.
fn plain<T: DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).expect("the fields are those of the type")
}

fn tree_steps() -> Vec<tree::Step> {
    let copy = |target| Copy {
        source: Spot::palace(""),
        names: vec!["chroma.sqlite3".into(), "größe".into()],
        target: Spot::operation(target),
        bytes: 5 << 30,
    };
    let expects: Fingerprint = plain(r#"{"node":70000,"length":8192,"modified_ns":-5,"head_crc32":3735928559}"#);
    let (source, target) = (Spot::palace("chroma.sqlite3"), Spot::operation("aside/chroma.sqlite3"));
    vec![
        tree::Step::Backup(copy("backup")),
        tree::Step::Copy(copy("staging/segment")),
        tree::Step::CreateDir { target: Spot::operation("staging") },
        tree::Step::Sync { target: Spot::operation("staging/chroma.sqlite3") },
        tree::Step::Place { source: Spot::operation("staging/segment"), target: Spot::palace("segment") },
        tree::Step::LinkAside { source: source.clone(), target: target.clone(), expects },
        tree::Step::RenameAside { need: Need::May, source: source.clone(), target: target.clone(), expects },
        tree::Step::Replace {
            source: Spot::operation("staging/chroma.sqlite3"),
            target: source,
            expects,
            aside: target,
            absent: vec![Spot::palace("chroma.sqlite3-wal")],
        },
        tree::Step::Delete { target: Spot::operation("staging") },
        tree::Step::Compare(Copy { source: Spot::keep("0006-rebuild/backup"), ..copy("staging") }),
    ]
}

fn chroma_steps() -> Vec<chroma::Step> {
    let renamed = |old: Option<&str>, new: &str| Renamed { old: old.map(str::to_owned), new: new.to_owned() };
    let collection = |route| NewCollection {
        name: "memories".into(),
        id: renamed(Some("a"), "b"),
        topic: renamed(Some("persistent://a"), "persistent://b"),
        metadata: renamed(None, "c"),
        vector: renamed(Some("d"), "e"),
        route,
        metadata_sequence: Some(300),
        vector_sequence: None,
    };
    let routes = [Route::Segment, Route::Unpersisted, Route::Built { why: "header.bin".into() }, Route::Kept];
    let batch = Batch { first: 1, last: 100, records: 99, bytes: 1 << 20 };
    let expected: Expected = plain(
        r#"{"collections":[{"records":99,"vectors":98,"pending":1,"digest":[1,2,3,18446744073709551615]}],
            "unowned":{"records":0,"vectors":0,"pending":0,"digest":[0,0,0,0]},"bytes":4096,"left":2,
            "mended":["index-pickle","sequence-ahead"]}"#,
    );
    let donor = Donor {
        id: "f".into(),
        name: "memories__repair_tmp".into(),
        topic: "persistent://f".into(),
        vector: Some("g".into()),
        metadata_sequence: 200,
        vector_sequence: Some(100),
    };
    let name = || "a".to_owned();
    let amendments = vec![
        Amendment::Schema,
        Amendment::SetAside { sequences: vec![7, 300] },
        Amendment::Dimension { collection: name(), dimension: 384 },
        Amendment::ConfigType { collection: name() },
        Amendment::Segment { collection: name(), scope: Scope::Vector, segment: "d".into() },
        Amendment::Rename { collection: name(), name: "memories".into() },
        Amendment::Merge { from: donor, into: name() },
        Amendment::Unowned { table: "embedding_metadata".into(), rows: 3 },
        Amendment::Older { rows: vec![7, 300] },
        Amendment::Cosine { collection: name(), vector: "d".into() },
    ];
    let blueprint = |preparation| Blueprint {
        format: "1.5.9".into(),
        preparation,
        collections: routes.iter().cloned().map(collection).collect(),
    };
    vec![
        chroma::Step::CreateStore(blueprint(Preparation {
            pages: Pages::Salvaged,
            amendments,
            adopted: vec!["palace.old".into()],
        })),
        chroma::Step::UpsertBatch(batch),
        chroma::Step::QueueBatch(QueueBatch { first: 1, last: 300, rows: 299, bytes: 70_000 }),
        chroma::Step::Sentinel { collection: 1, sequence: 300 },
        chroma::Step::BuildIndexes { bytes: 1 << 33 },
        chroma::Step::BuildIndex { collection: 2, vectors: 50, bytes: 76_800 },
        chroma::Step::Verify(expected),
        chroma::Step::Amend { blueprint: blueprint(Preparation::default()), amendments: vec![Amendment::FullText] },
        chroma::Step::Roll,
    ]
}

/// Fails to compile when a step is added that no golden journal holds yet.
pub fn assert_every_step_is_golden(steps: &[Step]) {
    let place = |step: &Step| match step {
        Step::Tree(tree::Step::Backup(_)) => 0,
        Step::Tree(tree::Step::Copy(_)) => 1,
        Step::Tree(tree::Step::CreateDir { .. }) => 2,
        Step::Tree(tree::Step::Sync { .. }) => 3,
        Step::Tree(tree::Step::Place { .. }) => 4,
        Step::Tree(tree::Step::LinkAside { .. }) => 5,
        Step::Tree(tree::Step::RenameAside { .. }) => 6,
        Step::Tree(tree::Step::Replace { .. }) => 7,
        Step::Tree(tree::Step::Delete { .. }) => 8,
        Step::Tree(tree::Step::Compare(_)) => 9,
        Step::Chroma(chroma::Step::CreateStore(_)) => 10,
        Step::Chroma(chroma::Step::UpsertBatch { .. }) => 11,
        Step::Chroma(chroma::Step::QueueBatch(_)) => 12,
        Step::Chroma(chroma::Step::Sentinel { .. }) => 13,
        Step::Chroma(chroma::Step::BuildIndexes { .. }) => 14,
        Step::Chroma(chroma::Step::BuildIndex { .. }) => 15,
        Step::Chroma(chroma::Step::Verify(_)) => 16,
        Step::Chroma(chroma::Step::Amend { .. }) => 17,
        Step::Chroma(chroma::Step::Roll) => 18,
        Step::Exact(exact::Step::CreateStore { .. }) => 19,
        Step::Exact(exact::Step::UpsertBatch(_)) => 20,
        Step::Exact(exact::Step::Verify { .. }) => 21,
        Step::Exact(exact::Step::TakeIn { .. }) => 22,
        Step::Lines(lines::Step::TakeIn { .. }) => 23,
        Step::Tree(tree::Step::CreateAnnex(_)) => 24,
        Step::Tree(tree::Step::Bring { .. }) => 25,
        Step::Tree(tree::Step::DeleteAnnex(_)) => 26,
    };
    let places: Vec<usize> = steps.iter().map(place).collect();
    assert_eq!(places, (0..27).collect::<Vec<_>>());
}
