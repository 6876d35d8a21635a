//! How a connection of a program inside begins: what it wants is read or found out, and the host is asked for it.

use super::body::Body;
use super::flow::{Outgoing, Speech, Stage};
use super::http::{self, Asked, Refused};
use super::target::Target;
use super::{MAX_CHANNELS, MAX_OUTGOING};
use crate::guest::connection::Role;
use crate::guest::poll::Kind;
use crate::guest::serve::{At, Guest, SCRATCH_BYTES};
use crate::guest::sys::{self, EPOLLHUP, EPOLLIN, EPOLLRDHUP};
use crate::wire::{self, code, op, via};
use std::os::unix::io::{AsRawFd, OwnedFd};

/// A head must be whole within this time.
const HEAD_MS: u64 = 30_000;
const HEAD_READ_BYTES: usize = 16 << 10;
/// The host has limits of its own; this one holds where they do not.
const ASK_MS: u64 = 120_000;
const TOO_FAST: &str = "The sandbox opens connections to the outside too fast: at most 50 a second in the long run.";
const TOO_MANY: &str = "The sandbox has too many connections to the outside open at once.";

impl Guest {
    pub(super) fn begin_request(&mut self, fd: OwnedFd) {
        if !self.has_room() {
            // It may not have said anything yet; its answer waits for it.
            drop(sys::write_fd(fd.as_raw_fd(), &http::refusal(503, TOO_MANY, false)));
            sys::shutdown_write(fd.as_raw_fd());
            return;
        }
        sys::no_delay(fd.as_raw_fd());
        let id = self.fresh_id();
        let mut source = self.source(fd, Kind::Outgoing, id);
        if source.want(EPOLLIN).is_err() {
            return;
        }
        let stage = Stage::Head { bytes: Vec::new(), seen: 0 };
        self.egress.outgoing.insert(id, Outgoing::new(source, stage, Speech::Tunnel));
        self.egress.unasked.insert(id);
        self.set_outgoing_timer(id, HEAD_MS);
    }

    pub(super) fn begin_redirected(&mut self, fd: OwnedFd) {
        let target = sys::local_address(fd.as_raw_fd()).ok().and_then(|(address, port)| {
            if self.egress.names.holds(address) {
                return Some(Target { host: self.egress.names.name_of(address)?, port });
            }
            // Nothing redirects connections to the sandbox itself: this one was made to the listener by hand.
            Some(Target { host: address.to_string(), port }).filter(|_| !address.is_loopback())
        });
        match target {
            Some(target) if self.has_room() => {
                sys::no_delay(fd.as_raw_fd());
                let id = self.fresh_id();
                let source = self.source(fd, Kind::Outgoing, id);
                self.egress.outgoing.insert(id, Outgoing::new(source, Stage::Asked, Speech::Silent));
                self.ask(id, &target, via::TCP);
            }
            _ => sys::reset_on_close(fd.as_raw_fd()),
        }
    }

    /// Who opens connections and says nothing loses the oldest of them, so that they never keep others out.
    fn has_room(&mut self) -> bool {
        if self.egress.outgoing.len() < MAX_OUTGOING {
            return true;
        }
        match self.egress.unasked.iter().next().copied() {
            Some(oldest) => {
                self.end_outgoing(oldest);
                true
            }
            None => false,
        }
    }

    pub(super) fn read_head(&mut self, id: u64) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH_BYTES, 0);
        let read = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => sys::read_fd(outgoing.source.fd(), &mut scratch[..HEAD_READ_BYTES]),
            None => Ok(0),
        };
        match read {
            Ok(count) if count > 0 => self.on_head(id, &scratch[..count]),
            Err(error) if sys::would_block(&error) => {}
            _ => self.end_outgoing(id),
        }
        self.scratch = scratch;
    }

    fn on_head(&mut self, id: u64, more: &[u8]) {
        let outgoing = match self.egress.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing,
            None => return,
        };
        let (bytes, seen) = match &mut outgoing.stage {
            Stage::Head { bytes, seen } => (bytes, seen),
            _ => return,
        };
        bytes.extend_from_slice(more);
        let end = match http::end_of_head(bytes, *seen) {
            Ok(Some(end)) => end,
            Ok(None) => {
                *seen = bytes.len();
                return;
            }
            Err(refused) => return self.refuse_head(id, &refused),
        };
        let bytes = std::mem::take(bytes);
        let (head, rest) = bytes.split_at(end);
        match http::parse(head) {
            Err(refused) => self.refuse_head(id, &refused),
            Ok(Asked::Tunnel(target)) => {
                outgoing.early = rest.to_vec();
                self.ask(id, &target, via::CONNECT);
            }
            Ok(Asked::Request { target, head, body, without_answer_body }) => {
                outgoing.speech = Speech::Request { without_answer_body };
                let mut body = Body::new(body);
                let taken = match body.take(rest) {
                    Some(taken) => taken,
                    None => {
                        let refused = Refused { status: 400, reason: "The request's body is not chunked as it says." };
                        return self.refuse_head(id, &refused);
                    }
                };
                outgoing.early = head;
                outgoing.early.extend_from_slice(&rest[..taken]);
                outgoing.surplus = taken < rest.len();
                outgoing.body = Some(body);
                self.ask(id, &target, via::HTTP);
            }
        }
    }

    fn refuse_head(&mut self, id: u64, refused: &Refused) {
        self.refuse_outgoing(id, refused.status, refused.reason);
    }

    /// Opens a channel on the connection of the host that came last.
    fn ask(&mut self, id: u64, target: &Target, via: u8) {
        self.egress.unasked.remove(&id);
        if !self.egress.asks.take(sys::monotonic_ms()) {
            return self.refuse_outgoing(id, 503, TOO_FAST);
        }
        let latest = self.connections.iter_mut().filter(|(_, connection)| connection.greeted).max_by_key(|(id, _)| **id);
        let (connection_id, connection) = match latest {
            Some((id, connection)) => (*id, connection),
            None => return self.refuse_outgoing(id, 503, "No host is connected to this sandbox now: try again."),
        };
        let open = connection.channels.keys().filter(|channel| *channel % 2 == 0).count();
        if open >= MAX_CHANNELS || connection.highest_own > u32::MAX - 2 {
            return self.refuse_outgoing(id, 503, TOO_MANY);
        }
        connection.highest_own += 2;
        let at: At = (connection_id, connection.highest_own);
        connection.add_channel(at.1, Role::Egress { id });
        self.send(at.0, wire::OPEN, at.1, |w| {
            w.u8(op::EGRESS);
            w.str(&target.host);
            w.u16(target.port);
            w.u8(via);
        });
        self.set_outgoing_timer(id, ASK_MS);
        if let Some(outgoing) = self.egress.outgoing.get_mut(&id) {
            outgoing.stage = Stage::Asked;
            outgoing.at = Some(at);
            // What it sends early waits in the kernel. Who asked for a tunnel and hangs up wants none any more; others may have
            // said everything already.
            let hangs_up = if matches!(outgoing.speech, Speech::Tunnel) { EPOLLRDHUP } else { EPOLLHUP };
            drop(outgoing.source.want(hangs_up));
        }
    }
}

/// How HTTP says what the host said.
pub(super) fn status_of(code: u16) -> u16 {
    match code {
        code::PERMISSION_DENIED => 403,
        code::TIMED_OUT => 504,
        code::LIMIT | code::BUSY => 503,
        code::NOT_SUPPORTED => 501,
        code::INVALID => 400,
        _ => 502,
    }
}
