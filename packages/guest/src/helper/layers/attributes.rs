//! Extended attributes that belong to a sandbox's files: `user.*`, file capabilities and access lists. `trusted.*` is the overlay's.

use std::ffi::CStr;
use std::io;
use std::os::unix::io::RawFd;

use super::calls;
use super::tar::PAX_BYTES_MAX;

const NAMES_BYTES_MAX: usize = 64 << 10;
const VALUE_BYTES_MAX: usize = 64 << 10;
const USER: &[u8] = b"user.";
const KEPT: [&[u8]; 3] = [
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
];

pub fn is_kept(name: &[u8]) -> bool {
    (name.starts_with(USER) && name.len() > USER.len()) || KEPT.contains(&name)
}

struct Item {
    /// In `bytes`: the name with its NUL, then the value.
    start: usize,
    name_length: usize,
    end: usize,
}

/// Of one file, sorted by name. Read again and again without taking new memory.
#[derive(Default)]
pub struct Attributes {
    names: Vec<u8>,
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Attributes {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }

    pub fn read(&mut self, file: RawFd) -> io::Result<()> {
        self.clear();
        self.names.resize(NAMES_BYTES_MAX, 0);
        let listed = calls::list_attributes(file, &mut self.names)?;
        let mut at = 0;
        while at < listed {
            let length = self.names[at..listed]
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(listed - at - 1);
            let name = &self.names[at..at + length + 1];
            at += length + 1;
            if !is_kept(&name[..length]) {
                continue;
            }
            let start = self.bytes.len();
            self.bytes.extend_from_slice(name);
            let value = self.bytes.len();
            if value > PAX_BYTES_MAX {
                return Err(io::Error::from_raw_os_error(7));
            }
            self.bytes.resize(value + VALUE_BYTES_MAX, 0);
            let name = CStr::from_bytes_with_nul(name).map_err(|_| io::Error::from_raw_os_error(22))?;
            match calls::attribute(file, name, &mut self.bytes[value..])? {
                Some(got) => {
                    self.bytes.truncate(value + got);
                    self.items.push(Item {
                        start,
                        name_length: length,
                        end: value + got,
                    });
                }
                None => self.bytes.truncate(start),
            }
        }
        let bytes = &self.bytes;
        let name = |item: &Item| &bytes[item.start..item.start + item.name_length];
        self.items.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        Ok(())
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.items.iter().map(move |item| {
            let value = item.start + item.name_length + 1;
            (
                &self.bytes[item.start..item.start + item.name_length],
                &self.bytes[value..item.end],
            )
        })
    }

    pub fn is_same(&self, other: &Attributes) -> bool {
        self.items.len() == other.items.len() && self.iter().eq(other.iter())
    }
}
