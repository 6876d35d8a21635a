//! Finds where a request's body ends, so that nothing behind it goes to the server that got it.

use super::http::Framing;

/// A chunk's size line with its extensions, and all trailers together.
const MAX_LINES_BYTES: usize = 16 << 10;

#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// That many bytes are missing.
    Length(u64),
    Chunked(Chunk),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    Size { line: Vec<u8> },
    Data { left: u64 },
    /// Line end behind a chunk's data.
    After { left: usize },
    /// `line`: bytes of the present line; `bytes`: of all trailers.
    Trailers { line: usize, bytes: usize, last: u8 },
    Done,
}

impl Body {
    pub fn new(framing: Framing) -> Body {
        match framing {
            Framing::Length(bytes) => Body::Length(bytes),
            Framing::Chunked => Body::Chunked(Chunk::Size { line: Vec::new() }),
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunk::Done))
    }

    /// How many of these bytes belong to the body; None where they are no body.
    pub fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Body::Length(left) => {
                let count = (*left).min(bytes.len() as u64);
                *left -= count;
                Some(count as usize)
            }
            Body::Chunked(chunk) => {
                let mut at = 0;
                while at < bytes.len() && *chunk != Chunk::Done {
                    at += chunk.step(&bytes[at..])?;
                }
                Some(at)
            }
        }
    }
}

impl Chunk {
    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        let first = bytes[0];
        match self {
            Chunk::Size { line } => {
                line.push(first);
                if line.ends_with(b"\r\n") {
                    let size = size_of(&line[..line.len() - 2])?;
                    *self = match size {
                        0 => Chunk::Trailers { line: 0, bytes: 0, last: 0 },
                        left => Chunk::Data { left },
                    };
                } else if first == b'\n' || line.len() > MAX_LINES_BYTES || line.get(line.len().wrapping_sub(2)) == Some(&b'\r') {
                    return None;
                }
                Some(1)
            }
            Chunk::Data { left } => {
                let count = (*left).min(bytes.len() as u64);
                *left -= count;
                if *left == 0 {
                    *self = Chunk::After { left: 2 };
                }
                Some(count as usize)
            }
            Chunk::After { left } => {
                if first != b"\n\r"[*left - 1] {
                    return None;
                }
                *left -= 1;
                if *left == 0 {
                    *self = Chunk::Size { line: Vec::new() };
                }
                Some(1)
            }
            Chunk::Trailers { line, bytes, last } => {
                let ends = first == b'\n';
                if *bytes >= MAX_LINES_BYTES || ends != (*last == b'\r') {
                    return None;
                }
                *bytes += 1;
                *last = first;
                if !ends {
                    *line += 1;
                } else if *line == 1 {
                    *self = Chunk::Done;
                } else {
                    *line = 0;
                }
                Some(1)
            }
            Chunk::Done => Some(0),
        }
    }
}

/// The size before any extension.
fn size_of(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?;
    let digits = std::str::from_utf8(digits).ok()?.trim_end_matches(|c| c == ' ' || c == '\t');
    if digits.is_empty() || digits.len() > 15 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes taken when they come in pieces of this size; None where they are refused.
    fn taken(text: &str, piece: usize) -> Option<(usize, bool)> {
        let mut body = Body::new(Framing::Chunked);
        let mut total = 0;
        for piece in text.as_bytes().chunks(piece) {
            let count = body.take(piece)?;
            total += count;
            if count < piece.len() {
                break;
            }
        }
        Some((total, body.is_done()))
    }

    #[test]
    fn a_chunked_body_ends_where_it_says_however_it_is_cut() {
        let body = "5\r\nhello\r\na;x=\"y\"\r\n0123456789\r\n0\r\nDigest: x\r\n\r\n";
        let text = format!("{body}GET http://other/ HTTP/1.1");
        for piece in 1..text.len() {
            assert_eq!(taken(&text, piece), Some((body.len(), true)), "{piece}");
        }
        assert_eq!(taken("0\r\n\r\nX", 1), Some((5, true)));
        assert_eq!(taken("3\r\nab", 9), Some((5, false)));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for text in [
            "x\r\n", "\r\n", "-1\r\n", "0x1\r\n", "1\n", "1\r\nab\r\n", "1\r\na\n", "1\rx", "0\r\nX: 1\n\r\n", "0\r\n\n",
            "fffffffffffffffff\r\n", "0\r\nX\rY\r\n\r\n",
        ] {
            assert_eq!(taken(text, 1), None, "{text:?}");
            assert_eq!(taken(text, 100), None, "{text:?}");
        }
        assert_eq!(taken(&format!("1;{}", "x".repeat(20_000)), 100), None);
        assert_eq!(taken(&format!("0\r\n{}", "X: 1\r\n".repeat(5_000)), 100), None);
    }

    #[test]
    fn a_length_is_counted_down() {
        let mut body = Body::new(Framing::Length(5));
        assert_eq!((body.take(b"abc"), body.is_done()), (Some(3), false));
        assert_eq!((body.take(b"defg"), body.is_done()), (Some(2), true));
        assert_eq!(body.take(b"x"), Some(0));
    }
}
