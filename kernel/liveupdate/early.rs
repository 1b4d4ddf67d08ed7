// SPDX-License-Identifier: GPL-2.0

//! Reads data of the previous kernel before the early initcalls, when nothing can be allocated or
//! claimed yet.
//!
//! The pools of huge pages that can only be allocated at boot need this: they must have room for
//! the pages that the previous kernel preserved.

use crate::{
    abi::{
        Compatible,
        FlbHeader,
        FlbSer,
        LuoSer, //
    },
    root::ENTRY_NAME, //
};
use kernel::{
    kho::{
        self,
        PhysAddr, //
    },
    prelude::*,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};
use zerocopy::{
    FromZeros,
    IntoBytes, //
};

/// Whether `liveupdate=` asks for live updates.
static WANTED: Atomic<bool> = Atomic::new(false);

/// Whether data may already be claimed, so that its memory may have another use.
static OVER: Atomic<bool> = Atomic::new(false);

/// Sets whether live updates are wanted.
pub(crate) fn set_wanted(wanted: bool) {
    WANTED.store(wanted, Relaxed);
}

/// Ends the time in which data is read without being claimed. Returns whether live updates are
/// wanted.
pub(crate) fn end() -> bool {
    OVER.store(true, Relaxed);
    WANTED.load(Relaxed)
}

/// Returns the data of an FLB that the previous kernel handed over, which is unchecked.
///
/// # Errors
///
/// [`EBUSY`] after the early initcall of LUO has begun; [`EOPNOTSUPP`] if live updates are not
/// possible; [`ENODATA`] if the previous kernel handed over no FLBs, or if their list is malformed,
/// which is reported when the list is claimed; [`ENOENT`] if it did not hand over this one.
pub(crate) fn flb_data(name: &Compatible) -> Result<u64> {
    if OVER.load(Relaxed) {
        return Err(EBUSY);
    }
    if !WANTED.load(Relaxed) || !kho::is_enabled() {
        return Err(EOPNOTSUPP);
    }
    let page = flb_page().ok_or(ENODATA)?;
    let mut header = FlbHeader::new_zeroed();
    look_at(page, 0, header.as_mut_bytes()).ok_or(ENODATA)?;
    for offset in header.entries().map_err(|_| ENODATA)? {
        let mut entry = FlbSer::new_zeroed();
        look_at(page, offset, entry.as_mut_bytes()).ok_or(ENODATA)?;
        if Compatible::parse(&entry.name).as_ref() == Ok(name) {
            return Ok(entry.data);
        }
    }
    Err(ENOENT)
}

/// The address of the page of all FLBs, if there is one.
fn flb_page() -> Option<PhysAddr> {
    let (root, size) = kho::find_subtree(ENTRY_NAME).ok()?;
    let mut bytes = [0; size_of::<LuoSer>()];
    let bytes = bytes.get_mut(..size.min(size_of::<LuoSer>()))?;
    look_at(root, 0, bytes)?;
    PhysAddr::new(LuoSer::parse(bytes).ok()?.flbs_pa)
}

/// Copies a part of a page.
fn look_at(page: PhysAddr, offset: usize, to: &mut [u8]) -> Option<()> {
    // CAST: `usize` has at most 64 bits.
    let at = PhysAddr::new(page.get().checked_add(offset as u64)?)?;
    kho::look_at(at, to).ok()
}
