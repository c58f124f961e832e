//! Directories in which nothing can be built, and annexes that are somebody else's: refused, with nothing touched.

use crate::support::palace::{
    Arena, Ending, Ground, Indexes, Mount, Point, REBUILD, RECOVER, Run, Strace, Tree, copy_tree, kill,
};
use std::fs;
use std::path::{Path, PathBuf};

/// A command that builds in a directory, in small steps.
fn building_in(verb: &str, directory: &Path) -> Vec<String> {
    let directory = directory.to_str().expect("a path of a test is text");
    [&[verb], &REBUILD[1..], &["--staging", directory]].concat().into_iter().map(str::to_owned).collect()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

fn run(arena: &Arena, command: &[String]) -> Run {
    arena.run(&words(command))
}

/// What the first look finds is refused with the palace untouched, and the keep not even made.
#[test]
fn directory_that_is_unfit_is_used() {
    let arena = Arena::new("1.5.9");
    let root = arena.root();
    fs::write(root.join("file"), b"").expect("there is room");
    std::os::unix::fs::symlink(root.join("palace"), root.join("link")).expect("a link");
    let before = Tree::of(root);
    let mut unfit = vec![
        (root.join("nowhere"), "there is no such directory"),
        (root.join("file"), "not a directory"),
        (arena.palace(), "inside the palace"),
        (root.join("link"), "inside the palace"),
    ];
    if let Some(far) = Mount::tmpfs("1m", "staging on a read-only file system") {
        far.remount("ro");
        unfit.push((far.path().to_owned(), "nothing can be made"));
        assert_refused(&arena, &before, &unfit);
        return;
    }
    assert_refused(&arena, &before, &unfit);
}

fn assert_refused(arena: &Arena, before: &Tree, unfit: &[(PathBuf, &str)]) {
    for (directory, why) in unfit {
        for verb in ["rebuild", "repair"] {
            run(arena, &building_in(verb, directory)).expect(2).says(why).says("Nothing was touched");
            arena.run(&[verb, "--plan", "--staging", directory.to_str().expect("text")]).expect(2).says(why);
            before.assert_untouched(&Tree::of(arena.root()), why);
        }
    }
    let arena = arena.fork();
    arena.run(&["rebuild", "--yes"]).expect(0);
    run(&arena, &building_in("rebuild", &arena.operation())).expect(2).says("its keep");
}

#[test]
fn want_of_space_names_another_disk() {
    let Some(far) = Mount::tmpfs("1m", "staging on a disk that is too small") else { return };
    let arena = Arena::new("1.5.9");
    let (before, directory) = (Tree::of(&arena.palace()), far.path().to_str().expect("text"));
    let plan = arena.run(&["rebuild", "--plan", "--json", "--staging", directory]).expect(0).json();
    let [needed, free] = ["bytes_needed", "bytes_free"].map(|field| plan["staging"][field].as_u64().expect("a number"));
    assert!(needed > free && free <= 1 << 20 && plan["staging"]["directory"] == directory, "{plan}");
    arena.run(&["rebuild", "--plan", "--staging", directory]).expect(0).says(&format!("It builds in {directory}"));
    run(&arena, &building_in("rebuild", far.path())).expect(1).says(&format!("{directory} has {free} bytes free"));
    before.assert_untouched(&Tree::of(&arena.palace()), "refused for want of space");
    arena.run(&["log"]).expect(0).says("No operations on record.");

    let Some(small) = Mount::tmpfs("4m", "a palace on a disk that is too small") else { return };
    copy_tree(&arena.palace(), &small.path().join("palace"));
    let Some(far) = Mount::tmpfs("64m", "staging on another file system") else { return };
    let refused = small.run(&arena, "palace", &words(&building_in("rebuild", far.path()))).expect(1);
    assert!(refused.stderr.contains("palace.keep has"), "{refused:#?}");
}

/// I6: what stands in the annex's place and is not the annex is not touched, on either side of the commit. Once it is
/// out of the way, the operation is recovered.
#[test]
fn thing_in_the_place_of_the_annex_is_removed() {
    if !Strace::is_here("a thing in the place of the annex") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let far = tempfile::tempdir().expect("a directory");
    for (call, ending) in [("linkat", Ending::Old), ("rename", Ending::New)] {
        let arena = ground.fork();
        kill(&arena, &words(&building_in("rebuild", far.path())), &Point { call: call.into(), nth: 1 });
        let annex = fs::read_dir(far.path()).expect("a directory").next().expect("the annex").expect("an entry").path();
        let away = arena.root().join("away");
        copy_tree(&annex, &away);
        fs::remove_dir_all(&annex).expect("a test may");
        fs::create_dir(&annex).and_then(|()| fs::write(annex.join("theirs"), b"theirs")).expect("the place is free");
        let before = Tree::of(far.path());
        let said = arena.run(&RECOVER).expect(5).stderr;
        for path in [&arena.palace(), &arena.operation(), &annex] {
            assert!(said.contains(path.to_str().expect("text")), "{} is not named: {said}", path.display());
        }
        before.assert_untouched(&Tree::of(far.path()), "a stranger's directory");
        ground.assert_complete(&arena);
        fs::remove_dir_all(&annex).expect("its owner may");
        copy_tree(&away, &annex);
        fs::remove_dir_all(&away).expect("a test may");
        assert_eq!(ground.assert_recovers(&arena), ending, "{call}");
        assert_eq!(fs::read_dir(far.path()).expect("a directory").count(), 0, "{call}");
    }
}
