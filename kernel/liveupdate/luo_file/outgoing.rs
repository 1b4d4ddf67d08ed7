// SPDX-License-Identifier: GPL-2.0

//! Files that are handed over to the next kernel.

use super::{
    dependency::{
        Needs,
        MAX_LEVELS, //
    },
    handler::{
        Handler,
        Handlers,
        PinnedHandler, //
    },
    ContentId,
    Token, //
};
use crate::{
    abi::{
        FileSer,
        FileSetSer,
        Name, //
    },
    block_list::BlockList,
    fault,
    gate::Stopped,
    luo_flb::outgoing::{
        FlbList,
        FlbPins, //
    },
    ops::{
        FileOps,
        Payload,
        Peers, //
    },
    trace::{
        Event,
        FileEvent, //
    },
};
use core::cell::Cell;
use kernel::{
    fs::File,
    module_ref::ModuleRef,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    str::BStr,
    sync::{
        aref::ARef,
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc, //
    },
    uapi, //
};

/// A file that is preserved or about to be preserved, with the references that this needs.
///
/// Declared in the order of its release.
pub(super) struct Source {
    /// [`None`] if an incoming file has the same contents, and has recorded them.
    id: Option<ContentId>,
    handler: Arc<Handler>,
    _module: ModuleRef,
    file: ARef<File>,
}

impl Source {
    /// For a file that was retrieved and belongs to an incoming session.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] if the handler is gone, [`ENOMEM`].
    pub(super) fn of_retrieved(file: ARef<File>, found: &PinnedHandler) -> Result<Arc<Self>> {
        let handler = found.handler.clone();
        let module = handler.with(FileOps::module).flatten().ok_or(ENODEV)?;
        let source = Self {
            id: None,
            handler,
            _module: module,
            file,
        };
        Ok(Arc::new(source, GFP_KERNEL)?)
    }

    /// Whether the file [was retrieved](Self::of_retrieved).
    fn is_retrieved(&self) -> bool {
        self.id.is_none()
    }
}

/// A file that is about to be preserved. Dropping it undoes the `prepare` operation of the handler.
///
/// Creating one may have to wait for other tasks for an unlimited time, so the caller must not hold
/// a lock that a kexec waits for.
pub(crate) struct PreparedFile {
    /// [`None`] once the file is preserved.
    payload: Option<Payload>,
    flbs: Option<FlbList>,
    source: Arc<Source>,
}

impl PreparedFile {
    /// Finds the handler for a file, and calls its `prepare` operation.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if no handler supports the file, [`EBUSY`] if its contents are preserved already,
    /// [`ENOMEM`], and the errors of the handler.
    pub(crate) fn new(handlers: &'static Handlers, file: ARef<File>) -> Result<Self> {
        let PinnedHandler {
            handler,
            flbs,
            module,
        } = handlers.for_file(&file).ok_or(ENOENT)?;
        let id = handler.with(|ops| ops.file_id(&file)).ok_or(ENOENT)?;
        let source = Source {
            id: Some(handlers.content_ids.insert(id)?),
            handler,
            _module: module,
            file,
        };
        Self::with(Arc::new(source, GFP_KERNEL)?, flbs)
    }

    /// As [`Self::new`], when the handler and the FLBs are known.
    pub(super) fn with(source: Arc<Source>, flbs: Option<FlbList>) -> Result<Self> {
        let payload = source
            .handler
            .with(|ops| ops.prepare(&source.file, source.is_retrieved()))
            .ok_or(ENODEV)??;
        Ok(Self {
            payload: Some(payload),
            flbs,
            source,
        })
    }

    /// The handler of the file.
    pub(crate) fn handler(&self) -> &Handler {
        &self.source.handler
    }

    /// Preserves the file, which may depend on some of `peers`. Can be called again if it fails.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] if the handler is gone, [`EINVAL`] if the file is preserved already, and the errors
    /// of the handler and the FLBs.
    pub(super) fn preserve(
        &mut self,
        token: Token,
        peers: &dyn Peers,
    ) -> Result<OutgoingFile, Stopped> {
        let prepared = self.payload.ok_or(EINVAL)?;
        let source = self.source.clone();
        let flbs = FlbPins::new(self.flbs.clone())?;
        let payload = source
            .handler
            .with(|ops| ops.preserve(&source.file, &prepared, source.is_retrieved(), peers))
            .ok_or(ENODEV)??;
        self.payload = None;
        Ok(OutgoingFile {
            token,
            payload,
            _flbs: flbs,
            source,
            needs: KVec::new(),
            level: 1,
            skipped: false,
            dma_target: AtomicFlag::new(false),
        })
    }
}

impl Drop for PreparedFile {
    fn drop(&mut self) {
        let Source { handler, file, .. } = &*self.source;
        if let Some(prepared) = &self.payload {
            handler.with(|ops| ops.unprepare(file, prepared));
        }
    }
}

/// What a kexec does if a file cannot be frozen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// It fails.
    Abort,
    /// It continues without the file.
    Skip,
}

impl Policy {
    /// Fails with [`EINVAL`] if the policy is unknown.
    pub(crate) fn parse(raw: u32) -> Result<Self> {
        match raw {
            uapi::LIVEUPDATE_POLICY_ABORT => Ok(Self::Abort),
            uapi::LIVEUPDATE_POLICY_SKIP => Ok(Self::Skip),
            _ => Err(EINVAL),
        }
    }
}

/// A preserved file. Dropping it unpreserves the file.
///
/// The fields are declared in the order of their release.
pub(crate) struct OutgoingFile {
    token: Token,
    payload: Payload,
    _flbs: FlbPins,
    source: Arc<Source>,
    /// The files on which this one depends.
    needs: KVec<Token>,
    /// The length of the longest chain of dependent files that begins here.
    level: u32,
    /// Whether the kexec continues without the file, which could not be frozen.
    skipped: bool,
    /// Whether the device of a file that depends on this one writes to its memory. This does not
    /// change if that file is unpreserved.
    dma_target: AtomicFlag,
}

impl OutgoingFile {
    /// Calls the `freeze` operation of the handler. `session` is for the trace.
    pub(super) fn freeze(&mut self, session: &Name) -> Result {
        let step = FileEvent::Freeze.begin();
        let result = fault::point().and_then(|()| self.call_freeze());
        let handler = self.handler().compatible();
        step.end(session, self.token, Some(handler), &result);
        result
    }

    fn call_freeze(&mut self) -> Result {
        let Self {
            source,
            payload,
            dma_target,
            ..
        } = self;
        let Source { handler, file, .. } = &**source;
        let dma_target = dma_target.load(Relaxed);
        // A file whose handler was unregistered cannot be restored.
        handler
            .with(|ops| ops.freeze(file, payload, dma_target))
            .unwrap_or(Err(ENODEV))
    }

    /// Undoes [`Self::freeze`].
    pub(super) fn unfreeze(&self, session: &Name) {
        let step = FileEvent::Unfreeze.begin();
        self.source
            .handler
            .with(|ops| ops.unfreeze(&self.source.file, &self.payload));
        let handler = self.handler().compatible();
        step.end(session, self.token, Some(handler), &Ok(()));
    }

    /// Drops the file, which unpreserves it. `session` is for the trace.
    pub(super) fn unpreserve(self, session: &Name) {
        let step = FileEvent::Unpreserve.begin();
        let token = self.token;
        let handler = step.is_traced().then(|| *self.handler().compatible());
        drop(self);
        step.end(session, token, handler.as_ref(), &Ok(()));
    }

    pub(super) fn serialize(&self) -> FileSer {
        FileSer {
            compatible: *self.handler().compatible().field(),
            data: self.payload.data,
            token: self.token,
        }
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    pub(crate) fn handler(&self) -> &Handler {
        &self.source.handler
    }

    pub(super) fn file(&self) -> &File {
        &self.source.file
    }
}

impl Drop for OutgoingFile {
    fn drop(&mut self) {
        self.source
            .handler
            .with(|ops| ops.unpreserve(&self.source.file, self.payload));
    }
}

/// The files of an outgoing session. Dropping it unpreserves them, last one first.
///
/// # Invariants
///
/// `by_token` maps the token of each file to its index in `files`, until skipped ones are removed;
/// `blocks` has room for all.
pub(crate) struct OutgoingFiles {
    /// The name of the session.
    session: Name,
    files: KVVec<OutgoingFile>,
    by_token: RBTree<Token, usize>,
    blocks: BlockList<FileSer>,
}

impl OutgoingFiles {
    /// No files, for the session of this name.
    pub(crate) fn new(session: Name) -> Self {
        Self {
            session,
            files: KVVec::new(),
            by_token: RBTree::new(),
            blocks: BlockList::new(),
        }
    }

    /// The files in the order of their preservation.
    pub(crate) fn files(&self) -> &[OutgoingFile] {
        &self.files
    }

    fn get(&self, token: Token) -> Option<&OutgoingFile> {
        self.files.get(*self.by_token.get(&token)?)
    }

    /// Returns a file on which the file at `index` depends, and which is skipped.
    fn skipped_need(&self, index: usize) -> Option<Token> {
        let file = self.files.get(index)?;
        let mut needs = file.needs.iter().copied();
        needs.find(|token| self.get(*token).is_none_or(|need| need.skipped))
    }

    /// Whether `token` is in use.
    pub(crate) fn contains(&self, token: Token) -> bool {
        self.by_token.get(&token).is_some()
    }

    /// Checks that `token` is not in use.
    ///
    /// Fails with [`EEXIST`] if it is.
    pub(crate) fn vacant(&mut self, token: Token) -> Result<Vacant<'_>> {
        match self.by_token.get(&token) {
            Some(_) => Err(EEXIST),
            None => Ok(Vacant { set: self, token }),
        }
    }

    /// Freezes all files. Their data for the next kernel does not change any more.
    ///
    /// Needs no memory. If a handler fails, `policy` decides whether its file is skipped, or this
    /// fails and the files before it are unfrozen. A file that depends on a skipped one is skipped
    /// as well.
    pub(crate) fn freeze(&mut self, policy: Policy) -> Result<Frozen<'_>> {
        let name = self.session;
        let session: &BStr = name.as_ref();
        let mut frozen = Frozen {
            set: self,
            count: 0,
        };
        loop {
            // Files come after those on which they depend.
            let skipped_need = frozen.set.skipped_need(frozen.count);
            let Some(file) = frozen.set.files.get_mut(frozen.count) else {
                break;
            };
            let result = if let Some(need) = skipped_need {
                pr_err!(
                    "session '{}': handler '{}' cannot freeze the file with token {}, which depends \
                     on that with token {}\n",
                    session,
                    BStr::from_bytes(file.handler().compatible().as_bytes()),
                    file.token,
                    need,
                );
                Err(ENOENT)
            } else {
                file.freeze(&name).inspect_err(|err| {
                    pr_err!(
                        "session '{}': handler '{}' cannot freeze the file with token {}: error {}\n",
                        session,
                        BStr::from_bytes(file.handler().compatible().as_bytes()),
                        file.token,
                        err.to_errno(),
                    );
                })
            };
            file.skipped = policy == Policy::Skip && result.is_err();
            if file.skipped {
                pr_warn!(
                    "session '{}': handler '{}': the file with token {} is not handed over\n",
                    session,
                    BStr::from_bytes(file.handler().compatible().as_bytes()),
                    file.token,
                );
            } else {
                result?;
            }
            // INVARIANT: One more file is frozen or skipped.
            frozen.count = frozen.count.saturating_add(1);
        }
        Ok(frozen)
    }

    /// Undoes a committed [`Frozen`].
    pub(crate) fn unfreeze(&mut self) {
        // INVARIANT: All files are frozen or skipped.
        let count = self.files.len();
        drop(Frozen { set: self, count });
    }

    /// Unpreserves the last file; returns [`None`] if there is none.
    fn unpreserve_last(&mut self) -> Option<()> {
        let file = self.files.pop()?;
        file.unpreserve(&self.session);
        Some(())
    }

    /// Unpreserves the files that were skipped. No file can be added afterwards.
    pub(crate) fn remove_skipped(&mut self) {
        let mut kept: usize = 0;
        for at in 0..self.files.len() {
            let Some((before, rest)) = self.files.split_at_mut_checked(at) else {
                break;
            };
            let Some(file) = rest.first_mut() else { break };
            if file.skipped {
                self.by_token.remove(&file.token);
            } else {
                // `before` has no gap if no file was skipped yet.
                if let Some(gap) = before.get_mut(kept) {
                    core::mem::swap(gap, file);
                }
                kept = kept.saturating_add(1);
            }
        }
        while self.files.len() > kept {
            self.unpreserve_last();
        }
    }
}

/// A token that is not in use.
///
/// # Invariants
///
/// `set` has no file whose token is `token`.
pub(crate) struct Vacant<'a> {
    set: &'a mut OutgoingFiles,
    token: Token,
}

impl Vacant<'_> {
    /// Preserves a file under the token.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if the session is full, [`ENOMEM`], and the errors of the handler.
    pub(crate) fn preserve(self, prepared: &mut PreparedFile) -> Result<(), Stopped> {
        let Self { set, token } = self;

        // Steps that allocate memory precede all others.
        let index = set.files.len();
        set.blocks.grow(index.saturating_add(1))?;
        set.files
            .reserve(1, GFP_KERNEL_ACCOUNT)
            .map_err(Error::from)?;
        let node = RBTreeNode::new(token, index, GFP_KERNEL_ACCOUNT)?;

        let peers = PreservedPeers {
            set,
            needs: Needs::new(),
            level: Cell::new(0),
        };
        let mut file = prepared.preserve(token, &peers)?;
        file.level = peers.level.get().saturating_add(1);
        file.needs = peers.needs.into_tokens();
        // Dropping the file unpreserves it.
        fault::point()?;
        set.files.push_within_capacity(file).map_err(Error::from)?;
        // INVARIANT: The file was just added at `index`, for which there is room in `blocks`.
        set.by_token.insert(node);
        Ok(())
    }
}

impl Drop for OutgoingFiles {
    fn drop(&mut self) {
        while self.unpreserve_last().is_some() {}
    }
}

/// The files of a session, for a file that is being preserved.
struct PreservedPeers<'a> {
    set: &'a OutgoingFiles,
    needs: Needs,
    /// The highest level of a file in `needs`.
    level: Cell<u32>,
}

impl PreservedPeers<'_> {
    fn find(&self, wanted: &File) -> Result<&OutgoingFile> {
        let mut files = self.set.files.iter();
        let file = files.find(|file| file.file().as_ptr() == wanted.as_ptr());
        file.ok_or(ENOENT)
    }

    fn need(&self, file: &OutgoingFile) -> Result {
        // The next kernel could not retrieve it.
        if file.level >= MAX_LEVELS {
            return Err(ELOOP);
        }
        self.needs.add(file.token)?;
        self.level.set(self.level.get().max(file.level));
        Ok(())
    }
}

impl Peers for PreservedPeers<'_> {
    fn outgoing_file(&self, token: u64) -> Result<ARef<File>> {
        let file = self.set.get(token).ok_or(ENOENT)?;
        self.need(file)?;
        Ok(file.file().into())
    }

    fn outgoing_token(&self, wanted: &File) -> Result<u64> {
        let file = self.find(wanted)?;
        self.need(file)?;
        Ok(file.token)
    }

    fn outgoing_dma_target(&self, wanted: &File) -> Result<u64> {
        let file = self.find(wanted)?;
        if !file.handler().with(FileOps::supports_dma).ok_or(ENODEV)? {
            return Err(EOPNOTSUPP);
        }
        self.need(file)?;
        file.dma_target.store(true, Relaxed);
        Ok(file.token)
    }
}

/// A set of files that is being frozen. Dropping it unfreezes them, last one first.
///
/// # Invariants
///
/// The first `count` files of `set` are frozen, except those that are skipped, the others are not.
#[must_use = "the files are unfrozen when this is dropped"]
pub(crate) struct Frozen<'a> {
    set: &'a mut OutgoingFiles,
    count: usize,
}

impl Frozen<'_> {
    /// Serializes the files, and leaves them frozen.
    ///
    /// Allocates no memory.
    pub(crate) fn commit(self) -> Result<FileSetSer> {
        fault::point()?;
        let OutgoingFiles { files, blocks, .. } = &mut *self.set;
        let frozen = || files.iter().filter(|file| !file.skipped);
        let ser = FileSetSer {
            files: blocks.write(frozen().map(OutgoingFile::serialize))?,
            // CAST: `usize` has at most 64 bits.
            count: frozen().count() as u64,
        };
        core::mem::forget(self);
        Ok(ser)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let session = &self.set.session;
        let frozen = self.set.files.iter().take(self.count).rev();
        frozen
            .filter(|file| !file.skipped)
            .for_each(|file| file.unfreeze(session));
    }
}
