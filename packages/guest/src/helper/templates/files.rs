//! Copying and making files of a template: modes as stated, owners as stated, bounded.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;

pub const COPY_BYTES_MAX: u64 = 1 << 30;
pub const COPY_FILES_MAX: u64 = 500_000;

pub fn chown(path: &Path, uid: u32, gid: u32) -> Result<()> {
    let c_path = ffi::c_path(path).context(format_args!("owning {}", path.display()))?;
    // SAFETY: the path lives through the call.
    ffi::check(unsafe { ffi::fchownat(ffi::AT_FDCWD, c_path.as_ptr(), uid, gid, ffi::AT_SYMLINK_NOFOLLOW) })
        .context(format_args!("owning {}", path.display()))?;
    Ok(())
}

pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).context(format_args!("setting the mode of {}", path.display()))
}

pub fn folder(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::from_io(format_args!("making {}", path.display()), &cause));
        }
        _ => {}
    }
    chown(path, uid, gid)?;
    set_mode(path, mode)
}

pub fn file(path: &Path, mode: u32, uid: u32, gid: u32, content: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .context(format_args!("making {}", path.display()))?;
    file.write_all(content).context(format_args!("writing {}", path.display()))?;
    chown(path, uid, gid)?;
    set_mode(path, mode)
}

pub fn link(target: &Path, path: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, path).context(format_args!("making the link {}", path.display()))
}

/// What a copy has taken so far, and what it may.
#[derive(Default)]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
}

/// Decides about one file: its path, and its content where it is small enough to be read whole.
pub type Judge<'a> = dyn FnMut(&Path, &[u8]) -> Verdict + 'a;

pub enum Verdict {
    Copy,
    Skip,
    /// Copy this instead.
    Replace(Vec<u8>),
}

/// Copies a file, link or folder with modes and owners. Never copies what others on the host may not read, nor devices and sockets,
/// nor crosses into another file system.
pub fn copy_tree(from: &Path, to: &Path, copied: &mut Copied, judge: &mut Judge) -> Result<()> {
    let device = match fs::symlink_metadata(from) {
        Ok(found) => found.dev(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(Error::from_io(format_args!("looking at {}", from.display()), &cause)),
    };
    let mut queue = VecDeque::from([(from.to_path_buf(), to.to_path_buf())]);
    while let Some((source, target)) = queue.pop_front() {
        let found = match fs::symlink_metadata(&source) {
            Ok(found) => found,
            // Gone since it was listed.
            Err(_) => continue,
        };
        copied.files += 1;
        if copied.files > COPY_FILES_MAX || copied.bytes > COPY_BYTES_MAX {
            return Err(Error::new(code::LIMIT, format!("{} holds more than a template may copy", from.display())));
        }
        let kind = found.file_type();
        if kind.is_symlink() {
            let aim = fs::read_link(&source).context(format_args!("reading {}", source.display()))?;
            link(&aim, &target)?;
            chown(&target, found.uid(), found.gid())?;
        } else if found.mode() & 0o004 == 0 {
            continue;
        } else if kind.is_dir() && found.dev() == device {
            folder(&target, found.mode() & 0o7777, found.uid(), found.gid())?;
            for entry in fs::read_dir(&source).context(format_args!("listing {}", source.display()))? {
                let name = entry.context(format_args!("listing {}", source.display()))?.file_name();
                queue.push_back((source.join(&name), target.join(&name)));
            }
        } else if kind.is_file() {
            copy_file(&source, &target, &found, copied, judge)?;
        }
    }
    Ok(())
}

fn copy_file(source: &Path, target: &Path, found: &fs::Metadata, copied: &mut Copied, judge: &mut Judge) -> Result<()> {
    let content = fs::read(source).context(format_args!("reading {}", source.display()))?;
    copied.bytes += content.len() as u64;
    let replaced = match judge(source, &content) {
        Verdict::Skip => return Ok(()),
        Verdict::Copy => None,
        Verdict::Replace(other) => Some(other),
    };
    let mode = found.mode() & 0o0777;
    file(target, mode, found.uid(), found.gid(), replaced.as_deref().unwrap_or(&content))
}

/// Reads at most `bytes` of a file's beginning.
pub fn head(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(bytes).read_to_end(&mut content)?;
    Ok(content)
}

/// Removes a folder of our own making; missing is success.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Error::from_io(format_args!("removing {}", path.display()), &cause))
        }
        _ => Ok(()),
    }
}

/// Everything of the file system is on disk before the template gets its name.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let handle = ffi::open_directory(path).context(format_args!("opening {}", path.display()))?;
    // SAFETY: a plain descriptor.
    ffi::check(unsafe { ffi::syncfs(std::os::unix::io::AsRawFd::as_raw_fd(&handle)) })
        .context(format_args!("flushing {}", path.display()))?;
    Ok(())
}
