//! The ways out of a real guest, each test in a network namespace of its own that is set up as a box's. Needs root.

#[allow(dead_code)]
mod guest_client;

use delta::helper::network::enter_own;
use delta::wire::{self, code, op, via};
use guest_client::{sh, until, Frame, Guest, Wire};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

const PROXY: (&str, u16) = ("127.0.0.1", 3129);
const PATIENCE: Duration = Duration::from_secs(30);

/// Enters a network namespace for the rest of this test's thread and starts a guest there.
fn start() -> Guest {
    let redirected = enter_own().expect("these tests make network namespaces: run them as root, on a kernel with nft_tproxy");
    Guest::start_with_ways_out(Some(redirected))
}

#[derive(Debug, PartialEq)]
struct Asked {
    channel: u32,
    host: String,
    port: u16,
    via: u8,
}

trait Host {
    fn asked(&mut self) -> Asked;
    fn accept(&mut self, channel: u32);
    fn refuse(&mut self, channel: u32, code: u16, reason: &str);
    fn received(&mut self, channel: u32, bytes: usize) -> Vec<u8>;
    fn wait_for(&mut self, channel: u32, kind: u8) -> Frame;
    fn wait_for_credit(&mut self, channel: u32) -> u32;
}

impl Host for Wire {
    /// The next connection that is wanted.
    fn asked(&mut self) -> Asked {
        let frame = self.next_of(wire::OPEN);
        let mut r = frame.reader();
        assert_eq!((frame.kind, r.u8()), (wire::OPEN, Ok(op::EGRESS)));
        let (host, port, via) = (r.str().unwrap().to_string(), r.u16().unwrap(), r.u8().unwrap());
        Asked { channel: frame.channel, host, port, via }
    }

    fn accept(&mut self, channel: u32) {
        self.send(wire::OPENED, channel, |_| {});
    }

    fn refuse(&mut self, channel: u32, code: u16, reason: &str) {
        self.send(wire::CLOSE, channel, |w| {
            w.u16(code);
            w.str(reason);
        });
    }

    /// That many bytes of DATA, for which credit is given back.
    fn received(&mut self, channel: u32, bytes: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < bytes {
            let frame = self.wait_for(channel, wire::DATA);
            let mut r = frame.reader();
            assert_eq!((r.u8(), r.u64()), (Ok(0), Ok(got.len() as u64)));
            let more = r.rest();
            self.credit(channel, more.len() as u32);
            got.extend_from_slice(more);
        }
        got
    }

    fn wait_for_credit(&mut self, channel: u32) -> u32 {
        let frame = self.next(channel);
        assert_eq!(frame.kind, wire::CREDIT);
        frame.reader().u32().unwrap()
    }

    fn wait_for(&mut self, channel: u32, kind: u8) -> Frame {
        loop {
            let frame = self.next(channel);
            if frame.kind == kind {
                return frame;
            }
            assert_eq!(frame.kind, wire::CREDIT, "{frame:?} instead of {kind}");
        }
    }
}

fn connect(address: (&str, u16)) -> TcpStream {
    let stream = until("something listens", || TcpStream::connect(address).ok());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn say(text: &str) -> TcpStream {
    let mut stream = connect(PROXY);
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn is_reset(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

/// The address a name gets, by the answer's last four bytes.
fn resolve(name: &str) -> Ipv4Addr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&query(name, 1), "127.0.0.1:53").unwrap();
    let mut reply = [0; 600];
    let count = socket.recv(&mut reply).unwrap();
    assert_eq!((reply[3] & 15, reply[7]), (0, 1), "one address for {name}");
    Ipv4Addr::new(reply[count - 4], reply[count - 3], reply[count - 2], reply[count - 1])
}

mod proxy {
    use super::*;

    #[test]
    fn a_tunnel_carries_bytes_both_ways_and_each_way_ends_by_itself() {
        let guest = start();
        let mut wire = guest.connect();
        // The first bytes for the server may come with the request.
        let mut stream = say("CONNECT Example.org:443 HTTP/1.1\r\nHost: x\r\n\r\nearly");
        let asked = wire.asked();
        assert_eq!(asked, Asked { channel: 2, host: "example.org".into(), port: 443, via: via::CONNECT });
        wire.accept(2);
        assert_eq!(read_head(&mut stream), "HTTP/1.1 200 Connection established\r\n\r\n");
        assert_eq!(wire.received(2, 5), b"early");
        wire.data(2, 0, b"hello");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        stream.shutdown(Shutdown::Write).unwrap();
        wire.wait_for(2, wire::END);
        wire.data(2, 5, b"still there");
        wire.send(wire::END, 2, |_| {});
        wire.refuse(2, code::OK, "");
        assert_eq!(read_all(&mut stream), "still there");
        // Channel numbers only grow.
        drop(say("CONNECT a:1 HTTP/1.1\r\n\r\n"));
        assert_eq!(wire.asked().channel, 4);
    }

    #[test]
    fn a_refusal_says_why_in_its_first_line_and_in_its_body() {
        let guest = start();
        let mut wire = guest.connect();
        for (failure, status) in [
            (code::PERMISSION_DENIED, 403),
            (code::NOT_FOUND, 502),
            (code::CONNECTION_REFUSED, 502),
            (code::TIMED_OUT, 504),
            (code::LIMIT, 503),
            (code::NOT_SUPPORTED, 501),
        ] {
            for head in ["CONNECT a.example:443 HTTP/1.1\r\n\r\n", "GET http://a.example/ HTTP/1.1\r\n\r\n"] {
                let mut stream = say(head);
                let channel = wire.asked().channel;
                wire.refuse(channel, failure, "The policy \"none\" refuses a.example.");
                let answer = read_all(&mut stream);
                let first = format!("HTTP/1.1 {status} The policy \"none\" refuses a.example.\r\n");
                assert!(answer.starts_with(&first), "{answer}");
                assert!(answer.ends_with("\r\n\r\nThe policy \"none\" refuses a.example.\n"), "{answer}");
            }
        }
    }

    #[test]
    fn a_plain_request_goes_out_alone_and_in_origin_form() {
        let guest = start();
        let mut wire = guest.connect();
        let mut stream = say("POST http://example.org:8080/a?b HTTP/1.1\r\nHost: other\r\nProxy-Authorization: secret\r\n\
                              Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        let asked = wire.asked();
        assert_eq!((asked.host.as_str(), asked.port, asked.via), ("example.org", 8080, via::HTTP));
        wire.accept(2);
        // The rest of its body, then a request for somebody else, which must not reach this server.
        stream.write_all(b"0\r\n\r\nGET http://other/ HTTP/1.1\r\n\r\n").unwrap();
        let wanted = "POST /a?b HTTP/1.1\r\nHost: example.org:8080\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(String::from_utf8(wire.received(2, wanted.len())).unwrap(), wanted);
        wire.data(2, 0, b"HTTP/1.1 204 None\r\nConnection: close\r\n\r\n");
        wire.send(wire::END, 2, |_| {});
        wire.wait_for(2, wire::END);
        wire.refuse(2, code::OK, "");
        assert_eq!(read_all(&mut stream), "HTTP/1.1 204 None\r\nConnection: close\r\n\r\n");
        wire.ping();
    }

    #[test]
    fn what_is_no_request_for_a_host_is_answered_and_asks_nobody() {
        let guest = start();
        let mut wire = guest.connect();
        for (said, status) in [
            ("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            ("\x16\x03\x01\x02\x00", 400),
            ("\x05\x01\x00", 400),
            ("GET http://a/ HTTP/1.1\nHost: a\n\n", 400),
            ("POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
        ] {
            let answer = read_all(&mut say(said));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{said:?}: {answer}");
        }
        let long = format!("GET http://a/ HTTP/1.1\r\nX: {}", "x".repeat(65 << 10));
        assert!(read_all(&mut say(&long)).starts_with("HTTP/1.1 431 "));
        wire.ping();
        drop(say("CONNECT a:1 HTTP/1.1\r\n\r\n"));
        assert_eq!(wire.asked().channel, 2, "none of them was passed on");
    }

    #[test]
    fn a_body_that_breaks_off_breaks_the_connection_to_the_server() {
        let guest = start();
        let mut wire = guest.connect();
        let stream = say("POST http://a/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
        let channel = wire.asked().channel;
        wire.accept(channel);
        wire.wait_for(channel, wire::DATA);
        drop(stream);
        loop {
            let frame = wire.next(channel);
            assert_ne!(frame.kind, wire::END, "half a request is none");
            if frame.kind == wire::CANCEL {
                break;
            }
        }
    }
}

mod hosts {
    use super::*;

    #[test]
    fn without_a_host_there_is_no_way_and_with_the_next_there_is_again() {
        let guest = start();
        assert!(read_all(&mut say("CONNECT a:1 HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 503 No host is connected"));
        assert!(is_reset(&mut connect(("203.0.113.7", 80))));
        let mut first = guest.connect();
        let mut open = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        let channel = first.asked().channel;
        first.accept(channel);
        read_head(&mut open);
        let mut asking = say("CONNECT b:1 HTTP/1.1\r\n\r\n");
        assert_eq!(first.asked().host, "b");
        // What comes now is the second connection's.
        let mut second = guest.connect();
        let _waiting = say("CONNECT c:1 HTTP/1.1\r\n\r\n");
        assert_eq!(second.asked(), Asked { channel: 2, host: "c".into(), port: 1, via: via::CONNECT });
        drop(first);
        assert!(is_reset(&mut open), "an open connection does not end as if it were complete");
        assert!(read_all(&mut asking).starts_with("HTTP/1.1 503 The host's connection"));
        drop(second);
        let mut third = until("a host is connected again", || guest.connect_if_served());
        let _again = until("the way goes through it", || {
            let stream = say("CONNECT d:1 HTTP/1.1\r\n\r\n");
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let refused = matches!((&stream).read(&mut [0; 1]), Ok(_));
            if refused { None } else { Some(stream) }
        });
        assert_eq!(third.asked().host, "d");
    }

    #[test]
    fn a_host_that_cuts_a_connection_breaks_it() {
        let guest = start();
        let mut wire = guest.connect();
        let mut stream = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        let channel = wire.asked().channel;
        wire.accept(channel);
        read_head(&mut stream);
        wire.refuse(channel, code::PERMISSION_DENIED, "The policy has changed.");
        assert!(is_reset(&mut stream));
    }

    #[test]
    fn a_frame_for_a_channel_never_opened_ends_the_connection() {
        let guest = start();
        for kind in [wire::OPENED, wire::DATA, wire::CLOSE] {
            let mut wire = guest.connect();
            wire.send(kind, 2, |w| w.raw(&[0; 16]));
            assert!(wire.is_cut());
        }
        let mut wire = guest.connect();
        let _stream = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        let channel = wire.asked().channel;
        wire.send(wire::CONTROL, channel, |w| w.u8(3));
        assert!(wire.is_cut());
    }

    #[test]
    fn no_more_channels_are_opened_than_the_host_takes() {
        let guest = start();
        let mut wire = guest.connect();
        let streams: Vec<TcpStream> = (0..256).map(|_| say("CONNECT a:1 HTTP/1.1\r\n\r\n")).collect();
        let channels: Vec<u32> = streams.iter().map(|_| wire.asked().channel).collect();
        assert_eq!(channels.last(), Some(&512));
        assert!(read_all(&mut say("CONNECT a:1 HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 503 The sandbox has too many"));
        // One that was given up counts until the host has closed it.
        drop(streams);
        for channel in &channels {
            wire.wait_for(*channel, wire::CANCEL);
        }
        assert!(read_all(&mut say("CONNECT a:1 HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 503 The sandbox has too many"));
        wire.refuse(channels[7], code::CANCELED, "The guest gave it up.");
        wire.ping();
        let _stream = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        assert_eq!(wire.asked().channel, 514);
    }
}

mod flow {
    use super::*;

    #[test]
    fn a_host_that_does_not_read_and_a_program_that_does_not_hold_back_their_own_side() {
        let guest = start();
        let mut wire = guest.connect();
        let mut stream = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        let channel = wire.asked().channel;
        wire.accept(channel);
        read_head(&mut stream);
        let mut writer = stream.try_clone().unwrap();
        let total = 32 << 20;
        let writing = std::thread::spawn(move || writer.write_all(&vec![7; total]).unwrap());
        let mut got = 0;
        while got < wire::INITIAL_CREDIT_BYTES as usize {
            got += wire.wait_for(channel, wire::DATA).payload.len() - 9;
        }
        assert_eq!(got, wire::INITIAL_CREDIT_BYTES as usize);
        // The host sends as much as it may, and the program reads nothing: the guest gives credit for what the kernel took.
        let (mut sent, mut credit) = (0u64, wire::INITIAL_CREDIT_BYTES);
        wire.ping();
        loop {
            while credit > 0 {
                let count = credit.min(65536) as usize;
                wire.data(channel, sent, &vec![9; count]);
                (sent, credit) = (sent + count as u64, credit - count as u64);
            }
            wire.ping();
            let given = wire.take_waiting(channel, wire::CREDIT);
            if given.is_empty() {
                break;
            }
            credit += given.iter().map(|frame| frame.reader().u32().unwrap() as u64).sum::<u64>();
        }
        assert!(sent < 64 << 20, "{sent} bytes for nobody");
        assert_eq!(wire.run(&sh("a", "echo here")).stdout, b"here\n");
        assert!(guest.resident_kb() < 16 << 10, "{} kB", guest.resident_kb());
        wire.credit(channel, total as u32);
        while got < total {
            got += wire.wait_for(channel, wire::DATA).payload.len() - 9;
        }
        writing.join().unwrap();
        let mut back = vec![0; sent as usize];
        stream.read_exact(&mut back).unwrap();
        assert!(back.iter().all(|byte| *byte == 9));
    }

    #[test]
    fn everything_opened_is_closed() {
        let guest = start();
        let mut wire = guest.connect();
        drop(say("CONNECT a:1 HTTP/1.1\r\n\r\n"));
        let channel = wire.asked().channel;
        wire.refuse(channel, code::NOT_FOUND, "No.");
        wire.ping();
        let idle = until("only its listeners", || Some(guest.descriptors()).filter(|count| *count > 0));
        for number in 0..30 {
            let mut stream = if number % 3 == 0 { connect(("203.0.113.7", 80)) } else { say("CONNECT a:1 HTTP/1.1\r\n\r\n") };
            let channel = wire.asked().channel;
            wire.accept(channel);
            if number % 3 != 0 {
                read_head(&mut stream);
            }
            wire.data(channel, 0, b"x");
            if number % 2 == 0 {
                drop(stream);
                wire.send(wire::END, channel, |_| {});
            } else {
                stream.write_all(b"y").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                wire.wait_for(channel, wire::DATA);
                wire.wait_for(channel, wire::END);
                wire.send(wire::END, channel, |_| {});
            }
            wire.refuse(channel, code::OK, "");
        }
        until("no descriptor more than before", || Some(()).filter(|()| guest.descriptors() <= idle));
    }
}

mod names {
    use super::*;

    #[test]
    fn a_program_that_knows_no_proxy_reaches_the_host_by_name_and_by_address() {
        let guest = start();
        let mut wire = guest.connect();
        until("names are answered", || TcpStream::connect(PROXY).ok());
        let address = resolve("Example.ORG");
        assert_eq!(address, Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!((resolve("localhost"), resolve("example.org")), (Ipv4Addr::LOCALHOST, address));
        for (to, host, port) in [("198.18.0.1", "example.org", 22), ("203.0.113.7", "203.0.113.7", 5432)] {
            let mut stream = connect((to, port));
            assert_eq!(stream.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
            let asked = wire.asked();
            assert_eq!((asked.host.as_str(), asked.port, asked.via), (host, port, via::TCP));
            wire.accept(asked.channel);
            stream.write_all(b"ask").unwrap();
            assert_eq!(wire.received(asked.channel, 3), b"ask");
            wire.data(asked.channel, 0, b"answer");
            wire.send(wire::END, asked.channel, |_| {});
            assert_eq!(read_all(&mut stream), "answer");
        }
        let mut refused = connect(("198.18.0.1", 25));
        let channel = wire.asked().channel;
        wire.refuse(channel, code::PERMISSION_DENIED, "The policy refuses port 25.");
        assert!(is_reset(&mut refused));
        assert!(is_reset(&mut connect(("198.19.255.254", 80))), "an address nobody was given");
        assert!(is_reset(&mut connect(("127.0.0.1", 3130))), "the sandbox itself is not outside");
        wire.ping();
    }

    #[test]
    fn servers_inside_are_reached_as_ever() {
        let guest = start();
        let _wire = guest.connect();
        let server = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
        let mut client = connect(("127.9.9.9", 8080));
        client.write_all(b"x").unwrap();
        let mut got = [0];
        server.accept().unwrap().0.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x");
        // No UDP, no IPv6.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect("203.0.113.7:443").unwrap();
        socket.send(b"x").unwrap();
        assert_eq!(socket.recv(&mut got).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let error = TcpStream::connect("[2001:db8::1]:80").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(101), "{error}");
    }

    #[test]
    fn names_are_answered_over_tcp_too() {
        let guest = start();
        let _wire = guest.connect();
        let mut stream = connect(("127.0.0.1", 53));
        let asked = query("example.org", 1);
        let framed = [&(asked.len() as u16).to_be_bytes()[..], &asked].concat();
        // Two at once, cut in the middle.
        let both = [&framed[..], &framed].concat();
        stream.write_all(&both[..40]).unwrap();
        stream.write_all(&both[40..]).unwrap();
        for _ in 0..2 {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut reply = vec![0; u16::from_be_bytes(length) as usize];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(reply[reply.len() - 4..], [198, 18, 0, 1]);
        }
        stream.write_all(&[0xff, 0xff]).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "a query no client sends");
    }

    #[test]
    fn where_nothing_redirects_the_guest_listens_for_each_name() {
        drop(enter_own().unwrap());
        let guest = Guest::start_with_ways_out(None);
        let mut wire = guest.connect();
        until("names are answered", || TcpStream::connect(PROXY).ok());
        let address = resolve("example.org");
        assert_eq!(address, Ipv4Addr::new(127, 64, 0, 1));
        for port in [80, 443] {
            let _stream = connect(("127.64.0.1", port));
            let asked = wire.asked();
            assert_eq!((asked.host.as_str(), asked.port, asked.via), ("example.org", port, via::TCP));
        }
        let idle = guest.descriptors();
        for number in 0..1_000 {
            resolve(&format!("n{number}.example"));
        }
        assert!(guest.descriptors() < idle + 2 * 128, "as many names as it listens for");
        assert!(TcpStream::connect(("127.64.0.1", 80)).is_err(), "the first name was taken back");
    }
}

mod floods {
    use super::*;

    #[test]
    fn ten_thousand_connections_that_say_nothing_keep_nobody_out() {
        let guest = start();
        let mut wire = guest.connect();
        let mut silent = Vec::new();
        for number in 0..10_000 {
            let mut stream = connect(PROXY);
            // Half of them begin a head and never end it.
            if number % 2 == 0 {
                drop(stream.write_all(b"GET http://a/ HTTP/1.1\r\nX: "));
            }
            silent.push(stream);
            if silent.len() > 2_000 {
                silent.remove(0);
            }
        }
        let _stream = say("CONNECT real.example:443 HTTP/1.1\r\n\r\n");
        assert_eq!(wire.asked().host, "real.example");
        assert_eq!(wire.run(&sh("a", "echo here")).stdout, b"here\n");
        assert!(guest.descriptors() < 600, "{}", guest.descriptors());
        assert!(guest.resident_kb() < 8 << 10, "{} kB", guest.resident_kb());
    }

    #[test]
    fn a_flood_of_names_and_of_nonsense_costs_bounded_memory() {
        let guest = start();
        let mut wire = guest.connect();
        until("names are answered", || TcpStream::connect(PROXY).ok());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let label = "x".repeat(60);
        for number in 0..100_000u32 {
            let asked = if number % 4 == 0 {
                number.to_be_bytes().repeat(8)
            } else {
                query(&format!("n{number}.{label}.{label}.{label}.example"), 1)
            };
            drop(socket.send_to(&asked, "127.0.0.1:53"));
        }
        assert_eq!(wire.run(&sh("a", "echo here")).stdout, b"here\n");
        assert!(guest.resident_kb() < 12 << 10, "{} kB", guest.resident_kb());
        resolve("after.example");
    }

    #[test]
    fn a_program_that_asks_without_end_reaches_the_host_at_its_pace() {
        let guest = start();
        let mut wire = guest.connect();
        let began = std::time::Instant::now();
        let host = std::thread::spawn(move || {
            let mut asked = 0;
            while let Some(frame) = wire.read_frame() {
                if frame.kind == wire::OPEN {
                    asked += 1;
                    wire.refuse(frame.channel, code::PERMISSION_DENIED, "No.");
                }
            }
            asked
        });
        let mut told = 0;
        for _ in 0..700 {
            let answer = read_all(&mut say("CONNECT a:1 HTTP/1.1\r\n\r\n"));
            told += answer.starts_with("HTTP/1.1 503 The sandbox opens connections to the outside too fast") as u64;
        }
        let most = 512 + 50 * (began.elapsed().as_secs() + 1);
        drop(guest);
        let asked: u64 = host.join().unwrap();
        assert_eq!(asked + told, 700);
        assert!(asked <= most && told > 0, "{asked} asked, {told} refused inside");
    }

    #[test]
    fn connections_refused_by_the_thousand_leave_nothing() {
        let guest = start();
        let mut wire = guest.connect();
        let idle = guest.descriptors();
        for _ in 0..2_000 {
            drop(say("GET / HTTP/1.1\r\n\r\n"));
            drop(connect(("198.18.9.9", 80)));
        }
        wire.ping();
        until("every one is closed", || Some(()).filter(|()| guest.descriptors() <= idle));
    }
}

/// Not a test of a rule: prints what one connection carries. `cargo test --release --test egress -- --ignored --nocapture speed`.
mod speed {
    use super::*;
    use std::time::Instant;

    const BYTES: usize = 1 << 30;

    #[test]
    #[ignore = "a measurement"]
    fn of_one_connection() {
        let guest = start();
        let mut wire = guest.connect();
        let mut stream = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        let channel = wire.asked().channel;
        wire.accept(channel);
        read_head(&mut stream);
        wire.credit(channel, BYTES as u32);
        let mut writer = stream.try_clone().unwrap();
        let began = Instant::now();
        let writing = std::thread::spawn(move || {
            let piece = vec![7; 256 << 10];
            for _ in 0..BYTES / piece.len() {
                writer.write_all(&piece).unwrap();
            }
        });
        let mut raw = vec![0; 256 << 10];
        let mut got = 0;
        while got < BYTES {
            got += wire.stream.read(&mut raw).unwrap();
        }
        writing.join().unwrap();
        println!("out: {:.0} MB/s", BYTES as f64 / 1e6 / began.elapsed().as_secs_f64());

        // A connection of its own, since the last one's frames were not read to their end.
        drop(wire);
        let mut wire = guest.connect();
        let mut stream = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        let channel = wire.asked().channel;
        wire.accept(channel);
        read_head(&mut stream);
        let began = Instant::now();
        let reading = std::thread::spawn(move || {
            let mut raw = vec![0; 256 << 10];
            let mut got = 0;
            while got < BYTES {
                got += stream.read(&mut raw).unwrap();
            }
        });
        let piece = vec![9; 64 << 10];
        let (mut sent, mut credit) = (0, wire::INITIAL_CREDIT_BYTES as usize);
        while sent < BYTES {
            while credit < piece.len() {
                credit += wire.wait_for_credit(channel) as usize;
            }
            wire.data(channel, sent as u64, &piece);
            (sent, credit) = (sent + piece.len(), credit - piece.len());
        }
        reading.join().unwrap();
        println!("in: {:.0} MB/s", BYTES as f64 / 1e6 / began.elapsed().as_secs_f64());
    }

    #[test]
    #[ignore = "a measurement"]
    fn of_a_round_trip() {
        let guest = start();
        let mut wire = guest.connect();
        let mut times = Vec::new();
        let mut stream = say("CONNECT a:1 HTTP/1.1\r\n\r\n");
        let channel = wire.asked().channel;
        wire.accept(channel);
        read_head(&mut stream);
        let echo = std::thread::spawn(move || {
            for number in 0..2_000u64 {
                wire.wait_for(channel, wire::DATA);
                wire.data(channel, number, b"x");
            }
        });
        for _ in 0..2_000 {
            let began = Instant::now();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            times.push(began.elapsed());
        }
        echo.join().unwrap();
        times.sort();
        println!("round trip: p50 {:?}, p95 {:?}", times[1_000], times[1_900]);
    }
}
