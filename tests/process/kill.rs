//! Kills the real program at every system call that changes a file, then recovers, and looks. Kills the recovery as
//! well, and the recovery of the recovery.
//!
//! A failure is replayed by the line it prints. `PALACEKEEPER_FAULTS=all` runs in full what is sampled by default.

use crate::support::palace::{
    Arena, Call, Ending, Ground, Indexes, Point, REBUILD, RECOVER, RESUME, Random, Scene, Strace, Sweep, calls_of,
    is_wanted, kill, make_hot, sample, say, segment_of, store_inodes, truncate, try_to_kill,
};

#[test]
fn kill_in_a_rebuild_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("a kill at every system call of a rebuild") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let sweep = Sweep::new("kill", "kill_in_a_rebuild");
    sweep.share(&points(&census(&ground, &REBUILD)), |point| {
        sweep.attempt(&[point], || {
            let arena = ground.killed(point);
            ground.assert_complete(&arena);
            ground.assert_recovers(&arena)
        });
    });
    sweep.report("kills in a rebuild");
}

/// The palace's last writer was killed too, so its journal has to go before the new database comes; and an index is
/// damaged, so a new one has to be built.
#[test]
fn kill_in_a_rebuild_of_a_torn_palace_leaves_it_torn() {
    if !Strace::is_here("kills in a rebuild of a torn palace") {
        return;
    }
    let arena = Arena::new("1.5.9");
    truncate(&segment_of(&arena.palace(), "mempalace_drawers").join("link_lists.bin"), 1, 2);
    make_hot(&arena.palace());
    let ground = Ground::new(arena, Indexes::Built);
    let calls = census(&ground, &REBUILD);
    let commit = calls.iter().position(|call| call.point.call == "linkat").expect("the old database is linked aside");
    let sweep = Sweep::new("kill", "kill_in_a_rebuild_of_a_torn_palace");
    let (before, after) = calls.split_at(commit);
    let mut wanted = sample(&points(before), 16, &mut Random::seeded());
    wanted.extend(points(after));
    sweep.share(&wanted, |point| {
        sweep.attempt(&[point], || {
            let arena = ground.killed(point);
            ground.assert_complete(&arena);
            ground.assert_recovers(&arena)
        });
    });
    sweep.report("kills in a rebuild of a torn palace");
}

/// I12: a recovery that is killed changes nothing about how the operation ends.
#[test]
fn kill_in_a_recovery_changes_how_it_ends() {
    if !Strace::is_here("kills in a recovery") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let sweep = Sweep::new("kill", "kill_in_a_recovery");
    sweep.share(moments(&census(&ground, &REBUILD)), |moment| {
        let Some(scene) = moment.scene(&ground) else { return };
        for point in &recovery_points(&scene, &RECOVER) {
            sweep.attempt(&[&moment.point, point], || {
                scene.restore();
                kill(scene.arena(), &RECOVER, point);
                ground.assert_complete(scene.arena());
                let ending = ground.assert_recovers(scene.arena());
                assert_eq!(ending, moment.ending, "{}", moment.title);
                ending
            });
        }
    });
    sweep.report("kills in a recovery");
}

/// Going on instead of going back may be killed as well, and after that it is gone back, or finished.
#[test]
fn kill_in_a_resume_leaves_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("kills in a resume") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let sweep = Sweep::new("kill", "kill_in_a_resume");
    let random = std::sync::Mutex::new(Random::seeded());
    sweep.share(moments(&census(&ground, &REBUILD)), |moment| {
        let Some(scene) = moment.scene(&ground) else { return };
        let points = recovery_points(&scene, &RESUME);
        let points = sample(&points, 10, &mut random.lock().expect("nobody panics while holding it"));
        for (number, point) in points.iter().enumerate() {
            sweep.attempt(&[&moment.point, point], || {
                scene.restore();
                kill(scene.arena(), &RESUME, point);
                ground.assert_complete(scene.arena());
                let is_resumed_again = number % 2 == 0;
                if !is_resumed_again {
                    return ground.assert_recovers(scene.arena());
                }
                let has_begun = scene.arena().operation().exists();
                scene.arena().run(&RESUME).expect(0);
                let ending = ground.assert_ended(scene.arena());
                assert_eq!(ending == Ending::New, has_begun, "{}: what is resumed is completed", moment.title);
                ending
            });
        }
    });
    sweep.report("kills in a resume");
}

/// Bugs that need two crashes in recovery exist in the wild; here are three in a row.
#[test]
fn three_kills_in_a_row_leave_neither_the_old_palace_nor_the_new() {
    if !Strace::is_here("three kills in a row") {
        return;
    }
    let ground = Ground::new(Arena::new("1.5.9"), Indexes::Copied);
    let sweep = Sweep::new("kill", "three_kills_in_a_row");
    let random = std::sync::Mutex::new(Random::seeded());
    let landed = std::sync::atomic::AtomicUsize::new(0);
    sweep.share(moments(&census(&ground, &REBUILD)), |moment| {
        let Some(scene) = moment.scene(&ground) else { return };
        let points = recovery_points(&scene, &RECOVER);
        for _ in 0..5 {
            let pick = || points[random.lock().expect("nobody panics while holding it").below(points.len())].clone();
            let (second, third) = (pick(), pick());
            sweep.attempt(&[&moment.point, &second, &third], || {
                scene.restore();
                kill(scene.arena(), &RECOVER, &second);
                let has_landed = try_to_kill(scene.arena(), &RECOVER, &third);
                landed.fetch_add(usize::from(has_landed), std::sync::atomic::Ordering::Relaxed);
                ground.assert_complete(scene.arena());
                let ending = ground.assert_recovers(scene.arena());
                assert_eq!(ending, moment.ending, "{}", moment.title);
                ending
            });
        }
    });
    let landed = landed.into_inner();
    say(&format!("three kills in a row: the third landed {landed} times"));
    assert!(landed > 0 || std::env::var_os("PALACEKEEPER_POINT").is_some(), "the third kill never landed");
    sweep.report("three kills in a row");
}

/// A moment in the life of a rebuild at which it is killed first.
struct Moment {
    title: &'static str,
    point: Point,
    /// How the operation has to end from there.
    ending: Ending,
}

impl Moment {
    /// The state that a kill at this moment leaves behind.
    fn scene(&self, ground: &Ground) -> Option<Scene> {
        if !is_wanted(&[&self.point]) {
            return None;
        }
        let arena = ground.fork();
        let store = store_inodes(&arena);
        kill(&arena, &REBUILD, &self.point);
        Some(Scene::save(arena, &store))
    }
}

/// Moments spread over the life of a rebuild: what happens then, the call, a part of what strace prints of it, which
/// of these.
const MOMENTS: [(&str, &str, &str, usize, Ending); 14] = [
    ("the folder is made", "renameat2", ".unborn", 0, Ending::Old),
    ("the old store is copied", "copy_file_range", "/backup.part/", 1, Ending::Old),
    ("the new database is made", "pwrite64", "/staging/chroma.sqlite3", 9, Ending::Old),
    ("a batch is written", "pwrite64", "/staging/chroma.sqlite3", 120, Ending::Old),
    ("a segment is copied", "copy_file_range", "/staging/", 3, Ending::Old),
    ("the proof is made durable", "fsync", "/staging/chroma.sqlite3>", 0, Ending::Old),
    ("a segment is placed", "renameat2", "/staging/", 4, Ending::Old),
    ("the old database is linked aside", "linkat", "/aside/", 0, Ending::Old),
    ("the commit is written", "write", "/journal>", COMMIT, Ending::Old),
    ("the new database replaces the old", "rename", "/chroma.sqlite3", 0, Ending::New),
    ("the replacement is made durable", "fsync", "/palace>", 3, Ending::New),
    ("an old segment is moved aside", "renameat2", "/aside/", 1, Ending::New),
    ("staging is removed", "rmdir", "/staging", 0, Ending::New),
    ("the end is written", "write", "/journal>", LAST, Ending::New),
];

/// Counted from the end: the commit is written before the replacement, the moves of three segments, and the end.
const LAST: usize = usize::MAX;
const COMMIT: usize = usize::MAX - 5;

fn moments(calls: &[Call]) -> Vec<Moment> {
    let find = |(title, call, part, nth, ending): (&'static str, &str, &str, usize, Ending)| {
        let found: Vec<_> = calls.iter().filter(|one| one.point.call == call && one.line.contains(part)).collect();
        let index = if nth > calls.len() { found.len() - 1 - (LAST - nth) } else { nth };
        assert!(index < found.len(), "{title}: {call} of {part} happens {} times", found.len());
        Moment { title, point: found[index].point.clone(), ending }
    };
    MOMENTS.map(find).into()
}

/// Everything a rebuild changes, in order; run twice, because a point must mean the same in every run.
fn census(ground: &Ground, arguments: &[&str]) -> Vec<Call> {
    let calls = || {
        let (run, calls) = calls_of(&ground.fork(), arguments);
        run.expect(0);
        calls
    };
    let (calls, again) = (calls(), calls());
    assert_eq!(points(&calls), points(&again), "two runs make different calls");
    calls
}

fn points(calls: &[Call]) -> Vec<Point> {
    calls.iter().map(|call| call.point.clone()).collect()
}

/// Everything a recovery changes from a scene on.
fn recovery_points(scene: &Scene, arguments: &[&str]) -> Vec<Point> {
    scene.restore();
    let (run, calls) = calls_of(scene.arena(), arguments);
    run.expect(0);
    points(&calls)
}
