//! The OCI configuration of a sandbox, built from checked fields only.

use std::fmt::Write;
use std::path::Path;

use super::runtime::Kind;
use super::seccomp;

/// What root inside may do, and only within the sandbox's user namespace.
pub const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_SETFCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
];
/// Hidden where this kernel has them: its own state, and what names the host's disks, devices and way of starting.
const MASKED: [&str; 20] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/cmdline",
    "/proc/diskstats",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/swaps",
    "/proc/timer_list",
];
/// gVisor's /sys is its own.
const MASKED_GVISOR: [&str; 2] = ["/sys/firmware", "/sys/kernel"];
const READ_ONLY: [&str; 2] = ["/proc/sys", "/proc/sysrq-trigger"];
pub const SHM_BYTES: u64 = 256 << 20;
/// The part of sysfs that programs look at to count processors. The rest names the host's disks, its devices and, for a loop
/// device, the file of the host behind it.
const SYS_SHOWN: &str = "/sys/devices/system";
/// The kernel has 4,096 terminals for all sandboxes together; without a share of its own one would take them from the others.
const TERMINALS: u32 = 128;

pub struct Config<'a> {
    pub kind: Kind,
    pub root: &'a Path,
    pub hostname: &'a str,
    pub uid_first: u32,
    pub uid_count: u32,
    /// Path of the user namespace to join; None where the runtime makes one of its own by the mappings.
    pub user_namespace: Option<&'a str>,
    /// Path of the network namespace to join; None where the runtime makes one of its own.
    pub network_namespace: Option<&'a str>,
    /// None where the runtime does not handle cgroups.
    pub cgroup: Option<&'a str>,
    pub arguments: &'a [String],
    /// Host folder of the wire, shown at `/.delta/wire`; gVisor only.
    pub wire_folder: Option<&'a Path>,
}

pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            other if (other as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", other as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(","))
}

fn there<'a>(paths: &[&'a str]) -> Vec<&'a str> {
    paths.iter().copied().filter(|path| Path::new(path).exists()).collect()
}

fn masked(kind: Kind) -> Vec<&'static str> {
    let own = if kind == Kind::Runsc { &MASKED_GVISOR[..] } else { &[] };
    there(&[&MASKED[..], own].concat())
}

struct Mount<'a> {
    at: &'a str,
    kind: &'a str,
    source: &'a str,
    options: String,
}

fn mounts(config: &Config<'_>) -> String {
    let mount = |at, kind, options: &str| Mount {
        at,
        kind,
        source: kind,
        options: options.to_string(),
    };
    let mut all = vec![
        mount("/proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=1024k,nr_inodes=1024"),
        mount(
            "/dev/pts",
            "devpts",
            &format!(
                "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5,max={}",
                TERMINALS
            ),
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &format!("nosuid,nodev,mode=1777,size={}", SHM_BYTES),
        ),
        mount("/run", "tmpfs", "nosuid,nodev,mode=755,size=16m,nr_inodes=4096"),
    ];
    match config.kind {
        Kind::Runsc => all.push(mount("/sys", "sysfs", "nosuid,noexec,nodev,ro")),
        _ => {
            all.push(mount(
                "/sys",
                "tmpfs",
                "nosuid,noexec,nodev,mode=755,size=16k,nr_inodes=16",
            ));
            let options = "bind,ro,nosuid,noexec,nodev".to_string();
            all.push(Mount {
                at: SYS_SHOWN,
                kind: "bind",
                source: SYS_SHOWN,
                options,
            });
        }
    }
    let folder = config.wire_folder.map(|path| path.to_string_lossy().into_owned());
    if let Some(source) = &folder {
        all.push(Mount {
            at: "/.delta/wire",
            kind: "bind",
            source,
            options: "bind,rw,nosuid,nodev,noexec".to_string(),
        });
    }
    let items: Vec<String> = all
        .iter()
        .map(|mount| {
            format!(
                r#"{{"destination":{},"type":{},"source":{},"options":{}}}"#,
                quoted(mount.at),
                quoted(mount.kind),
                quoted(mount.source),
                list(mount.options.split(','))
            )
        })
        .collect();
    items.join(",")
}

fn joined(namespace: Option<&str>) -> String {
    namespace.map_or(String::new(), |path| format!(r#","path":{}"#, quoted(path)))
}

pub fn build(config: &Config<'_>) -> String {
    let capabilities = list(CAPABILITIES);
    let mapping = format!(
        r#"[{{"containerID":0,"hostID":{},"size":{}}}]"#,
        config.uid_first, config.uid_count
    );
    let cgroup = match config.cgroup {
        Some(path) => format!(
            r#""cgroupsPath":{},"resources":{{"devices":[{{"allow":false,"access":"rwm"}}]}},"#,
            quoted(path)
        ),
        None => String::new(),
    };
    let (seccomp, annotations) = match config.kind {
        // The filter as the kernel takes it: compiled once, not by libseccomp for every sandbox.
        Kind::Crun => (
            String::new(),
            format!(
                r#""annotations":{{"run.oci.seccomp_bpf_data":"{}"}},"#,
                seccomp::filter_base64()
            ),
        ),
        Kind::Runc => (format!(r#""seccomp":{},"#, seccomp::profile_json()), String::new()),
        // gVisor's kernel is not the host's; it filters its own process.
        Kind::Runsc => (String::new(), String::new()),
    };
    format!(
        concat!(
            r#"{{"ociVersion":"1.0.2","#,
            r#""process":{{"terminal":false,"user":{{"uid":0,"gid":0}},"args":{args},"#,
            r#""env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"cwd":"/","#,
            r#""capabilities":{{"bounding":{caps},"effective":{caps},"permitted":{caps},"inheritable":[],"ambient":[]}},"#,
            r#""rlimits":[],"noNewPrivileges":false}},"#,
            r#""root":{{"path":{root},"readonly":false}},"hostname":{hostname},"mounts":[{mounts}],{annotations}"#,
            r#""linux":{{{cgroup}{seccomp}"uidMappings":{mapping},"gidMappings":{mapping},"#,
            r#""namespaces":[{{"type":"user"{user}}},{{"type":"pid"}},{{"type":"mount"}},{{"type":"ipc"}},"#,
            r#"{{"type":"uts"}},{{"type":"network"{network}}},{{"type":"cgroup"}}],"#,
            r#""maskedPaths":{masked},"readonlyPaths":{readonly}}}}}"#
        ),
        args = list(config.arguments.iter().map(String::as_str)),
        caps = capabilities,
        root = quoted(&config.root.to_string_lossy()),
        hostname = quoted(config.hostname),
        mounts = mounts(config),
        annotations = annotations,
        cgroup = cgroup,
        seccomp = seccomp,
        mapping = mapping,
        user = joined(config.user_namespace),
        network = joined(config.network_namespace),
        masked = list(masked(config.kind)),
        readonly = list(there(&READ_ONLY)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_quotes() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }

    #[test]
    fn a_sandbox_gets_no_capability_over_the_host() {
        for name in [
            "CAP_SYS_ADMIN",
            "CAP_NET_ADMIN",
            "CAP_NET_RAW",
            "CAP_SYS_PTRACE",
            "CAP_MKNOD",
            "CAP_SYS_MODULE",
            "CAP_BPF",
        ] {
            assert!(!CAPABILITIES.contains(&name), "{}", name);
        }
    }
}
