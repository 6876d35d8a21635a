//! Removing, however large and deep.

use super::{c_path, check_path, fails, split, Result, DENTS_BYTES};
use crate::guest::failure::Failure;
use crate::guest::sys::{self, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Folders held open at once while a tree is removed; deeper ones are first moved up.
const REMOVE_DEPTH: usize = 48;
/// Passes over one folder that others keep filling before it is given up.
const REMOVE_PASSES: usize = 64;

pub fn remove(path: &[u8], recursive: bool, cancel: &AtomicBool) -> Result<u64> {
    let path = check_path(path)?;
    let (folder, name) = split(path)?;
    let dir = sys::open_at(AT_FDCWD, &c_path(folder), sys::O_PATH | sys::O_DIRECTORY, 0).map_err(fails(folder))?;
    let name = c_path(name);
    let stat = sys::stat_at(dir.as_raw_fd(), &name, AT_SYMLINK_NOFOLLOW).map_err(fails(path))?;
    if !stat.is_directory() {
        sys::unlink_at(dir.as_raw_fd(), &name, 0).map_err(fails(path))?;
        return Ok(1);
    }
    if recursive {
        return remove_tree(dir.as_raw_fd(), &name, cancel, path);
    }
    sys::unlink_at(dir.as_raw_fd(), &name, sys::AT_REMOVEDIR).map_err(fails(path))?;
    Ok(1)
}

struct Level {
    fd: OwnedFd,
    name: CString,
    passes: usize,
}

/// Removes by descriptors, never by long paths: a tree may be deeper than any path can name. What lies deeper than
/// `REMOVE_DEPTH` is moved up to the root of the tree first, so that few descriptors are open at once.
fn remove_tree(dir: RawFd, root: &CStr, cancel: &AtomicBool, path: &[u8]) -> Result<u64> {
    let fails = fails(path);
    let open = |dir: RawFd, name: &CStr| {
        sys::open_at(dir, name, sys::O_RDONLY | sys::O_DIRECTORY | sys::O_NOFOLLOW | sys::O_NONBLOCK, 0)
    };
    let mut levels = vec![Level { fd: open(dir, root).map_err(&fails)?, name: root.to_owned(), passes: 0 }];
    let mut removed = 0;
    let mut moved = 0u64;
    let mut buffer = vec![0u8; DENTS_BYTES];
    while let Some(level) = levels.last_mut() {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::canceled());
        }
        let fd = level.fd.as_raw_fd();
        level.passes += 1;
        sys::rewind(fd).map_err(&fails)?;
        let mut deeper = None;
        let mut found = false;
        'pass: loop {
            let count = sys::directory_entries(fd, &mut buffer).map_err(&fails)?;
            if count == 0 {
                break;
            }
            found = true;
            let mut names = Vec::new();
            sys::each_entry(&buffer[..count], |name, kind| names.push((c_path(name), kind)));
            found &= !names.is_empty();
            for (name, kind) in names {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Failure::canceled());
                }
                match unlink_any(fd, &name, kind) {
                    Ok(()) => removed += 1,
                    Err(error) if sys::errno(&error) == sys::ENOENT => {}
                    Err(error) if sys::errno(&error) == sys::ENOTEMPTY => {
                        deeper = Some(name);
                        break 'pass;
                    }
                    Err(error) => return Err(fails(error)),
                }
            }
        }
        if let Some(name) = deeper {
            if levels.len() < REMOVE_DEPTH {
                match open(fd, &name) {
                    Ok(child) => levels.push(Level { fd: child, name, passes: 0 }),
                    Err(error) if sys::errno(&error) == sys::ENOENT => {}
                    Err(error) => return Err(fails(error)),
                }
            } else {
                moved += 1;
                let aside = c_path(format!(".delta-remove-{moved}-{:x}", random()?).as_bytes());
                sys::rename_at(fd, &name, levels[0].fd.as_raw_fd(), &aside, 0).map_err(&fails)?;
            }
            continue;
        }
        if found && level.passes < REMOVE_PASSES {
            continue;
        }
        let name = level.name.clone();
        levels.pop();
        let parent = levels.last().map_or(dir, |level| level.fd.as_raw_fd());
        match sys::unlink_at(parent, &name, sys::AT_REMOVEDIR) {
            Ok(()) => removed += 1,
            Err(error) if sys::errno(&error) == sys::ENOENT => {}
            Err(error) => return Err(fails(error)),
        }
    }
    Ok(removed)
}

fn unlink_any(dir: RawFd, name: &CStr, kind: u8) -> io::Result<()> {
    if kind != sys::DT_DIR {
        match sys::unlink_at(dir, name, 0) {
            Err(error) if matches!(sys::errno(&error), sys::EISDIR | sys::EPERM) => {}
            result => return result,
        }
    }
    match sys::unlink_at(dir, name, sys::AT_REMOVEDIR) {
        // It was a file after all, and may not be removed.
        Err(error) if sys::errno(&error) == sys::ENOTDIR => Err(io::Error::from_raw_os_error(sys::EPERM)),
        Err(error) if sys::errno(&error) == sys::EEXIST => Err(io::Error::from_raw_os_error(sys::ENOTEMPTY)),
        result => result,
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    sys::random_bytes(&mut bytes).map_err(|error| Failure::of("Random bytes", &error))?;
    Ok(u64::from_le_bytes(bytes))
}
