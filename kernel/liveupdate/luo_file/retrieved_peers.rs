// SPDX-License-Identifier: GPL-2.0

//! Files on which a file that is being retrieved depends.

use super::{
    dependency::{
        Needs,
        RetrievalPeers,
        MAX_LEVELS, //
    },
    handler::Handlers,
    incoming_file::{
        FilesByToken,
        IncomingFile, //
    },
    Token, //
};
use crate::{
    gate::Stopped,
    ops::Peers, //
};
use core::cell::Cell;
use kernel::{
    fs::File,
    prelude::*,
    str::BStr,
    sync::aref::ARef, //
};

/// The files of a session, of which some are being retrieved.
#[derive(Clone, Copy)]
pub(super) struct SessionFiles<'a> {
    pub(super) handlers: &'static Handlers,
    /// The name of the session.
    pub(super) session: &'a BStr,
    pub(super) files: &'a FilesByToken,
}

impl SessionFiles<'_> {
    /// Retrieves a file, on which `level` other files depend that are being retrieved.
    ///
    /// # Errors
    ///
    /// See [`IncomingFile::retrieve`].
    pub(super) fn retrieve(self, file: &IncomingFile, level: u32) -> Result<ARef<File>, Stopped> {
        let peers = RetrievedPeers {
            session: self,
            file,
            level,
            needs: Needs::new(),
            failed: Cell::new(false),
        };
        file.retrieve(self.handlers, self.session, peers)
    }
}

/// The files of a session, for one of them that is being retrieved.
struct RetrievedPeers<'a> {
    session: SessionFiles<'a>,
    /// The file that is being retrieved.
    file: &'a IncomingFile,
    level: u32,
    needs: Needs,
    /// Whether a file for which the handler has asked can never be retrieved.
    failed: Cell<bool>,
}

impl RetrievalPeers for RetrievedPeers<'_> {
    fn level(&self) -> u32 {
        self.level
    }

    fn has_failed(&self) -> bool {
        self.failed.get()
    }

    fn into_needs(self) -> KVec<Token> {
        self.needs.into_tokens()
    }
}

impl Peers for RetrievedPeers<'_> {
    fn incoming_file(&self, token: u64) -> Result<ARef<File>> {
        let level = self.level.saturating_add(1);
        // Only files before it may be locked now, and were preserved when it was.
        let file = match self.session.files.get(&token) {
            Some(file) if file.is_before(self.file) => Ok(file),
            Some(_) => Err(ELOOP),
            None => Err(ENOENT),
        };
        let file = file.inspect_err(|_| self.failed.set(true))?;
        // Possible once user space has retrieved some of the files in between.
        if level >= MAX_LEVELS {
            return Err(ELOOP);
        }
        self.needs.add(token)?;
        let result = self.session.retrieve(file, level);
        if result.is_err() && file.has_failed() {
            self.failed.set(true);
        }
        Ok(result?)
    }
}
