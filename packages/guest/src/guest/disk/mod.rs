//! File operations as a worker does them: by themselves, with plain arguments and results.

use super::failure::{shown, Failure};
use super::messages::{Entry, EntryKind};
use super::sys::{self, statx_t, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use super::users::Users;
use crate::wire::{self, code, MAX_NAME_BYTES, MAX_PATH_BYTES};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};

mod list;
mod remove;
mod write;

pub use list::{list, Page};
pub use remove::remove;
pub use write::{open_write, WriteFile, TEMP_PREFIX};

const DENTS_BYTES: usize = 32 << 10;
const PARENT_MODE: u32 = 0o755;
const MAX_MODE: u32 = 0o7777;

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

/// Waits until the sandbox's file system has written what it holds.
pub fn sync() -> Result<()> {
    let workspace = sys::open_at(AT_FDCWD, &c_path(b"/workspace"), sys::O_RDONLY | sys::O_DIRECTORY, 0);
    let root = || sys::open_at(AT_FDCWD, &c_path(b"/"), sys::O_RDONLY | sys::O_DIRECTORY, 0);
    let synced = workspace.or_else(|_| root()).and_then(|fd| sys::sync_file_system(fd.as_raw_fd()));
    synced.map_err(|error| Failure::of("Writing the file system out", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of<T>(result: Result<T>) -> u16 {
        result.err().map_or(code::OK, |failure| failure.code)
    }

    #[test]
    fn paths_are_absolute_bounded_and_free_of_nul() {
        assert_eq!(check_path(b"/a/b//").unwrap(), b"/a/b");
        assert_eq!(check_path(b"///").unwrap(), b"/");
        assert_eq!(check_path(b"/\xff/..").unwrap(), b"/\xff/..");
        assert_eq!(code_of(check_path(b"")), code::INVALID);
        assert_eq!(code_of(check_path(b"a")), code::INVALID);
        assert_eq!(code_of(check_path(b"/a\0")), code::INVALID);
        assert_eq!(code_of(check_path(&[b"/".as_slice(), &[b'x'; 255]].concat())), code::OK);
        assert_eq!(code_of(check_path(&[b"/".as_slice(), &[b'x'; 256]].concat())), code::NAME_TOO_LONG);
        assert_eq!(code_of(check_path(&[b'/'; 4095])), code::OK);
        assert_eq!(code_of(check_path(&[b'/'; 4096])), code::NAME_TOO_LONG);
    }

    #[test]
    fn only_an_entry_of_a_folder_splits() {
        assert_eq!(split(b"/a").unwrap(), (b"/".as_slice(), b"a".as_slice()));
        assert_eq!(split(b"/a/b").unwrap(), (b"/a".as_slice(), b"b".as_slice()));
        for path in [b"/".as_slice(), b"/a/.", b"/a/.."] {
            assert_eq!(code_of(split(path)), code::INVALID);
        }
    }
}
