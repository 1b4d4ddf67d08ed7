// SPDX-License-Identifier: GPL-2.0

//! Threads for long operations.

use std::{
    sync::{
        mpsc::{channel, Receiver, Sender},
        Arc, Mutex, PoisonError,
    },
    thread::{self, JoinHandle},
};

/// The maximum number of threads, which does not depend on the number of processors.
const THREADS_MAX: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads.
#[derive(Debug)]
pub(super) struct Workers {
    most: usize,
    threads: Vec<JoinHandle<()>>,
    sender: Sender<Job>,
    jobs: Arc<Mutex<Receiver<Job>>>,
}

impl Default for Workers {
    fn default() -> Self {
        Self::new(THREADS_MAX)
    }
}

impl Workers {
    /// A pool of up to `most` threads. With one, functions run one after another.
    pub(super) fn new(most: usize) -> Self {
        let (sender, jobs) = channel();
        Self {
            most,
            threads: Vec::new(),
            sender,
            jobs: Arc::new(Mutex::new(jobs)),
        }
    }

    /// Runs a function in one of them.
    pub(super) fn run(&mut self, job: impl FnOnce() + Send + 'static) {
        if self.threads.len() < self.most {
            let jobs = Arc::clone(&self.jobs);
            self.threads.push(thread::spawn(move || loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match job {
                    Ok(job) => job(),
                    Err(_) => return,
                }
            }));
        }
        // This struct owns the other end as well.
        let _ = self.sender.send(Box::new(job));
    }

    /// Waits until all functions have returned.
    pub(super) fn wait(self) {
        drop(self.sender);
        for thread in self.threads {
            // A function that has panicked has no answer.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A long function blocks neither the others nor the caller.
    #[test]
    fn jobs_that_take_long() {
        let mut workers = Workers::default();
        let (release, held) = channel::<()>();
        let (done, results) = channel();
        workers.run(move || {
            let _ = held.recv();
        });
        for number in 0..100 {
            let done = done.clone();
            workers.run(move || done.send(number).unwrap());
        }
        let mut seen: Vec<i32> = results.iter().take(100).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert_eq!(workers.threads.len(), THREADS_MAX);
        drop(release);
        workers.wait();
    }
}
