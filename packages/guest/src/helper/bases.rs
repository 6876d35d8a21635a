//! What lies below an upper: a template of the machine's, or a snapshot with what lies below that in turn.

use std::path::{Path, PathBuf};

use super::error::Result;
pub use super::layers::Base;
use super::pool::{Pool, CHAIN_MAX};
use super::templates;

/// A template with nothing in it: what an image brings is all there is.
pub const SCRATCH: &str = "scratch";
/// Lower folders of one overlay: the guest's, the snapshots', the template's and what hides parts of it.
pub const LOWERS_MAX: usize = CHAIN_MAX + 2;

/// The base that a template's name stands for; `not_found` where it, or a snapshot below it, is not there. What it names stays as long as the
/// caller sees to it that the snapshot itself is not dropped.
pub fn resolve(data: &Path, pool: &Pool, template: &str) -> Result<Base> {
    let (chain, lowest) = pool.chain(template)?;
    let mut base = Base { roots: Vec::new(), usrs: Vec::new() };
    let folders: Vec<PathBuf> = chain.iter().map(|id| pool.snapshot_path(id)).collect();
    base.roots.extend(folders.iter().map(|folder| folder.join("upper")));
    if lowest == SCRATCH {
        return Ok(base);
    }
    let found = templates::resolve(data, &lowest)?;
    base.roots.push(found.root);
    if let Some(usr) = found.usr {
        // One that was never started has none.
        base.usrs.extend(folders.iter().map(|folder| folder.join("usr")).filter(|path| path.is_dir()));
        base.usrs.extend(found.usr_mask);
        base.usrs.push(usr);
    }
    Ok(base)
}
