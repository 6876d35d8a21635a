//! Records of an extended header: `length key=value\n`.

use super::archive::owner;
use super::attributes::is_kept;
use super::calls::Time;
use super::sparse::Piece;
use super::tar::{OWN_ATTRIBUTE, OWN_LINK, OWN_OPAQUE, OWN_PATH, OWN_WHITEOUT, SCHILY_ATTRIBUTE};
use crate::helper::error::{code, Error, Result};

#[derive(Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub modified: Option<Time>,
    pub own_path: Option<Vec<u8>>,
    pub own_link: Option<Vec<u8>>,
    pub own_whiteout: Option<Vec<u8>>,
    pub own_opaque: Option<Vec<u8>>,
    /// Those that are kept; of a name that comes twice the last.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's records about holes, in the formats 0.0, 0.1 and 1.0.
#[derive(Default)]
pub struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// Offsets and lengths in turn, as far as the header has them.
    numbers: Vec<u64>,
    is_broken: bool,
    has_map: bool,
}

impl Sparse {
    pub fn is_sparse(&self) -> bool {
        self.has_map || self.major.is_some()
    }

    pub fn is_in_content(&self) -> bool {
        self.major == Some(1) && self.minor == Some(0)
    }

    pub fn pieces(&self) -> Option<Vec<Piece>> {
        if self.is_broken || !self.has_map || self.numbers.len() % 2 != 0 {
            return None;
        }
        Some(self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn number(&mut self, value: &[u8], is_offset: bool) {
        // Format 0.0 repeats the two keys; they must alternate.
        self.is_broken |= (self.numbers.len() % 2 == 0) != is_offset;
        self.has_map = true;
        match decimal(value) {
            Some(value) => self.numbers.push(value),
            None => self.is_broken = true,
        }
    }

    fn map(&mut self, value: &[u8]) {
        self.has_map = true;
        self.numbers.clear();
        for part in value.split(|byte| *byte == b',').filter(|_| !value.is_empty()) {
            match decimal(part) {
                Some(value) => self.numbers.push(value),
                None => self.is_broken = true,
            }
        }
    }
}

fn broken() -> Error {
    Error::new(
        code::INVALID,
        "the layer is no valid tar archive: an extended header is broken",
    )
}

pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = std::str::from_utf8(text).ok()?.parse::<u64>().ok()?;
    Some(value).filter(|value| *value <= i64::MAX as u64)
}

/// Seconds with a fraction, rounded toward the past to a nanosecond.
fn time(text: &[u8]) -> Option<Time> {
    let (is_negative, text) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    let mut halves = text.splitn(2, |byte| *byte == b'.');
    let whole = decimal(halves.next()?)?;
    let fraction = halves.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanoseconds = 0u32;
    for at in 0..9 {
        nanoseconds = nanoseconds * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    }
    let is_more = fraction.iter().skip(9).any(|digit| *digit != b'0');
    let seconds = whole as i64;
    if !is_negative {
        return Some((seconds, nanoseconds));
    }
    let down = i128::from(nanoseconds) + i128::from(is_more);
    let total = -(i128::from(seconds) * 1_000_000_000 + down);
    Some((
        total.div_euclid(1_000_000_000) as i64,
        total.rem_euclid(1_000_000_000) as u32,
    ))
}

/// An empty value takes back what an earlier header said.
fn text(value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(broken());
    }
    Ok(if value.is_empty() { None } else { Some(value.to_vec()) })
}

fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while at < name.len() {
        if name[at] != b'%' {
            out.push(name[at]);
            at += 1;
            continue;
        }
        let digits = std::str::from_utf8(name.get(at + 1..at + 3)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        at += 3;
    }
    Some(out)
}

impl Pax {
    pub fn read(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            let space = records
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or_else(broken)?;
            let length = decimal(&records[..space]).ok_or_else(broken)?;
            let length = usize::try_from(length).map_err(|_| broken())?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(broken());
            }
            let record = &records[space + 1..length - 1];
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .filter(|at| *at > 0)
                .ok_or_else(broken)?;
            self.take(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let id = |value: &[u8]| decimal(value).and_then(owner).ok_or_else(broken);
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = Some(decimal(value).ok_or_else(broken)?),
            b"uid" => self.uid = Some(id(value)?),
            b"gid" => self.gid = Some(id(value)?),
            b"mtime" => self.modified = Some(time(value).ok_or_else(broken)?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value).ok_or_else(broken)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value).ok_or_else(broken)?),
            b"GNU.sparse.name" => self.sparse.name = text(value)?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.size = Some(decimal(value).ok_or_else(broken)?);
            }
            b"GNU.sparse.offset" => self.sparse.number(value, true),
            b"GNU.sparse.numbytes" => self.sparse.number(value, false),
            b"GNU.sparse.map" => self.sparse.map(value),
            OWN_PATH => self.own_path = text(value)?,
            OWN_LINK => self.own_link = text(value)?,
            OWN_OPAQUE => self.own_opaque = text(value)?,
            OWN_WHITEOUT => self.own_whiteout = text(value)?,
            _ => return self.attribute(key, value),
        }
        Ok(())
    }

    fn attribute(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let name = match (key.strip_prefix(SCHILY_ATTRIBUTE), key.strip_prefix(OWN_ATTRIBUTE)) {
            (Some(name), _) => name.to_vec(),
            (None, Some(name)) => unescaped(name).ok_or_else(broken)?,
            (None, None) => return Ok(()),
        };
        if name.contains(&0) {
            return Err(broken());
        }
        if is_kept(&name) {
            self.attributes.push((name, value.to_vec()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_exact_on_both_sides_of_1970() {
        assert_eq!(time(b"5.00000012"), Some((5, 120)));
        assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time(b"-0.000000001"), Some((-1, 999_999_999)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
        assert_eq!(time(b"7.1234567899"), Some((7, 123_456_789)));
        for bad in [&b""[..], b"x", b"1.x", b"--1", b"99999999999999999999"] {
            assert_eq!(time(bad), None);
        }
    }

    #[test]
    fn records_with_lying_lengths_are_refused() {
        for bad in [
            &b"12 path=abc\n"[..],
            b"10 path=abc\n",
            b"0 \n",
            b"5 a=\n\n",
            b"x path=a\n",
            b"99 path=a\n",
            b"path=a\n",
            b"6 =ab\n",
            b"7 abcd\n",
            b"18446744073709551615 a=b\n",
        ] {
            if bad == b"12 path=abc\n" {
                Pax::default().read(bad).unwrap();
                continue;
            }
            assert!(Pax::default().read(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_counts() {
        let mut pax = Pax::default();
        pax.read(b"9 path=a\n9 path=b\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"b"[..]));
        pax.read(b"8 path=\n").unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn attributes_of_the_overlay_are_passed_over() {
        let mut pax = Pax::default();
        pax.take(b"SCHILY.xattr.trusted.overlay.opaque", b"y").unwrap();
        pax.take(b"SCHILY.xattr.user.a", b"1").unwrap();
        pax.take(b"DELTA.xattr.user.a%3Db", b"2").unwrap();
        let names: Vec<&[u8]> = pax.attributes.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, [&b"user.a"[..], b"user.a=b"]);
    }
}
