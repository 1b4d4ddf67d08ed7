// SPDX-License-Identifier: GPL-2.0

//! Files of the previous kernel that are carried over to the next one.
//!
//! A file that was not retrieved is carried over unchanged: its preserved memory stays at the
//! same address. A file that this kernel has taken over is preserved again.

use super::{
    handler::Handlers,
    incoming::{
        IncomingFile,
        IncomingFiles, //
    },
    outgoing::OutgoingFile, //
};
use crate::{
    abi::{
        FileSer,
        FileSetSer, //
    },
    block_list::BlockList,
    luo_flb::incoming::IncomingFlbLists, //
};
use kernel::{
    prelude::*,
    str::BStr,
    sync::Arc, //
};

struct CarriedFile {
    file: Arc<IncomingFile>,
    /// [`None`] if the file is carried over unchanged.
    again: Option<OutgoingFile>,
}

/// The unfinished files of an incoming session. Dropping it undoes the carry-over.
///
/// # Invariants
///
/// Of the first `frozen` files, those that are preserved again are frozen; no other file is.
/// `blocks` has room for all files.
pub(crate) struct CarriedFiles {
    files: KVVec<CarriedFile>,
    blocks: BlockList<FileSer>,
    frozen: usize,
}

impl CarriedFiles {
    /// Collects the files of a session that were already read.
    ///
    /// Files that failed permanently are not included; the states on which they depended are
    /// added to `lost`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`ENOSPC`] if there are more files than the format can express.
    pub(crate) fn new(
        handlers: &Handlers,
        incoming: &IncomingFiles,
        session: &BStr,
        lost: &mut KVec<IncomingFlbLists>,
    ) -> Result<Self> {
        let mut files = KVVec::new();
        for file in incoming.files() {
            if let Some((err, flbs)) = file.failure(handlers) {
                pr_warn!(
                    "session '{}': the file with token {} cannot be carried over, it failed: error {}\n",
                    session,
                    file.token(),
                    err.to_errno()
                );
                lost.push(flbs, GFP_KERNEL)?;
                continue;
            }
            let file = file.clone();
            files.push(CarriedFile { file, again: None }, GFP_KERNEL)?;
        }
        let mut blocks = BlockList::new();
        blocks.grow(files.len())?;
        Ok(Self {
            files,
            blocks,
            frozen: 0,
        })
    }

    /// The number of files.
    pub(crate) fn count(&self) -> u64 {
        // CAST: `usize` has at most 64 bits.
        self.files.len() as u64
    }

    /// Returns whether there are files that are carried over unchanged.
    pub(crate) fn has_untouched(&self) -> bool {
        self.files.iter().any(|file| file.again.is_none())
    }

    /// Preserves the files again that cannot be carried over unchanged.
    ///
    /// Returns whether this preserved a file.
    ///
    /// # Errors
    ///
    /// The errors of retrieving and preserving a file.
    pub(crate) fn preserve_touched(
        &mut self,
        handlers: &'static Handlers,
        session: &BStr,
    ) -> Result<bool> {
        let mut found = false;
        for CarriedFile { file, again } in &mut self.files {
            if again.is_some() || !file.is_touched(handlers) {
                continue;
            }
            let preserved = file
                .preserve_again(handlers)
                .map_err(Error::from)
                .inspect_err(|&err| report(session, "preserve", file, err))?;
            *again = Some(preserved);
            found = true;
        }
        Ok(found)
    }

    /// Freezes and serializes the files. Allocates no memory.
    pub(crate) fn freeze(&mut self, session: &BStr) -> Result<FileSetSer> {
        while let Some(CarriedFile { file, again }) = self.files.get_mut(self.frozen) {
            if let Some(again) = again {
                again
                    .freeze()
                    .inspect_err(|&err| report(session, "freeze", file, err))?;
            }
            // INVARIANT: One more file is frozen.
            self.frozen = self.frozen.saturating_add(1);
        }
        let files = self.files.iter().map(|file| match &file.again {
            Some(again) => again.serialize(),
            None => file.file.ser(),
        });
        Ok(FileSetSer {
            files: self.blocks.write(files)?,
            count: self.count(),
        })
    }
}

fn report(session: &BStr, what: &str, file: &IncomingFile, err: Error) {
    pr_err!(
        "session '{}': cannot {} the file with token {} of the previous kernel: error {}\n",
        session,
        what,
        file.token(),
        err.to_errno()
    );
}

impl Drop for CarriedFiles {
    fn drop(&mut self) {
        for file in self.files.iter().take(self.frozen).rev() {
            if let Some(again) = &file.again {
                again.unfreeze();
            }
        }
        while let Some(file) = self.files.pop() {
            drop(file);
        }
    }
}
