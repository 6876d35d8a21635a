//! The frame codec of the guest wire and of the helper protocol.
//!
//! A frame is `u32 length, u8 kind, u32 channel, payload`, little-endian; `length` counts what follows it. Nothing here
//! allocates by a length that a peer merely claims: a decoder holds bytes that really arrived, a list grows item by item.
//!
//! ```
//! use delta::wire::{self, FrameDecoder};
//! let mut out = Vec::new();
//! wire::put_frame(&mut out, wire::PING, 0, |w| w.u64(7));
//! let mut decoder = FrameDecoder::new(wire::to_guest);
//! decoder.push(&out);
//! let frame = decoder.next_frame().unwrap().unwrap();
//! assert_eq!((frame.kind, frame.reader().u64()), (wire::PING, Ok(7)));
//! ```

use std::fmt;

pub const MAGIC: &[u8] = b"DELTA1";
pub const VERSION: u32 = 1;
/// Bytes of `length`, `kind` and `channel`.
pub const HEADER_BYTES: usize = 9;
/// Largest payload of a host's OPEN.
pub const MAX_OPEN_BYTES: usize = 4 << 20;
/// Largest payload of every other frame.
pub const MAX_PAYLOAD_BYTES: usize = (64 << 10) + 64;
/// Most raw bytes this side puts in one DATA frame.
pub const DATA_BYTES: usize = 64 << 10;
/// Bytes of `stream` and `offset` before the raw bytes of a DATA frame.
pub const DATA_HEADER_BYTES: usize = 9;
/// Credit each direction of a channel starts with.
pub const INITIAL_CREDIT_BYTES: u64 = 1 << 20;
/// What a channel may send to a host that starts small: it gives more as it has room.
pub const SMALL_CREDIT_BYTES: u64 = 16 << 10;
/// A feature both sides name in HELLO: channels start with `SMALL_CREDIT_BYTES` towards the host.
pub const STARTS_SMALL: u64 = 1;
pub const MAX_CHANNELS: usize = 1024;
pub const MAX_CONNECTIONS: usize = 8;
pub const MAX_PATH_BYTES: usize = 4096;
pub const MAX_NAME_BYTES: usize = 255;

pub const HELLO: u8 = 1;
pub const OPEN: u8 = 2;
pub const OPENED: u8 = 3;
pub const DATA: u8 = 4;
pub const CREDIT: u8 = 5;
pub const END: u8 = 6;
pub const CLOSE: u8 = 7;
pub const CANCEL: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const CONTROL: u8 = 11;

/// What an OPEN asks for.
pub mod op {
    pub const EXEC: u8 = 1;
    pub const ATTACH: u8 = 2;
    pub const EXECS: u8 = 3;
    pub const SIGNAL: u8 = 4;
    pub const FORGET: u8 = 5;
    pub const STAT: u8 = 10;
    pub const LIST: u8 = 11;
    pub const READ: u8 = 12;
    pub const WRITE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const MOVE: u8 = 15;
    pub const REMOVE: u8 = 16;
    pub const CHMOD: u8 = 17;
    pub const WATCH: u8 = 18;
    pub const DIAL: u8 = 20;
    pub const EGRESS: u8 = 21;
    pub const METRICS: u8 = 30;
    pub const SYNC: u8 = 31;
    pub const CLOCK: u8 = 32;
    pub const MEMORY: u8 = 33;
}

/// How a connection to the outside came to the guest: the last field of EGRESS.
pub mod via {
    pub const CONNECT: u8 = 1;
    pub const HTTP: u8 = 2;
    pub const TCP: u8 = 3;
}

/// The stream of a DATA frame.
pub mod stream {
    pub const INPUT: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const RECORDS: u8 = 3;
}

/// The `kind` of a CONTROL frame.
pub mod control {
    pub const SIGNAL: u8 = 1;
    pub const RESIZE: u8 = 2;
    pub const CLOSE_STDIN: u8 = 3;
}

/// The `code` of a CLOSE, and of the helper's answers.
pub mod code {
    pub const OK: u16 = 0;
    pub const NOT_FOUND: u16 = 1;
    pub const EXISTS: u16 = 2;
    pub const NOT_A_DIRECTORY: u16 = 3;
    pub const IS_A_DIRECTORY: u16 = 4;
    pub const NOT_EMPTY: u16 = 5;
    pub const PERMISSION_DENIED: u16 = 6;
    pub const NO_SPACE: u16 = 7;
    pub const TOO_LARGE: u16 = 8;
    pub const NAME_TOO_LONG: u16 = 9;
    pub const SYMLINK_LOOP: u16 = 10;
    pub const INVALID: u16 = 11;
    pub const IO: u16 = 12;
    pub const BUSY: u16 = 13;
    pub const LIMIT: u16 = 14;
    pub const UNKNOWN_EXEC: u16 = 15;
    pub const UNKNOWN_USER: u16 = 16;
    pub const PRECONDITION_FAILED: u16 = 17;
    pub const CANCELED: u16 = 18;
    pub const NOT_SUPPORTED: u16 = 19;
    pub const CONNECTION_REFUSED: u16 = 20;
    pub const TIMED_OUT: u16 = 21;
    pub const NOT_EXECUTABLE: u16 = 22;
    pub const NOT_A_FILE: u16 = 23;
}

/// Why bytes are not what the protocol says. Each ends the connection (`protocol_error`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// `length` is below the 5 bytes of kind and channel.
    FrameTooShort,
    /// `length` is above what its kind may have.
    FrameTooLarge,
    UnknownKind,
    /// A field reaches past the end of its payload.
    Truncated,
    BadUtf8,
    /// A field has a value the protocol does not know: a flag byte of `opt` that is neither 0 nor 1, an unknown op.
    BadValue,
}

impl WireError {
    /// The name used in `vectors/wire.json`.
    pub fn name(self) -> &'static str {
        match self {
            WireError::FrameTooShort => "frame_too_short",
            WireError::FrameTooLarge => "frame_too_large",
            WireError::UnknownKind => "unknown_type",
            WireError::Truncated => "truncated",
            WireError::BadUtf8 => "bad_utf8",
            WireError::BadValue => "bad_value",
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for WireError {}

/// The largest payload a frame of this kind may have, or None where the kind is unknown.
pub type Rules = fn(kind: u8) -> Option<usize>;

/// The rules of frames from the host to the guest.
pub fn to_guest(kind: u8) -> Option<usize> {
    match kind {
        OPEN => Some(MAX_OPEN_BYTES),
        HELLO..=CONTROL => Some(MAX_PAYLOAD_BYTES),
        _ => None,
    }
}

/// The rules of frames from the guest to the host.
pub fn to_host(kind: u8) -> Option<usize> {
    match kind {
        HELLO..=CONTROL => Some(MAX_PAYLOAD_BYTES),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u8,
    pub channel: u32,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub fn reader(&self) -> Reader<'a> {
        Reader::new(self.payload)
    }
}

/// Cuts a byte stream into frames. Holds at most one frame's allowed size plus what one `push` or `fill` brought; after an
/// error every further call repeats that error.
pub struct FrameDecoder {
    rules: Rules,
    bytes: Vec<u8>,
    /// Where the first undecoded byte lies.
    start: usize,
    error: Option<WireError>,
}

impl FrameDecoder {
    pub fn new(rules: Rules) -> FrameDecoder {
        FrameDecoder { rules, bytes: Vec::new(), start: 0, error: None }
    }

    pub fn push(&mut self, chunk: &[u8]) {
        self.compact();
        self.bytes.extend_from_slice(chunk);
    }

    /// Lets `read` put up to `space_bytes` straight into the buffer, as read(2) does: it is given a pointer and a size and
    /// returns the count it wrote, or 0 or less. Saves a copy of every byte that `push` would make.
    ///
    /// # Safety
    /// `read` must have initialised as many bytes as it returns.
    pub unsafe fn fill(&mut self, space_bytes: usize, read: impl FnOnce(*mut u8, usize) -> isize) -> isize {
        self.compact();
        self.bytes.reserve(space_bytes);
        let length = self.bytes.len();
        let count = read(self.bytes.as_mut_ptr().add(length), space_bytes);
        if count > 0 {
            debug_assert!(count as usize <= space_bytes);
            self.bytes.set_len(length + count as usize);
        }
        count
    }

    /// The next whole frame, or None until more bytes come.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let rest = &self.bytes[self.start..];
        if rest.len() < 4 {
            return Ok(None);
        }
        let length = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < HEADER_BYTES - 4 {
            return self.fail(WireError::FrameTooShort);
        }

        if rest.len() < 5 {
            return Ok(None);
        }
        let kind = rest[4];
        let limit = match (self.rules)(kind) {
            Some(limit) => limit,
            None => return self.fail(WireError::UnknownKind),
        };
        if length - (HEADER_BYTES - 4) > limit {
            return self.fail(WireError::FrameTooLarge);
        }
        if rest.len() < 4 + length {
            return Ok(None);
        }
        let from = self.start;
        self.start += 4 + length;
        let whole = &self.bytes[from..self.start];
        Ok(Some(Frame {
            kind,
            channel: u32::from_le_bytes([whole[5], whole[6], whole[7], whole[8]]),
            payload: &whole[HEADER_BYTES..],
        }))
    }

    /// Bytes that arrived and are not decoded yet.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Gives the buffer's memory back when nothing is waiting in it.
    pub fn release(&mut self) {
        if self.buffered_bytes() == 0 {
            self.bytes = Vec::new();
            self.start = 0;
        }
    }

    fn fail<T>(&mut self, error: WireError) -> Result<T, WireError> {
        self.error = Some(error);
        Err(error)
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

/// Appends one frame to `out`; `fields` writes the payload.
pub fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u32, fields: impl FnOnce(&mut Writer<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    out.extend_from_slice(&channel.to_le_bytes());
    fields(&mut Writer::new(out));
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Writes payload fields to the end of a buffer.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    /// `u32 length` and the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.raw(value);
    }

    pub fn str(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// `u32 count` and each item by `write`.
    pub fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Writer<'_>, &T)) {
        self.u32(items.len() as u32);
        for item in items {
            write(self, item);
        }
    }

    /// `0`, or `1` and the value by `write`.
    pub fn opt<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer<'_>, T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
        }
    }

    /// Bytes as they are, without a length: the tail of a DATA frame.
    pub fn raw(&mut self, value: &[u8]) {
        self.out.extend_from_slice(value);
    }
}

/// Reads payload fields; each returns `Truncated` rather than read past the end.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Reader<'a> {
        Reader { rest: payload }
    }

    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub fn str(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::BadUtf8)
    }

    /// Every item takes at least one byte, so a count above the rest is a lie and found at once.
    pub fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.u32()? as usize;
        if count > self.rest.len() {
            return Err(WireError::Truncated);
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    pub fn opt<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(WireError::BadValue),
        }
    }

    /// Everything that is left: the tail of a DATA frame, or fields of a later minor version.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        if count > self.rest.len() {
            return Err(WireError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, PING, 0, |w| w.u64(number));
        out
    }

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let mut bytes = ping(1);
        bytes.extend(ping(2));
        for cut in 0..bytes.len() {
            let mut decoder = FrameDecoder::new(to_guest);
            let mut seen = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame.reader().u64().unwrap());
                }
            }
            assert_eq!(seen, [1, 2], "cut at {cut}");
            assert_eq!(decoder.buffered_bytes(), 0);
        }
    }

    #[test]
    fn a_claimed_length_is_refused_before_its_bytes_come() {
        let mut decoder = FrameDecoder::new(to_guest);
        decoder.push(&[0xff, 0xff, 0xff, 0xff, DATA]);
        assert_eq!(decoder.next_frame(), Err(WireError::FrameTooLarge));
        decoder.push(&ping(1));
        assert_eq!(decoder.next_frame(), Err(WireError::FrameTooLarge));
    }

    #[test]
    fn each_direction_has_its_limit() {
        let frame = |kind: u8, payload: usize| {
            let mut bytes = (payload as u32 + 5).to_le_bytes().to_vec();
            bytes.push(kind);
            bytes
        };
        let outcome = |rules: Rules, bytes: Vec<u8>| {
            let mut decoder = FrameDecoder::new(rules);
            decoder.push(&bytes);
            decoder.next_frame().map(|frame| frame.is_some())
        };
        assert_eq!(outcome(to_guest, frame(OPEN, MAX_OPEN_BYTES)), Ok(false));
        assert_eq!(outcome(to_guest, frame(OPEN, MAX_OPEN_BYTES + 1)), Err(WireError::FrameTooLarge));
        assert_eq!(outcome(to_host, frame(OPEN, MAX_OPEN_BYTES)), Err(WireError::FrameTooLarge));
        assert_eq!(outcome(to_host, frame(DATA, MAX_PAYLOAD_BYTES)), Ok(false));
        assert_eq!(outcome(to_host, frame(DATA, MAX_PAYLOAD_BYTES + 1)), Err(WireError::FrameTooLarge));
        assert_eq!(outcome(to_host, frame(12, 0)), Err(WireError::UnknownKind));
        assert_eq!(outcome(to_host, frame(0, 0)), Err(WireError::UnknownKind));
    }

    #[test]
    fn fields_come_back_as_written() {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.u8(1);
        w.u16(2);
        w.u32(3);
        w.u64(u64::MAX);
        w.i64(-5);
        w.str("héllo");
        w.list(&["a", "b"], |w, item| w.str(item));
        w.opt(Some(9u16), |w, value| w.u16(value));
        w.opt(None::<u16>, |w, value| w.u16(value));
        w.raw(b"tail");
        let mut r = Reader::new(&out);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u16(), Ok(2));
        assert_eq!(r.u32(), Ok(3));
        assert_eq!(r.u64(), Ok(u64::MAX));
        assert_eq!(r.i64(), Ok(-5));
        assert_eq!(r.str(), Ok("héllo"));
        assert_eq!(r.list(|r| r.str()), Ok(vec!["a", "b"]));
        assert_eq!(r.opt(|r| r.u16()), Ok(Some(9)));
        assert_eq!(r.opt(|r| r.u16()), Ok(None));
        assert_eq!(r.rest(), b"tail");
        assert_eq!(r.u8(), Err(WireError::Truncated));
    }

    #[test]
    fn lies_about_lengths_are_found() {
        assert_eq!(Reader::new(&[255, 255, 255, 255, 1]).bytes(), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[255, 255, 255, 255, 1]).list(|r| r.u8()), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[2]).opt(|r| r.u8()), Err(WireError::BadValue));
        assert_eq!(Reader::new(&[1, 0, 0, 0, 0xff]).str(), Err(WireError::BadUtf8));
    }
}
