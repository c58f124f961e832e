//! Damages pages of real databases in every way that disks and dying writers do, and compares what is salvaged with
//! what there was, row by row. `PALACEKEEPER_FAULTS=all` takes every page.

use crate::support::palace::{
    Arena, Ending, Point, Random, Rows, Sweep, VERSIONS, has, no_spawning, sample, say, skip, sql,
};
use palacekeeper::disk::{Disk, RealDisk};
use palacekeeper::store::chroma::{Error, Loss, Salvaged, salvage};
use palacekeeper::store::sqlite::{Database, Owner, inspect};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

const PAGE_BYTES: usize = 4096;

/// What happens to a page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Zero,
    Noise,
    Flip,
    Cut,
}

use Damage::{Cut, Flip, Noise, Zero};

impl Damage {
    /// Damages a page; returns the pages on which a byte is another one now.
    fn inflict(self, bytes: &mut Vec<u8>, page: u32, random: &mut Random) -> BTreeSet<u32> {
        let last = (bytes.len() / PAGE_BYTES) as u32;
        let span = (page as usize - 1) * PAGE_BYTES..page as usize * PAGE_BYTES;
        let before = bytes[span.clone()].to_vec();
        match self {
            Zero => bytes[span.clone()].fill(0),
            Noise => bytes[span.clone()].fill_with(|| random.below(256) as u8),
            Flip => (0..FLIPS).for_each(|_| bytes[span.start + random.below(PAGE_BYTES)] ^= 1 << random.below(8)),
            Cut => bytes.truncate(span.start),
        }
        assert!(self == Cut || bytes[span] != before, "{self:?} of page {page} did nothing");
        if self == Cut { (page..=last).collect() } else { BTreeSet::from([page]) }
    }

    /// Rows that may come back as something else: SQLite keeps no checksums.
    fn altered_max(self) -> usize {
        if self == Flip { FLIPS } else { 0 }
    }
}

/// Bits that are flipped in a page.
const FLIPS: usize = 3;

/// A sound database, and everything that is known of it.
struct Model {
    bytes: Vec<u8>,
    rows: Rows,
    /// Whose page each is, as SQLite says; free pages are nobody's.
    owners: BTreeMap<u32, String>,
    indexes: BTreeSet<String>,
}

impl Model {
    fn of(version: &'static str) -> Model {
        Model::at(&Arena::new(version).database())
    }

    fn at(database: &Path) -> Model {
        let rows = Rows::of(database);
        let _open = no_spawning();
        let connection = rusqlite::Connection::open(database).expect("a database");
        let pairs = |sql: &str| -> Vec<(i64, String)> {
            let mut query = connection.prepare(sql).expect("a query");
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
            rows.map(|row| row.expect("a row")).collect()
        };
        let owners = pairs("SELECT pageno, name FROM dbstat").into_iter().map(|(page, name)| (page as u32, name));
        let indexes = pairs("SELECT 0, name FROM sqlite_master WHERE type = 'index'").into_iter().map(|(_, name)| name);
        Model {
            bytes: std::fs::read(database).expect("a database"),
            owners: owners.collect(),
            indexes: indexes.collect(),
            rows,
        }
    }

    fn owner(&self, page: u32) -> Owner {
        match self.owners.get(&page) {
            None => Owner::Free,
            Some(name) if name.starts_with("sqlite_schema") || name == "sqlite_master" => Owner::Schema,
            Some(name) if self.indexes.contains(name) => Owner::Index(name.clone()),
            Some(name) => Owner::Table(name.clone()),
        }
    }

    /// Salvages damaged bytes, and judges what comes of it.
    fn assert_salvaged(&self, bytes: &[u8], damaged: &BTreeSet<u32>, altered_max: usize) -> (Rows, Salvaged) {
        let bench = Bench::new(bytes);
        let salvaged = bench.salvage("salvaged");
        let whole = self.bytes.len().div_ceil(PAGE_BYTES) - damaged.len();
        if salvaged.losses == [refused()] {
            assert!(whole < 20, "{whole} whole pages, and nothing of a palace was found");
            return (Rows(self.rows.0.keys().map(|table| (table.clone(), Vec::new())).collect()), salvaged);
        }
        let rows = Rows::of(&bench.path("salvaged"));
        self.rows.judge(&rows, damaged, &salvaged.losses, altered_max);
        assert_sound_file(&bench.path("salvaged"));
        (rows, salvaged)
    }
}

/// Stands for everything, where nothing was found.
fn refused() -> Loss {
    Loss::Page { table: "any table".into(), page: 1 }
}

/// A directory with a damaged database in it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new(bytes: &[u8]) -> Bench {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let bench = Bench(tempfile::tempdir_in(directory).expect("a directory"));
        std::fs::write(bench.path("damaged"), bytes).expect("there is room");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn salvage(&self, name: &str) -> Salvaged {
        match salvage(&RealDisk::new(), &self.path("damaged"), &self.path(name)) {
            Ok(salvaged) => salvaged,
            // What holds nothing of a palace is refused: everything is told to be lost.
            Err(Error::NotADatabase(_)) => Salvaged { losses: vec![refused()], ..Salvaged::default() },
            Err(error) => panic!("it is given up: {error}"),
        }
    }

    fn inspect(&self) -> Vec<palacekeeper::store::sqlite::Fault> {
        let _open = no_spawning();
        let file = RealDisk::new().open(&self.path("damaged")).expect("a file");
        Database::new(file).and_then(|database| inspect(&database)).expect("it can be read").faults
    }

    /// What `sqlite3 .recover` makes of it.
    fn recover(&self) -> Option<Rows> {
        let target = self.path("recovered");
        let mut recover = Command::new("sqlite3");
        recover
            .arg(self.path("damaged"))
            .arg(".recover --ignore-freelist")
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut recover = crate::support::palace::spawn(&mut recover);
        let mut load = Command::new("sqlite3");
        load.arg(&target)
            .stdin(recover.stdout.take().expect("it is piped"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut load = crate::support::palace::spawn(&mut load);
        let _ = (recover.wait(), load.wait());
        target.is_file().then(|| Rows::of(&target))
    }
}

fn assert_sound_file(path: &Path) {
    let _open = no_spawning();
    let connection = rusqlite::Connection::open(path).expect("a database");
    let answer: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(answer, "ok");
}

/// Every page that is in use.
fn used(model: &Model) -> Vec<u32> {
    model.owners.keys().copied().collect()
}

#[test]
fn damaged_page_costs_more_than_what_was_on_it() {
    let random = Random::seeded();
    let sweep = Sweep::new("salvage", "damaged_page_costs_more");
    let tally = Mutex::new(BTreeMap::<String, [usize; 5]>::new());
    for (case, version) in VERSIONS.into_iter().enumerate() {
        let model = Model::of(version);
        let jobs = [Zero, Noise, Flip, Cut].into_iter().flat_map(|damage| {
            let pages = sample(&used(&model), 12, &mut random.of_case(case as u64 * 8 + damage as u64));
            pages.into_iter().map(move |page| (damage, page))
        });
        sweep.share(jobs.collect::<Vec<_>>(), |(damage, page)| {
            let point = Point { call: format!("{damage:?}-{version}"), nth: page as usize };
            sweep.attempt(&[&point], || {
                let mut bytes = model.bytes.clone();
                let damaged = damage.inflict(&mut bytes, page, &mut random.of_case(u64::from(page) << 8 | case as u64));
                let (rows, salvaged) = model.assert_salvaged(&bytes, &damaged, damage.altered_max());
                let counts = ["embeddings", "embedding_metadata"]
                    .map(|table| model.rows.count(table) - rows.known(&model.rows, table));
                let mut tally = tally.lock().expect("nobody panics while holding it");
                let sums = tally.entry(format!("{damage:?}")).or_default();
                for (sum, one) in sums.iter_mut().zip([1, counts[0], counts[1], salvaged.losses.len(), 0]) {
                    *sum += one;
                }
                Ending::New
            });
        });
    }
    for (damage, [cases, records, values, losses, _]) in tally.into_inner().expect("nobody panics while holding it") {
        say(&format!("{damage}: {cases} pages, {records} records and {values} values lost, {losses} losses listed"));
    }
    sweep.report("damaged pages (new: salvaged)");
}

/// Without the first page nothing says which tables there are; without the header, not even how large a page is.
#[test]
fn lost_schema_costs_a_row() {
    let random = Random::seeded();
    for (case, version) in VERSIONS.into_iter().enumerate() {
        let model = Model::of(version);
        let mut random = random.of_case(case as u64);
        for bytes in [100, PAGE_BYTES] {
            let mut damaged = model.bytes.clone();
            damaged[..bytes].fill_with(|| random.below(256) as u8);
            let (rows, salvaged) = model.assert_salvaged(&damaged, &BTreeSet::from([1]), 0);
            let lost = ["embeddings", "embedding_metadata"].map(|table| model.rows.count(table) - rows.count(table));
            assert_eq!((lost, salvaged.losses), ([0, 0], Vec::new()), "{version}: the first {bytes} bytes");
        }
    }
}

/// Several pages at once, with and without the first among them.
#[test]
fn several_damaged_pages_cost_more_than_what_was_on_them() {
    let random = Random::seeded();
    let sweep = Sweep::new("salvage", "several_damaged_pages");
    for (case, version) in VERSIONS.into_iter().enumerate() {
        let model = Model::of(version);
        let pages = used(&model);
        let jobs = [(2, Zero), (2, Noise), (10, Zero), (10, Noise), (3, Flip)];
        let jobs: Vec<_> = (0..3).flat_map(|round| jobs.map(|(count, damage)| (round, count, damage))).collect();
        sweep.share(jobs, |(round, count, damage)| {
            let nth = round * 100 + count;
            sweep.attempt(&[&Point { call: format!("{damage:?}-{version}"), nth }], || {
                let mut random = random.of_case((nth * 8 + case) as u64 + 77);
                let mut bytes = model.bytes.clone();
                let mut damaged = BTreeSet::new();
                if round == 2 && damage != Flip {
                    damaged.extend(damage.inflict(&mut bytes, 1, &mut random));
                }
                while damaged.len() < count {
                    let page = pages[random.below(pages.len())];
                    if !damaged.contains(&page) {
                        damaged.extend(damage.inflict(&mut bytes, page, &mut random));
                    }
                }
                model.assert_salvaged(&bytes, &damaged, damage.altered_max() * count);
                Ending::New
            });
        });
    }
    sweep.report("several damaged pages (new: salvaged)");
}

/// Rows that were deleted lie on free pages, and in the gaps between others, until something else is written there.
#[test]
fn deleted_row_comes_back() {
    let random = Random::seeded();
    for (case, version) in VERSIONS.into_iter().enumerate() {
        let arena = Arena::new(version);
        let delete = "DELETE FROM embedding_metadata WHERE id % 5 > 0; DELETE FROM embeddings WHERE id % 5 > 0;
                      DELETE FROM embedding_fulltext_search_content WHERE id % 5 > 0;
                      DELETE FROM embeddings_queue WHERE seq_id % 7 > 0;";
        sql(&arena.palace(), delete);
        let model = Model::at(&arena.database());
        let all = (model.bytes.len() / PAGE_BYTES) as u32;
        let free = (2..=all).filter(|page| model.owner(*page) == Owner::Free).count();
        assert!(free > 20, "{version}: only {free} pages are free");
        let mut random = random.of_case(case as u64 + 500);
        let some = sample(&used(&model), 8, &mut random);
        for page in some.into_iter().chain([1]) {
            for damage in [Zero, Noise] {
                let mut bytes = model.bytes.clone();
                let damaged = damage.inflict(&mut bytes, page, &mut random);
                model.assert_salvaged(&bytes, &damaged, 0);
            }
        }
        let mut bytes = model.bytes.clone();
        bytes[..100].fill_with(|| random.below(256) as u8);
        model.assert_salvaged(&bytes, &BTreeSet::from([1]), 0);
    }
}

/// The fault is found, and it is said whose page it is; nothing is found in what is sound.
#[test]
fn damaged_page_is_overlooked() {
    let random = Random::seeded();
    for (case, version) in VERSIONS.into_iter().chain(["1.5.9-killed"]).enumerate() {
        let arena = Arena::unpack(&format!("chroma-{version}"));
        let model = Model::at(&arena.database());
        assert_eq!(Bench::new(&model.bytes).inspect(), Vec::new(), "{version} is sound");
        for damage in [Zero, Noise] {
            let mut random = random.of_case(case as u64 + damage as u64 * 16);
            for page in sample(&used(&model), 24, &mut random) {
                let mut bytes = model.bytes.clone();
                damage.inflict(&mut bytes, page, &mut random);
                let faults = Bench::new(&bytes).inspect();
                let names =
                    |what: &str| what.contains(&format!("page {page}, ")) || what.contains(&format!("page {page} "));
                let found = faults.iter().find(|fault| fault.page == page || names(&fault.what));
                let what = format!("{version}: {damage:?} of page {page}");
                let found = found.unwrap_or_else(|| panic!("{what}: {faults:?}"));
                assert_eq!(found.owner, model.owner(page), "{what}");
            }
        }
    }
}

#[test]
fn same_bytes_give_other_rows() {
    for version in VERSIONS {
        let model = Model::of(version);
        for damaged in [vec![1], (20..60).collect::<Vec<u32>>()] {
            let mut bytes = model.bytes.clone();
            damaged.iter().for_each(|page| drop(Zero.inflict(&mut bytes, *page, &mut Random::seeded())));
            let bench = Bench::new(&bytes);
            let losses = ["one", "two"].map(|name| bench.salvage(name).losses);
            assert_eq!(losses[0], losses[1], "{version}: losses");
            assert_eq!(std::fs::read(bench.path("one")).ok(), std::fs::read(bench.path("two")).ok(), "{version}");
            assert_eq!(std::fs::read(bench.path("damaged")).expect("a file"), bytes, "{version}: it is only read");
        }
    }
}

/// `sqlite3 .recover` knows nothing of chromadb: whoever does, salvages no fewer records.
#[test]
fn fewer_rows_than_sqlite_recovers() {
    if !has("sqlite3") {
        return skip("no sqlite3 to compare with");
    }
    // Some are built without what `.recover` needs, and make an empty database of anything.
    let sound = Model::of("1.5.9");
    let recovered = Bench::new(&sound.bytes).recover();
    if recovered.is_none_or(|rows| rows.known(&sound.rows, "embeddings") == 0) {
        return say("SKIPPED: this sqlite3 cannot .recover a sound database");
    }
    let random = Random::seeded();
    let mut sums = [0; 6];
    for (case, version) in VERSIONS.into_iter().enumerate() {
        let model = Model::of(version);
        let mut random = random.of_case(case as u64 + 900);
        let pages = sample(&used(&model), 5, &mut random);
        for (damage, page) in pages.into_iter().chain([1]).flat_map(|page| [(Zero, page), (Noise, page), (Cut, page)]) {
            let mut bytes = model.bytes.clone();
            damage.inflict(&mut bytes, page, &mut random);
            let bench = Bench::new(&bytes);
            bench.salvage("salvaged");
            let rows = Rows::of(&bench.path("salvaged"));
            let recovered = bench.recover().unwrap_or_else(|| Rows(BTreeMap::new()));
            for (place, table) in ["embeddings", "embedding_metadata"].into_iter().enumerate() {
                let [ours, theirs] = [&rows, &recovered].map(|rows| rows.known(&model.rows, table));
                let what = format!("{version}: {damage:?} at page {page}: {table}");
                assert!(ours >= theirs, "{what}: {ours} rows, and .recover finds {theirs}");
                let there = model.rows.count(table);
                [there, ours, theirs].iter().zip(&mut sums[place * 3..]).for_each(|(one, sum)| *sum += one);
            }
        }
    }
    let [records, ours, theirs, values, our_values, their_values] = sums;
    say(&format!("records: {ours} of {records}, and sqlite3 .recover {theirs}"));
    say(&format!("values: {our_values} of {values}, and sqlite3 .recover {their_values}"));
}
