//! Volumes: folders that several boxes share, each a subvolume with a quota of its own under `volumes/<id>`, its files in `data/`.

use std::path::{Path, PathBuf};

use super::{check_id, list_ids, make_folder, Pool};
use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;

/// The user of a box, to whom a new volume belongs.
const OWNER: u32 = 1000;

impl Pool {
    fn volume_folder(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.root.join("volumes").join(id))
    }

    /// The files of a volume that is there.
    pub fn volume_path(&self, id: &str) -> Result<PathBuf> {
        let path = self.volume_folder(id)?.join("data");
        if path.is_dir() {
            return Ok(path);
        }
        Err(Error::new(code::NOT_FOUND, format!("there is no volume {}", id)))
    }

    pub fn list_volumes(&self) -> Result<Vec<String>> {
        list_ids(&self.root.join("volumes"))
    }

    /// `exists` if there is one. It appears whole and limited, by one rename, and is durable when this returns.
    pub fn make_volume(&self, id: &str, quota_bytes: u64) -> Result<()> {
        let path = self.volume_folder(id)?;
        self.check_room()?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(code::EXISTS, format!("there is a volume {} already", id)));
        }
        let fresh = self.root.join("new").join(id);
        let made = self.make_fresh(id, &fresh, quota_bytes).and_then(|()| {
            let data = fresh.join("data");
            make_folder(&data, 0o755)?;
            give(&data)?;
            ffi::rename_new(&fresh, &path).context(format_args!("naming the volume {}", id))?;
            (self.step)("volume named");
            let parent = self.root.join("volumes");
            ffi::sync_directory(&parent).context(format_args!("flushing {}", parent.display()))
        });
        match made {
            Err(error) if error.code != code::EXISTS => {
                let _ = self.destroy(&self.root.join("new"), id);
                Err(error)
            }
            other => other,
        }
    }

    /// One that is missing is success. The caller sees to it that no box uses it.
    pub fn drop_volume(&self, id: &str) -> Result<()> {
        check_id(id)?;
        self.destroy(&self.root.join("volumes"), id).context(format_args!("removing the volume {}", id))
    }
}

fn give(path: &Path) -> Result<()> {
    let name = ffi::c_path(path).context(path.display())?;
    // SAFETY: the path lives through the call.
    ffi::check(unsafe { ffi::fchownat(ffi::AT_FDCWD, name.as_ptr(), OWNER, OWNER, ffi::AT_SYMLINK_NOFOLLOW) })
        .context(format_args!("giving {} to its user", path.display()))?;
    Ok(())
}
