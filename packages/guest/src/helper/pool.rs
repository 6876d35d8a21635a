//! Where the writable uppers live: a btrfs file system with a quota per upper, or a plain folder without.
//!
//! An upper is a folder `upper_path(id)` holding `upper/` (0755) and `work/` (0700), both root's (0:0), ready for an overlay, and the
//! link `template`, whose target names what lies below it. It appears under `uppers/` by one rename when it is whole and limited, so a crash leaves either all of it or a rest
//! under `new/` that the next start removes.

mod btrfs;
mod copy;
mod image;
mod kept;
mod snapshots;
mod trash;
mod volumes;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::io::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::Mutex;
use std::thread::{self, sleep, JoinHandle};
use std::time::Duration;

use super::error::{code, Context};
use super::ffi;
use super::reserve;

pub use super::error::{Error, Result};
pub use btrfs::Quota;
pub use image::system_program;
pub use snapshots::{is_snapshot, Held, Snapshot, CHAIN_MAX};

pub const MIN_RESERVE_BYTES: u64 = 2 << 30;
pub const MIN_IMAGE_BYTES: u64 = 16 << 30;
/// Kept free inside the pool itself, so that deleting, which needs room for metadata, always works.
pub const MIN_POOL_FREE_BYTES: u64 = 256 << 20;
const LOCK_WAIT_MS: u64 = 60_000;
const UNMOUNT_WAIT_MS: u64 = 2_000;
const PENDING_GROUPS_MAX: usize = 65_536;
const PENDING_TRIES: usize = 4;
/// What an upper may still grow by while the disk that carries the pool is short of room: removing a file of the template, renaming
/// and truncating need some. A thousand boxes together stay within half of the least reserve.
pub const SQUEEZED_GROWTH_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Btrfs,
    Folder,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Btrfs => "btrfs",
            Kind::Folder => "folder",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// btrfs where it can be had, else a folder with a warning.
    Auto,
    Btrfs,
    Folder,
}

#[derive(Clone)]
pub struct PoolOptions {
    /// @default Auto
    pub choice: Choice,
    /// Largest size of `pool.img`, read when it is made. @default the size of the file system it lies on, at least 16 GiB.
    pub max_bytes: Option<u64>,
    /// Part of the backing file system kept free, in percent; never less than `MIN_RESERVE_BYTES`. @default 5
    pub reserve_percent: u32,
    /// Called after each step of making the pool or an upper; tests die there. @default nothing
    pub step: fn(&str),
}

impl fmt::Debug for PoolOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PoolOptions({:?}, max_bytes {:?}, reserve {} %)", self.choice, self.max_bytes, self.reserve_percent)
    }
}

impl Default for PoolOptions {
    fn default() -> PoolOptions {
        PoolOptions { choice: Choice::Auto, max_bytes: None, reserve_percent: 5, step: |_| {} }
    }
}

impl PoolOptions {
    /// From DELTA_POOL, DELTA_POOL_MAX_GB and DELTA_POOL_RESERVE.
    pub fn from_environment(get: &dyn Fn(&str) -> Option<String>) -> Result<PoolOptions> {
        let choice = match get("DELTA_POOL").as_deref() {
            None | Some("") | Some("auto") => Choice::Auto,
            Some("btrfs") => Choice::Btrfs,
            Some("folder") => Choice::Folder,
            Some(other) => {
                return Err(Error::new(code::INVALID, format!("DELTA_POOL is {:?}: use auto, btrfs or folder", other)));
            }
        };
        let mut options = PoolOptions { choice, ..PoolOptions::default() };
        if let Some(text) = get("DELTA_POOL_MAX_GB").filter(|text| !text.is_empty()) {
            let gigabytes = text.parse::<u64>().ok().filter(|value| (1..=1 << 20).contains(value));
            let gigabytes = gigabytes.ok_or_else(|| {
                Error::new(code::INVALID, format!("DELTA_POOL_MAX_GB is {:?}: use a whole number from 1", text))
            })?;
            options.max_bytes = Some(gigabytes << 30);
        }
        if let Some(text) = get("DELTA_POOL_RESERVE").filter(|text| !text.is_empty()) {
            let percent = text.parse::<u32>().ok().filter(|value| *value <= 50);
            options.reserve_percent = percent.ok_or_else(|| {
                Error::new(code::INVALID, format!("DELTA_POOL_RESERVE is {:?}: use a percentage from 0 to 50", text))
            })?;
        }
        Ok(options)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    pub used: u64,
    /// Free bytes of the file system that carries the pool, without those that what is still in memory will take.
    pub backing_free: u64,
    pub reserve: u64,
    pub read_only: bool,
}

pub struct Pool {
    data: PathBuf,
    root: PathBuf,
    kind: Kind,
    quota: Quota,
    /// `/sys/fs/btrfs/<uuid>`; empty for a folder.
    sys: PathBuf,
    /// The image this pool is mounted from; None where `<data>` itself carries it.
    image: Option<PathBuf>,
    reserve_percent: u32,
    step: fn(&str),
    warnings: Vec<String>,
    /// Quota groups of dropped uppers that the kernel has not given up yet.
    pending: Mutex<VecDeque<u64>>,
    sweeper: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    /// What stands on what.
    index: Mutex<snapshots::Index>,
    /// What uppers were charged for at their last snapshot, and still are; `kept/` says it too.
    kept: Mutex<HashMap<String, u64>>,
    /// Nothing may grow. Held while a limit is set by it, so that no upper keeps the limit of the other state.
    low: Mutex<bool>,
}

/// Ids have been checked by the helper's door; a second check here keeps a path from ever leaving the pool.
fn check_id(id: &str) -> Result<()> {
    let bytes = id.as_bytes();
    let head = bytes.len() >= 5 && bytes.len() <= 44 && bytes[..3].iter().all(u8::is_ascii_lowercase) && bytes[3] == b'_';
    if head && bytes[4..].iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Ok(());
    }
    Err(Error::new(code::INVALID, "an upper's id must be three letters, an underscore and 1 to 40 of a-z0-9"))
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::from_io(format_args!("making {}", path.display()), &cause));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(path).context(format_args!("looking at {}", path.display()))?;
    if !found.is_dir() {
        return Err(Error::new(code::IO, format!("{} is in the way: it is not a folder", path.display())));
    }
    // The umask took its part of the mode.
    fs::set_permissions(path, Permissions::from_mode(mode)).context(format_args!("setting the mode of {}", path.display()))
}

/// Names in a folder that are ids, in order. A folder that is not there, as in a pool of an earlier version that turned read-only, has none.
fn list_ids(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(Error::from_io(format_args!("listing {}", folder.display()), &cause)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.context(format_args!("listing {}", folder.display()))?.file_name().to_string_lossy().into_owned();
        if check_id(&name).is_ok() {
            ids.push(name);
        }
    }
    ids.sort();
    Ok(ids)
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

/// Held while the pool is found or made: two starts at once do it one after the other. Released by closing, also by a kill -9.
fn lock(data: &Path) -> Result<File> {
    let path = data.join("pool.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .context(format_args!("opening {}", path.display()))?;
    for _ in 0..LOCK_WAIT_MS / 20 {
        // SAFETY: a plain descriptor.
        if unsafe { ffi::flock(file.as_raw_fd(), ffi::LOCK_EX | ffi::LOCK_NB) } == 0 {
            return Ok(file);
        }
        sleep(Duration::from_millis(20));
    }
    Err(Error::new(code::BUSY, format!("another process has held {} for a minute: is a second helper starting?", path.display())))
}

/// What was found or made: where it lies, and what there is to say about it.
struct Found {
    kind: Kind,
    image: Option<PathBuf>,
    warnings: Vec<String>,
}

fn folder_found(warning: Option<String>) -> Found {
    let mut warnings: Vec<String> = warning.into_iter().collect();
    warnings.push("the pool is a plain folder: no quota limits what a sandbox writes".to_string());
    Found { kind: Kind::Folder, image: None, warnings }
}

fn find(data: &Path, root: &Path, options: &PoolOptions) -> Result<Found> {
    let image = data.join("pool.img");
    let has_image = image.exists();
    let has_folder = ffi::mount_on(root).context("reading the mount table")?.is_none() && !is_empty(&root.join("uppers"));
    let on_btrfs =
        !has_image && ffi::statfs_of(data).context(format_args!("looking at {}", data.display()))?.kind == ffi::BTRFS_MAGIC;
    if options.choice == Choice::Folder {
        if has_image {
            return Err(Error::new(
                code::INVALID,
                format!(
                    "DELTA_POOL=folder, but {} holds sandboxes' files: unset DELTA_POOL, or remove it to give them up",
                    image.display()
                ),
            ));
        }
        return Ok(folder_found(None));
    }
    if on_btrfs {
        return Ok(Found { kind: Kind::Btrfs, image: None, warnings: Vec::new() });
    }
    if has_folder && !has_image {
        if options.choice == Choice::Btrfs {
            return Err(Error::new(
                code::INVALID,
                format!("DELTA_POOL=btrfs, but {} already holds uppers in plain folders: end those sandboxes first, or unset DELTA_POOL", root.display()),
            ));
        }
        return Ok(folder_found(Some("the pool was made as a plain folder and still holds uppers".to_string())));
    }
    match mount_image(data, root, &image, has_image, options) {
        Ok(warnings) => Ok(Found { kind: Kind::Btrfs, image: Some(image), warnings }),
        Err(error) if options.choice == Choice::Auto && !has_image => {
            // Nothing was ever written to it.
            let _ = fs::remove_file(&image);
            Ok(folder_found(Some(format!("btrfs cannot be had: {}", error.message))))
        }
        Err(error) => Err(error),
    }
}

/// Makes the image where there is none, attaches and mounts it; each step finds what an earlier life already did.
fn mount_image(data: &Path, root: &Path, image: &Path, has_image: bool, options: &PoolOptions) -> Result<Vec<String>> {
    if !image::kernel_has_btrfs() {
        return Err(Error::new(code::NOT_SUPPORTED, "this kernel has no btrfs"));
    }
    if !has_image {
        let backing = ffi::statfs_of(data).context(format_args!("looking at {}", data.display()))?;
        let bytes = options.max_bytes.unwrap_or_else(|| (backing.blocks * backing.block_size as u64).max(MIN_IMAGE_BYTES));
        image::create(image, bytes & !0xffff, options.step)?;
    }
    if let Some(line) = ffi::mount_on(root).context("reading the mount table")? {
        if line.kind != "btrfs" {
            return Err(Error::new(
                code::BUSY,
                format!("something else ({}) is mounted on {}: unmount it", line.kind, root.display()),
            ));
        }
        if !read_only(root)? {
            return Ok(Vec::new());
        }
        // It gave up after an error. Once every box is gone a new mount replays its log and is writable again.
        ffi::unmount(root, 0).context(format_args!("unmounting the read-only pool {} to repair it", root.display()))?;
        image::gone(image);
    }
    let device = image::attach(image)?;
    (options.step)("attached");
    let flags = ffi::MS_NOATIME | ffi::MS_NOSUID | ffi::MS_NODEV;
    ffi::mount_at(&device.path.to_string_lossy(), root, "btrfs", flags, "discard=async").context(format_args!(
        "mounting {} on {}",
        device.path.display(),
        root.display()
    ))?;
    (options.step)("mounted");
    let mut warnings = Vec::new();
    if !device.direct {
        warnings.push(format!(
            "{} is written through the page cache: the file system it lies on has no direct I/O, so memory is used twice",
            image.display()
        ));
    }
    Ok(warnings)
}

fn read_only(root: &Path) -> Result<bool> {
    let found = ffi::statfs_of(root).context(format_args!("looking at {}", root.display()))?;
    Ok(found.flags & ffi::ST_RDONLY != 0)
}

impl Pool {
    /// Finds or makes the pool of a data folder and mounts it. Safe to call again, after a crash, and from two starts at once.
    pub fn open(data: &Path, options: &PoolOptions) -> Result<Pool> {
        let data = data.canonicalize().context(format_args!("looking at {}", data.display()))?;
        let _lock = lock(&data)?;
        let root = data.join("pool");
        if ffi::mount_on(&root).context("reading the mount table")?.is_none() {
            make_folder(&root, 0o700)?;
        }
        let found = find(&data, &root, options)?;
        let mut pool = Pool {
            data,
            root,
            kind: found.kind,
            quota: Quota::None,
            sys: PathBuf::new(),
            image: found.image,
            reserve_percent: options.reserve_percent,
            step: options.step,
            warnings: found.warnings,
            pending: Mutex::new(VecDeque::new()),
            sweeper: Mutex::new(None),
            index: Mutex::new(snapshots::Index::default()),
            kept: Mutex::new(HashMap::new()),
            low: Mutex::new(false),
        };
        pool.prepare()?;
        pool.load_index()?;
        pool.load_kept()?;
        Ok(pool)
    }

    fn prepare(&mut self) -> Result<()> {
        if self.kind == Kind::Btrfs {
            let handle = ffi::open_directory(&self.root).context(format_args!("opening {}", self.root.display()))?;
            self.sys = btrfs::sys_folder(handle.as_raw_fd()).context("asking btrfs for its id")?;
        }
        if read_only(&self.root)? {
            self.quota = btrfs::quota_mode(&self.sys);
            self.warnings.push(self.read_only_error().message);
            return Ok(());
        }
        fs::set_permissions(&self.root, Permissions::from_mode(0o700))
            .context(format_args!("closing {} to others", self.root.display()))?;
        if self.kind == Kind::Btrfs {
            self.prepare_quota()?;
            (self.step)("quota");
        }
        for folder in ["uppers", "snapshots", "volumes", "new", "trash"] {
            make_folder(&self.root.join(folder), 0o700)?;
        }
        if self.quota == Quota::Simple {
            make_folder(&self.root.join(kept::FOLDER), 0o700)?;
        }
        if self.kind == Kind::Folder {
            self.start_sweeper();
        }
        self.remove_rests()
    }

    fn prepare_quota(&mut self) -> Result<()> {
        let handle = ffi::open_directory(&self.root).context(format_args!("opening {}", self.root.display()))?;
        // Simple quotas leave a mark that older kernels refuse to mount: right for our own image, not for the operator's disk.
        self.quota = match btrfs::enable_quota(handle.as_raw_fd(), &self.sys, self.image.is_some()) {
            Ok(quota) => quota,
            Err(error) => {
                self.warnings.push(format!("no quota limits what a sandbox writes: {}", error.message));
                Quota::None
            }
        };
        if self.quota == Quota::Full && self.image.is_none() {
            self.warnings.push(format!(
                "ordinary btrfs quotas are on for the file system of {}: they slow deletes and snapshots (`btrfs quota disable` undoes it)",
                self.data.display()
            ));
        }
        Ok(())
    }

    /// What an earlier life left half made or half removed.
    fn remove_rests(&self) -> Result<()> {
        for folder in ["new", "trash"] {
            let path = self.root.join(folder);
            for entry in fs::read_dir(&path).context(format_args!("listing {}", path.display()))? {
                let entry = entry.context(format_args!("listing {}", path.display()))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                self.destroy(&path, &name)
                    .map_err(|cause| Error::from_io(format_args!("removing the rest {}/{}", path.display(), name), &cause))?;
            }
        }
        if self.kind == Kind::Btrfs && self.image.is_some() {
            self.remove_stale_groups();
        }
        Ok(())
    }

    /// Quota groups whose subvolume is gone. Only in our own image: elsewhere other subvolumes' groups are not ours to judge.
    fn remove_stale_groups(&self) {
        let mut live: Vec<u64> = vec![5];
        for folder in ["uppers", "snapshots", "volumes"].map(|name| self.root.join(name)) {
            for id in list_ids(&folder).unwrap_or_default() {
                if let Ok(handle) = ffi::open_directory(&folder.join(id)) {
                    live.extend(btrfs::subvolume_id(handle.as_raw_fd()));
                }
            }
        }
        let stale: Vec<u64> = btrfs::groups(&self.sys).into_iter().filter(|group| !live.contains(group)).collect();
        self.forget_groups(&stale);
    }

    /// The kernel refuses while its cleaner still works on the subvolume: those wait, and a few of them are tried with each drop.
    fn forget_groups(&self, more: &[u64]) {
        let handle = match ffi::open_directory(&self.root) {
            Ok(handle) => handle,
            Err(_) => return,
        };
        let mut pending = self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pending.extend(more);
        for _ in 0..pending.len().min(more.len() + PENDING_TRIES) {
            let group = match pending.pop_front() {
                Some(group) => group,
                None => return,
            };
            match btrfs::forget_group(handle.as_raw_fd(), group) {
                Err(cause) if cause.raw_os_error() == Some(16) && pending.len() < PENDING_GROUPS_MAX => pending.push_back(group),
                // Forgotten, or gone already: newer kernels do it themselves.
                _ => {}
            }
        }
    }

    fn start_sweeper(&self) {
        let trash = self.root.join("trash");
        let (wake, woken) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("pool-sweeper".into()).spawn(move || {
            while woken.recv().is_ok() {
                // A failure leaves the rest to the next drop or the next start.
                let _ = trash::sweep(&trash);
            }
        });
        if let Ok(thread) = thread {
            let mut sweeper = self.sweeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *sweeper = Some((wake, thread));
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// What the operator should know, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn read_only_error(&self) -> Error {
        Error::new(
            code::IO,
            format!(
                "the pool {} has become read-only after a write error: stop every sandbox, free space on the disk that carries {}, start again; \
                 if it stays so, `btrfs check` the image",
                self.root.display(),
                self.data.display()
            ),
        )
    }

    /// Whether anything may be made.
    pub fn check_room(&self) -> Result<()> {
        let usage = self.usage()?;
        if usage.read_only {
            return Err(self.read_only_error());
        }
        let needed = if self.is_low() { reserve::enough(usage.reserve) } else { usage.reserve };
        if usage.backing_free < needed {
            return Err(Error::new(
                code::NO_SPACE,
                format!(
                    "{} MiB are free on the disk that carries {}, less than the {} MiB that its reserve needs: free space or lower DELTA_POOL_RESERVE",
                    usage.backing_free >> 20,
                    self.data.display(),
                    needed >> 20
                ),
            ));
        }
        if self.image.is_some() && usage.total.saturating_sub(usage.used) < MIN_POOL_FREE_BYTES {
            return Err(Error::new(
                code::NO_SPACE,
                format!(
                    "the pool of {} MiB is full: end sandboxes that are not needed, or make it larger (DELTA_POOL_MAX_GB)",
                    usage.total >> 20
                ),
            ));
        }
        Ok(())
    }

    /// Makes a new empty upper on a template; `exists` if there is one. `quota_bytes` 0 = no limit. The caller sees to it that the template,
    /// where it is a snapshot, is not dropped meanwhile.
    pub fn make_upper(&self, id: &str, template: &str, quota_bytes: u64) -> Result<PathBuf> {
        check_id(id)?;
        self.check_room()?;
        let path = self.upper_path(id);
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(code::EXISTS, format!("the upper {} exists already", id)));
        }
        let fresh = self.root.join("new").join(id);
        let made = self.make_fresh(id, &fresh, quota_bytes).and_then(|()| {
            make_folder(&fresh.join("upper"), 0o755)?;
            make_folder(&fresh.join("work"), 0o700)?;
            snapshots::mark(&fresh, template)?;
            self.forget_kept(id)?;
            ffi::rename_new(&fresh, &path).context(format_args!("naming the upper {}", id))?;
            (self.step)("upper named");
            Ok(())
        });
        match made {
            Ok(()) => {
                self.note_upper(id, template);
                Ok(path)
            }
            // `exists` here means that another call is making the same upper: what lies there is its.
            Err(error) if error.code == code::EXISTS => Err(error),
            Err(error) => {
                let _ = self.destroy(&self.root.join("new"), id);
                Err(error)
            }
        }
    }

    fn make_fresh(&self, id: &str, fresh: &Path, quota_bytes: u64) -> Result<()> {
        match self.kind {
            Kind::Btrfs => {
                let parent = ffi::open_directory(&self.root.join("new")).context("opening the pool")?;
                btrfs::create_subvolume(parent.as_raw_fd(), id)?;
            }
            Kind::Folder => fs::create_dir(fresh).context(format_args!("making the upper {}", id))?,
        }
        (self.step)("upper created");
        if self.kind == Kind::Btrfs && quota_bytes > 0 {
            self.limit(fresh, quota_bytes)?;
        }
        (self.step)("upper limited");
        fs::set_permissions(fresh, Permissions::from_mode(0o700))
            .context(format_args!("closing {} to others", fresh.display()))
    }

    fn limit(&self, upper: &Path, quota_bytes: u64) -> Result<()> {
        if self.quota == Quota::None {
            return Ok(());
        }
        let handle = ffi::open_directory(upper).context(format_args!("opening {}", upper.display()))?;
        let subvolume = btrfs::subvolume_id(handle.as_raw_fd()).context("asking for a subvolume's id")?;
        // By the pool's own subvolume: asked by the upper, the kernel would charge the change to its limit and refuse one that is full.
        let root = ffi::open_directory(&self.root).context(format_args!("opening {}", self.root.display()))?;
        btrfs::limit(root.as_raw_fd(), subvolume, quota_bytes).context(format_args!(
            "limiting {} to {} bytes",
            upper.display(),
            quota_bytes
        ))
    }

    /// Removes an upper; one that is missing is success. The caller sees to it that no overlay uses it. The name is gone when
    /// this returns, the space comes back a little later.
    pub fn drop_upper(&self, id: &str) -> Result<()> {
        check_id(id)?;
        self.destroy(&self.root.join("uppers"), id).context(format_args!("removing the upper {}", id))?;
        self.forget_upper(id);
        // Where this fails, whoever makes an upper of this name or starts does it again.
        let _ = self.forget_kept(id);
        Ok(())
    }

    fn destroy(&self, parent: &Path, name: &str) -> io::Result<()> {
        if self.kind == Kind::Folder {
            return self.discard(&parent.join(name));
        }
        let handle = ffi::open_directory(parent)?;
        let group = match ffi::open_directory(&parent.join(name)) {
            Ok(subvolume) => btrfs::subvolume_id(subvolume.as_raw_fd())?,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(cause),
        };
        match btrfs::destroy_subvolume(handle.as_raw_fd(), name) {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A plain folder of an earlier plain pool (EINVAL: not a subvolume).
            Err(cause) if cause.raw_os_error() == Some(22) => {
                trash::discard(&parent.join(name), &self.root.join("trash"))?;
                return trash::sweep(&self.root.join("trash"));
            }
            Err(cause) => return Err(cause),
        }
        if self.quota != Quota::None {
            self.forget_groups(&[group]);
        }
        Ok(())
    }

    fn discard(&self, tree: &Path) -> io::Result<()> {
        let trash = self.root.join("trash");
        if tree.parent() != Some(trash.as_path()) && !trash::discard(tree, &trash)? {
            return Ok(());
        }
        let sweeper = self.sweeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*sweeper {
            Some((wake, _)) => {
                let _ = wake.send(());
                Ok(())
            }
            None => trash::sweep(&trash),
        }
    }

    /// The folder of an upper, existing or not. `id` must be of the protocol's form; of another, the path is one that never exists.
    pub fn upper_path(&self, id: &str) -> PathBuf {
        match check_id(id) {
            Ok(()) => self.root.join("uppers").join(id),
            Err(_) => self.root.join("invalid-id"),
        }
    }

    pub fn has_upper(&self, id: &str) -> bool {
        self.upper_path(id).is_dir()
    }

    /// Ids of the uppers there are, in order.
    pub fn list_uppers(&self) -> Result<Vec<String>> {
        list_ids(&self.root.join("uppers"))
    }

    /// Bytes used (None: nothing counts them) and the limit (0: none).
    pub fn upper_usage(&self, id: &str) -> Result<(Option<u64>, u64)> {
        check_id(id)?;
        let path = self.upper_path(id);
        let handle = ffi::open_directory(&path).context(format_args!("opening the upper {}", id))?;
        if self.kind == Kind::Folder || self.quota == Quota::None {
            return Ok((None, 0));
        }
        let subvolume = btrfs::subvolume_id(handle.as_raw_fd()).context("asking for a subvolume's id")?;
        Ok(match btrfs::group_usage(&self.sys, subvolume) {
            Some((used, limit)) => (Some(used), limit),
            None => (None, 0),
        })
    }

    pub fn is_low(&self) -> bool {
        *self.low.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// From now on `adapt` squeezes, or no longer does. Uppers that are in use must be adapted after it.
    pub fn set_low(&self, low: bool) {
        *self.low.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = low;
    }

    /// Gives an upper its limit, on top of what its last snapshot keeps, or, while the pool is low, no more than it holds and `SQUEEZED_GROWTH_BYTES`. One that was squeezed already
    /// stays as it is: starting it again and again does not let it grow.
    pub fn adapt(&self, id: &str, quota_bytes: u64) -> Result<()> {
        self.squeeze(id, quota_bytes, |charge| charge.limit)
    }

    /// The same right after `flush`: what was written before and not yet counted is not taken from what it may grow by.
    pub fn adapt_flushed(&self, id: &str, quota_bytes: u64) -> Result<()> {
        self.squeeze(id, quota_bytes, |charge| charge.limit_for(quota_bytes))
    }

    fn squeeze(&self, id: &str, quota_bytes: u64, most: impl Fn(&kept::Charge) -> u64) -> Result<()> {
        let low = self.low.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let charge = self.charge(id)?;
        // Only the next life reads it, and sees what is charged by then.
        let _ = self.lower_note(id, charge.kept);
        if !*low {
            return self.set_quota(id, charge.limit_for(quota_bytes));
        }
        match (charge.bytes, most(&charge)) {
            (Some(used), 0) => self.set_quota(id, used + SQUEEZED_GROWTH_BYTES),
            (Some(used), most) => self.set_quota(id, (used + SQUEEZED_GROWTH_BYTES).min(most)),
            (None, _) => Ok(()),
        }
    }

    /// Writes out what was written to the pool so far.
    pub fn flush(&self) -> Result<()> {
        let handle = ffi::open_directory(&self.root).context(format_args!("opening {}", self.root.display()))?;
        // SAFETY: a plain descriptor.
        ffi::check(unsafe { ffi::syncfs(handle.as_raw_fd()) }).context("flushing the pool")?;
        Ok(())
    }

    /// Changes an upper's limit; 0 lifts it. Does nothing where the pool has no quota.
    pub fn set_quota(&self, id: &str, quota_bytes: u64) -> Result<()> {
        check_id(id)?;
        let path = self.upper_path(id);
        if !path.is_dir() {
            return Err(Error::new(code::NOT_FOUND, format!("there is no upper {}", id)));
        }
        match self.kind {
            Kind::Btrfs => self.limit(&path, quota_bytes),
            Kind::Folder => Ok(()),
        }
    }

    pub fn usage(&self) -> Result<Usage> {
        let bytes = |blocks: u64, found: &ffi::statfs_t| blocks.saturating_mul(found.block_size as u64);
        let pool = ffi::statfs_of(&self.root).context(format_args!("looking at {}", self.root.display()))?;
        let backing = ffi::statfs_of(&self.data).context(format_args!("looking at {}", self.data.display()))?;
        let total = bytes(pool.blocks, &pool);
        Ok(Usage {
            total,
            used: total.saturating_sub(bytes(pool.blocks_available, &pool)),
            backing_free: bytes(backing.blocks_available, &backing).saturating_sub(self.unwritten()),
            reserve: (bytes(backing.blocks, &backing) / 100 * u64::from(self.reserve_percent)).max(MIN_RESERVE_BYTES),
            read_only: (pool.flags | backing.flags) & ffi::ST_RDONLY != 0,
        })
    }

    /// Bytes of files that are promised their room and not yet written. Memory takes them faster than a disk, gigabytes of them, and no limit
    /// that is set afterwards holds them back.
    fn unwritten(&self) -> u64 {
        if self.kind != Kind::Btrfs {
            return 0;
        }
        let promised = fs::read_to_string(self.sys.join("allocation/data/bytes_may_use"));
        promised.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Unmounts and detaches; `busy` while something still uses it. Without it the pool stays mounted for the next start.
    pub fn close(&self) -> Result<()> {
        let sweeper = self.sweeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some((wake, thread)) = sweeper {
            drop(wake);
            let _ = thread.join();
        }
        let image = match &self.image {
            Some(image) => image,
            None => return Ok(()),
        };
        let _lock = lock(&self.data)?;
        if ffi::mount_on(&self.root).context("reading the mount table")?.is_some() {
            self.unmount()?;
        }
        if !image::gone(image) {
            return Err(Error::new(
                code::BUSY,
                format!("{} is still attached: a sandbox's file system uses it", image.display()),
            ));
        }
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        let mut tries = UNMOUNT_WAIT_MS / 20;
        loop {
            match ffi::unmount(&self.root, 0) {
                Ok(()) => return Ok(()),
                Err(cause) if cause.raw_os_error() == Some(16) && tries > 0 => {
                    tries -= 1;
                    sleep(Duration::from_millis(20));
                }
                Err(cause) => return Err(Error::from_io(format_args!("unmounting {}", self.root.display()), &cause)),
            }
        }
    }
}

/// Makes a small image, attaches, mounts and writes to it, and takes all of it away again.
pub fn try_image(image: &Path, mount_point: &Path, bytes: u64) -> Result<()> {
    if !image::kernel_has_btrfs() {
        return Err(Error::new(code::NOT_SUPPORTED, "this kernel has no btrfs"));
    }
    image::create(image, bytes, |_| {})?;
    let device = image::attach(image)?;
    ffi::mount_at(&device.path.to_string_lossy(), mount_point, "btrfs", ffi::MS_NOSUID | ffi::MS_NODEV, "")
        .context("mounting a btrfs image")?;
    drop(device);
    let written = fs::write(mount_point.join("file"), "x").context("writing to a btrfs image");
    ffi::unmount(mount_point, 0).context("unmounting a btrfs image")?;
    if !image::gone(image) {
        return Err(Error::new(code::BUSY, "the loop device was not given back"));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_the_pool_are_refused() {
        for id in ["", "upp_", "upp_..", "upp_/x", "../etc/x", "UPP_a", "upp_A", "upp-a", "uppp_a", "upp_a\0", "upp_é"] {
            assert_eq!(check_id(id).unwrap_err().code, code::INVALID, "{:?}", id);
        }
        assert!(check_id("upp_a").is_ok());
        assert!(check_id(&format!("upp_{}", "a".repeat(40))).is_ok());
        assert!(check_id(&format!("upp_{}", "a".repeat(41))).is_err());
    }

    #[test]
    fn options_come_from_the_environment_and_bad_ones_are_named() {
        let get = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string())
        };
        let options = PoolOptions::from_environment(&get(&[
            ("DELTA_POOL", "folder"),
            ("DELTA_POOL_MAX_GB", "20"),
            ("DELTA_POOL_RESERVE", "7"),
        ]))
        .unwrap();
        assert_eq!((options.choice, options.max_bytes, options.reserve_percent), (Choice::Folder, Some(20 << 30), 7));
        for bad in
            [("DELTA_POOL", "zfs"), ("DELTA_POOL_MAX_GB", "-1"), ("DELTA_POOL_MAX_GB", "1e9"), ("DELTA_POOL_RESERVE", "51")]
        {
            let error = PoolOptions::from_environment(&|name| (name == bad.0).then(|| bad.1.to_string())).unwrap_err();
            assert!(error.message.contains(bad.0), "{}", error.message);
        }
    }
}
