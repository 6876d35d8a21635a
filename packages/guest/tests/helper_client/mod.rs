//! A data folder with a helper on it, and what tests ask of both.
// Each test file is a crate of its own and uses its part of this.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::io::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use delta::helper::cgroup::folder_digest;
use delta::helper::ffi;
use delta::helper::pool::system_program;
use delta::helper::protocol;
use delta::wire::{self, op, put_frame, FrameDecoder, Reader, Writer};

pub const CALL_WAIT: Duration = Duration::from_secs(60);
pub const RANGES: u32 = 200;
/// Places, which have uids by it, and execs are counted apart.
static NEXT: AtomicU32 = AtomicU32::new(0);
static NEXT_EXEC: AtomicU32 = AtomicU32::new(0);

pub fn runtimes() -> Vec<&'static str> {
    let found: Vec<&str> = ["crun", "runc", "runsc"]
        .iter()
        .copied()
        .filter(|name| system_program(name).is_some())
        .collect();
    assert!(
        !found.is_empty(),
        "none of crun, runc and runsc is installed: apt-get install crun"
    );
    found
}

/// A data folder with a template made of the machine's own /usr, and uids of its own.
pub struct Place {
    pub data: PathBuf,
    /// gVisor's control socket is named by the box alone, so boxes of tests that run side by side have different names.
    pub tag: String,
    pub uid_base: u32,
}

impl Place {
    pub fn new(name: &str) -> Place {
        assert_eq!(
            unsafe { ffi::getuid() },
            0,
            "these tests mount file systems and map uids: run them as root"
        );
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let data = std::env::temp_dir().join(format!("delta-helper-{}-{}-{}", name, std::process::id(), number));
        let root = data.join("templates/host/root");
        for folder in ["usr", "etc", "proc", "dev", "sys", "tmp", "run", "root", "workspace"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{}", name), root.join(name)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/workspace:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
        fs::write(
            data.join("templates/host/meta"),
            "fingerprint=test\ndetail=test\nusr=/usr\nmasked=0\n",
        )
        .unwrap();
        // Above what platforms use by default, and each test's apart: a process of one is never taken for another's.
        let slot = (std::process::id() % 8) * 16 + number % 16;
        Place {
            data: data.canonicalize().unwrap(),
            tag: format!("{}x{}x", std::process::id(), number),
            uid_base: 2_500_000_000 + slot * RANGES * 65_536,
        }
    }

    pub fn id(&self, name: &str) -> String {
        format!("sbx_{}{}", self.tag, name)
    }

    pub fn start(&self) -> Helper {
        self.start_with(&[])
    }

    pub fn start_with(&self, environment: &[(&str, &str)]) -> Helper {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(CALL_WAIT)).unwrap();
        // A number nothing else has here: one copied onto itself would stay closed on exec.
        let fd = theirs.as_raw_fd();
        let mut command = Command::new(env!("CARGO_BIN_EXE_delta-helper"));
        command
            .args(["helper-only", "--fd", "700"])
            .env("DELTA_DATA_DIR", &self.data)
            .env("DELTA_GUEST", env!("CARGO_BIN_EXE_delta-guest"));
        command
            .env("DELTA_UID_BASE", self.uid_base.to_string())
            .env("DELTA_UID_COUNT", (RANGES * 65_536).to_string());
        command
            .env("DELTA_POOL_MAX_GB", "2")
            .env_remove("DELTA_RUNTIME")
            .env_remove("DELTA_POOL")
            .env_remove("DELTA_STOP_ALL");
        command.envs(environment.iter().copied());
        // SAFETY: dup2 alone, between fork and exec.
        unsafe {
            command.pre_exec(move || ffi::check(ffi::dup2(fd, 700)).map(|_| ()));
        }
        let child = command.spawn().unwrap();
        Helper {
            child,
            socket: ours,
            decoder: FrameDecoder::new(|_| Some(8 << 20)),
            answers: HashMap::new(),
            news: Vec::new(),
            last: 0,
            place: self.data.clone(),
        }
    }

    /// What a helper and its boxes have left, in words; nothing is what there should be.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let digest = folder_digest(&self.data);
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            if entry.path().join(format!("delta-{}", digest)).exists() {
                left.push(format!("a cgroup in {}", entry.path().display()));
            }
        }
        left.extend(self.left_of_boxes());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&*self.data.to_string_lossy()))
                .map(|line| format!("the mount {}", line)),
        );
        for entry in fs::read_dir("/sys/block").unwrap().flatten() {
            let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if backing.starts_with(&*self.data.to_string_lossy()) {
                left.push(format!("the loop device {}", entry.path().display()));
            }
        }
        left
    }

    pub fn left_of_boxes(&self) -> Vec<String> {
        let mut left = self.processes();
        for folder in ["state/boxes", "wires"] {
            for entry in fs::read_dir(self.data.join(folder)).into_iter().flatten().flatten() {
                left.push(format!("the file {}", entry.path().display()));
            }
        }
        for controller in ["memory", "pids", "freezer", "cpu", "devices", "cpuset", "."] {
            let parent = Path::new("/sys/fs/cgroup")
                .join(controller)
                .join(format!("delta-{}", folder_digest(&self.data)));
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    left.push(format!("the cgroup {}", entry.path().display()));
                }
            }
        }
        left
    }

    /// Processes of this place's uids.
    pub fn processes(&self) -> Vec<String> {
        let range = self.uid_base..self.uid_base + RANGES * 65_536;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let uid = status
                .lines()
                .find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse::<u32>().ok());
            // One that has ended and waits for the machine's PID 1 to look at it holds nothing any more.
            let ended = status.contains("\nState:\tZ");
            if !ended && uid.map_or(false, |uid| range.contains(&uid)) {
                found.push(format!(
                    "process {:?} {}",
                    entry.file_name(),
                    status.lines().next().unwrap_or("")
                ));
            }
        }
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new(env!("CARGO_BIN_EXE_delta-helper"))
                .arg("end-all")
                .env("DELTA_DATA_DIR", &self.data)
                .env("DELTA_GUEST", env!("CARGO_BIN_EXE_delta-guest"))
                .env("DELTA_UID_BASE", self.uid_base.to_string())
                .status();
        }
        let _ = fs::remove_dir_all(&self.data);
    }
}

pub struct Helper {
    pub child: Child,
    pub socket: UnixStream,
    pub decoder: FrameDecoder,
    pub answers: HashMap<u32, Vec<u8>>,
    pub news: Vec<(u8, Vec<u8>)>,
    pub last: u32,
    pub place: PathBuf,
}

#[derive(Clone)]
pub struct Wanted<'a> {
    pub id: &'a str,
    pub upper: &'a str,
    pub fresh: u8,
    pub template: &'a str,
    pub runtime: &'a str,
    pub cpu_milli: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub processes: u32,
    pub hostname: &'a str,
    /// Id, path and whether it is read-only.
    pub volumes: &'a [(&'a str, &'a str, bool)],
}

pub fn wanted<'a>(id: &'a str, upper: &'a str, runtime: &'a str) -> Wanted<'a> {
    Wanted {
        id,
        upper,
        fresh: 1,
        template: "host",
        runtime,
        cpu_milli: 1000,
        memory_mb: 256,
        disk_mb: 64,
        processes: 200,
        hostname: "box",
        volumes: &[],
    }
}

pub struct Made {
    pub pid: i32,
    pub uid_first: u32,
    pub wire: String,
}

pub type Refusal = (u16, String);
/// Box, upper, state and wire.
pub type Listed = (String, String, u8, String);

impl Helper {
    pub fn send(&mut self, kind: u8, fields: impl FnOnce(&mut Writer<'_>)) -> u32 {
        self.last += 1;
        let mut frame = Vec::new();
        put_frame(&mut frame, kind, self.last, fields);
        // The helper may have been told to die.
        let _ = self.socket.write_all(&frame);
        self.last
    }

    /// None when the helper is gone.
    pub fn read_frame(&mut self) -> Option<()> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                if frame.channel == 0 {
                    // Told when a connection begins, whatever a test is about.
                    if frame.kind != protocol::ROOM {
                        self.news.push((frame.kind, frame.payload.to_vec()));
                    }
                } else {
                    self.answers.insert(frame.channel, frame.payload.to_vec());
                }
                return Some(());
            }
            let mut buffer = [0; 65_536];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(cause) if cause.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(cause) => panic!("the helper did not answer: {}", cause),
            }
        }
    }

    pub fn wait(&mut self, number: u32) -> Option<Result<Vec<u8>, Refusal>> {
        while !self.answers.contains_key(&number) {
            self.read_frame()?;
        }
        let payload = self.answers.remove(&number).unwrap();
        let mut reader = Reader::new(&payload);
        let (found, message) = (reader.u16().unwrap(), reader.str().unwrap().to_string());
        Some(if found == 0 {
            Ok(payload[2 + 4 + message.len()..].to_vec())
        } else {
            Err((found, message))
        })
    }

    pub fn call(&mut self, kind: u8, fields: impl FnOnce(&mut Writer<'_>)) -> Result<Vec<u8>, Refusal> {
        let number = self.send(kind, fields);
        self.wait(number).expect("the helper is gone")
    }

    pub fn send_create(&mut self, wanted: &Wanted<'_>) -> u32 {
        self.send(protocol::CREATE, |writer| {
            writer.str(wanted.id);
            writer.str(wanted.upper);
            writer.u8(wanted.fresh);
            writer.str(wanted.template);
            writer.str(wanted.runtime);
            for value in [wanted.cpu_milli, wanted.memory_mb, wanted.disk_mb, wanted.processes] {
                writer.u32(value);
            }
            writer.str(wanted.hostname);
            writer.list(wanted.volumes, |writer, (id, path, read_only)| {
                writer.str(id);
                writer.str(path);
                writer.u8(u8::from(*read_only));
            });
        })
    }

    pub fn create(&mut self, wanted: &Wanted<'_>) -> Result<Made, Refusal> {
        let number = self.send_create(wanted);
        let payload = self.wait(number).expect("the helper is gone")?;
        let mut reader = Reader::new(&payload);
        Ok(Made {
            pid: reader.u32().unwrap() as i32,
            uid_first: reader.u32().unwrap(),
            wire: reader.str().unwrap().to_string(),
        })
    }

    pub fn end(&mut self, id: &str, keep: bool) -> Result<(), Refusal> {
        self.call(protocol::END, |writer| {
            writer.str(id);
            writer.u8(u8::from(keep));
        })
        .map(|_| ())
    }

    pub fn on(&mut self, kind: u8, id: &str) -> Result<Vec<u8>, Refusal> {
        self.call(kind, |writer| writer.str(id))
    }

    /// (box, upper, state, wire) and free uppers.
    pub fn list(&mut self) -> (Vec<Listed>, Vec<String>) {
        let payload = self.call(protocol::LIST, |_| {}).unwrap();
        let mut reader = Reader::new(&payload);
        let boxes = reader
            .list(|reader| {
                let (id, upper, state) = (reader.str()?.to_string(), reader.str()?.to_string(), reader.u8()?);
                reader.u32()?;
                let wire = reader.str()?.to_string();
                reader.str()?;
                Ok((id, upper, state, wire))
            })
            .unwrap();
        (boxes, reader.list(|reader| Ok(reader.str()?.to_string())).unwrap())
    }

    pub fn guest(&self, wire: &str) -> Guest {
        Guest::connect(&self.place.join("wires").join(wire))
    }

    /// SIGINT: every box ends. The exit code.
    pub fn stop(mut self) -> Option<i32> {
        unsafe { ffi::kill(self.child.id() as i32, 2) };
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.child.wait().unwrap().code()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn wait_for_news(&mut self) -> (u8, Vec<u8>) {
        while self.news.is_empty() {
            self.read_frame().expect("the helper is gone");
        }
        self.news.remove(0)
    }
}

pub struct Guest {
    pub stream: UnixStream,
    pub decoder: FrameDecoder,
    pub channel: u32,
}

pub struct Outcome {
    /// 0 exited, 1 signalled.
    pub kind: u8,
    pub value: u8,
    pub output: String,
}

impl Guest {
    pub fn connect(path: &Path) -> Guest {
        // A socket's address holds 108 bytes; a folder's descriptor stands for any path.
        let folder = fs::File::open(path.parent().unwrap()).unwrap();
        let short = format!(
            "/proc/self/fd/{}/{}",
            folder.as_raw_fd(),
            path.file_name().unwrap().to_string_lossy()
        );
        let mut stream = UnixStream::connect(short).unwrap();
        stream.set_read_timeout(Some(CALL_WAIT)).unwrap();
        let mut hello = Vec::new();
        put_frame(&mut hello, wire::HELLO, 0, |writer| {
            writer.bytes(wire::MAGIC);
            writer.u32(wire::VERSION);
            writer.bytes(&[0; 16]);
            writer.u64(0);
            writer.bytes(b"");
        });
        stream.write_all(&hello).unwrap();
        let mut guest = Guest {
            stream,
            decoder: FrameDecoder::new(wire::to_host),
            channel: 1,
        };
        let (kind, _, _) = guest.next();
        assert_eq!(kind, wire::HELLO);
        guest
    }

    pub fn next(&mut self) -> (u8, u32, Vec<u8>) {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return (frame.kind, frame.channel, frame.payload.to_vec());
            }
            let mut buffer = [0; 65_536];
            let count = self.stream.read(&mut buffer).expect("the guest did not answer");
            assert!(count > 0, "the guest closed the wire");
            self.decoder.push(&buffer[..count]);
        }
    }

    pub fn sh(&mut self, script: &str) -> Outcome {
        self.sh_as("root", script)
    }

    pub fn sh_as(&mut self, user: &str, script: &str) -> Outcome {
        let channel = self.begin(user, script);
        self.finish(channel)
    }

    pub fn begin(&mut self, user: &str, script: &str) -> u32 {
        self.channel += 2;
        let channel = self.channel;
        let mut frame = Vec::new();
        put_frame(&mut frame, wire::OPEN, channel, |writer| {
            writer.u8(op::EXEC);
            writer.str(&format!(
                "exe_{}_{}",
                std::process::id(),
                NEXT_EXEC.fetch_add(1, Ordering::SeqCst)
            ));
            writer.u8(4);
            writer.list(&["/bin/sh", "-c", script], |writer, word| writer.str(word));
            writer.list(&["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], |writer, word| writer.str(word));
            writer.str("/");
            writer.str(user);
            writer.u64(0);
            writer.u16(0);
            writer.u16(0);
            writer.u64(0);
            writer.bytes(b"");
            writer.str("");
            writer.opt(None::<()>, |_, _| {});
        });
        self.stream.write_all(&frame).unwrap();
        channel
    }

    /// Waits for the end of an exec. Whoever inside wants to connect to the outside meanwhile is told its way and answered with it:
    /// `host:port/via`.
    pub fn finish(&mut self, channel: u32) -> Outcome {
        let mut output = Vec::new();
        loop {
            let (kind, on, payload) = self.next();
            if kind == wire::OPEN {
                self.answer_with_the_way(on, &payload);
            }
            if on != channel {
                continue;
            }
            match kind {
                wire::DATA => output.extend_from_slice(&payload[9..]),
                wire::CLOSE => {
                    let mut reader = Reader::new(&payload);
                    let found = reader.u16().unwrap();
                    let message = reader.str().unwrap();
                    assert_eq!(found, 0, "{}", message);
                    let output = String::from_utf8_lossy(&output).into_owned();
                    return Outcome {
                        kind: reader.u8().unwrap(),
                        value: reader.u8().unwrap(),
                        output,
                    };
                }
                _ => {}
            }
        }
    }
}

impl Guest {
    pub fn answer_with_the_way(&mut self, channel: u32, payload: &[u8]) {
        let mut reader = Reader::new(payload);
        assert_eq!(reader.u8(), Ok(op::EGRESS));
        let (host, port) = (reader.str().unwrap(), reader.u16().unwrap());
        let way = format!("{}:{}/{}\n", host, port, reader.u8().unwrap());
        let mut frames = Vec::new();
        put_frame(&mut frames, wire::OPENED, channel, |_| {});
        put_frame(&mut frames, wire::DATA, channel, |writer| {
            writer.u8(0);
            writer.u64(0);
            writer.raw(way.as_bytes());
        });
        put_frame(&mut frames, wire::END, channel, |_| {});
        self.stream.write_all(&frames).unwrap();
    }
}

pub fn status_of(pid: i32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", pid)).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap_or("")
        .trim()
        .to_string()
}

pub fn exited(outcome: &Outcome) -> (u8, u8) {
    (outcome.kind, outcome.value)
}

impl Helper {
    pub fn kill_if_alive(mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}
