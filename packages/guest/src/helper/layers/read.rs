//! One file of a merged view.

use std::io::Write;
use std::os::unix::io::AsRawFd;

use super::calls::{self, Kind};
use super::chain::{bit, Chain, BASE_MASK, CHILD};
use super::{shown, Base, View};
use crate::helper::error::{code, Context, Error, Result};

const READ_BYTES: usize = 256 << 10;

/// Writes the bytes of a regular file and returns how many they were. Follows no symlink, at no step of the way.
pub fn read(view: &View, base: &Base, path: &[u8], out: &mut dyn Write) -> Result<u64> {
    let mut chain = Chain::new(Some(view), None, base)?;
    let parts = super::archive::parts(path)?;
    let (name, folders) = match parts.split_last() {
        Some(found) => found,
        None => return Err(Error::new(code::INVALID, "/ is a folder, not a file")),
    };
    for part in folders {
        let node = look(&mut chain, part, path)?;
        if !node.stat.is_folder() {
            let what = shown(&chain.path_with(part));
            return Err(Error::new(
                code::INVALID,
                format!("{} is no folder (links are not followed)", what),
            ));
        }
        chain.push(part, node.folders)?;
    }
    let node = look(&mut chain, name, path)?;
    if node.stat.kind != Kind::File {
        let what = format!("{} is no regular file (links are not followed)", shown(path));
        return Err(Error::new(code::INVALID, what));
    }
    let folder = chain.folder(node.layer)?.unwrap_or(-1);
    let name = calls::c_name(name).context(shown(path))?;
    let file = calls::open_file(folder, &name).context(format_args!("opening {}", shown(path)))?;
    let mut buffer = vec![0; READ_BYTES];
    let mut sent = 0;
    loop {
        let got = calls::read_once(file.as_raw_fd(), &mut buffer).context(format_args!("reading {}", shown(path)))?;
        if got == 0 {
            return Ok(sent);
        }
        out.write_all(&buffer[..got]).context("sending the file")?;
        sent += got as u64;
    }
}

fn look(chain: &mut Chain, name: &[u8], path: &[u8]) -> Result<super::chain::Node> {
    let c_name = calls::c_name(name).context(shown(path))?;
    let found = chain.look(&c_name, BASE_MASK | bit(CHILD), 0, 0)?;
    found.ok_or_else(|| Error::new(code::NOT_FOUND, format!("{} is not there", shown(path))))
}
