//! The child between `clone` and `execve`: system calls only, on memory prepared by the parent.

use std::ffi::{CStr, CString};
use std::io;
use std::os::raw::{c_char, c_int, c_long, c_ulong, c_void};
use std::os::unix::io::{OwnedFd, RawFd};
use std::ptr;

use super::plan::{Plan, Step};
use crate::helper::ffi;
use crate::helper::seccomp::Instruction;

const CLONE_NEWNS: c_long = 0x0002_0000;
const CLONE_NEWUTS: c_long = 0x0400_0000;
const CLONE_NEWIPC: c_long = 0x0800_0000;
const CLONE_NEWPID: c_long = 0x2000_0000;
const CLONE_PIDFD: c_long = 0x1000;
const SIGCHLD: c_long = 17;
const SIGNALS: c_long = 64;
const SIG_SETMASK: c_long = 2;
const PR_CAPBSET_DROP: c_int = 24;
const PR_SET_NO_NEW_PRIVS: c_int = 38;
const PR_CAP_AMBIENT: c_int = 47;
const PR_CAP_AMBIENT_CLEAR_ALL: c_ulong = 4;
const PR_SET_SECUREBITS: c_int = 28;
/// NOROOT and its lock, NO_SETUID_FIXUP's lock, KEEP_CAPS' lock, NO_CAP_AMBIENT_RAISE and its lock: no uid ever brings capabilities back.
const SECUREBITS: c_ulong = 0b1110_1011;
const SECCOMP_SET_MODE_FILTER: c_long = 1;
/// Without it some kernels slow down every program that has a filter.
const SECCOMP_FILTER_FLAG_SPEC_ALLOW: c_long = 4;
#[cfg(target_arch = "x86_64")]
const SYS_SECCOMP: c_long = 317;
#[cfg(target_arch = "aarch64")]
const SYS_SECCOMP: c_long = 277;
const RLIMIT_CORE: c_int = 4;
const RLIMIT_NOFILE: c_int = 7;
pub const F_DUPFD_CLOEXEC: c_int = 1030;
const CLOSE_RANGE_CLOEXEC: c_long = 4;
const O_WRONLY_CREAT_EXCL: c_int = 0o1 | 0o100 | 0o200;
const EINVAL: c_int = 22;
/// Where descriptors that must survive until execve are moved to.
pub const MOVED_FD: c_int = 64;
const HELPER_FD: RawFd = 3;
const CLONES_MAX: usize = 256;

const ROOT_OPTIONS: &[u8] = b"mode=0755,size=1m,nr_inodes=1024\0";
const HIDE_OPTIONS: &[u8] = b"mode=0755,size=64k,nr_inodes=64\0";

/// Steps of the child that are not in the plan, by number; those of the plan count from 100.
const STEPS: [&str; 17] = [
    "starting",
    "making a session of its own",
    "keeping its mounts to itself",
    "cloning what it may see",
    "making its root",
    "mounting /proc",
    "entering its root",
    "making its root read-only",
    "raising the limit of open files",
    "dropping capabilities",
    "becoming its uid",
    "setting no_new_privs",
    "setting its system call filter",
    "handing over the helper's socket",
    "closing other descriptors",
    "entering its folder",
    "becoming Node",
];

pub struct Start<'a> {
    pub plan: &'a Plan,
    /// Any folder: the new root is mounted on it in the child's own mount namespace.
    pub staging: CString,
    pub own: CString,
    pub node: CString,
    pub argv: Vec<*const c_char>,
    pub environment: Vec<*const c_char>,
    pub uid: u32,
    pub filter: Vec<Instruction>,
    pub helper_socket: RawFd,
    pub report: RawFd,
}

/// A NULL-terminated list for execve. The strings must outlive it.
pub fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(ptr::null())).collect()
}

pub fn step_name(step: i32, plan: &Plan) -> String {
    if step < 100 {
        return STEPS.get(step as usize).copied().unwrap_or("an unknown step").to_string();
    }
    let path = match plan.steps.get(step as usize - 100) {
        Some(Step::Folder { path, .. }) | Some(Step::Link { path, .. }) | Some(Step::File { path, .. }) => path,
        Some(Step::Clone { path, .. }) | Some(Step::Hide { path }) => path,
        None => return "an unknown step".to_string(),
    };
    format!("showing it /{}", path.to_string_lossy())
}

pub fn spawn(start: &Start) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    let flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_PIDFD | SIGCHLD;
    let mut clones = [-1 as RawFd; CLONES_MAX];
    if start.plan.steps.len() > CLONES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many folders to show"));
    }
    // SAFETY: without CLONE_VM the child has its own copy of everything and of this thread only; it makes system calls on memory made
    // before and never returns.
    let pid = unsafe { ffi::syscall(ffi::SYS_CLONE, flags, 0 as c_long, &mut pidfd as *mut c_int, 0 as c_long, 0 as c_long) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: this is the child.
        unsafe { run(start, &mut clones) }
    }
    Ok((pid as i32, ffi::own(pidfd)?))
}

/// Tells the parent which step failed, and ends.
unsafe fn fail(start: &Start, step: i32) -> ! {
    let said: [i32; 2] = [step, errno()];
    ffi::write(start.report, said.as_ptr().cast::<c_void>(), 8);
    ffi::_exit(127)
}

extern "C" {
    fn __errno_location() -> *mut c_int;
}

unsafe fn errno() -> c_int {
    *__errno_location()
}

unsafe fn must(start: &Start, step: i32, result: c_int) -> c_int {
    if result < 0 {
        fail(start, step)
    }
    result
}

unsafe fn must_long(start: &Start, step: i32, result: c_long) -> c_long {
    if result < 0 {
        fail(start, step)
    }
    result
}

const fn text(bytes: &'static [u8]) -> *const c_char {
    bytes.as_ptr().cast()
}

unsafe fn run(start: &Start, clones: &mut [RawFd; CLONES_MAX]) -> ! {
    reset_signals();
    // Out of the way of the descriptors the program gets, and not closed by `dup2` onto itself.
    let socket = must(start, 0, ffi::fcntl(start.helper_socket, F_DUPFD_CLOEXEC, MOVED_FD));
    must(start, 1, ffi::setsid());
    ffi::umask(0);
    must(start, 2, ffi::mount(ptr::null(), text(b"/\0"), ptr::null(), ffi::MS_REC | ffi::MS_PRIVATE, ptr::null()));
    ffi::sethostname(text(b"delta\0"), 5);
    for (index, step) in start.plan.steps.iter().enumerate() {
        if let Step::Clone { source, attributes, .. } = step {
            clones[index] = clone_tree(start, index, source, *attributes);
        }
    }
    let flags = ffi::MS_NOSUID | ffi::MS_NODEV;
    must(start, 4, ffi::mount(text(b"tmpfs\0"), start.staging.as_ptr(), text(b"tmpfs\0"), flags, ROOT_OPTIONS.as_ptr().cast()));
    must(start, 4, ffi::chdir(start.staging.as_ptr()));
    for (index, step) in start.plan.steps.iter().enumerate() {
        show(start, index, step, clones[index]);
    }
    let proc_flags = ffi::MS_NOSUID | ffi::MS_NODEV | ffi::MS_NOEXEC;
    must(start, 5, ffi::mount(text(b"proc\0"), text(b"proc\0"), text(b"proc\0"), proc_flags, ptr::null()));
    must_long(start, 6, ffi::syscall(ffi::SYS_PIVOT_ROOT, text(b".\0"), text(b".\0")));
    must(start, 6, ffi::umount2(text(b".\0"), ffi::MNT_DETACH));
    must(start, 6, ffi::chdir(text(b"/\0")));
    make_read_only(start);
    raise_limits(start);
    drop_rights(start);
    filter_calls(start);
    must(start, 13, ffi::dup2(socket, HELPER_FD));
    let cloexec = ffi::syscall(ffi::SYS_CLOSE_RANGE, 4 as c_long, u32::MAX as c_long, CLOSE_RANGE_CLOEXEC);
    must_long(start, 14, cloexec);
    ffi::umask(0o077);
    must(start, 15, ffi::chdir(start.own.as_ptr()));
    ffi::execve(start.node.as_ptr(), start.argv.as_ptr(), start.environment.as_ptr());
    fail(start, 16)
}

/// A mask or an ignored signal of the helper's threads would stay with the program.
unsafe fn reset_signals() {
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        let none: *mut u64 = ptr::null_mut();
        ffi::syscall(ffi::SYS_RT_SIGACTION, signal, default.as_ptr(), none, 8 as c_long);
    }
    let empty = 0u64;
    let none: *mut u64 = ptr::null_mut();
    ffi::syscall(ffi::SYS_RT_SIGPROCMASK, SIG_SETMASK, &empty as *const u64, none, 8 as c_long);
}

unsafe fn clone_tree(start: &Start, index: usize, source: &CStr, attributes: u64) -> RawFd {
    let step = 100 + index as i32;
    let flags = (ffi::OPEN_TREE_CLONE | ffi::OPEN_TREE_CLOEXEC) as c_long;
    let tree = must_long(start, step, ffi::syscall(ffi::SYS_OPEN_TREE, ffi::AT_FDCWD as c_long, source.as_ptr(), flags)) as RawFd;
    let attributes = ffi::mount_attr { set: attributes, clear: 0, propagation: 0, userns_fd: 0 };
    let size = std::mem::size_of::<ffi::mount_attr>();
    let set = ffi::syscall(
        ffi::SYS_MOUNT_SETATTR,
        tree as c_long,
        text(b"\0"),
        ffi::AT_EMPTY_PATH as c_long,
        &attributes as *const ffi::mount_attr,
        size,
    );
    must_long(start, step, set);
    tree
}

unsafe fn show(start: &Start, index: usize, step: &Step, clone: RawFd) {
    let number = 100 + index as i32;
    match step {
        Step::Folder { path, mode } => {
            must(start, number, ffi::mkdir(path.as_ptr(), *mode));
        }
        Step::Link { target, path } => {
            must(start, number, ffi::symlink(target.as_ptr(), path.as_ptr()));
        }
        Step::File { path, content } => {
            let file = must(
                start,
                number,
                ffi::openat(ffi::AT_FDCWD, path.as_ptr(), O_WRONLY_CREAT_EXCL | ffi::O_CLOEXEC, 0o644 as c_int),
            );
            if ffi::write(file, content.as_ptr().cast(), content.len()) != content.len() as isize {
                fail(start, number)
            }
            ffi::close(file);
        }
        Step::Clone { path, .. } => {
            let flags = ffi::MOVE_MOUNT_F_EMPTY_PATH as c_long;
            must_long(
                start,
                number,
                ffi::syscall(ffi::SYS_MOVE_MOUNT, clone as c_long, text(b"\0"), ffi::AT_FDCWD as c_long, path.as_ptr(), flags),
            );
            ffi::close(clone);
        }
        Step::Hide { path } => {
            let flags = ffi::MS_NOSUID | ffi::MS_NODEV;
            must(
                start,
                number,
                ffi::mount(text(b"tmpfs\0"), path.as_ptr(), text(b"tmpfs\0"), flags, HIDE_OPTIONS.as_ptr().cast()),
            );
        }
    }
}

unsafe fn make_read_only(start: &Start) {
    let flags = ffi::MS_REMOUNT | ffi::MS_BIND | ffi::MS_RDONLY | ffi::MS_NOSUID | ffi::MS_NODEV;
    for step in &start.plan.steps {
        if let Step::Hide { path } = step {
            must(start, 7, ffi::mount(ptr::null(), path.as_ptr(), ptr::null(), flags, ptr::null()));
        }
    }
    must(start, 7, ffi::mount(ptr::null(), text(b"/\0"), ptr::null(), flags, ptr::null()));
}

unsafe fn raise_limits(start: &Start) {
    let none = ffi::rlimit { current: 0, maximum: 0 };
    must(start, 8, ffi::setrlimit(RLIMIT_CORE, &none));
    let mut files = none;
    must(start, 8, ffi::getrlimit(RLIMIT_NOFILE, &mut files));
    files.current = files.maximum;
    must(start, 8, ffi::setrlimit(RLIMIT_NOFILE, &files));
}

unsafe fn drop_rights(start: &Start) {
    must(start, 9, ffi::prctl(PR_SET_SECUREBITS, SECUREBITS, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong));
    for capability in 0..64 as c_ulong {
        // The first number the kernel does not know ends the list.
        if ffi::prctl(PR_CAPBSET_DROP, capability, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) < 0 {
            if errno() == EINVAL {
                break;
            }
            fail(start, 9)
        }
    }
    must(start, 9, ffi::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong));
    let id = start.uid as c_long;
    let none: *const u32 = ptr::null();
    must_long(start, 10, ffi::syscall(ffi::SYS_SETGROUPS, 0 as c_long, none));
    must_long(start, 10, ffi::syscall(ffi::SYS_SETRESGID, id, id, id));
    must_long(start, 10, ffi::syscall(ffi::SYS_SETRESUID, id, id, id));
    must(start, 11, ffi::prctl(PR_SET_NO_NEW_PRIVS, 1 as c_ulong, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong));
}

/// As the kernel's `struct sock_fprog`.
#[repr(C)]
struct FilterProgram {
    length: u16,
    instructions: *const Instruction,
}

/// After no_new_privs, without which only root may set one. What the child still calls until `execve` is allowed by it.
unsafe fn filter_calls(start: &Start) {
    let program = FilterProgram { length: start.filter.len() as u16, instructions: start.filter.as_ptr() };
    let flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let pointer = &program as *const FilterProgram;
    must_long(start, 12, ffi::syscall(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, pointer));
}
