//! Removing a tree, however deep, with two descriptors and no memory of the way: up again by `..`, which in an upper that nothing
//! else writes leads where it came from.

use std::ffi::CStr;
use std::io;
use std::os::unix::io::{AsRawFd, RawFd};

use super::calls;
use crate::helper::ffi;

const BUFFER_BYTES: usize = 32 << 10;
const DT_DIR: u8 = 4;
const EISDIR: i32 = 21;

/// Whatever the name is.
pub fn remove(folder: RawFd, name: &CStr, is_folder: bool) -> io::Result<()> {
    if !is_folder {
        return calls::unlink(folder, name, false);
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut here = calls::open_folder(folder, name)?;
    let mut depth = 0u64;
    loop {
        // What is gone is not listed again, so starting anew after each folder costs nothing twice.
        calls::rewind(here.as_raw_fd())?;
        let got = calls::entries(here.as_raw_fd(), &mut buffer)?;
        let mut deeper = None;
        let mut found = false;
        for (name, kind) in records(&buffer[..got]) {
            found = true;
            match unlink(here.as_raw_fd(), name, kind == DT_DIR) {
                Err(cause) if cause.raw_os_error() == Some(calls::ENOTEMPTY) => {
                    deeper = Some(calls::open_folder(here.as_raw_fd(), name)?);
                    break;
                }
                result => result?,
            }
        }
        if let Some(deeper) = deeper {
            here = deeper;
            depth += 1;
        } else if !found && depth == 0 {
            return calls::unlink(folder, name, true);
        } else if !found {
            // SAFETY: a literal with its NUL.
            here = ffi::own(unsafe {
                let flags = ffi::O_RDONLY | ffi::O_DIRECTORY | ffi::O_NOFOLLOW | ffi::O_CLOEXEC;
                ffi::openat(here.as_raw_fd(), b"..\0".as_ptr().cast(), flags)
            })?;
            depth -= 1;
        }
    }
}

fn unlink(folder: RawFd, name: &CStr, is_folder: bool) -> io::Result<()> {
    match calls::unlink(folder, name, is_folder) {
        Err(cause) if !is_folder && cause.raw_os_error() == Some(EISDIR) => calls::unlink(folder, name, true),
        result => result,
    }
}

fn records(bytes: &[u8]) -> impl Iterator<Item = (&CStr, u8)> {
    let mut at = 0;
    std::iter::from_fn(move || loop {
        let head = bytes.get(at..at + 19)?;
        let length = usize::from(u16::from_ne_bytes([head[16], head[17]]));
        let name = bytes.get(at + 19..at + length)?;
        at += length;
        let end = name.iter().position(|byte| *byte == 0)?;
        let name = CStr::from_bytes_with_nul(&name[..=end]).ok()?;
        if !matches!(name.to_bytes(), b"." | b"..") {
            return Some((name, head[18]));
        }
    })
}
