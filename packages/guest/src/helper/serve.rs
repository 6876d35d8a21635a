//! The helper's event loop: the HTTP process and its requests, signals, and boxes that end by themselves.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::boxes::{Boxes, BoxesOptions, LockWatch, FIRST_BOX_TOKEN, LOCKS_MAX};
use super::cgroup::Cgroups;
use super::confine::{self, Ending, Server, ServerOptions};
use super::error::{code, hide_folder, Context, Error, Result};
use super::ffi;
use super::overlay::Stage;
use super::pool::{Pool, Usage};
use super::protocol::{self, Lane};
use super::reserve::{self, Room, Watch};
use super::settings::Settings;
use super::streams::Streams;
use super::sys::{self, Epoll, EpollEvent};
use super::templates;
use super::workers::{Queue, Workers};
use crate::wire::{put_frame, FrameDecoder};

const CONTROL: u64 = 0;
const SIGNALS: u64 = 1;
const WAKE: u64 = 2;
const SERVER: u64 = 3;
const READ_BYTES: usize = 64 << 10;
/// Answers the HTTP process has not taken. Beyond it the process is called stuck.
const OUTBOX_BYTES: usize = 32 << 20;
/// Requests that wait for a thread.
const WAITING_REQUESTS: usize = 4_096;
const SLOW_REQUESTS: usize = 4;
const QUICK_THREADS: usize = 4;
const DISK_THREADS: usize = 4;
/// Streams at once; the others wait. Apart from each other, so that slow readers hold up no saving, and a slow storage no reader.
const PACK_THREADS: usize = 4;
const APPLY_THREADS: usize = 4;
const LOOK_THREADS: usize = 8;
const SHUTDOWN_WAIT: Duration = Duration::from_secs(15);
const INSTANCE_WAIT: Duration = Duration::from_secs(10);
/// An HTTP process that lived shorter died quickly.
const QUICK_DEATH: Duration = Duration::from_secs(10);
const QUICK_DEATHS_MAX: u32 = 5;
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// How long to wait before looking again whether what the last HTTP process asked for is done. Each request has bounds of its own.
const MAKING_PAUSE: Duration = Duration::from_millis(5);
const RESTART_LAST: Duration = Duration::from_secs(5);
/// What the HTTP process still gets once a second SIGINT has come.
const HURRIED_WAIT: Duration = Duration::from_secs(1);
/// After the file systems could not be looked at.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// Where requests come from.
pub enum Peer {
    /// The HTTP process, started and watched by the helper.
    Server,
    /// Whoever holds the other end of this socket.
    Descriptor(OwnedFd),
    /// The first to connect to this socket.
    Path(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Every box ends.
    StopAll,
    /// Boxes run on for the next start.
    Leave,
}

/// Frames for the HTTP process, put there by any thread.
struct Outbox {
    bytes: Mutex<Vec<u8>>,
    wake: OwnedFd,
}

impl Outbox {
    fn put(&self, kind: u8, number: u32, fields: impl FnOnce(&mut crate::wire::Writer<'_>)) {
        let mut bytes = self.bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if bytes.len() < OUTBOX_BYTES {
            put_frame(&mut bytes, kind, number, fields);
        }
        drop(bytes);
        sys::wake(self.wake.as_raw_fd());
    }

    fn answer(&self, kind: u8, number: u32, result: Result<Vec<u8>>) {
        self.put(kind, number, |writer| match &result {
            Ok(fields) => {
                writer.u16(0);
                writer.str("");
                writer.raw(fields);
            }
            Err(error) => {
                writer.u16(error.code);
                writer.str(&error.told());
            }
        });
    }
}

struct Job {
    kind: u8,
    number: u32,
    payload: Vec<u8>,
    /// The connection it came on; an answer to an earlier one is dropped.
    life: usize,
}

struct Shared {
    boxes: Boxes,
    settings: Settings,
    outbox: Outbox,
    streams: Streams,
    life: AtomicUsize,
    slow: AtomicUsize,
    /// As last looked at; None before the first look.
    room: Mutex<Option<(Room, Usage)>>,
    /// Requests that change something and are being worked on.
    making: AtomicUsize,
}

impl Shared {
    /// Looks at the room on the disk and does what it asks for; answers how long that holds.
    fn look_at_room(&self) -> Duration {
        let usage = match self.boxes.pool.usage() {
            Ok(usage) => usage,
            Err(error) => {
                say(&error);
                return ROOM_RETRY;
            }
        };
        let mut known = self.room.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = known.map(|(room, _)| room);
        let room = reserve::judge(before.unwrap_or(Room::Fine), &usage);
        *known = Some((room, usage));
        drop(known);
        if before != Some(room) {
            // Also at the first look: an earlier life may have left uppers squeezed.
            let failures = if room == Room::ReadOnly {
                Vec::new()
            } else {
                self.boxes.adapt_uppers(room == Room::Low)
            };
            for failure in failures {
                say(format_args!("a sandbox's disk limit could not be set: {}", failure));
            }
            self.tell_room();
        }
        reserve::pause(room, &usage)
    }

    /// Looks at the locks of files and ends who holds too many; answers when to look again.
    fn look_at_locks(&self, watch: &mut LockWatch) -> Duration {
        let (found, pause) = watch.look(&self.boxes);
        match found {
            Ok(Some(id)) => say(format_args!("{} held more than {} locks of files and was ended", id, LOCKS_MAX)),
            Ok(None) => {}
            Err(cause) => say(format_args!("the locks of files could not be looked at: {}", cause)),
        }
        pause
    }

    fn tell_room(&self) {
        let known = *self.room.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((room, usage)) = known {
            self.outbox.put(protocol::ROOM, 0, |writer| {
                writer.u8(room.number());
                writer.u64(usage.backing_free);
                writer.u64(usage.reserve);
            });
        }
    }

    /// On the lanes that change something. Whom nobody answers any more, nothing is made for.
    fn work_in_turn(&self, stage: Option<&Stage>, job: Job) {
        self.making.fetch_add(1, Ordering::SeqCst);
        if job.life == self.life.load(Ordering::SeqCst) {
            self.work(stage, job);
        }
        self.making.fetch_sub(1, Ordering::SeqCst);
    }

    /// On the lane of streams. One that changes something is waited for before another HTTP process begins.
    fn stream(&self, job: Job) {
        let changes = usize::from(job.kind == protocol::APPLY);
        self.making.fetch_add(changes, Ordering::SeqCst);
        if job.life == self.life.load(Ordering::SeqCst) {
            protocol::stream(&self.boxes, &self.streams, job.kind, &job.payload, &mut |result| {
                if job.life == self.life.load(Ordering::SeqCst) {
                    self.outbox.answer(job.kind, job.number, result);
                }
            });
        }
        self.making.fetch_sub(changes, Ordering::SeqCst);
    }

    fn work(&self, stage: Option<&Stage>, job: Job) {
        let result = protocol::answer(&self.boxes, &self.settings, stage, job.kind, &job.payload);
        if job.life == self.life.load(Ordering::SeqCst) {
            self.outbox.answer(job.kind, job.number, result);
        }
    }
}

/// Where nobody listens any more it is lost; `eprintln` would end the helper.
fn say(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "delta-helper: {}", text);
}

/// One helper per data folder. Held until this process ends, however it ends.
fn only_instance(data: &Path) -> Result<File> {
    let path = data.join("helper.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .context(format_args!("opening {}", path.display()))?;
    let end = Instant::now() + INSTANCE_WAIT;
    loop {
        // SAFETY: a plain descriptor.
        if unsafe { ffi::flock(file.as_raw_fd(), ffi::LOCK_EX | ffi::LOCK_NB) } == 0 {
            return Ok(file);
        }
        if Instant::now() > end {
            return Err(Error::new(
                code::BUSY,
                format!(
                    "another helper runs on {}: stop it, or set DELTA_DATA_DIR",
                    data.display()
                ),
            ));
        }
        sleep(Duration::from_millis(20));
    }
}

fn worker_count() -> usize {
    std::thread::available_parallelism()
        .map_or(2, |count| count.get() * 2)
        .clamp(2, 16)
}

struct Lanes {
    boxes: Arc<Queue<Job>>,
    disks: Arc<Queue<Job>>,
    packs: Arc<Queue<Job>>,
    applies: Arc<Queue<Job>>,
    looks: Arc<Queue<Job>>,
    quick: Arc<Queue<Job>>,
    workers: Vec<Workers>,
}

impl Lanes {
    fn start(shared: &Arc<Shared>) -> Result<Lanes> {
        let boxes = Queue::new(WAITING_REQUESTS);
        let disks = Queue::new(WAITING_REQUESTS);
        let (packs, applies, looks) = (Queue::new(WAITING_REQUESTS), Queue::new(WAITING_REQUESTS), Queue::new(WAITING_REQUESTS));
        let quick = Queue::new(WAITING_REQUESTS);
        let (data, view) = (shared.settings.data.clone(), shared.boxes.cgroups.view());
        let (one, other, third) = (shared.clone(), shared.clone(), shared.clone());
        let stages = Workers::start(
            "delta-boxes",
            worker_count(),
            &boxes,
            move || Stage::enter(&data, &view),
            move |stage: &Stage, job| one.work_in_turn(Some(stage), job),
        )?;
        let disk_threads = Workers::start(
            "delta-disks",
            DISK_THREADS,
            &disks,
            || Ok(()),
            move |_, job| third.work_in_turn(None, job),
        );
        let streams = |name: &str, count: usize, queue: &Arc<Queue<Job>>| {
            let shared = shared.clone();
            Workers::start(name, count, queue, || Ok(()), move |_, job| shared.stream(job))
        };
        let pack_threads = streams("delta-packs", PACK_THREADS, &packs);
        let apply_threads = streams("delta-applies", APPLY_THREADS, &applies);
        let look_threads = streams("delta-looks", LOOK_THREADS, &looks);
        let answers = Workers::start(
            "delta-quick",
            QUICK_THREADS,
            &quick,
            || Ok(()),
            move |_, job| other.work(None, job),
        );
        let mut lanes = Lanes {
            boxes,
            disks,
            packs,
            applies,
            looks,
            quick,
            workers: vec![stages],
        };
        for started in [disk_threads, pack_threads, apply_threads, look_threads, answers] {
            match started {
                Ok(workers) => lanes.workers.push(workers),
                Err(error) => {
                    lanes.stop();
                    return Err(error);
                }
            }
        }
        Ok(lanes)
    }

    /// What was taken on is finished. The threads' mount namespaces go with them, and with those the last hold on the pool.
    fn stop(&mut self) {
        self.boxes.close();
        self.disks.close();
        self.packs.close();
        self.applies.close();
        self.looks.close();
        self.quick.close();
        for workers in &mut self.workers {
            workers.join();
        }
    }
}

struct Connection {
    socket: OwnedFd,
    decoder: FrameDecoder,
    unsent: Vec<u8>,
    sent: usize,
    wants_write: bool,
}

struct Supervised {
    server: Server,
    since: Instant,
    quick_deaths: u32,
}

struct Helper {
    shared: Arc<Shared>,
    epoll: Arc<Epoll>,
    signals: OwnedFd,
    lanes: Lanes,
    /// Of the room on the disk, and of the locks of files.
    watches: [Watch; 2],
    connection: Option<Connection>,
    supervised: Option<Supervised>,
    quick_deaths: u32,
    restart_at: Option<Instant>,
    supervises: bool,
    stopping: Option<(Mode, Instant)>,
    failure: Option<Error>,
}

/// Opens the pool and takes on what an earlier life left.
fn open(settings: &Settings, epoll: &Arc<Epoll>, step: fn(&str)) -> Result<Boxes> {
    let cgroups = Cgroups::find(&settings.data)?;
    let pool = Pool::open(&settings.data, &settings.pool)?;
    let options = BoxesOptions {
        data: settings.data.clone(),
        default_kind: settings.kind,
        uid_base: settings.uid_base,
        ranges: settings.uid_count / super::boxes::RANGE_UIDS,
        client_uid: settings.uid_base,
        memory_reserve: u64::from(settings.memory_reserve_mb) << 20,
        guest: settings.guest.clone(),
        step,
    };
    let boxes = Boxes::open(options, pool, cgroups, epoll.clone())?;
    boxes.runtime(settings.kind)?;
    for warning in boxes.adopt()? {
        say(&warning);
    }
    if boxes.ids().is_empty() {
        if let Err(error) = templates::remove_old(&settings.data) {
            say(error);
        }
    }
    Ok(boxes)
}

/// Serves until told to stop. The process's exit code.
pub fn serve(mut settings: Settings, peer: Peer, step: fn(&str)) -> Result<i32> {
    sys::block_signals(&[sys::SIGINT, sys::SIGTERM, sys::SIGHUP, sys::SIGCHLD, sys::SIGPIPE])
        .context("blocking signals")?;
    let signals =
        sys::signal_fd(&[sys::SIGINT, sys::SIGTERM, sys::SIGHUP, sys::SIGCHLD]).context("watching signals")?;
    // SAFETY: plain numbers. Orphans of the runtimes come here and are reaped, whoever is PID 1.
    ffi::check(unsafe { ffi::prctl(sys::PR_SET_CHILD_SUBREAPER, 1 as std::os::raw::c_long) })
        .context("becoming the reaper")?;
    settings.make_data()?;
    hide_folder(&settings.data);
    let _instance = only_instance(&settings.data)?;
    let epoll = Arc::new(Epoll::new().context("making an epoll")?);
    let boxes = open(&settings, &epoll, step)?;
    let wake = sys::event_fd().context("making an eventfd")?;
    epoll
        .add(wake.as_raw_fd(), sys::EPOLLIN, WAKE)
        .context("watching the threads")?;
    epoll
        .add(signals.as_raw_fd(), sys::EPOLLIN, SIGNALS)
        .context("watching signals")?;
    let outbox = Outbox {
        bytes: Mutex::new(Vec::new()),
        wake,
    };
    let shared = Arc::new(Shared {
        boxes,
        settings,
        outbox,
        streams: Streams::default(),
        life: AtomicUsize::new(0),
        slow: AtomicUsize::new(0),
        room: Mutex::new(None),
        making: AtomicUsize::new(0),
    });
    // The first look is made here: no request is answered before the limits fit the room.
    shared.look_at_room();
    let watched = shared.clone();
    let room = Watch::start("delta-reserve", move || watched.look_at_room())?;
    let watched = shared.clone();
    let mut lock_watch = LockWatch::default();
    let locks = Watch::start("delta-locks", move || watched.look_at_locks(&mut lock_watch))?;
    let lanes = Lanes::start(&shared)?;
    let mut helper = Helper {
        shared,
        epoll,
        signals,
        lanes,
        watches: [room, locks],
        connection: None,
        supervised: None,
        quick_deaths: 0,
        restart_at: None,
        supervises: matches!(peer, Peer::Server),
        stopping: None,
        failure: None,
    };
    let started = match peer {
        Peer::Server => helper.start_server(),
        Peer::Descriptor(socket) => helper.connect(socket),
        Peer::Path(path) => accept_one(&path).and_then(|socket| helper.connect(socket)),
    };
    if let Err(error) = started {
        helper.failure = Some(error);
        helper.stopping = Some((Mode::Leave, Instant::now()));
    }
    helper.run()?;
    helper.finish()
}

fn accept_one(path: &Path) -> Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let listener =
        std::os::unix::net::UnixListener::bind(path).context(format_args!("listening on {}", path.display()))?;
    let accepted = listener
        .accept()
        .context(format_args!("accepting on {}", path.display()));
    let _ = std::fs::remove_file(path);
    Ok(OwnedFd::from(accepted?.0))
}

impl Helper {
    fn connect(&mut self, socket: OwnedFd) -> Result<()> {
        self.shared.life.fetch_add(1, Ordering::SeqCst);
        self.shared
            .outbox
            .bytes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clear();
        self.epoll
            .add(socket.as_raw_fd(), sys::EPOLLIN, CONTROL)
            .context("watching the connection")?;
        self.connection = Some(Connection {
            socket,
            decoder: FrameDecoder::new(protocol::rules),
            unsent: Vec::new(),
            sent: 0,
            wants_write: false,
        });
        self.shared.tell_room();
        Ok(())
    }

    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = self.epoll.remove(connection.socket.as_raw_fd());
            self.shared.life.fetch_add(1, Ordering::SeqCst);
            self.shared.streams.cut();
        }
    }

    fn start_server(&mut self) -> Result<()> {
        let settings = &self.shared.settings;
        let node = settings.node.clone().ok_or_else(|| {
            Error::new(
                code::NOT_FOUND,
                "Node is not installed: run `npm start`, or set DELTA_NODE",
            )
        })?;
        let entry = settings
            .server
            .canonicalize()
            .context(format_args!("looking for the server at {}", settings.server.display()))?;
        let (key, _) = confine::ensure_api_key(&settings.data)?;
        let mut extra_environment: Vec<(std::ffi::OsString, std::ffi::OsString)> =
            vec![("DELTA_API_KEY_SHA256".into(), confine::api_key_hash(&key).into())];
        let is_set = |name: &str| std::env::var_os(name).map_or(false, |value| !value.is_empty());
        // Several servers on one database need the same one, so there it is the operator's to give.
        if !is_set("SECRET_KEY") && !is_set("DATABASE_URL") {
            let (secret, _) = confine::ensure_secret_key(&settings.data)?;
            extra_environment.push(("SECRET_KEY".into(), secret.into()));
        }
        if let Some(card) = settings.rate_card_text()? {
            extra_environment.push(("DELTA_RATE_CARD_TEXT".into(), card.into()));
        }
        let (ours, theirs) = sys::stream_pair().context("making the socket to the HTTP process")?;
        let program = entry.parent().unwrap_or_else(|| Path::new("/")).to_path_buf();
        let wires = self.shared.boxes.wires_path().to_path_buf();
        let own = settings.data.join("server");
        extra_environment.push(("DELTA_WIRE_DIR".into(), wires.clone().into_os_string()));
        extra_environment.push(("DELTA_DATA_DIR".into(), own.into_os_string()));
        let options = ServerOptions {
            node,
            // Young objects get 1 MB instead of 16: after load the process stays 25 MB smaller, at no cost that showed. So little is
            // looked through by one thread in less time than others take to wake.
            arguments: vec![
                "--max-semi-space-size=1".into(),
                "--no-parallel-scavenge".into(),
                // Each thread gives back what it has grown to once it is calm.
                "--expose-gc".into(),
                entry.into_os_string(),
            ],
            readable: vec![program, wires],
            data: settings.data.clone(),
            uid: settings.uid_base,
            helper_socket: theirs.as_raw_fd(),
            environment: std::env::vars_os().collect(),
            extra_environment,
        };
        let server = confine::spawn_server(&options)?;
        drop(theirs);
        self.epoll
            .add(server.pidfd.as_raw_fd(), sys::EPOLLIN, SERVER)
            .context("watching the HTTP process")?;
        self.supervised = Some(Supervised {
            server,
            since: Instant::now(),
            quick_deaths: self.quick_deaths,
        });
        self.connect(ours)
    }

    fn run(&mut self) -> Result<()> {
        let mut events = [EpollEvent { events: 0, token: 0 }; 64];
        loop {
            self.flush();
            if self.is_over() {
                return Ok(());
            }
            let timeout = self.timeout();
            let epoll = self.epoll.clone();
            for event in epoll.wait(&mut events, timeout).context("waiting for events")? {
                let (token, what) = (event.token, event.events);
                match token {
                    CONTROL => self.receive(what),
                    SIGNALS => self.take_signals(),
                    WAKE => sys::drain(self.shared.outbox.wake.as_raw_fd()),
                    SERVER => self.server_ended(),
                    token if token >= FIRST_BOX_TOKEN => self.box_ended(token),
                    _ => {}
                }
            }
            self.restart_server();
        }
    }

    /// None while nothing is due: an idle helper never wakes.
    fn timeout(&self) -> Option<Duration> {
        let stop = self.stopping.map(|(_, end)| end);
        let next = [stop, self.restart_at].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn is_over(&mut self) -> bool {
        let end = match self.stopping {
            Some((_, end)) => end,
            None => return false,
        };
        let peer_is_gone = self.connection.is_none() && self.supervised.is_none();
        if !peer_is_gone && Instant::now() < end {
            return false;
        }
        if let Some(mut supervised) = self.supervised.take() {
            say("the HTTP process did not stop in time and is killed");
            let _ = supervised.server.signal(sys::SIGKILL);
            let _ = supervised.server.wait();
        }
        self.disconnect();
        true
    }

    fn receive(&mut self, events: u32) {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => return,
        };
        if events & sys::EPOLLOUT != 0 {
            connection.wants_write = false;
            let _ = self.epoll.modify(connection.socket.as_raw_fd(), sys::EPOLLIN, CONTROL);
        }
        if events & (sys::EPOLLIN | sys::EPOLLHUP | sys::EPOLLERR) == 0 {
            return;
        }
        let fd = connection.socket.as_raw_fd();
        let mut buffer = vec![0; READ_BYTES];
        match sys::receive(fd, &mut buffer) {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return,
            Ok(0) | Err(_) => return self.peer_ended(),
            Ok(count) => connection.decoder.push(&buffer[..count]),
        }
        let mut jobs = Vec::new();
        let life = self.shared.life.load(Ordering::SeqCst);
        let fine = loop {
            match connection.decoder.next_frame() {
                Ok(None) => break true,
                Ok(Some(frame)) if frame.channel != 0 => jobs.push(Job {
                    kind: frame.kind,
                    number: frame.channel,
                    payload: frame.payload.to_vec(),
                    life,
                }),
                _ => break false,
            }
        };
        for job in jobs {
            self.dispatch(job);
        }
        if !fine {
            say("the HTTP process broke the protocol: the connection is closed");
            self.peer_ended();
        }
    }

    fn dispatch(&self, job: Job) {
        let (kind, number) = (job.kind, job.number);
        let queued = match protocol::lane(kind) {
            Lane::Boxes => self.lanes.boxes.push(job),
            Lane::Disks => self.lanes.disks.push(job),
            Lane::Packs => self.lanes.packs.push(job),
            Lane::Applies => self.lanes.applies.push(job),
            Lane::Looks => self.lanes.looks.push(job),
            Lane::Quick => self.lanes.quick.push(job),
            Lane::Slow => self.work_apart(job),
        };
        if let Err(error) = queued {
            self.shared.outbox.answer(kind, number, Err(error));
        }
    }

    /// Minutes-long requests get a thread that ends with them.
    fn work_apart(&self, job: Job) -> Result<()> {
        if self.shared.slow.fetch_add(1, Ordering::SeqCst) >= SLOW_REQUESTS {
            self.shared.slow.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::new(
                code::LIMIT,
                format!("{} builds and checks run already: wait for one to end", SLOW_REQUESTS),
            ));
        }
        let shared = self.shared.clone();
        let body = move || {
            shared.work(None, job);
            shared.slow.fetch_sub(1, Ordering::SeqCst);
        };
        let started = std::thread::Builder::new().name("delta-slow".to_string()).spawn(body);
        started.map(drop).map_err(|cause| {
            self.shared.slow.fetch_sub(1, Ordering::SeqCst);
            Error::from_io("starting a thread", &cause)
        })
    }

    /// Moves answers to the socket as far as it takes them.
    fn flush(&mut self) {
        let shared = self.shared.clone();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => return,
        };
        {
            let mut bytes = shared
                .outbox
                .bytes
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            connection.unsent.append(&mut bytes);
        }
        while connection.sent < connection.unsent.len() {
            match sys::transmit(connection.socket.as_raw_fd(), &connection.unsent[connection.sent..]) {
                Ok(count) => connection.sent += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.peer_ended(),
            }
        }
        if connection.sent == connection.unsent.len() {
            connection.unsent.clear();
            connection.unsent.shrink_to(READ_BYTES);
            connection.sent = 0;
            return;
        }
        if connection.unsent.len() - connection.sent >= OUTBOX_BYTES {
            say("the HTTP process takes no answers: the connection is closed");
            return self.peer_ended();
        }
        if !connection.wants_write {
            connection.wants_write = true;
            let _ = self
                .epoll
                .modify(connection.socket.as_raw_fd(), sys::EPOLLIN | sys::EPOLLOUT, CONTROL);
        }
    }

    /// The other end of the socket is gone. A supervised process follows by itself, or is made to.
    fn peer_ended(&mut self) {
        self.disconnect();
        match &self.supervised {
            Some(supervised) => {
                if self.stopping.is_none() {
                    let _ = supervised.server.signal(sys::SIGKILL);
                }
            }
            None => self.stop(if self.shared.settings.stop_all {
                Mode::StopAll
            } else {
                Mode::Leave
            }),
        }
    }

    fn take_signals(&mut self) {
        while let Some(signal) = sys::next_signal(self.signals.as_raw_fd()) {
            match signal {
                sys::SIGINT => self.stop(Mode::StopAll),
                sys::SIGTERM | sys::SIGHUP => self.stop(if self.shared.settings.stop_all {
                    Mode::StopAll
                } else {
                    Mode::Leave
                }),
                _ => {}
            }
        }
        // After the HTTP process's own end, which its pidfd tells, has had its chance to be taken.
        if self
            .supervised
            .as_mut()
            .map_or(false, |supervised| matches!(supervised.server.try_wait(), Ok(Some(_))))
        {
            self.server_ended();
        }
        self.reap();
    }

    fn reap(&mut self) {
        let keep = self.supervised.as_ref().map(|supervised| supervised.server.pid);
        sys::reap_orphans(keep);
    }

    fn stop(&mut self, mode: Mode) {
        let hurried = self.stopping.is_some() && mode == Mode::StopAll;
        let wait = if hurried { HURRIED_WAIT } else { SHUTDOWN_WAIT };
        match &mut self.stopping {
            Some((known, end)) => {
                if mode == Mode::StopAll {
                    *known = Mode::StopAll;
                    *end = (*end).min(Instant::now() + wait);
                }
            }
            None => {
                self.stopping = Some((mode, Instant::now() + wait));
                self.restart_at = None;
            }
        }
        let number = if mode == Mode::StopAll { 1 } else { 2 };
        if self.connection.is_some() {
            self.shared
                .outbox
                .put(protocol::SHUTDOWN, 0, |writer| writer.u8(number));
        }
    }

    fn server_ended(&mut self) {
        let mut supervised = match self.supervised.take() {
            Some(supervised) => supervised,
            None => return,
        };
        let ending = match supervised.server.try_wait() {
            Ok(Some(ending)) => ending,
            _ => {
                self.supervised = Some(supervised);
                return;
            }
        };
        let _ = self.epoll.remove(supervised.server.pidfd.as_raw_fd());
        self.disconnect();
        if self.stopping.is_some() {
            return;
        }
        let quick = supervised.since.elapsed() < QUICK_DEATH;
        self.quick_deaths = if quick { supervised.quick_deaths + 1 } else { 0 };
        let how = match ending {
            Ending::Exited(number) => format!("exited with {}", number),
            Ending::Signalled(number) => format!("was killed by signal {}", number),
        };
        if self.quick_deaths >= QUICK_DEATHS_MAX {
            self.give_up(Error::new(
                code::IO,
                format!(
                    "the HTTP process {} {} times within {} s of its start: its last words above say why",
                    how,
                    self.quick_deaths,
                    QUICK_DEATH.as_secs()
                ),
            ));
            return;
        }
        let wait = RESTART_FIRST
            .saturating_mul(1 << self.quick_deaths.min(10))
            .min(RESTART_LAST);
        say(format_args!(
            "the HTTP process {}; it is started again in {} ms, sandboxes run on",
            how,
            wait.as_millis()
        ));
        self.restart_at = Some(Instant::now() + wait);
    }

    fn restart_server(&mut self) {
        if !self.supervises || self.restart_at.map_or(true, |at| Instant::now() < at) {
            return;
        }
        // A box that is still being made for the last one would appear after the next has asked what there is, and be nobody's.
        if self.shared.making.load(Ordering::SeqCst) > 0 {
            self.restart_at = Some(Instant::now() + MAKING_PAUSE);
            return;
        }
        self.restart_at = None;
        if let Err(error) = self.start_server() {
            self.give_up(error);
        }
    }

    fn give_up(&mut self, error: Error) {
        self.failure = Some(error);
        self.stopping = Some((Mode::Leave, Instant::now()));
    }

    fn box_ended(&mut self, token: u64) {
        if let Some((id, cause)) = self.shared.boxes.died(token) {
            if self.connection.is_some() {
                self.shared.outbox.put(protocol::BOX_DIED, 0, |writer| {
                    writer.str(&id);
                    writer.u8(cause.number());
                });
            }
        }
        self.reap();
    }

    /// After the HTTP process is gone: ends the boxes, or leaves them, and gives back what only this life needed.
    fn finish(mut self) -> Result<i32> {
        let mode = self.stopping.map_or(Mode::Leave, |(mode, _)| mode);
        let mut failures = Vec::new();
        self.watches.iter_mut().for_each(Watch::stop);
        if mode == Mode::StopAll {
            failures = self.end_all();
        }
        self.lanes.stop();
        self.reap();
        if self.shared.boxes.ids().is_empty() {
            if let Err(error) = self.shared.boxes.close() {
                failures.push(error.message);
            }
        }
        if let Some(error) = self.failure {
            failures.push(error.message);
        }
        for failure in &failures {
            say(failure);
        }
        Ok(if failures.is_empty() { 0 } else { 1 })
    }

    /// Ends every box by the workers, side by side; uppers stay.
    fn end_all(&mut self) -> Vec<String> {
        let failures = Arc::new(Mutex::new(Vec::new()));
        let queue = Queue::new(usize::MAX);
        let (shared, list) = (self.shared.clone(), failures.clone());
        let ended = Workers::start(
            "delta-end",
            worker_count(),
            &queue,
            || Ok(()),
            move |_, id: String| {
                if let Err(error) = shared.boxes.end(&id, true) {
                    list.lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .push(format!("{}: {}", id, error.message));
                }
            },
        );
        // A create that was under way is finished by its worker first; `end` waits for it.
        self.lanes.stop();
        for id in self.shared.boxes.ids() {
            let _ = queue.push(id);
        }
        queue.close();
        match ended {
            Ok(mut workers) => workers.join(),
            Err(error) => return vec![error.message],
        }
        let found = failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        found
    }
}

/// Ends every box of a data folder whose helper is gone.
pub fn end_all(mut settings: Settings) -> Result<i32> {
    settings.make_data()?;
    let _instance = only_instance(&settings.data)?;
    let epoll = Arc::new(Epoll::new().context("making an epoll")?);
    let boxes = open(&settings, &epoll, |_| {})?;
    let mut failed: HashMap<String, String> = HashMap::new();
    for id in boxes.ids() {
        if let Err(error) = boxes.end(&id, true) {
            failed.insert(id, error.message);
        }
    }
    for (id, message) in &failed {
        say(format_args!("{}: {}", id, message));
    }
    if failed.is_empty() {
        boxes.close()?;
    }
    Ok(if failed.is_empty() { 0 } else { 1 })
}

/// A descriptor this process was given. Closed on exec, so that no runtime inherits it.
pub fn given_descriptor(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_SETFD with FD_CLOEXEC; the descriptor was passed for this purpose and is owned by nobody else.
    ffi::check(unsafe { ffi::fcntl(fd, 2, 1) }).context(format_args!("descriptor {} is not open", fd))?;
    use std::os::unix::io::FromRawFd;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
