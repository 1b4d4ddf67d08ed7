// SPDX-License-Identifier: GPL-2.0

//! Devices that could not be stopped.
//!
//! A device that the previous kernel left working, and that no driver takes over, is stopped before
//! the memory to which it writes is freed. If this fails, for instance because the device does not
//! respond, that memory must never be freed. It belongs to files of other handlers, which therefore
//! call [`is_out_of_control`] before they free [such memory](super::FileHandler::set_dma_target).

use crate::sync::atomic::{
    ordering::{
        Acquire,
        Release, //
    },
    AtomicFlag, //
};

static OUT_OF_CONTROL: AtomicFlag = AtomicFlag::new(false);

/// Records that a device may still write to memory that the previous kernel handed over. From now on,
/// no such memory is freed.
///
/// Must be called before the device's file is finished: the files with the memory, on which that
/// file depends, are finished later.
///
/// # Context
///
/// Any. Does not sleep.
pub fn set_out_of_control() {
    OUT_OF_CONTROL.store(true, Release);
}

/// Returns whether a device could not be stopped, so that all memory that the previous kernel
/// handed over as memory to which a device may write must stay allocated.
///
/// # Context
///
/// Any. Does not sleep.
pub fn is_out_of_control() -> bool {
    OUT_OF_CONTROL.load(Acquire)
}
