//! Threads for calls that can be held up, so that the loop never is. They live only while there is work.

use super::serve::Guest;
use super::sys;
use std::collections::VecDeque;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use std::{io, thread};

/// Only what is touched is resident; a listing recurses as deep as it may.
const STACK_BYTES: usize = 1 << 20;
const IDLE: Duration = Duration::from_millis(500);

/// What the loop does with a job's result.
pub type After = Box<dyn FnOnce(&mut Guest) + Send>;
type Job = Box<dyn FnOnce() -> After + Send>;

/// The queue is bounded by the channels of all connections: each has at most one job.
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    event: OwnedFd,
    max_threads: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    done: Vec<After>,
    threads: usize,
    idle: usize,
}

impl Workers {
    pub fn new(max_threads: usize) -> io::Result<Workers> {
        let event = sys::new_eventfd()?;
        Ok(Workers { shared: Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), event, max_threads }) })
    }

    /// Readable when `finished` has something.
    pub fn fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    pub fn run(&self, job: impl FnOnce() -> After + Send + 'static) {
        let mut state = self.shared.state.lock().unwrap();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            self.shared.wake.notify_one();
        } else if state.threads < self.shared.max_threads {
            let shared = self.shared.clone();
            let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || work(&shared));
            match spawned {
                Ok(_) => state.threads += 1,
                // The box has used up its processes. Without any thread the loop does the job itself: late is better than never.
                Err(_) if state.threads == 0 => {
                    let job = state.jobs.pop_back();
                    drop(state);
                    if let Some(job) = job {
                        finish(&self.shared, job());
                    }
                }
                Err(_) => {}
            }
        }
    }

    pub fn finished(&self) -> Vec<After> {
        drop(sys::read_fd(self.fd(), &mut [0; 8]));
        std::mem::take(&mut self.shared.state.lock().unwrap().done)
    }
}

fn finish(shared: &Shared, after: After) {
    let first = {
        let mut state = shared.state.lock().unwrap();
        state.done.push(after);
        state.done.len() == 1
    };
    if first {
        drop(sys::write_fd(shared.event.as_raw_fd(), &1u64.to_ne_bytes()));
    }
}

fn work(shared: &Shared) {
    let mut state = shared.state.lock().unwrap();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            finish(shared, job());
            state = shared.state.lock().unwrap();
            continue;
        }
        state.idle += 1;
        let (woken, timeout) = shared.wake.wait_timeout(state, IDLE).unwrap();
        state = woken;
        state.idle -= 1;
        if timeout.timed_out() && state.jobs.is_empty() {
            state.threads -= 1;
            return;
        }
    }
}
