//! Reads `index_metadata.pickle`: which record stands at which label of an HNSW index.
//!
//! Python wrote an instance of `PersistentData` (chromadb before 1.0), Rust a plain dict (since 1.0); both come down
//! to one dict of scalars and three maps (CHROMA.md §3.4). The reader is a machine of the few opcodes these need. It
//! executes nothing, never recurses, and hands every pair of a map on as soon as it has read it, so its memory does
//! not grow with the index. Strings are kept as places in the file: the maps share them through the pickle's memo.
//!
//! # Limits
//! The memo of a Python-era pickle takes 24 bytes for each string it holds.

use crate::disk::{Contents, Disk};
use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

/// A string longer than this is no record id that chromadb would have taken.
const STRING_BYTES_MAX: u64 = 16 << 20;
/// No key of the metadata is longer.
const KEY_BYTES_MAX: u64 = 32;
/// More values than this are never on the stack at once: maps are drained as they are read.
const STACK_MAX: usize = 1 << 8;

/// What a pickle says beside its maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Dimension of the vectors; the Rust era leaves it out.
    pub dimensionality: Option<i64>,
    /// Labels given so far: the next one is this plus one.
    pub total_elements_added: i64,
    /// Sequence number of the last persisted write (0.4 only).
    pub max_seq_id: Option<i64>,
}

/// One pair of a map, as the reader meets it.
#[derive(Debug, PartialEq, Eq)]
pub enum Pair<'p> {
    /// `id_to_label`.
    IdToLabel(&'p [u8], i64),
    /// `label_to_id`.
    LabelToId(i64, &'p [u8]),
}

impl Pair<'_> {
    /// What a pair adds to the balance of both maps: one that is the other turned round comes out at nothing.
    pub(super) fn weigh(&self, balance: u64) -> u64 {
        let hash = |id: &[u8], label: i64| {
            let mut hasher = DefaultHasher::new();
            (id, label).hash(&mut hasher);
            hasher.finish()
        };
        match self {
            Pair::IdToLabel(id, label) => balance.wrapping_add(hash(id, *label)),
            Pair::LabelToId(label, id) => balance.wrapping_sub(hash(id, *label)),
        }
    }
}

/// Why a pickle cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// It ends in the middle.
    #[error("it ends too early, at byte {at}")]
    Truncated {
        /// Where it ends.
        at: u64,
    },
    /// It holds something that neither chromadb writes.
    #[error("at byte {at}: {what}")]
    Unexpected {
        /// Offset of the opcode.
        at: u64,
        /// What is unexpected.
        what: &'static str,
    },
    /// The receiver of the pairs failed.
    #[error("{0}")]
    Receiver(String),
}

impl Error {
    /// Whether the file is damaged; otherwise something kept it from being read.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Io(source) => matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof),
            Error::Truncated { .. } | Error::Unexpected { .. } => true,
            Error::Receiver(_) => false,
        }
    }
}

/// Takes the pairs of the maps.
type Receiver<'r> = dyn FnMut(Pair) -> Result<(), Error> + 'r;

/// Reads the pickle at `path` and hands every pair of its maps to `receive`.
pub fn read(disk: &dyn Disk, path: &Path, receive: &mut Receiver) -> Result<Summary, Error> {
    let file = disk.open(path).map_err(io::Error::from)?;
    let input = Input { length: file.length()?, file, at: 0, buffer: Vec::new(), buffer_at: 0 };
    let (stack, memo, summary) = (Vec::new(), Vec::new(), Summary::default());
    let mut machine = Machine { input, stack, memo, receive, summary, seen: 0 };
    while machine.step()? == Flow::Next {}
    machine.finish()
}

/// A value on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    None,
    Int(i64),
    Text(Text),
    Map(Role),
    Mark,
    /// A class, a tuple or an instance: the wrapping around the dict, of no meaning to us.
    Wrapping,
}

/// A string, as its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Text {
    at: u64,
    length: u64,
}

/// What a dict is for, known from the key it is filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Top,
    IdToLabel,
    LabelToId,
    Ignored,
}

#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Stop,
}

struct Machine<'m> {
    input: Input,
    stack: Vec<Value>,
    memo: Vec<Value>,
    receive: &'m mut Receiver<'m>,
    summary: Summary,
    /// Bits of the three keys a loader needs.
    seen: u8,
}

impl Machine<'_> {
    /// Reads and obeys one opcode.
    fn step(&mut self) -> Result<Flow, Error> {
        let at = self.input.at;
        let opcode = self.input.byte()?;
        match opcode {
            b'.' => return Ok(Flow::Stop),
            0x80 => drop(self.input.byte()?),           // PROTO
            0x95 => drop(self.input.unsigned(8)?),      // FRAME
            b'}' => self.push_map()?,                   // EMPTY_DICT
            b'(' => self.push(Value::Mark)?,            // MARK
            b'u' => self.set_items(at)?,                // SETITEMS
            b's' => self.set_item(at)?,                 // SETITEM
            b'N' => self.push(Value::None)?,            // NONE
            0x88 => self.push(Value::Int(1))?,          // NEWTRUE
            0x89 => self.push(Value::Int(0))?,          // NEWFALSE
            b'J' => self.push_int()?,                   // BININT
            b'K' => self.push_unsigned(1)?,             // BININT1
            b'M' => self.push_unsigned(2)?,             // BININT2
            0x8a => self.push_long(at)?,                // LONG1
            0x8c => self.push_text(1, at)?,             // SHORT_BINUNICODE
            b'X' => self.push_text(4, at)?,             // BINUNICODE
            0x8d => self.push_text(8, at)?,             // BINUNICODE8
            b'c' => self.push_global()?,                // GLOBAL
            0x93 => self.wrap(2, at)?,                  // STACK_GLOBAL
            b')' => self.push(Value::Wrapping)?,        // EMPTY_TUPLE
            0x81 | b'R' => self.wrap(2, at)?,           // NEWOBJ, REDUCE
            b'b' => self.build(at)?,                    // BUILD
            0x94 => self.memoize(self.memo.len(), at)?, // MEMOIZE
            b'q' => self.memoize_at(1, at)?,            // BINPUT
            b'r' => self.memoize_at(4, at)?,            // LONG_BINPUT
            b'h' => self.recall(1, at)?,                // BINGET
            b'j' => self.recall(4, at)?,                // LONG_BINGET
            _ => return Err(unexpected(at, "an opcode that chromadb does not write")),
        }
        Ok(Flow::Next)
    }

    fn finish(self) -> Result<Summary, Error> {
        let at = self.input.at;
        match (self.stack.as_slice(), self.seen) {
            ([Value::Map(Role::Top)], 0b111) => Ok(self.summary),
            ([Value::Map(Role::Top)], _) => Err(unexpected(at, "the index metadata is incomplete")),
            _ => Err(unexpected(at, "it does not end with one object")),
        }
    }

    /// Pushes a value; a pair that is complete below it is handed on first, so that the stack stays short.
    fn push(&mut self, value: Value) -> Result<(), Error> {
        if let [.., Value::Map(role), Value::Mark, key, item] = *self.stack.as_slice()
            && role != Role::Top
        {
            self.stack.truncate(self.stack.len() - 2);
            self.file(role, key, item)?;
        }
        if self.stack.len() >= STACK_MAX {
            return Err(unexpected(self.input.at, "more values at once than any index metadata holds"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// The outermost dict is the metadata; what an inner one is for follows from the key just below it.
    fn push_map(&mut self) -> Result<(), Error> {
        let is_outermost = !self.stack.iter().any(|value| matches!(value, Value::Map(_)));
        // Inside the metadata, keys and values stand above a mark, or alone where a pair is set by itself.
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let is_inside = match (mark, self.stack.as_slice()) {
            (_, [.., Value::Map(Role::Top), Value::Text(_)]) => true,
            (Some(mark), stack) => mark > 0 && stack[mark - 1] == Value::Map(Role::Top),
            (None, _) => false,
        };
        let role = match self.stack.last().copied() {
            _ if is_outermost => Role::Top,
            Some(Value::Text(key)) if is_inside => match self.key(key)?.as_slice() {
                b"id_to_label" => Role::IdToLabel,
                b"label_to_id" => Role::LabelToId,
                _ => Role::Ignored,
            },
            _ => return Err(unexpected(self.input.at, "a dict where none belongs")),
        };
        self.push(Value::Map(role))
    }

    fn push_int(&mut self) -> Result<(), Error> {
        let value = self.input.unsigned(4)? as u32 as i32;
        self.push(Value::Int(i64::from(value)))
    }

    fn push_unsigned(&mut self, bytes: u64) -> Result<(), Error> {
        let value = self.input.unsigned(bytes)?;
        self.push(Value::Int(value as i64))
    }

    fn push_long(&mut self, at: u64) -> Result<(), Error> {
        let length = u64::from(self.input.byte()?);
        if length > 8 {
            return Err(unexpected(at, "a number of more than 64 bits"));
        }
        let value = self.input.unsigned(length)?;
        let unused = 64 - 8 * length as u32;
        let value = if length == 0 { 0 } else { (value << unused) as i64 >> unused };
        self.push(Value::Int(value))
    }

    fn push_text(&mut self, length_bytes: u64, at: u64) -> Result<(), Error> {
        let length = self.input.unsigned(length_bytes)?;
        if length > STRING_BYTES_MAX {
            return Err(unexpected(at, "a string longer than any id"));
        }
        let text = Text { at: self.input.at, length };
        self.input.skip(length)?;
        self.push(Value::Text(text))
    }

    fn push_global(&mut self) -> Result<(), Error> {
        for _ in 0..2 {
            while self.input.byte()? != b'\n' {}
        }
        self.push(Value::Wrapping)
    }

    /// Takes `count` values and leaves the wrapping they make.
    fn wrap(&mut self, count: usize, at: u64) -> Result<(), Error> {
        for _ in 0..count {
            self.pop(at)?;
        }
        self.push(Value::Wrapping)
    }

    /// An instance and its state become the state.
    fn build(&mut self, at: u64) -> Result<(), Error> {
        match (self.pop(at)?, self.pop(at)?) {
            (state @ Value::Map(Role::Top), Value::Wrapping) => self.push(state),
            _ => Err(unexpected(at, "an instance that is not the index metadata")),
        }
    }

    fn set_items(&mut self, at: u64) -> Result<(), Error> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let mark = mark.ok_or(unexpected(at, "items without a mark"))?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        let Some(Value::Map(role)) = self.stack.last().copied() else {
            return Err(unexpected(at, "items without a dict"));
        };
        for pair in items.chunks(2) {
            match *pair {
                [key, item] => self.file(role, key, item)?,
                _ => return Err(unexpected(at, "a key without a value")),
            }
        }
        Ok(())
    }

    fn set_item(&mut self, at: u64) -> Result<(), Error> {
        let (item, key) = (self.pop(at)?, self.pop(at)?);
        match self.stack.last().copied() {
            Some(Value::Map(role)) => self.file(role, key, item),
            _ => Err(unexpected(at, "an item without a dict")),
        }
    }

    /// Files one pair of a dict under what it means.
    fn file(&mut self, role: Role, key: Value, item: Value) -> Result<(), Error> {
        match (role, key, item) {
            (Role::Top, Value::Text(key), item) => self.file_top(key, item),
            (Role::IdToLabel, Value::Text(id), Value::Int(label)) => {
                (self.receive)(Pair::IdToLabel(&self.input.text(id)?, label))
            }
            (Role::LabelToId, Value::Int(label), Value::Text(id)) => {
                (self.receive)(Pair::LabelToId(label, &self.input.text(id)?))
            }
            (Role::Ignored, ..) => Ok(()),
            _ => Err(unexpected(self.input.at, "a pair of the wrong types")),
        }
    }

    fn file_top(&mut self, key: Text, item: Value) -> Result<(), Error> {
        match (self.key(key)?.as_slice(), item) {
            (b"dimensionality", Value::Int(value)) => self.summary.dimensionality = Some(value),
            (b"max_seq_id", Value::Int(value)) => self.summary.max_seq_id = Some(value),
            (b"total_elements_added", Value::Int(value)) => {
                self.summary.total_elements_added = value;
                self.seen |= 0b001;
            }
            (b"id_to_label", Value::Map(Role::IdToLabel)) => self.seen |= 0b010,
            (b"label_to_id", Value::Map(Role::LabelToId)) => self.seen |= 0b100,
            (b"total_elements_added" | b"id_to_label" | b"label_to_id", _) => {
                return Err(unexpected(self.input.at, "a field of the wrong type"));
            }
            _ => {}
        }
        Ok(())
    }

    /// A key of the metadata; the empty one where it is too long to be known.
    fn key(&mut self, key: Text) -> Result<Vec<u8>, Error> {
        if key.length > KEY_BYTES_MAX { Ok(Vec::new()) } else { self.input.text(key) }
    }

    fn memoize(&mut self, index: usize, at: u64) -> Result<(), Error> {
        let value = *self.stack.last().ok_or(unexpected(at, "nothing to remember"))?;
        // Pickle numbers what it remembers one by one, so the memo is never larger than what was read.
        match index.cmp(&self.memo.len()) {
            Ordering::Less => self.memo[index] = value,
            Ordering::Equal => self.memo.push(value),
            Ordering::Greater => return Err(unexpected(at, "a memo with a gap")),
        }
        Ok(())
    }

    fn memoize_at(&mut self, bytes: u64, at: u64) -> Result<(), Error> {
        let index = self.input.unsigned(bytes)?;
        self.memoize(index as usize, at)
    }

    fn recall(&mut self, bytes: u64, at: u64) -> Result<(), Error> {
        let index = self.input.unsigned(bytes)? as usize;
        match self.memo.get(index).copied() {
            Some(value) => self.push(value),
            None => Err(unexpected(at, "a memo that was never written")),
        }
    }

    fn pop(&mut self, at: u64) -> Result<Value, Error> {
        self.stack.pop().ok_or(unexpected(at, "a value that is not there"))
    }
}

fn unexpected(at: u64, what: &'static str) -> Error {
    Error::Unexpected { at, what }
}

/// The file, read forward through a buffer and looked up by place.
struct Input {
    file: Box<dyn Contents>,
    length: u64,
    at: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

/// Bytes read at a time.
const BUFFER_BYTES: u64 = 256 << 10;

impl Input {
    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.unsigned(1)? as u8)
    }

    /// A little-endian number of up to eight bytes.
    fn unsigned(&mut self, bytes: u64) -> Result<u64, Error> {
        let text = Text { at: self.at, length: bytes };
        self.skip(bytes)?;
        Ok(self.near(text)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        self.at += bytes;
        match self.at <= self.length {
            true => Ok(()),
            false => Err(Error::Truncated { at: self.length }),
        }
    }

    /// The bytes of a string, wherever it stands.
    fn text(&mut self, text: Text) -> Result<Vec<u8>, Error> {
        if text.at >= self.buffer_at && text.length <= BUFFER_BYTES {
            return Ok(self.near(text)?.to_vec());
        }
        let mut bytes = vec![0; text.length as usize];
        self.file.read_exact_at(&mut bytes, text.at)?;
        Ok(bytes)
    }

    /// Bytes that stand no further back than the buffer does, and fit into it.
    fn near(&mut self, text: Text) -> Result<&[u8], Error> {
        if text.at + text.length > self.buffer_at + self.buffer.len() as u64 {
            self.fill(text.at)?;
        }
        let start = (text.at - self.buffer_at) as usize;
        Ok(&self.buffer[start..start + text.length as usize])
    }

    fn fill(&mut self, at: u64) -> Result<(), Error> {
        let bytes = BUFFER_BYTES.min(self.length - at) as usize;
        self.buffer.resize(bytes, 0);
        self.file.read_exact_at(&mut self.buffer, at)?;
        self.buffer_at = at;
        Ok(())
    }
}
