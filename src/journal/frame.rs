//! Frames that survive: the bytes of a journal file, as pure functions.
//!
//! A file is one header and then frames. Each frame names the one before it and is proved by its own CRC, so a reader
//! can tell a last frame that was cut short (torn: the append never finished) from one that was damaged later
//! (corrupt). SPEC.md, "The bytes of the journal", prints every field.

/// The first eight bytes of every journal.
pub const MAGIC: [u8; 8] = *b"PALKEEP\n";
/// The version this program writes, and the newest it reads.
pub const VERSION: u16 = 1;
/// Bytes of the file header.
pub const HEADER_BYTES: usize = 28;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 16;
/// The longest payload: a plan of a hundred thousand steps fits, a hostile length does not.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// What a journal says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the operation.
    pub operation: u32,
    /// Random; frames of another journal fail their CRC here.
    pub salt: u64,
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole frame.
    Clean,
    /// With the beginning of an append that never finished: `bytes` bytes from offset `at` mean nothing.
    Torn {
        /// Offset of the first byte of the torn frame.
        at: u64,
        /// Bytes from there to the end of the file.
        bytes: u64,
    },
}

/// Why a journal cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file header is short, or its CRC is wrong.
    #[error("its header is damaged")]
    Header,
    /// It was written by a later version of this program.
    #[error("it was written in format {found}, and this program knows formats up to {VERSION}")]
    Newer {
        /// The format version in the header.
        found: u16,
    },
    /// A frame is bad although valid frames follow it.
    #[error("the frame at byte {at} is damaged, and intact frames follow it")]
    Frame {
        /// Offset of the bad frame.
        at: u64,
    },
    /// A frame is intact and cannot be decoded.
    #[error("the frame at byte {at} holds something that this program cannot read: {why}")]
    Payload {
        /// Offset of the frame.
        at: u64,
        /// What the decoder said.
        why: String,
    },
}

/// Where the next frame goes: what it must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    sequence: u32,
    previous: u32,
}

impl Link {
    /// What the first frame follows.
    pub const FIRST: Link = Link { sequence: 0, previous: 0 };
}

/// A journal's bytes, taken apart.
#[derive(Debug)]
pub struct Scan<'b> {
    /// The file header.
    pub header: Header,
    /// Payloads of the whole frames, in order, each with the offset of its frame.
    pub payloads: Vec<(u64, &'b [u8])>,
    /// How the file ends.
    pub tail: Tail,
    /// What the next frame must follow.
    pub link: Link,
}

/// The bytes of a file header.
pub fn encode_header(header: &Header) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&header.operation.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.salt.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The bytes of a frame that follows `link`, and the link for the one after it.
///
/// # Panics
/// On a payload over [`PAYLOAD_BYTES_MAX`]; the journal refuses it before.
pub fn encode_frame(salt: u64, link: Link, payload: &[u8]) -> (Vec<u8>, Link) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "the journal refuses longer payloads");
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(link.sequence.to_le_bytes());
    bytes.extend(link.previous.to_le_bytes());
    let crc = frame_crc(salt, &bytes, payload);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(payload);
    (bytes, Link { sequence: link.sequence + 1, previous: crc })
}

/// Takes a journal's bytes apart.
///
/// # Errors
/// [`Damage`] where a frame is bad that an intact one follows: no crash does that (invariant I2).
pub fn scan(bytes: &[u8]) -> Result<Scan<'_>, Damage> {
    let header = decode_header(bytes)?;
    let (mut at, mut link, mut payloads) = (HEADER_BYTES, Link::FIRST, Vec::new());
    while let Some(frame) = Frame::read(header.salt, &bytes[at..]).filter(|frame| frame.follows(link)) {
        payloads.push((at as u64, frame.payload));
        link = Link { sequence: frame.sequence + 1, previous: frame.crc };
        at += FRAME_HEADER_BYTES + frame.payload.len();
    }
    let rest = &bytes[at..];
    // An append that never finished leaves no intact frame, neither where it began nor behind. Frames that could not
    // have been reached by now are not worth a CRC.
    let sequences = 0..=u64::from(link.sequence) + (rest.len() / FRAME_HEADER_BYTES) as u64;
    let is_plausible = |frame: &[u8]| sequences.contains(&u64::from(u32_at(frame, 4)));
    let starts = rest.windows(FRAME_HEADER_BYTES).enumerate().filter(|(_, head)| is_plausible(head));
    if starts.into_iter().any(|(offset, _)| Frame::read(header.salt, &rest[offset..]).is_some()) {
        return Err(Damage::Frame { at: at as u64 });
    }
    let tail = match rest.len() as u64 {
        0 => Tail::Clean,
        bytes => Tail::Torn { at: at as u64, bytes },
    };
    Ok(Scan { header, payloads, tail, link })
}

fn decode_header(bytes: &[u8]) -> Result<Header, Damage> {
    let header = bytes.get(..HEADER_BYTES).ok_or(Damage::Header)?;
    if header[..8] != MAGIC || crc32fast::hash(&header[..24]) != u32_at(header, 24) {
        return Err(Damage::Header);
    }
    match u16::from_le_bytes([header[8], header[9]]) {
        VERSION => {}
        found if found > VERSION => return Err(Damage::Newer { found }),
        _ => return Err(Damage::Header),
    }
    let salt = u64::from(u32_at(header, 20)) << 32 | u64::from(u32_at(header, 16));
    Ok(Header { operation: u32_at(header, 12), salt })
}

struct Frame<'b> {
    sequence: u32,
    previous: u32,
    crc: u32,
    payload: &'b [u8],
}

impl<'b> Frame<'b> {
    /// The frame at the start of `bytes`, if it is whole and its CRC holds. Lengths are checked before anything else.
    fn read(salt: u64, bytes: &'b [u8]) -> Option<Frame<'b>> {
        let (head, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES)?;
        let length = u32_at(head, 0) as usize;
        if length == 0 || length > PAYLOAD_BYTES_MAX {
            return None;
        }
        let payload = rest.get(..length)?;
        let frame = Frame { sequence: u32_at(head, 4), previous: u32_at(head, 8), crc: u32_at(head, 12), payload };
        (frame.crc == frame_crc(salt, &head[..12], payload)).then_some(frame)
    }

    fn follows(&self, link: Link) -> bool {
        (self.sequence, self.previous) == (link.sequence, link.previous)
    }
}

/// CRC-32 (IEEE) over salt, length, sequence, the previous frame's CRC, and payload.
fn frame_crc(salt: u64, head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
