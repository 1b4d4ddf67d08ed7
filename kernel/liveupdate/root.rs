// SPDX-License-Identifier: GPL-2.0

//! The root of what the previous kernel handed over.
//!
//! This kernel may be told not to read it, or not be able to. Then everything goes on to the next
//! kernel as it came: who boots a kernel without `liveupdate=on`, or one that is too old, gets back
//! what was handed over once a fitting kernel runs.

use crate::{abi::LuoSer, luo_core::ENTRY_NAME, luo_flb::incoming::IncomingFlbs};
use kernel::{
    kho::{
        self,
        carry::CarriedOver,
        ClaimedFolio,
        PhysAddr,
        Preserved, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::SetOnce, //
};

/// What this kernel takes over.
pub(crate) struct Incoming {
    pub(crate) number: u64,
    pub(crate) sessions_pa: u64,
    pub(crate) flbs: IncomingFlbs,
    /// Memory that was read, and can be freed once the page allocator is complete.
    pub(crate) done: Option<ClaimedFolio>,
}

/// A root that this kernel does not use, if there is one.
static UNREAD: SetOnce<ClaimedFolio> = SetOnce::new();

impl Incoming {
    const NOTHING: Self = Self {
        number: 0,
        sessions_pa: 0,
        flbs: IncomingFlbs::new(),
        done: None,
    };

    /// Takes over the root of what the previous kernel left behind, if it is `wanted`.
    ///
    /// If it is not, or makes no sense, nothing is taken over: the memory stays reserved, the
    /// machine boots as if there were nothing, and the next kernel gets it all.
    pub(crate) fn take_over(wanted: bool) -> Self {
        let (folio, size) = match ClaimedFolio::subtree(ENTRY_NAME) {
            Ok(found) => found,
            Err(err) => {
                if err != ENOENT {
                    pr_err!("cannot find live update data: error {}\n", err.to_errno());
                }
                return Self::NOTHING;
            }
        };
        let bytes = folio.bytes();
        let root = LuoSer::parse(bytes.get(..size).unwrap_or(bytes));
        let (number, sessions_pa, flbs_pa) = match root {
            Ok(ser) => (ser.liveupdate_num, ser.sessions_pa, ser.flbs_pa),
            Err(err) => {
                pr_err!(
                    "cannot use the live update data of the previous kernel ({:?}): its memory \
                     stays reserved, and is passed on by the next kexec\n",
                    err
                );
                UNREAD.populate(folio);
                return Self::NOTHING;
            }
        };
        pr_info!(
            "Retrieved live update data, liveupdate number: {}\n",
            number
        );
        if !wanted {
            if sessions_pa != 0 {
                pr_warn!(
                    "liveupdate=on is missing: the sessions of the previous kernel cannot be \
                     retrieved, their memory stays reserved, and is passed on by the next kexec\n"
                );
                UNREAD.populate(folio);
            } else {
                folio.leak();
            }
            return Self::NOTHING;
        }
        // The debugfs files of Kexec Handover show this page for as long as the kernel runs.
        folio.leak();
        let (flbs, done) = Self::take_over_flbs(flbs_pa);
        Self {
            number,
            sessions_pa,
            flbs,
            done,
        }
    }

    fn take_over_flbs(pa: u64) -> (IncomingFlbs, Option<ClaimedFolio>) {
        let Some(pa) = PhysAddr::new(pa) else {
            return (IncomingFlbs::new(), None);
        };
        let complain = |err: Error| {
            pr_err!("cannot take over shared state: error {}\n", err.to_errno());
            IncomingFlbs::new()
        };
        match ClaimedFolio::new(pa) {
            Ok(folio) => {
                let flbs = IncomingFlbs::parse(folio.bytes()).unwrap_or_else(complain);
                (flbs, Some(folio))
            }
            Err(err) => (complain(err), None),
        }
    }
}

/// Hands over once more what this kernel did not use, if there is something.
///
/// An image that cannot take it over is no reason to refuse the kexec: nobody could do anything
/// about it in this kernel.
///
/// # Errors
///
/// [`ENOMEM`], [`EEXIST`] if somebody else has taken our name. Nothing has changed then.
///
/// # Context
///
/// May sleep. To be called in the reboot path, if this kernel has no sessions.
pub(crate) fn pass_on() -> Result {
    let Some(root) = UNREAD.as_ref() else {
        return Ok(());
    };
    if !kho::loaded_image_carries_handover() {
        pr_err!(
            "the loaded image cannot take over memory: what the previous kernel handed over, and \
             this one could not use, is lost\n"
        );
        return Ok(());
    }
    let memory = CarriedOver::new()?;
    let mut copy = Preserved::<[u8; PAGE_SIZE]>::new_zeroed()?;
    // All versions so far have a root of one page.
    for (to, from) in copy.iter_mut().zip(root.bytes()) {
        *to = *from;
    }
    let copy = copy.publish(ENTRY_NAME)?;
    pr_info!(
        "passing on what the previous kernel handed over, {} pages\n",
        memory.pages()
    );
    // What is handed over stays as it is.
    core::mem::forget((memory, copy));
    Ok(())
}

/// Says that what this kernel did not use ends here, since it hands over sessions of its own.
pub(crate) fn give_up() {
    if UNREAD.as_ref().is_some() {
        pr_warn!(
            "what the previous kernel handed over, and this one could not use, is lost: there are \
             new sessions\n"
        );
    }
}
