//! How execs end: by themselves, by a signal, at their time.

use super::super::connection::Role;
use super::super::failure::Failure;
use super::super::messages::{Ending, OOM_KILLED, TIMED_OUT};
use super::super::poll::Timer;
use super::super::serve::{At, Guest};
use super::super::session;
use super::super::sys;
use super::keep::{KEEP_MS, MAX_ENDED};
use super::unknown;
use crate::wire::{code, stream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

const KILL_AFTER_MS: u64 = 2_000;
/// Reads of each stream right when a process has ended, before it is told: more would hold up the others.
const LAST_READS: usize = 4;

impl Guest {
    /// A child was reaped: an exec's process, one whose start is still being told, or an orphan.
    pub fn on_child(&mut self, pid: i32, status: i32) {
        if let Some(key) = self.execs.by_pid.remove(&pid) {
            return self.end_exec(key, status);
        }
        for key in self.execs.starting.clone() {
            if let Some(exec) = self.execs.map.get_mut(&key) {
                if exec.started_pid.load(Ordering::Relaxed) == pid {
                    exec.early_status = Some(status);
                }
            }
        }
    }

    /// The process is gone, with this wait status.
    pub fn end_exec(&mut self, key: u64, status: i32) {
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
        let keys: Vec<u64> = self.execs.by_pid.values().chain(&self.execs.starting).copied().collect();
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
        if let Some(pid) = exec.live_pid() {
            // At once, however busy the workers are; they look for the rest.
            drop(sys::send_signal(pid, signal));
        } else if self.execs.by_pid.contains_key(&session_id) {
            // The number names another exec by now; this one's session is gone.
            return;
        }
        if session_id == 0 {
            return;
        }
        self.work(move || {
            session::signal_followers(session_id, signal);
            Box::new(|_| {})
        });
    }

    pub fn control_signal(&mut self, key: u64, signal: u8) {
        if let Some(exec) = self.execs.map.get_mut(&key) {
            if let (Some(pid), true) = (exec.live_pid(), (1..=64).contains(&signal)) {
                exec.killed_by_us |= signal as i32 == sys::SIGKILL;
                drop(sys::send_signal(pid, signal as i32));
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
        let (running, live_pid, session_id) = match self.execs.map.get(&key) {
            Some(exec) => (exec.running(), exec.live_pid(), exec.pid),
            None => return,
        };
        if !whole_session {
            if !running {
                return self.refuse(at, Failure::new(code::NOT_FOUND, format!("The process of {exec_id} has ended.")));
            }
            self.control_signal(key, signal);
            return self.close(at, |_| {});
        }
        if let Some(pid) = live_pid {
            drop(sys::send_signal(pid, signal as i32));
        }
        if session_id == 0 || (!running && self.execs.by_pid.contains_key(&session_id)) {
            return self.close(at, |_| {});
        }
        if let Some(exec) = self.execs.map.get_mut(&key) {
            exec.killed_by_us |= running && signal as i32 == sys::SIGKILL;
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
}
