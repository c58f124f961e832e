//! A disk whose every write and flush is recorded, under a real file system.
//!
//! `qemu-storage-daemon` shows an image as one file over FUSE and writes what reaches it to a log, in the format of
//! Linux's dm-log-writes; a loop device makes a disk of the file, and a file system is mounted on that. Afterwards the
//! image can be made as it was at any moment, with any of the writes that no flush had asked for yet.

use super::palace::{Mount, Random, copy_tree, has, is_root, say, skip};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A file system that a palace is put on.
pub struct FileSystem {
    pub name: &'static str,
    /// Room for a small palace, its backup, the new one, and what a plan asks for to be on the safe side; or the least
    /// that the file system takes.
    image_bytes: u64,
    /// Images of each operation, where not all are made.
    pub images: usize,
    /// Options of its `mkfs`.
    format: &'static [&'static str],
    /// Options of its mount. One that was cut off may not be quite gone when the next image of it is mounted.
    mount: &'static str,
}

pub const EXT4: FileSystem =
    FileSystem { name: "ext4", image_bytes: 64 << 20, images: 40, format: &["-q", "-F", "-b", "4096"], mount: "rw" };
pub const XFS: FileSystem =
    FileSystem { name: "xfs", image_bytes: 320 << 20, images: 16, format: &["-q", "-f"], mount: "nouuid" };

/// Room for what is written; the file is sparse.
const LOG_BYTES: u64 = 2 << 30;
const SECTOR: usize = 512;
/// What both file systems write of a file at least.
const BLOCK: usize = 4096;
/// Images are kept without their parts of this size that are all zero.
const PART: usize = 64 << 10;
/// Flags of an entry of the log, and its length in the log.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Writes between two flushes, and the flush after them.
type Epoch = Vec<Write>;

/// One write: where, and what.
pub struct Write {
    at: u64,
    bytes: Vec<u8>,
}

/// All that happened to a disk.
pub struct Record {
    image_bytes: u64,
    /// What was on it before, where that was not zero.
    base: Vec<(u64, Vec<u8>)>,
    pub epochs: Vec<Epoch>,
}

/// One of the images that a power cut can leave: so many whole epochs, and some writes of the next.
#[derive(Clone, Debug)]
pub struct Image {
    pub epoch: usize,
    pub survivors: Vec<bool>,
}

/// Whether all of this can be done here; says SKIPPED where not. What a machine does not have cannot be installed, so
/// that is no failure under `CI=true` either.
pub fn is_here(what: &str, file_system: &FileSystem) -> bool {
    let mkfs = format!("mkfs.{}", file_system.name);
    let programs = ["qemu-storage-daemon", &mkfs, "losetup", "mount"];
    if !programs.iter().all(|program| has(program)) {
        skip(&format!("{what}: it needs {}", programs.join(", ")));
        return false;
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_able = is_root() && ["/dev/fuse", "/dev/loop-control"].iter().all(|device| Path::new(device).exists());
    if !is_able || !known.split_whitespace().any(|name| name == file_system.name) {
        say(&format!("SKIPPED: {what}: it needs root, FUSE, loop devices, and a kernel with {}", file_system.name));
        return false;
    }
    true
}

/// A disk that is being recorded; taken apart when it is dropped.
struct Recorder {
    directory: tempfile::TempDir,
    daemon: Child,
    device: Option<String>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ =
            Command::new("umount").arg("--lazy").arg(self.directory.path().join("disk")).stderr(Stdio::null()).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is text")
}

/// Makes a file system in a file, with a copy of a palace in it.
pub fn format(file_system: &FileSystem, image: &Path, palace: &Path) {
    File::create(image).and_then(|file| file.set_len(file_system.image_bytes)).expect("there is room");
    run(&format!("mkfs.{}", file_system.name), &[file_system.format, &[text(image)]].concat());
    let directory = tempfile::tempdir_in(image.parent().expect("it has one")).expect("a directory");
    let mount = mount(file_system, image, directory.path());
    copy_tree(palace, &mount.path().join("palace"));
    run("sync", &["--file-system", text(mount.path())]);
}

/// Mounts the file system of an image.
pub fn mount(file_system: &FileSystem, image: &Path, at: &Path) -> Mount {
    let options = ["-o", &format!("loop,{}", file_system.mount), text(image)];
    Mount::over(at, &options, "an image").expect("a file system mends itself")
}

/// Mounts the file system of an image over `mount`, lets `act` work there, and records what reaches the disk. The power
/// goes as soon as `act` returns. The first write to the bad sector fails, if there is one.
pub fn record(file_system: &FileSystem, image: &Path, mount: &Path, bad: Option<u64>, act: impl FnOnce()) -> Record {
    let (image_bytes, base) = (file_system.image_bytes, parts(image));
    let directory = tempfile::tempdir_in(image.parent().expect("it has one")).expect("a directory");
    let (disk, log) = (directory.path().join("disk"), directory.path().join("log"));
    fs::write(&disk, b"").expect("there is room");
    File::create(&log).and_then(|file| file.set_len(LOG_BYTES)).expect("there is room");
    let mut daemon = Command::new("qemu-storage-daemon");
    daemon.args(["--blockdev", &format!("driver=file,node-name=image,filename={}", image.display())]);
    daemon.args(["--blockdev", &format!("driver=file,node-name=log,filename={}", log.display())]);
    daemon.args(["--blockdev", "driver=blklogwrites,node-name=recorded,file=image,log=log"]);
    let fault = bad.map(|sector| {
        let errors = ["event=none", "iotype=write", "errno=5", "once=on", &format!("sector={sector}")];
        errors.map(|error| format!(",inject-error.0.{error}")).concat()
    });
    daemon
        .args(["--blockdev", &format!("driver=blkdebug,node-name=shown,image=recorded{}", fault.unwrap_or_default())]);
    let export = format!("type=fuse,id=disk,node-name=shown,mountpoint={},writable=on", disk.display());
    let daemon = daemon.args(["--export", &export]).spawn().expect("it is installed");
    let mut recorder = Recorder { directory, daemon, device: None };
    let began = Instant::now();
    while fs::metadata(&disk).is_ok_and(|found| found.len() != image_bytes) {
        assert!(began.elapsed() < Duration::from_secs(20), "the disk does not appear");
        std::thread::sleep(Duration::from_millis(10));
    }
    let device = run("losetup", &["--find", "--show", text(&disk)]);
    recorder.device = Some(device.clone());
    if bad.is_some() {
        // A loop device takes it for success when all but the first pages of a request fail (Linux 6.18).
        let queue = format!("/sys/block/{}/queue/max_sectors_kb", device.trim_start_matches("/dev/"));
        fs::write(queue, "4").expect("root may");
    }
    let options = ["-o", file_system.mount, &device];
    let mounted = Mount::over(mount, &options, "a disk that is recorded").expect("a sound file system");
    act();
    // No orderly end: what the file system writes when it is unmounted came after the power had gone.
    let epochs = epochs(BufReader::new(File::open(&log).expect("it was made")));
    drop(mounted);
    drop(recorder);
    Record { image_bytes, base, epochs }
}

/// The parts of a file that are not all zero, and where they are.
fn parts(file: &Path) -> Vec<(u64, Vec<u8>)> {
    let mut file = BufReader::new(File::open(file).expect("it was made"));
    let (mut parts, mut at) = (Vec::new(), 0);
    loop {
        let mut part = Vec::new();
        file.by_ref().take(PART as u64).read_to_end(&mut part).expect("it can be read");
        let bytes = part.len() as u64;
        match part.iter().any(|byte| *byte != 0) {
            true => parts.push((at, part)),
            false if bytes == 0 => return parts,
            false => {}
        }
        at += bytes;
    }
}

/// Takes a log of dm-log-writes apart: a sector that describes it all, then for each entry a sector that describes it,
/// and its data.
fn epochs(mut log: impl Read) -> Vec<Epoch> {
    let mut sectors = move |count: usize| {
        let mut bytes = vec![0; count * SECTOR];
        log.read_exact(&mut bytes).expect("the log ends in zeros");
        bytes
    };
    let number = |sector: &[u8], at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!(number(&sectors(1), 0), 0x6a_7366_7773_6872, "this is no log of writes");
    let (mut epochs, mut open) = (Vec::new(), Epoch::new());
    loop {
        let entry = sectors(1);
        let [sector, count, flags] = [0, 8, 16].map(|at| number(&entry, at));
        if [count, flags] == [0, 0] {
            epochs.push(open);
            return epochs;
        }
        if flags & FLUSH != 0 {
            epochs.push(std::mem::take(&mut open));
        }
        if flags & DISCARD == 0 && count > 0 {
            open.push(Write { at: sector * SECTOR as u64, bytes: sectors(count as usize) });
            if flags & FUA != 0 {
                epochs.push(std::mem::take(&mut open));
            }
        }
    }
}

impl Record {
    /// Images that a power cut can leave: for each epoch none of its writes, each prefix, all but one, one alone, and
    /// some by chance.
    pub fn images(&self, random: &mut Random) -> Vec<Image> {
        let mut images = Vec::new();
        for (epoch, writes) in self.epochs.iter().enumerate() {
            let count = writes.len();
            let mut add = |survives: &mut dyn FnMut(usize) -> bool| {
                images.push(Image { epoch, survivors: (0..count).map(survives).collect() });
            };
            (0..=count).for_each(|length| add(&mut |index| index < length));
            (0..count).for_each(|one| add(&mut |index| index != one));
            (0..count).for_each(|one| add(&mut |index| index == one));
            (0..count.min(4)).for_each(|_| add(&mut |_| random.below(2) == 0));
        }
        images
    }

    /// The sectors where blocks of files were written, in the order of the first writes there.
    pub fn sectors_of(&self, blocks: &HashSet<Vec<u8>>) -> Vec<u64> {
        let mut seen = BTreeSet::new();
        let all = self.epochs.iter().flatten().flat_map(|write| {
            let parts = write.bytes.chunks_exact(BLOCK).enumerate();
            parts.filter(|(_, part)| blocks.contains(*part)).map(|(number, _)| write.at + (number * BLOCK) as u64)
        });
        all.map(|at| at / SECTOR as u64).filter(|sector| seen.insert(*sector)).collect()
    }

    /// What is on the disk when nothing survives that was not flushed after the last of the epochs.
    pub fn flushed(&self) -> Image {
        let epoch = self.epochs.len() - 1;
        Image { epoch, survivors: vec![false; self.epochs[epoch].len()] }
    }

    /// What is on the disk when it forgets all that it was asked to flush.
    pub fn forgotten(&self) -> Image {
        Image { epoch: 0, survivors: vec![false; self.epochs[0].len()] }
    }

    /// Writes an image into a file.
    pub fn restore(&self, image: &Image, path: &Path) {
        let file = File::create(path).expect("there is room");
        file.set_len(self.image_bytes).expect("it is sparse");
        let whole = self.epochs[..image.epoch].iter().flatten();
        let some = self.epochs[image.epoch].iter().zip(&image.survivors).filter(|(_, survives)| **survives);
        let writes = whole.chain(some.map(|(write, _)| write)).map(|write| (write.at, &write.bytes));
        for (at, bytes) in self.base.iter().map(|(at, bytes)| (*at, bytes)).chain(writes) {
            file.write_all_at(bytes, at).expect("there is room");
        }
    }
}

/// The blocks of all files below a directory that are not all zero.
pub fn blocks_below(directory: &Path) -> HashSet<Vec<u8>> {
    let mut blocks = HashSet::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            blocks.extend(blocks_below(&path));
            continue;
        }
        let mut bytes = fs::read(path).expect("a file");
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0); // the rest of the last one is written as well
        blocks.extend(bytes.chunks(BLOCK).filter(|block| block.iter().any(|byte| *byte != 0)).map(<[u8]>::to_vec));
    }
    blocks
}

/// Where an image is, while it is worked on.
pub fn image_in(directory: &Path) -> PathBuf {
    directory.join("image")
}
