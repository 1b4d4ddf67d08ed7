// SPDX-License-Identifier: GPL-2.0

//! Files on which a file that is being retrieved depends.

use super::{
    dependency::{
        Needs,
        MAX_LEVELS, //
    },
    handler::Handlers,
    incoming::{
        IncomingFile,
        IncomingFiles, //
    },
    Token, //
};
use crate::ops::Peers;
use core::cell::Cell;
use kernel::{
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

/// The files of a session, for one of them that is being retrieved.
pub(super) struct RetrievedPeers<'a> {
    handlers: &'static Handlers,
    files: &'a IncomingFiles,
    /// The file that is being retrieved.
    file: &'a IncomingFile,
    /// The number of files that are being retrieved because they depend on it.
    level: u32,
    needs: Needs,
    /// Whether a file for which the handler has asked can never be retrieved.
    failed: Cell<bool>,
}

impl<'a> RetrievedPeers<'a> {
    pub(super) fn new(
        handlers: &'static Handlers,
        files: &'a IncomingFiles,
        file: &'a IncomingFile,
        level: u32,
    ) -> Self {
        Self {
            handlers,
            files,
            file,
            level,
            needs: Needs::new(),
            failed: Cell::new(false),
        }
    }

    /// Whether a file for which the handler has asked can never be retrieved.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// The files for which the handler has asked.
    pub(super) fn into_needs(self) -> KVec<Token> {
        self.needs.into_tokens()
    }
}

impl Peers for RetrievedPeers<'_> {
    fn incoming_file(&self, token: u64) -> Result<ARef<File>> {
        let level = self.level.saturating_add(1);
        let file = self.files.get(token);
        // Only files before it may be locked now, and were preserved when it was.
        let file = match file {
            Ok(file) if file.is_before(self.file) => Ok(file),
            Ok(_) => Err(ELOOP),
            Err(err) => Err(err),
        };
        let file = file.inspect_err(|_| self.failed.set(true))?;
        // Possible once user space has retrieved some of the files in between.
        if level >= MAX_LEVELS {
            return Err(ELOOP);
        }
        self.needs.add(token)?;
        let result = file.retrieve(self.handlers, self.files, level);
        if result.is_err() && file.has_failed() {
            self.failed.set(true);
        }
        Ok(result?)
    }
}
