//! A connection of a program inside, joined to a channel: bytes both ways, each way ending by itself.

use super::body::Body;
use super::door::status_of;
use super::http;
use crate::guest::connection::Role;
use crate::guest::poll::{Source, Timer};
use crate::guest::serve::{At, Guest, SCRATCH_BYTES};
use crate::guest::sys::{self, EPOLLIN, EPOLLOUT};
use crate::wire::{self, code, stream, DATA_BYTES, INITIAL_CREDIT_BYTES};
use std::collections::VecDeque;

/// How long a program may take to read the end of its answer, and what it may still send meanwhile.
const LINGER_MS: u64 = 2_000;
const LINGER_BYTES: usize = 4 << 20;
/// Credit is given back in lumps: a small frame wakes the host and costs it as much as reading tens of KiB.
const CREDIT_LUMP_BYTES: u64 = INITIAL_CREDIT_BYTES / 4;
const OPENED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

pub struct Outgoing {
    pub source: Source,
    pub stage: Stage,
    pub speech: Speech,
    /// None before it was asked for and after the channel ended.
    pub at: Option<At>,
    /// For the server, once there is one.
    pub early: Vec<u8>,
    /// What of the request is still to come; None where everything is for the server.
    pub body: Option<Body>,
    /// More came than the request: nothing is read any more.
    pub surplus: bool,
    /// Bytes for the program, bounded by the channel's credit.
    queue: VecDeque<Vec<u8>>,
    written: usize,
    /// Of the bytes that went out, those the host was not given credit for.
    owed: u64,
    /// The program has got something of the server's.
    answered: bool,
    /// The program ended its side, and the host was told.
    local_ended: bool,
    /// The host ended its side, and the program was told.
    host_ended: bool,
    shut: bool,
    timer_ms: Option<u64>,
}

pub enum Stage {
    Head {
        bytes: Vec<u8>,
        /// As far as it was looked through.
        seen: usize,
    },
    /// The host was asked.
    Asked,
    Open,
    /// Everything is said. It is closed when the program has seen that: at once, the kernel would throw away what the program
    /// has not read where it has sent more itself.
    Linger {
        dropped: usize,
    },
}

/// How the program hears that there is no connection.
pub enum Speech {
    Tunnel,
    Request {
        without_answer_body: bool,
    },
    /// It knows of no proxy.
    Silent,
}

impl Outgoing {
    pub fn new(source: Source, stage: Stage, speech: Speech) -> Outgoing {
        Outgoing {
            source,
            stage,
            speech,
            at: None,
            early: Vec::new(),
            body: None,
            surplus: false,
            queue: VecDeque::new(),
            written: 0,
            owed: 0,
            answered: false,
            local_ended: false,
            host_ended: false,
            shut: false,
            timer_ms: None,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    fn is_whole(&self) -> bool {
        self.body.as_ref().map_or(true, Body::is_done)
    }

    /// Writes what there is; the bytes that went out.
    fn write(&mut self) -> std::io::Result<usize> {
        let mut total = 0;
        while let Some(first) = self.queue.front() {
            match sys::write_fd(self.source.fd(), &first[self.written..]) {
                Ok(count) => {
                    total += count;
                    self.written += count;
                    if self.written == first.len() {
                        self.written = 0;
                        self.queue.pop_front();
                    }
                }
                Err(error) if sys::errno(&error) == sys::EINTR => {}
                Err(error) if sys::errno(&error) == sys::EAGAIN => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Writes straight from the frame where nothing waits before it, and keeps the rest.
    fn take(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut at = 0;
        if self.queue.is_empty() && self.is_open() {
            match sys::write_fd(self.source.fd(), bytes) {
                Ok(count) => at = count,
                Err(error) if sys::would_block(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let rest = &bytes[at..];
        match self.queue.back_mut() {
            _ if rest.is_empty() => {}
            // Many small frames would otherwise cost more than the bytes they bring.
            Some(last) if last.len() + rest.len() <= SCRATCH_BYTES => last.extend_from_slice(rest),
            _ => self.queue.push_back(rest.to_vec()),
        }
        Ok(at)
    }
}

impl Guest {
    pub fn on_outgoing(&mut self, id: u64, events: u32) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing,
            None => return,
        };
        match &outgoing.stage {
            Stage::Head { .. } => self.read_head(id),
            // Nothing but its end was waited for.
            Stage::Asked => self.give_up(id),
            Stage::Linger { .. } => self.drop_more(id),
            Stage::Open => {
                if events & EPOLLOUT != 0 {
                    self.write_outgoing(id);
                }
                if events & !EPOLLOUT != 0 {
                    self.let_read(id);
                }
            }
        }
    }

    /// Until its turn has come it is not waited for: the event would repeat without end.
    fn let_read(&mut self, id: u64) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing,
            None => return,
        };
        match outgoing.at {
            Some(at) => {
                drop(outgoing.source.want(if outgoing.queue.is_empty() { 0 } else { EPOLLOUT }));
                self.want_to_send(at);
            }
            // The channel is over and only the program's reading is waited for, which an error ends.
            None => self.reset_outgoing(id),
        }
    }

    pub fn on_egress_opened(&mut self, id: u64) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) if matches!(outgoing.stage, Stage::Asked) => outgoing,
            _ => return,
        };
        outgoing.stage = Stage::Open;
        let early = std::mem::take(&mut outgoing.early);
        let at = outgoing.at;
        let is_tunnel = matches!(outgoing.speech, Speech::Tunnel);
        // Nothing was written before it, so there is room for it.
        if is_tunnel && !matches!(sys::write_fd(outgoing.source.fd(), OPENED), Ok(count) if count == OPENED.len()) {
            return self.give_up(id);
        }
        self.clear_outgoing_timer(id);
        if let Some(at) = at {
            for piece in early.chunks(DATA_BYTES) {
                self.send_data(at, stream::INPUT, piece);
            }
        }
        self.write_outgoing(id);
    }

    pub fn on_egress_data(&mut self, id: u64, bytes: &[u8]) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) if !outgoing.host_ended => outgoing,
            _ => return,
        };
        outgoing.answered = true;
        match outgoing.take(bytes) {
            Ok(count) => self.on_outgoing_written(id, count),
            Err(_) => self.give_up(id),
        }
    }

    pub fn on_egress_end(&mut self, id: u64) {
        if let Some(outgoing) = self.egress.outgoing.get_mut(&id) {
            outgoing.host_ended = true;
            if outgoing.is_open() {
                self.write_outgoing(id);
            }
        }
    }

    /// The host closed the channel, which is gone already.
    pub fn on_egress_closed(&mut self, id: u64, failure: u16, reason: &str) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing,
            None => return,
        };
        outgoing.at = None;
        let unanswered = !outgoing.answered && matches!(outgoing.speech, Speech::Request { .. });
        match outgoing.stage {
            Stage::Asked => self.refuse_outgoing(id, status_of(failure), reason),
            Stage::Open if failure == code::OK => {
                outgoing.host_ended = true;
                self.write_outgoing(id);
            }
            Stage::Open if unanswered => self.refuse_outgoing(id, status_of(failure), reason),
            Stage::Open => self.reset_outgoing(id),
            _ => {}
        }
    }

    /// The connection to the host ended, and the channel with it.
    pub fn lose_outgoing(&mut self, id: u64) {
        let over = self.egress.outgoing.get(&id).map_or(false, |outgoing| outgoing.host_ended && outgoing.local_ended);
        let failure = if over { code::OK } else { code::BUSY };
        self.on_egress_closed(id, failure, "The host's connection to this sandbox ended: try again.");
    }

    fn write_outgoing(&mut self, id: u64) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing,
            None => return,
        };
        match outgoing.write() {
            Ok(count) => self.on_outgoing_written(id, count),
            Err(_) => self.give_up(id),
        }
    }

    /// So many more bytes went out to the program.
    fn on_outgoing_written(&mut self, id: u64, count: usize) {
        if let Some(outgoing) = self.egress.outgoing.get_mut(&id) {
            outgoing.owed += count as u64;
            if outgoing.owed >= CREDIT_LUMP_BYTES {
                let owed = std::mem::take(&mut outgoing.owed);
                if let Some(at) = outgoing.at {
                    self.give_credit(at, owed);
                }
            }
        }
        self.update_outgoing(id);
    }

    /// One read from the program, straight into DATA; true where it may have more.
    pub fn pump_egress(&mut self, at: At, id: u64) -> bool {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) if outgoing.is_open() && !outgoing.local_ended && !outgoing.surplus => outgoing,
            _ => return false,
        };
        let fd = outgoing.source.fd();
        let everything = outgoing.body.is_none();
        let credit = self.channel(at).map_or(0, |channel| channel.credit).min(DATA_BYTES as u64) as usize;
        if credit == 0 {
            self.update_outgoing(id);
            return false;
        }
        let read = if everything { self.send_data_of(at, stream::INPUT, fd, credit) } else { self.pump_body(at, id, credit) };
        match read {
            Ok(0) => {
                self.on_local_end(at, id);
                false
            }
            Ok(_) => true,
            Err(error) if sys::would_block(&error) => {
                self.update_outgoing(id);
                false
            }
            Err(_) => {
                self.give_up(id);
                false
            }
        }
    }

    /// As `pump_egress`, but nothing behind the request goes out.
    fn pump_body(&mut self, at: At, id: u64, limit: usize) -> std::io::Result<usize> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH_BYTES, 0);
        let read = match self.egress.outgoing.get_mut(&id) {
            Some(Outgoing { source, body: Some(body), surplus, .. }) => {
                sys::read_fd(source.fd(), &mut scratch[..limit.min(SCRATCH_BYTES)]).and_then(|count| {
                    let taken = body.take(&scratch[..count]).ok_or_else(|| std::io::Error::from_raw_os_error(sys::EIO))?;
                    *surplus = taken < count;
                    Ok((count, taken))
                })
            }
            _ => Ok((0, 0)),
        };
        if let Ok((_, taken)) = read {
            if taken > 0 {
                self.send_data(at, stream::INPUT, &scratch[..taken]);
            }
        }
        self.scratch = scratch;
        read.map(|(count, _)| count)
    }

    fn on_local_end(&mut self, at: At, id: u64) {
        match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) if outgoing.is_whole() => outgoing.local_ended = true,
            // Half a request is none.
            _ => return self.give_up(id),
        }
        self.send(at.0, wire::END, at.1, |_| {});
        self.update_outgoing(id);
    }

    /// Waits for what can be used now, and closes what both sides have ended.
    fn update_outgoing(&mut self, id: u64) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) if outgoing.is_open() => outgoing,
            _ => return,
        };
        let at = outgoing.at;
        if outgoing.host_ended && outgoing.queue.is_empty() && !outgoing.shut {
            outgoing.shut = true;
            sys::shutdown_write(outgoing.source.fd());
        }
        // A server that has answered wants no more of the request.
        let has_answer = matches!(outgoing.speech, Speech::Request { .. });
        if outgoing.shut && (outgoing.local_ended || at.is_none() || has_answer) {
            return self.finish_outgoing(id);
        }
        let reads = !outgoing.local_ended && !outgoing.surplus;
        let mut interest = if outgoing.queue.is_empty() { 0 } else { EPOLLOUT };
        if reads && at.map_or(false, |at| self.channel(at).map_or(false, |channel| channel.credit > 0)) {
            interest |= EPOLLIN;
        }
        if let Some(outgoing) = self.egress.outgoing.get_mut(&id) {
            drop(outgoing.source.want(interest));
        }
    }

    fn finish_outgoing(&mut self, id: u64) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing,
            None => return,
        };
        let (local_ended, is_whole) = (outgoing.local_ended, outgoing.is_whole());
        if let Some(at) = outgoing.at.take() {
            if !local_ended {
                self.send(at.0, if is_whole { wire::END } else { wire::CANCEL }, at.1, |_| {});
            }
            self.leave(at);
        }
        if local_ended {
            self.end_outgoing(id);
        } else {
            self.linger(id);
        }
    }

    /// The channel stays the host's until its CLOSE.
    fn leave(&mut self, at: At) {
        if let Some(channel) = self.channel(at) {
            channel.role = Role::Left;
        }
    }

    fn abandon_outgoing(&mut self, id: u64) {
        if let Some(at) = self.egress.outgoing.get_mut(&id).and_then(|outgoing| outgoing.at.take()) {
            self.send(at.0, wire::CANCEL, at.1, |_| {});
            self.leave(at);
        }
    }

    /// The program is gone, or speaks nonsense in the middle of its request.
    fn give_up(&mut self, id: u64) {
        self.abandon_outgoing(id);
        self.reset_outgoing(id);
    }

    /// Tells the program why there is no connection, in the way it understands.
    pub(super) fn refuse_outgoing(&mut self, id: u64, status: u16, reason: &str) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing,
            None => return,
        };
        let without_body = match outgoing.speech {
            Speech::Silent => return self.reset_outgoing(id),
            Speech::Tunnel => false,
            Speech::Request { without_answer_body } => without_answer_body,
        };
        // Nothing was written before it, so there is room for it.
        drop(sys::write_fd(outgoing.source.fd(), &http::refusal(status, reason, without_body)));
        self.linger(id);
    }

    fn linger(&mut self, id: u64) {
        self.egress.unasked.remove(&id);
        if let Some(outgoing) = self.egress.outgoing.get_mut(&id) {
            outgoing.stage = Stage::Linger { dropped: 0 };
            outgoing.queue = VecDeque::new();
            sys::shutdown_write(outgoing.source.fd());
            drop(outgoing.source.want(EPOLLIN));
        }
        self.set_outgoing_timer(id, LINGER_MS);
    }

    fn drop_more(&mut self, id: u64) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH_BYTES, 0);
        let goes_on = match self.egress.outgoing.get_mut(&id) {
            Some(Outgoing { source, stage: Stage::Linger { dropped }, .. }) => {
                match sys::read_fd(source.fd(), &mut scratch) {
                    Ok(count) => {
                        *dropped += count;
                        count > 0 && *dropped < LINGER_BYTES
                    }
                    Err(error) => sys::would_block(&error),
                }
            }
            _ => true,
        };
        self.scratch = scratch;
        if !goes_on {
            self.end_outgoing(id);
        }
    }

    pub fn on_outgoing_timeout(&mut self, id: u64) {
        match self.egress.outgoing.get_mut(&id) {
            None => return,
            Some(outgoing) => {
                outgoing.timer_ms = None;
                match &outgoing.stage {
                    Stage::Head { bytes, .. } if bytes.is_empty() => {}
                    Stage::Head { .. } => return self.refuse_outgoing(id, 408, "The request's head did not come in time."),
                    Stage::Asked => {
                        self.abandon_outgoing(id);
                        return self.refuse_outgoing(id, 504, "The host did not answer in time.");
                    }
                    Stage::Open => return,
                    Stage::Linger { .. } => {}
                }
            }
        }
        self.end_outgoing(id);
    }

    pub(super) fn set_outgoing_timer(&mut self, id: u64, after_ms: u64) {
        self.clear_outgoing_timer(id);
        if let Some(outgoing) = self.egress.outgoing.get_mut(&id) {
            let at_ms = sys::monotonic_ms() + after_ms;
            outgoing.timer_ms = Some(at_ms);
            self.timers.add(at_ms, Timer::Outgoing(id));
        }
    }

    fn clear_outgoing_timer(&mut self, id: u64) {
        if let Some(at_ms) = self.egress.outgoing.get_mut(&id).and_then(|outgoing| outgoing.timer_ms.take()) {
            self.timers.remove(at_ms, Timer::Outgoing(id));
        }
    }

    pub(super) fn end_outgoing(&mut self, id: u64) {
        self.clear_outgoing_timer(id);
        self.egress.unasked.remove(&id);
        self.egress.outgoing.remove(&id);
    }

    /// Ends it so that the program cannot take what it got for everything.
    fn reset_outgoing(&mut self, id: u64) {
        if let Some(outgoing) = self.egress.outgoing.get(&id) {
            sys::reset_on_close(outgoing.source.fd());
        }
        self.end_outgoing(id);
    }
}
