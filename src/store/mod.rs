//! What a palace's data looks like on the disk.

pub mod chroma;
