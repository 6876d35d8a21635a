//! Hard links: which sets of names a layer has to repeat, and under which name each set was written first.

use std::collections::HashMap;

use super::calls::Kind;
use super::chain::{Chain, Node, CHILD, PARENT};
use super::same::Judge;
use super::walk::{Pair, Step, Visitor};
use crate::helper::error::Result;

/// Names of one file are written all or none: a name that is written can only be tied to others in the same layer.
/// One record of 24 bytes for each file with several names.
#[derive(Default)]
pub struct Sets {
    kept: HashMap<u64, Kept>,
}

struct Kept {
    parent: u64,
    is_same: bool,
}

impl Sets {
    /// Whether a file with several names is, with all of them, as the parent has it.
    pub fn is_same(&self, inode: u64) -> bool {
        self.kept.get(&inode).map_or(false, |kept| kept.is_same)
    }
}

pub fn has_links(node: &Node) -> bool {
    node.stat.kind == Kind::File && node.stat.links > 1
}

/// Looks at every file with several names before anything is written.
pub struct Scan<'a> {
    pub judge: &'a mut Judge,
    pub sets: Sets,
}

impl Visitor for Scan<'_> {
    fn root(&mut self, _: &mut Chain, _: Option<&Node>, _: Option<&Node>) -> Result<()> {
        Ok(())
    }

    fn name(&mut self, chain: &mut Chain, pair: &Pair) -> Result<Step> {
        let child = match pair.child {
            Some(child) => child,
            None => return Ok(Step::Over),
        };
        if child.stat.is_folder() {
            return Ok(super::pack::step_into(child, pair.parent));
        }
        if child.layer != CHILD || !has_links(child) {
            return Ok(Step::Over);
        }
        // The number of names counts in the comparison, so the same file under every one of them is the same set.
        let parent = pair.parent.filter(|parent| parent.layer == PARENT);
        let known = self.sets.kept.get(&child.stat.inode);
        let is_same = match parent {
            _ if known.map_or(false, |kept| !kept.is_same) => false,
            Some(parent) if known.map_or(true, |kept| kept.parent == parent.stat.inode) => {
                self.judge.is_same(chain, pair.name, child, parent)?
            }
            _ => false,
        };
        let parent = parent.map_or(0, |parent| parent.stat.inode);
        self.sets.kept.insert(child.stat.inode, Kept { parent, is_same });
        Ok(Step::Over)
    }

    fn entered(&mut self) {}

    fn left(&mut self) {}
}

/// Under which name a file with several was written. Paths stay until the last name was seen.
#[derive(Default)]
pub struct Written {
    first: HashMap<(u8, u64), (Vec<u8>, u32)>,
}

impl Written {
    pub fn first(&mut self, node: &Node) -> Option<Vec<u8>> {
        let key = (node.layer, node.stat.inode);
        let (path, left) = self.first.get_mut(&key)?;
        *left -= 1;
        if *left == 0 {
            return self.first.remove(&key).map(|(path, _)| path);
        }
        Some(path.clone())
    }

    pub fn add(&mut self, node: &Node, path: Vec<u8>) {
        self.first
            .insert((node.layer, node.stat.inode), (path, node.stat.links - 1));
    }
}
