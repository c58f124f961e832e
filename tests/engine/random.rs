//! Random plans, crashed at random: the engine against a model that knows nothing of journals.

use crate::support::explore::{Act, FOLDER, Image, PALACE, begin, entry};
use crate::support::memory::{Fate, Fault, MemoryDisk};
use crate::support::toy::{Hall, Toy, piece};
use palacekeeper::disk::Disk;
use palacekeeper::engine::{Error, Operation, Outcome, Plan};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A step as it is drawn: what it is, and which of the rooms before it it needs.
#[derive(Clone, Copy, Debug)]
enum Draw {
    Room,
    Thing { room: usize, pieces: u8 },
    Switch,
    Install { room: usize },
    Discard { room: usize },
}

fn draw() -> impl Strategy<Value = Draw> {
    prop_oneof![
        3 => Just(Draw::Room),
        4 => (any::<usize>(), 1..4_u8).prop_map(|(room, pieces)| Draw::Thing { room, pieces }),
        2 => Just(Draw::Switch),
        1 => any::<usize>().prop_map(|room| Draw::Install { room }),
        1 => any::<usize>().prop_map(|room| Draw::Discard { room }),
    ]
}

/// The old palace: a lamp and a picture for each step, and nothing else.
fn disk(steps: usize) -> MemoryDisk {
    let disk = MemoryDisk::new(&["/keep", PALACE]);
    for index in 0..steps {
        disk.create(&lamp(index), &[0]).expect("the disk is sound");
        disk.create(&picture(index), b"old").expect("the disk is sound");
    }
    disk.settle();
    disk
}

fn lamp(index: usize) -> PathBuf {
    Path::new(PALACE).join(format!("lamp{index}"))
}

fn picture(index: usize) -> PathBuf {
    Path::new(PALACE).join(format!("picture{index}"))
}

/// Makes draws into steps that can be carried out in this order, and says what they lead to. Rooms nest: each stands in
/// one that was there before. What cannot be undone is left out before the pivot; and clearing a room away must not be
/// the pivot itself, since going back the room is gone for another reason.
fn plan(draws: &[Draw], pivot: usize, image: &mut Image) -> Plan<Toy> {
    let (mut rooms, mut steps) = (vec![String::new()], Vec::new());
    let mut things: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (index, draw) in draws.iter().enumerate() {
        let is_past_pivot = steps.len() >= pivot;
        match *draw {
            Draw::Room => {
                let parent = rooms[index * 7 % rooms.len()].clone();
                let name = if parent.is_empty() { format!("room{index}") } else { format!("{parent}/room{index}") };
                image.insert(Path::new(PALACE).join(&name), None);
                steps.push(Toy::Room(name.clone()));
                rooms.push(name);
            }
            Draw::Thing { room, pieces } if rooms.len() > 1 => {
                let (room, name) = (rooms[1 + room % (rooms.len() - 1)].clone(), format!("thing{index}-"));
                for number in 0..pieces {
                    let path = Path::new(PALACE).join(&room).join(format!("{name}{number}"));
                    image.insert(path, Some(piece(&name, number)));
                }
                things.entry(room.clone()).or_default().push(format!("{room}/{name}0"));
                steps.push(Toy::Thing { room, name, pieces });
            }
            Draw::Switch => {
                image.insert(lamp(index), Some(vec![1]));
                steps.push(Toy::Switch { name: format!("lamp{index}"), from: 0, to: 1 });
            }
            Draw::Install { room } if is_past_pivot && rooms.len() > 1 => {
                let room = &rooms[1 + room % (rooms.len() - 1)];
                let Some(source) = things.get_mut(room).and_then(Vec::pop) else { continue };
                let bytes = image.remove(&Path::new(PALACE).join(&source)).expect("it was put there");
                image.insert(picture(index), bytes);
                steps.push(Toy::Install { source, target: format!("picture{index}"), old: b"old".to_vec() });
            }
            Draw::Discard { room } if steps.len() > pivot && rooms.len() > 1 => {
                let room = rooms[1 + room % (rooms.len() - 1)].clone();
                image.retain(|path, _| !path.starts_with(Path::new(PALACE).join(&room)));
                things.retain(|name, _| !Path::new(name).starts_with(&room));
                rooms.retain(|name| !Path::new(name).starts_with(&room));
                steps.push(Toy::Discard(room));
            }
            _ => {}
        }
    }
    Plan { pivot: pivot.min(steps.len()) as u32, steps }
}

/// What is done next, where it is cut short, and what that does to everything unsynced.
type Cut = (u8, u32, Option<u64>);

/// The machine goes down, with a fate for what was not durable; without one only the process is gone.
fn cut(disk: &MemoryDisk, fate: Option<u64>) -> MemoryDisk {
    fate.map_or_else(|| disk.kill(), |fate| disk.crash(Fate(fate)))
}

fn act_of(number: u8) -> Act {
    [Act::Recover, Act::Recover, Act::Resume, Act::Abort][usize::from(number) % 4]
}

fn act(act: Act, disk: &MemoryDisk) -> Result<Outcome, Error> {
    let (mut operation, _) = Operation::<Toy>::open(disk, Path::new(FOLDER))?;
    let mut hall = Hall { disk, path: PALACE.into() };
    match act {
        Act::Recover => operation.recover(&mut hall, &mut ()),
        Act::Resume => operation.run(&mut hall, &mut ()),
        Act::Abort => operation.abort("tired of it", &mut hall, &mut ()),
    }
}

/// What the journal says: nothing yet, a way to go, or an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Unborn,
    Open { committed: bool },
    Ended(Outcome),
}

fn word(disk: &MemoryDisk) -> Word {
    if !disk.image("/keep").contains_key(Path::new(FOLDER)) {
        return Word::Unborn;
    }
    let ledger = entry::<Toy>(disk).expect("no crash makes a journal unreadable").ledger;
    match ledger.outcome() {
        Some(outcome) => Word::Ended(outcome),
        None => Word::Open { committed: ledger.is_committed() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_500,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/engine_random.regressions"))),
        ..ProptestConfig::default()
    })]

    /// I8, I9, I12, for plans of any shape.
    #[test]
    fn crash_of_a_random_plan_ends_as_its_journal_says(
        draws in prop::collection::vec(draw(), 1..14),
        pivot in 0..10_usize,
        first in (0..140_u32, any::<Option<u64>>()),
        cuts in prop::collection::vec((any::<u8>(), 0..90_u32, any::<Option<u64>>()), 0..6),
    ) {
        let start = disk(draws.len());
        let old = start.image(PALACE);
        let mut new = old.clone();
        let plan = plan(&draws, pivot, &mut new);
        let (at, fate) = first;
        let disk = start.with_fault(at, Fault::Crash);
        let mut hall = Hall { disk: &disk, path: PALACE.into() };
        let run = begin(&disk, &plan).and_then(|mut one| one.run(&mut hall, &mut ()));
        prop_assert_eq!(run.is_err(), disk.fired() > 0, "{:?}", run);
        let mut disk = cut(&disk, fate);
        for (what, at, fate) in cuts as Vec<Cut> {
            let before = word(&disk);
            let Word::Open { committed } = before else { break };
            let crashed = disk.with_fault(at, Fault::Crash);
            let outcome = act(act_of(what), &crashed);
            let may_fail = crashed.fired() > 0 || act_of(what) != Act::Recover;
            prop_assert!(outcome.is_ok() || may_fail, "{:?}", outcome);
            disk = cut(&crashed, fate);
            if committed {
                let is_forgotten = matches!(word(&disk), Word::Open { committed: false } | Word::Unborn);
                prop_assert!(!is_forgotten, "a commit was taken back");
            }
        }
        let last = word(&disk);
        if let Word::Open { .. } = last {
            prop_assert!(act(Act::Recover, &disk).is_ok());
        }
        let expected = match last {
            Word::Open { committed: true } | Word::Ended(Outcome::Completed) => &new,
            _ => &old,
        };
        prop_assert_eq!(&disk.crash(Fate::POWER_CUT).image(PALACE), expected);
    }
}
