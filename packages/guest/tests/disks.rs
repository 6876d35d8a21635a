//! Snapshots, uppers made from them, and volumes, on both kinds of pool, as root, in folders of their own.

use std::ffi::CString;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use delta::helper::bases;
use delta::helper::error::code;
use delta::helper::ffi;
use delta::helper::pool::{Choice, Kind, Pool, PoolOptions, Quota, CHAIN_MAX, SQUEEZED_GROWTH_BYTES};

const QUOTA: u64 = 256 << 20;

/// A data folder that takes its mount and files with it, also when a test fails.
struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Data {
        let path = std::env::temp_dir().join(format!("delta-disks-{}-{}", name, std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Data(path.canonicalize().unwrap())
    }

    fn open(&self, kind: Kind) -> Pool {
        Pool::open(&self.0, &options(kind)).unwrap()
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        while Command::new("umount").arg(self.0.join("pool")).output().map_or(false, |out| out.status.success()) {}
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options(kind: Kind) -> PoolOptions {
    let choice = if kind == Kind::Btrfs { Choice::Btrfs } else { Choice::Folder };
    PoolOptions { choice, max_bytes: Some(4 << 30), reserve_percent: 0, ..PoolOptions::default() }
}

/// Runs a test on both kinds of pool, and closes them.
fn on_both(name: &str, test: impl Fn(&Pool, &Data)) {
    for kind in [Kind::Btrfs, Kind::Folder] {
        let data = Data::new(&format!("{}-{}", name, kind.name()));
        let pool = data.open(kind);
        test(&pool, &data);
        pool.close().unwrap();
    }
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    let (path, name) = (ffi::c_path(path).unwrap(), CString::new(name).unwrap());
    ffi::check(unsafe { ffi::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }).unwrap();
}

fn node(path: &Path, mode: u32, device: u64) {
    let path = ffi::c_path(path).unwrap();
    ffi::check(unsafe { ffi::mknod(path.as_ptr(), mode, device) }).unwrap();
}

/// Everything that a sandbox and an overlay can leave in an upper.
fn fill(upper: &Path) {
    let at = |name: &str| upper.join(name);
    fs::create_dir_all(at("deep/er/est")).unwrap();
    fs::write(at("deep/er/file"), vec![7u8; 100_000]).unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("odd \n\t\\ ü 名"), "odd").unwrap();
    fs::hard_link(at("deep/er/file"), at("also")).unwrap();
    fs::hard_link(at("deep/er/file"), at("deep/er/est/third")).unwrap();
    symlink("/etc/shadow", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    fs::hard_link(at("dangling"), at("dangling too")).unwrap();
    let mut sparse = fs::File::create(at("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
    sparse.write_all(b"after a hole").unwrap();
    sparse.set_len(128 << 20).unwrap();
    node(&at("whiteout"), 0o020000, 0);
    node(&at("pipe"), 0o010644, 0);
    node(&at("socket"), 0o140755, 0);
    fs::write(at("setuid"), "x").unwrap();
    fs::write(at("capable"), "x").unwrap();
    attribute(&at("capable"), "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    attribute(&at("deep"), "trusted.overlay.opaque", b"y");
    attribute(&at("link"), "trusted.note", b"on a link");
    attribute(&at("also"), "user.note", &[0, 255, 10]);
    for (name, uid) in [("deep/er", 1000), ("setuid", 1000), ("link", 33), ("also", 65_535)] {
        let path = ffi::c_path(&at(name)).unwrap();
        ffi::check(unsafe { ffi::fchownat(ffi::AT_FDCWD, path.as_ptr(), uid, uid, ffi::AT_SYMLINK_NOFOLLOW) }).unwrap();
    }
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(at("deep/er/est"), fs::Permissions::from_mode(0o1000)).unwrap();
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o000)).unwrap();
    for (name, seconds, nanos) in [("deep/er/est", 1, 999_999_999), ("link", -5, 1), ("setuid", 4_000_000_000, 123_456_789)] {
        let path = ffi::c_path(&at(name)).unwrap();
        let times = [ffi::timespec { seconds, nanos }; 2];
        ffi::check(unsafe { ffi::utimensat(ffi::AT_FDCWD, path.as_ptr(), times.as_ptr(), ffi::AT_SYMLINK_NOFOLLOW) }).unwrap();
    }
}

/// All that can be seen of a tree, a line a name.
fn seen(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut names: std::collections::HashMap<u64, String> = Default::default();
    visit(root, "", &mut names, &mut lines);
    lines
}

fn visit(folder: &Path, prefix: &str, first: &mut std::collections::HashMap<u64, String>, lines: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let found = path.symlink_metadata().unwrap();
        let name = format!("{}/{}", prefix, path.file_name().unwrap().to_string_lossy());
        let content = match () {
            () if found.is_file() => format!("{:x?}", fs::read(&path).unwrap().iter().fold(7u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(*byte))),
            () if found.file_type().is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            () => String::new(),
        };
        let linked = if found.nlink() > 1 && !found.is_dir() {
            first.entry(found.ino()).or_insert_with(|| name.clone()).clone()
        } else {
            String::new()
        };
        lines.push(format!(
            "{:?} {:o} {}:{} {} {}.{:09} rdev {} as {:?} {:?} {}",
            name,
            found.mode(),
            found.uid(),
            found.gid(),
            if found.is_dir() { 0 } else { found.size() },
            found.mtime(),
            found.mtime_nsec(),
            found.rdev(),
            linked,
            attributes(&path),
            content
        ));
        if found.is_dir() {
            visit(&path, &name, first, lines);
        }
    }
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let path = ffi::c_path(path).unwrap();
    let (mut names, mut value) = (vec![0u8; 4096], vec![0u8; 4096]);
    let length = unsafe { ffi::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let mut found = Vec::new();
    for name in names[..length.max(0) as usize].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let key = CString::new(name).unwrap();
        let length = unsafe { ffi::lgetxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        found.push((key.to_string_lossy().into_owned(), value[..length as usize].to_vec()));
    }
    found.sort();
    found
}

#[test]
fn a_fork_of_a_snapshot_has_every_file_exactly_and_neither_changes_the_other() {
    on_both("exact", |pool, _| {
        let upper = pool.make_upper("wup_a", "host", QUOTA).unwrap();
        fill(&upper.join("upper"));
        fs::create_dir(upper.join("usr")).unwrap();
        fs::create_dir(upper.join("usr-work")).unwrap();
        fs::write(upper.join("usr/tool"), "tool").unwrap();
        let before = (seen(&upper.join("upper")), seen(&upper.join("usr")));
        pool.snapshot("wup_a", "snp_a").unwrap();
        let kept = pool.snapshot_path("snp_a");
        assert_eq!((seen(&kept.join("upper")), seen(&kept.join("usr"))), before);

        fs::write(upper.join("upper/deep/er/file"), "changed").unwrap();
        fs::remove_file(upper.join("upper/empty")).unwrap();
        assert_eq!(seen(&kept.join("upper")), before.0, "the snapshot changed with the upper");
        pool.fork("snp_a", "wup_b", QUOTA).unwrap();
        let fork = pool.upper_path("wup_b");
        assert_eq!((seen(&fork.join("upper")), seen(&fork.join("usr"))), before);
        fs::write(fork.join("upper/deep/er/file"), "another change").unwrap();
        assert_eq!(seen(&kept.join("upper")), before.0, "the snapshot changed with the fork");
        assert_eq!(fs::read_to_string(upper.join("upper/deep/er/file")).unwrap(), "changed");
        assert_eq!(pool.template_of_upper("wup_b").as_deref(), Some("host"));
        assert!(fork.join("work").is_dir() && fork.join("usr-work").is_dir());
        // Rolling back is a fork that takes the place of the upper.
        pool.fork("snp_a", "wup_c", QUOTA).unwrap();
        pool.drop_upper("wup_a").unwrap();
        assert_eq!(seen(&pool.upper_path("wup_c").join("upper")), before.0);
        let sparse = kept.join("upper/sparse").metadata().unwrap();
        assert!(sparse.blocks() * 512 < 1 << 20, "the holes are filled: {} blocks", sparse.blocks());
    });
}

#[test]
fn a_snapshot_cannot_be_written_on_btrfs() {
    let data = Data::new("readonly");
    let pool = data.open(Kind::Btrfs);
    pool.make_upper("wup_a", "host", QUOTA).unwrap();
    pool.snapshot("wup_a", "snp_a").unwrap();
    let refused = fs::write(pool.snapshot_path("snp_a").join("upper/file"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30));
    pool.close().unwrap();
}

#[test]
fn what_something_stands_on_is_not_dropped_also_after_a_restart() {
    on_both("stands", |pool, data| {
        pool.make_upper("wup_a", "scratch", QUOTA).unwrap();
        pool.snapshot("wup_a", "snp_a").unwrap();
        pool.make_empty("wup_b", "snp_a", QUOTA).unwrap();
        pool.snapshot("wup_b", "snp_b").unwrap();
        pool.fork("snp_b", "wup_c", QUOTA).unwrap();
        let refused = |pool: &Pool, id: &str| {
            let error = pool.drop_snapshot(id).unwrap_err();
            assert_eq!(error.code, code::BUSY, "{}", error.message);
            error.message
        };
        assert!(refused(pool, "snp_a").contains("stands on"));
        let again = Pool::open(&data.0, &options(pool.kind())).unwrap();
        let listed: Vec<(String, String)> = again.list_snapshots().into_iter().map(|one| (one.id, one.template)).collect();
        assert_eq!(listed, [("snp_a".into(), "scratch".into()), ("snp_b".into(), "snp_a".into())]);
        refused(&again, "snp_a");
        // The fork holds what the snapshot held; it does not stand on it.
        again.drop_snapshot("snp_b").unwrap();
        again.drop_snapshot("snp_b").unwrap();
        again.drop_upper("wup_b").unwrap();
        refused(&again, "snp_a");
        again.drop_upper("wup_c").unwrap();
        let held = again.hold("snp_a").unwrap();
        assert!(refused(&again, "snp_a").contains("being read"));
        drop(held);
        again.drop_snapshot("snp_a").unwrap();
        assert!(again.list_snapshots().is_empty());
        assert_eq!(again.hold("snp_a").err().unwrap().code, code::NOT_FOUND);
        assert_eq!(fs::read_dir(data.0.join("pool/snapshots")).unwrap().count(), 0);
    });
}

#[test]
fn a_base_is_the_whole_chain_below_and_no_longer_than_an_overlay_takes() {
    on_both("chain", |pool, data| {
        pool.make_upper("wup_0", "scratch", QUOTA).unwrap();
        for number in 0..CHAIN_MAX {
            pool.snapshot(&format!("wup_{}", number), &format!("snp_{}", number)).unwrap();
            pool.make_empty(&format!("wup_{}", number + 1), &format!("snp_{}", number), QUOTA).unwrap();
        }
        let base = bases::resolve(&data.0, pool, "snp_2").unwrap();
        let wanted: Vec<PathBuf> = ["snp_2", "snp_1", "snp_0"].iter().map(|id| pool.snapshot_path(id).join("upper")).collect();
        assert_eq!((base.roots, base.usrs), (wanted, Vec::new()));
        let longest = format!("snp_{}", CHAIN_MAX - 1);
        assert_eq!(bases::resolve(&data.0, pool, &longest).unwrap().roots.len(), CHAIN_MAX);
        pool.snapshot(&format!("wup_{}", CHAIN_MAX), "snp_toolong").unwrap();
        assert_eq!(bases::resolve(&data.0, pool, "snp_toolong").unwrap_err().code, code::LIMIT);
        assert_eq!(bases::resolve(&data.0, pool, "snp_never").unwrap_err().code, code::NOT_FOUND);
        assert_eq!(bases::resolve(&data.0, pool, "../etc").unwrap_err().code, code::NOT_FOUND);
    });
}

#[test]
fn what_is_there_or_missing_or_malformed_is_refused() {
    on_both("refused", |pool, data| {
        pool.make_upper("wup_a", "scratch", QUOTA).unwrap();
        pool.snapshot("wup_a", "snp_a").unwrap();
        let is = |result: Result<(), delta::helper::error::Error>, wanted: u16| assert_eq!(result.unwrap_err().code, wanted);
        is(pool.snapshot("wup_a", "snp_a").map(drop), code::EXISTS);
        is(pool.snapshot("wup_never", "snp_b").map(drop), code::NOT_FOUND);
        is(pool.fork("snp_never", "wup_b", QUOTA), code::NOT_FOUND);
        is(pool.fork("snp_a", "wup_a", QUOTA), code::EXISTS);
        is(pool.make_empty("wup_b", "snp_never", QUOTA), code::NOT_FOUND);
        is(pool.make_empty("wup_a", "snp_a", QUOTA), code::EXISTS);
        for id in ["../wup", "snp_/x", "", "snp_A", "snp_a\0"] {
            is(pool.snapshot("wup_a", id).map(drop), code::INVALID);
            is(pool.snapshot(id, "snp_b").map(drop), code::INVALID);
            is(pool.fork("snp_a", id, QUOTA), code::INVALID);
            is(pool.fork(id, "wup_b", QUOTA), code::INVALID);
            is(pool.drop_snapshot(id), code::INVALID);
            is(pool.make_volume(id, QUOTA), code::INVALID);
            is(pool.drop_volume(id), code::INVALID);
        }
        assert_eq!(pool.list_uppers().unwrap(), ["wup_a"]);
        assert_eq!(fs::read_dir(data.0.join("pool/new")).unwrap().count(), 0);
        is(pool.settle_template("wup_a", "host"), code::INVALID);
        // One that is older than the notes gets its own when it is started.
        fs::remove_file(pool.upper_path("wup_a").join("template")).unwrap();
        let again = Pool::open(&data.0, &options(pool.kind())).unwrap();
        is(again.snapshot("wup_a", "snp_b").map(drop), code::INVALID);
        again.settle_template("wup_a", "scratch").unwrap();
        again.snapshot("wup_a", "snp_b").unwrap();
        let last = Pool::open(&data.0, &options(pool.kind())).unwrap();
        assert_eq!(last.template_of_upper("wup_a").as_deref(), Some("scratch"));
    });
}

#[test]
fn below_the_reserve_nothing_is_kept_or_made_and_dropping_goes_on() {
    let data = Data::new("low");
    let small = data.0.join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3g", "tmpfs"]).arg(&small).status().unwrap();
    assert!(mounted.success());
    let outcome = std::panic::catch_unwind(|| {
        let pool = Pool::open(&small, &options(Kind::Folder)).unwrap();
        pool.make_upper("wup_a", "scratch", 0).unwrap();
        pool.snapshot("wup_a", "snp_a").unwrap();
        pool.make_volume("vol_a", 0).unwrap();
        let block = vec![1u8; 1 << 20];
        let mut filler = fs::File::create(small.join("filler")).unwrap();
        (0..1100).for_each(|_| filler.write_all(&block).unwrap());
        let codes = [
            pool.snapshot("wup_a", "snp_b").unwrap_err().code,
            pool.fork("snp_a", "wup_b", 0).unwrap_err().code,
            pool.make_empty("wup_b", "scratch", 0).unwrap_err().code,
            pool.make_volume("vol_b", 0).unwrap_err().code,
        ];
        assert_eq!(codes, [code::NO_SPACE; 4]);
        pool.drop_snapshot("snp_a").unwrap();
        pool.drop_volume("vol_a").unwrap();
        pool.drop_upper("wup_a").unwrap();
        pool.close().unwrap();
    });
    while !Command::new("umount").arg(&small).status().unwrap().success() {}
    outcome.unwrap();
}

#[test]
fn a_pool_that_went_read_only_shows_its_snapshots_refuses_new_ones_and_is_repaired_by_the_next_start() {
    let data = Data::new("ro");
    let pool = data.open(Kind::Btrfs);
    pool.make_upper("wup_a", "scratch", QUOTA).unwrap();
    fs::write(pool.upper_path("wup_a").join("upper/file"), "kept").unwrap();
    pool.snapshot("wup_a", "snp_a").unwrap();
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(data.0.join("pool")).status().unwrap();
    assert!(status.success());
    for refused in [pool.snapshot("wup_a", "snp_b").map(drop), pool.fork("snp_a", "wup_b", QUOTA), pool.make_volume("vol_a", QUOTA)] {
        let error = refused.unwrap_err();
        assert!(error.code == code::IO && error.message.contains("read-only"), "{}", error.message);
    }
    assert_eq!(fs::read_to_string(pool.snapshot_path("snp_a").join("upper/file")).unwrap(), "kept");
    let again = data.open(Kind::Btrfs);
    again.fork("snp_a", "wup_b", QUOTA).unwrap();
    assert_eq!(fs::read_to_string(again.upper_path("wup_b").join("upper/file")).unwrap(), "kept");
    again.close().unwrap();
}

#[test]
fn volumes_come_and_go_and_belong_to_the_user_inside() {
    on_both("volumes", |pool, _| {
        pool.make_volume("vol_a", 64 << 20).unwrap();
        assert_eq!(pool.make_volume("vol_a", 64 << 20).unwrap_err().code, code::EXISTS);
        let path = pool.volume_path("vol_a").unwrap();
        let found = path.metadata().unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1000, 1000, 0o755));
        fs::write(path.join("file"), "x").unwrap();
        assert_eq!(pool.list_volumes().unwrap(), ["vol_a"]);
        pool.drop_volume("vol_a").unwrap();
        pool.drop_volume("vol_a").unwrap();
        assert_eq!(pool.volume_path("vol_a").unwrap_err().code, code::NOT_FOUND);
        assert!(pool.list_volumes().unwrap().is_empty());
    });
}

#[test]
fn a_fork_and_a_volume_have_limits_of_their_own() {
    let data = Data::new("quota");
    let pool = data.open(Kind::Btrfs);
    let write = |path: &Path, bytes: usize| {
        let mut file = fs::File::create(path)?;
        file.write_all(&vec![7u8; bytes])?;
        file.sync_all()
    };
    let upper = pool.make_upper("wup_a", "scratch", 64 << 20).unwrap();
    write(&upper.join("upper/big"), 40 << 20).unwrap();
    let bytes = pool.snapshot("wup_a", "snp_a").unwrap();
    assert!(bytes.unwrap() >= 40 << 20, "{:?}", bytes);
    // What the fork holds of the snapshot is not counted again: a limit is on what is written from here on.
    pool.fork("snp_a", "wup_b", 64 << 20).unwrap();
    let fork = pool.upper_path("wup_b").join("upper");
    write(&fork.join("more"), 40 << 20).unwrap();
    assert!(matches!(write(&fork.join("too much"), 40 << 20).unwrap_err().raw_os_error(), Some(28) | Some(122)));
    pool.make_volume("vol_a", 32 << 20).unwrap();
    let volume = pool.volume_path("vol_a").unwrap();
    assert!(matches!(write(&volume.join("big"), 40 << 20).unwrap_err().raw_os_error(), Some(28) | Some(122)));
    // A pool that is opened again forgets no group of a snapshot or a volume that lives.
    let again = data.open(Kind::Btrfs);
    assert_eq!(again.upper_usage("wup_b").unwrap().1, 64 << 20);
    fs::remove_file(volume.join("big")).unwrap();
    assert!(matches!(write(&volume.join("big"), 40 << 20).unwrap_err().raw_os_error(), Some(28) | Some(122)));
    again.close().unwrap();
}

const WISH: u64 = 32 << 20;
/// Twice this is more than the wish.
const FILE_BYTES: usize = 20 << 20;

fn write_anew(path: &Path, bytes: usize) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(&vec![7u8; bytes])?;
    file.sync_all()
}

fn stops_at_the_quota(path: &Path) {
    let errno = write_anew(path, FILE_BYTES).unwrap_err().raw_os_error();
    assert!(matches!(errno, Some(28) | Some(122)), "{:?}", errno);
}

fn limit_of(pool: &Pool, upper: &str) -> u64 {
    pool.upper_usage(upper).unwrap().1
}

/// What a flush leaves is counted with the next commit.
fn counted(pool: &Pool) -> u64 {
    pool.flush().unwrap();
    pool.written("wup_a").unwrap().0.unwrap()
}

/// As a box's stop and the next start on its upper do.
fn keep(pool: &Pool, upper: &str, snapshot: &str) -> u64 {
    let charge = pool.snapshot(upper, snapshot).unwrap().unwrap();
    pool.adapt(upper, WISH).unwrap();
    charge
}

/// An upper with `rounds` snapshots, before each of which its one file was written anew, and what it was charged for at the last.
fn in_rounds(pool: &Pool, rounds: usize) -> (PathBuf, u64) {
    let file = pool.make_upper("wup_a", "scratch", WISH).unwrap().join("upper/file");
    let mut charge = 0;
    for round in 0..rounds {
        write_anew(&file, FILE_BYTES).unwrap_or_else(|cause| panic!("round {}: {}", round, cause));
        assert!(counted(pool) >= FILE_BYTES as u64);
        charge = keep(pool, "wup_a", &format!("snp_{}", round));
        let (written, limit) = pool.written("wup_a").unwrap();
        assert!(written.unwrap() < 1 << 20, "round {}: {:?}", round, written);
        assert_eq!((limit, limit_of(pool, "wup_a")), (WISH, WISH + charge), "round {}", round);
    }
    (file, charge)
}

#[test]
fn a_file_written_anew_between_snapshots_fits_the_quota_and_without_them_does_not() {
    let data = Data::new("rounds");
    let pool = data.open(Kind::Btrfs);
    assert_eq!(pool.quota(), Quota::Simple, "this kernel counts in another way: nothing is tried");
    let (file, charge) = in_rounds(&pool, 5);
    assert!(charge >= 5 * FILE_BYTES as u64, "{} bytes are charged", charge);
    write_anew(&file, FILE_BYTES).unwrap();
    stops_at_the_quota(&file.with_file_name("more"));
    // A full one has room for the note, and then for as much again.
    let charge = keep(&pool, "wup_a", "snp_full");
    assert_eq!(limit_of(&pool, "wup_a"), WISH + charge);
    fs::remove_file(file.with_file_name("more")).unwrap();
    write_anew(&file, FILE_BYTES).unwrap();
    stops_at_the_quota(&file.with_file_name("more"));
    // A fork begins with all of it and with nothing counted, also under the name of one that had much.
    pool.drop_upper("wup_a").unwrap();
    for upper in ["wup_b", "wup_a"] {
        pool.fork("snp_full", upper, WISH).unwrap();
        assert_eq!(limit_of(&pool, upper), WISH);
        assert!(pool.written(upper).unwrap().0.unwrap() < 1 << 20);
    }
    pool.drop_upper("wup_a").unwrap();
    pool.make_empty("wup_a", "snp_full", WISH).unwrap();
    pool.adapt("wup_a", WISH).unwrap();
    assert_eq!(limit_of(&pool, "wup_a"), WISH);
    pool.close().unwrap();
}

#[test]
fn while_the_pool_is_low_an_upper_with_snapshots_does_not_grow_either() {
    let data = Data::new("low-kept");
    let pool = data.open(Kind::Btrfs);
    let (file, charge) = in_rounds(&pool, 3);
    pool.set_low(true);
    pool.adapt("wup_a", WISH).unwrap();
    pool.flush().unwrap();
    pool.adapt_flushed("wup_a", WISH).unwrap();
    let (used, limit) = pool.upper_usage("wup_a").unwrap();
    assert!(limit <= used.unwrap() + SQUEEZED_GROWTH_BYTES && limit < charge + WISH, "{:?} {}", used, limit);
    assert!(pool.written("wup_a").unwrap().1 <= SQUEEZED_GROWTH_BYTES + (1 << 20));
    stops_at_the_quota(&file.with_file_name("more"));
    // Neither does a snapshot of one that is squeezed, nor starting it again, nor another life of the helper.
    pool.snapshot("wup_a", "snp_low").unwrap();
    pool.adapt("wup_a", WISH).unwrap();
    assert!(limit_of(&pool, "wup_a") <= limit);
    let again = data.open(Kind::Btrfs);
    again.set_low(true);
    again.adapt("wup_a", WISH).unwrap();
    assert!(limit_of(&again, "wup_a") <= limit);
    again.set_low(false);
    again.adapt("wup_a", WISH).unwrap();
    assert!(limit_of(&again, "wup_a") >= WISH + charge);
    fs::remove_file(file.with_file_name("more")).unwrap();
    write_anew(&file, FILE_BYTES).unwrap();
    again.close().unwrap();
}

/// Until the kernel's cleaner has given back what nothing holds any more.
fn wait_until_charged_less(pool: &Pool, upper: &str, bytes: u64) -> u64 {
    for _ in 0..600 {
        // Unlike a flush, this wakes it.
        let woken = Command::new("btrfs").args(["filesystem", "sync"]).arg(pool.upper_path(upper)).output().unwrap();
        assert!(woken.status.success());
        let used = pool.upper_usage(upper).unwrap().0.unwrap();
        if used < bytes {
            return used;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{} is still charged for {:?}", upper, pool.upper_usage(upper));
}

#[test]
fn what_is_kept_outlives_the_helper_and_falls_with_the_snapshots_for_good() {
    let data = Data::new("adopt-kept");
    let pool = data.open(Kind::Btrfs);
    let (file, charge) = in_rounds(&pool, 3);
    let again = data.open(Kind::Btrfs);
    again.adapt("wup_a", WISH).unwrap();
    assert_eq!(limit_of(&again, "wup_a"), WISH + charge);
    (0..3).for_each(|round| again.drop_snapshot(&format!("snp_{}", round)).unwrap());
    let left = wait_until_charged_less(&again, "wup_a", (FILE_BYTES + FILE_BYTES / 2) as u64);
    let (written, limit) = again.written("wup_a").unwrap();
    assert!(written.unwrap() < 1 << 20 && limit >= WISH, "{:?} {}", written, limit);
    // What the snapshots held and nobody holds any more may not be written on top of the wish.
    again.adapt("wup_a", WISH).unwrap();
    assert!(limit_of(&again, "wup_a") <= WISH + left, "{} for {}", limit_of(&again, "wup_a"), left);
    write_anew(&file.with_file_name("more"), FILE_BYTES).unwrap();
    let last = data.open(Kind::Btrfs);
    for life in [&again, &last] {
        assert!(counted(life) >= FILE_BYTES as u64);
        life.adapt("wup_a", WISH).unwrap();
        assert!(limit_of(life, "wup_a") <= WISH + left, "it grew with what was written");
    }
    stops_at_the_quota(&file.with_file_name("too much"));
    // A note whose upper is gone, and one that was cut, go with the next start.
    let notes = data.0.join("pool/kept");
    symlink("1000", notes.join("wup_gone")).unwrap();
    symlink("1000", notes.join("wup_a.new")).unwrap();
    last.close().unwrap();
    let pool = data.open(Kind::Btrfs);
    assert_eq!(fs::read_dir(&notes).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>(), ["wup_a"]);
    pool.drop_upper("wup_a").unwrap();
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
    pool.close().unwrap();
}

#[test]
fn quotas_that_count_what_an_upper_reaches_keep_nothing() {
    let data = Data::new("full");
    let (image, disk) = (data.0.join("disk.img"), data.0.join("pool"));
    fs::File::create(&image).unwrap().set_len(4 << 30).unwrap();
    fs::create_dir(&disk).unwrap();
    let done = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).args([&image]).stdout(std::process::Stdio::null()).status().unwrap();
        assert!(status.success(), "{}", program);
    };
    done("mkfs.btrfs", &["-q"]);
    let mounted = Command::new("mount").args(["-o", "loop"]).args([&image, &disk]).status().unwrap();
    assert!(mounted.success());
    // The operator's own btrfs, so with ordinary quotas.
    let inner = disk.join("data");
    fs::create_dir(&inner).unwrap();
    let pool = Pool::open(&inner, &options(Kind::Btrfs)).unwrap();
    assert_eq!(pool.quota(), Quota::Full);
    let file = pool.make_upper("wup_a", "scratch", WISH).unwrap().join("upper/file");
    for round in 0..3 {
        write_anew(&file, FILE_BYTES).unwrap();
        pool.flush().unwrap();
        pool.snapshot("wup_a", &format!("snp_{}", round)).unwrap();
        pool.adapt("wup_a", WISH).unwrap();
        assert_eq!(limit_of(&pool, "wup_a"), WISH);
        assert!(counted(&pool) >= FILE_BYTES as u64);
    }
    stops_at_the_quota(&file.with_file_name("more"));
    assert!(!inner.join("pool/kept").exists());
    drop(pool);
}

#[test]
fn flushing_an_upper_writes_what_it_has_in_memory_and_leaves_no_snapshot() {
    let data = Data::new("flush");
    let pool = data.open(Kind::Btrfs);
    let upper = pool.make_upper("wup_a", "scratch", 0).unwrap();
    fs::write(upper.join("upper/file"), vec![7u8; 8 << 20]).unwrap();
    let extents = || {
        let out = Command::new("filefrag").arg("-v").arg(upper.join("upper/file")).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(extents().contains("delalloc"), "{}", extents());
    pool.flush_upper("wup_a").unwrap();
    assert!(!extents().contains("delalloc"), "{}", extents());
    assert!(pool.list_snapshots().is_empty());
    assert_eq!(fs::read_dir(data.0.join("pool/uppers")).unwrap().count(), 1);
    pool.close().unwrap();
}

/// Run by the next test in a process of its own, which dies by SIGKILL after the step it is told.
#[test]
fn child_that_dies() {
    let data = match std::env::var_os("DELTA_DISKS_TEST_DATA") {
        Some(data) => PathBuf::from(data),
        None => return,
    };
    let kind = if std::env::var("DELTA_DISKS_TEST_KIND").unwrap() == "btrfs" { Kind::Btrfs } else { Kind::Folder };
    let dying = PoolOptions {
        step: |step| {
            if std::env::var("DELTA_DISKS_TEST_STEP").map_or(false, |wanted| wanted == step) {
                unsafe { ffi::kill(ffi::getpid(), 9) };
            }
        },
        ..options(kind)
    };
    let pool = Pool::open(&data, &dying).unwrap();
    match std::env::var("DELTA_DISKS_TEST_WORK").unwrap().as_str() {
        "snapshot" => drop(pool.snapshot("wup_a", "snp_b")),
        "fork" => drop(pool.fork("snp_a", "wup_b", QUOTA)),
        "volume" => drop(pool.make_volume("vol_a", QUOTA)),
        _ => drop(pool.drop_snapshot("snp_a")),
    }
}

fn limit_after(pool: &Pool) -> u64 {
    pool.adapt("wup_a", QUOTA).unwrap();
    limit_of(pool, "wup_a")
}

#[test]
fn a_kill_after_any_step_leaves_the_old_state_or_the_new_one() {
    let steps: [(&str, &[&str], &[&str]); 4] = [
        ("snapshot", &["snapshot taken", "charge noted"], &["copied", "snapshot taken", "charge noted"]),
        ("fork", &["fork made", "fork limited"], &["copied", "fork made", "fork limited"]),
        ("volume", &["upper created", "upper limited", "volume named"], &["upper created", "volume named"]),
        ("drop", &["snapshot dropped"], &["snapshot dropped"]),
    ];
    for kind in [Kind::Btrfs, Kind::Folder] {
        let data = Data::new(&format!("kill-{}", kind.name()));
        let mut pool = data.open(kind);
        let upper = pool.make_upper("wup_a", "scratch", QUOTA).unwrap();
        fs::write(upper.join("upper/file"), "kept").unwrap();
        pool.flush().unwrap();
        let mut noted = 0;
        for (work, of_btrfs, of_folder) in steps {
            for step in if kind == Kind::Btrfs { of_btrfs } else { of_folder } {
                if pool.list_snapshots().is_empty() {
                    noted = pool.snapshot("wup_a", "snp_a").unwrap().unwrap_or(0);
                }
                fs::write(upper.join("upper/more"), vec![7u8; 1 << 20]).unwrap();
                pool.flush().unwrap();
                let child = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "child_that_dies", "--test-threads=1"])
                    .env("DELTA_DISKS_TEST_DATA", &data.0)
                    .env("DELTA_DISKS_TEST_KIND", kind.name())
                    .env("DELTA_DISKS_TEST_WORK", work)
                    .env("DELTA_DISKS_TEST_STEP", step)
                    .output()
                    .unwrap();
                let killed = std::os::unix::process::ExitStatusExt::signal(&child.status);
                assert_eq!(killed, Some(9), "{}: step {} was never reached", work, step);
                pool = data.open(kind);
                for snapshot in pool.list_snapshots() {
                    let file = pool.snapshot_path(&snapshot.id).join("upper/file");
                    assert_eq!(fs::read_to_string(file).unwrap(), "kept", "{} {}", work, step);
                    assert_eq!(snapshot.template, "scratch");
                }
                if pool.has_upper("wup_b") {
                    let file = pool.upper_path("wup_b").join("upper/file");
                    assert_eq!(fs::read_to_string(file).unwrap(), "kept", "{} {}", work, step);
                    assert_eq!(pool.template_of_upper("wup_b").as_deref(), Some("scratch"));
                }
                let done = match work {
                    "snapshot" => pool.list_snapshots().len() == 2,
                    "fork" => pool.has_upper("wup_b"),
                    "volume" => pool.volume_path("vol_a").is_ok(),
                    _ => pool.list_snapshots().is_empty(),
                };
                let expected = !["copied", "upper created", "upper limited"].contains(step);
                assert_eq!(done, expected, "{} {}", work, step);
                if kind == Kind::Btrfs {
                    // The note of the snapshot before, until the one of this is whole.
                    let (used, limit) = (pool.upper_usage("wup_a").unwrap().0.unwrap(), limit_after(&pool));
                    noted = if step == &"charge noted" { used } else { noted.min(used) };
                    assert_eq!(limit, QUOTA + noted, "{} {}", work, step);
                }
                assert_eq!(fs::read_dir(data.0.join("pool/new")).unwrap().count(), 0, "{} {}", work, step);
                for id in ["snp_b"] {
                    pool.drop_snapshot(id).unwrap();
                }
                pool.drop_upper("wup_b").unwrap();
                pool.drop_volume("vol_a").unwrap();
            }
        }
        pool.close().unwrap();
    }
}
