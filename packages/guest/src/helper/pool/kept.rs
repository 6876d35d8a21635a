//! What uppers were charged for when their last snapshot was taken.
//!
//! Simple quotas charge an upper for what it wrote as long as anything holds it, its snapshots included. So that a sandbox does not meet its
//! limit with data that only its snapshots hold, the limit is what was wished *on top of* what was charged at the last snapshot. That is noted
//! in `kept/<upperId>`, a link whose target is the number: it is whole as soon as it is there, and since it lies beside the upper and not in it, a
//! full upper has room for it and no snapshot or fork takes it over.
//! Ordinary quotas count what an upper can reach, whoever else holds it: nothing is noted there.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use super::{check_id, Pool, Quota};
use crate::helper::error::{Context, Error, Result};

pub(super) const FOLDER: &str = "kept";

/// What an upper is charged for.
pub(super) struct Charge {
    /// None: nothing counts them.
    pub bytes: Option<u64>,
    /// As the kernel has it; 0: none.
    pub limit: u64,
    /// The part of the bytes that is not of what was written since the last snapshot.
    pub kept: u64,
}

impl Charge {
    /// The kernel's limit for a wish of so many bytes; 0: none.
    pub fn limit_for(&self, quota_bytes: u64) -> u64 {
        match quota_bytes {
            0 => 0,
            bytes => bytes.saturating_add(self.kept),
        }
    }
}

fn noted(path: &Path) -> Option<u64> {
    fs::read_link(path).ok()?.to_str()?.parse().ok()
}

fn missing_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Pool {
    fn kept(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn note_path(&self, id: &str) -> PathBuf {
        self.root.join(FOLDER).join(id)
    }

    /// Reads the notes, and removes those of uppers that are gone: a drop may have been cut before it came to that.
    pub(super) fn load_kept(&self) -> Result<()> {
        if self.quota != Quota::Simple {
            return Ok(());
        }
        let folder = self.root.join(FOLDER);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // A pool of an earlier version that turned read-only.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(Error::from_io(format_args!("listing {}", folder.display()), &cause)),
        };
        for entry in entries {
            let entry = entry.context(format_args!("listing {}", folder.display()))?;
            let id = entry.file_name().to_string_lossy().into_owned();
            match noted(&entry.path()) {
                Some(bytes) if check_id(&id).is_ok() && self.has_upper(&id) => {
                    self.kept().insert(id, bytes);
                }
                // A pool that is read-only keeps it, and it harms nobody there.
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        Ok(())
    }

    /// The kept part only falls between two snapshots: what was freed meanwhile and written again is new.
    pub(super) fn charge(&self, id: &str) -> Result<Charge> {
        // Held over the look, or a snapshot taken meanwhile would be lowered to what was charged before it.
        let mut all = self.kept();
        let (bytes, limit) = self.upper_usage(id)?;
        let kept = match (all.get_mut(id), bytes) {
            (Some(kept), Some(bytes)) => {
                *kept = (*kept).min(bytes);
                *kept
            }
            _ => 0,
        };
        Ok(Charge { bytes, limit, kept })
    }

    /// Right after a snapshot of an upper that nobody writes to. The caller holds `low`, so that one at a time notes and limits. Without the note, the
    /// limit is tighter until the next snapshot.
    pub(super) fn note_charge(&self, id: &str) -> Result<Option<u64>> {
        let (bytes, _) = self.upper_usage(id)?;
        if let (Some(bytes), Quota::Simple) = (bytes, self.quota) {
            self.write_note(id, bytes)?;
            self.kept().insert(id.to_string(), bytes);
        }
        Ok(bytes)
    }

    /// Brings the note down to what is still kept, as `note_charge`.
    pub(super) fn lower_note(&self, id: &str, kept: u64) -> Result<()> {
        match noted(&self.note_path(id)) {
            Some(bytes) if bytes > kept => self.write_note(id, kept),
            _ => Ok(()),
        }
    }

    fn write_note(&self, id: &str, bytes: u64) -> Result<()> {
        let path = self.note_path(id);
        // No id has this form.
        let fresh = self.note_path(&format!("{}.new", id));
        let written = missing_is_fine(fs::remove_file(&fresh))
            .and_then(|()| symlink(bytes.to_string(), &fresh))
            .and_then(|()| fs::rename(&fresh, &path));
        written.context(format_args!("noting what {} is charged for", id))
    }

    /// Of an upper that is gone, or about to be made.
    pub(super) fn forget_kept(&self, id: &str) -> Result<()> {
        if self.quota != Quota::Simple {
            return Ok(());
        }
        self.kept().remove(id);
        missing_is_fine(fs::remove_file(self.note_path(id))).context(format_args!("forgetting what {} was charged for", id))
    }

    /// Bytes written since the last snapshot that are still held (None: nothing counts them), and how many these may be (0: any number).
    pub fn written(&self, id: &str) -> Result<(Option<u64>, u64)> {
        let charge = self.charge(id)?;
        let limit = match charge.limit {
            0 => 0,
            // Nothing may be written any more is not the same as no limit.
            bytes => bytes.saturating_sub(charge.kept).max(1),
        };
        Ok((charge.bytes.map(|bytes| bytes - charge.kept), limit))
    }
}
