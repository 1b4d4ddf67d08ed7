// SPDX-License-Identifier: GPL-2.0

//! A file that the previous kernel handed over.

use super::{
    dependency::RetrievalPeers,
    handler::{
        Handlers,
        PinnedHandler, //
    },
    outgoing::{
        OutgoingFile,
        PreparedFile,
        Source, //
    },
    ContentId,
    Token, //
};
use crate::{
    abi::{
        Compatible,
        FileSer, //
    },
    fault,
    gate::{
        Stopped,
        KEXEC_TIMEOUT, //
    },
    luo_flb::incoming::IncomingFlbLists,
    ops::{
        FileOps,
        Payload,
        Peers,
        Retrieval, //
    },
    policy,
    trace::{
        Event,
        FileEvent, //
    },
    worker, //
};
use kernel::{
    fs::File,
    liveupdate::{
        dma,
        RetrieveError, //
    },
    prelude::*,
    rbtree::RBTree,
    str::BStr,
    sync::{
        aref::ARef,
        atomic::{
            ordering::Relaxed,
            AtomicFlag, //
        },
        new_rwsem,
        Arc,
        RwSemaphore, //
    }, //
};

/// The files of a session.
pub(super) type FilesByToken = RBTree<Token, Arc<IncomingFile>>;

/// The state of a file.
enum Progress {
    /// It can be retrieved if there is a handler, which was not looked up yet.
    Unknown,
    /// It can be retrieved by this handler.
    Ready(PinnedHandler),
    /// It was retrieved; further calls return the same file.
    Retrieved {
        file: ARef<File>,
        _id: Option<ContentId>,
        found: PinnedHandler,
        /// The files on which it depends.
        needs: KVec<Token>,
        /// Which of `needs` were logged as missing, or were delivered: those before this index.
        logged: usize,
    },
    /// It can never be retrieved.
    Failed(Error, PinnedHandler),
    /// All of its handed over data was released.
    Finished,
}

impl Progress {
    /// The final result of retrieving the file.
    fn result(&self) -> Option<Result<ARef<File>>> {
        match self {
            Self::Unknown | Self::Ready(_) => None,
            Self::Retrieved { file, .. } => Some(Ok(file.clone())),
            Self::Failed(err, _) => Some(Err(*err)),
            Self::Finished => Some(Err(ENOENT)),
        }
    }
}

struct State {
    payload: Payload,
    progress: Progress,
}

/// An incoming file.
#[pin_data]
pub(crate) struct IncomingFile {
    token: Token,
    /// The position in the list of the session.
    index: usize,
    /// Whether user space has a descriptor of it, or had one.
    delivered: AtomicFlag,
    /// Whether it was logged that there is no handler, or that it does not understand the file.
    refusal_logged: AtomicFlag,
    /// The entry of the previous kernel.
    ser: FileSer,
    /// [`None`] if the name in the entry is malformed.
    compatible: Option<Compatible>,
    #[pin]
    state: RwSemaphore<State>,
}

impl IncomingFile {
    pub(super) fn new(ser: &FileSer, index: usize) -> impl PinInit<Self> {
        let token = ser.token;
        let ser = *ser;
        let compatible = Compatible::parse(&ser.compatible).ok();
        let state = State {
            payload: Payload::incoming(ser.data),
            progress: Progress::Unknown,
        };
        pin_init!(Self {
            token,
            index,
            delivered: AtomicFlag::new(false),
            refusal_logged: AtomicFlag::new(false),
            ser,
            compatible,
            state <- new_rwsem!(state, "luo_incoming_file"),
        })
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// The name of the handler that this file needs.
    pub(crate) fn compatible(&self) -> &BStr {
        BStr::from_bytes(
            self.compatible
                .as_ref()
                .map_or(b"(damaged)".as_slice(), |compatible| compatible.as_bytes()),
        )
    }

    /// The name of the handler that this file needs; [`None`] if it is malformed.
    pub(super) fn format(&self) -> Option<&Compatible> {
        self.compatible.as_ref()
    }

    /// The state of the file as text, and the error if there was one.
    pub(crate) fn progress(&self) -> (&'static str, Option<Error>) {
        // A report must not wait for a handler.
        let Some(state) = self.state.try_read() else {
            return ("busy", None);
        };
        match state.progress {
            Progress::Unknown | Progress::Ready(_) => ("incoming", None),
            Progress::Retrieved { .. } => ("retrieved", None),
            Progress::Failed(err, _) => ("failed", Some(err)),
            Progress::Finished => ("finished", None),
        }
    }

    fn find(&self, handlers: &Handlers) -> Option<PinnedHandler> {
        handlers.for_format(self.compatible.as_ref()?)
    }

    /// Records that user space gets a descriptor of the file.
    pub(crate) fn set_delivered(&self) {
        self.delivered.store(true, Relaxed);
    }

    /// Whether the file comes before `other` in the list of the session.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        self.index < other.index
    }

    /// Retrieves the file; every further call returns the same one. `peers` are the other files of
    /// the session.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if there is no handler, and the errors of the handler. A temporary failure
    /// can be retried; after a permanent failure, all later calls return the same error.
    pub(super) fn retrieve(
        &self,
        handlers: &'static Handlers,
        session: &BStr,
        peers: impl RetrievalPeers,
    ) -> Result<ARef<File>, Stopped> {
        // A file is locked after those that depend on it, which come later in the list.
        let mut guard = self.state.write_killable_nested(peers.level())?;
        let State { payload, progress } = &mut *guard;

        if let Some(result) = progress.result() {
            return Ok(result?);
        }
        let step = FileEvent::Retrieve.begin();
        let result = self.retrieve_into(payload, progress, handlers, session, peers);
        let traced = result.as_ref().map_err(Stopped::error);
        step.end(session, self.token, self.compatible.as_ref(), &traced);
        result
    }

    /// Retrieves the file, of which `payload` and `progress` are the state.
    fn retrieve_into(
        &self,
        payload: &mut Payload,
        progress: &mut Progress,
        handlers: &'static Handlers,
        session: &BStr,
        peers: impl RetrievalPeers,
    ) -> Result<ARef<File>, Stopped> {
        // After a temporary failure, `progress` gets the handler back.
        let handler = match core::mem::replace(progress, Progress::Unknown) {
            Progress::Ready(handler) => Some(handler),
            _ => self.find(handlers),
        };
        let Some(handler) = handler else {
            // User space can repeat this.
            if !self.refusal_logged.xchg(true, Relaxed) {
                pr_warn!(
                    "session '{}': no file handler '{}' for the file with token {}\n",
                    session,
                    self.compatible(),
                    self.token
                );
            }
            return Err(Stopped::Failed(EOPNOTSUPP));
        };

        let res = fault::point().map_err(RetrieveError::Retry).and_then(|()| {
            handler
                .handler
                .with_nested(|ops| {
                    let file = ops.retrieve(payload, &peers)?;
                    let id = ops.file_id(&file);
                    Ok((file, id))
                })
                .unwrap_or(Err(RetrieveError::Retry(ENODEV)))
        });
        match res {
            // Not even a new attempt can succeed without the other file.
            Err(RetrieveError::Retry(err)) if !peers.has_failed() => {
                if err == EOPNOTSUPP && !payload.touched && !self.refusal_logged.xchg(true, Relaxed)
                {
                    pr_warn!(
                        "session '{}': handler '{}' does not understand the file with token {}, which is \
                         left to another kernel\n",
                        session,
                        self.compatible(),
                        self.token
                    );
                }
                *progress = Progress::Ready(handler);
                Err(Stopped::by_operation(err))
            }
            Err(RetrieveError::Permanent(err) | RetrieveError::Retry(err)) => {
                pr_err!(
                    "session '{}': handler '{}' cannot retrieve the file with token {}: error {}\n",
                    session,
                    self.compatible(),
                    self.token,
                    err.to_errno()
                );
                if let Some(policy) = handler.handler.with_nested(FileOps::policy).flatten() {
                    policy::not_understood(policy, self.compatible(), c"it cannot be retrieved");
                }
                *progress = Progress::Failed(err, handler);
                Err(Stopped::Failed(err))
            }
            Ok((file, id)) => {
                // The file is new, so that its contents are not preserved yet: this fails only for
                // lack of memory, which is a temporary failure.
                let id = handlers.content_ids.insert(id).ok();
                *progress = Progress::Retrieved {
                    file: file.clone(),
                    _id: id,
                    found: handler,
                    needs: peers.into_needs(),
                    logged: 0,
                };
                Ok(file)
            }
        }
    }

    /// Returns whether user space has retrieved this file without another one on which it depends.
    /// Logs this once for each of them.
    pub(super) fn is_without_need(&self, session: &BStr, files: &FilesByToken) -> bool {
        if !self.delivered.load(Relaxed) {
            return false;
        }
        let mut state = self.state.write();
        let Progress::Retrieved { needs, logged, .. } = &mut state.progress else {
            return false;
        };
        let mut needs = needs.iter().enumerate();
        let missing = needs.find(|(_, token)| {
            let need = files.get(token);
            need.is_some_and(|need| !need.delivered.load(Relaxed))
        });
        let Some((index, token)) = missing else {
            return false;
        };
        // User space can repeat this. The index never decreases, since a file stays delivered.
        if index >= *logged {
            *logged = index.saturating_add(1);
            pr_warn!(
                "session '{}': the file with token {} depends on that with token {}, which was not \
                 retrieved\n",
                session,
                self.token,
                token
            );
        }
        true
    }

    /// Returns whether it is known that the file can never be retrieved.
    pub(super) fn has_failed(&self) -> bool {
        self.progress().1.is_some()
    }

    pub(super) fn is_retrieved(&self) -> bool {
        matches!(self.state.read().progress, Progress::Retrieved { .. })
    }

    /// The entry of the previous kernel for the file.
    pub(super) fn ser(&self) -> FileSer {
        self.ser
    }

    /// Returns the permanent error of the file, and the states on which it depended.
    pub(super) fn failure(&self, handlers: &Handlers) -> Option<(Error, IncomingFlbLists)> {
        match &self.state.read().progress {
            Progress::Failed(err, found) => Some((*err, found.incoming_flbs(handlers))),
            _ => None,
        }
    }

    /// Returns whether this kernel has claimed data of the file, so that the file must be preserved
    /// again for the next one.
    pub(super) fn is_touched(&self, handlers: &Handlers) -> bool {
        let state = self.state.read();
        match &state.progress {
            Progress::Unknown | Progress::Ready(_) if state.payload.touched => true,
            Progress::Ready(found) => handlers
                .flbs
                .incoming
                .is_in_use(&found.incoming_flbs(handlers)),
            Progress::Unknown => self.find(handlers).is_some_and(|found| {
                handlers
                    .flbs
                    .incoming
                    .is_in_use(&found.incoming_flbs(handlers))
            }),
            Progress::Retrieved { .. } => true,
            Progress::Failed(..) | Progress::Finished => false,
        }
    }

    /// Preserves the retrieved file for the next kernel.
    pub(super) fn preserve_again(
        &self,
        handlers: &'static Handlers,
        peers: &dyn Peers,
    ) -> Result<OutgoingFile, Stopped> {
        let (source, flbs) = match &self.state.read().progress {
            Progress::Retrieved { file, found, .. } => (
                Source::of_retrieved(file.clone(), found)?,
                found.flbs_now(handlers),
            ),
            _ => return Err(Stopped::Failed(ENOENT)),
        };
        // Other users of the file may delay this.
        let prepare = move || PreparedFile::with(source, flbs);
        let mut prepared = worker::run_within(KEXEC_TIMEOUT, prepare)?;
        prepared.preserve(self.token, peers)
    }

    /// Returns whether the handler permits to release the handed over data.
    pub(super) fn can_finish(&self, handlers: &Handlers) -> bool {
        let mut guard = self.state.write();
        let State { payload, progress } = &mut *guard;
        if let Progress::Unknown = progress {
            if let Some(handler) = self.find(handlers) {
                *progress = Progress::Ready(handler);
            }
        }
        let (found, retrieval) = match progress {
            Progress::Ready(found) => (found, Retrieval::None),
            Progress::Retrieved { file, found, .. } => (found, Retrieval::Done(file)),
            Progress::Failed(err, found) => (found, Retrieval::Failed(*err)),
            Progress::Unknown | Progress::Finished => return true,
        };
        found
            .handler
            .with(|ops| ops.can_finish(payload, retrieval))
            .unwrap_or(true)
    }

    /// Releases all handed over data of the file.
    pub(super) fn finish(&self, handlers: &'static Handlers, session: &BStr) {
        let step = FileEvent::Finish.begin();
        let result = self.release(handlers, session);
        step.end(session, self.token, self.compatible.as_ref(), &result);
    }

    /// As [`Self::finish`].
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if there is no handler, [`ENODEV`] if it is gone: the data stays reserved.
    fn release(&self, handlers: &'static Handlers, session: &BStr) -> Result {
        let mut guard = self.state.write();
        let payload = guard.payload;
        // The replaced value is dropped at the end of this function.
        let progress = core::mem::replace(&mut guard.progress, Progress::Finished);
        let (found, retrieval) = match &progress {
            Progress::Ready(found) => (found, Retrieval::None),
            Progress::Retrieved { file, found, .. } => (found, Retrieval::Done(file)),
            Progress::Failed(err, found) => (found, Retrieval::Failed(*err)),
            Progress::Unknown => {
                pr_warn!(
                    "session '{}': the file with token {} cannot be freed, since there is no file \
                     handler '{}'\n",
                    session,
                    self.token,
                    self.compatible()
                );
                // The file may be that of a device that writes to the memory of other files.
                dma::set_out_of_control();
                return Err(EOPNOTSUPP);
            }
            Progress::Finished => return Ok(()),
        };
        let finished = found
            .handler
            .with(|ops| ops.finish(payload, retrieval))
            .ok_or(ENODEV);
        if finished.is_err() {
            // The handler was unregistered.
            dma::set_out_of_control();
        }
        handlers
            .flbs
            .incoming
            .file_finished(&found.incoming_flbs(handlers));
        finished
    }
}
