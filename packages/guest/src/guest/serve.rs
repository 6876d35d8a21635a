//! The loop: one thread that waits for descriptors and moments, and never for anything else.

use super::connection::{Channel, Connection, Role, BULK_BYTES, FULL_BYTES};
use super::dial::Dials;
use super::exec::Execs;
use super::failure::Failure;
use super::messages::{Control, Request};
use super::metrics::OomCounter;
use super::poll::{token, untoken, Kind, Source, Timer, Timers};
use super::spawn::Ground;
use super::sys::{self, EPOLLIN, EPOLLOUT};
use super::watch::Watches;
use super::workers::{After, Workers};
use crate::wire::{self, code, WireError, Writer};
use std::collections::HashMap;
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

const HELLO_MS: u64 = 10_000;
/// Sessions get this long after TERM when the guest itself is told to end.
const END_MS: u64 = 2_000;
const READ_BYTES: usize = 16 << 10;
const MAX_READ_BYTES: usize = 256 << 10;
/// One turn sends at most this much on a connection before others get theirs.
const TURN_BYTES: usize = 2 << 20;
const MAX_REAPS: usize = 256;
const MAX_WORKERS: usize = 4;
const MAX_STARTERS: usize = 2;
const MAX_EVENTS: usize = 64;
pub const SCRATCH_BYTES: usize = 64 << 10;

pub struct Options {
    pub listener: OwnedFd,
    /// The sandbox's memory limit where the starter knows it.
    pub memory_mb: Option<u64>,
    /// The guest is alone on its kernel (a microVM) and may set the clock.
    pub owns_clock: bool,
}

pub struct Guest {
    pub epoll: OwnedFd,
    pub timers: Timers,
    /// For file work, which a slow disk holds up.
    pub workers: Workers,
    /// For starting programs, so that file work never delays that.
    pub starters: Workers,
    pub connections: HashMap<u64, Connection>,
    pub execs: Execs,
    pub dials: Dials,
    pub watches: Watches,
    pub ground: Arc<Ground>,
    pub oom: OomCounter,
    pub scratch: Vec<u8>,
    pub owns_clock: bool,
    pub started_ms: u64,
    next_id: u64,
    dirty: Vec<u64>,
    boot_id: [u8; 16],
    listener: OwnedFd,
    signals: OwnedFd,
    /// A descriptor to spare, so that with none left a connection can still be taken and closed.
    reserve: Option<OwnedFd>,
    more_children: bool,
    ending: bool,
}

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

pub fn serve(options: Options) -> io::Result<()> {
    let mut guest = Guest::new(options)?;
    let mut events = [sys::epoll_event { events: 0, data: 0 }; MAX_EVENTS];
    while !guest.has_ended() {
        let wait_ms =
            if guest.dirty.is_empty() && !guest.more_children { guest.timers.wait_ms(sys::monotonic_ms()) } else { 0 };
        let count = match sys::epoll_pause(guest.epoll.as_raw_fd(), &mut events, wait_ms) {
            Ok(count) => count,
            Err(error) if sys::errno(&error) == sys::EINTR => 0,
            Err(error) => return Err(error),
        };
        if guest.more_children {
            guest.reap();
        }
        for event in &events[..count] {
            let (events, data) = (event.events, event.data);
            if let Some((kind, id)) = untoken(data) {
                guest.handle(kind, id, events);
            }
        }
        let now = sys::monotonic_ms();
        while let Some(timer) = guest.timers.take_due(now) {
            guest.fire(timer);
        }
        guest.flush();
    }
    Ok(())
}

impl Guest {
    fn new(options: Options) -> io::Result<Guest> {
        let epoll = sys::new_epoll()?;
        let workers = Workers::new(MAX_WORKERS)?;
        let starters = Workers::new(MAX_STARTERS)?;
        let null = sys::open_at(sys::AT_FDCWD, &sys::cstring(b"/dev/null")?, sys::O_RDWR, 0)?;
        let signals = sys::signal_fd(&[sys::SIGCHLD, sys::SIGTERM, sys::SIGINT])?;
        let mut boot_id = [0; 16];
        sys::random_bytes(&mut boot_id)?;
        sys::set_nonblocking(options.listener.as_raw_fd())?;
        let add = |fd: RawFd, kind| sys::epoll_control(epoll.as_raw_fd(), 1, fd, EPOLLIN, token(kind, 0));
        add(options.listener.as_raw_fd(), Kind::Listener)?;
        add(signals.as_raw_fd(), Kind::Signals)?;
        add(workers.fd(), Kind::Workers)?;
        add(starters.fd(), Kind::Starters)?;
        Ok(Guest {
            watches: Watches::new(epoll.as_raw_fd()),
            epoll,
            timers: Timers::default(),
            workers,
            starters,
            connections: HashMap::new(),
            execs: Execs::new(options.memory_mb),
            dials: Dials::default(),
            ground: Arc::new(Ground {
                null,
                open_files: sys::raise_open_files(),
                oom_score: super::metrics::child_oom_score(),
            }),
            oom: OomCounter::new(),
            scratch: Vec::new(),
            owns_clock: options.owns_clock,
            started_ms: sys::monotonic_ms(),
            next_id: 0,
            dirty: Vec::new(),
            boot_id,
            listener: options.listener,
            signals,
            reserve: None,
            more_children: false,
            ending: false,
        })
    }

    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn source(&self, fd: OwnedFd, kind: Kind, id: u64) -> Source {
        Source::new(self.epoll.as_raw_fd(), fd, kind, id)
    }

    fn handle(&mut self, kind: Kind, id: u64, events: u32) {
        match kind {
            Kind::Listener => self.accept(),
            Kind::Signals => self.on_signals(),
            Kind::Workers => {
                for after in self.workers.finished() {
                    after(self);
                }
            }
            Kind::Starters => {
                for after in self.starters.finished() {
                    after(self);
                }
            }
            Kind::Connection => self.on_connection(id, events),
            Kind::ExecOutput => {
                if events & EPOLLOUT != 0 {
                    self.write_input(id);
                }
                if events & !EPOLLOUT != 0 {
                    self.read_output(id, wire::stream::STDOUT);
                }
            }
            Kind::ExecError => {
                self.read_output(id, wire::stream::STDERR);
            }
            Kind::ExecInput => self.write_input(id),
            Kind::Drain => self.drain(id),
            Kind::Dial => self.on_dial(id, events),
            Kind::Watches => self.on_watches(),
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Hello(id) => {
                if self.connections.get(&id).map_or(false, |connection| !connection.greeted) {
                    self.disconnect(id);
                }
            }
            Timer::Deadline(key) => self.on_deadline(key),
            Timer::Start(key) => self.on_start_timeout(key),
            Timer::Kill(key) => self.kill_session(key),
            Timer::Grace(key) => self.on_grace(key),
            Timer::Forget => self.forget_old(),
            Timer::Dial(id) => self.on_dial_timeout(id),
            Timer::End => {}
        }
    }

    fn accept(&mut self) {
        let fd = match sys::accept(self.listener.as_raw_fd()) {
            Ok(fd) => fd,
            Err(error) => {
                if matches!(sys::errno(&error), sys::EMFILE | sys::ENFILE) && self.reserve.take().is_some() {
                    drop(sys::accept(self.listener.as_raw_fd()));
                    self.reserve = sys::duplicate(self.ground.null.as_raw_fd()).ok();
                }
                return;
            }
        };
        if self.reserve.is_none() {
            self.reserve = sys::duplicate(self.ground.null.as_raw_fd()).ok();
        }
        if self.connections.len() >= wire::MAX_CONNECTIONS {
            return;
        }
        let id = self.fresh_id();
        let mut source = self.source(fd, Kind::Connection, id);
        if source.want(EPOLLIN).is_err() {
            return;
        }
        let mut connection = Connection::new(source);
        let boot_id = self.boot_id;
        connection.outbox.frame(wire::HELLO, 0, |w| {
            w.bytes(wire::MAGIC);
            w.u32(wire::VERSION);
            w.bytes(&boot_id);
            w.u64(0);
            w.bytes(b"");
        });
        self.connections.insert(id, connection);
        self.timers.add(sys::monotonic_ms() + HELLO_MS, Timer::Hello(id));
        self.touch(id);
    }

    fn on_signals(&mut self) {
        let mut info = [0u8; 128];
        let mut children = false;
        // Signals of one kind do not queue, so this ends.
        while sys::read_fd(self.signals.as_raw_fd(), &mut info).map_or(false, |count| count == info.len()) {
            let signal = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]) as i32;
            let sender = u32::from_ne_bytes([info[12], info[13], info[14], info[15]]);
            if signal == sys::SIGCHLD {
                children = true;
            } else if sender == 0 || sys::process_id() != 1 {
                // As PID 1 only the host, whose processes have no pid in here, may end the sandbox.
                self.end();
            }
        }
        if children {
            self.reap();
        }
    }

    fn reap(&mut self) {
        self.more_children = false;
        for _ in 0..MAX_REAPS {
            match sys::reap() {
                None => return,
                Some((pid, status)) => self.on_child(pid, status),
            }
        }
        self.more_children = true;
    }

    fn end(&mut self) {
        if self.ending {
            return;
        }
        self.ending = true;
        self.end_sessions(sys::SIGTERM);
        self.timers.add(sys::monotonic_ms() + END_MS, Timer::End);
        self.execs.end_at_ms = sys::monotonic_ms() + END_MS;
    }

    fn has_ended(&mut self) -> bool {
        if !self.ending || (self.execs.running() > 0 && sys::monotonic_ms() < self.execs.end_at_ms) {
            return false;
        }
        self.end_sessions(sys::SIGKILL);
        true
    }

    fn on_connection(&mut self, id: u64, events: u32) {
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
        eprintln!("delta-guest: a connection ended: protocol_error: {reason}");
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
        // Only EGRESS opens channels from this side, and no frame may name one before it does.
        if frame.channel % 2 == 0 || frame.channel > connection.highest {
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
        r.u64()?;
        r.bytes()?;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.greeted = true;
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
            wire::CANCEL => {
                self.cancel(at);
                Ok(())
            }
            wire::CONTROL => {
                let control = Control::parse(frame.payload)?;
                self.on_control(at, control);
                Ok(())
            }
            _ => Err(Violation::Protocol("a frame only the other side sends on this channel")),
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
            Some(Role::Job { cancel }) => cancel.store(true, std::sync::atomic::Ordering::Relaxed),
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
            None => {}
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

    pub fn channel(&mut self, at: At) -> Option<&mut Channel> {
        self.connections.get_mut(&at.0)?.channels.get_mut(&at.1)
    }

    pub fn add_channel(&mut self, at: At, role: Role) {
        if let Some(connection) = self.connections.get_mut(&at.0) {
            connection.channels.insert(at.1, Channel::new(role));
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

    fn remove_channel(&mut self, at: At) {
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

    fn touch(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(id);
            }
        }
    }

    fn flush(&mut self) {
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
            _ => false,
        }
    }

    fn update_interest(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let waiting = connection.outbox.bytes();
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

/// A channel of a connection.
pub type At = (u64, u32);
