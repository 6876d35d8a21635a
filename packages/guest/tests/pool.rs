//! The pool with real mounts, as root, in folders of its own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use delta::helper::error::code;
use delta::helper::pool::{Choice, Kind, Pool, PoolOptions};

/// A data folder that takes its mount and files with it, also when a test fails.
struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Data {
        let path = std::env::temp_dir().join(format!("delta-pool-{}-{}", name, std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Data(path.canonicalize().unwrap())
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        while Command::new("umount").arg(self.0.join("pool")).output().map_or(false, |out| out.status.success()) {}
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn btrfs() -> PoolOptions {
    PoolOptions { choice: Choice::Btrfs, max_bytes: Some(4 << 30), reserve_percent: 0, ..PoolOptions::default() }
}

fn folder() -> PoolOptions {
    PoolOptions { choice: Choice::Folder, ..btrfs() }
}

/// Loop devices whose backing file lies in the folder.
fn loops_of(data: &Path) -> usize {
    let wanted = data.to_string_lossy().into_owned();
    fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok())
        .filter(|backing| backing.starts_with(&wanted))
        .count()
}

fn mounts_of(data: &Path) -> usize {
    let wanted = format!(" {}", data.join("pool").display());
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&wanted)).count()
}

fn fill(path: &Path, bytes: usize) -> (usize, Option<i32>) {
    let mut file = match fs::File::create(path) {
        Ok(file) => file,
        Err(cause) => return (0, cause.raw_os_error()),
    };
    let block = vec![7u8; 1 << 20];
    let mut written = 0;
    while written < bytes {
        match file.write(&block) {
            Ok(count) => written += count,
            Err(cause) => return (written, cause.raw_os_error()),
        }
    }
    match file.sync_all() {
        Ok(()) => (written, None),
        Err(cause) => (written, cause.raw_os_error()),
    }
}

#[test]
fn a_pool_opens_closes_and_opens_again_with_its_uppers_and_leaves_no_loop_device() {
    let data = Data::new("cycle");
    for round in 0..4 {
        let pool = Pool::open(&data.0, &btrfs()).unwrap();
        assert_eq!(pool.kind(), Kind::Btrfs);
        assert_eq!((loops_of(&data.0), mounts_of(&data.0)), (1, 1));
        assert_eq!(pool.list_uppers().unwrap().len(), round);
        let upper = pool.make_upper(&format!("upp_{}", round), "host", 64 << 20).unwrap();
        fs::write(upper.join("upper/file"), "kept").unwrap();
        for earlier in 0..round {
            assert_eq!(fs::read_to_string(pool.upper_path(&format!("upp_{}", earlier)).join("upper/file")).unwrap(), "kept");
        }
        pool.close().unwrap();
        assert_eq!((loops_of(&data.0), mounts_of(&data.0)), (0, 0));
    }
}

#[test]
fn a_pool_left_mounted_is_found_and_never_attached_twice() {
    let data = Data::new("adopt");
    let first = Pool::open(&data.0, &btrfs()).unwrap();
    first.make_upper("upp_a", "host", 0).unwrap();
    drop(first);
    let openers: Vec<_> = (0..6)
        .map(|_| {
            let path = data.0.clone();
            thread::spawn(move || Pool::open(&path, &btrfs()).unwrap().list_uppers().unwrap())
        })
        .collect();
    for opener in openers {
        assert_eq!(opener.join().unwrap(), ["upp_a"]);
    }
    assert_eq!((loops_of(&data.0), mounts_of(&data.0)), (1, 1));
    Pool::open(&data.0, &btrfs()).unwrap().close().unwrap();
    assert_eq!(loops_of(&data.0), 0);
}

#[test]
fn concurrent_first_starts_make_one_image_and_one_mount() {
    let data = Data::new("race");
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let path = data.0.clone();
            thread::spawn(move || Pool::open(&path, &btrfs()).map(|_| ()))
        })
        .collect();
    for opener in openers {
        opener.join().unwrap().unwrap();
    }
    assert_eq!((loops_of(&data.0), mounts_of(&data.0)), (1, 1));
}

fn writer_stops_at_quota(pool: &Pool) {
    let path = pool.make_upper("upp_full", "host", 48 << 20).unwrap();
    let (written, errno) = fill(&path.join("upper/big"), 256 << 20);
    assert!(matches!(errno, Some(28) | Some(122)), "wrote {} and got {:?}", written, errno);
    assert!(written <= 48 << 20, "{} bytes went past the quota", written);
    assert!(written >= 40 << 20, "only {} bytes of 48 MiB", written);
    let (used, limit) = pool.upper_usage("upp_full").unwrap();
    assert_eq!(limit, 48 << 20);
    assert!(used.unwrap() <= 50 << 20, "{:?}", used);
    // The neighbour is not held up, and what is full can be emptied.
    let other = pool.make_upper("upp_other", "host", 48 << 20).unwrap();
    assert_eq!(fill(&other.join("upper/file"), 8 << 20).1, None);
    fs::remove_file(path.join("upper/big")).unwrap();
    pool.set_quota("upp_full", 96 << 20).unwrap();
    assert_eq!(pool.upper_usage("upp_full").unwrap().1, 96 << 20);
}

#[test]
fn a_writer_stops_at_its_quota() {
    let data = Data::new("quota");
    let pool = Pool::open(&data.0, &btrfs()).unwrap();
    writer_stops_at_quota(&pool);
    pool.close().unwrap();
}

#[test]
fn while_the_pool_is_low_no_upper_grows_and_what_is_full_still_shrinks() {
    let data = Data::new("low");
    let pool = Pool::open(&data.0, &btrfs()).unwrap();
    let quota = 256 << 20;
    let path = pool.make_upper("upp_low", "host", quota).unwrap();
    // Not yet on disk, so not yet counted, when it gets low.
    fs::write(path.join("upper/held"), vec![7u8; 16 << 20]).unwrap();
    pool.set_low(true);
    pool.adapt("upp_low", quota).unwrap();
    assert!(matches!(fill(&path.join("upper/more"), 32 << 20).1, Some(28) | Some(122)));
    pool.flush().unwrap();
    pool.adapt_flushed("upp_low", quota).unwrap();
    let (used, limit) = pool.upper_usage("upp_low").unwrap();
    assert!(used.unwrap() >= 16 << 20 && limit > used.unwrap() && limit <= used.unwrap() + (1 << 20), "{:?} {}", used, limit);
    // Starting on it again gives it no more.
    pool.adapt("upp_low", quota).unwrap();
    assert_eq!(pool.upper_usage("upp_low").unwrap().1, limit);
    fs::create_dir(path.join("upper/folder")).unwrap();
    fs::rename(path.join("upper/held"), path.join("upper/folder/held")).unwrap();
    assert!(matches!(fill(&path.join("upper/more"), 32 << 20).1, Some(28) | Some(122)));
    fs::remove_file(path.join("upper/folder/held")).unwrap();
    assert_eq!(pool.make_upper("upp_fresh", "host", quota).map(|_| ()), Ok(()), "the disk of this test has room: only the limits are those of a low pool");
    pool.set_low(false);
    pool.adapt("upp_low", quota).unwrap();
    assert_eq!(pool.upper_usage("upp_low").unwrap().1, quota);
    assert_eq!(fill(&path.join("upper/more"), 32 << 20).1, None);
    pool.close().unwrap();
}

#[test]
fn a_writer_through_an_overlay_stops_at_the_uppers_quota_and_runs_programs_from_it() {
    let data = Data::new("overlay");
    let pool = Pool::open(&data.0, &btrfs()).unwrap();
    let upper = pool.make_upper("upp_over", "host", 32 << 20).unwrap();
    let (lower, merged) = (data.0.join("lower"), data.0.join("merged"));
    fs::create_dir(&lower).unwrap();
    fs::create_dir(&merged).unwrap();
    fs::write(lower.join("below"), "lower").unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.join("upper").display(),
        upper.join("work").display()
    );
    let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).status().unwrap();
    assert!(mounted.success());
    let (written, errno) = fill(&merged.join("big"), 128 << 20);
    fs::remove_file(merged.join("big")).unwrap();
    fs::copy("/bin/true", merged.join("program")).unwrap();
    let ran = Command::new(merged.join("program")).status().map(|status| status.success());
    // The overlay keeps the file system alive: the pool must say so instead of losing track of its loop device.
    let closed = pool.close();
    let reopened = Pool::open(&data.0, &btrfs()).unwrap();
    let loops = loops_of(&data.0);
    assert!(Command::new("umount").arg(&merged).status().unwrap().success());
    assert!(matches!(errno, Some(28) | Some(122)), "{:?}", errno);
    assert!(written <= 32 << 20, "{}", written);
    assert!(ran.unwrap());
    assert_eq!(closed.unwrap_err().code, code::BUSY);
    assert_eq!(loops, 1);
    reopened.close().unwrap();
    assert_eq!(loops_of(&data.0), 0);
}

fn uppers_come_and_go(pool: &Pool) {
    let path = pool.make_upper("upp_a", "host", 16 << 20).unwrap();
    assert!(path.join("upper").is_dir() && path.join("work").is_dir());
    assert_eq!(pool.make_upper("upp_a", "host", 16 << 20).unwrap_err().code, code::EXISTS);
    assert_eq!(pool.make_upper("../upp", "host", 0).unwrap_err().code, code::INVALID);
    assert_eq!(pool.drop_upper("upp_a/../upp_b").unwrap_err().code, code::INVALID);
    fs::create_dir_all(path.join("upper/a/b/c")).unwrap();
    pool.make_upper("upp_b", "host", 0).unwrap();
    assert_eq!(pool.list_uppers().unwrap(), ["upp_a", "upp_b"]);
    pool.drop_upper("upp_a").unwrap();
    assert_eq!(pool.list_uppers().unwrap(), ["upp_b"]);
    pool.drop_upper("upp_a").unwrap();
    assert_eq!(pool.upper_usage("upp_a").unwrap_err().code, code::NOT_FOUND);
    assert_eq!(pool.set_quota("upp_a", 1 << 20).unwrap_err().code, code::NOT_FOUND);
    pool.make_upper("upp_a", "host", 0).unwrap();
    assert!(!pool.upper_path("upp_a").join("upper/a").exists());
}

#[test]
fn uppers_come_and_go_on_btrfs() {
    let data = Data::new("btrfs");
    let pool = Pool::open(&data.0, &btrfs()).unwrap();
    uppers_come_and_go(&pool);
    pool.close().unwrap();
}

#[test]
fn uppers_come_and_go_in_a_plain_folder_which_says_it_has_no_quota() {
    let data = Data::new("folder");
    let pool = Pool::open(&data.0, &folder()).unwrap();
    assert_eq!(pool.kind(), Kind::Folder);
    assert!(pool.warnings().iter().any(|warning| warning.contains("no quota")));
    uppers_come_and_go(&pool);
    assert_eq!(pool.upper_usage("upp_b").unwrap(), (None, 0));
    pool.close().unwrap();
    assert_eq!(fs::read_dir(data.0.join("pool/trash")).unwrap().count(), 0);
}

#[test]
fn below_the_reserve_nothing_is_made_and_the_error_says_what_to_do() {
    let data = Data::new("reserve");
    let mut options = folder();
    options.reserve_percent = 5;
    let usage = Pool::open(&data.0, &options).unwrap().usage().unwrap();
    assert!(usage.reserve >= 2 << 30 && !usage.read_only && usage.total > usage.used);
    let small = data.0.join("small");
    fs::create_dir(&small).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&small).status().unwrap().success());
    let refused = Pool::open(&small, &options).and_then(|pool| pool.make_upper("upp_a", "host", 0));
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    let error = refused.unwrap_err();
    assert_eq!(error.code, code::NO_SPACE);
    assert!(error.message.contains("DELTA_POOL_RESERVE"), "{}", error.message);
}

#[test]
fn a_pool_that_went_read_only_says_so_and_is_writable_again_after_a_restart() {
    let data = Data::new("readonly");
    let pool = Pool::open(&data.0, &btrfs()).unwrap();
    let remount = |how: &str| Command::new("mount").args(["-o", how]).arg(data.0.join("pool")).status().unwrap().success();
    assert!(remount("remount,ro"));
    assert!(pool.usage().unwrap().read_only);
    let error = pool.make_upper("upp_a", "host", 0).unwrap_err();
    assert!(error.message.contains("read-only"), "{}", error.message);
    let again = Pool::open(&data.0, &btrfs()).unwrap();
    assert!(!again.usage().unwrap().read_only);
    again.make_upper("upp_a", "host", 0).unwrap();
    again.close().unwrap();
}

#[test]
fn many_threads_make_and_drop_at_once_and_no_quota_group_is_left() {
    let data = Data::new("threads");
    let pool = std::sync::Arc::new(Pool::open(&data.0, &btrfs()).unwrap());
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let pool = pool.clone();
            thread::spawn(move || {
                for round in 0..20 {
                    let id = format!("upp_{}x{}", worker, round);
                    let path = pool.make_upper(&id, "host", 16 << 20).unwrap();
                    fs::write(path.join("upper/file"), vec![1u8; 70_000]).unwrap();
                    pool.drop_upper(&id).unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(pool.list_uppers().unwrap().is_empty());
    pool.close().unwrap();
    // What the cleaner had not reached when the pool closed is finished by the next life, also on kernels that keep the groups.
    let root = data.0.join("pool");
    let groups = || {
        let listed = Command::new("btrfs").args(["qgroup", "show"]).arg(&root).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.trim_start().starts_with("0/")).count()
    };
    let mut left = usize::MAX;
    for _ in 0..100 {
        let pool = Pool::open(&data.0, &btrfs()).unwrap();
        // A commit wakes the kernel's cleaner.
        assert!(Command::new("btrfs").args(["filesystem", "sync"]).arg(&root).output().unwrap().status.success());
        left = groups();
        pool.close().unwrap();
        if left <= 1 {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(left, 1, "only the top's own group is left");
}

#[test]
fn a_flood_of_empty_files_stops_at_the_quota_too() {
    let data = Data::new("inodes");
    let pool = Pool::open(&data.0, &btrfs()).unwrap();
    let path = pool.make_upper("upp_flood", "host", 4 << 20).unwrap();
    let refused =
        (0..200_000).find_map(|number| fs::File::create(path.join(format!("upper/{}-{}", number, "x".repeat(200)))).err());
    assert!(matches!(refused.and_then(|cause| cause.raw_os_error()), Some(28) | Some(122)));
    pool.make_upper("upp_other", "host", 8 << 20).unwrap();
    pool.drop_upper("upp_flood").unwrap();
    pool.close().unwrap();
}

const STEPS: [&str; 9] =
    ["sized", "formatted", "named", "attached", "mounted", "quota", "upper created", "upper limited", "upper named"];

/// Run by the next test in a process of its own: opens the pool and makes an upper, and dies by SIGKILL after the step it is told.
#[test]
fn child_that_dies() {
    let data = match std::env::var_os("DELTA_POOL_TEST_DATA") {
        Some(data) => PathBuf::from(data),
        None => return,
    };
    let options = PoolOptions {
        step: |step| {
            if std::env::var("DELTA_POOL_TEST_STEP").map_or(false, |wanted| wanted == step) {
                unsafe { delta::helper::ffi::kill(delta::helper::ffi::getpid(), 9) };
            }
        },
        ..btrfs()
    };
    Pool::open(&data, &options).unwrap().make_upper("upp_child", "host", 16 << 20).unwrap();
}

#[test]
fn a_kill_after_any_step_leaves_a_pool_that_opens_and_nothing_half_made() {
    for step in STEPS {
        let data = Data::new(&format!("kill-{}", step.replace(' ', "-")));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_dies", "--test-threads=1"])
            .env("DELTA_POOL_TEST_DATA", &data.0)
            .env("DELTA_POOL_TEST_STEP", step)
            .output()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(9), "step {} was never reached", step);
        let mounted = mounts_of(&data.0);
        assert_eq!(loops_of(&data.0), mounted, "after {}: a loop device without its mount", step);
        let pool = Pool::open(&data.0, &btrfs()).unwrap_or_else(|error| panic!("after {}: {}", step, error));
        let expected: &[&str] = if step == "upper named" { &["upp_child"] } else { &[] };
        assert_eq!(pool.list_uppers().unwrap(), expected, "after {}", step);
        if step == "upper named" {
            assert_eq!(pool.upper_usage("upp_child").unwrap().1, 16 << 20);
        }
        assert_eq!(fs::read_dir(data.0.join("pool/new")).unwrap().count(), 0, "after {}", step);
        pool.drop_upper("upp_child").unwrap();
        pool.make_upper("upp_child", "host", 16 << 20).unwrap();
        assert!(!data.0.join("pool.img.new").exists());
        pool.close().unwrap();
        assert_eq!((loops_of(&data.0), mounts_of(&data.0)), (0, 0));
    }
}
