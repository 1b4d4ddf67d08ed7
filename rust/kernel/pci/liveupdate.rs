// SPDX-License-Identifier: GPL-2.0

//! PCI devices that keep working while the kernel is replaced by a live update.
//!
//! A driver preserves its device together with a file, by a [`PreservedDevice`] in the
//! [`Outgoing`](crate::liveupdate::FileHandler::Outgoing) state of the file. The handler of the file
//! must depend on [`DEVICES`]. In the next kernel, the driver must set
//! [`TAKES_OVER`](super::Driver::TAKES_OVER); its `probe` finds out by [`Device::is_handed_over`] that
//! the device is working, and leaves it as it is. The memory to which the device writes is handed over
//! with the file: in the next kernel it belongs to a [`WorkingDevice`], which gives it to the
//! driver that takes the device over. If no driver does, the device is silenced before the memory
//! is freed.
//!
//! See `samples/rust/rust_driver_edu/`.
//!
//! C header: [`include/linux/pci_liveupdate.h`](srctree/include/linux/pci_liveupdate.h)

use super::Device;
use crate::{
    bindings,
    device,
    error::to_result,
    liveupdate::{
        FileHandler,
        Registration, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// The data that is handed over for all PCI devices together; see [`Devices::attach`].
pub static DEVICES: Devices = Devices(());

/// The type of [`DEVICES`].
pub struct Devices(());

impl Devices {
    /// Makes all files of a handler depend on the data that is handed over for PCI devices.
    ///
    /// [`builtin_file_handler!`](crate::builtin_file_handler) calls this for `flbs: [DEVICES]`.
    ///
    /// # Errors
    ///
    /// Those of [`Instance::attach`](crate::liveupdate::flb::Instance::attach).
    pub fn attach<H: FileHandler>(
        &'static self,
        registration: Pin<&'static Registration<H>>,
    ) -> Result {
        // SAFETY: The handler is registered, and pinned for `'static`.
        to_result(unsafe { bindings::pci_liveupdate_attach(registration.as_raw()) })
    }
}

/// The address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The domain.
    pub domain: u32,
    /// The numbers of the bus, the device and the function, as in [`Device::dev_id`].
    pub bdf: u16,
}

impl Device {
    /// The address of the device.
    pub fn address(&self) -> Address {
        Address {
            // CAST: Domains are not negative.
            // SAFETY: By the type invariant.
            domain: unsafe { bindings::pci_liveupdate_domain(self.as_raw()) } as u32,
            bdf: self.dev_id(),
        }
    }

    /// Whether this kernel preserves the device. If so, its driver must not stop it on shutdown.
    pub fn is_preserved(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_liveupdate_is_outgoing(self.as_raw()) }
    }

    /// Whether the previous kernel left the device working.
    ///
    /// This does not change until the file with which the device was handed over is finished.
    pub fn is_handed_over(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_liveupdate_is_incoming(self.as_raw()) }
    }
}

impl Device<device::Bound> {
    /// Returns the address at which the device finds the memory at the physical address `phys`,
    /// without a mapping that would have to be handed over.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if there is an IOMMU between the device and the memory.
    pub fn direct_dma_address(&self, phys: u64) -> Result<u64> {
        let dev: &device::Device = self.as_ref();
        // SAFETY: By the type invariant. The field does not change while a driver is bound.
        if !unsafe { (*dev.as_raw()).iommu_group }.is_null() {
            return Err(EOPNOTSUPP);
        }
        Ok(phys)
    }
}

/// A device that this kernel preserves. Dropping this unpreserves the device.
///
/// # Invariants
///
/// The device is preserved on behalf of this object.
pub struct PreservedDevice(ARef<Device>);

impl PreservedDevice {
    /// Preserves the device, and the bridges above it.
    ///
    /// Must be called while a file is preserved whose handler depends on [`DEVICES`], and the
    /// object must be dropped before that file is unpreserved.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the device or a bridge cannot be preserved, [`ENOSPC`] if there are too many,
    /// [`ENOENT`] if no file that depends on [`DEVICES`] is preserved.
    pub fn new(dev: &Device) -> Result<Self> {
        // SAFETY: By the type invariant of the device, to which this object keeps a reference.
        to_result(unsafe { bindings::pci_liveupdate_preserve(dev.as_raw()) })?;
        // INVARIANT: It was just preserved.
        Ok(Self(dev.into()))
    }
}

impl Drop for PreservedDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_liveupdate_unpreserve(self.0.as_raw()) };
    }
}

/// A device that the previous kernel left working, and the memory to which it writes.
///
/// Dropping this makes the device an ordinary one: [`Device::is_handed_over`] returns false from
/// then on. Unless a driver has taken the device over, it is silenced before the memory is dropped.
/// If the device cannot be reached, the memory stays allocated.
pub struct WorkingDevice<M> {
    address: Address,
    memory: Option<M>,
    must_stop: bool,
}

impl<M> WorkingDevice<M> {
    /// For the device at `address`, which was handed over with `memory`.
    pub fn new(address: Address, memory: M) -> Self {
        Self {
            address,
            memory: Some(memory),
            must_stop: false,
        }
    }

    /// Requests that the device is silenced when this is dropped, even if a driver has taken it
    /// over.
    pub fn must_stop(&mut self) {
        self.must_stop = true;
    }

    /// Takes over `dev`, which must be this device, and returns its memory.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if it is another device or was taken over before, [`ENODEV`] if the device did
    /// not match the description of the previous kernel, and was silenced.
    pub fn take_over(&mut self, dev: &Device) -> Result<M> {
        if dev.address() != self.address || self.memory.is_none() {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariant of the device.
        to_result(unsafe { bindings::pci_liveupdate_take_over(dev.as_raw()) })?;
        self.memory.take().ok_or(EINVAL)
    }
}

impl<M> Drop for WorkingDevice<M> {
    fn drop(&mut self) {
        let Address { domain, bdf } = self.address;
        // SAFETY: Always safe to call.
        let ret = unsafe { bindings::pci_liveupdate_finish(domain, bdf, self.must_stop) };
        if ret != 0 {
            // The device may still write to it.
            core::mem::forget(self.memory.take());
        }
    }
}
