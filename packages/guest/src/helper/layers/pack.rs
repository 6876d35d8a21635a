//! Writing what changed as one layer.

use std::ffi::CStr;
use std::io::Write;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};

use super::attributes::Attributes;
use super::calls::{self, Kind, Stat};
use super::chain::{bit, Chain, Node, BASE_MASK, CHILD, PARENT};
use super::links::{has_links, Scan, Sets, Written};
use super::same::{Exactness, Judge};
use super::sparse;
use super::tar::{Encoder, Head, Out, OWN_OPAQUE, OWN_PATH, OWN_WHITEOUT};
use super::walk::{walk, Pair, Step, Visitor};
use super::{shown, Base, View};
use crate::helper::error::{code, Context, Error, Result};

const READ_AHEAD_BYTES: u64 = 1 << 20;
const READ_BYTES: usize = 64 << 10;
pub const WHITEOUT: &[u8] = b".wh.";
pub const OPAQUE: &[u8] = b".wh..wh..opq";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    pub entries: u64,
    pub bytes: u64,
    /// Sockets and devices, which a layer does not carry.
    pub skipped: u64,
}

/// What `view` adds to and takes from `parent`, or from the base where there is none. All three must stay as they are meanwhile:
/// what changes while it is read ends the packing with an error.
pub fn pack(view: &View, parent: Option<&View>, base: &Base, out: &mut dyn Write) -> Result<Packed> {
    write_layer(Chain::new(Some(view), parent, base)?, parent.is_some(), true, out)
}

/// The base itself as one layer.
pub fn pack_base(base: &Base, out: &mut dyn Write) -> Result<Packed> {
    write_layer(Chain::new(None, None, base)?, false, false, out)
}

fn write_layer(mut chain: Chain, has_parent: bool, above_base: bool, out: &mut dyn Write) -> Result<Packed> {
    let mut judge = Judge::new(&mut chain, Exactness::Whole)?;
    let child = BASE_MASK | bit(CHILD);
    let parent = match (has_parent, above_base) {
        (true, _) => BASE_MASK | bit(PARENT),
        (false, true) => BASE_MASK,
        (false, false) => 0,
    };
    let mut sets = Sets::default();
    if has_parent {
        let mut scan = Scan {
            judge: &mut judge,
            sets,
        };
        walk(&mut chain, child, parent, &mut scan)?;
        sets = scan.sets;
    }
    let mut pack = Pack {
        judge,
        sets,
        written: Written::default(),
        folders: Vec::new(),
        next: None,
        encoder: Encoder::default(),
        attributes: Attributes::default(),
        out: Out::new(out),
        path: Vec::new(),
        packed: Packed::default(),
    };
    walk(&mut chain, child, parent, &mut pack)?;
    pack.out.finish()?;
    pack.packed.bytes = pack.out.bytes();
    Ok(pack.packed)
}

/// How a folder of the child is gone into.
pub fn step_into(child: &Node, parent: Option<&Node>) -> Step {
    match parent {
        Some(parent) if replaces(child, parent) => Step::IntoChild,
        Some(_) => Step::Into,
        None => Step::IntoChild,
    }
}

/// The child's folder hides the base's, and the parent's shows it: the layer says so and brings everything anew.
fn replaces(child: &Node, parent: &Node) -> bool {
    parent.stat.is_folder() && child.layer == CHILD && child.mask() & BASE_MASK == 0 && parent.mask() & BASE_MASK != 0
}

/// A folder on the way, written when something below it is.
struct Folder {
    layer: u8,
    stat: Stat,
    is_written: bool,
}

struct Pack<'a> {
    judge: Judge,
    sets: Sets,
    written: Written,
    folders: Vec<Folder>,
    /// The folder that was looked at last.
    next: Option<Folder>,
    encoder: Encoder,
    attributes: Attributes,
    out: Out<'a>,
    path: Vec<u8>,
    packed: Packed,
}

impl Visitor for Pack<'_> {
    fn root(&mut self, chain: &mut Chain, child: Option<&Node>, parent: Option<&Node>) -> Result<()> {
        let child = match child {
            Some(child) => child,
            None => return Ok(()),
        };
        self.folders.push(Folder {
            layer: child.layer,
            stat: child.stat,
            is_written: false,
        });
        match parent {
            Some(parent) if self.judge.is_same_root(chain, child, parent)? => Ok(()),
            _ => self.write_folders(chain),
        }
    }

    fn name(&mut self, chain: &mut Chain, pair: &Pair) -> Result<Step> {
        let child = match pair.child {
            Some(child) => child,
            None => {
                self.write_folders(chain)?;
                return self.removed(chain, pair.name).map(|()| Step::Over);
            }
        };
        if child.stat.is_folder() {
            return self.folder(chain, pair.name, child, pair.parent);
        }
        let is_same = match pair.parent {
            None => false,
            // What a sandbox linked is its own: a template's file loses its other names when it is first written to.
            Some(_) if child.layer == CHILD && has_links(child) => self.sets.is_same(child.stat.inode),
            Some(parent) => self.judge.is_same(chain, pair.name, child, parent)?,
        };
        if !is_same {
            self.write_folders(chain)?;
            self.put(chain, pair.name, child)?;
        }
        Ok(Step::Over)
    }

    fn entered(&mut self) {
        self.folders.extend(self.next.take());
    }

    fn left(&mut self) {
        self.folders.pop();
    }

    fn skipped(&mut self) {
        self.packed.skipped += 1;
    }
}

impl Pack<'_> {
    fn folder(&mut self, chain: &mut Chain, name: &CStr, child: &Node, parent: Option<&Node>) -> Result<Step> {
        let parent = parent.filter(|parent| parent.stat.is_folder());
        let is_same = match parent {
            Some(parent) => self.judge.is_same(chain, name, child, parent)?,
            None => false,
        };
        let step = step_into(child, parent);
        let hides = parent.map_or(false, |parent| replaces(child, parent));
        let is_written = !is_same || hides;
        self.next = Some(Folder {
            layer: child.layer,
            stat: child.stat,
            is_written,
        });
        if !is_written {
            return Ok(step);
        }
        self.write_folders(chain)?;
        let file = child
            .folders
            .first()
            .and_then(|(_, file)| file.as_ref())
            .map(|file| file.as_raw_fd());
        let path = chain.path_with(name.to_bytes());
        self.put_folder(&path, &child.stat, file.unwrap_or(-1))?;
        if hides {
            let escaped = escaped(&path);
            let own = escaped.as_ref().map(|_| (OWN_OPAQUE, &path[..]));
            let mark = [escaped.as_deref().unwrap_or(&path), b"/", OPAQUE].concat();
            self.write_head(
                &Head {
                    path: &mark,
                    kind: b'0',
                    own,
                    ..Head::default()
                },
                false,
            )?;
        }
        Ok(step)
    }

    /// The folders from the root to here that are not written yet.
    fn write_folders(&mut self, chain: &mut Chain) -> Result<()> {
        let from = self
            .folders
            .iter()
            .rposition(|folder| folder.is_written)
            .map_or(0, |at| at + 1);
        for at in from..self.folders.len() {
            let (layer, stat) = (self.folders[at].layer, self.folders[at].stat);
            let file = chain.folder_at(at, layer)?.unwrap_or(-1);
            let path = chain.path_of(at).to_vec();
            self.put_folder(&path, &stat, file)?;
            self.folders[at].is_written = true;
        }
        Ok(())
    }

    fn put_folder(&mut self, path: &[u8], stat: &Stat, file: RawFd) -> Result<()> {
        self.attributes
            .read(file)
            .context(format_args!("reading attributes of {}", shown(path)))?;
        self.path.clear();
        self.path.extend_from_slice(if path.is_empty() { b"." } else { path });
        self.path.push(b'/');
        self.write(b'5', stat, 0, None, b"", true)
    }

    fn removed(&mut self, chain: &Chain, name: &CStr) -> Result<()> {
        let name = name.to_bytes();
        let own = chain.path_with(name);
        let shown_name = escaped(name);
        let whiteout = [WHITEOUT, shown_name.as_deref().unwrap_or(name)].concat();
        let path = chain.path_with(&whiteout);
        let folder = chain.path().len();
        // The mark itself stays as it is; folders on the way may not look like one.
        let escaped = escaped(&path[..folder]).map(|folder_path| [&folder_path[..], &path[folder..]].concat());
        let is_plain = escaped.is_none() && shown_name.is_none();
        let own = if is_plain { None } else { Some((OWN_WHITEOUT, &own[..])) };
        let path = escaped.as_deref().unwrap_or(&path);
        self.write_head(
            &Head {
                path,
                kind: b'0',
                own,
                ..Head::default()
            },
            false,
        )
    }

    fn put(&mut self, chain: &mut Chain, name: &CStr, node: &Node) -> Result<()> {
        let folder = chain.folder(node.layer)?.unwrap_or(-1);
        self.path = chain.path_with(name.to_bytes());
        match node.stat.kind {
            Kind::File => {}
            Kind::Symlink => {
                let mut target = [0; 4096];
                let target = calls::read_link(folder, name, &mut target)
                    .map_err(chain.fails("reading the link", name.to_bytes()))?
                    .to_vec();
                return self.write(b'2', &node.stat, 0, None, &target, false);
            }
            _ => return self.write(b'6', &node.stat, 0, None, b"", false),
        }
        if has_links(node) {
            if let Some(first) = self.written.first(node) {
                return self.write(b'1', &node.stat, 0, None, &first, false);
            }
            self.written.add(node, self.path.clone());
        }
        let file = calls::open_file(folder, name).map_err(chain.fails("opening", name.to_bytes()))?;
        let raw = file.as_raw_fd();
        self.attributes
            .read(raw)
            .map_err(chain.fails("reading attributes of", name.to_bytes()))?;
        if node.stat.may_have_holes() {
            let pieces = sparse::pieces(raw, node.stat.size).map_err(chain.fails("reading", name.to_bytes()))?;
            if let Some(pieces) = pieces {
                return self.put_pieces(&file, &node.stat, &pieces);
            }
        }
        self.write(b'0', &node.stat, node.stat.size, None, b"", true)?;
        if node.stat.size > 0 {
            self.put_content(&file, node.stat.size)?;
        }
        Ok(())
    }

    /// One read for a small file: it asks for a byte more than there should be, so its end is seen too.
    fn put_content(&mut self, file: &OwnedFd, size: u64) -> Result<()> {
        if size > READ_AHEAD_BYTES {
            calls::will_read_on(file.as_raw_fd());
        }
        let mut left = size;
        loop {
            let asked = usize::try_from(left).unwrap_or(usize::MAX).saturating_add(1);
            let room = self.out.room(asked.min(READ_BYTES))?;
            let asked = asked.min(room.len());
            let got = calls::read_once(file.as_raw_fd(), &mut room[..asked])
                .context(format_args!("reading {}", shown(&self.path)))?;
            if got as u64 > left || (got == 0 && left > 0) {
                return Err(changed(&self.path));
            }
            self.out.took(got);
            left -= got as u64;
            if left == 0 && got < asked {
                return self.out.pad(size);
            }
        }
    }

    fn put_pieces(&mut self, file: &OwnedFd, stat: &Stat, pieces: &[sparse::Piece]) -> Result<()> {
        let map = sparse::map(pieces);
        let data: u64 = pieces.iter().map(|piece| piece.1).sum();
        let size = map.len() as u64 + data;
        self.write(b'0', stat, size, Some(stat.size), b"", true)?;
        self.out.put(&map)?;
        for (offset, length) in pieces {
            let mut done = 0;
            while done < *length {
                let room = self.out.room(READ_BYTES)?;
                let asked = room.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
                let got = calls::read_at(file.as_raw_fd(), &mut room[..asked], offset + done)
                    .context(format_args!("reading {}", shown(&self.path)))?;
                if got < asked {
                    return Err(changed(&self.path));
                }
                self.out.took(got);
                done += got as u64;
            }
        }
        self.out.pad(size)
    }

    /// The entry at `self.path`.
    fn write(
        &mut self,
        kind: u8,
        stat: &Stat,
        size: u64,
        sparse: Option<u64>,
        link: &[u8],
        with_attributes: bool,
    ) -> Result<()> {
        let own = std::mem::take(&mut self.path);
        let path = escaped(&own);
        let own_link = if kind == b'1' { escaped(link) } else { None };
        let head = Head {
            path: path.as_deref().unwrap_or(&own),
            kind,
            link: own_link.as_deref().unwrap_or(link),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size,
            modified: stat.modified,
            sparse,
            own: path.as_ref().map(|_| (OWN_PATH, &own[..])),
            own_link: own_link.as_ref().map(|_| link),
        };
        let done = self.write_head(&head, with_attributes);
        self.path = own;
        done
    }

    fn write_head(&mut self, head: &Head, with_attributes: bool) -> Result<()> {
        self.packed.entries += 1;
        let attributes = if with_attributes { Some(&self.attributes) } else { None };
        self.encoder.entry(head, attributes, &mut self.out)
    }
}

/// A path whose names would read as marks of a layer, with others of the same length instead. None where it has none of these.
fn escaped(path: &[u8]) -> Option<Vec<u8>> {
    if !path.windows(WHITEOUT.len()).any(|part| part == WHITEOUT) {
        return None;
    }
    let is_mark = |part: &[u8]| part.starts_with(WHITEOUT);
    if !path.split(|byte| *byte == b'/').any(is_mark) {
        return None;
    }
    let mut out = Vec::with_capacity(path.len());
    for (at, part) in path.split(|byte| *byte == b'/').enumerate() {
        if at > 0 {
            out.push(b'/');
        }
        let from = out.len();
        out.extend_from_slice(part);
        if is_mark(part) {
            out[from] = b'_';
        }
    }
    Some(out)
}

fn changed(path: &[u8]) -> Error {
    Error::new(
        code::IO,
        format!("{} changed while it was packed: pack a snapshot", shown(path)),
    )
}
