// SPDX-License-Identifier: GPL-2.0

//! Sessions that are handed over to the next kernel.

use super::{
    get_name,
    incoming::IncomingSessions,
    FileReport,
    Link,
    Report, //
};
use crate::{
    abi::{
        FileSetSer,
        Name,
        SessionSer, //
    },
    block_list::BlockList,
    context::Context,
    fault,
    ioctl::{
        unsupported,
        Command,
        GetName,
        PreserveFd,
        SetPolicy,
        Target,
        UserArg, //
    },
    luo_file::outgoing::{
        OutgoingFiles,
        Policy,
        PreparedFile, //
    },
    root::OutgoingRoot,
    trace::{
        Event,
        FileEvent, //
    },
};
use kernel::{
    anon_inode::{
        self,
        IoctlContext, //
    },
    fmt,
    fs::{
        file::flags,
        File, //
    },
    prelude::*,
    rbtree::{
        Entry,
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    seq_file::SeqFile,
    seq_print,
    str::BStr,
    sync::{
        aref::ARef,
        new_rwsem,
        Arc,
        RwSemaphore, //
    }, //
};

/// Orders sessions by the time of their creation.
pub(crate) type Seq = u64;

/// The files of a session, and the result of their last serialization.
struct Contents {
    files: OutgoingFiles,
    policy: Policy,
    serialized: FileSetSer,
}

/// An outgoing session.
#[pin_data]
pub(crate) struct OutgoingSession {
    name: Name,
    seq: Seq,
    #[pin]
    contents: RwSemaphore<Contents>,
}

impl OutgoingSession {
    fn new(name: Name, seq: Seq) -> impl PinInit<Self> {
        let contents = Contents {
            files: OutgoingFiles::new(name),
            policy: Policy::Abort,
            serialized: FileSetSer::EMPTY,
        };
        pin_init!(Self {
            name,
            seq,
            contents <- new_rwsem!(contents, "luo_outgoing_session"),
        })
    }

    /// Freezes and serializes the files, and returns their number. Allocates no memory.
    ///
    /// # Errors
    ///
    /// The error of the handler that could not freeze a file, if the policy is [`Policy::Abort`];
    /// nothing is frozen then.
    pub(crate) fn freeze(&self) -> Result<u64> {
        let mut contents = self.contents.write();
        let policy = contents.policy;
        let frozen = contents.files.freeze(policy)?;
        let serialized = frozen.commit()?;
        contents.serialized = serialized;
        Ok(serialized.count)
    }

    /// Undoes [`Self::freeze`].
    pub(crate) fn unfreeze(&self) {
        let mut contents = self.contents.write();
        contents.files.unfreeze();
        contents.serialized = FileSetSer::EMPTY;
    }

    /// Unpreserves the files that are not handed over. Must be called only when the kexec cannot be
    /// aborted any more.
    pub(crate) fn remove_skipped(&self) {
        self.contents.write().files.remove_skipped();
    }

    /// The entry of the session for the next kernel, once it is [frozen](Self::freeze).
    pub(crate) fn serialize(&self) -> SessionSer {
        SessionSer {
            name: *self.name.field(),
            file_set: self.contents.read().serialized,
        }
    }

    /// Calls `each` with the format of each file.
    pub(crate) fn formats(&self, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
        let contents = self.contents.read_killable()?;
        let mut files = contents.files.files().iter();
        files.try_for_each(|file| each(file.handler().compatible().as_bytes()))
    }

    /// Calls `each` with the format of each file. Must be called when nothing changes any more.
    pub(crate) fn frozen_formats(&self, each: &mut dyn FnMut(&[u8])) {
        let contents = self.contents.read();
        let files = contents.files.files().iter();
        files.for_each(|file| each(file.handler().compatible().as_bytes()));
    }

    /// Writes the report for administrators.
    pub(crate) fn report(&self, sealed: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A report must not wait for a handler.
        let contents = self.contents.try_read();
        let files = contents.as_ref().map_or(&[][..], |c| c.files.files());
        let report = Report {
            name: &self.name,
            direction: "outgoing",
            state: match (&contents, sealed) {
                (_, true) => "frozen",
                (Some(_), false) => "active",
                (None, false) => "busy",
            },
            // CAST: `usize` has at most 64 bits.
            files: files.len() as u64,
        };
        fmt::Display::fmt(&report, f)?;
        for file in files {
            let report = FileReport {
                token: file.token(),
                handler: BStr::from_bytes(file.handler().compatible().as_bytes()),
                state: if sealed { "frozen" } else { "preserved" },
                error: None,
            };
            fmt::Display::fmt(&report, f)?;
        }
        Ok(())
    }
}

/// All outgoing sessions.
///
/// # Invariants
///
/// `by_name` and `by_seq` contain the same `count` sessions; `blocks` has room for all of them;
/// `root` exists if there is a session.
pub(crate) struct OutgoingSessions {
    by_name: RBTree<Name, Seq>,
    by_seq: RBTree<Seq, Arc<OutgoingSession>>,
    count: usize,
    next_seq: Seq,
    blocks: BlockList<SessionSer>,
    root: Option<OutgoingRoot>,
}

impl OutgoingSessions {
    pub(crate) fn new() -> Self {
        Self {
            by_name: RBTree::new(),
            by_seq: RBTree::new(),
            count: 0,
            next_seq: 0,
            blocks: BlockList::new(),
            root: None,
        }
    }

    /// The number of sessions.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The sessions in the order of their creation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &OutgoingSession> {
        self.by_seq.values().map(|session| &**session)
    }

    /// The addresses of the root for the next kernel, and of the names of vital data if there are any.
    #[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
    pub(crate) fn roots(&self) -> Option<(kernel::kho::PhysAddr, Option<kernel::kho::PhysAddr>)> {
        self.root.as_ref().map(|root| root.phys())
    }

    /// Returns whether there is a session of this name.
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.by_name.get(name).is_some()
    }

    fn insert(&mut self, context: &Context, name: Name) -> Result<Arc<OutgoingSession>> {
        let seq = self.next_seq;
        let count = self.count.checked_add(1).ok_or(ENOSPC)?;

        // Steps that can fail precede all others.
        let session = Arc::pin_init(OutgoingSession::new(name, seq), GFP_KERNEL_ACCOUNT)?;
        let name_node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let seq_node = RBTreeNode::new(seq, session.clone(), GFP_KERNEL_ACCOUNT)?;
        self.make_room(context, 1)?;

        let Entry::Vacant(place) = self.by_name.entry(name) else {
            return Err(EEXIST);
        };
        fault::point()?;

        // INVARIANT: The session becomes part of both trees; there is room and a root.
        place.insert(seq, name_node);
        self.by_seq.insert(seq_node);
        self.count = count;
        self.next_seq = seq.wrapping_add(1);
        Ok(session)
    }

    fn remove(&mut self, session: &OutgoingSession) {
        if self.by_seq.remove(&session.seq).is_none() {
            return;
        }
        // INVARIANT: The session leaves both trees.
        self.by_name.remove(&session.name);
        self.count = self.count.saturating_sub(1);
        self.shrink();
    }

    /// Allocates room for `more` sessions that are carried over, and the root.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if there would be too many sessions, [`ENOMEM`].
    pub(crate) fn make_room(&mut self, context: &Context, more: usize) -> Result {
        let count = self.count.checked_add(more).ok_or(ENOSPC)?;
        self.blocks.grow(count)?;
        if self.root.is_none() {
            self.root = Some(OutgoingRoot::new(context.number.wrapping_add(1))?);
        }
        Ok(())
    }

    /// Frees the room that these sessions do not need.
    pub(crate) fn shrink(&mut self) {
        self.blocks.shrink(self.count);
        if self.count == 0 {
            self.root = None;
        }
    }

    /// The parts that are needed to serialize the sessions; [`None`] if there is no room for any.
    pub(crate) fn parts(&mut self) -> Option<Parts<'_>> {
        Some(Parts {
            sessions: &mut self.by_seq,
            blocks: &mut self.blocks,
            root: self.root.as_mut()?,
        })
    }
}

/// The parts of [`OutgoingSessions`].
pub(crate) struct Parts<'a> {
    /// The sessions in the order of their creation. Must not change.
    pub(crate) sessions: &'a mut RBTree<Seq, Arc<OutgoingSession>>,
    pub(crate) blocks: &'a mut BlockList<SessionSer>,
    pub(crate) root: &'a mut OutgoingRoot,
}

/// Keeps a session in the list of sessions. Dropping it removes the session.
struct Listed {
    session: Arc<OutgoingSession>,
    context: &'static Context,
    list: &'static RwSemaphore<OutgoingSessions>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        // Closing a file cannot be interrupted. Once sessions are frozen, nothing changes.
        if let Ok(_mutating) = self.context.gate.mutate_uninterruptible() {
            self.list.write().remove(&self.session);
            // The preserved files of the session are released while `_mutating` prevents a kexec,
            // but with the list unlocked.
            self.session.contents.write().files = OutgoingFiles::new(self.session.name);
        } else {
            core::mem::forget(self.session.clone());
        }
    }
}

/// Creates a session and a file for it; closing the file removes the session.
///
/// # Errors
///
/// [`EEXIST`] if there is a session of this name, or an unfinished one of the previous kernel that
/// is not open; [`ENOSPC`] if there are too many, [`ENOMEM`], [`EBUSY`] if the kexec is in
/// progress.
pub(crate) fn create(
    context: &'static Context,
    list: &'static RwSemaphore<OutgoingSessions>,
    incoming: &'static RwSemaphore<IncomingSessions>,
    name: Name,
) -> Result<ARef<File>> {
    let link = Link::new(&name);
    let listed = context.gate.mutate(|| {
        let mut outgoing = list.write_killable()?;
        // Both would have to be handed over, which is not possible. A session that is not open
        // cannot be finished, and an error at the kexec would be too late.
        incoming.write_killable()?.succeed(&name)?;
        let session = outgoing.insert(context, name)?;
        Ok(Listed {
            session,
            context,
            list,
        })
    })?;
    // From here on, an error removes the session.
    let listed = KBox::new(listed, GFP_KERNEL)?;
    anon_inode::getfile::<SessionFile>(link.as_c_str()?, listed, flags::O_RDWR)
}

/// The operations of an outgoing session's file.
struct SessionFile;

impl SessionFile {
    fn preserve_fd(listed: &Listed, ctx: &IoctlContext<'_>, arg: usize) -> Result<isize> {
        let (_, command) = UserArg::read::<PreserveFd>(arg)?;
        let step = FileEvent::Preserve.begin();
        let mut prepared = None;
        let result = Self::preserve(listed, ctx, &command, &mut prepared);
        let handler = prepared.as_ref().map(|file| file.handler().compatible());
        step.end(&listed.session.name, command.token, handler, &result);
        result
    }

    /// Preserves a file. `prepared` is for the caller, and is dropped after the call.
    fn preserve(
        listed: &Listed,
        ctx: &IoctlContext<'_>,
        command: &PreserveFd,
        prepared: &mut Option<PreparedFile>,
    ) -> Result<isize> {
        let file = u32::try_from(command.fd)
            .map_err(|_| EBADF)
            .and_then(|fd| Ok(ctx.fget(fd)?));

        let Listed {
            session, context, ..
        } = listed;
        // Check this before the handler does anything with the file.
        if session
            .contents
            .read_killable()?
            .files
            .contains(command.token)
        {
            return Err(EEXIST);
        }
        // This comes before entering the gate, since a kexec must not wait for other users of the
        // file.
        let prepared = prepared.insert(PreparedFile::new(&context.handlers, file?)?);
        context.gate.mutate(|| {
            let mut contents = session.contents.write_killable()?;
            let vacant = contents.files.vacant(command.token)?;
            vacant.preserve(prepared)?;
            Ok(0)
        })
    }

    fn set_policy(listed: &Listed, arg: usize) -> Result<isize> {
        let (_, command) = UserArg::read::<SetPolicy>(arg)?;
        let policy = Policy::parse(command.policy)?;
        listed.context.gate.mutate(|| {
            listed.session.contents.write_killable()?.policy = policy;
            Ok(0)
        })
    }
}

#[vtable]
impl anon_inode::FileOperations for SessionFile {
    type Data = KBox<Listed>;

    fn ioctl(listed: &Listed, ctx: &IoctlContext<'_>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            GetName::CMD => get_name(&listed.session.name, arg),
            PreserveFd::CMD => Self::preserve_fd(listed, ctx, arg),
            SetPolicy::CMD => Self::set_policy(listed, arg),
            _ => Err(unsupported(Target::Outgoing, cmd)),
        }
    }

    fn show_fdinfo(listed: &Listed, m: &SeqFile, _file: &File) {
        seq_print!(m, "{}", ReportOf(listed));
    }
}

/// Shows a session's report.
struct ReportOf<'a>(&'a Listed);

impl fmt::Display for ReportOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listed {
            session, context, ..
        } = self.0;
        session.report(context.gate.is_sealed(), f)
    }
}
