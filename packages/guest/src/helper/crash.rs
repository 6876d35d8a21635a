//! Death at a chosen step, for the tests that ask what a kill -9 leaves behind.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ffi;
use super::sys;

static LEFT: AtomicU64 = AtomicU64::new(0);

fn count_down(_name: &str) {
    if LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
        // SAFETY: plain numbers. A signal rather than an exit: nothing of this process may run any more.
        unsafe { ffi::kill(ffi::getpid(), sys::SIGKILL) };
    }
}

/// With DELTA_TEST_CRASH_AT=n this process kills itself at the n-th step of making and ending boxes; without, nothing happens.
pub fn step() -> fn(&str) {
    match std::env::var("DELTA_TEST_CRASH_AT")
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|count| *count > 0)
    {
        None => |_| {},
        Some(count) => {
            LEFT.store(count, Ordering::SeqCst);
            count_down
        }
    }
}
