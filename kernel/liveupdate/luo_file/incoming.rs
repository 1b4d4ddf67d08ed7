// SPDX-License-Identifier: GPL-2.0

//! The files of a session that the previous kernel handed over.

use super::{
    handler::Handlers,
    incoming_file::{
        FilesByToken,
        IncomingFile, //
    },
    retrieved_peers::SessionFiles,
    Token, //
};
use crate::{
    abi::{
        Compatible,
        FileSer,
        FileSetSer,
        ListReader, //
    },
    block_list::{
        look_at,
        HandedOver, //
    },
    gate::Stopped,
    trace::{
        Event,
        SessionEvent, //
    },
};
use kernel::{
    fs::File,
    liveupdate::dma,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    str::BStr,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// The files of an incoming session.
///
/// They are read from the list of the previous kernel at their first use; after a lack of memory,
/// reading continues at the next use.
pub(crate) struct IncomingFiles {
    files: KVVec<Arc<IncomingFile>>,
    by_token: FilesByToken,
    unread: Option<ListReader<FileSer, HandedOver>>,
    /// The list of the previous kernel, until it is read.
    untouched: Option<FileSetSer>,
    expected: u64,
    damaged: bool,
    finished: bool,
}

impl IncomingFiles {
    pub(crate) fn new(ser: &FileSetSer) -> Self {
        Self {
            files: KVVec::new(),
            by_token: RBTree::new(),
            unread: Some(ListReader::new(HandedOver, ser.files)),
            untouched: Some(*ser),
            expected: ser.count,
            damaged: false,
            finished: false,
        }
    }

    /// Whether reading is complete.
    pub(crate) fn is_loaded(&self) -> bool {
        self.unread.is_none()
    }

    /// The list of the previous kernel, if it was not read.
    pub(crate) fn untouched(&self) -> Option<FileSetSer> {
        self.untouched
    }

    /// Whether some files could not be read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Returns whether all handed over data was released.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Returns whether there is a file that was not retrieved.
    pub(crate) fn has_unretrieved(&self) -> bool {
        self.files.iter().any(|file| !file.is_retrieved())
    }

    /// The number of files, as far as known.
    pub(crate) fn count(&self) -> u64 {
        if self.is_loaded() {
            // CAST: `usize` has at most 64 bits.
            self.files.len() as u64
        } else {
            self.expected
        }
    }

    /// The files in the order of their preservation.
    pub(crate) fn files(&self) -> &[Arc<IncomingFile>] {
        &self.files
    }

    fn add(&mut self, ser: &FileSer, session: &BStr) -> Result {
        self.files.reserve(1, GFP_KERNEL)?;
        let file = IncomingFile::new(ser, self.files.len());
        let file = Arc::pin_init(file, GFP_KERNEL)?;
        if self.by_token.get(&file.token()).is_some() {
            pr_err!(
                "session '{}': the previous kernel used token {} twice\n",
                session,
                file.token()
            );
            self.damaged = true;
        } else {
            self.by_token
                .insert(RBTreeNode::new(file.token(), file.clone(), GFP_KERNEL)?);
        }
        // A file with a duplicate token cannot be retrieved, but must be finished.
        self.files.push_within_capacity(file)?;
        Ok(())
    }

    /// Reads the files, if they were not read yet.
    ///
    /// A damaged list is read up to the damage.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; the call can be repeated.
    pub(crate) fn load(&mut self, session: &BStr) -> Result {
        let Some(mut reader) = self.unread.take() else {
            return Ok(());
        };
        self.untouched = None;
        let res = loop {
            match reader.peek() {
                Ok(Some(ser)) => {
                    if let Err(err) = self.add(ser, session) {
                        self.unread = Some(reader);
                        return Err(err);
                    }
                    reader.advance();
                }
                Ok(None) => break Ok(()),
                Err(err) => break Err(err),
            }
        };
        if let Err(err) = res {
            pr_err!(
                "session '{}': the list of files is damaged: {:?}\n",
                session,
                err
            );
            self.damaged = true;
        } else if self.count() != self.expected {
            pr_err!(
                "session '{}': the list has {} files instead of {}\n",
                session,
                self.count(),
                self.expected
            );
            self.damaged = true;
        }
        Ok(())
    }

    /// Calls `each` with the format of each file. Does not claim the list of a session that was not
    /// opened.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and errors of `each`.
    pub(crate) fn formats(
        &mut self,
        session: &BStr,
        each: &mut dyn FnMut(&[u8]) -> Result,
    ) -> Result {
        if let Some(ser) = self.untouched {
            return look_at(ser.files, &mut |file: &FileSer| {
                Compatible::parse(&file.compatible).map_or(Ok(()), |name| each(name.as_bytes()))
            });
        }
        self.load(session)?;
        self.files
            .iter()
            .try_for_each(|file| each(file.compatible()))
    }

    /// Looks up a file; [`ENOENT`] if there is none with this `token`.
    pub(crate) fn get(&self, token: Token) -> Result<Arc<IncomingFile>> {
        self.by_token.get(&token).cloned().ok_or(ENOENT)
    }

    /// Retrieves a file of this list; every further call returns the same one.
    ///
    /// # Errors
    ///
    /// See [`IncomingFile::retrieve`].
    pub(crate) fn retrieve(
        &self,
        handlers: &'static Handlers,
        session: &BStr,
        file: &IncomingFile,
    ) -> Result<ARef<File>, Stopped> {
        let files = SessionFiles {
            handlers,
            session,
            files: &self.by_token,
        };
        files.retrieve(file, 0)
    }

    /// Releases all handed over data of these files, last one first.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if a handler refuses, or if user space has retrieved a file without another on which
    /// it depends; nothing has changed then.
    pub(crate) fn finish(&mut self, handlers: &'static Handlers, session: &BStr) -> Result {
        let step = SessionEvent::Finish.begin();
        let files = self.count();
        let result = self.release(handlers, session);
        step.end(session, files, &result);
        result
    }

    fn release(&mut self, handlers: &'static Handlers, session: &BStr) -> Result {
        let mut files = self.files.iter();
        if files.any(|file| file.is_without_need(session, &self.by_token)) {
            return Err(EBUSY);
        }
        if !self.files.iter().all(|file| file.can_finish(handlers)) {
            return Err(EBUSY);
        }
        if self.damaged {
            // An unreadable file may be that of a device that writes to the memory of other files.
            dma::set_out_of_control();
        }
        while let Some(file) = self.files.pop() {
            self.by_token.remove(&file.token());
            file.finish(handlers, session);
        }
        self.finished = true;
        Ok(())
    }
}
