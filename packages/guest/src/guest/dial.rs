//! Connections from the host to a port inside.

use super::connection::Role;
use super::failure::Failure;
use super::poll::{Kind, Source, Timer};
use super::serve::{At, Guest, SCRATCH_BYTES};
use super::sys::{self, EPOLLIN, EPOLLOUT};
use crate::wire::{self, code, stream, INITIAL_CREDIT_BYTES};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd};

const CONNECT_MS: u64 = 10_000;
/// Credit goes back in lumps: with a frame for every small request the host would be woken twice for each.
const CREDIT_LUMP_BYTES: u64 = INITIAL_CREDIT_BYTES / 2;

#[derive(Default)]
pub struct Dials {
    map: HashMap<u64, Dial>,
}

struct Dial {
    source: Source,
    at: At,
    port: u16,
    connected: bool,
    tried_v6: bool,
    connect_by_ms: u64,
    /// Bytes for the server inside, bounded by the channel's credit.
    queue: VecDeque<Vec<u8>>,
    written: usize,
    /// Bytes written whose credit has not gone back yet.
    owed: u64,
    /// The host ended its side, and the server has been told.
    host_ended: bool,
    shut: bool,
    /// The server ended its side.
    server_ended: bool,
}

impl Dials {
    pub fn remove(&mut self, id: u64) {
        self.map.remove(&id);
    }
}

fn address_v4(port: u16) -> Vec<u8> {
    let mut address = (sys::AF_INET as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(&port.to_be_bytes());
    address.extend_from_slice(&[127, 0, 0, 1]);
    address.extend_from_slice(&[0; 8]);
    address
}

fn address_v6(port: u16) -> Vec<u8> {
    let mut address = (sys::AF_INET6 as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(&port.to_be_bytes());
    address.extend_from_slice(&[0; 4]);
    address.extend_from_slice(&[0; 15]);
    address.push(1);
    address.extend_from_slice(&[0; 4]);
    address
}

fn begin(port: u16, v6: bool) -> io::Result<OwnedFd> {
    let (family, address) = if v6 { (sys::AF_INET6, address_v6(port)) } else { (sys::AF_INET, address_v4(port)) };
    let fd = sys::stream_socket(family)?;
    sys::no_delay(fd.as_raw_fd());
    match sys::connect_to(fd.as_raw_fd(), &address) {
        Err(error) if sys::errno(&error) != sys::EINPROGRESS => Err(error),
        _ => Ok(fd),
    }
}

impl Guest {
    pub fn open_dial(&mut self, at: At, port: u16) {
        if port == 0 {
            return self.refuse(at, Failure::new(code::INVALID, "Port 0 is no port."));
        }
        let (fd, tried_v6) =
            match begin(port, false).map(|fd| (fd, false)).or_else(|_| begin(port, true).map(|fd| (fd, true))) {
                Ok(begun) => begun,
                Err(error) => return self.refuse(at, dial_failure(port, sys::errno(&error))),
            };
        let id = self.fresh_id();
        let mut source = self.source(fd, Kind::Dial, id);
        if source.want(EPOLLOUT).is_err() {
            return self
                .refuse(at, Failure::new(code::LIMIT, "The kernel watches no more descriptors for this sandbox."));
        }
        let connect_by_ms = sys::monotonic_ms() + CONNECT_MS;
        self.timers.add(connect_by_ms, Timer::Dial(id));
        self.add_channel(at, Role::Dial { id });
        let dial = Dial {
            source,
            at,
            port,
            connected: false,
            tried_v6,
            connect_by_ms,
            queue: VecDeque::new(),
            written: 0,
            owed: 0,
            host_ended: false,
            shut: false,
            server_ended: false,
        };
        self.dials.map.insert(id, dial);
    }

    pub fn on_dial(&mut self, id: u64, events: u32) {
        let dial = match self.dials.map.get_mut(&id) {
            Some(dial) => dial,
            None => return,
        };
        if !dial.connected {
            return self.on_connected(id);
        }
        let at = dial.at;
        if events & EPOLLOUT != 0 {
            self.write_dial(id);
        }
        if events & !EPOLLOUT != 0 {
            // It gets its turn before the next wait, unless the connection is full; then it is not waited for until its turn has come,
            // since the event would repeat without end.
            if self.channel(at).map_or(false, |channel| channel.queued) {
                if let Some(dial) = self.dials.map.get_mut(&id) {
                    drop(dial.source.want(if dial.queue.is_empty() { 0 } else { EPOLLOUT }));
                }
            }
            self.want_to_send(at);
        }
    }

    fn on_connected(&mut self, id: u64) {
        let epoll = self.epoll.as_raw_fd();
        let dial = match self.dials.map.get_mut(&id) {
            Some(dial) => dial,
            None => return,
        };
        let errno = sys::socket_error(dial.source.fd());
        let (at, port) = (dial.at, dial.port);
        if errno != 0 {
            if !dial.tried_v6 {
                dial.tried_v6 = true;
                if let Ok(fd) = begin(port, true) {
                    dial.source = Source::new(epoll, fd, Kind::Dial, id);
                    if dial.source.want(EPOLLOUT).is_ok() {
                        return;
                    }
                }
            }
            self.end_dial(id);
            return self.refuse(at, dial_failure(port, errno));
        }
        dial.connected = true;
        self.timers.remove(dial.connect_by_ms, Timer::Dial(id));
        self.send(at.0, wire::OPENED, at.1, |_| {});
        self.write_dial(id);
    }

    pub fn on_dial_timeout(&mut self, id: u64) {
        if let Some((at, port)) = self.dials.map.get(&id).map(|dial| (dial.at, dial.port)) {
            self.end_dial(id);
            self.refuse(at, Failure::new(code::TIMED_OUT, format!("Port {port} did not answer within 10 s.")));
        }
    }

    pub fn on_dial_data(&mut self, id: u64, bytes: &[u8]) {
        if let Some(dial) = self.dials.map.get_mut(&id) {
            let mut rest = if dial.host_ended { &[] } else { bytes };
            if dial.connected && dial.queue.is_empty() && !rest.is_empty() {
                // Nearly always the socket takes it whole, and nothing is copied. What went wrong shows again when the rest is written.
                let count = sys::write_fd(dial.source.fd(), rest).unwrap_or(0);
                dial.owed += count as u64;
                rest = &rest[count..];
            }
            if !rest.is_empty() {
                match dial.queue.back_mut() {
                    // Many small frames would otherwise cost more than the bytes they bring.
                    Some(last) if last.len() + rest.len() <= SCRATCH_BYTES => last.extend_from_slice(rest),
                    _ => dial.queue.push_back(rest.to_vec()),
                }
            }
            if dial.connected && (!dial.queue.is_empty() || dial.owed >= CREDIT_LUMP_BYTES) {
                self.write_dial(id);
            }
        }
    }

    pub fn on_dial_end(&mut self, id: u64) {
        if let Some(dial) = self.dials.map.get_mut(&id) {
            dial.host_ended = true;
            if dial.connected {
                self.write_dial(id);
            }
        }
    }

    fn write_dial(&mut self, id: u64) {
        let dial = match self.dials.map.get_mut(&id) {
            Some(dial) => dial,
            None => return,
        };
        let at = dial.at;
        let mut broken = None;
        while let Some(first) = dial.queue.front() {
            match sys::write_fd(dial.source.fd(), &first[dial.written..]) {
                Ok(count) => {
                    dial.owed += count as u64;
                    dial.written += count;
                    if dial.written == first.len() {
                        dial.written = 0;
                        dial.queue.pop_front();
                    }
                }
                Err(error) if sys::errno(&error) == sys::EINTR => {}
                Err(error) if sys::errno(&error) == sys::EAGAIN => break,
                Err(error) => {
                    broken = Some(Failure::of(format!("Port {}", dial.port), &error));
                    break;
                }
            }
        }
        if dial.host_ended && dial.queue.is_empty() && !dial.shut {
            dial.shut = true;
            sys::shutdown_write(dial.source.fd());
        }
        let mut credit = 0;
        if dial.owed >= CREDIT_LUMP_BYTES {
            credit = std::mem::take(&mut dial.owed);
        }
        self.give_credit(at, credit);
        match broken {
            Some(failure) => {
                self.end_dial(id);
                self.refuse(at, failure);
            }
            None => self.update_dial(id),
        }
    }

    /// One read from the server, straight into DATA; true where it may have more.
    pub fn pump_dial(&mut self, id: u64) -> bool {
        let (at, fd) = match self.dials.map.get(&id) {
            Some(dial) if dial.connected && !dial.server_ended => (dial.at, dial.source.fd()),
            _ => return false,
        };
        let credit = self.channel(at).map_or(0, |channel| channel.credit).min(SCRATCH_BYTES as u64) as usize;
        if credit == 0 {
            self.update_dial(id);
            return false;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH_BYTES, 0);
        let result = sys::read_fd(fd, &mut scratch[..credit]);
        let more = match result {
            Ok(0) => {
                self.send(at.0, wire::END, at.1, |_| {});
                if let Some(dial) = self.dials.map.get_mut(&id) {
                    dial.server_ended = true;
                }
                self.update_dial(id);
                false
            }
            Ok(count) => {
                self.send_data(at, stream::INPUT, &scratch[..count]);
                // Less than there was room for: nothing is left, and epoll tells of more.
                let more = count == credit;
                if !more {
                    self.update_dial(id);
                }
                more
            }
            Err(error) if sys::would_block(&error) => {
                self.update_dial(id);
                false
            }
            Err(error) => {
                let failure = Failure::of("The connection inside", &error);
                self.end_dial(id);
                self.refuse(at, failure);
                false
            }
        };
        self.scratch = scratch;
        more
    }

    /// Waits for what the dial can use now, and closes it where both sides have ended.
    fn update_dial(&mut self, id: u64) {
        let (at, over) = match self.dials.map.get(&id) {
            Some(dial) => (dial.at, dial.shut && dial.server_ended),
            None => return,
        };
        if over {
            self.end_dial(id);
            return self.close(at, |_| {});
        }
        let credit = self.channel(at).map_or(0, |channel| channel.credit);
        if let Some(dial) = self.dials.map.get_mut(&id) {
            let mut interest = if credit > 0 && !dial.server_ended { EPOLLIN } else { 0 };
            if !dial.queue.is_empty() {
                interest |= EPOLLOUT;
            }
            drop(dial.source.want(interest));
        }
    }

    fn end_dial(&mut self, id: u64) {
        if let Some(dial) = self.dials.map.remove(&id) {
            self.timers.remove(dial.connect_by_ms, Timer::Dial(id));
        }
    }
}

fn dial_failure(port: u16, errno: i32) -> Failure {
    if errno == sys::ECONNREFUSED {
        return Failure::new(code::CONNECTION_REFUSED, format!("Nothing listens on port {port} inside."));
    }
    Failure::of_errno(format!("Port {port}"), errno)
}
