//! Whether a name is the same in two merged views: by what is known of the two uppers, else by comparing everything.

use std::ffi::CStr;
use std::io;
use std::os::unix::io::{AsRawFd, RawFd};

use super::attributes::Attributes;
use super::calls::{self, Kind, Stat, Time};
use super::chain::{Chain, Node, CHILD, PARENT};
use super::kin::{self, Kin};
use crate::helper::error::Result;

const COMPARE_BYTES: usize = 256 << 10;

/// How exact "the same" is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exactness {
    /// With a folder's time and the number of a file's names.
    Whole,
    /// What a person calls a change: a folder is not changed by what changes in it.
    Seen,
}

pub struct Judge {
    kin: Kin,
    exactness: Exactness,
    attributes: (Attributes, Attributes),
    buffers: (Vec<u8>, Vec<u8>),
}

impl Judge {
    pub fn new(chain: &mut Chain, exactness: Exactness) -> Result<Judge> {
        let kin = match (chain.folder_at(0, CHILD)?, chain.folder_at(0, PARENT)?) {
            (Some(child), Some(parent)) => Kin::of(child, parent),
            _ => Kin::default(),
        };
        Ok(Judge {
            kin,
            exactness,
            attributes: Default::default(),
            buffers: Default::default(),
        })
    }

    fn is_known(&self, child: &Node, parent: &Node) -> bool {
        let settled = |before: Time| child.stat.changed < before;
        (child.layer, parent.layer) == (CHILD, PARENT)
            && child.stat.inode == parent.stat.inode
            && child.stat.changed == parent.stat.changed
            && self.kin.settled_before.map_or(false, settled)
    }

    fn looks_same(&self, child: &Stat, parent: &Stat) -> bool {
        let owner = |stat: &Stat| (stat.kind, stat.mode, stat.uid, stat.gid);
        if owner(child) != owner(parent) {
            return false;
        }
        if child.is_folder() {
            return self.exactness == Exactness::Seen || child.modified == parent.modified;
        }
        let links = self.exactness == Exactness::Seen || child.kind != Kind::File || child.links == parent.links;
        links && child.size == parent.size && child.modified == parent.modified
    }

    /// `name` is in the folder that the chain is at.
    pub fn is_same(&mut self, chain: &mut Chain, name: &CStr, child: &Node, parent: &Node) -> Result<bool> {
        if child.layer == parent.layer {
            return Ok(true);
        }
        if !self.looks_same(&child.stat, &parent.stat) {
            return Ok(false);
        }
        if self.is_known(child, parent) {
            return Ok(true);
        }
        let (one, other) = match (child.folders.first(), parent.folders.first()) {
            (Some((_, Some(one))), Some((_, Some(other)))) => {
                let compared = self.same_attributes(one.as_raw_fd(), other.as_raw_fd());
                return compared.map_err(chain.fails("reading attributes of", name.to_bytes()));
            }
            _ => (
                chain.folder(child.layer)?.unwrap_or(-1),
                chain.folder(parent.layer)?.unwrap_or(-1),
            ),
        };
        let compared = match child.stat.kind {
            Kind::File => self.same_files(one, other, name, &child.stat),
            Kind::Symlink => same_symlinks(one, other, name),
            _ => Ok(true),
        };
        compared.map_err(chain.fails("comparing", name.to_bytes()))
    }

    /// The two roots, whose folders the chain holds.
    pub fn is_same_root(&mut self, chain: &mut Chain, child: &Node, parent: &Node) -> Result<bool> {
        if child.layer == parent.layer {
            return Ok(true);
        }
        if !self.looks_same(&child.stat, &parent.stat) {
            return Ok(false);
        }
        let (one, other) = (chain.folder_at(0, child.layer)?, chain.folder_at(0, parent.layer)?);
        let compared = self.same_attributes(one.unwrap_or(-1), other.unwrap_or(-1));
        compared.map_err(chain.fails("reading attributes of", b""))
    }

    fn same_attributes(&mut self, one: RawFd, other: RawFd) -> io::Result<bool> {
        self.attributes.0.read(one)?;
        self.attributes.1.read(other)?;
        Ok(self.attributes.0.is_same(&self.attributes.1))
    }

    fn same_files(&mut self, one: RawFd, other: RawFd, name: &CStr, stat: &Stat) -> io::Result<bool> {
        let (one, other) = (calls::open_file(one, name)?, calls::open_file(other, name)?);
        if !self.same_attributes(one.as_raw_fd(), other.as_raw_fd())? {
            return Ok(false);
        }
        if stat.size == 0 || (self.kin.shares_extents && kin::share_everything(&one, &other)) {
            return Ok(true);
        }
        let (one, other) = (one.as_raw_fd(), other.as_raw_fd());
        let (a, b) = (&mut self.buffers.0, &mut self.buffers.1);
        a.resize(COMPARE_BYTES, 0);
        b.resize(COMPARE_BYTES, 0);
        let mut at = 0;
        while at < stat.size {
            // What both lack is zeros in both.
            if stat.may_have_holes() {
                at = match (calls::data_from(one, at)?, calls::data_from(other, at)?) {
                    (None, None) => return Ok(true),
                    (Some(from), None) | (None, Some(from)) => from,
                    (Some(one), Some(other)) => one.min(other),
                };
            }
            let (got, also) = (calls::read_at(one, a, at)?, calls::read_at(other, b, at)?);
            if got != also || a[..got] != b[..also] {
                return Ok(false);
            }
            if got == 0 {
                break;
            }
            at += got as u64;
        }
        Ok(true)
    }
}

fn same_symlinks(one: RawFd, other: RawFd, name: &CStr) -> io::Result<bool> {
    let (mut a, mut b) = ([0; 4096], [0; 4096]);
    Ok(calls::read_link(one, name, &mut a)? == calls::read_link(other, name, &mut b)?)
}
