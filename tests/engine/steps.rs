//! Steps over a store, as a journal may name them that somebody else wrote.

use crate::support::golden;
use palacekeeper::disk::RealDisk;
use palacekeeper::engine::{Plan, Step as _, StepError};
use palacekeeper::ops::{Step, World};
use palacekeeper::store::chroma;
use std::fs;
use std::path::Path;

/// The golden blueprint with another name for the vector segment of its third collection, and a step that builds an
/// index.
fn plan(segment: &str, collection: u32) -> Plan<Step> {
    let mut steps = golden::plan().steps;
    steps.retain_mut(|step| match step {
        Step::Chroma(chroma::Step::CreateStore(blueprint)) => {
            segment.clone_into(&mut blueprint.collections[2].vector.new);
            true
        }
        _ => false,
    });
    steps.push(Step::Chroma(chroma::Step::BuildIndex { collection, vectors: 1, bytes: 4 }));
    Plan { steps, pivot: 2 }
}

/// Looks at the index of a plan, and undoes it, in an operation's folder beside a palace and a stranger's directory.
fn undo_index(root: &Path, plan: &Plan<Step>) -> [Result<(), StepError>; 2] {
    let (disk, step) = (RealDisk::new(), &plan.steps[1]);
    let world = || World::new(&disk, &root.join("palace"), &root.join("operation"), plan);
    [step.observe(&mut world()).map(drop), step.revert(&mut world())]
}

fn house() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    for directory in ["palace", "operation/staging/index", "operation/staging/other", "operation/backup", "stranger"] {
        fs::create_dir_all(root.path().join(directory)).expect("it is empty");
        fs::write(root.path().join(directory).join("file"), b"not an index").expect("there is room");
    }
    root
}

/// I17 and I13: the name of a segment is joined to a path, and what stands there is removed when the step is undone.
#[test]
fn segment_name_that_leads_out_is_refused() {
    for name in
        ["../../stranger", "../../palace", "../backup", "..", ".", "", "index/../../backup", "a\0b", "index/file"]
    {
        let root = house();
        let answers = undo_index(root.path(), &plan(name, 2));
        for answer in answers {
            assert!(answer.is_err(), "{name:?} was not refused");
        }
        for kept in ["palace", "operation/backup", "operation/staging/index", "stranger"] {
            assert!(root.path().join(kept).join("file").exists(), "{name:?} took {kept}");
        }
        let absolute = root.path().join("stranger").display().to_string();
        for answer in undo_index(root.path(), &plan(&absolute, 2)) {
            assert!(answer.is_err(), "an absolute name was not refused");
        }
        assert!(root.path().join("stranger/file").exists(), "an absolute name took a stranger's file");
    }
}

#[test]
fn index_under_its_own_name_is_undone() {
    let root = house();
    for answer in undo_index(root.path(), &plan("index", 2)) {
        answer.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(!root.path().join("operation/staging/index").exists());
    assert!(root.path().join("operation/staging/other/file").exists());
}

/// Found by fuzzing `journal_replay`.
#[test]
fn index_of_a_collection_that_is_not_in_the_plan_is_an_error() {
    for collection in [4, 130, u32::MAX] {
        let root = house();
        for answer in undo_index(root.path(), &plan("index", collection)) {
            answer.expect_err("there are four collections");
        }
    }
}
