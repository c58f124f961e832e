//! The disk of this machine.

use super::lock::Flock;
use super::users;
use super::{Contents, Disk, Error, Inodes, Kind, Lock, Poison, Result, Stat};
use rustix::fs::{AtFlags, CWD, OFlags, RenameFlags, SeekFrom, StatxFlags, statx};
use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The real file system; poisoned by the first write or sync that fails, because neither is ever tried again.
#[derive(Debug, Default)]
pub struct RealDisk {
    poison: Cell<Option<Poison>>,
}

impl RealDisk {
    /// A disk that has not failed yet.
    pub fn new() -> RealDisk {
        RealDisk::default()
    }

    /// Runs a verb that changes the disk.
    fn change<T>(&self, verb: &'static str, path: &Path, act: impl FnOnce() -> io::Result<T>) -> Result<T> {
        if self.poison.get().is_some() {
            let why = io::Error::other("an earlier write or sync failed, so this process changes nothing more");
            return Err(Error::new(verb, path, why));
        }
        act().map_err(|source| Error::new(verb, path, source))
    }

    /// Runs a verb whose failure leaves it unknown what the file holds.
    fn write(&self, verb: &'static str, path: &Path, kind: Poison, act: impl FnOnce() -> io::Result<()>) -> Result<()> {
        self.change(verb, path, || act().inspect_err(|_| self.poison.set(Some(kind))))
    }
}

impl Disk for RealDisk {
    fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(stat(&metadata))),
            Err(error) if says_that_nothing_is_there(&error) => Ok(None),
            Err(error) => Err(Error::new("look at", path, error)),
        }
    }

    fn list(&self, directory: &Path) -> Result<Vec<OsString>> {
        let names = || fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let mut names = names().map_err(|source| Error::new("list", directory, source))?;
        names.sort();
        Ok(names)
    }

    fn read(&self, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>> {
        let read = || {
            let mut file = File::open(path)?;
            file.seek(io::SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|source| Error::new("read", path, source))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Contents>> {
        match open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(source) => Err(Error::new("open", path, source)),
        }
    }

    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>> {
        match path.canonicalize() {
            Ok(real) => Ok(Some(real)),
            Err(error) if says_that_nothing_is_there(&error) => Ok(None),
            Err(error) => Err(Error::new("find", path, error)),
        }
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        Ok(Flock::try_exclusive(path)?.map(|lock| Box::new(lock) as Box<dyn Lock>))
    }

    fn find_user_of(&self, files: &Inodes) -> Option<String> {
        users::find(files)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write("create", path, Poison::Write, || File::create_new(path)?.write_all(bytes))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write("append to", path, Poison::Write, || OpenOptions::new().append(true).open(path)?.write_all(bytes))
    }

    fn truncate(&self, path: &Path, length: u64) -> Result<()> {
        self.write("truncate", path, Poison::Write, || OpenOptions::new().write(true).open(path)?.set_len(length))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.change("create the directory", path, || fs::create_dir(path))
    }

    fn create_private_dir(&self, path: &Path, model: &Path) -> Result<()> {
        self.change("create the directory", path, || {
            let model = fs::symlink_metadata(model)?;
            fs::DirBuilder::new().mode(0o700).create(path)?;
            give(path, &model)
        })
    }

    fn copy(&self, source: &Path, target: &Path) -> Result<()> {
        let mut input = File::open(source).map_err(|error| Error::new("open", source, error))?;
        self.write("write", target, Poison::Write, || {
            let mut output = File::create_new(target)?;
            copy_contents(&mut input, &mut output)?;
            adopt(target, &input.metadata()?)
        })
    }

    fn link(&self, source: &Path, target: &Path) -> Result<()> {
        self.change("link", target, || fs::hard_link(source, target))
    }

    fn rename(&self, source: &Path, target: &Path) -> Result<()> {
        self.change("rename to", target, || {
            let here = CWD;
            match rustix::fs::renameat_with(here, source, here, target, RenameFlags::NOREPLACE) {
                // Some file systems know no such flag; the keep's lock makes looking first safe enough there.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match fs::symlink_metadata(target) {
                    Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                    Err(_) => fs::rename(source, target),
                },
                other => other.map_err(io::Error::from),
            }
        })
    }

    fn replace(&self, source: &Path, target: &Path) -> Result<()> {
        self.change("replace", target, || fs::rename(source, target))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.change("remove", path, || match fs::symlink_metadata(path)?.is_dir() {
            true => fs::remove_dir(path),
            false => fs::remove_file(path),
        })
    }

    fn adopt(&self, path: &Path, model: &Path) -> Result<()> {
        self.change("set the mode of", path, || adopt(path, &fs::symlink_metadata(model)?))
    }

    fn sync(&self, path: &Path) -> Result<()> {
        let file = self.change("sync", path, || File::open(path))?;
        self.write("sync", path, Poison::Sync, || sync(&file))
    }

    fn sync_all(&self, directory: &Path) -> Result<()> {
        let verb = "sync the file system of";
        let opened = self.change(verb, directory, || File::open(directory))?;
        self.write(verb, directory, Poison::Sync, || Ok(rustix::fs::syncfs(&opened)?))
    }

    fn evict(&self, path: &Path) -> Result<()> {
        match open(path).and_then(|file| evict(&file)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            evicted => evicted.map_err(|source| Error::new("read anew", path, source)),
        }
    }

    fn mount(&self, path: &Path) -> Result<Option<u64>> {
        match statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID) {
            Ok(found) => Ok(Some(found.stx_mnt_id)),
            Err(rustix::io::Errno::NOSYS) => Ok(None),
            Err(error) => Err(Error::new("look at", path, error.into())),
        }
    }

    fn insist_on_access(&self, directory: &Path) -> Result<()> {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(directory, access).map_err(|error| Error::new("write to", directory, error.into()))
    }

    fn space(&self, directory: &Path) -> Result<u64> {
        fs2::available_space(directory).map_err(|source| Error::new("ask for the free space of", directory, source))
    }

    fn poison(&self) -> Option<Poison> {
        self.poison.get()
    }

    fn afresh(&self) -> Box<dyn Disk + '_> {
        Box::new(RealDisk::new())
    }
}

impl Contents for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "it is not a regular file");
    match path.symlink_metadata()?.is_file() {
        true => {}
        false => return Err(missing()),
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(missing()) }
}

/// Only Apple's own call reaches the medium there.
#[cfg(target_vendor = "apple")]
fn sync(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// The standard library would try again after a signal, and a sync that failed is never tried again.
#[cfg(not(target_vendor = "apple"))]
fn sync(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fsync(file)?)
}

#[cfg(target_os = "linux")]
fn evict(file: &File) -> io::Result<()> {
    match rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
        Err(rustix::io::Errno::NOSYS) => Ok(()), // a kernel without advice
        advised => Ok(advised?),
    }
}

/// What elsewhere a page cache does after a failed sync, and with such advice, is not known here.
#[cfg(not(target_os = "linux"))]
fn evict(_: &File) -> io::Result<()> {
    Ok(())
}

/// A path below a file, or with a name that no file can have: a database may name anything. A NUL in it is what the
/// standard library says without asking the system.
fn says_that_nothing_is_there(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    match error.kind() {
        NotFound | NotADirectory | InvalidFilename => true,
        InvalidInput => error.raw_os_error().is_none(),
        _ => false,
    }
}

fn stat(metadata: &fs::Metadata) -> Stat {
    let kind = match metadata.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        _ => Kind::Other,
    };
    Stat {
        kind,
        device: metadata.dev(),
        node: metadata.ino(),
        length: metadata.len(),
        allocated: metadata.blocks() * 512,
        modified_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
    }
}

/// The owner can be given away only by root, or kept by the owner itself: a refusal to change it is no failure.
fn give(path: &Path, model: &fs::Metadata) -> io::Result<()> {
    let current = fs::symlink_metadata(path)?;
    if (current.uid(), current.gid()) != (model.uid(), model.gid()) {
        match chown(path, Some(model.uid()), Some(model.gid())) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn adopt(path: &Path, model: &fs::Metadata) -> io::Result<()> {
    give(path, model)?;
    let current = fs::symlink_metadata(path)?;
    match (current.is_dir(), model.is_dir()) {
        (true, true) => fs::set_permissions(path, fs::Permissions::from_mode(model.mode() | 0o700)),
        (false, false) => fs::set_permissions(path, model.permissions()),
        _ => Ok(()), // a mode means different things to a file and a directory
    }
}

/// Shares the blocks where the file system can, otherwise copies extent by extent, so that a hole stays a hole: damaged
/// palaces have held a `link_lists.bin` of 20 GB that was almost all hole.
fn copy_contents(input: &mut File, output: &mut File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(&*output, &*input).is_ok() {
        return Ok(());
    }
    let length = input.metadata()?.len();
    output.set_len(length)?;
    let mut at = 0;
    while let Some(data) = seek(input, SeekFrom::Data(at))? {
        let hole = seek(input, SeekFrom::Hole(data))?.unwrap_or(length);
        input.seek(io::SeekFrom::Start(data))?;
        output.seek(io::SeekFrom::Start(data))?;
        io::copy(&mut Read::by_ref(input).take(hole - data), output)?;
        at = hole;
    }
    Ok(())
}

/// `None` past the last extent.
fn seek(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Ok(offset) => Ok(Some(offset)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
