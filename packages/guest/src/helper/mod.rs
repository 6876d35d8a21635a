//! The privileged helper: the only process that mounts, maps uids, sets limits and calls the OCI runtime.

pub mod bases;
pub mod boxes;
pub mod cgroup;
pub mod confine;
pub mod crash;
pub mod doctor;
pub mod error;
pub mod ffi;
mod guest_layer;
pub mod layers;
pub mod network;
pub mod overlay;
pub mod pool;
pub mod protocol;
pub mod record;
pub mod reserve;
pub mod runtime;
pub mod seccomp;
pub mod seccomp_table;
pub mod serve;
pub mod settings;
pub mod sha256;
pub mod spec;
pub mod streams;
pub mod sys;
pub mod templates;
pub mod workers;
