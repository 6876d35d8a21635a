//! The loop: one thread that waits for descriptors and moments, and never for anything else.

use super::connection::Connection;
use super::dial::Dials;
use super::egress::Egress;
use super::exec::Execs;
use super::metrics::OomCounter;
use super::poll::{token, untoken, Kind, Source, Timer, Timers};
use super::spawn::Ground;
use super::sys::{self, EPOLLIN, EPOLLOUT};
use super::watch::Watches;
use super::workers::Workers;
use crate::wire;
use std::collections::HashMap;
use std::io;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

const HELLO_MS: u64 = 10_000;
/// Sessions get this long after TERM when the guest itself is told to end.
const END_MS: u64 = 2_000;
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
    /// Programs inside get ways out: a proxy and names.
    pub egress: bool,
    /// A listening socket that gets the connections to addresses outside, where something redirects them.
    pub redirected: Option<OwnedFd>,
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
    pub egress: Egress,
    pub watches: Watches,
    pub ground: Arc<Ground>,
    pub oom: OomCounter,
    pub scratch: Vec<u8>,
    pub owns_clock: bool,
    pub started_ms: u64,
    next_id: u64,
    /// Connections that may have something to send.
    pub dirty: Vec<u64>,
    boot_id: [u8; 16],
    listener: OwnedFd,
    signals: OwnedFd,
    /// A descriptor to spare, so that with none left a connection can still be taken and closed.
    reserve: Option<OwnedFd>,
    pub violations: u32,
    more_children: bool,
    ending: bool,
}

pub fn serve(mut options: Options) -> io::Result<()> {
    let redirected = options.redirected.take();
    let egress = options.egress;
    let mut guest = Guest::new(options)?;
    guest.open_ways_out(egress, redirected);
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
            egress: Egress::new(false),
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
            violations: 0,
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
            Kind::EgressListener => self.on_egress_listener(id),
            Kind::Outgoing => self.on_outgoing(id, events),
            Kind::Resolver => self.on_resolver(),
            Kind::Query => self.on_query(id),
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
            Timer::Outgoing(id) => self.on_outgoing_timeout(id),
            Timer::Query(id) => self.end_query(id),
            Timer::End => {}
        }
    }

    /// Takes a connection. With no descriptor left it is taken all the same and closed, so that its event does not come for ever.
    pub fn take(&mut self, listener: RawFd) -> Option<OwnedFd> {
        let taken = sys::accept(listener);
        if let Err(error) = &taken {
            if matches!(sys::errno(error), sys::EMFILE | sys::ENFILE) && self.reserve.take().is_some() {
                drop(sys::accept(listener));
            }
        }
        if self.reserve.is_none() {
            self.reserve = sys::duplicate(self.ground.null.as_raw_fd()).ok();
        }
        taken.ok()
    }

    fn accept(&mut self) {
        let fd = match self.take(self.listener.as_raw_fd()) {
            Some(fd) => fd,
            None => return,
        };
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
            w.u64(wire::STARTS_SMALL);
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
}

/// A channel of a connection.
pub type At = (u64, u32);
