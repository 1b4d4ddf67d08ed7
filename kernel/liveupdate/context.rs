// SPDX-License-Identifier: GPL-2.0

//! The context of all sessions.

use crate::{
    gate::Gate,
    luo_file::handler::Handlers,
    luo_flb::incoming::IncomingFlbs,
    policy::VitalNames, //
};
use kernel::prelude::*;

/// The part of the orchestrator that sessions and their files use.
#[pin_data]
pub(crate) struct Context {
    #[pin]
    pub(crate) gate: Gate,
    #[pin]
    pub(crate) handlers: Handlers,
    /// The number of live updates that led to this kernel.
    pub(crate) number: u64,
    /// The vital data of the previous kernel.
    pub(crate) vital: VitalNames,
}

impl Context {
    /// `flbs` and `vital` are what the previous kernel handed over.
    pub(crate) fn new(number: u64, flbs: IncomingFlbs, vital: VitalNames) -> impl PinInit<Self> {
        pin_init!(Self {
            gate <- Gate::new(),
            handlers <- Handlers::new(flbs),
            number,
            vital,
        })
    }
}
