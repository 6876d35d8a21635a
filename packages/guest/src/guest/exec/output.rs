//! What a program writes: read as far as its readers and its ring allow, and handed to each reader in turn.

use super::super::connection::Role;
use super::super::poll::Timer;
use super::super::ring::FIRST_BYTES;
use super::super::serve::{At, Guest, SCRATCH_BYTES};
use super::super::sys::{self, EPOLLIN};
use super::Exec;
use crate::wire::{self, stream, DATA_BYTES};

const GRACE_MS: u64 = 200;

impl Exec {
    fn source(&mut self, number: u8) -> &mut Option<super::super::poll::Source> {
        if number == stream::STDERR {
            &mut self.error
        } else {
            &mut self.output
        }
    }
}

impl Guest {
    /// Bytes that may be read of the program's output now. With viewers it is what the slowest of them has credit for and the
    /// ring can keep until then; without, anything, over the oldest.
    fn readable_bytes(&mut self, key: u64) -> u64 {
        let viewers = match self.execs.map.get(&key) {
            Some(exec) if !exec.viewers.is_empty() => exec.viewers.clone(),
            _ => return SCRATCH_BYTES as u64,
        };
        // Nothing is kept for a program that writes nothing: the first bytes make the room they need.
        let empty = self.execs.map.get(&key).map_or(false, |exec| exec.ring.capacity() == 0);
        let room = if empty { FIRST_BYTES as u64 } else { self.make_room(key, SCRATCH_BYTES) };
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
    fn make_room(&mut self, key: u64, count: usize) -> u64 {
        let (wanted, capacity) = match self.execs.map.get(&key) {
            Some(exec) => (exec.ring.wanted(count), exec.ring.capacity()),
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
        let target = if fits { wanted } else { capacity.max(wanted.min(FIRST_BYTES)) };
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
        self.make_room(key, count);
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
            if !exec.running() {
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
}
