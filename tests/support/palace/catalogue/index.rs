//! The files of a vector index.

use super::super::{pickle, read, truncate};
use super::{Case, Class, DRAWERS, OLDER};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(super) const CLASSES: &[Class] = &[
    // The directory.
    missing("an index is missing").losing(150, 0),
    missing("an index of 0.6.3 is missing").on("chroma-0.6.3").losing(150, 0),
    // Without a pickle to say that it was persisted, it is as good as one that never was.
    Class { codes: &[], ..missing("an index of 0.4.24 is missing, and the queue has it all") }
        .also(&["index-missing"])
        .on("chroma-0.4.24"),
    // The header.
    header("an index counts more elements than there can be", |case| put(case, 20, &(1_u64 << 50).to_le_bytes()))
        .and_on(OLDER),
    header("an index counts one element", |case| put(case, 20, &1_u64.to_le_bytes())),
    header("an index has more elements than room", |case| put(case, 12, &7_u64.to_le_bytes())),
    header("an index's elements are of another size", |case| put(case, 28, &99_999_u64.to_le_bytes())),
    header("an index's labels are outside its elements", |case| put(case, 36, &u64::MAX.to_le_bytes())),
    header("an index has no links per element", |case| put(case, 60, &[0; 24])),
    header("an index is entered where there is no element", |case| put(case, 56, &0x7fff_ffff_u32.to_le_bytes())),
    header("an index is of version 2", |case| put(case, 0, &2_u32.to_le_bytes())),
    header("an index's header is cut short", |case| cut(case, "header.bin", 1, 2)).losing(150, 0),
    header("an index's header is empty", |case| cut(case, "header.bin", 0, 1)).losing(150, 0),
    header("an index's header is scrambled", |case| put(case, 0, &[0xa5; 100])).losing(150, 0),
    header("an index's header is missing", |case| remove(case, "header.bin")).losing(150, 0),
    // The elements.
    level0("an index's elements are cut short", |case| cut(case, "data_level0.bin", 1, 2)).losing(80, 0),
    level0("an index's elements are empty", |case| cut(case, "data_level0.bin", 0, 1)).losing(150, 0),
    level0("an index's elements are missing", |case| remove(case, "data_level0.bin")).losing(150, 0),
    Class::deep(
        "a block of elements is zero",
        &["index-level0|vector-changed|index-diverged|vector-missing|index-pickle"],
        |case| {
            let path = case.index(DRAWERS).join("data_level0.bin");
            case.overwrite(&path, 4096, &[0; 4096]);
        },
    )
    .also(&["index-level0", "vector-changed", "index-diverged", "vector-missing", "index-links", "index-pickle"])
    .losing(24, 0),
    Class::deep("a bit of a vector is flipped", &["vector-changed"], flip_vector).for_a_person(),
    Class::deep("a bit of a vector of 0.4.24 is flipped, and the queue has it", &["vector-changed"], flip_vector)
        .on("chroma-0.4.24"),
    Class::deep(
        "an element's label is garbage",
        &["index-level0|index-diverged|vector-missing|index-pickle"],
        |case| {
            let element = Element::held_by_the_index_alone(case);
            case.overwrite(&element.file, element.at + element.size - 8, &0xdead_beef_u64.to_le_bytes());
        },
    )
    .also(&["index-level0", "index-diverged", "vector-missing", "index-pickle"])
    .losing(1, 0),
    // The lengths of the vectors.
    lengths("an index's lengths are cut short", |case| cut(case, "length.bin", 1, 2)).losing(80, 0),
    lengths("an index's lengths are missing", |case| remove(case, "length.bin")).losing(150, 0).and_on(OLDER),
    lengths("an index's lengths are zeros", |case| {
        let path = case.index(DRAWERS).join("length.bin");
        let bytes = read(&path).expect("lengths").len();
        case.overwrite(&path, 0, &vec![0; bytes]);
    })
    .only_deep()
    .losing(150, 0),
    Class::deep("a length is no number", &["index-lengths"], |case| {
        let element = Element::held_by_the_index_alone(case);
        let path = case.index(DRAWERS).join("length.bin");
        case.overwrite(&path, element.at / element.size * 4, &f32::NAN.to_le_bytes());
    })
    .losing(1, 0),
    // The links.
    deep_links("an index's upper links are cut short", |case| cut(case, "link_lists.bin", 1, 2)),
    links("an index's upper links are empty", |case| cut(case, "link_lists.bin", 0, 1)).and_on(OLDER),
    links("an index's upper links are missing", |case| remove(case, "link_lists.bin")),
    deep_links("an index's upper links are longer than memory", |case| {
        let path = case.index(DRAWERS).join("link_lists.bin");
        case.overwrite(&path, 0, &2_667_577_848_u32.to_le_bytes());
    }),
    deep_links("an element links to one that does not exist", |case| {
        let element = Element::held_by_the_index_alone(case);
        case.overwrite(&element.file, element.at + 4, &[0xff; 4]);
    }),
    deep_links("an element has more links than room", |case| {
        let element = Element::held_by_the_index_alone(case);
        case.overwrite(&element.file, element.at, &[0xff; 2]);
    }),
    deep_links("an upper link leads to an element that does not exist", |case| {
        let path = case.index(DRAWERS).join("link_lists.bin");
        let bytes = read(&path).expect("links");
        let at = (0..bytes.len()).step_by(4).find(|at| bytes[*at] == 68).expect("an element with upper links");
        case.overwrite(&path, at as u64 + 8, &[0xff; 3]);
    }),
    Class::quick("an index's upper links are mostly a hole", &["index-sparse"], |case| {
        let path = case.index(DRAWERS).join("link_lists.bin");
        case.set_length(&path, 64 << 20);
        let metadata = fs::metadata(&path).expect("metadata");
        assert!(metadata.blocks() * 512 < 1 << 20, "the file takes its space");
    })
    .also(&["index-links"]),
    // The pickle.
    // Labels follow the rows, so one tells the other; but where writes behind the index have deleted records that it
    // holds, nobody can say which labels were theirs.
    pickled("an index's pickle is missing", |case| remove(case, PICKLE)).losing(131, 0),
    pickled("an index's pickle is missing, and nothing was deleted since", |case| remove(case, PICKLE))
        .on("chroma-1.5.9-survive"),
    pickled("an index's pickle is empty", |case| cut(case, PICKLE, 0, 1)).losing(131, 0),
    pickled("an index's pickle is empty, and nothing was deleted since", |case| cut(case, PICKLE, 0, 1))
        .on("chroma-1.5.9-survive"),
    pickled("an index's pickle is cut short", |case| cut(case, PICKLE, 1, 4)).losing(3, 0),
    pickled("an index's pickle is cut short, and nothing was deleted since", |case| cut(case, PICKLE, 1, 4))
        .on("chroma-1.5.9-survive"),
    pickled("an index's pickle is garbage", |case| {
        let path = case.index(DRAWERS).join(PICKLE);
        case.overwrite(&path, 40, &[0xa5; 64]);
    })
    .losing(131, 0),
    pickled("an index's pickle names nobody", |case| {
        edit(case, |maps| *maps = Maps { total: maps.total, ..Maps::default() });
    })
    .losing(131, 0),
    pickled("an index's pickle knows labels one way only", |case| edit(case, |maps| maps.label_to_id.truncate(9))),
    pickled("an index's pickle contradicts itself", |case| {
        edit(case, |maps| {
            let last = maps.label_to_id.len() - 1;
            let name = maps.label_to_id[last].1.clone();
            maps.label_to_id[last].1 = std::mem::replace(&mut maps.label_to_id[0].1, name);
        });
    }),
    pickled("an index's next label is taken", |case| edit(case, |maps| maps.total = 0)),
    pickled("an index's pickle of 0.6.3 is missing", |case| remove(case, PICKLE)).on("chroma-0.6.3").losing(150, 0),
    pickled("an index's pickle of 0.4.24 is missing, and the queue has it all", |case| remove(case, PICKLE))
        .on("chroma-0.4.24"),
    pickled("an index's pickle of 1.0.20 is missing", |case| remove(case, PICKLE)).on("chroma-1.0.20").losing(131, 0),
    // Index and rows.
    Class::deep("an index does not name records that it holds", &["index-diverged|index-pickle"], |case| {
        edit(case, |maps| {
            maps.id_to_label.truncate(maps.id_to_label.len() - 20);
            let kept: BTreeSet<_> = maps.id_to_label.iter().map(|(_, label)| *label).collect();
            maps.label_to_id.retain(|(label, _)| kept.contains(label));
        });
    })
    .also(&["index-diverged", "index-pickle", "vector-missing"])
    .losing(3, 0),
    Class::deep("an index holds a record that has no rows", &["index-diverged"], |case| {
        let id = Element::held_by_the_index_alone(case).id;
        let row: i64 = case.one(&format!("SELECT id FROM embeddings WHERE embedding_id = '{id}'"));
        super::means::delete_rows(case, row);
        case.wanted.forget(&[row].into());
    })
    .losing(0, 0),
];

const PICKLE: &str = "index_metadata.pickle";

const fn missing(name: &'static str) -> Class {
    Class::quick(name, &["index-missing"], |case| {
        let index = case.index(DRAWERS);
        assert!(index.join(PICKLE).exists(), "the index was persisted");
        fs::remove_dir_all(index).expect("it was there");
    })
    .also(&["vector-missing"])
}

const fn header(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["index-header"], inject).also(&[
        "vector-missing",
        "index-links",
        "index-level0",
        "index-pickle",
    ])
}

const fn level0(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["index-level0"], inject).also(&["vector-missing", "index-pickle", "index-links"])
}

const fn lengths(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["index-lengths"], inject)
}

const fn links(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["index-links"], inject)
}

const fn deep_links(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::deep(name, &["index-links|index-level0"], inject)
}

const fn pickled(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["index-pickle"], inject).also(&["vector-missing", "index-diverged"])
}

fn put(case: &Case, at: u64, bytes: &[u8]) {
    case.overwrite(&case.index(DRAWERS).join("header.bin"), at, bytes);
}

fn cut(case: &Case, name: &str, numerator: u64, denominator: u64) {
    let path = case.index(DRAWERS).join(name);
    // The files of 0.x are longer than what is in them, as are those of an index that has just grown.
    truncate(&path, numerator, denominator);
}

fn remove(case: &Case, name: &str) {
    fs::remove_file(case.index(DRAWERS).join(name)).expect("it was there");
}

fn flip_vector(case: &mut Case) {
    let element = Element::held_by_the_index_alone(case);
    let at = element.at + element.vector_at + 4 * 5 + 3;
    let old = read(&element.file).expect("elements")[at as usize];
    case.overwrite(&element.file, at, &[old ^ 0x02]); // the exponent: the number is some orders of magnitude off
}

/// An element of the drawers' index, by place.
struct Element {
    id: String,
    file: PathBuf,
    at: u64,
    size: u64,
    vector_at: u64,
}

impl Element {
    /// One whose record no write behind the index changes; the queue may hold it from before.
    fn held_by_the_index_alone(case: &Case) -> Element {
        let index = case.index(DRAWERS);
        let (header, file) = (read(&index.join("header.bin")).expect("a header"), index.join("data_level0.bin"));
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let (count, size, label_at, vector_at) = (number(20), number(28), number(36), number(44));
        let elements = read(&file).expect("elements");
        let labels = Maps::of(&index).id_to_label;
        let queued: String =
            case.one("SELECT coalesce(group_concat(id, char(10)), '') FROM embeddings_queue WHERE seq_id > 240");
        let queued: BTreeSet<&str> = queued.lines().collect();
        let place = |label: i64| {
            (0..count).find(|place| {
                let at = (place * size + label_at) as usize;
                elements[at..at + 8] == label.to_le_bytes() && elements[(place * size + 2) as usize] & 1 == 0
            })
        };
        let is_plain = |id: &str| !queued.contains(id) && id.starts_with("drawer_") && case.wanted_has_vector(id);
        let found = labels.iter().filter(|(id, _)| is_plain(id)).find_map(|(id, label)| Some((id, place(*label)?)));
        let (id, place) = found.expect("an element");
        Element { id: id.clone(), file, at: place * size, size, vector_at }
    }
}

impl Case {
    fn wanted_has_vector(&self, id: &str) -> bool {
        self.wanted.records[DRAWERS].iter().any(|record| record.id == id && record.vector.is_some())
    }
}

/// What a pickle holds that matters.
#[derive(Clone, Default, PartialEq)]
struct Maps {
    total: i64,
    id_to_label: Vec<(String, i64)>,
    label_to_id: Vec<(i64, String)>,
}

impl Maps {
    fn of(index: &Path) -> Maps {
        let value = pickle::read(&read(&index.join(PICKLE)).expect("a pickle"));
        let id_to_label = value.get("id_to_label").expect("a map").text_to_int();
        let total = match value.get("total_elements_added") {
            Some(pickle::Value::Int(total)) => *total,
            other => panic!("{other:?}"),
        };
        let label_to_id = id_to_label.iter().map(|(id, label)| (*label, id.clone())).collect();
        Maps { total, id_to_label, label_to_id }
    }

    /// As chromadb 1.x pickles it, without the memos.
    fn pickled(&self) -> Vec<u8> {
        let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let number = |number: i64| [b"J", &(number as i32).to_le_bytes()[..]].concat();
        let dict = |pairs: Vec<Vec<u8>>| [b"}(", &pairs.concat()[..], b"u"].concat();
        let ids = self.id_to_label.iter().map(|(id, label)| [text(id), number(*label)].concat()).collect();
        let labels = self.label_to_id.iter().map(|(label, id)| [number(*label), text(id)].concat()).collect();
        let fields = dict(vec![
            [text("dimensionality"), b"N".to_vec()].concat(),
            [text("total_elements_added"), number(self.total)].concat(),
            [text("max_seq_id"), b"N".to_vec()].concat(),
            [text("id_to_label"), dict(ids)].concat(),
            [text("label_to_id"), dict(labels)].concat(),
            [text("id_to_seq_id"), b"}".to_vec()].concat(),
        ]);
        [b"\x80\x02", &fields[..], b"."].concat()
    }
}

fn edit(case: &Case, change: fn(&mut Maps)) {
    let index = case.index(DRAWERS);
    let before = Maps::of(&index);
    let mut maps = before.clone();
    change(&mut maps);
    assert!(maps != before, "nothing was changed");
    fs::write(index.join(PICKLE), maps.pickled()).expect("a pickle");
}
