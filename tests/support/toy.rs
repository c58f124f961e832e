//! Steps over a small world on a disk in memory. They depend on each other, so that only the right order works, and
//! they leave nothing half done that they cannot recognise.

use palacekeeper::disk::{Disk, Kind, parent, remove_tree};
use palacekeeper::engine::{Observed, Step, StepError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// One act in the hall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Toy {
    /// Builds a room. Only an empty room can be torn down.
    Room(String),
    /// Puts a thing of several pieces into a room that must exist.
    Thing { room: String, name: String, pieces: u8 },
    /// Turns a switch, in place.
    Switch { name: String, from: u8, to: u8 },
    /// Moves a piece over another one. There is no way back.
    Install { source: String, target: String, old: Vec<u8> },
    /// Clears a room away with all that is in it. There is no way back.
    Discard(String),
}

/// The world of the toys: a directory on a disk.
pub struct Hall<'d> {
    pub disk: &'d dyn Disk,
    pub path: PathBuf,
}

impl Hall<'_> {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, StepError> {
        match self.disk.stat(path)? {
            Some(stat) if stat.kind == Kind::File => Ok(Some(self.disk.read(path, 0, u64::MAX)?)),
            _ => Ok(None),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool, StepError> {
        Ok(self.disk.stat(path)?.is_some())
    }

    /// A file that is whole or not there, put under its name by a rename.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), StepError> {
        let part = part(path);
        remove_tree(self.disk, &part)?;
        self.disk.create(&part, bytes)?;
        self.disk.sync(&part)?;
        self.disk.replace(&part, path)?;
        Ok(self.disk.sync(parent(path))?)
    }
}

fn part(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// What piece `index` of a thing holds.
pub fn piece(name: &str, index: u8) -> Vec<u8> {
    format!("{name} {index}").into_bytes()
}

impl Toy {
    fn pieces(hall: &Hall, room: &str, name: &str, pieces: u8) -> Vec<(PathBuf, Vec<u8>)> {
        let room = hall.path.join(room);
        (0..pieces).map(|index| (room.join(format!("{name}{index}")), piece(name, index))).collect()
    }

    fn observe_thing(hall: &Hall, pieces: &[(PathBuf, Vec<u8>)]) -> Result<Observed, StepError> {
        let (mut whole, mut begun) = (0, false);
        for (path, bytes) in pieces {
            begun |= hall.exists(&part(path))?;
            match hall.read(path)? {
                Some(found) if found == *bytes => whole += 1,
                None if !hall.exists(path)? => {}
                _ => return Ok(Observed::Foreign),
            }
        }
        Ok(match whole {
            _ if begun => Observed::Partial,
            0 => Observed::Before,
            _ if whole == pieces.len() => Observed::After,
            _ => Observed::Partial,
        })
    }

    fn observe_switch(hall: &Hall, path: &Path, from: u8, to: u8) -> Result<Observed, StepError> {
        let begun = hall.exists(&part(path))?;
        Ok(match hall.read(path)?.as_deref() {
            Some(found) if found == [from] && !begun => Observed::Before,
            Some(found) if found == [to] && !begun => Observed::After,
            Some(found) if found == [from] || found == [to] => Observed::Partial,
            _ => Observed::Foreign,
        })
    }
}

impl Step for Toy {
    type World<'w> = Hall<'w>;

    fn observe(&self, hall: &mut Hall<'_>) -> Result<Observed, StepError> {
        match self {
            Toy::Room(room) => Ok(match hall.disk.stat(&hall.path.join(room))?.map(|stat| stat.kind) {
                None => Observed::Before,
                Some(Kind::Directory) => Observed::After,
                Some(_) => Observed::Foreign,
            }),
            Toy::Thing { room, name, pieces } => Toy::observe_thing(hall, &Toy::pieces(hall, room, name, *pieces)),
            Toy::Switch { name, from, to } => Toy::observe_switch(hall, &hall.path.join(name), *from, *to),
            Toy::Install { source, target, old } => {
                let source = hall.exists(&hall.path.join(source))?;
                Ok(match hall.read(&hall.path.join(target))? {
                    Some(found) if found == *old => Observed::Before,
                    Some(_) if !source => Observed::After,
                    _ => Observed::Foreign,
                })
            }
            Toy::Discard(room) if hall.exists(&hall.path.join(room))? => Ok(Observed::Before),
            Toy::Discard(_) => Ok(Observed::After),
        }
    }

    fn apply(&self, hall: &mut Hall<'_>) -> Result<(), StepError> {
        match self {
            Toy::Room(room) => {
                let room = hall.path.join(room);
                hall.disk.create_dir(&room)?;
                hall.disk.sync(parent(&room))?;
            }
            Toy::Thing { room, name, pieces } => {
                for (path, bytes) in Toy::pieces(hall, room, name, *pieces) {
                    hall.put(&path, &bytes)?;
                }
            }
            Toy::Switch { name, to, .. } => hall.put(&hall.path.join(name), &[*to])?,
            Toy::Install { source, target, .. } => {
                let (source, target) = (hall.path.join(source), hall.path.join(target));
                hall.disk.replace(&source, &target)?;
                hall.disk.sync(parent(&target))?;
                hall.disk.sync(parent(&source))?;
            }
            Toy::Discard(room) => {
                let room = hall.path.join(room);
                remove_tree(hall.disk, &room)?;
                hall.disk.sync(parent(&room))?;
            }
        }
        Ok(())
    }

    fn revert(&self, hall: &mut Hall<'_>) -> Result<(), StepError> {
        match self {
            Toy::Room(room) => {
                let room = hall.path.join(room);
                hall.disk.remove(&room)?;
                hall.disk.sync(parent(&room))?;
            }
            Toy::Thing { room, name, pieces } => {
                for (path, _) in Toy::pieces(hall, room, name, *pieces).iter().rev() {
                    remove_tree(hall.disk, &part(path))?;
                    remove_tree(hall.disk, path)?;
                }
                hall.disk.sync(&hall.path.join(room))?;
            }
            Toy::Switch { name, from, .. } => hall.put(&hall.path.join(name), &[*from])?,
            Toy::Install { .. } | Toy::Discard(_) => panic!("{self} was reverted, and it lies past the pivot"),
        }
        Ok(())
    }

    fn weight(&self) -> u64 {
        1
    }
}

impl fmt::Display for Toy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Toy::Room(room) => write!(f, "build {room}"),
            Toy::Thing { room, name, .. } => write!(f, "put {name} into {room}"),
            Toy::Switch { name, to, .. } => write!(f, "turn {name} to {to}"),
            Toy::Install { source, target, .. } => write!(f, "install {source} as {target}"),
            Toy::Discard(room) => write!(f, "clear {room} away"),
        }
    }
}
