//! A bounded number of threads that take jobs in the order they came and sleep in between.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle};

use super::error::{code, Context, Error, Result};

/// A thread that only waits keeps a few pages of its stack.
const STACK_BYTES: usize = 512 << 10;

struct Inner<Job> {
    jobs: VecDeque<Job>,
    closed: bool,
}

pub struct Queue<Job> {
    inner: Mutex<Inner<Job>>,
    news: Condvar,
    most: usize,
}

impl<Job> Queue<Job> {
    pub fn new(most: usize) -> Arc<Queue<Job>> {
        Arc::new(Queue {
            inner: Mutex::new(Inner {
                jobs: VecDeque::new(),
                closed: false,
            }),
            news: Condvar::new(),
            most,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<Job>> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn push(&self, job: Job) -> Result<()> {
        let mut inner = self.lock();
        if inner.closed || inner.jobs.len() >= self.most {
            return Err(Error::new(
                code::LIMIT,
                format!("{} requests wait already: try again in a moment", inner.jobs.len()),
            ));
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.news.notify_one();
        Ok(())
    }

    /// The next job; None when the queue is closed and empty.
    fn pop(&self) -> Option<Job> {
        let mut inner = self.lock();
        loop {
            if let Some(job) = inner.jobs.pop_front() {
                return Some(job);
            }
            if inner.closed {
                return None;
            }
            inner = self.news.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// What waits is still done; nothing new is taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.news.notify_all();
    }
}

pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// `prepare` runs once in each thread, before any job; the first failure is returned.
    pub fn start<Job: Send + 'static, Own: 'static>(
        name: &str,
        count: usize,
        queue: &Arc<Queue<Job>>,
        prepare: impl Fn() -> Result<Own> + Send + Sync + 'static,
        run: impl Fn(&Own, Job) + Send + Sync + 'static,
    ) -> Result<Workers> {
        let (prepare, run) = (Arc::new(prepare), Arc::new(run));
        let mut workers = Workers { threads: Vec::new() };
        let (report, reports) = std::sync::mpsc::channel();
        for _ in 0..count {
            let (jobs, prepare, run, report) = (queue.clone(), prepare.clone(), run.clone(), report.clone());
            let body = move || {
                let own = match prepare() {
                    Ok(own) => own,
                    Err(error) => return drop(report.send(Err(error))),
                };
                let _ = report.send(Ok(()));
                drop(report);
                while let Some(job) = jobs.pop() {
                    run(&own, job);
                }
            };
            let thread = Builder::new()
                .name(name.to_string())
                .stack_size(STACK_BYTES)
                .spawn(body)
                .context("starting a thread");
            match thread {
                Ok(thread) => workers.threads.push(thread),
                Err(error) => {
                    queue.close();
                    workers.join();
                    return Err(error);
                }
            }
        }
        drop(report);
        let failed = reports.iter().find_map(|report| report.err());
        match failed {
            None => Ok(workers),
            Some(error) => {
                queue.close();
                workers.join();
                Err(error)
            }
        }
    }

    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_job_is_done_before_the_threads_end() {
        let queue = Queue::new(1_000);
        let sum = Arc::new(AtomicUsize::new(0));
        let seen = sum.clone();
        let mut workers = Workers::start(
            "test",
            3,
            &queue,
            || Ok(()),
            move |_, job: usize| {
                seen.fetch_add(job, Ordering::SeqCst);
            },
        )
        .unwrap();
        for job in 1..=100 {
            queue.push(job).unwrap();
        }
        queue.close();
        workers.join();
        assert_eq!(sum.load(Ordering::SeqCst), 5_050);
        assert!(queue.push(1).is_err());
    }

    #[test]
    fn a_full_queue_refuses() {
        let queue = Queue::new(1);
        queue.push(1).unwrap();
        assert_eq!(queue.push(2).unwrap_err().code, code::LIMIT);
    }

    #[test]
    fn a_thread_that_cannot_prepare_is_an_error() {
        let queue: Arc<Queue<()>> = Queue::new(1);
        let failed = Workers::start(
            "test",
            2,
            &queue,
            || -> Result<()> { Err(Error::new(code::IO, "no")) },
            |_, _| {},
        );
        assert!(failed.is_err());
    }
}
