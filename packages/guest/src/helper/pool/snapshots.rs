//! Snapshots: uppers as they were at a moment, kept read-only under `snapshots/<id>`, and uppers made from them.
//!
//! A snapshot holds the whole upper, the link `template` included, so it and what that names are the whole file system, however long the history.
//! What stands on what is kept in memory, read from the links once at the start: a snapshot that something stands on is not dropped.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::io::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use super::{btrfs, check_id, copy, list_ids, make_folder, Kind, Pool, Quota};
use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;

/// Snapshots that may lie on each other as templates. An overlay's options and the time of a look-up grow with each.
pub const CHAIN_MAX: usize = 16;
const MARK: &str = "template";
const MARK_BYTES_MAX: usize = 64;
/// What an upper holds for the mounts of overlays alone.
const WORK_FOLDERS: [&str; 2] = ["work", "usr-work"];
/// What of an upper is the sandbox's files.
const FILE_FOLDERS: [&str; 2] = ["upper", "usr"];

#[derive(Default)]
pub struct Index {
    /// Template by upper; one made before there were marks is not in it until it is started again.
    uppers: HashMap<String, String>,
    snapshots: HashMap<String, String>,
    /// How many operations are reading a snapshot.
    held: HashMap<String, usize>,
    /// Ids that are being made.
    making: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: String,
    pub template: String,
}

/// A snapshot that cannot be dropped as long as this lives.
pub struct Held<'a> {
    pool: &'a Pool,
    id: String,
    pub template: String,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut index = self.pool.index();
        if let Some(count) = index.held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                index.held.remove(&self.id);
            }
        }
    }
}

/// An id that is being made, so that nobody else makes it.
struct Making<'a> {
    pool: &'a Pool,
    id: String,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.pool.index().making.retain(|id| *id != self.id);
    }
}

/// Writes down in a disk what lies below it. A link rather than a file: it is whole as soon as it is there, without a flush that every new
/// sandbox would wait for.
pub(super) fn mark(disk: &Path, template: &str) -> Result<()> {
    symlink(template, disk.join(MARK)).context(format_args!("noting the template of {}", disk.display()))
}

fn marked(disk: &Path) -> Option<String> {
    let target = fs::read_link(disk.join(MARK)).ok()?;
    let name = target.to_str()?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!name.is_empty() && name.len() <= MARK_BYTES_MAX && name.bytes().all(known)).then(|| name.to_string())
}

fn missing(id: &str) -> Error {
    Error::new(code::NOT_FOUND, format!("there is no snapshot {}", id))
}

impl Pool {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn load_index(&self) -> Result<()> {
        let of = |folder: &str| -> Result<HashMap<String, String>> {
            let folder = self.root.join(folder);
            let ids = list_ids(&folder)?.into_iter();
            Ok(ids.filter_map(|id| marked(&folder.join(&id)).map(|template| (id, template))).collect())
        };
        let (uppers, snapshots) = (of("uppers")?, of("snapshots")?);
        *self.index() = Index { uppers, snapshots, ..Index::default() };
        Ok(())
    }

    pub(super) fn note_upper(&self, id: &str, template: &str) {
        self.index().uppers.insert(id.to_string(), template.to_string());
    }

    pub(super) fn forget_upper(&self, id: &str) {
        self.index().uppers.remove(id);
    }

    /// The folder of a snapshot, existing or not; as `upper_path`.
    pub fn snapshot_path(&self, id: &str) -> PathBuf {
        match check_id(id) {
            Ok(()) => self.root.join("snapshots").join(id),
            Err(_) => self.root.join("invalid-id"),
        }
    }

    pub fn list_snapshots(&self) -> Vec<Snapshot> {
        let index = self.index();
        let mut all: Vec<Snapshot> =
            index.snapshots.iter().map(|(id, template)| Snapshot { id: id.clone(), template: template.clone() }).collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    /// Sees to it that an upper is started on the template it was made on. One that is older than the marks gets its mark now.
    pub fn settle_template(&self, upper_id: &str, template: &str) -> Result<()> {
        check_id(upper_id)?;
        let known = self.index().uppers.get(upper_id).cloned();
        match known {
            Some(known) if known == template => Ok(()),
            Some(known) => Err(Error::new(
                code::INVALID,
                format!("the upper {} was made on {}: start it on that, not on {}", upper_id, known, template),
            )),
            None => {
                let disk = self.upper_path(upper_id);
                match mark(&disk, template) {
                    Err(error) if error.code == code::EXISTS => {}
                    other => other?,
                }
                self.note_upper(upper_id, template);
                Ok(())
            }
        }
    }

    /// What an upper stands on; None of one that is older than the marks.
    pub fn template_of_upper(&self, upper_id: &str) -> Option<String> {
        self.index().uppers.get(upper_id).cloned()
    }

    /// A snapshot to read from; nobody drops it meanwhile.
    pub fn hold(&self, id: &str) -> Result<Held<'_>> {
        check_id(id)?;
        let mut index = self.index();
        let template = index.snapshots.get(id).cloned().ok_or_else(|| missing(id))?;
        *index.held.entry(id.to_string()).or_insert(0) += 1;
        drop(index);
        Ok(Held { pool: self, id: id.to_string(), template })
    }

    /// The snapshots below a template, topmost first, and the name of the template that is none. They stay as long as the topmost is held.
    pub fn chain(&self, template: &str) -> Result<(Vec<String>, String)> {
        let index = self.index();
        let mut chain = Vec::new();
        let mut at = template.to_string();
        while is_snapshot(&at) {
            let next = index.snapshots.get(&at).cloned().ok_or_else(|| missing(&at))?;
            chain.push(at);
            if chain.len() > CHAIN_MAX {
                return Err(Error::new(code::LIMIT, format!("more than {} snapshots lie on each other below {}", CHAIN_MAX, template)));
            }
            at = next;
        }
        Ok((chain, at))
    }

    fn begin_making(&self, id: &str, is_there: bool) -> Result<Making<'_>> {
        let mut index = self.index();
        if is_there || index.making.iter().any(|other| other == id) {
            return Err(Error::new(code::EXISTS, format!("there is {} already", id)));
        }
        index.making.push(id.to_string());
        drop(index);
        Ok(Making { pool: self, id: id.to_string() })
    }

    /// Writes out what an upper still has in memory; of a folder, what its whole file system has.
    pub fn flush_upper(&self, upper_id: &str) -> Result<()> {
        check_id(upper_id)?;
        if self.kind == Kind::Folder {
            return self.flush();
        }
        let source = ffi::open_directory(&self.upper_path(upper_id)).context(format_args!("opening the upper {}", upper_id))?;
        let root = ffi::open_directory(&self.root).context(format_args!("opening {}", self.root.display()))?;
        btrfs::flush_subvolume(root.as_raw_fd(), "uppers", source.as_raw_fd())
            .context(format_args!("flushing the upper {}", upper_id))
    }

    /// What must be so before `snapshot` is worth a flush.
    pub fn check_snapshot(&self, upper_id: &str, id: &str) -> Result<()> {
        check_id(upper_id)?;
        check_id(id)?;
        if self.snapshot_path(id).symlink_metadata().is_ok() {
            return Err(Error::new(code::EXISTS, format!("there is a snapshot {} already", id)));
        }
        if !self.has_upper(upper_id) {
            return Err(Error::new(code::NOT_FOUND, format!("there is no upper {}", upper_id)));
        }
        self.check_room()
    }

    /// Keeps what an upper holds now. The caller sees to it that nobody writes to it: in a folder that is needed for a copy to be of one
    /// moment, in btrfs for what programs have half done. The bytes are what the upper's quota counts (None: nothing counts). From here on the upper's
    /// limit is on top of these, once it is set again by `adapt`.
    pub fn snapshot(&self, upper_id: &str, id: &str) -> Result<Option<u64>> {
        self.check_snapshot(upper_id, id)?;
        let path = self.snapshot_path(id);
        let _making = self.begin_making(id, path.symlink_metadata().is_ok())?;
        let template = self.template_of_upper(upper_id).ok_or_else(|| {
            Error::new(
                code::INVALID,
                format!("the upper {} is older than snapshots: start a sandbox on it once, which notes its template", upper_id),
            )
        })?;
        // Its template stays: the upper stands on it, and nobody drops the upper meanwhile.
        match self.kind {
            Kind::Btrfs => {
                let source = ffi::open_directory(&self.upper_path(upper_id)).context(format_args!("opening the upper {}", upper_id))?;
                let parent = ffi::open_directory(&self.root.join("snapshots")).context("opening the pool")?;
                // Named at once: it is whole or not there, and a read-only one could not be renamed.
                btrfs::snapshot(parent.as_raw_fd(), id, source.as_raw_fd(), true)
                    .context(format_args!("taking the snapshot {}", id))?;
            }
            Kind::Folder => self.copy_disk(&self.upper_path(upper_id), &path, id)?,
        }
        (self.step)("snapshot taken");
        self.index().snapshots.insert(id.to_string(), template);
        let _low = self.low.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let charged = self.note_charge(upper_id);
        (self.step)("charge noted");
        // The snapshot is there whatever became of the note.
        Ok(charged.or_else(|_| self.upper_usage(upper_id).map(|(used, _)| used)).unwrap_or(None))
    }

    /// A new upper with all that a snapshot holds, on the snapshot's own template. Its quota counts what is written from here on.
    pub fn fork(&self, snapshot_id: &str, upper_id: &str, quota_bytes: u64) -> Result<()> {
        check_id(upper_id)?;
        let held = self.hold(snapshot_id)?;
        self.check_room()?;
        let path = self.upper_path(upper_id);
        let _making = self.begin_making(upper_id, path.symlink_metadata().is_ok())?;
        self.forget_kept(upper_id)?;
        // The snapshot stands on its template and is held until the upper does.
        match self.kind {
            Kind::Btrfs => {
                let source =
                    ffi::open_directory(&self.snapshot_path(snapshot_id)).context(format_args!("opening {}", snapshot_id))?;
                let parent = ffi::open_directory(&self.root.join("uppers")).context("opening the pool")?;
                // Named at once, so that one commit makes it durable: no sandbox runs on it before its limit is set, which a start does again.
                btrfs::snapshot(parent.as_raw_fd(), upper_id, source.as_raw_fd(), false)
                    .context(format_args!("making the upper {}", upper_id))?;
            }
            Kind::Folder => self.copy_disk(&self.snapshot_path(snapshot_id), &path, upper_id)?,
        }
        (self.step)("fork made");
        self.note_upper(upper_id, &held.template);
        if self.kind == Kind::Btrfs && self.quota != Quota::None {
            if let Err(error) = self.adapt(upper_id, quota_bytes) {
                let _ = self.drop_upper(upper_id);
                return Err(error);
            }
        }
        (self.step)("fork limited");
        Ok(())
    }

    /// A new empty upper, durable when this returns.
    pub fn make_empty(&self, upper_id: &str, template: &str, quota_bytes: u64) -> Result<()> {
        let held = if is_snapshot(template) { Some(self.hold(template)?) } else { None };
        self.make_upper(upper_id, template, quota_bytes)?;
        drop(held);
        let uppers = self.root.join("uppers");
        ffi::sync_directory(&uppers).context(format_args!("flushing {}", uppers.display()))
    }

    /// Copies a disk through `new/`, so that it appears whole or not at all.
    fn copy_disk(&self, from: &Path, to: &Path, id: &str) -> Result<()> {
        let fresh = self.root.join("new").join(id);
        let copied = (|| {
            make_folder(&fresh, 0o700)?;
            let template = marked(from)
                .ok_or_else(|| Error::new(code::IO, format!("{} names no template: it is damaged", from.display())))?;
            mark(&fresh, &template)?;
            for name in FILE_FOLDERS {
                if from.join(name).symlink_metadata().is_ok() {
                    copy::tree(&from.join(name), &fresh.join(name))?;
                }
            }
            for name in WORK_FOLDERS {
                if from.join(name).symlink_metadata().is_ok() {
                    make_folder(&fresh.join(name), 0o700)?;
                }
            }
            (self.step)("copied");
            self.flush()?;
            ffi::rename_new(&fresh, to).context(format_args!("naming {}", to.display()))?;
            let parent = to.parent().unwrap_or(&self.root);
            ffi::sync_directory(parent).context(format_args!("flushing {}", parent.display()))
        })();
        if copied.is_err() {
            let _ = self.destroy(&self.root.join("new"), id);
        }
        copied
    }

    /// Removes a snapshot that nothing stands on; one that is missing is success. As `drop_upper`.
    pub fn drop_snapshot(&self, id: &str) -> Result<()> {
        check_id(id)?;
        {
            let mut index = self.index();
            if index.held.contains_key(id) || index.making.iter().any(|other| other == id) {
                return Err(Error::new(code::BUSY, format!("the snapshot {} is being read or made", id)));
            }
            let stands = index.uppers.iter().chain(index.snapshots.iter()).find(|(_, template)| *template == id);
            if let Some((user, _)) = stands {
                return Err(Error::new(code::BUSY, format!("{} stands on the snapshot {}", user, id)));
            }
            // From here on nobody finds it.
            index.snapshots.remove(id);
        }
        let dropped = self.destroy(&self.root.join("snapshots"), id);
        (self.step)("snapshot dropped");
        if let Err(cause) = dropped {
            if let Some(template) = marked(&self.snapshot_path(id)) {
                self.index().snapshots.insert(id.to_string(), template);
            }
            return Err(Error::from_io(format_args!("removing the snapshot {}", id), &cause));
        }
        Ok(())
    }
}

/// Whether a template's name is a snapshot's id: templates with a name of their own have none of this form.
pub fn is_snapshot(template: &str) -> bool {
    template.starts_with("snp_") && check_id(template).is_ok()
}
