//! What can be read: versions, limits, folders, programs.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::{finding, Finding, Status};
use crate::helper::ffi;
use crate::helper::pool::{system_program, MIN_RESERVE_BYTES};

const CGROUP2_MAGIC: i64 = 0x6367_7270;
const VERSION_WAIT_MS: u64 = 5_000;
const VERSION_BYTES_MAX: u64 = 4_096;
const NODE_MAJOR: u32 = 24;
const OPEN_FILES_WANTED: u64 = 65_536;
const PROCESSES_PER_SANDBOX: u64 = 512;
/// CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, SETPCAP, NET_ADMIN, SYS_ADMIN, MKNOD.
const CAPABILITIES: [(u32, &str); 10] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (3, "FOWNER"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (12, "NET_ADMIN"),
    (21, "SYS_ADMIN"),
    (27, "MKNOD"),
];

fn number_in(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

pub fn root() -> Finding {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = text
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .unwrap_or(0);
    let lacking: Vec<&str> =
        CAPABILITIES.iter().filter(|capability| effective >> capability.0 & 1 == 0).map(|capability| capability.1).collect();
    // SAFETY: no arguments.
    let uid = unsafe { ffi::getuid() };
    if uid == 0 && lacking.is_empty() {
        return finding(
            "root",
            Status::Ok,
            "uid 0 with the capabilities it needs",
            "The helper can mount, map uids and set limits; the HTTP process runs without any of that.",
        );
    }
    let found = if uid == 0 { format!("uid 0 without {}", lacking.join(", ")) } else { format!("uid {}", uid) };
    finding(
        "root",
        Status::Fail,
        found,
        "The helper must be root with full capabilities: start it with sudo, or a container with --privileged.",
    )
}

fn version_of(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string();
    judge_kernel(&release)
}

fn judge_kernel(release: &str) -> Finding {
    let found = format!("Linux {}", release);
    match version_of(release) {
        version if version < (5, 19) => {
            finding("kernel", Status::Fail, found, "Overlays on idmapped mounts need Linux 5.19: upgrade (Debian 12 and Ubuntu 22.04 with the HWE kernel have newer ones).")
        }
        version if version < (6, 7) => finding(
            "kernel",
            Status::Ok,
            found,
            "New enough. Before 6.7 btrfs has no simple quotas, so ordinary ones are used, which make large deletes slower.",
        ),
        _ => finding("kernel", Status::Ok, found, "New enough for everything, simple btrfs quotas included."),
    }
}

/// The mode, and one finding for each controller.
pub fn cgroups() -> Vec<Finding> {
    let base = Path::new("/sys/fs/cgroup");
    let kind = ffi::statfs_of(base).map_or(0, |found| found.kind);
    if kind == CGROUP2_MAGIC {
        return unified(base);
    }
    let mounts = ffi::mounts().unwrap_or_default();
    let has_v1 = mounts.iter().any(|line| line.kind == "cgroup");
    let has_v2 = mounts.iter().any(|line| line.kind == "cgroup2");
    if !has_v1 {
        return vec![finding(
            "cgroups",
            Status::Fail,
            "no cgroup file system",
            "Nothing can be limited: mount cgroup2 on /sys/fs/cgroup.",
        )];
    }
    let mode = if has_v2 { "hybrid (v1 controllers beside v2)" } else { "v1" };
    let mut findings =
        vec![finding("cgroups", Status::Ok, mode, "Memory, CPU and processes are limited. Disk throughput is not: that needs cgroup v2 (systemd.unified_cgroup_hierarchy=1).")];
    for controller in ["memory", "cpu", "pids", "freezer"] {
        findings.push(controller_v1(base, controller));
    }
    findings
}

fn meaning_of(controller: &str) -> &'static str {
    match controller {
        "memory" => "Without it a sandbox could take all of the memory",
        "cpu" => "Without it a sandbox could take every core",
        "pids" => "Without it a fork bomb would reach the host",
        "freezer" => "Without it sandboxes cannot be paused",
        _ => "Without it disk throughput is not limited",
    }
}

fn try_group(folder: &Path) -> Result<(), std::io::Error> {
    let group = folder.join(format!("delta-doctor-{}", std::process::id()));
    fs::create_dir(&group)?;
    fs::remove_dir(&group)
}

fn controller_v1(base: &Path, controller: &str) -> Finding {
    let name = format!("cgroup {}", controller);
    let folder = base.join(controller);
    let mounted = ffi::mount_on(&folder.canonicalize().unwrap_or_else(|_| folder.clone()))
        .ok()
        .flatten()
        .map_or(false, |line| line.kind == "cgroup");
    if !mounted {
        return finding(
            &name,
            Status::Fail,
            "missing",
            format!("{}: enable the controller on the kernel's command line or use cgroup v2.", meaning_of(controller)),
        );
    }
    match try_group(&folder) {
        Ok(()) => finding(&name, Status::Ok, "works", format!("{}; it is there.", meaning_of(controller))),
        Err(cause) => finding(
            &name,
            Status::Fail,
            cause.to_string(),
            format!("{}: {} must be writable.", meaning_of(controller), folder.display()),
        ),
    }
}

fn unified(base: &Path) -> Vec<Finding> {
    let mut findings = vec![match try_group(base) {
        Ok(()) => finding("cgroups", Status::Ok, "v2", "Memory, CPU, processes and disk throughput are limited."),
        Err(cause) => finding(
            "cgroups",
            Status::Fail,
            format!("v2, {}", cause),
            "Groups cannot be made: in a container, give it its own writable cgroup tree.",
        ),
    }];
    let there = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    for controller in ["memory", "cpu", "pids", "io"] {
        let name = format!("cgroup {}", controller);
        let missing = if controller == "io" { Status::Warn } else { Status::Fail };
        findings.push(if there.split_whitespace().any(|other| other == controller) {
            finding(&name, Status::Ok, "works", format!("{}; it is there.", meaning_of(controller)))
        } else {
            finding(
                &name,
                missing,
                "missing",
                format!(
                    "{}: enable the controller (cgroup_enable={} on the kernel's command line).",
                    meaning_of(controller),
                    controller
                ),
            )
        });
    }
    findings
}

/// The first line a program says about its version; None when it is silent for too long.
fn version_line(program: &Path) -> Option<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    for _ in 0..VERSION_WAIT_MS / 10 {
        if let Ok(Some(_)) = child.try_wait() {
            let mut text = String::new();
            child.stdout.take()?.take(VERSION_BYTES_MAX).read_to_string(&mut text).ok()?;
            return text.lines().next().map(|line| line.trim().to_string()).filter(|line| !line.is_empty());
        }
        sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

pub fn runtimes(configured: &str) -> Vec<Finding> {
    let describe = |name: &str| match name {
        "crun" => "The fastest runtime; shares the host's kernel.",
        "runc" => "The reference runtime; shares the host's kernel.",
        _ => "gVisor: its own kernel in user space, for code nobody trusts; slower.",
    };
    ["crun", "runc", "runsc"]
        .iter()
        .map(|name| {
            let version = system_program(name).and_then(|path| version_line(&path));
            match version {
                Some(version) => finding(name, Status::Ok, version, describe(name)),
                None if *name == configured => finding(
                    name,
                    Status::Fail,
                    "missing",
                    format!("It is the configured runtime (DELTA_RUNTIME): apt-get install {}.", name),
                ),
                None => finding(
                    name,
                    Status::Ok,
                    "not installed",
                    format!("{} Only needed where it is asked for: apt-get install {}.", describe(name), name),
                ),
            }
        })
        .collect()
}

pub fn mkfs() -> Finding {
    match system_program("mkfs.btrfs") {
        Some(path) => finding(
            "mkfs.btrfs",
            Status::Ok,
            path.display().to_string(),
            "The pool can be made as a btrfs image with a quota per sandbox.",
        ),
        None => finding(
            "mkfs.btrfs",
            Status::Warn,
            "missing",
            "The pool becomes a plain folder: no quota limits what a sandbox writes. apt-get install btrfs-progs.",
        ),
    }
}

pub fn mmdebstrap() -> Finding {
    match system_program("mmdebstrap") {
        Some(path) => finding("mmdebstrap", Status::Ok, path.display().to_string(), "The template debian can be built."),
        None => finding(
            "mmdebstrap",
            Status::Ok,
            "not installed",
            "Only the template host is offered; for debian: apt-get install mmdebstrap.",
        ),
    }
}

pub fn space(data: &Path, reserve_percent: u32) -> Finding {
    let found = match ffi::statfs_of(data) {
        Ok(found) => found,
        Err(cause) => {
            return finding(
                "free space",
                Status::Fail,
                cause.to_string(),
                format!("{} must be a folder: DELTA_DATA_DIR names another.", data.display()),
            )
        }
    };
    let bytes = |blocks: u64| blocks.saturating_mul(found.block_size as u64);
    let reserve = (bytes(found.blocks) / 100 * u64::from(reserve_percent)).max(MIN_RESERVE_BYTES);
    let free = bytes(found.blocks_available);
    let text = format!("{:.1} GB free, {:.1} GB kept in reserve", free as f64 / 1e9, reserve as f64 / 1e9);
    if found.flags & ffi::ST_RDONLY != 0 {
        return finding(
            "free space",
            Status::Fail,
            "the disk is read-only",
            "Nothing can be written: look at the kernel's log for the disk's error.",
        );
    }
    if free < reserve {
        return finding(
            "free space",
            Status::Fail,
            text,
            "Below the reserve nothing is created (507): free space, or lower DELTA_POOL_RESERVE.",
        );
    }
    if free < reserve * 2 {
        return finding("free space", Status::Warn, text, "Close to the reserve, below which creates get 507: free space soon.");
    }
    finding("free space", Status::Ok, text, "Enough room for sandboxes' files.")
}

/// Whether two half-open ranges share a uid.
fn overlaps(first: (u64, u64), second: (u64, u64)) -> bool {
    first.0 < second.1 && second.0 < first.1
}

fn collisions(range: (u64, u64), subuid: &str, passwd: &str) -> Vec<String> {
    let mut taken = Vec::new();
    for line in subuid.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let (start, count) = match (
            fields.get(1).and_then(|text| text.parse::<u64>().ok()),
            fields.get(2).and_then(|text| text.parse::<u64>().ok()),
        ) {
            (Some(start), Some(count)) => (start, count),
            _ => continue,
        };
        if overlaps(range, (start, start.saturating_add(count))) {
            taken.push(format!(
                "{} holds {} to {} in /etc/subuid",
                fields[0],
                start,
                start.saturating_add(count).saturating_sub(1)
            ));
        }
    }
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let Some(uid) = fields.get(2).and_then(|text| text.parse::<u64>().ok()) {
            if overlaps(range, (uid, uid + 1)) {
                taken.push(format!("the account {} has uid {}", fields[0], uid));
            }
        }
    }
    taken
}

pub fn uid_range(base: u32, count: u32) -> Finding {
    let range = (u64::from(base), u64::from(base) + u64::from(count));
    let found = format!("{} to {}", range.0, range.1.saturating_sub(1));
    if base < 65_536 || range.1 > u64::from(u32::MAX) {
        return finding(
            "uid range",
            Status::Fail,
            found,
            "The range must begin at 65,536 or above and end below 4,294,967,295: change DELTA_UID_BASE.",
        );
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let taken = collisions(range, &format!("{}\n{}", read("/etc/subuid"), read("/etc/subgid")), &read("/etc/passwd"));
    if taken.is_empty() {
        return finding(
            "uid range",
            Status::Ok,
            found,
            "Nobody else on this machine uses these uids; every sandbox gets 65,536 of them for itself.",
        );
    }
    finding(
        "uid range",
        Status::Fail,
        format!("{}: {}", found, taken.join("; ")),
        "A sandbox would share uids with others: set DELTA_UID_BASE to a free range.",
    )
}

/// Kernel-wide numbers that end before memory does.
pub fn counters() -> Vec<Finding> {
    vec![pid_max(), open_files(), inotify()]
}

fn pid_max() -> Finding {
    let pids =
        number_in("/proc/sys/kernel/pid_max").unwrap_or(0).min(number_in("/proc/sys/kernel/threads-max").unwrap_or(u64::MAX));
    let found = format!("{} processes and threads at most", pids);
    if pids < 100_000 {
        let full = pids / PROCESSES_PER_SANDBOX;
        return finding(
            "pid_max",
            Status::Warn,
            found,
            format!(
                "About {} sandboxes could reach their own limit of {} at once; for more: sysctl kernel.pid_max=4194304.",
                full, PROCESSES_PER_SANDBOX
            ),
        );
    }
    finding("pid_max", Status::Ok, found, "Enough for many sandboxes.")
}

fn open_files() -> Finding {
    let mut limit = ffi::rlimit { current: 0, maximum: 0 };
    // SAFETY: room for the answer; 7 is RLIMIT_NOFILE.
    unsafe { ffi::getrlimit(7, &mut limit) };
    let found = if limit.maximum == u64::MAX { "unlimited".to_string() } else { format!("{} a process", limit.maximum) };
    if limit.maximum < OPEN_FILES_WANTED {
        return finding(
            "open files",
            Status::Warn,
            found,
            format!(
                "Each sandbox and client needs a few: raise the hard limit to {} (LimitNOFILE=, ulimit -Hn).",
                OPEN_FILES_WANTED
            ),
        );
    }
    finding("open files", Status::Ok, found, "Enough for many sandboxes and clients.")
}

fn inotify() -> Finding {
    let instances = number_in("/proc/sys/fs/inotify/max_user_instances").unwrap_or(0);
    let found = format!("{} instances a uid", instances);
    if instances < 128 {
        return finding(
            "inotify",
            Status::Warn,
            found,
            "Watching folders inside a sandbox may fail: sysctl fs.inotify.max_user_instances=512.",
        );
    }
    finding("inotify", Status::Ok, found, "Counted for each sandbox by itself, since each has uids of its own.")
}

pub fn merged_usr() -> Finding {
    let separate: Vec<&str> =
        ["bin", "sbin", "lib"].iter().copied().filter(|name| fs::read_link(Path::new("/").join(name)).is_err()).collect();
    if separate.is_empty() {
        return finding("merged /usr", Status::Ok, "merged", "The template host can be made from this machine's /usr.");
    }
    finding(
        "merged /usr",
        Status::Warn,
        format!("/{} is no link into /usr", separate.join(", /")),
        "The template host cannot be made: apt-get install usrmerge, or use debian.",
    )
}

pub fn kvm() -> Finding {
    if Path::new("/dev/kvm").exists() {
        return finding(
            "KVM",
            Status::Ok,
            "/dev/kvm is there",
            "MicroVMs could run here; the container runtimes do not need it.",
        );
    }
    finding("KVM", Status::Ok, "no /dev/kvm", "MicroVMs cannot run here; the container runtimes do not need it.")
}

pub fn node(given: Option<&Path>) -> Finding {
    let path = match given {
        Some(path) => path,
        None => return finding("Node", Status::Warn, "not named", "The helper was not told where Node is."),
    };
    let version = match version_line(path) {
        Some(version) => version,
        None => {
            return finding(
                "Node",
                Status::Fail,
                format!("{} does not run", path.display()),
                "Install Node 24, or start with `npm start`, which brings it.",
            )
        }
    };
    if version_of(version.trim_start_matches('v')).0 < NODE_MAJOR {
        return finding(
            "Node",
            Status::Fail,
            version,
            format!("The server needs Node {}: start with `npm start`, which brings it.", NODE_MAJOR),
        );
    }
    finding("Node", Status::Ok, version, "Runs the server.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_what_they_can_do() {
        assert_eq!(judge_kernel("5.15.0-91-generic").status, Status::Fail);
        assert_eq!(judge_kernel("5.19.0").status, Status::Ok);
        assert!(judge_kernel("6.1.0-18-amd64").meaning.contains("ordinary"));
        assert!(judge_kernel("6.18.44-x").meaning.contains("simple"));
        assert_eq!(judge_kernel("").status, Status::Fail);
    }

    #[test]
    fn a_range_that_others_hold_is_named() {
        let range = (1_000_000, 2_000_000);
        assert!(collisions(range, "alice:100000:65536\n", "root:x:0:0::/:/bin/sh\n").is_empty());
        assert_eq!(collisions(range, "alice:900000:100000\n", ""), Vec::<String>::new());
        assert!(collisions(range, "alice:900000:100001\n", "")[0].contains("alice"));
        assert!(collisions(range, "", "bob:x:1999999:100::/:/bin/sh\n")[0].contains("bob"));
        assert!(collisions(range, "nonsense\n::\nx:y:z\n", "nonsense\n").is_empty());
    }

    #[test]
    fn a_uid_base_that_is_the_hosts_own_fails() {
        assert_eq!(uid_range(0, 65_536).status, Status::Fail);
        assert_eq!(uid_range(u32::MAX - 10, 65_536).status, Status::Fail);
    }
}
