// SPDX-License-Identifier: GPL-2.0

//! Sessions of the previous kernel that are carried over to the next one.
//!
//! A kexec may come before all incoming sessions are finished. Unfinished sessions are handed over
//! by this kernel, in their current state:
//!
//! - a session that was never opened, as a whole and unchanged;
//! - of other sessions, each file that was not retrieved, unchanged; all other files are preserved
//!   again.
//!
//! If a file is carried over unchanged, all unclaimed memory is carried over, including data in
//! unknown formats. Everything is prepared before any file is frozen, and undone if the kexec is
//! aborted.

use super::{
    display,
    incoming::{
        IncomingSession,
        IncomingSessions, //
    },
    outgoing::OutgoingSessions, //
};
use crate::{
    abi::{
        FileSetSer,
        FlbSer,
        Name,
        SessionSer, //
    },
    luo_file::{
        carry_over::CarriedFiles,
        handler::Handlers, //
    },
    luo_flb::incoming::{
        CarriedFlbs,
        IncomingFlbLists, //
    },
};
use kernel::{
    kho::carry::CarriedOver,
    prelude::*,
    sync::Arc, //
};

/// How a session is carried over.
enum Contents {
    Untouched(FileSetSer),
    Files(CarriedFiles),
}

struct CarriedSession {
    session: Arc<IncomingSession>,
    contents: Contents,
    serialized: FileSetSer,
}

impl CarriedSession {
    fn new(
        handlers: &Handlers,
        session: Arc<IncomingSession>,
        lost: &mut KVec<IncomingFlbLists>,
    ) -> Result<Self> {
        let untouched = session.files().read().untouched();
        let mut this = Self {
            session,
            contents: Contents::Untouched(FileSetSer::EMPTY),
            serialized: FileSetSer::EMPTY,
        };
        match untouched {
            Some(ser) => this.contents = Contents::Untouched(ser),
            None => this.read(handlers, lost)?,
        }
        Ok(this)
    }

    fn name(&self) -> &Name {
        self.session.name()
    }

    /// Handles the files individually.
    fn read(&mut self, handlers: &Handlers, lost: &mut KVec<IncomingFlbLists>) -> Result {
        let name = self.session.name();
        let mut files = self.session.files().write();
        files.load(display(name))?;
        self.contents = Contents::Files(CarriedFiles::new(handlers, &files, *name, lost)?);
        Ok(())
    }

    /// Returns whether a file is carried over unchanged.
    fn has_untouched(&self) -> bool {
        match &self.contents {
            Contents::Untouched(ser) => ser.files != 0,
            Contents::Files(files) => files.has_untouched(),
        }
    }

    fn count(&self) -> u64 {
        match &self.contents {
            Contents::Untouched(ser) => ser.count,
            Contents::Files(files) => files.count(),
        }
    }
}

/// All sessions that are carried over. Dropping it undoes the carry-over.
pub(crate) struct Carried {
    /// [`None`] if all unfinished files are preserved again.
    memory: Option<CarriedOver>,
    sessions: KVVec<CarriedSession>,
    flbs: CarriedFlbs,
}

impl Drop for Carried {
    fn drop(&mut self) {
        // Last one first, as in other places where sessions are dropped.
        while let Some(session) = self.sessions.pop() {
            drop(session);
        }
    }
}

impl Carried {
    /// Prepares to carry over all incoming sessions; returns [`None`] if there are none.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if an outgoing session has the name of an incoming one, [`ENOMEM`], and the
    /// errors of retrieving and preserving a file.
    ///
    /// # Context
    ///
    /// May sleep. The gate must be closed, and the list of incoming sessions must be locked.
    pub(crate) fn prepare(
        handlers: &'static Handlers,
        incoming: &mut IncomingSessions,
        outgoing: &OutgoingSessions,
    ) -> Result<Option<Self>> {
        incoming.load()?;
        let mut sessions = KVVec::new();
        let mut lost = KVec::new();
        for session in incoming.sessions() {
            if outgoing.contains(session.name()) {
                pr_err!(
                    "there are two sessions '{}', a new one and an unfinished one of the previous \
                     kernel: finish or close one of them\n",
                    display(session.name())
                );
                return Err(EEXIST);
            }
            sessions.push(
                CarriedSession::new(handlers, session.clone(), &mut lost)?,
                GFP_KERNEL,
            )?;
        }
        if sessions.is_empty() {
            return Ok(None);
        }

        let flbs = loop {
            while Self::preserve_touched(handlers, &mut sessions, &mut lost)? {}
            let flbs = handlers.flbs.carry_over(&lost)?;
            // From here on, no state gets new users; but one may have got a user shortly before.
            if !Self::preserve_touched(handlers, &mut sessions, &mut lost)? {
                break flbs;
            }
        };
        // It would include memory that can never be freed.
        let needed =
            !flbs.entries().is_empty() || sessions.iter().any(CarriedSession::has_untouched);
        Ok(Some(Self {
            memory: needed.then(CarriedOver::new).transpose()?,
            sessions,
            flbs,
        }))
    }

    /// One round: preserving a file again may require to preserve others again.
    fn preserve_touched(
        handlers: &'static Handlers,
        sessions: &mut KVVec<CarriedSession>,
        lost: &mut KVec<IncomingFlbLists>,
    ) -> Result<bool> {
        let mut found = false;
        let states_in_use = handlers.flbs.any_in_use();
        for session in sessions {
            if matches!(session.contents, Contents::Untouched(_)) && states_in_use {
                session.read(handlers, lost)?;
                found = true;
            }
            let CarriedSession {
                session, contents, ..
            } = session;
            if let Contents::Files(files) = contents {
                let incoming = session.files().read();
                found |= files.preserve_touched(handlers, &incoming)?;
            }
        }
        Ok(found)
    }

    /// Freezes the files that were preserved again. Allocates no memory.
    pub(crate) fn freeze(&mut self) -> Result {
        for session in &mut self.sessions {
            session.serialized = match &mut session.contents {
                Contents::Untouched(ser) => *ser,
                Contents::Files(files) => files.freeze()?,
            };
        }
        Ok(())
    }

    /// The number of sessions.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The number of files, as far as known.
    pub(crate) fn files(&self) -> u64 {
        let counts = self.sessions.iter().map(CarriedSession::count);
        counts.fold(0, u64::saturating_add)
    }

    /// The number of pages that are carried over unchanged.
    pub(crate) fn pages(&self) -> usize {
        self.memory.as_ref().map_or(0, CarriedOver::pages)
    }

    /// The entries of the sessions for the next kernel, after they are [frozen](Self::freeze).
    pub(crate) fn serialize(&self) -> impl Iterator<Item = SessionSer> + '_ {
        self.sessions.iter().map(|session| SessionSer {
            name: *session.name().field(),
            file_set: session.serialized,
        })
    }

    /// The entries of the FLBs for the next kernel.
    pub(crate) fn flbs(&self) -> &[FlbSer] {
        self.flbs.entries()
    }
}
