//! Two merged views over one base, side by side: every name where they can differ, folders in depth, names sorted bytewise.
//!
//! Where both stand on the same folders of the base, only the uppers are listed: what neither of them names is the same in both.
//! Where one of them hides the base, everything is listed.

use std::ffi::CStr;

use super::calls::{self, Kind};
use super::chain::{bit, Chain, Mask, Node, BASE_MASK, CHILD, PARENT};
use super::names::Names;
use crate::helper::error::Result;

/// Stands for no layer: the name of what is mounted over `/usr`.
const MOUNTED: u8 = 31;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Over,
    /// Into a folder of either.
    Into,
    /// Into the child's folder, as if the parent had none.
    IntoChild,
}

/// One name. `child` and `parent` are what it is in each view. Where both have none, the child's upper says that it is gone and
/// the parent's does not: it is of a layer that neither of them knows.
pub struct Pair<'a> {
    pub name: &'a CStr,
    pub child: Option<&'a Node>,
    pub parent: Option<&'a Node>,
}

pub trait Visitor {
    fn root(&mut self, chain: &mut Chain, child: Option<&Node>, parent: Option<&Node>) -> Result<()>;
    fn name(&mut self, chain: &mut Chain, pair: &Pair) -> Result<Step>;
    /// The chain is now in the folder `name` said to go into.
    fn entered(&mut self);
    fn left(&mut self);
    /// A socket or device of the child.
    fn skipped(&mut self) {}
}

struct Frame {
    lists: Vec<(u8, Names, usize)>,
    listed: Mask,
    child: Mask,
    parent: Mask,
}

impl Frame {
    fn new(chain: &mut Chain, child: Mask, parent: Mask, buffer: &mut Vec<u8>) -> Result<Frame> {
        let uppers = bit(CHILD) | bit(PARENT);
        let all = child | parent;
        let listed = if child & BASE_MASK == parent & BASE_MASK {
            all & uppers
        } else {
            all
        };
        let mut lists = Vec::new();
        for layer in (0..MOUNTED).filter(|layer| listed & bit(*layer) != 0) {
            if let Some(folder) = chain.folder(layer)? {
                let names = Names::read(folder, buffer).map_err(chain.fails("listing", b""))?;
                lists.push((layer, names, 0));
            }
        }
        if chain.is_usr(b"usr") {
            lists.push((MOUNTED, Names::one(b"usr\0"), 0));
        }
        Ok(Frame {
            lists,
            listed,
            child,
            parent,
        })
    }

    /// The next name into `name`, and which of the listed layers have it.
    fn next(&mut self, name: &mut Vec<u8>) -> Option<Mask> {
        let least = self.lists.iter().filter_map(|(_, names, at)| names.get(*at)).min()?;
        name.clear();
        name.extend_from_slice(least.to_bytes_with_nul());
        let mut has = 0;
        for (layer, names, at) in &mut self.lists {
            if names
                .get(*at)
                .map_or(false, |found| found.to_bytes_with_nul() == &name[..])
            {
                has |= bit(*layer);
                *at += 1;
            }
        }
        Some(has)
    }
}

/// `child` and `parent` are the layers of each view.
pub fn walk(chain: &mut Chain, child: Mask, parent: Mask, visitor: &mut dyn Visitor) -> Result<()> {
    let mut buffer = Vec::new();
    let (one, other) = (chain.root(child)?, chain.root(parent)?);
    visitor.root(chain, one.as_ref(), other.as_ref())?;
    // Also layers that the root lacks: what is mounted over `/usr` may have more.
    let mut frames = vec![Frame::new(chain, child, parent, &mut buffer)?];
    let mut name = Vec::with_capacity(256);
    while let Some(frame) = frames.last_mut() {
        let has = match frame.next(&mut name) {
            Some(has) => has,
            None => {
                frames.pop();
                if !frames.is_empty() {
                    chain.pop();
                    visitor.left();
                }
                continue;
            }
        };
        let name = CStr::from_bytes_with_nul(&name).unwrap_or_default();
        let mut one = chain.look(name, frame.child, frame.listed, has)?;
        let other = chain.look(name, frame.parent, frame.listed, has)?.filter(is_carried);
        if one.as_ref().map_or(false, |node| !is_carried(node)) {
            visitor.skipped();
            one = None;
        }
        if one.is_none() && other.is_none() && !is_hidden(chain, name, has)? {
            continue;
        }
        let pair = Pair {
            name,
            child: one.as_ref(),
            parent: other.as_ref(),
        };
        let step = visitor.name(chain, &pair)?;
        if step == Step::Over {
            continue;
        }
        let other = if step == Step::IntoChild { None } else { other };
        let (child, parent) = (one.as_ref().map_or(0, Node::mask), other.as_ref().map_or(0, Node::mask));
        let uppers = bit(CHILD) | bit(PARENT);
        if child | parent == 0 || (child == parent && child & uppers == 0) {
            continue;
        }
        let mut folders = one.map_or_else(Vec::new, |node| node.folders);
        let own = folders.iter().fold(0, |mask, (layer, _)| mask | bit(*layer));
        folders.extend(
            other
                .into_iter()
                .flat_map(|node| node.folders)
                .filter(|(layer, _)| own & bit(*layer) == 0),
        );
        folders.sort_unstable_by_key(|(layer, _)| *layer);
        chain.push(name.to_bytes(), folders)?;
        visitor.entered();
        frames.push(Frame::new(chain, child, parent, &mut buffer)?);
    }
    Ok(())
}

fn is_carried(node: &Node) -> bool {
    node.stat.kind != Kind::Skipped
}

fn is_hidden(chain: &mut Chain, name: &CStr, has: Mask) -> Result<bool> {
    if has & (bit(CHILD) | bit(PARENT)) != bit(CHILD) || chain.is_reserved(name.to_bytes()) {
        return Ok(false);
    }
    let folder = chain.folder(CHILD)?.unwrap_or(-1);
    let stat = calls::stat_at(folder, name).map_err(chain.fails("looking at", name.to_bytes()))?;
    Ok(stat.kind == Kind::Whiteout)
}
