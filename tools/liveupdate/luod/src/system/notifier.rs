// SPDX-License-Identifier: GPL-2.0

//! Notifications to systemd.
//!
//! systemd may not read for a while, and its socket has a short queue. A thread sends the
//! notifications in order, so that no other thread blocks.

use liveupdate::systemd::Manager;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

/// The time limit for systemd to read all notifications.
const PATIENCE: Duration = Duration::from_secs(10);

/// A notification.
#[derive(Debug)]
enum Job {
    Notify(String),
    Store(String, OwnedFd),
    Remove(String),
    /// A barrier after all earlier notifications.
    Barrier(Sender<io::Result<()>>),
}

/// Sends notifications to systemd, without blocking.
#[derive(Debug)]
pub(super) struct Notifier {
    jobs: Sender<Job>,
}

/// Waits for systemd to read all earlier notifications.
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
                RecvTimeoutError::Timeout => "systemd does not read notifications",
                RecvTimeoutError::Disconnected => "systemd cannot be notified",
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
        // The other end exists as long as this one.
        let _ = self.jobs.send(job);
    }

    /// See [`Manager::notify`].
    pub(super) fn notify(&self, text: &str) {
        self.push(Job::Notify(text.to_owned()));
    }

    /// See [`Manager::store`].
    pub(super) fn store(&self, name: &str, fd: BorrowedFd<'_>) {
        match fd.try_clone_to_owned() {
            Ok(fd) => self.push(Job::Store(name.to_owned(), fd)),
            Err(error) => failed(name, &error),
        }
    }

    /// See [`Manager::remove`].
    pub(super) fn remove(&self, name: &str) {
        self.push(Job::Remove(name.to_owned()));
    }

    /// Like [`Manager::barrier`], for all earlier notifications.
    pub(super) fn barrier(&self) -> Barrier {
        let (sender, receiver) = channel();
        self.push(Job::Barrier(sender));
        Barrier(receiver)
    }
}

fn failed(what: &str, error: &io::Error) {
    tracing::error!("cannot notify the service manager of {what:?}: {error}");
}

/// Sends a notification, without a time limit.
fn carry_out(manager: &Manager, job: Job) {
    let mut complained = false;
    loop {
        let (what, done) = match &job {
            Job::Notify(text) => (text, manager.notify(text)),
            Job::Store(name, fd) => (name, manager.store(name, fd)),
            Job::Remove(name) => (name, manager.remove(name)),
            Job::Barrier(sender) => {
                // The requester may not wait any more.
                let _ = sender.send(manager.barrier());
                return;
            }
        };
        match done {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!("systemd does not read notifications, luod tries again");
                }
            }
            Err(error) => return failed(what, &error),
        }
    }
}
