//! A worker's own mount namespace, where the root of one sandbox after another is put together.
//!
//! Nothing of it ever appears in the host's mount table: the sandbox's own namespace keeps its overlay alive, and what a killed
//! helper leaves half mounted goes with its threads.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::raw::c_long;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::bases::LOWERS_MAX;
use super::error::{code, Context, Error, Result};
use super::ffi;
use super::sys::{self, FileIdentity};

/// Folders every Linux has and no runtime needs; the first that does not hold the data folder is covered by the stage.
const STAGE_FOLDERS: [&str; 4] = ["/mnt", "/media", "/srv", "/run"];
/// The system's own trees, where they are mounts of their own.
const NEEDED_MOUNTS: [&str; 10] = [
    "/proc", "/sys", "/dev", "/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/nix",
];
const MS_SLAVE: u64 = 1 << 19;
/// Written out, since a kernel may be built with others. Redirects and copies of metadata alone would be attributes that a layer cannot say,
/// and the first of them lead from a layer to where it names; so an upper holds files, whiteouts and opaque folders, and nothing else counts.
const OVERLAY_OPTIONS: &str = "redirect_dir=nofollow,metacopy=off,index=off";

pub struct Stage {
    folder: PathBuf,
}

/// A folder with the owners it has on disk shifted into the sandbox's range, mounted nowhere yet.
fn idmapped_tree(folder: &Path, user_namespace: &OwnedFd, attributes: u64) -> Result<OwnedFd> {
    let path = ffi::c_path(folder).context(folder.display())?;
    let flags = (ffi::OPEN_TREE_CLONE | ffi::OPEN_TREE_CLOEXEC | ffi::AT_SYMLINK_NOFOLLOW) as c_long;
    // SAFETY: the path lives through the call.
    let tree =
        ffi::check_long(unsafe { ffi::syscall(ffi::SYS_OPEN_TREE, ffi::AT_FDCWD as c_long, path.as_ptr(), flags) });
    let tree = tree
        .and_then(|fd| ffi::own(fd as i32))
        .context(format_args!("taking the folder {} as a layer", folder.display()))?;
    let mut attributes = ffi::mount_attr {
        set: ffi::MOUNT_ATTR_IDMAP | attributes,
        userns_fd: user_namespace.as_raw_fd() as u64,
        ..Default::default()
    };
    let empty = b"\0";
    // SAFETY: every pointer lives through the call and the size is the struct's.
    ffi::check_long(unsafe {
        ffi::syscall(
            ffi::SYS_MOUNT_SETATTR,
            tree.as_raw_fd() as c_long,
            empty.as_ptr(),
            ffi::AT_EMPTY_PATH as c_long,
            &mut attributes as *mut ffi::mount_attr,
            std::mem::size_of::<ffi::mount_attr>() as c_long,
        )
    })
    .context(format_args!(
        "mapping the owners of {} (the kernel's file system must support idmapped mounts)",
        folder.display()
    ))?;
    Ok(tree)
}

/// Mounts a tree on an open folder.
fn place(tree: &OwnedFd, at: &OwnedFd) -> io::Result<()> {
    let empty = b"\0";
    // SAFETY: as above.
    ffi::check_long(unsafe {
        ffi::syscall(
            ffi::SYS_MOVE_MOUNT,
            tree.as_raw_fd() as c_long,
            empty.as_ptr(),
            at.as_raw_fd() as c_long,
            empty.as_ptr(),
            (ffi::MOVE_MOUNT_F_EMPTY_PATH | ffi::MOVE_MOUNT_T_EMPTY_PATH) as c_long,
        )
    })?;
    Ok(())
}

/// One lower or upper folder of an overlay.
fn idmapped(folder: &Path, user_namespace: &OwnedFd, at: &Path) -> Result<()> {
    let tree = idmapped_tree(folder, user_namespace, 0)?;
    ffi::open_directory(at)
        .and_then(|at| place(&tree, &at))
        .context(format_args!("placing the layer {}", folder.display()))
}

/// A folder that several sandboxes share, as one of them sees it.
pub struct Share<'a> {
    pub folder: &'a Path,
    /// Absolute, inside; checked to have no part that leads up.
    pub path: &'a str,
    pub read_only: bool,
}

/// What lies under one overlay.
pub struct Layers<'a> {
    /// Topmost first.
    pub lowers: &'a [&'a Path],
    pub upper: &'a Path,
    pub work: &'a str,
    pub upper_name: &'a str,
}

/// The root of one sandbox, mounted in the worker's namespace; unmounted there when dropped.
pub struct Root<'a> {
    stage: &'a Stage,
    mounted: bool,
}

impl Stage {
    /// Gives the calling thread its own mount namespace. `cgroup_view` are the cgroup v1 mounts the runtimes may see.
    pub fn enter(data: &Path, cgroup_view: &[(String, PathBuf)]) -> Result<Stage> {
        // SAFETY: no pointers. It takes the working directory and root of this thread apart from the process's.
        ffi::check(unsafe { sys::unshare(sys::CLONE_NEWNS) })
            .context("making a mount namespace (is the helper root?)")?;
        // Slave, not private: when the pool is unmounted on the host, it must not live on here.
        ffi::mount_at("none", Path::new("/"), "", ffi::MS_REC | MS_SLAVE, "")
            .context("separating the mount namespace")?;
        forget_mounts(data)?;
        let folder = STAGE_FOLDERS
            .iter()
            .map(Path::new)
            .find(|path| path.is_dir() && !data.starts_with(path));
        let folder = folder.ok_or_else(|| {
            Error::new(
                code::NOT_SUPPORTED,
                "none of /mnt, /media, /srv and /run is a folder outside the data folder: make /mnt",
            )
        })?;
        let limits = "mode=755,size=4m,nr_inodes=1024";
        ffi::mount_at("delta", folder, "tmpfs", ffi::MS_NOSUID | ffi::MS_NODEV, limits)
            .context(format_args!("covering {}", folder.display()))?;
        let stage = Stage {
            folder: folder.to_path_buf(),
        };
        let lowers = (0..LOWERS_MAX).map(|at| format!("lower{}", at));
        let own = ["root", "upper", "bundle", "state"].into_iter().map(String::from);
        for name in own.chain(lowers) {
            fs::create_dir(stage.folder.join(name)).context("making the stage")?;
        }
        show_cgroups(cgroup_view)?;
        Ok(stage)
    }

    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Where the runtime finds its configuration and keeps its records. Nothing there is needed once the sandbox runs: the helper
    /// ends it by its cgroup and its first process, so nothing of it has to survive or be found again.
    pub fn bundle(&self) -> PathBuf {
        self.folder.join("bundle")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Forgets what the last runtime left in `bundle` and `state`.
    pub fn sweep(&self) {
        for folder in [self.bundle(), self.state()] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let _ = if path.is_dir() {
                    fs::remove_dir_all(path)
                } else {
                    fs::remove_file(path)
                };
            }
        }
    }

    fn clear(&self, path: &Path) {
        // A stage belongs to one thread, so what is mounted at its places is this thread's.
        while ffi::unmount(path, ffi::MNT_DETACH).is_ok() {}
    }

    fn overlay(&self, layers: &Layers<'_>, user_namespace: &OwnedFd, first: u32, target: &Path) -> Result<()> {
        if layers.lowers.len() > LOWERS_MAX {
            return Err(Error::new(code::LIMIT, "too many lower layers"));
        }
        let upper = self.folder.join("upper");
        let places: Vec<PathBuf> = (0..layers.lowers.len())
            .map(|at| self.folder.join(format!("lower{}", at)))
            .collect();
        let mounted = (|| {
            for (folder, place) in layers.lowers.iter().zip(&places) {
                idmapped(folder, user_namespace, place)?;
            }
            idmapped(layers.upper, user_namespace, &upper)?;
            let lowers: Vec<String> = places
                .iter()
                .map(|place| place.to_string_lossy().into_owned())
                .collect();
            let options = format!(
                "{},lowerdir={},upperdir={}/{},workdir={}/{}",
                OVERLAY_OPTIONS,
                lowers.join(":"),
                upper.display(),
                layers.upper_name,
                upper.display(),
                layers.work
            );
            // The overlay works with the credentials of who mounts it. Root does not exist in the mapped upper, so as root
            // it would come up read-only; the first uid of the range does exist.
            let identity = FileIdentity::assume(first).context("taking the sandbox's file identity")?;
            let done =
                ffi::mount_at("overlay", target, "overlay", ffi::MS_NODEV, &options).context("mounting the overlay");
            drop(identity);
            done
        })();
        // The overlay keeps its own references to the layers.
        for place in places.iter().chain(std::iter::once(&upper)) {
            self.clear(place);
        }
        mounted
    }

    /// Puts a sandbox's root together: an overlay for `/` and, where the template has one, a second for `/usr`.
    pub fn mount_root<'a>(
        &'a self,
        root: &Layers<'_>,
        usr: Option<&Layers<'_>>,
        user_namespace: &OwnedFd,
        first: u32,
    ) -> Result<Root<'a>> {
        let target = self.root();
        let mut mounted = Root {
            stage: self,
            mounted: false,
        };
        self.overlay(root, user_namespace, first, &target)?;
        mounted.mounted = true;
        if let Some(usr) = usr {
            let place = target.join("usr");
            // An upper that a sandbox on another template has written may have a link there, which a mount would follow out of it.
            if !place.symlink_metadata().map_or(false, |found| found.is_dir()) {
                return Err(Error::new(
                    code::INVALID,
                    "/usr of the upper is no folder: start it on the template it was made with",
                ));
            }
            self.overlay(usr, user_namespace, first, &place)?;
        }
        Ok(mounted)
    }
}

impl Root<'_> {
    /// Mounts a shared folder into the root, on a folder that is made where it is missing. Programs of one sandbox gain nothing from what
    /// another put there: setuid bits and devices do not count.
    pub fn share(&self, share: &Share<'_>, user_namespace: &OwnedFd, first: u32) -> Result<()> {
        let at = self.folder_inside(share.path, first)?;
        let read_only = if share.read_only { ffi::MOUNT_ATTR_RDONLY } else { 0 };
        let attributes = ffi::MOUNT_ATTR_NOSUID | ffi::MOUNT_ATTR_NODEV | read_only;
        let tree = idmapped_tree(share.folder, user_namespace, attributes)?;
        place(&tree, &at).context(format_args!("mounting a volume on {}", share.path))
    }

    /// Opens a folder of the root, part by part and through no link: what lies there was written by a sandbox.
    fn folder_inside(&self, path: &str, first: u32) -> Result<OwnedFd> {
        let flags = ffi::O_PATH | ffi::O_DIRECTORY | ffi::O_NOFOLLOW | ffi::O_CLOEXEC;
        let mut at = ffi::open_path(&self.stage.root(), flags).context("opening the root")?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let name = CString::new(part).map_err(|_| Error::new(code::INVALID, "a volume's path holds a NUL"))?;
            // SAFETY: the name lives through the call.
            let open = || ffi::own(unsafe { ffi::openat(at.as_raw_fd(), name.as_ptr(), flags) });
            let found = match open() {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    let identity = FileIdentity::assume(first).context("taking the sandbox's file identity")?;
                    // SAFETY: as above.
                    let made = ffi::check(unsafe { ffi::mkdirat(at.as_raw_fd(), name.as_ptr(), 0o755) });
                    drop(identity);
                    made.and_then(|_| open())
                }
                other => other,
            };
            at = found.map_err(|cause| match cause.raw_os_error() {
                // ENOTDIR, ELOOP
                Some(20) | Some(40) => Error::new(
                    code::INVALID,
                    format!("a volume cannot be mounted on {}: {:?} is there and is no folder", path, part),
                ),
                _ => Error::from_io(format_args!("making {} for a volume", path), &cause),
            })?;
        }
        Ok(at)
    }
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        if self.mounted {
            self.stage.clear(&self.stage.root());
        }
    }
}

/// Lets go of the copies of mounts this namespace does not need. They would keep another helper's pool, or a disk the operator
/// unmounts, in use for as long as this thread lives, and every sandbox's namespace starts as a copy of them all.
fn forget_mounts(data: &Path) -> Result<()> {
    let needed = |point: &Path| {
        point == Path::new("/")
            || NEEDED_MOUNTS.iter().any(|path| point.starts_with(path))
            || data.starts_with(point)
            || point.starts_with(data)
    };
    for line in ffi::mounts().context("reading the mount table")?.iter().rev() {
        let point = Path::new(std::ffi::OsStr::from_bytes(&line.point));
        if !needed(point) {
            // One below a mount that is gone already, or that another covers: then it is out of reach anyway.
            let _ = ffi::unmount(point, ffi::MNT_DETACH);
        }
    }
    Ok(())
}

/// Covers `/sys/fs/cgroup` by a view that has only the v1 hierarchies in use: crun of Debian 12 refuses hosts that also have an
/// empty v2 hierarchy, and every hierarchy less is a folder less to make and remove for each sandbox.
fn show_cgroups(view: &[(String, PathBuf)]) -> Result<()> {
    if view.is_empty() {
        return Ok(());
    }
    let base = Path::new("/sys/fs/cgroup");
    let handles: io::Result<Vec<OwnedFd>> = view
        .iter()
        .map(|(_, from)| {
            let path = ffi::c_path(from)?;
            let flags = (ffi::OPEN_TREE_CLONE | ffi::OPEN_TREE_CLOEXEC) as c_long;
            // SAFETY: the path lives through the call.
            let fd = ffi::check_long(unsafe {
                ffi::syscall(ffi::SYS_OPEN_TREE, ffi::AT_FDCWD as c_long, path.as_ptr(), flags)
            })?;
            ffi::own(fd as i32)
        })
        .collect();
    let handles = handles.context("taking the cgroup hierarchies")?;
    // Covered mounts would still be listed, and runc would look for its groups in them.
    while ffi::unmount(base, ffi::MNT_DETACH).is_ok() {}
    ffi::mount_at(
        "delta",
        base,
        "tmpfs",
        ffi::MS_NOSUID | ffi::MS_NODEV,
        "mode=755,size=64k,nr_inodes=64",
    )
    .context("covering /sys/fs/cgroup")?;
    let mut shown: Vec<&PathBuf> = Vec::new();
    for ((controller, from), handle) in view.iter().zip(handles) {
        let name = from
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if !shown.contains(&from) {
            let place = base.join(&name);
            fs::create_dir(&place).context("making the cgroup view")?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).context("making the cgroup view")?;
            let to = CString::new(place.to_string_lossy().as_bytes()).unwrap_or_default();
            // SAFETY: the pointers live through the call.
            ffi::check_long(unsafe {
                ffi::syscall(
                    ffi::SYS_MOVE_MOUNT,
                    handle.as_raw_fd() as c_long,
                    b"\0".as_ptr(),
                    ffi::AT_FDCWD as c_long,
                    to.as_ptr(),
                    ffi::MOVE_MOUNT_F_EMPTY_PATH as c_long,
                )
            })
            .context("making the cgroup view")?;
            shown.push(from);
        }
        if *controller != name {
            let _ = symlink(&name, base.join(controller));
        }
    }
    Ok(())
}
