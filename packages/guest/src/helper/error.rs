//! The one error of the pool, the templates and the confinement: a code the wire knows and a sentence that says what to do.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Mutex;

/// Codes of the guest protocol's table, as far as the helper's own parts use them.
pub mod code {
    pub const NOT_FOUND: u16 = 1;
    pub const EXISTS: u16 = 2;
    pub const PERMISSION_DENIED: u16 = 6;
    pub const NO_SPACE: u16 = 7;
    pub const INVALID: u16 = 11;
    pub const IO: u16 = 12;
    pub const BUSY: u16 = 13;
    pub const LIMIT: u16 = 14;
    pub const NOT_SUPPORTED: u16 = 19;
    pub const TIMED_OUT: u16 = 21;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: u16,
    pub message: String,
}

/// Where on the host the data folder lies, which is nobody's business who only asks for a sandbox. Empty: nothing to hide.
static DATA_FOLDER: Mutex<String> = Mutex::new(String::new());

/// From now on `Error::told` leaves this path out.
pub fn hide_folder(data: &Path) {
    let path = format!("{}/", data.display());
    *DATA_FOLDER.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = path;
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: u16, message: impl Into<String>) -> Error {
        Error { code, message: message.into() }
    }

    /// What could not be done, and why, with the code that fits the system's errno.
    pub fn from_io(what: impl fmt::Display, cause: &io::Error) -> Error {
        let code = match cause.raw_os_error() {
            Some(2) => code::NOT_FOUND,
            Some(1) | Some(13) => code::PERMISSION_DENIED,
            Some(16) | Some(26) => code::BUSY,
            Some(17) => code::EXISTS,
            Some(28) | Some(122) => code::NO_SPACE,
            Some(23) | Some(24) => code::LIMIT,
            _ => code::IO,
        };
        Error { code, message: format!("{}: {}", what, cause) }
    }

    /// The message as whoever asked may read it: places in the data folder by their names there.
    pub fn told(&self) -> String {
        let hidden = DATA_FOLDER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if hidden.is_empty() {
            return self.message.clone();
        }
        self.message.replace(hidden.as_str(), "")
    }

    /// The same for the errno the last system call left.
    pub fn last(what: impl fmt::Display) -> Error {
        Error::from_io(what, &io::Error::last_os_error())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// `context(…)` on an `io::Result`: the sentence that goes before the system's own words.
pub trait Context<T> {
    fn context<D: fmt::Display>(self, what: D) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<D: fmt::Display>(self, what: D) -> Result<T> {
        self.map_err(|cause| Error::from_io(what, &cause))
    }
}
