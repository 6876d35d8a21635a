//! btrfs by its ioctls: subvolumes, quotas, what a quota group holds.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::raw::c_ulong;
use std::os::unix::io::RawFd;
use std::path::{Path, PathBuf};

use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;

const SUBVOL_CREATE: c_ulong = 0x5000_940e;
const SNAP_DESTROY: c_ulong = 0x5000_940f;
const SNAP_CREATE: c_ulong = 0x5000_9417;
const INO_LOOKUP: c_ulong = 0xd000_9412;
const FS_INFO: c_ulong = 0x8400_941f;
const QUOTA_CTL: c_ulong = 0xc010_9428;
const QGROUP_CREATE: c_ulong = 0x4010_942a;
const QGROUP_LIMIT: c_ulong = 0x8030_942b;

const QUOTA_ENABLE: u64 = 1;
const QUOTA_ENABLE_SIMPLE: u64 = 4;
const LIMIT_MAX_REFERENCED: u64 = 1;
const SNAPSHOT_READ_ONLY: u64 = 2;
const FIRST_FREE_OBJECT: u64 = 256;
/// The value the kernel takes as "no limit".
const NO_LIMIT: u64 = u64::MAX;

#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct SnapshotArgs {
    source: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

#[repr(C)]
struct LookupArgs {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

#[repr(C)]
struct FsInfo {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

#[repr(C)]
struct QuotaCtl {
    command: u64,
    status: u64,
}

#[repr(C)]
struct QgroupCreate {
    create: u64,
    id: u64,
}

#[repr(C)]
struct QgroupLimit {
    id: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

/// How the kernel counts. Simple quotas charge an extent to the subvolume that wrote it, at once and for good; ordinary ones
/// walk back-references at every commit, and a large deleted subvolume can turn their counting off until a rescan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    Simple,
    Full,
    None,
}

fn volume_args(name: &str) -> Result<Box<VolumeArgs>> {
    let mut args = Box::new(VolumeArgs { fd: 0, name: [0; 4088] });
    let name = CString::new(name).map_err(|_| Error::new(code::INVALID, "a subvolume's name holds a NUL"))?;
    let bytes = name.as_bytes_with_nul();
    if bytes.len() > 256 {
        return Err(Error::new(code::INVALID, "a subvolume's name is longer than 255 bytes"));
    }
    args.name[..bytes.len()].copy_from_slice(bytes);
    Ok(args)
}

pub fn create_subvolume(parent: RawFd, name: &str) -> Result<()> {
    let mut args = volume_args(name)?;
    // SAFETY: the struct is the one SUBVOL_CREATE reads.
    unsafe { ffi::ioctl_with(parent, SUBVOL_CREATE, &mut *args) }.context(format_args!("making subvolume {}", name))?;
    Ok(())
}

/// Keeps what a subvolume holds now under a name in the folder `parent`. Durable when it returns: the kernel commits for it.
pub fn snapshot(parent: RawFd, name: &str, source: RawFd, read_only: bool) -> io::Result<()> {
    let mut args = Box::new(SnapshotArgs {
        source: i64::from(source),
        transaction: 0,
        flags: if read_only { SNAPSHOT_READ_ONLY } else { 0 },
        unused: [0; 4],
        name: [0; 4040],
    });
    if name.is_empty() || name.len() > 255 || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::from_raw_os_error(22));
    }
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the struct is the one SNAP_CREATE_V2 reads.
    unsafe { ffi::ioctl_with(parent, SNAP_CREATE, &mut *args) }?;
    Ok(())
}

/// Writes out what one subvolume still has in memory, and nothing of its neighbours: the kernel does that first when a snapshot is asked for, and
/// only then sees that `taken`, a name in the folder `parent`, is none it could give. No other call flushes a subvolume alone.
pub fn flush_subvolume(parent: RawFd, taken: &str, source: RawFd) -> io::Result<()> {
    match snapshot(parent, taken, source, true) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(cause),
        Ok(()) => Err(io::Error::new(io::ErrorKind::Other, format!("{} was not taken, and is a snapshot now", taken))),
    }
}

/// Takes the subvolume's name away at once; the kernel's cleaner gives its space back later.
pub fn destroy_subvolume(parent: RawFd, name: &str) -> io::Result<()> {
    let mut args = volume_args(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.message))?;
    // SAFETY: the struct is the one SNAP_DESTROY reads.
    unsafe { ffi::ioctl_with(parent, SNAP_DESTROY, &mut *args) }?;
    Ok(())
}

/// The id of the subvolume that holds the open file.
pub fn subvolume_id(fd: RawFd) -> io::Result<u64> {
    let mut args = Box::new(LookupArgs { tree: 0, object: FIRST_FREE_OBJECT, name: [0; 4080] });
    // SAFETY: the struct is the one INO_LOOKUP reads and writes.
    unsafe { ffi::ioctl_with(fd, INO_LOOKUP, &mut *args) }?;
    Ok(args.tree)
}

/// `/sys/fs/btrfs/<uuid>` of the file system that holds the open file.
pub fn sys_folder(fd: RawFd) -> io::Result<PathBuf> {
    let mut info = Box::new(FsInfo { max_id: 0, devices: 0, fsid: [0; 16], rest: [0; 992] });
    // SAFETY: the struct is the one FS_INFO writes.
    unsafe { ffi::ioctl_with(fd, FS_INFO, &mut *info) }?;
    let mut uuid = String::with_capacity(36);
    for (index, byte) in info.fsid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            uuid.push('-');
        }
        uuid.push_str(&format!("{:02x}", byte));
    }
    Ok(Path::new("/sys/fs/btrfs").join(uuid))
}

fn quota_command(fd: RawFd, command: u64) -> io::Result<()> {
    let mut args = QuotaCtl { command, status: 0 };
    // SAFETY: the struct is the one QUOTA_CTL reads and writes.
    unsafe { ffi::ioctl_with(fd, QUOTA_CTL, &mut args) }?;
    Ok(())
}

/// The quota that is on, if any.
pub fn quota_mode(sys: &Path) -> Quota {
    if !sys.join("qgroups").is_dir() {
        return Quota::None;
    }
    match fs::read_to_string(sys.join("qgroups/mode")).as_deref().map(str::trim) {
        Ok("squota") | Ok("simple") => Quota::Simple,
        _ => Quota::Full,
    }
}

/// Turns quotas on where none are: simple ones where the kernel has them (6.7) and `may_mark` allows the mark they leave on the
/// file system (older kernels refuse to mount it), else ordinary ones.
pub fn enable_quota(fd: RawFd, sys: &Path, may_mark: bool) -> Result<Quota> {
    let on = quota_mode(sys);
    if on != Quota::None {
        return Ok(on);
    }
    if may_mark && quota_command(fd, QUOTA_ENABLE_SIMPLE).is_ok() {
        return Ok(Quota::Simple);
    }
    quota_command(fd, QUOTA_ENABLE).context("turning btrfs quotas on")?;
    // A subvolume with a tree of this height or more would stop all counting when it is deleted; 8 is more than any tree has.
    let _ = fs::write(sys.join("qgroups/drop_subtree_threshold"), "8");
    Ok(Quota::Full)
}

/// Limits what a subvolume may hold; 0 lifts the limit.
pub fn limit(fd: RawFd, subvolume: u64, bytes: u64) -> io::Result<()> {
    let mut args = QgroupLimit {
        id: subvolume,
        flags: LIMIT_MAX_REFERENCED,
        max_referenced: if bytes == 0 { NO_LIMIT } else { bytes },
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    // SAFETY: the struct is the one QGROUP_LIMIT reads.
    unsafe { ffi::ioctl_with(fd, QGROUP_LIMIT, &mut args) }?;
    Ok(())
}

/// Forgets the quota group of a subvolume that is gone. Newer kernels do it themselves.
pub fn forget_group(fd: RawFd, subvolume: u64) -> io::Result<()> {
    let mut args = QgroupCreate { create: 0, id: subvolume };
    // SAFETY: the struct is the one QGROUP_CREATE reads.
    unsafe { ffi::ioctl_with(fd, QGROUP_CREATE, &mut args) }?;
    Ok(())
}

/// Ids of the quota groups that belong to one subvolume each.
pub fn groups(sys: &Path) -> Vec<u64> {
    let entries = match fs::read_dir(sys.join("qgroups")) {
        Ok(entries) => entries,
        Err(_) => return Vec::new(),
    };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("0_")?.parse().ok()).collect()
}

/// Bytes held and the limit (0: none), as the kernel counts now and not as of the last commit.
pub fn group_usage(sys: &Path, subvolume: u64) -> Option<(u64, u64)> {
    let group = sys.join(format!("qgroups/0_{}", subvolume));
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number("max_referenced").unwrap_or(0);
    Some((number("referenced")?, if limit == NO_LIMIT { 0 } else { limit }))
}
