//! PID 1 of a sandbox.

pub mod messages;
