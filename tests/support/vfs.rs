//! SQLite on the simulated disk: a VFS that takes the place of the operating system's for a thread that says so.
//!
//! It is the default VFS of the test process, so that the program under test, which only says `Connection::open`, runs
//! on the simulated disk unchanged. It behaves as SQLite's own for Unix does (os_unix.c), but for what no test needs:
//! it has no shared memory, so that a write-ahead log works with one connection alone, and never maps a file. A thread
//! that is not [`on`] a disk is served by the operating system.

#![allow(unsafe_code, reason = "SQLite calls a VFS through C; nothing outside of this file is unsafe")]

use super::memory::{Handle, MemoryDisk, Missing};
use palacekeeper::disk::{Contents, Disk, parent};
use rusqlite::ffi;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

/// The VFS that was there before.
struct Original(*mut ffi::sqlite3_vfs);

// SAFETY: SQLite's own VFS lives as long as the process, is never changed, and may be called from any thread.
unsafe impl Send for Original {}
// SAFETY: as above.
unsafe impl Sync for Original {}

static ORIGINAL: OnceLock<Original> = OnceLock::new();

/// Locks of the connections to one file, by a number of each connection: 1 to 4, as SQLite counts them.
type Levels = Rc<RefCell<BTreeMap<u64, c_int>>>;

/// A disk that SQLite is on, and who has locked what there.
#[derive(Default)]
struct Place {
    disk: Option<MemoryDisk>,
    locks: BTreeMap<u64, Levels>,
    files: u64,
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::default();
}

/// Lets SQLite work on a disk for as long as `act` takes. What is opened there stays there.
pub fn on<T>(disk: &MemoryDisk, act: impl FnOnce() -> T) -> T {
    /// Gives the thread back what it had, also where the act panics.
    struct Before(Option<Place>);
    impl Drop for Before {
        fn drop(&mut self) {
            PLACE.set(self.0.take().unwrap_or_default());
        }
    }
    register();
    let _before = Before(Some(PLACE.replace(Place { disk: Some(disk.share()), ..Place::default() })));
    act()
}

fn register() {
    ORIGINAL.get_or_init(|| {
        // SAFETY: the default VFS is there as soon as SQLite is; the copy lives as long as the process.
        unsafe {
            ffi::sqlite3_initialize();
            let original = ffi::sqlite3_vfs_find(std::ptr::null());
            let ours = Box::leak(Box::new(ffi::sqlite3_vfs {
                szOsFile: (size_of::<File>() as c_int).max((*original).szOsFile),
                zName: c"simulated".as_ptr(),
                pNext: std::ptr::null_mut(),
                xOpen: Some(open),
                xDelete: Some(delete),
                xAccess: Some(access),
                xFullPathname: Some(full_pathname),
                ..*original
            }));
            ffi::sqlite3_vfs_register(ours, 1);
            Original(original)
        }
    });
}

fn original() -> *mut ffi::sqlite3_vfs {
    ORIGINAL.get().expect("it was registered").0
}

fn disk() -> Option<MemoryDisk> {
    PLACE.with_borrow(|place| place.disk.as_ref().map(MemoryDisk::share))
}

/// A file as SQLite holds it: C's part first.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    open: *mut Open,
}

/// What is behind it.
enum Open {
    Named {
        handle: Handle,
        path: PathBuf,
        levels: Levels,
        /// Its key among the levels.
        number: u64,
        /// The directory has to be synced with the file, once: a journal that nobody finds is no use.
        is_new: bool,
    },
    /// A temporary file; it is on no disk.
    Nameless(Vec<u8>),
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// SAFETY: SQLite hands over a name that ends with a zero, or none.
unsafe fn path_of<'n>(name: *const c_char) -> Option<&'n Path> {
    // SAFETY: as above.
    (!name.is_null()).then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes())))
}

/// SAFETY: the file was opened by [`open`], and SQLite uses it in one thread at a time.
unsafe fn opened<'f>(file: *mut ffi::sqlite3_file) -> &'f mut Open {
    // SAFETY: as above; `open` is set for every file whose methods are ours.
    unsafe { &mut *(*file.cast::<File>()).open }
}

fn code(error: &io::Error, otherwise: c_int) -> c_int {
    if error.kind() == ErrorKind::StorageFull { ffi::SQLITE_FULL } else { otherwise }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let Some(disk) = disk() else {
        // SAFETY: the arguments are SQLite's own, and room for the original's file was asked for.
        return unsafe { (*original()).xOpen.expect("every VFS opens")(original(), name, file, flags, out) };
    };
    // SAFETY: SQLite gave room for a `File`, and leaves its methods unset where opening fails.
    unsafe { (*file).pMethods = std::ptr::null() };
    // SAFETY: the name is SQLite's.
    let opened = match unsafe { path_of(name) } {
        None => Open::Nameless(Vec::new()),
        Some(_) if flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0 => Open::Nameless(Vec::new()),
        Some(path) => {
            let was_there = matches!(disk.stat(path), Ok(Some(_)));
            let missing = if flags & ffi::SQLITE_OPEN_CREATE != 0 { Missing::Create } else { Missing::Refuse };
            let Ok(handle) = disk.open_file(path, missing) else { return ffi::SQLITE_CANTOPEN };
            let is_journal = flags & (ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL) != 0;
            let is_new = !was_there && (is_journal || flags & ffi::SQLITE_OPEN_WAL != 0);
            let (levels, number) = PLACE.with_borrow_mut(|place| {
                place.files += 1;
                (Rc::clone(place.locks.entry(handle.node()).or_default()), place.files)
            });
            Open::Named { handle, path: path.to_owned(), levels, number, is_new }
        }
    };
    // SAFETY: as above; `close` takes the box back.
    unsafe {
        (*file.cast::<File>()).open = Box::into_raw(Box::new(opened));
        (*file).pMethods = &METHODS;
        if !out.is_null() {
            *out = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: the name is SQLite's.
    let (Some(disk), Some(path)) = (disk(), unsafe { path_of(name) }) else {
        // SAFETY: the arguments are SQLite's own.
        return unsafe { (*original()).xDelete.expect("every VFS deletes")(original(), name, sync_dir) };
    };
    match disk.remove(path) {
        Ok(()) if sync_dir != 0 => match disk.sync(parent(path)) {
            Ok(()) => ffi::SQLITE_OK,
            Err(_) => ffi::SQLITE_IOERR_DIR_FSYNC,
        },
        Ok(()) => ffi::SQLITE_OK,
        Err(error) if error.kind() == ErrorKind::NotFound => ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(_) => ffi::SQLITE_IOERR_DELETE,
    }
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: the name is SQLite's.
    let (Some(disk), Some(path)) = (disk(), unsafe { path_of(name) }) else {
        // SAFETY: the arguments are SQLite's own.
        return unsafe { (*original()).xAccess.expect("every VFS looks")(original(), name, flags, out) };
    };
    match disk.stat(path) {
        Ok(found) => {
            // An empty file counts as none, as in os_unix.c.
            let is_there = found.is_some_and(|stat| flags != ffi::SQLITE_ACCESS_EXISTS || stat.length > 0);
            // SAFETY: SQLite waits for the answer there.
            unsafe { *out = c_int::from(is_there) };
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_IOERR_ACCESS,
    }
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    if disk().is_none() {
        // SAFETY: the arguments are SQLite's own.
        return unsafe { (*original()).xFullPathname.expect("every VFS has one")(original(), name, length, out) };
    }
    // SAFETY: the name ends with a zero, and `out` has room for `length` bytes.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > length as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and `open` made the box.
    let open = unsafe { Box::from_raw((*file.cast::<File>()).open) };
    if let Open::Named { levels, number, .. } = *open {
        levels.borrow_mut().remove(&number);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, out: *mut c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite has room for so many bytes there.
    let bytes = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), amount as usize) };
    // SAFETY: SQLite's file.
    let read = match unsafe { opened(file) } {
        Open::Named { handle, .. } => handle.read_up_to(bytes, offset as u64),
        Open::Nameless(contents) => {
            let from = (offset as usize).min(contents.len());
            let length = bytes.len().min(contents.len() - from);
            bytes[..length].copy_from_slice(&contents[from..from + length]);
            Ok(length)
        }
    };
    match read {
        Ok(all) if all == bytes.len() => ffi::SQLITE_OK,
        Ok(some) => {
            bytes[some..].fill(0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite has so many bytes there.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), amount as usize) };
    // SAFETY: SQLite's file.
    match unsafe { opened(file) } {
        Open::Named { handle, .. } => match handle.write_at(bytes, offset as u64) {
            Ok(()) => ffi::SQLITE_OK,
            Err(error) => code(&error, ffi::SQLITE_IOERR_WRITE),
        },
        Open::Nameless(contents) => {
            let end = offset as usize + bytes.len();
            contents.resize(contents.len().max(end), 0);
            contents[offset as usize..end].copy_from_slice(bytes);
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    // SAFETY: SQLite's file.
    match unsafe { opened(file) } {
        Open::Named { handle, .. } => match handle.truncate(length as u64) {
            Ok(()) => ffi::SQLITE_OK,
            Err(error) => code(&error, ffi::SQLITE_IOERR_TRUNCATE),
        },
        Open::Nameless(contents) => {
            contents.resize(length as usize, 0);
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let Open::Named { handle, path, is_new, .. } = (unsafe { opened(file) }) else { return ffi::SQLITE_OK };
    if handle.sync().is_err() {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    // os_unix.c syncs the directory of a new journal once, and does not mind if that fails.
    if std::mem::take(is_new)
        && let Some(disk) = disk()
    {
        let _no_matter = disk.sync(parent(path));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: SQLite's file.
    let length = match unsafe { opened(file) } {
        Open::Named { handle, .. } if handle.is_dead() => return ffi::SQLITE_IOERR_FSTAT,
        Open::Named { handle, .. } => handle.length().unwrap_or(0),
        Open::Nameless(contents) => contents.len() as u64,
    };
    // SAFETY: SQLite waits for the answer there.
    unsafe { *out = length as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let Open::Named { levels, number, .. } = (unsafe { opened(file) }) else { return ffi::SQLITE_OK };
    let mut levels = levels.borrow_mut();
    let mine = levels.get(number).copied().unwrap_or(0);
    if mine >= wanted {
        return ffi::SQLITE_OK;
    }
    let others = levels.iter().filter(|(other, _)| *other != number).map(|(_, level)| *level).max().unwrap_or(0);
    let (granted, answer) = match wanted {
        ffi::SQLITE_LOCK_SHARED if others >= ffi::SQLITE_LOCK_PENDING => (mine, ffi::SQLITE_BUSY),
        ffi::SQLITE_LOCK_RESERVED if others >= ffi::SQLITE_LOCK_RESERVED => (mine, ffi::SQLITE_BUSY),
        ffi::SQLITE_LOCK_EXCLUSIVE if others >= ffi::SQLITE_LOCK_RESERVED => (mine, ffi::SQLITE_BUSY),
        ffi::SQLITE_LOCK_EXCLUSIVE if others > 0 => (ffi::SQLITE_LOCK_PENDING, ffi::SQLITE_BUSY),
        _ => (wanted, ffi::SQLITE_OK),
    };
    levels.insert(*number, granted);
    answer
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    // SAFETY: SQLite's file.
    if let Open::Named { levels, number, .. } = unsafe { opened(file) } {
        let mut levels = levels.borrow_mut();
        let level = levels.get(number).map_or(wanted, |level| wanted.min(*level));
        levels.insert(*number, level);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite's file.
    let is_reserved = match unsafe { opened(file) } {
        Open::Named { levels, .. } => levels.borrow().values().any(|level| *level >= ffi::SQLITE_LOCK_RESERVED),
        Open::Nameless(_) => false,
    };
    // SAFETY: SQLite waits for the answer there.
    unsafe { *out = c_int::from(is_reserved) };
    ffi::SQLITE_OK
}

extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    512
}

/// A disk that promises nothing but what [`super::memory`] keeps: no write is atomic, and appending is as unsafe as any
/// other write.
extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    0
}
