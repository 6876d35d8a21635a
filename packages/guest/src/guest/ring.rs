//! The output of one exec: the last bytes it wrote to either stream, numbered from its first.

use super::sys::Mapping;
use std::collections::VecDeque;
use std::io;

/// Most bytes kept of one exec's output.
pub const RING_BYTES: usize = 4 << 20;
/// What the first output makes room for.
pub const FIRST_BYTES: usize = 16 << 10;
/// Most changes between stdout and stderr that are remembered. A program that alternates byte by byte would otherwise
/// cost 16 bytes of notes for each byte of output.
const MAX_RUNS: usize = 16 << 10;

/// Bytes `start..end` of the output are kept, each at `offset % capacity`. `runs` are in order, the first begins at or
/// before `start`, each lasts until the next begins, and two neighbours differ in stream.
pub struct Ring {
    memory: Option<Mapping>,
    start: u64,
    end: u64,
    runs: VecDeque<(u64, u8)>,
}

impl Ring {
    pub fn new() -> Ring {
        Ring { memory: None, start: 0, end: 0, runs: VecDeque::new() }
    }

    /// The oldest offset kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Bytes ever appended.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.len())
    }

    /// The capacity it would need to take `count` more bytes without losing any, as far as the limit goes.
    pub fn wanted(&self, count: usize) -> usize {
        let needed = ((self.end - self.start) as usize).saturating_add(count);
        needed.next_power_of_two().clamp(FIRST_BYTES, RING_BYTES).max(self.capacity())
    }

    pub fn grow(&mut self, capacity: usize) -> io::Result<()> {
        if capacity <= self.capacity() {
            return Ok(());
        }
        let mut memory = Mapping::new(capacity)?;
        let mut at = self.start;
        while at < self.end {
            let piece = self.piece(at, self.end);
            let to = (at % capacity as u64) as usize;
            let count = piece.len().min(capacity - to);
            memory[to..to + count].copy_from_slice(&piece[..count]);
            at += count as u64;
        }
        self.memory = Some(memory);
        Ok(())
    }

    /// True where the notes are full: one more change of stream drops the oldest run, which ends at the offset given.
    pub fn next_loss(&self) -> Option<u64> {
        if self.runs.len() < MAX_RUNS {
            return None;
        }
        self.runs.get(1).map(|(start, _)| *start)
    }

    /// Appends, overwriting the oldest. The caller has grown it as far as it may; with no memory at all the bytes only count.
    pub fn append(&mut self, stream: u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.runs.back().map(|(_, last)| *last) != Some(stream) {
            if let Some(loss) = self.next_loss() {
                self.start = self.start.max(loss);
                self.runs.pop_front();
            }
            self.runs.push_back((self.end, stream));
        }
        let capacity = self.capacity();
        let skipped = bytes.len().saturating_sub(capacity);
        let mut at = self.end + skipped as u64;
        self.end += bytes.len() as u64;
        self.start = self.start.max(self.end.saturating_sub(capacity as u64));
        if let Some(memory) = &mut self.memory {
            let mut rest = &bytes[skipped..];
            while !rest.is_empty() {
                let to = (at % capacity as u64) as usize;
                let count = rest.len().min(capacity - to);
                memory[to..to + count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                at += count as u64;
            }
        }
        while self.runs.get(1).map_or(false, |(start, _)| *start <= self.start) {
            self.runs.pop_front();
        }
    }

    /// The next bytes from `offset` that lie together and are of one stream; `offset` must be within `start..end`.
    pub fn read(&self, offset: u64, limit: usize) -> (u8, &[u8]) {
        let after = self.runs.partition_point(|(start, _)| *start <= offset);
        let stream = self.runs[after - 1].1;
        let end = self.runs.get(after).map_or(self.end, |(start, _)| *start);
        let piece = self.piece(offset, end);
        (stream, &piece[..piece.len().min(limit)])
    }

    fn piece(&self, from: u64, to: u64) -> &[u8] {
        let memory = match &self.memory {
            Some(memory) => memory,
            None => return &[],
        };
        let at = (from % memory.len() as u64) as usize;
        let count = ((to - from) as usize).min(memory.len() - at);
        &memory[at..at + count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(ring: &Ring, from: u64) -> Vec<(u8, Vec<u8>)> {
        let mut at = from.max(ring.start());
        let mut all: Vec<(u8, Vec<u8>)> = Vec::new();
        while at < ring.end() {
            let (stream, bytes) = ring.read(at, 1000);
            assert!(!bytes.is_empty());
            at += bytes.len() as u64;
            match all.last_mut() {
                Some((last, kept)) if *last == stream => kept.extend(bytes),
                _ => all.push((stream, bytes.to_vec())),
            }
        }
        all
    }

    #[test]
    fn keeps_both_streams_in_order() {
        let mut ring = Ring::new();
        ring.grow(ring.wanted(10)).unwrap();
        ring.append(1, b"out");
        ring.append(2, b"err");
        ring.append(2, b"or");
        ring.append(1, b"");
        ring.append(1, b"more");
        assert_eq!(drain(&ring, 0), [(1, b"out".to_vec()), (2, b"error".to_vec()), (1, b"more".to_vec())]);
        assert_eq!(drain(&ring, 4), [(2, b"rror".to_vec()), (1, b"more".to_vec())]);
        assert_eq!((ring.start(), ring.end()), (0, 12));
    }

    #[test]
    fn agrees_with_a_plain_list_of_bytes() {
        // A model test: random appends and growths, compared with a Vec that keeps everything.
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..20 {
            let mut ring = Ring::new();
            let mut all: Vec<(u8, u8)> = Vec::new();
            for step in 0..200 {
                let count = random(3000) as usize;
                if random(4) == 0 || ring.capacity() == 0 {
                    let wanted = ring.wanted(count).min(64 << 10);
                    ring.grow(wanted).unwrap();
                }
                let stream = 1 + random(2) as u8;
                let bytes: Vec<u8> = (0..count).map(|at| (step + at) as u8).collect();
                ring.append(stream, &bytes);
                all.extend(bytes.iter().map(|byte| (stream, *byte)));
                assert_eq!(ring.end(), all.len() as u64);
                assert!(ring.end() - ring.start() <= ring.capacity() as u64);
            }
            let kept: Vec<(u8, u8)> =
                drain(&ring, 0).into_iter().flat_map(|(s, bytes)| bytes.into_iter().map(move |b| (s, b))).collect();
            assert_eq!(kept, all[ring.start() as usize..]);
        }
    }

    #[test]
    fn alternating_streams_do_not_grow_its_notes() {
        let mut ring = Ring::new();
        ring.grow(RING_BYTES).unwrap();
        for index in 0..100_000u32 {
            ring.append(1 + (index % 2) as u8, b"x");
        }
        assert_eq!(ring.runs.len(), MAX_RUNS);
        assert_eq!(ring.end(), 100_000);
        assert_eq!(ring.end() - ring.start(), MAX_RUNS as u64);
        assert_eq!(drain(&ring, 0).len(), MAX_RUNS);
    }

    #[test]
    fn without_memory_it_only_counts() {
        let mut ring = Ring::new();
        ring.append(1, b"lost");
        assert_eq!((ring.start(), ring.end()), (4, 4));
    }
}
