//! `delta-guest place`: puts what comes on standard input into the file system it runs in. It is how a build copies into a sandbox, also into one that
//! holds no program at all. It runs as root of the sandbox, so paths mean what they mean inside, and whatever the input says, nothing outside can be reached.
//!
//! The input is a list of entries, integers little-endian, `str` as on the wire: `u8 kind` (1 directory, 2 file, 3 symlink; 0 ends the list), `str path`, `u32 mode`
//! (bit 31: also of a directory that is there), `str owner`, `i64 seconds` of modification, `u64 size`, and so many bytes: of the file, or of the symlink's target.

use super::sys;
use super::users::Users;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{symlink, DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::io::AsRawFd;
use std::path::{Path, PathBuf};

const MODE_EXPLICIT: u32 = 1 << 31;
const MAX_TEXT: usize = 4_096;
const COPY_BYTES: usize = 256 << 10;
const PARENT_MODE: u32 = 0o755;

/// Entries placed. The error is one line that names the path.
pub fn place(input: &mut dyn Read) -> io::Result<u64> {
    let users = Users::load();
    let mut buffer = vec![0; COPY_BYTES];
    let mut placed = 0;
    while let Some(entry) = Entry::read(input)? {
        entry.place(&users, input, &mut buffer).map_err(|error| named(&error, &entry.path))?;
        placed += 1;
    }
    Ok(placed)
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {}", path.display(), error))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

struct Entry {
    kind: u8,
    path: PathBuf,
    mode: u32,
    owner: String,
    seconds: i64,
    size: u64,
}

impl Entry {
    fn read(input: &mut dyn Read) -> io::Result<Option<Entry>> {
        let kind = number::<1>(input)?[0];
        if kind == 0 {
            return Ok(None);
        }
        if kind > 3 {
            return Err(invalid("an entry of no known kind"));
        }
        let path = PathBuf::from(OsString::from_vec(text(input)?));
        if !path.is_absolute() {
            return Err(invalid("a path is not absolute"));
        }
        let mode = u32::from_le_bytes(number(input)?);
        let owner = String::from_utf8(text(input)?).map_err(|_| invalid("an owner is not UTF-8"))?;
        let seconds = i64::from_le_bytes(number(input)?);
        let size = u64::from_le_bytes(number(input)?);
        Ok(Some(Entry { kind, path, mode, owner, seconds, size }))
    }

    fn place(&self, users: &Users, input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<()> {
        let owner = users.identity(&self.owner).ok_or_else(|| invalid(&format!("there is no user {}", self.owner)))?;
        let ids = (owner.uid, owner.gid);
        if let Some(parent) = self.path.parent() {
            make_parents(parent, ids)?;
        }
        match self.kind {
            1 => self.directory(ids),
            2 => self.file(ids, input, buffer),
            _ => self.link(ids, input),
        }
    }

    fn directory(&self, ids: (u32, u32)) -> io::Result<()> {
        // A link to a folder is as good as the folder.
        let is_there = fs::metadata(&self.path).map_or(false, |found| found.is_dir());
        if !is_there {
            self.clear()?;
            DirBuilder::new().mode(0o700).create(&self.path)?;
        }
        if !is_there || self.mode & MODE_EXPLICIT != 0 {
            let path = sys::cstring(bytes(&self.path))?;
            sys::chown_at(sys::AT_FDCWD, &path, ids.0, ids.1)?;
            fs::set_permissions(&self.path, Permissions::from_mode(self.mode & 0o7777))?;
        }
        Ok(())
    }

    fn file(&self, ids: (u32, u32), input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<()> {
        self.clear()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        let mut left = self.size;
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            input.read_exact(&mut buffer[..wanted])?;
            file.write_all(&buffer[..wanted])?;
            left -= wanted as u64;
        }
        let fd = file.as_raw_fd();
        sys::chown_fd(fd, ids.0, ids.1)?;
        // After the owner, whose change takes away setuid.
        sys::chmod_fd(fd, self.mode & 0o7777)?;
        sys::set_modified(fd, self.seconds)
    }

    fn link(&self, ids: (u32, u32), input: &mut dyn Read) -> io::Result<()> {
        if self.size == 0 || self.size as usize > MAX_TEXT {
            return Err(invalid("a symlink without a target, or with one that is too long"));
        }
        let mut target = vec![0; self.size as usize];
        input.read_exact(&mut target)?;
        self.clear()?;
        symlink(OsString::from_vec(target), &self.path)?;
        sys::chown_at(sys::AT_FDCWD, &sys::cstring(bytes(&self.path))?, ids.0, ids.1)
    }

    /// What is at the path goes, unless it is a folder.
    fn clear(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_dir() => Err(io::Error::new(io::ErrorKind::AlreadyExists, "is a folder already")),
            Ok(_) => fs::remove_file(&self.path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn make_parents(folder: &Path, ids: (u32, u32)) -> io::Result<()> {
    if fs::metadata(folder).map_or(false, |found| found.is_dir()) {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_parents(parent, ids)?;
    }
    DirBuilder::new().mode(PARENT_MODE).create(folder)?;
    sys::chown_at(sys::AT_FDCWD, &sys::cstring(bytes(folder))?, ids.0, ids.1)
}

fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

fn number<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut read = [0; N];
    input.read_exact(&mut read)?;
    Ok(read)
}

fn text(input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(number(input)?) as usize;
    if length == 0 || length > MAX_TEXT {
        return Err(invalid("a text of an entry is empty or too long"));
    }
    let mut read = vec![0; length];
    input.read_exact(&mut read)?;
    if read.contains(&0) {
        return Err(invalid("a text of an entry has a NUL byte"));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn entry(kind: u8, path: &Path, mode: u32, content: &[u8]) -> Vec<u8> {
        let (name, owner) = (bytes(path), format!("{}:{}", own().0, own().1));
        let mut list = vec![kind];
        list.extend((name.len() as u32).to_le_bytes());
        list.extend(name);
        list.extend(mode.to_le_bytes());
        list.extend((owner.len() as u32).to_le_bytes());
        list.extend(owner.as_bytes());
        list.extend(1_000_000_000_i64.to_le_bytes());
        list.extend((content.len() as u64).to_le_bytes());
        list.extend(content);
        list
    }

    fn own() -> (u32, u32) {
        let found = fs::metadata("/proc/self").unwrap();
        (found.uid(), found.gid())
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("delta-place-{}-{}", std::process::id(), name));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn files_folders_and_links_are_as_stated() {
        let root = folder("plain");
        let file = root.join("a/b/file");
        let mut list = entry(1, &root.join("d"), 0o1777, b"");
        list.extend(entry(2, &file, 0o4755, &vec![7; 600_000]));
        list.extend(entry(2, &file, 0o640, b"anew"));
        list.extend(entry(3, &root.join("link"), 0o777, b"a/b"));
        // Through the link, as a program would.
        list.extend(entry(2, &root.join("link/second"), 0o4755, b"2"));
        list.push(0);
        assert_eq!(place(&mut &list[..]).unwrap(), 5);
        assert_eq!(fs::read(&file).unwrap(), b"anew");
        let found = fs::metadata(&file).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o640, 1_000_000_000));
        assert_eq!(fs::metadata(root.join("a/b/second")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("a/b"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_that_is_there_keeps_its_mode_unless_told_otherwise() {
        let root = folder("kept");
        fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
        let list = [entry(1, &root, 0o777, b""), vec![0]].concat();
        place(&mut &list[..]).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o700);
        let list = [entry(1, &root, MODE_EXPLICIT | 0o755, b""), vec![0]].concat();
        place(&mut &list[..]).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o755);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_cannot_be_placed_is_named_and_a_list_cut_short_is_an_error() {
        let root = folder("refused");
        let over_folder = [entry(2, &root, 0o644, b"x"), vec![0]].concat();
        assert!(place(&mut &over_folder[..]).unwrap_err().to_string().contains("delta-place"));
        let good = [entry(2, &root.join("f"), 0o644, b"xyz"), vec![0]].concat();
        for end in 0..good.len() - 1 {
            assert!(place(&mut &good[..end]).is_err(), "cut at {}", end);
        }
        let relative = [entry(2, Path::new("f"), 0o644, b"x"), vec![0]].concat();
        assert!(place(&mut &relative[..]).is_err());
        let mut unknown = entry(2, &root.join("f"), 0o644, b"x");
        unknown[0] = 9;
        assert!(place(&mut &unknown[..]).is_err());
        fs::remove_dir_all(root).unwrap();
    }
}
