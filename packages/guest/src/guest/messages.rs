//! What the host asks for, parsed from OPEN, and what the guest answers.

use crate::wire::{control, op, Reader, WireError, Writer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    pub exec_id: String,
    pub pty: bool,
    pub keep_stdin: bool,
    pub attach: bool,
    pub argv: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub cwd: String,
    pub user: String,
    /// 0 = none.
    pub timeout_ms: u64,
    pub cols: u16,
    pub rows: u16,
    pub from: u64,
    pub stdin: Vec<u8>,
    pub tag: String,
    pub script: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub path: Vec<u8>,
    pub mode: u32,
    pub owner: String,
    pub make_parents: bool,
    pub must_not_exist: bool,
    pub fsync: bool,
    pub if_match: Option<String>,
}

/// Bit of `Write::mode`: the mode applies to an existing file too.
pub const MODE_EXPLICIT: u32 = 0x8000_0000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Exec(Box<Exec>),
    Attach { exec_id: String, from: u64, stdin: bool },
    Execs,
    Signal { exec_id: String, signal: u8, session: bool },
    Forget { exec_id: String },
    Stat { path: Vec<u8>, follow: bool },
    List { path: Vec<u8>, depth: u32, after: Vec<u8>, limit: u32 },
    Read { path: Vec<u8>, from: u64, length: u64 },
    Write(Box<Write>),
    Mkdir { path: Vec<u8>, mode: u32, owner: String, parents: bool },
    Move { from: Vec<u8>, to: Vec<u8>, overwrite: bool },
    Remove { path: Vec<u8>, recursive: bool },
    Chmod { path: Vec<u8>, mode: u32 },
    Watch { path: Vec<u8>, recursive: bool },
    Dial { port: u16 },
    Egress { host: String, port: u16, via: u8 },
    Metrics,
    Sync,
    Clock { unix_nanos: u64 },
    Memory { limit_mb: u32 },
}

impl Request {
    pub fn parse(payload: &[u8]) -> Result<Request, WireError> {
        let mut r = Reader::new(payload);
        let request = match r.u8()? {
            op::EXEC => Request::Exec(Box::new(Exec::parse(&mut r)?)),
            op::ATTACH => Request::Attach { exec_id: r.str()?.into(), from: r.u64()?, stdin: r.u8()? & 1 != 0 },
            op::EXECS => Request::Execs,
            op::SIGNAL => Request::Signal { exec_id: r.str()?.into(), signal: r.u8()?, session: r.u8()? & 1 != 0 },
            op::FORGET => Request::Forget { exec_id: r.str()?.into() },
            op::STAT => Request::Stat { path: r.bytes()?.into(), follow: r.u8()? & 1 != 0 },
            op::LIST => {
                Request::List { path: r.bytes()?.into(), depth: r.u32()?, after: r.bytes()?.into(), limit: r.u32()? }
            }
            op::READ => Request::Read { path: r.bytes()?.into(), from: r.u64()?, length: r.u64()? },
            op::WRITE => Request::Write(Box::new(Write::parse(&mut r)?)),
            op::MKDIR => Request::Mkdir {
                path: r.bytes()?.into(),
                mode: r.u32()?,
                owner: r.str()?.into(),
                parents: r.u8()? & 1 != 0,
            },
            op::MOVE => Request::Move { from: r.bytes()?.into(), to: r.bytes()?.into(), overwrite: r.u8()? & 1 != 0 },
            op::REMOVE => Request::Remove { path: r.bytes()?.into(), recursive: r.u8()? & 1 != 0 },
            op::CHMOD => Request::Chmod { path: r.bytes()?.into(), mode: r.u32()? },
            op::WATCH => Request::Watch { path: r.bytes()?.into(), recursive: r.u8()? & 1 != 0 },
            op::DIAL => Request::Dial { port: r.u16()? },
            op::EGRESS => Request::Egress { host: r.str()?.into(), port: r.u16()?, via: r.u8()? },
            op::METRICS => Request::Metrics,
            op::SYNC => Request::Sync,
            op::CLOCK => Request::Clock { unix_nanos: r.u64()? },
            op::MEMORY => Request::Memory { limit_mb: r.u32()? },
            _ => return Err(WireError::BadValue),
        };
        Ok(request)
    }
}

impl Exec {
    const PTY: u8 = 1;
    const KEEP_STDIN: u8 = 2;
    const ATTACH: u8 = 4;

    fn parse(r: &mut Reader<'_>) -> Result<Exec, WireError> {
        let exec_id = r.str()?.into();
        let flags = r.u8()?;
        Ok(Exec {
            exec_id,
            pty: flags & Exec::PTY != 0,
            keep_stdin: flags & Exec::KEEP_STDIN != 0,
            attach: flags & Exec::ATTACH != 0,
            argv: r.list(|r| r.bytes().map(<[u8]>::to_vec))?,
            env: r.list(|r| r.bytes().map(<[u8]>::to_vec))?,
            cwd: r.str()?.into(),
            user: r.str()?.into(),
            timeout_ms: r.u64()?,
            cols: r.u16()?,
            rows: r.u16()?,
            from: r.u64()?,
            stdin: r.bytes()?.into(),
            tag: r.str()?.into(),
            script: r.opt(|r| r.bytes().map(<[u8]>::to_vec))?,
        })
    }
}

impl Write {
    const MAKE_PARENTS: u8 = 1;
    const MUST_NOT_EXIST: u8 = 2;
    const FSYNC: u8 = 4;

    fn parse(r: &mut Reader<'_>) -> Result<Write, WireError> {
        let path = r.bytes()?.into();
        let mode = r.u32()?;
        let owner = r.str()?.into();
        let flags = r.u8()?;
        Ok(Write {
            path,
            mode,
            owner,
            make_parents: flags & Write::MAKE_PARENTS != 0,
            must_not_exist: flags & Write::MUST_NOT_EXIST != 0,
            fsync: flags & Write::FSYNC != 0,
            if_match: r.opt(|r| r.str().map(str::to_owned))?,
        })
    }
}

/// How an exec stands, as CLOSE and EXECS tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exited(u8),
    Signalled(u8),
    Unknown,
    Running,
}

impl Ending {
    pub fn kind(self) -> u8 {
        match self {
            Ending::Exited(_) => 0,
            Ending::Signalled(_) => 1,
            Ending::Unknown => 2,
            Ending::Running => 3,
        }
    }

    pub fn value(self) -> u8 {
        match self {
            Ending::Exited(value) | Ending::Signalled(value) => value,
            Ending::Unknown | Ending::Running => 0,
        }
    }
}

pub const TIMED_OUT: u8 = 1;
pub const OOM_KILLED: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub ending: Ending,
    pub flags: u8,
    pub output_bytes: u64,
    pub duration_ms: u64,
}

impl Exit {
    pub fn write(&self, w: &mut Writer<'_>) {
        w.u8(self.ending.kind());
        w.u8(self.ending.value());
        w.u8(self.flags);
        w.u64(self.output_bytes);
        w.u64(self.duration_ms);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecInfo {
    pub exec_id: String,
    pub pid: u32,
    pub ending: Ending,
    pub flags: u8,
    pub started_unix_ms: u64,
    pub duration_ms: u64,
    pub output_bytes: u64,
    pub start: u64,
    pub argv: Vec<Vec<u8>>,
    pub cwd: String,
    pub user: String,
    pub tag: String,
    pub pty: bool,
}

impl ExecInfo {
    pub fn write(&self, w: &mut Writer<'_>) {
        w.str(&self.exec_id);
        w.u32(self.pid);
        w.u8(self.ending.kind());
        w.u8(self.ending.value());
        w.u8(self.flags);
        w.u64(self.started_unix_ms);
        w.u64(self.duration_ms);
        w.u64(self.output_bytes);
        w.u64(self.start);
        w.list(&self.argv, |w, item| w.bytes(item));
        w.str(&self.cwd);
        w.str(&self.user);
        w.str(&self.tag);
        w.u8(self.pty as u8);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File = 1,
    Directory = 2,
    Symlink = 3,
    Other = 4,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: EntryKind,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub owner: String,
    pub group: String,
    pub modified_nanos: i64,
    pub inode: u64,
    pub target: Option<Vec<u8>>,
}

impl Entry {
    pub fn write(&self, w: &mut Writer<'_>) {
        w.bytes(&self.path);
        w.u8(self.kind as u8);
        w.u64(self.size);
        w.u32(self.mode);
        w.u32(self.uid);
        w.u32(self.gid);
        w.str(&self.owner);
        w.str(&self.group);
        w.i64(self.modified_nanos);
        w.u64(self.inode);
        w.opt(self.target.as_ref(), |w, target| w.bytes(target));
    }

    pub fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}\"", self.inode, self.size, self.modified_nanos)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    Create = 1,
    Write = 2,
    Remove = 3,
    Rename = 4,
    Chmod = 5,
    Overflow = 6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    pub kind: WatchKind,
    pub path: Vec<u8>,
    pub is_directory: bool,
}

impl WatchEvent {
    pub fn write(&self, w: &mut Writer<'_>) {
        w.u8(self.kind as u8);
        w.bytes(&self.path);
        w.u8(self.is_directory as u8);
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub uptime_ms: u64,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    pub processes: u32,
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub load1_centi: u32,
    pub cpu_user_ms: u64,
    pub cpu_system_ms: u64,
}

impl Metrics {
    pub fn write(&self, w: &mut Writer<'_>) {
        w.u64(self.uptime_ms);
        w.u64(self.memory_used_bytes);
        w.u64(self.memory_total_bytes);
        w.u32(self.processes);
        w.u64(self.disk_used_bytes);
        w.u64(self.disk_total_bytes);
        w.u32(self.load1_centi);
        w.u64(self.cpu_user_ms);
        w.u64(self.cpu_system_ms);
    }
}

/// A CONTROL frame on an exec channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Signal(u8),
    Resize { cols: u16, rows: u16 },
    CloseStdin,
}

impl Control {
    pub fn parse(payload: &[u8]) -> Result<Control, WireError> {
        let mut r = Reader::new(payload);
        match r.u8()? {
            control::SIGNAL => Ok(Control::Signal(r.u8()?)),
            control::RESIZE => Ok(Control::Resize { cols: r.u16()?, rows: r.u16()? }),
            control::CLOSE_STDIN => Ok(Control::CloseStdin),
            _ => Err(WireError::BadValue),
        }
    }
}
