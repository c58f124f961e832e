//! The smallest reader of `index_metadata.pickle` that will do: it builds the whole value in memory and panics on
//! anything it does not expect.

/// A value in a pickle.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Int(i64),
    Text(String),
    Dict(Vec<(Value, Value)>),
    Mark,
    /// A class or an instance that wraps the dict.
    Other,
}

impl Value {
    /// The value under a key of a dict.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let Value::Dict(pairs) = self else { panic!("not a dict: {self:?}") };
        pairs.iter().find(|(name, _)| *name == Value::Text(key.into())).map(|(_, value)| value)
    }

    /// A dict from text to integer.
    pub(super) fn text_to_int(&self) -> Vec<(String, i64)> {
        let Value::Dict(pairs) = self else { panic!("not a dict: {self:?}") };
        let pair = |(key, value): &(Value, Value)| match (key, value) {
            (Value::Text(key), Value::Int(value)) => (key.clone(), *value),
            other => panic!("not text to integer: {other:?}"),
        };
        pairs.iter().map(pair).collect()
    }
}

/// Reads a whole pickle.
pub(super) fn read(bytes: &[u8]) -> Value {
    let mut reader = Reader { bytes, at: 0, stack: Vec::new(), memo: Vec::new() };
    while reader.obey() {}
    let dict = reader.stack.iter().rev().find(|value| matches!(value, Value::Dict(_)));
    dict.expect("a pickle of an index holds a dict").clone()
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    stack: Vec<Value>,
    memo: Vec<Value>,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        self.at += count;
        &self.bytes[self.at - count..self.at]
    }

    fn number(&mut self, bytes: usize) -> usize {
        self.take(bytes).iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn signed(&mut self, bytes: usize) -> i64 {
        let number = self.number(bytes) as u64;
        let shift = 64 - 8 * bytes as u32;
        if bytes == 0 { 0 } else { (number << shift) as i64 >> shift }
    }

    fn text(&mut self, length_bytes: usize) -> Value {
        let length = self.number(length_bytes);
        Value::Text(String::from_utf8(self.take(length).to_vec()).expect("pickled text is UTF-8"))
    }

    fn line(&mut self) {
        while self.number(1) != usize::from(b'\n') {}
    }

    /// Carries out one opcode; false at the last.
    fn obey(&mut self) -> bool {
        let opcode = self.number(1) as u8;
        let pushed = match opcode {
            b'.' => return false,
            0x80 => return self.take(1).len() == 1,
            0x95 => return self.take(8).len() == 8,
            0x94 => return self.memoize(self.memo.len()),
            b'q' => {
                let place = self.number(1);
                return self.memoize(place);
            }
            b'r' => {
                let place = self.number(4);
                return self.memoize(place);
            }
            b'u' | b's' => return self.set_items(opcode),
            b'}' => Value::Dict(Vec::new()),
            b'(' => Value::Mark,
            b'N' => Value::None,
            b'J' => Value::Int(self.signed(4)),
            b'K' => Value::Int(self.number(1) as i64),
            b'M' => Value::Int(self.number(2) as i64),
            0x8a => {
                let length = self.number(1);
                Value::Int(self.signed(length))
            }
            0x8c => self.text(1),
            b'X' => self.text(4),
            b'h' => self.recall(1),
            b'j' => self.recall(4),
            b')' => Value::Other,
            b'c' => {
                self.line();
                self.line();
                Value::Other
            }
            0x93 | 0x81 => {
                self.stack.truncate(self.stack.len() - 2); // module and name, or class and arguments
                Value::Other
            }
            b'b' => self.stack.pop().expect("a state to build with"),
            other => panic!("opcode {other:#x} at byte {}", self.at - 1),
        };
        self.stack.push(pushed);
        true
    }

    fn memoize(&mut self, place: usize) -> bool {
        let value = self.stack.last().expect("a value to remember").clone();
        if self.memo.len() <= place {
            self.memo.resize(place + 1, Value::None);
        }
        self.memo[place] = value;
        true
    }

    fn recall(&mut self, bytes: usize) -> Value {
        let place = self.number(bytes);
        self.memo[place].clone()
    }

    fn set_items(&mut self, opcode: u8) -> bool {
        let first = match opcode {
            b's' => self.stack.len() - 2,
            _ => self.stack.iter().rposition(|value| *value == Value::Mark).expect("a mark before the items") + 1,
        };
        let items = self.stack.split_off(first);
        if opcode == b'u' {
            self.stack.pop();
        }
        let Some(Value::Dict(pairs)) = self.stack.last_mut() else { panic!("items without a dict") };
        pairs.extend(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())));
        true
    }
}
