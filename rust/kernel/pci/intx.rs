// SPDX-License-Identifier: GPL-2.0

//! Interrupts by the pin of a device.

use super::Device;
use crate::{
    device,
    irq::{
        Flags,
        Handler,
        IrqRequest,
        Registration, //
    },
    prelude::*, //
};

impl Device<device::Bound> {
    /// Registers a handler for the interrupt of the device's pin (INTx), which other devices may
    /// share. The device must be enabled.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the device has no such interrupt, [`EBUSY`] if it is not shared, [`ENOMEM`].
    pub fn register_intx<'a, T: Handler + 'static>(
        &'a self,
        name: &'static CStr,
        handler: impl PinInit<T, Error> + 'a,
    ) -> impl PinInit<Registration<'a, T>, Error> + 'a {
        // SAFETY: By the type invariant. The field does not change while the device is enabled.
        let irq = unsafe { (*self.as_raw()).irq };
        // SAFETY: This is the number of the interrupt of the device's pin.
        let request = unsafe { IrqRequest::new(self.as_ref(), irq) };
        // SAFETY: If the registration is leaked, its memory is never reused, since it is pinned; and
        // the handler in it has no references to anything that may be freed.
        unsafe { Registration::new(request, Flags::SHARED, name, handler) }
    }
}
