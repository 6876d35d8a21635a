//! Starting a program. The child borrows this process's memory until it has become the program, as vfork has it: no page is
//! copied, and why it failed is read from memory. Only the thread that starts it waits meanwhile, so it must be a worker: a
//! slow disk, or a process of the box that stops the child in between, holds up that one thread and never the loop.

use super::failure::{shown, Failure};
use super::messages::Exec;
use super::sys;
use super::users::{Identity, Users};
use crate::wire::code;
use std::ffi::{CStr, CString};
use std::io;
use std::os::raw::{c_char, c_int, c_long, c_void};
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// Directories of PATH that are tried.
const MAX_CANDIDATES: usize = 128;
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The descriptor a script arrives on, and the path it is known by.
const SCRIPT_FD: RawFd = 3;
const SCRIPT_PATH: &[u8] = b"/proc/self/fd/3";
const SCRIPT_MARK: &[u8] = b"\0script";
const CHILD_STACK_BYTES: usize = 32 << 10;

/// What every start has in common.
pub struct Ground {
    /// /dev/null, opened before anything ran in the box that could replace it.
    pub null: OwnedFd,
    pub open_files: u64,
    /// Written to the child's oom_score_adj, so that the kernel takes programs before the guest.
    pub oom_score: Vec<u8>,
}

pub struct Started {
    pub pid: i32,
    /// The PTY's master, or stdout.
    pub output: OwnedFd,
    pub error: Option<OwnedFd>,
    pub input: Option<OwnedFd>,
}

#[derive(Clone, Copy)]
#[repr(i32)]
enum Stage {
    Streams = 1,
    Identity,
    Cwd,
    Exec,
}

/// Everything the child touches, made before it exists.
struct Plan {
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    candidates: Vec<CString>,
    cwd: CString,
    identity: Identity,
    stdio: [RawFd; 3],
    terminal: bool,
    script: Option<RawFd>,
    open_files: u64,
    oom_score: Vec<u8>,
    /// Where and why the child failed; both 0 once it is the program.
    failed_stage: AtomicI32,
    failed_errno: AtomicI32,
}

/// Runs until the program does, or cannot. `pid` is set before the child's first step, for whoever must end it or hears of its end.
pub fn start(exec: &Exec, ground: &Ground, pid: &AtomicI32) -> Result<Started, Failure> {
    let identity = Users::load().identity(&exec.user).ok_or_else(|| {
        Failure::new(code::UNKNOWN_USER, format!("No user {:?} in /etc/passwd of the sandbox.", exec.user))
    })?;
    let argv = strings(exec.argv.iter().map(|argument| match argument.as_slice() {
        SCRIPT_MARK if exec.script.is_some() => SCRIPT_PATH,
        argument => argument,
    }))?;
    let env = strings(exec.env.iter().map(Vec::as_slice))?;
    let first = argv.first().ok_or_else(|| Failure::new(code::INVALID, "argv is empty."))?;
    let fails = |what: &'static str| move |error: io::Error| Failure::of(what, &error);
    let script = exec.script.as_deref().map(script_file).transpose().map_err(fails("Keeping the script"))?;
    let streams = Streams::open(exec, &identity, ground).map_err(fails("Opening the program's streams"))?;
    let plan = Plan {
        candidates: candidates(first.to_bytes(), &exec.env)?,
        argv: pointers(&argv),
        env: pointers(&env),
        cwd: c_string(exec.cwd.as_bytes())?,
        identity,
        stdio: streams.child_fds(),
        terminal: exec.pty,
        script: script.as_ref().map(AsRawFd::as_raw_fd),
        open_files: ground.open_files,
        oom_score: ground.oom_score.clone(),
        failed_stage: AtomicI32::new(0),
        failed_errno: AtomicI32::new(0),
    };
    let mut stack = vec![0u128; CHILD_STACK_BYTES / 16];
    // SAFETY: the plan and the stack outlive the call, which returns when the child uses them no more; the child only makes
    // system calls. Its signals have no handlers that could run in this memory.
    let result = unsafe { sys::start_child(child, &mut stack, &plan, pid) };
    let child_pid = result.map_err(|error| {
        let message = format!("No process could be started: {error}. The sandbox has too many, or no memory.");
        Failure::new(code::LIMIT, message)
    })?;
    match plan.failed_stage.load(Ordering::Relaxed) {
        0 => Ok(Started { pid: child_pid, output: streams.output, error: streams.error, input: streams.input }),
        stage => Err(start_failure(stage, plan.failed_errno.load(Ordering::Relaxed), exec)),
    }
}

fn start_failure(stage: i32, errno: i32, exec: &Exec) -> Failure {
    let program = exec.argv.first().map_or_else(String::new, |first| shown(first));
    if stage == Stage::Cwd as i32 {
        return Failure::of_errno(format!("cwd {:?}", exec.cwd), errno);
    }
    if stage == Stage::Streams as i32 {
        return Failure::of_errno("Giving the program its streams", errno);
    }
    if stage == Stage::Identity as i32 {
        return Failure::of_errno(format!("Becoming user {:?}", exec.user), errno);
    }
    match errno {
        sys::ENOENT | sys::ENOTDIR if program.contains('/') => {
            Failure::new(code::NOT_FOUND, format!("{program}: no such program, or its interpreter is missing."))
        }
        sys::ENOENT | sys::ENOTDIR => Failure::new(code::NOT_FOUND, format!("{program}: not found in PATH.")),
        sys::E2BIG => Failure::new(
            code::TOO_LARGE,
            "argv and env are larger than the kernel takes (one argument: 128 KiB). Send long source as a script or on stdin.",
        ),
        errno => Failure::of_errno(program, errno),
    }
}

/// The parent's and the child's ends of the program's streams.
struct Streams {
    output: OwnedFd,
    error: Option<OwnedFd>,
    input: Option<OwnedFd>,
    child: Vec<OwnedFd>,
    /// Which of `child`, or /dev/null, is stdin.
    null_input: Option<RawFd>,
}

impl Streams {
    fn open(exec: &Exec, identity: &Identity, ground: &Ground) -> io::Result<Streams> {
        if exec.pty {
            let (master, slave) = sys::pty_pair(exec.cols.max(1), exec.rows.max(1))?;
            // Its own terminal: `mesg`, ssh and sudo look at the owner. Where it may not be changed the program runs all the same.
            drop(sys::chown_fd(slave.as_raw_fd(), identity.uid, identity.gid));
            drop(sys::chmod_fd(slave.as_raw_fd(), 0o620));
            let input = sys::duplicate(master.as_raw_fd())?;
            return Ok(Streams {
                output: master,
                error: None,
                input: Some(input),
                child: vec![slave],
                null_input: None,
            });
        }
        let (output, child_output) = sys::pipe()?;
        let (error, child_error) = sys::pipe()?;
        sys::set_nonblocking(output.as_raw_fd())?;
        sys::set_nonblocking(error.as_raw_fd())?;
        let mut child = vec![child_output, child_error];
        let mut input = None;
        if exec.keep_stdin || !exec.stdin.is_empty() {
            let (child_input, ours) = sys::pipe()?;
            sys::set_nonblocking(ours.as_raw_fd())?;
            child.push(child_input);
            input = Some(ours);
        }
        let null_input = if input.is_none() { Some(ground.null.as_raw_fd()) } else { None };
        Ok(Streams { output, error: Some(error), input, child, null_input })
    }

    fn child_fds(&self) -> [RawFd; 3] {
        let fd = |index: usize| self.child[index].as_raw_fd();
        if self.child.len() == 1 {
            return [fd(0); 3];
        }
        [self.null_input.unwrap_or_else(|| fd(2)), fd(0), fd(1)]
    }
}

/// Sealed: what a program reads as its source is what the host sent.
fn script_file(source: &[u8]) -> io::Result<OwnedFd> {
    let file = sys::memory_file()?;
    let mut rest = source;
    while !rest.is_empty() {
        let count = sys::write_fd(file.as_raw_fd(), rest)?;
        rest = &rest[count..];
    }
    sys::rewind(file.as_raw_fd())?;
    sys::seal(file.as_raw_fd())?;
    Ok(file)
}

fn c_string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| Failure::new(code::INVALID, "An argument, variable or path has a NUL byte in it."))
}

fn strings<'a>(items: impl Iterator<Item = &'a [u8]>) -> Result<Vec<CString>, Failure> {
    items.map(c_string).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn candidates(program: &[u8], env: &[Vec<u8>]) -> Result<Vec<CString>, Failure> {
    if program.contains(&b'/') || program.is_empty() {
        return Ok(vec![c_string(program)?]);
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let directories = path.split(|byte| *byte == b':').filter(|directory| !directory.is_empty());
    directories
        .take(MAX_CANDIDATES)
        .filter(|directory| directory.len() + program.len() < 4095)
        .map(|directory| c_string(&[directory, b"/", program].concat()))
        .collect()
}

extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `start` passed its plan, which lives until this process is the program or gone; only system calls follow.
    unsafe {
        let plan = &*(plan as *const Plan);
        let (stage, errno) = become_program(plan);
        plan.failed_errno.store(errno, Ordering::Relaxed);
        plan.failed_stage.store(stage as i32, Ordering::Relaxed);
        sys::_exit(127)
    }
}

/// Returns only when it failed.
unsafe fn become_program(plan: &Plan) -> (Stage, i32) {
    sys::setsid();
    for (target, fd) in plan.stdio.iter().enumerate() {
        if sys::dup2(*fd, target as c_int) < 0 {
            return (Stage::Streams, sys::last_errno());
        }
    }
    if plan.terminal && !sys::take_terminal(0) {
        return (Stage::Streams, sys::last_errno());
    }
    let mut first_closed = SCRIPT_FD;
    if let Some(fd) = plan.script {
        if sys::dup2(fd, SCRIPT_FD) < 0 {
            return (Stage::Streams, sys::last_errno());
        }
        // Where the file already had that number, dup2 left it to close on exec.
        sys::keep_on_exec(SCRIPT_FD);
        first_closed += 1;
    }
    // All the guest's descriptors close on exec already; this covers any that a runtime left behind. Old kernels lack it.
    sys::syscall(
        sys::SYS_CLOSE_RANGE,
        first_closed as c_long,
        c_int::MAX as c_long,
        sys::CLOSE_RANGE_CLOEXEC as c_long,
    );
    sys::umask(0o022);
    sys::child_limits(plan.open_files);
    raise_oom_score(&plan.oom_score);
    if !become_user(&plan.identity) {
        return (Stage::Identity, sys::last_errno());
    }
    if sys::chdir(plan.cwd.as_ptr()) < 0 {
        return (Stage::Cwd, sys::last_errno());
    }
    sys::reset_signals();
    let mut errno = sys::ENOENT;
    for candidate in &plan.candidates {
        sys::execve(candidate.as_ptr(), plan.argv.as_ptr(), plan.env.as_ptr());
        match sys::last_errno() {
            sys::ENOENT | sys::ENOTDIR => {}
            sys::EACCES => errno = sys::EACCES,
            other => return (Stage::Exec, other),
        }
    }
    (Stage::Exec, errno)
}

/// By bare system calls: the library's own would have the guest's other threads change with it.
unsafe fn become_user(identity: &Identity) -> bool {
    let (uid, gid) = (identity.uid as c_long, identity.gid as c_long);
    if sys::getuid() != 0 {
        return identity.uid == sys::getuid() || sys::syscall(sys::SYS_SETRESUID, uid, uid, uid) == 0;
    }
    sys::syscall(sys::SYS_SETGROUPS, identity.groups.len() as c_long, identity.groups.as_ptr()) == 0
        && sys::syscall(sys::SYS_SETRESGID, gid, gid, gid) == 0
        && sys::syscall(sys::SYS_SETRESUID, uid, uid, uid) == 0
}

unsafe fn raise_oom_score(score: &[u8]) {
    const PATH: &[u8] = b"/proc/self/oom_score_adj\0";
    let path = CStr::from_bytes_with_nul_unchecked(PATH);
    let fd = sys::open_bare(path, sys::O_WRONLY);
    if fd >= 0 {
        drop(sys::write_fd(fd, score));
        sys::close_bare(fd);
    }
}
