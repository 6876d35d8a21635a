//! What the sandbox sees of its own use, and kills for memory where its cgroup is visible.

use super::connection::Role;
use super::failure::Failure;
use super::messages::Metrics;
use super::serve::{At, Guest};
use super::sys;
use crate::wire::code;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

const FILE_BYTES: usize = 256 << 10;
/// What /proc counts processor time in.
const MS_PER_TICK: u64 = 10;
/// Programs are taken before the guest when memory runs out.
const CHILD_OOM_SCORE: i32 = 500;

/// Kernel counters of kills for memory, in the order they are looked for.
const OOM_FILES: [&str; 2] = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
const LIMIT_FILES: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Counts kills by the kernel for memory. Where no cgroup is mounted inside, it never grows: the host, which sees the cgroup from
/// outside, corrects the exit.
pub struct OomCounter {
    file: Option<&'static str>,
    seen: u64,
}

impl OomCounter {
    pub fn new() -> OomCounter {
        let found = OOM_FILES.iter().find_map(|file| oom_kills(file).map(|seen| (*file, seen)));
        OomCounter { file: found.map(|(file, _)| file), seen: found.map_or(0, |(_, seen)| seen) }
    }

    pub fn has_grown(&mut self) -> bool {
        let now = self.file.and_then(oom_kills).unwrap_or(self.seen);
        let grown = now > self.seen;
        self.seen = now;
        grown
    }
}

fn text(path: &str) -> Option<String> {
    sys::read_small(path, FILE_BYTES).and_then(|bytes| String::from_utf8(bytes).ok())
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

fn oom_kills(file: &str) -> Option<u64> {
    field(&text(file)?, "oom_kill ")
}

/// The sandbox's memory limit where its cgroup is visible inside.
pub fn memory_limit_mb() -> Option<u64> {
    LIMIT_FILES.iter().find_map(|file| {
        let bytes: u64 = text(file)?.trim().parse().ok()?;
        // "No limit" is a huge number on v1.
        if bytes < 1 << 50 {
            Some(bytes >> 20)
        } else {
            None
        }
    })
}

pub fn child_oom_score() -> Vec<u8> {
    let own = text("/proc/self/oom_score_adj").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    CHILD_OOM_SCORE.max(own).to_string().into_bytes()
}

fn collect(uptime_ms: u64) -> Metrics {
    let memory = text("/proc/meminfo").unwrap_or_default();
    let kilobytes = |name| field(&memory, name).unwrap_or(0) << 10;
    let total = kilobytes("MemTotal:");
    let load = text("/proc/loadavg").unwrap_or_default();
    let load1: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let (cpu_user_ms, cpu_system_ms) = cpu_ms();
    let (disk_used_bytes, disk_total_bytes) = disk();
    Metrics {
        uptime_ms,
        memory_used_bytes: total.saturating_sub(kilobytes("MemAvailable:")),
        memory_total_bytes: total,
        processes: processes(),
        disk_used_bytes,
        disk_total_bytes,
        load1_centi: (load1 * 100.0) as u32,
        cpu_user_ms,
        cpu_system_ms,
    }
}

fn cpu_ms() -> (u64, u64) {
    if let Some(stat) = text("/sys/fs/cgroup/cpu.stat") {
        if let (Some(user), Some(system)) = (field(&stat, "user_usec "), field(&stat, "system_usec ")) {
            return (user / 1000, system / 1000);
        }
    }
    let stat = text("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    let tick = |index: usize| ticks.get(index).copied().unwrap_or(0);
    ((tick(0) + tick(1)) * MS_PER_TICK, tick(2) * MS_PER_TICK)
}

fn disk() -> (u64, u64) {
    let at = |path: &[u8]| sys::file_system(&sys::cstring(path).ok()?).ok();
    match at(b"/workspace").or_else(|| at(b"/")) {
        Some(fs) => ((fs.blocks - fs.blocks_free.min(fs.blocks)) * fs.fragment_size, fs.blocks * fs.fragment_size),
        None => (0, 0),
    }
}

fn processes() -> u32 {
    let is_process = |entry: &fs::DirEntry| {
        entry.file_name().to_str().map_or(false, |name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    fs::read_dir("/proc").map_or(0, |entries| entries.flatten().filter(is_process).count() as u32)
}

impl Guest {
    pub fn open_metrics(&mut self, at: At) {
        let uptime_ms = sys::monotonic_ms().saturating_sub(self.started_ms);
        self.add_channel(at, Role::Job { cancel: Arc::new(AtomicBool::new(false)) });
        self.work(move || {
            let metrics = collect(uptime_ms);
            Box::new(move |guest| {
                if guest.channel(at).is_some() {
                    guest.close(at, |w| metrics.write(w));
                }
            })
        });
    }

    pub fn set_clock(&mut self, at: At, unix_nanos: u64) {
        if !self.owns_clock {
            let message = "This sandbox shares the host's clock; it cannot be set from inside.";
            return self.refuse(at, Failure::new(code::NOT_SUPPORTED, message));
        }
        match sys::set_clock(unix_nanos) {
            Ok(()) => self.close(at, |_| {}),
            Err(error) => self.refuse(at, Failure::of("Setting the clock", &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(field(events, "oom_kill "), Some(2));
        assert_eq!(field("MemTotal:       24 kB\n", "MemTotal:"), Some(24));
        assert_eq!(field("", "oom_kill "), None);
    }

    #[test]
    fn this_machine_has_memory_processes_and_a_disk() {
        let metrics = collect(5);
        assert_eq!(metrics.uptime_ms, 5);
        assert!(metrics.memory_total_bytes > metrics.memory_used_bytes && metrics.memory_used_bytes > 0);
        assert!(metrics.disk_total_bytes >= metrics.disk_used_bytes && metrics.disk_total_bytes > 0);
        assert!(metrics.processes > 0);
    }
}
