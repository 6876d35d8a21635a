//! Looks at the machine and says in an operator's words what each finding means.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    Warn,
    Fail,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub name: String,
    pub status: Status,
    pub found: String,
    pub meaning: String,
}

#[derive(Debug, Clone)]
pub struct DoctorOptions {
    pub data: PathBuf,
    pub uid_base: u32,
    pub uid_count: u32,
    pub reserve_percent: u32,
    /// The configured runtime, `crun`, `runc` or `runsc`.
    pub runtime: String,
    pub node: Option<PathBuf>,
}

/// Every finding, most important first. Leaves nothing behind.
pub fn examine(options: &DoctorOptions) -> Vec<Finding> { let _ = options; let _: Option<&Path> = None; Vec::new() }
