//! Files with holes: where their data lies, and how an archive says so (GNU's sparse format 1.0 in pax records).

use std::io::{self, Write};
use std::os::unix::io::RawFd;

use super::calls;
use super::tar::BLOCK;

/// Pieces of data in one file, so that the map stays below the 1 MiB that Go's reader takes.
pub const PIECES_MAX: usize = 32_768;
const HOLE_BYTES_MIN: u64 = 4096;
/// Zeros that may be written as data, where a file has more holes than a map can name.
const FILLED_BYTES_MAX: u64 = 1 << 30;

/// Offset and length.
pub type Piece = (u64, u64);

/// None where the file has no hole.
pub fn pieces(file: RawFd, size: u64) -> io::Result<Option<Vec<Piece>>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut at, mut least, mut data) = (0, HOLE_BYTES_MIN, 0);
    while let Some(from) = calls::data_from(file, at)?.filter(|from| *from < size) {
        let end = calls::hole_from(file, from)?.map_or(size, |end| end.min(size));
        data += end - from;
        at = end;
        match pieces.last_mut() {
            Some(last) if from - (last.0 + last.1) < least => last.1 = end - last.0,
            _ => pieces.push((from, end - from)),
        }
        // The smallest holes are given up until the rest can be named.
        while pieces.len() > PIECES_MAX {
            least *= 2;
            pieces = joined(&pieces, least);
        }
    }
    let written: u64 = pieces.iter().map(|piece| piece.1).sum();
    if written - data > FILLED_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::Other,
            "it has more holes than a layer can say",
        ));
    }
    if pieces == [(0, size)] {
        return Ok(None);
    }
    // An empty last piece says where the file ends.
    if pieces.last().map_or(true, |last| last.0 + last.1 < size) {
        pieces.push((size, 0));
    }
    Ok(Some(pieces))
}

fn joined(pieces: &[Piece], least: u64) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len() / 2);
    for piece in pieces {
        match out.last_mut() {
            Some(last) if piece.0 - (last.0 + last.1) < least => last.1 = piece.0 + piece.1 - last.0,
            _ => out.push(*piece),
        }
    }
    out
}

/// The map as it stands before the data, in whole blocks.
pub fn map(pieces: &[Piece]) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = writeln!(text, "{}", pieces.len());
    for (offset, length) in pieces {
        let _ = write!(text, "{}\n{}\n", offset, length);
    }
    text.resize((text.len() + BLOCK - 1) / BLOCK * BLOCK, 0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_holes_are_joined_and_large_ones_stay() {
        let pieces = [(0, 10), (4106, 10), (100_000, 5)];
        assert_eq!(joined(&pieces, 8192), [(0, 4116), (100_000, 5)]);
        assert_eq!(joined(&pieces, 4096), pieces);
    }

    #[test]
    fn the_map_fills_whole_blocks() {
        let text = map(&[(0, 5), (8192, 0)]);
        assert_eq!(text.len(), BLOCK);
        assert!(text.starts_with(b"2\n0\n5\n8192\n0\n\0"));
    }
}
