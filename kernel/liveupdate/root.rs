// SPDX-License-Identifier: GPL-2.0

//! The root of handed over data, `struct luo_ser`, in both directions.
//!
//! This kernel may be configured not to read the root of the previous kernel, or may not support
//! its format. Then all data is carried over unchanged: after a kernel without `liveupdate=on`, or
//! one that is too old, the sessions can still be retrieved by a later kernel. A kexec that cannot
//! carry the data over is refused, unless the administrator gives up the data.

use crate::{
    abi::{
        CountSer,
        FlbPage,
        LuoSer, //
    },
    luo_flb::incoming::IncomingFlbs,
    policy::{
        OutgoingPolicy,
        VitalData, //
    },
};
use kernel::{
    kho::{
        ClaimedFolio,
        PhysAddr,
        Preserved,
        Subtree, //
    },
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        SetOnce, //
    }, //
};

/// The name of the entry in the Kexec Handover tree.
pub(crate) const ENTRY_NAME: &CStr = c"LUO";

/// The name of the entry that counts live updates without other data.
const COUNT_NAME: &CStr = c"LUO-count";

/// The data that this kernel takes over.
pub(crate) struct IncomingRoot {
    pub(crate) number: u64,
    pub(crate) sessions_pa: u64,
    pub(crate) flbs: IncomingFlbs,
    /// Memory that was read, and can be freed when the page allocator is complete.
    pub(crate) done: Option<ClaimedFolio>,
}

/// A root that this kernel does not use, if there is one.
static UNREAD: SetOnce<ClaimedFolio> = SetOnce::new();

/// Whether the administrator has given up this root.
static GIVEN_UP: Atomic<bool> = Atomic::new(false);

impl IncomingRoot {
    /// The state after a kernel that handed over no data, or no data that can be used.
    fn nothing(wanted: bool) -> Self {
        let number = wanted.then(Self::take_over_count).flatten();
        if let Some(number) = number {
            report_number(number);
        }
        Self {
            number: number.unwrap_or(0),
            sessions_pa: 0,
            flbs: IncomingFlbs::new(),
            done: None,
        }
    }

    fn take_over_count() -> Option<u64> {
        let (folio, size) = ClaimedFolio::subtree(COUNT_NAME).ok()?;
        let bytes = folio.bytes();
        let count = CountSer::parse(bytes.get(..size).unwrap_or(bytes));
        let number = count.map(|count| count.liveupdate_num);
        // See `take`.
        folio.leak();
        number.ok()
    }

    /// Takes over the root of the previous kernel, if it is `wanted`.
    ///
    /// If it is not, or is malformed, no data is taken over: the memory stays reserved, the
    /// machine boots without incoming sessions, and the data is carried over to the next kernel.
    pub(crate) fn take_over(wanted: bool) -> Self {
        let (folio, size) = match ClaimedFolio::subtree(ENTRY_NAME) {
            Ok(found) => found,
            Err(err) => {
                if err != ENOENT {
                    pr_err!("cannot find live update data: error {}\n", err.to_errno());
                }
                return Self::nothing(wanted);
            }
        };
        let bytes = folio.bytes();
        let root = LuoSer::parse(bytes.get(..size).unwrap_or(bytes));
        let (number, sessions_pa, flbs_pa) = match root {
            Ok(ser) => (ser.liveupdate_num, ser.sessions_pa, ser.flbs_pa),
            Err(err) => {
                pr_err!(
                    "cannot use the live update data of the previous kernel ({:?}): its memory \
                     stays reserved, and the next kexec carries it over\n",
                    err
                );
                UNREAD.populate(folio);
                return Self::nothing(wanted);
            }
        };
        report_number(number);
        if !wanted {
            if sessions_pa != 0 {
                pr_warn!(
                    "liveupdate=on is missing: the sessions of the previous kernel cannot be \
                     retrieved, their memory stays reserved, and the next kexec carries it over\n"
                );
                UNREAD.populate(folio);
            } else {
                folio.leak();
            }
            return Self::nothing(wanted);
        }
        // The debugfs files of Kexec Handover show this page as long as the kernel runs.
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
            pr_err!("cannot take over FLBs: error {}\n", err.to_errno());
            IncomingFlbs::new()
        };
        match ClaimedFolio::new(pa) {
            Ok(folio) => match IncomingFlbs::parse(folio.bytes()) {
                Ok(flbs) => (flbs, Some(folio)),
                Err(err) => {
                    // The memory may belong to a file.
                    folio.leak();
                    (complain(err), None)
                }
            },
            Err(err) => (complain(err), None),
        }
    }
}

fn report_number(number: u64) {
    pr_info!(
        "Retrieved live update data, liveupdate number: {}\n",
        number
    );
}

/// The unused data that this kernel must keep, if there is any.
pub(crate) fn unread() -> Option<&'static ClaimedFolio> {
    UNREAD.as_ref().filter(|_| !GIVEN_UP.load(Relaxed))
}

/// Returns whether unused data is given up; [`None`] if there is none.
pub(crate) fn given_up() -> Option<bool> {
    UNREAD.as_ref().map(|_| GIVEN_UP.load(Relaxed))
}

/// Sets whether the next kexec may lose the unused data.
pub(crate) fn give_up(yes: bool) {
    GIVEN_UP.store(yes, Relaxed);
}

/// Hands over only the number of the live update, `number`.
///
/// Cannot be undone. May sleep.
///
/// # Errors
///
/// [`ENOMEM`].
pub(crate) fn hand_over_count(number: u64) -> Result {
    let mut count = Preserved::<CountSer>::new_zeroed()?;
    *count = CountSer::new(number);
    // The data that is handed over must not be freed.
    core::mem::forget(count.publish(COUNT_NAME)?);
    Ok(())
}

/// The root in this kernel, which is published in the Kexec Handover tree.
///
/// It exists as long as there are sessions: a kernel without sessions does not hand over data in a
/// format that the next one may not support.
pub(crate) struct OutgoingRoot {
    ser: Subtree<LuoSer>,
    flbs: Preserved<FlbPage>,
    policy: Option<OutgoingPolicy>,
}

impl OutgoingRoot {
    pub(crate) fn new(liveupdate_num: u64) -> Result<Self> {
        let flbs = Preserved::<FlbPage>::new_zeroed()?;
        let mut ser = Preserved::<LuoSer>::new_zeroed()?;
        ser.compatible = LuoSer::COMPATIBLE;
        ser.liveupdate_num = liveupdate_num;
        ser.flbs_pa = flbs.phys().get();
        Ok(Self {
            ser: ser.publish(ENTRY_NAME)?,
            flbs,
            policy: None,
        })
    }

    /// Makes room for `count` names of vital data. Those of a kexec that has failed are removed.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`ENOSPC`] if there are too many.
    pub(crate) fn make_room_for_vital(&mut self, count: usize) -> Result {
        if count > OutgoingPolicy::CAPACITY {
            return Err(ENOSPC);
        }
        // Two entries of the tree cannot have the same name.
        self.policy = None;
        self.policy = (count != 0).then(OutgoingPolicy::new).transpose()?;
        Ok(())
    }

    /// Writes the names of the `data` that is handed over for the next kernel. There must be room;
    /// needs no memory.
    pub(crate) fn set_vital(&mut self, data: &[VitalData]) {
        if let Some(policy) = &mut self.policy {
            policy.fill(data);
        }
    }

    /// Sets the address of the list of sessions; 0 hides all sessions from the next kernel.
    pub(crate) fn set_sessions(&mut self, head: u64) {
        self.ser.sessions_pa = head;
    }

    /// The page of FLBs.
    pub(crate) fn flbs_mut(&mut self) -> &mut FlbPage {
        &mut self.flbs
    }

    /// The physical addresses of the root, and of the names of vital data if there are any.
    #[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
    pub(crate) fn phys(&self) -> (PhysAddr, Option<PhysAddr>) {
        let policy = self.policy.as_ref().map(OutgoingPolicy::phys);
        (self.ser.phys(), policy)
    }
}
