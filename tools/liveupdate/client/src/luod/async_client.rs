// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A connection to luod, for programs that run on tokio.

use super::answer::{self, Answer, Notice, Refused, RETRY};
use crate::IncomingSession;
use luod_protocol::{
    encode, Decoder, Event, Message, Outbox, Progress, Receive, Request, SessionName, LINE_MAX,
    REPLY_MAX, SOCKET_PATH, VERSION,
};
use std::{collections::VecDeque, error::Error, io, path::Path, time::Duration};
use tokio::{
    io::Interest,
    net::UnixStream,
    time::{sleep, Instant},
};

/// A connection to luod, like [`Client`](super::Client), whose methods wait without blocking the
/// thread.
///
/// It needs the feature `tokio` of this crate, and a runtime with I/O and time enabled. There are no
/// time limits: use `tokio::time::timeout`. Each method can be cancelled by dropping its future;
/// the request may have been sent by then, and its answer is ignored.
///
/// The operations of a session are system calls, which may take long for files with much memory: run
/// them with `tokio::task::spawn_blocking`.
///
/// ```no_run
/// use liveupdate::luod::{AsyncClient, Notice, SessionName};
///
/// # async fn example(memory: std::fs::File) -> std::io::Result<()> {
/// let id = SessionName::new("cache").unwrap();
/// let mut luod = AsyncClient::connect("cache").await?;
/// luod.subscribe(&id, None).await?;
/// loop {
///     if let Notice::Preserve { session, .. } = luod.next().await? {
///         session.preserve(&memory, 1)?;
///         luod.ready(&id).await?;
///         // The session must be kept open until the update has ended.
///         luod.next().await?;
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncClient {
    stream: UnixStream,
    decoder: Decoder,
    outbox: Outbox,
    /// Events that were received before an answer.
    early: VecDeque<Answer>,
    next_seq: u64,
}

impl AsyncClient {
    /// Connects to luod at the default socket; `name` is the name of the program in lists and logs.
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ECONNREFUSED` if luod is not running; [`Refused`] if it refuses the connection.
    pub async fn connect(name: &str) -> io::Result<Self> {
        Self::connect_to(SOCKET_PATH, name).await
    }

    /// Connects to luod at another socket.
    ///
    /// # Errors
    ///
    /// See [`Self::connect`].
    pub async fn connect_to(path: impl AsRef<Path>, name: &str) -> io::Result<Self> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path).await.map_err(|error| {
            let text = format!("cannot connect to luod at {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })?;
        let mut client = Self {
            stream,
            decoder: Decoder::new(REPLY_MAX),
            outbox: Outbox::new(LINE_MAX),
            early: VecDeque::new(),
            next_seq: 1,
        };
        client
            .call(&Request::Hello {
                version: VERSION,
                client: Some(name.to_owned()),
            })
            .await?;
        Ok(client)
    }

    /// Subscribes a session for the next update. `timeout` is the time to preserve its files; luod
    /// has a default, and a limit.
    ///
    /// # Errors
    ///
    /// See [`Client::subscribe`](super::Client::subscribe).
    pub async fn subscribe(
        &mut self,
        id: &SessionName,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let subscribe = Request::Subscribe {
            id: id.clone(),
            timeout_ms: timeout.map(answer::milliseconds),
        };
        self.call(&subscribe).await.map(|_| ())
    }

    /// Cancels a subscription.
    ///
    /// # Errors
    ///
    /// [`Refused`] while an update is running.
    pub async fn unsubscribe(&mut self, id: &SessionName) -> io::Result<()> {
        let id = id.clone();
        self.call(&Request::Unsubscribe { id }).await.map(|_| ())
    }

    /// Claims the session that the previous kernel handed over. [`None`] if there is none.
    ///
    /// # Errors
    ///
    /// See [`Client::claim`](super::Client::claim).
    pub async fn claim(&mut self, id: &SessionName) -> io::Result<Option<IncomingSession>> {
        answer::claimed(self.call(&Request::Claim { id: id.clone() }).await)
    }

    /// The same, with retries for up to `patience` after temporary refusals.
    ///
    /// # Errors
    ///
    /// See [`Client::claim_within`](super::Client::claim_within).
    pub async fn claim_within(
        &mut self,
        id: &SessionName,
        patience: Duration,
    ) -> io::Result<Option<IncomingSession>> {
        let end = Instant::now() + patience;
        loop {
            let error = match self.claim(id).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            match Refused::of(&error) {
                Some(refused) if refused.is_temporary() => {
                    if Instant::now() >= end {
                        return Err(refused.at_last(id, patience));
                    }
                }
                _ => return Err(error),
            }
            sleep(RETRY.min(end - Instant::now())).await;
        }
    }

    /// Reports that a claimed session is finished. Succeeds if luod has already detected that.
    ///
    /// # Errors
    ///
    /// See [`Client::finished`](super::Client::finished).
    pub async fn finished(&mut self, id: &SessionName) -> io::Result<()> {
        answer::finished(self.call(&Request::Finished { id: id.clone() }).await)
    }

    /// Reports that the client still works, and only has to stop its work and preserve the rest.
    /// Returns false if luod is too old to send [`Notice::Pause`].
    ///
    /// # Errors
    ///
    /// See [`Client::preserved`](super::Client::preserved).
    pub async fn preserved(&mut self, id: &SessionName) -> io::Result<bool> {
        answer::preserved(self.call(&Request::Preserved { id: id.clone() }).await)
    }

    /// Reports that all files are preserved.
    ///
    /// # Errors
    ///
    /// See [`Client::ready`](super::Client::ready), also for what the client may do after an error or
    /// if the future was dropped.
    pub async fn ready(&mut self, id: &SessionName) -> io::Result<()> {
        let (id, bytes) = (Some(id.clone()), None);
        self.call(&Request::Ready { id, bytes }).await.map(|_| ())
    }

    /// The same, with the size of all preserved files in bytes, for statistics of operators.
    ///
    /// # Errors
    ///
    /// See [`Self::ready`].
    pub async fn ready_with(&mut self, id: &SessionName, bytes: u64) -> io::Result<()> {
        let (id, bytes) = (Some(id.clone()), Some(bytes));
        self.call(&Request::Ready { id, bytes }).await.map(|_| ())
    }

    /// Refuses the running update, which aborts it; with a number, only the update with that number.
    ///
    /// # Errors
    ///
    /// See [`Client::refuse`](super::Client::refuse) and
    /// [`Client::refuse_update`](super::Client::refuse_update).
    pub async fn refuse(
        &mut self,
        id: &SessionName,
        update: Option<u64>,
        reason: &str,
    ) -> io::Result<()> {
        let (id, reason) = (Some(id.clone()), reason.to_owned());
        let refuse = Request::Refuse { id, update, reason };
        self.call(&refuse).await.map(|_| ())
    }

    /// Reports the progress of the client, which is shown to operators.
    ///
    /// # Errors
    ///
    /// See [`Self::ready`].
    pub async fn progress(&mut self, id: &SessionName, progress: Progress) -> io::Result<()> {
        let id = Some(id.clone());
        self.call(&Request::Progress { id, progress })
            .await
            .map(|_| ())
    }

    /// Waits for an event of luod. If the future is dropped, no event is lost.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the connection is closed.
    pub async fn next(&mut self) -> io::Result<Notice> {
        loop {
            let event = match self.early.pop_front() {
                Some(event) => event,
                None => match self.read().await? {
                    (None, event) => event,
                    // The answer to a request whose future was dropped.
                    (Some(_), _) => continue,
                },
            };
            if let Some(notice) = answer::notice(event)? {
                return Ok(notice);
            }
        }
    }

    /// Sends a request, and converts a refusal into an error.
    async fn call(&mut self, request: &Request) -> io::Result<Answer> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let line = encode(&Message {
            seq: Some(seq),
            body: request,
        })?;
        if line.len() > LINE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the request is longer than luod accepts",
            ));
        }
        // The rest of a request whose future was dropped.
        self.flush().await?;
        self.outbox
            .push(line, Vec::new())
            .map_err(io::Error::other)?;
        self.flush().await?;
        loop {
            match self.read().await? {
                (Some(other), answer) if other == seq => return answer::accepted(answer),
                (Some(_), _) => {}
                (None, event) => self.early.push_back(event),
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            self.stream.writable().await?;
            let (stream, outbox) = (&self.stream, &mut self.outbox);
            let sent = stream.try_io(Interest::WRITABLE, || match outbox.flush(stream)? {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            });
            ready(sent)?;
        }
        Ok(())
    }

    /// Reads a message. If the future is dropped, nothing is lost.
    async fn read(&mut self) -> io::Result<(Option<u64>, Answer)> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(malformed)? {
                let message: Message<Event> = Message::parse(&frame.line).map_err(malformed)?;
                return Ok((message.seq, (message.body, frame.fds)));
            }
            self.stream.readable().await?;
            let (stream, decoder) = (&self.stream, &mut self.decoder);
            let received = stream.try_io(Interest::READABLE, || match decoder.receive(stream)? {
                Receive::Some => Ok(()),
                Receive::Nothing => Err(io::ErrorKind::WouldBlock.into()),
                Receive::End => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "luod has closed the connection",
                )),
            });
            ready(received)?;
        }
    }
}

fn malformed(error: impl Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Ignores that a socket was not ready after all.
fn ready(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        done => done,
    }
}
