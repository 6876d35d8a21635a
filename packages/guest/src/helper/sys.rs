//! System calls that std does not offer and the boxes need: pidfds, epoll, signals, and a spawn that costs no copy of this process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::raw::{c_char, c_int, c_long, c_void};
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::ffi::{self, check, check_long, own};
use super::network::{Outcome, Plan};

extern "C" {
    fn clone(
        run: extern "C" fn(*mut c_void) -> c_int,
        stack: *mut c_void,
        flags: c_int,
        argument: *mut c_void,
        ...
    ) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: u64, timeout_ms: c_int) -> c_int;
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut EpollEvent) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut EpollEvent, count: c_int, timeout_ms: c_int) -> c_int;
    fn eventfd(initial: u32, flags: c_int) -> c_int;
    fn signalfd(fd: c_int, mask: *const [u64; 16], flags: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const [u64; 16], old: *mut [u64; 16]) -> c_int;
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const c_void, length: u32) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn connect(fd: c_int, address: *const c_void, length: u32) -> c_int;
    fn read(fd: c_int, buffer: *mut c_void, length: usize) -> isize;
    fn memfd_create(name: *const c_char, flags: u32) -> c_int;
    fn recv(fd: c_int, buffer: *mut c_void, length: usize, flags: c_int) -> isize;
    fn send(fd: c_int, buffer: *const c_void, length: usize, flags: c_int) -> isize;
    pub fn unshare(flags: c_int) -> c_int;
    pub fn setsid() -> c_int;
}

pub const CLONE_VM: c_int = 0x100;
pub const CLONE_FILES: c_int = 0x400;
pub const CLONE_VFORK: c_int = 0x4000;
pub const CLONE_NEWNS: c_int = 0x0002_0000;
pub const CLONE_NEWUSER: c_int = 0x1000_0000;
pub const CLONE_NEWNET: c_int = 0x4000_0000;
pub const SIGHUP: c_int = 1;
pub const SIGINT: c_int = 2;
pub const SIGKILL: c_int = 9;
pub const SIGPIPE: c_int = 13;
pub const SIGTERM: c_int = 15;
pub const SIGCHLD: c_int = 17;
pub const EPOLLIN: u32 = 1;
pub const EPOLLOUT: u32 = 4;
pub const EPOLLERR: u32 = 8;
pub const EPOLLHUP: u32 = 16;
pub const WNOHANG: c_int = 1;
/// Only children of the calling thread: orphans that came to this process, not what another thread started and waits for.
pub const WNOTHREAD: c_int = 0x2000_0000;
pub const PR_SET_PDEATHSIG: c_int = 1;
pub const PR_SET_CHILD_SUBREAPER: c_int = 36;
const SYS_PIDFD_OPEN: c_long = 434;
#[cfg(target_arch = "x86_64")]
const SYS_SETFSUID: c_long = 122;
#[cfg(target_arch = "x86_64")]
const SYS_SETFSGID: c_long = 123;
#[cfg(target_arch = "x86_64")]
const SYS_CAPGET: c_long = 125;
#[cfg(target_arch = "x86_64")]
const SYS_CAPSET: c_long = 126;
#[cfg(target_arch = "x86_64")]
const SYS_GETPPID: c_long = 110;
#[cfg(target_arch = "aarch64")]
const SYS_SETFSUID: c_long = 151;
#[cfg(target_arch = "aarch64")]
const SYS_SETFSGID: c_long = 152;
#[cfg(target_arch = "aarch64")]
const SYS_CAPGET: c_long = 90;
#[cfg(target_arch = "aarch64")]
const SYS_CAPSET: c_long = 91;
#[cfg(target_arch = "aarch64")]
const SYS_GETPPID: c_long = 173;
const STACK_BYTES: usize = 64 << 10;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    returned: i16,
}

#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
#[derive(Clone, Copy)]
pub struct EpollEvent {
    pub events: u32,
    pub token: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct SignalSet([u64; 16]);

impl SignalSet {
    pub fn of(signals: &[c_int]) -> SignalSet {
        let mut set = SignalSet([0; 16]);
        for signal in signals {
            set.0[0] |= 1 << (signal - 1);
        }
        set
    }
}

/// Blocks signals in the calling thread and in those it starts later.
pub fn block_signals(signals: &[c_int]) -> io::Result<()> {
    let set = SignalSet::of(signals);
    // SAFETY: the set lives through the call; 0 is SIG_BLOCK.
    match unsafe { pthread_sigmask(0, &set.0, std::ptr::null_mut()) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

pub fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    let set = SignalSet::of(signals);
    // SAFETY: the set lives through the call. 0o4000 is SFD_NONBLOCK.
    own(unsafe { signalfd(-1, &set.0, ffi::O_CLOEXEC | 0o4000) })
}

/// The next pending signal of a signalfd.
pub fn next_signal(fd: RawFd) -> Option<c_int> {
    let mut info = [0u8; 128];
    // SAFETY: the buffer is as large as a signalfd_siginfo.
    let got = unsafe { read(fd, info.as_mut_ptr().cast(), info.len()) };
    (got == 128).then(|| u32::from_ne_bytes([info[0], info[1], info[2], info[3]]) as c_int)
}

pub fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { eventfd(0, ffi::O_CLOEXEC | 0o4000) })
}

pub fn wake(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes. A full counter is as good as a wake-up.
    unsafe { ffi::write(fd, one.as_ptr().cast(), 8) };
}

pub fn drain(fd: RawFd) {
    let mut buffer = [0u8; 8];
    // SAFETY: eight writable bytes.
    unsafe { read(fd, buffer.as_mut_ptr().cast(), 8) };
}

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers.
        own(unsafe { epoll_create1(ffi::O_CLOEXEC) }).map(Epoll)
    }

    fn control(&self, operation: c_int, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        let mut event = EpollEvent { events, token };
        // SAFETY: the event lives through the call.
        check(unsafe { epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) }).map(|_| ())
    }

    pub fn add(&self, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        self.control(1, fd, events, token)
    }

    pub fn modify(&self, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        self.control(3, fd, events, token)
    }

    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(2, fd, 0, 0)
    }

    /// Waits without end where `timeout` is None.
    pub fn wait<'a>(&self, events: &'a mut [EpollEvent], timeout: Option<Duration>) -> io::Result<&'a [EpollEvent]> {
        let timeout_ms = timeout.map_or(-1, |value| value.as_millis().min(1 << 30) as c_int);
        // SAFETY: the kernel writes at most `events.len()` entries.
        let count = unsafe {
            epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as c_int,
                timeout_ms,
            )
        };
        if count < 0 {
            let cause = io::Error::last_os_error();
            return if cause.kind() == io::ErrorKind::Interrupted {
                Ok(&[])
            } else {
                Err(cause)
            };
        }
        Ok(&events[..count as usize])
    }
}

pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check_long(unsafe { ffi::syscall(SYS_PIDFD_OPEN, pid as c_long, 0 as c_long) })?;
    // SAFETY: a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Success also where the process is gone already.
pub fn pidfd_signal(fd: RawFd, signal: c_int) -> io::Result<()> {
    // SAFETY: no information block is passed.
    match check_long(unsafe {
        ffi::syscall(
            ffi::SYS_PIDFD_SEND_SIGNAL,
            fd as c_long,
            signal as c_long,
            0 as c_long,
            0 as c_long,
        )
    }) {
        Err(cause) if cause.raw_os_error() == Some(3) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// True when one of them can be read, or has ended, before the time is over.
pub fn wait_readable(fds: &[RawFd], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut list: Vec<PollFd> = fds
        .iter()
        .map(|fd| PollFd {
            fd: *fd,
            events: 1,
            returned: 0,
        })
        .collect();
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // SAFETY: the list lives through the call.
        let count = unsafe {
            poll(
                list.as_mut_ptr(),
                list.len() as u64,
                (left.as_micros() + 999) as c_int / 1000,
            )
        };
        if count < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        check(count)?;
        return Ok(list.iter().map(|entry| entry.returned != 0).collect());
    }
}

pub fn read_some(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    let got = unsafe { read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(got as usize)
}

pub fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: as above; 0x40 is MSG_DONTWAIT.
    let got = unsafe { recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0x40) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(got as usize)
}

pub fn transmit(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the bytes are readable for their length; 0x4040 is MSG_DONTWAIT | MSG_NOSIGNAL.
    let sent = unsafe { send(fd, bytes.as_ptr().cast(), bytes.len(), 0x4040) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sent as usize)
}

pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { ffi::pipe2(fds.as_mut_ptr(), ffi::O_CLOEXEC) })?;
    // SAFETY: both are fresh.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors; AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC.
    check(unsafe { socketpair(1, 1 | ffi::O_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both are fresh.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// The address of a unix socket in a folder given by descriptor, whatever the folder's own path is: an address holds only 108
/// bytes. And its length.
fn address_at(folder: RawFd, name: &str) -> io::Result<([u8; 110], u32)> {
    let path = format!("/proc/self/fd/{}/{}", folder, name);
    if path.len() > 107 {
        return Err(io::Error::from_raw_os_error(36));
    }
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&1u16.to_ne_bytes());
    address[2..2 + path.len()].copy_from_slice(path.as_bytes());
    Ok((address, (2 + path.len() + 1) as u32))
}

/// A listening unix socket. `mode` is set on the descriptor first, so the name never has looser rights.
pub fn listen_at(folder: RawFd, name: &str, mode: u32, backlog: c_int) -> io::Result<OwnedFd> {
    let (address, length) = address_at(folder, name)?;
    // SAFETY: no pointers.
    let listener = own(unsafe { socket(1, 1 | ffi::O_CLOEXEC, 0) })?;
    // SAFETY: plain descriptors; the address lives through the call.
    unsafe {
        check(ffi::fchmod(listener.as_raw_fd(), mode))?;
        check(bind(listener.as_raw_fd(), address.as_ptr().cast(), length))?;
        check(listen(listener.as_raw_fd(), backlog))?;
    }
    Ok(listener)
}

/// True where somebody listens on the socket of that name.
pub fn answers_at(folder: RawFd, name: &str) -> bool {
    let address = match address_at(folder, name) {
        Ok(address) => address,
        Err(_) => return false,
    };
    // SAFETY: no pointers; 0o4000 is SOCK_NONBLOCK. The address lives through the call.
    let probe = match own(unsafe { socket(1, 1 | ffi::O_CLOEXEC | 0o4000, 0) }) {
        Ok(probe) => probe,
        Err(_) => return false,
    };
    // SAFETY: as above.
    unsafe { connect(probe.as_raw_fd(), address.0.as_ptr().cast(), address.1) == 0 }
}

/// Field 22 of /proc/<pid>/stat: together with the boot's id it names a process for good, a pid alone does not.
pub fn start_time(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid)).ok()?;
    // The name in parentheses may hold anything, so fields are counted from the last one.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_string()
}

/// As much as the kernel keeps of what was sent and not read yet, where it allows so much: fewer turns for both sides.
pub fn widen_send_buffer(fd: RawFd, bytes: i32) {
    const SOL_SOCKET: c_int = 1;
    const SO_SNDBUF: c_int = 7;
    const SO_SNDBUFFORCE: c_int = 32;
    let value: *const c_int = &bytes;
    // SAFETY: the kernel reads four bytes. A smaller buffer is slower, no failure.
    unsafe {
        if ffi::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, value.cast(), 4) != 0 {
            ffi::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, value.cast(), 4);
        }
    }
}

/// Reaps every child of this thread that has ended, but `keep`, whose end somebody waits for: orphans of the runtimes come to the
/// main thread. What another thread started is that thread's to reap.
pub fn reap_orphans(keep: Option<i32>) {
    loop {
        let mut info = ffi::siginfo {
            signal: 0,
            errno: 0,
            code: 0,
            pad: 0,
            pid: 0,
            uid: 0,
            status: 0,
            rest: [0; 100],
        };
        // SAFETY: the struct is as large as the kernel's. P_ALL; WEXITED | WNOHANG | WNOWAIT.
        let found = unsafe { ffi::waitid(0, 0, &mut info, 4 | WNOHANG | 0x0100_0000 | WNOTHREAD) };
        if found < 0 || info.pid == 0 || Some(info.pid) == keep {
            return;
        }
        let mut status = 0;
        // SAFETY: the status lives through the call.
        unsafe { waitpid(info.pid, &mut status, WNOHANG) };
    }
}

/// File operations of this thread as `id`, with every capability kept; undone when dropped.
pub struct FileIdentity {
    effective: [u32; 6],
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

fn capabilities() -> io::Result<[u32; 6]> {
    let mut header = CapHeader {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut data = [0u32; 6];
    // SAFETY: both structs have the kernel's layout (version 3: two triples).
    check_long(unsafe { ffi::syscall(SYS_CAPGET, &mut header as *mut CapHeader, data.as_mut_ptr()) })?;
    Ok(data)
}

fn set_capabilities(data: &[u32; 6]) -> io::Result<()> {
    let mut header = CapHeader {
        version: 0x2008_0522,
        pid: 0,
    };
    // SAFETY: as above.
    check_long(unsafe { ffi::syscall(SYS_CAPSET, &mut header as *mut CapHeader, data.as_ptr()) }).map(|_| ())
}

impl FileIdentity {
    /// Leaving uid 0 takes the file capabilities out of the effective set; they stay permitted, so they are raised again.
    pub fn assume(id: u32) -> io::Result<FileIdentity> {
        let effective = capabilities()?;
        let identity = FileIdentity { effective };
        // SAFETY: plain numbers; raw calls change this thread only.
        unsafe {
            ffi::syscall(SYS_SETFSGID, id as c_long);
            ffi::syscall(SYS_SETFSUID, id as c_long);
        }
        set_capabilities(&effective)?;
        Ok(identity)
    }
}

impl Drop for FileIdentity {
    fn drop(&mut self) {
        // SAFETY: plain numbers.
        unsafe {
            ffi::syscall(SYS_SETFSUID, 0 as c_long);
            ffi::syscall(SYS_SETFSGID, 0 as c_long);
        }
        let _ = set_capabilities(&self.effective);
    }
}

/// A program to start. It sees only the descriptors listed, no signal is blocked, and it dies with the thread that started it.
pub struct Spawn<'a> {
    pub program: &'a CStr,
    pub arguments: &'a [CString],
    pub environment: &'a [CString],
    /// (this process's descriptor, the program's)
    pub descriptors: &'a [(RawFd, RawFd)],
    /// `cgroup.procs` files to enter before anything of the program runs.
    pub cgroups: &'a [RawFd],
}

struct Child {
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    descriptors: *mut (RawFd, RawFd),
    descriptor_count: usize,
    cgroups: *const RawFd,
    cgroup_count: usize,
    parent: c_int,
    error: c_int,
    step: &'static str,
}

/// Runs in the parent's memory while the parent's thread waits: system calls only, no allocation, no lock.
extern "C" fn run_child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its own Child and waits until this function has ended or become another program.
    unsafe {
        let child = &mut *(argument as *mut Child);
        let failed = |child: &mut Child, step: &'static str| -> c_int {
            child.error = io::Error::last_os_error().raw_os_error().unwrap_or(5);
            child.step = step;
            ffi::_exit(127)
        };
        if ffi::prctl(
            PR_SET_PDEATHSIG,
            SIGKILL as c_long,
            0 as c_long,
            0 as c_long,
            0 as c_long,
        ) < 0
        {
            return failed(child, "binding its life to the helper's");
        }
        if ffi::syscall(SYS_GETPPID) as c_int != child.parent {
            ffi::_exit(127);
        }
        for at in 0..child.cgroup_count {
            if ffi::write(*child.cgroups.add(at), b"0".as_ptr().cast(), 1) != 1 {
                return failed(child, "entering its cgroup");
            }
        }
        let list = std::slice::from_raw_parts_mut(child.descriptors, child.descriptor_count);
        for entry in list.iter_mut() {
            // F_DUPFD_CLOEXEC above every target, so that no dup2 below closes a source that is still needed.
            entry.0 = ffi::fcntl(entry.0, 1030, 64);
            if entry.0 < 0 {
                return failed(child, "copying a descriptor");
            }
        }
        let mut top = 2;
        for (source, target) in list.iter() {
            if ffi::dup2(*source, *target) < 0 {
                return failed(child, "placing a descriptor");
            }
            top = top.max(*target);
        }
        // CLOSE_RANGE_CLOEXEC; refused by kernels before 5.11, where every descriptor is close-on-exec by its opener alone.
        ffi::syscall(
            ffi::SYS_CLOSE_RANGE,
            (top + 1) as c_long,
            u32::MAX as c_long,
            4 as c_long,
        );
        let none = SignalSet([0; 16]);
        ffi::syscall(
            ffi::SYS_RT_SIGPROCMASK,
            2 as c_long,
            &none as *const SignalSet,
            0 as c_long,
            8 as c_long,
        );
        ffi::execve(child.program, child.arguments, child.environment);
        failed(child, "executing it")
    }
}

fn pointers(list: &[CString]) -> Vec<*const c_char> {
    list.iter()
        .map(|text| text.as_ptr())
        .chain(std::iter::once(std::ptr::null()))
        .collect()
}

/// A stack for a child that shares this memory, aligned as the machine wants it.
fn with_stack<T>(run: impl FnOnce(*mut c_void) -> T) -> T {
    let mut stack = vec![0u128; STACK_BYTES / 16];
    // SAFETY: one past the end of the allocation.
    run(unsafe { stack.as_mut_ptr().add(stack.len()) }.cast())
}

impl Spawn<'_> {
    pub fn start(&self) -> io::Result<i32> {
        let arguments = pointers(self.arguments);
        let environment = pointers(self.environment);
        let mut descriptors = self.descriptors.to_vec();
        let mut child = Child {
            program: self.program.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            descriptors: descriptors.as_mut_ptr(),
            descriptor_count: descriptors.len(),
            cgroups: self.cgroups.as_ptr(),
            cgroup_count: self.cgroups.len(),
            // SAFETY: no arguments.
            parent: unsafe { ffi::getpid() },
            error: 0,
            step: "",
        };
        let argument: *mut Child = &mut child;
        // SAFETY: with CLONE_VFORK this thread waits until the child no longer uses the shared memory and the stack.
        let pid = with_stack(|top| unsafe { clone(run_child, top, CLONE_VM | CLONE_VFORK | SIGCHLD, argument.cast()) });
        let pid = check(pid)?;
        // SAFETY: the child has written it before this thread went on.
        let (error, step) = unsafe { (std::ptr::read_volatile(&(*argument).error), (*argument).step) };
        if error != 0 {
            let _ = wait_for(pid);
            let cause = io::Error::from_raw_os_error(error);
            return Err(io::Error::new(cause.kind(), format!("{}: {}", step, cause)));
        }
        Ok(pid)
    }
}

/// Reaps one child of this thread; the raw status.
pub fn wait_for(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: the status lives through the call.
        match check(unsafe { waitpid(pid, &mut status, 0) }) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause),
            Ok(_) => return Ok(status),
        }
    }
}

struct NamespaceChild<'a> {
    id: u32,
    /// None: only a user namespace is made.
    network: Option<&'a Plan>,
    outcome: Option<Outcome>,
    /// A descriptor of the network namespace. Of a process that has ended only its user namespace can still be opened.
    network_fd: c_int,
    error: c_int,
}

extern "C" fn make_namespaces(argument: *mut c_void) -> c_int {
    // SAFETY: as in run_child.
    unsafe {
        let child = &mut *(argument as *mut NamespaceChild<'_>);
        let id = child.id as c_long;
        let fine = ffi::syscall(ffi::SYS_SETGROUPS, 0 as c_long, 0 as c_long) == 0
            && ffi::syscall(ffi::SYS_SETRESGID, id, id, id) == 0
            && ffi::syscall(ffi::SYS_SETRESUID, id, id, id) == 0
            && unshare(CLONE_NEWUSER | child.network.map_or(0, |_| CLONE_NEWNET)) == 0;
        if !fine {
            child.error = io::Error::last_os_error().raw_os_error().unwrap_or(5);
        } else if let Some(network) = child.network {
            child.outcome = Some(network.carry_out());
            child.network_fd = ffi::openat(
                ffi::AT_FDCWD,
                b"/proc/self/ns/net\0".as_ptr().cast(),
                ffi::O_RDONLY | ffi::O_CLOEXEC,
            );
            if child.network_fd < 0 {
                child.error = io::Error::last_os_error().raw_os_error().unwrap_or(5);
            }
        }
        ffi::_exit(0)
    }
}

/// What a box is made of before its runtime starts.
pub struct Namespaces {
    pub user: OwnedFd,
    pub network: Option<Network>,
}

pub struct Network {
    pub namespace: OwnedFd,
    /// The socket that gets the connections to addresses outside, or why there is none.
    pub redirected: io::Result<OwnedFd>,
}

/// A user namespace owned by uid `first`, mapping 0… to `first`…, `count` of them, and by plan a network namespace that belongs to
/// it. The kernel counts what a sandbox uses (inotify instances, queued signals, keys) against the namespace's *owner*; owned by
/// root, all sandboxes would share root's.
pub fn namespaces(first: u32, count: u32, network: Option<&Plan>) -> io::Result<Namespaces> {
    let mut child = NamespaceChild {
        id: first,
        network,
        outcome: None,
        network_fd: -1,
        error: 0,
    };
    let argument: *mut NamespaceChild<'_> = &mut child;
    // The child's descriptors are this process's, so that a socket it makes stays.
    let flags = CLONE_VM | CLONE_VFORK | SIGCHLD | network.map_or(0, |_| CLONE_FILES);
    // SAFETY: as in `Spawn::start`.
    let pid = check(with_stack(|top| unsafe {
        clone(make_namespaces, top, flags, argument.cast())
    }))?;
    // The child has ended, but until it is reaped its entry in /proc still leads to its namespaces.
    let made = (|| {
        // SAFETY: the child has written it before this thread went on.
        let (error, outcome, network_fd) = unsafe {
            (
                std::ptr::read_volatile(&(*argument).error),
                (*argument).outcome.take(),
                std::ptr::read_volatile(&(*argument).network_fd),
            )
        };
        // Taken over before anything can fail, so that they are closed then.
        let redirected = outcome.as_ref().map(|outcome| match outcome.redirected {
            Ok(fd) => own(fd),
            Err(number) => Err(io::Error::from_raw_os_error(number)),
        });
        let namespace = if network_fd < 0 { None } else { Some(own(network_fd)?) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if let Some((step, number)) = outcome.and_then(|outcome| outcome.failed) {
            let cause = io::Error::from_raw_os_error(number);
            return Err(io::Error::new(cause.kind(), format!("{}: {}", step, cause)));
        }
        let map = format!("0 {} {}\n", first, count);
        std::fs::write(format!("/proc/{}/uid_map", pid), &map)?;
        std::fs::write(format!("/proc/{}/gid_map", pid), &map)?;
        let path = CString::new(format!("/proc/{}/ns/user", pid))?;
        // SAFETY: the path lives through the call.
        let user = own(unsafe { ffi::openat(ffi::AT_FDCWD, path.as_ptr(), ffi::O_RDONLY | ffi::O_CLOEXEC) })?;
        let network = match (namespace, redirected) {
            (Some(namespace), Some(redirected)) => Some(Network { namespace, redirected }),
            _ => None,
        };
        Ok(Namespaces { user, network })
    })();
    let _ = wait_for(pid);
    made
}

/// A copy of a program in memory that nothing can change: the runtimes check for exactly this and then need not make a copy
/// of themselves at every start.
pub fn sealed_program(path: &std::path::Path) -> io::Result<OwnedFd> {
    let name = CString::new("runtime")?;
    // SAFETY: the name lives through the call; MFD_CLOEXEC | MFD_ALLOW_SEALING.
    let copy = own(unsafe { memfd_create(name.as_ptr(), 3) })?;
    let mut to = std::fs::File::from(copy.try_clone()?);
    io::copy(&mut std::fs::File::open(path)?, &mut to)?;
    // SAFETY: F_ADD_SEALS: SEAL | SHRINK | GROW | WRITE.
    unsafe {
        check(ffi::fchmod(copy.as_raw_fd(), 0o555))?;
        check(ffi::fcntl(copy.as_raw_fd(), 1033, 15 as c_int))?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_its_start_time_until_it_ends() {
        let pid = std::process::id() as i32;
        assert!(start_time(pid).is_some());
        assert_eq!(start_time(pid), start_time(pid));
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn a_spawned_program_gets_its_descriptors_and_nothing_else() {
        let (reader, writer) = pipe().unwrap();
        let text = |value: &str| CString::new(value).unwrap();
        let arguments = [text("sh"), text("-c"), text("ls /proc/self/fd >&3")];
        let program = text("/bin/sh");
        let spawn = Spawn {
            program: &program,
            arguments: &arguments,
            environment: &[text("PATH=/usr/bin:/bin")],
            descriptors: &[
                (writer.as_raw_fd(), 0),
                (writer.as_raw_fd(), 1),
                (writer.as_raw_fd(), 2),
                (writer.as_raw_fd(), 3),
            ],
            cgroups: &[],
        };
        let pid = spawn.start().unwrap();
        drop(writer);
        assert_eq!(wait_for(pid).unwrap(), 0);
        let mut buffer = [0; 256];
        let got = read_some(reader.as_raw_fd(), &mut buffer).unwrap();
        // The fifth is the folder that `ls` itself reads.
        assert_eq!(String::from_utf8_lossy(&buffer[..got]).split_whitespace().count(), 5);
    }

    #[test]
    fn a_program_that_is_missing_is_an_error_and_leaves_no_process() {
        let program = CString::new("/nonexistent").unwrap();
        let spawn = Spawn {
            program: &program,
            arguments: std::slice::from_ref(&program),
            environment: &[],
            descriptors: &[],
            cgroups: &[],
        };
        assert_eq!(spawn.start().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
