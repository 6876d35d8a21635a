//! Answers to DNS queries. Every name gets an address; whether it exists is seen when it is connected to.

use super::target;
use std::net::Ipv4Addr;

pub const MAX_QUERY_BYTES: usize = 512;
/// Small: an address is only good while the guest remembers its name.
const TTL_SECONDS: u32 = 5;
const HEADER_BYTES: usize = 12;
const A: u16 = 1;
const PTR: u16 = 12;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// What the answerer must know from outside itself.
pub trait Book {
    fn address_of(&mut self, name: &str) -> Ipv4Addr;
    fn name_of(&mut self, address: Ipv4Addr) -> Option<String>;
    fn is_own(&self, name: &str) -> bool;
}

/// The answer, or None for what is no query at all: answering that could go round in circles.
pub fn answer(query: &[u8], book: &mut dyn Book) -> Option<Vec<u8>> {
    if query.len() < HEADER_BYTES || query[2] & 0x80 != 0 {
        return None;
    }
    if query[2] & 0x78 != 0 {
        return Some(reply(query, &[], NOT_IMPLEMENTED, &[]));
    }
    let question = match question(query) {
        Some(question) => question,
        None => return Some(reply(query, &[], FORMAT_ERROR, &[])),
    };
    let asked = &query[HEADER_BYTES..question.end];
    if question.class != INTERNET {
        return Some(reply(query, asked, REFUSED, &[]));
    }
    let (code, record) = look_up(&question, book);
    Some(reply(query, asked, code, &record))
}

struct Question {
    /// None where no connection could be made to it.
    name: Option<String>,
    kind: u16,
    class: u16,
    end: usize,
}

fn question(query: &[u8]) -> Option<Question> {
    if query[4..6] != [0, 1] {
        return None;
    }
    let mut name = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = *query.get(at)? as usize;
        at += 1;
        if length == 0 {
            break;
        }
        // A pointer has nothing to point to in a question.
        let label = query.get(at..at + length).filter(|_| length <= 63)?;
        at += length;
        if !name.is_empty() {
            name.push(b'.');
        }
        // A dot within a label would make two of one.
        name.extend(label.iter().map(|byte| if *byte == b'.' { b' ' } else { *byte }));
        if name.len() > 255 {
            return None;
        }
    }
    let rest = query.get(at..at + 4)?;
    let name = std::str::from_utf8(&name).ok().and_then(target::name);
    Some(Question {
        name,
        kind: u16::from_be_bytes([rest[0], rest[1]]),
        class: u16::from_be_bytes([rest[2], rest[3]]),
        end: at + 4,
    })
}

fn look_up(question: &Question, book: &mut dyn Book) -> (u8, Vec<u8>) {
    let name = match &question.name {
        Some(name) => name.as_str(),
        None => return (NO_SUCH_NAME, Vec::new()),
    };
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let found = reverse(reversed).and_then(|address| {
            if address.is_loopback() && !book.name_of(address).is_some() {
                return Some("localhost".to_string());
            }
            book.name_of(address)
        });
        return match found {
            Some(name) if question.kind == PTR || question.kind == ANY => (NO_ERROR, record(PTR, &encoded(&name))),
            Some(_) => (NO_ERROR, Vec::new()),
            None => (NO_SUCH_NAME, Vec::new()),
        };
    }
    if name.ends_with(".arpa") {
        return (NO_SUCH_NAME, Vec::new());
    }
    if question.kind != A && question.kind != ANY {
        return (NO_ERROR, Vec::new());
    }
    let address = if name == "localhost" || name.ends_with(".localhost") || book.is_own(name) {
        Ipv4Addr::LOCALHOST
    } else {
        book.address_of(name)
    };
    (NO_ERROR, record(A, &address.octets()))
}

fn reverse(name: &str) -> Option<Ipv4Addr> {
    let parts = name.split('.').map(|part| part.parse::<u8>().ok()).collect::<Option<Vec<u8>>>()?;
    match parts[..] {
        [d, c, b, a] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// One record for the name of the question.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0xc0, HEADER_BYTES as u8];
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&INTERNET.to_be_bytes());
    out.extend_from_slice(&TTL_SECONDS.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn reply(query: &[u8], question: &[u8], code: u8, record: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + question.len() + record.len());
    out.extend_from_slice(&query[..2]);
    // An answer, with the operation and the wish for recursion as asked; recursion is to be had.
    out.push(0x80 | query[2] & 0x79);
    out.push(0x80 | code);
    out.extend_from_slice(&[0, !question.is_empty() as u8, 0, !record.is_empty() as u8, 0, 0, 0, 0]);
    out.extend_from_slice(question);
    out.extend_from_slice(record);
    out
}

#[cfg(test)]
mod tests {
    use super::super::names::{Names, REDIRECTED};
    use super::*;

    struct Known(Names);

    impl Book for Known {
        fn address_of(&mut self, name: &str) -> Ipv4Addr {
            self.0.address_of(name).address
        }
        fn name_of(&mut self, address: Ipv4Addr) -> Option<String> {
            self.0.name_of(address)
        }
        fn is_own(&self, name: &str) -> bool {
            name == "sandbox"
        }
    }

    fn known() -> Known {
        Known(Names::new(REDIRECTED))
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        out.extend(encoded(name));
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out
    }

    /// The code and the data of the record, if any.
    fn asked(book: &mut Known, name: &str, kind: u16) -> (u8, Vec<u8>) {
        let query = query(name, kind);
        let reply = answer(&query, book).unwrap();
        assert_eq!((&reply[..2], reply[2], reply[3] & 0xf0), (&[0xab, 0xcd][..], 0x81, 0x80));
        assert_eq!(&reply[12..query.len()], &query[12..], "the question comes back");
        assert_eq!(reply[7] as usize * 12 > 0, reply.len() > query.len());
        (reply[3] & 15, reply.get(query.len() + 12..).unwrap_or(&[]).to_vec())
    }

    #[test]
    fn a_name_gets_an_address_and_the_address_leads_back() {
        let mut book = known();
        assert_eq!(asked(&mut book, "Example.ORG", A), (NO_ERROR, vec![198, 18, 0, 1]));
        assert_eq!(asked(&mut book, "example.org", A), (NO_ERROR, vec![198, 18, 0, 1]));
        assert_eq!(asked(&mut book, "other.example", ANY), (NO_ERROR, vec![198, 18, 0, 2]));
        assert_eq!(asked(&mut book, "1.0.18.198.in-addr.arpa", PTR), (NO_ERROR, encoded("example.org")));
        assert_eq!(asked(&mut book, "9.0.18.198.in-addr.arpa", PTR).0, NO_SUCH_NAME);
        assert_eq!(asked(&mut book, "1.0.0.127.in-addr.arpa", PTR), (NO_ERROR, encoded("localhost")));
    }

    #[test]
    fn other_kinds_are_empty_and_own_names_stay_inside() {
        let mut book = known();
        for kind in [28, 15, 16, 33, 65] {
            assert_eq!(asked(&mut book, "example.org", kind), (NO_ERROR, vec![]), "{kind}");
        }
        for name in ["localhost", "a.localhost", "sandbox", "SANDBOX"] {
            assert_eq!(asked(&mut book, name, A), (NO_ERROR, vec![127, 0, 0, 1]), "{name}");
        }
        for name in ["a b", "ä", "x.ip6.arpa"] {
            assert_eq!(asked(&mut book, name, A).0, NO_SUCH_NAME, "{name}");
        }
        assert_eq!(book.0.address_of("first").address, Ipv4Addr::new(198, 18, 0, 1), "none of them took an address");
    }

    #[test]
    fn what_is_no_query_gets_no_answer_and_a_bad_one_an_error() {
        let mut book = known();
        let good = query("example.org", A);
        let mut changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            answer(&bytes, &mut book).map(|reply| reply[3] & 15)
        };
        assert_eq!(changed(2, 0x81), None, "an answer");
        assert_eq!(changed(2, 0x28), Some(NOT_IMPLEMENTED));
        assert_eq!(changed(5, 0), Some(FORMAT_ERROR));
        assert_eq!(changed(5, 2), Some(FORMAT_ERROR));
        assert_eq!(changed(12, 0xc0), Some(FORMAT_ERROR), "a pointer");
        assert_eq!(changed(12, 63), Some(FORMAT_ERROR), "a label past the end");
        assert_eq!(changed(good.len() - 1, 3), Some(REFUSED), "another class");
        assert_eq!(changed(13, b'.'), Some(NO_SUCH_NAME), "a dot in a label");
        for length in 0..good.len() {
            let code = answer(&good[..length], &mut book).map(|reply| reply[3] & 15);
            assert_eq!(code, if length < 12 { None } else { Some(FORMAT_ERROR) }, "{length}");
        }
    }

    #[test]
    fn arbitrary_bytes_never_harm() {
        let mut book = known();
        let mut state = 1u32;
        for _ in 0..20_000 {
            let mut bytes = query("example.org", A);
            for _ in 0..4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 8) as usize % bytes.len();
                bytes[at] = state as u8;
            }
            if let Some(reply) = answer(&bytes, &mut book) {
                assert!(reply.len() <= bytes.len() + 300);
            }
        }
    }
}
