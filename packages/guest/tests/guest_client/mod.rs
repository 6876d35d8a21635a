//! A small blocking host end of the wire, for tests of the real guest.

use delta::helper::ffi;
use delta::wire::{self, code, op, FrameDecoder, Reader, Writer};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing here takes this long; it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A guest as a plain process, with a folder of its own that goes with it.
pub struct Guest {
    child: Child,
    pub folder: PathBuf,
}

impl Guest {
    pub fn start() -> Guest {
        Guest::start_by(Command::new(env!("CARGO_BIN_EXE_delta-guest")))
    }

    /// As PID 1 of namespaces of its own; needs root.
    pub fn start_as_init() -> Guest {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(env!("CARGO_BIN_EXE_delta-guest"));
        Guest::start_by(command)
    }

    /// With ways out in the network namespace of the calling thread, where nothing else uses their ports.
    pub fn start_with_ways_out(redirected: Option<OwnedFd>) -> Guest {
        let mut command = Command::new(env!("CARGO_BIN_EXE_delta-guest"));
        let fd = redirected.as_ref().map(|fd| fd.as_raw_fd());
        // SAFETY: dup2 alone, between fork and exec.
        unsafe {
            command.pre_exec(move || fd.map_or(Ok(()), |fd| ffi::check(ffi::dup2(fd, 9)).map(drop)));
        }
        Guest::start_with(command, if fd.is_some() { &["--egress", "--redirected-fd", "9"] } else { &["--egress"] })
    }

    fn start_by(command: Command) -> Guest {
        Guest::start_with(command, &[])
    }

    fn start_with(mut command: Command, more: &[&str]) -> Guest {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // In memory where `npm test` has found room: some tests make tens of thousands of files.
        let place = std::env::var_os("DELTA_TEST_MEMORY_DIR").map_or_else(std::env::temp_dir, std::path::PathBuf::from);
        let folder = place.join(format!("delta-guest-test-{}-{number}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(folder.join("files")).unwrap();
        command.args(["serve", "--unix"]).arg(folder.join("wire")).args(more);
        // As in a sandbox: nobody reads what it says there, nor ever will.
        let (reader, unread) = UnixStream::pair().unwrap();
        drop(reader);
        let stderr = Stdio::from(OwnedFd::from(unread));
        let child = command.stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
        Guest { child, folder }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self, name: &str) -> String {
        self.files().join(name).to_str().unwrap().into()
    }

    pub fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    pub fn connect(&self) -> Wire {
        let mut wire = Wire::raw(&self.folder.join("wire"));
        wire.hello();
        wire
    }

    /// None where the guest closed it at once: it serves as many as it may.
    pub fn connect_if_served(&self) -> Option<Wire> {
        let mut wire = Wire::raw(&self.folder.join("wire"));
        let mut byte = [0; 1];
        let served = matches!(wire.stream.read(&mut byte), Ok(1));
        wire.decoder.push(&byte[..served as usize]);
        if !served {
            return None;
        }
        wire.hello();
        Some(wire)
    }

    pub fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub channel: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.payload)
    }
}

pub struct Wire {
    pub stream: UnixStream,
    decoder: FrameDecoder,
    waiting: VecDeque<Frame>,
    last_channel: u32,
}

pub struct ExecArgs<'a> {
    pub id: &'a str,
    pub flags: u8,
    pub argv: Vec<Vec<u8>>,
    pub env: Vec<&'a str>,
    pub cwd: &'a str,
    pub user: &'a str,
    pub timeout_ms: u64,
    pub size: (u16, u16),
    pub from: u64,
    pub stdin: Vec<u8>,
    pub tag: &'a str,
    pub script: Option<Vec<u8>>,
}

pub const PTY: u8 = 1;
pub const KEEP_STDIN: u8 = 2;
pub const ATTACH: u8 = 4;

pub fn exec<'a>(id: &'a str, argv: &[&str]) -> ExecArgs<'a> {
    ExecArgs {
        id,
        flags: ATTACH,
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
        cwd: "/",
        user: "0",
        timeout_ms: 0,
        size: (80, 24),
        from: 0,
        stdin: Vec::new(),
        tag: "",
        script: None,
    }
}

pub fn sh<'a>(id: &'a str, script: &str) -> ExecArgs<'a> {
    exec(id, &["/bin/sh", "-c", script])
}

#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    pub code: u16,
    pub message: String,
    pub kind: u8,
    pub value: u8,
    pub flags: u8,
    pub output_bytes: u64,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Offset of the first byte that came.
    pub first: Option<u64>,
    pub gaps: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub path: String,
    pub kind: u8,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub modified_nanos: i64,
    pub inode: u64,
    pub target: Option<String>,
}

impl Entry {
    pub fn read(r: &mut Reader<'_>) -> Entry {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (path, kind, size, mode, uid) =
            (text(r.bytes().unwrap()), r.u8().unwrap(), r.u64().unwrap(), r.u32().unwrap(), r.u32().unwrap());
        r.u32().unwrap();
        r.str().unwrap();
        r.str().unwrap();
        let (modified_nanos, inode) = (r.i64().unwrap(), r.u64().unwrap());
        let target = r.opt(|r| r.bytes()).unwrap().map(text);
        Entry { path, kind, size, mode, uid, modified_nanos, inode, target }
    }

    pub fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}\"", self.inode, self.size, self.modified_nanos)
    }
}

pub type Closed<T> = Result<T, u16>;

impl Wire {
    pub fn raw(path: &Path) -> Wire {
        let stream = until("the guest listens", || UnixStream::connect(path).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire { stream, decoder: FrameDecoder::new(wire::to_host), waiting: VecDeque::new(), last_channel: 0 }
    }

    pub fn hello(&mut self) -> Vec<u8> {
        self.hello_naming(0)
    }

    pub fn hello_naming(&mut self, features: u64) -> Vec<u8> {
        self.send(wire::HELLO, 0, |w| {
            w.bytes(wire::MAGIC);
            w.u32(wire::VERSION);
            w.bytes(&[0; 16]);
            w.u64(features);
            w.bytes(b"");
        });
        let hello = self.read_frame().expect("a HELLO");
        let mut r = hello.reader();
        assert_eq!((hello.kind, hello.channel), (wire::HELLO, 0));
        assert_eq!((r.bytes(), r.u32()), (Ok(wire::MAGIC), Ok(wire::VERSION)));
        let boot_id = r.bytes().unwrap().to_vec();
        assert_eq!(r.u64(), Ok(wire::STARTS_SMALL));
        boot_id
    }

    pub fn send(&mut self, kind: u8, channel: u32, fields: impl FnOnce(&mut Writer<'_>)) {
        self.try_send(kind, channel, fields).unwrap();
    }

    /// For who breaks the protocol: the guest may have ended the connection already.
    pub fn try_send(&mut self, kind: u8, channel: u32, fields: impl FnOnce(&mut Writer<'_>)) -> io::Result<()> {
        let mut out = Vec::new();
        wire::put_frame(&mut out, kind, channel, fields);
        self.stream.write_all(&out)
    }

    /// The next frame as it comes; None at the end of the connection.
    pub fn read_frame(&mut self) -> Option<Frame> {
        let mut chunk = [0; 65536];
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("frames within the protocol") {
                return Some(Frame { kind: frame.kind, channel: frame.channel, payload: frame.payload.to_vec() });
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    pub fn next(&mut self, channel: u32) -> Frame {
        if let Some(at) = self.waiting.iter().position(|frame| frame.channel == channel) {
            return self.waiting.remove(at).unwrap();
        }
        loop {
            let frame = self.read_frame().expect("the connection to go on");
            if frame.channel == channel {
                return frame;
            }
            self.waiting.push_back(frame);
        }
    }

    /// The next frame of a kind, on whatever channel.
    pub fn next_of(&mut self, kind: u8) -> Frame {
        if let Some(at) = self.waiting.iter().position(|frame| frame.kind == kind) {
            return self.waiting.remove(at).unwrap();
        }
        loop {
            let frame = self.read_frame().expect("the connection to go on");
            if frame.kind == kind {
                return frame;
            }
            self.waiting.push_back(frame);
        }
    }

    /// What came of a kind on a channel while another was waited for.
    pub fn take_waiting(&mut self, channel: u32, kind: u8) -> Vec<Frame> {
        let (taken, rest): (VecDeque<Frame>, VecDeque<Frame>) = self.waiting.drain(..).partition(|frame| frame.channel == channel && frame.kind == kind);
        self.waiting = rest;
        let taken: VecDeque<Frame> = taken;
        taken.into_iter().collect()
    }

    pub fn open(&mut self, number: u8, fields: impl FnOnce(&mut Writer<'_>)) -> u32 {
        let channel = if self.last_channel == 0 { 1 } else { self.last_channel + 2 };
        self.last_channel = channel;
        self.send(wire::OPEN, channel, |w| {
            w.u8(number);
            fields(w);
        });
        channel
    }

    pub fn open_exec(&mut self, args: &ExecArgs<'_>) -> u32 {
        self.open(op::EXEC, |w| {
            w.str(args.id);
            w.u8(args.flags);
            w.list(&args.argv, |w, item| w.bytes(item));
            w.list(&args.env, |w, item| w.bytes(item.as_bytes()));
            w.str(args.cwd);
            w.str(args.user);
            w.u64(args.timeout_ms);
            w.u16(args.size.0);
            w.u16(args.size.1);
            w.u64(args.from);
            w.bytes(&args.stdin);
            w.str(args.tag);
            w.opt(args.script.as_ref(), |w, script| w.bytes(script));
        })
    }

    pub fn attach(&mut self, id: &str, from: u64) -> u32 {
        self.open(op::ATTACH, |w| {
            w.str(id);
            w.u64(from);
            w.u8(0);
        })
    }

    /// `pid`, `known`, `start` of OPENED.
    pub fn opened(&mut self, channel: u32) -> (u32, u8, u64) {
        let frame = self.next(channel);
        assert_eq!(frame.kind, wire::OPENED, "{frame:?}");
        let mut r = frame.reader();
        (r.u32().unwrap(), r.u8().unwrap(), r.u64().unwrap())
    }

    pub fn credit(&mut self, channel: u32, bytes: u32) {
        self.send(wire::CREDIT, channel, |w| w.u32(bytes));
    }

    pub fn data(&mut self, channel: u32, offset: u64, bytes: &[u8]) {
        self.send(wire::DATA, channel, |w| {
            w.u8(0);
            w.u64(offset);
            w.raw(bytes);
        });
    }

    /// Everything of an exec channel to its CLOSE, giving credit as it comes.
    pub fn collect(&mut self, channel: u32) -> Outcome {
        let mut outcome = Outcome::default();
        let mut next = None;
        loop {
            let frame = self.next(channel);
            let mut r = frame.reader();
            match frame.kind {
                wire::DATA => {
                    let (stream, offset) = (r.u8().unwrap(), r.u64().unwrap());
                    let bytes = r.rest();
                    outcome.first.get_or_insert(offset);
                    outcome.gaps += next.map_or(0, |next| offset - next);
                    next = Some(offset + bytes.len() as u64);
                    let to = if stream == 1 { &mut outcome.stdout } else { &mut outcome.stderr };
                    to.extend_from_slice(bytes);
                    self.credit(channel, bytes.len() as u32);
                }
                wire::CLOSE => {
                    outcome.code = r.u16().unwrap();
                    outcome.message = r.str().unwrap().into();
                    if outcome.code == code::OK {
                        outcome.kind = r.u8().unwrap();
                        outcome.value = r.u8().unwrap();
                        outcome.flags = r.u8().unwrap();
                        outcome.output_bytes = r.u64().unwrap();
                    }
                    return outcome;
                }
                wire::OPENED | wire::CREDIT => {}
                kind => panic!("frame {kind} on an exec channel"),
            }
        }
    }

    pub fn run(&mut self, args: &ExecArgs<'_>) -> Outcome {
        let channel = self.open_exec(args);
        self.collect(channel)
    }

    /// The fields of a CLOSE, or its error; DATA before it is gathered.
    pub fn closed(&mut self, channel: u32) -> Closed<Frame> {
        self.closed_with_data(channel).map(|(frame, _)| frame)
    }

    pub fn closed_with_data(&mut self, channel: u32) -> Closed<(Frame, Vec<u8>)> {
        let mut data = Vec::new();
        loop {
            let mut frame = self.next(channel);
            match frame.kind {
                wire::CLOSE => {
                    let mut r = frame.reader();
                    let (code, message) = (r.u16().unwrap(), r.str().unwrap().to_string());
                    assert_eq!(code == 0, message.is_empty(), "{message}");
                    let rest = r.rest().to_vec();
                    frame.payload = rest;
                    return if code == 0 { Ok((frame, data)) } else { Err(code) };
                }
                wire::DATA => {
                    let bytes = &frame.payload[9..];
                    data.extend_from_slice(bytes);
                    self.credit(channel, bytes.len() as u32);
                }
                _ => {}
            }
        }
    }

    pub fn entry(&mut self, channel: u32) -> Closed<Entry> {
        self.closed(channel).map(|frame| Entry::read(&mut frame.reader()))
    }

    pub fn stat(&mut self, path: &str) -> Closed<Entry> {
        let channel = self.open(op::STAT, |w| {
            w.bytes(path.as_bytes());
            w.u8(0);
        });
        self.entry(channel)
    }

    pub fn open_write(&mut self, path: &str, mode: u32, flags: u8, if_match: Option<&str>) -> u32 {
        self.open(op::WRITE, |w| {
            w.bytes(path.as_bytes());
            w.u32(mode);
            w.str("0:0");
            w.u8(flags);
            w.opt(if_match, |w, etag| w.str(etag));
        })
    }

    pub fn write(&mut self, path: &str, bytes: &[u8], mode: u32, flags: u8, if_match: Option<&str>) -> Closed<Entry> {
        let channel = self.open_write(path, mode, flags, if_match);
        let frame = self.next(channel);
        if frame.kind == wire::CLOSE {
            return Err(frame.reader().u16().unwrap());
        }
        assert_eq!(frame.kind, wire::OPENED);
        let (mut sent, mut credit) = (0, wire::INITIAL_CREDIT_BYTES as usize);
        while sent < bytes.len() {
            let count = credit.min(bytes.len() - sent).min(65536);
            if count > 0 {
                self.data(channel, sent as u64, &bytes[sent..sent + count]);
                sent += count;
                credit -= count;
                continue;
            }
            let frame = self.next(channel);
            match frame.kind {
                wire::CREDIT => credit += frame.reader().u32().unwrap() as usize,
                wire::CLOSE => return Err(frame.reader().u16().unwrap()),
                kind => panic!("frame {kind}"),
            }
        }
        self.send(wire::END, channel, |_| {});
        self.entry(channel)
    }

    pub fn read(&mut self, path: &str, from: u64, length: u64) -> Closed<Vec<u8>> {
        let channel = self.open(op::READ, |w| {
            w.bytes(path.as_bytes());
            w.u64(from);
            w.u64(length);
        });
        self.closed_with_data(channel).map(|(_, data)| data)
    }

    /// The entries and `more` of one LIST.
    pub fn list(&mut self, path: &str, depth: u32, after: &str, limit: u32) -> Closed<(Vec<Entry>, bool)> {
        let channel = self.open(op::LIST, |w| {
            w.bytes(path.as_bytes());
            w.u32(depth);
            w.bytes(after.as_bytes());
            w.u32(limit);
        });
        let (frame, data) = self.closed_with_data(channel)?;
        let mut r = Reader::new(&data);
        let mut entries = Vec::new();
        while let Ok(record) = r.bytes() {
            entries.push(Entry::read(&mut Reader::new(record)));
        }
        Ok((entries, frame.payload[0] == 1))
    }

    pub fn paths(&mut self, number: u8, fields: impl FnOnce(&mut Writer<'_>)) -> Closed<Frame> {
        let channel = self.open(number, fields);
        self.closed(channel)
    }

    pub fn remove(&mut self, path: &str, recursive: bool) -> Closed<u64> {
        let closed = self.paths(op::REMOVE, |w| {
            w.bytes(path.as_bytes());
            w.u8(recursive as u8);
        });
        closed.map(|frame| frame.reader().u64().unwrap())
    }

    pub fn ping(&mut self) {
        self.send(wire::PING, 0, |w| w.u64(42));
        let pong = self.next(0);
        assert_eq!((pong.kind, pong.reader().u64()), (wire::PONG, Ok(42)));
    }

    /// True when the guest closes the connection.
    pub fn is_cut(&mut self) -> bool {
        while self.read_frame().is_some() {}
        true
    }
}
