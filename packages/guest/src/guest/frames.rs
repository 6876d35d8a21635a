//! What comes from the host: cut into frames, checked, and handed to whom it concerns.

use super::connection::{Channel, Role};
use super::failure::Failure;
use super::messages::{Control, Request};
use super::serve::{At, Guest};
use super::sys::{self, EPOLLOUT};
use crate::wire::{self, code, WireError};
use std::io;
use std::sync::atomic::Ordering;

const READ_BYTES: usize = 16 << 10;
const MAX_READ_BYTES: usize = 256 << 10;
const MAX_VIOLATIONS_LOGGED: u32 = 100;

/// Why a connection ends at once.
pub enum Violation {
    Wire(WireError),
    Protocol(&'static str),
}

impl From<WireError> for Violation {
    fn from(error: WireError) -> Violation {
        Violation::Wire(error)
    }
}

/// Channels the guest opened, all for EGRESS, are even.
fn is_own(channel: u32) -> bool {
    channel % 2 == 0
}

impl Guest {
    pub fn on_connection(&mut self, id: u64, events: u32) {
        if events & EPOLLOUT != 0 {
            self.touch(id);
        }
        if events & !EPOLLOUT == 0 {
            return;
        }
        let connection = match self.connections.get_mut(&id) {
            Some(connection) => connection,
            None => return,
        };
        let fd = connection.source.fd();
        let space = (connection.last_read * 2).clamp(READ_BYTES, MAX_READ_BYTES);
        // SAFETY: read(2) initialises what it returns.
        let count = unsafe { connection.decoder.fill(space, |to, size| sys::read_raw(fd, to, size)) };
        if count <= 0 {
            if count < 0 && sys::would_block(&io::Error::last_os_error()) {
                return;
            }
            return self.disconnect(id);
        }
        connection.last_read = count as usize;
        // The decoder is taken out while its frames are handled, so that a frame can be borrowed meanwhile.
        let mut decoder = std::mem::replace(&mut connection.decoder, wire::FrameDecoder::new(wire::to_guest));
        loop {
            let result = match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => self.on_frame(id, frame),
                Err(error) => Err(Violation::Wire(error)),
            };
            if let Err(violation) = result {
                return self.violated(id, violation);
            }
            if !self.connections.contains_key(&id) {
                return;
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            if connection.channels.is_empty() {
                decoder.release();
            }
            connection.decoder = decoder;
        }
    }

    fn violated(&mut self, id: u64, violation: Violation) {
        let reason = match violation {
            Violation::Wire(error) => error.name(),
            Violation::Protocol(reason) => reason,
        };
        // Bounded, since nobody may be reading it: a full pipe would hold up the loop.
        if self.violations < MAX_VIOLATIONS_LOGGED {
            self.violations += 1;
            super::say(format_args!("a connection ended: protocol_error: {reason}"));
        }
        self.disconnect(id);
    }

    fn on_frame(&mut self, id: u64, frame: wire::Frame<'_>) -> Result<(), Violation> {
        let connection = match self.connections.get_mut(&id) {
            Some(connection) => connection,
            None => return Ok(()),
        };
        if !connection.greeted {
            return self.on_hello(id, frame);
        }
        if frame.channel == 0 {
            let mut r = frame.reader();
            match frame.kind {
                wire::PING => {
                    let number = r.u64()?;
                    self.send(id, wire::PONG, 0, |w| w.u64(number));
                }
                wire::PONG => {}
                _ => return Err(Violation::Protocol("a frame that channel 0 does not take")),
            }
            return Ok(());
        }
        if frame.kind == wire::OPEN {
            return self.on_open(id, frame);
        }
        let highest = if is_own(frame.channel) { connection.highest_own } else { connection.highest };
        if frame.channel > highest {
            return Err(Violation::Protocol("a frame for a channel that never existed"));
        }
        if !connection.channels.contains_key(&frame.channel) {
            return Ok(());
        }
        self.on_channel_frame(id, frame)
    }

    fn on_hello(&mut self, id: u64, frame: wire::Frame<'_>) -> Result<(), Violation> {
        let mut r = frame.reader();
        if frame.kind != wire::HELLO || frame.channel != 0 {
            return Err(Violation::Protocol("the first frame is not HELLO"));
        }
        if r.bytes()? != wire::MAGIC || r.u32()? != wire::VERSION {
            return Err(Violation::Protocol("another protocol or version"));
        }
        r.bytes()?;
        let features = r.u64()?;
        r.bytes()?;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.greeted = true;
            if features & wire::STARTS_SMALL != 0 {
                connection.start_credit = wire::SMALL_CREDIT_BYTES;
            }
        }
        Ok(())
    }

    fn on_open(&mut self, id: u64, frame: wire::Frame<'_>) -> Result<(), Violation> {
        let connection = match self.connections.get_mut(&id) {
            Some(connection) => connection,
            None => return Ok(()),
        };
        if frame.channel % 2 == 0 || frame.channel <= connection.highest {
            return Err(Violation::Protocol("a channel number that is even or not above the last"));
        }
        if connection.channels.len() >= wire::MAX_CHANNELS {
            return Err(Violation::Protocol("too many channels"));
        }
        let request = Request::parse(frame.payload)?;
        connection.highest = frame.channel;
        self.on_request((id, frame.channel), request);
        Ok(())
    }

    fn on_request(&mut self, at: At, request: Request) {
        match request {
            Request::Exec(exec) => self.open_exec(at, *exec),
            Request::Attach { exec_id, from, stdin } => self.open_attach(at, &exec_id, from, stdin),
            Request::Execs => self.list_execs(at),
            Request::Signal { exec_id, signal, session } => self.signal_exec(at, &exec_id, signal, session),
            Request::Forget { exec_id } => self.forget_exec(at, &exec_id),
            Request::Watch { path, recursive } => self.open_watch(at, path, recursive),
            Request::Dial { port } => self.open_dial(at, port),
            Request::Egress { .. } => {
                self.refuse(at, Failure::new(code::NOT_SUPPORTED, "Only the guest opens EGRESS channels."))
            }
            Request::Clock { unix_nanos } => self.set_clock(at, unix_nanos),
            Request::Memory { limit_mb } => self.set_memory(at, limit_mb),
            Request::Metrics => self.open_metrics(at),
            request => self.open_file_request(at, request),
        }
    }

    fn on_channel_frame(&mut self, id: u64, frame: wire::Frame<'_>) -> Result<(), Violation> {
        let at = (id, frame.channel);
        let mut r = frame.reader();
        match frame.kind {
            wire::DATA => {
                r.u8()?;
                let offset = r.u64()?;
                self.on_data(at, offset, r.rest())
            }
            wire::CREDIT => {
                let bytes = r.u32()? as u64;
                if let Some(channel) = self.channel(at) {
                    channel.credit = channel.credit.saturating_add(bytes);
                }
                self.on_credit(at);
                Ok(())
            }
            wire::END => {
                self.on_end(at);
                Ok(())
            }
            wire::OPENED if is_own(at.1) => {
                if let Some(id) = self.egress_of(at) {
                    self.on_egress_opened(id);
                }
                Ok(())
            }
            wire::CLOSE if is_own(at.1) => {
                let (failure, reason) = (r.u16()?, r.str()?);
                let id = self.egress_of(at);
                self.remove_channel(at);
                if let Some(id) = id {
                    self.on_egress_closed(id, failure, reason);
                }
                Ok(())
            }
            wire::CANCEL if !is_own(at.1) => {
                self.cancel(at);
                Ok(())
            }
            wire::CONTROL if !is_own(at.1) => {
                let control = Control::parse(frame.payload)?;
                self.on_control(at, control);
                Ok(())
            }
            _ => Err(Violation::Protocol("a frame only the other side sends on this channel")),
        }
    }

    fn egress_of(&mut self, at: At) -> Option<u64> {
        match self.channel(at)?.role {
            Role::Egress { id } => Some(id),
            _ => None,
        }
    }

    fn on_data(&mut self, at: At, offset: u64, bytes: &[u8]) -> Result<(), Violation> {
        let channel = match self.channel(at) {
            Some(channel) => channel,
            None => return Ok(()),
        };
        if offset != channel.received {
            return Err(Violation::Protocol("DATA at another offset than the next"));
        }
        if bytes.len() as u64 > channel.allowance {
            return Err(Violation::Protocol("DATA beyond its credit"));
        }
        channel.received += bytes.len() as u64;
        channel.allowance -= bytes.len() as u64;
        match &mut channel.role {
            Role::Exec { key, stdin: true, .. } => {
                let key = *key;
                self.queue_input(key, at, bytes);
            }
            Role::Write(_) => self.on_write_data(at, bytes),
            Role::Dial { id } => {
                let id = *id;
                self.on_dial_data(id, bytes);
            }
            Role::Egress { id } => {
                let id = *id;
                self.on_egress_data(id, bytes);
            }
            Role::Left => {}
            // Nobody takes it. The credit goes back, or a host that writes to a closed stdin would wait for ever.
            _ => self.give_credit(at, bytes.len() as u64),
        }
        Ok(())
    }

    fn on_credit(&mut self, at: At) {
        if let Some(Channel { role: Role::Exec { key, .. }, .. }) = self.channel(at) {
            let key = *key;
            self.regulate(key);
        }
        self.want_to_send(at);
    }

    fn on_end(&mut self, at: At) {
        match self.channel(at).map(|channel| &channel.role) {
            Some(Role::Exec { key, stdin: true, .. }) => {
                let key = *key;
                self.close_input(key);
            }
            Some(Role::Write(_)) => self.on_write_end(at),
            Some(Role::Dial { id }) => {
                let id = *id;
                self.on_dial_end(id);
            }
            Some(Role::Egress { id }) => {
                let id = *id;
                self.on_egress_end(id);
            }
            _ => {}
        }
    }

    fn on_control(&mut self, at: At, control: Control) {
        let (key, stdin) = match self.channel(at).map(|channel| &channel.role) {
            Some(Role::Exec { key, stdin, .. }) => (*key, *stdin),
            _ => return,
        };
        match control {
            Control::Signal(signal) => self.control_signal(key, signal),
            Control::Resize { cols, rows } => self.resize_exec(key, cols, rows),
            Control::CloseStdin if stdin => self.close_input(key),
            Control::CloseStdin => {}
        }
    }

    fn cancel(&mut self, at: At) {
        self.release_channel(at);
        self.refuse(at, Failure::canceled());
    }

    /// Undoes what a channel holds, when it is cancelled or its connection ends.
    fn release_channel(&mut self, at: At) {
        match self.channel(at).map(|channel| &mut channel.role) {
            Some(Role::Exec { key, .. }) => {
                let key = *key;
                self.detach(key, at);
            }
            Some(Role::Start { key }) => {
                let key = *key;
                self.detach(key, at);
            }
            Some(Role::Job { cancel }) => cancel.store(true, Ordering::Relaxed),
            Some(Role::Read(state)) => {
                let file = state.take();
                self.drop_later(file);
            }
            Some(Role::Write(state)) => {
                let file = state.take();
                self.drop_later(file);
            }
            Some(Role::List(state)) => state.cancel(),
            Some(Role::Watch { id }) => {
                let id = *id;
                self.end_watch(id);
            }
            Some(Role::Dial { id }) => {
                let id = *id;
                self.dials.remove(id);
            }
            Some(Role::Egress { id }) => {
                let id = *id;
                self.lose_outgoing(id);
            }
            Some(Role::Left) | None => {}
        }
    }

    pub fn disconnect(&mut self, id: u64) {
        let channels: Vec<u32> = match self.connections.get(&id) {
            Some(connection) => connection.channels.keys().copied().collect(),
            None => return,
        };
        for channel in channels {
            self.release_channel((id, channel));
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.channels.remove(&channel);
            }
        }
        self.connections.remove(&id);
    }
}
