//! Where the writable uppers live: a btrfs file system with a quota per upper, or a plain folder without.
//!
//! An upper is a folder `upper_path(id)` holding `upper/` and `work/`, both root's (0:0, 0755 and 0700), ready for an overlay.

use std::path::{Path, PathBuf};

pub use super::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Btrfs,
    Folder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// btrfs where it can be had, else a folder with a warning.
    Auto,
    Btrfs,
    Folder,
}

#[derive(Debug, Clone)]
pub struct PoolOptions {
    pub choice: Choice,
    /// Largest size of `pool.img`; None: the size of the file system it lies on, at least 16 GiB.
    pub max_bytes: Option<u64>,
    /// Part of the backing file system kept free, in percent; never less than `MIN_RESERVE_BYTES`.
    pub reserve_percent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    pub used: u64,
    /// Free bytes of the file system that carries the pool.
    pub backing_free: u64,
    pub reserve: u64,
    pub read_only: bool,
}

pub struct Pool {
    kind: Kind,
    warnings: Vec<String>,
}

impl Pool {
    /// Finds or makes the pool of a data folder and mounts it. Safe to call again, after a crash, and from two starts at once.
    pub fn open(data: &Path, options: &PoolOptions) -> Result<Pool> { let _ = (data, options); Err(Error::new(19, "not yet")) }
    pub fn kind(&self) -> Kind { self.kind }
    pub fn warnings(&self) -> &[String] { &self.warnings }
    /// Makes a new upper; `exists` if there is one. `quota_bytes` 0 = no limit.
    pub fn make_upper(&self, id: &str, quota_bytes: u64) -> Result<PathBuf> { let _ = (id, quota_bytes); Err(Error::new(19, "not yet")) }
    /// Removes an upper; one that is missing is success. The caller sees to it that no overlay uses it.
    pub fn drop_upper(&self, id: &str) -> Result<()> { let _ = id; Err(Error::new(19, "not yet")) }
    /// The folder of an upper, existing or not. `id` must be of the protocol's form.
    pub fn upper_path(&self, id: &str) -> PathBuf { PathBuf::from(id) }
    pub fn has_upper(&self, id: &str) -> bool { let _ = id; false }
    pub fn list_uppers(&self) -> Result<Vec<String>> { Err(Error::new(19, "not yet")) }
    /// Bytes used (None: nothing counts them) and the limit (0: none).
    pub fn upper_usage(&self, id: &str) -> Result<(Option<u64>, u64)> { let _ = id; Err(Error::new(19, "not yet")) }
    pub fn set_quota(&self, id: &str, quota_bytes: u64) -> Result<()> { let _ = (id, quota_bytes); Err(Error::new(19, "not yet")) }
    pub fn usage(&self) -> Result<Usage> { Err(Error::new(19, "not yet")) }
    /// Unmounts and detaches; `busy` while something still uses it. Without it (drop) the pool stays mounted for the next start.
    pub fn close(self) -> Result<()> { Ok(()) }
}
