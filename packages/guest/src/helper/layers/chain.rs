//! Folders from the root of a file system of layers down to the one that is looked at, each open in every layer that has it.
//!
//! However deep it is, only the last `WINDOW` levels (and the first two) hold descriptors; the others are opened again by their
//! names when they are come back to. No path longer than one name is ever handed to the system.

use std::ffi::CStr;
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use super::calls::{self, Kind, Stat};
use super::{shown, Base, View, DEPTH_MAX, PATH_BYTES_MAX};
use crate::helper::error::{code, Context, Error, Result};

const WINDOW: usize = 32;
/// Layers are numbered: the file system's own upper, the one it is compared to, and the folders below both, topmost first.
pub const CHILD: u8 = 0;
pub const PARENT: u8 = 1;
pub const BASES: u8 = 2;
const BASES_MAX: usize = 30;
const OPAQUE: &[u8] = b"trusted.overlay.opaque\0";

/// A set of layers, one bit each.
pub type Mask = u32;

pub const fn bit(layer: u8) -> Mask {
    1 << layer
}

/// Bits of the base's layers.
pub const BASE_MASK: Mask = !(bit(CHILD) | bit(PARENT));

pub fn opaque_name() -> &'static CStr {
    // SAFETY: a literal with its NUL.
    unsafe { CStr::from_bytes_with_nul_unchecked(OPAQUE) }
}

/// What a name is in a merged view.
pub struct Node {
    /// Where its metadata and content come from.
    pub layer: u8,
    pub stat: Stat,
    /// For a folder: it in each layer that adds to it, topmost first.
    pub folders: Vec<(u8, Option<OwnedFd>)>,
}

impl Node {
    pub fn mask(&self) -> Mask {
        self.folders.iter().fold(0, |mask, (layer, _)| mask | bit(*layer))
    }
}

struct Level {
    path_end: usize,
    folders: Vec<(u8, Option<OwnedFd>)>,
}

pub struct Chain {
    usr: Option<Vec<(u8, OwnedFd)>>,
    levels: Vec<Level>,
    path: Vec<u8>,
}

fn open(layer: u8, path: &PathBuf) -> Result<(u8, OwnedFd)> {
    let folder = calls::open_lower(path).context(format_args!("opening the layer {}", path.display()))?;
    Ok((layer, folder))
}

/// An upper is on its own mount, and is written to: no copy of its mount.
fn open_upper(layer: u8, path: &PathBuf) -> Result<(u8, OwnedFd)> {
    let folder = crate::helper::ffi::open_directory(path).context(format_args!("opening {}", path.display()))?;
    Ok((layer, folder))
}

impl Chain {
    pub fn new(child: Option<&View>, parent: Option<&View>, base: &Base) -> Result<Chain> {
        if base.roots.len().max(base.usrs.len()) > BASES_MAX {
            return Err(Error::new(
                code::LIMIT,
                format!("a template may have at most {} layers", BASES_MAX),
            ));
        }
        let (mut roots, mut usrs) = (Vec::new(), Vec::new());
        for (layer, view) in [(CHILD, child), (PARENT, parent)] {
            if let Some(view) = view {
                roots.push(open_upper(layer, &view.root)?);
                if let Some(usr) = &view.usr {
                    usrs.push(open_upper(layer, usr)?);
                }
            }
        }
        for (at, path) in base.roots.iter().enumerate() {
            roots.push(open(BASES + at as u8, path)?);
        }
        for (at, path) in base.usrs.iter().enumerate() {
            usrs.push(open(BASES + at as u8, path)?);
        }
        let folders = roots.into_iter().map(|(layer, folder)| (layer, Some(folder))).collect();
        let usr = if usrs.is_empty() { None } else { Some(usrs) };
        Ok(Chain {
            usr,
            levels: vec![Level { path_end: 0, folders }],
            path: Vec::new(),
        })
    }

    /// Of the folder that is looked at; empty for the root.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    pub fn path_of(&self, level: usize) -> &[u8] {
        &self.path[..self.levels[level].path_end]
    }

    /// The last name of that path.
    pub fn name_of(&self, level: usize) -> &[u8] {
        let start = level
            .checked_sub(1)
            .map_or(0, |above| self.levels[above].path_end + usize::from(above > 0));
        &self.path[start..self.levels[level].path_end]
    }

    /// 0 is the root.
    pub fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    pub fn mask(&self) -> Mask {
        self.levels[self.depth()]
            .folders
            .iter()
            .fold(0, |mask, (layer, _)| mask | bit(*layer))
    }

    /// The path of a name in the folder that is looked at.
    pub fn path_with(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    pub fn fails<'a>(&'a self, what: &'a str, name: &'a [u8]) -> impl Fn(io::Error) -> Error + 'a {
        move |cause| Error::from_io(format_args!("{} {}", what, shown(&self.path_with(name))), &cause)
    }

    /// Whether the name stands for the file system that is mounted over `/usr`.
    pub fn is_usr(&self, name: &[u8]) -> bool {
        self.usr.is_some() && self.depth() == 0 && name == b"usr"
    }

    /// Whether the folder that is looked at is its root.
    pub fn is_at_usr(&self) -> bool {
        self.usr.is_some() && self.depth() == 1 && self.path == b"usr"
    }

    pub fn base_layers(&self) -> Vec<u8> {
        let layers = self.levels[self.depth()].folders.iter().map(|(layer, _)| *layer);
        layers.filter(|layer| *layer >= BASES).collect()
    }

    /// From here on down the base does not show.
    pub fn forget_base(&mut self) {
        let level = self.depth();
        self.levels[level].folders.retain(|(layer, _)| *layer < BASES);
    }

    /// The platform's own folder, which no layer carries.
    pub fn is_reserved(&self, name: &[u8]) -> bool {
        self.depth() == 0 && name == b".delta"
    }

    /// `/usr` where it is a file system of its own, as far as the layers have it.
    pub fn usr(&self, of: Mask) -> Result<Option<Node>> {
        let mut folders = Vec::new();
        let mut stat = None;
        for (layer, folder) in self.usr.iter().flatten().filter(|(layer, _)| of & bit(*layer) != 0) {
            if stat.is_none() {
                stat = Some((*layer, calls::stat(folder).context("looking at /usr")?));
            }
            folders.push((*layer, Some(folder.try_clone().context("opening /usr")?)));
        }
        Ok(stat.map(|(layer, stat)| Node { layer, stat, folders }))
    }

    /// The root itself, in the topmost of the layers `of`. Its folders stay with the chain.
    pub fn root(&mut self, of: Mask) -> Result<Option<Node>> {
        let found = self.levels[0].folders.iter().find(|(layer, _)| of & bit(*layer) != 0);
        let (layer, folder) = match found {
            Some((layer, Some(folder))) => (*layer, folder),
            _ => return Ok(None),
        };
        let stat = calls::stat(folder).context("looking at the root")?;
        Ok(Some(Node {
            layer,
            stat,
            folders: Vec::new(),
        }))
    }

    /// Goes down into a folder.
    pub fn push(&mut self, name: &[u8], folders: Vec<(u8, Option<OwnedFd>)>) -> Result<()> {
        if self.depth() >= DEPTH_MAX || self.path.len() + 1 + name.len() > PATH_BYTES_MAX {
            return Err(Error::new(
                code::LIMIT,
                format!(
                    "{} is deeper than {} folders or {} bytes of path: a layer cannot hold it",
                    shown(&self.path),
                    DEPTH_MAX,
                    PATH_BYTES_MAX
                ),
            ));
        }
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.levels.push(Level {
            path_end: self.path.len(),
            folders,
        });
        if let Some(old) = self.depth().checked_sub(WINDOW).filter(|old| *old >= 2) {
            self.levels[old]
                .folders
                .iter_mut()
                .for_each(|(_, folder)| *folder = None);
        }
        Ok(())
    }

    pub fn pop(&mut self) {
        self.levels.pop();
        self.path.truncate(self.levels.last().map_or(0, |level| level.path_end));
    }

    /// The folder that is looked at, in one layer.
    pub fn folder(&mut self, layer: u8) -> Result<Option<RawFd>> {
        let level = self.depth();
        self.folder_at(level, layer)
    }

    pub fn folder_at(&mut self, level: usize, layer: u8) -> Result<Option<RawFd>> {
        let place = self.levels[level].folders.iter().position(|(found, _)| *found == layer);
        let place = match place {
            Some(place) => place,
            None => return Ok(None),
        };
        if self.levels[level].folders[place].1.is_none() {
            self.reopen(level, layer)?;
        }
        Ok(self.levels[level].folders[place]
            .1
            .as_ref()
            .map(|folder| folder.as_raw_fd()))
    }

    /// The first two levels never close, so there is always an ancestor to start from.
    fn reopen(&mut self, level: usize, layer: u8) -> Result<()> {
        let held = |chain: &Chain, at: usize| -> Option<usize> {
            chain.levels[at]
                .folders
                .iter()
                .position(|(found, folder)| *found == layer && folder.is_some())
        };
        let (mut at, mut place) = (0..level)
            .rev()
            .find_map(|at| held(self, at).map(|place| (at, place)))
            .ok_or_else(|| {
                Error::new(
                    code::IO,
                    format!("{} is gone while it is read", shown(self.path_of(level))),
                )
            })?;
        let mut passing: Option<OwnedFd> = None;
        while at < level {
            let from = passing
                .as_ref()
                .or(self.levels[at].folders[place].1.as_ref())
                .map(|folder| folder.as_raw_fd());
            let start = self.levels[at].path_end + usize::from(at > 0);
            let name = calls::c_name(&self.path[start..self.levels[at + 1].path_end]);
            let opened = name.and_then(|name| calls::open_folder(from.unwrap_or(-1), &name));
            let opened = opened.context(format_args!("opening {} again", shown(self.path_of(at + 1))))?;
            at += 1;
            place = self.levels[at]
                .folders
                .iter()
                .position(|(found, _)| *found == layer)
                .unwrap_or(0);
            if level - at < WINDOW {
                self.levels[at].folders[place].1 = Some(opened);
                passing = None;
            } else {
                passing = Some(opened);
            }
        }
        Ok(())
    }

    /// What a name of this folder is in the merged view of the layers `of`. Layers whose bit is in `listed` are asked only
    /// where `has` says that they have the name.
    pub fn look(&mut self, name: &CStr, of: Mask, listed: Mask, has: Mask) -> Result<Option<Node>> {
        if self.is_reserved(name.to_bytes()) {
            return Ok(None);
        }
        if self.is_usr(name.to_bytes()) {
            return self.usr(of);
        }
        let mut node: Option<Node> = None;
        let level = self.depth();
        for at in 0..self.levels[level].folders.len() {
            let layer = self.levels[level].folders[at].0;
            if of & bit(layer) == 0 || (listed & bit(layer) != 0 && has & bit(layer) == 0) {
                continue;
            }
            let folder = self.folder_at(level, layer)?.unwrap_or(-1);
            let stat = match calls::stat_at(folder, name) {
                Ok(stat) => stat,
                Err(cause) if cause.raw_os_error() == Some(calls::ENOENT) => continue,
                Err(cause) => return Err(self.fails("looking at", name.to_bytes())(cause)),
            };
            match (&mut node, stat.kind) {
                (_, Kind::Whiteout) => break,
                (None, Kind::Folder) => {}
                (None, _) => {
                    return Ok(Some(Node {
                        layer,
                        stat,
                        folders: Vec::new(),
                    }))
                }
                (Some(_), Kind::Folder) => {}
                (Some(_), _) => break,
            }
            let inner = match calls::open_folder(folder, name) {
                Ok(inner) => inner,
                // A mount point of the host, where the layer could not be had without what is mounted on it.
                Err(cause) if cause.raw_os_error() == Some(calls::EXDEV) => continue,
                Err(cause) => return Err(self.fails("opening", name.to_bytes())(cause)),
            };
            let opaque = is_opaque(inner.as_raw_fd()).map_err(self.fails("looking at", name.to_bytes()))?;
            let node = node.get_or_insert(Node {
                layer,
                stat,
                folders: Vec::new(),
            });
            node.folders.push((layer, Some(inner)));
            if opaque {
                break;
            }
        }
        Ok(node)
    }
}

/// Whether what lower layers have in the folder does not show.
pub fn is_opaque(folder: RawFd) -> io::Result<bool> {
    let mut value = [0; 8];
    match calls::attribute(folder, opaque_name(), &mut value) {
        Ok(Some(length)) => Ok(&value[..length] == b"y"),
        Ok(None) => Ok(false),
        Err(cause) if cause.raw_os_error() == Some(calls::ERANGE) => Ok(false),
        Err(cause) => Err(cause),
    }
}
