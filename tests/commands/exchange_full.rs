//! Disks that are too small for what is written out or taken in.

use crate::support::palace::{Arena, Content, Mount, RECOVER, Record, Tree, say};
use std::fs;

/// Of every size from too small to large enough: nothing is made, or all of it.
#[test]
fn import_on_a_small_disk_leaves_a_part_of_a_palace() {
    let source = Arena::new("1.5.9");
    let (content, lines) = (Content::of(&source.palace()), source.root().join("lines"));
    fs::write(&lines, source.run(&["export"]).expect(0).stdout).expect("a file");
    let (mut refused, mut completed) = (0, 0);
    for size_kib in (200..16_000).step_by(700) {
        let Some(mount) = Mount::tmpfs(&format!("{size_kib}k"), "an import on a small disk") else { return };
        let palace = mount.path().join("palace");
        fs::create_dir(&palace).expect("a directory");
        let run = mount.run(&source, "palace", &["import", "--yes", lines.to_str().expect("a path")]);
        assert!(!run.stderr.contains("panicked"), "{run:#?}");
        if run.code == Some(0) {
            let differences = content.record_differences_by(&Content::of(&palace), Record::is_kept_in);
            assert!(differences.is_empty(), "{size_kib}: {differences:?}");
            completed += 1;
        } else {
            assert_eq!(run.code, Some(1), "{size_kib}: {run:#?}");
            assert_eq!(Tree::of(&palace).top(), [].into(), "{size_kib}: the palace");
            mount.run(&source, "palace", &RECOVER).expect(0);
            assert_eq!(Tree::of(&palace).top(), [].into(), "{size_kib}: the palace, recovered");
            refused += 1;
        }
    }
    assert!(refused > 0 && completed > 0, "{refused} refused, {completed} completed: one of both was not tried");
    say(&format!("imports on small disks: {refused} refused, {completed} completed"));
}

#[test]
fn export_to_a_full_disk_leaves_a_part_of_a_file() {
    let arena = Arena::new("1.5.9");
    let before = Tree::of(&arena.palace());
    for size in ["4k", "16k", "64k", "100k"] {
        let Some(mount) = Mount::tmpfs(size, "an export to a full disk") else { return };
        let path = mount.path().join("palace.jsonl");
        let run = arena.run(&["export", "--to", path.to_str().expect("a path")]);
        run.expect(1).says("No space left");
        assert_eq!(Tree::of(mount.path()).top(), [].into(), "{size}");
        before.assert_untouched(&Tree::of(&arena.palace()), size);
    }
}
