//! What std does not offer and the pool, the templates and the confinement need of the system.

#![allow(non_camel_case_types)]

use std::ffi::CString;
use std::io;
use std::os::raw::{c_char, c_int, c_long, c_ulong, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

extern "C" {
    pub fn syscall(number: c_long, ...) -> c_long;
    pub fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void)
        -> c_int;
    pub fn umount2(target: *const c_char, flags: c_int) -> c_int;
    pub fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    pub fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
    pub fn statfs(path: *const c_char, out: *mut statfs_t) -> c_int;
    pub fn flock(fd: c_int, operation: c_int) -> c_int;
    pub fn mknod(path: *const c_char, mode: u32, device: u64) -> c_int;
    pub fn openat(directory: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
    pub fn unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int;
    pub fn mkdirat(directory: c_int, path: *const c_char, mode: u32) -> c_int;
    pub fn renameat(from: c_int, old: *const c_char, to: c_int, new: *const c_char) -> c_int;
    pub fn fchownat(directory: c_int, path: *const c_char, uid: u32, gid: u32, flags: c_int) -> c_int;
    pub fn fchmod(fd: c_int, mode: u32) -> c_int;
    pub fn getrandom(buffer: *mut c_void, length: usize, flags: u32) -> isize;
    pub fn getrlimit(resource: c_int, limit: *mut rlimit) -> c_int;
    pub fn setrlimit(resource: c_int, limit: *const rlimit) -> c_int;
    pub fn prctl(option: c_int, ...) -> c_int;
    pub fn waitid(kind: c_int, id: u32, info: *mut siginfo, options: c_int) -> c_int;
    pub fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
    pub fn dup2(old: c_int, new: c_int) -> c_int;
    pub fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    pub fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
    pub fn close(fd: c_int) -> c_int;
    pub fn write(fd: c_int, buffer: *const c_void, length: usize) -> isize;
    pub fn read(fd: c_int, buffer: *mut c_void, length: usize) -> isize;
    pub fn setsid() -> c_int;
    pub fn umask(mask: u32) -> u32;
    pub fn chdir(path: *const c_char) -> c_int;
    pub fn mkdir(path: *const c_char, mode: u32) -> c_int;
    pub fn symlink(target: *const c_char, path: *const c_char) -> c_int;
    pub fn sethostname(name: *const c_char, length: usize) -> c_int;
    pub fn getuid() -> u32;
    pub fn syncfs(fd: c_int) -> c_int;
    pub fn getpid() -> c_int;
    pub fn kill(pid: c_int, signal: c_int) -> c_int;
    pub fn linkat(from: c_int, old: *const c_char, to: c_int, new: *const c_char, flags: c_int) -> c_int;
    pub fn utimensat(directory: c_int, path: *const c_char, times: *const timespec, flags: c_int) -> c_int;
    pub fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
    pub fn llistxattr(path: *const c_char, names: *mut c_char, length: usize) -> isize;
    pub fn lgetxattr(path: *const c_char, name: *const c_char, value: *mut c_void, length: usize) -> isize;
    pub fn lsetxattr(path: *const c_char, name: *const c_char, value: *const c_void, length: usize, flags: c_int) -> c_int;
    pub fn _exit(code: c_int) -> !;
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct statfs_t {
    pub kind: i64,
    pub block_size: i64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub id: [i32; 2],
    pub name_length: i64,
    pub fragment_size: i64,
    pub flags: i64,
    pub spare: [i64; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct timespec {
    pub seconds: i64,
    pub nanos: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct rlimit {
    pub current: u64,
    pub maximum: u64,
}

#[repr(C)]
pub struct siginfo {
    pub signal: c_int,
    pub errno: c_int,
    pub code: c_int,
    pub pad: c_int,
    pub pid: c_int,
    pub uid: u32,
    pub status: c_int,
    pub rest: [u8; 100],
}

pub const O_RDONLY: c_int = 0;
pub const O_CLOEXEC: c_int = 0o2000000;
pub const O_PATH: c_int = 0o10000000;
#[cfg(target_arch = "x86_64")]
pub const O_DIRECTORY: c_int = 0o200000;
#[cfg(target_arch = "x86_64")]
pub const O_NOFOLLOW: c_int = 0o400000;
#[cfg(target_arch = "aarch64")]
pub const O_DIRECTORY: c_int = 0o40000;
#[cfg(target_arch = "aarch64")]
pub const O_NOFOLLOW: c_int = 0o100000;

pub const AT_FDCWD: c_int = -100;
pub const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
pub const AT_REMOVEDIR: c_int = 0x200;
pub const AT_RECURSIVE: c_int = 0x8000;
pub const AT_EMPTY_PATH: c_int = 0x1000;

pub const MS_RDONLY: c_ulong = 1;
pub const MS_NOSUID: c_ulong = 2;
pub const MS_NODEV: c_ulong = 4;
pub const MS_NOEXEC: c_ulong = 8;
pub const MS_REMOUNT: c_ulong = 32;
pub const MS_NOATIME: c_ulong = 1024;
pub const MS_BIND: c_ulong = 4096;
pub const MS_REC: c_ulong = 16384;
pub const MS_PRIVATE: c_ulong = 1 << 18;
pub const MNT_DETACH: c_int = 2;
pub const UMOUNT_NOFOLLOW: c_int = 8;
pub const ST_RDONLY: i64 = 1;
pub const BTRFS_MAGIC: i64 = 0x9123_683e;

pub const SEEK_DATA: c_int = 3;
pub const SEEK_HOLE: c_int = 4;
pub const FICLONE: c_ulong = 0x4004_9409;
pub const LOCK_EX: c_int = 2;
pub const LOCK_NB: c_int = 4;

pub const SYS_OPEN_TREE: c_long = 428;
pub const SYS_MOVE_MOUNT: c_long = 429;
pub const SYS_PIDFD_SEND_SIGNAL: c_long = 424;
pub const SYS_CLOSE_RANGE: c_long = 436;
pub const SYS_MOUNT_SETATTR: c_long = 442;
#[cfg(target_arch = "x86_64")]
pub const SYS_PIVOT_ROOT: c_long = 155;
#[cfg(target_arch = "x86_64")]
pub const SYS_STATX: c_long = 332;
#[cfg(target_arch = "x86_64")]
pub const SYS_KCMP: c_long = 312;
#[cfg(target_arch = "x86_64")]
pub const SYS_CLONE: c_long = 56;
#[cfg(target_arch = "x86_64")]
pub const SYS_SETRESUID: c_long = 117;
#[cfg(target_arch = "x86_64")]
pub const SYS_SETRESGID: c_long = 119;
#[cfg(target_arch = "x86_64")]
pub const SYS_SETGROUPS: c_long = 116;
#[cfg(target_arch = "x86_64")]
pub const SYS_RT_SIGPROCMASK: c_long = 14;
#[cfg(target_arch = "x86_64")]
pub const SYS_RT_SIGACTION: c_long = 13;
#[cfg(target_arch = "x86_64")]
pub const SYS_RENAMEAT2: c_long = 316;
#[cfg(target_arch = "x86_64")]
pub const SYS_COPY_FILE_RANGE: c_long = 326;
#[cfg(target_arch = "aarch64")]
pub const SYS_PIVOT_ROOT: c_long = 41;
#[cfg(target_arch = "aarch64")]
pub const SYS_STATX: c_long = 291;
#[cfg(target_arch = "aarch64")]
pub const SYS_KCMP: c_long = 272;
#[cfg(target_arch = "aarch64")]
pub const SYS_CLONE: c_long = 220;
#[cfg(target_arch = "aarch64")]
pub const SYS_SETRESUID: c_long = 147;
#[cfg(target_arch = "aarch64")]
pub const SYS_SETRESGID: c_long = 149;
#[cfg(target_arch = "aarch64")]
pub const SYS_SETGROUPS: c_long = 159;
#[cfg(target_arch = "aarch64")]
pub const SYS_RT_SIGPROCMASK: c_long = 135;
#[cfg(target_arch = "aarch64")]
pub const SYS_RT_SIGACTION: c_long = 134;
#[cfg(target_arch = "aarch64")]
pub const SYS_RENAMEAT2: c_long = 276;
#[cfg(target_arch = "aarch64")]
pub const SYS_COPY_FILE_RANGE: c_long = 285;

pub const RENAME_NOREPLACE: c_int = 1;
pub const OPEN_TREE_CLONE: c_int = 1;
pub const OPEN_TREE_CLOEXEC: c_int = O_CLOEXEC;
pub const MOVE_MOUNT_F_EMPTY_PATH: c_int = 4;
pub const MOVE_MOUNT_T_EMPTY_PATH: c_int = 0x40;
pub const MOUNT_ATTR_RDONLY: u64 = 1;
pub const MOUNT_ATTR_NOSUID: u64 = 2;
pub const MOUNT_ATTR_NODEV: u64 = 4;
pub const MOUNT_ATTR_NOEXEC: u64 = 8;
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

#[repr(C)]
#[derive(Default)]
pub struct mount_attr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// A path for the kernel. Paths with a NUL are refused like any other invalid path.
pub fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(22))
}

/// The result of a call that answers -1 on failure.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

pub fn check_long(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Takes a descriptor the kernel just gave.
pub fn own(fd: c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: a fresh descriptor nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn open_path(path: &Path, flags: c_int) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: `path` is NUL-terminated and lives through the call.
    own(unsafe { openat(AT_FDCWD, path.as_ptr(), flags | O_CLOEXEC) })
}

/// A directory, never through a symlink in its last component.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    open_path(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
}

pub fn statfs_of(path: &Path) -> io::Result<statfs_t> {
    let path = c_path(path)?;
    let mut out = statfs_t::default();
    // SAFETY: both pointers live through the call; the struct has the kernel's layout.
    check(unsafe { statfs(path.as_ptr(), &mut out) })?;
    Ok(out)
}

pub fn mount_at(source: &str, target: &Path, kind: &str, flags: c_ulong, data: &str) -> io::Result<()> {
    let source = CString::new(source)?;
    let target = c_path(target)?;
    let kind = CString::new(kind)?;
    let data = CString::new(data)?;
    // SAFETY: every pointer is NUL-terminated and lives through the call.
    check(unsafe { mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })?;
    Ok(())
}

pub fn unmount(target: &Path, flags: c_int) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: as above.
    check(unsafe { umount2(target.as_ptr(), flags | UMOUNT_NOFOLLOW) })?;
    Ok(())
}

/// An ioctl on a struct the kernel reads and may write.
///
/// # Safety
/// `T` must be the struct `request` expects.
pub unsafe fn ioctl_with<T>(fd: RawFd, request: c_ulong, argument: &mut T) -> io::Result<c_int> {
    check(ioctl(fd, request, argument as *mut T))
}

pub fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        // SAFETY: the rest of the slice is writable for the given length.
        let got = unsafe { getrandom(buffer[filled..].as_mut_ptr().cast(), buffer.len() - filled, 0) };
        if got < 0 {
            let cause = io::Error::last_os_error();
            if cause.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(cause);
        }
        filled += got as usize;
    }
    Ok(())
}

/// Renames and refuses to replace.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let from = c_path(from)?;
    let to = c_path(to)?;
    // SAFETY: both paths live through the call.
    check_long(unsafe {
        syscall(SYS_RENAMEAT2, AT_FDCWD as c_long, from.as_ptr(), AT_FDCWD as c_long, to.as_ptr(), RENAME_NOREPLACE as c_long)
    })?;
    Ok(())
}

/// fsync of a folder, so that a rename or a new name in it is durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

pub fn raw(fd: &impl AsRawFd) -> RawFd {
    fd.as_raw_fd()
}

/// One line of /proc/self/mountinfo, as far as it is needed.
#[derive(Debug, Clone)]
pub struct MountLine {
    pub point: Vec<u8>,
    pub kind: String,
    pub source: String,
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal =
            field.get(at + 1..at + 4).filter(|digits| field[at] == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0')) as u8);
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

/// Mounts of this process's namespace, oldest first.
pub fn mounts() -> io::Result<Vec<MountLine>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse_mount).collect())
}

fn parse_mount(line: &[u8]) -> Option<MountLine> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    Some(MountLine {
        point: unescape(fields.get(4)?),
        kind: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
        source: String::from_utf8_lossy(&unescape(fields.get(dash + 2)?)).into_owned(),
    })
}

/// The mount on top at exactly this path.
pub fn mount_on(path: &Path) -> io::Result<Option<MountLine>> {
    let wanted = path.as_os_str().as_bytes();
    Ok(mounts()?.into_iter().rev().find(|line| line.point == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_is_read_as_it_is() {
        let line = parse_mount(b"36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 - btrfs /dev/loop0 rw").unwrap();
        assert_eq!(line.point, b"/mnt/a b");
        assert_eq!((line.kind.as_str(), line.source.as_str()), ("btrfs", "/dev/loop0"));
    }

    #[test]
    fn a_line_that_is_cut_is_no_mount() {
        assert!(parse_mount(b"36 35 98:0 / /mnt").is_none());
        assert!(parse_mount(b"").is_none());
    }
}
