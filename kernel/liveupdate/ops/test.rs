// SPDX-License-Identifier: GPL-2.0

//! FLBs that do not touch the handed over data, for tests.

use super::FlbOps;
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    },
    types::Opaque, //
};

/// The name of all of them.
pub(crate) const NAME: &[u8] = b"luo-kunit";

/// An implementation whose objects are `KIND`, which is not 0.
pub(crate) struct TestFlb<const KIND: usize> {
    raw: Opaque<bindings::liveupdate_flb>,
}

// SAFETY: `raw` is only read.
unsafe impl<const KIND: usize> Sync for TestFlb<KIND> {}

pub(crate) static FIRST: TestFlb<1> = TestFlb::new();
pub(crate) static SECOND: TestFlb<2> = TestFlb::new();

/// Whether an implementation had to finish an object of another kind.
static MIXED_UP: Atomic<bool> = Atomic::new(false);

/// See [`MIXED_UP`].
pub(crate) fn mixed_up() -> bool {
    MIXED_UP.load(Relaxed)
}

impl<const KIND: usize> TestFlb<KIND> {
    const OPS: bindings::liveupdate_flb_ops = bindings::liveupdate_flb_ops {
        preserve: Some(Self::preserve),
        unpreserve: Some(Self::unpreserve),
        retrieve: Some(Self::retrieve),
        finish: Some(Self::finish),
        owner: core::ptr::null_mut(),
        flags: 0,
    };

    const fn new() -> Self {
        let mut raw: bindings::liveupdate_flb = pin_init::zeroed();
        raw.ops = &Self::OPS;
        let mut i = 0;
        while i < NAME.len() {
            raw.compatible[i] = NAME[i];
            i += 1;
        }
        Self {
            raw: Opaque::new(raw),
        }
    }

    /// Its operations.
    pub(crate) fn ops(&'static self) -> Result<FlbOps> {
        // SAFETY: The structure is static and does not change.
        unsafe { FlbOps::new(self.raw.get()) }
    }

    extern "C" fn preserve(_args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        0
    }

    extern "C" fn unpreserve(_args: *mut bindings::liveupdate_flb_op_args) {}

    /// # Safety
    ///
    /// `args` must be valid for writing.
    unsafe extern "C" fn retrieve(args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { (*args).obj = core::ptr::without_provenance_mut(KIND) };
        0
    }

    /// # Safety
    ///
    /// `args` must be valid.
    unsafe extern "C" fn finish(args: *mut bindings::liveupdate_flb_op_args) {
        // SAFETY: By the safety requirements.
        if unsafe { (*args).obj.addr() } != KIND {
            MIXED_UP.store(true, Relaxed);
        }
    }
}
