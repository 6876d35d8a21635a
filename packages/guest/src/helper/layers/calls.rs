//! System calls of the layers: by descriptor and one name, never by a path that something in the tree could bend.

use std::ffi::{CStr, CString};
use std::io;
use std::os::raw::{c_char, c_int, c_long, c_void};
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::helper::ffi;

extern "C" {
    fn readlinkat(directory: c_int, path: *const c_char, buffer: *mut c_char, length: usize) -> isize;
    fn symlinkat(target: *const c_char, directory: c_int, path: *const c_char) -> c_int;
    fn linkat(from: c_int, old: *const c_char, to: c_int, new: *const c_char, flags: c_int) -> c_int;
    fn fchmodat(directory: c_int, path: *const c_char, mode: u32, flags: c_int) -> c_int;
    fn mknodat(directory: c_int, path: *const c_char, mode: u32, device: u64) -> c_int;
    fn utimensat(directory: c_int, path: *const c_char, times: *const Timespec, flags: c_int) -> c_int;
    fn futimens(fd: c_int, times: *const Timespec) -> c_int;
    fn flistxattr(fd: c_int, list: *mut c_char, length: usize) -> isize;
    fn fgetxattr(fd: c_int, name: *const c_char, value: *mut c_void, length: usize) -> isize;
    fn fsetxattr(fd: c_int, name: *const c_char, value: *const c_void, length: usize, flags: c_int) -> c_int;
    fn fremovexattr(fd: c_int, name: *const c_char) -> c_int;
    fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
    fn pread(fd: c_int, buffer: *mut c_void, length: usize, offset: i64) -> isize;
    fn pwrite(fd: c_int, buffer: *const c_void, length: usize, offset: i64) -> isize;
    fn ftruncate(fd: c_int, length: i64) -> c_int;
    fn posix_fadvise(fd: c_int, offset: i64, length: i64, advice: c_int) -> c_int;
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const STATX: i64 = 332;
    pub const GETDENTS64: i64 = 217;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const STATX: i64 = 291;
    pub const GETDENTS64: i64 = 61;
}
const OPENAT2: i64 = 437;

const O_WRONLY: c_int = 1;
const O_CREAT: c_int = 0o100;
const O_EXCL: c_int = 0o200;
const O_NONBLOCK: c_int = 0o4000;
const O_NOATIME: c_int = 0o1000000;
/// Beneath the folder, through no symlink (nor /proc's magic ones) and into no other mount.
const RESOLVE: u64 = 0x08 | 0x04 | 0x02 | 0x01;
const STATX_BASIC: u32 = 0x7ff;
const AT_STATX_DONT_SYNC: c_int = 0x4000;
const UTIME_OMIT: i64 = 0x3fff_fffe;
const SEEK_DATA: c_int = 3;
const SEEK_HOLE: c_int = 4;
const FADV_SEQUENTIAL: c_int = 2;

pub const ENOENT: i32 = 2;
pub const ENXIO: i32 = 6;
pub const EEXIST: i32 = 17;
pub const EXDEV: i32 = 18;
pub const EINVAL: i32 = 22;
pub const ERANGE: i32 = 34;
pub const ENOTEMPTY: i32 = 39;
const ENODATA: i32 = 61;
const ENOTSUP: i32 = 95;

const S_IFMT: u32 = 0o170000;
pub const S_IFIFO: u32 = 0o010000;
pub const S_IFCHR: u32 = 0o020000;

/// Seconds and nanoseconds since 1970.
pub type Time = (i64, u32);

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct StatxTime {
    seconds: i64,
    nanoseconds: u32,
    pad: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Statx {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad: u16,
    inode: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: StatxTime,
    born: StatxTime,
    changed: StatxTime,
    modified: StatxTime,
    device: [u32; 2],
    on_device: [u32; 2],
    rest: [u64; 14],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Symlink,
    Fifo,
    /// The overlay's mark that a name of a lower layer is gone: a character device 0:0.
    Whiteout,
    /// Sockets and devices, which no layer carries.
    Skipped,
}

#[derive(Debug, Clone, Copy)]
pub struct Stat {
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub inode: u64,
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub modified: Time,
    pub changed: Time,
}

impl Stat {
    pub fn is_folder(&self) -> bool {
        self.kind == Kind::Folder
    }

    /// Whether parts of it may take no room on disk.
    pub fn may_have_holes(&self) -> bool {
        self.kind == Kind::File && self.blocks.saturating_mul(512) < self.size
    }
}

fn kind_of(mode: u32, device: [u32; 2]) -> Kind {
    match mode & S_IFMT {
        0o100000 => Kind::File,
        0o040000 => Kind::Folder,
        0o120000 => Kind::Symlink,
        S_IFIFO => Kind::Fifo,
        S_IFCHR if device == [0, 0] => Kind::Whiteout,
        _ => Kind::Skipped,
    }
}

fn check(result: isize) -> io::Result<usize> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as usize)
}

/// One name in a folder, or with an empty name the open file itself.
pub fn stat_at(folder: RawFd, name: &CStr) -> io::Result<Stat> {
    let mut out = Statx::default();
    let flags = ffi::AT_SYMLINK_NOFOLLOW | ffi::AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
    // SAFETY: the name is NUL-terminated and `out` has the kernel's layout; both live through the call.
    ffi::check_long(unsafe {
        ffi::syscall(
            number::STATX as c_long,
            folder as c_long,
            name.as_ptr(),
            flags as c_long,
            STATX_BASIC as c_long,
            &mut out as *mut Statx,
        )
    })?;
    let mode = u32::from(out.mode);
    Ok(Stat {
        kind: kind_of(mode, out.device),
        mode: mode & 0o7777,
        uid: out.uid,
        gid: out.gid,
        links: out.links,
        inode: out.inode,
        size: out.size,
        blocks: out.blocks,
        modified: (out.modified.seconds, out.modified.nanoseconds),
        changed: (out.changed.seconds, out.changed.nanoseconds),
    })
}

pub fn stat(file: &impl AsRawFd) -> io::Result<Stat> {
    // SAFETY: a literal with its NUL.
    stat_at(file.as_raw_fd(), unsafe { CStr::from_bytes_with_nul_unchecked(b"\0") })
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn open_beneath(folder: RawFd, path: &CStr, flags: c_int, mode: u32) -> io::Result<OwnedFd> {
    let how = OpenHow {
        flags: (flags | ffi::O_CLOEXEC) as u64,
        mode: u64::from(mode),
        resolve: RESOLVE,
    };
    // SAFETY: both pointers live through the call and the size is the struct's.
    let fd = ffi::check_long(unsafe {
        ffi::syscall(
            OPENAT2 as c_long,
            folder as c_long,
            path.as_ptr(),
            &how as *const OpenHow,
            std::mem::size_of::<OpenHow>() as c_long,
        )
    })?;
    ffi::own(fd as c_int)
}

pub fn open_folder(folder: RawFd, path: &CStr) -> io::Result<OwnedFd> {
    open_beneath(
        folder,
        path,
        ffi::O_RDONLY | ffi::O_DIRECTORY | ffi::O_NOFOLLOW | O_NOATIME,
        0,
    )
}

/// For reading. A fifo does not block it.
pub fn open_file(folder: RawFd, name: &CStr) -> io::Result<OwnedFd> {
    open_beneath(
        folder,
        name,
        ffi::O_RDONLY | ffi::O_NOFOLLOW | O_NOATIME | O_NONBLOCK,
        0,
    )
}

/// A name that is not there yet.
pub fn create_file(folder: RawFd, name: &CStr) -> io::Result<OwnedFd> {
    open_beneath(folder, name, O_WRONLY | O_CREAT | O_EXCL | ffi::O_NOFOLLOW, 0o600)
}

/// A layer's root without what the host has mounted below it, as an overlay sees it.
pub fn open_lower(path: &Path) -> io::Result<OwnedFd> {
    let path = ffi::c_path(path)?;
    let flags = ffi::OPEN_TREE_CLONE | ffi::OPEN_TREE_CLOEXEC | ffi::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path lives through the call.
    let tree = ffi::check_long(unsafe {
        ffi::syscall(
            ffi::SYS_OPEN_TREE,
            ffi::AT_FDCWD as c_long,
            path.as_ptr(),
            flags as c_long,
        )
    })?;
    let tree = ffi::own(tree as c_int)?;
    // SAFETY: a literal with its NUL.
    let here = unsafe { CStr::from_bytes_with_nul_unchecked(b".\0") };
    open_folder(tree.as_raw_fd(), here)
}

pub fn make_folder(folder: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: the name lives through the call.
    check(unsafe { ffi::mkdirat(folder, name.as_ptr(), 0o700) } as isize).map(drop)
}

pub fn make_symlink(folder: RawFd, name: &CStr, target: &CStr) -> io::Result<()> {
    // SAFETY: both strings live through the call.
    check(unsafe { symlinkat(target.as_ptr(), folder, name.as_ptr()) } as isize).map(drop)
}

/// A fifo, or a whiteout (`S_IFCHR`).
pub fn make_node(folder: RawFd, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { mknodat(folder, name.as_ptr(), mode, 0) } as isize).map(drop)
}

pub fn make_link(from: RawFd, old: &CStr, to: RawFd, new: &CStr) -> io::Result<()> {
    // SAFETY: as above. Without AT_SYMLINK_FOLLOW.
    check(unsafe { linkat(from, old.as_ptr(), to, new.as_ptr(), 0) } as isize).map(drop)
}

pub fn unlink(folder: RawFd, name: &CStr, is_folder: bool) -> io::Result<()> {
    let flags = if is_folder { ffi::AT_REMOVEDIR } else { 0 };
    // SAFETY: as above.
    check(unsafe { ffi::unlinkat(folder, name.as_ptr(), flags) } as isize).map(drop)
}

/// The target of a symlink, into `buffer`.
pub fn read_link<'a>(folder: RawFd, name: &CStr, buffer: &'a mut [u8; 4096]) -> io::Result<&'a [u8]> {
    // SAFETY: the buffer is writable for the given length.
    let length = check(unsafe { readlinkat(folder, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })?;
    Ok(&buffer[..length])
}

pub fn set_owner(folder: RawFd, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    let flags = ffi::AT_SYMLINK_NOFOLLOW | ffi::AT_EMPTY_PATH;
    // SAFETY: as above.
    check(unsafe { ffi::fchownat(folder, name.as_ptr(), uid, gid, flags) } as isize).map(drop)
}

pub fn set_mode(file: RawFd, mode: u32) -> io::Result<()> {
    // SAFETY: a plain descriptor.
    check(unsafe { ffi::fchmod(file, mode) } as isize).map(drop)
}

/// Of something that is no symlink.
pub fn set_mode_at(folder: RawFd, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the name lives through the call.
    check(unsafe { fchmodat(folder, name.as_ptr(), mode, 0) } as isize).map(drop)
}

/// The same folder by a descriptor of its own.
pub fn reopen(folder: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a literal with its NUL.
    open_folder(folder, unsafe { CStr::from_bytes_with_nul_unchecked(b".\0") })
}

fn times(modified: Time) -> [Timespec; 2] {
    let accessed = Timespec {
        seconds: 0,
        nanoseconds: UTIME_OMIT,
    };
    [
        accessed,
        Timespec {
            seconds: modified.0,
            nanoseconds: i64::from(modified.1),
        },
    ]
}

pub fn set_time_at(folder: RawFd, name: &CStr, modified: Time) -> io::Result<()> {
    let times = times(modified);
    // SAFETY: both pointers live through the call.
    check(unsafe { utimensat(folder, name.as_ptr(), times.as_ptr(), ffi::AT_SYMLINK_NOFOLLOW) } as isize).map(drop)
}

pub fn set_time(file: RawFd, modified: Time) -> io::Result<()> {
    let times = times(modified);
    // SAFETY: the times live through the call.
    check(unsafe { futimens(file, times.as_ptr()) } as isize).map(drop)
}

/// A read that gives `length` bytes, or fewer at the end.
pub fn read_at(file: RawFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        let rest = &mut buffer[got..];
        // SAFETY: the slice is writable for its length.
        match check(unsafe { pread(file, rest.as_mut_ptr().cast(), rest.len(), (offset + got as u64) as i64) }) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(got)
}

/// One read, as far as the system gives in one go: of a regular file all of it, up to the buffer.
pub fn read_once(file: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the slice is writable for its length.
        match check(unsafe { ffi::read(file, buffer.as_mut_ptr().cast(), buffer.len()) }) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

pub fn write_at(file: RawFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the slice is readable for its length.
        match check(unsafe { pwrite(file, bytes.as_ptr().cast(), bytes.len(), offset as i64) }) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

pub fn set_size(file: RawFd, bytes: u64) -> io::Result<()> {
    let bytes = i64::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(27))?;
    // SAFETY: a plain descriptor.
    check(unsafe { ftruncate(file, bytes) } as isize).map(drop)
}

pub fn will_read_on(file: RawFd) {
    // SAFETY: a plain descriptor. Only advice: its failure costs time.
    let _ = unsafe { posix_fadvise(file, 0, 0, FADV_SEQUENTIAL) };
}

fn seek(file: RawFd, from: u64, whence: c_int) -> io::Result<Option<u64>> {
    // SAFETY: a plain descriptor.
    let found = unsafe { lseek(file, from as i64, whence) };
    if found >= 0 {
        return Ok(Some(found as u64));
    }
    match io::Error::last_os_error() {
        cause if cause.raw_os_error() == Some(ENXIO) => Ok(None),
        cause => Err(cause),
    }
}

/// Where the next data begins; none to the end of the file.
pub fn data_from(file: RawFd, from: u64) -> io::Result<Option<u64>> {
    seek(file, from, SEEK_DATA)
}

/// Where data that begins at `from` ends.
pub fn hole_from(file: RawFd, from: u64) -> io::Result<Option<u64>> {
    seek(file, from, SEEK_HOLE)
}

pub fn rewind(file: RawFd) -> io::Result<()> {
    seek(file, 0, 0).map(drop)
}

/// Fills the buffer with records of `getdents64`; 0 at the end.
pub fn entries(folder: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    let got = ffi::check_long(unsafe {
        ffi::syscall(
            number::GETDENTS64 as c_long,
            folder as c_long,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })?;
    Ok(got as usize)
}

/// Names of extended attributes, each with a NUL at its end, into `buffer`.
pub fn list_attributes(file: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: as above.
    match check(unsafe { flistxattr(file, buffer.as_mut_ptr().cast(), buffer.len()) }) {
        Err(cause) if cause.raw_os_error() == Some(ENOTSUP) => Ok(0),
        result => result,
    }
}

/// An attribute's value into `buffer`; none where there is no such attribute.
pub fn attribute(file: RawFd, name: &CStr, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: as above.
    match check(unsafe { fgetxattr(file, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }) {
        Ok(length) => Ok(Some(length)),
        Err(cause) if matches!(cause.raw_os_error(), Some(ENODATA) | Some(ENOTSUP)) => Ok(None),
        Err(cause) => Err(cause),
    }
}

pub fn set_attribute(file: RawFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { fsetxattr(file, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) } as isize).map(drop)
}

pub fn remove_attribute(file: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { fremovexattr(file, name.as_ptr()) } as isize).map(drop)
}

/// Bytes without a NUL as the system wants them.
pub fn c_name(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(22))
}
