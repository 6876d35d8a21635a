//! Execs begin: a new id starts a program, a known one is followed.

use super::super::connection::Role;
use super::super::failure::Failure;
use super::super::messages::{Ending, Exec as Request, TIMED_OUT};
use super::super::poll::{Kind, Timer};
use super::super::ring::Ring;
use super::super::serve::{At, Guest};
use super::super::spawn::{self, Started};
use super::super::sys::{self, EPOLLIN};
use super::keep::INFO_ARGV_BYTES;
use super::{unknown, Exec, Input};
use crate::wire::{self, code};
use std::collections::VecDeque;
use std::sync::atomic::AtomicI32;
use std::sync::Arc;

const MAX_RUNNING: usize = 1024;
const MAX_ID_BYTES: usize = 64;
const MAX_TAG_BYTES: usize = 1024;
const MAX_USER_BYTES: usize = 256;
/// A program that has not begun to run by then is given up: its file cannot be read, or something in the box keeps it stopped.
const START_MS: u64 = 30_000;

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
        // A terminal's input is always open.
        let (attach, keep_stdin) = (request.attach, request.keep_stdin || request.pty);
        if let Some(key) = self.execs.by_id.get(&request.exec_id).copied() {
            return self.follow(at, key, attach, request.from, keep_stdin);
        }
        if self.execs.running() >= MAX_RUNNING {
            return self.refuse(at, Failure::new(code::LIMIT, "1,024 execs are running. End some of them first."));
        }
        let key = self.fresh_id();
        let pid = Arc::new(AtomicI32::new(0));
        let exec = self.new_exec(key, &mut request, keep_stdin, pid.clone());
        self.execs.by_id.insert(exec.id.clone(), key);
        self.execs.map.insert(key, exec);
        self.execs.starting.push(key);
        self.follow_new(at, key, attach, keep_stdin);
        let ground = self.ground.clone();
        self.starters.run(move || {
            let result = spawn::start(&request, &ground, &pid);
            Box::new(move |guest| guest.on_started(key, result))
        });
    }

    fn new_exec(&mut self, key: u64, request: &mut Request, keep_stdin: bool, started_pid: Arc<AtomicI32>) -> Exec {
        let now = sys::monotonic_ms();
        let deadline_ms = if request.timeout_ms == 0 { None } else { Some(now.saturating_add(request.timeout_ms)) };
        if let Some(deadline_ms) = deadline_ms {
            self.timers.add(deadline_ms, Timer::Deadline(key));
        }
        let start_by_ms = now + START_MS;
        self.timers.add(start_by_ms, Timer::Start(key));
        let has_stdin = keep_stdin || !request.stdin.is_empty();
        let mut queue = VecDeque::new();
        if !request.stdin.is_empty() {
            // The start still needs to know that there is some.
            queue.push_back((std::mem::replace(&mut request.stdin, vec![0]), None));
        }
        let input = Input { source: None, queue, written: 0, closing: !keep_stdin };
        Exec {
            id: request.exec_id.clone(),
            pid: 0,
            started_pid,
            start_by_ms: Some(start_by_ms),
            start_failed: false,
            early_status: None,
            argv: cut_argv(&request.argv),
            cwd: request.cwd.clone(),
            user: request.user.clone(),
            tag: request.tag.clone(),
            pty: request.pty,
            resize: None,
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
            output: None,
            error: None,
            input: if has_stdin { Some(input) } else { None },
            viewers: Vec::new(),
            starters: Vec::new(),
        }
    }

    /// The program runs, or why it does not.
    fn on_started(&mut self, key: u64, result: Result<Started, Failure>) {
        self.execs.starting.retain(|starting| *starting != key);
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return,
        };
        if let Some(start_by_ms) = exec.start_by_ms.take() {
            self.timers.remove(start_by_ms, Timer::Start(key));
        }
        let failed = exec.start_failed;
        let result = result.and_then(|started| {
            if failed {
                let message = "The program did not begin to run within 30 s.";
                return Err(Failure::new(code::TIMED_OUT, message));
            }
            self.adopt(key, started)
        });
        if let Err(failure) = result {
            return self.abandon(key, failure);
        }
        self.tell_started(key, false);
        self.write_input(key);
        if let Some(exec) = self.execs.map.get_mut(&key) {
            let late = exec.flags & TIMED_OUT != 0;
            match exec.early_status.take() {
                Some(status) => self.end_exec(key, status),
                // Its time ended before it began.
                None if late => self.kill_session(key),
                None => {}
            }
        }
    }

    fn adopt(&mut self, key: u64, started: Started) -> Result<(), Failure> {
        let mut output = self.source(started.output, Kind::ExecOutput, key);
        let mut error = started.error.map(|fd| self.source(fd, Kind::ExecError, key));
        let input = started.input.map(|fd| self.source(fd, Kind::ExecInput, key));
        let watched = output.want(EPOLLIN).and_then(|()| error.as_mut().map_or(Ok(()), |source| source.want(EPOLLIN)));
        let exec = match self.execs.map.get_mut(&key) {
            Some(exec) => exec,
            None => return Ok(()),
        };
        if let Err(error) = watched {
            if exec.early_status.is_none() {
                drop(sys::send_signal(started.pid, sys::SIGKILL));
            }
            return Err(Failure::of("Watching the program's output", &error));
        }
        exec.pid = started.pid;
        if exec.early_status.is_none() {
            self.execs.by_pid.insert(started.pid, key);
        }
        if let Some((cols, rows)) = exec.resize.take() {
            drop(sys::resize_pty(output.fd(), cols, rows));
        }
        exec.output = Some(output);
        exec.error = error;
        if let Some(waiting) = &mut exec.input {
            waiting.source = input;
        }
        Ok(())
    }

    /// There is no exec after all: its id is free again.
    fn abandon(&mut self, key: u64, failure: Failure) {
        let waiting: Vec<At> = match self.execs.map.get_mut(&key) {
            Some(exec) => exec.viewers.drain(..).chain(exec.starters.drain(..)).collect(),
            None => return,
        };
        self.remove_exec(key);
        for at in waiting {
            self.refuse(at, failure.clone());
        }
    }

    pub fn on_start_timeout(&mut self, key: u64) {
        if let Some(exec) = self.execs.map.get_mut(&key) {
            exec.start_failed = true;
            exec.start_by_ms = None;
            match exec.live_pid() {
                Some(pid) => drop(sys::send_signal(pid, sys::SIGKILL)),
                // No process yet: the disk holds up the reading of its user. What comes of it is refused when it comes.
                None => {}
            }
        }
    }

    pub fn open_attach(&mut self, at: At, exec_id: &str, from: u64, stdin: bool) {
        match self.execs.by_id.get(exec_id).copied() {
            Some(key) if stdin && !self.has_open_input(key) => {
                let message = format!(
                    "The stdin of {exec_id} is not open: it was closed, never kept open, or the exec has ended."
                );
                self.refuse(at, Failure::new(code::INVALID, message))
            }
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
            Some(exec) => (exec.ring.end(), self.execs.starting.contains(&key), exec.settled),
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
}

fn cut_argv(argv: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut left = INFO_ARGV_BYTES;
    let mut cut = Vec::new();
    for argument in argv {
        if left == 0 {
            break;
        }
        cut.push(argument[..argument.len().min(left)].to_vec());
        left = left.saturating_sub(argument.len() + 4);
    }
    cut
}
