//! Random file systems on real overlays, and what there is to see of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::raw::{c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, DirBuilderExt, FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use delta::helper::ffi;
use delta::helper::layers::{Base, View};
use delta::helper::sys;

extern "C" {
    fn lsetxattr(path: *const c_char, name: *const c_char, value: *const c_void, length: usize, flags: c_int) -> c_int;
    fn lremovexattr(path: *const c_char, name: *const c_char) -> c_int;
    fn llistxattr(path: *const c_char, list: *mut c_char, length: usize) -> isize;
    fn lgetxattr(path: *const c_char, name: *const c_char, value: *mut c_void, length: usize) -> isize;
    fn utimensat(directory: c_int, path: *const c_char, times: *const [[i64; 2]; 2], flags: c_int) -> c_int;
    fn lchown(path: *const c_char, uid: u32, gid: u32) -> c_int;
    fn mknod(path: *const c_char, mode: u32, device: u64) -> c_int;
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A folder of the test's own, with what is mounted there gone at its end.
pub struct Place {
    pub path: PathBuf,
    image: bool,
}

impl Place {
    /// The calling thread gets a mount namespace of its own, so nothing it mounts is seen elsewhere.
    pub fn new(name: &str) -> Place {
        // SAFETY: no pointers.
        ffi::check(unsafe { sys::unshare(sys::CLONE_NEWNS) }).expect("these tests need root");
        ffi::mount_at("none", Path::new("/"), "", ffi::MS_REC | ffi::MS_PRIVATE, "").unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("delta-layers-{}-{}-{}", name, std::process::id(), number));
        fs::create_dir_all(&path).unwrap();
        Place { path, image: false }
    }

    /// The same on a btrfs of its own.
    pub fn on_btrfs(name: &str) -> Place {
        let mut place = Place::new(name);
        let image = place.path.with_extension("img");
        fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place.path));
        place.image = true;
        place
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// What a sandbox would write to.
    pub fn upper(&self, name: &str) -> Upper {
        let path = self.path.join(name);
        if self.image {
            run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&path));
        }
        for folder in ["upper", "work", "usr", "usr-work"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        Upper { path }
    }

    /// As the pool does it: a snapshot on btrfs, else a copy.
    pub fn snapshot(&self, upper: &Upper, name: &str) -> Upper {
        let path = self.path.join(name);
        if self.image {
            run(Command::new("btrfs")
                .args(["-q", "subvolume", "snapshot"])
                .arg(&upper.path)
                .arg(&path));
        } else {
            run(Command::new("cp")
                .args(["-a", "--sparse=always"])
                .arg(&upper.path)
                .arg(&path));
        }
        Upper { path }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // By name: the process's list of mounts is of another namespace than this thread's.
        for name in ["mounted/usr", "mounted", "seen/usr", "seen", ""] {
            while ffi::unmount(&self.path.join(name), ffi::MNT_DETACH).is_ok() {}
        }
        let _ = fs::remove_file(self.path.with_extension("img"));
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub fn run(command: &mut Command) -> String {
    let done = command
        .output()
        .unwrap_or_else(|cause| panic!("{:?}: {}", command, cause));
    assert!(
        done.status.success(),
        "{:?}: {}",
        command,
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub struct Upper {
    pub path: PathBuf,
}

impl Upper {
    pub fn view(&self, base: &Base) -> View {
        let usr = if base.usrs.is_empty() {
            None
        } else {
            Some(self.path.join("usr"))
        };
        View {
            root: self.path.join("upper"),
            usr,
        }
    }
}

fn joined(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    names.join(":")
}

/// A mounted file system; unmounted when dropped.
pub struct Mounted {
    pub path: PathBuf,
}

impl Mounted {
    /// For writing, as a sandbox sees it.
    pub fn writable(place: &Place, upper: &Upper, base: &Base) -> Mounted {
        let path = place.folder("mounted");
        let options = |lowers: &[PathBuf], upper_name: &str, work: &str| {
            let at = upper.path.display();
            format!(
                "lowerdir={},upperdir={}/{},workdir={}/{}",
                joined(lowers),
                at,
                upper_name,
                at,
                work
            )
        };
        let scratch = vec![place.folder("empty")];
        let roots = if base.roots.is_empty() { &scratch } else { &base.roots };
        ffi::mount_at("overlay", &path, "overlay", 0, &options(roots, "upper", "work")).unwrap();
        if !base.usrs.is_empty() {
            let usr = options(&base.usrs, "usr", "usr-work");
            ffi::mount_at("overlay", &path.join("usr"), "overlay", 0, &usr).unwrap();
        }
        Mounted { path }
    }

    /// For looking at it, with nothing written.
    pub fn to_see(place: &Place, upper: &Upper, base: &Base) -> Mounted {
        let path = place.folder("seen");
        let empty = place.folder("empty");
        let mount = |top: PathBuf, lowers: &[PathBuf], at: &Path| {
            let mut all = vec![top];
            all.extend_from_slice(lowers);
            all.push(empty.clone());
            ffi::mount_at("overlay", at, "overlay", 0, &format!("lowerdir={}", joined(&all))).unwrap();
        };
        mount(upper.path.join("upper"), &base.roots, &path);
        if !base.usrs.is_empty() {
            mount(upper.path.join("usr"), &base.usrs, &path.join("usr"));
        }
        Mounted { path }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = ffi::unmount(&self.path.join("usr"), ffi::MNT_DETACH);
        let _ = ffi::unmount(&self.path, ffi::MNT_DETACH);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, i64),
    pub content: Vec<u8>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// All names of a file with several.
    pub names: BTreeSet<Vec<u8>>,
}

pub type Tree = BTreeMap<Vec<u8>, Seen>;

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = c_path(path);
    let mut list = vec![0u8; 65_536];
    // SAFETY: the buffer is writable for its length.
    let got = unsafe { llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let names = list[..got.max(0) as usize]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .filter(|name| !name.starts_with(b"trusted."))
        .map(|name| {
            let mut value = vec![0u8; 65_536];
            let c_name = CString::new(name).unwrap();
            // SAFETY: as above.
            let got = unsafe { lgetxattr(path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
            value.truncate(got.max(0) as usize);
            (name.to_vec(), value)
        })
        .collect()
}

pub fn set_attribute(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = CString::new(name).unwrap();
    // SAFETY: every pointer lives through the call.
    ffi::check(unsafe {
        lsetxattr(
            c_path(path).as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    })
    .map(drop)
}

pub fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = [[0, 0x3fff_fffe], [seconds, nanoseconds]];
    // SAFETY: every pointer lives through the call.
    ffi::check(unsafe { utimensat(ffi::AT_FDCWD, c_path(path).as_ptr(), &times, ffi::AT_SYMLINK_NOFOLLOW) }).unwrap();
}

pub fn set_owner(path: &Path, uid: u32, gid: u32) {
    // SAFETY: as above.
    ffi::check(unsafe { lchown(c_path(path).as_ptr(), uid, gid) }).unwrap();
}

pub fn make_node(path: &Path, mode: u32) -> io::Result<()> {
    // SAFETY: as above.
    ffi::check(unsafe { mknod(c_path(path).as_ptr(), mode, 0) }).map(drop)
}

/// Everything there is to see below a folder; sockets and devices are not a layer's.
pub fn see(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut links: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut queue = vec![(root.to_path_buf(), Vec::new())];
    while let Some((path, name)) = queue.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let kind = found.file_type();
        if kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            continue;
        }
        let mut seen = Seen {
            kind: "fifo",
            mode: found.mode() & 0o7777,
            owner: (found.uid(), found.gid()),
            modified: (found.mtime(), found.mtime_nsec()),
            content: Vec::new(),
            attributes: attributes(&path),
            names: BTreeSet::new(),
        };
        if kind.is_file() {
            seen.kind = "file";
            seen.content = content(&path, found.len());
            if found.nlink() > 1 {
                links.entry(found.ino()).or_default().insert(name.clone());
                inodes.insert(name.clone(), found.ino());
            }
        } else if kind.is_symlink() {
            seen.kind = "symlink";
            seen.mode = 0;
            seen.content = fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
        } else if kind.is_dir() {
            seen.kind = "folder";
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap().file_name();
                let mut below = name.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(entry.as_bytes());
                if below != b".delta" {
                    queue.push((path.join(&entry), below));
                }
            }
        }
        tree.insert(name, seen);
    }
    for (name, inode) in inodes {
        if links[&inode].len() > 1 {
            tree.get_mut(&name).unwrap().names = links[&inode].clone();
        }
    }
    tree
}

/// A large file by its size and data alone.
fn content(path: &Path, size: u64) -> Vec<u8> {
    if size <= 4 << 20 {
        return fs::read(path).unwrap();
    }
    let file = fs::File::open(path).unwrap();
    let mut out = size.to_le_bytes().to_vec();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let got = file.read_at(&mut buffer, at).unwrap();
        if buffer[..got].iter().any(|byte| *byte != 0) {
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(&buffer[..got]);
        }
        at += got as u64;
    }
    out
}

/// Says which names differ, and in what.
pub fn expect_same(one: &Tree, other: &Tree, what: &str) {
    let mut wrong = Vec::new();
    for name in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
        if one.get(name) != other.get(name) {
            let short = |tree: &Tree| {
                tree.get(name).map(|seen| Seen {
                    content: seen.content[..seen.content.len().min(40)].to_vec(),
                    ..seen.clone()
                })
            };
            wrong.push(format!(
                "{}: {:?}\n   not {:?}",
                name.escape_ascii(),
                short(other),
                short(one)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", what, wrong.join("\n"));
}

/// A generator of numbers that a seed determines.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 33) % limit as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

const LONG: [u8; 255] = [b'l'; 255];
const NAMES: [&[u8]; 20] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"etc",
    b"opt",
    b"with space",
    "größe".as_bytes(),
    b"\xff\xfe",
    b"-x",
    b"new\nline",
    b".hidden",
    b".wh.odd",
    b".wh..wh..opq",
    b"tail.",
    b"=equals",
    "日本".as_bytes(),
    &LONG,
    b"z",
];

/// Changes of all kinds below a folder.
pub struct Hand<'a> {
    pub root: &'a Path,
    pub random: &'a mut Random,
}

impl Hand<'_> {
    fn names(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut queue = vec![self.root.to_path_buf()];
        while let Some(folder) = queue.pop() {
            let mut entries: Vec<PathBuf> = fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            entries.sort();
            for path in entries {
                if path == self.root.join(".delta") {
                    continue;
                }
                if fs::symlink_metadata(&path).unwrap().is_dir() {
                    queue.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }

    fn pick(&mut self) -> Option<PathBuf> {
        let names = self.names();
        if names.is_empty() {
            return None;
        }
        Some(names[self.random.below(names.len())].clone())
    }

    fn fresh(&mut self) -> PathBuf {
        let mut folders: Vec<PathBuf> = self.names().into_iter().filter(|path| is_folder(path)).collect();
        folders.push(self.root.to_path_buf());
        folders.retain(|path| path.components().count() < self.root.components().count() + 6);
        let folder = folders[self.random.below(folders.len())].clone();
        folder.join(OsStr::from_bytes(NAMES[self.random.below(NAMES.len())]))
    }

    pub fn act(&mut self) {
        let what = self.random.below(21);
        let target = if matches!(what, 0..=5) { None } else { self.pick() };
        // What is in the way stays: the system's refusal is no change.
        let _ = match (what, target) {
            (0 | 1, _) => self.write_new(),
            (2, _) => {
                let path = self.fresh();
                fs::DirBuilder::new().mode(0o755).create(path)
            }
            (3, _) => {
                let path = self.fresh();
                symlink(OsStr::from_bytes(NAMES[self.random.below(NAMES.len())]), path)
            }
            (4, _) => {
                let path = self.fresh();
                make_node(&path, 0o010640)
            }
            (5, _) => self.sparse(),
            (6 | 7, Some(path)) if is_file(&path) => self.write_some(&path),
            (8, Some(path)) if is_file(&path) => {
                let bytes = self.random.below(9000) as u64;
                fs::OpenOptions::new()
                    .write(true)
                    .open(path)
                    .and_then(|file| file.set_len(bytes))
            }
            (9, Some(path)) if !is_symlink(&path) => {
                let mode = [0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o000, 0o6711][self.random.below(8)];
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
            }
            (10, Some(path)) => {
                let owner =
                    [(0, 0), (1000, 1000), (1000, 0), (65_534, 7), (3_000_000, 3_000_001)][self.random.below(5)];
                set_owner(&path, owner.0, owner.1);
                Ok(())
            }
            (11 | 12, Some(path)) => {
                let to = self.fresh();
                if to.starts_with(&path) {
                    return;
                }
                run_rename(&path, &to)
            }
            (13 | 14, Some(path)) if is_file(&path) => {
                let to = self.fresh();
                fs::hard_link(path, to)
            }
            (15 | 16, Some(path)) => {
                if is_folder(&path) {
                    fs::remove_dir_all(path)
                } else {
                    fs::remove_file(path)
                }
            }
            (17, Some(path)) => self.replace(&path),
            (18, Some(path)) if is_file(&path) || is_folder(&path) => self.attribute(&path),
            (19, Some(path)) => {
                let time = [
                    (0, 0),
                    (1_600_000_000, 1),
                    (-5, 250_000_000),
                    (1_700_000_000, 999_999_999),
                    (10_000_000_000, 0),
                ];
                let (seconds, nanoseconds) = time[self.random.below(time.len())];
                set_time(&path, seconds, nanoseconds);
                Ok(())
            }
            // What is touched and put back is no change.
            (_, Some(path)) if is_file(&path) => {
                let found = fs::metadata(&path).unwrap();
                let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                drop(file);
                set_time(&path, found.mtime(), found.mtime_nsec());
                Ok(())
            }
            _ => Ok(()),
        };
    }

    fn write_new(&mut self) -> io::Result<()> {
        let path = self.fresh();
        let length = [0, 1, 511, 512, 513, 5000, 70_000][self.random.below(7)];
        let content = self.random.bytes(length);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)?
            .write_all_at(&content, 0)
    }

    fn write_some(&mut self, path: &Path) -> io::Result<()> {
        let (at, length) = (self.random.below(6000) as u64, self.random.below(3000));
        let content = self.random.bytes(length);
        fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all_at(&content, at)
    }

    fn sparse(&mut self) -> io::Result<()> {
        let path = self.fresh();
        let file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
        for _ in 0..self.random.below(4) {
            let content = self.random.bytes(100);
            file.write_all_at(&content, self.random.below(3 << 20) as u64)?;
        }
        file.set_len(self.random.below(6 << 20) as u64)
    }

    fn replace(&mut self, path: &Path) -> io::Result<()> {
        if is_folder(path) {
            fs::remove_dir_all(path)?;
            let content = self.random.bytes(20);
            return if self.random.below(2) == 0 {
                fs::write(path, content)
            } else {
                fs::create_dir(path)
            };
        }
        fs::remove_file(path)?;
        fs::create_dir(path)?;
        let content = self.random.bytes(20);
        fs::write(path.join("a"), content)
    }

    fn attribute(&mut self, path: &Path) -> io::Result<()> {
        let names: [&[u8]; 5] = [
            b"user.a",
            b"user.b=c",
            b"user.percent%41",
            "user.ü".as_bytes(),
            b"security.capability",
        ];
        let name = names[self.random.below(names.len())];
        if self.random.below(4) == 0 {
            let name = CString::new(name).unwrap();
            // SAFETY: both pointers live through the call.
            return ffi::check(unsafe { lremovexattr(c_path(path).as_ptr(), name.as_ptr()) }).map(drop);
        }
        if name == b"security.capability" {
            // Version 2, cap_net_bind_service; version 3 with a root of its own.
            let mut value = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            if self.random.below(2) == 0 {
                value[3] = 3;
                value.extend_from_slice(&100_000u32.to_le_bytes());
            }
            return if is_file(path) {
                set_attribute(path, name, &value)
            } else {
                Ok(())
            };
        }
        let length = self.random.below(40);
        let value = self.random.bytes(length);
        set_attribute(path, name, &value)
    }
}

fn run_rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        // A folder of the template cannot be renamed; programs copy it then.
        Err(cause) if cause.raw_os_error() == Some(18) => {
            let copied = Command::new("cp").arg("-a").arg("--").arg(from).arg(to).output()?;
            match copied.status.success() {
                true if is_folder(from) => fs::remove_dir_all(from),
                true => fs::remove_file(from),
                false => Ok(()),
            }
        }
        result => result,
    }
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(false, |found| found.is_dir())
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(false, |found| found.is_file())
}

fn is_symlink(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(false, |found| found.file_type().is_symlink())
}
