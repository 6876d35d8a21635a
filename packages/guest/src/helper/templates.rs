//! Templates: what a sandbox's file system looks like before it writes.
//!
//! `<data>/templates/<name>/` holds `root/` (lower layer of `/`), `meta`, and for `host` perhaps `usr-mask/` (see `Template`). A build
//! goes to `.build-<name>` and becomes `<name>` by one rename; the version it replaces moves to `.old/` because boxes may still run on it.

mod accounts;
mod debian;
mod files;
mod host;
mod secrets;
mod sources;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::io::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::error::{code, Context};
use super::ffi;

pub use super::error::{Error, Result};

/// How long a build waits for another build of the same template.
const BUILD_WAIT_MS: u64 = 1_800_000;
const META_BYTES_MAX: u64 = 64 << 10;

/// A template that is ready to be the lower layer of overlays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub name: String,
    /// Lower layer of `/`; files have their true owners (0, 1000).
    pub root: PathBuf,
    /// Lower layer of `/usr` where it is not part of `root` (there `usr` is an empty folder).
    pub usr: Option<PathBuf>,
    /// A layer to lay above `usr`: whiteouts that hide what looks like a secret. None where nothing does.
    pub usr_mask: Option<PathBuf>,
    /// What it offers and lacks, for people.
    pub detail: String,
    /// What the operator should know, in sentences.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Missing,
    Building,
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Missing => "missing",
            State::Building => "building",
            State::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub state: State,
    pub detail: String,
}

/// Names that `build` knows.
pub const NAMES: [&str; 2] = ["host", "debian"];

/// What a build hands over; the caller writes it into `meta`.
struct Built {
    fingerprint: String,
    usr: Option<PathBuf>,
    masked: bool,
    detail: String,
    warnings: Vec<String>,
}

struct Meta {
    fingerprint: String,
    usr: Option<PathBuf>,
    masked: bool,
    detail: String,
    warnings: Vec<String>,
}

fn one_line(text: &str) -> String {
    text.replace(|character: char| character.is_control(), " ")
}

fn write_meta(path: &Path, built: &Built, took: Duration) -> Result<()> {
    let mut text = format!("fingerprint={}\ndetail={}\n", one_line(&built.fingerprint), one_line(&built.detail));
    if let Some(usr) = &built.usr {
        text.push_str(&format!("usr={}\n", usr.display()));
    }
    text.push_str(&format!("masked={}\nbuiltMs={}\n", u8::from(built.masked), took.as_millis()));
    for warning in &built.warnings {
        text.push_str(&format!("warning={}\n", one_line(warning)));
    }
    fs::write(path, text).context(format_args!("writing {}", path.display()))?;
    File::open(path).and_then(|file| file.sync_all()).context(format_args!("flushing {}", path.display()))
}

fn read_meta(folder: &Path) -> Result<Option<Meta>> {
    let path = folder.join("meta");
    let length = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::from_io(format_args!("reading {}", path.display()), &cause)),
    };
    if length > META_BYTES_MAX {
        return Err(Error::new(
            code::IO,
            format!("{} is too large: remove {} and build again", path.display(), folder.display()),
        ));
    }
    let text = fs::read_to_string(&path).context(format_args!("reading {}", path.display()))?;
    let mut meta = Meta { fingerprint: String::new(), usr: None, masked: false, detail: String::new(), warnings: Vec::new() };
    for line in text.lines() {
        match line.split_once('=') {
            Some(("fingerprint", value)) => meta.fingerprint = value.into(),
            Some(("usr", value)) => meta.usr = Some(value.into()),
            Some(("masked", value)) => meta.masked = value == "1",
            Some(("detail", value)) => meta.detail = value.into(),
            Some(("warning", value)) => meta.warnings.push(value.into()),
            _ => {}
        }
    }
    Ok(Some(meta))
}

fn check_name(name: &str) -> Result<()> {
    if NAMES.contains(&name) {
        return Ok(());
    }
    Err(Error::new(code::NOT_FOUND, format!("there is no template {:?}; there are: {}", name, NAMES.join(", "))))
}

fn base(data: &Path) -> PathBuf {
    data.join("templates")
}

/// A ready template; `not_found` with the way to build it otherwise. Cheap enough for every create: two stats and a small file.
pub fn resolve(data: &Path, name: &str) -> Result<Template> {
    check_name(name)?;
    let folder = base(data).join(name);
    let meta = read_meta(&folder)?.ok_or_else(|| {
        Error::new(
            code::NOT_FOUND,
            format!("the template {} is not built yet: POST /v1/templates/{}/build, or `npm start` again", name, name),
        )
    })?;
    Ok(Template {
        name: name.to_string(),
        root: folder.join("root"),
        usr: meta.usr,
        usr_mask: if meta.masked { Some(folder.join("usr-mask")) } else { None },
        detail: meta.detail,
        warnings: meta.warnings,
    })
}

/// Every template the machine knows, with its state.
pub fn list(data: &Path) -> Vec<Status> {
    NAMES.iter().map(|name| status(data, name)).collect()
}

fn status(data: &Path, name: &str) -> Status {
    let (state, detail) = if is_building(data, name) {
        (State::Building, "a build is under way".to_string())
    } else {
        match resolve(data, name) {
            Ok(template) => (State::Ready, ready_detail(data, &template)),
            Err(error) if error.code == code::NOT_FOUND => match fs::read_to_string(failure_file(data, name)) {
                Ok(said) => (State::Failed, one_line(&said)),
                Err(_) => (State::Missing, error.message),
            },
            Err(error) => (State::Failed, error.message),
        }
    };
    Status { name: name.to_string(), state, detail }
}

fn ready_detail(data: &Path, template: &Template) -> String {
    let known = read_meta(&base(data).join(&template.name)).ok().flatten().map(|meta| meta.fingerprint);
    let mut detail = template.detail.clone();
    if known.as_deref() != Some(fingerprint(&template.name).as_str()) {
        detail.push_str("; out of date: build it again");
    }
    for warning in &template.warnings {
        detail.push_str("; ");
        detail.push_str(warning);
    }
    detail
}

fn fingerprint(name: &str) -> String {
    match name {
        "host" => host::fingerprint(),
        _ => debian::fingerprint(),
    }
}

fn failure_file(data: &Path, name: &str) -> PathBuf {
    base(data).join(format!(".failed-{}", name))
}

fn lock_file(data: &Path, name: &str) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(base(data).join(format!(".lock-{}", name)))
}

fn try_lock(file: &File) -> bool {
    // SAFETY: a plain descriptor.
    unsafe { ffi::flock(file.as_raw_fd(), ffi::LOCK_EX | ffi::LOCK_NB) == 0 }
}

fn is_building(data: &Path, name: &str) -> bool {
    if !base(data).join(format!(".lock-{}", name)).exists() {
        return false;
    }
    lock_file(data, name).map_or(false, |file| !try_lock(&file))
}

/// Builds what is missing or out of date and returns when it is ready. `progress` gets a line per step. Several may call it at
/// once: one builds, the others wait and find it ready.
pub fn build(data: &Path, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Template> {
    check_name(name)?;
    let data = &data.canonicalize().context(format_args!("looking at {}", data.display()))?;
    let templates = base(data);
    match DirBuilder::new().mode(0o700).create(&templates) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::from_io(format_args!("making {}", templates.display()), &cause));
        }
        _ => {}
    }
    let _lock = wait_for_lock(data, name, progress)?;
    let wanted = fingerprint(name);
    if let Some(meta) = read_meta(&templates.join(name))? {
        if meta.fingerprint == wanted {
            return resolve(data, name);
        }
        progress(&format!("the template {} is out of date and is built again", name));
    }
    let result = build_locked(data, name, progress);
    let failure = failure_file(data, name);
    match &result {
        Ok(_) => drop(fs::remove_file(&failure)),
        Err(error) => drop(fs::write(&failure, &error.message)),
    }
    result
}

fn wait_for_lock(data: &Path, name: &str, progress: &mut dyn FnMut(&str)) -> Result<File> {
    let file = lock_file(data, name).context("opening the template's lock")?;
    let mut told = false;
    for _ in 0..BUILD_WAIT_MS / 50 {
        if try_lock(&file) {
            return Ok(file);
        }
        if !told {
            progress(&format!("waiting for another build of the template {}", name));
            told = true;
        }
        sleep(Duration::from_millis(50));
    }
    Err(Error::new(code::BUSY, format!("another build of the template {} has run for half an hour", name)))
}

fn build_locked(data: &Path, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Template> {
    let templates = base(data);
    let work = templates.join(format!(".build-{}", name));
    files::remove_tree(&work)?;
    DirBuilder::new().mode(0o700).create(&work).context(format_args!("making {}", work.display()))?;
    let started = Instant::now();
    let built = match name {
        "host" => host::build(&work, progress),
        _ => debian::build(&work, progress),
    };
    let built = match built {
        Ok(built) => built,
        Err(error) => {
            files::remove_tree(&work)?;
            return Err(error);
        }
    };
    files::sync_file_system(&work)?;
    write_meta(&work.join("meta"), &built, started.elapsed())?;
    put_in_place(&templates, name, &work)?;
    progress(&format!("the template {} is ready after {:.1} s: {}", name, started.elapsed().as_secs_f64(), built.detail));
    resolve(data, name)
}

/// The old version is moved away, not removed: overlays of running boxes lie on it.
fn put_in_place(templates: &Path, name: &str, work: &Path) -> Result<()> {
    let place = templates.join(name);
    let old = templates.join(".old");
    if place.symlink_metadata().is_ok() {
        fs::create_dir_all(&old).context(format_args!("making {}", old.display()))?;
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        fs::rename(&place, old.join(format!("{}-{}", name, stamp))).context(format_args!("moving {} away", place.display()))?;
    }
    fs::rename(work, &place).context(format_args!("naming {}", place.display()))?;
    ffi::sync_directory(templates).context(format_args!("flushing {}", templates.display()))
}

/// Removes replaced versions and what killed builds left. Only to be called while no box runs. Does nothing where the folder is a link:
/// then it is another data folder's too, whose boxes are not known here.
pub fn remove_old(data: &Path) -> Result<()> {
    if base(data).symlink_metadata().map_or(true, |found| !found.is_dir()) {
        return Ok(());
    }
    files::remove_tree(&base(data).join(".old"))?;
    for name in NAMES {
        if !is_building(data, name) {
            files::remove_tree(&base(data).join(format!(".build-{}", name)))?;
        }
    }
    Ok(())
}

const HOSTS: &str = "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n";
/// pip would refuse to install outside a virtual environment; a sandbox is one.
const PIP: &str = "[global]\nbreak-system-packages = true\nroot-user-action = ignore\n";

/// Chromium's own sandbox is made of namespaces, which are refused inside: without this it would not start. Debian's wrapper reads it.
const CHROMIUM: &str = "export CHROMIUM_FLAGS=\"$CHROMIUM_FLAGS --no-sandbox\"\n";

/// What every template's `/etc` says alike, whatever it is made from.
fn write_common_etc(etc: &Path) -> Result<()> {
    for (name, content) in
        [("hostname", "sandbox\n"), ("hosts", HOSTS), ("resolv.conf", "nameserver 127.0.0.1\n"), ("fstab", ""), ("pip.conf", PIP)]
    {
        let path = etc.join(name);
        // It may be a link to a file of the system it was copied from.
        let _ = fs::remove_file(&path);
        files::file(&path, 0o644, 0, 0, content.as_bytes())?;
    }
    let chromium = etc.join("chromium.d");
    if !chromium.is_dir() {
        files::folder(&chromium, 0o755, 0, 0)?;
    }
    files::file(&chromium.join("delta"), 0o644, 0, 0, CHROMIUM.as_bytes())?;
    let _ = fs::remove_file(etc.join("machine-id"));
    files::file(&etc.join("machine-id"), 0o444, 0, 0, b"")?;
    let _ = fs::remove_file(etc.join("mtab"));
    files::link(Path::new("../proc/self/mounts"), &etc.join("mtab"))
}
