//! The golden vectors: `vectors/wire.json` is made from the table here, and the codec must agree with it.
//! `DELTA_WRITE_VECTORS=1 cargo test --test guest_vectors` writes the file anew.

use delta::guest::messages::{self, Request};
use delta::wire::{self, op, FrameDecoder, Reader, Rules, WireError, Writer};
use std::fmt::Write as _;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I64(i64),
    Str(String),
    Bytes(Vec<u8>),
    Raw(Vec<u8>),
    List(Vec<Value>),
    Opt(Option<Box<Value>>),
    Struct(Vec<(&'static str, Value)>),
    /// Shown in the file but not on the wire.
    Note(&'static str),
}
use Value::*;

impl Value {
    fn write(&self, w: &mut Writer<'_>) {
        match self {
            U8(v) => w.u8(*v),
            U16(v) => w.u16(*v),
            U32(v) => w.u32(*v),
            U64(v) => w.u64(*v),
            I64(v) => w.i64(*v),
            Str(v) => w.str(v),
            Bytes(v) => w.bytes(v),
            Raw(v) => w.raw(v),
            List(items) => w.list(items, |w, item| item.write(w)),
            Opt(v) => w.opt(v.as_deref(), |w, v| v.write(w)),
            Struct(fields) => fields.iter().for_each(|(_, v)| v.write(w)),
            Note(_) => {}
        }
    }

    /// Reads a value of this one's shape. Lists take the shape of their first item.
    fn read_like(&self, r: &mut Reader<'_>) -> Result<Value, WireError> {
        Ok(match self {
            U8(_) => U8(r.u8()?),
            U16(_) => U16(r.u16()?),
            U32(_) => U32(r.u32()?),
            U64(_) => U64(r.u64()?),
            I64(_) => I64(r.i64()?),
            Str(_) => Str(r.str()?.into()),
            Bytes(_) => Bytes(r.bytes()?.into()),
            Raw(_) => Raw(r.rest().into()),
            List(items) => {
                List(r.list(|r| items.first().map_or(Err(WireError::BadValue), |shape| shape.read_like(r)))?)
            }
            Opt(Some(shape)) => Opt(r.opt(|r| shape.read_like(r))?.map(Box::new)),
            Opt(None) => Opt(r.opt(|_| Err(WireError::BadValue))?),
            Struct(fields) => {
                Struct(fields.iter().map(|(n, v)| Ok((*n, v.read_like(r)?))).collect::<Result<_, WireError>>()?)
            }
            Note(note) => Note(note),
        })
    }

    fn json(&self, out: &mut String) {
        match self {
            U8(v) => write!(out, "{v}").unwrap(),
            U16(v) => write!(out, "{v}").unwrap(),
            U32(v) => write!(out, "{v}").unwrap(),
            U64(v) => write!(out, "\"{v}\"").unwrap(),
            I64(v) => write!(out, "\"{v}\"").unwrap(),
            Str(v) => json_string(v, out),
            Bytes(v) | Raw(v) => write!(out, "\"{}\"", hex(v)).unwrap(),
            List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.json(out);
                }
                out.push(']');
            }
            Opt(None) => out.push_str("null"),
            Opt(Some(v)) => v.json(out),
            Struct(fields) => {
                out.push('{');
                for (index, (name, v)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write!(out, "\"{name}\":").unwrap();
                    v.json(out);
                }
                out.push('}');
            }
            Note(note) => json_string(note, out),
        }
    }
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => write!(out, "\\u{:04x}", c as u32).unwrap(),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToGuest,
    ToHost,
}
use Direction::*;

impl Direction {
    fn rules(self) -> Rules {
        match self {
            ToGuest => wire::to_guest,
            ToHost => wire::to_host,
        }
    }
}

struct Good {
    name: &'static str,
    direction: Direction,
    kind: u8,
    channel: u32,
    fields: Value,
}

struct Bad {
    name: &'static str,
    direction: Direction,
    bytes: Vec<u8>,
    /// None: nothing is wrong yet, the frame is only not whole.
    error: Option<WireError>,
}

fn s(text: &str) -> Value {
    Str(text.into())
}
fn b(bytes: impl AsRef<[u8]>) -> Value {
    Bytes(bytes.as_ref().to_vec())
}
fn some(value: Value) -> Value {
    Opt(Some(Box::new(value)))
}

fn kind_name(kind: u8) -> &'static str {
    ["HELLO", "OPEN", "OPENED", "DATA", "CREDIT", "END", "CLOSE", "CANCEL", "PING", "PONG", "CONTROL"]
        [kind as usize - 1]
}

fn entry() -> Value {
    Struct(vec![
        ("path", b("/workspace/a.txt")),
        ("type", U8(1)),
        ("size", U64(5)),
        ("mode", U32(0o644)),
        ("uid", U32(1000)),
        ("gid", U32(1000)),
        ("owner", s("user")),
        ("group", s("user")),
        ("modifiedNanos", I64(1_700_000_000_123_456_789)),
        ("inode", U64(0xdead_beef_01)),
        ("target", Opt(None)),
    ])
}

fn link_entry() -> Value {
    Struct(vec![
        ("path", b(b"/workspace/\xff\xfe-not-utf8")),
        ("type", U8(3)),
        ("size", U64(7)),
        ("mode", U32(0o777)),
        ("uid", U32(4_294_967_294)),
        ("gid", U32(0)),
        ("owner", s("4294967294")),
        ("group", s("root")),
        ("modifiedNanos", I64(-1)),
        ("inode", U64(u64::MAX)),
        ("target", some(b("../a\nb"))),
    ])
}

fn exec(flags: u8, script: Option<Value>) -> Vec<(&'static str, Value)> {
    vec![
        ("execId", s("exe_0a-B")),
        ("flags", U8(flags)),
        ("argv", List(vec![b("/bin/echo"), b(b"h\xc3\xa9\xff"), b("")])),
        ("env", List(vec![b("PATH=/usr/bin:/bin"), b("A=b=c")])),
        ("cwd", s("/workspace")),
        ("user", s("user")),
        ("timeoutMs", U64(60_000)),
        ("cols", U16(80)),
        ("rows", U16(24)),
        ("from", U64(0)),
        ("stdin", b("in\0put")),
        ("tag", s("tägg")),
        ("script", Opt(script.map(Box::new))),
    ]
}

fn exit(kind: u8, value: u8, flags: u8) -> Vec<(&'static str, Value)> {
    vec![
        ("kind", U8(kind)),
        ("value", U8(value)),
        ("flags", U8(flags)),
        ("outputBytes", U64(10_000_000_000)),
        ("durationMs", U64(12)),
    ]
}

fn close(mut fields: Vec<(&'static str, Value)>) -> Value {
    let mut all = vec![("code", U16(0)), ("message", s(""))];
    all.append(&mut fields);
    Struct(all)
}

fn with_op(op_name: &'static str, fields: Value) -> Value {
    let mut all = vec![("op", Note(op_name))];
    if let Struct(mut fields) = fields {
        all.append(&mut fields);
    }
    Struct(all)
}

/// A record is `u32 length` and the record; the length is written here, not shown.
fn records(items: Vec<Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        let mut body = Vec::new();
        item.write(&mut Writer::new(&mut body));
        Writer::new(&mut out).bytes(&body);
    }
    out
}

fn good() -> Vec<Good> {
    let mut all = Vec::new();
    let mut add = |name, direction, kind, channel, fields| all.push(Good { name, direction, kind, channel, fields });
    let hello = |boot: [u8; 16], features, token: &[u8]| {
        Struct(vec![
            ("magic", b("DELTA1")),
            ("version", U32(1)),
            ("bootId", b(boot)),
            ("features", U64(features)),
            ("token", b(token)),
        ])
    };
    add("hello of a host", ToGuest, wire::HELLO, 0, hello([0; 16], 0, b""));
    add("hello of a host with a token", ToGuest, wire::HELLO, 0, hello([0; 16], 0, b"s3cret"));
    add("hello of a guest", ToHost, wire::HELLO, 0, hello(*b"0123456789abcdef", u64::MAX, b""));

    let mut open = |name, number: u8, op_name: &'static str, channel, fields: Vec<(&'static str, Value)>, direction| {
        let mut all = vec![("op", Note(op_name)), ("opCode", U8(number))];
        all.extend(fields);
        add(name, direction, wire::OPEN, channel, Struct(all))
    };
    open("open exec", op::EXEC, "EXEC", 1, exec(4, None), ToGuest);
    open(
        "open exec with a PTY, stdin and a script",
        op::EXEC,
        "EXEC",
        0x7fff_ffff,
        exec(7, Some(b("#!/bin/sh\n"))),
        ToGuest,
    );
    open(
        "open attach",
        op::ATTACH,
        "ATTACH",
        3,
        vec![("execId", s("exe_1")), ("from", U64(9_007_199_254_740_993)), ("stdin", U8(1))],
        ToGuest,
    );
    open("open execs", op::EXECS, "EXECS", 5, vec![], ToGuest);
    open(
        "open signal",
        op::SIGNAL,
        "SIGNAL",
        7,
        vec![("execId", s("exe_1")), ("signal", U8(15)), ("scope", U8(1))],
        ToGuest,
    );
    open("open forget", op::FORGET, "FORGET", 9, vec![("execId", s("exe_1"))], ToGuest);
    open("open stat", op::STAT, "STAT", 11, vec![("path", b(b"/a\xff")), ("follow", U8(1))], ToGuest);
    open(
        "open list",
        op::LIST,
        "LIST",
        13,
        vec![("path", b("/")), ("depth", U32(3)), ("after", b("/a/b")), ("limit", U32(1000))],
        ToGuest,
    );
    open(
        "open read to the end",
        op::READ,
        "READ",
        15,
        vec![("path", b("/a")), ("from", U64(1)), ("length", U64(u64::MAX))],
        ToGuest,
    );
    let write = |mode, owner: &str, flags, if_match| {
        vec![("path", b("/a")), ("mode", U32(mode)), ("owner", s(owner)), ("flags", U8(flags)), ("ifMatch", if_match)]
    };
    open("open write", op::WRITE, "WRITE", 17, write(0o644, "", 1, Opt(None)), ToGuest);
    open(
        "open write with an explicit mode and ifMatch",
        op::WRITE,
        "WRITE",
        19,
        write(0x8000_0000 | 0o4755, "1000:1000", 7, some(s("\"1f-5-2a\""))),
        ToGuest,
    );
    open(
        "open mkdir",
        op::MKDIR,
        "MKDIR",
        21,
        vec![("path", b("/d")), ("mode", U32(0o755)), ("owner", s("root")), ("parents", U8(1))],
        ToGuest,
    );
    open("open move", op::MOVE, "MOVE", 23, vec![("from", b("/a")), ("to", b("/b")), ("overwrite", U8(0))], ToGuest);
    open("open remove", op::REMOVE, "REMOVE", 25, vec![("path", b("/a")), ("recursive", U8(1))], ToGuest);
    open("open chmod", op::CHMOD, "CHMOD", 27, vec![("path", b("/a")), ("mode", U32(0o755))], ToGuest);
    open("open watch", op::WATCH, "WATCH", 29, vec![("path", b("/a")), ("recursive", U8(1))], ToGuest);
    open("open dial", op::DIAL, "DIAL", 31, vec![("port", U16(65535))], ToGuest);
    for (name, channel, host, port, via) in [
        ("open egress by CONNECT", 2, "example.org", 443, wire::via::CONNECT),
        ("open egress by a plain request", 4, "::1", 8080, wire::via::HTTP),
        ("open egress of a redirected connection", 6, "203.0.113.7", 22, wire::via::TCP),
    ] {
        let fields = vec![("host", s(host)), ("port", U16(port)), ("via", U8(via))];
        open(name, op::EGRESS, "EGRESS", channel, fields, ToHost);
    }
    open("open metrics", op::METRICS, "METRICS", 33, vec![], ToGuest);
    open("open sync", op::SYNC, "SYNC", 35, vec![], ToGuest);
    open("open clock", op::CLOCK, "CLOCK", 37, vec![("unixNanos", U64(1_700_000_000_000_000_000))], ToGuest);
    open("open memory", op::MEMORY, "MEMORY", 41, vec![("limitMb", U32(2048))], ToGuest);

    let mut reply = |name, kind, op_name, channel, fields| add(name, ToHost, kind, channel, with_op(op_name, fields));
    let opened = |known| Struct(vec![("pid", U32(7)), ("known", U8(known)), ("start", U64(4096))]);
    reply("opened exec", wire::OPENED, "EXEC", 1, opened(0));
    reply("opened attach", wire::OPENED, "ATTACH", 3, opened(1));
    reply("opened read", wire::OPENED, "READ", 15, Struct(vec![("entry", entry())]));
    reply("opened write", wire::OPENED, "WRITE", 17, Struct(vec![]));
    reply("opened watch", wire::OPENED, "WATCH", 29, Struct(vec![]));
    reply("opened dial", wire::OPENED, "DIAL", 31, Struct(vec![]));
    reply("close exec, exited", wire::CLOSE, "EXEC", 1, close(exit(0, 3, 0)));
    reply("close exec, killed at its timeout for memory", wire::CLOSE, "EXEC", 1, close(exit(1, 9, 3)));
    reply("close attach, unknown", wire::CLOSE, "ATTACH", 3, close(exit(2, 0, 0)));
    let mut background = exit(3, 0, 0);
    background.push(("pid", U32(7)));
    reply("close exec in the background", wire::CLOSE, "EXEC", 1, close(background));
    let info = |kind, argv: Vec<Value>| {
        Struct(vec![
            ("execId", s("exe_1")),
            ("pid", U32(7)),
            ("kind", U8(kind)),
            ("value", U8(0)),
            ("flags", U8(0)),
            ("startedUnixMs", U64(1_700_000_000_000)),
            ("durationMs", U64(5)),
            ("outputBytes", U64(3)),
            ("start", U64(0)),
            ("argv", List(argv)),
            ("cwd", s("/")),
            ("user", s("root")),
            ("tag", s("")),
            ("pty", U8(0)),
        ])
    };
    let execs = vec![("execs", List(vec![info(3, vec![b("sleep"), b("1")]), info(0, vec![b("true")])]))];
    reply("close execs", wire::CLOSE, "EXECS", 5, close(execs));
    reply("close signal", wire::CLOSE, "SIGNAL", 7, close(vec![]));
    reply("close forget", wire::CLOSE, "FORGET", 9, close(vec![]));
    reply("close stat", wire::CLOSE, "STAT", 11, close(vec![("entry", entry())]));
    reply("close stat of a link", wire::CLOSE, "STAT", 11, close(vec![("entry", link_entry())]));
    reply("close list", wire::CLOSE, "LIST", 13, close(vec![("more", U8(1))]));
    reply("close read", wire::CLOSE, "READ", 15, close(vec![]));
    reply("close write", wire::CLOSE, "WRITE", 17, close(vec![("entry", entry())]));
    reply("close mkdir", wire::CLOSE, "MKDIR", 21, close(vec![("entry", entry())]));
    reply("close move", wire::CLOSE, "MOVE", 23, close(vec![("entry", entry())]));
    reply("close remove", wire::CLOSE, "REMOVE", 25, close(vec![("removed", U64(3))]));
    reply("close chmod", wire::CLOSE, "CHMOD", 27, close(vec![("entry", entry())]));
    reply("close watch", wire::CLOSE, "WATCH", 29, close(vec![]));
    reply("close dial", wire::CLOSE, "DIAL", 31, close(vec![]));
    reply(
        "close metrics",
        wire::CLOSE,
        "METRICS",
        33,
        close(vec![
            ("uptimeMs", U64(1)),
            ("memUsedBytes", U64(2)),
            ("memTotalBytes", U64(3)),
            ("processes", U32(4)),
            ("diskUsedBytes", U64(5)),
            ("diskTotalBytes", U64(6)),
            ("load1Centi", U32(7)),
            ("cpuUserMs", U64(8)),
            ("cpuSystemMs", U64(9)),
        ]),
    );
    reply("close sync", wire::CLOSE, "SYNC", 35, close(vec![]));
    reply("close clock", wire::CLOSE, "CLOCK", 37, close(vec![]));
    reply("close memory", wire::CLOSE, "MEMORY", 41, close(vec![]));
    for code in 1..=23u16 {
        let name: &'static str = Box::leak(format!("close with error {code}").into_boxed_str());
        add(name, ToHost, wire::CLOSE, 39, Struct(vec![("code", U16(code)), ("message", s("No such file: /a."))]));
    }
    add("opened egress", ToGuest, wire::OPENED, 2, Struct(vec![("op", Note("EGRESS"))]));
    add(
        "close egress, refused",
        ToGuest,
        wire::CLOSE,
        2,
        Struct(vec![("op", Note("EGRESS")), ("code", U16(6)), ("message", s("The policy does not list example.org."))]),
    );

    let data = |stream, offset, raw: &[u8]| {
        Struct(vec![("stream", U8(stream)), ("offset", U64(offset)), ("raw", Raw(raw.to_vec()))])
    };
    add("data to a program", ToGuest, wire::DATA, 1, data(0, 0, b"hello\n"));
    add("data of stdout", ToHost, wire::DATA, 1, data(1, 5_000_000_000, b"\x00\xff"));
    add("data of stderr, empty", ToHost, wire::DATA, 1, data(2, 0, b""));
    add("data of entries", ToHost, wire::DATA, 13, data(3, 0, &records(vec![entry(), link_entry()])));
    let event = |kind, path: &str, directory| {
        Struct(vec![("kind", U8(kind)), ("path", b(path)), ("isDirectory", U8(directory))])
    };
    let events = records(vec![event(1, "/w/new", 1), event(2, "/w/a", 0), event(4, "/w/a", 0), event(6, "/w", 1)]);
    add("data of watch events", ToHost, wire::DATA, 29, data(3, 64, &events));
    add("credit to the guest", ToGuest, wire::CREDIT, 1, Struct(vec![("bytes", U32(65536))]));
    add("credit to the host", ToHost, wire::CREDIT, 1, Struct(vec![("bytes", U32(u32::MAX))]));
    add("end to the guest", ToGuest, wire::END, 17, Struct(vec![]));
    add("end to the host", ToHost, wire::END, 31, Struct(vec![]));
    add("cancel", ToGuest, wire::CANCEL, 1, Struct(vec![]));
    add("cancel of an egress", ToHost, wire::CANCEL, 2, Struct(vec![]));
    add("ping", ToGuest, wire::PING, 0, Struct(vec![("number", U64(u64::MAX))]));
    add("pong", ToHost, wire::PONG, 0, Struct(vec![("number", U64(u64::MAX))]));
    add("control: signal", ToGuest, wire::CONTROL, 1, Struct(vec![("kind", U8(1)), ("signal", U8(2))]));
    let resize = Struct(vec![("kind", U8(2)), ("cols", U16(120)), ("rows", U16(40))]);
    add("control: resize", ToGuest, wire::CONTROL, 1, resize);
    add("control: close stdin", ToGuest, wire::CONTROL, 1, Struct(vec![("kind", U8(3))]));
    add(
        "fields of a later version are ignored",
        ToGuest,
        wire::PING,
        0,
        Struct(vec![("number", U64(1)), ("later", Raw(b"more".to_vec()))]),
    );
    all
}

fn encode(vector: &Good) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_frame(&mut out, vector.kind, vector.channel, |w| vector.fields.write(w));
    out
}

fn raw_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_frame(&mut out, kind, 1, |w| w.raw(payload));
    out
}

fn bad(good: &[Good]) -> Vec<Bad> {
    let mut all = Vec::new();
    let mut add = |name: String, direction, bytes: Vec<u8>, error| {
        all.push(Bad { name: Box::leak(name.into_boxed_str()), direction, bytes, error })
    };
    let header = |length: u32, kind: u8| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend([1, 0, 0, 0]);
        bytes
    };
    for length in 0..5 {
        add(
            format!("length {length} is below a header"),
            ToGuest,
            header(length, wire::PING),
            Some(WireError::FrameTooShort),
        );
    }
    for kind in [0, 12, 100, 255] {
        add(format!("type {kind} is unknown"), ToGuest, header(5, kind), Some(WireError::UnknownKind));
        add(format!("type {kind} is unknown to the host"), ToHost, header(5, kind), Some(WireError::UnknownKind));
    }
    let largest = wire::MAX_PAYLOAD_BYTES as u32 + 5;
    add("a length of 4 GiB".into(), ToHost, header(u32::MAX, wire::DATA), Some(WireError::FrameTooLarge));
    add("DATA one byte too large".into(), ToHost, header(largest + 1, wire::DATA), Some(WireError::FrameTooLarge));
    add("DATA as large as allowed, not all there".into(), ToHost, header(largest, wire::DATA), None);
    let largest_open = wire::MAX_OPEN_BYTES as u32 + 5;
    add(
        "OPEN one byte too large".into(),
        ToGuest,
        header(largest_open + 1, wire::OPEN),
        Some(WireError::FrameTooLarge),
    );
    add("OPEN as large as allowed, not all there".into(), ToGuest, header(largest_open, wire::OPEN), None);
    add(
        "OPEN of a guest has the small limit".into(),
        ToHost,
        header(largest + 1, wire::OPEN),
        Some(WireError::FrameTooLarge),
    );
    add("nothing yet".into(), ToHost, vec![], None);
    add("three bytes of a length".into(), ToHost, vec![9, 0, 0], None);
    add("a header alone".into(), ToHost, header(13, wire::PONG), None);
    // Cut each vector's payload in the middle of its last field and let the length tell the truth about it.
    for vector in good {
        let whole = encode(vector);
        let payload = &whole[wire::HEADER_BYTES..];
        let ends_open = matches!(vector.kind, wire::DATA) || vector.name.starts_with("fields of");
        if payload.is_empty() || ends_open {
            continue;
        }
        let mut cut = Vec::new();
        wire::put_frame(&mut cut, vector.kind, vector.channel, |w| w.raw(&payload[..payload.len() - 1]));
        add(format!("cut: {}", vector.name), vector.direction, cut, Some(WireError::Truncated));
    }
    add("DATA without its offset".into(), ToHost, raw_frame(wire::DATA, &[1, 0, 0]), Some(WireError::Truncated));
    add("OPEN without an op".into(), ToGuest, raw_frame(wire::OPEN, &[]), Some(WireError::Truncated));
    add("OPEN of an unknown op".into(), ToGuest, raw_frame(wire::OPEN, &[99]), Some(WireError::BadValue));
    let lying = |fields: &[u8]| raw_frame(wire::OPEN, fields);
    add("a path that claims 4 GiB".into(), ToGuest, lying(&[10, 255, 255, 255, 255, b'/']), Some(WireError::Truncated));
    add(
        "an argv that claims 4 billion items".into(),
        ToGuest,
        lying(&[1, 1, 0, 0, 0, b'a', 4, 255, 255, 255, 255, 1, 0, 0, 0, b'x']),
        Some(WireError::Truncated),
    );
    add("an exec id that is not UTF-8".into(), ToGuest, lying(&[5, 1, 0, 0, 0, 0xff]), Some(WireError::BadUtf8));
    let mut write = vec![13, 1, 0, 0, 0, b'/', 0, 0, 0, 0, 0, 0, 0, 0, 0];
    write.push(2);
    add("an opt that is neither 0 nor 1".into(), ToGuest, lying(&write), Some(WireError::BadValue));
    add("CONTROL of an unknown kind".into(), ToGuest, raw_frame(wire::CONTROL, &[9]), Some(WireError::BadValue));
    all
}

/// What a receiver does with one frame: cut it out, then read the fields its kind has.
fn decode(direction: Direction, bytes: &[u8], shape: Option<&Value>) -> Result<Option<Value>, WireError> {
    let mut decoder = FrameDecoder::new(direction.rules());
    decoder.push(bytes);
    let frame = match decoder.next_frame()? {
        None => return Ok(None),
        Some(frame) => frame,
    };
    if frame.kind == wire::OPEN && direction == ToGuest {
        Request::parse(frame.payload)?;
    }
    if let Some(shape) = shape {
        return shape.read_like(&mut frame.reader()).map(Some);
    }
    let mut r = frame.reader();
    match (frame.kind, direction) {
        (wire::DATA, _) => {
            r.u8()?;
            r.u64()?;
        }
        (wire::CONTROL, _) => messages::Control::parse(frame.payload).map(drop)?,
        (wire::CREDIT, _) => r.u32().map(drop)?,
        _ => {}
    }
    Ok(Some(Struct(vec![])))
}

fn render() -> String {
    let good = good();
    let mut lines = Vec::new();
    let direction = |d| if d == ToGuest { "to_guest" } else { "to_host" };
    for vector in &good {
        let mut line = String::from("{\"name\":");
        json_string(vector.name, &mut line);
        write!(
            line,
            ",\"direction\":\"{}\",\"hex\":\"{}\",\"ok\":true",
            direction(vector.direction),
            hex(&encode(vector))
        )
        .unwrap();
        write!(line, ",\"frame\":{{\"type\":\"{}\",\"channel\":{}", kind_name(vector.kind), vector.channel).unwrap();
        if let Struct(fields) = &vector.fields {
            for (name, value) in fields {
                write!(line, ",\"{name}\":").unwrap();
                value.json(&mut line);
            }
        }
        line.push_str("}}");
        lines.push(line);
    }
    for vector in bad(&good) {
        let mut line = String::from("{\"name\":");
        json_string(vector.name, &mut line);
        let error = vector.error.map_or("incomplete", WireError::name);
        write!(
            line,
            ",\"direction\":\"{}\",\"hex\":\"{}\",\"ok\":false,\"error\":\"{error}\"",
            direction(vector.direction),
            hex(&vector.bytes)
        )
        .unwrap();
        if let Some(source) = vector.name.strip_prefix("cut: ") {
            let source = good.iter().find(|other| other.name == source).unwrap();
            write!(line, ",\"frame\":{{\"type\":\"{}\",\"channel\":{}", kind_name(source.kind), source.channel)
                .unwrap();
            if let Struct(fields) = &source.fields {
                if let Some((_, op @ Note(_))) = fields.first() {
                    line.push_str(",\"op\":");
                    op.json(&mut line);
                }
            }
            line.push('}');
        }
        line.push('}');
        lines.push(line);
    }
    format!("[\n{}\n]\n", lines.join(",\n"))
}

#[test]
fn the_file_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/wire.json");
    let rendered = render();
    if std::env::var_os("DELTA_WRITE_VECTORS").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(kept == rendered, "vectors/wire.json is stale: run DELTA_WRITE_VECTORS=1 cargo test --test guest_vectors");
}

#[test]
fn good_vectors_decode_to_their_fields_however_they_are_cut() {
    for vector in good() {
        let bytes = encode(&vector);
        let decoded = decode(vector.direction, &bytes, Some(&vector.fields));
        assert_eq!(decoded, Ok(Some(vector.fields.clone())), "{}", vector.name);
        for cut in 0..bytes.len() {
            let part = decode(vector.direction, &bytes[..cut], Some(&vector.fields));
            assert_eq!(part, Ok(None), "{} cut at {cut}", vector.name);
        }
    }
}

#[test]
fn bad_vectors_fail_as_they_say() {
    let good = good();
    for vector in bad(&good) {
        let source = vector.name.strip_prefix("cut: ").and_then(|name| good.iter().find(|other| other.name == name));
        let decoded = decode(vector.direction, &vector.bytes, source.map(|source| &source.fields));
        match vector.error {
            None => assert_eq!(decoded, Ok(None), "{}", vector.name),
            Some(error) => assert_eq!(decoded, Err(error), "{}", vector.name),
        }
    }
}
