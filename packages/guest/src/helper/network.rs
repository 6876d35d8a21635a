//! A box's network: a loopback that every address leads to. TCP to an address outside comes out at a listening socket the guest
//! inherits, which sees where it was meant to go. Root inside has no CAP_NET_ADMIN and can change none of it.
//!
//! The rule is nftables' `tproxy`, not a NAT: no connection is tracked, so programs inside cannot fill the kernel's table of
//! connections, which is one for the whole machine and charged to nobody.

use std::io;
use std::os::raw::{c_int, c_void};
use std::os::unix::io::OwnedFd;

use super::ffi;

extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const c_void, length: u32) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn send(fd: c_int, buffer: *const c_void, length: usize, flags: c_int) -> isize;
    fn recv(fd: c_int, buffer: *mut c_void, length: usize, flags: c_int) -> isize;
}

/// Where redirected connections arrive, on 127.0.0.1.
const REDIRECT_PORT: u16 = 3130;
const BACKLOG: c_int = 4096;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
/// Programs that look up names only where the machine has IPv4 (AI_ADDRCONFIG) do not count 127.0.0.1, but any other.
const OWN_ADDRESS: [u8; 4] = [127, 0, 0, 2];
const AF_INET: c_int = 2;
const AF_NETLINK: c_int = 16;
const NETLINK_ROUTE: c_int = 0;
const NETLINK_NETFILTER: c_int = 12;
const SOCK_STREAM: c_int = 1;
const SOCK_RAW: c_int = 3;
const SOCK_NONBLOCK: c_int = 0o4000;
const IPPROTO_IP: c_int = 0;
const IP_TRANSPARENT: c_int = 19;
const MSG_DONTWAIT: c_int = 0x40;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

/// What is said to the kernel, made before the process that says it, which may not allocate.
pub struct Plan {
    links: Vec<u8>,
    /// Messages in `links`, each of which is answered.
    link_messages: usize,
    redirect: Vec<u8>,
    address: [u8; 16],
}

/// What came of it; descriptors are this process's.
pub struct Outcome {
    /// The step that failed, without which there is no network at all.
    pub failed: Option<(&'static str, c_int)>,
    /// The listening socket, or why there is none.
    pub redirected: Result<c_int, c_int>,
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    fields(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    pad(out);
}

fn attribute(out: &mut Vec<u8>, kind: u16, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&kind.to_ne_bytes());
    fields(out);
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    while out.len() % 4 != 0 {
        out.push(0);
    }
}

fn bytes(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    attribute(out, kind, |out| out.extend_from_slice(value));
}

fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    bytes(out, kind, &value.to_be_bytes());
}

fn text(out: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(out, kind, |out| {
        out.extend_from_slice(value.as_bytes());
        out.push(0);
    });
}

/// `lo` up, with an address more, and every IPv4 address local to it: `ip route add local 0.0.0.0/0 dev lo src 127.0.0.1`.
fn link_messages() -> Vec<u8> {
    const RTM_NEWLINK: u16 = 16;
    const RTM_NEWADDR: u16 = 20;
    const RTM_NEWROUTE: u16 = 24;
    const LO: u32 = 1;
    const UP: u32 = 1;
    let mut out = Vec::new();
    message(&mut out, RTM_NEWLINK, NLM_F_ACK, |out| {
        out.extend_from_slice(&[0; 4]);
        for value in [LO, UP, UP] {
            out.extend_from_slice(&value.to_ne_bytes());
        }
    });
    message(&mut out, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, |out| {
        // Family, length of the prefix, flags, scope.
        out.extend_from_slice(&[AF_INET as u8, 32, 0, 0]);
        out.extend_from_slice(&LO.to_ne_bytes());
        bytes(out, 1, &OWN_ADDRESS);
        bytes(out, 2, &OWN_ADDRESS);
    });
    message(&mut out, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, |out| {
        // Family, lengths of destination and source, TOS; table local, by static configuration, scope host, type local; flags.
        out.extend_from_slice(&[AF_INET as u8, 0, 0, 0, 255, 4, 254, 2, 0, 0, 0, 0]);
        bytes(out, 4, &LO.to_ne_bytes());
        // Else a connection would come from the very address it goes to.
        bytes(out, 7, &LOOPBACK);
    });
    out
}

/// `table ip delta { chain out { type filter hook prerouting priority mangle; meta l4proto tcp ip daddr != 127.0.0.0/8 tproxy to
/// 127.0.0.1:3130 } }`
fn redirect_messages() -> Vec<u8> {
    const BEGIN: u16 = 0x10;
    const END: u16 = 0x11;
    const NFTABLES: u16 = 10;
    const MANGLE: i32 = -150;
    // Family, version, and the subsystem in network order.
    let batch = [0, 0, 0, NFTABLES as u8];
    let family = [AF_INET as u8, 0, 0, 0];
    let mut out = Vec::new();
    message(&mut out, BEGIN, 0, |out| out.extend_from_slice(&batch));
    message(&mut out, NFTABLES << 8, NLM_F_CREATE, |out| {
        out.extend_from_slice(&family);
        text(out, 1, "delta");
    });
    message(&mut out, NFTABLES << 8 | 3, NLM_F_CREATE, |out| {
        out.extend_from_slice(&family);
        text(out, 1, "delta");
        text(out, 3, "out");
        attribute(out, 4 | NESTED, |out| {
            number(out, 1, 0);
            number(out, 2, MANGLE as u32);
        });
        text(out, 7, "filter");
    });
    // The last that can fail is the only one that is answered when all goes well.
    message(&mut out, NFTABLES << 8 | 6, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND, |out| {
        out.extend_from_slice(&family);
        text(out, 1, "delta");
        text(out, 2, "out");
        attribute(out, 4 | NESTED, rule);
    });
    message(&mut out, END, 0, |out| out.extend_from_slice(&batch));
    out
}

fn rule(out: &mut Vec<u8>) {
    const META_L4PROTO: u32 = 16;
    const EQUAL: u32 = 0;
    const UNEQUAL: u32 = 1;
    const NETWORK_HEADER: u32 = 1;
    const DESTINATION_AT: u32 = 16;
    let one = |out: &mut Vec<u8>, name: &str, fields: &dyn Fn(&mut Vec<u8>)| {
        attribute(out, 1 | NESTED, |out| {
            text(out, 1, name);
            attribute(out, 2 | NESTED, |out| fields(out));
        });
    };
    let data = |out: &mut Vec<u8>, kind: u16, value: &[u8]| attribute(out, kind | NESTED, |out| bytes(out, 1, value));
    one(out, "meta", &|out| {
        number(out, 1, 1);
        number(out, 2, META_L4PROTO);
    });
    one(out, "cmp", &|out| {
        number(out, 1, 1);
        number(out, 2, EQUAL);
        data(out, 3, &[6]);
    });
    // The first byte of the destination tells 127.0.0.0/8.
    one(out, "payload", &|out| {
        number(out, 1, 1);
        number(out, 2, NETWORK_HEADER);
        number(out, 3, DESTINATION_AT);
        number(out, 4, 1);
    });
    one(out, "cmp", &|out| {
        number(out, 1, 1);
        number(out, 2, UNEQUAL);
        data(out, 3, &LOOPBACK[..1]);
    });
    one(out, "immediate", &|out| {
        number(out, 1, 1);
        data(out, 2, &LOOPBACK);
    });
    one(out, "immediate", &|out| {
        number(out, 1, 2);
        data(out, 2, &REDIRECT_PORT.to_be_bytes());
    });
    one(out, "tproxy", &|out| {
        number(out, 1, AF_INET as u32);
        number(out, 2, 1);
        number(out, 3, 2);
    });
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(5)
}

/// Sends messages and waits for their answers, which the kernel gives before the send returns. System calls only.
unsafe fn say(protocol: c_int, said: &[u8], answers: usize) -> Result<(), c_int> {
    let fd = socket(AF_NETLINK, SOCK_RAW | ffi::O_CLOEXEC, protocol);
    if fd < 0 {
        return Err(errno());
    }
    let mut result = match send(fd, said.as_ptr().cast(), said.len(), 0) {
        count if count == said.len() as isize => Ok(()),
        _ => Err(errno()),
    };
    for _ in 0..answers {
        if result.is_ok() {
            result = answer(fd);
        }
    }
    ffi::close(fd);
    result
}

unsafe fn answer(fd: c_int) -> Result<(), c_int> {
    let mut reply = [0u8; 1024];
    let count = recv(fd, reply.as_mut_ptr().cast(), reply.len(), MSG_DONTWAIT);
    if count < 0 {
        return Err(errno());
    }
    if count < 20 || u16::from_ne_bytes([reply[4], reply[5]]) != NLMSG_ERROR {
        return Err(71);
    }
    match i32::from_ne_bytes([reply[16], reply[17], reply[18], reply[19]]) {
        0 => Ok(()),
        number => Err(-number),
    }
}

/// A listening socket that takes connections to addresses not its own.
unsafe fn listen_for_all(address: &[u8; 16]) -> Result<c_int, c_int> {
    let fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | ffi::O_CLOEXEC, 0);
    if fd < 0 {
        return Err(errno());
    }
    let on: c_int = 1;
    let fine = ffi::setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, (&on as *const c_int).cast(), 4) == 0
        && bind(fd, address.as_ptr().cast(), 16) == 0
        && listen(fd, BACKLOG) == 0;
    if fine {
        return Ok(fd);
    }
    let number = errno();
    ffi::close(fd);
    Err(number)
}

impl Plan {
    pub fn new() -> Plan {
        let mut address = [0; 16];
        address[..2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
        address[2..4].copy_from_slice(&REDIRECT_PORT.to_be_bytes());
        address[4..8].copy_from_slice(&LOOPBACK);
        Plan { links: link_messages(), link_messages: 3, redirect: redirect_messages(), address }
    }

    /// Makes a network as a box gets it, which goes at once; why its connections cannot be redirected otherwise.
    pub fn try_out(&self, uid: u32) -> io::Result<()> {
        let made = super::sys::namespaces(uid, 1, Some(self))?;
        match made.network.map(|network| network.redirected) {
            Some(Err(cause)) => {
                let said = format!("the kernel takes no nftables rule with tproxy (CONFIG_NFT_TPROXY): {}", cause);
                Err(io::Error::new(cause.kind(), said))
            }
            _ => Ok(()),
        }
    }

    /// Sets up the network namespace of the calling process, which needs CAP_NET_ADMIN in it.
    ///
    /// # Safety
    /// Allocates nothing and takes no lock, so it may run in a child that shares its parent's memory.
    pub unsafe fn carry_out(&self) -> Outcome {
        if let Err(number) = say(NETLINK_ROUTE, &self.links, self.link_messages) {
            return Outcome { failed: Some(("setting up the loopback", number)), redirected: Err(number) };
        }
        let redirected = say(NETLINK_NETFILTER, &self.redirect, 1).and_then(|()| listen_for_all(&self.address));
        Outcome { failed: None, redirected }
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan::new()
    }
}

/// Gives the calling thread a network namespace of its own, set up as a box's, and returns the socket for redirected
/// connections: for tests of what runs in a box.
pub fn enter_own() -> io::Result<OwnedFd> {
    // SAFETY: it changes this thread alone.
    ffi::check(unsafe { super::sys::unshare(super::sys::CLONE_NEWNET) })?;
    let outcome = unsafe { Plan::new().carry_out() };
    let fd = outcome.redirected.map_err(io::Error::from_raw_os_error)?;
    ffi::own(fd)
}
