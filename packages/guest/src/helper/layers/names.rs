//! The names in a folder, sorted bytewise. A million of them take about 30 MB: their bytes, and four more for each.

use std::ffi::CStr;
use std::io;
use std::os::unix::io::RawFd;

use super::calls;

const BUFFER_BYTES: usize = 64 << 10;
/// Of one folder's names together.
const NAMES_BYTES_MAX: usize = u32::MAX as usize;

#[derive(Default)]
pub struct Names {
    /// Each with a NUL at its end.
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Names {
    pub fn read(folder: RawFd, buffer: &mut Vec<u8>) -> io::Result<Names> {
        buffer.resize(BUFFER_BYTES, 0);
        calls::rewind(folder)?;
        let mut names = Names::default();
        loop {
            let got = calls::entries(folder, buffer)?;
            if got == 0 {
                break;
            }
            names.take(&buffer[..got])?;
        }
        let bytes = &names.bytes;
        names
            .starts
            .sort_unstable_by(|a, b| name_at(bytes, *a).cmp(name_at(bytes, *b)));
        Ok(names)
    }

    /// A list of one name, given with its NUL.
    pub fn one(name: &[u8]) -> Names {
        Names {
            bytes: name.to_vec(),
            starts: vec![0],
        }
    }

    fn take(&mut self, records: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while let Some(head) = records.get(at..at + 19) {
            let length = usize::from(u16::from_ne_bytes([head[16], head[17]]));
            let name = CStr::from_bytes_with_nul(until_nul(&records[at + 19..at + length])).map_err(|_| broken())?;
            at += length;
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.bytes.len() + name.to_bytes_with_nul().len() > NAMES_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::Other,
                    "a folder has more names than one can sort",
                ));
            }
            self.starts.push(self.bytes.len() as u32);
            self.bytes.extend_from_slice(name.to_bytes_with_nul());
        }
        Ok(())
    }

    pub fn get(&self, at: usize) -> Option<&CStr> {
        let start = *self.starts.get(at)?;
        CStr::from_bytes_with_nul(until_nul(&self.bytes[start as usize..])).ok()
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .map_or(bytes.len(), |at| at + 1);
    &bytes[..end]
}

fn name_at(bytes: &[u8], start: u32) -> &[u8] {
    until_nul(&bytes[start as usize..])
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's list of a folder is broken")
}
