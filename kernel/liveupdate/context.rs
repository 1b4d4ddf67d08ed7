// SPDX-License-Identifier: GPL-2.0

//! What all sessions share.

use crate::{
    gate::Gate,
    luo_file::handler::Handlers,
    luo_flb::incoming::IncomingFlbs, //
};
use kernel::prelude::*;

/// The part of the orchestrator that sessions and their files use.
#[pin_data]
pub(crate) struct Context {
    #[pin]
    pub(crate) gate: Gate,
    #[pin]
    pub(crate) handlers: Handlers,
    /// How many live updates led to this kernel.
    pub(crate) number: u64,
}

impl Context {
    /// `flbs` are those that the previous kernel handed over.
    pub(crate) fn new(number: u64, flbs: IncomingFlbs) -> impl PinInit<Self> {
        pin_init!(Self {
            gate <- Gate::new(),
            handlers <- Handlers::new(flbs),
            number,
        })
    }
}
