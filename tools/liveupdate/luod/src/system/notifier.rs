// SPDX-License-Identifier: GPL-2.0

//! Telling systemd something.
//!
//! systemd may read nothing for a while, and its socket holds little. A thread waits for it, so that
//! nobody else has to, and keeps the order.

use liveupdate::systemd::Manager;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

/// How long systemd may take to read everything that it was sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// What systemd is to be told.
#[derive(Debug)]
enum Job {
    Notify(String),
    Store(String, OwnedFd),
    Remove(String),
    /// To read all that comes before this.
    Barrier(Sender<io::Result<()>>),
}

/// Tells systemd something, without waiting.
#[derive(Debug)]
pub(super) struct Notifier {
    jobs: Sender<Job>,
}

/// Tells when systemd has read everything.
#[derive(Debug)]
pub(super) struct Barrier(Receiver<io::Result<()>>);

impl Barrier {
    /// Waits for it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] if that takes too long.
    pub(super) fn wait(self) -> io::Result<()> {
        self.0.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => "systemd does not read what it is sent",
                RecvTimeoutError::Disconnected => "systemd cannot be told anything",
            };
            Err(io::Error::new(io::ErrorKind::TimedOut, what))
        })
    }
}

impl Notifier {
    pub(super) fn new(manager: Manager) -> Self {
        let (jobs, receiver) = channel();
        thread::spawn(move || {
            for job in receiver {
                carry_out(&manager, job);
            }
        });
        Self { jobs }
    }

    fn push(&self, job: Job) {
        // The other end is there as long as this one.
        let _ = self.jobs.send(job);
    }

    /// As [`Manager::notify`].
    pub(super) fn notify(&self, text: &str) {
        self.push(Job::Notify(text.to_owned()));
    }

    /// As [`Manager::store`].
    pub(super) fn store(&self, name: &str, fd: BorrowedFd<'_>) {
        match fd.try_clone_to_owned() {
            Ok(fd) => self.push(Job::Store(name.to_owned(), fd)),
            Err(error) => failed(name, &error),
        }
    }

    /// As [`Manager::remove`].
    pub(super) fn remove(&self, name: &str) {
        self.push(Job::Remove(name.to_owned()));
    }

    /// As [`Manager::barrier`], about everything that systemd was told before this.
    pub(super) fn barrier(&self) -> Barrier {
        let (sender, receiver) = channel();
        self.push(Job::Barrier(sender));
        Barrier(receiver)
    }
}

fn failed(what: &str, error: &io::Error) {
    tracing::error!("cannot tell the service manager {what:?}: {error}");
}

/// Does a job, however long it takes.
fn carry_out(manager: &Manager, job: Job) {
    let mut complained = false;
    loop {
        let (what, done) = match &job {
            Job::Notify(text) => (text, manager.notify(text)),
            Job::Store(name, fd) => (name, manager.store(name, fd)),
            Job::Remove(name) => (name, manager.remove(name)),
            Job::Barrier(sender) => {
                // Who asked may not wait any more.
                let _ = sender.send(manager.barrier());
                return;
            }
        };
        match done {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!("systemd does not read what it is sent, which is tried again");
                }
            }
            Err(error) => return failed(what, &error),
        }
    }
}
