//! Why an operation did not happen, as CLOSE says it.

use super::sys;
use crate::wire::code;
use std::io;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: u16,
    pub message: String,
}

impl Failure {
    pub fn new(code: u16, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// A system call's error, with what was tried.
    pub fn of(what: impl AsRef<str>, error: &io::Error) -> Failure {
        Failure::of_errno(what, sys::errno(error))
    }

    pub fn of_errno(what: impl AsRef<str>, errno: i32) -> Failure {
        Failure {
            code: code_of(errno),
            message: format!("{}: {}.", what.as_ref(), io::Error::from_raw_os_error(errno)),
        }
    }

    pub fn canceled() -> Failure {
        Failure::new(code::CANCELED, "The operation was canceled.")
    }
}

fn code_of(errno: i32) -> u16 {
    match errno {
        sys::ENOENT | sys::ESRCH => code::NOT_FOUND,
        sys::EEXIST => code::EXISTS,
        sys::ENOTDIR => code::NOT_A_DIRECTORY,
        sys::EISDIR => code::IS_A_DIRECTORY,
        sys::ENOTEMPTY => code::NOT_EMPTY,
        sys::EPERM | sys::EACCES | sys::EROFS => code::PERMISSION_DENIED,
        sys::ENOSPC | sys::EDQUOT => code::NO_SPACE,
        sys::EFBIG | sys::E2BIG => code::TOO_LARGE,
        sys::ENAMETOOLONG => code::NAME_TOO_LONG,
        sys::ELOOP => code::SYMLINK_LOOP,
        sys::EINVAL => code::INVALID,
        sys::EBUSY | sys::ETXTBSY => code::BUSY,
        sys::EMFILE | sys::ENFILE | sys::ENOMEM | sys::EAGAIN => code::LIMIT,
        sys::EXDEV | sys::EOPNOTSUPP | sys::ENOSYS => code::NOT_SUPPORTED,
        sys::ECONNREFUSED => code::CONNECTION_REFUSED,
        sys::ENOEXEC => code::NOT_EXECUTABLE,
        _ => code::IO,
    }
}

/// A path for a message: readable, and bounded.
pub fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(512)]).into_owned();
    if path.len() > 512 {
        text + "…"
    } else {
        text
    }
}
