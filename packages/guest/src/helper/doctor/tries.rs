//! What is really tried: user namespaces, overlayfs, idmapped mounts, a btrfs image on a loop device.

use std::fs;
use std::io::{self, Read, Write};
use std::os::raw::{c_int, c_long};
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{finding, Finding, Status};
use crate::helper::ffi;
use crate::helper::network::Plan;
use crate::helper::pool;

const CLONE_NEWUSER: c_long = 0x1000_0000;
const SIGCHLD: c_long = 17;
const IMAGE_BYTES: u64 = 256 << 20;
/// Any uids will do for a try: nothing is written under them.
const TRY_UID: u32 = 1_879_048_192;

/// A folder for the tries that takes its mounts and files with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(data: &Path) -> io::Result<Scratch> {
        let mut random = [0u8; 8];
        ffi::fill_random(&mut random)?;
        let path = data.join(format!(".doctor-{:016x}", u64::from_ne_bytes(random)));
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }

    fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for name in ["merged", "mounted"] {
            let _ = ffi::unmount(&self.0.join(name), ffi::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn all(data: &Path) -> Vec<Finding> {
    let scratch = match data.canonicalize().and_then(|data| Scratch::new(&data)) {
        Ok(scratch) => scratch,
        Err(cause) => {
            return vec![finding(
                "data folder",
                Status::Fail,
                format!("{}: {}", data.display(), cause),
                "The helper must be able to write there: DELTA_DATA_DIR names another.",
            )];
        }
    };
    let mut findings = Vec::new();
    let namespace = user_namespace();
    findings.push(match &namespace {
        Ok(_) => finding("user namespaces", Status::Ok, "work", "Root inside a sandbox is an unprivileged uid outside."),
        Err(cause) => finding(
            "user namespaces",
            Status::Fail,
            cause.to_string(),
            "Sandboxes cannot be made: sysctl user.max_user_namespaces=65536, and no lockdown of namespaces.",
        ),
    });
    if let Ok(namespace) = &namespace {
        findings.push(judge_idmap("data folder", &scratch.0, idmapped(&scratch.0, namespace)));
        findings.push(judge_idmap("/usr", Path::new("/usr"), idmapped(Path::new("/usr"), namespace)));
    }
    findings.push(match Plan::new().try_out(TRY_UID) {
        Ok(()) => finding(
            "redirected connections",
            Status::Ok,
            "nftables with tproxy works",
            "Programs that know no proxy reach allowed hosts by every port.",
        ),
        Err(cause) => finding(
            "redirected connections",
            Status::Warn,
            cause.to_string(),
            "Programs that know no proxy reach allowed hosts only by name, on ports 80 and 443 (modprobe nft_tproxy). The proxy works.",
        ),
    });
    findings.push(match overlay(&scratch) {
        Ok(()) => finding("overlayfs", Status::Ok, "works on the data folder", "Sandboxes share their template and write beside it."),
        Err(cause) => {
            finding("overlayfs", Status::Fail, cause.to_string(), "Sandboxes cannot be made: load the module (modprobe overlay), and keep the data folder off overlay and network file systems.")
        }
    });
    findings.push(btrfs(data, &scratch));
    findings
}

fn judge_idmap(what: &str, path: &Path, result: io::Result<()>) -> Finding {
    let name = format!("idmapped mount of {}", what);
    match result {
        Ok(()) => finding(&name, Status::Ok, "works", "Its files appear inside with their true owners, at no cost."),
        Err(cause) => finding(
            &name,
            Status::Fail,
            cause.to_string(),
            format!(
                "The file system of {} cannot be idmapped: use ext4, xfs or btrfs (and a kernel from 5.19 on).",
                path.display()
            ),
        ),
    }
}

/// A user namespace whose uids and gids from 0 on are `TRY_UID` and up, held by its descriptor alone.
fn user_namespace() -> io::Result<OwnedFd> {
    let mut pipe = [0; 2];
    // SAFETY: room for the two descriptors.
    ffi::check(unsafe { ffi::pipe2(pipe.as_mut_ptr(), ffi::O_CLOEXEC) })?;
    let (read, write) = (ffi::own(pipe[0])?, ffi::own(pipe[1])?);
    // SAFETY: the child only waits for the pipe's end and leaves.
    let pid =
        unsafe { ffi::syscall(ffi::SYS_CLONE, CLONE_NEWUSER | SIGCHLD, 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long) };
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            ffi::close(write.as_raw_fd());
            let mut byte = 0u8;
            ffi::read(read.as_raw_fd(), (&mut byte as *mut u8).cast(), 1);
            ffi::_exit(0);
        }
    }
    let pid = ffi::check_long(pid)?;
    drop(read);
    let result = map(pid).and_then(|()| ffi::open_path(Path::new(&format!("/proc/{}/ns/user", pid)), ffi::O_RDONLY));
    drop(write);
    // SAFETY: all zeroes is a valid siginfo; P_PID 1, WEXITED 4.
    unsafe {
        let mut info: ffi::siginfo = std::mem::zeroed();
        ffi::waitid(1, pid as u32, &mut info, 4);
    }
    result
}

fn map(pid: c_long) -> io::Result<()> {
    for name in ["uid_map", "gid_map"] {
        let mut file = fs::OpenOptions::new().write(true).open(format!("/proc/{}/{}", pid, name))?;
        file.write_all(format!("0 {} 65536\n", TRY_UID).as_bytes())?;
    }
    Ok(())
}

/// Idmaps a detached clone, which is gone with its descriptor.
fn idmapped(path: &Path, namespace: &OwnedFd) -> io::Result<()> {
    let c_path = ffi::c_path(path)?;
    let flags = (ffi::OPEN_TREE_CLONE | ffi::OPEN_TREE_CLOEXEC) as c_long;
    // SAFETY: the path lives through the call.
    let tree = ffi::check_long(unsafe { ffi::syscall(ffi::SYS_OPEN_TREE, ffi::AT_FDCWD as c_long, c_path.as_ptr(), flags) })?;
    let tree = ffi::own(tree as c_int)?;
    let attributes =
        ffi::mount_attr { set: ffi::MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd: namespace.as_raw_fd() as u64 };
    let (empty, size) = (b"\0".as_ptr(), std::mem::size_of::<ffi::mount_attr>());
    // SAFETY: the struct has the kernel's layout and lives through the call.
    ffi::check_long(unsafe {
        ffi::syscall(
            ffi::SYS_MOUNT_SETATTR,
            tree.as_raw_fd() as c_long,
            empty,
            ffi::AT_EMPTY_PATH as c_long,
            &attributes as *const ffi::mount_attr,
            size,
        )
    })?;
    Ok(())
}

fn overlay(scratch: &Scratch) -> io::Result<()> {
    let (lower, upper, work, merged) =
        (scratch.folder("lower")?, scratch.folder("upper")?, scratch.folder("work")?, scratch.folder("merged")?);
    fs::write(lower.join("file"), "lower")?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    ffi::mount_at("overlay", &merged, "overlay", ffi::MS_NOSUID | ffi::MS_NODEV, &options)?;
    fs::write(merged.join("file"), "upper")?;
    let mut text = String::new();
    fs::File::open(upper.join("file"))?.read_to_string(&mut text)?;
    ffi::unmount(&merged, ffi::MNT_DETACH)?;
    if text != "upper" {
        return Err(io::Error::new(io::ErrorKind::Other, "a write did not reach the upper layer"));
    }
    Ok(())
}

fn btrfs(data: &Path, scratch: &Scratch) -> Finding {
    let meaning = "Every sandbox has a disk quota, and snapshots take constant time.";
    if ffi::statfs_of(data).map_or(false, |found| found.kind == ffi::BTRFS_MAGIC) {
        return finding("btrfs pool", Status::Ok, "the data folder lies on btrfs", meaning);
    }
    let mounted = scratch.folder("mounted");
    match mounted.and_then(|mounted| pool::try_image(&scratch.0.join("try.img"), &mounted, IMAGE_BYTES).map_err(|error| io::Error::new(io::ErrorKind::Other, error.message))) {
        Ok(()) => finding("btrfs pool", Status::Ok, "a btrfs image on a loop device works", meaning),
        Err(cause) => finding(
            "btrfs pool",
            Status::Warn,
            cause.to_string(),
            "The pool becomes a plain folder: no quota limits what a sandbox writes. It needs btrfs and loop in the kernel and btrfs-progs.",
        ),
    }
}
