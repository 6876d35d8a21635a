//! Templates: what a sandbox's file system looks like before it writes. `<data>/templates/<name>/{root/,meta}`.

use std::path::{Path, PathBuf};

pub use super::error::{Error, Result};

/// A template that is ready to be the lower layer of overlays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub name: String,
    /// Lower layer of `/`; files have their true owners (0, 1000).
    pub root: PathBuf,
    /// Lower layer of `/usr` where it is not part of `root` (there `usr` is an empty folder).
    pub usr: Option<PathBuf>,
    /// What it offers and lacks, for people.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Missing,
    Building,
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Missing => "missing",
            State::Building => "building",
            State::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub state: State,
    pub detail: String,
}

/// Names that `build` knows.
pub const NAMES: [&str; 2] = ["host", "debian"];

/// A ready template; `not_found` with the way to build it otherwise. Cheap enough for every create.
pub fn resolve(data: &Path, name: &str) -> Result<Template> { let _ = (data, name); Err(Error::new(19, "not yet")) }

pub fn list(data: &Path) -> Vec<Status> { let _ = data; Vec::new() }

/// Builds what is missing or out of date and returns when it is ready. `progress` gets a line per step.
pub fn build(data: &Path, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Template> { let _ = (data, name, progress); Err(Error::new(19, "not yet")) }
