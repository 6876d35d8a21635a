//! Starts the HTTP process: an unprivileged uid in namespaces that show it the program and its own folder, and nothing else.
//!
//! The process is PID 1 of its pid namespace. Its root is a tmpfs with read-only clones of what it needs, at the paths they have
//! outside, so that error texts mean the same to both sides. Everything the child does between `clone` and `execve` is prepared
//! before: a copy of a threaded process may neither allocate nor lock.

mod child;
mod plan;

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::raw::{c_int, c_long};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::error::{code, Context};
use super::ffi;
use super::seccomp;
use super::sha256;

pub use super::error::{Error, Result};

const KEY_FILE: &str = "api-key";
const SECRET_FILE: &str = "secret-key";
const SECRET_BYTES: usize = 32;
const KEY_CHARACTERS: usize = 40;
const KEY_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const OWNED_FILES_MAX: usize = 1_000_000;
/// What of the helper's environment reaches the process. NODE_OPTIONS and LD_* would run foreign code in it.
const ALLOWED: [&str; 21] = [
    "PORT", "HOST", "DATABASE_URL", "REDIS_URL", "LOG_LEVEL", "TZ", "NODE_ENV", "SECRET_KEY", "JWT_SECRET_KEY", "SMTP_URL",
    "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "GEMINI_API_KEY", "GEMINI_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL",
    "MAIL_FROM", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME",
];
const ALLOWED_START: &str = "DELTA_";

#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Node's program file.
    pub node: PathBuf,
    /// What Node is given: the server's entry file first.
    pub arguments: Vec<OsString>,
    /// Folders shown read-only at their own path: the program with its node_modules; the wire folder.
    pub readable: Vec<PathBuf>,
    /// The data folder; only `<data>/server` of it is shown, writable.
    pub data: PathBuf,
    /// Unprivileged uid and gid of the process: index 0 of the uid range.
    pub uid: u32,
    /// The helper's socket; becomes descriptor 3. The caller closes its own copy after the call.
    pub helper_socket: RawFd,
    /// The helper's environment; only what `allowed` lets through reaches the process.
    pub environment: Vec<(OsString, OsString)>,
    /// Added to the environment as it is (DELTA_API_KEY_SHA256, …).
    pub extra_environment: Vec<(OsString, OsString)>,
}

/// The running HTTP process: PID 1 of its own pid namespace.
#[derive(Debug)]
pub struct Server {
    pub pid: i32,
    /// Readable once the process has ended.
    pub pidfd: OwnedFd,
    ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Exited(i32),
    Signalled(i32),
}

const P_PIDFD: c_int = 3;
const WEXITED: c_int = 4;
const WNOHANG: c_int = 1;
const CLD_EXITED: c_int = 1;

impl Server {
    /// Waits for the end and reaps it.
    pub fn wait(&mut self) -> Result<Ending> {
        loop {
            if let Some(ending) = self.reap(0)? {
                return Ok(ending);
            }
        }
    }

    /// None while it runs.
    pub fn try_wait(&mut self) -> Result<Option<Ending>> {
        self.reap(WNOHANG)
    }

    fn reap(&mut self, options: c_int) -> Result<Option<Ending>> {
        if self.ending.is_some() {
            return Ok(self.ending);
        }
        // SAFETY: all zeroes is a valid siginfo.
        let mut info: ffi::siginfo = unsafe { std::mem::zeroed() };
        // SAFETY: the struct is at least as large as the kernel's.
        let result = ffi::check(unsafe { ffi::waitid(P_PIDFD, self.pidfd.as_raw_fd() as u32, &mut info, WEXITED | options) });
        match result {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => return Ok(None),
            other => other.context("waiting for the server")?,
        };
        if info.pid == 0 {
            return Ok(None);
        }
        self.ending = Some(if info.code == CLD_EXITED { Ending::Exited(info.status) } else { Ending::Signalled(info.status) });
        Ok(self.ending)
    }

    /// Sends a signal; one that is gone already is success. Never hits another process that got the same number.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if self.ending.is_some() {
            return Ok(());
        }
        let none: *const u8 = std::ptr::null();
        // SAFETY: a plain system call on an open pidfd.
        let sent = ffi::check_long(unsafe {
            ffi::syscall(ffi::SYS_PIDFD_SEND_SIGNAL, self.pidfd.as_raw_fd() as c_long, signal as c_long, none, 0 as c_long)
        });
        match sent {
            Err(cause) if cause.raw_os_error() != Some(3) => Err(Error::from_io("signalling the server", &cause)),
            _ => Ok(()),
        }
    }
}

/// Starts the server; returns when it has become Node, or with the step that failed.
pub fn spawn_server(options: &ServerOptions) -> Result<Server> {
    let data = options.data.canonicalize().context(format_args!("looking at {}", options.data.display()))?;
    if options.uid == 0 {
        return Err(Error::new(code::INVALID, "the server must not run as root: DELTA_UID_BASE must be above 0"));
    }
    let own = data.join("server");
    own_folder(&own, options.uid)?;
    own_folder(&own.join("tmp"), options.uid)?;
    let node = options.node.canonicalize().context(format_args!("looking for Node at {}", options.node.display()))?;
    let plan = plan::make(&data, &node, &options.readable, options.uid)?;
    let argv = arguments(&node, &options.arguments)?;
    let environment = environment(options, &own)?;
    let (mut failed, report) = pipe().context("making a pipe")?;
    let start = child::Start {
        plan: &plan,
        staging: ffi::c_path(&data).context("naming the data folder")?,
        own: ffi::c_path(&own).context("naming the server's folder")?,
        node: ffi::c_path(&node).context("naming Node")?,
        argv: child::pointers(&argv),
        environment: child::pointers(&environment),
        uid: options.uid,
        filter: seccomp::server_filter(),
        helper_socket: options.helper_socket,
        report: report.as_raw_fd(),
    };
    let (pid, pidfd) = child::spawn(&start).context("starting a process in new namespaces")?;
    drop(report);
    let mut server = Server { pid, pidfd, ending: None };
    let mut said = [0u8; 8];
    match failed.read_exact(&mut said) {
        // The pipe closed by itself: execve went through.
        Err(_) => Ok(server),
        Ok(()) => {
            let _ = server.wait();
            let step = i32::from_ne_bytes([said[0], said[1], said[2], said[3]]);
            let errno = i32::from_ne_bytes([said[4], said[5], said[6], said[7]]);
            let what = child::step_name(step, &plan);
            Err(Error::from_io(format_args!("starting the server: {}", what), &io::Error::from_raw_os_error(errno)))
        }
    }
}

fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for the two descriptors.
    ffi::check(unsafe { ffi::pipe2(fds.as_mut_ptr(), ffi::O_CLOEXEC) })?;
    let (read, write) = (ffi::own(fds[0])?, ffi::own(fds[1])?);
    // The child puts the helper's socket on descriptor 3 and must still be able to report afterwards.
    // SAFETY: a plain descriptor.
    let moved = ffi::own(unsafe { ffi::fcntl(write.as_raw_fd(), child::F_DUPFD_CLOEXEC, child::MOVED_FD) })?;
    Ok((File::from(read), moved))
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new(code::INVALID, format!("{} holds a NUL byte", what)))
}

fn arguments(node: &Path, arguments: &[OsString]) -> Result<Vec<CString>> {
    let mut argv = vec![c_string(node.as_os_str().as_bytes(), "Node's path")?];
    for argument in arguments {
        argv.push(c_string(argument.as_bytes(), "an argument")?);
    }
    Ok(argv)
}

fn is_allowed(name: &str) -> bool {
    ALLOWED.contains(&name) || name.starts_with(ALLOWED_START)
}

fn environment(options: &ServerOptions, own: &Path) -> Result<Vec<CString>> {
    let own_folder = own.as_os_str().to_os_string();
    let mut pairs: Vec<(OsString, OsString)> = vec![
        ("HOME".into(), own_folder),
        ("TMPDIR".into(), own.join("tmp").into_os_string()),
        ("SQLITE_TMPDIR".into(), own.join("tmp").into_os_string()),
        ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
        ("LANG".into(), "C.UTF-8".into()),
        // Half of them resolve names for sandboxes. Of Node's four that would be two, which two slow names of one sandbox would take from all.
        ("UV_THREADPOOL_SIZE".into(), "16".into()),
        // A password takes 19 MiB while it is hashed. By itself the allocator learns from the first one to keep such blocks, for each thread its
        // own: 400 MB after some log-ins.
        ("MALLOC_MMAP_THRESHOLD_".into(), "8388608".into()),
    ];
    pairs.extend(options.environment.iter().filter(|pair| pair.0.to_str().map_or(false, is_allowed)).cloned());
    for (name, value) in &options.extra_environment {
        pairs.retain(|pair| pair.0 != *name);
        pairs.push((name.clone(), value.clone()));
    }
    pairs
        .iter()
        .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat(), "an environment variable"))
        .collect()
}

/// Makes `<data>/server` and gives it, with what an earlier range's uid left in it, to the uid.
fn own_folder(folder: &Path, uid: u32) -> Result<()> {
    match fs::create_dir(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::from_io(format_args!("making {}", folder.display()), &cause));
        }
        _ => {}
    }
    let handle = ffi::open_directory(folder).context(format_args!("opening {}", folder.display()))?;
    let handle = File::from(handle);
    let found = handle.metadata().context(format_args!("looking at {}", folder.display()))?;
    // SAFETY: a plain descriptor. The mode is closed before the owner changes.
    ffi::check(unsafe { ffi::fchmod(handle.as_raw_fd(), 0o700) })
        .context(format_args!("closing {} to others", folder.display()))?;
    if found.uid() != uid || found.gid() != uid {
        let mut left = OWNED_FILES_MAX;
        own_below(&handle, uid, &mut left).context(format_args!("giving {} to uid {}", folder.display(), uid))?;
    }
    Ok(())
}

/// By descriptors and without following links: the process that wrote in there is not trusted.
fn own_below(folder: &File, uid: u32, left: &mut usize) -> io::Result<()> {
    let empty = CString::default();
    // SAFETY: plain descriptors and NUL-terminated names, here and below.
    ffi::check(unsafe {
        ffi::fchownat(folder.as_raw_fd(), empty.as_ptr(), uid, uid, ffi::AT_EMPTY_PATH | ffi::AT_SYMLINK_NOFOLLOW)
    })?;
    for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        let name = CString::new(entry?.file_name().as_bytes())?;
        *left = left.checked_sub(1).ok_or_else(|| io::Error::new(io::ErrorKind::Other, "more than a million files"))?;
        let flags = ffi::O_RDONLY | ffi::O_DIRECTORY | ffi::O_NOFOLLOW | ffi::O_CLOEXEC;
        match ffi::own(unsafe { ffi::openat(folder.as_raw_fd(), name.as_ptr(), flags) }) {
            Ok(child) => own_below(&File::from(child), uid, left)?,
            Err(_) => {
                ffi::check(unsafe { ffi::fchownat(folder.as_raw_fd(), name.as_ptr(), uid, uid, ffi::AT_SYMLINK_NOFOLLOW) })?;
            }
        }
    }
    Ok(())
}

fn is_key(text: &str) -> bool {
    text.strip_prefix("delta_")
        .map_or(false, |rest| rest.len() == KEY_CHARACTERS && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn new_key() -> io::Result<String> {
    let mut key = String::from("delta_");
    while key.len() < 6 + KEY_CHARACTERS {
        let mut random = [0u8; 64];
        ffi::fill_random(&mut random)?;
        // Values of 248 and more would make the first characters of the alphabet likelier.
        let fair = random.iter().filter(|byte| **byte < 248).map(|byte| KEY_ALPHABET[usize::from(byte % 62)] as char);
        key.extend(fair.take(6 + KEY_CHARACTERS - key.len()));
    }
    Ok(key)
}

/// 32 random bytes as hexadecimal digits.
fn new_secret() -> io::Result<String> {
    let mut random = [0u8; SECRET_BYTES];
    ffi::fill_random(&mut random)?;
    Ok(random.iter().map(|byte| format!("{:02x}", byte)).collect())
}

fn is_secret(text: &str) -> bool {
    text.len() == 2 * SECRET_BYTES && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A secret made once and kept in a file of the data folder that only root reads.
struct Kept {
    file: &'static str,
    make: fn() -> io::Result<String>,
    fits: fn(&str) -> bool,
    /// Said of a file with something else in it.
    fault: &'static str,
}

const API_KEY: Kept = Kept {
    file: KEY_FILE,
    make: new_key,
    fits: is_key,
    fault: "does not hold an API key (delta_ and 40 letters or digits): restore it, or remove it to get a new one",
};

const SECRET_KEY: Kept = Kept {
    file: SECRET_FILE,
    make: new_secret,
    fits: is_secret,
    fault: "does not hold a secret key (64 hexadecimal digits): restore it, or remove it to get a new one, which ends every \
            session and second factor",
};

/// The first API key, kept in `<data>/api-key` (0600); true when this call made it.
pub fn ensure_api_key(data: &Path) -> Result<(String, bool)> {
    ensure(data, &API_KEY)
}

/// What the server derives its keys from, kept in `<data>/secret-key` (0600); true when this call made it.
pub fn ensure_secret_key(data: &Path) -> Result<(String, bool)> {
    ensure(data, &SECRET_KEY)
}

fn ensure(data: &Path, kept: &Kept) -> Result<(String, bool)> {
    let path = data.join(kept.file);
    if let Some(text) = read_kept(&path, kept)? {
        return Ok((text, false));
    }
    let text = (kept.make)().context("asking for random bytes")?;
    let mut random = [0u8; 8];
    ffi::fill_random(&mut random).context("asking for random bytes")?;
    let fresh = data.join(format!(".{}.{:016x}", kept.file, u64::from_ne_bytes(random)));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .context(format_args!("making {}", fresh.display()))?;
    file.write_all(format!("{}\n", text).as_bytes())
        .and_then(|()| file.sync_all())
        .context(format_args!("writing {}", fresh.display()))?;
    // Of two starts at once one names its own, and the other reads that.
    let named = ffi::rename_new(&fresh, &path);
    if let Err(cause) = named {
        let _ = fs::remove_file(&fresh);
        if cause.kind() != io::ErrorKind::AlreadyExists {
            return Err(Error::from_io(format_args!("naming {}", path.display()), &cause));
        }
        let text = read_kept(&path, kept)?
            .ok_or_else(|| Error::new(code::IO, format!("{} vanished while it was read", path.display())))?;
        return Ok((text, false));
    }
    ffi::sync_directory(data).context(format_args!("flushing {}", data.display()))?;
    Ok((text, true))
}

fn read_kept(path: &Path, kept: &Kept) -> Result<Option<String>> {
    let file = match OpenOptions::new().read(true).custom_flags(ffi::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::from_io(format_args!("reading {}", path.display()), &cause)),
    };
    let mut text = String::new();
    (&file).take(1024).read_to_string(&mut text).context(format_args!("reading {}", path.display()))?;
    let text = text.trim();
    if !(kept.fits)(text) {
        return Err(Error::new(code::INVALID, format!("{} {}", path.display(), kept.fault)));
    }
    let mode = file.metadata().context(format_args!("looking at {}", path.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        // SAFETY: a plain descriptor.
        ffi::check(unsafe { ffi::fchmod(file.as_raw_fd(), 0o600) })
            .context(format_args!("closing {} to others", path.display()))?;
    }
    Ok(Some(text.to_string()))
}

/// Hex SHA-256 of a key, as the server takes it in DELTA_API_KEY_SHA256.
pub fn api_key_hash(key: &str) -> String {
    sha256::hex(key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allow_list_reaches_the_server() {
        for name in [
            "NODE_OPTIONS", "LD_PRELOAD", "LD_LIBRARY_PATH", "AWS_SECRET_ACCESS_KEY", "PATH", "HOME", "SSH_AUTH_SOCK", "PORTS", "OTEL_TRACES_EXPORTER",
            "XDELTA_A",
        ] {
            assert!(!is_allowed(name), "{}", name);
        }
        for name in ["PORT", "HOST", "DELTA_RUNTIME", "DATABASE_URL", "LOG_LEVEL", "SECRET_KEY", "SMTP_URL", "GEMINI_API_KEY", "OPENAI_BASE_URL", "OTEL_EXPORTER_OTLP_HEADERS"] {
            assert!(is_allowed(name), "{}", name);
        }
    }

    #[test]
    fn keys_have_their_form_and_differ() {
        let keys: std::collections::HashSet<String> = (0..64).map(|_| new_key().unwrap()).collect();
        assert_eq!(keys.len(), 64);
        assert!(keys.iter().all(|key| is_key(key)));
        let secrets: std::collections::HashSet<String> = (0..64).map(|_| new_secret().unwrap()).collect();
        assert!(secrets.len() == 64 && secrets.iter().all(|secret| is_secret(secret)));
        assert!(!is_secret(&"G".repeat(64)) && !is_secret("ab"));
        assert!(!is_key("delta_") && !is_key("delta_!") && !is_key(&format!("delta_{}", "a".repeat(41))));
    }
}
