//! A palace as text: JSON Lines that any program can read, write, compare and send through a pipe.
//!
//! First a header, then each collection before its records, the records in the order of their rows, and at the end how
//! many there were, with the digest of each collection: what was cut short on its way is noticed. SPEC.md, "The
//! export", has the fields.

use super::chroma::{Digest, Emitter, Error as StoreError, Intake, Space, normalise_well, of_json};
use super::intake::{drop_taken, take_in, taken};
use super::json as objects;
pub(crate) use super::json::fit;
use super::record::{Embedding, Head, Metadata, Record};
use crate::disk::{self, Disk};
use crate::engine::{Observed, StepError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;

/// One act on lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Makes a database of chromadb's of the lines in a file, to be read like any palace.
    TakeIn {
        /// Records in them.
        records: u64,
        /// Bytes of them.
        bytes: u64,
    },
}

impl Step {
    /// Says where the disk stands: whether the database is in the directory `intake`.
    pub fn observe(&self, disk: &dyn Disk, intake: &Path) -> Result<Observed, StepError> {
        Ok(taken(disk, intake)?)
    }

    /// Reads the lines in the file `input` into a database in the directory `intake`.
    pub fn apply(&self, disk: &dyn Disk, input: &Path, intake: &Path) -> Result<(), StepError> {
        take_in(disk, intake, input, &mut |part| {
            let mut database = Intake::create(part)?;
            let lines = disk.open(input)?;
            read(&mut io::BufReader::new(disk::Reader::new(&*lines)), &mut database, &mut || ())?;
            Ok(database.finish()?)
        })
    }

    /// Removes the database.
    pub fn revert(&self, disk: &dyn Disk, intake: &Path) -> Result<(), StepError> {
        Ok(drop_taken(disk, intake)?)
    }

    /// Bytes this step reads.
    pub fn weight(&self) -> u64 {
        let Step::TakeIn { bytes, .. } = self;
        *bytes
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step::TakeIn { records, .. } = self;
        write!(f, "read {records} records of the export")
    }
}

/// Version of the lines.
const VERSION: u32 = 1;

/// No line is longer: a record of any palace is far smaller.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Why lines could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file or pipe.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A line says nothing that could be taken in.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    palacekeeper: String,
    version: u32,
    chromadb: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionLine {
    collection: String,
    dimension: Option<i64>,
    space: String,
    #[serde(default)]
    index: Json,
    #[serde(default)]
    metadata: Json,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    id: String,
    #[serde(rename = "in")]
    collection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    #[serde(default)]
    metadata: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

/// A number, or, where JSON knows none, the bits in hexadecimal digits.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Length {
    Number(f32),
    Bits(String),
}

impl Length {
    fn of(length: f32) -> Length {
        match length.is_finite() {
            true => Length::Number(length),
            false => Length::Bits(format!("{:08x}", length.to_bits())),
        }
    }

    fn value(&self) -> Option<f32> {
        match self {
            Length::Number(length) => Some(*length),
            Length::Bits(text) => u32::from_str_radix(text, 16).ok().map(f32::from_bits),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: u64,
    #[serde(default)]
    digests: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
}

/// What lines held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records.
    pub records: u64,
    /// Digest of each collection, by name.
    pub digests: BTreeMap<String, String>,
}

/// Writes every record of a palace. `digests` are those of its collections, as a survey found them. Without the last
/// line, and nothing is returned, where the palace has changed meanwhile.
pub fn write(
    emitter: &Emitter,
    digests: &BTreeMap<String, Digest>,
    output: &mut dyn Write,
    is_unchanged: &dyn Fn() -> bool,
    watch: &mut dyn FnMut(),
) -> Result<Option<Summary>, Error> {
    let header = HeaderLine {
        palacekeeper: "export".into(),
        version: VERSION,
        chromadb: emitter.source().format().name.clone(),
    };
    put(output, &header)?;
    let output = &mut Hashed { output, hasher: blake3::Hasher::new() };
    let heads = emitter.heads()?;
    for head in &heads {
        let Head { name, dimension, space, index, mut metadata } = head.clone();
        fit(&mut metadata, &name);
        let (space, metadata) = (space.name().to_owned(), objects::object(&metadata));
        put(output, &CollectionLine { collection: name, dimension, space, index, metadata })?;
    }
    let (mut records, mut failed) = (0, None);
    emitter.run(i64::MIN, i64::MAX, &mut |given| {
        if failed.is_none() {
            records += 1;
            failed = put(output, &line(&heads[given.owner], given.record)).err();
            watch();
        }
        Ok(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let digests = digests.iter().map(|(name, digest)| (name.clone(), digest.to_string())).collect();
    let end = EndLine { end: records, digests, blake3: Some(output.hasher.finalize().to_string()) };
    if !is_unchanged() {
        output.flush()?;
        return Ok(None);
    }
    put(output, &end)?;
    output.flush()?;
    Ok(Some(Summary { records, digests: end.digests }))
}

/// Hashes what it passes on.
struct Hashed<'o> {
    output: &'o mut dyn Write,
    hasher: blake3::Hasher,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn put(output: &mut dyn Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, line)?;
    output.write_all(b"\n")
}

fn line(head: &Head, record: Record) -> RecordLine {
    let Record { id, document, mut metadata, embedding, created_at } = record;
    fit(&mut metadata, &id);
    let bytes = |floats: &[f32]| floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<u8>>();
    let vector = embedding.as_ref().map(|embedding| STANDARD.encode(bytes(&embedding.floats)));
    let length = embedding.map(|embedding| Length::of(embedding.length));
    let metadata = objects::object(&metadata);
    RecordLine { id, collection: head.name.clone(), document, metadata, vector, length, created_at }
}

/// Reads lines into a database that is read like a palace, and says what they held.
pub fn read(input: &mut dyn BufRead, intake: &mut Intake, watch: &mut dyn FnMut()) -> Result<Summary, Error> {
    let mut reader = Reader::new(intake);
    let mut text = String::new();
    loop {
        text.clear();
        reader.line += 1;
        let read = (&mut *input).take(LINE_BYTES_MAX).read_line(&mut text);
        match read.map_err(|error| reader.wrong(error.to_string()))? as u64 {
            0 => break,
            LINE_BYTES_MAX => return Err(reader.wrong("it is longer than any record".into())),
            _ => match text.trim_start_matches('\u{feff}').trim() {
                "" => {}
                line => reader.take(line)?,
            },
        }
        watch();
    }
    match reader.has_ended {
        true => Ok(reader.summary),
        false => Err(reader.wrong("the last line is missing, so what came before may be cut short".into())),
    }
}

struct Reader<'i> {
    intake: &'i mut Intake,
    heads: Vec<Head>,
    summary: Summary,
    line: u64,
    /// Of all lines between the header and the last one.
    hasher: blake3::Hasher,
    has_begun: bool,
    has_ended: bool,
}

impl<'i> Reader<'i> {
    fn new(intake: &'i mut Intake) -> Self {
        let (heads, summary, hasher) = (Vec::new(), Summary::default(), blake3::Hasher::new());
        Reader { intake, heads, summary, line: 0, hasher, has_begun: false, has_ended: false }
    }

    fn wrong(&self, what: String) -> Error {
        Error::Line { line: self.line, what }
    }

    fn take(&mut self, text: &str) -> Result<(), Error> {
        if self.has_ended {
            return Err(self.wrong("it comes after the last line".into()));
        }
        let json: Json = serde_json::from_str(&objects::narrow(text)).map_err(|error| self.wrong(error.to_string()))?;
        let has = |key: &str| json.get(key).is_some();
        match () {
            () if has("palacekeeper") == self.has_begun => {
                let what =
                    if self.has_begun { "it begins another export" } else { "it is no export of palacekeeper's" };
                return Err(self.wrong(what.into()));
            }
            () if has("palacekeeper") => return self.header(json),
            () if has("end") => return self.end(json),
            () if has("collection") => self.collection(json)?,
            () => self.record(json)?,
        }
        self.hasher.update(text.as_bytes()).update(b"\n");
        Ok(())
    }

    fn parse<T: for<'d> Deserialize<'d>>(&self, json: Json) -> Result<T, Error> {
        serde_json::from_value(json).map_err(|error| self.wrong(error.to_string()))
    }

    fn header(&mut self, json: Json) -> Result<(), Error> {
        self.has_begun = true;
        match self.parse::<HeaderLine>(json)?.version {
            VERSION => Ok(()),
            version => Err(self.wrong(format!("it is an export of version {version}, and this knows {VERSION}"))),
        }
    }

    fn collection(&mut self, json: Json) -> Result<(), Error> {
        let CollectionLine { collection: name, dimension, space, index, metadata } = self.parse(json)?;
        if self.heads.iter().any(|head| head.name == name) {
            return Err(self.wrong(format!("the collection “{name}” is there already")));
        }
        let metadata = self.metadata(&metadata)?;
        let head = Head { name, dimension, space: Space::named(&space), index, metadata };
        self.intake.collection(&head)?;
        self.heads.push(head);
        Ok(())
    }

    fn metadata(&self, json: &Json) -> Result<Metadata, Error> {
        let mut metadata = Metadata::new();
        let object = match json {
            Json::Null => None,
            json => Some(json.as_object().ok_or_else(|| self.wrong("its metadata is no object".into()))?),
        };
        for (key, value) in object.into_iter().flatten() {
            let value =
                of_json(value).ok_or_else(|| self.wrong(format!("“{key}” has no value that metadata can be")))?;
            metadata.insert(key.clone(), value);
        }
        Ok(metadata)
    }

    fn record(&mut self, json: Json) -> Result<(), Error> {
        let line: RecordLine = self.parse(json)?;
        let owner = self.heads.iter().position(|head| head.name == line.collection);
        let owner = owner.ok_or_else(|| self.wrong(format!("no line before it says “{}”", line.collection)))?;
        let embedding = self.embedding(owner, &line)?;
        let (id, document, created_at) = (line.id, line.document, line.created_at);
        let metadata = self.metadata(&line.metadata)?;
        let taken = self.intake.record(owner, &Record { id: id.clone(), document, metadata, embedding, created_at });
        taken.map_err(|error| match error.is_refusal() {
            true => self.wrong(format!("{id}: {error}")),
            false => Error::Store(error),
        })?;
        self.summary.records += 1;
        Ok(())
    }

    /// Without a length the vector is one as a client gives it.
    fn embedding(&mut self, owner: usize, line: &RecordLine) -> Result<Option<Embedding>, Error> {
        let Some(text) = &line.vector else { return Ok(None) };
        let bytes = STANDARD.decode(text).map_err(|error| self.wrong(format!("its vector: {error}")))?;
        let (chunks, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(self.wrong("its vector is not one of 32-bit floats".into()));
        }
        let floats: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let wanted = *self.heads[owner].dimension.get_or_insert(floats.len() as i64);
        if floats.is_empty() || wanted != floats.len() as i64 {
            return Err(self.wrong(format!("its vector has {} floats instead of {wanted}", floats.len())));
        }
        let (floats, length) = match (&line.length, self.heads[owner].space) {
            (Some(length), _) => (floats, length.value().ok_or_else(|| self.wrong("its length is none".into()))?),
            (None, Space::Cosine) => normalise_well(&floats)
                .ok_or_else(|| self.wrong("its vector has no length that 32 bits hold".into()))?,
            (None, Space::L2 | Space::InnerProduct) => (floats, 1.0),
        };
        Ok(Some(Embedding { floats, length }))
    }

    fn end(&mut self, json: Json) -> Result<(), Error> {
        let EndLine { end, digests, blake3 } = self.parse(json)?;
        if end != self.summary.records {
            return Err(self.wrong(format!("{} records came instead of {end}", self.summary.records)));
        }
        if blake3.is_some_and(|sent| sent != self.hasher.finalize().to_string()) {
            return Err(self.wrong("the lines before it are not those that were written: their hash differs".into()));
        }
        self.summary.digests = digests;
        self.has_ended = true;
        for (index, head) in self.heads.iter().enumerate() {
            self.intake.dimension(index, head.dimension)?;
        }
        Ok(())
    }
}
