// SPDX-License-Identifier: GPL-2.0

//! Files that the previous kernel handed over.

use super::{
    handler::{
        Handlers,
        PinnedHandler, //
    },
    outgoing::{
        OutgoingFile,
        PreparedFile,
        Source, //
    },
    retrieved_peers::RetrievedPeers,
    ContentId,
    Token, //
};
use crate::{
    abi::{
        Compatible,
        FileSer,
        FileSetSer,
        ListReader, //
    },
    block_list::{
        look_at,
        HandedOver, //
    },
    fault,
    gate::{
        Stopped,
        KEXEC_TIMEOUT, //
    },
    luo_flb::incoming::IncomingFlbLists,
    ops::{
        stop,
        FileOps,
        Payload,
        Peers,
        Retrieval, //
    },
    worker, //
};
use kernel::{
    fs::File,
    liveupdate::RetrieveError,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
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
    /// The entry of the previous kernel.
    ser: FileSer,
    /// [`None`] if the name in the entry is malformed.
    compatible: Option<Compatible>,
    #[pin]
    state: RwSemaphore<State>,
}

impl IncomingFile {
    fn new(ser: &FileSer, index: usize) -> impl PinInit<Self> {
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

    /// Retrieves the file; every further call returns the same one. `files` are those of its
    /// session, and `level` the number of files that are being retrieved because they depend on it.
    ///
    /// # Errors
    ///
    /// See [`IncomingFiles::retrieve`].
    pub(super) fn retrieve(
        &self,
        handlers: &'static Handlers,
        files: &IncomingFiles,
        level: u32,
    ) -> Result<ARef<File>, Stopped> {
        // A file is locked after those that depend on it, which come later in the list.
        let mut guard = self.state.write_killable_nested(level)?;
        let State { payload, progress } = &mut *guard;

        if let Some(result) = progress.result() {
            return Ok(result?);
        }
        // After a temporary failure, `progress` gets the handler back.
        let handler = match core::mem::replace(progress, Progress::Unknown) {
            Progress::Ready(handler) => Some(handler),
            _ => self.find(handlers),
        };
        let Some(handler) = handler else {
            pr_warn!(
                "no file handler '{}' for the file with token {}\n",
                self.compatible(),
                self.token
            );
            return Err(Stopped::Failed(EOPNOTSUPP));
        };

        let peers = RetrievedPeers::new(handlers, files, self, level);
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
                *progress = Progress::Ready(handler);
                Err(Stopped::by_operation(err))
            }
            Err(RetrieveError::Permanent(err) | RetrieveError::Retry(err)) => {
                pr_err!(
                    "handler '{}' cannot retrieve the file with token {}: error {}\n",
                    self.compatible(),
                    self.token,
                    err.to_errno()
                );
                if handler.handler.with_nested(FileOps::is_vital) == Some(true) {
                    stop(handler.handler.compatible(), c"it cannot be retrieved");
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
                };
                Ok(file)
            }
        }
    }

    /// Returns a file on which this one depends, and which user space has not retrieved although it
    /// has retrieved this one.
    fn missing(&self, files: &IncomingFiles) -> Option<Token> {
        if !self.delivered.load(Relaxed) {
            return None;
        }
        let state = self.state.read();
        let Progress::Retrieved { needs, .. } = &state.progress else {
            return None;
        };
        let mut needs = needs.iter().copied();
        needs.find(|token| {
            let need = files.get(*token);
            need.is_ok_and(|need| !need.delivered.load(Relaxed))
        })
    }

    /// Returns whether it is known that the file can never be retrieved.
    pub(super) fn has_failed(&self) -> bool {
        self.progress().1.is_some()
    }

    fn is_retrieved(&self) -> bool {
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
        // Others may use the file, and keep it busy.
        let prepare = move || PreparedFile::with(source, flbs);
        let mut prepared = worker::run_within(KEXEC_TIMEOUT, prepare)?;
        prepared.preserve(self.token, peers)
    }

    fn can_finish(&self, handlers: &Handlers) -> bool {
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

    fn finish(&self, handlers: &'static Handlers) {
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
                    "the file with token {} cannot be freed: there is no file handler '{}'\n",
                    self.token,
                    self.compatible()
                );
                return;
            }
            Progress::Finished => return,
        };
        found.handler.with(|ops| ops.finish(payload, retrieval));
        handlers
            .flbs
            .incoming
            .file_finished(&found.incoming_flbs(handlers));
    }
}

/// The files of an incoming session.
///
/// They are read from the list of the previous kernel at their first use; after a lack of memory,
/// reading continues at the next use.
pub(crate) struct IncomingFiles {
    files: KVVec<Arc<IncomingFile>>,
    by_token: RBTree<Token, Arc<IncomingFile>>,
    unread: Option<ListReader<FileSer, HandedOver>>,
    /// The list of the previous kernel, until it is read.
    untouched: Option<FileSetSer>,
    expected: u64,
    damaged: bool,
    finished: bool,
}

impl IncomingFiles {
    pub(crate) fn new(ser: &FileSetSer) -> Self {
        Self {
            files: KVVec::new(),
            by_token: RBTree::new(),
            unread: Some(ListReader::new(HandedOver, ser.files)),
            untouched: Some(*ser),
            expected: ser.count,
            damaged: false,
            finished: false,
        }
    }

    /// Whether reading is complete.
    pub(crate) fn is_loaded(&self) -> bool {
        self.unread.is_none()
    }

    /// The list of the previous kernel, if it was not read.
    pub(crate) fn untouched(&self) -> Option<FileSetSer> {
        self.untouched
    }

    /// Whether some files could not be read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Returns whether all handed over data was released.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Returns whether there is a file that was not retrieved.
    pub(crate) fn has_unretrieved(&self) -> bool {
        self.files.iter().any(|file| !file.is_retrieved())
    }

    /// The number of files, as far as known.
    pub(crate) fn count(&self) -> u64 {
        if self.is_loaded() {
            // CAST: `usize` has at most 64 bits.
            self.files.len() as u64
        } else {
            self.expected
        }
    }

    /// The files in the order of their preservation.
    pub(crate) fn files(&self) -> &[Arc<IncomingFile>] {
        &self.files
    }

    fn add(&mut self, ser: &FileSer, session: &BStr) -> Result {
        self.files.reserve(1, GFP_KERNEL)?;
        let file = IncomingFile::new(ser, self.files.len());
        let file = Arc::pin_init(file, GFP_KERNEL)?;
        if self.by_token.get(&file.token).is_some() {
            pr_err!(
                "session '{}': the previous kernel used token {} twice\n",
                session,
                file.token
            );
            self.damaged = true;
        } else {
            self.by_token
                .insert(RBTreeNode::new(file.token, file.clone(), GFP_KERNEL)?);
        }
        // A file with a duplicate token cannot be retrieved, but must be finished.
        self.files.push_within_capacity(file)?;
        Ok(())
    }

    /// Reads the files, if they were not read yet.
    ///
    /// A damaged list is read up to the damage.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; the call can be repeated.
    pub(crate) fn load(&mut self, session: &BStr) -> Result {
        let Some(mut reader) = self.unread.take() else {
            return Ok(());
        };
        self.untouched = None;
        let res = loop {
            match reader.peek() {
                Ok(Some(ser)) => {
                    if let Err(err) = self.add(ser, session) {
                        self.unread = Some(reader);
                        return Err(err);
                    }
                    reader.advance();
                }
                Ok(None) => break Ok(()),
                Err(err) => break Err(err),
            }
        };
        if let Err(err) = res {
            pr_err!(
                "session '{}': the list of files is damaged: {:?}\n",
                session,
                err
            );
            self.damaged = true;
        } else if self.count() != self.expected {
            pr_err!(
                "session '{}': {} files instead of {}\n",
                session,
                self.count(),
                self.expected
            );
            self.damaged = true;
        }
        Ok(())
    }

    /// Calls `each` with the format of each file. Does not claim the list of a session that was not
    /// opened.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and errors of `each`.
    pub(crate) fn formats(
        &mut self,
        session: &BStr,
        each: &mut dyn FnMut(&[u8]) -> Result,
    ) -> Result {
        if let Some(ser) = self.untouched {
            return look_at(ser.files, &mut |file: &FileSer| {
                Compatible::parse(&file.compatible).map_or(Ok(()), |name| each(name.as_bytes()))
            });
        }
        self.load(session)?;
        self.files
            .iter()
            .try_for_each(|file| each(file.compatible()))
    }

    /// Looks up a file; [`ENOENT`] if there is none with this `token`.
    pub(crate) fn get(&self, token: Token) -> Result<Arc<IncomingFile>> {
        self.by_token.get(&token).cloned().ok_or(ENOENT)
    }

    /// Retrieves a file of this list; every further call returns the same one.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if there is no handler, and the errors of the handler. A temporary failure
    /// can be retried; after a permanent failure, all later calls return the same error.
    pub(crate) fn retrieve(
        &self,
        handlers: &'static Handlers,
        file: &IncomingFile,
    ) -> Result<ARef<File>, Stopped> {
        file.retrieve(handlers, self, 0)
    }

    /// Releases all handed over data of these files, last one first.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if a handler refuses, or if user space has retrieved a file without another on which
    /// it depends; nothing has changed then.
    pub(crate) fn finish(&mut self, handlers: &'static Handlers, session: &BStr) -> Result {
        for file in &self.files {
            if let Some(missing) = file.missing(self) {
                pr_warn!(
                    "session '{}': the file with token {} depends on that with token {}, which was \
                     not retrieved\n",
                    session,
                    file.token,
                    missing
                );
                return Err(EBUSY);
            }
        }
        if !self.files.iter().all(|file| file.can_finish(handlers)) {
            return Err(EBUSY);
        }
        while let Some(file) = self.files.pop() {
            self.by_token.remove(&file.token);
            file.finish(handlers);
        }
        self.finished = true;
        Ok(())
    }
}
