//! The template `debian`: the host's Debian (or Ubuntu) release made from packages by mmdebstrap, from the host's own package sources.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::accounts::USER;
use super::files;
use super::secrets;
use super::sources::{self, Source};
use super::Built;
use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;
use crate::helper::pool::system_program;

/// Raised when a build would give another result from the same packages.
const RECIPE: u32 = 2;
const BUILD_TIMEOUT_MS: u64 = 1_500_000;
const LINE_BYTES_MAX: u64 = 512;
const LAST_LINES: usize = 12;
const PACKAGES: [&str; 24] = [
    "bash", "build-essential", "bzip2", "ca-certificates", "coreutils", "curl", "file", "git", "jq", "less", "nano", "nodejs",
    "npm", "procps", "python3", "python3-pip", "python3-venv", "sudo", "unzip", "wget", "xz-utils", "zip", "locales", "patch",
];
/// No flush for each file: the whole template is flushed at the end. Manuals and translations nobody reads inside stay away.
const DPKG_OPTIONS: [&str; 5] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
];
const PASSED_ON: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

pub fn fingerprint() -> String {
    format!("{} {} {}", RECIPE, codename().unwrap_or_default(), PACKAGES.join(","))
}

fn codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?.trim_matches('"').to_string();
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    Some(value).filter(|_| plain)
}

pub(super) fn build(work: &Path, progress: &mut dyn FnMut(&str)) -> Result<Built> {
    let mmdebstrap = system_program("mmdebstrap").ok_or_else(|| {
        Error::new(
            code::NOT_SUPPORTED,
            "mmdebstrap is missing: apt-get install mmdebstrap (or use the template host, which needs nothing)",
        )
    })?;
    let unshare = system_program("unshare")
        .ok_or_else(|| Error::new(code::NOT_SUPPORTED, "unshare is missing: apt-get install util-linux"))?;
    let release = codename().ok_or_else(|| {
        Error::new(
            code::NOT_SUPPORTED,
            "/etc/os-release names no Debian or Ubuntu release (VERSION_CODENAME): use the template host",
        )
    })?;
    let list = source_lines(&release);
    let scratch = work.join("scratch");
    files::folder(&scratch, 0o755, 0, 0)?;
    files::file(&scratch.join("sources.list"), 0o644, 0, 0, list.as_bytes())?;
    files::file(&scratch.join("apt.conf"), 0o644, 0, 0, acquire_settings().as_bytes())?;
    let root = work.join("root");
    let mut command = Command::new(unshare);
    command
        .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
        .arg(mmdebstrap)
        .args(["--mode=root", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg(format!("--aptopt={}", scratch.join("apt.conf").display()))
        .args(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={}", option)))
        .arg(&release)
        .arg(&root)
        .arg(scratch.join("sources.list"))
        .env_clear()
        .envs(std::env::vars_os().filter(|pair| pair.0.to_str().map_or(false, |name| PASSED_ON.contains(&name))))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TMPDIR", &scratch);
    run(command, progress)?;
    files::remove_tree(&scratch)?;
    progress("adding the user and the workspace");
    finish(&root)?;
    let megabytes = tree_bytes(&root) >> 20;
    let detail = format!("{} from packages, {} MB; has python3, pip, node, npm, git, curl, sudo, gcc, make", release, megabytes);
    Ok(Built { fingerprint: fingerprint(), usr: None, masked: false, detail, warnings: Vec::new() })
}

/// The host's own mirrors of its release, or the official one.
fn source_lines(release: &str) -> String {
    let mut found: Vec<Source> = Vec::new();
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    let more = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    paths.extend(more);
    paths.sort();
    for path in paths {
        let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
        let text = fs::read_to_string(&path).unwrap_or_default();
        match ending.as_deref() {
            Some("list") => found.extend(sources::one_line_style(&text)),
            Some("sources") => found.extend(sources::stanza_style(&text)),
            _ => {}
        }
    }
    let lines = sources::of_release(&found, release);
    if lines.is_empty() {
        return sources::official(release);
    }
    lines
}

/// How the host's apt reaches its mirrors: proxies, checks. Not left in the template.
fn acquire_settings() -> String {
    let apt_config = match system_program("apt-config") {
        Some(path) => path,
        None => return String::new(),
    };
    let output = Command::new(apt_config)
        .args(["dump", "--no-empty", "--format", "%F \"%v\";%n", "Acquire"])
        .env_clear()
        .stdin(Stdio::null())
        .output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Runs the build, passes on what it says line by line, and ends it with all its children at the timeout. When the helper dies the
/// kernel kills it: its pid namespace goes with its first process.
fn run(mut command: Command, progress: &mut dyn FnMut(&str)) -> Result<()> {
    const PR_SET_PDEATHSIG: i32 = 1;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: one system call without memory.
    unsafe {
        command.pre_exec(|| ffi::check(ffi::prctl(PR_SET_PDEATHSIG, 9 as std::os::raw::c_ulong)).map(|_| ()));
    }
    let mut child = command.spawn().context("starting mmdebstrap")?;
    let lines = read_lines(&mut child)?;
    let last = follow(&lines, progress);
    let last = match last {
        Ok(last) => last,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    let status = child.wait().context("waiting for mmdebstrap")?;
    if status.success() {
        return Ok(());
    }
    let said: Vec<String> = last.into_iter().collect();
    Err(Error::new(code::IO, format!("mmdebstrap failed ({}). Its last words: {}", status, said.join(" | "))))
}

fn read_lines(child: &mut Child) -> Result<Receiver<String>> {
    let stderr = child.stderr.take().ok_or_else(|| Error::new(code::IO, "mmdebstrap has no output"))?;
    let (sender, lines) = mpsc::sync_channel(256);
    let reader = move || {
        let mut reader = BufReader::new(stderr);
        loop {
            let mut line = Vec::new();
            match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_string()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("template-output".into()).spawn(reader).context("starting a thread")?;
    Ok(lines)
}

fn follow(lines: &Receiver<String>, progress: &mut dyn FnMut(&str)) -> Result<VecDeque<String>> {
    let until = Instant::now() + Duration::from_millis(BUILD_TIMEOUT_MS);
    let mut last = VecDeque::with_capacity(LAST_LINES);
    loop {
        let left = until.checked_duration_since(Instant::now()).unwrap_or_default();
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(step) = line.strip_prefix("I: ") {
                    progress(step);
                }
                if last.len() == LAST_LINES {
                    last.pop_front();
                }
                last.push_back(line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(last),
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::new(
                    code::TIMED_OUT,
                    format!(
                        "mmdebstrap did not finish in {} minutes: is the package mirror reachable?",
                        BUILD_TIMEOUT_MS / 60_000
                    ),
                ));
            }
        }
    }
}

/// The user, the workspace, and what every sandbox shares; nothing of the host's.
fn finish(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    append(&etc.join("passwd"), &format!("user:x:{0}:{0}:user:/home/user:/bin/bash\n", USER))?;
    append(&etc.join("group"), &format!("user:x:{}:\n", USER))?;
    append(&etc.join("shadow"), "user:*:19000:0:99999:7:::\n")?;
    append(&etc.join("gshadow"), "user:*::\n")?;
    add_to_sudo(&etc.join("group"), 4, 3)?;
    add_to_sudo(&etc.join("gshadow"), 4, 3)?;
    files::file(&etc.join("sudoers.d/user"), 0o440, 0, 0, b"user ALL=(ALL:ALL) NOPASSWD: ALL\n")?;
    files::folder(&root.join("workspace"), 0o755, USER, USER)?;
    files::folder(&root.join("home/user"), 0o755, USER, USER)?;
    for entry in fs::read_dir(etc.join("skel")).context("listing /etc/skel")?.flatten() {
        let content = fs::read(entry.path()).context(format_args!("reading {}", entry.path().display()))?;
        files::file(&root.join("home/user").join(entry.file_name()), 0o644, USER, USER, &content)?;
    }
    super::write_common_etc(&etc)?;
    clean_apt(&etc)?;
    for name in ["dev", "proc", "sys", "run", "tmp", "var/tmp", "var/lib/apt/lists", "var/cache/apt/archives"] {
        empty(&root.join(name))?;
    }
    files::folder(&root.join("var/lib/apt/lists/partial"), 0o700, 0, 0)?;
    files::folder(&root.join("var/cache/apt/archives/partial"), 0o700, 0, 0)?;
    files::folder(&root.join("run/lock"), 0o1777, 0, 0)?;
    refuse_devices(root)
}

fn append(path: &Path, line: &str) -> Result<()> {
    let text = fs::read_to_string(path).context(format_args!("reading {}", path.display()))?;
    // In place, so that the file keeps its owner and mode.
    fs::write(path, format!("{}{}", text, line)).context(format_args!("writing {}", path.display()))
}

/// Makes `user` the only member of the group `sudo` in a file of colon-separated fields.
fn add_to_sudo(path: &Path, fields: usize, members: usize) -> Result<()> {
    let text = fs::read_to_string(path).context(format_args!("reading {}", path.display()))?;
    let lines = text.lines().map(|line| {
        let mut parts: Vec<&str> = line.split(':').collect();
        if parts.len() == fields && parts[0] == "sudo" {
            parts[members] = "user";
        }
        format!("{}\n", parts.join(":"))
    });
    let changed: String = lines.collect();
    fs::write(path, changed).context(format_args!("writing {}", path.display()))
}

/// mmdebstrap leaves the settings it was given: a proxy among them may hold a password. Checks that the host's mirror needs stay.
fn clean_apt(etc: &Path) -> Result<()> {
    let path = etc.join("apt/apt.conf.d/99mmdebstrap");
    let given = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(&path);
    let kept: String =
        given.lines().filter(|line| line.starts_with("Acquire::Check-")).map(|line| format!("{}\n", line)).collect();
    let settings = format!("APT::Install-Recommends \"false\";\n{}", kept);
    files::file(&etc.join("apt/apt.conf.d/99delta"), 0o644, 0, 0, settings.as_bytes())?;
    let list = etc.join("apt/sources.list");
    let text = fs::read_to_string(&list).unwrap_or_default();
    let public: String =
        text.lines().filter(|line| secrets::reason(line.as_bytes()).is_none()).map(|line| format!("{}\n", line)).collect();
    files::file(&list, 0o644, 0, 0, public.as_bytes())
}

fn empty(folder: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => found,
        _ => return Ok(()),
    };
    files::remove_tree(folder)?;
    files::folder(folder, found.mode() & 0o7777, found.uid(), found.gid())
}

fn walk(root: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>) -> Result<()> {
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).context(format_args!("listing {}", folder.display()))? {
            let path = entry.context(format_args!("listing {}", folder.display()))?.path();
            let found = fs::symlink_metadata(&path).context(format_args!("looking at {}", path.display()))?;
            visit(&path, &found)?;
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(())
}

/// A device node in a lower layer would be a device inside.
fn refuse_devices(root: &Path) -> Result<()> {
    walk(root, &mut |path, found| {
        let kind = found.file_type();
        if kind.is_block_device() || kind.is_char_device() {
            return Err(Error::new(code::IO, format!("a package brought the device node {}", path.display())));
        }
        Ok(())
    })
}

fn tree_bytes(root: &Path) -> u64 {
    let mut bytes = 0;
    let _ = walk(root, &mut |_, found| {
        bytes += found.blocks() * 512 / found.nlink().max(1);
        Ok(())
    });
    bytes
}
