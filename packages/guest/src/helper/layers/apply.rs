//! Writing a layer into an upper. It runs as root on an archive that may be an enemy's.
//!
//! Every step is one name in a folder that is open already. The system never follows a symlink for us: one on the way is read, and gone
//! after name by name from the tree's own root, so there is nowhere else it could lead. What is not the layer's to make (devices, attributes
//! of the overlay, the platform's own folder) is passed over and counted, and what cannot be meant well is refused by name.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io::Read;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};

use super::archive::{self, invalid, Archive, Entry, Meaning};
use super::attributes::{self, Attributes};
use super::calls::{self, Kind, Stat, Time};
use super::chain::{self, bit, Chain, Node, BASE_MASK, CHILD};
use super::names::Names;
use super::pack::{OPAQUE, WHITEOUT};
use super::remove;
use super::{shown, Base, View};
use crate::helper::error::{code, Context, Error, Result};

/// Of a folder that a layer puts something into without having it.
const FOLDER_MODE: u32 = 0o755;
const COPY_BYTES: usize = 256 << 10;
/// Symlinks on the way to one entry, as the kernel has it.
const LINKS_MAX: usize = 40;
/// Names that all symlinks of one layer are followed by: more is a layer that wants to take for ever.
const LINK_STEPS_MAX: u64 = 10_000_000;
const NAME_BYTES_MAX: usize = 255;
/// What AUFS and its like keep for themselves.
const WHITEOUT_META: &[u8] = b".wh..wh.";

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of files' content, with those that are copied up; holes are none.
    pub max_bytes: u64,
    pub max_entries: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    pub entries: u64,
    pub bytes: u64,
    /// Entries that were passed over: devices, and what belongs to the platform.
    pub skipped: u64,
}

/// Writes an OCI layer into `view` above `base`. What earlier layers wrote there stays where this one says nothing else.
/// After an error the view holds a part of the layer.
pub fn apply(input: &mut dyn Read, view: &View, base: &Base, limits: Limits) -> Result<Applied> {
    if view.usr.is_some() != !base.usrs.is_empty() {
        return Err(Error::new(
            code::INVALID,
            "/usr must be a file system of its own in both the upper and its base",
        ));
    }
    let mut chain = Chain::new(Some(view), None, base)?;
    let root = chain
        .root(bit(CHILD))?
        .ok_or_else(|| Error::new(code::INVALID, "the upper is missing"))?;
    let mut tree = Tree {
        chain,
        levels: vec![Level {
            modified: root.stat.modified,
            is_touched: false,
        }],
        ours: HashSet::new(),
        limits,
        link_steps: 0,
        applied: Applied::default(),
    };
    let mut archive = Archive::new(input);
    while let Some(entry) = archive.next()? {
        tree.count(&entry.path)?;
        tree.put(&entry, &mut archive)?;
    }
    while tree.chain.depth() > 0 {
        tree.leave()?;
    }
    tree.settle()?;
    Ok(tree.applied)
}

/// A folder on the way: which time it gets when it is left, if something was made or removed in it.
struct Level {
    modified: Time,
    is_touched: bool,
}

struct Tree {
    chain: Chain,
    levels: Vec<Level>,
    /// Inodes this layer has written, which its own marks do not remove. 16 to 32 bytes for each entry.
    ours: HashSet<u64>,
    limits: Limits,
    link_steps: u64,
    applied: Applied,
}

/// Where a step on the way has led.
enum Step {
    Folder,
    /// Nowhere: it is a symlink to this.
    Link(Vec<u8>),
    /// Nowhere: it is the platform's own folder.
    Reserved,
}

impl Tree {
    /// One more entry, or folder that an entry needs and no entry makes.
    fn count(&mut self, path: &[u8]) -> Result<()> {
        self.applied.entries += 1;
        if self.applied.entries > self.limits.max_entries {
            let what = format!(
                "{}: the layer has more than {} entries",
                shown(path),
                self.limits.max_entries
            );
            return Err(Error::new(code::LIMIT, what));
        }
        Ok(())
    }

    fn take_bytes(&mut self, bytes: u64, path: &[u8]) -> Result<()> {
        self.applied.bytes = self.applied.bytes.saturating_add(bytes);
        if self.applied.bytes > self.limits.max_bytes {
            let what = format!(
                "{}: the layer holds more than {} bytes",
                shown(path),
                self.limits.max_bytes
            );
            return Err(Error::new(code::LIMIT, what));
        }
        Ok(())
    }

    fn put(&mut self, entry: &Entry, archive: &mut Archive) -> Result<()> {
        let parts = archive::parts(&entry.path)?;
        let (name, folders) = match parts.split_last() {
            Some(found) => found,
            None if entry.meaning == Meaning::Opaque => return self.mark(entry, &[], Gone::Everything),
            None if entry.kind == b'5' => return self.put_root(entry),
            None => return Err(invalid(&entry.path, "the root can only be a folder")),
        };
        if parts[0] == b".delta" {
            self.applied.skipped += 1;
            return Ok(());
        }
        if entry.meaning == Meaning::Opaque {
            return self.mark(entry, &parts, Gone::Everything);
        }
        if let Some(gone) = gone(entry, name) {
            return self.mark(entry, folders, gone?);
        }
        match entry.kind {
            b'0' | b'1' | b'2' | b'5' | b'6' => {}
            // Devices.
            b'3' | b'4' => {
                self.applied.skipped += 1;
                return Ok(());
            }
            kind => return Err(archive::unknown(&entry.path, kind)),
        }
        if !self.go(folders, &entry.path)? || self.chain.is_reserved(name) {
            self.applied.skipped += 1;
            return Ok(());
        }
        if self.chain.is_usr(name) && entry.kind != b'5' {
            return Err(invalid(&entry.path, "on this template /usr can only be a folder"));
        }
        let c_name = entry.context("writing", calls::c_name(name))?;
        match entry.kind {
            b'0' => self.put_file(entry, &c_name, archive),
            b'1' => self.put_link(entry, &c_name, folders),
            b'2' => self.put_symlink(entry, &c_name),
            b'5' => self.put_folder(entry, &c_name),
            _ => self.put_fifo(entry, &c_name),
        }
    }

    fn mark(&mut self, entry: &Entry, folders: &[&[u8]], gone: Gone) -> Result<()> {
        if matches!(gone, Gone::Meta) || !self.go(folders, &entry.path)? {
            self.applied.skipped += 1;
            return Ok(());
        }
        match gone {
            Gone::Meta => Ok(()),
            Gone::Everything => self.hide_all(&entry.path),
            Gone::Name(name) => {
                let name = entry.context("removing", calls::c_name(name))?;
                self.hide(entry, &name)
            }
        }
    }

    /// The upper's side of the folder that is looked at.
    fn upper(&mut self) -> Result<RawFd> {
        self.chain
            .folder(CHILD)?
            .ok_or_else(|| Error::new(code::IO, "the upper is gone while it is written"))
    }

    fn touch(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.is_touched = true;
        }
    }

    /// What a name is in the upper alone.
    fn own(&mut self, name: &CStr) -> Result<Option<Stat>> {
        let upper = self.upper()?;
        match calls::stat_at(upper, name) {
            Ok(stat) => Ok(Some(stat)),
            Err(cause) if cause.raw_os_error() == Some(calls::ENOENT) => Ok(None),
            Err(cause) => Err(self.chain.fails("looking at", name.to_bytes())(cause)),
        }
    }

    fn below(&mut self, name: &CStr) -> Result<Option<Node>> {
        if self.chain.mask() & BASE_MASK == 0 {
            return Ok(None);
        }
        self.chain.look(name, BASE_MASK, 0, 0)
    }

    /// Goes to a folder, and makes it in the upper where it is not there; false where the platform's own folder is on the way.
    fn go(&mut self, folders: &[&[u8]], path: &[u8]) -> Result<bool> {
        let depth = self.chain.depth();
        let shared = (0..depth.min(folders.len()))
            .take_while(|at| self.chain.name_of(at + 1) == folders[*at])
            .count();
        while self.chain.depth() > shared {
            self.leave()?;
        }
        for (at, name) in folders.iter().enumerate().skip(shared) {
            match self.enter(name, path)? {
                Step::Folder => {}
                Step::Link(target) => return self.follow(target, &folders[at + 1..], path),
                Step::Reserved => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Goes where a symlink of the folder that is looked at leads, and from there `rest`. Its `/` is the root of the tree, which has nothing above it.
    fn follow(&mut self, target: Vec<u8>, rest: &[&[u8]], path: &[u8]) -> Result<bool> {
        let mut to_go: Vec<Vec<u8>> = rest.iter().rev().map(|name| name.to_vec()).collect();
        let mut next = Some(target);
        let mut links = 0;
        while let Some(target) = next.take() {
            links += 1;
            if links > LINKS_MAX {
                return Err(invalid(
                    path,
                    &format!("more than {} symlinks are on the way to it", LINKS_MAX),
                ));
            }
            if target.starts_with(b"/") {
                while self.chain.depth() > 0 {
                    self.leave()?;
                }
            }
            let names = target.split(|byte| *byte == b'/').rev();
            to_go.extend(names.filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec));
            while let Some(name) = to_go.pop() {
                self.count_step(path)?;
                if name == b".." {
                    if self.chain.depth() > 0 {
                        self.leave()?;
                    }
                    continue;
                }
                if name.len() > NAME_BYTES_MAX {
                    return Err(invalid(
                        path,
                        "a symlink on the way to it leads to a name longer than 255 bytes",
                    ));
                }
                match self.enter(&name, path)? {
                    Step::Folder => {}
                    Step::Link(target) => {
                        next = Some(target);
                        break;
                    }
                    Step::Reserved => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    fn count_step(&mut self, path: &[u8]) -> Result<()> {
        self.link_steps += 1;
        if self.link_steps > LINK_STEPS_MAX {
            let what = format!(
                "{}: the layer's symlinks lead through more than {} folders",
                shown(path),
                LINK_STEPS_MAX
            );
            return Err(Error::new(code::LIMIT, what));
        }
        Ok(())
    }

    /// Gives the folder its time back.
    fn settle(&mut self) -> Result<()> {
        let level = match self.levels.last() {
            Some(level) if level.is_touched => level.modified,
            _ => return Ok(()),
        };
        let folder = self.upper()?;
        calls::set_time(folder, level).map_err(self.chain.fails("setting the time of", b""))
    }

    fn leave(&mut self) -> Result<()> {
        self.settle()?;
        self.levels.pop();
        self.chain.pop();
        Ok(())
    }

    /// Into what is known to be a folder.
    fn enter_folder(&mut self, name: &[u8], path: &[u8]) -> Result<()> {
        match self.enter(name, path)? {
            Step::Folder => Ok(()),
            _ => Err(self.no_folder(name, path)),
        }
    }

    fn no_folder(&self, name: &[u8], path: &[u8]) -> Error {
        invalid(path, &format!("{} is no folder", shown(&self.chain.path_with(name))))
    }

    /// What a symlink of the folder that is looked at says, in one layer.
    fn target_of(&mut self, layer: u8, name: &CStr) -> Result<Vec<u8>> {
        let folder = self.chain.folder(layer)?.unwrap_or(-1);
        let mut buffer = [0; 4096];
        let target = calls::read_link(folder, name, &mut buffer);
        let target = target.map_err(self.chain.fails("reading the symlink", name.to_bytes()))?;
        Ok(target.to_vec())
    }

    fn enter(&mut self, name: &[u8], path: &[u8]) -> Result<Step> {
        if self.chain.is_reserved(name) {
            return Ok(Step::Reserved);
        }
        if self.chain.is_usr(name) {
            let usr = self.chain.usr(bit(CHILD) | BASE_MASK)?;
            let usr = usr.ok_or_else(|| Error::new(code::INVALID, "the upper has no /usr"))?;
            self.levels.push(Level {
                modified: usr.stat.modified,
                is_touched: false,
            });
            self.chain.push(name, usr.folders)?;
            return Ok(Step::Folder);
        }
        let c_name = calls::c_name(name).context(shown(path))?;
        let own = self.own(&c_name)?;
        let (modified, opened, lower) = match own {
            Some(stat) if stat.is_folder() => {
                let upper = self.upper()?;
                let folder = calls::open_folder(upper, &c_name).map_err(self.chain.fails("opening", name))?;
                let opaque = chain::is_opaque(folder.as_raw_fd()).map_err(self.chain.fails("looking at", name))?;
                let lower = if opaque { None } else { self.below(&c_name)? };
                (stat.modified, folder, lower)
            }
            Some(stat) if stat.kind == Kind::Symlink => return self.target_of(CHILD, &c_name).map(Step::Link),
            Some(stat) if stat.kind != Kind::Whiteout => return Err(self.no_folder(name, path)),
            // A whiteout hides what the base has.
            Some(_) => (FOLDER_TIME, self.make_folder(&c_name)?, None),
            None => match self.below(&c_name)? {
                Some(node) if node.stat.is_folder() => {
                    let folder = self.make_folder(&c_name)?;
                    self.copy_metadata(&folder, &node, name)?;
                    (node.stat.modified, folder, Some(node))
                }
                Some(node) if node.stat.kind == Kind::Symlink => {
                    return self.target_of(node.layer, &c_name).map(Step::Link)
                }
                Some(_) => return Err(self.no_folder(name, path)),
                None => (FOLDER_TIME, self.make_folder(&c_name)?, None),
            },
        };
        let inode = calls::stat(&opened)
            .map_err(self.chain.fails("looking at", name))?
            .inode;
        self.ours.insert(inode);
        let is_new = own.map_or(true, |stat| !stat.is_folder());
        if is_new {
            self.count(path)?;
        }
        let mut folders = vec![(CHILD, Some(opened))];
        folders.extend(
            lower
                .into_iter()
                .filter(|node| node.stat.is_folder())
                .flat_map(|node| node.folders),
        );
        self.levels.push(Level {
            modified,
            is_touched: is_new,
        });
        self.chain.push(name, folders)?;
        Ok(Step::Folder)
    }

    /// A folder of root's, where nothing or no folder was: it shows nothing that the base has there.
    fn make_folder(&mut self, name: &CStr) -> Result<OwnedFd> {
        let upper = self.upper()?;
        let hides = match self.own(name)? {
            Some(stat) => {
                remove::remove(upper, name, stat.is_folder())
                    .map_err(self.chain.fails("replacing", name.to_bytes()))?;
                self.below(name)?.map_or(false, |node| node.stat.is_folder())
            }
            None => false,
        };
        self.touch();
        let fails = self.chain.fails("making", name.to_bytes());
        calls::make_folder(upper, name).map_err(&fails)?;
        let folder = calls::open_folder(upper, name).map_err(&fails)?;
        calls::set_mode(folder.as_raw_fd(), FOLDER_MODE).map_err(&fails)?;
        calls::set_owner(folder.as_raw_fd(), EMPTY, 0, 0).map_err(&fails)?;
        if hides {
            calls::set_attribute(folder.as_raw_fd(), chain::opaque_name(), b"y").map_err(&fails)?;
        }
        calls::set_time(folder.as_raw_fd(), FOLDER_TIME).map_err(&fails)?;
        Ok(folder)
    }

    /// Owner, mode, attributes and time of what the base has.
    fn copy_metadata(&mut self, to: &OwnedFd, node: &Node, name: &[u8]) -> Result<()> {
        let from = match node.folders.first() {
            Some((_, Some(folder))) => folder.as_raw_fd(),
            _ => return Ok(()),
        };
        let fails = self.chain.fails("copying", name);
        let mut attributes = Attributes::default();
        attributes.read(from).map_err(&fails)?;
        let to = to.as_raw_fd();
        calls::set_owner(to, EMPTY, node.stat.uid, node.stat.gid).map_err(&fails)?;
        calls::set_mode(to, node.stat.mode).map_err(&fails)?;
        for (name, value) in attributes.iter() {
            calls::set_attribute(to, &calls::c_name(name).map_err(&fails)?, value).map_err(&fails)?;
        }
        calls::set_time(to, node.stat.modified).map_err(&fails)
    }

    fn put_root(&mut self, entry: &Entry) -> Result<()> {
        self.go(&[], &entry.path)?;
        let folder = self.upper()?;
        self.finish(entry, folder, true)?;
        self.levels[0] = Level {
            modified: entry.modified,
            is_touched: true,
        };
        Ok(())
    }

    fn put_folder(&mut self, entry: &Entry, name: &CStr) -> Result<()> {
        if self.chain.is_usr(name.to_bytes()) {
            let usr = self
                .chain
                .usr(bit(CHILD))?
                .and_then(|node| node.folders.into_iter().next());
            let usr = usr
                .and_then(|(_, folder)| folder)
                .ok_or_else(|| Error::new(code::INVALID, "no /usr"))?;
            return self.finish(entry, usr.as_raw_fd(), true);
        }
        let (folder, is_old) = match self.own(name)? {
            Some(stat) if stat.is_folder() => {
                let upper = self.upper()?;
                (entry.context("opening", calls::open_folder(upper, name))?, true)
            }
            _ => (self.make_folder(name)?, false),
        };
        self.ours
            .insert(entry.context("looking at", calls::stat(&folder))?.inode);
        self.finish(entry, folder.as_raw_fd(), is_old)
    }

    /// Runs `make`, after removing what has the name if there is something.
    fn make<T>(&mut self, entry: &Entry, name: &CStr, make: &dyn Fn(RawFd, &CStr) -> std::io::Result<T>) -> Result<T> {
        self.touch();
        let upper = self.upper()?;
        match make(upper, name) {
            Err(cause) if cause.raw_os_error() == Some(calls::EEXIST) => {
                let is_folder = self.own(name)?.map_or(false, |stat| stat.is_folder());
                entry.context("replacing", remove::remove(upper, name, is_folder))?;
                entry.context("making", make(upper, name))
            }
            result => entry.context("making", result),
        }
    }

    fn put_file(&mut self, entry: &Entry, name: &CStr, archive: &mut Archive) -> Result<()> {
        self.take_bytes(archive.left(), &entry.path)?;
        let file = self.make(entry, name, &calls::create_file)?;
        self.ours.insert(entry.context("looking at", calls::stat(&file))?.inode);
        let file = file.as_raw_fd();
        match &entry.pieces {
            None => write_piece(entry, archive, file, 0, entry.size)?,
            Some(pieces) => {
                entry.context("sizing", calls::set_size(file, entry.size))?;
                for (offset, length) in pieces {
                    write_piece(entry, archive, file, *offset, *length)?;
                }
            }
        }
        self.finish(entry, file, false)
    }

    fn put_symlink(&mut self, entry: &Entry, name: &CStr) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() >= 4096 {
            return Err(invalid(&entry.path, "a symlink's target has 1 to 4,095 bytes"));
        }
        let target = entry.context("making", calls::c_name(&entry.link))?;
        self.make(entry, name, &|upper, name| calls::make_symlink(upper, name, &target))?;
        self.finish_at(entry, name)
    }

    fn put_fifo(&mut self, entry: &Entry, name: &CStr) -> Result<()> {
        let mode = calls::S_IFIFO | 0o600;
        self.make(entry, name, &|upper, name| calls::make_node(upper, name, mode))?;
        let upper = self.upper()?;
        let set = calls::set_mode_at(upper, name, entry.mode);
        self.finish_at(entry, name)?;
        entry.context("setting the mode of", set)?;
        Ok(())
    }

    fn finish_at(&mut self, entry: &Entry, name: &CStr) -> Result<()> {
        let upper = self.upper()?;
        entry.context(
            "setting the owner of",
            calls::set_owner(upper, name, entry.uid, entry.gid),
        )?;
        if entry.kind == b'6' {
            entry.context("setting the mode of", calls::set_mode_at(upper, name, entry.mode))?;
        }
        entry.context("setting the time of", calls::set_time_at(upper, name, entry.modified))?;
        let inode = entry.context("looking at", calls::stat_at(upper, name))?.inode;
        self.ours.insert(inode);
        Ok(())
    }

    fn put_link(&mut self, entry: &Entry, name: &CStr, folders: &[&[u8]]) -> Result<()> {
        let parts = archive::parts(&entry.link)?;
        let wrong = |why: &str| invalid(&entry.path, &format!("its hard link to {} {}", shown(&entry.link), why));
        let (target, target_folders) = parts.split_last().ok_or_else(|| wrong("is to no file"))?;
        let here = self.chain.path().to_vec();
        if !self.go(target_folders, &entry.path)? || self.chain.is_reserved(target) {
            return Err(wrong("is to the platform's own file"));
        }
        if self.chain.path() == here && *target == name.to_bytes() {
            return Err(wrong("is to itself"));
        }
        let target = entry.context("linking", calls::c_name(target))?;
        match self.own(&target)? {
            Some(stat) if stat.kind == Kind::File => {}
            Some(_) => return Err(wrong("is to no regular file")),
            None => match self.below(&target)? {
                Some(node) if node.stat.kind == Kind::File => self.copy_up(entry, &target, &node)?,
                Some(_) => return Err(wrong("is to no regular file")),
                None => return Err(wrong("is to a file that is not there")),
            },
        }
        let from = self.upper()?;
        let from = entry.context("linking", calls::reopen(from))?;
        if !self.go(folders, &entry.path)? {
            return Err(wrong("is from the platform's own folder"));
        }
        self.make(entry, name, &|upper, name| {
            calls::make_link(from.as_raw_fd(), &target, upper, name)
        })?;
        let upper = self.upper()?;
        self.ours
            .insert(entry.context("looking at", calls::stat_at(upper, name))?.inode);
        Ok(())
    }

    /// A file of the base into the upper, so that it can have a second name there.
    fn copy_up(&mut self, entry: &Entry, name: &CStr, node: &Node) -> Result<()> {
        self.take_bytes(node.stat.size, &entry.path)?;
        let lower = self.chain.folder(node.layer)?.unwrap_or(-1);
        let from = entry.context("copying the target of", calls::open_file(lower, name))?;
        let to = self.make(entry, name, &calls::create_file)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            let got = entry.context(
                "copying the target of",
                calls::read_at(from.as_raw_fd(), &mut buffer, at),
            )?;
            if got == 0 {
                break;
            }
            entry.context(
                "copying the target of",
                calls::write_at(to.as_raw_fd(), &buffer[..got], at),
            )?;
            at += got as u64;
        }
        let source = Node {
            layer: node.layer,
            stat: node.stat,
            folders: vec![(node.layer, Some(from))],
        };
        self.copy_metadata(&to, &source, name.to_bytes())
    }

    /// Owner, mode, attributes and time, in the order in which none of them undoes another.
    fn finish(&mut self, entry: &Entry, file: RawFd, has_old: bool) -> Result<()> {
        entry.context(
            "setting the owner of",
            calls::set_owner(file, EMPTY, entry.uid, entry.gid),
        )?;
        if has_old {
            let mut old = Attributes::default();
            entry.context("reading attributes of", old.read(file))?;
            for (name, _) in old.iter() {
                let name = entry.context("removing an attribute of", calls::c_name(name))?;
                entry.context("removing an attribute of", calls::remove_attribute(file, &name))?;
            }
        }
        entry.context("setting the mode of", calls::set_mode(file, entry.mode))?;
        for (name, value) in &entry.attributes {
            debug_assert!(attributes::is_kept(name));
            let c_name = entry.context("setting an attribute of", calls::c_name(name))?;
            calls::set_attribute(file, &c_name, value).map_err(|cause| {
                let what = format!(
                    "setting the attribute {} of {}",
                    name.escape_ascii(),
                    shown(&entry.path)
                );
                match cause.raw_os_error() {
                    Some(calls::EINVAL) => Error::new(code::INVALID, format!("{}: {}", what, cause)),
                    _ => Error::from_io(what, &cause),
                }
            })?;
        }
        entry.context("setting the time of", calls::set_time(file, entry.modified))
    }

    /// The name is gone from here on. What this very layer wrote under it stays: marks are about what lies below.
    fn hide(&mut self, entry: &Entry, name: &CStr) -> Result<()> {
        if self.chain.is_reserved(name.to_bytes()) {
            self.applied.skipped += 1;
            return Ok(());
        }
        if self.chain.is_usr(name.to_bytes()) {
            self.enter_folder(name.to_bytes(), &entry.path)?;
            return self.hide_all(&entry.path);
        }
        let below = self.below(name)?.is_some();
        match self.own(name)? {
            Some(stat) if stat.kind == Kind::Whiteout && below => return Ok(()),
            Some(stat) if self.ours.contains(&stat.inode) => {
                if stat.is_folder() {
                    self.enter_folder(name.to_bytes(), &entry.path)?;
                    return self.hide_all(&entry.path);
                }
                return Ok(());
            }
            Some(stat) => {
                let upper = self.upper()?;
                entry.context("removing", remove::remove(upper, name, stat.is_folder()))?;
                self.touch();
            }
            None => {}
        }
        if below {
            self.whiteout(name)?;
        }
        Ok(())
    }

    fn whiteout(&mut self, name: &CStr) -> Result<()> {
        self.touch();
        let upper = self.upper()?;
        calls::make_node(upper, name, calls::S_IFCHR).map_err(self.chain.fails("removing", name.to_bytes()))
    }

    /// Nothing of what lies below shows in the folder that is looked at, and what earlier layers wrote there goes.
    fn hide_all(&mut self, path: &[u8]) -> Result<()> {
        let depth = self.chain.depth();
        let is_root = depth == 0 || (depth == 1 && self.chain.is_at_usr());
        if is_root {
            // An overlay takes no opaque mark on its root: every name of the base gets its own.
            self.clear(path)?;
            return self.hide_each(path);
        }
        let folder = self.upper()?;
        if self.chain.mask() & BASE_MASK != 0 {
            calls::set_attribute(folder, chain::opaque_name(), b"y").map_err(self.chain.fails("hiding", b""))?;
            self.chain.forget_base();
        }
        self.clear(path)
    }

    fn hide_each(&mut self, path: &[u8]) -> Result<()> {
        let mut buffer = Vec::new();
        for layer in self.chain.base_layers() {
            let folder = self.chain.folder(layer)?.unwrap_or(-1);
            let names = Names::read(folder, &mut buffer).map_err(self.chain.fails("listing", b""))?;
            for name in (0..).map_while(|at| names.get(at)) {
                let below = match self.below(name)? {
                    Some(below) => below.stat.is_folder(),
                    None => continue,
                };
                let is_usr = self.chain.is_usr(name.to_bytes());
                match self.own(name)? {
                    None if !is_usr => self.whiteout(name)?,
                    own if is_usr || (below && own.map_or(false, |own| own.is_folder())) => {
                        // Its own folders show nothing of the base's either. No deeper than this: only a root comes here.
                        self.enter_folder(name.to_bytes(), path)?;
                        self.hide_all(path)?;
                        self.leave()?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes what this layer has not written, here and in its own folders below.
    fn clear(&mut self, path: &[u8]) -> Result<()> {
        let top = self.chain.depth();
        let mut buffer = Vec::new();
        let mut lists = Vec::new();
        let upper = self.upper()?;
        lists.push((
            Names::read(upper, &mut buffer).map_err(self.chain.fails("listing", b""))?,
            0,
        ));
        while let Some((names, at)) = lists.last_mut() {
            let name = match names.get(*at) {
                Some(name) => name.to_owned(),
                None => {
                    lists.pop();
                    if self.chain.depth() > top {
                        self.leave()?;
                    }
                    continue;
                }
            };
            *at += 1;
            let stat = match self.own(&name)? {
                Some(stat) if !self.chain.is_usr(name.to_bytes()) => stat,
                _ => continue,
            };
            if !self.ours.contains(&stat.inode) {
                let upper = self.upper()?;
                remove::remove(upper, &name, stat.is_folder())
                    .map_err(self.chain.fails("removing", name.to_bytes()))?;
                self.touch();
            } else if stat.is_folder() {
                self.enter_folder(name.to_bytes(), path)?;
                let upper = self.upper()?;
                lists.push((
                    Names::read(upper, &mut buffer).map_err(self.chain.fails("listing", b""))?,
                    0,
                ));
            }
        }
        Ok(())
    }
}

const FOLDER_TIME: Time = (0, 0);
// SAFETY: a literal with its NUL.
const EMPTY: &CStr = unsafe { CStr::from_bytes_with_nul_unchecked(b"\0") };

enum Gone<'a> {
    Name(&'a [u8]),
    /// Everything of the folder the mark lies in.
    Everything,
    Meta,
}

/// Whether an entry is a mark that something is gone.
fn gone<'a>(entry: &Entry, name: &'a [u8]) -> Option<Result<Gone<'a>>> {
    match entry.meaning {
        Meaning::Literal | Meaning::Opaque => None,
        Meaning::Whiteout => Some(Ok(Gone::Name(name))),
        Meaning::Layer if name == OPAQUE => Some(Ok(Gone::Everything)),
        Meaning::Layer if name.starts_with(WHITEOUT_META) => Some(Ok(Gone::Meta)),
        Meaning::Layer => match name.strip_prefix(WHITEOUT)? {
            b"" | b"." | b".." => Some(Err(invalid(
                &entry.path,
                "it is a mark that something is gone, and names nothing",
            ))),
            name => Some(Ok(Gone::Name(name))),
        },
    }
}

fn write_piece(entry: &Entry, archive: &mut Archive, file: RawFd, offset: u64, length: u64) -> Result<()> {
    let mut at = offset;
    let end = offset + length;
    while at < end {
        let part = archive.content_up_to(end - at)?;
        entry.context("writing", calls::write_at(file, part, at))?;
        at += part.len() as u64;
    }
    Ok(())
}
