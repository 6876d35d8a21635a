//! Writing a tar archive: ustar headers, with pax records where ustar has no room. What is equal comes out as equal bytes.
//!
//! Names go out as the bytes they are. Where they are no UTF-8, pax would want `hdrcharset=BINARY`; GNU tar, Go's reader (and so
//! umoci, containerd and skopeo) and Python take raw bytes without it, and GNU tar warns where it stands.

use std::io::Write;

use super::attributes::Attributes;
use super::calls::Time;
use crate::helper::error::{code, Context, Error, Result};

pub const BLOCK: usize = 512;
/// Of one entry's pax records; Go's reader takes no more.
pub const PAX_BYTES_MAX: usize = 1 << 20;
const BUFFER_BYTES: usize = 1 << 20;
const OWNER_MAX: u32 = 0o7777777;
const SIZE_MAX: u64 = 0o77777777777;

/// Keys of our own, for what a layer's names cannot say. Other readers pass over them.
pub const OWN_PATH: &[u8] = b"DELTA.path";
pub const OWN_LINK: &[u8] = b"DELTA.linkpath";
pub const OWN_WHITEOUT: &[u8] = b"DELTA.whiteout";
pub const OWN_OPAQUE: &[u8] = b"DELTA.opaque";
pub const OWN_ATTRIBUTE: &[u8] = b"DELTA.xattr.";
pub const SCHILY_ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// The archive as it is written: everything passes one buffer, and a file's content is read right into it.
pub struct Out<'a> {
    inner: &'a mut dyn Write,
    buffer: Box<[u8]>,
    filled: usize,
    flushed: u64,
}

impl<'a> Out<'a> {
    pub fn new(inner: &'a mut dyn Write) -> Out<'a> {
        Out {
            inner,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            filled: 0,
            flushed: 0,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.flushed + self.filled as u64
    }

    pub fn flush(&mut self) -> Result<()> {
        self.inner
            .write_all(&self.buffer[..self.filled])
            .context("writing the layer")?;
        self.flushed += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    pub fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room(1)?;
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Free space of at least `least` bytes; `took` says how many were filled.
    pub fn room(&mut self, least: usize) -> Result<&mut [u8]> {
        if BUFFER_BYTES - self.filled < least {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    pub fn took(&mut self, count: usize) {
        self.filled += count;
    }

    /// Zeros up to the next block.
    pub fn pad(&mut self, bytes: u64) -> Result<()> {
        let rest = (bytes % BLOCK as u64) as usize;
        if rest > 0 {
            self.put(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> Result<()> {
        self.put(&[0; 2 * BLOCK])?;
        self.flush()?;
        self.inner.flush().context("writing the layer")
    }
}

/// One entry's header. Everything not given is 0.
#[derive(Clone, Copy, Default)]
pub struct Head<'a> {
    pub path: &'a [u8],
    /// The type flag: `b'0'` file, `b'1'` hard link, `b'2'` symlink, `b'5'` folder, `b'6'` fifo.
    pub kind: u8,
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes that follow the header.
    pub size: u64,
    pub modified: Time,
    /// Where the content is only the data of a file with holes: the file's own size.
    pub sparse: Option<u64>,
    /// The true name where it would mean something else to a reader of layers.
    pub own: Option<(&'a [u8], &'a [u8])>,
    pub own_link: Option<&'a [u8]>,
}

/// Keeps the buffer of the records, so that an entry takes no memory.
#[derive(Default)]
pub struct Encoder {
    records: Vec<u8>,
    value: Vec<u8>,
}

impl Encoder {
    pub fn entry(&mut self, head: &Head, attributes: Option<&Attributes>, out: &mut Out) -> Result<()> {
        self.records.clear();
        let place = ustar_place(head.path);
        if place.is_none() && head.sparse.is_none() {
            record(&mut self.records, b"path", b"", head.path);
        }
        if head.link.len() > 100 || !head.link.is_ascii() {
            record(&mut self.records, b"linkpath", b"", head.link);
        }
        let (seconds, nanoseconds) = head.modified;
        if nanoseconds != 0 || seconds < 0 || seconds as u64 > SIZE_MAX {
            self.value.clear();
            write_time(&mut self.value, head.modified);
            record(&mut self.records, b"mtime", b"", &self.value);
        }
        self.number(b"uid", u64::from(head.uid), head.uid > OWNER_MAX);
        self.number(b"gid", u64::from(head.gid), head.gid > OWNER_MAX);
        self.number(b"size", head.size, head.size > SIZE_MAX);
        if let Some(bytes) = head.sparse {
            record(&mut self.records, b"GNU.sparse.major", b"", b"1");
            record(&mut self.records, b"GNU.sparse.minor", b"", b"0");
            record(&mut self.records, b"GNU.sparse.name", b"", head.path);
            self.number(b"GNU.sparse.realsize", bytes, true);
        }
        for (name, value) in attributes.iter().flat_map(|attributes| attributes.iter()) {
            self.attribute(name, value);
        }
        if let Some((key, path)) = head.own {
            record(&mut self.records, key, b"", path);
        }
        if let Some(path) = head.own_link {
            record(&mut self.records, OWN_LINK, b"", path);
        }
        if self.records.len() > PAX_BYTES_MAX {
            return Err(Error::new(
                code::LIMIT,
                format!(
                    "{} has more than {} bytes of names and attributes",
                    super::shown(head.path),
                    PAX_BYTES_MAX
                ),
            ));
        }
        if !self.records.is_empty() {
            let size = self.records.len() as u64;
            let extension = Head {
                path: b"././@PaxHeader",
                kind: b'x',
                mode: 0o644,
                size,
                ..Head::default()
            };
            header(&extension, Some((0, extension.path.len())), out)?;
            out.put(&self.records)?;
            out.pad(size)?;
        }
        let sparse = Head {
            path: b"GNUSparseFile.0/file",
            ..*head
        };
        match head.sparse {
            Some(_) => header(&sparse, Some((0, sparse.path.len())), out),
            None => header(head, place, out),
        }
    }

    fn number(&mut self, key: &[u8], value: u64, needed: bool) {
        if needed {
            self.value.clear();
            let _ = write!(self.value, "{}", value);
            record(&mut self.records, key, b"", &self.value);
        }
    }

    /// A key ends at its first `=`, so a name with one goes under a key of our own, escaped.
    fn attribute(&mut self, name: &[u8], value: &[u8]) {
        if !name.contains(&b'=') {
            return record(&mut self.records, SCHILY_ATTRIBUTE, name, value);
        }
        self.value.clear();
        for byte in name {
            match byte {
                b'=' | b'%' => {
                    let _ = write!(self.value, "%{:02X}", byte);
                }
                _ => self.value.push(*byte),
            }
        }
        record(&mut self.records, OWN_ATTRIBUTE, &self.value, value);
    }
}

/// `length key=value\n`, where the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], key_end: &[u8], value: &[u8]) {
    let rest = key.len() + key_end.len() + value.len() + 3;
    let mut length = rest + digits(rest);
    if rest + digits(length) != length {
        length = rest + digits(length);
    }
    let _ = write!(out, "{} ", length);
    out.extend_from_slice(key);
    out.extend_from_slice(key_end);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(mut value: usize) -> usize {
    let mut count = 1;
    while value >= 10 {
        value /= 10;
        count += 1;
    }
    count
}

/// Seconds with a decimal fraction, toward zero from a sign in front.
fn write_time(out: &mut Vec<u8>, (seconds, nanoseconds): Time) {
    let (sign, whole, part) = match (seconds < 0, nanoseconds) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, part) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - part),
        (false, part) => ("", seconds.unsigned_abs(), part),
    };
    let _ = write!(out, "{}{}", sign, whole);
    if part > 0 {
        let _ = write!(out, ".{:09}", part);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// Where a path goes in a ustar header: the end of the prefix and the start of the name. None where it needs a pax record.
fn ustar_place(path: &[u8]) -> Option<(usize, usize)> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((0, path.len()));
    }
    if path.len() > 256 {
        return None;
    }
    // The first `/` that leaves a name of at most 100 bytes.
    let from = path.len() - 101;
    let slash = from + path[from..path.len() - 1].iter().position(|byte| *byte == b'/')?;
    if slash == 0 || slash > 155 {
        return None;
    }
    Some((slash, path.len() - slash - 1))
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    for (at, byte) in field[..digits].iter_mut().enumerate() {
        *byte = b'0' + ((value >> (3 * (digits - 1 - at))) & 7) as u8;
    }
}

/// `place` is the length of the prefix and of the name.
fn header(head: &Head, place: Option<(usize, usize)>, out: &mut Out) -> Result<()> {
    let room = out.room(BLOCK)?;
    let block = &mut room[..BLOCK];
    block.fill(0);
    match place {
        Some((0, length)) => block[..length].copy_from_slice(&head.path[..length]),
        Some((prefix, length)) => {
            block[..length].copy_from_slice(&head.path[head.path.len() - length..]);
            block[345..345 + prefix].copy_from_slice(&head.path[..prefix]);
        }
        None => {
            let length = head.path.len().min(100);
            block[..length].copy_from_slice(&head.path[..length]);
        }
    }
    octal(&mut block[100..108], u64::from(head.mode & 0o7777));
    octal(
        &mut block[108..116],
        u64::from(if head.uid > OWNER_MAX { 0 } else { head.uid }),
    );
    octal(
        &mut block[116..124],
        u64::from(if head.gid > OWNER_MAX { 0 } else { head.gid }),
    );
    octal(&mut block[124..136], if head.size > SIZE_MAX { 0 } else { head.size });
    let seconds = head.modified.0;
    octal(
        &mut block[136..148],
        if seconds < 0 || seconds as u64 > SIZE_MAX {
            0
        } else {
            seconds as u64
        },
    );
    block[156] = head.kind;
    let link = head.link.len().min(100);
    block[157..157 + link].copy_from_slice(&head.link[..link]);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], 0);
    octal(&mut block[337..345], 0);
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    out.took(BLOCK);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(head: &Head) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Out::new(&mut bytes);
        Encoder::default().entry(head, None, &mut out).unwrap();
        out.flush().unwrap();
        bytes
    }

    #[test]
    fn a_record_counts_the_digits_of_its_own_length() {
        for length in [0, 1, 80, 88, 89, 90, 91, 985, 986, 987, 988, 989, 990, 99_990] {
            let mut out = Vec::new();
            record(&mut out, b"path", b"", &vec![b'a'; length]);
            let space = out.iter().position(|byte| *byte == b' ').unwrap();
            assert_eq!(
                String::from_utf8_lossy(&out[..space]).parse::<usize>().unwrap(),
                out.len()
            );
        }
    }

    #[test]
    fn what_ustar_can_say_needs_no_records() {
        let long = [&[b'd'; 120][..], b"/", &[b'f'; 99]].concat();
        for path in [&b"etc/hosts"[..], b"./", &long] {
            let head = Head {
                path,
                kind: b'0',
                mode: 0o644,
                modified: (1_700_000_000, 0),
                ..Head::default()
            };
            assert_eq!(encoded(&head).len(), BLOCK);
        }
    }

    #[test]
    fn what_ustar_cannot_say_is_in_records() {
        let no_slash = [b'x'; 101];
        for head in [
            Head {
                path: &no_slash,
                ..Head::default()
            },
            Head {
                path: "ä".as_bytes(),
                ..Head::default()
            },
            Head {
                path: b"a",
                modified: (1, 1),
                ..Head::default()
            },
            Head {
                path: b"a",
                modified: (-1, 0),
                ..Head::default()
            },
            Head {
                path: b"a",
                uid: OWNER_MAX + 1,
                ..Head::default()
            },
            Head {
                path: b"a",
                size: SIZE_MAX + 1,
                ..Head::default()
            },
            Head {
                path: b"a",
                link: &no_slash,
                ..Head::default()
            },
        ] {
            assert_eq!(encoded(&head).len(), 3 * BLOCK);
        }
    }

    #[test]
    fn a_time_is_exact_to_the_nanosecond_on_both_sides_of_1970() {
        let text = |time| {
            let mut out = Vec::new();
            write_time(&mut out, time);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text((5, 120)), "5.00000012");
        assert_eq!(text((5, 0)), "5");
        assert_eq!(text((-2, 500_000_000)), "-1.5");
        assert_eq!(text((-1, 999_999_999)), "-0.000000001");
        assert_eq!(text((-1, 0)), "-1");
    }
}
