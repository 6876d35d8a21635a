//! Copies a tree that a sandbox wrote, exactly: every kind of file, owners, modes, times to the nanosecond, extended attributes, hard links and
//! holes. Nothing in it is followed, and however deep it is, the stack and the open files stay few. Nobody may change it meanwhile.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::raw::c_int;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::helper::error::{Context, Result};
use crate::helper::ffi;

const COPY_BYTES: usize = 1 << 30;
/// The kernel's own bounds of a list of names and of one value.
const ATTRIBUTES_BYTES: usize = 64 << 10;

/// A folder that is being copied, both sides.
struct Level {
    /// Subfolders that are still to be copied.
    pending: Vec<CString>,
}

struct Tree {
    /// Where the first name of each file with several names has a name of its own until the copy is done.
    links: PathBuf,
}

/// `to` must not exist, and its parent is a folder of root's alone.
pub fn tree(from: &Path, to: &Path) -> Result<()> {
    let mut name = to.file_name().unwrap_or_default().to_os_string();
    name.push(".links");
    let tree = Tree { links: to.with_file_name(name) };
    fs::create_dir(&tree.links)
        .and_then(|()| tree.copy(from, to))
        .and_then(|()| fs::remove_dir_all(&tree.links))
        .context(format_args!("copying {} to {}", from.display(), to.display()))
}

fn open_folder(at: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    let flags = ffi::O_RDONLY | ffi::O_DIRECTORY | ffi::O_NOFOLLOW | ffi::O_CLOEXEC;
    // SAFETY: the name lives through the call.
    ffi::own(unsafe { ffi::openat(at.as_raw_fd(), name.as_ptr(), flags) })
}

fn make_folder(at: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    ffi::check(unsafe { ffi::mkdirat(at.as_raw_fd(), name.as_ptr(), 0o700) })?;
    open_folder(at, name)
}

/// A path that leads to `name` in the open folder and through no other link than the kernel's own.
fn path_in(folder: &OwnedFd, name: &CString) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(OsStr::from_bytes(name.as_bytes()))
}

impl Tree {
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let up = CString::new("..")?;
        fs::create_dir(to)?;
        let (mut source, mut target) = (ffi::open_directory(from)?, ffi::open_directory(to)?);
        let mut levels = vec![self.copy_files(&source, &target)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.pending.pop() {
                source = open_folder(&source, &name)?;
                target = make_folder(&target, &name)?;
                levels.push(self.copy_files(&source, &target)?);
                continue;
            }
            // What a folder is said to be is set last: until then it must be writable, and each file in it changes its time.
            let own = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
            copy_metadata(&own(&source), &own(&target), &fs::symlink_metadata(own(&source))?)?;
            levels.pop();
            if !levels.is_empty() {
                source = open_folder(&source, &up)?;
                target = open_folder(&target, &up)?;
            }
        }
        Ok(())
    }

    /// Copies all of a folder but its subfolders, which are still to be done.
    fn copy_files(&self, source: &OwnedFd, target: &OwnedFd) -> io::Result<Level> {
        let mut pending = Vec::new();
        for entry in fs::read_dir(format!("/proc/self/fd/{}", source.as_raw_fd()))? {
            let name = CString::new(entry?.file_name().as_bytes())?;
            let from = path_in(source, &name);
            let found = fs::symlink_metadata(&from)?;
            if found.is_dir() {
                pending.push(name);
                continue;
            }
            let to = path_in(target, &name);
            let first = self.links.join(found.ino().to_string());
            if found.nlink() > 1 && link(&first, &to)? {
                continue;
            }
            copy_file(&from, &to, &found)?;
            copy_metadata(&from, &to, &found)?;
            if found.nlink() > 1 {
                link(&to, &first)?;
            }
        }
        Ok(Level { pending })
    }
}

/// False where there is nothing of the first name.
fn link(from: &Path, to: &Path) -> io::Result<bool> {
    let (from, to) = (ffi::c_path(from)?, ffi::c_path(to)?);
    // SAFETY: both paths live through the call; without flags a symbolic link is linked and not followed.
    match ffi::check(unsafe { ffi::linkat(ffi::AT_FDCWD, from.as_ptr(), ffi::AT_FDCWD, to.as_ptr(), 0) }) {
        Ok(_) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

fn copy_file(from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    }
    if kind.is_file() {
        return copy_content(from, to, found);
    }
    let device = if kind.is_char_device() || kind.is_block_device() { found.rdev() } else { 0 };
    let path = ffi::c_path(to)?;
    // SAFETY: the path lives through the call. A whiteout is a character device 0:0 like any other.
    ffi::check(unsafe { ffi::mknod(path.as_ptr(), found.mode() & 0o170000 | 0o600, device) })?;
    Ok(())
}

/// Shares the blocks where the file system can, else copies what is no hole.
fn copy_content(from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
    let source = ffi::open_path(from, ffi::O_RDONLY | ffi::O_NOFOLLOW).map(File::from)?;
    let target = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
    // SAFETY: two plain descriptors.
    if unsafe { ffi::ioctl(target.as_raw_fd(), ffi::FICLONE, source.as_raw_fd()) } == 0 {
        return Ok(());
    }
    target.set_len(found.size())?;
    let (fd, size) = (source.as_raw_fd(), found.size() as i64);
    let mut at = 0;
    while at < size {
        // SAFETY: plain numbers.
        let data = match unsafe { ffi::lseek(fd, at, ffi::SEEK_DATA) } {
            -1 if io::Error::last_os_error().raw_os_error() == Some(6) => break,
            -1 => return Err(io::Error::last_os_error()),
            data => data,
        };
        // SAFETY: as above.
        let hole = match unsafe { ffi::lseek(fd, data, ffi::SEEK_HOLE) } {
            -1 => return Err(io::Error::last_os_error()),
            hole => hole.min(size),
        };
        copy_range(&source, &target, data, hole)?;
        at = hole;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, from: i64, to: i64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (from, from);
    while read_at < to {
        let wanted = ((to - read_at) as usize).min(COPY_BYTES);
        // SAFETY: both offsets live through the call.
        let copied = ffi::check_long(unsafe {
            ffi::syscall(
                ffi::SYS_COPY_FILE_RANGE,
                source.as_raw_fd() as std::os::raw::c_long,
                &mut read_at as *mut i64,
                target.as_raw_fd() as std::os::raw::c_long,
                &mut write_at as *mut i64,
                wanted,
                0 as std::os::raw::c_long,
            )
        })?;
        if copied == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was copied"));
        }
    }
    Ok(())
}

/// Owner first, since it takes setuid bits and capabilities away; times last.
fn copy_metadata(from: &Path, to: &Path, found: &Metadata) -> io::Result<()> {
    let path = ffi::c_path(to)?;
    // SAFETY: the path lives through the call.
    ffi::check(unsafe {
        ffi::fchownat(ffi::AT_FDCWD, path.as_ptr(), found.uid(), found.gid(), ffi::AT_SYMLINK_NOFOLLOW)
    })?;
    if !found.file_type().is_symlink() {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    }
    copy_attributes(from, to)?;
    let times = [
        ffi::timespec { seconds: found.atime(), nanos: found.atime_nsec() },
        ffi::timespec { seconds: found.mtime(), nanos: found.mtime_nsec() },
    ];
    // SAFETY: path and times live through the call.
    ffi::check(unsafe { ffi::utimensat(ffi::AT_FDCWD, path.as_ptr(), times.as_ptr(), ffi::AT_SYMLINK_NOFOLLOW as c_int) })?;
    Ok(())
}

fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (ffi::c_path(from)?, ffi::c_path(to)?);
    // Most files have none, which a call without a buffer tells.
    // SAFETY: a length of 0 writes nothing.
    if sized(unsafe { ffi::llistxattr(source.as_ptr(), std::ptr::null_mut(), 0) })? == 0 {
        return Ok(());
    }
    let mut names = vec![0u8; ATTRIBUTES_BYTES];
    // SAFETY: the buffer is writable for its length.
    let count = sized(unsafe { ffi::llistxattr(source.as_ptr(), names.as_mut_ptr().cast(), names.len()) })?;
    let mut value = vec![0u8; ATTRIBUTES_BYTES];
    for name in names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        // SAFETY: as above; the names live through the calls.
        unsafe {
            let length = sized(ffi::lgetxattr(source.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()))?;
            ffi::check(ffi::lsetxattr(target.as_ptr(), name.as_ptr(), value.as_ptr().cast(), length, 0))?;
        }
    }
    Ok(())
}

/// A file system without extended attributes has none to copy.
fn sized(result: isize) -> io::Result<usize> {
    match result {
        -1 => match io::Error::last_os_error() {
            cause if cause.raw_os_error() == Some(95) => Ok(0),
            cause => Err(cause),
        },
        length => Ok(length as usize),
    }
}
