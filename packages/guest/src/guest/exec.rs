//! Execs: started, followed, signalled, timed, reaped, kept and forgotten.

use super::connection::Role;
use super::failure::Failure;
use super::messages::{Ending, Exec as Request, ExecInfo, Exit, OOM_KILLED, TIMED_OUT};
use super::poll::{Kind, Source, Timer};
use super::ring::Ring;
use super::serve::{At, Guest, SCRATCH_BYTES};
use super::session;
use super::spawn;
use super::sys::{self, EPOLLIN, EPOLLOUT};
use super::users::Users;
use crate::wire::{self, code, stream, DATA_BYTES, MAX_PAYLOAD_BYTES};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

const MAX_RUNNING: usize = 1024;
const MAX_ENDED: usize = 256;
const MAX_DRAINS: usize = 1024;
const MAX_ID_BYTES: usize = 64;
const MAX_TAG_BYTES: usize = 1024;
const MAX_USER_BYTES: usize = 256;
const INFO_ARGV_BYTES: usize = 4096;
const KEEP_MS: u64 = 3_600_000;
const GRACE_MS: u64 = 200;
const KILL_AFTER_MS: u64 = 2_000;
const MIN_RINGS_BYTES: usize = 8 << 20;
/// Assumed where nobody says what the sandbox may use; the host's own memory, which /proc shows, would be far too much.
const DEFAULT_MEMORY_MB: u64 = 512;
/// Reads of each stream right when a process has ended, before it is told: more would hold up the others.
const LAST_READS: usize = 4;
const END_OF_TRANSMISSION: u8 = 4;

/// `by_id` and `map` name the same execs; `by_pid` those whose process is not reaped yet; `ended` those whose process is,
/// oldest first. `ring_bytes` is the sum of the rings' capacities.
pub struct Execs {
    map: HashMap<u64, Exec>,
    by_id: HashMap<String, u64>,
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
    pid: i32,
    /// The start's report while it is awaited.
    report: Option<Source>,
    request: Request,
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

struct Input {
    source: Source,
    /// What the program has not read yet, each with the channel that gets credit for it. Bounded by the channels' credit.
    queue: VecDeque<(Vec<u8>, Option<At>)>,
    /// Bytes of the first that were written.
    written: usize,
    closing: bool,
}

impl Execs {
    pub fn new(memory_mb: Option<u64>) -> Execs {
        let memory_mb = memory_mb.or_else(super::metrics::memory_limit_mb).unwrap_or(DEFAULT_MEMORY_MB);
        let eighth = (memory_mb << 20).min(1 << 40) / 8;
        Execs {
            map: HashMap::new(),
            by_id: HashMap::new(),
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            ring_bytes: 0,
            ring_limit: (eighth as usize).max(MIN_RINGS_BYTES),
            drains: HashMap::new(),
            end_at_ms: 0,
        }
    }

    pub fn running(&self) -> usize {
        self.by_pid.len()
    }
}

impl Exec {
    fn running(&self) -> bool {
        self.ending == Ending::Running
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

    fn source(&mut self, number: u8) -> &mut Option<Source> {
        if number == stream::STDERR {
            &mut self.error
        } else {
            &mut self.output
        }
    }

    fn info(&self, argv_bytes: usize) -> ExecInfo {
        let mut left = argv_bytes;
        let mut argv = Vec::new();
        for argument in &self.request.argv {
            let count = argument.len().min(left.saturating_sub(4));
            if count < argument.len() && count == 0 {
                break;
            }
            argv.push(argument[..count].to_vec());
            left -= count + 4;
        }
        ExecInfo {
            exec_id: self.id.clone(),
            pid: self.pid as u32,
            ending: self.ending,
            flags: self.flags,
            started_unix_ms: self.started_unix_ms,
            duration_ms: self.duration_ms(),
            output_bytes: self.ring.end(),
            start: self.ring.start(),
            argv,
            cwd: self.request.cwd.clone(),
            user: self.request.user.clone(),
            tag: self.request.tag.clone(),
            pty: self.request.pty,
        }
    }
}

fn refuse_request(exec: &Request) -> Option<Failure> {
    let id = exec.exec_id.as_bytes();
    let id_fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.iter().all(id_fits) {
        return Some(Failure::new(code::INVALID, "An exec id is 1 to 64 of A-Z a-z 0-9 _ -."));
    }
    if exec.tag.len() > MAX_TAG_BYTES {
        return Some(Failure::new(code::TOO_LARGE, "A tag has at most 1,024 bytes."));
    }
    if exec.user.len() > MAX_USER_BYTES {
        return Some(Failure::new(code::UNKNOWN_USER, "A user has at most 256 bytes."));
    }
    if exec.cwd.len() > wire::MAX_PATH_BYTES {
        return Some(Failure::new(code::NAME_TOO_LONG, "cwd has at most 4,096 bytes."));
    }
    if !exec.cwd.starts_with('/') {
        return Some(Failure::new(code::INVALID, "cwd must be absolute."));
    }
    None
}

impl Guest {
    pub fn open_exec(&mut self, at: At, mut request: Request) {
        if let Some(failure) = refuse_request(&request) {
            return self.refuse(at, failure);
        }
        if let Some(key) = self.execs.by_id.get(&request.exec_id).copied() {
            return self.follow(at, key, request.attach, request.from, request.keep_stdin || request.pty);
        }
        if self.execs.by_pid.len() >= MAX_RUNNING {
            return self.refuse(at, Failure::new(code::LIMIT, "1,024 execs are running. End some of them first."));
        }
        let started = match spawn::start(&request, &Users::load(), &self.ground) {
            Ok(started) => started,
            Err(failure) => return self.refuse(at, failure),
        };
        let now = sys::monotonic_ms();
        let key = self.fresh_id();
        let id = request.exec_id.clone();
        let mut report = self.source(started.report, Kind::ExecStart, key);
        let mut output = self.source(started.output, Kind::ExecOutput, key);
        let mut error = started.error.map(|fd| self.source(fd, Kind::ExecError, key));
        let mut watched = report.want(EPOLLIN).is_ok() && output.want(EPOLLIN).is_ok();
        watched &= error.as_mut().map_or(true, |source| source.want(EPOLLIN).is_ok());
        if !watched {
            drop(sys::send_signal(started.pid, sys::SIGKILL));
            return self
                .refuse(at, Failure::new(code::LIMIT, "The kernel watches no more descriptors for this sandbox."));
        }
        let input = started.input.map(|fd| Input {
            source: self.source(fd, Kind::ExecInput, key),
            queue: VecDeque::new(),
            written: 0,
            closing: !request.keep_stdin && !request.pty,
        });
        let stdin = std::mem::take(&mut request.stdin);
        request.script = None;
        request.env = Vec::new();
        cut_argv(&mut request.argv);
        // A terminal's input is always open.
        let (attach, keep_stdin) = (request.attach, request.keep_stdin || request.pty);
        let deadline_ms = if request.timeout_ms == 0 { None } else { Some(now.saturating_add(request.timeout_ms)) };
        if let Some(deadline_ms) = deadline_ms {
            self.timers.add(deadline_ms, Timer::Deadline(key));
        }
        self.execs.by_id.insert(id.clone(), key);
        self.execs.by_pid.insert(started.pid, key);
        self.execs.map.insert(
            key,
            Exec {
                id,
                pid: started.pid,
                report: Some(report),
                request,
                ending: Ending::Running,
                flags: 0,
                started_ms: now,
                started_unix_ms: sys::unix_ms(),
                duration_ms: 0,
                deadline_ms,
                ended_ms: 0,
                grace_ms: None,
                settled: false,
                killed_by_us: false,
                ring: Ring::new(),
                output: Some(output),
                error,
                input,
                viewers: Vec::new(),
                starters: Vec::new(),
            },
        );
        if !stdin.is_empty() {
            self.push_input(key, &stdin, None);
        }
        self.follow_new(at, key, attach, keep_stdin);
    }

    pub fn open_attach(&mut self, at: At, exec_id: &str, from: u64, stdin: bool) {
        match self.execs.by_id.get(exec_id).copied() {
            Some(key) => self.follow(at, key, true, from, stdin),
            None => self.refuse(at, unknown(exec_id)),
        }
    }

    fn follow_new(&mut self, at: At, key: u64, attach: bool, stdin: bool) {
        if attach {
            self.add_channel(at, Role::Exec { key, stdin, opened: false, close_at: None });
        } else {
            self.add_channel(at, Role::Start { key });
        }
        if let Some(exec) = self.execs.map.get_mut(&key) {
            if attach {
                exec.viewers.push(at);
            } else {
                exec.starters.push(at);
            }
        }
    }

    /// A channel joins an exec that exists.
    fn follow(&mut self, at: At, key: u64, attach: bool, from: u64, stdin: bool) {
        let (end, starting, settled) = match self.execs.map.get(&key) {
            Some(exec) => (exec.ring.end(), exec.report.is_some(), exec.settled),
            None => return self.refuse(at, unknown("")),
        };
        if attach && from > end {
            let message = format!("The output has {end} bytes so far; it cannot be resumed from {from}.");
            return self.refuse(at, Failure::new(code::INVALID, message));
        }
        self.follow_new(at, key, attach, stdin);
        if attach {
            if let Some(channel) = self.channel(at) {
                channel.sent = from;
                if let Role::Exec { close_at, .. } = &mut channel.role {
                    *close_at = if settled { Some(end) } else { None };
                }
            }
        }
        if !starting {
            self.tell_started(key, true);
        }
        self.regulate(key);
    }

    /// The start's pipe ended, or brought why there is no program.
    pub fn on_exec_report(&mut self, key: u64) {
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return,
        };
        let fd = match &exec.report {
            Some(report) => report.fd(),
            None => return,
        };
        let mut bytes = [0; 8];
        let result = sys::read_fd(fd, &mut bytes);
        match result {
            Err(error) if sys::would_block(&error) => return,
            _ => exec.report = None,
        }
        if !matches!(result, Ok(8)) {
            return self.tell_started(key, false);
        }
        let failure = spawn::start_failure(&bytes, &exec.request);
        let waiting: Vec<At> = exec.viewers.drain(..).chain(exec.starters.drain(..)).collect();
        let pid = exec.pid;
        self.remove_exec(key);
        // Its process is still to be reaped, but belongs to no exec any more.
        self.execs.by_pid.remove(&pid);
        for at in waiting {
            self.refuse(at, failure.clone());
        }
    }

    /// OPENED to the viewers that have not had it, CLOSE to those that only wanted it started.
    fn tell_started(&mut self, key: u64, known: bool) {
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return,
        };
        let (pid, start, exit) = (exec.pid as u32, exec.ring.start(), exec.exit());
        let starters = std::mem::take(&mut exec.starters);
        let mut first = !known;
        for at in starters {
            let known = !std::mem::take(&mut first);
            self.close(at, |w| {
                exit.write(w);
                w.u32(pid);
                w.u8(known as u8);
            });
        }
        let viewers = self.execs.map.get(&key).map_or_else(Vec::new, |exec| exec.viewers.clone());
        for at in viewers {
            match self.channel(at).map(|channel| &mut channel.role) {
                Some(Role::Exec { opened, .. }) if !*opened => *opened = true,
                _ => continue,
            }
            let known = !std::mem::take(&mut first);
            self.send(at.0, wire::OPENED, at.1, |w| {
                w.u32(pid);
                w.u8(known as u8);
                w.u64(start);
            });
            self.want_to_send(at);
        }
    }

    /// A channel stops following; the exec goes on.
    pub fn detach(&mut self, key: u64, at: At) {
        if let Some(exec) = self.execs.map.get_mut(&key) {
            exec.viewers.retain(|viewer| *viewer != at);
            exec.starters.retain(|starter| *starter != at);
            if let Some(input) = &mut exec.input {
                for item in &mut input.queue {
                    if item.1 == Some(at) {
                        item.1 = None;
                    }
                }
            }
            self.regulate(key);
        }
    }

    // Output.

    /// Bytes that may be read of the program's output now. With viewers it is what the slowest of them has credit for and the
    /// ring can keep until then; without, anything, over the oldest.
    fn readable_bytes(&mut self, key: u64) -> u64 {
        let viewers = match self.execs.map.get(&key) {
            Some(exec) if !exec.viewers.is_empty() => exec.viewers.clone(),
            _ => return SCRATCH_BYTES as u64,
        };
        let room = self.make_room(key);
        let exec = match self.execs.map.get(&key) {
            Some(exec) => exec,
            None => return 0,
        };
        let (end, loss) = (exec.ring.end(), exec.ring.next_loss());
        let mut allowed = room;
        for at in viewers {
            if let Some(channel) = self.channel(at) {
                if loss.map_or(false, |loss| channel.sent < loss) {
                    return 0;
                }
                let backlog = end - channel.sent.min(end);
                allowed = allowed.min(channel.credit.min(room).saturating_sub(backlog));
            }
        }
        allowed
    }

    /// Grows the ring for one more read as far as the rings of all may, dropping the oldest ended execs for it; its capacity then.
    fn make_room(&mut self, key: u64) -> u64 {
        let (wanted, capacity) = match self.execs.map.get(&key) {
            Some(exec) => (exec.ring.wanted(SCRATCH_BYTES), exec.ring.capacity()),
            None => return 0,
        };
        if wanted <= capacity {
            return capacity as u64;
        }
        while self.execs.ring_bytes + wanted - capacity > self.execs.ring_limit {
            if !self.forget_oldest(Some(key)) {
                break;
            }
        }
        // The least size is given beyond the limit too: at most as many as execs may run.
        let fits = self.execs.ring_bytes + wanted - capacity <= self.execs.ring_limit;
        let target = if fits { wanted } else { capacity.max(wanted.min(16 << 10)) };
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return 0,
        };
        if exec.ring.grow(target).is_ok() {
            self.execs.ring_bytes += exec.ring.capacity() - capacity;
        }
        exec.ring.capacity() as u64
    }

    /// One read of a stream; true where there may be more.
    pub fn read_output(&mut self, key: u64, number: u8) -> bool {
        let allowed = self.readable_bytes(key).min(SCRATCH_BYTES as u64) as usize;
        if allowed == 0 {
            self.regulate(key);
            return false;
        }
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return false,
        };
        let fd = match exec.source(number) {
            Some(source) => source.fd(),
            None => return false,
        };
        self.scratch.resize(SCRATCH_BYTES, 0);
        let result = sys::read_fd(fd, &mut self.scratch[..allowed]);
        let count = match result {
            Ok(count) => count,
            Err(error) if sys::would_block(&error) => return false,
            // A PTY answers EIO when its last user is gone.
            Err(_) => 0,
        };
        if count == 0 {
            *exec.source(number) = None;
            self.settle(key);
            return false;
        }
        self.make_room(key);
        if let Some(exec) = self.execs.map.get_mut(&key) {
            exec.ring.append(number, &self.scratch[..count]);
            let viewers = exec.viewers.clone();
            for at in viewers {
                self.want_to_send(at);
            }
        }
        true
    }

    /// Waits for output where it may be read, and not where it may not.
    pub fn regulate(&mut self, key: u64) {
        let interest = if self.readable_bytes(key) > 0 { EPOLLIN } else { 0 };
        if let Some(exec) = self.execs.map.get_mut(&key) {
            for source in [&mut exec.output, &mut exec.error].into_iter().flatten() {
                // Nothing can be done about a kernel out of memory here; the next event tries again.
                drop(source.want(interest));
            }
            if exec.ending != Ending::Running {
                self.settle(key);
            }
        }
    }

    /// Sends the next DATA of a viewer, or the exit where all was sent.
    pub fn pump_exec(&mut self, at: At, key: u64) -> bool {
        let (opened, close_at, credit, sent) = match self.channel(at) {
            Some(channel) => match &channel.role {
                Role::Exec { opened, close_at, .. } => (*opened, *close_at, channel.credit, channel.sent),
                _ => return false,
            },
            None => return false,
        };
        let exec = match self.execs.map.get(&key) {
            Some(exec) if opened => exec,
            _ => return false,
        };
        let end = close_at.unwrap_or_else(|| exec.ring.end());
        let from = sent.max(exec.ring.start());
        if from < end && credit > 0 {
            let limit = (end - from).min(credit).min(DATA_BYTES as u64) as usize;
            // The ring is lent out for the copy into the outbox.
            let (number, bytes) = exec.ring.read(from, limit);
            let count = bytes.len() as u64;
            if let Some(connection) = self.connections.get_mut(&at.0) {
                connection.outbox.frame(wire::DATA, at.1, |w| {
                    w.u8(number);
                    w.u64(from);
                    w.raw(bytes);
                });
            }
            if let Some(channel) = self.channel(at) {
                channel.sent = from + count;
                channel.credit -= count;
            }
            self.regulate(key);
            return self.channel(at).is_some();
        }
        if from >= end && close_at.is_some() {
            let exit = exec.exit();
            if let Some(exec) = self.execs.map.get_mut(&key) {
                exec.viewers.retain(|viewer| *viewer != at);
            }
            self.close(at, |w| exit.write(w));
            self.regulate(key);
        }
        false
    }

    /// Decides whether an ended exec's exit may be told.
    fn settle(&mut self, key: u64) {
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) if !exec.running() && !exec.settled => exec,
            _ => return,
        };
        let open = [&exec.output, &exec.error].into_iter().flatten().count();
        if open == 0 {
            return self.tell_exit(key);
        }
        // A stream held back by a slow reader may still have bytes of the ended process: the grace begins when it is read again.
        let held = [&exec.output, &exec.error].into_iter().flatten().any(|source| !source.waits());
        match (held, exec.grace_ms) {
            (true, Some(grace_ms)) => {
                exec.grace_ms = None;
                self.timers.remove(grace_ms, Timer::Grace(key));
            }
            (false, None) => {
                let grace_ms = sys::monotonic_ms() + GRACE_MS;
                exec.grace_ms = Some(grace_ms);
                self.timers.add(grace_ms, Timer::Grace(key));
            }
            _ => {}
        }
    }

    pub fn on_grace(&mut self, key: u64) {
        if let Some(exec) = self.execs.map.get_mut(&key) {
            exec.grace_ms = None;
            self.tell_exit(key);
        }
    }

    fn tell_exit(&mut self, key: u64) {
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return,
        };
        exec.settled = true;
        if let Some(grace_ms) = exec.grace_ms.take() {
            self.timers.remove(grace_ms, Timer::Grace(key));
        }
        let end = exec.ring.end();
        for at in exec.viewers.clone() {
            if let Some(Role::Exec { close_at, .. }) = self.channel(at).map(|channel| &mut channel.role) {
                close_at.get_or_insert(end);
            }
            self.want_to_send(at);
        }
    }

    // Input.

    pub fn queue_input(&mut self, key: u64, at: At, bytes: &[u8]) {
        match self.execs.map.get(&key).map(|exec| &exec.input) {
            Some(Some(input)) if !input.closing => self.push_input(key, bytes, Some(at)),
            _ => self.give_credit(at, bytes.len() as u64),
        }
    }

    fn push_input(&mut self, key: u64, bytes: &[u8], from: Option<At>) {
        if let Some(input) = self.execs.map.get_mut(&key).and_then(|exec| exec.input.as_mut()) {
            match input.queue.back_mut() {
                // Many small frames would otherwise cost more than the bytes they bring.
                Some((last, whose)) if *whose == from && last.len() + bytes.len() <= SCRATCH_BYTES => {
                    last.extend_from_slice(bytes)
                }
                _ => input.queue.push_back((bytes.to_vec(), from)),
            }
        }
        self.write_input(key);
    }

    /// Writes what the program takes; credit goes back for what it took.
    pub fn write_input(&mut self, key: u64) {
        let input = match self.execs.map.get_mut(&key).and_then(|exec| exec.input.as_mut()) {
            Some(input) => input,
            None => return,
        };
        let mut credits: Vec<(At, u64)> = Vec::new();
        let mut broken = false;
        let mut full = false;
        while let Some((bytes, from)) = input.queue.front() {
            match sys::write_fd(input.source.fd(), &bytes[input.written..]) {
                Ok(count) => {
                    if let Some(at) = from {
                        credits.push((*at, count as u64));
                    }
                    input.written += count;
                    if input.written >= bytes.len() {
                        input.written = 0;
                        input.queue.pop_front();
                    }
                }
                Err(error) if sys::errno(&error) == sys::EINTR => {}
                Err(error) if sys::errno(&error) == sys::EAGAIN => {
                    full = true;
                    break;
                }
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken {
            // Nobody reads it any more. What waits is dropped, and whoever sent it gets its credit back.
            credits.extend(input.queue.drain(..).filter_map(|(bytes, from)| from.map(|at| (at, bytes.len() as u64))));
        }
        let finished = broken || (input.closing && input.queue.is_empty());
        drop(input.source.want(if full { EPOLLOUT } else { 0 }));
        if finished {
            if let Some(exec) = self.execs.map.get_mut(&key) {
                exec.input = None;
            }
        }
        for (at, bytes) in credits {
            self.give_credit(at, bytes);
        }
    }

    /// No more input will come. A PTY has no end of its own to close, so it gets the character that means it.
    pub fn close_input(&mut self, key: u64) {
        if let Some(exec) = self.execs.map.get_mut(&key) {
            let pty = exec.request.pty;
            if let Some(input) = &mut exec.input {
                if pty {
                    input.queue.push_back((vec![END_OF_TRANSMISSION], None));
                } else {
                    input.closing = true;
                }
            }
        }
        self.write_input(key);
    }

    pub fn resize_exec(&mut self, key: u64, cols: u16, rows: u16) {
        if let Some(exec) = self.execs.map.get(&key) {
            if let (true, Some(output)) = (exec.request.pty && cols > 0 && rows > 0, &exec.output) {
                drop(sys::resize_pty(output.fd(), cols, rows));
            }
        }
    }

    // Endings.

    pub fn on_child(&mut self, pid: i32, status: i32) {
        let key = match self.execs.by_pid.remove(&pid) {
            Some(key) => key,
            None => return,
        };
        self.on_exec_report(key);
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return,
        };
        exec.duration_ms = sys::monotonic_ms().saturating_sub(exec.started_ms);
        exec.ended_ms = sys::monotonic_ms();
        exec.ending = match (status & 0x7f, status >> 8 & 0xff) {
            (0, exit_code) => Ending::Exited(exit_code as u8),
            (0x7f, _) => Ending::Unknown,
            (signal, _) => Ending::Signalled(signal as u8),
        };
        if exec.ending == Ending::Signalled(sys::SIGKILL as u8) && !exec.killed_by_us && self.oom.has_grown() {
            exec.flags |= OOM_KILLED;
        }
        if let Some(deadline_ms) = exec.deadline_ms.take() {
            self.timers.remove(deadline_ms, Timer::Deadline(key));
        }
        let input = exec.input.take();
        let mut orphaned = Vec::new();
        if let Some(input) = input {
            // A background child may still read a pipe, but nobody will write to it: its end is the truth.
            orphaned
                .extend(input.queue.into_iter().filter_map(|(bytes, from)| from.map(|at| (at, bytes.len() as u64))));
        }
        for (at, bytes) in orphaned {
            self.give_credit(at, bytes);
        }
        self.execs.ended.push_back(key);
        while self.execs.ended.len() > MAX_ENDED && self.forget_oldest(None) {}
        if self.execs.ended.len() == 1 {
            self.timers.add(sys::monotonic_ms() + KEEP_MS, Timer::Forget);
        }
        for number in [stream::STDOUT, stream::STDERR] {
            for _ in 0..LAST_READS {
                if !self.read_output(key, number) {
                    break;
                }
            }
        }
        self.regulate(key);
    }

    pub fn on_deadline(&mut self, key: u64) {
        if let Some(exec) = self.execs.map.get_mut(&key) {
            if !exec.running() {
                return;
            }
            exec.deadline_ms = None;
            exec.flags |= TIMED_OUT;
            self.signal_session(key, sys::SIGTERM);
            self.timers.add(sys::monotonic_ms() + KILL_AFTER_MS, Timer::Kill(key));
        }
    }

    pub fn kill_session(&mut self, key: u64) {
        self.signal_session(key, sys::SIGKILL);
    }

    pub fn end_sessions(&mut self, signal: i32) {
        let keys: Vec<u64> = self.execs.by_pid.values().copied().collect();
        for key in keys {
            self.signal_session(key, signal);
        }
    }

    fn signal_session(&mut self, key: u64, signal: i32) {
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return,
        };
        exec.killed_by_us |= exec.running() && signal == sys::SIGKILL;
        let session_id = exec.pid;
        if exec.running() {
            // At once, however busy the workers are; they look for the rest.
            drop(sys::send_signal(session_id, signal));
        } else if self.execs.by_pid.contains_key(&session_id) {
            // The number names another exec by now; this one's session is gone.
            return;
        }
        self.work(move || {
            session::signal_followers(session_id, signal);
            Box::new(|_| {})
        });
    }

    pub fn control_signal(&mut self, key: u64, signal: u8) {
        if let Some(exec) = self.execs.map.get_mut(&key) {
            if exec.running() && (1..=64).contains(&signal) {
                exec.killed_by_us |= signal as i32 == sys::SIGKILL;
                drop(sys::send_signal(exec.pid, signal as i32));
            }
        }
    }

    pub fn signal_exec(&mut self, at: At, exec_id: &str, signal: u8, whole_session: bool) {
        let key = match self.execs.by_id.get(exec_id).copied() {
            Some(key) => key,
            None => return self.refuse(at, unknown(exec_id)),
        };
        if !(1..=64).contains(&signal) {
            return self.refuse(at, Failure::new(code::INVALID, "A signal is a number from 1 to 64."));
        }
        let (running, session_id) = match self.execs.map.get(&key) {
            Some(exec) => (exec.running(), exec.pid),
            None => return,
        };
        if !whole_session {
            if !running {
                return self.refuse(at, Failure::new(code::NOT_FOUND, format!("The process of {exec_id} has ended.")));
            }
            self.control_signal(key, signal);
            return self.close(at, |_| {});
        }
        if !running && self.execs.by_pid.contains_key(&session_id) {
            return self.close(at, |_| {});
        }
        if let Some(exec) = self.execs.map.get_mut(&key) {
            exec.killed_by_us |= running && signal as i32 == sys::SIGKILL;
        }
        if running {
            drop(sys::send_signal(session_id, signal as i32));
        }
        self.add_channel(at, Role::Job { cancel: Arc::new(AtomicBool::new(false)) });
        self.work(move || {
            session::signal_followers(session_id, signal as i32);
            Box::new(move |guest| {
                if guest.channel(at).is_some() {
                    guest.close(at, |_| {});
                }
            })
        });
    }

    // Keeping and forgetting.

    pub fn list_execs(&mut self, at: At) {
        let mut all: Vec<&Exec> = self.execs.map.values().collect();
        all.sort_by_key(|exec| std::cmp::Reverse((exec.started_unix_ms, exec.pid)));
        all.truncate(MAX_ENDED);
        let share = (MAX_PAYLOAD_BYTES / 2 / all.len().max(1)).min(INFO_ARGV_BYTES);
        let mut infos = Vec::new();
        let mut count = 0u32;
        for exec in all {
            let before = infos.len();
            exec.info(share).write(&mut wire::Writer::new(&mut infos));
            if infos.len() > MAX_PAYLOAD_BYTES - 64 {
                infos.truncate(before);
                break;
            }
            count += 1;
        }
        self.close(at, |w| {
            w.u32(count);
            w.raw(&infos);
        });
    }

    pub fn forget_exec(&mut self, at: At, exec_id: &str) {
        let key = match self.execs.by_id.get(exec_id).copied() {
            Some(key) => key,
            None => return self.refuse(at, unknown(exec_id)),
        };
        if self.execs.map.get(&key).map_or(false, Exec::running) {
            return self.refuse(at, Failure::new(code::BUSY, format!("{exec_id} is running. Signal it first.")));
        }
        self.remove_exec(key);
        self.close(at, |_| {});
    }

    /// Drops the oldest ended exec that nobody follows; false where there is none.
    fn forget_oldest(&mut self, but: Option<u64>) -> bool {
        let execs = &self.execs;
        let unfollowed =
            |key: &u64| Some(*key) != but && execs.map.get(key).map_or(true, |exec| exec.viewers.is_empty());
        match execs.ended.iter().copied().find(unfollowed) {
            Some(key) => {
                self.remove_exec(key);
                true
            }
            None => false,
        }
    }

    pub fn forget_old(&mut self) {
        let now = sys::monotonic_ms();
        let old = |exec: &Exec| exec.ended_ms + KEEP_MS <= now;
        while let Some(key) = self.execs.ended.front().copied() {
            match self.execs.map.get(&key) {
                Some(exec) if !old(exec) => {
                    return self.timers.add(exec.ended_ms + KEEP_MS, Timer::Forget);
                }
                _ => self.remove_exec(key),
            }
        }
    }

    fn remove_exec(&mut self, key: u64) {
        self.execs.ended.retain(|ended| *ended != key);
        let mut exec = match self.execs.map.remove(&key) {
            Some(exec) => exec,
            None => return,
        };
        self.execs.by_id.remove(&exec.id);
        self.execs.ring_bytes -= exec.ring.capacity();
        for at in std::mem::take(&mut exec.viewers) {
            self.refuse(at, Failure::new(code::UNKNOWN_EXEC, "The exec was forgotten."));
        }
        for (at, moment) in [(exec.deadline_ms, Timer::Deadline(key)), (exec.grace_ms, Timer::Grace(key))] {
            if let Some(at_ms) = at {
                self.timers.remove(at_ms, moment);
            }
        }
        for mut source in [exec.output.take(), exec.error.take()].into_iter().flatten() {
            let id = self.fresh_id();
            let kept = self.execs.drains.len() < MAX_DRAINS
                && source.rename(Kind::Drain, id).is_ok()
                && source.want(EPOLLIN).is_ok();
            if kept {
                self.execs.drains.insert(id, source);
            }
        }
    }

    pub fn drain(&mut self, id: u64) {
        if let Some(source) = self.execs.drains.get(&id) {
            self.scratch.resize(SCRATCH_BYTES, 0);
            match sys::read_fd(source.fd(), &mut self.scratch) {
                Ok(count) if count > 0 => {}
                Err(error) if sys::would_block(&error) => {}
                _ => drop(self.execs.drains.remove(&id)),
            }
        }
    }
}

fn unknown(exec_id: &str) -> Failure {
    Failure::new(code::UNKNOWN_EXEC, format!("No exec {exec_id:?}: it never was, or has been forgotten."))
}

fn cut_argv(argv: &mut Vec<Vec<u8>>) {
    let mut left = INFO_ARGV_BYTES;
    argv.retain_mut(|argument| {
        argument.truncate(left);
        argument.shrink_to_fit();
        let kept = left > 0;
        left = left.saturating_sub(argument.len() + 4);
        kept
    });
}
