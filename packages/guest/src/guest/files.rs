//! File channels: the loop's side of what `disk` does in workers.

use super::connection::{Channel, Role};
use super::disk::{self, WriteFile};
use super::failure::Failure;
use super::messages::{Request, Write};
use super::serve::{At, Guest};
use crate::wire::{self, stream, Writer, DATA_BYTES};
use std::collections::VecDeque;
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// What one job reads of a file, or lists, before it hands over.
const JOB_BYTES: usize = 256 << 10;

/// `file` is None until it is open, and while a job has it.
pub struct ReadState {
    file: Option<OwnedFd>,
    next: u64,
    left: u64,
}

impl ReadState {
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.file.take()
    }
}

/// `file` is None until it is open, and while a job has it. `queue` is bounded by the channel's credit.
pub struct WriteState {
    file: Option<WriteFile>,
    queue: Vec<u8>,
    ended: bool,
}

impl WriteState {
    pub fn take(&mut self) -> Option<WriteFile> {
        self.file.take()
    }
}

pub struct ListState {
    path: Vec<u8>,
    depth: u32,
    after: Vec<u8>,
    left: u32,
    records: VecDeque<Vec<u8>>,
    busy: bool,
    /// No further page is needed; whether there would have been one.
    done: Option<bool>,
    cancel: Arc<AtomicBool>,
}

impl ListState {
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Guest {
    pub fn open_file_request(&mut self, at: At, request: Request) {
        match request {
            Request::Stat { path, follow } => {
                self.job(at, move |_| disk::stat(&path, follow), |entry, w| entry.write(w))
            }
            Request::Mkdir { path, mode, owner, parents } => {
                self.job(at, move |_| disk::mkdir(&path, mode, &owner, parents), |entry, w| entry.write(w))
            }
            Request::Move { from, to, overwrite } => {
                self.job(at, move |_| disk::rename(&from, &to, overwrite), |entry, w| entry.write(w))
            }
            Request::Remove { path, recursive } => {
                self.job(at, move |cancel| disk::remove(&path, recursive, cancel), |removed, w| w.u64(removed))
            }
            Request::Chmod { path, mode } => self.job(at, move |_| disk::chmod(&path, mode), |entry, w| entry.write(w)),
            Request::Sync => self.job(at, |_| disk::sync(), |(), _| {}),
            Request::Read { path, from, length } => self.open_read(at, path, from, length),
            Request::Write(request) => self.open_write(at, *request),
            Request::List { path, depth, after, limit } => self.open_list(at, path, depth, after, limit),
            _ => {}
        }
    }

    /// An operation that is one job, answered by CLOSE.
    fn job<T: Send + 'static>(
        &mut self,
        at: At,
        run: impl FnOnce(&AtomicBool) -> Result<T, Failure> + Send + 'static,
        fields: impl FnOnce(T, &mut Writer<'_>) + Send + 'static,
    ) {
        let cancel = Arc::new(AtomicBool::new(false));
        self.add_channel(at, Role::Job { cancel: cancel.clone() });
        self.work(move || {
            let result = run(&cancel);
            Box::new(move |guest| {
                if guest.channel(at).is_none() {
                    return;
                }
                match result {
                    Ok(value) => guest.close(at, |w| fields(value, w)),
                    Err(failure) => guest.refuse(at, failure),
                }
            })
        });
    }

    fn open_read(&mut self, at: At, path: Vec<u8>, from: u64, length: u64) {
        self.add_channel(at, Role::Read(ReadState { file: None, next: from, left: length }));
        self.work(move || {
            let result = disk::open_read(&path);
            Box::new(move |guest| match result {
                Err(failure) => guest.refuse_open(at, failure),
                Ok((file, entry)) => match guest.channel(at).map(|channel| &mut channel.role) {
                    Some(Role::Read(state)) => {
                        state.file = Some(file);
                        guest.send(at.0, wire::OPENED, at.1, |w| entry.write(w));
                        guest.want_to_send(at);
                    }
                    _ => guest.drop_later(Some(file)),
                },
            })
        });
    }

    fn refuse_open(&mut self, at: At, failure: Failure) {
        if self.channel(at).is_some() {
            self.refuse(at, failure);
        }
    }

    /// Has a worker read what the channel has credit for.
    pub fn pump_read(&mut self, at: At) -> bool {
        let (credit, sent, state) = match self.channel(at) {
            Some(Channel { role: Role::Read(state), credit, sent, .. }) => (*credit, *sent, state),
            _ => return false,
        };
        if state.left == 0 && state.file.is_some() {
            let file = state.take();
            self.drop_later(file);
            self.close(at, |_| {});
            return false;
        }
        let count = credit.min(state.left).min(JOB_BYTES as u64) as usize;
        let next = state.next;
        let file = match state.file.take() {
            Some(file) if count > 0 => file,
            file => {
                state.file = file;
                return false;
            }
        };
        self.work(move || {
            let result = disk::read_frames(file.as_raw_fd(), next, count, at.1, sent);
            Box::new(move |guest| guest.on_read(at, file, result))
        });
        false
    }

    fn on_read(&mut self, at: At, file: OwnedFd, result: Result<(Vec<u8>, usize, bool), Failure>) {
        let channel = match self.channel(at) {
            Some(channel) => channel,
            None => return self.drop_later(Some(file)),
        };
        let (frames, count, ended) = match result {
            Ok(read) => read,
            Err(failure) => {
                self.drop_later(Some(file));
                return self.refuse(at, failure);
            }
        };
        channel.sent += count as u64;
        channel.credit -= count as u64;
        if let Role::Read(state) = &mut channel.role {
            state.file = Some(file);
            state.next += count as u64;
            state.left = if ended { 0 } else { state.left - count as u64 };
        }
        if let Some(connection) = self.connections.get_mut(&at.0) {
            connection.outbox.frames(frames);
        }
        self.want_to_send(at);
    }

    fn open_write(&mut self, at: At, request: Write) {
        self.add_channel(at, Role::Write(WriteState { file: None, queue: Vec::new(), ended: false }));
        self.work(move || {
            let result = disk::open_write(&request);
            Box::new(move |guest| match result {
                Err(failure) => guest.refuse_open(at, failure),
                Ok(file) => match guest.channel(at).map(|channel| &mut channel.role) {
                    Some(Role::Write(state)) => {
                        state.file = Some(file);
                        guest.send(at.0, wire::OPENED, at.1, |_| {});
                        guest.advance_write(at);
                    }
                    _ => guest.drop_later(Some(file)),
                },
            })
        });
    }

    pub fn on_write_data(&mut self, at: At, bytes: &[u8]) {
        if let Some(Role::Write(state)) = self.channel(at).map(|channel| &mut channel.role) {
            if !state.ended {
                state.queue.extend_from_slice(bytes);
            }
        }
        self.advance_write(at);
    }

    pub fn on_write_end(&mut self, at: At) {
        if let Some(Role::Write(state)) = self.channel(at).map(|channel| &mut channel.role) {
            state.ended = true;
        }
        self.advance_write(at);
    }

    /// Gives a worker what has come, or the end.
    fn advance_write(&mut self, at: At) {
        let state = match self.channel(at).map(|channel| &mut channel.role) {
            Some(Role::Write(state)) => state,
            _ => return,
        };
        if state.queue.is_empty() && !state.ended {
            return;
        }
        let file = match state.file.take() {
            Some(file) => file,
            None => return,
        };
        let bytes = std::mem::take(&mut state.queue);
        if bytes.is_empty() {
            return self.work(move || {
                let result = file.finish();
                Box::new(move |guest| {
                    if guest.channel(at).is_some() {
                        match result {
                            Ok(entry) => guest.close(at, |w| entry.write(w)),
                            Err(failure) => guest.refuse(at, failure),
                        }
                    }
                })
            });
        }
        self.work(move || {
            let result = file.write(&bytes);
            let count = bytes.len() as u64;
            Box::new(move |guest| guest.on_written(at, file, count, result))
        });
    }

    fn on_written(&mut self, at: At, file: WriteFile, count: u64, result: Result<(), Failure>) {
        let state = match self.channel(at).map(|channel| &mut channel.role) {
            Some(Role::Write(state)) => state,
            _ => return self.drop_later(Some(file)),
        };
        if let Err(failure) = result {
            self.drop_later(Some(file));
            return self.refuse(at, failure);
        }
        state.file = Some(file);
        self.give_credit(at, count);
        self.advance_write(at);
    }

    fn open_list(&mut self, at: At, path: Vec<u8>, depth: u32, after: Vec<u8>, limit: u32) {
        let cancel = Arc::new(AtomicBool::new(false));
        let state =
            ListState { path, depth, after, left: limit, records: VecDeque::new(), busy: false, done: None, cancel };
        self.add_channel(at, Role::List(state));
        self.want_to_send(at);
    }

    pub fn pump_list(&mut self, at: At) -> bool {
        let (credit, state) = match self.channel(at) {
            Some(Channel { role: Role::List(state), credit, .. }) => (*credit, state),
            _ => return false,
        };
        if state.records.is_empty() {
            return self.next_page(at);
        }
        let frame = take_records(&mut state.records, credit);
        if frame.is_empty() {
            return false;
        }
        self.send_data(at, stream::RECORDS, &frame);
        true
    }

    fn next_page(&mut self, at: At) -> bool {
        let state = match self.channel(at).map(|channel| &mut channel.role) {
            Some(Role::List(state)) if !state.busy => state,
            _ => return false,
        };
        if let Some(more) = state.done {
            self.close(at, |w| w.u8(more as u8));
            return false;
        }
        state.busy = true;
        let (path, depth, after, left) = (state.path.clone(), state.depth, state.after.clone(), state.left);
        let cancel = state.cancel.clone();
        self.work(move || {
            let result = disk::list(&path, depth, &after, left, JOB_BYTES, &cancel);
            Box::new(move |guest| guest.on_page(at, result))
        });
        false
    }

    fn on_page(&mut self, at: At, result: Result<disk::Page, Failure>) {
        let state = match self.channel(at).map(|channel| &mut channel.role) {
            Some(Role::List(state)) => state,
            _ => return,
        };
        match result {
            Err(failure) => self.refuse(at, failure),
            Ok(page) => {
                state.busy = false;
                state.left -= page.entries;
                if !page.more || state.left == 0 {
                    state.done = Some(page.more);
                }
                state.after = page.last;
                state.records.extend(page.records);
                self.want_to_send(at);
            }
        }
    }
}

/// As many whole records as fit one frame and the credit.
pub fn take_records(records: &mut VecDeque<Vec<u8>>, credit: u64) -> Vec<u8> {
    let room = (credit as usize).min(DATA_BYTES);
    let mut frame = Vec::new();
    while let Some(record) = records.pop_front() {
        if frame.len() + record.len() > room {
            records.push_front(record);
            break;
        }
        frame.extend_from_slice(&record);
    }
    frame
}
