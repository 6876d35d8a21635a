//! The sockets of the DNS answerer.

use super::dns::{self, Book, MAX_QUERY_BYTES};
use super::names::Names;
use super::MAX_QUERIES;
use crate::guest::poll::{Kind, Source, Timer};
use crate::guest::serve::Guest;
use crate::guest::sys::{self, EPOLLIN};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::io::OwnedFd;

/// One event answers as many, before others get their turn.
const MAX_ANSWERS: usize = 64;
const QUERY_MS: u64 = 10_000;
/// Queries that wait while the guest does other things: one that is lost is asked again after five seconds. A program that opens as
/// many connections at once as it may asks two for each (A and AAAA), and each takes the kernel less than 1,280 bytes.
const WAITING_BYTES: i32 = 2 * super::MAX_CHANNELS as i32 * 1_280;

/// A client of DNS over TCP.
pub struct Query {
    source: Source,
    bytes: Vec<u8>,
    until_ms: u64,
}

pub(super) fn socket(port: u16) -> io::Result<OwnedFd> {
    sys::datagrams_v4(Ipv4Addr::LOCALHOST, port, WAITING_BYTES)
}

/// What one answer looked up and changed.
struct Directory<'a> {
    names: &'a mut Names,
    own: String,
    fresh: Option<Ipv4Addr>,
    taken_back: Option<Ipv4Addr>,
}

impl Book for Directory<'_> {
    fn address_of(&mut self, name: &str) -> Ipv4Addr {
        let given = self.names.address_of(name);
        self.fresh = Some(given.address).filter(|_| given.fresh);
        self.taken_back = given.taken_back;
        given.address
    }

    fn name_of(&mut self, address: Ipv4Addr) -> Option<String> {
        self.names.name_of(address)
    }

    fn is_own(&self, name: &str) -> bool {
        self.own.eq_ignore_ascii_case(name)
    }
}

impl Guest {
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let mut directory =
            Directory { names: &mut self.egress.names, own: sys::host_name(), fresh: None, taken_back: None };
        let reply = dns::answer(query, &mut directory);
        let (fresh, taken_back) = (directory.fresh, directory.taken_back);
        if !self.egress.redirected {
            if let Some(address) = taken_back {
                self.stop_listening_for(address);
            }
            if let Some(address) = fresh {
                self.listen_for(address);
            }
        }
        reply
    }

    pub fn on_resolver(&mut self) {
        let mut query = [0; MAX_QUERY_BYTES + 1];
        for _ in 0..MAX_ANSWERS {
            let fd = match &self.egress.resolver {
                Some(source) => source.fd(),
                None => return,
            };
            let (count, from) = match sys::receive_from(fd, &mut query) {
                Ok(received) => received,
                Err(_) => return,
            };
            if let Some(reply) = self.answer(&query[..count]) {
                // Where there is no room for it the client asks again.
                drop(sys::send_to(fd, &reply, &from));
            }
        }
    }

    pub(super) fn begin_query(&mut self, fd: OwnedFd) {
        if self.egress.queries.len() >= MAX_QUERIES {
            if let Some(oldest) = self.egress.queries.keys().next().copied() {
                self.end_query(oldest);
            }
        }
        let id = self.fresh_id();
        let mut source = self.source(fd, Kind::Query, id);
        if source.want(EPOLLIN).is_err() {
            return;
        }
        let until_ms = sys::monotonic_ms() + QUERY_MS;
        self.timers.add(until_ms, Timer::Query(id));
        self.egress.queries.insert(id, Query { source, bytes: Vec::new(), until_ms });
    }

    pub fn on_query(&mut self, id: u64) {
        let query = match self.egress.queries.get_mut(&id) {
            Some(query) => query,
            None => return,
        };
        let mut bytes = [0; MAX_QUERY_BYTES + 2];
        match sys::read_fd(query.source.fd(), &mut bytes) {
            Ok(count) if count > 0 => query.bytes.extend_from_slice(&bytes[..count]),
            Err(error) if sys::would_block(&error) => return,
            _ => return self.end_query(id),
        }
        while let Some(asked) = self.egress.queries.get_mut(&id).map(Query::next) {
            let asked = match asked {
                Ok(Some(asked)) => asked,
                Ok(None) => return,
                Err(TooLong) => return self.end_query(id),
            };
            let sent = self.answer(&asked).map_or(false, |reply| {
                let mut framed = (reply.len() as u16).to_be_bytes().to_vec();
                framed.extend_from_slice(&reply);
                // Who does not read the answers gets no more of them.
                let query = self.egress.queries.get(&id);
                query.map_or(false, |query| matches!(sys::write_fd(query.source.fd(), &framed), Ok(count) if count == framed.len()))
            });
            if !sent {
                return self.end_query(id);
            }
        }
    }

    pub fn end_query(&mut self, id: u64) {
        if let Some(query) = self.egress.queries.remove(&id) {
            self.timers.remove(query.until_ms, Timer::Query(id));
        }
    }
}

struct TooLong;

impl Query {
    /// The next whole query.
    fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        if self.bytes.len() < 2 {
            return Ok(None);
        }
        let length = u16::from_be_bytes([self.bytes[0], self.bytes[1]]) as usize;
        if length > MAX_QUERY_BYTES {
            return Err(TooLong);
        }
        if self.bytes.len() < 2 + length {
            return Ok(None);
        }
        let rest = self.bytes.split_off(2 + length);
        let whole = std::mem::replace(&mut self.bytes, rest);
        Ok(Some(whole[2..].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::unix::io::AsRawFd;

    #[test]
    fn queries_that_come_while_nobody_reads_wait() {
        let answerer = socket(0).unwrap();
        let (address, port) = sys::local_address(answerer.as_raw_fd()).unwrap();
        let program = UdpSocket::bind("127.0.0.1:0").unwrap();
        // The kernel keeps 256 of these unasked, and 512 where its limit is the usual one.
        let sent = 320_u16;
        for number in 0..sent {
            let mut query = vec![0; 40];
            query[..2].copy_from_slice(&number.to_be_bytes());
            program.send_to(&query, (address, port)).unwrap();
        }
        let mut query = [0; MAX_QUERY_BYTES + 1];
        let mut received = 0;
        while let Ok((count, _)) = sys::receive_from(answerer.as_raw_fd(), &mut query) {
            assert_eq!((count, u16::from_be_bytes([query[0], query[1]])), (40, received));
            received += 1;
        }
        assert_eq!(received, sent);
    }
}
