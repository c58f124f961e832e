//! Numbers of variable length, and the records that rows are made of (§2.1).

/// A value of a row, with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text: bytes that need not be UTF-8.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A number of one to nine bytes, and how many there were.
pub(super) fn varint(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        if index == 8 {
            return Some(((value << 8 | u64::from(*byte)) as i64, 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value as i64, index + 1));
        }
    }
    None
}

/// The values of a record; `None` where it is none: its head and its lengths must fit to the byte.
pub fn decode(payload: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    walk(payload, &mut |kind, bytes| values.push(value(kind, bytes)))?;
    Some(values)
}

/// Whether a record could be decoded.
pub(super) fn is_record(payload: &[u8]) -> bool {
    walk(payload, &mut |_, _| ()).is_some()
}

fn walk(payload: &[u8], take: &mut dyn FnMut(i64, &[u8])) -> Option<()> {
    let (head_bytes, mut at) = varint(payload)?;
    let head = payload.get(..usize::try_from(head_bytes).ok()?)?;
    let mut rest = &payload[head.len()..];
    while at < head.len() {
        let (kind, taken) = varint(&head[at..])?;
        at += taken;
        let bytes;
        (bytes, rest) = rest.split_at_checked(length(kind)?)?;
        take(kind, bytes);
    }
    (at == head.len() && rest.is_empty()).then_some(())
}

fn length(kind: i64) -> Option<usize> {
    match kind {
        0 | 8 | 9 => Some(0),
        1..=4 => Some(kind as usize),
        5 => Some(6),
        6 | 7 => Some(8),
        12.. => usize::try_from((kind - 12) / 2).ok(),
        _ => None,
    }
}

fn value(kind: i64, bytes: &[u8]) -> Value {
    match kind {
        0 => Value::Null,
        7 => Value::Real(f64::from_be_bytes(bytes.try_into().expect("eight bytes"))),
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        1..=6 => {
            let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1_i64 };
            Value::Integer(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)))
        }
        _ if kind % 2 == 0 => Value::Blob(bytes.to_vec()),
        _ => Value::Text(bytes.to_vec()),
    }
}
