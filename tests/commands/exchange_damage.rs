//! Exports that were damaged on their way, or written by somebody else: refused by line, or taken in as they are meant.

use crate::support::palace::{
    Arena, Content, Random, assert_nothing, body, export, import, make_exact, refuses, say, with_lines,
};
use serde_json::Value as Json;
use std::fs;

/// Each line of a small export, damaged in each of these ways: the line is named, and nothing is made.
#[test]
fn damaged_line_is_taken_in() {
    let arena = Arena::empty();
    make_exact(&arena, 6);
    let text = export(&arena);
    let lines: Vec<&str> = text.lines().collect();
    let mut tried = 0;
    let mut refuse = |lines: &[&str], what: &str| {
        refuses(lines.join("\n").as_bytes(), what);
        tried += 1;
    };
    for place in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(place);
        refuse(&without, &format!("without line {place}"));
        let mut twice = lines.clone();
        twice.insert(place, lines[place]);
        refuse(&twice, &format!("line {place} twice"));
        if place > 0 {
            let mut swapped = lines.clone();
            swapped.swap(place, place - 1);
            refuse(&swapped, &format!("lines {place} and the one before it swapped"));
        }
        for cut in [1, lines[place].len() / 2, lines[place].len() - 1] {
            let mut short = lines.clone();
            short[place] = &lines[place][..cut];
            refuse(&short, &format!("line {place} cut at {cut}"));
        }
        for (from, to) in [("in", "out"), ("drawer-", "drawers-"), ("west", "east"), ("16", "17"), ("2026", "2025")] {
            let other = lines[place].replacen(from, to, 1);
            if other != lines[place] && place > 0 {
                let mut garbled = lines.clone();
                garbled[place] = &other;
                refuse(&garbled, &format!("line {place} with {to} for {from}"));
            }
        }
    }
    for end in 0..lines.len() {
        refuse(&lines[..end], &format!("only {end} lines"));
    }
    say(&format!("{tried} damaged exports were refused"));
}

#[test]
fn input_that_is_no_export_is_taken_in() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let header = "{\"palacekeeper\":\"export\",\"version\":1,\"chromadb\":\"1.5.9\"}\n";
    let collection = "{\"collection\":\"c\",\"dimension\":2,\"space\":\"cosine\",\"index\":{},\"metadata\":{}}\n";
    let with = |line: &str| format!("{header}{collection}{line}\n{{\"end\":1,\"digests\":{{}}}}\n").into_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("blank", b"\n\n\n".to_vec()),
        ("a byte order mark", b"\xef\xbb\xbf".to_vec()),
        ("no text", vec![0xff; 5000]),
        ("zeros", vec![0; 5000]),
        ("a database", b"SQLite format 3\0".to_vec()),
        ("a later version", header.replace(":1,", ":2,").into_bytes()),
        ("only a header", header.as_bytes().to_vec()),
        ("a blank line instead of the header", format!("\n{collection}{{\"end\":0,\"digests\":{{}}}}").into_bytes()),
        ("not UTF-8 in the middle", [header.as_bytes(), b"{\"collection\":\"\xff\"}\n"].concat()),
        ("nested deeply", format!("{header}{deep}\n").into_bytes()),
        ("a list", format!("{header}[]\n").into_bytes()),
        ("a number", format!("{header}7\n").into_bytes()),
        ("a record of nobody", with("{\"id\":\"a\",\"in\":\"other\"}")),
        ("a record without an id", with("{\"in\":\"c\"}")),
        ("a vector of another dimension", with("{\"id\":\"a\",\"in\":\"c\",\"vector\":\"AACAPw==\"}")),
        ("a vector of no floats", with("{\"id\":\"a\",\"in\":\"c\",\"vector\":\"\"}")),
        ("a vector of half a float", with("{\"id\":\"a\",\"in\":\"c\",\"vector\":\"AACAPwAA\"}")),
        ("a vector that is no base64", with("{\"id\":\"a\",\"in\":\"c\",\"vector\":\"?\"}")),
        ("a length of words", with("{\"id\":\"a\",\"in\":\"c\",\"vector\":\"AACAPwAAgD8=\",\"length\":\"long\"}")),
        ("a value that is none", with("{\"id\":\"a\",\"in\":\"c\",\"metadata\":{\"k\":null}}")),
        ("a value in a value", with("{\"id\":\"a\",\"in\":\"c\",\"metadata\":{\"k\":{}}}")),
        ("a huge number", with("{\"id\":\"a\",\"in\":\"c\",\"metadata\":{\"k\":99999999999999999999}}")),
        ("metadata that is no object", with("{\"id\":\"a\",\"in\":\"c\",\"metadata\":7}")),
        (
            "two documents",
            with("{\"id\":\"a\",\"in\":\"c\",\"document\":\"x\",\"metadata\":{\"chroma:document\":\"y\"}}"),
        ),
        ("a digest of nobody", format!("{header}{{\"end\":0,\"digests\":{{\"x\":\"00\"}}}}").into_bytes()),
    ];
    for (what, lines) in cases {
        refuses(&lines, what);
    }
}

/// Marks and line ends that editors and other systems leave are no damage.
#[test]
fn byte_order_mark_or_other_line_ends_are_damage() {
    let text = export(&Arena::new("1.5.9"));
    let marked = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let (arena, run) = import(marked);
    run.expect(0);
    assert_eq!(body(&text), body(&export(&arena)));
}

/// Random damage, thousands of times: each is refused, or what comes is what was sent.
#[test]
fn random_damage_to_an_export_is_taken_in() {
    let arena = Arena::empty();
    make_exact(&arena, 8);
    let text = export(&arena).into_bytes();
    let start = text.iter().position(|byte| *byte == b'\n').expect("a header");
    let mut random = Random::seeded();
    let scratch = tempfile::tempdir().expect("a directory");
    let mut refused = 0;
    const CASES: usize = 3_000;
    for case in 0..CASES {
        let mut bytes = text.clone();
        for _ in 0..=random.below(3) {
            let [at, other] = [(); 2].map(|()| start + random.below(bytes.len() - start));
            match random.below(5) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 if at > start => drop(bytes.remove(at)),
                2 => bytes.insert(at, random.below(256) as u8),
                3 => bytes.truncate(at + 1),
                _ => bytes.swap(at, other),
            }
        }
        let path = scratch.path().join(case.to_string());
        let mut intake = palacekeeper::store::chroma::Intake::create(&path).expect("a database");
        match palacekeeper::store::lines::read(&mut &bytes[..], &mut intake, &mut || ()) {
            Err(palacekeeper::store::lines::Error::Line { line, .. }) => {
                assert!(line >= 1, "case {case}");
                refused += 1;
            }
            Err(error) => panic!("case {case}: {error}"),
            Ok(_) => assert!(is_harmless(&bytes, &text), "case {case}: {}", String::from_utf8_lossy(&bytes)),
        }
        drop(intake);
        fs::remove_file(&path).expect("a database");
    }
    say(&format!("{refused} of {CASES} damaged exports were refused, the others said the same"));
    assert!(refused > CASES / 2);
}

/// Whether only white space differs, or what the last line says of digests, which is looked at later.
fn is_harmless(bytes: &[u8], text: &[u8]) -> bool {
    let lines = |bytes: &[u8]| -> Option<Vec<Json>> {
        let lines = std::str::from_utf8(bytes).ok()?.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut lines: Vec<Json> = lines.map(serde_json::from_str).collect::<Result<_, _>>().ok()?;
        lines.pop();
        Some(lines)
    };
    lines(bytes).is_some() && lines(bytes) == lines(text)
}

/// Somebody's own program: no digests, no lengths, vectors as a client gives them.
#[test]
fn export_written_by_hand_is_refused() {
    let floats = |floats: [f32; 2]| {
        use base64::Engine as _;
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let lines = [
        r#"{"palacekeeper":"export","version":1,"chromadb":"by hand"}"#.to_owned(),
        r#"{"collection":"drawers","dimension":null,"space":"cosine","index":{},
            "metadata":{"hnsw:space":"cosine"}}"#
            .replace('\n', " "),
        r#"{"collection":"flat","dimension":2,"space":"l2","index":{},"metadata":{"a":[1,2]}}"#.to_owned(),
        r#"{"id":"a","in":"drawers","document":"x","metadata":{"n":1,"f":1.0},"vector":"?"}"#
            .replace('?', &floats([3.0, 4.0])),
        format!(r#"{{"id":"b","in":"flat","vector":"{}"}}"#, floats([3.0, 4.0])),
        r#"{"id":"c","in":"flat"}"#.to_owned(),
        r#"{"end":3}"#.to_owned(),
    ];
    let (arena, path) = with_lines(lines.join("\n"));
    let path = path.to_str().expect("a path");
    arena.run(&["import", "--yes", path]).expect(5).says("vector of c in flat");
    assert_nothing(&arena, "without consent");
    arena.run(&["import", "--yes", "--accept-loss", path]).expect(0);
    let content = Content::of(&arena.palace());
    let a = content.record("drawers", "a");
    assert_eq!(a.metadata["n"], "int:1");
    assert_eq!(a.metadata["f"], format!("float:{:016x}", 1.0_f64.to_bits()));
    let given = &a.vector.as_ref().expect("a vector").get;
    assert!((given[0] - 3.0).abs() < 1e-6 && (given[1] - 4.0).abs() < 1e-6, "{given:?}");
    assert_eq!(content.record("flat", "b").vector.as_ref().expect("a vector").get, [3.0, 4.0]);
    assert_eq!(content.record("flat", "c").document, None);
}
