//! The guest (PID 1 of every sandbox) and the host's privileged helper share the wire codec and nothing else.

pub mod guest;
pub mod helper;
pub mod wire;
