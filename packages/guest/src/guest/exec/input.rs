//! What a program reads: a queue bounded by the credit of those who fill it, written as the program takes it.

use super::super::serve::{At, Guest, SCRATCH_BYTES};
use super::super::sys::{self, EPOLLOUT};

const END_OF_TRANSMISSION: u8 = 4;

impl Guest {
    pub fn has_open_input(&self, key: u64) -> bool {
        let input = self.execs.map.get(&key).and_then(|exec| exec.input.as_ref());
        input.map_or(false, |input| !input.closing)
    }

    pub fn queue_input(&mut self, key: u64, at: At, bytes: &[u8]) {
        match self.execs.map.get(&key).map(|exec| &exec.input) {
            Some(Some(input)) if !input.closing => self.push_input(key, bytes, Some(at)),
            _ => self.give_credit(at, bytes.len() as u64),
        }
    }

    pub fn push_input(&mut self, key: u64, bytes: &[u8], from: Option<At>) {
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
        // Before the program runs there is nothing to write to.
        let source = match &mut input.source {
            Some(source) => source,
            None => return,
        };
        let mut credits: Vec<(At, u64)> = Vec::new();
        let mut broken = false;
        let mut full = false;
        while let Some((bytes, from)) = input.queue.front() {
            match sys::write_fd(source.fd(), &bytes[input.written..]) {
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
        drop(source.want(if full { EPOLLOUT } else { 0 }));
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
            let pty = exec.pty;
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
        if let Some(exec) = self.execs.map.get_mut(&key) {
            if !exec.pty || cols == 0 || rows == 0 {
                return;
            }
            match &exec.output {
                Some(output) => drop(sys::resize_pty(output.fd(), cols, rows)),
                None => exec.resize = Some((cols, rows)),
            }
        }
    }
}
