//! One host connection: what it sent and is not decoded, what it is to get, and its channels.

use super::files::{ListState, ReadState, WriteState};
use super::poll::Source;
use super::sys;
use crate::wire::{self, FrameDecoder, Writer, INITIAL_CREDIT_BYTES};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::io::RawFd;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

/// With this much waiting to be sent, streams wait their turn: what they hold stays where it is bounded.
pub const BULK_BYTES: usize = 512 << 10;
/// With this much, the host does not read at all, and nothing more is read from it either.
pub const FULL_BYTES: usize = 4 << 20;
const PIECE_BYTES: usize = 32 << 10;
const MAX_PARTS: usize = 32;
/// Spares are kept while channels are open: half of what may wait to be sent in bulk.
const MAX_SPARES: usize = 4;
const MAX_SPARE_BYTES: usize = 128 << 10;

#[derive(Default)]
pub struct Outbox {
    pieces: VecDeque<Vec<u8>>,
    /// Empty ones to use again: fresh memory for every piece would cost as much as the bytes it carries.
    spare: Vec<Vec<u8>>,
    /// Bytes of the first piece that were sent.
    sent: usize,
    bytes: usize,
}

impl Outbox {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives memory back that is kept for more to come.
    pub fn release(&mut self) {
        self.spare = Vec::new();
    }

    pub fn frame(&mut self, kind: u8, channel: u32, fields: impl FnOnce(&mut Writer<'_>)) {
        if self.pieces.back().map_or(true, |piece| piece.len() >= PIECE_BYTES) {
            let piece = self.spare.pop().unwrap_or_default();
            self.pieces.push_back(piece);
        }
        if let Some(piece) = self.pieces.back_mut() {
            let before = piece.len();
            wire::put_frame(piece, kind, channel, fields);
            self.bytes += piece.len() - before;
        }
    }

    /// A DATA frame whose bytes `read` puts straight where they are sent from, at most `limit` of them: it is given a pointer and
    /// a size and returns the count, as read(2) does. Without bytes there is no frame.
    ///
    /// # Safety
    /// `read` must have initialised as many bytes as it returns.
    pub unsafe fn data_of(
        &mut self,
        channel: u32,
        stream: u8,
        offset: u64,
        limit: usize,
        read: impl FnOnce(*mut u8, usize) -> isize,
    ) -> isize {
        if self.pieces.back().map_or(true, |piece| piece.len() >= PIECE_BYTES) {
            let piece = self.spare.pop().unwrap_or_default();
            self.pieces.push_back(piece);
        }
        let piece = match self.pieces.back_mut() {
            Some(piece) => piece,
            None => return 0,
        };
        let before = piece.len();
        piece.reserve(wire::HEADER_BYTES + wire::DATA_HEADER_BYTES + limit);
        wire::put_frame(piece, wire::DATA, channel, |w| {
            w.u8(stream);
            w.u64(offset);
        });
        let length = piece.len();
        let count = read(piece.as_mut_ptr().add(length), limit);
        if count > 0 {
            debug_assert!(count as usize <= limit);
            piece.set_len(length + count as usize);
            let claimed = (piece.len() - before - 4) as u32;
            piece[before..before + 4].copy_from_slice(&claimed.to_le_bytes());
            self.bytes += piece.len() - before;
        } else {
            piece.truncate(before);
            if before == 0 {
                self.spare.extend(self.pieces.pop_back());
            }
        }
        count
    }

    /// Whole frames that a worker made.
    pub fn frames(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.pieces.push_back(bytes);
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self, fd: RawFd) -> io::Result<()> {
        while self.bytes > 0 {
            let mut parts = Vec::new();
            for (index, piece) in self.pieces.iter().take(MAX_PARTS).enumerate() {
                let rest = &piece[if index == 0 { self.sent } else { 0 }..];
                parts.push(sys::iovec { base: rest.as_ptr().cast(), length: rest.len() });
            }
            let mut count = match sys::write_parts(fd, &parts) {
                Ok(count) => count,
                Err(error) if sys::errno(&error) == sys::EINTR => continue,
                Err(error) if sys::errno(&error) == sys::EAGAIN => return Ok(()),
                Err(error) => return Err(error),
            };
            self.bytes -= count;
            while let Some(first) = self.pieces.front() {
                let rest = first.len() - self.sent;
                if count < rest {
                    self.sent += count;
                    break;
                }
                count -= rest;
                self.sent = 0;
                let done = self.pieces.pop_front();
                self.spare.extend(done.filter(|piece| piece.capacity() <= MAX_SPARE_BYTES && self.spare.len() < MAX_SPARES).map(
                    |mut piece| {
                        piece.clear();
                        piece
                    },
                ));
            }
        }
        Ok(())
    }
}

pub enum Role {
    /// Follows an exec. `opened`: OPENED went out. `close_at`: the offset after which the exit is told.
    Exec {
        key: u64,
        stdin: bool,
        opened: bool,
        close_at: Option<u64>,
    },
    /// Waits for an exec to have started, and closes.
    Start {
        key: u64,
    },
    /// One job of a worker, answered by CLOSE.
    Job {
        cancel: Arc<AtomicBool>,
    },
    Read(ReadState),
    Write(WriteState),
    List(ListState),
    Watch {
        id: u64,
    },
    Dial {
        id: u64,
    },
    /// Opened by this side for a connection to the outside.
    Egress {
        id: u64,
    },
    /// Opened by this side and needed no more; the host has not closed it yet.
    Left,
}

pub struct Channel {
    pub role: Role,
    /// It is in its connection's `ready` list.
    pub queued: bool,
    /// DATA bytes that may still be sent.
    pub credit: u64,
    /// The offset of the next DATA byte sent.
    pub sent: u64,
    /// DATA bytes the host may still send.
    pub allowance: u64,
    /// The offset of the next DATA byte expected.
    pub received: u64,
}

impl Channel {
    /// `credit`: DATA bytes it may send before it is given more.
    fn new(role: Role, credit: u64) -> Channel {
        Channel {
            role,
            queued: false,
            credit,
            sent: 0,
            allowance: INITIAL_CREDIT_BYTES,
            received: 0,
        }
    }
}

pub struct Connection {
    pub source: Source,
    pub decoder: FrameDecoder,
    pub outbox: Outbox,
    pub channels: HashMap<u32, Channel>,
    /// Channels that may have something to send, in turn.
    pub ready: VecDeque<u32>,
    /// The highest channel the host opened.
    pub highest: u32,
    /// The highest channel this side opened.
    pub highest_own: u32,
    pub greeted: bool,
    /// What its channels may send at first.
    pub start_credit: u64,
    /// It is in the loop's list of connections to flush.
    pub dirty: bool,
    /// Bytes the last read brought, to size the next.
    pub last_read: usize,
}

impl Connection {
    pub fn new(source: Source) -> Connection {
        Connection {
            source,
            decoder: FrameDecoder::new(wire::to_guest),
            outbox: Outbox::default(),
            channels: HashMap::new(),
            ready: VecDeque::new(),
            highest: 0,
            highest_own: 0,
            greeted: false,
            start_credit: INITIAL_CREDIT_BYTES,
            dirty: false,
            last_read: 0,
        }
    }

    pub fn add_channel(&mut self, channel: u32, role: Role) {
        self.channels.insert(channel, Channel::new(role, self.start_credit));
    }
}
