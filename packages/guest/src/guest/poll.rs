//! What the loop waits for: descriptors, and moments.

use super::sys;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};

/// Which handler an event belongs to. With the id it makes the token of an epoll registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Listener = 1,
    Signals,
    Workers,
    Connection,
    Starters,
    ExecOutput,
    ExecError,
    ExecInput,
    Drain,
    Dial,
    Watches,
    EgressListener,
    Outgoing,
    Resolver,
    Query,
}

const KINDS: [Kind; 15] = [
    Kind::Listener,
    Kind::Signals,
    Kind::Workers,
    Kind::Connection,
    Kind::Starters,
    Kind::ExecOutput,
    Kind::ExecError,
    Kind::ExecInput,
    Kind::Drain,
    Kind::Dial,
    Kind::Watches,
    Kind::EgressListener,
    Kind::Outgoing,
    Kind::Resolver,
    Kind::Query,
];

pub fn token(kind: Kind, id: u64) -> u64 {
    (kind as u64) << 56 | id
}

pub fn untoken(token: u64) -> Option<(Kind, u64)> {
    let kind = KINDS.get(((token >> 56) as usize).checked_sub(1)?)?;
    Some((*kind, token & ((1 << 56) - 1)))
}

/// A descriptor in (or out of) the epoll set. It is taken out explicitly before it closes: where a duplicate or a child
/// just forked still holds the file, closing alone would leave its events coming.
pub struct Source {
    fd: OwnedFd,
    epoll: RawFd,
    token: u64,
    interest: u32,
}

impl Source {
    pub fn new(epoll: RawFd, fd: OwnedFd, kind: Kind, id: u64) -> Source {
        Source { fd, epoll, token: token(kind, id), interest: 0 }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Waits for these events, or with 0 for none at all, not even a hang-up, which epoll reports unasked.
    pub fn want(&mut self, interest: u32) -> io::Result<()> {
        if interest == self.interest {
            return Ok(());
        }
        let op = match (self.interest, interest) {
            (0, _) => 1,
            (_, 0) => 2,
            _ => 3,
        };
        sys::epoll_control(self.epoll, op, self.fd(), interest, self.token)?;
        self.interest = interest;
        Ok(())
    }

    pub fn waits(&self) -> bool {
        self.interest != 0
    }

    /// Hands the descriptor to another handler.
    pub fn rename(&mut self, kind: Kind, id: u64) -> io::Result<()> {
        let interest = self.interest;
        self.want(0)?;
        self.token = token(kind, id);
        self.want(interest)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.interest != 0 {
            // It can only fail where the set is gone too.
            drop(sys::epoll_control(self.epoll, 2, self.fd(), 0, 0));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A connection has not said HELLO.
    Hello(u64),
    /// An exec's time is up.
    Deadline(u64),
    /// A program has not begun to run.
    Start(u64),
    /// Its session had two seconds since TERM.
    Kill(u64),
    /// Its process ended 200 ms ago and something else still holds its output.
    Grace(u64),
    /// An ended exec may be old enough to forget.
    Forget,
    Dial(u64),
    /// A connection to the outside took too long over its present step.
    Outgoing(u64),
    /// A client of DNS over TCP had its time.
    Query(u64),
    /// The guest itself is ending.
    End,
}

/// Moments on the monotonic clock, which goes on while no host is connected.
#[derive(Default)]
pub struct Timers {
    set: BTreeSet<(u64, Timer)>,
}

impl Timers {
    pub fn add(&mut self, at_ms: u64, timer: Timer) {
        self.set.insert((at_ms, timer));
    }

    pub fn remove(&mut self, at_ms: u64, timer: Timer) {
        self.set.remove(&(at_ms, timer));
    }

    pub fn take_due(&mut self, now_ms: u64) -> Option<Timer> {
        let first = *self.set.iter().next()?;
        if first.0 > now_ms {
            return None;
        }
        self.set.remove(&first);
        Some(first.1)
    }

    /// Milliseconds until the next, or -1 for none: epoll's timeout.
    pub fn wait_ms(&self, now_ms: u64) -> i32 {
        match self.set.iter().next() {
            None => -1,
            Some((at, _)) => at.saturating_sub(now_ms).min(i32::MAX as u64) as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for kind in KINDS {
            assert_eq!(untoken(token(kind, 123_456_789_012)), Some((kind, 123_456_789_012)));
        }
        assert_eq!(untoken(0), None);
        assert_eq!(untoken(u64::MAX), None);
    }

    #[test]
    fn timers_fire_in_order_and_once() {
        let mut timers = Timers::default();
        assert_eq!(timers.wait_ms(0), -1);
        timers.add(20, Timer::Forget);
        timers.add(10, Timer::Deadline(1));
        timers.add(10, Timer::Kill(1));
        timers.remove(10, Timer::Kill(1));
        assert_eq!(timers.wait_ms(4), 6);
        assert_eq!(timers.take_due(9), None);
        assert_eq!(timers.take_due(25), Some(Timer::Deadline(1)));
        assert_eq!(timers.take_due(25), Some(Timer::Forget));
        assert_eq!(timers.take_due(25), None);
    }
}
