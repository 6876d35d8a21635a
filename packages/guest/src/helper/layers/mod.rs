//! What a sandbox wrote, as OCI image layers, and back (`docs/layers.md`).

mod apply;
mod archive;
mod attributes;
mod calls;
mod chain;
mod changes;
mod kin;
mod links;
mod names;
mod pack;
mod pax;
mod read;
mod remove;
mod same;
mod sparse;
mod tar;
mod walk;

use std::path::PathBuf;

pub use apply::{apply, Applied, Limits};
pub use changes::{changes, Change, ChangeKind, ChangeType};
pub use pack::{pack, pack_base, Packed};
pub use read::read;

/// Folders below each other in one path.
pub const DEPTH_MAX: usize = 4096;
pub const PATH_BYTES_MAX: usize = 256 << 10;
const SHOWN_BYTES: usize = 300;

/// What one sandbox wrote: an upper of an overlay, and a second one where the template has `/usr` as a file system of its own.
#[derive(Debug, Clone)]
pub struct View {
    pub root: PathBuf,
    pub usr: Option<PathBuf>,
}

/// The folders below an upper, topmost first; both empty for `scratch`. They may hold an overlay's whiteouts and opaque marks.
#[derive(Debug, Clone, Default)]
pub struct Base {
    pub roots: Vec<PathBuf>,
    pub usrs: Vec<PathBuf>,
}

/// A path for a message: printable and short.
fn shown(path: &[u8]) -> String {
    let cut = &path[..path.len().min(SHOWN_BYTES)];
    let mut text = match std::str::from_utf8(cut) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_string(),
        _ => cut.escape_ascii().to_string(),
    };
    if cut.len() < path.len() {
        text.push('…');
    }
    format!("/{}", text)
}
