//! The pool's sparse image: made once, attached to one loop device and never to two, mounted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::raw::c_ulong;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;

const LOOP_GET_STATUS64: c_ulong = 0x4c05;
const LOOP_CONFIGURE: c_ulong = 0x4c0a;
const LOOP_CTL_GET_FREE: c_ulong = 0x4c82;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
const LOOP_MAJOR: u64 = 7;
const ATTACH_TRIES: u32 = 64;
const GONE_TRIES: u32 = 200;

#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

fn empty_info() -> LoopInfo {
    LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    }
}

/// A loop device held open: the kernel detaches it by itself when the last holder (this handle, a mount) is gone, so a helper
/// killed between attaching and mounting leaves none behind.
pub struct Loop {
    pub path: PathBuf,
    pub direct: bool,
    _handle: OwnedFd,
}

fn status(device: &impl AsRawFd) -> io::Result<LoopInfo> {
    let mut info = empty_info();
    // SAFETY: the struct is the one LOOP_GET_STATUS64 writes.
    unsafe { ffi::ioctl_with(device.as_raw_fd(), LOOP_GET_STATUS64, &mut info) }?;
    Ok(info)
}

/// The loop device whose backing file is this one, by device and inode: a path may have been moved or mounted over.
pub fn attached(image: &Path) -> Result<Option<Loop>> {
    let wanted = fs::metadata(image).context(format_args!("looking at {}", image.display()))?;
    let devices = match fs::read_dir("/sys/block") {
        Ok(devices) => devices,
        Err(_) => return Ok(None),
    };
    for entry in devices.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("loop") || !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let path = Path::new("/dev").join(&name);
        let handle = match ffi::open_path(&path, ffi::O_RDONLY) {
            Ok(handle) => handle,
            Err(_) => continue,
        };
        match status(&handle) {
            Ok(info) if info.device == wanted.dev() && info.inode == wanted.ino() => {
                return Ok(Some(Loop { path, direct: info.flags & DIRECT_IO != 0, _handle: handle }));
            }
            _ => continue,
        }
    }
    Ok(None)
}

fn open_device(number: u64) -> io::Result<(PathBuf, File)> {
    let path = PathBuf::from(format!("/dev/loop{}", number));
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    match open() {
        // A container's /dev is no devtmpfs: a device the kernel has just made has no node there.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let c_path = ffi::c_path(&path)?;
            // SAFETY: the path lives through the call.
            ffi::check(unsafe { ffi::mknod(c_path.as_ptr(), 0o060_600, (LOOP_MAJOR << 8) | number) })?;
            open().map(|file| (path.clone(), file))
        }
        other => other.map(|file| (path.clone(), file)),
    }
}

/// Attaches the image to a free loop device, or finds the one it is attached to. The caller holds the pool's lock.
pub fn attach(image: &Path) -> Result<Loop> {
    if let Some(found) = attached(image)? {
        return Ok(found);
    }
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .context("opening /dev/loop-control (is the loop module loaded? `modprobe loop`)")?;
    let backing = OpenOptions::new().read(true).write(true).open(image).context(format_args!("opening {}", image.display()))?;
    let mut last = io::Error::from_raw_os_error(16);
    for _ in 0..ATTACH_TRIES {
        // SAFETY: this ioctl takes no argument and answers a number.
        let number =
            ffi::check(unsafe { ffi::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }).context("asking for a free loop device")?;
        let (path, device) = open_device(number as u64).context(format_args!("opening /dev/loop{}", number))?;
        let mut config = LoopConfig { fd: backing.as_raw_fd() as u32, block_size: 0, info: empty_info(), reserved: [0; 8] };
        config.info.flags = AUTOCLEAR | DIRECT_IO;
        let name = image.as_os_str().as_encoded();
        let length = name.len().min(63);
        config.info.file_name[..length].copy_from_slice(&name[..length]);
        // SAFETY: the struct is the one LOOP_CONFIGURE reads.
        match unsafe { ffi::ioctl_with(device.as_raw_fd(), LOOP_CONFIGURE, &mut config) } {
            Ok(_) => {
                let direct = status(&device).map(|info| info.flags & DIRECT_IO != 0).unwrap_or(false);
                return Ok(Loop { path, direct, _handle: device.into() });
            }
            // Somebody else took the device between the question and the answer.
            Err(cause) if cause.raw_os_error() == Some(16) => {
                last = cause;
                sleep(Duration::from_millis(5));
            }
            Err(cause) => {
                return Err(Error::from_io(format_args!("attaching {} to {}", image.display(), path.display()), &cause))
            }
        }
    }
    Err(Error::from_io("attaching the pool's image: every free loop device was taken by others", &last))
}

/// Waits until no loop device holds the image; false after a second.
pub fn gone(image: &Path) -> bool {
    for _ in 0..GONE_TRIES {
        if matches!(attached(image), Ok(None)) {
            return true;
        }
        sleep(Duration::from_millis(5));
    }
    false
}

trait Encoded {
    fn as_encoded(&self) -> &[u8];
}

impl Encoded for std::ffi::OsStr {
    fn as_encoded(&self) -> &[u8] {
        std::os::unix::ffi::OsStrExt::as_bytes(self)
    }
}

/// A program of the system by its fixed places: the helper's own PATH is not trusted.
pub fn system_program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

/// Makes the image whole or not at all: formatted under another name, flushed, renamed.
pub fn create(image: &Path, bytes: u64, step: fn(&str)) -> Result<()> {
    let mkfs = system_program("mkfs.btrfs")
        .ok_or_else(|| Error::new(code::NOT_SUPPORTED, "mkfs.btrfs is missing: apt-get install btrfs-progs"))?;
    let fresh = image.with_extension("img.new");
    match fs::remove_file(&fresh) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            return Err(Error::from_io(format_args!("removing {}", fresh.display()), &cause));
        }
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .context(format_args!("making {}", fresh.display()))?;
    file.set_len(bytes).context(format_args!("making {} {} bytes large", fresh.display(), bytes))?;
    step("sized");
    // One copy of metadata: image and copy would lie on the same disk, and every small file would be written twice.
    let output = Command::new(mkfs)
        .args(["-q", "-K", "-L", "delta", "-m", "single", "-d", "single"])
        .arg(&fresh)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .context("starting mkfs.btrfs")?;
    if !output.status.success() {
        let _ = fs::remove_file(&fresh);
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(code::IO, format!("mkfs.btrfs failed ({}): {}", output.status, said.trim())));
    }
    step("formatted");
    file.sync_all().context(format_args!("flushing {}", fresh.display()))?;
    fs::rename(&fresh, image).context(format_args!("naming {}", image.display()))?;
    if let Some(folder) = image.parent() {
        ffi::sync_directory(folder).context(format_args!("flushing {}", folder.display()))?;
    }
    step("named");
    Ok(())
}

/// True when the kernel can mount btrfs, after asking it to load the module.
pub fn kernel_has_btrfs() -> bool {
    let known = || fs::read_to_string("/proc/filesystems").map_or(false, |text| text.lines().any(|line| line.trim() == "btrfs"));
    if known() {
        return true;
    }
    if let Some(modprobe) = system_program("modprobe") {
        let _ = Command::new(modprobe)
            .arg("btrfs")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    known()
}
