//! Listing in pages, at flat memory.

use super::{c_path, check_path, fails, join, Names, Result, DENTS_BYTES};
use crate::guest::failure::{shown, Failure};
use crate::guest::sys::{self, statx_t, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use crate::wire::{self, code, MAX_PATH_BYTES};
use std::collections::BinaryHeap;
use std::io;
use std::os::unix::io::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names one folder's page holds in memory. Deeper levels of a listing get a share.
const PAGE_NAMES: usize = 4096;
/// Folders below each other that a listing enters.
const MAX_DEPTH: u32 = 128;

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
            Ok(child) => {
                match self.folder(child.as_raw_fd(), &child_path, depth - 1, after, (keep / 2).max(32)) {
                    // Folders of /proc open and then refuse to be read; the others are still worth telling.
                    Err(failure) if failure.code == code::PERMISSION_DENIED => Ok(true),
                    answer => answer,
                }
            }
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
