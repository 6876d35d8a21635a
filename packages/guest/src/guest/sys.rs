//! The system calls the guest needs, declared by hand since it has no crates, with thin safe wrappers.
//! Constants are those of Linux on x86_64 and aarch64.
#![allow(non_camel_case_types)]

use std::ffi::{CStr, CString};
use std::io;
use std::net::Ipv4Addr;
use std::os::raw::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicI32;

pub const O_RDONLY: c_int = 0;
pub const O_WRONLY: c_int = 1;
pub const O_RDWR: c_int = 2;
pub const O_CREAT: c_int = 0o100;
pub const O_EXCL: c_int = 0o200;
pub const O_NOCTTY: c_int = 0o400;
pub const O_NONBLOCK: c_int = 0o4000;
pub const O_CLOEXEC: c_int = 0o2000000;
pub const O_PATH: c_int = 0o10000000;
#[cfg(target_arch = "x86_64")]
mod arch {
    pub const O_DIRECTORY: i32 = 0o200000;
    pub const O_NOFOLLOW: i32 = 0o400000;
    pub const SYS_RT_SIGACTION: i64 = 13;
    pub const SYS_SETGROUPS: i64 = 116;
    pub const SYS_SETRESUID: i64 = 117;
    pub const SYS_SETRESGID: i64 = 119;
    pub const SYS_GETDENTS64: i64 = 217;
}
#[cfg(target_arch = "aarch64")]
mod arch {
    pub const O_DIRECTORY: i32 = 0o40000;
    pub const O_NOFOLLOW: i32 = 0o100000;
    pub const SYS_RT_SIGACTION: i64 = 134;
    pub const SYS_SETGROUPS: i64 = 159;
    pub const SYS_SETRESUID: i64 = 147;
    pub const SYS_SETRESGID: i64 = 149;
    pub const SYS_GETDENTS64: i64 = 61;
}
pub use arch::*;
pub const O_TMPFILE: c_int = 0o20000000 | O_DIRECTORY;
pub const SYS_CLOSE_RANGE: c_long = 436;
pub const SYS_PIDFD_OPEN: c_long = 434;
pub const SYS_PIDFD_SEND_SIGNAL: c_long = 424;

pub const AT_FDCWD: RawFd = -100;
pub const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
pub const AT_REMOVEDIR: c_int = 0x200;
pub const AT_SYMLINK_FOLLOW: c_int = 0x400;
pub const AT_EMPTY_PATH: c_int = 0x1000;
pub const RENAME_NOREPLACE: c_uint = 1;
pub const CLOSE_RANGE_CLOEXEC: c_uint = 4;

pub const EPERM: i32 = 1;
pub const ENOENT: i32 = 2;
pub const ESRCH: i32 = 3;
pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const E2BIG: i32 = 7;
pub const ENOEXEC: i32 = 8;
pub const EAGAIN: i32 = 11;
pub const ENOMEM: i32 = 12;
pub const EACCES: i32 = 13;
pub const EBUSY: i32 = 16;
pub const EEXIST: i32 = 17;
pub const EXDEV: i32 = 18;
pub const ENOTDIR: i32 = 20;
pub const EISDIR: i32 = 21;
pub const EINVAL: i32 = 22;
pub const ENFILE: i32 = 23;
pub const EMFILE: i32 = 24;
pub const ETXTBSY: i32 = 26;
pub const EFBIG: i32 = 27;
pub const ENOSPC: i32 = 28;
pub const EROFS: i32 = 30;
pub const ENAMETOOLONG: i32 = 36;
pub const ENOSYS: i32 = 38;
pub const ENOTEMPTY: i32 = 39;
pub const ELOOP: i32 = 40;
pub const EOPNOTSUPP: i32 = 95;
pub const ECONNREFUSED: i32 = 111;
pub const EINPROGRESS: i32 = 115;
pub const EDQUOT: i32 = 122;

pub const SIGINT: c_int = 2;
pub const SIGKILL: c_int = 9;
pub const SIGPIPE: c_int = 13;
pub const SIGTERM: c_int = 15;
pub const SIGCHLD: c_int = 17;

pub const EPOLLIN: u32 = 1;
pub const EPOLLOUT: u32 = 4;
pub const EPOLLHUP: u32 = 16;
pub const EPOLLRDHUP: u32 = 0x2000;

pub const IN_MODIFY: u32 = 0x2;
pub const IN_ATTRIB: u32 = 0x4;
pub const IN_MOVED_FROM: u32 = 0x40;
pub const IN_MOVED_TO: u32 = 0x80;
pub const IN_CREATE: u32 = 0x100;
pub const IN_DELETE: u32 = 0x200;
pub const IN_DELETE_SELF: u32 = 0x400;
pub const IN_MOVE_SELF: u32 = 0x800;
pub const IN_Q_OVERFLOW: u32 = 0x4000;
pub const IN_IGNORED: u32 = 0x8000;
pub const IN_ONLYDIR: u32 = 0x0100_0000;
pub const IN_DONT_FOLLOW: u32 = 0x0200_0000;
pub const IN_ISDIR: u32 = 0x4000_0000;

pub const TIOCSCTTY: c_ulong = 0x540E;
pub const TIOCSWINSZ: c_ulong = 0x5414;
pub const TIOCGPTN: c_ulong = 0x8004_5430;
pub const TIOCSPTLCK: c_ulong = 0x4004_5431;
pub const TIOCGPTPEER: c_ulong = 0x5441;

pub const AF_UNIX: c_int = 1;
pub const AF_INET: c_int = 2;
pub const AF_INET6: c_int = 10;
pub const SOCK_STREAM: c_int = 1;
const SOCK_DGRAM: c_int = 2;
pub const SOCK_NONBLOCK: c_int = O_NONBLOCK;
pub const SOCK_CLOEXEC: c_int = O_CLOEXEC;

pub const DT_DIR: u8 = 4;

const RLIMIT_CORE: c_int = 4;
const RLIMIT_NOFILE: c_int = 7;
const PR_SET_DUMPABLE: c_int = 4;
const PROT_READ_WRITE: c_int = 3;
const MAP_PRIVATE_ANONYMOUS: c_int = 0x22;
const MADV_DONTFORK: c_int = 10;
const M_ARENA_MAX: c_int = -8;
const M_TRIM_THRESHOLD: c_int = -1;
const M_MMAP_THRESHOLD: c_int = -3;
const FIONBIO: c_ulong = 0x5421;
const STATX_BASIC: c_uint = 0x7ff;

#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy)]
pub struct epoll_event {
    pub events: u32,
    pub data: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct rlimit {
    pub current: u64,
    pub max: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct timespec {
    pub seconds: i64,
    pub nanos: i64,
}

#[repr(C)]
pub struct iovec {
    pub base: *const c_void,
    pub length: usize,
}

#[repr(C)]
pub struct winsize {
    pub rows: u16,
    pub cols: u16,
    pub x: u16,
    pub y: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct statx_timestamp {
    seconds: i64,
    nanos: u32,
    reserved: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct statx_t {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    spare0: u16,
    pub inode: u64,
    pub size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: statx_timestamp,
    born: statx_timestamp,
    changed: statx_timestamp,
    modified: statx_timestamp,
    rdev_major: u32,
    rdev_minor: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    mount: u64,
    rest: [u64; 13],
}

impl statx_t {
    pub fn is_file(&self) -> bool {
        self.mode & 0o170000 == 0o100000
    }
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170000 == 0o040000
    }
    pub fn is_symlink(&self) -> bool {
        self.mode & 0o170000 == 0o120000
    }
    pub fn modified_nanos(&self) -> i64 {
        self.modified.seconds.wrapping_mul(1_000_000_000).wrapping_add(self.modified.nanos as i64)
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct statvfs_t {
    pub block_size: u64,
    pub fragment_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    files: [u64; 3],
    id: u64,
    flags: u64,
    name_max: u64,
    spare: [i32; 6],
}

extern "C" {
    fn read(fd: c_int, to: *mut c_void, count: usize) -> isize;
    fn write(fd: c_int, from: *const c_void, count: usize) -> isize;
    fn close(fd: c_int) -> c_int;
    fn writev(fd: c_int, parts: *const iovec, count: c_int) -> isize;
    fn pread64(fd: c_int, to: *mut c_void, count: usize, offset: i64) -> isize;
    fn lseek64(fd: c_int, offset: i64, whence: c_int) -> i64;
    fn openat(dir: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int;
    fn eventfd(initial: c_uint, flags: c_int) -> c_int;
    fn signalfd(fd: c_int, mask: *const [u64; 16], flags: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const [u64; 16], old: *mut [u64; 16]) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const c_void, length: c_uint) -> c_int;
    fn bind(fd: c_int, address: *const c_void, length: c_uint) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept4(fd: c_int, address: *mut c_void, length: *mut c_uint, flags: c_int) -> c_int;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
    fn getsockname(fd: c_int, address: *mut c_void, length: *mut c_uint) -> c_int;
    fn recvfrom(fd: c_int, to: *mut c_void, count: usize, flags: c_int, from: *mut c_void, length: *mut c_uint) -> isize;
    fn sendto(fd: c_int, bytes: *const c_void, count: usize, flags: c_int, to: *const c_void, length: c_uint) -> isize;
    fn uname(to: *mut c_char) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut c_uint) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: c_uint) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn getrlimit64(resource: c_int, limit: *mut rlimit) -> c_int;
    fn setrlimit64(resource: c_int, limit: *const rlimit) -> c_int;
    fn statx(dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut statx_t) -> c_int;
    fn statvfs64(path: *const c_char, to: *mut statvfs_t) -> c_int;
    fn syncfs(fd: c_int) -> c_int;
    fn fsync(fd: c_int) -> c_int;
    fn inotify_init1(flags: c_int) -> c_int;
    fn inotify_add_watch(fd: c_int, path: *const c_char, mask: u32) -> c_int;
    fn inotify_rm_watch(fd: c_int, watch: c_int) -> c_int;
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
    fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
    fn mkdirat(dir: c_int, path: *const c_char, mode: c_uint) -> c_int;
    fn renameat2(from: c_int, a: *const c_char, to: c_int, b: *const c_char, flags: c_uint) -> c_int;
    fn linkat(from: c_int, a: *const c_char, to: c_int, b: *const c_char, flags: c_int) -> c_int;
    fn fchownat(dir: c_int, path: *const c_char, uid: c_uint, gid: c_uint, flags: c_int) -> c_int;
    fn fchown(fd: c_int, uid: c_uint, gid: c_uint) -> c_int;
    fn futimens(fd: c_int, times: *const timespec) -> c_int;
    fn fchmod(fd: c_int, mode: c_uint) -> c_int;
    fn fchmodat(dir: c_int, path: *const c_char, mode: c_uint, flags: c_int) -> c_int;
    fn readlinkat(dir: c_int, path: *const c_char, to: *mut c_char, size: usize) -> isize;
    fn clock_gettime(clock: c_int, to: *mut timespec) -> c_int;
    fn clock_settime(clock: c_int, to: *const timespec) -> c_int;
    fn mmap(at: *mut c_void, length: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn munmap(at: *mut c_void, length: usize) -> c_int;
    fn madvise(at: *mut c_void, length: usize, advice: c_int) -> c_int;
    fn mallopt(option: c_int, value: c_int) -> c_int;
    fn clone(
        run: extern "C" fn(*mut c_void) -> c_int,
        stack: *mut c_void,
        flags: c_int,
        with: *mut c_void,
        ...
    ) -> c_int;
    fn getrandom(to: *mut c_void, count: usize, flags: c_uint) -> isize;
    // For the child between fork and exec; everything there must be a bare system call.
    pub fn syscall(number: c_long, ...) -> c_long;
    pub fn setsid() -> c_int;
    pub fn dup2(from: c_int, to: c_int) -> c_int;
    pub fn chdir(path: *const c_char) -> c_int;
    pub fn umask(mode: c_uint) -> c_uint;
    pub fn execve(path: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int;
    pub fn _exit(code: c_int) -> !;
    pub fn getuid() -> c_uint;
    pub fn getpid() -> c_int;
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_size(result: isize) -> io::Result<usize> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// Takes ownership of a descriptor a call just returned.
fn own(result: c_int) -> io::Result<OwnedFd> {
    // SAFETY: `check` let only a fresh descriptor pass, which nobody else owns.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(EIO)
}

pub fn last_errno() -> i32 {
    errno(&io::Error::last_os_error())
}

pub fn would_block(error: &io::Error) -> bool {
    matches!(errno(error), EAGAIN | EINTR)
}

pub fn cstring(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(EINVAL))
}

pub fn read_fd(fd: RawFd, to: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length.
    check_size(unsafe { read(fd, to.as_mut_ptr().cast(), to.len()) })
}

/// read(2) into raw memory, for `FrameDecoder::fill`.
///
/// # Safety
/// `to` must be writable for `count` bytes.
pub unsafe fn read_raw(fd: RawFd, to: *mut u8, count: usize) -> isize {
    read(fd, to.cast(), count)
}

pub fn write_fd(fd: RawFd, from: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length.
    check_size(unsafe { write(fd, from.as_ptr().cast(), from.len()) })
}

pub fn write_parts(fd: RawFd, parts: &[iovec]) -> io::Result<usize> {
    // SAFETY: callers build the parts from live slices.
    check_size(unsafe { writev(fd, parts.as_ptr(), parts.len() as c_int) })
}

pub fn pread_fd(fd: RawFd, to: &mut [u8], offset: u64) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length.
    check_size(unsafe { pread64(fd, to.as_mut_ptr().cast(), to.len(), offset as i64) })
}

pub fn rewind(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory involved.
    if unsafe { lseek64(fd, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub fn open_at(dir: RawFd, path: &CStr, flags: c_int, mode: c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the path is NUL-terminated.
    own(unsafe { openat(dir, path.as_ptr(), flags | O_CLOEXEC, mode) })
}

/// At most `limit` bytes of a regular file, without ever blocking on a FIFO or following a last symlink; None for anything else.
pub fn read_small(path: &str, limit: usize) -> Option<Vec<u8>> {
    let path = cstring(path.as_bytes()).ok()?;
    let fd = open_at(AT_FDCWD, &path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY, 0).ok()?;
    if !stat_fd(fd.as_raw_fd()).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 4096];
    while bytes.len() < limit {
        let want = chunk.len().min(limit - bytes.len());
        match read_fd(fd.as_raw_fd(), &mut chunk[..want]) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if errno(&error) == EINTR => continue,
            Err(_) => return None,
        }
    }
    Some(bytes)
}

/// Both ends close on exec; each is non-blocking only where asked.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors; both are fresh.
    check(unsafe { pipe2(fds.as_mut_ptr(), O_CLOEXEC) })?;
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    set_waiting(fd, 1)
}

pub fn set_blocking(fd: RawFd) -> io::Result<()> {
    set_waiting(fd, 0)
}

fn set_waiting(fd: RawFd, nonblocking: c_int) -> io::Result<()> {
    // SAFETY: FIONBIO reads one int. Unlike F_SETFL it needs one call.
    check(unsafe { ioctl(fd, FIONBIO, &nonblocking as *const c_int) }).map(drop)
}

pub fn set_cloexec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an int.
    check(unsafe { fcntl(fd, 2, 1 as c_int) }).map(drop)
}

pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an int.
    own(unsafe { fcntl(fd, 1030, 3 as c_int) })
}

pub fn keep_on_exec(fd: RawFd) {
    // SAFETY: F_SETFD takes an int.
    unsafe { fcntl(fd, 2, 0 as c_int) };
}

/// For the child: a plain number, closed by hand.
pub fn open_bare(path: &CStr, flags: c_int) -> c_int {
    // SAFETY: the path is NUL-terminated.
    unsafe { openat(AT_FDCWD, path.as_ptr(), flags | O_CLOEXEC) }
}

/// # Safety
/// Nobody else may own the descriptor.
pub unsafe fn close_bare(fd: c_int) {
    close(fd);
}

pub fn seal(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_ADD_SEALS takes an int; 15 = seal, shrink, grow, write.
    check(unsafe { fcntl(fd, 1033, 15 as c_int) }).map(drop)
}

pub fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated; 3 = close on exec, sealing allowed.
    own(unsafe { memfd_create(b"script\0".as_ptr().cast(), 3) })
}

pub fn new_epoll() -> io::Result<OwnedFd> {
    // SAFETY: no memory involved.
    own(unsafe { epoll_create1(O_CLOEXEC) })
}

pub fn epoll_control(epoll: RawFd, op: c_int, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
    let mut event = epoll_event { events, data };
    // SAFETY: the event lives through the call.
    check(unsafe { epoll_ctl(epoll, op, fd, &mut event) }).map(drop)
}

pub fn epoll_pause(epoll: RawFd, events: &mut [epoll_event], timeout_ms: c_int) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length.
    let count = unsafe { epoll_wait(epoll, events.as_mut_ptr(), events.len() as c_int, timeout_ms) };
    check(count).map(|count| count as usize)
}

pub fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory involved.
    own(unsafe { eventfd(0, O_CLOEXEC | O_NONBLOCK) })
}

fn mask_of(signals: &[c_int]) -> [u64; 16] {
    let mut mask = [0; 16];
    for signal in signals {
        mask[0] |= 1 << (signal - 1);
    }
    mask
}

/// Blocks the signals in this thread (and those it starts) and gives the descriptor that reports them.
pub fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    let mask = mask_of(signals);
    // SAFETY: the mask lives through both calls; 2 = SIG_SETMASK.
    unsafe {
        pthread_sigmask(2, &mask, std::ptr::null_mut());
        own(signalfd(-1, &mask, O_CLOEXEC | O_NONBLOCK))
    }
}

/// For the child: an empty mask and SIGPIPE as it comes by default.
pub fn reset_signals() {
    let mask = [0; 16];
    // SAFETY: the mask lives through the call; 0 = SIG_DFL.
    unsafe {
        signal(SIGPIPE, 0);
        pthread_sigmask(2, &mask, std::ptr::null_mut());
    }
}

/// Gives every signal its default, so that a child needs to reset only what this process ignores (SIGPIPE).
/// By the bare system call, since the library keeps 32 and 33 to itself, and some starters leave those ignored.
pub fn default_signals() {
    // All zero is SIG_DFL without flags or mask, in each architecture's layout.
    let action = [0u64; 4];
    for number in 1..=64 as c_long {
        // SAFETY: the action lives through the call; signals that cannot be set answer an error, which is fine.
        unsafe { syscall(SYS_RT_SIGACTION, number, action.as_ptr(), std::ptr::null::<u64>(), 8 as c_long) };
    }
    // SAFETY: 1 = SIG_IGN.
    unsafe { signal(SIGPIPE, 1) };
}

pub fn stream_socket(family: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory involved.
    own(unsafe { socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) })
}

pub fn connect_to(fd: RawFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: the address is valid for its length.
    check(unsafe { connect(fd, address.as_ptr().cast(), address.len() as c_uint) }).map(drop)
}

pub fn listen_at(path: &[u8]) -> io::Result<OwnedFd> {
    let mut address = (AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(path);
    address.push(0);
    if address.len() > 110 {
        return Err(io::Error::from_raw_os_error(ENAMETOOLONG));
    }
    let fd = stream_socket(AF_UNIX)?;
    // SAFETY: the address is valid for its length.
    check(unsafe { bind(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as c_uint) })?;
    check(unsafe { listen(fd.as_raw_fd(), 64) })?;
    Ok(fd)
}

/// A `sockaddr_in`.
pub type AddressV4 = [u8; 16];

fn address_v4(address: Ipv4Addr, port: u16) -> AddressV4 {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

fn bind_v4(kind: c_int, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let address = address_v4(address, port);
    // SAFETY: no memory involved, then an address valid for its length.
    let fd = own(unsafe { socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) })?;
    check(unsafe { bind(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as c_uint) })?;
    Ok(fd)
}

pub fn listen_v4(address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let fd = bind_v4(SOCK_STREAM, address, port)?;
    // SAFETY: no memory involved. The kernel lowers it to its own limit.
    check(unsafe { listen(fd.as_raw_fd(), 4096) })?;
    Ok(fd)
}

/// `waiting_bytes`: of what came and was not read yet, the kernel's own bytes for each included. It keeps less where its limit
/// (`net.core.rmem_max`) is lower, and with the usual limit still twice what it keeps unasked.
pub fn datagrams_v4(address: Ipv4Addr, port: u16, waiting_bytes: c_int) -> io::Result<OwnedFd> {
    let fd = bind_v4(SOCK_DGRAM, address, port)?;
    // It doubles what it is told, since it counts its own bytes too.
    let half = waiting_bytes / 2;
    // SAFETY: one int is read; 1 = SOL_SOCKET, 8 = SO_RCVBUF.
    unsafe { setsockopt(fd.as_raw_fd(), 1, 8, (&half as *const c_int).cast(), 4) };
    Ok(fd)
}

/// The address a connection came to.
pub fn local_address(fd: RawFd) -> io::Result<(Ipv4Addr, u16)> {
    let mut bytes: AddressV4 = [0; 16];
    let mut length = bytes.len() as c_uint;
    // SAFETY: room for one sockaddr_in, and its length.
    check(unsafe { getsockname(fd, bytes.as_mut_ptr().cast(), &mut length) })?;
    if u16::from_ne_bytes([bytes[0], bytes[1]]) != AF_INET as u16 {
        return Err(io::Error::from_raw_os_error(EINVAL));
    }
    Ok((Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]), u16::from_be_bytes([bytes[2], bytes[3]])))
}

pub fn receive_from(fd: RawFd, to: &mut [u8]) -> io::Result<(usize, AddressV4)> {
    let mut from: AddressV4 = [0; 16];
    let mut length = from.len() as c_uint;
    // SAFETY: both are writable for their lengths.
    let count = check_size(unsafe {
        recvfrom(fd, to.as_mut_ptr().cast(), to.len(), 0, from.as_mut_ptr().cast(), &mut length)
    })?;
    Ok((count, from))
}

pub fn send_to(fd: RawFd, bytes: &[u8], to: &AddressV4) -> io::Result<usize> {
    // SAFETY: both are readable for their lengths.
    check_size(unsafe { sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, to.as_ptr().cast(), to.len() as c_uint) })
}

/// Makes the close of a connection tell the other side that it broke.
pub fn reset_on_close(fd: RawFd) {
    let linger: [c_int; 2] = [1, 0];
    // SAFETY: two ints are read; 1 = SOL_SOCKET, 13 = SO_LINGER.
    unsafe { setsockopt(fd, 1, 13, linger.as_ptr().cast(), 8) };
}

/// The sandbox's host name; empty where there is none.
pub fn host_name() -> String {
    const FIELD_BYTES: usize = 65;
    let mut fields: [c_char; 6 * FIELD_BYTES] = [0; 6 * FIELD_BYTES];
    // SAFETY: room for one utsname: six fields that end with NUL.
    unsafe { uname(fields.as_mut_ptr()) };
    let name = fields[FIELD_BYTES..2 * FIELD_BYTES].iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8);
    String::from_utf8(name.collect()).unwrap_or_default()
}

pub fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no address is asked for.
    own(unsafe { accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), SOCK_NONBLOCK | SOCK_CLOEXEC) })
}

pub fn shutdown_write(fd: RawFd) {
    // SAFETY: no memory involved; 1 = SHUT_WR. An error means that it is over anyway.
    unsafe { shutdown(fd, 1) };
}

/// SO_ERROR: how a connect that went on in the background ended.
pub fn socket_error(fd: RawFd) -> i32 {
    let mut value: c_int = 0;
    let mut length: c_uint = 4;
    // SAFETY: room for one int.
    let result = unsafe { getsockopt(fd, 1, 4, (&mut value as *mut c_int).cast(), &mut length) };
    if result < 0 {
        EIO
    } else {
        value
    }
}

pub fn no_delay(fd: RawFd) {
    let on: c_int = 1;
    // SAFETY: one int is read; 6 = IPPROTO_TCP, 1 = TCP_NODELAY.
    unsafe { setsockopt(fd, 6, 1, (&on as *const c_int).cast(), 4) };
}

pub fn send_signal(pid: c_int, number: c_int) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(unsafe { kill(pid, number) }).map(drop)
}

pub fn pidfd(pid: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory involved.
    own(unsafe { syscall(SYS_PIDFD_OPEN, pid as c_long, 0 as c_long) } as c_int)
}

pub fn pidfd_signal(fd: RawFd, number: c_int) -> io::Result<()> {
    // SAFETY: no siginfo is passed.
    let none = std::ptr::null::<c_void>();
    check(unsafe { syscall(SYS_PIDFD_SEND_SIGNAL, fd as c_long, number as c_long, none, 0 as c_long) } as c_int)
        .map(drop)
}

/// Starts `run` in a child that shares this memory, and waits until it executes a program or ends (CLONE_VM, CLONE_VFORK,
/// CLONE_PARENT_SETTID).
///
/// # Safety
/// `run` must not return, nor touch anything but `with`, the stack and system calls.
pub unsafe fn start_child<T>(
    run: extern "C" fn(*mut c_void) -> c_int,
    stack: &mut [u128],
    with: &T,
    pid: &AtomicI32,
) -> io::Result<c_int> {
    let top = stack.as_mut_ptr().add(stack.len());
    let flags = 0x100 | 0x4000 | 0x0010_0000 | SIGCHLD;
    check(clone(run, top.cast(), flags, with as *const T as *mut c_void, (pid as *const AtomicI32).cast::<c_int>()))
}

/// One child that ended, without waiting: its pid and raw wait status.
pub fn reap() -> Option<(c_int, c_int)> {
    let mut status = 0;
    // SAFETY: room for one int; 1 = WNOHANG.
    let pid = unsafe { waitpid(-1, &mut status, 1) };
    if pid > 0 {
        Some((pid, status))
    } else {
        None
    }
}

/// Processes in the box cannot trace the guest or read its memory.
pub fn forbid_tracing() {
    // SAFETY: takes integers only.
    unsafe { prctl(PR_SET_DUMPABLE, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) };
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files() -> u64 {
    let mut limit = rlimit { current: 1024, max: 1024 };
    // SAFETY: room for one rlimit.
    unsafe {
        getrlimit64(RLIMIT_NOFILE, &mut limit);
        limit.current = limit.max;
        setrlimit64(RLIMIT_NOFILE, &limit);
    }
    limit.max
}

/// For the child: no core files, and open files at a figure that programs looping over all of them survive.
pub fn child_limits(open_files: u64) {
    let core = rlimit { current: 0, max: 0 };
    let files = rlimit { current: open_files.min(65_536), max: open_files };
    // SAFETY: both live through the calls.
    unsafe {
        setrlimit64(RLIMIT_CORE, &core);
        setrlimit64(RLIMIT_NOFILE, &files);
    }
}

pub fn stat_at(dir: RawFd, path: &CStr, flags: c_int) -> io::Result<statx_t> {
    let mut to = statx_t::default();
    // SAFETY: the path is NUL-terminated and `to` has statx's layout.
    check(unsafe { statx(dir, path.as_ptr(), flags, STATX_BASIC, &mut to) })?;
    Ok(to)
}

pub fn stat_fd(fd: RawFd) -> io::Result<statx_t> {
    let empty = CString::default();
    stat_at(fd, &empty, AT_EMPTY_PATH)
}

pub fn file_system(path: &CStr) -> io::Result<statvfs_t> {
    let mut to = statvfs_t::default();
    // SAFETY: the path is NUL-terminated and `to` has statvfs's layout.
    check(unsafe { statvfs64(path.as_ptr(), &mut to) })?;
    Ok(to)
}

pub fn sync_file_system(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(unsafe { syncfs(fd) }).map(drop)
}

pub fn sync_file(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(unsafe { fsync(fd) }).map(drop)
}

pub fn new_inotify() -> io::Result<OwnedFd> {
    // SAFETY: no memory involved.
    own(unsafe { inotify_init1(O_CLOEXEC | O_NONBLOCK) })
}

pub fn add_watch(fd: RawFd, path: &CStr, mask: u32) -> io::Result<c_int> {
    // SAFETY: the path is NUL-terminated.
    check(unsafe { inotify_add_watch(fd, path.as_ptr(), mask) })
}

pub fn remove_watch(fd: RawFd, watch: c_int) {
    // SAFETY: no memory involved. An error means that the watch went with its folder.
    unsafe { inotify_rm_watch(fd, watch) };
}

pub fn unlink_at(dir: RawFd, path: &CStr, flags: c_int) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    check(unsafe { unlinkat(dir, path.as_ptr(), flags) }).map(drop)
}

pub fn mkdir_at(dir: RawFd, path: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    check(unsafe { mkdirat(dir, path.as_ptr(), mode) }).map(drop)
}

pub fn rename_at(from: RawFd, a: &CStr, to: RawFd, b: &CStr, flags: c_uint) -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated.
    check(unsafe { renameat2(from, a.as_ptr(), to, b.as_ptr(), flags) }).map(drop)
}

/// Gives a nameless file (O_TMPFILE) a name.
pub fn link_fd(fd: RawFd, dir: RawFd, name: &CStr) -> io::Result<()> {
    let path = cstring(format!("/proc/self/fd/{fd}").as_bytes())?;
    // SAFETY: both paths are NUL-terminated.
    check(unsafe { linkat(AT_FDCWD, path.as_ptr(), dir, name.as_ptr(), AT_SYMLINK_FOLLOW) }).map(drop)
}

pub fn chown_at(dir: RawFd, path: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    check(unsafe { fchownat(dir, path.as_ptr(), uid, gid, AT_SYMLINK_NOFOLLOW) }).map(drop)
}

pub fn chown_fd(fd: RawFd, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(unsafe { fchown(fd, uid, gid) }).map(drop)
}

/// Sets when a file was changed last; when it was read last stays.
pub fn set_modified(fd: RawFd, seconds: i64) -> io::Result<()> {
    const UTIME_OMIT: i64 = (1 << 30) - 2;
    let times = [timespec { seconds: 0, nanos: UTIME_OMIT }, timespec { seconds, nanos: 0 }];
    // SAFETY: two times, as it wants, and a descriptor of the caller's.
    check(unsafe { futimens(fd, times.as_ptr()) }).map(drop)
}

pub fn chmod_fd(fd: RawFd, mode: u32) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(unsafe { fchmod(fd, mode) }).map(drop)
}

pub fn chmod_at(dir: RawFd, path: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    check(unsafe { fchmodat(dir, path.as_ptr(), mode, 0) }).map(drop)
}

pub fn read_link(dir: RawFd, path: &CStr) -> io::Result<Vec<u8>> {
    let mut target = vec![0u8; 4096];
    // SAFETY: the path is NUL-terminated and the buffer valid for its length.
    let count = check_size(unsafe { readlinkat(dir, path.as_ptr(), target.as_mut_ptr().cast(), target.len()) })?;
    target.truncate(count);
    Ok(target)
}

pub fn directory_entries(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its length.
    let count = unsafe { syscall(SYS_GETDENTS64, fd as c_long, buffer.as_mut_ptr(), buffer.len()) };
    check_size(count as isize)
}

/// Calls `each` with the name and d_type of every entry in what `directory_entries` filled, but `.` and `..`.
pub fn each_entry(buffer: &[u8], mut each: impl FnMut(&[u8], u8)) {
    let mut at = 0;
    while at + 19 <= buffer.len() {
        let length = u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]) as usize;
        if length < 20 || at + length > buffer.len() {
            return;
        }
        let kind = buffer[at + 18];
        let field = &buffer[at + 19..at + length];
        let name = &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())];
        if name != b"." && name != b".." {
            each(name, kind);
        }
        at += length;
    }
}

fn clock_ms(clock: c_int) -> u64 {
    let mut now = timespec { seconds: 0, nanos: 0 };
    // SAFETY: room for one timespec.
    unsafe { clock_gettime(clock, &mut now) };
    now.seconds as u64 * 1000 + now.nanos as u64 / 1_000_000
}

/// CLOCK_MONOTONIC.
pub fn monotonic_ms() -> u64 {
    clock_ms(1)
}

pub fn unix_ms() -> u64 {
    clock_ms(0)
}

pub fn set_clock(unix_nanos: u64) -> io::Result<()> {
    let now = timespec { seconds: (unix_nanos / 1_000_000_000) as i64, nanos: (unix_nanos % 1_000_000_000) as i64 };
    // SAFETY: the timespec lives through the call.
    check(unsafe { clock_settime(0, &now) }).map(drop)
}

/// One malloc arena, and large buffers returned at once: a thread of its own arena would cost the idle guest resident memory.
pub fn tune_malloc() {
    // SAFETY: takes integers only.
    unsafe {
        mallopt(M_ARENA_MAX, 1);
        mallopt(M_TRIM_THRESHOLD, 256 << 10);
        mallopt(M_MMAP_THRESHOLD, 1 << 20);
    }
}

pub fn random_bytes(to: &mut [u8]) -> io::Result<()> {
    // SAFETY: the slice is valid for its length.
    let count = check_size(unsafe { getrandom(to.as_mut_ptr().cast(), to.len(), 0) })?;
    if count == to.len() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(EIO))
    }
}

/// Opens the other side of a PTY by its master, so that nothing in /dev/pts can stand in for it.
pub fn pty_pair(cols: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = open_at(AT_FDCWD, &cstring(b"/dev/ptmx")?, O_RDWR | O_NOCTTY | O_NONBLOCK, 0)?;
    let fd = master.as_raw_fd();
    let unlock: c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, TIOCGPTPEER takes flags, TIOCGPTN writes one int.
    let slave = unsafe {
        check(ioctl(fd, TIOCSPTLCK, &unlock as *const c_int))?;
        let peer = ioctl(fd, TIOCGPTPEER, (O_RDWR | O_NOCTTY | O_CLOEXEC) as c_ulong);
        if peer >= 0 {
            OwnedFd::from_raw_fd(peer)
        } else {
            let mut number: c_int = 0;
            check(ioctl(fd, TIOCGPTN, &mut number as *mut c_int))?;
            let path = cstring(format!("/dev/pts/{number}").as_bytes())?;
            // Should something else lie there, opening it must not wait; the program's reads must.
            let opened = open_at(AT_FDCWD, &path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW, 0)?;
            set_blocking(opened.as_raw_fd())?;
            opened
        }
    };
    resize_pty(fd, cols, rows)?;
    Ok((master, slave))
}

pub fn resize_pty(fd: RawFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = winsize { rows, cols, x: 0, y: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { ioctl(fd, TIOCSWINSZ, &size as *const winsize) }).map(drop)
}

pub fn take_terminal(fd: RawFd) -> bool {
    // SAFETY: takes an int.
    unsafe { ioctl(fd, TIOCSCTTY, 0 as c_ulong) >= 0 }
}

/// Anonymous memory that a fork does not copy: output kept here costs the start of the next program nothing.
pub struct Mapping {
    at: *mut u8,
    length: usize,
}

// SAFETY: the mapping is owned like a Box<[u8]>.
unsafe impl Send for Mapping {}

impl Mapping {
    pub fn new(length: usize) -> io::Result<Mapping> {
        // SAFETY: a fresh private mapping; madvise concerns only it.
        unsafe {
            let at = mmap(std::ptr::null_mut(), length, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
            if at as isize == -1 {
                return Err(io::Error::last_os_error());
            }
            madvise(at, length, MADV_DONTFORK);
            Ok(Mapping { at: at.cast(), length })
        }
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, zeroed by the kernel, owned.
        unsafe { std::slice::from_raw_parts(self.at, self.length) }
    }
}

impl std::ops::DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped, zeroed by the kernel, owned and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        unsafe { munmap(self.at.cast(), self.length) };
    }
}

pub fn process_id() -> i32 {
    // SAFETY: no memory involved.
    unsafe { getpid() }
}

/// True where this process is not root and the uid is its own.
pub fn is_own(uid: u32) -> bool {
    // SAFETY: no memory involved.
    let own = unsafe { getuid() };
    own != 0 && own == uid
}

/// Closes what was inherited beyond the standard streams and `kept`: a descriptor of the host's must not reach a program.
pub fn close_inherited(kept: &[Option<RawFd>]) {
    let listed: Vec<RawFd> = std::fs::read_dir("/proc/self/fd").map_or_else(
        |_| (3..1024).collect(),
        |entries| entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
    );
    for fd in listed {
        if fd > 2 && !kept.contains(&Some(fd)) {
            // SAFETY: nothing in this process has opened or taken over any of these yet; the directory read is closed.
            unsafe { close(fd) };
        }
    }
}
