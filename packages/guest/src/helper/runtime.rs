//! Calls the OCI runtimes.

use std::ffi::CString;
use std::fs;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::{code, Context, Error, Result};
use super::pool::system_program;
use super::sys::{self, Spawn};

/// A runtime that takes longer is killed, and the create with it.
const RUN_WAIT: Duration = Duration::from_secs(30);
/// How much of what a failing runtime says is passed on.
const WORDS_BYTES: usize = 2_048;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Crun,
    Runc,
    Runsc,
}

pub const KINDS: [Kind; 3] = [Kind::Crun, Kind::Runc, Kind::Runsc];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Crun => "crun",
            Kind::Runc => "runc",
            Kind::Runsc => "runsc",
        }
    }

    pub fn parse(name: &str) -> Result<Kind> {
        KINDS.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::new(
                code::INVALID,
                format!("there is no runtime {:?}: use crun, runc or runsc", name),
            )
        })
    }
}

pub struct Runtime {
    pub kind: Kind,
    pub version: String,
    program: CString,
    /// Keeps `program` (a path below /proc/self/fd) openable.
    _sealed: Option<OwnedFd>,
}

pub struct Run<'a> {
    pub box_id: &'a str,
    /// Holds `config.json`; the pid is written there.
    pub bundle: &'a Path,
    /// Where the runtime keeps its own records.
    pub state: &'a Path,
    /// The listening wire, where the runtime can pass a descriptor on.
    pub wire: Option<RawFd>,
    /// The socket for redirected connections; only with `wire`.
    pub redirected: Option<RawFd>,
    /// Held open by every process of the runtime, so that the next helper knows when none is left.
    pub lock: RawFd,
    pub cgroups: &'a [RawFd],
}

fn text(value: impl Into<Vec<u8>>) -> CString {
    CString::new(value).unwrap_or_default()
}

fn version_of(program: &Path) -> String {
    let output = std::process::Command::new(program).arg("--version").output();
    let words = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let first = words.lines().next().unwrap_or("").trim();
    first.rsplit(' ').next().unwrap_or("").to_string()
}

impl Runtime {
    pub fn find(kind: Kind) -> Result<Runtime> {
        let path = system_program(kind.name()).ok_or_else(|| {
            Error::new(
                code::NOT_SUPPORTED,
                format!("{} is not installed: `apt-get install {}`", kind.name(), kind.name()),
            )
        })?;
        // crun and runc copy themselves at every start, so that a sandbox can never write to the program on the host; they skip
        // that when they already run from sealed memory. gVisor does not, and is large.
        let sealed = match kind {
            Kind::Runsc => None,
            _ => Some(sys::sealed_program(&path).context(format_args!("copying {} to memory", path.display()))?),
        };
        let program = match &sealed {
            Some(fd) => text(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => text(path.to_string_lossy().into_owned()),
        };
        Ok(Runtime {
            kind,
            version: version_of(&path),
            program,
            _sealed: sealed,
        })
    }

    /// True where the runtime passes the listening wire into the sandbox.
    pub fn passes_descriptors(&self) -> bool {
        self.kind != Kind::Runsc
    }

    /// True where the runtime can join a user namespace, and a network namespace that belongs to it. gVisor's program has threads, which the kernel refuses; it makes one by the
    /// mappings, owned by root. Its sandboxes take nothing of root's kernel counters, since their calls end in gVisor's own kernel.
    pub fn joins_namespaces(&self) -> bool {
        self.kind != Kind::Runsc
    }

    /// True where the sandbox's cgroup is entered before the runtime starts, so that everything it starts is in it. runc wants
    /// to find the group empty and enters it itself.
    pub fn starts_in_cgroup(&self) -> bool {
        self.kind != Kind::Runc
    }

    fn arguments(&self, run: &Run<'_>) -> Vec<CString> {
        let mut words = vec![
            text(self.kind.name()),
            text("--root"),
            text(run.state.to_string_lossy().into_owned()),
        ];
        match self.kind {
            Kind::Crun => words.push(text("--cgroup-manager=disabled")),
            Kind::Runc => {}
            Kind::Runsc => {
                for flag in [
                    "--platform=ptrace",
                    "--network=none",
                    "--host-uds=all",
                    "--ignore-cgroups",
                    "--overlay=false",
                ] {
                    words.push(text(flag));
                }
            }
        }
        words.extend([
            text("run"),
            text("--detach"),
            text("--bundle"),
            text(run.bundle.to_string_lossy().into_owned()),
        ]);
        words.extend([
            text("--pid-file"),
            text(run.bundle.join("pid").to_string_lossy().into_owned()),
        ]);
        if self.passes_descriptors() {
            let count = if run.redirected.is_some() { "2" } else { "1" };
            words.extend([text("--preserve-fds"), text(count)]);
        }
        words.push(text(run.box_id));
        words
    }

    /// Starts the sandbox and returns the host pid of its first process.
    pub fn run(&self, run: &Run<'_>) -> Result<i32> {
        // The sandbox inherits these as its standard streams. A descriptor of the host's /dev/null would do, were it not that
        // runtimes give their standard streams to the sandbox's user.
        let (reader, writer) = sys::pipe().context("making a pipe")?;
        let mut descriptors = vec![
            (writer.as_raw_fd(), 0),
            (writer.as_raw_fd(), 1),
            (writer.as_raw_fd(), 2),
        ];
        for (passed, place) in run.wire.iter().chain(&run.redirected).zip(3..) {
            descriptors.push((*passed, place));
        }
        // Behind those the sandbox gets.
        let lock_at = descriptors.len() as RawFd;
        descriptors.push((run.lock, lock_at));
        let arguments = self.arguments(run);
        let spawn = Spawn {
            program: &self.program,
            arguments: &arguments,
            environment: &[text(
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )],
            descriptors: &descriptors,
            cgroups: run.cgroups,
        };
        let pid = spawn.start().context(format_args!("starting {}", self.kind.name()))?;
        drop(writer);
        let (status, words) = self.wait(pid, &reader)?;
        if status != 0 {
            let words = String::from_utf8_lossy(&words).trim().to_string();
            return Err(Error::new(
                code::IO,
                format!(
                    "{} failed: {}",
                    self.kind.name(),
                    if words.is_empty() { "it said nothing" } else { &words }
                ),
            ));
        }
        let path = run.bundle.join("pid");
        let pid = fs::read_to_string(&path).context(format_args!("reading {}", path.display()))?;
        pid.trim()
            .parse()
            .map_err(|_| Error::new(code::IO, format!("{} wrote no pid", self.kind.name())))
    }

    fn wait(&self, pid: i32, reader: &OwnedFd) -> Result<(i32, Vec<u8>)> {
        let handle = sys::pidfd_open(pid).context("watching the runtime")?;
        let end = Instant::now() + RUN_WAIT;
        let mut words = Vec::new();
        let mut watched = vec![handle.as_raw_fd(), reader.as_raw_fd()];
        let mut buffer = [0; 1024];
        loop {
            let ready = sys::wait_readable(&watched, end.saturating_duration_since(Instant::now()))
                .context("waiting for the runtime")?;
            if ready.get(1) == Some(&true) {
                match sys::read_some(reader.as_raw_fd(), &mut buffer) {
                    Ok(0) | Err(_) => watched.truncate(1),
                    Ok(count) if words.len() < WORDS_BYTES => words.extend_from_slice(&buffer[..count]),
                    Ok(_) => {}
                }
                continue;
            }
            if !ready[0] {
                let _ = sys::pidfd_signal(handle.as_raw_fd(), sys::SIGKILL);
                let _ = sys::wait_for(pid);
                return Err(Error::new(
                    code::TIMED_OUT,
                    format!("{} did not finish within {} s", self.kind.name(), RUN_WAIT.as_secs()),
                ));
            }
            return Ok((sys::wait_for(pid).context("reaping the runtime")?, words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_runtimes_are_called() {
        assert_eq!(Kind::parse("runc").unwrap(), Kind::Runc);
        for bad in ["", "sh", "crun ", "../crun"] {
            assert_eq!(Kind::parse(bad).unwrap_err().code, code::INVALID);
        }
    }
}
