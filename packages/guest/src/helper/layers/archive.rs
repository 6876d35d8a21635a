//! Reading a tar archive that may be anyone's: ustar, GNU and pax, with every length and number checked.

use std::io::{self, Read};

use super::calls::Time;
use super::pack::WHITEOUT;
use super::pax::{self, Pax};
use super::sparse::Piece;
use super::tar::{BLOCK, PAX_BYTES_MAX};
use super::{shown, DEPTH_MAX, PATH_BYTES_MAX};
use crate::helper::error::{code, Context, Error, Result};

const BUFFER_BYTES: usize = 1 << 20;
/// Extended headers before one entry.
const EXTENSIONS_MAX: usize = 16;
/// Of what follows the end of the archive: padding.
const TRAILER_BYTES_MAX: u64 = 64 << 20;
const PIECES_MAX: usize = 1 << 16;
const NAME_BYTES_MAX: usize = 255;

/// How the name of an entry is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// A name like `.wh.x` is a whiteout.
    Layer,
    /// As it is, whatever it looks like.
    Literal,
    /// The name is gone.
    Whiteout,
    /// Nothing from below shows in this folder.
    Opaque,
}

#[derive(Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub meaning: Meaning,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The file's, as it will be.
    pub size: u64,
    pub modified: Time,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content goes, for a file with holes.
    pub pieces: Option<Vec<Piece>>,
}

pub struct Archive<'a> {
    input: &'a mut dyn Read,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Of the entry's content, and zeros behind it.
    left: u64,
    padding: u64,
}

pub fn invalid(path: &[u8], why: &str) -> Error {
    Error::new(code::INVALID, format!("{}: {}", shown(path), why))
}

fn broken(why: &str) -> Error {
    Error::new(code::INVALID, format!("the layer is no valid tar archive: {}", why))
}

/// The names of a path from the root down. Leading `/` and `.` mean nothing; `..` is refused.
pub fn parts(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Error::new(
            code::LIMIT,
            format!("{} is longer than {} bytes", shown(path), PATH_BYTES_MAX),
        ));
    }
    if path.contains(&0) {
        return Err(invalid(path, "a name cannot hold a NUL byte"));
    }
    let mut parts = Vec::with_capacity(16);
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(invalid(path, "a path may not lead out of the layer by '..'")),
            // A mark is longer than the name it is about.
            _ if part.strip_prefix(WHITEOUT).unwrap_or(part).len() > NAME_BYTES_MAX => {
                return Err(Error::new(
                    code::LIMIT,
                    format!("{}: a name is longer than 255 bytes", shown(path)),
                ));
            }
            _ => parts.push(part),
        }
    }
    if parts.len() > DEPTH_MAX {
        return Err(Error::new(
            code::LIMIT,
            format!("{} is deeper than {} folders", shown(path), DEPTH_MAX),
        ));
    }
    Ok(parts)
}

impl<'a> Archive<'a> {
    pub fn new(input: &'a mut dyn Read) -> Archive<'a> {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Archive {
            input,
            buffer,
            start: 0,
            end: 0,
            left: 0,
            padding: 0,
        }
    }

    /// More of the input behind what is there; false at its end.
    fn fill(&mut self) -> Result<bool> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == BUFFER_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(got) => {
                    self.end += got;
                    return Ok(true);
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(Error::from_io("reading the layer", &cause)),
            }
        }
    }

    /// The next block; none where the input ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        while self.end - self.start < BLOCK {
            if !self.fill()? {
                return if self.end == self.start {
                    Ok(None)
                } else {
                    Err(broken("it ends within a block"))
                };
            }
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK]);
        self.start += BLOCK;
        Ok(Some(block))
    }

    /// The next piece of the entry's content; empty at its end.
    fn content(&mut self) -> Result<&[u8]> {
        self.content_up_to(u64::MAX)
    }

    /// As much of the content as is there, and no more than `most`. Never empty before its end.
    pub fn content_up_to(&mut self, most: u64) -> Result<&[u8]> {
        let most = most.min(self.left);
        if most > 0 && self.start == self.end && !self.fill()? {
            return Err(broken("it ends within a file"));
        }
        let count = (self.end - self.start).min(usize::try_from(most).unwrap_or(usize::MAX));
        let from = self.start;
        self.start += count;
        self.left -= count as u64;
        Ok(&self.buffer[from..from + count])
    }

    /// Bytes of content still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn whole(&mut self, most: usize, what: &str) -> Result<Vec<u8>> {
        if self.left > most as u64 {
            return Err(Error::new(
                code::LIMIT,
                format!("{} of {} bytes: at most {}", what, self.left, most),
            ));
        }
        let mut bytes = Vec::with_capacity(self.left as usize);
        while self.left > 0 {
            let part = self.content()?;
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }

    fn skip(&mut self) -> Result<()> {
        self.left += std::mem::take(&mut self.padding);
        while self.left > 0 {
            self.content()?;
        }
        Ok(())
    }

    /// The next entry; none at the end of the archive, which must be marked as such.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        for _ in 0..EXTENSIONS_MAX {
            self.skip()?;
            let block = self.block()?.ok_or_else(|| broken("it ends without its end mark"))?;
            if block.iter().all(|byte| *byte == 0) {
                return self.finish().map(|()| None);
            }
            let header = Header::read(&block)?;
            self.left = header.size;
            self.padding = padding(header.size);
            match header.kind {
                b'x' | b'X' => pax.read(&self.whole(PAX_BYTES_MAX, "an extended header")?)?,
                b'g' => Pax::default().read(&self.whole(PAX_BYTES_MAX, "a global header")?)?,
                b'L' => long_name = Some(until_nul(self.whole(PATH_BYTES_MAX + 1, "a long name")?)),
                b'K' => long_link = Some(until_nul(self.whole(PATH_BYTES_MAX + 1, "a long link")?)),
                _ => return self.entry(&block, header, pax, long_name, long_link).map(Some),
            }
        }
        Err(broken("too many extended headers before one entry"))
    }

    fn finish(&mut self) -> Result<()> {
        match self.block()? {
            Some(block) if block.iter().any(|byte| *byte != 0) => return Err(broken("something follows its end mark")),
            _ => {}
        }
        let mut passed = 0;
        loop {
            passed += (self.end - self.start) as u64;
            self.start = self.end;
            if passed > TRAILER_BYTES_MAX {
                return Err(broken("too much follows its end mark"));
            }
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: Header,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let name = pax
            .sparse
            .name
            .take()
            .or(pax.path.take())
            .or(long_name)
            .unwrap_or(header.path);
        let own = [
            (pax.own_whiteout.take(), Meaning::Whiteout),
            (pax.own_opaque.take(), Meaning::Opaque),
            (pax.own_path.take(), Meaning::Literal),
        ];
        let own = own
            .into_iter()
            .find_map(|(path, meaning)| path.map(|path| (path, meaning)));
        let (path, meaning) = own.unwrap_or((name, Meaning::Layer));
        let link = pax
            .own_link
            .take()
            .or(pax.link.take())
            .or(long_link)
            .unwrap_or(header.link);
        let mut kind = header.kind;
        if matches!(kind, b'\0' | b'7') {
            kind = b'0';
        }
        if kind == b'0' && path.ends_with(b"/") {
            kind = b'5';
        }
        // These have no content, whatever their size says, and what would follow must be a header.
        let has_content = !(b'1'..=b'6').contains(&kind);
        self.left = if has_content {
            pax.size.unwrap_or(header.size)
        } else {
            0
        };
        self.padding = padding(self.left);
        let mut entry = Entry {
            path,
            meaning,
            kind,
            link,
            mode: header.mode,
            uid: pax.uid.map_or(header.uid, Ok)?,
            gid: pax.gid.map_or(header.gid, Ok)?,
            size: self.left,
            modified: pax.modified.map_or(header.modified, Ok)?,
            attributes: std::mem::take(&mut pax.attributes),
            pieces: None,
        };
        if kind == b'S' || (kind == b'0' && pax.sparse.is_sparse()) {
            self.sparse(block, &pax.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    fn sparse(&mut self, block: &[u8; BLOCK], pax: &pax::Sparse, entry: &mut Entry) -> Result<()> {
        let wrong = |why: &str| invalid(&entry.path, why);
        let (pieces, size) = if entry.kind == b'S' {
            (self.old_pieces(block)?, number(&block[483..495]).ok())
        } else if pax.is_in_content() {
            (self.pieces_in_content()?, pax.size)
        } else {
            let pieces = pax.pieces().ok_or_else(|| wrong("its map of holes is broken"))?;
            (pieces, pax.size)
        };
        let size = size.ok_or_else(|| wrong("its size with holes is missing or broken"))?;
        let mut at = 0u64;
        let mut data = 0u64;
        for (offset, length) in &pieces {
            let end = offset.checked_add(*length).filter(|end| *offset >= at && *end <= size);
            at = end.ok_or_else(|| wrong("its map of holes is broken"))?;
            data += length;
        }
        if data != self.left {
            return Err(wrong("its map of holes does not fit its content"));
        }
        entry.kind = b'0';
        entry.size = size;
        entry.pieces = Some(pieces);
        Ok(())
    }

    /// GNU's old format: four pieces in the header, then blocks of 21.
    fn old_pieces(&mut self, block: &[u8; BLOCK]) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        take_pieces(&block[386..482], &mut pieces)?;
        let mut goes_on = block[482] != 0;
        while goes_on {
            let more = self.block()?.ok_or_else(|| broken("it ends within a map of holes"))?;
            take_pieces(&more[..504], &mut pieces)?;
            goes_on = more[504] != 0;
        }
        Ok(pieces)
    }

    /// Format 1.0: decimal numbers, one a line, in whole blocks before the content.
    fn pieces_in_content(&mut self) -> Result<Vec<Piece>> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            let mut digits = Vec::with_capacity(20);
            loop {
                if at == BLOCK {
                    let left = self.left.checked_sub(BLOCK as u64);
                    let left = left.ok_or_else(|| broken("a map of holes is longer than its file"))?;
                    block = self.block()?.ok_or_else(|| broken("it ends within a map of holes"))?;
                    self.left = left;
                    at = 0;
                }
                at += 1;
                match block[at - 1] {
                    b'\n' => break,
                    digit if digit.is_ascii_digit() && digits.len() < 20 => digits.push(digit),
                    _ => return Err(broken("a map of holes is no list of numbers")),
                }
            }
            let value = pax::decimal(&digits).ok_or_else(|| broken("a map of holes is no list of numbers"))?;
            if numbers.is_empty() {
                if value > PIECES_MAX as u64 {
                    return Err(Error::new(code::LIMIT, "a file has more holes than are taken"));
                }
                wanted = 1 + 2 * value as usize;
            }
            numbers.push(value);
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn take_pieces(fields: &[u8], pieces: &mut Vec<Piece>) -> Result<()> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        if pieces.len() >= PIECES_MAX {
            return Err(Error::new(code::LIMIT, "a file has more holes than are taken"));
        }
        pieces.push((number(&field[..12])?, number(&field[12..])?));
    }
    Ok(())
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// What stands in the block itself. Numbers that a pax record may replace are judged only when they are used.
struct Header {
    path: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    mode: u32,
    uid: Result<u32>,
    gid: Result<u32>,
    size: u64,
    modified: Result<Time>,
}

fn field(block: &[u8]) -> &[u8] {
    let end = block.iter().position(|byte| *byte == 0).unwrap_or(block.len());
    &block[..end]
}

impl Header {
    fn read(block: &[u8; BLOCK]) -> Result<Header> {
        let said = signed(&block[148..156])?;
        let is_sum = |at: usize| (148..156).contains(&at);
        let bytes = || {
            block
                .iter()
                .enumerate()
                .map(|(at, byte)| if is_sum(at) { b' ' } else { *byte })
        };
        let unsigned_sum: i64 = bytes().map(i64::from).sum();
        let signed_sum: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
        if said != unsigned_sum && said != signed_sum {
            return Err(broken("a header's checksum is wrong"));
        }
        let mut path = Vec::new();
        if &block[257..263] == b"ustar\0" && block[345] != 0 {
            path.extend_from_slice(field(&block[345..500]));
            path.push(b'/');
        }
        path.extend_from_slice(field(&block[..100]));
        let owner = |bytes: &[u8]| number(bytes).and_then(|value| owner(value).ok_or_else(|| broken("an owner's id")));
        Ok(Header {
            path,
            kind: block[156],
            link: field(&block[157..257]).to_vec(),
            mode: (number(&block[100..108])? & 0o7777) as u32,
            uid: owner(&block[108..116]),
            gid: owner(&block[116..124]),
            size: number(&block[124..136])?,
            modified: signed(&block[136..148]).map(|seconds| (seconds, 0)),
        })
    }
}

/// 2³²−1 would mean "leave it" to the system.
pub fn owner(value: u64) -> Option<u32> {
    u32::try_from(value).ok().filter(|id| *id != u32::MAX)
}

fn number(field: &[u8]) -> Result<u64> {
    u64::try_from(signed(field)?).map_err(|_| broken("a number is negative"))
}

/// Octal, or GNU's base 256 for what octal cannot say.
fn signed(field: &[u8]) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        let is_negative = field[0] & 0x40 != 0;
        let mut value: i128 = if is_negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = match (at, is_negative) {
                (0, false) => byte & 0x7f,
                _ => *byte,
            };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| broken("a number is too large"));
    }
    let text: &[u8] = &field[field.iter().position(|byte| *byte != b' ').unwrap_or(field.len())..];
    let end = text
        .iter()
        .position(|byte| matches!(byte, b' ' | 0))
        .unwrap_or(text.len());
    let mut value = 0i64;
    for digit in &text[..end] {
        if !(b'0'..=b'7').contains(digit) {
            return Err(broken("a number is not octal"));
        }
        value = value << 3 | i64::from(digit - b'0');
    }
    Ok(value)
}

/// Only for its messages: what the type flag `kind` would be.
pub fn unknown(path: &[u8], kind: u8) -> Error {
    invalid(
        path,
        &format!("its type '{}' is not known", (kind as char).escape_default()),
    )
}

impl Entry {
    pub fn context<T>(&self, what: &str, result: io::Result<T>) -> Result<T> {
        result.context(format_args!("{} {}", what, shown(&self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_never_wrap() {
        assert_eq!(signed(b"0000644\0").unwrap(), 0o644);
        assert_eq!(signed(b"  644 \0\0").unwrap(), 0o644);
        assert_eq!(signed(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(signed(b"\x80\0\0\0\0\0\x01\0").unwrap(), 256);
        assert_eq!(signed(b"\xff\xff\xff\xff\xff\xff\xff\xfe").unwrap(), -2);
        assert!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe").is_err());
        assert!(signed(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(signed(b"0000648\0").is_err());
        assert_eq!(signed(b"777777777777").unwrap(), 0o777777777777);
    }

    #[test]
    fn a_path_is_its_names_and_never_leads_up() {
        assert_eq!(parts(b"/./a//b/.").unwrap(), [b"a", b"b"]);
        assert!(parts(b"./").unwrap().is_empty());
        for bad in [&b"a/../b"[..], b"..", b"a\0b", &[b'x'; 256]] {
            assert!(parts(bad).is_err());
        }
        assert!(parts(&b"a/".repeat(DEPTH_MAX + 1)).is_err());
    }
}
