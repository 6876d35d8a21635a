//! Looks at the machine and says in an operator's words what each finding means. What can be tried is really tried, in a folder that is
//! removed again.

mod machine;
mod tries;

use std::path::PathBuf;

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
    /// What it means for the operator and what to do.
    pub meaning: String,
}

#[derive(Debug, Clone)]
pub struct DoctorOptions {
    pub data: PathBuf,
    pub uid_base: u32,
    /// How many uids from `uid_base` on the helper gives out.
    pub uid_count: u32,
    pub reserve_percent: u32,
    /// The configured runtime, `crun`, `runc` or `runsc`.
    pub runtime: String,
    pub node: Option<PathBuf>,
}

fn finding(name: &str, status: Status, found: impl Into<String>, meaning: impl Into<String>) -> Finding {
    Finding { name: name.to_string(), status, found: found.into(), meaning: meaning.into() }
}

/// Every finding, what stops everything first. Leaves nothing behind.
pub fn examine(options: &DoctorOptions) -> Vec<Finding> {
    let root = machine::root();
    let is_root = root.status == Status::Ok;
    let mut findings = vec![root, machine::kernel()];
    if is_root {
        findings.extend(tries::all(&options.data));
    }
    findings.extend(machine::cgroups());
    findings.extend(machine::runtimes(&options.runtime));
    findings.push(machine::mkfs());
    findings.push(machine::space(&options.data, options.reserve_percent));
    findings.push(machine::uid_range(options.uid_base, options.uid_count));
    findings.extend(machine::counters());
    findings.push(machine::merged_usr());
    findings.push(machine::mmdebstrap());
    findings.push(machine::kvm());
    findings.push(machine::node(options.node.as_deref()));
    findings
}
