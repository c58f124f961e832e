//! Zeroes every page of a palace's database, one at a time, as lost writes do. Whatever comes of it: the palace that
//! is rebuilt holds every record as it was, or the record is on the list that a person agreed to.

use crate::support::palace::{
    Arena, Content, Ending, Point, Random, Record, Run, Sweep, Tree, assert_sound, open_copy, overwrite, sample,
};
use std::collections::BTreeSet;

const PAGE_BYTES: usize = 4096;

#[test]
fn zeroed_page_loses_a_record_in_silence() {
    let template = Arena::new("1.5.9");
    let before = Content::of(&template.palace());
    let pages = pages(&template);
    let sweep = Sweep::new("pages", "zeroed_page");
    let outcomes = std::sync::Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    sweep.share(sample(&pages, 90, &mut Random::seeded()), |page| {
        sweep.attempt(&[&Point { call: "page".into(), nth: page }], || {
            let arena = template.fork();
            overwrite(&arena.database(), (page * PAGE_BYTES) as u64, &[0; PAGE_BYTES]);
            let (ending, outcome) = rebuild(&arena, &before);
            *outcomes.lock().expect("nobody panics while holding it").entry(outcome).or_default() += 1;
            ending
        });
    });
    crate::support::palace::say(&format!(
        "pages of zeros: {:?}",
        outcomes.into_inner().expect("nobody panics while holding it")
    ));
    sweep.report("pages of zeros (old: refused)");
}

/// All pages but those that hold the rest of a long value: SQLite keeps no checksums, so zeros in the middle of a
/// text are a text.
fn pages(arena: &Arena) -> Vec<usize> {
    let (_scratch, connection) = open_copy(&arena.palace());
    let all = std::fs::metadata(arena.database()).expect("a database").len() as usize / PAGE_BYTES;
    let mut query =
        connection.prepare("SELECT pageno FROM dbstat WHERE pagetype = 'overflow'").expect("SQLite has dbstat");
    let rest =
        query.query_map([], |row| row.get::<_, i64>(0)).expect("pages").map(|page| page.expect("a page") as usize - 1);
    let rest: BTreeSet<_> = rest.collect();
    assert!(!rest.is_empty() && rest.len() < all / 4, "{} of {all} pages hold the rest of a value", rest.len());
    (0..all).filter(|page| !rest.contains(page)).collect()
}

/// Rebuilds a damaged palace, agreeing to what it lists.
fn rebuild(arena: &Arena, before: &Content) -> (Ending, String) {
    let damaged = Tree::of(&arena.palace());
    let first = arena.run(&["rebuild", "--yes", "--json"]);
    let losses = losses(&first);
    let last = if losses.is_empty() { first } else { arena.run(&["rebuild", "--yes", "--json", "--accept-loss"]) };
    let said = if losses.is_empty() { "" } else { ", losses agreed to" };
    match last.code {
        Some(0) => {
            assert_carried_over(before, &Content::of(&arena.palace()), &losses, &listed(&last, "restored"));
            assert_sound(&arena.palace(), "a palace with a page of zeros");
            (Ending::New, format!("exit 0{said}"))
        }
        Some(code @ (1 | 3 | 5)) => {
            damaged.assert_untouched(&Tree::of(&arena.palace()), "refused");
            arena.run(&["status"]).expect(0);
            (Ending::Old, format!("exit {code}{said}"))
        }
        _ => panic!("{last:#?}"),
    }
}

fn losses(run: &Run) -> Vec<String> {
    listed(run, "losses")
}

fn listed(run: &Run, what: &str) -> Vec<String> {
    let listed = serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap_or_default();
    listed[what].as_array().into_iter().flatten().map(ToString::to_string).collect()
}

/// Every record is as it was, or something of it is on the list; and nothing has come that was not there.
fn assert_carried_over(before: &Content, after: &Content, losses: &[String], restored: &[String]) {
    for (name, records) in &before.records {
        let now = after.records.get(name).map(Vec::as_slice).unwrap_or_default();
        let is_listed = |record: &&Record| losses.iter().any(|line| line.contains(&record.id));
        let changed = |record: &&Record| !now.iter().any(|new| record.is_kept_in(new));
        let silent: Vec<_> = records.iter().filter(changed).filter(|one| !is_listed(one)).map(|one| &one.id).collect();
        assert!(silent.is_empty(), "{name}: nobody was told of {silent:?}; the list was {losses:?}");
        let known: BTreeSet<_> = records.iter().map(|record| &record.id).collect();
        let new: Vec<_> = now.iter().filter(|record| !known.contains(&record.id)).collect();
        assert!(new.is_empty(), "{name}: records that nobody wrote: {new:?}");
    }
    let of_records: Vec<_> = before.tables.keys().filter(|table| table.starts_with("embedding")).cloned().collect();
    let mut except: Vec<_> = of_records.iter().map(String::as_str).collect();
    except.push("max_seq_id");
    // Whose page was lost is on the list; what was found again elsewhere may lack what only the page knew.
    let is_told = |table: &&String| losses.iter().any(|line| line.contains(&format!("rows of {table} on page")));
    let told: Vec<_> = before.tables.keys().filter(is_told).cloned().collect();
    except.extend(told.iter().map(String::as_str));
    assert_eq!(before.table_differences(after, &except), Vec::<String>::new(), "tables besides those of the records");
    if losses.is_empty() {
        let has_new_numbers = restored.iter().any(|line| line.contains("without their number and time"));
        let except: &[&str] = if has_new_numbers { &["embeddings"] } else { &[] };
        assert_eq!(before.table_differences(after, except), Vec::<String>::new(), "without a loss");
    }
}
