//! Execs as they are listed, kept after their end, and forgotten.

use super::super::failure::Failure;
use super::super::messages::ExecInfo;
use super::super::poll::{Kind, Timer};
use super::super::serve::{At, Guest, SCRATCH_BYTES};
use super::super::sys::{self, EPOLLIN};
use super::{unknown, Exec};
use crate::wire::{self, code, MAX_PAYLOAD_BYTES};

pub const KEEP_MS: u64 = 3_600_000;
pub const MAX_ENDED: usize = 256;
pub const INFO_ARGV_BYTES: usize = 4096;
const MAX_DRAINS: usize = 1024;

impl Exec {
    fn info(&self, argv_bytes: usize) -> ExecInfo {
        let mut left = argv_bytes;
        let mut argv = Vec::new();
        for argument in &self.argv {
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
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            tag: self.tag.clone(),
            pty: self.pty,
        }
    }
}

impl Guest {
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

    pub fn set_memory(&mut self, at: At, limit_mb: u32) {
        if limit_mb == 0 {
            return self.refuse(at, Failure::new(code::INVALID, "A sandbox without memory cannot be."));
        }
        self.execs.set_memory(u64::from(limit_mb));
        self.close(at, |_| {});
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
    pub fn forget_oldest(&mut self, but: Option<u64>) -> bool {
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

    pub fn remove_exec(&mut self, key: u64) {
        self.execs.ended.retain(|ended| *ended != key);
        self.execs.starting.retain(|starting| *starting != key);
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
