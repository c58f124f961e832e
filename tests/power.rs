//! Power cuts under a real file system: the real program works on it, every block that reaches the disk is recorded,
//! and the disk is made again as a power cut would have left it, before, between and after the flushes. The file system
//! replays its own journal, and then palacekeeper its own.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;
use support::explore::Tally;
use support::palace::{Arena, Ending, Ground, Indexes, REBUILD, RECOVER, RESUME, Random, sample, say};
use support::power::{self, EXT4, FileSystem, Image, Record, XFS};
use support::report::Part;

/// Where the file system is mounted in an arena, and the palace on it.
const DISK: &str = "disk";
const PALACE: &str = "disk/palace";

/// Runs a command on a palace that lies on a recorded disk.
fn record(file_system: &FileSystem, ground: &Ground, arguments: &[&str]) -> (Arena, Record) {
    record_with(file_system, ground, None, |arena| {
        arena.run(arguments).expect(0);
    })
}

fn record_with(
    file_system: &FileSystem,
    ground: &Ground,
    bad: Option<u64>,
    act: impl FnOnce(&Arena),
) -> (Arena, Record) {
    let arena = Arena::empty().with_palace_in(PALACE);
    let (disk, source) = (arena.root().join(DISK), ground.fork());
    std::fs::create_dir(&disk).expect("a directory");
    let image = power::image_in(source.root());
    power::format(file_system, &image, &source.palace());
    let record = power::record(file_system, &image, &disk, bad, || act(&arena));
    (arena, record)
}

/// Makes an image, lets the next process recover, and says which palace it finds.
fn recover(file_system: &FileSystem, ground: &Ground, (arena, record): (&Arena, &Record), image: &Image) -> Ending {
    // Outside of the arena: what lies there is compared, and a file system writes to its image when it likes.
    let place = tempfile::tempdir().expect("a directory");
    let file = power::image_in(place.path());
    record.restore(image, &file);
    let mount = power::mount(file_system, &file, &arena.root().join(DISK));
    ground.assert_complete(arena);
    let ending = ground.assert_recovers(arena);
    drop(mount);
    ending
}

fn cut(what: &str, file_system: &FileSystem, ground: &Ground, arguments: &[&str]) {
    let what = &format!("{what} on {}", file_system.name);
    if !power::is_here(what, file_system) {
        return;
    }
    let mut random = Random::seeded();
    let (arena, record) = record(file_system, ground, arguments);
    let (began, all) = (Instant::now(), record.images(&mut random));
    // What comes of the swap is decided near the end.
    let (building, ending) = all.split_at(all.len() * 9 / 10);
    let half = file_system.images / 2;
    let images = [sample(building, half, &mut random), sample(ending, half, &mut random)].concat();
    let (mut old, mut new) = (0, 0);
    for image in &images {
        match recover(file_system, ground, (&arena, &record), image) {
            Ending::Old => old += 1,
            Ending::New => new += 1,
        }
    }
    let acknowledged = recover(file_system, ground, (&arena, &record), &record.flushed());
    assert_eq!(acknowledged, Ending::New, "{what}: it had said that it was done, and a power cut took it back");
    let writes: usize = record.epochs.iter().map(Vec::len).sum();
    let each = began.elapsed().as_millis() / (images.len() as u128 + 1);
    say(&format!(
        "{what}: {writes} writes, {} flushes; {} of {} images, {old} ended old and {new} new, {each} ms each",
        record.epochs.len() - 1,
        images.len(),
        all.len()
    ));
    let counts = [("writes", writes), ("flushes", record.epochs.len() - 1), ("images there are", all.len())];
    let counts = counts.map(|(name, count)| (name, count as u64));
    let met = Tally { old, new, refused: 0 };
    Part::of_power_cuts(what, "cargo test --release --test power".into(), began.elapsed(), &counts, met).publish();
    assert!(old > 0 && new > 0, "{what}: only one of the two ends was ever reached");
}

/// I8, I9, I11, on a disk that forgets what it was not asked to keep.
#[test]
fn power_cut_in_a_rebuild_leaves_the_old_palace_or_the_new() {
    for file_system in [&EXT4, &XFS] {
        cut("a power cut in a rebuild", file_system, &Ground::new(Arena::new("1.5.9"), Indexes::Copied), &REBUILD);
    }
}

#[test]
fn power_cut_in_a_migration_leaves_the_old_palace_or_the_new() {
    let migrate = ["migrate", "--to", "chroma-1.5", "--yes"];
    for file_system in [&EXT4, &XFS] {
        let ground = Ground::new(Arena::new("0.6.3"), Indexes::Migrated);
        cut("a power cut in a migration", file_system, &ground, &migrate);
    }
}

/// A disk that lies about flushes loses what was acknowledged, and that is noticed: else these tests prove nothing.
#[test]
fn disk_that_forgets_its_flushes_is_noticed() {
    for file_system in [&EXT4, &XFS] {
        if !power::is_here("a disk that lies", file_system) {
            continue;
        }
        let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
        let (arena, record) = record(file_system, &ground, &REBUILD);
        let ending = recover(file_system, &ground, (&arena, &record), &record.forgotten());
        assert_eq!(ending, Ending::Old, "what was never flushed is there");
    }
}

/// How a machine goes on that has met a bad sector: what the commands said, and where the palace ended if one of them
/// said that it has.
fn go_on(arena: &Arena, ground: &Ground, verb: &[&str]) -> (Vec<Option<i32>>, Option<Ending>) {
    let mut codes = vec![arena.run(&REBUILD).code];
    // The kernel may tell the first one that follows of the same failure once more.
    while codes.last() != Some(&Some(0)) && codes.len() < 4 {
        codes.push(arena.run(if codes.len() < 3 { verb } else { &RECOVER }).code);
    }
    let has_ended = codes.last() == Some(&Some(0));
    (codes, has_ended.then(|| ground.assert_ended(arena)))
}

/// I5, I7: one sector cannot be written, once. The kernel says so in one sync and forgets it; whoever goes on then sees
/// what was never written. What is acknowledged after that outlives a power cut all the same.
#[test]
fn sector_that_cannot_be_written_once_takes_back_what_was_acknowledged() {
    for file_system in [&EXT4, &XFS] {
        let what = format!("a bad sector on {}", file_system.name);
        if !power::is_here(&what, file_system) {
            continue;
        }
        let (ground, mut random) = (Ground::new(Arena::new("1.5.9"), Indexes::Copied), Random::seeded());
        let mut blocks = HashSet::new();
        let (_, record) = record_with(file_system, &ground, None, |arena| {
            arena.run(&REBUILD).expect(0);
            blocks = power::blocks_below(&arena.root().join(DISK));
        });
        let sectors = record.sectors_of(&blocks);
        let (mut met, mut ended) = (0, BTreeMap::<_, u32>::new());
        for (number, bad) in sample(&sectors, file_system.images / 2, &mut random).into_iter().enumerate() {
            let verb: &[&str] = if number % 2 == 0 { &RESUME } else { &RECOVER };
            let mut said = None;
            let (arena, record) = record_with(file_system, &ground, Some(bad), |arena| {
                said = Some(go_on(arena, &ground, verb));
            });
            let (codes, living) = said.expect("it went on");
            let after = recover(file_system, &ground, (&arena, &record), &record.flushed());
            assert!(living.is_none_or(|living| living == after), "{what} {bad}: {codes:?}, {living:?}, then {after:?}");
            met += usize::from(codes.len() > 1);
            *ended.entry((verb.join(" "), codes, after)).or_default() += 1;
        }
        let tried: u32 = ended.values().sum();
        say(&format!("{what}, {} of files: {met} of {tried} were met by a command, {ended:?}", sectors.len()));
        assert!(met > 4, "hardly any command ever met a bad sector");
    }
}
