//! Watched folders. One inotify instance serves them all, opened for the first and closed after the last: a user has few.

use super::connection::{Channel, Role};
use super::disk::{self, TEMP_PREFIX};
use super::failure::{shown, Failure};
use super::files::take_records;
use super::messages::{WatchEvent, WatchKind};
use super::poll::{Kind, Source};
use super::serve::{At, Guest};
use super::sys::{self, EPOLLIN};
use crate::wire::{self, code, stream, MAX_PATH_BYTES};
use std::collections::{HashMap, VecDeque};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::io::{AsRawFd, RawFd};
use std::path::Path;
use std::{fs, io};

/// Folders watched at once, for all watches together.
const MAX_NODES: usize = 8192;
/// Entries of new folders that one look reports.
const MAX_FOUND: usize = 10_000;
/// Events kept for a host that does not take them; beyond it they are dropped and an overflow says so.
const MAX_PENDING_BYTES: usize = 256 << 10;
const BUFFER_BYTES: usize = 16 << 10;
const MASK: u32 = sys::IN_MODIFY
    | sys::IN_ATTRIB
    | sys::IN_MOVED_FROM
    | sys::IN_MOVED_TO
    | sys::IN_CREATE
    | sys::IN_DELETE
    | sys::IN_DELETE_SELF
    | sys::IN_MOVE_SELF;

/// While `scans` are under way no events are read, so that every event's folder is known by the time it is: the kernel keeps them.
pub struct Watches {
    epoll: RawFd,
    source: Option<Source>,
    map: HashMap<u64, Watch>,
    nodes: HashMap<i32, Node>,
    scans: usize,
}

struct Watch {
    at: At,
    root: Vec<u8>,
    recursive: bool,
    opened: bool,
    pending: VecDeque<Vec<u8>>,
    pending_bytes: usize,
}

struct Node {
    path: Vec<u8>,
    watchers: Vec<u64>,
}

/// What a worker found and has set watches on.
struct Scan {
    nodes: Vec<(i32, Vec<u8>)>,
    found: Vec<(Vec<u8>, bool)>,
    complete: bool,
}

impl Watches {
    pub fn new(epoll: RawFd) -> Watches {
        Watches { epoll, source: None, map: HashMap::new(), nodes: HashMap::new(), scans: 0 }
    }

    fn open(&mut self) -> io::Result<()> {
        if self.source.is_none() {
            self.source = Some(Source::new(self.epoll, sys::new_inotify()?, Kind::Watches, 0));
        }
        Ok(())
    }

    fn listen(&mut self) {
        if self.map.is_empty() && self.scans == 0 {
            self.source = None;
            self.nodes.clear();
        } else if let Some(source) = &mut self.source {
            drop(source.want(if self.scans == 0 { EPOLLIN } else { 0 }));
        }
    }

    fn release(&mut self, id: u64, below: Option<&[u8]>) {
        let source = &self.source;
        self.nodes.retain(|wd, node| {
            if below.map_or(true, |path| is_within(&node.path, path)) {
                node.watchers.retain(|watcher| *watcher != id);
            }
            if node.watchers.is_empty() {
                if let Some(source) = source {
                    sys::remove_watch(source.fd(), *wd);
                }
                return false;
            }
            true
        });
    }

    fn push(&mut self, id: u64, kind: WatchKind, path: &[u8], is_directory: bool) {
        if let Some(watch) = self.map.get_mut(&id) {
            if watch.pending_bytes > MAX_PENDING_BYTES {
                // Where the last that is kept says so already, `add` leaves it at that.
                let root = watch.root.clone();
                return watch.add(WatchEvent { kind: WatchKind::Overflow, path: root, is_directory: true });
            }
            watch.add(WatchEvent { kind, path: path.to_vec(), is_directory });
        }
    }
}

impl Watch {
    fn add(&mut self, event: WatchEvent) {
        let mut record = vec![0; 4];
        event.write(&mut wire::Writer::new(&mut record));
        let length = record.len() as u32 - 4;
        record[..4].copy_from_slice(&length.to_le_bytes());
        // A file written in small pieces says so once, until that was told.
        if self.pending.back() != Some(&record) {
            self.pending_bytes += record.len();
            self.pending.push_back(record);
        }
    }
}

fn is_within(path: &[u8], folder: &[u8]) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => rest.is_empty() || rest[0] == b'/' || folder.ends_with(b"/"),
        None => false,
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
    [folder, slash, name].concat()
}

/// Sets watches on a folder and, where asked, on all below it; for a worker. `report` also lists what is in them.
fn scan(inotify: RawFd, root: &[u8], recursive: bool, report: bool, room: usize) -> io::Result<Scan> {
    let mut result = Scan { nodes: Vec::new(), found: Vec::new(), complete: true };
    let mut folders = vec![root.to_vec()];
    while let Some(folder) = folders.pop() {
        if result.nodes.len() >= room || result.found.len() >= MAX_FOUND {
            result.complete = false;
            break;
        }
        let first = result.nodes.is_empty() && folder == root;
        // The watched path itself may be a link or a file; what is below it is watched where it is a folder.
        let flags = if first && !report { 0 } else { sys::IN_ONLYDIR | sys::IN_DONT_FOLLOW };
        let watched = sys::cstring(&folder).and_then(|path| sys::add_watch(inotify, &path, MASK | flags));
        match watched {
            Ok(wd) => result.nodes.push((wd, folder.clone())),
            Err(error) if first => return Err(error),
            Err(error) => {
                result.complete &= sys::errno(&error) != sys::ENOSPC;
                continue;
            }
        }
        if !recursive {
            break;
        }
        for entry in fs::read_dir(Path::new(std::ffi::OsStr::from_bytes(&folder))).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().map_or(false, |kind| kind.is_dir());
            let path = join(&folder, &entry.file_name().into_vec());
            if path.len() >= MAX_PATH_BYTES {
                continue;
            }
            if report && result.found.len() < MAX_FOUND {
                result.found.push((path.clone(), is_directory));
            }
            if is_directory {
                if folders.len() >= MAX_NODES {
                    result.complete = false;
                    break;
                }
                folders.push(path);
            }
        }
    }
    Ok(result)
}

impl Guest {
    pub fn open_watch(&mut self, at: At, path: Vec<u8>, recursive: bool) {
        let root = match disk::check_path(&path) {
            Ok(root) => root.to_vec(),
            Err(failure) => return self.refuse(at, failure),
        };
        if let Err(error) = self.watches.open() {
            return self.refuse(at, Failure::of("Opening the sandbox's one inotify instance", &error));
        }
        let id = self.fresh_id();
        let watch = Watch {
            at,
            root: root.clone(),
            recursive,
            opened: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
        };
        self.watches.map.insert(id, watch);
        self.add_channel(at, Role::Watch { id });
        self.scan_folder(id, root, recursive, false);
    }

    fn scan_folder(&mut self, id: u64, root: Vec<u8>, recursive: bool, report: bool) {
        let inotify = match self.watches.source.as_ref().map(|source| sys::duplicate(source.fd())) {
            Some(Ok(inotify)) => inotify,
            _ => return self.watches.push(id, WatchKind::Overflow, &root, true),
        };
        let room = MAX_NODES.saturating_sub(self.watches.nodes.len());
        self.watches.scans += 1;
        self.watches.listen();
        self.work(move || {
            let result = scan(inotify.as_raw_fd(), &root, recursive, report, room);
            drop(inotify);
            Box::new(move |guest| {
                guest.on_scan(id, root, result);
                guest.watches.scans -= 1;
                guest.watches.listen();
            })
        });
    }

    fn on_scan(&mut self, id: u64, root: Vec<u8>, result: io::Result<Scan>) {
        let (at, opened) = match self.watches.map.get(&id) {
            Some(watch) => (watch.at, watch.opened),
            None => return self.forget_scan(result),
        };
        let scan = match result {
            Ok(scan) => scan,
            Err(error) if opened => {
                // A new folder that is gone again is no news; one that could not be watched is.
                if sys::errno(&error) != sys::ENOENT && sys::errno(&error) != sys::ENOTDIR {
                    self.watches.push(id, WatchKind::Overflow, &root, true);
                }
                return self.want_to_send(at);
            }
            Err(error) => {
                self.end_watch(id);
                let failure = match sys::errno(&error) {
                    sys::ENOSPC => Failure::new(code::LIMIT, "The sandbox's user has no inotify watches left."),
                    _ => Failure::of(shown(&root), &error),
                };
                return self.refuse(at, failure);
            }
        };
        if !scan.complete && !opened {
            for (wd, path) in scan.nodes {
                self.watches.nodes.entry(wd).or_insert(Node { path, watchers: Vec::new() }).watchers.push(id);
            }
            self.end_watch(id);
            let message = format!("{} has more than {MAX_NODES} folders to watch. Watch a part of it.", shown(&root));
            return self.refuse(at, Failure::new(code::LIMIT, message));
        }
        for (wd, path) in scan.nodes {
            let node = self.watches.nodes.entry(wd).or_insert_with(|| Node { path: Vec::new(), watchers: Vec::new() });
            node.path = path;
            if !node.watchers.contains(&id) {
                node.watchers.push(id);
            }
        }
        for (path, is_directory) in scan.found {
            self.watches.push(id, WatchKind::Create, &path, is_directory);
        }
        if !scan.complete {
            self.watches.push(id, WatchKind::Overflow, &root, true);
        }
        if !opened {
            if let Some(watch) = self.watches.map.get_mut(&id) {
                watch.opened = true;
            }
            self.send(at.0, wire::OPENED, at.1, |_| {});
        }
        self.want_to_send(at);
    }

    /// The watch ended while its folders were looked at.
    fn forget_scan(&mut self, result: io::Result<Scan>) {
        let (scan, source) = match (result, &self.watches.source) {
            (Ok(scan), Some(source)) => (scan, source),
            _ => return,
        };
        for (wd, _) in scan.nodes {
            if !self.watches.nodes.contains_key(&wd) {
                sys::remove_watch(source.fd(), wd);
            }
        }
    }

    pub fn end_watch(&mut self, id: u64) {
        if self.watches.map.remove(&id).is_some() {
            self.watches.release(id, None);
            self.watches.listen();
        }
    }

    pub fn on_watches(&mut self) {
        let mut buffer = vec![0u8; BUFFER_BYTES];
        let count = match self.watches.source.as_ref().map(|source| sys::read_fd(source.fd(), &mut buffer)) {
            Some(Ok(count)) => count,
            _ => return,
        };
        // The cookie of a rename whose old name was one of a file being written.
        let mut replacing = 0;
        let mut rest = &buffer[..count];
        while rest.len() >= 16 {
            let field = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let (wd, mask, cookie, length) = (field(0) as i32, field(4), field(8), field(12) as usize);
            if rest.len() < 16 + length {
                break;
            }
            let name = &rest[16..16 + length];
            let name = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(length)];
            rest = &rest[16 + length..];
            if name.starts_with(TEMP_PREFIX) {
                if mask & sys::IN_MOVED_FROM != 0 {
                    replacing = cookie;
                }
                continue;
            }
            if !self.is_nameless(wd, name) {
                self.on_watch_event(wd, mask, name, cookie != 0 && cookie == replacing);
            }
        }
        let ready: Vec<At> =
            self.watches.map.values().filter(|watch| !watch.pending.is_empty()).map(|watch| watch.at).collect();
        for at in ready {
            self.want_to_send(at);
        }
    }

    /// A file being written that has no name yet is told as `#` and its inode. A real file may be called so: it is there.
    fn is_nameless(&self, wd: i32, name: &[u8]) -> bool {
        let digits = match name.strip_prefix(b"#") {
            Some(digits) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => name,
            _ => return false,
        };
        let path = self.watches.nodes.get(&wd).map(|node| join(&node.path, digits));
        let exists = path
            .and_then(|path| sys::cstring(&path).ok())
            .map(|path| sys::stat_at(sys::AT_FDCWD, &path, sys::AT_SYMLINK_NOFOLLOW).is_ok());
        exists == Some(false)
    }

    fn on_watch_event(&mut self, wd: i32, mask: u32, name: &[u8], replaces: bool) {
        if mask & sys::IN_Q_OVERFLOW != 0 {
            let all: Vec<(u64, Vec<u8>)> =
                self.watches.map.iter().map(|(id, watch)| (*id, watch.root.clone())).collect();
            for (id, root) in all {
                self.watches.push(id, WatchKind::Overflow, &root, true);
            }
            return;
        }
        let (folder, watchers) = match self.watches.nodes.get(&wd) {
            Some(node) => (node.path.clone(), node.watchers.clone()),
            None => return,
        };
        if mask & sys::IN_IGNORED != 0 {
            self.watches.nodes.remove(&wd);
            return;
        }
        let is_directory = mask & sys::IN_ISDIR != 0;
        let path = if name.is_empty() { folder.clone() } else { join(&folder, name) };
        for id in watchers {
            let (at, recursive, is_root) = match self.watches.map.get(&id) {
                Some(watch) => (watch.at, watch.recursive, watch.root == folder),
                None => continue,
            };
            if mask & (sys::IN_DELETE_SELF | sys::IN_MOVE_SELF) != 0 {
                // Of folders below, the folder above tells.
                if is_root {
                    self.end_watch(id);
                    let message = format!("{} was removed or moved away.", shown(&folder));
                    self.refuse(at, Failure::new(code::NOT_FOUND, message));
                }
                continue;
            }
            // A folder's own changes are told by the one above it, except of the watched one.
            if name.is_empty() && !is_root {
                continue;
            }
            let kind = match mask {
                mask if mask & sys::IN_MOVED_TO != 0 && replaces => WatchKind::Write,
                mask if mask & (sys::IN_CREATE | sys::IN_MOVED_TO) != 0 => WatchKind::Create,
                mask if mask & sys::IN_MOVED_FROM != 0 => WatchKind::Rename,
                mask if mask & sys::IN_DELETE != 0 => WatchKind::Remove,
                mask if mask & sys::IN_MODIFY != 0 => WatchKind::Write,
                mask if mask & sys::IN_ATTRIB != 0 => WatchKind::Chmod,
                _ => continue,
            };
            self.watches.push(id, kind, &path, is_directory);
            if is_directory && recursive {
                match kind {
                    WatchKind::Create => self.scan_folder(id, path.clone(), true, true),
                    WatchKind::Rename => self.watches.release(id, Some(&path)),
                    _ => {}
                }
            }
        }
    }

    pub fn pump_watch(&mut self, at: At, id: u64) -> bool {
        let credit = match self.channel(at) {
            Some(Channel { credit, .. }) => *credit,
            None => return false,
        };
        let watch = match self.watches.map.get_mut(&id) {
            Some(watch) if watch.opened => watch,
            _ => return false,
        };
        let frame = take_records(&mut watch.pending, credit);
        if frame.is_empty() {
            return false;
        }
        watch.pending_bytes -= frame.len();
        self.send_data(at, stream::RECORDS, &frame);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_what_is_below_it_and_no_namesake() {
        assert!(is_within(b"/a/b", b"/a"));
        assert!(is_within(b"/a", b"/a"));
        assert!(is_within(b"/a", b"/"));
        assert!(!is_within(b"/ab", b"/a"));
        assert!(!is_within(b"/", b"/a"));
    }
}
