//! What MemPalace leaves when one of its own repairs, migrations or rebuilds is killed.

use super::means::{delete_collection, one, refile};
use super::{Case, Class, DRAWERS};
use std::fs;

pub(super) const CLASSES: &[Class] = &[
    Class::quick("a repair was killed while it copied the drawers aside", &["leftover-collection"], |case| {
        let some = &case.wanted.records[DRAWERS][..40];
        refile(&case.arena.palace(), DRAWERS, TEMPORARY, some);
        case.assert_rows("collections", 5);
        case.expect_no_temporary();
    }),
    Class::quick("a repair was killed when it had copied all drawers aside", &["leftover-collection"], |case| {
        refile(&case.arena.palace(), DRAWERS, TEMPORARY, &case.wanted.records[DRAWERS]);
        case.assert_rows("collections", 5);
        case.expect_no_temporary();
    }),
    Class::quick("a repair was killed after a first part of the drawers", &["leftover-collection"], |case| {
        rename_drawers(case);
        refile(&case.arena.palace(), TEMPORARY, DRAWERS, &case.wanted.records[DRAWERS][..50]);
        case.assert_rows("collections", 5);
        case.settings_may_move();
        case.expect_no_temporary();
    }),
    Class::quick("a repair was killed when the drawers were deleted", &["leftover-collection"], |case| {
        rename_drawers(case);
        case.assert_rows("collections WHERE name = 'mempalace_drawers'", 0);
        case.settings_may_move();
        case.expect_no_temporary();
    }),
    copy("a repair was killed, and its backup has what the palace lacks", |case| {
        beside_a_part(case, ".backup");
    }),
    copy("a rebuild was killed, and the old palace has what the new one lacks", |case| {
        beside_a_part(case, ".pre-rebuild-20260301-120000");
    }),
    copy("a migration was killed, and its backup has what the palace lacks", |case| {
        beside_a_part(case, ".pre-migrate.20260301_120000");
    }),
    copy("a migration was killed while it moved, and the old palace has what the new one lacks", |case| {
        beside_a_part(case, ".old");
    }),
    copy("drawers were deleted, and the backup has them", |case| {
        case.copy_beside(".backup");
        delete_collection(case, DRAWERS);
        case.assert_rows("collections", 3);
        case.settings_may_move();
    }),
    Class::quick("a backup is beside the palace", &["leftover-copy"], |case| {
        case.copy_beside(".backup");
    })
    .noted(),
    Class::quick("several copies are beside the palace", &["leftover-copy"], |case| {
        for suffix in [".backup", ".pre-migrate.20260301_120000", ".pre-rebuild-20260301-120000"] {
            case.copy_beside(suffix);
        }
    })
    .noted(),
    Class::quick("a repair was killed while it made its backup", &["leftover-copy"], |case| {
        let backup = case.copy_beside(".backup");
        fs::remove_file(backup.join("chroma.sqlite3")).expect("it was there");
    })
    .noted(),
];

const TEMPORARY: &str = "mempalace_drawers__repair_tmp";

const fn copy(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["leftover-copy|leftover-richer"], inject).also(&["segment-orphan"]).perhaps_for_a_person()
}

impl Case {
    /// The collection that is adopted is another than before, in the order of its rows and by its ids.
    fn settings_may_move(&mut self) {
        self.wanted.tables.remove("collections");
        self.wanted.tables.remove("collection_metadata");
    }

    fn expect_no_temporary(&mut self) {
        self.checks.push(|arena| {
            let names: String = one(&arena.palace(), "SELECT group_concat(name) FROM collections");
            assert!(!names.contains("__repair_tmp"), "{names}");
        });
    }
}

/// What was copied aside is complete, as is its index; it is the drawers under another name.
fn rename_drawers(case: &Case) {
    case.sql(&format!("UPDATE collections SET name = '{TEMPORARY}' WHERE name = '{DRAWERS}';"));
    case.assert_rows(&format!("collections WHERE name = '{TEMPORARY}'"), 1);
}

/// The palace holds the first drawers only; the copy beside it holds all.
fn beside_a_part(case: &mut Case, suffix: &str) {
    case.copy_beside(suffix);
    let part = "part";
    refile(&case.arena.palace(), DRAWERS, part, &case.wanted.records[DRAWERS][..50]);
    delete_collection(case, DRAWERS);
    case.sql(&format!("UPDATE collections SET name = '{DRAWERS}' WHERE name = '{part}';"));
    let there = super::means::segment(DRAWERS, "METADATA");
    case.assert_rows(&format!("embeddings WHERE segment_id = {there}"), 50);
    case.settings_may_move();
}
