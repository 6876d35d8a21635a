//! Execs: started, followed, signalled, timed, reaped, kept and forgotten.

mod ending;
mod input;
mod keep;
mod output;
mod start;

use super::failure::Failure;
use super::messages::{Ending, Exit};
use super::poll::Source;
use super::ring::Ring;
use super::serve::At;
use super::sys;
use crate::wire::code;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Arc;

const MIN_RINGS_BYTES: usize = 8 << 20;
/// Assumed where nobody says what the sandbox may use; the host's own memory, which /proc shows, would be far too much.
const DEFAULT_MEMORY_MB: u64 = 512;

/// `by_id` and `map` name the same execs; each is in one of `starting`, `by_pid` (its process runs or is not reaped yet) and
/// `ended`, oldest first. `ring_bytes` is the sum of the rings' capacities.
pub struct Execs {
    map: HashMap<u64, Exec>,
    by_id: HashMap<String, u64>,
    starting: Vec<u64>,
    by_pid: HashMap<i32, u64>,
    ended: VecDeque<u64>,
    ring_bytes: usize,
    ring_limit: usize,
    /// Outputs of forgotten execs that a background child still writes; read into nothing so that it does not die of SIGPIPE.
    drains: HashMap<u64, Source>,
    pub end_at_ms: u64,
}

struct Exec {
    id: String,
    /// 0 until the program runs.
    pid: i32,
    /// Set by the starting thread as soon as there is a process.
    started_pid: Arc<AtomicI32>,
    start_by_ms: Option<u64>,
    start_failed: bool,
    /// It ended before the starting thread could tell that it runs.
    early_status: Option<i32>,
    argv: Vec<Vec<u8>>,
    cwd: String,
    user: String,
    tag: String,
    pty: bool,
    /// A terminal's size, changed before it was there.
    resize: Option<(u16, u16)>,
    ending: Ending,
    flags: u8,
    started_ms: u64,
    started_unix_ms: u64,
    duration_ms: u64,
    deadline_ms: Option<u64>,
    ended_ms: u64,
    grace_ms: Option<u64>,
    /// The exit may be told: the output ended or its grace is over.
    settled: bool,
    killed_by_us: bool,
    ring: Ring,
    output: Option<Source>,
    error: Option<Source>,
    input: Option<Input>,
    viewers: Vec<At>,
    starters: Vec<At>,
}

/// `source` is None until the program runs.
struct Input {
    source: Option<Source>,
    /// What the program has not read yet, each with the channel that gets credit for it. Bounded by the channels' credit.
    queue: VecDeque<(Vec<u8>, Option<At>)>,
    /// Bytes of the first that were written.
    written: usize,
    closing: bool,
}

impl Execs {
    pub fn new(memory_mb: Option<u64>) -> Execs {
        let memory_mb = memory_mb.or_else(super::metrics::memory_limit_mb).unwrap_or(DEFAULT_MEMORY_MB);
        Execs {
            map: HashMap::new(),
            by_id: HashMap::new(),
            starting: Vec::new(),
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            ring_bytes: 0,
            ring_limit: ring_limit(memory_mb),
            drains: HashMap::new(),
            end_at_ms: 0,
        }
    }

    /// The sandbox's limit is another now. What rings hold beyond it goes as new output needs room.
    pub fn set_memory(&mut self, memory_mb: u64) {
        self.ring_limit = ring_limit(memory_mb);
    }

    pub fn running(&self) -> usize {
        self.starting.len() + self.by_pid.len()
    }
}

/// An eighth of the sandbox's memory may hold output.
fn ring_limit(memory_mb: u64) -> usize {
    let eighth = memory_mb.min(1 << 20) << 20 >> 3;
    (eighth as usize).max(MIN_RINGS_BYTES)
}

impl Exec {
    fn running(&self) -> bool {
        self.ending == Ending::Running
    }

    /// The process, while its number cannot name another.
    fn live_pid(&self) -> Option<i32> {
        let pid = if self.pid == 0 { self.started_pid.load(Ordering::Relaxed) } else { self.pid };
        if self.running() && self.early_status.is_none() && pid > 0 {
            Some(pid)
        } else {
            None
        }
    }

    fn duration_ms(&self) -> u64 {
        if self.running() {
            sys::monotonic_ms().saturating_sub(self.started_ms)
        } else {
            self.duration_ms
        }
    }

    fn exit(&self) -> Exit {
        Exit { ending: self.ending, flags: self.flags, output_bytes: self.ring.end(), duration_ms: self.duration_ms() }
    }
}

fn unknown(exec_id: &str) -> Failure {
    Failure::new(code::UNKNOWN_EXEC, format!("No exec {exec_id:?}: it never was, or has been forgotten."))
}
