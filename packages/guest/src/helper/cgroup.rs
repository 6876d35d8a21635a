//! Limits, freezing and counting by cgroup v2, v1 or a mixture. The helper makes the groups and sets the limits itself, so that
//! they are the same under every runtime.
//!
//! A box's group is `/delta-<8 hex of the data folder>/<boxId>` in each hierarchy in use.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::io::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::{code, Context, Error, Result};
use super::sys;

/// v1 controllers a box is put under, where the kernel has them. `devices` is here for runc, which insists on it.
const CONTROLLERS: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "freezer", "devices"];
/// Those without which a limit could not be kept.
const NEEDED: [&str; 4] = ["memory", "cpu", "pids", "freezer"];
const V2_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const CPU_PERIOD_MICROS: u64 = 100_000;
const REMOVE_WAIT: Duration = Duration::from_secs(10);
/// A freeze waits on a thread that others' quick requests need too.
const FREEZE_WAIT: Duration = Duration::from_secs(5);
/// What all boxes together leave to the host of its process numbers and its memory.
const SHARE_LEFT: u64 = 8;
/// Enough for the host's own programs where an eighth is less.
const MEMORY_LEFT_BYTES: u64 = 512 << 20;
/// How often all processes of a group are killed before it is called unkillable.
const KILL_ROUNDS: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
    Hybrid,
}

impl Version {
    pub fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
            Version::Hybrid => "hybrid",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub cpu_milli: u32,
    pub memory_mb: u32,
    pub processes: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_micros: u64,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub memory_limit_bytes: u64,
    pub oom_kills: u64,
    pub processes: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_micros: u64,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Cgroups {
    pub version: Version,
    /// (controller, mount point); on v2 one entry with an empty name.
    hierarchies: Vec<(String, PathBuf)>,
    /// `delta-<8 hex>`
    parent: String,
}

/// 8 hex digits that differ between data folders, so that several helpers on one machine never touch each other's groups.
pub fn folder_digest(data: &Path) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in data.as_os_str().to_string_lossy().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{:08x}", (hash >> 32) as u32 ^ hash as u32)
}

/// The v1 hierarchies and the v2 mount of a mountinfo text: (controllers, point) and the point of cgroup2.
fn parse(mountinfo: &str) -> (Vec<(String, PathBuf)>, Option<PathBuf>) {
    let mut first = Vec::new();
    let mut second = None;
    for line in mountinfo.lines() {
        let mut halves = line.splitn(2, " - ");
        let (left, right) = (halves.next().unwrap_or(""), halves.next().unwrap_or(""));
        let point = left.split(' ').nth(4).unwrap_or("");
        let fields: Vec<&str> = right.split(' ').collect();
        match fields.first() {
            Some(&"cgroup2") if second.is_none() => second = Some(PathBuf::from(point)),
            Some(&"cgroup") => {
                let options = fields.get(2).copied().unwrap_or("");
                for controller in options.split(',').filter(|option| CONTROLLERS.contains(option)) {
                    if !first.iter().any(|(known, _)| known == controller) {
                        first.push((controller.to_string(), PathBuf::from(point)));
                    }
                }
            }
            _ => {}
        }
    }
    (first, second)
}

fn read_number(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        other => other.parse().ok(),
    }
}

/// The number after `key ` in a file of such lines.
fn read_field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The machine's memory in bytes; 0 where it does not say.
fn memory_total() -> u64 {
    memory_of("MemTotal:").unwrap_or(0)
}

/// What programs may still get of it, in bytes, without anything being swapped out; None where it does not say.
pub fn memory_available() -> Option<u64> {
    memory_of("MemAvailable:")
}

fn memory_of(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

fn put(path: &Path, value: &str) -> Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.context(format_args!("writing {} to {}", value, path.display()))
}

/// Writes a limit that this kernel may not have.
fn put_if_there(path: &Path, value: &str) -> Result<()> {
    match put(path, value) {
        Err(error) if error.code == code::NOT_FOUND => Ok(()),
        other => other,
    }
}

impl Cgroups {
    pub fn find(data: &Path) -> Result<Cgroups> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
        let (first, second) = parse(&text);
        let parent = format!("delta-{}", folder_digest(data));
        if first.is_empty() {
            let point = second.ok_or_else(|| {
                Error::new(
                    code::NOT_SUPPORTED,
                    "no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup, limits cannot be kept without it",
                )
            })?;
            return Ok(Cgroups {
                version: Version::V2,
                hierarchies: vec![(String::new(), point)],
                parent,
            });
        }
        let missing: Vec<&str> = NEEDED
            .iter()
            .filter(|name| !first.iter().any(|(known, _)| known == *name))
            .copied()
            .collect();
        if !missing.is_empty() {
            return Err(Error::new(
                code::NOT_SUPPORTED,
                format!(
                    "the cgroup controllers {} are not mounted: limits cannot be kept without them",
                    missing.join(", ")
                ),
            ));
        }
        let version = if second.is_some() { Version::Hybrid } else { Version::V1 };
        Ok(Cgroups {
            version,
            hierarchies: first,
            parent,
        })
    }

    /// What the runtimes may see of v1; empty on v2.
    pub fn view(&self) -> Vec<(String, PathBuf)> {
        match self.version {
            Version::V2 => Vec::new(),
            _ => self.hierarchies.clone(),
        }
    }

    /// The path the runtime is told.
    pub fn runtime_path(&self, box_id: &str) -> String {
        format!("/{}/{}", self.parent, box_id)
    }

    fn parents(&self) -> Vec<PathBuf> {
        let mut points: Vec<PathBuf> = self
            .hierarchies
            .iter()
            .map(|(_, point)| point.join(&self.parent))
            .collect();
        points.dedup();
        points
    }

    fn folder(&self, controller: &str, box_id: &str) -> Option<PathBuf> {
        let found = self
            .hierarchies
            .iter()
            .find(|(name, _)| name.is_empty() || name == controller)?;
        Some(found.1.join(&self.parent).join(box_id))
    }

    fn folders(&self, box_id: &str) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = self
            .hierarchies
            .iter()
            .map(|(_, point)| point.join(&self.parent).join(box_id))
            .collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// The group all boxes are in. Made at the start, so that two creates never race for it.
    pub fn make_parent(&self) -> Result<()> {
        for folder in self.parents() {
            match fs::create_dir(&folder) {
                Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::from_io(
                        format_args!("making the cgroup {}", folder.display()),
                        &cause,
                    ));
                }
                _ => {}
            }
        }
        if self.version == Version::V2 {
            let point = &self.hierarchies[0].1;
            for controller in V2_CONTROLLERS {
                for folder in [point.clone(), point.join(&self.parent)] {
                    put(&folder.join("cgroup.subtree_control"), &format!("+{}", controller))?;
                }
            }
        }
        self.limit_parent()
    }

    /// Each box has limits of its own, but enough of them add up to the machine: past this the boxes starve each other, not the
    /// host and its helper.
    fn limit_parent(&self) -> Result<()> {
        let all = |path: &str| read_number(Path::new(path)).unwrap_or(u64::MAX);
        let numbers = all("/proc/sys/kernel/pid_max").min(all("/proc/sys/kernel/threads-max"));
        let memory = memory_total();
        let parent = |controller: &str| self.folder(controller, "").unwrap_or_default();
        if numbers < u64::MAX {
            put(
                &parent("pids").join("pids.max"),
                &(numbers - numbers / SHARE_LEFT).to_string(),
            )?;
        }
        let left = (memory / SHARE_LEFT).max(MEMORY_LEFT_BYTES);
        if memory <= left {
            return Ok(());
        }
        let file = if self.version == Version::V2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        match put(&parent("memory").join(file), &(memory - left).to_string()) {
            // Boxes that run on from an earlier start use more already; it takes hold at the next.
            Err(error) if error.code == code::BUSY => Ok(()),
            other => other,
        }
    }

    /// Succeeds only when no box is left.
    pub fn remove_parent(&self) -> Result<()> {
        for folder in self.parents() {
            remove_folder(&folder)?;
        }
        Ok(())
    }

    pub fn make(&self, box_id: &str) -> Result<()> {
        for folder in self.folders(box_id) {
            match fs::create_dir(&folder) {
                Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::from_io(
                        format_args!("making the cgroup {}", folder.display()),
                        &cause,
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Descriptors through which a process enters the group by writing `0`.
    pub fn doors(&self, box_id: &str) -> Result<Vec<OwnedFd>> {
        let open = |folder: PathBuf| {
            let path = folder.join("cgroup.procs");
            let file = OpenOptions::new().write(true).open(&path);
            file.map(OwnedFd::from)
                .context(format_args!("opening {}", path.display()))
        };
        self.folders(box_id).into_iter().map(open).collect()
    }

    pub fn limit(&self, box_id: &str, limits: &Limits) -> Result<()> {
        let folder = |controller: &str| {
            self.folder(controller, box_id).ok_or_else(|| {
                Error::new(
                    code::NOT_SUPPORTED,
                    format!("there is no cgroup controller {}", controller),
                )
            })
        };
        let memory = (u64::from(limits.memory_mb) << 20).to_string();
        let quota = u64::from(limits.cpu_milli) * CPU_PERIOD_MICROS / 1000;
        if self.version == Version::V2 {
            let group = folder("")?;
            put(&group.join("memory.max"), &memory)?;
            put_if_there(&group.join("memory.swap.max"), "0")?;
            put(&group.join("pids.max"), &limits.processes.to_string())?;
            return put(&group.join("cpu.max"), &format!("{} {}", quota, CPU_PERIOD_MICROS));
        }
        let group = folder("memory")?;
        let (alone, together) = (group.join("memory.limit_in_bytes"), group.join("memory.memsw.limit_in_bytes"));
        // Memory and swap together are limited to the memory: no swap. That limit may at no moment be below the other.
        let grows = read_number(&alone).map_or(false, |now| now < u64::from(limits.memory_mb) << 20);
        if grows {
            put_if_there(&together, &memory)?;
        }
        put(&alone, &memory)?;
        put_if_there(&together, &memory)?;
        put_if_there(&group.join("memory.swappiness"), "0")?;
        put(&folder("pids")?.join("pids.max"), &limits.processes.to_string())?;
        let group = folder("cpu")?;
        put(&group.join("cpu.cfs_period_us"), &CPU_PERIOD_MICROS.to_string())?;
        put(&group.join("cpu.cfs_quota_us"), &quota.to_string())
    }

    pub fn stats(&self, box_id: &str) -> Result<Stats> {
        let folder = |controller: &str| self.folder(controller, box_id).unwrap_or_default();
        let Usage {
            cpu_micros,
            memory_bytes,
        } = self
            .usage(box_id)
            .ok_or_else(|| Error::new(code::NOT_FOUND, format!("there is no box {}", box_id)))?;
        let group = folder("memory");
        let (peak, limit, kills) = match self.version {
            Version::V2 => ("memory.peak", "memory.max", "memory.events"),
            _ => ("memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control"),
        };
        Ok(Stats {
            cpu_micros,
            memory_bytes,
            memory_peak_bytes: read_number(&group.join(peak)).unwrap_or(memory_bytes),
            memory_limit_bytes: read_number(&group.join(limit)).unwrap_or(u64::MAX),
            oom_kills: read_field(&group.join(kills), "oom_kill").unwrap_or(0),
            processes: read_number(&folder("pids").join("pids.current")).unwrap_or(0) as u32,
        })
    }

    /// Processor time since it was made, and memory now without what the kernel could take back at once; None where there is no such group.
    pub fn usage(&self, box_id: &str) -> Option<Usage> {
        let memory = self.folder("memory", box_id)?;
        let (current, idle) = match self.version {
            Version::V2 => ("memory.current", "inactive_file"),
            _ => ("memory.usage_in_bytes", "total_inactive_file"),
        };
        let used = read_number(&memory.join(current))?;
        let idle = read_field(&memory.join("memory.stat"), idle).unwrap_or(0);
        let cpu_micros = match self.version {
            Version::V2 => read_field(&memory.join("cpu.stat"), "usage_usec").unwrap_or(0),
            _ => match self.folder("cpuacct", box_id) {
                Some(folder) => read_number(&folder.join("cpuacct.usage")).unwrap_or(0) / 1000,
                None => 0,
            },
        };
        Some(Usage {
            cpu_micros,
            memory_bytes: used.saturating_sub(idle),
        })
    }

    pub fn oom_kills(&self, box_id: &str) -> u64 {
        let folder = self.folder("memory", box_id).unwrap_or_default();
        let file = if self.version == Version::V2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        read_field(&folder.join(file), "oom_kill").unwrap_or(0)
    }

    /// Stops or wakes every process of the group and waits until they are.
    pub fn freeze(&self, box_id: &str, frozen: bool) -> Result<()> {
        let folder = self.folder("freezer", box_id).unwrap_or_default();
        let end = Instant::now() + FREEZE_WAIT;
        let (file, value) = match (self.version, frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (_, true) => ("freezer.state", "FROZEN"),
            (_, false) => ("freezer.state", "THAWED"),
        };
        loop {
            // On v1 a write is needed again where a process was forking meanwhile.
            put(&folder.join(file), value)?;
            if self.is_frozen(box_id) == frozen {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Error::new(
                    code::TIMED_OUT,
                    format!(
                        "the processes of {} did not stop within {} s",
                        box_id,
                        FREEZE_WAIT.as_secs()
                    ),
                ));
            }
            sleep(Duration::from_millis(2));
        }
    }

    pub fn is_frozen(&self, box_id: &str) -> bool {
        let folder = self.folder("freezer", box_id).unwrap_or_default();
        match self.version {
            Version::V2 => read_field(&folder.join("cgroup.events"), "frozen") == Some(1),
            _ => fs::read_to_string(folder.join("freezer.state")).map_or(false, |state| state.trim() == "FROZEN"),
        }
    }

    /// Host pids of the processes in any hierarchy of the box, including groups it made below its own.
    pub fn processes(&self, box_id: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        for folder in self.folders(box_id) {
            collect_processes(&folder, &mut pids, 0);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// True where the process is in the box's group.
    pub fn holds(&self, box_id: &str, pid: i32) -> bool {
        let folder = self.folder("memory", box_id).unwrap_or_default();
        let mut pids = Vec::new();
        collect_processes(&folder, &mut pids, 0);
        pids.contains(&pid)
    }

    /// Kills until nothing is left. A process is named by a pidfd and looked up again before the signal, so a pid that was given
    /// to another program meanwhile is never hit.
    pub fn kill_all(&self, box_id: &str) -> Result<()> {
        if self.is_frozen(box_id) {
            // A frozen process dies only when it runs again.
            for pid in self.processes(box_id) {
                self.kill(box_id, pid);
            }
            self.freeze(box_id, false)?;
        }
        for round in 0..KILL_ROUNDS {
            let pids = self.processes(box_id);
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                self.kill(box_id, pid);
            }
            sleep(Duration::from_micros(if round < 20 { 200 } else { 5_000 }));
        }
        Err(Error::new(
            code::BUSY,
            format!(
                "processes of {} do not end: they wait in the kernel, see `ps -o stat,wchan`",
                box_id
            ),
        ))
    }

    fn kill(&self, box_id: &str, pid: i32) {
        use std::os::unix::io::AsRawFd;
        if let Ok(handle) = sys::pidfd_open(pid) {
            if self.processes(box_id).binary_search(&pid).is_ok() {
                let _ = sys::pidfd_signal(handle.as_raw_fd(), sys::SIGKILL);
            }
        }
    }

    /// Removes the box's groups; it must be empty of processes.
    pub fn remove(&self, box_id: &str) -> Result<()> {
        for folder in self.folders(box_id) {
            remove_folder(&folder)?;
        }
        Ok(())
    }

    /// Boxes that have a group in any hierarchy.
    pub fn boxes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in self.parents() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().map_or(false, |kind| kind.is_dir()) {
                    found.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

fn collect_processes(folder: &Path, pids: &mut Vec<i32>, depth: usize) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    // A box has no right to make groups; runc and gVisor may, one level down.
    if depth < 2 {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().map_or(false, |kind| kind.is_dir()) {
                collect_processes(&entry.path(), pids, depth + 1);
            }
        }
    }
}

/// rmdir, the deepest first; waits while the kernel still lets go of the last process.
fn remove_folder(folder: &Path) -> Result<()> {
    let end = Instant::now() + REMOVE_WAIT;
    loop {
        let cause = match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => cause,
        };
        if cause.raw_os_error() != Some(16) || Instant::now() > end {
            return Err(Error::from_io(
                format_args!("removing the cgroup {}", folder.display()),
                &cause,
            ));
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().map_or(false, |kind| kind.is_dir()) {
                remove_folder(&entry.path())?;
            }
        }
        sleep(Duration::from_micros(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn hierarchies_are_found_by_their_options_also_where_two_share_a_mount() {
        let (first, second) = parse(HYBRID);
        assert_eq!(second, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cpu", "cpuacct", "memory"]);
        assert_eq!(first[1].1, PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
    }

    #[test]
    fn a_machine_with_v2_alone_has_no_v1_hierarchy() {
        let (first, second) = parse("31 30 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(first.is_empty());
        assert_eq!(second, Some(PathBuf::from("/sys/fs/cgroup")));
    }

    #[test]
    fn data_folders_have_different_groups() {
        assert_ne!(folder_digest(Path::new("/a")), folder_digest(Path::new("/b")));
        assert_eq!(folder_digest(Path::new("/a")).len(), 8);
    }
}
