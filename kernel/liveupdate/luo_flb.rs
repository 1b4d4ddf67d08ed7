// SPDX-License-Identifier: GPL-2.0

//! File-lifecycle-bound (FLB) data: state that files share.
//!
//! An FLB is preserved together with the first file that depends on it, and unpreserved with the
//! last one. In the next kernel, it is finished with the last file. Users in the kernel also
//! hold references to the object, but are not counted as files, since they do not survive the
//! kexec.

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
    /// `incoming` are the FLBs that the previous kernel handed over.
    pub(crate) fn new(incoming: IncomingFlbs) -> impl PinInit<Self> {
        pin_init!(Self {
            outgoing <- OutgoingFlbs::new(),
            incoming,
        })
    }

    /// Ends the use of the operations of `flb`, which is being unregistered.
    pub(crate) fn disconnect(&self, flb: &Flb) {
        flb.disconnect();
        self.incoming.wait_for_operations(flb.compatible());
    }

    /// Calls `each` with the format of each FLB to be handed over.
    pub(crate) fn formats(&self, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
        self.outgoing.formats(each)?;
        self.incoming.formats(each)
    }

    /// Returns whether [`IncomingFlbs::is_in_use`] can be true for any file.
    pub(crate) fn any_in_use(&self) -> bool {
        self.incoming.any_in_use(&self.outgoing)
    }

    /// Prepares to carry over the FLBs of unfinished files, except the files in `lost`.
    ///
    /// Fails with [`ENOMEM`].
    pub(crate) fn carry_over(&'static self, lost: &[IncomingFlbLists]) -> Result<CarriedFlbs> {
        CarriedFlbs::new(&self.incoming, &self.outgoing, lost)
    }
}
