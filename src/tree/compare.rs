//! Files and directories compared byte for byte.

use super::{Copy, Error, Roots};
use crate::disk::{Disk, Kind, Result};
use std::path::Path;

/// Bytes of each file that are held at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Compares a copy with what it was made from.
pub(super) fn compare(roots: &Roots, copy: &Copy) -> std::result::Result<(), Error> {
    let (source, target) = (roots.directory(&copy.source)?, roots.directory(&copy.target)?);
    let pairs = match copy.names.as_slice() {
        [] => vec![(source, target)],
        names => {
            let pair = |name: &String| Ok((roots.entry(&copy.source, name)?, roots.entry(&copy.target, name)?));
            names.iter().map(pair).collect::<std::result::Result<_, Error>>()?
        }
    };
    for (original, copy) in pairs {
        if !is_same(roots.disk, &original, &copy)? {
            return Err(Error::NotEqual { original, copy });
        }
    }
    Ok(())
}

/// Whether the same stands at both paths: two files of the same bytes, or two directories of the same entries. Nothing
/// is the same as nothing that is not there.
pub fn is_same(disk: &dyn Disk, one: &Path, other: &Path) -> Result<bool> {
    let kinds = (disk.stat(one)?.map(|stat| stat.kind), disk.stat(other)?.map(|stat| stat.kind));
    match kinds {
        (Some(Kind::File), Some(Kind::File)) => is_same_file(disk, one, other),
        (Some(Kind::Directory), Some(Kind::Directory)) => {
            let names = disk.list(one)?;
            if names != disk.list(other)? {
                return Ok(false);
            }
            for name in names {
                if !is_same(disk, &one.join(&name), &other.join(&name))? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn is_same_file(disk: &dyn Disk, one: &Path, other: &Path) -> Result<bool> {
    let mut offset = 0;
    loop {
        let (left, right) = (disk.read(one, offset, CHUNK_BYTES)?, disk.read(other, offset, CHUNK_BYTES)?);
        match (left == right, left.len() as u64) {
            (false, _) => return Ok(false),
            (true, length) if length < CHUNK_BYTES => return Ok(true),
            (true, length) => offset += length,
        }
    }
}
