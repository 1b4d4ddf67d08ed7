// SPDX-License-Identifier: GPL-2.0

//! Sessions of the previous kernel that are carried over to the next one.
//!
//! A kexec may come before all incoming sessions are finished. Those that are left become part of
//! what this kernel hands over, in the state in which they are:
//!
//! - a session that was never opened, as the previous kernel wrote it;
//! - of the others, each untouched file as it was handed over, and each other file preserved again.
//!
//! If something is carried over as it is, memory that was not claimed is carried over as a whole, so
//! that what this kernel does not understand is carried over, too. Everything is prepared before anything is frozen, and
//! taken back if the kexec is called off.

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

    /// Goes through the files one by one.
    fn read(&mut self, handlers: &Handlers, lost: &mut KVec<IncomingFlbLists>) -> Result {
        let name = display(self.session.name());
        let mut files = self.session.files().write();
        files.load(name)?;
        self.contents = Contents::Files(CarriedFiles::new(handlers, &files, name, lost)?);
        Ok(())
    }

    /// Whether something stays where the previous kernel left it.
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

/// All that is carried over. Dropping it leaves everything as it was.
pub(crate) struct Carried {
    /// [`None`] if everything that is left is preserved again.
    memory: Option<CarriedOver>,
    sessions: KVVec<CarriedSession>,
    flbs: CarriedFlbs,
}

impl Drop for Carried {
    fn drop(&mut self) {
        // The last one first, as in other places where sessions are dropped.
        while let Some(session) = self.sessions.pop() {
            drop(session);
        }
    }
}

impl Carried {
    /// Prepares all incoming sessions to be carried over; returns [`None`] if there are none.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if an outgoing session has the name of an incoming one, [`ENOMEM`], and those of
    /// retrieving and preserving a file.
    ///
    /// # Context
    ///
    /// May sleep. The gate must be closed, and the list of incoming sessions be locked.
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
            // From here on, no state becomes used; but one may have, shortly before.
            if !Self::preserve_touched(handlers, &mut sessions, &mut lost)? {
                break flbs;
            }
        };
        // Memory that nobody can free would be among it, for ever.
        let needed =
            !flbs.entries().is_empty() || sessions.iter().any(CarriedSession::has_untouched);
        Ok(Some(Self {
            memory: needed.then(CarriedOver::new).transpose()?,
            sessions,
            flbs,
        }))
    }

    /// One round: what is preserved again may be a reason for more to be.
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
                found |= files.preserve_touched(handlers, display(session.name()))?;
            }
        }
        Ok(found)
    }

    /// Freezes the files that were preserved again. Needs no memory.
    pub(crate) fn freeze(&mut self) -> Result {
        for session in &mut self.sessions {
            let name = display(session.session.name());
            session.serialized = match &mut session.contents {
                Contents::Untouched(ser) => *ser,
                Contents::Files(files) => files.freeze(name)?,
            };
        }
        Ok(())
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many files there are, as far as is known.
    pub(crate) fn files(&self) -> u64 {
        let counts = self.sessions.iter().map(CarriedSession::count);
        counts.fold(0, u64::saturating_add)
    }

    /// How many pages are carried over as they are.
    pub(crate) fn pages(&self) -> usize {
        self.memory.as_ref().map_or(0, CarriedOver::pages)
    }

    /// What the next kernel is told about the sessions, once they are [frozen](Self::freeze).
    pub(crate) fn serialize(&self) -> impl Iterator<Item = SessionSer> + '_ {
        self.sessions.iter().map(|session| SessionSer {
            name: *session.name().field(),
            file_set: session.serialized,
        })
    }

    /// What the next kernel is told about the states that files share.
    pub(crate) fn flbs(&self) -> &[FlbSer] {
        self.flbs.entries()
    }
}
