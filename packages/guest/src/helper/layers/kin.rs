//! What may be believed of two uppers without reading their files.
//!
//! Snapshots of one btrfs subvolume keep inode numbers and change times, and nobody in a sandbox can set a change time. So an equal
//! pair is the same file, if both come from one history and the time is not so close to the older snapshot that a clock of
//! a few milliseconds could have missed a change after it.

use std::os::raw::c_ulong;
use std::os::unix::io::{AsRawFd, RawFd};

use super::calls::Time;
use crate::helper::ffi;

const SUBVOLUME_INFO: c_ulong = 2 << 30 | 504 << 16 | 0x94 << 8 | 60;
const FILE_SYSTEM_INFO: c_ulong = 2 << 30 | 1024 << 16 | 0x94 << 8 | 31;
const FIEMAP: c_ulong = 3 << 30 | 32 << 16 | 0x66 << 8 | 11;
/// The slowest clock a kernel stamps files with ticks every 10 ms.
const CLOCK_TICK_NS: u32 = 50_000_000;
const EXTENTS: usize = 64;
const EXTENT_LAST: u32 = 1;
/// Unknown place, not written yet, or packed so that the place is not the content: 2, 4, 8, 0x100, 0x200, 0x400.
const EXTENT_UNSURE: u32 = 0x70e;

#[repr(C)]
struct SubvolumeInfo {
    before: [u8; 296],
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    transactions: [u64; 4],
    changed: [u64; 2],
    made: [u64; 2],
    rest: [u8; 96],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

#[derive(Debug, Default)]
pub struct Kin {
    /// A file of both uppers with equal inode number and change time before this is one and the same.
    pub settled_before: Option<Time>,
    /// Equal places on disk are equal content.
    pub shares_extents: bool,
}

fn subvolume(folder: RawFd) -> Option<SubvolumeInfo> {
    // SAFETY: all fields are plain numbers, for which zeros are a value.
    let mut info: SubvolumeInfo = unsafe { std::mem::zeroed() };
    // SAFETY: the struct has the size the request says.
    unsafe { ffi::ioctl_with(folder, SUBVOLUME_INFO, &mut info) }.ok()?;
    Some(info)
}

fn file_system(folder: RawFd) -> Option<[u8; 16]> {
    let mut info = [0u64; 128];
    // SAFETY: as above.
    unsafe { ffi::ioctl_with(folder, FILE_SYSTEM_INFO, &mut info) }.ok()?;
    let mut id = [0; 16];
    id[..8].copy_from_slice(&info[2].to_ne_bytes());
    id[8..].copy_from_slice(&info[3].to_ne_bytes());
    Some(id)
}

impl Kin {
    /// Of an upper and the one it is compared to.
    pub fn of(child: RawFd, parent: RawFd) -> Kin {
        let (child_info, parent_info) = match (subvolume(child), subvolume(parent)) {
            (Some(child), Some(parent)) => (child, parent),
            _ => return Kin::default(),
        };
        let shares_extents = file_system(child).map_or(false, |id| file_system(parent) == Some(id));
        // A snapshot of the parent, or a later one of what the parent was taken from.
        let known = parent_info.parent_uuid != [0; 16] && child_info.parent_uuid == parent_info.parent_uuid;
        let is_kin = shares_extents && (known || child_info.parent_uuid == parent_info.uuid);
        // Of two of one origin the older one counts, whichever it is.
        let made = parent_info.made.min(child_info.made);
        let (seconds, nanoseconds) = (made[0] as i64, (made[1] & 0xffff_ffff) as u32);
        let settled_before = match nanoseconds.checked_sub(CLOCK_TICK_NS) {
            Some(left) => (seconds, left),
            None => (seconds - 1, nanoseconds + 1_000_000_000 - CLOCK_TICK_NS),
        };
        Kin {
            settled_before: if is_kin { Some(settled_before) } else { None },
            shares_extents,
        }
    }
}

fn extents(file: RawFd, start: u64, map: &mut Fiemap) -> Option<()> {
    *map = Fiemap {
        start,
        length: u64::MAX - start,
        flags: 0,
        mapped: 0,
        count: EXTENTS as u32,
        reserved: 0,
        ..*map
    };
    // SAFETY: `count` is the length of the array behind the 32 bytes that the request says.
    unsafe { ffi::ioctl_with(file, FIEMAP, map) }.ok()?;
    Some(())
}

/// Whether two files of one file system lie in the same places: then their content is the same. False says nothing.
pub fn share_everything(one: &impl AsRawFd, other: &impl AsRawFd) -> bool {
    // SAFETY: all fields are plain numbers.
    let (mut a, mut b): (Fiemap, Fiemap) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut start = 0;
    loop {
        if extents(one.as_raw_fd(), start, &mut a)
            .and(extents(other.as_raw_fd(), start, &mut b))
            .is_none()
        {
            return false;
        }
        let count = a.mapped as usize;
        if count != b.mapped as usize || count > EXTENTS {
            return false;
        }
        let (a, b) = (&a.extents[..count], &b.extents[..count]);
        let equal = |(a, b): (&Extent, &Extent)| {
            (a.flags | b.flags) & EXTENT_UNSURE == 0
                && (a.logical, a.physical, a.length) == (b.logical, b.physical, b.length)
        };
        if !a.iter().zip(b).all(equal) {
            return false;
        }
        match a.last() {
            Some(last) if last.flags & EXTENT_LAST == 0 && count == EXTENTS => start = last.logical + last.length,
            _ => return true,
        }
    }
}
