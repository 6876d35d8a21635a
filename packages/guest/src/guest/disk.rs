//! File operations as a worker does them: by themselves, with plain arguments and results.

use super::failure::{shown, Failure};
use super::messages::{Entry, EntryKind, Write, MODE_EXPLICIT};
use super::sys::{self, statx_t, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use super::users::Users;
use crate::wire::{self, code, MAX_NAME_BYTES, MAX_PATH_BYTES};
use std::collections::{BinaryHeap, HashMap};
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

const PARENT_MODE: u32 = 0o755;
const MAX_LINKS: usize = 40;
const MAX_MODE: u32 = 0o7777;
const DENTS_BYTES: usize = 32 << 10;
/// Folders held open at once while a tree is removed; deeper ones are first moved up.
const REMOVE_DEPTH: usize = 48;
/// Passes over one folder that others keep filling before it is given up.
const REMOVE_PASSES: usize = 64;
/// Names one folder's page holds in memory. Deeper levels of a listing get a share.
const PAGE_NAMES: usize = 4096;
/// Folders below each other that a listing enters.
const MAX_DEPTH: u32 = 128;
/// A file that is being written, before it has its name. Watches do not show these.
pub const TEMP_PREFIX: &[u8] = b".delta-write-";

type Result<T> = std::result::Result<T, Failure>;

/// Absolute, no NUL, within the kernel's limits; without a slash at its end.
pub fn check_path(path: &[u8]) -> Result<&[u8]> {
    if !path.starts_with(b"/") {
        return Err(Failure::new(code::INVALID, "A path must be absolute."));
    }
    if path.contains(&0) {
        return Err(Failure::new(code::INVALID, "A path has no NUL bytes."));
    }
    let too_long = |what: &str| Failure::new(code::NAME_TOO_LONG, format!("{what}: {}", shown(path)));
    if path.len() >= MAX_PATH_BYTES {
        return Err(too_long("A path has fewer than 4,096 bytes"));
    }
    if path.split(|byte| *byte == b'/').any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(too_long("A name has at most 255 bytes"));
    }
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    Ok(&path[..end])
}

/// The folder and the last name of a checked path.
fn split(path: &[u8]) -> Result<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (folder, name) = (&path[..slash.max(1)], &path[slash + 1..]);
    if name.is_empty() || name == b"." || name == b".." {
        return Err(Failure::new(code::INVALID, format!("{} does not name an entry of a folder.", shown(path))));
    }
    Ok((folder, name))
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
    [folder, slash, name].concat()
}

fn c_path(path: &[u8]) -> CString {
    // Checked paths and names the kernel gave have no NUL.
    CString::new(path).unwrap_or_default()
}

fn fails(path: &[u8]) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure::of(shown(path), &error)
}

/// Turns ids into names, each looked up once.
pub struct Names {
    users: Users,
    owners: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub fn load() -> Names {
        Names { users: Users::load(), owners: HashMap::new(), groups: HashMap::new() }
    }

    fn entry(&mut self, dir: RawFd, name: &CStr, path: Vec<u8>, stat: &statx_t) -> Entry {
        let users = &self.users;
        let kind = match (stat.is_file(), stat.is_directory(), stat.is_symlink()) {
            (true, ..) => EntryKind::File,
            (_, true, _) => EntryKind::Directory,
            (.., true) => EntryKind::Symlink,
            _ => EntryKind::Other,
        };
        Entry {
            path,
            kind,
            size: stat.size,
            mode: stat.mode as u32 & MAX_MODE,
            uid: stat.uid,
            gid: stat.gid,
            owner: self.owners.entry(stat.uid).or_insert_with(|| users.user_name(stat.uid)).clone(),
            group: self.groups.entry(stat.gid).or_insert_with(|| users.group_name(stat.gid)).clone(),
            modified_nanos: stat.modified_nanos(),
            inode: stat.inode,
            target: if stat.is_symlink() { sys::read_link(dir, name).ok() } else { None },
        }
    }
}

pub fn stat(path: &[u8], follow: bool) -> Result<Entry> {
    let path = check_path(path)?;
    let name = c_path(path);
    let flags = if follow { 0 } else { AT_SYMLINK_NOFOLLOW };
    let stat = sys::stat_at(AT_FDCWD, &name, flags).map_err(fails(path))?;
    Ok(Names::load().entry(AT_FDCWD, &name, path.to_vec(), &stat))
}

pub fn chmod(path: &[u8], mode: u32) -> Result<Entry> {
    let checked = check_path(path)?;
    sys::chmod_at(AT_FDCWD, &c_path(checked), mode & MAX_MODE).map_err(fails(checked))?;
    stat(path, true)
}

fn owner_of(users: &Users, owner: &str) -> Result<(u32, u32)> {
    let known = users.owner(owner);
    known.ok_or_else(|| Failure::new(code::UNKNOWN_USER, format!("No user or group {owner:?} in the sandbox.")))
}

/// Where this process is root, what it makes is given to its owner; elsewhere only itself can own it.
fn give(dir: RawFd, name: &CStr, (uid, gid): (u32, u32)) -> io::Result<()> {
    match sys::chown_at(dir, name, uid, gid) {
        Err(error) if sys::errno(&error) == sys::EPERM && sys::is_own(uid) => Ok(()),
        result => result,
    }
}

/// Makes the folder and those above it that are missing; they belong to `owner`.
fn make_parents(folder: &[u8], owner: (u32, u32)) -> Result<()> {
    let mut missing = Vec::new();
    let mut at = folder;
    loop {
        match sys::stat_at(AT_FDCWD, &c_path(at), 0) {
            Ok(stat) if stat.is_directory() => break,
            Ok(_) => return Err(Failure::new(code::NOT_A_DIRECTORY, format!("{} is not a directory.", shown(at)))),
            Err(error) if sys::errno(&error) == sys::ENOENT && at.len() > 1 => {
                missing.push(at);
                let slash = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                let end = at[..slash].iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
                at = &at[..end];
            }
            Err(error) => return Err(Failure::of(shown(at), &error)),
        }
    }
    for path in missing.into_iter().rev() {
        let name = c_path(path);
        match sys::mkdir_at(AT_FDCWD, &name, PARENT_MODE) {
            Ok(()) => give(AT_FDCWD, &name, owner).map_err(fails(path))?,
            Err(error) if sys::errno(&error) == sys::EEXIST => {}
            Err(error) => return Err(Failure::of(shown(path), &error)),
        }
    }
    Ok(())
}

pub fn mkdir(path: &[u8], mode: u32, owner: &str, parents: bool) -> Result<Entry> {
    let checked = check_path(path)?;
    let owner = owner_of(&Users::load(), owner)?;
    if checked != b"/" {
        let (folder, _) = split(checked)?;
        if parents {
            make_parents(folder, owner)?;
        }
    }
    let name = c_path(checked);
    match sys::mkdir_at(AT_FDCWD, &name, mode & MAX_MODE) {
        Ok(()) => {
            give(AT_FDCWD, &name, owner).map_err(fails(checked))?;
            // mkdir leaves the setuid, setgid and sticky bits out.
            sys::chmod_at(AT_FDCWD, &name, mode & MAX_MODE).map_err(fails(checked))?;
        }
        Err(error) if sys::errno(&error) == sys::EEXIST && parents => {
            let existing = stat(path, true)?;
            if existing.kind != EntryKind::Directory {
                return Err(Failure::new(code::EXISTS, format!("{} exists and is not a directory.", shown(checked))));
            }
        }
        Err(error) => return Err(Failure::of(shown(checked), &error)),
    }
    stat(path, true)
}

pub fn rename(from: &[u8], to: &[u8], overwrite: bool) -> Result<Entry> {
    let (from, checked) = (check_path(from)?, check_path(to)?);
    split(from)?;
    split(checked)?;
    let (a, b) = (c_path(from), c_path(checked));
    let flags = if overwrite { 0 } else { sys::RENAME_NOREPLACE };
    let mut result = sys::rename_at(AT_FDCWD, &a, AT_FDCWD, &b, flags);
    if !overwrite && matches!(&result, Err(error) if matches!(sys::errno(error), sys::EINVAL | sys::ENOSYS)) {
        // This file system cannot refuse by itself, or the folder would go into itself: then the plain rename says so.
        result = match sys::stat_at(AT_FDCWD, &b, AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Err(io::Error::from_raw_os_error(sys::EEXIST)),
            Err(_) => sys::rename_at(AT_FDCWD, &a, AT_FDCWD, &b, 0),
        };
    }
    result.map_err(|error| match sys::errno(&error) {
        sys::EEXIST if !overwrite => Failure::new(code::EXISTS, format!("{} exists.", shown(checked))),
        sys::EXDEV => Failure::new(
            code::NOT_SUPPORTED,
            format!("{} and {} are on different file systems: copy, then remove.", shown(from), shown(checked)),
        ),
        _ => Failure::of(format!("{} to {}", shown(from), shown(checked)), &error),
    })?;
    stat(to, false)
}

pub fn remove(path: &[u8], recursive: bool, cancel: &AtomicBool) -> Result<u64> {
    let path = check_path(path)?;
    let (folder, name) = split(path)?;
    let dir = sys::open_at(AT_FDCWD, &c_path(folder), sys::O_PATH | sys::O_DIRECTORY, 0).map_err(fails(folder))?;
    let name = c_path(name);
    let stat = sys::stat_at(dir.as_raw_fd(), &name, AT_SYMLINK_NOFOLLOW).map_err(fails(path))?;
    if !stat.is_directory() {
        sys::unlink_at(dir.as_raw_fd(), &name, 0).map_err(fails(path))?;
        return Ok(1);
    }
    if recursive {
        return remove_tree(dir.as_raw_fd(), &name, cancel, path);
    }
    sys::unlink_at(dir.as_raw_fd(), &name, sys::AT_REMOVEDIR).map_err(fails(path))?;
    Ok(1)
}

struct Level {
    fd: OwnedFd,
    name: CString,
    passes: usize,
}

/// Removes by descriptors, never by long paths: a tree may be deeper than any path can name. What lies deeper than
/// `REMOVE_DEPTH` is moved up to the root of the tree first, so that few descriptors are open at once.
fn remove_tree(dir: RawFd, root: &CStr, cancel: &AtomicBool, path: &[u8]) -> Result<u64> {
    let fails = fails(path);
    let open = |dir: RawFd, name: &CStr| {
        sys::open_at(dir, name, sys::O_RDONLY | sys::O_DIRECTORY | sys::O_NOFOLLOW | sys::O_NONBLOCK, 0)
    };
    let mut levels = vec![Level { fd: open(dir, root).map_err(&fails)?, name: root.to_owned(), passes: 0 }];
    let mut removed = 0;
    let mut moved = 0u64;
    let mut buffer = vec![0u8; DENTS_BYTES];
    while let Some(level) = levels.last_mut() {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::canceled());
        }
        let fd = level.fd.as_raw_fd();
        level.passes += 1;
        sys::rewind(fd).map_err(&fails)?;
        let mut deeper = None;
        let mut found = false;
        'pass: loop {
            let count = sys::directory_entries(fd, &mut buffer).map_err(&fails)?;
            if count == 0 {
                break;
            }
            found = true;
            let mut names = Vec::new();
            sys::each_entry(&buffer[..count], |name, kind| names.push((c_path(name), kind)));
            found &= !names.is_empty();
            for (name, kind) in names {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Failure::canceled());
                }
                match unlink_any(fd, &name, kind) {
                    Ok(()) => removed += 1,
                    Err(error) if sys::errno(&error) == sys::ENOENT => {}
                    Err(error) if sys::errno(&error) == sys::ENOTEMPTY => {
                        deeper = Some(name);
                        break 'pass;
                    }
                    Err(error) => return Err(fails(error)),
                }
            }
        }
        if let Some(name) = deeper {
            if levels.len() < REMOVE_DEPTH {
                match open(fd, &name) {
                    Ok(child) => levels.push(Level { fd: child, name, passes: 0 }),
                    Err(error) if sys::errno(&error) == sys::ENOENT => {}
                    Err(error) => return Err(fails(error)),
                }
            } else {
                moved += 1;
                let aside = c_path(format!(".delta-remove-{moved}-{:x}", random()?).as_bytes());
                sys::rename_at(fd, &name, levels[0].fd.as_raw_fd(), &aside, 0).map_err(&fails)?;
            }
            continue;
        }
        if found && level.passes < REMOVE_PASSES {
            continue;
        }
        let name = level.name.clone();
        levels.pop();
        let parent = levels.last().map_or(dir, |level| level.fd.as_raw_fd());
        match sys::unlink_at(parent, &name, sys::AT_REMOVEDIR) {
            Ok(()) => removed += 1,
            Err(error) if sys::errno(&error) == sys::ENOENT => {}
            Err(error) => return Err(fails(error)),
        }
    }
    Ok(removed)
}

fn unlink_any(dir: RawFd, name: &CStr, kind: u8) -> io::Result<()> {
    if kind != sys::DT_DIR {
        match sys::unlink_at(dir, name, 0) {
            Err(error) if matches!(sys::errno(&error), sys::EISDIR | sys::EPERM) => {}
            result => return result,
        }
    }
    match sys::unlink_at(dir, name, sys::AT_REMOVEDIR) {
        // It was a file after all, and may not be removed.
        Err(error) if sys::errno(&error) == sys::ENOTDIR => Err(io::Error::from_raw_os_error(sys::EPERM)),
        Err(error) if sys::errno(&error) == sys::EEXIST => Err(io::Error::from_raw_os_error(sys::ENOTEMPTY)),
        result => result,
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    sys::random_bytes(&mut bytes).map_err(|error| Failure::of("Random bytes", &error))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Opens a regular file; anything else is refused without being opened, since opening a FIFO has effects.
pub fn open_read(path: &[u8]) -> Result<(OwnedFd, Entry)> {
    let checked = check_path(path)?;
    refuse_other(checked, &sys::stat_at(AT_FDCWD, &c_path(checked), 0).map_err(fails(checked))?)?;
    let flags = sys::O_RDONLY | sys::O_NONBLOCK | sys::O_NOCTTY;
    let fd = sys::open_at(AT_FDCWD, &c_path(checked), flags, 0).map_err(fails(checked))?;
    let stat = sys::stat_fd(fd.as_raw_fd()).map_err(fails(checked))?;
    refuse_other(checked, &stat)?;
    let entry = Names::load().entry(AT_FDCWD, &c_path(checked), checked.to_vec(), &stat);
    Ok((fd, entry))
}

fn refuse_other(path: &[u8], stat: &statx_t) -> Result<()> {
    if stat.is_directory() {
        return Err(Failure::new(code::IS_A_DIRECTORY, format!("{} is a directory.", shown(path))));
    }
    if !stat.is_file() {
        return Err(Failure::new(code::NOT_A_FILE, format!("{} is not a regular file.", shown(path))));
    }
    Ok(())
}

/// Reads up to `count` bytes as DATA frames of `channel`, the first at `sent`. Returns them, the raw bytes in them, and
/// whether the file ended.
pub fn read_frames(fd: RawFd, from: u64, count: usize, channel: u32, sent: u64) -> Result<(Vec<u8>, usize, bool)> {
    let mut out = Vec::with_capacity(count + count / wire::DATA_BYTES * 18 + 64);
    let mut done = 0;
    let mut ended = false;
    while done < count && !ended {
        let want = (count - done).min(wire::DATA_BYTES);
        let start = out.len();
        let head = start + wire::HEADER_BYTES + wire::DATA_HEADER_BYTES;
        wire::put_frame(&mut out, wire::DATA, channel, |w| {
            w.u8(wire::stream::INPUT);
            w.u64(sent + done as u64);
        });
        out.resize(head + want, 0);
        let mut filled = 0;
        while filled < want {
            match sys::pread_fd(fd, &mut out[head + filled..], from + (done + filled) as u64) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if sys::errno(&error) == sys::EINTR => {}
                Err(error) => return Err(Failure::of("Reading the file", &error)),
            }
        }
        if filled == 0 {
            out.truncate(start);
            break;
        }
        out.truncate(head + filled);
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        done += filled;
    }
    Ok((out, done, ended))
}

/// A file on its way to replace another. Nameless until it is whole where the file system can do that, else under a name that
/// dropping it removes.
pub struct WriteFile {
    fd: OwnedFd,
    dir: OwnedFd,
    /// The name in `dir` that it will have.
    name: CString,
    path: Vec<u8>,
    temp: Option<CString>,
    mode: u32,
    owner: (u32, u32),
    must_not_exist: bool,
    fsync: bool,
    if_match: Option<String>,
}

impl Drop for WriteFile {
    fn drop(&mut self) {
        if let Some(temp) = self.temp.take() {
            drop(sys::unlink_at(self.dir.as_raw_fd(), &temp, 0));
        }
    }
}

pub fn open_write(request: &Write) -> Result<WriteFile> {
    if request.path.ends_with(b"/") {
        return Err(Failure::new(code::IS_A_DIRECTORY, format!("{} names a directory.", shown(&request.path))));
    }
    let users = Users::load();
    let owner = owner_of(&users, &request.owner)?;
    let path = resolve_links(check_path(&request.path)?)?;
    let (folder, name) = split(&path)?;
    if request.make_parents {
        make_parents(folder, owner)?;
    }
    let dir = sys::open_at(AT_FDCWD, &c_path(folder), sys::O_PATH | sys::O_DIRECTORY, 0).map_err(fails(folder))?;
    let name = c_path(name);
    let existing = existing(dir.as_raw_fd(), &name, &path)?;
    check_conditions(existing.as_ref(), request.must_not_exist, request.if_match.as_deref(), &path)?;
    let explicit = request.mode & MODE_EXPLICIT != 0;
    let given_mode = request.mode & MAX_MODE;
    let (mode, owner) = match &existing {
        None => (given_mode, owner),
        Some(stat) => {
            let kept = (stat.uid, stat.gid);
            let mode = if explicit { given_mode } else { stat.mode as u32 & MAX_MODE };
            (mode, if explicit && !request.owner.is_empty() { owner } else { kept })
        }
    };
    let (fd, temp) = open_temp(dir.as_raw_fd()).map_err(fails(&path))?;
    Ok(WriteFile {
        fd,
        dir,
        name,
        temp,
        mode,
        owner,
        must_not_exist: request.must_not_exist,
        fsync: request.fsync,
        if_match: request.if_match.clone(),
        path: check_path(&request.path)?.to_vec(),
    })
}

/// A symlink at the end of the path is followed: the file it names is replaced, not the link.
fn resolve_links(path: &[u8]) -> Result<Vec<u8>> {
    let mut path = path.to_vec();
    for _ in 0..MAX_LINKS {
        match sys::stat_at(AT_FDCWD, &c_path(&path), AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.is_symlink() => {}
            _ => return Ok(path),
        }
        let target = sys::read_link(AT_FDCWD, &c_path(&path)).map_err(fails(&path))?;
        path = if target.starts_with(b"/") { target } else { join(split(&path)?.0, &target) };
        path = check_path(&path)?.to_vec();
    }
    Err(Failure::of_errno(shown(&path), sys::ELOOP))
}

fn existing(dir: RawFd, name: &CStr, path: &[u8]) -> Result<Option<statx_t>> {
    match sys::stat_at(dir, name, AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            refuse_other(path, &stat)?;
            Ok(Some(stat))
        }
        Err(error) if sys::errno(&error) == sys::ENOENT => Ok(None),
        Err(error) => Err(Failure::of(shown(path), &error)),
    }
}

fn check_conditions(stat: Option<&statx_t>, must_not_exist: bool, if_match: Option<&str>, path: &[u8]) -> Result<()> {
    if must_not_exist && stat.is_some() {
        return Err(Failure::new(code::EXISTS, format!("{} exists.", shown(path))));
    }
    let etag = |stat: &statx_t| format!("\"{:x}-{:x}-{:x}\"", stat.inode, stat.size, stat.modified_nanos());
    match (if_match, stat.map(etag)) {
        (None, _) => Ok(()),
        (Some(wanted), Some(found)) if wanted == found => Ok(()),
        (Some(_), Some(found)) => {
            Err(Failure::new(code::PRECONDITION_FAILED, format!("{} has changed: its ETag is {found}.", shown(path))))
        }
        (Some(_), None) => Err(Failure::new(code::PRECONDITION_FAILED, format!("{} does not exist.", shown(path)))),
    }
}

fn temp_name() -> io::Result<CString> {
    let mut bytes = [0; 8];
    sys::random_bytes(&mut bytes)?;
    sys::cstring(&[TEMP_PREFIX, format!("{:016x}", u64::from_le_bytes(bytes)).as_bytes()].concat())
}

fn open_temp(dir: RawFd) -> io::Result<(OwnedFd, Option<CString>)> {
    let here = sys::cstring(b".")?;
    match sys::open_at(dir, &here, sys::O_TMPFILE | sys::O_WRONLY, 0o600) {
        Ok(fd) => return Ok((fd, None)),
        Err(error) if matches!(sys::errno(&error), sys::EOPNOTSUPP | sys::EISDIR | sys::ENOENT | sys::EINVAL) => {}
        Err(error) => return Err(error),
    }
    let name = temp_name()?;
    let flags = sys::O_CREAT | sys::O_EXCL | sys::O_WRONLY | sys::O_NOFOLLOW;
    let fd = sys::open_at(dir, &name, flags, 0o600)?;
    Ok((fd, Some(name)))
}

impl WriteFile {
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match sys::write_fd(self.fd.as_raw_fd(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if sys::errno(&error) == sys::EINTR => {}
                Err(error) => return Err(Failure::of(shown(&self.path), &error)),
            }
        }
        Ok(())
    }

    /// Gives it its owner, mode and name, all at once for whoever reads it.
    pub fn finish(mut self) -> Result<Entry> {
        let path = self.path.clone();
        let fails = fails(&path);
        let (fd, dir) = (self.fd.as_raw_fd(), self.dir.as_raw_fd());
        match sys::chown_fd(fd, self.owner.0, self.owner.1) {
            Err(error) if sys::errno(&error) == sys::EPERM && sys::is_own(self.owner.0) => {}
            result => result.map_err(&fails)?,
        }
        sys::chmod_fd(fd, self.mode).map_err(&fails)?;
        if self.fsync {
            sys::sync_file(fd).map_err(&fails)?;
        }
        let existing = existing(dir, &self.name, &path)?;
        check_conditions(existing.as_ref(), self.must_not_exist, self.if_match.as_deref(), &path)?;
        self.put_in_place().map_err(|error| match sys::errno(&error) {
            sys::EEXIST => Failure::new(code::EXISTS, format!("{} exists.", shown(&path))),
            _ => fails(error),
        })?;
        if self.fsync {
            let here = c_path(b".");
            let folder = sys::open_at(dir, &here, sys::O_RDONLY | sys::O_DIRECTORY, 0).map_err(&fails)?;
            sys::sync_file(folder.as_raw_fd()).map_err(&fails)?;
        }
        let stat = sys::stat_fd(fd).map_err(&fails)?;
        Ok(Names::load().entry(dir, &self.name, path.clone(), &stat))
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        let dir = self.dir.as_raw_fd();
        if self.temp.is_none() {
            // Where nothing has the name yet, the link is all; it refuses to replace.
            match sys::link_fd(self.fd.as_raw_fd(), dir, &self.name) {
                Ok(()) => return Ok(()),
                Err(error) if sys::errno(&error) == sys::EEXIST && !self.must_not_exist => {}
                Err(error) => return Err(error),
            }
            let temp = temp_name()?;
            sys::link_fd(self.fd.as_raw_fd(), dir, &temp)?;
            self.temp = Some(temp);
        }
        if let Some(temp) = &self.temp {
            let flags = if self.must_not_exist { sys::RENAME_NOREPLACE } else { 0 };
            sys::rename_at(dir, temp, dir, &self.name, flags)?;
            self.temp = None;
        }
        Ok(())
    }
}

pub struct Page {
    /// Whole records: `u32 length` and the entry, each.
    pub records: Vec<Vec<u8>>,
    /// The path of the last, to go on from.
    pub last: Vec<u8>,
    pub entries: u32,
    pub more: bool,
}

/// One page of a listing: the first entries after `after`, at most `limit` of them and about `bytes` long. Folders are read
/// as often as needed and never held whole: only the smallest names that may still fit are kept.
pub fn list(path: &[u8], depth: u32, after: &[u8], limit: u32, bytes: usize, cancel: &AtomicBool) -> Result<Page> {
    let path = check_path(path)?;
    let flags = sys::O_RDONLY | sys::O_DIRECTORY | sys::O_NONBLOCK;
    let fd = sys::open_at(AT_FDCWD, &c_path(path), flags, 0).map_err(fails(path))?;
    let after = relative_names(path, after)?;
    let mut lister = Lister {
        names: Names::load(),
        page: Page { records: Vec::new(), last: Vec::new(), entries: 0, more: false },
        limit,
        bytes_left: bytes,
        cancel,
    };
    lister.folder(fd.as_raw_fd(), path, depth.clamp(1, MAX_DEPTH), &after, PAGE_NAMES)?;
    Ok(lister.page)
}

/// `after` as names below `path`; it must lie there.
fn relative_names<'a>(path: &[u8], after: &'a [u8]) -> Result<Vec<&'a [u8]>> {
    if after.is_empty() {
        return Ok(Vec::new());
    }
    let prefix = if path == b"/" { path.to_vec() } else { join(path, b"") };
    match after.strip_prefix(prefix.as_slice()) {
        Some(rest) => Ok(rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()),
        None => Err(Failure::new(code::INVALID, format!("{} is not below {}.", shown(after), shown(path)))),
    }
}

struct Lister<'a> {
    names: Names,
    page: Page,
    limit: u32,
    bytes_left: usize,
    cancel: &'a AtomicBool,
}

impl Lister<'_> {
    /// Returns false once the page is full.
    fn folder(&mut self, fd: RawFd, path: &[u8], depth: u32, after: &[&[u8]], keep: usize) -> Result<bool> {
        // The page before ended at `after`, so its first name was told; what lies below it may not all have been.
        if let Some((first, below)) = after.split_first() {
            if depth > 1 && !self.descend(fd, path, first, depth, below, keep)? {
                return Ok(false);
            }
        }
        let mut last: Vec<u8> = after.first().map_or_else(Vec::new, |name| name.to_vec());
        loop {
            let names = smallest_names(fd, &last, keep, self.cancel).map_err(fails(path))?;
            for name in &names {
                if self.cancel.load(Ordering::Relaxed) {
                    return Err(Failure::canceled());
                }
                let stat = match sys::stat_at(fd, &c_path(name), AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    // It went away meanwhile.
                    Err(_) => continue,
                };
                if !self.add(fd, path, name, &stat) {
                    return Ok(false);
                }
                if stat.is_directory() && depth > 1 && !self.descend(fd, path, name, depth, &[], keep)? {
                    return Ok(false);
                }
            }
            match names.into_iter().last() {
                Some(name) => last = name,
                None => return Ok(true),
            }
        }
    }

    fn descend(
        &mut self,
        fd: RawFd,
        path: &[u8],
        name: &[u8],
        depth: u32,
        after: &[&[u8]],
        keep: usize,
    ) -> Result<bool> {
        let child_path = join(path, name);
        if child_path.len() + 2 > MAX_PATH_BYTES {
            return Ok(true);
        }
        let flags = sys::O_RDONLY | sys::O_DIRECTORY | sys::O_NOFOLLOW | sys::O_NONBLOCK;
        match sys::open_at(fd, &c_path(name), flags, 0) {
            Ok(child) => self.folder(child.as_raw_fd(), &child_path, depth - 1, after, (keep / 2).max(32)),
            Err(error) if matches!(sys::errno(&error), sys::EMFILE | sys::ENFILE) => Err(fails(&child_path)(error)),
            // Gone, or not a folder any more.
            Err(_) => Ok(true),
        }
    }

    /// Adds one entry; false where it does not fit any more.
    fn add(&mut self, fd: RawFd, path: &[u8], name: &[u8], stat: &statx_t) -> bool {
        let entry_path = join(path, name);
        if entry_path.len() >= MAX_PATH_BYTES {
            return true;
        }
        if self.page.entries >= self.limit {
            self.page.more = true;
            return false;
        }
        let entry = self.names.entry(fd, &c_path(name), entry_path, stat);
        let mut record = Vec::new();
        let mut w = wire::Writer::new(&mut record);
        w.u32(0);
        entry.write(&mut w);
        let length = record.len() as u32 - 4;
        record[..4].copy_from_slice(&length.to_le_bytes());
        if record.len() > self.bytes_left && self.page.entries > 0 {
            self.page.more = true;
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(record.len());
        self.page.records.push(record);
        self.page.last = entry.path;
        self.page.entries += 1;
        true
    }
}

/// The `keep` smallest names above `after`, in order.
fn smallest_names(fd: RawFd, after: &[u8], keep: usize, cancel: &AtomicBool) -> io::Result<Vec<Vec<u8>>> {
    let mut heap: BinaryHeap<Vec<u8>> = BinaryHeap::new();
    let mut buffer = vec![0u8; DENTS_BYTES];
    sys::rewind(fd)?;
    loop {
        let count = sys::directory_entries(fd, &mut buffer)?;
        if count == 0 || cancel.load(Ordering::Relaxed) {
            return Ok(heap.into_sorted_vec());
        }
        sys::each_entry(&buffer[..count], |name, _| {
            let fits = heap.len() < keep || heap.peek().map_or(true, |largest| name < largest.as_slice());
            if name > after && fits {
                heap.push(name.to_vec());
                if heap.len() > keep {
                    heap.pop();
                }
            }
        });
    }
}

/// Waits until the sandbox's file system has written what it holds.
pub fn sync() -> Result<()> {
    let workspace = sys::open_at(AT_FDCWD, &c_path(b"/workspace"), sys::O_RDONLY | sys::O_DIRECTORY, 0);
    let root = || sys::open_at(AT_FDCWD, &c_path(b"/"), sys::O_RDONLY | sys::O_DIRECTORY, 0);
    let synced = workspace.or_else(|_| root()).and_then(|fd| sys::sync_file_system(fd.as_raw_fd()));
    synced.map_err(|error| Failure::of("Writing the file system out", &error))
}
