//! The ways out. What programs inside connect to becomes channels that the host opens, refuses and counts: by an HTTP proxy
//! (`door`), and for programs that know of none by names with addresses of their own (`resolver`) and redirected connections.

mod body;
mod dns;
mod door;
mod flow;
mod http;
mod names;
mod resolver;
mod target;

use super::poll::{Kind, Source};
use super::serve::Guest;
use super::sys::{self, EPOLLIN};
use flow::Outgoing;
use names::Names;
use resolver::Query;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::os::unix::io::OwnedFd;

pub const PROXY_PORT: u16 = 3129;
const DNS_PORT: u16 = 53;
/// Where nothing redirects connections, the guest listens on these ports of every name's address.
const LISTENED_PORTS: [u16; 2] = [80, 443];
/// Connections of programs inside that the guest holds at once.
const MAX_OUTGOING: usize = 512;
/// The host takes as many channels from a guest.
const MAX_CHANNELS: usize = 256;
/// Connections the host is asked for: so many at once, and so many a second in the long run. It has the same bound; what is refused here costs it nothing.
const ASKS_AT_ONCE: u64 = 512;
const ASKS_A_SECOND: u64 = 50;
const MAX_QUERIES: usize = 32;
/// One event takes as many, before others get their turn.
const MAX_ACCEPTS: usize = 64;

pub struct Egress {
    names: Names,
    outgoing: HashMap<u64, Outgoing>,
    /// Those that have not said what they want. Ids only grow, so the first is the oldest.
    unasked: BTreeSet<u64>,
    listeners: HashMap<u64, Listener>,
    resolver: Option<Source>,
    /// DNS over TCP, oldest first.
    queries: BTreeMap<u64, Query>,
    redirected: bool,
    asks: Asks,
}

/// What may still be asked, in thousandths, and when that was counted.
struct Asks {
    left: u64,
    counted_ms: u64,
}

impl Asks {
    fn take(&mut self, now_ms: u64) -> bool {
        let more = now_ms.saturating_sub(self.counted_ms).saturating_mul(ASKS_A_SECOND);
        self.counted_ms = now_ms;
        self.left = self.left.saturating_add(more).min(ASKS_AT_ONCE * 1_000);
        if self.left < 1_000 {
            return false;
        }
        self.left -= 1_000;
        true
    }
}

struct Listener {
    source: Source,
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Proxy,
    Dns,
    /// Connections to addresses that are not this listener's own.
    Redirected,
    /// The listener of one name's address.
    Named(Ipv4Addr),
}

impl Egress {
    pub fn new(redirected: bool) -> Egress {
        Egress {
            names: Names::new(if redirected { names::REDIRECTED } else { names::LISTENED }),
            outgoing: HashMap::new(),
            unasked: BTreeSet::new(),
            listeners: HashMap::new(),
            resolver: None,
            queries: BTreeMap::new(),
            redirected,
            asks: Asks { left: ASKS_AT_ONCE * 1_000, counted_ms: 0 },
        }
    }
}

impl Guest {
    /// A way that cannot be opened is said and left out: the sandbox is of use without it.
    pub fn open_ways_out(&mut self, wanted: bool, redirected: Option<OwnedFd>) {
        if !wanted {
            return;
        }
        self.egress = Egress::new(redirected.is_some());
        let said = |what: &str, error: std::io::Error| super::say(format_args!("no {what}: {error}"));
        match sys::listen_v4(Ipv4Addr::LOCALHOST, PROXY_PORT) {
            Ok(fd) => self.listen(fd, Way::Proxy),
            Err(error) => said("proxy", error),
        }
        match sys::listen_v4(Ipv4Addr::LOCALHOST, DNS_PORT) {
            Ok(fd) => self.listen(fd, Way::Dns),
            Err(error) => said("names over TCP", error),
        }
        match resolver::socket(DNS_PORT) {
            Ok(fd) => {
                let mut source = self.source(fd, Kind::Resolver, 0);
                drop(source.want(EPOLLIN));
                self.egress.resolver = Some(source);
            }
            Err(error) => said("names", error),
        }
        if let Some(fd) = redirected {
            self.listen(fd, Way::Redirected);
        }
    }

    fn listen(&mut self, fd: OwnedFd, way: Way) {
        let id = self.fresh_id();
        let mut source = self.source(fd, Kind::EgressListener, id);
        if source.want(EPOLLIN).is_ok() {
            self.egress.listeners.insert(id, Listener { source, way });
        }
    }

    pub fn on_egress_listener(&mut self, id: u64) {
        for _ in 0..MAX_ACCEPTS {
            let (fd, way) = match self.egress.listeners.get(&id) {
                Some(listener) => (listener.source.fd(), listener.way),
                None => return,
            };
            let fd = match self.take(fd) {
                Some(fd) => fd,
                None => return,
            };
            match way {
                Way::Dns => self.begin_query(fd),
                Way::Proxy => self.begin_request(fd),
                Way::Redirected | Way::Named(_) => self.begin_redirected(fd),
            }
        }
    }

    /// A name has got an address nothing redirects: the guest listens there.
    fn listen_for(&mut self, address: Ipv4Addr) {
        for port in LISTENED_PORTS {
            // A server of the sandbox's own may have the port on every address.
            if let Ok(fd) = sys::listen_v4(address, port) {
                self.listen(fd, Way::Named(address));
            }
        }
    }

    fn stop_listening_for(&mut self, address: Ipv4Addr) {
        self.egress.listeners.retain(|_, listener| listener.way != Way::Named(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_are_a_burst_and_then_so_many_a_second() {
        let mut asks = Egress::new(false).asks;
        let mut taken = |now_ms: u64| (0..10_000).filter(|_| asks.take(now_ms)).count() as u64;
        assert_eq!(taken(1_000), ASKS_AT_ONCE);
        assert_eq!(taken(1_000), 0);
        assert_eq!(taken(1_010), 0);
        assert_eq!(taken(1_020), 1);
        assert_eq!(taken(3_020), 2 * ASKS_A_SECOND);
        // A clock that goes back gives nothing.
        assert_eq!(taken(5), 0);
        assert_eq!(taken(u64::MAX), ASKS_AT_ONCE);
    }
}
