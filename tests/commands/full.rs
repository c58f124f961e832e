//! Disks that are really full: file systems too small for a rebuild, and others that fill up while it works.

use crate::support::palace::{Arena, BINARY, Content, Mount, REBUILD, RESUME, Run, Strace, Tree, copy_tree, say};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A disk of every size from too small to large enough: it is refused before anything begins, or it is completed.
#[test]
fn disk_that_is_too_small_is_filled_up() {
    let (mut refused, mut completed) = (0, 0);
    for size_kib in (1_500..16_000).step_by(500) {
        let Some(mount) = Mount::tmpfs(&format!("{size_kib}k"), "a disk that is too small") else { return };
        let arena = Arena::new("1.5.9");
        let palace = mount.path().join("palace");
        copy_tree(&arena.palace(), &palace);
        let (before, content) = (Tree::of(&palace), Content::of(&palace));
        let plan = mount.run(&arena, "palace", &["rebuild", "--plan", "--json"]).expect(0).json();
        let fits = plan["bytes_needed"].as_u64() <= plan["bytes_free"].as_u64();
        let run = mount.run(&arena, "palace", &REBUILD);
        if fits {
            run.expect(0);
            content.assert_equals(&Content::of(&palace), "rebuilt on a small disk");
            completed += 1;
        } else {
            run.expect(1).says("free");
            before.assert_untouched(&Tree::of(&palace), "refused for want of space");
            mount.run(&arena, "palace", &["log"]).expect(0).says("No operations on record.");
            refused += 1;
        }
    }
    assert!(refused > 0 && completed > 0, "{refused} refused, {completed} completed: one of both was not tried");
    say(&format!("disks of 29 sizes: {refused} refused before anything began, {completed} completed"));
}

/// Somebody else fills the disk while the rebuild is at work; it goes back, or stops and says so, and once there is
/// space again it is recovered.
#[test]
fn disk_that_fills_up_half_way_costs_the_palace() {
    if !Strace::is_here("a disk that fills up half-way") {
        return;
    }
    for (when, part) in [
        ("the old store is copied", "backup.part"),
        ("the new database is made", "staging/chroma.sqlite3"),
        ("the new database grows", "staging/chroma.sqlite3-journal"),
        ("the operation is about to commit", "aside"),
    ] {
        for resumes in [false, true] {
            let Some(mount) = Mount::tmpfs("24m", "a disk that fills up half-way") else { return };
            let arena = Arena::new("1.5.9");
            let palace = mount.path().join("palace");
            copy_tree(&arena.palace(), &palace);
            let (before, content) = (Tree::of(&palace), Content::of(&palace));
            let run = rebuild_while_filling(&arena, &mount, part);
            content.assert_equals(&Content::of(&palace), "while the disk is full");
            assert!(matches!(run.code, Some(0 | 1 | 4)), "{when}: {run:#?}");
            assert!(
                run.code == Some(0) || run.stderr.contains("No space left") || run.stderr.contains("full"),
                "{when}: {run:#?}"
            );
            fs::remove_file(mount.path().join("ballast")).expect("the disk was filled");
            let verb = if resumes { &RESUME[..] } else { &["recover"] };
            mount.run(&arena, "palace", verb).expect(0);
            mount.run(&arena, "palace", &["status"]).expect(0);
            content.assert_equals(&Content::of(&palace), when);
            if run.code == Some(1) {
                before.assert_equals(&Tree::of(&palace), when);
            }
            say(&format!("disk full when {when}: exit {:?}", run.code.unwrap_or(-1)));
        }
    }
}

/// Runs a rebuild, slowed down so that the disk can be filled in time: as soon as a certain entry is in its folder.
fn rebuild_while_filling(arena: &Arena, mount: &Mount, part: &str) -> Run {
    let trigger = mount.path().join("palace.keep/0001-rebuild").join(part);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| fill_when(&trigger, mount.path(), &is_over));
        let slow = "pwrite64,copy_file_range,fsync,renameat2,mkdir";
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={slow}")]);
        command.args(["-e", &format!("inject={slow}:delay_enter=4000")]);
        command.arg(BINARY).arg("--palace").arg(mount.path().join("palace")).args(REBUILD);
        arena.confine(&mut command);
        let run = Run::of(&mut command);
        is_over.store(true, Ordering::Relaxed);
        assert!(filler.join().expect("the filler does not panic"), "the rebuild never made {part}: {run:#?}");
        run
    })
}

/// Waits for an entry, then writes until nothing more goes in. False where the entry never came.
fn fill_when(trigger: &Path, disk: &Path, is_over: &AtomicBool) -> bool {
    while !trigger.exists() {
        if is_over.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let mut ballast = fs::File::create(disk.join("ballast")).expect("a file");
    for block_bytes in [1 << 16, 1 << 12] {
        while ballast.write(&vec![0; block_bytes]).is_ok_and(|written| written == block_bytes) {}
    }
    true
}
