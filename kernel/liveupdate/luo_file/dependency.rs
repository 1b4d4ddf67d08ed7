// SPDX-License-Identifier: GPL-2.0

//! Files that depend on other files of the same session.
//!
//! The handler of a file asks for the others, by their tokens, when the file is preserved and when
//! it is retrieved. It saves the tokens in its own data; the format of sessions has no field for
//! them.
//!
//! A file can only depend on files that were preserved before it. In both kernels the list of files
//! is in that order, so that a file can only ask for those before it: there are no cycles, and
//! tasks that retrieve several files at once wait for one another in one direction only.

use super::Token;
use crate::ops::Peers;
use core::cell::Cell;
use kernel::{
    prelude::*,
    sync::RwSemaphore, //
};

/// The maximum length of a chain of files, each of which depends on the next.
///
/// A chain is retrieved recursively.
pub(super) const MAX_LEVELS: u32 = RwSemaphore::<()>::MAX_LEVEL + 1;

/// The other files of the session of a file that is being retrieved.
pub(super) trait RetrievalPeers: Peers {
    /// The number of files that are being retrieved because they depend on the file.
    fn level(&self) -> u32;

    /// Whether a file for which the handler has asked can never be retrieved.
    fn has_failed(&self) -> bool;

    /// The files for which the handler has asked.
    fn into_needs(self) -> KVec<Token>;
}

/// The files for which a handler has asked, each once.
pub(super) struct Needs(Cell<KVec<Token>>);

impl Needs {
    pub(super) const fn new() -> Self {
        Self(Cell::new(KVec::new()))
    }

    /// Adds a file; [`ENOMEM`].
    pub(super) fn add(&self, token: Token) -> Result {
        let mut tokens = self.0.replace(KVec::new());
        let result = match tokens.contains(&token) {
            true => Ok(()),
            false => tokens.push(token, GFP_KERNEL_ACCOUNT),
        };
        self.0.set(tokens);
        Ok(result?)
    }

    pub(super) fn into_tokens(self) -> KVec<Token> {
        self.0.into_inner()
    }
}
