// SPDX-License-Identifier: GPL-2.0

//! The state of the orchestrator.
//!
//! # Locks
//!
//! In the order in which they are taken:
//!
//! 1. the [gate](crate::gate): entered by all operations that change the data to be handed
//!    over, closed by the reboot path;
//! 2. the lists of sessions;
//! 3. the files of a session;
//! 4. an incoming file;
//! 5. FLBs, the list of them, the registry of handlers;
//! 6. a handler's operations, the content ids.
//!
//! User memory is only accessed with none of them held.
//!
//! A file on which another one depends is retrieved, and therefore locked, while an operation of the
//! other file runs. The files of a session are locked in one order, last one first, and no task waits
//! for the operations of a handler while it retrieves a file.

use crate::{
    context::Context,
    luo_session::{
        incoming::IncomingSessions,
        outgoing::OutgoingSessions, //
    },
    policy::VitalNames,
    root::IncomingRoot, //
};
use kernel::{
    kho::ClaimedFolio,
    prelude::*,
    sync::{
        new_mutex,
        new_rwsem,
        Mutex,
        RwSemaphore,
        SetOnce, //
    }, //
};

/// Set in the early initcall if live updates are enabled.
static LUO: SetOnce<Pin<KBox<Luo>>> = SetOnce::new();

/// All state of the orchestrator.
#[pin_data]
pub(crate) struct Luo {
    #[pin]
    pub(crate) context: Context,
    #[pin]
    pub(crate) outgoing: RwSemaphore<OutgoingSessions>,
    #[pin]
    pub(crate) incoming: RwSemaphore<IncomingSessions>,
    /// Memory that was read in the early initcall and is freed in the late one: in between,
    /// the page allocator may still be initialising the rest of the memory.
    #[pin]
    early: Mutex<Option<ClaimedFolio>>,
}

impl Luo {
    fn new(root: IncomingRoot, vital: VitalNames) -> impl PinInit<Self> {
        let IncomingRoot {
            number,
            sessions_pa,
            flbs,
            done,
        } = root;
        pin_init!(Self {
            context <- Context::new(number, flbs, vital),
            outgoing <- new_rwsem!(OutgoingSessions::new(), "luo_outgoing"),
            incoming <- new_rwsem!(IncomingSessions::new(sessions_pa), "luo_incoming"),
            early <- new_mutex!(done, "luo_early"),
        })
    }

    /// Enables live updates. Must be called once.
    ///
    /// Fails with [`ENOMEM`].
    pub(crate) fn start(root: IncomingRoot, vital: VitalNames) -> Result {
        LUO.populate(KBox::pin_init(Self::new(root, vital), GFP_KERNEL)?);
        Ok(())
    }

    /// Returns the orchestrator, if live updates are enabled.
    pub(crate) fn get() -> Option<&'static Luo> {
        LUO.as_ref().map(|luo| luo.as_ref().get_ref())
    }

    /// Frees the memory that could not be freed in the early initcall.
    pub(crate) fn free_early(&self) {
        drop(self.early.lock().take());
    }
}
