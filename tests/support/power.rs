//! A disk whose every write and flush is recorded, under a real file system.
//!
//! `qemu-storage-daemon` shows an image as one file over FUSE and writes what reaches it to a log, in the format of
//! Linux's dm-log-writes; a loop device makes a disk of the file, and ext4 is mounted on that. Afterwards the image can
//! be made as it was at any moment, with any of the writes that no flush had asked for yet.

use super::palace::{Mount, Random, has, is_root, skip};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Room for a small palace, its backup, the new one, and what a plan asks for to be on the safe side.
const IMAGE_BYTES: u64 = 64 << 20;
const SECTOR: usize = 512;
/// Flags of an entry of the log, and its length in the log.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Writes between two flushes, and the flush after them.
type Epoch = Vec<Write>;

/// One write: where, and what.
pub struct Write {
    at: usize,
    bytes: Vec<u8>,
}

/// All that happened to a disk.
pub struct Record {
    base: Vec<u8>,
    pub epochs: Vec<Epoch>,
}

/// One of the images that a power cut can leave: so many whole epochs, and some writes of the next.
#[derive(Clone, Debug)]
pub struct Image {
    pub epoch: usize,
    pub survivors: Vec<bool>,
}

/// Whether all of this can be done here; says SKIPPED where not.
pub fn is_here(what: &str) -> bool {
    let programs = ["qemu-storage-daemon", "mkfs.ext4", "losetup", "mount"];
    let is_here = is_root() && Path::new("/dev/fuse").exists() && programs.iter().all(|program| has(program));
    if !is_here {
        skip(&format!("{what}: it needs root, FUSE, loop devices, {}", programs.join(", ")));
    }
    is_here
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

/// An ext4 file system in a file, with a copy of a directory in it.
pub fn format(image: &Path, contents: &Path) {
    fs::File::create(image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("there is room");
    run("mkfs.ext4", &["-q", "-F", "-d", text(contents), text(image)]);
}

/// Mounts the file system of an image over `mount`, lets `act` work there, and records what reaches the disk. The power
/// goes as soon as `act` returns.
pub fn record(image: &Path, mount: &Path, act: impl FnOnce()) -> Record {
    let base = fs::read(image).expect("it was made");
    let directory = tempfile::tempdir_in(image.parent().expect("it has one")).expect("a directory");
    let (disk, log) = (directory.path().join("disk"), directory.path().join("log"));
    fs::write(&disk, b"").expect("there is room");
    fs::File::create(&log).and_then(|file| file.set_len(8 * IMAGE_BYTES)).expect("there is room");
    let mut daemon = Command::new("qemu-storage-daemon");
    daemon.args(["--blockdev", &format!("driver=file,node-name=image,filename={}", image.display())]);
    daemon.args(["--blockdev", &format!("driver=file,node-name=log,filename={}", log.display())]);
    daemon.args(["--blockdev", "driver=blklogwrites,node-name=recorded,file=image,log=log"]);
    let export = format!("type=fuse,id=disk,node-name=recorded,mountpoint={},writable=on", disk.display());
    let daemon = daemon.args(["--export", &export]).spawn().expect("it is installed");
    let mut recorder = Recorder { directory, daemon, device: None };
    let began = Instant::now();
    while fs::metadata(&disk).is_ok_and(|found| found.len() != IMAGE_BYTES) {
        assert!(began.elapsed() < Duration::from_secs(20), "the disk does not appear");
        std::thread::sleep(Duration::from_millis(10));
    }
    let device = run("losetup", &["--find", "--show", text(&disk)]);
    recorder.device = Some(device.clone());
    let mounted = Mount::over(mount, &[&device], "a disk that is recorded").expect("a sound file system");
    act();
    // No orderly end: what the file system writes when it is unmounted came after the power had gone.
    let recorded = fs::read(&log).expect("it was made");
    drop(mounted);
    drop(recorder);
    Record { base, epochs: epochs(&recorded) }
}

/// Takes a log of dm-log-writes apart: a sector that describes it all, then for each entry a sector that describes it,
/// and its data.
fn epochs(log: &[u8]) -> Vec<Epoch> {
    let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!(number(0), 0x6a_7366_7773_6872, "this is no log of writes");
    let (mut at, mut epochs, mut open) = (SECTOR, Vec::new(), Epoch::new());
    while at + SECTOR <= log.len() {
        let [sector, sectors, flags] = [number(at), number(at + 8), number(at + 16)];
        if [sectors, flags] == [0, 0] {
            break;
        }
        at += SECTOR;
        if flags & FLUSH != 0 {
            epochs.push(std::mem::take(&mut open));
        }
        if flags & DISCARD == 0 && sectors > 0 {
            let bytes = sectors as usize * SECTOR;
            open.push(Write { at: sector as usize * SECTOR, bytes: log[at..at + bytes].to_vec() });
            at += bytes;
            if flags & FUA != 0 {
                epochs.push(std::mem::take(&mut open));
            }
        }
    }
    epochs.push(open);
    epochs
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
        let mut bytes = self.base.clone();
        let whole = self.epochs[..image.epoch].iter().flatten();
        let some = self.epochs[image.epoch].iter().zip(&image.survivors).filter(|(_, survives)| **survives);
        for write in whole.chain(some.map(|(write, _)| write)) {
            bytes[write.at..write.at + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        fs::write(path, bytes).expect("there is room");
    }
}

/// Where an image is, while it is worked on.
pub fn image_in(directory: &Path) -> PathBuf {
    directory.join("image")
}
