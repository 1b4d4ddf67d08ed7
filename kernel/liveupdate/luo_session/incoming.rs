// SPDX-License-Identifier: GPL-2.0

//! Sessions that the previous kernel handed over.

use super::{
    display,
    get_name,
    install,
    FileReport,
    Link,
    Report, //
};
use crate::{
    abi::{
        ListReader,
        Name,
        SessionSer, //
    },
    block_list::HandedOver,
    context::Context,
    fault,
    ioctl::{
        unsupported,
        Command,
        Finish,
        GetName,
        RetrieveFd,
        Target,
        UserArg, //
    },
    luo_file::incoming::IncomingFiles,
    trace::{
        Event,
        SessionEvent, //
    },
    worker, //
};
use core::cell::Cell;
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
        RBTreeNodeReservation, //
    },
    seq_file::SeqFile,
    seq_print,
    sync::{
        aref::ARef,
        atomic::{
            ordering::{
                Acquire,
                Full,
                Relaxed,
                Release, //
            },
            AtomicFlag, //
        },
        new_rwsem,
        Arc,
        RwSemaphore, //
    }, //
};

/// An incoming session.
#[pin_data]
pub(crate) struct IncomingSession {
    name: Name,
    /// Whether this session is open.
    open: AtomicFlag,
    /// Whether an outgoing session was created with the same name while this one was open.
    has_successor: AtomicFlag,
    /// Held for reading while files are retrieved, for writing while they are finished.
    #[pin]
    files: RwSemaphore<IncomingFiles>,
}

impl IncomingSession {
    fn new(name: Name, files: IncomingFiles) -> impl PinInit<Self> {
        pin_init!(Self {
            name,
            open: AtomicFlag::new(false),
            has_successor: AtomicFlag::new(false),
            files <- new_rwsem!(files, "luo_incoming_session"),
        })
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn files(&self) -> &RwSemaphore<IncomingFiles> {
        &self.files
    }

    /// Calls `each` with the format of each file.
    pub(crate) fn formats(&self, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
        let mut files = self.files.write_killable()?;
        files.formats(display(&self.name), each)
    }

    /// Writes the report for administrators.
    pub(crate) fn report(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A report must not wait for a handler.
        let files = self.files.try_read();
        let report = Report {
            name: &self.name,
            direction: "incoming",
            state: match &files {
                None => "busy",
                Some(files) if files.is_damaged() => "damaged",
                Some(_) if self.open.load(Relaxed) => "retrieved",
                Some(_) => "available",
            },
            files: files.as_ref().map_or(0, |files| files.count()),
        };
        fmt::Display::fmt(&report, f)?;
        for file in files.iter().flat_map(|files| files.files()) {
            let (state, error) = file.progress();
            let report = FileReport {
                token: file.token(),
                handler: file.compatible(),
                state,
                error,
            };
            fmt::Display::fmt(&report, f)?;
        }
        Ok(())
    }
}

/// All incoming sessions.
///
/// They are read from the list of the previous kernel at their first use; after a lack of memory,
/// reading continues at the next use.
pub(crate) struct IncomingSessions {
    sessions: RBTree<Name, Arc<IncomingSession>>,
    unread: Option<ListReader<SessionSer, HandedOver>>,
}

impl IncomingSessions {
    /// `head` is the address of the list of sessions, or 0.
    pub(crate) fn new(head: u64) -> Self {
        Self {
            sessions: RBTree::new(),
            unread: Some(ListReader::new(HandedOver, head)),
        }
    }

    /// The sessions in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &IncomingSession> {
        self.sessions.values().map(|session| &**session)
    }

    /// Like [`Self::iter`], for callers that keep a session.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Arc<IncomingSession>> {
        self.sessions.values()
    }

    fn add(&mut self, ser: &SessionSer) -> Result {
        let Ok(name) = Name::parse(&ser.name) else {
            pr_err!("the previous kernel handed over a session without a valid name\n");
            return Ok(());
        };
        let Entry::Vacant(place) = self.sessions.entry(name) else {
            pr_err!(
                "the previous kernel handed over two sessions '{}'\n",
                display(&name)
            );
            return Ok(());
        };
        let files = IncomingFiles::new(&ser.file_set);
        let session = Arc::pin_init(IncomingSession::new(name, files), GFP_KERNEL)?;
        place.insert(session, RBTreeNodeReservation::new(GFP_KERNEL)?);
        Ok(())
    }

    /// Records that an outgoing session of this name is being created.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if an unfinished session of this name is not open; [`ENOMEM`], see
    /// [`Self::load`].
    pub(super) fn succeed(&mut self, name: &Name) -> Result {
        self.load()?;
        let Some(session) = self.sessions.get(name) else {
            return Ok(());
        };
        // Either this sees that the session is closed, or `OpenSession::drop` sees the successor.
        session.has_successor.xchg(true, Full);
        if !session.open.load(Acquire) {
            session.has_successor.store(false, Release);
            return Err(EEXIST);
        }
        Ok(())
    }

    /// Reads the sessions, if they were not read yet.
    ///
    /// A malformed entry is skipped; a damaged list is read up to the damage.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; the call can be repeated.
    pub(crate) fn load(&mut self) -> Result {
        let Some(mut reader) = self.unread.take() else {
            return Ok(());
        };
        loop {
            match reader.peek() {
                Ok(Some(ser)) => {
                    if let Err(err) = self.add(ser) {
                        self.unread = Some(reader);
                        return Err(err);
                    }
                    reader.advance();
                }
                Ok(None) => return Ok(()),
                Err(err) => {
                    pr_err!("the list of incoming sessions is damaged: {:?}\n", err);
                    return Ok(());
                }
            }
        }
    }
}

/// An open session. Dropping it makes the session available again.
struct OpenSession {
    session: Arc<IncomingSession>,
    context: &'static Context,
    list: &'static RwSemaphore<IncomingSessions>,
}

impl OpenSession {
    fn new(
        session: Arc<IncomingSession>,
        context: &'static Context,
        list: &'static RwSemaphore<IncomingSessions>,
    ) -> Result<Self> {
        if session.open.xchg(true, Full) {
            return Err(EBUSY);
        }
        Ok(Self {
            session,
            context,
            list,
        })
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.session.open.xchg(false, Full);
        if !self.session.has_successor.load(Acquire) {
            return;
        }
        let files = self.session.files.try_read();
        if files.is_some_and(|files| !files.is_finished()) {
            pr_warn!(
                "session '{}' was closed before FINISH: kexec is refused while there is a new \
                 session of that name\n",
                display(&self.session.name)
            );
        }
    }
}

/// Creates a file for an incoming session.
///
/// Closing the file makes the session available again, with all its files, unless it is finished.
///
/// # Errors
///
/// [`ENOENT`] if there is no such session, [`EBUSY`] if it is already open or the next kexec is
/// in progress, [`ENOMEM`].
pub(crate) fn retrieve(
    context: &'static Context,
    list: &'static RwSemaphore<IncomingSessions>,
    name: &Name,
) -> Result<ARef<File>> {
    let step = SessionEvent::Claim.begin();
    let mut files = 0;
    let result = open(context, list, name, &mut files);
    step.end(name, files, &result);
    result
}

/// Creates a file for an incoming session, and sets `count` to the number of files in it.
fn open(
    context: &'static Context,
    list: &'static RwSemaphore<IncomingSessions>,
    name: &Name,
    count: &mut u64,
) -> Result<ARef<File>> {
    // Sessions that are carried over must not be read any more.
    let open = context.gate.mutate(|| {
        let open = {
            let mut incoming = list.write_killable()?;
            incoming.load()?;
            let session = incoming.sessions.get(name).cloned().ok_or(ENOENT)?;
            // A finished session is removed from the list before it is closed. While the list is
            // locked, a finished session can therefore not be opened.
            OpenSession::new(session, context, list)?
        };
        fault::point()?;
        {
            let mut files = open.session.files.write_killable()?;
            // FINISH continues in a worker if its caller was killed.
            if files.is_finished() {
                return Err(ENOENT.into());
            }
            files.load(display(name))?;
            *count = files.count();
        }
        Ok(open)
    })?;
    let open = KBox::new(open, GFP_KERNEL)?;
    anon_inode::getfile::<SessionFile>(Link::new(name).as_c_str()?, open, flags::O_RDWR)
}

/// The operations of an incoming session's file.
struct SessionFile;

impl SessionFile {
    fn retrieve_fd(open: &OpenSession, arg: usize) -> Result<isize> {
        let OpenSession {
            session, context, ..
        } = open;
        let (arg, mut command) = UserArg::read::<RetrieveFd>(arg)?;
        let token = command.token;
        let delivered = Cell::new(None);
        install(
            || {
                context.gate.mutate(|| {
                    let files = session.files.read_killable()?;
                    let incoming = files.get(token)?;
                    let file =
                        files.retrieve(&context.handlers, display(&session.name), &incoming)?;
                    delivered.set(Some(incoming));
                    Ok(file)
                })
            },
            |fd| {
                command.fd = fd;
                arg.respond(&command)?;
                if let Some(incoming) = delivered.take() {
                    incoming.set_delivered();
                }
                Ok(())
            },
        )
    }

    fn finish(open: &OpenSession, arg: usize) -> Result<isize> {
        let (_, command) = UserArg::read::<Finish>(arg)?;
        if command.reserved != 0 {
            return Err(EINVAL);
        }
        fault::point()?;
        // All memory of files that were not retrieved must be freed, which takes long.
        let is_long = open.session.files.read_killable()?.has_unretrieved();
        let session = open.session.clone();
        let (context, list) = (open.context, open.list);
        let finish = move || {
            context.gate.mutate(|| {
                let mut files = session.files.write_killable()?;
                files.finish(&context.handlers, display(&session.name))?;
                drop(files);
                let node = list.write().sessions.remove_node(&session.name);
                drop(node);
                Ok(())
            })
        };
        if is_long {
            worker::run(finish)?;
        } else {
            finish()?;
        }
        Ok(0)
    }
}

#[vtable]
impl anon_inode::FileOperations for SessionFile {
    type Data = KBox<OpenSession>;

    fn ioctl(open: &OpenSession, _ctx: &IoctlContext<'_>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            GetName::CMD => get_name(&open.session.name, arg),
            RetrieveFd::CMD => Self::retrieve_fd(open, arg),
            Finish::CMD => Self::finish(open, arg),
            _ => Err(unsupported(Target::Incoming, cmd)),
        }
    }

    fn show_fdinfo(open: &OpenSession, m: &SeqFile, _file: &File) {
        seq_print!(m, "{}", ReportOf(&open.session));
    }
}

/// Shows a session's report.
struct ReportOf<'a>(&'a IncomingSession);

impl fmt::Display for ReportOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.report(f)
    }
}
