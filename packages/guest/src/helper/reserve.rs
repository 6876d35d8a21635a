//! Keeps sandboxes from filling the file system that carries the pool.
//!
//! A loop-mounted btrfs whose backing file system is full loses a write of its own metadata and turns read-only for every sandbox. So
//! below the reserve each upper's quota becomes what it holds and a little more: who writes gets "quota exceeded", while reading, removing
//! and everything that needs no room go on. A frozen sandbox could not even be asked to remove something.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::error::{Context, Result};
use super::pool::Usage;

/// Faster than sandboxes together write to memory, which is where it is first.
const FASTEST_BYTES_PER_SECOND: u64 = 4 << 30;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// While something is wrong, so that the end of it is seen soon.
const UNEASY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Fine,
    /// Less is free than the reserve: nothing may grow.
    Low,
    /// The pool takes no writes any more, whatever is free.
    ReadOnly,
}

impl Room {
    /// As the protocol numbers it.
    pub fn number(self) -> u8 {
        match self {
            Room::Fine => 0,
            Room::Low => 1,
            Room::ReadOnly => 2,
        }
    }
}

/// Free bytes from which a pool that was low is fine again: an eighth more than the reserve, or it would change with every file.
pub fn enough(reserve: u64) -> u64 {
    reserve + reserve / 8
}

pub fn judge(before: Room, usage: &Usage) -> Room {
    let needed = if before == Room::Low {
        enough(usage.reserve)
    } else {
        usage.reserve
    };
    if usage.read_only {
        Room::ReadOnly
    } else if usage.backing_free < needed {
        Room::Low
    } else {
        Room::Fine
    }
}

/// How long nothing can go wrong: the time in which even the fastest writer does not reach the reserve. Hours of idleness cost a look every ten seconds.
pub fn pause(room: Room, usage: &Usage) -> Duration {
    if room != Room::Fine {
        return UNEASY_PAUSE;
    }
    let above = usage.backing_free.saturating_sub(usage.reserve);
    Duration::from_millis(above.saturating_mul(1000) / FASTEST_BYTES_PER_SECOND).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// A thread that calls `look`, waits as long as it said, and calls it again until it is stopped.
pub struct Watch {
    stopped: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(name: &str, mut look: impl FnMut() -> Duration + Send + 'static) -> Result<Watch> {
        let stopped = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = stopped.clone();
        let body = move || loop {
            let wait = look();
            let (flag, news) = &*seen;
            let guard = flag.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (guard, _) = news
                .wait_timeout_while(guard, wait, |stopped| !*stopped)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if *guard {
                return;
            }
        };
        let thread = Builder::new().name(name.to_string()).spawn(body);
        let thread = thread.context("starting a thread")?;
        Ok(Watch {
            stopped,
            thread: Some(thread),
        })
    }

    pub fn stop(&mut self) {
        *self.stopped.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        self.stopped.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(backing_free: u64, read_only: bool) -> Usage {
        Usage {
            total: 100 << 30,
            used: 1 << 30,
            backing_free,
            reserve: 2 << 30,
            read_only,
        }
    }

    #[test]
    fn below_the_reserve_is_low_and_stays_so_until_an_eighth_more_is_free() {
        let reserve = 2u64 << 30;
        assert_eq!(judge(Room::Fine, &usage(reserve, false)), Room::Fine);
        assert_eq!(judge(Room::Fine, &usage(reserve - 1, false)), Room::Low);
        assert_eq!(judge(Room::Low, &usage(reserve + 1, false)), Room::Low);
        assert_eq!(judge(Room::Low, &usage(enough(reserve), false)), Room::Fine);
    }

    #[test]
    fn read_only_is_told_whatever_is_free() {
        assert_eq!(judge(Room::Low, &usage(u64::MAX, true)), Room::ReadOnly);
        assert_eq!(judge(Room::ReadOnly, &usage(0, false)), Room::Low);
    }

    #[test]
    fn no_writer_is_fast_enough_to_pass_the_reserve_between_two_looks_but_for_the_last() {
        for above in [0u64, 1 << 20, 300 << 20, 5 << 30, 1 << 40] {
            let wait = pause(Room::Fine, &usage((2 << 30) + above, false));
            let written = wait.as_millis() as u64 * FASTEST_BYTES_PER_SECOND / 1000;
            assert!(written <= above.max(512 << 20), "{} MiB above: {:?}", above >> 20, wait);
            assert!(wait <= LONGEST_PAUSE);
        }
        assert_eq!(pause(Room::Low, &usage(0, false)), UNEASY_PAUSE);
    }

    #[test]
    fn a_watch_looks_again_and_ends_at_once_when_stopped() {
        let (told, looks) = std::sync::mpsc::channel();
        let mut count = 0;
        let mut watch = Watch::start("delta-test", move || {
            count += 1;
            let _ = told.send(count);
            // The third wait outlives the test unless it is interrupted.
            Duration::from_secs(if count < 3 { 0 } else { 3_600 })
        })
        .unwrap();
        assert_eq!(looks.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
        watch.stop();
        assert!(looks.recv().is_err());
    }
}
