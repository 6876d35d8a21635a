//! Writing a file so that readers see the old one or the new one, whole.

use super::{c_path, check_path, fails, join, make_parents, owner_of, refuse_other, split, Names, Result, MAX_MODE};
use crate::guest::failure::{shown, Failure};
use crate::guest::messages::{Entry, Write, MODE_EXPLICIT};
use crate::guest::sys::{self, statx_t, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use crate::guest::users::Users;
use crate::wire::code;
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};

const MAX_LINKS: usize = 40;
/// A file that is being written, before it has its name. Watches do not show these.
pub const TEMP_PREFIX: &[u8] = b".delta-write-";

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
