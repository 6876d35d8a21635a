//! What the server's root shows: decided and spelled out before the child exists.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;

/// Libraries that Node and native modules load, and their configuration.
const LIBRARIES: [&str; 8] =
    ["/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/lib", "/lib64", "/usr/local/lib", "/lib32"];
const CONFIGURATION: [&str; 14] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/localtime",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];
const ZONES: &str = "/usr/share/zoneinfo";
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Folders of resolvers that replace their file instead of rewriting it: a clone of the file alone would show the old one.
const RESOLVERS: [&str; 3] = ["/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"];

pub enum Step {
    Folder {
        path: CString,
        mode: u32,
    },
    Link {
        target: CString,
        path: CString,
    },
    File {
        path: CString,
        content: Vec<u8>,
    },
    /// A clone of `source`, opened before the tmpfs hides anything, and moved onto `path`.
    Clone {
        source: CString,
        path: CString,
        attributes: u64,
    },
    /// A small tmpfs over a folder of a clone, so that what lies below it is not shown.
    Hide {
        path: CString,
    },
}

pub struct Plan {
    pub steps: Vec<Step>,
}

struct Builder {
    steps: Vec<Step>,
    /// Paths that exist in the new root, files and folders.
    made: Vec<PathBuf>,
    /// Clones, in order: what lies below one exists in it already.
    shown: Vec<PathBuf>,
}

fn c(path: &Path) -> Result<CString> {
    ffi::c_path(path).context(format_args!("naming {}", path.display()))
}

/// The path inside the new root, which is the working directory while it is built.
fn inside(path: &Path) -> Result<CString> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() {
        return Err(Error::new(code::INVALID, "the root folder cannot be shown to the server"));
    }
    c(relative)
}

impl Builder {
    fn is_within_clone(&self, path: &Path) -> bool {
        self.shown.iter().any(|clone| path.starts_with(clone))
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        let above: Vec<PathBuf> =
            path.ancestors().skip(1).filter(|above| above.parent().is_some()).map(Path::to_path_buf).collect();
        for folder in above.into_iter().rev() {
            self.folder(&folder, 0o755)?;
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path, mode: u32) -> Result<()> {
        if self.made.iter().any(|made| made == path) || self.is_within_clone(path) {
            return Ok(());
        }
        self.steps.push(Step::Folder { path: inside(path)?, mode });
        self.made.push(path.to_path_buf());
        Ok(())
    }

    fn link(&mut self, target: &Path, path: &Path) -> Result<()> {
        if self.made.iter().any(|made| made == path) || self.is_within_clone(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.steps.push(Step::Link { target: c(target)?, path: inside(path)? });
        self.made.push(path.to_path_buf());
        Ok(())
    }

    fn file(&mut self, path: &Path, content: Vec<u8>) -> Result<()> {
        self.parents(path)?;
        if !self.made.iter().any(|made| made == path) && !self.is_within_clone(path) {
            self.steps.push(Step::File { path: inside(path)?, content });
            self.made.push(path.to_path_buf());
        }
        Ok(())
    }

    /// Shows a file or folder at its own path; a link is shown as the link it is, with what it leads to.
    fn clone(&mut self, path: &Path, attributes: u64) -> Result<()> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(Error::from_io(format_args!("looking at {}", path.display()), &cause)),
        };
        if found.file_type().is_symlink() {
            let target = fs::read_link(path).context(format_args!("reading {}", path.display()))?;
            return self.link(&target, path);
        }
        self.clone_at(path, path, found.is_dir(), attributes)
    }

    fn clone_at(&mut self, source: &Path, path: &Path, is_folder: bool, attributes: u64) -> Result<()> {
        if self.shown.iter().any(|shown| shown == path) {
            return Ok(());
        }
        // Below another clone the folder exists already, and mounting on it works the same.
        if is_folder {
            self.parents(path)?;
            self.folder(path, 0o755)?;
        } else {
            self.file(path, Vec::new())?;
        }
        self.steps.push(Step::Clone { source: c(source)?, path: inside(path)?, attributes });
        self.shown.push(path.to_path_buf());
        Ok(())
    }
}

const LOCKED: u64 = ffi::MOUNT_ATTR_RDONLY | ffi::MOUNT_ATTR_NOSUID | ffi::MOUNT_ATTR_NODEV;

/// A program or wire folder must be readable by a stranger; said now, in words, instead of by Node's "Cannot find module".
fn check_readable(path: &Path) -> Result<()> {
    let found = fs::metadata(path).context(format_args!("looking at {}", path.display()))?;
    let needed = if found.is_dir() { 0o005 } else { 0o004 };
    let others = found.mode() & needed == needed;
    if others {
        return Ok(());
    }
    Err(Error::new(
        code::PERMISSION_DENIED,
        format!(
            "{} is closed to other users, so the unprivileged server cannot read it: chmod -R o+rX {}",
            path.display(),
            path.display()
        ),
    ))
}

pub fn make(data: &Path, node: &Path, readable: &[PathBuf], uid: u32) -> Result<Plan> {
    let mut builder = Builder { steps: Vec::new(), made: Vec::new(), shown: Vec::new() };
    for folder in ["/usr", "/etc", "/dev", "/run"] {
        builder.folder(Path::new(folder), 0o755)?;
    }
    builder.folder(Path::new("/proc"), 0o555)?;
    for path in LIBRARIES.iter().chain(&CONFIGURATION).chain(&[ZONES]) {
        builder.clone(Path::new(path), LOCKED)?;
    }
    show_resolver(&mut builder)?;
    for name in DEVICES {
        builder.clone(&Path::new("/dev").join(name), ffi::MOUNT_ATTR_NOSUID | ffi::MOUNT_ATTR_NOEXEC)?;
    }
    check_readable(node)?;
    let mut folders: Vec<PathBuf> = Vec::new();
    for path in readable {
        let real = path.canonicalize().context(format_args!("looking at {}", path.display()))?;
        if real.parent().is_none() || data.starts_with(&real) && data == real {
            return Err(Error::new(code::INVALID, format!("{} must not be shown to the server", real.display())));
        }
        folders.push(real);
    }
    // The outermost first, so that none is mounted over another that is already there.
    folders.sort();
    folders.dedup();
    let (within_data, outside): (Vec<PathBuf>, Vec<PathBuf>) = folders.into_iter().partition(|folder| folder.starts_with(data));
    for folder in &outside {
        check_readable(folder)?;
        builder.clone_at(folder, folder, folder.is_dir(), LOCKED)?;
    }
    if !builder.is_within_clone(node) {
        builder.clone_at(node, node, false, LOCKED)?;
    }
    // A data folder inside the program's folder came along with it.
    if builder.is_within_clone(data) {
        builder.steps.push(Step::Hide { path: inside(data)? });
        builder.shown.retain(|shown| !data.starts_with(shown));
        builder.made.push(data.to_path_buf());
    }
    let own = data.join("server");
    for folder in &within_data {
        if folder.starts_with(&own) {
            continue;
        }
        builder.clone_at(folder, folder, folder.is_dir(), LOCKED)?;
    }
    // What it writes it cannot run: whoever takes it over brings no program and no native module along.
    let writable = ffi::MOUNT_ATTR_NOSUID | ffi::MOUNT_ATTR_NODEV | ffi::MOUNT_ATTR_NOEXEC;
    builder.clone_at(&own, &own, true, writable)?;
    let passwd =
        format!("root:x:0:0:root:/:/usr/sbin/nologin\ndelta:x:{0}:{0}:delta:{1}:/usr/sbin/nologin\n", uid, own.display());
    builder.file(Path::new("/etc/passwd"), passwd.into_bytes())?;
    builder.file(Path::new("/etc/group"), format!("root:x:0:\ndelta:x:{}:\n", uid).into_bytes())?;
    Ok(Plan { steps: builder.steps })
}

/// `/etc/resolv.conf` is often a link to a file that is replaced whenever the network changes.
fn show_resolver(builder: &mut Builder) -> Result<()> {
    let path = Path::new("/etc/resolv.conf");
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(_) => return Ok(()),
    };
    if real == path {
        return Ok(());
    }
    match RESOLVERS.iter().find(|folder| real.starts_with(folder)) {
        Some(folder) => builder.clone(Path::new(folder), LOCKED),
        None => builder.clone_at(&real, &real, false, LOCKED),
    }
}
