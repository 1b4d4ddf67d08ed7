// SPDX-License-Identifier: GPL-2.0

//! Files of sessions.
//!
//! A file is *outgoing* in the kernel that preserves it and *incoming* in the next kernel. The
//! two share only the handler, and are therefore different types.

pub(crate) mod carry_over;
mod dependency;
pub(crate) mod handler;
pub(crate) mod incoming;
mod incoming_file;
pub(crate) mod outgoing;
mod retrieved_peers;

use crate::ops::FileId;
use kernel::{
    prelude::*,
    rbtree::{
        Entry,
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        new_mutex,
        Mutex, //
    }, //
};

/// The number by which user space identifies a file of a session.
pub(crate) type Token = u64;

/// The contents that are preserved or were retrieved, of all sessions.
#[pin_data]
pub(crate) struct ContentIds {
    #[pin]
    ids: Mutex<RBTree<FileId, ()>>,
}

impl ContentIds {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            ids <- new_mutex!(RBTree::new(), "luo_content_ids"),
        })
    }

    /// Adds contents.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if they already belong to a session, [`ENOMEM`].
    pub(crate) fn insert(&'static self, id: FileId) -> Result<ContentId> {
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        match self.ids.lock().entry(id) {
            Entry::Occupied(_) => return Err(EBUSY),
            Entry::Vacant(entry) => entry.insert((), node),
        };
        Ok(ContentId { ids: self, id })
    }
}

/// Exists while a session owns these contents.
///
/// # Invariants
///
/// `id` is in `ids`.
pub(crate) struct ContentId {
    ids: &'static ContentIds,
    id: FileId,
}

impl Drop for ContentId {
    fn drop(&mut self) {
        let node = self.ids.ids.lock().remove_node(&self.id);
        // Free it with the lock released.
        drop(node);
    }
}
