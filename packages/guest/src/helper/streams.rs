//! Long answers: a socket in the wires' folder that one connection is taken on, and chunks on it (docs/helper-protocol.md, "Streams").

use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::io::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::bases::{self, Base};
use super::boxes::Boxes;
use super::error::{code, Context, Error, Result};
use super::layers::{self, Limits, View};
use super::pool::{is_snapshot, Held};
use super::sys;
use crate::wire::Writer;

pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// How much is gathered before it is sent.
const CHUNK_BYTES: usize = 256 << 10;
/// Sent and not read yet, as the kernel counts it: with what it needs itself, about a mebibyte of bytes.
const SEND_BUFFER_BYTES: i32 = 2 << 20;
/// How long the socket waits for its one connection.
const ACCEPT_WAIT: Duration = Duration::from_secs(10);
/// A peer that takes nothing, or sends nothing, for so long is gone: the storage behind it may be away for minutes.
const IDLE_WAIT: Duration = Duration::from_secs(600);
/// The same of one that looks at a snapshot, behind which there may be anybody.
const LOOK_IDLE_WAIT: Duration = Duration::from_secs(90);
/// What may come after the end of an archive: the rest of its last block, and more of those than any program writes.
const PADDING_BYTES_MAX: u64 = 1 << 20;
/// How long a peer may go on sending what nobody reads any more, before it looks at the answer.
const LEAVE_WAIT: Duration = Duration::from_secs(10);
const MESSAGE_BYTES_MAX: usize = 4_096;

/// What has gone over a stream, told at its end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub entries: u64,
    pub bytes: u64,
}

/// The sockets that are in use, so that they can be cut.
#[derive(Default)]
pub struct Streams {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<UnixStream>>>,
    /// How often all were cut.
    cuts: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A name in the wires' folder; gone when this is.
struct Name<'a> {
    boxes: &'a Boxes,
    name: String,
}

impl Drop for Name<'_> {
    fn drop(&mut self) {
        self.boxes.close_stream(&self.name);
    }
}

/// A connected stream; off the list when dropped.
struct Connected<'a> {
    streams: &'a Streams,
    number: u64,
    socket: Arc<UnixStream>,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        lock(&self.streams.open).remove(&self.number);
    }
}

/// A stream that has its name and waits for whoever asked for it.
pub struct Door<'a> {
    streams: &'a Streams,
    number: u64,
    cuts: u64,
    listener: UnixListener,
    name: Name<'a>,
}

impl Streams {
    pub fn open<'a>(&'a self, boxes: &'a Boxes) -> Result<Door<'a>> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let name = format!("stream-{}", number);
        let listener = boxes.open_stream(&name)?;
        Ok(Door {
            streams: self,
            number,
            cuts: self.cuts.load(Ordering::SeqCst),
            listener: UnixListener::from(listener),
            name: Name { boxes, name },
        })
    }

    /// Ends all of them: nobody listens any more.
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
        for socket in lock(&self.open).values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl<'a> Door<'a> {
    pub fn name(&self) -> &str {
        &self.name.name
    }

    /// The one connection; None where nobody came. The name is gone when this returns.
    fn accept(self, idle: Duration) -> Result<Option<Connected<'a>>> {
        let end = Instant::now() + ACCEPT_WAIT;
        let is_cut = |door: &Door<'_>| door.streams.cuts.load(Ordering::SeqCst) != door.cuts;
        loop {
            if Instant::now() >= end || is_cut(&self) {
                return Ok(None);
            }
            let come = sys::wait_readable(&[self.listener.as_raw_fd()], Duration::from_millis(100));
            if come.context("waiting for a connection")?[0] {
                break;
            }
        }
        let (socket, _) = self.listener.accept().context("accepting a connection")?;
        give_up_after(&socket, idle)?;
        sys::widen_send_buffer(socket.as_raw_fd(), SEND_BUFFER_BYTES);
        let socket = Arc::new(socket);
        lock(&self.streams.open).insert(self.number, socket.clone());
        let connected = Connected { streams: self.streams, number: self.number, socket };
        // After it is listed: whoever cuts from here on finds it.
        Ok(if is_cut(&self) { None } else { Some(connected) })
    }
}

fn give_up_after(socket: &UnixStream, idle: Duration) -> Result<()> {
    socket.set_read_timeout(Some(idle)).context("preparing a connection")?;
    socket.set_write_timeout(Some(idle)).context("preparing a connection")
}

/// Sends what is written as chunks.
pub struct ChunkWriter<Out: Write> {
    out: Out,
    held: Vec<u8>,
    /// The peer is gone: there is nobody to tell.
    broken: bool,
}

impl<Out: Write> ChunkWriter<Out> {
    pub fn new(out: Out) -> ChunkWriter<Out> {
        ChunkWriter { out, held: Vec::with_capacity(CHUNK_BYTES), broken: false }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = send_chunk(&mut self.out, bytes);
        self.broken |= sent.is_err();
        sent
    }

    /// The end of the chunks, and how it went.
    pub fn finish(mut self, result: &Result<Counts>) -> io::Result<()> {
        if self.broken {
            return Ok(());
        }
        // What was gathered before an error is of no use: whoever reads learns that the whole is none.
        if result.is_ok() {
            self.flush()?;
        }
        let mut tail = 0u32.to_le_bytes().to_vec();
        write_tail(&mut tail, result);
        self.out.write_all(&tail)
    }
}

impl<Out: Write> Write for ChunkWriter<Out> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.held.is_empty() && bytes.len() >= CHUNK_BYTES {
            let piece = &bytes[..bytes.len().min(CHUNK_BYTES_MAX)];
            return self.send(piece).map(|()| piece.len());
        }
        let count = bytes.len().min(CHUNK_BYTES - self.held.len());
        self.held.extend_from_slice(&bytes[..count]);
        if self.held.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let sent = self.send(&held);
        self.held = held;
        self.held.clear();
        sent
    }
}

/// Length and bytes at once, as far as they go: the reader is woken once.
fn send_chunk(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let head = (bytes.len() as u32).to_le_bytes();
    let sent = loop {
        match out.write_vectored(&[IoSlice::new(&head), IoSlice::new(bytes)]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => break sent,
        }
    };
    out.write_all(head.get(sent..).unwrap_or_default())?;
    out.write_all(&bytes[sent.saturating_sub(head.len())..])
}

fn write_tail(out: &mut Vec<u8>, result: &Result<Counts>) {
    let mut writer = Writer::new(out);
    let counts = match result {
        Ok(counts) => {
            writer.u16(0);
            writer.str("");
            *counts
        }
        Err(error) => {
            writer.u16(error.code);
            let told = error.told();
            let end = (0..=told.len().min(MESSAGE_BYTES_MAX)).rev().find(|at| told.is_char_boundary(*at));
            writer.str(&told[..end.unwrap_or(0)]);
            Counts::default()
        }
    };
    writer.u64(counts.entries);
    writer.u64(counts.bytes);
}

/// Reads chunks as the bytes they carry; at the chunk of no length it ends.
pub struct ChunkReader<In: Read> {
    input: In,
    left: usize,
    ended: bool,
}

impl<In: Read> ChunkReader<In> {
    pub fn new(input: In) -> ChunkReader<In> {
        ChunkReader { input, left: 0, ended: false }
    }

    /// Reads on to the end of what was sent, which must be near.
    fn finish(&mut self) -> Result<()> {
        let mut buffer = [0; 64 << 10];
        let mut passed = 0;
        loop {
            let count = self.read(&mut buffer).context("reading the end of the layer")?;
            if count == 0 {
                return Ok(());
            }
            passed += count as u64;
            if passed > PADDING_BYTES_MAX {
                return Err(Error::new(code::INVALID, "more than 1 MiB follows the end of the archive"));
            }
        }
    }
}

impl<In: Read> Read for ChunkReader<In> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut length = [0; 4];
            self.input.read_exact(&mut length)?;
            self.left = u32::from_le_bytes(length) as usize;
            if self.left > CHUNK_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is longer than 1 MiB"));
            }
            self.ended = self.left == 0;
        }
        if self.ended {
            return Ok(0);
        }
        let wanted = buffer.len().min(self.left);
        match self.input.read(&mut buffer[..wanted])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream was cut")),
            count => {
                self.left -= count;
                Ok(count)
            }
        }
    }
}

/// Says what the answer to the request is: the socket's name, or why there is none.
pub type Answer<'a> = &'a mut dyn FnMut(Result<Vec<u8>>);

fn admit<'a>(streams: &'a Streams, boxes: &'a Boxes, idle: Duration, answer: Answer<'_>) -> Option<Connected<'a>> {
    let door = match streams.open(boxes) {
        Ok(door) => door,
        Err(error) => {
            answer(Err(error));
            return None;
        }
    };
    let mut fields = Vec::new();
    Writer::new(&mut fields).str(door.name());
    answer(Ok(fields));
    door.accept(idle).ok().flatten()
}

/// What stays as it is while a stream reads it.
struct Source<'a> {
    view: Option<View>,
    parent: Option<View>,
    base: Base,
    _held: Vec<Held<'a>>,
}

fn view_of(boxes: &Boxes, id: &str) -> View {
    let folder = boxes.pool.snapshot_path(id);
    let usr = Some(folder.join("usr")).filter(|path| path.is_dir());
    View { root: folder.join("upper"), usr }
}

fn source<'a>(boxes: &'a Boxes, id: &str, parent: &str) -> Result<Source<'a>> {
    let held = boxes.pool.hold(id)?;
    let base = bases::resolve(boxes.data(), &boxes.pool, &held.template)?;
    let mut source = Source { view: Some(view_of(boxes, id)), parent: None, base, _held: Vec::new() };
    // Its own template is what it is compared to anyway.
    if !parent.is_empty() && parent != held.template {
        let other = boxes.pool.hold(parent)?;
        if other.template != held.template {
            return Err(Error::new(
                code::INVALID,
                format!("{} stands on {} and {} on {}: only snapshots on one template can be compared", id, held.template, parent, other.template),
            ));
        }
        source.parent = Some(view_of(boxes, parent));
        source._held.push(other);
    }
    source._held.push(held);
    Ok(source)
}

/// A template as it is: a snapshot's own files are packed by `source`.
fn whole(boxes: &Boxes, template: &str) -> Result<Source<'static>> {
    let base = bases::resolve(boxes.data(), &boxes.pool, template)?;
    Ok(Source { view: None, parent: None, base, _held: Vec::new() })
}

fn give(
    (streams, boxes, idle): (&Streams, &Boxes, Duration),
    answer: Answer<'_>,
    source: Result<Source<'_>>,
    work: impl FnOnce(&Source<'_>, &mut dyn Write) -> Result<Counts>,
) {
    let source = match source {
        Ok(source) => source,
        Err(error) => return answer(Err(error)),
    };
    if let Some(connected) = admit(streams, boxes, idle, answer) {
        let mut out = ChunkWriter::new(&*connected.socket);
        let result = work(&source, &mut out);
        // Before the end is told: whoever hears it may drop what was read.
        drop(source);
        // A peer that is gone needs no word.
        let _ = out.finish(&result);
    }
}

pub fn pack(streams: &Streams, boxes: &Boxes, (id, parent): (&str, &str), answer: Answer<'_>) {
    let found = match is_snapshot(id) {
        true => source(boxes, id, parent),
        false if parent.is_empty() => whole(boxes, id),
        false => Err(Error::new(code::INVALID, "a template is packed whole: it has no parent")),
    };
    give((streams, boxes, IDLE_WAIT), answer, found, |source, out| {
        let packed = match &source.view {
            Some(view) => layers::pack(view, source.parent.as_ref(), &source.base, out)?,
            None => layers::pack_base(&source.base, out)?,
        };
        Ok(Counts { entries: packed.entries, bytes: packed.bytes })
    });
}

pub fn changes(streams: &Streams, boxes: &Boxes, (id, parent): (&str, &str), answer: Answer<'_>) {
    give((streams, boxes, LOOK_IDLE_WAIT), answer, source(boxes, id, parent), |source, out| {
        let (mut entries, mut record) = (0, Vec::new());
        let view = source.view.as_ref().ok_or_else(|| Error::new(code::INVALID, "a template has no changes"))?;
        layers::changes(view, source.parent.as_ref(), &source.base, &mut |change| {
            record.clear();
            let mut writer = Writer::new(&mut record);
            writer.u8(change.kind as u8);
            writer.u8(change.type_ as u8);
            writer.u64(change.size);
            writer.u32(change.path.len() as u32 + 1);
            writer.u8(b'/');
            writer.raw(change.path);
            entries += 1;
            out.write_all(&record).context("sending the changes")
        })?;
        Ok(Counts { entries, bytes: 0 })
    });
}

pub fn read(streams: &Streams, boxes: &Boxes, (id, path): (&str, &str), answer: Answer<'_>) {
    give((streams, boxes, LOOK_IDLE_WAIT), answer, source(boxes, id, ""), |source, out| {
        let view = source.view.as_ref().ok_or_else(|| Error::new(code::INVALID, "a template has no files of its own"))?;
        let bytes = layers::read(view, &source.base, path.as_bytes(), out)?;
        Ok(Counts { entries: 1, bytes })
    });
}

pub fn apply(streams: &Streams, boxes: &Boxes, upper_id: &str, limits: Limits, answer: Answer<'_>) {
    let prepared = boxes.claim(upper_id).and_then(|claim| {
        let (view, base) = boxes.writable(upper_id)?;
        Ok((claim, view, base))
    });
    let (claim, view, base) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return answer(Err(error)),
    };
    if let Some(connected) = admit(streams, boxes, IDLE_WAIT, answer) {
        let mut input = ChunkReader::new(&*connected.socket);
        let result = layers::apply(&mut input, &view, &base, limits).and_then(|applied| {
            input.finish()?;
            Ok(Counts { entries: applied.entries, bytes: applied.bytes })
        });
        boxes.step("applied");
        // Before the end is told: whoever hears it may use the upper, or drop it.
        drop(claim);
        let mut tail = Vec::new();
        write_tail(&mut tail, &result);
        let _ = (&*connected.socket).write_all(&tail);
        if result.is_err() {
            leave(&connected.socket);
        }
    }
}

/// Takes what is still being sent, so that the peer finds the answer and no broken connection.
fn leave(socket: &UnixStream) {
    let end = Instant::now() + LEAVE_WAIT;
    let _ = socket.shutdown(Shutdown::Write);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut socket = socket;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return;
        }
        if matches!(socket.read(&mut buffer), Ok(0) | Err(_)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(writes: &[usize], result: &Result<Counts>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = ChunkWriter::new(&mut out);
        for (at, length) in writes.iter().enumerate() {
            writer.write_all(&vec![at as u8; *length]).unwrap();
        }
        writer.finish(result).unwrap();
        out
    }

    #[test]
    fn chunks_come_back_as_what_was_written_whatever_the_pieces() {
        let writes = [0, 1, 5, CHUNK_BYTES - 6, 1, 3 * CHUNK_BYTES_MAX + 7, 2];
        let out = sent(&writes, &Ok(Counts { entries: 3, bytes: 9 }));
        let mut rest = &out[..];
        let mut reader = ChunkReader::new(&mut rest);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let wanted: Vec<u8> = writes.iter().enumerate().flat_map(|(at, length)| vec![at as u8; *length]).collect();
        assert!(bytes == wanted, "{} bytes of {}", bytes.len(), wanted.len());
        let mut tail = crate::wire::Reader::new(rest);
        assert_eq!((tail.u16(), tail.str(), tail.u64(), tail.u64()), (Ok(0), Ok(""), Ok(3), Ok(9)));
    }

    #[test]
    fn an_error_ends_the_chunks_and_is_named() {
        let out = sent(&[10], &Err(Error::new(code::INVALID, "é".repeat(MESSAGE_BYTES_MAX))));
        assert_eq!(out[..4], [0; 4]);
        let mut tail = crate::wire::Reader::new(&out[4..]);
        assert_eq!(tail.u16(), Ok(code::INVALID));
        assert_eq!(tail.str().unwrap().len(), MESSAGE_BYTES_MAX);
    }

    #[test]
    fn a_peer_that_takes_nothing_ends_the_stream_and_one_that_takes_a_little_does_not() {
        let (near, far) = UnixStream::pair().unwrap();
        give_up_after(&near, Duration::from_millis(50)).unwrap();
        let mut writer = ChunkWriter::new(&near);
        // More than any socket holds.
        let sent = (0..1_000).try_for_each(|_| writer.write_all(&[0; CHUNK_BYTES]));
        assert!(sent.is_err());
        drop(far);
        let (near, far) = UnixStream::pair().unwrap();
        give_up_after(&near, Duration::from_secs(60)).unwrap();
        let reader = std::thread::spawn(move || ChunkReader::new(far).read_to_end(&mut Vec::new()).unwrap());
        let mut writer = ChunkWriter::new(&near);
        for _ in 0..100 {
            writer.write_all(&[0; CHUNK_BYTES]).unwrap();
        }
        writer.finish(&Ok(Counts::default())).unwrap();
        assert_eq!(reader.join().unwrap(), 100 * CHUNK_BYTES);
    }

    #[test]
    fn a_stream_that_is_cut_or_lies_about_a_length_is_an_error_and_no_end() {
        let mut whole = Vec::new();
        whole.extend_from_slice(&5u32.to_le_bytes());
        whole.extend_from_slice(b"hello");
        for end in 1..whole.len() {
            let mut reader = ChunkReader::new(&whole[..end]);
            assert!(reader.read_to_end(&mut Vec::new()).is_err(), "cut at {}", end);
        }
        let lie = (CHUNK_BYTES_MAX as u32 + 1).to_le_bytes();
        assert!(ChunkReader::new(&lie[..]).read_to_end(&mut Vec::new()).is_err());
    }
}
