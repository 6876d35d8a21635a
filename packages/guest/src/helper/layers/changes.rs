//! What is different between two views, name by name.

use super::calls::{Kind, Stat};
use super::chain::{bit, Chain, Node, BASE_MASK, CHILD, PARENT};
use super::same::{Exactness, Judge};
use super::walk::{walk, Pair, Step, Visitor};
use super::{Base, View};
use crate::helper::error::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Added = 1,
    Changed = 2,
    Removed = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    File = 1,
    Directory = 2,
    Symlink = 3,
    Other = 4,
}

/// One name: as it is, or where it was removed as it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a> {
    pub kind: ChangeKind,
    pub type_: ChangeType,
    /// Of a file, in bytes; else 0.
    pub size: u64,
    /// Without a leading `/`.
    pub path: &'a [u8],
}

type Each<'a> = dyn FnMut(Change) -> Result<()> + 'a;

/// Every name that `view` adds, changes or removes relative to `parent`, or to the base where there is none. A folder counts as
/// changed when its owner, mode or attributes are others, not when only its time is.
pub fn changes(view: &View, parent: Option<&View>, base: &Base, each: &mut Each) -> Result<()> {
    let mut chain = Chain::new(Some(view), parent, base)?;
    let judge = Judge::new(&mut chain, Exactness::Seen)?;
    let parent = if parent.is_some() {
        BASE_MASK | bit(PARENT)
    } else {
        BASE_MASK
    };
    walk(&mut chain, BASE_MASK | bit(CHILD), parent, &mut Changes { judge, each })
}

struct Changes<'a, 'b> {
    judge: Judge,
    each: &'a mut Each<'b>,
}

fn type_of(stat: &Stat) -> ChangeType {
    match stat.kind {
        Kind::File => ChangeType::File,
        Kind::Folder => ChangeType::Directory,
        Kind::Symlink => ChangeType::Symlink,
        _ => ChangeType::Other,
    }
}

impl Changes<'_, '_> {
    fn tell(&mut self, chain: &Chain, pair: &Pair, kind: ChangeKind, node: &Node) -> Result<()> {
        let path = chain.path_with(pair.name.to_bytes());
        let size = if node.stat.kind == Kind::File {
            node.stat.size
        } else {
            0
        };
        (self.each)(Change {
            kind,
            type_: type_of(&node.stat),
            size,
            path: &path,
        })
    }
}

impl Visitor for Changes<'_, '_> {
    fn root(&mut self, _: &mut Chain, _: Option<&Node>, _: Option<&Node>) -> Result<()> {
        Ok(())
    }

    fn name(&mut self, chain: &mut Chain, pair: &Pair) -> Result<Step> {
        match (pair.child, pair.parent) {
            (Some(child), None) => self.tell(chain, pair, ChangeKind::Added, child)?,
            (None, Some(parent)) => self.tell(chain, pair, ChangeKind::Removed, parent)?,
            (Some(child), Some(parent)) => {
                if !self.judge.is_same(chain, pair.name, child, parent)? {
                    self.tell(chain, pair, ChangeKind::Changed, child)?;
                }
            }
            (None, None) => return Ok(Step::Over),
        }
        Ok(Step::Into)
    }

    fn entered(&mut self) {}

    fn left(&mut self) {}
}
