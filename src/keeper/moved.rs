//! A palace that MemPalace moved away and did not bring back: it is proved, and put where it was, by one rename.
//!
//! There is nothing to undo in that, and nothing can be half done: no operation is begun for it.

use super::propose::temporary;
use super::{Error, neighbours, resolve};
use crate::disk::{Disk, exists, parent};
use crate::store::chroma::check::{self, Depth, Severity};
use std::path::{Path, PathBuf};

/// Where a palace is, and where it should be.
pub struct Moved {
    /// Where it should be; nothing is there.
    pub palace: PathBuf,
    /// Where it is.
    pub copy: PathBuf,
}

/// Ending of the name under which MemPalace's migration moves the palace itself aside, sidecars and all.
const ASIDE: &str = ".old";

/// A palace that is gone and can be put back: what was moved aside, or the only copy there is. `None` where the
/// palace is where it should be, or where a person has to choose.
pub fn find_moved(disk: &dyn Disk, palace: &Path) -> Option<Moved> {
    let Err(Error::MovedAway { palace, copies }) = resolve(disk, palace) else { return None };
    if !matches!(exists(disk, &palace), Ok(false)) {
        return None; // something stands in its place, or may
    }
    let is_aside = |copy: &&PathBuf| copy.to_string_lossy().ends_with(ASIDE);
    let copy = match (copies.iter().find(is_aside), copies.as_slice()) {
        (Some(aside), _) => aside.clone(),
        (None, [only]) => only.clone(),
        _ => return None,
    };
    Some(Moved { palace, copy })
}

impl Moved {
    /// Reads the copy from end to end, and puts it back if nothing is damaged.
    ///
    /// # Errors
    /// [`Error::MovedAway`] where it is damaged, and a person has to look; [`Error::InUse`] where somebody has it open.
    pub fn put_back(self, disk: &dyn Disk, watch: &mut dyn FnMut()) -> Result<(), Error> {
        let checked = check::check(&self.copy, &temporary(disk), Depth::Deep, watch)?;
        if checked.findings.iter().any(|finding| finding.severity == Severity::Damage) {
            return Err(Error::MovedAway { palace: self.palace, copies: vec![self.copy] });
        }
        neighbours::insist_on_nobody(disk, &self.copy, neighbours::patience())?;
        disk.rename(&self.copy, &self.palace)?;
        Ok(disk.sync(parent(&self.palace))?)
    }
}
