// SPDX-License-Identifier: GPL-2.0

//! File-lifecycle-bound (FLB) data: state that files share.
//!
//! An FLB is preserved together with the first file that depends on it, and unpreserved with the
//! last one. In the next kernel, it is finished with the last file. Users in the kernel keep the
//! object alive as well, but are not counted among the files: they do not survive the kexec.

pub(crate) mod incoming;
pub(crate) mod outgoing;

use self::{
    incoming::{
        CarriedFlbs,
        IncomingFlbLists,
        IncomingFlbs, //
    },
    outgoing::{
        Flb,
        OutgoingFlbs, //
    },
};
use kernel::prelude::*;

/// All FLBs, of both directions.
#[pin_data]
pub(crate) struct Flbs {
    #[pin]
    pub(crate) outgoing: OutgoingFlbs,
    pub(crate) incoming: IncomingFlbs,
}

impl Flbs {
    /// `incoming` are those that the previous kernel handed over.
    pub(crate) fn new(incoming: IncomingFlbs) -> impl PinInit<Self> {
        pin_init!(Self {
            outgoing <- OutgoingFlbs::new(),
            incoming,
        })
    }

    /// Ends the use of the operations of `flb`, which are about to go away.
    pub(crate) fn disconnect(&self, flb: &Flb) {
        flb.disconnect();
        self.incoming.wait_for_operations(flb.compatible());
    }

    /// Calls `each` with the format of each FLB that is to be handed over.
    pub(crate) fn formats(&self, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
        self.outgoing.formats(each)?;
        self.incoming.formats(each)
    }

    /// Whether [`IncomingFlbs::is_in_use`] can be true for any file.
    pub(crate) fn any_in_use(&self) -> bool {
        self.incoming.any_in_use(&self.outgoing)
    }

    /// Prepares the FLBs that unfinished files depend on, without the files in `lost`, to be
    /// carried over.
    ///
    /// Fails with [`ENOMEM`].
    pub(crate) fn carry_over(&'static self, lost: &[IncomingFlbLists]) -> Result<CarriedFlbs> {
        CarriedFlbs::new(&self.incoming, &self.outgoing, lost)
    }
}
