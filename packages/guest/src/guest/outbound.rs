//! What goes to the host: channels take turns, and each connection gets what its socket takes.

use super::connection::{Channel, Role, BULK_BYTES, FULL_BYTES};
use super::failure::Failure;
use super::serve::{At, Guest};
use super::sys::{self, EPOLLIN, EPOLLOUT};
use super::workers::After;
use crate::wire::{self, code, Writer};
use std::io;
use std::os::unix::io::RawFd;

/// One turn sends at most this much on a connection before others get theirs.
const TURN_BYTES: usize = 2 << 20;

impl Guest {
    pub fn channel(&mut self, at: At) -> Option<&mut Channel> {
        self.connections.get_mut(&at.0)?.channels.get_mut(&at.1)
    }

    pub fn add_channel(&mut self, at: At, role: Role) {
        if let Some(connection) = self.connections.get_mut(&at.0) {
            connection.add_channel(at.1, role);
        }
    }

    pub fn send(&mut self, id: u64, kind: u8, channel: u32, fields: impl FnOnce(&mut Writer<'_>)) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbox.frame(kind, channel, fields);
        }
        self.touch(id);
    }

    /// DATA on a channel, whose credit must allow it.
    pub fn send_data(&mut self, at: At, stream: u8, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&at.0) {
            if let Some(channel) = connection.channels.get_mut(&at.1) {
                let offset = channel.sent;
                channel.sent += bytes.len() as u64;
                channel.credit = channel.credit.saturating_sub(bytes.len() as u64);
                connection.outbox.frame(wire::DATA, at.1, |w| {
                    w.u8(stream);
                    w.u64(offset);
                    w.raw(bytes);
                });
            }
        }
        self.touch(at.0);
    }

    /// One read from a descriptor as DATA, at most `limit` bytes, which the credit must allow.
    pub fn send_data_of(&mut self, at: At, stream: u8, fd: RawFd, limit: usize) -> io::Result<usize> {
        let connection = match self.connections.get_mut(&at.0) {
            Some(connection) => connection,
            None => return Ok(0),
        };
        let channel = match connection.channels.get_mut(&at.1) {
            Some(channel) => channel,
            None => return Ok(0),
        };
        // SAFETY: read(2) initialises what it returns.
        let count = unsafe {
            connection.outbox.data_of(at.1, stream, channel.sent, limit, |to, size| sys::read_raw(fd, to, size))
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        channel.sent += count as u64;
        channel.credit = channel.credit.saturating_sub(count as u64);
        self.touch(at.0);
        Ok(count as usize)
    }

    pub fn give_credit(&mut self, at: At, bytes: u64) {
        if bytes == 0 {
            return;
        }
        if let Some(channel) = self.channel(at) {
            channel.allowance += bytes;
            self.send(at.0, wire::CREDIT, at.1, |w| w.u32(bytes as u32));
        }
    }

    /// CLOSE with success, and the channel is over.
    pub fn close(&mut self, at: At, fields: impl FnOnce(&mut Writer<'_>)) {
        self.remove_channel(at);
        self.send(at.0, wire::CLOSE, at.1, |w| {
            w.u16(code::OK);
            w.str("");
            fields(w);
        });
    }

    /// CLOSE with an error, and the channel is over.
    pub fn refuse(&mut self, at: At, failure: Failure) {
        self.remove_channel(at);
        self.send(at.0, wire::CLOSE, at.1, |w| {
            w.u16(failure.code);
            w.str(&failure.message);
        });
    }

    pub fn remove_channel(&mut self, at: At) {
        if let Some(connection) = self.connections.get_mut(&at.0) {
            connection.channels.remove(&at.1);
        }
    }

    /// A job whose result is dropped when the connection or the channel is gone meanwhile.
    pub fn work(&self, job: impl FnOnce() -> After + Send + 'static) {
        self.workers.run(job);
    }

    /// Closing a large or unlinked file can take as long as writing it did.
    pub fn drop_later<T: Send + 'static>(&self, value: Option<T>) {
        if let Some(value) = value {
            self.workers.run(move || {
                drop(value);
                Box::new(|_| {})
            });
        }
    }

    /// The channel gets a turn when its connection has room.
    pub fn want_to_send(&mut self, at: At) {
        if let Some(connection) = self.connections.get_mut(&at.0) {
            if let Some(channel) = connection.channels.get_mut(&at.1) {
                if !channel.queued {
                    channel.queued = true;
                    connection.ready.push_back(at.1);
                }
            }
        }
        self.touch(at.0);
    }

    pub fn touch(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(id);
            }
        }
    }

    pub fn flush(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let again = self.flush_connection(id);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.dirty = again;
            }
            if again {
                self.dirty.push(id);
            }
        }
    }

    /// Sends what there is; true where its turn ended before that did.
    fn flush_connection(&mut self, id: u64) -> bool {
        let mut turn = 0;
        let mut again = false;
        loop {
            turn += self.fill_outbox(id);
            let connection = match self.connections.get_mut(&id) {
                Some(connection) => connection,
                None => return false,
            };
            if connection.outbox.flush(connection.source.fd()).is_err() {
                self.disconnect(id);
                return false;
            }
            if connection.outbox.bytes() >= BULK_BYTES || connection.ready.is_empty() {
                break;
            }
            if turn >= TURN_BYTES {
                again = true;
                break;
            }
        }
        self.update_interest(id);
        again
    }

    /// Lets ready channels add DATA, one frame each in turn, until the outbox has enough. Returns the bytes added.
    fn fill_outbox(&mut self, id: u64) -> usize {
        let mut added = 0;
        while let Some(connection) = self.connections.get_mut(&id) {
            let before = connection.outbox.bytes();
            if before >= BULK_BYTES {
                break;
            }
            let channel = match connection.ready.pop_front() {
                Some(channel) => channel,
                None => break,
            };
            if let Some(channel) = connection.channels.get_mut(&channel) {
                channel.queued = false;
            }
            if self.pump((id, channel)) {
                self.want_to_send((id, channel));
            }
            if let Some(connection) = self.connections.get(&id) {
                added += connection.outbox.bytes().saturating_sub(before);
            }
        }
        added
    }

    /// Sends at most one DATA frame of a channel; true where it has more and may send it.
    fn pump(&mut self, at: At) -> bool {
        match self.channel(at).map(|channel| &channel.role) {
            Some(Role::Exec { key, .. }) => {
                let key = *key;
                self.pump_exec(at, key)
            }
            Some(Role::Read(_)) => self.pump_read(at),
            Some(Role::List(_)) => self.pump_list(at),
            Some(Role::Watch { id }) => {
                let id = *id;
                self.pump_watch(at, id)
            }
            Some(Role::Dial { id }) => {
                let id = *id;
                self.pump_dial(id)
            }
            Some(Role::Egress { id }) => {
                let id = *id;
                self.pump_egress(at, id)
            }
            _ => false,
        }
    }

    fn update_interest(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let waiting = connection.outbox.bytes();
            if waiting == 0 && connection.channels.is_empty() {
                connection.outbox.release();
            }
            let mut interest = if waiting < FULL_BYTES { EPOLLIN } else { 0 };
            if waiting > 0 {
                interest |= EPOLLOUT;
            }
            if connection.source.want(interest).is_err() {
                self.disconnect(id);
            }
        }
    }
}
