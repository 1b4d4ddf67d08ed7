// SPDX-License-Identifier: GPL-2.0

//! Files of the previous kernel that are carried over to the next one.
//!
//! A file that was not retrieved is carried over unchanged: its preserved memory stays at the
//! same address. A file that this kernel has taken over is preserved again.

use super::{
    handler::Handlers,
    incoming::IncomingFiles,
    incoming_file::IncomingFile,
    outgoing::OutgoingFile, //
};
use crate::{
    abi::{
        FileSer,
        FileSetSer,
        Name, //
    },
    block_list::BlockList,
    luo_flb::incoming::IncomingFlbLists,
    ops::Peers,
    trace::{
        Event,
        FileEvent, //
    },
};
use kernel::{
    fs::File,
    prelude::*,
    str::BStr,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

struct CarriedFile {
    file: Arc<IncomingFile>,
    /// [`None`] if the file is carried over unchanged.
    again: Option<OutgoingFile>,
}

impl CarriedFile {
    fn must_be_preserved(&self, handlers: &Handlers) -> bool {
        self.again.is_none() && self.file.is_touched(handlers)
    }
}

/// The files before one that is preserved again.
struct EarlierFiles<'a>(&'a [CarriedFile]);

impl EarlierFiles<'_> {
    /// Those that were preserved again, which a file that was retrieved with the others can need.
    fn iter(&self) -> impl Iterator<Item = &OutgoingFile> {
        self.0.iter().filter_map(|carried| carried.again.as_ref())
    }
}

impl Peers for EarlierFiles<'_> {
    fn outgoing_file(&self, token: u64) -> Result<ARef<File>> {
        let file = self.iter().find(|file| file.token() == token);
        Ok(file.ok_or(ENOENT)?.file().into())
    }

    fn outgoing_token(&self, wanted: &File) -> Result<u64> {
        let mut files = self.iter();
        let file = files.find(|file| file.file().as_ptr() == wanted.as_ptr());
        Ok(file.ok_or(ENOENT)?.token())
    }
}

/// The unfinished files of an incoming session. Dropping it undoes the carry-over.
///
/// # Invariants
///
/// Of the first `frozen` files, those that are preserved again are frozen; no other file is.
/// `blocks` has room for all files.
pub(crate) struct CarriedFiles {
    /// The name of the session.
    session: Name,
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
        session: Name,
        lost: &mut KVec<IncomingFlbLists>,
    ) -> Result<Self> {
        let mut files = KVVec::new();
        for file in incoming.files() {
            if let Some((err, flbs)) = file.failure(handlers) {
                let session: &BStr = session.as_ref();
                pr_warn!(
                    "session '{}': handler '{}': the file with token {} cannot be carried over, since \
                     it could not be retrieved: error {}\n",
                    session,
                    file.compatible(),
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
            session,
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

    /// Preserves the files again that cannot be carried over unchanged, and retrieves them first if
    /// necessary. `incoming` are all files of the session.
    ///
    /// Returns whether this preserved a file.
    ///
    /// # Errors
    ///
    /// The errors of retrieving and preserving a file.
    pub(crate) fn preserve_touched(
        &mut self,
        handlers: &'static Handlers,
        incoming: &IncomingFiles,
    ) -> Result<bool> {
        let name = &self.session;
        let mut found = false;
        for at in 0..self.files.len() {
            let Some((before, rest)) = self.files.split_at_mut_checked(at) else {
                break;
            };
            let Some(carried) = rest.first_mut() else {
                break;
            };
            if !carried.must_be_preserved(handlers) {
                continue;
            }
            found = true;
            let CarriedFile { file, again } = carried;
            let retrieved = incoming.retrieve(handlers, name.as_ref(), file);
            // Those on which it depends, which may have been retrieved just now, come first.
            if retrieved.is_ok() && before.iter().any(|other| other.must_be_preserved(handlers)) {
                continue;
            }
            let step = FileEvent::Preserve.begin();
            let preserved = retrieved
                .and_then(|_| file.preserve_again(handlers, &EarlierFiles(before)))
                .map_err(Error::from)
                .inspect_err(|&err| report(name, "preserve", file, err));
            step.end(name, file.token(), file.format(), &preserved);
            *again = Some(preserved?);
        }
        Ok(found)
    }

    /// Freezes and serializes the files. Allocates no memory.
    pub(crate) fn freeze(&mut self) -> Result<FileSetSer> {
        let name = &self.session;
        while let Some(CarriedFile { file, again }) = self.files.get_mut(self.frozen) {
            if let Some(again) = again {
                again
                    .freeze(name)
                    .inspect_err(|&err| report(name, "freeze", file, err))?;
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

fn report(session: &Name, what: &str, file: &IncomingFile, err: Error) {
    let session: &BStr = session.as_ref();
    pr_err!(
        "session '{}': handler '{}' cannot {} the file with token {} of the previous kernel: error {}\n",
        session,
        file.compatible(),
        what,
        file.token(),
        err.to_errno()
    );
}

impl Drop for CarriedFiles {
    fn drop(&mut self) {
        let name = &self.session;
        for file in self.files.iter().take(self.frozen).rev() {
            if let Some(again) = &file.again {
                again.unfreeze(name);
            }
        }
        while let Some(CarriedFile { again, .. }) = self.files.pop() {
            if let Some(again) = again {
                again.unpreserve(name);
            }
        }
    }
}
