//! Starts the HTTP process: an unprivileged uid in namespaces that show it the program and its own folder, and nothing else.

use std::ffi::OsString;
use std::os::unix::io::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

pub use super::error::{Error, Result};

#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Node's program file.
    pub node: PathBuf,
    /// What Node is given: the server's entry file first.
    pub arguments: Vec<OsString>,
    /// Folders shown read-only at their own path: the program with its node_modules; the wire folder.
    pub readable: Vec<PathBuf>,
    /// The data folder; only `<data>/server` of it is shown, writable.
    pub data: PathBuf,
    /// Unprivileged uid and gid of the process: index 0 of the uid range.
    pub uid: u32,
    /// The helper's socket; becomes descriptor 3. The caller closes its own copy after the call.
    pub helper_socket: RawFd,
    /// The helper's environment; only what `allowed` lets through reaches the process.
    pub environment: Vec<(OsString, OsString)>,
    /// Added to the environment as it is (DELTA_API_KEY_SHA256, …).
    pub extra_environment: Vec<(OsString, OsString)>,
}

/// The running HTTP process: PID 1 of its own pid namespace.
#[derive(Debug)]
pub struct Server {
    pub pid: i32,
    /// Readable once the process has ended.
    pub pidfd: OwnedFd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Exited(i32),
    Signalled(i32),
}

impl Server {
    /// Waits for the end and reaps it.
    pub fn wait(&mut self) -> Result<Ending> { Err(Error::new(19, "not yet")) }
    /// None while it runs.
    pub fn try_wait(&mut self) -> Result<Option<Ending>> { Err(Error::new(19, "not yet")) }
    pub fn signal(&self, signal: i32) -> Result<()> { let _ = signal; Err(Error::new(19, "not yet")) }
}

pub fn spawn_server(options: &ServerOptions) -> Result<Server> { let _ = options; Err(Error::new(19, "not yet")) }

/// The first API key, kept in `<data>/api-key` (0600); true when this call made it.
pub fn ensure_api_key(data: &Path) -> Result<(String, bool)> { let _ = data; Err(Error::new(19, "not yet")) }

/// Hex SHA-256 of a key, as the server takes it in DELTA_API_KEY_SHA256.
pub fn api_key_hash(key: &str) -> String { key.to_string() }
