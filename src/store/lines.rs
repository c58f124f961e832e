//! A palace as text: JSON Lines that any program can read, write, compare and send through a pipe.
//!
//! First a header, then each collection before its records, the records in the order of their rows, and at the end how
//! many there were, with the digest of each collection: what was cut short on its way is noticed. SPEC.md, "The
//! export", has the fields.

use super::chroma::{Digest, Emitter, Error as StoreError, Intake, Space, normalise, of_json};
use super::intake::{drop_taken, take_in, taken};
use super::json as objects;
use super::record::{Embedding, Head, Metadata, Record};
use crate::disk::Disk;
use crate::engine::{Observed, StepError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::{fmt, fs};

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
            read(&mut io::BufReader::new(fs::File::open(input)?), &mut database, &mut || ())?;
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
struct HeaderLine {
    palacekeeper: String,
    version: u32,
    chromadb: String,
}

#[derive(Serialize, Deserialize)]
struct CollectionLine {
    collection: String,
    dimension: Option<i64>,
    space: String,
    index: Json,
    metadata: Json,
}

#[derive(Serialize, Deserialize)]
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
    length: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct EndLine {
    end: u64,
    digests: BTreeMap<String, String>,
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
    let heads = emitter.heads()?;
    for head in &heads {
        let Head { name, dimension, space, index, metadata } = head.clone();
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
    let end = EndLine { end: records, digests };
    if !is_unchanged() {
        output.flush()?;
        return Ok(None);
    }
    put(output, &end)?;
    output.flush()?;
    Ok(Some(Summary { records, digests: end.digests }))
}

fn put(output: &mut dyn Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, line)?;
    output.write_all(b"\n")
}

fn line(head: &Head, record: Record) -> RecordLine {
    let Record { id, document, metadata, embedding, created_at } = record;
    let bytes = |floats: &[f32]| floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<u8>>();
    let vector = embedding.as_ref().map(|embedding| STANDARD.encode(bytes(&embedding.floats)));
    let length = embedding.map(|embedding| embedding.length);
    let metadata = objects::object(&metadata);
    RecordLine { id, collection: head.name.clone(), document, metadata, vector, length, created_at }
}

/// Reads lines into a database that is read like a palace, and says what they held.
pub fn read(input: &mut dyn BufRead, intake: &mut Intake, watch: &mut dyn FnMut()) -> Result<Summary, Error> {
    let mut reader = Reader { intake, heads: Vec::new(), summary: Summary::default(), line: 0, has_ended: false };
    let mut text = String::new();
    loop {
        text.clear();
        reader.line += 1;
        let read = (&mut *input).take(LINE_BYTES_MAX).read_line(&mut text);
        match read.map_err(|error| reader.wrong(error.to_string()))? as u64 {
            0 => break,
            LINE_BYTES_MAX => return Err(reader.wrong("it is longer than any record".into())),
            _ if text.trim().is_empty() => {}
            _ => reader.take(text.trim_start_matches('\u{feff}'))?,
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
    has_ended: bool,
}

impl Reader<'_> {
    fn wrong(&self, what: String) -> Error {
        Error::Line { line: self.line, what }
    }

    fn take(&mut self, text: &str) -> Result<(), Error> {
        if self.has_ended {
            return Err(self.wrong("it comes after the last line".into()));
        }
        let json: Json = serde_json::from_str(text).map_err(|error| self.wrong(error.to_string()))?;
        let has = |key: &str| json.get(key).is_some();
        match () {
            () if self.line == 1 && !has("palacekeeper") => Err(self.wrong("it is no export of palacekeeper's".into())),
            () if has("palacekeeper") => self.header(json),
            () if has("collection") => self.collection(json),
            () if has("end") => self.end(json),
            () => self.record(json),
        }
    }

    fn parse<T: for<'d> Deserialize<'d>>(&self, json: Json) -> Result<T, Error> {
        serde_json::from_value(json).map_err(|error| self.wrong(error.to_string()))
    }

    fn header(&self, json: Json) -> Result<(), Error> {
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
        for (key, value) in json.as_object().into_iter().flatten() {
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
        taken.map_err(|error| self.wrong(format!("{id}: {error}")))?;
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
        let (floats, length) = match (line.length, self.heads[owner].space) {
            (Some(length), _) => (floats, length),
            (None, Space::Cosine) => normalise(&floats),
            (None, Space::L2 | Space::InnerProduct) => (floats, 1.0),
        };
        Ok(Some(Embedding { floats, length }))
    }

    fn end(&mut self, json: Json) -> Result<(), Error> {
        let EndLine { end, digests } = self.parse(json)?;
        if end != self.summary.records {
            return Err(self.wrong(format!("{} records came instead of {end}", self.summary.records)));
        }
        self.summary.digests = digests;
        self.has_ended = true;
        for (index, head) in self.heads.iter().enumerate() {
            self.intake.dimension(index, head.dimension)?;
        }
        Ok(())
    }
}
