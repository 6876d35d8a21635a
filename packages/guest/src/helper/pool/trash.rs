//! Removes trees written by sandboxes: never through a symlink, and with constant stack and descriptors however deep they are.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::helper::ffi;

/// Moves a tree into the trash folder under a name nobody has. Missing is success.
pub fn discard(tree: &Path, trash: &Path) -> io::Result<bool> {
    match fs::rename(tree, trash.join(fresh_name()?)) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

fn fresh_name() -> io::Result<String> {
    let mut random = [0u8; 12];
    ffi::fill_random(&mut random)?;
    Ok(random.iter().map(|byte| format!("{:02x}", byte)).collect())
}

/// Empties the trash folder. Several may sweep at once: what one has removed is success for the other.
pub fn sweep(trash: &Path) -> io::Result<()> {
    let root = ffi::open_directory(trash)?;
    loop {
        let names = names_in(&root)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            remove_level(&root, &name)?;
        }
    }
}

fn names_in(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let listing = fs::read_dir(PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())))?;
    let mut names = Vec::new();
    for entry in listing {
        names.push(c_name(&entry?.file_name())?);
        // The rest comes with the next round: a folder of a million files must not be a list of a million names.
        if names.len() >= 4096 {
            break;
        }
    }
    Ok(names)
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::Error::from_raw_os_error(22))
}

fn missing_is_fine(result: io::Result<i32>) -> io::Result<()> {
    match result {
        Err(cause) if cause.raw_os_error() != Some(2) => Err(cause),
        _ => Ok(()),
    }
}

/// Removes one thing of the trash. A folder's subfolders are moved up beside it instead of being descended into.
fn remove_level(root: &OwnedFd, name: &CString) -> io::Result<()> {
    let flags = ffi::O_RDONLY | ffi::O_DIRECTORY | ffi::O_NOFOLLOW | ffi::O_CLOEXEC;
    // SAFETY: the name lives through the call.
    let folder = match ffi::own(unsafe { ffi::openat(root.as_raw_fd(), name.as_ptr(), flags) }) {
        Ok(folder) => folder,
        // Not a directory (20), or a symlink (40).
        Err(cause) if matches!(cause.raw_os_error(), Some(20) | Some(40)) => {
            // SAFETY: as above.
            return missing_is_fine(ffi::check(unsafe { ffi::unlinkat(root.as_raw_fd(), name.as_ptr(), 0) }));
        }
        Err(cause) if cause.raw_os_error() == Some(2) => return Ok(()),
        Err(cause) => return Err(cause),
    };
    loop {
        let names = names_in(&folder)?;
        if names.is_empty() {
            // SAFETY: as above.
            return missing_is_fine(ffi::check(unsafe { ffi::unlinkat(root.as_raw_fd(), name.as_ptr(), ffi::AT_REMOVEDIR) }));
        }
        for child in names {
            // SAFETY: as above.
            match ffi::check(unsafe { ffi::unlinkat(folder.as_raw_fd(), child.as_ptr(), 0) }) {
                Ok(_) => continue,
                Err(cause) if cause.raw_os_error() == Some(2) => continue,
                // A folder: EISDIR on Linux, EPERM elsewhere.
                Err(cause) if matches!(cause.raw_os_error(), Some(21) | Some(1)) => {
                    let up = CString::new(fresh_name()?)?;
                    // SAFETY: as above.
                    missing_is_fine(ffi::check(unsafe {
                        ffi::renameat(folder.as_raw_fd(), child.as_ptr(), root.as_raw_fd(), up.as_ptr())
                    }))?;
                }
                Err(cause) => return Err(cause),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("delta-trash-{}-{}", name, std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("trash")).unwrap();
        path
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_and_a_symlink_is_not_followed() {
        let base = scratch("deep");
        fs::create_dir(base.join("kept")).unwrap();
        fs::write(base.join("kept/file"), "stays").unwrap();
        fs::create_dir(base.join("tree")).unwrap();
        symlink(base.join("kept"), base.join("tree/link")).unwrap();
        let mut at = ffi::open_directory(&base.join("tree")).unwrap();
        for _ in 0..3000 {
            let name = CString::new("dddd").unwrap();
            unsafe { ffi::mkdirat(at.as_raw_fd(), name.as_ptr(), 0o700) };
            at = ffi::own(unsafe { ffi::openat(at.as_raw_fd(), name.as_ptr(), ffi::O_DIRECTORY | ffi::O_CLOEXEC) }).unwrap();
        }
        drop(at);
        assert!(discard(&base.join("tree"), &base.join("trash")).unwrap());
        sweep(&base.join("trash")).unwrap();
        assert_eq!(fs::read_dir(base.join("trash")).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(base.join("kept/file")).unwrap(), "stays");
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn discarding_what_is_missing_succeeds() {
        let base = scratch("missing");
        assert!(!discard(&base.join("nothing"), &base.join("trash")).unwrap());
        fs::remove_dir_all(&base).unwrap();
    }
}
