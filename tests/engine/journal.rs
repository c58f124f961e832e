//! The journal's bytes: what is written is what is read, and whatever else is read is called damaged or torn, never
//! believed.

use crate::support::golden::{self, Golden, HEADER};
use crate::support::memory::{Fate, Fault, MemoryDisk};
use palacekeeper::disk::Disk;
use palacekeeper::journal::frame::{self, Link};
use palacekeeper::journal::{Damage, Error, Header, Journal, Outcome, Plan, Record, Tail, decode};
use palacekeeper::ops::Step;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

type Toy = Record<u32>;

/// What a journal must be read as: the first `frames` frames, and a torn rest from `at` on.
fn assert_reads<S>(bytes: &[u8], golden: &Golden<S>, frames: usize, at: usize)
where
    S: DeserializeOwned + Debug + PartialEq,
{
    let contents = decode::<S>(bytes).unwrap_or_else(|damage| panic!("{damage} in {} bytes", bytes.len()));
    let expected: Vec<&Record<S>> = golden.frames[..frames].iter().flatten().collect();
    assert_eq!(contents.records.iter().collect::<Vec<_>>(), expected);
    let torn = (bytes.len() - at) as u64;
    let tail = if torn == 0 { Tail::Clean } else { Tail::Torn { at: at as u64, bytes: torn } };
    assert_eq!(contents.tail, tail, "in {} bytes", bytes.len());
    assert_eq!(contents.header, HEADER);
}

fn assert_pinned<S: Serialize + DeserializeOwned + Debug + PartialEq>(golden: &Golden<S>) {
    let written = golden.written();
    let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(written == golden.bytes, "the format has changed; {} would hold now: {hex}", golden.name);
    assert_reads(golden.bytes, golden, golden.frames.len(), golden.bytes.len());
}

#[test]
fn change_of_the_format_breaks_the_golden_journals() {
    assert_pinned(&golden::records());
    assert_pinned(&golden::steps());
    assert_pinned(&golden::migrations());
    assert_pinned(&golden::annex());
    let plans = [golden::plan(), golden::plan_of_migrations(), golden::plan_with_annex()];
    golden::assert_every_step_is_golden(&plans.map(|plan| plan.steps).concat());
}

fn cut_anywhere<S: DeserializeOwned + Debug + PartialEq>(golden: &Golden<S>) {
    let boundaries = golden.boundaries();
    for length in 0..golden.bytes.len() {
        let bytes = &golden.bytes[..length];
        let Some(whole) = boundaries.iter().rposition(|at| *at <= length) else {
            assert_eq!(decode::<S>(bytes).map(drop), Err(Damage::Header), "{length} bytes");
            continue;
        };
        assert_reads(bytes, golden, whole, boundaries[whole]);
    }
}

/// I2: a file that ends too early has lost exactly what was not whole, and says how much.
#[test]
fn cut_at_any_byte_reads_as_torn() {
    cut_anywhere(&golden::records());
    cut_anywhere(&golden::steps());
}

fn flip_every_bit<S: DeserializeOwned + Debug + PartialEq>(golden: &Golden<S>) -> usize {
    let boundaries = golden.boundaries();
    let mut bytes = golden.bytes.to_vec();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        match boundaries.iter().rposition(|at| *at <= bit / 8) {
            None => assert_eq!(decode::<S>(&bytes).map(drop), Err(Damage::Header), "bit {bit}"),
            Some(last) if last + 2 == boundaries.len() => assert_reads(&bytes, golden, last, boundaries[last]),
            Some(frame) => {
                let at = boundaries[frame] as u64;
                assert_eq!(decode::<S>(&bytes).map(drop), Err(Damage::Frame { at }), "bit {bit}");
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    8 * bytes.len()
}

/// I2: only the last frame can be taken for torn; anywhere else a flipped bit is damage, and its place is named.
#[test]
fn flip_of_any_bit_is_noticed() {
    let bits = flip_every_bit(&golden::records()) + flip_every_bit(&golden::steps());
    println!("{bits} bits flipped");
}

/// The bytes of a golden journal with its frames in another order; a frame may be left out, or stand there twice.
fn arrange<S>(golden: &Golden<S>, order: &[usize]) -> Vec<u8> {
    let boundaries = golden.boundaries();
    let mut bytes = golden.bytes[..28].to_vec();
    order.iter().for_each(|frame| bytes.extend(&golden.bytes[boundaries[*frame]..boundaries[*frame + 1]]));
    bytes
}

#[test]
fn frames_out_of_order_or_missing_are_damage() {
    let golden = golden::records();
    let (boundaries, all) = (golden.boundaries(), golden.frames.len());
    for (first, at) in (0..all).zip(&boundaries) {
        let at = *at as u64;
        for second in first + 1..all {
            let mut order: Vec<usize> = (0..all).collect();
            order.swap(first, second);
            let damage = decode::<u32>(&arrange(&golden, &order)).map(drop);
            assert_eq!(damage, Err(Damage::Frame { at }), "{order:?}");
        }
        let order: Vec<usize> = (0..all).filter(|frame| *frame != first).collect();
        match decode::<u32>(&arrange(&golden, &order)).map(drop) {
            Ok(()) => assert_eq!(first + 1, all, "frame {first} is missing, and nobody noticed"),
            damage => assert_eq!(damage, Err(Damage::Frame { at })),
        }
    }
}

#[test]
fn frame_written_twice_is_damage() {
    let golden = golden::records();
    let (boundaries, all) = (golden.boundaries(), golden.frames.len());
    for frame in 0..all {
        for (place, at) in boundaries.iter().enumerate().skip(frame + 1) {
            let mut order: Vec<usize> = (0..all).collect();
            order.insert(place, frame);
            let damage = decode::<u32>(&arrange(&golden, &order)).map(drop);
            assert_eq!(damage, Err(Damage::Frame { at: *at as u64 }), "frame {frame} stands there twice: {order:?}");
        }
    }
}

/// An intact frame of the golden journals, whatever it says about itself.
fn frame_saying(sequence: u32, previous: u32, payload: &[u8]) -> Vec<u8> {
    let numbers = [payload.len() as u32, sequence, previous].map(u32::to_le_bytes).concat();
    let crc = crc32fast::hash(&[&HEADER.salt.to_le_bytes()[..], &numbers, payload].concat());
    [&numbers[..], &crc.to_le_bytes(), payload].concat()
}

/// Its CRC holds, and yet it does not continue the chain: written behind another frame, or with one left out.
#[test]
fn intact_frame_that_does_not_follow_is_damage() {
    let golden = golden::records();
    let (first, second) = (golden.boundaries()[1], golden.boundaries()[2]);
    let previous = u32::from_le_bytes(*golden.bytes[28 + 12..].first_chunk().expect("there is a frame"));
    let payload = &golden.bytes[first + 16..second];
    let read = |sequence, previous| {
        let bytes = [&golden.bytes[..first], &frame_saying(sequence, previous, payload)].concat();
        decode::<u32>(&bytes).map(|contents| contents.records.len())
    };
    assert_eq!(read(1, previous), Ok(2), "the test's own frames are not what the program writes");
    for (sequence, previous) in [(1, previous ^ 1), (0, previous), (2, previous), (0, 0)] {
        let damage = read(sequence, previous);
        assert_eq!(damage, Err(Damage::Frame { at: first as u64 }), "sequence {sequence}, previous {previous}");
    }
}

#[test]
fn frame_of_another_journal_is_not_believed() {
    let golden = golden::records();
    let at = golden.boundaries()[2];
    let (stale, _) = frame::encode_frame(HEADER.salt + 1, Link::FIRST, &golden.bytes[28 + 16..golden.boundaries()[1]]);
    let mut behind = golden.bytes.to_vec();
    behind.extend(&stale);
    assert_reads(&behind, &golden, golden.frames.len(), golden.bytes.len());
    let between = [&golden.bytes[..at], &stale, &golden.bytes[at..]].concat();
    assert_eq!(decode::<u32>(&between).map(drop), Err(Damage::Frame { at: at as u64 }));
}

fn header_of_version(version: u16) -> Vec<u8> {
    let mut bytes = frame::encode_header(&HEADER).to_vec();
    bytes[8..10].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn later_format_is_named_and_not_read() {
    assert_eq!(decode::<u32>(&header_of_version(2)).map(drop), Err(Damage::Newer { found: 2 }));
    assert_eq!(decode::<u32>(&header_of_version(u16::MAX)).map(drop), Err(Damage::Newer { found: u16::MAX }));
    assert_eq!(decode::<u32>(&header_of_version(0)).map(drop), Err(Damage::Header));
    assert!(decode::<u32>(&header_of_version(1)).is_ok(), "the test's own header is not what the program writes");
}

/// A journal whose one frame is intact and holds these bytes.
fn intact(payload: &[u8]) -> Vec<u8> {
    let (frame, _) = frame::encode_frame(HEADER.salt, Link::FIRST, payload);
    [&frame::encode_header(&HEADER)[..], &frame].concat()
}

/// Lengths are believed only as far as there are bytes. Memory that is asked for here would not be there.
#[test]
fn hostile_length_takes_neither_memory_nor_time() {
    let started = Instant::now();
    let mut frames = golden::records().bytes.to_vec();
    let end = frames.len();
    frames.extend([0xff; 64]);
    assert_reads(&frames, &golden::records(), golden::records().frames.len(), end);
    for length in [&[0xfc, 0xff, 0xff, 0xff, 0xff][..], &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
        // Of the records, of a title, of a plan, of a reason.
        for before in [&[][..], &[1, 0], &[1, 0, 0, 0], &[1, 4]] {
            let payload = [before, length].concat();
            let damage = decode::<Step>(&intact(&payload)).map(drop);
            assert!(matches!(damage, Err(Damage::Payload { at: 28, .. })), "{payload:02x?}: {damage:?}");
        }
    }
    assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());
}

#[test]
fn intact_frame_with_a_rest_is_damage() {
    let records: &[Toy] = &[Toy::Commit];
    let payload = bincode::serde::encode_to_vec(records, bincode::config::standard()).expect("it is plain data");
    assert!(decode::<u32>(&intact(&payload)).is_ok());
    let damage = decode::<u32>(&intact(&[&payload[..], &[0]].concat())).map(drop);
    assert!(matches!(damage, Err(Damage::Payload { at: 28, .. })), "{damage:?}");
}

/// What can be written can be read: the limits of both sides are the same.
#[test]
fn longest_plan_that_is_written_is_read() {
    let (disk, path) = (MemoryDisk::new(&[]), Path::new("/journal"));
    let title = "x".repeat(frame::PAYLOAD_BYTES_MAX - 64);
    let long = |title: String, steps| Toy::Begin { title, began_at: 0, plan: Plan { steps, pivot: 0 } };
    let mut journal = Journal::create(&disk, path, HEADER, &[long(title.clone(), vec![])]).expect("it fits");
    journal.append(&[long(String::new(), (0..3_000_000).collect())]).expect("it fits");
    let events = disk.events();
    let refused = journal.append(&[long(title.clone() + &title, vec![])]);
    assert!(matches!(refused, Err(Error::TooLong { .. })), "{refused:?}");
    assert_eq!(disk.events(), events, "a frame that is too long was partly written");
    journal.append(&[Toy::Commit]).expect("a refusal poisons nothing");
    let (_, contents) = Journal::open::<u32>(&disk, path).expect("it was written");
    assert_eq!(contents.records.len(), 3);
}

proptest! {
    /// Whatever is done to the bytes: damage, or the records of the frames before it. Never others.
    #[test]
    fn scribble_never_changes_what_is_read(
        at in 0..400_usize, scribble in prop::collection::vec(any::<u8>(), 0..40), overwrite in any::<bool>(),
    ) {
        let golden = golden::records();
        let at = at % golden.bytes.len();
        let end = if overwrite { (at + scribble.len()).min(golden.bytes.len()) } else { at };
        let bytes = [&golden.bytes[..at], &scribble, &golden.bytes[end..]].concat();
        if let Ok(contents) = decode::<u32>(&bytes) {
            let all = golden.records();
            prop_assert!(contents.records.iter().zip(&all).all(|(read, written)| read == *written));
            prop_assert!(contents.records.len() <= all.len());
        }
    }
}

/// A journal of two frames on a disk, and its path.
fn journal_on(disk: &MemoryDisk) -> &'static Path {
    let path = Path::new("/journal");
    let mut journal = Journal::create(disk, path, HEADER, &[Toy::Intent(0)]).expect("the disk is sound");
    journal.append(&[Toy::Done(0)]).expect("the disk is sound");
    disk.settle();
    path
}

/// I2: nothing may ever stand behind bytes that mean nothing, so they are gone for good before anything is appended.
#[test]
fn torn_tail_is_cut_off_durably_before_the_next_append() {
    let start = MemoryDisk::new(&[]);
    let path = journal_on(&start);
    let whole = start.read(path, 0, u64::MAX).expect("the disk is sound").len() as u64;
    start.append(path, &[9; 40]).expect("the disk is sound");
    start.settle();
    let disk = start.with_history();
    let (mut journal, contents) = Journal::open::<u32>(&disk, path).expect("a torn tail is no damage");
    assert_eq!(contents.tail, Tail::Torn { at: whole, bytes: 40 });
    let cut = disk.crash(Fate::POWER_CUT).read(path, 0, u64::MAX).expect("the disk is sound");
    assert_eq!(cut.len() as u64, whole, "the cut was not durable");
    journal.append(&[Toy::Undone(0)]).expect("the disk is sound");
    for (event, moment) in disk.history().iter().enumerate() {
        for fate in moment.fates(&[]) {
            let bytes = moment.crash(fate).read(path, 0, u64::MAX).expect("the disk is sound");
            let records = decode::<u32>(&bytes).unwrap_or_else(|damage| panic!("{damage} at event {event}, {fate:?}"));
            let all = [Toy::Intent(0), Toy::Done(0), Toy::Undone(0)];
            assert!(all.starts_with(&records.records) && records.records.len() >= 2, "{:?}", records.records);
        }
    }
}

#[test]
fn reading_a_torn_journal_changes_nothing() {
    let disk = MemoryDisk::new(&[]);
    let path = journal_on(&disk);
    disk.append(path, &[9; 40]).expect("the disk is sound");
    let disk = disk.fresh();
    palacekeeper::journal::read::<u32>(&disk, path).expect("a torn tail is no damage");
    assert_eq!(disk.events(), 0);
}

/// I7: after the first append or sync that failed, the journal takes no more, and does not even ask the disk.
#[test]
fn failed_append_or_sync_poisons_the_journal() {
    let start = MemoryDisk::new(&[]);
    let path = journal_on(&start);
    for (event, what) in [(0, "append, nothing written"), (1, "append, half written"), (2, "sync")] {
        let disk = start.with_fault(event, Fault::Once(ErrorKind::StorageFull));
        let (mut journal, _) = Journal::open::<u32>(&disk, path).expect("opening changes nothing");
        let failed = journal.append(&[Toy::Undone(0)]);
        assert!(matches!(&failed, Err(Error::Disk(error)) if error.is_full()), "{what}: {failed:?}");
        assert_eq!(disk.fired(), 1, "{what}");
        let events = disk.events();
        let refused = journal.append(&[Toy::End(Outcome::RolledBack)]);
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{what}: {refused:?}");
        assert_eq!(disk.events(), events, "{what}: a poisoned journal was written to");
        let again = disk.share();
        let (mut journal, contents) = Journal::open::<u32>(&again, path).expect("somebody reads it anew");
        let tail = if event == 1 { matches!(contents.tail, Tail::Torn { .. }) } else { contents.tail == Tail::Clean };
        assert!(tail, "{what}: {:?}", contents.tail);
        journal.append(&[Toy::End(Outcome::RolledBack)]).expect("the disk is sound again");
    }
}

#[test]
fn failed_creation_leaves_no_journal_that_can_be_read() {
    for event in 0..3 {
        let disk = MemoryDisk::new(&[]).with_fault(event, Fault::Once(ErrorKind::StorageFull));
        let header = Header { operation: 1, salt: 2 };
        assert!(Journal::create(&disk, Path::new("/journal"), header, &[Toy::Commit]).is_err());
        assert_eq!(disk.fired(), 1);
        let left = palacekeeper::journal::read::<u32>(&disk.crash(Fate::POWER_CUT), Path::new("/journal"));
        assert!(left.is_err(), "event {event}: {left:?}");
    }
}

/// A frame is limited by the bytes it takes, and small numbers take fewer than they stand for.
#[test]
fn long_plan_is_written_and_cannot_be_read() {
    let (disk, path) = (MemoryDisk::new(&[]), Path::new("/journal"));
    let plan = Plan { steps: vec![7_u64; 3_000_000], pivot: 0 };
    let begin = Record::Begin { title: "long".into(), began_at: 0, plan };
    Journal::create(&disk, path, HEADER, std::slice::from_ref(&begin)).expect("it fits into a frame");
    let bytes = disk.read(path, 0, u64::MAX).expect("the disk is sound");
    let contents = decode::<u64>(&bytes).unwrap_or_else(|damage| panic!("{damage}"));
    assert!(contents.records == [begin], "another plan was read");
}
