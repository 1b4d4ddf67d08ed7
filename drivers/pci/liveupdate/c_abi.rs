// SPDX-License-Identifier: GPL-2.0

//! The functions that are called by C.
//!
//! C headers: [`include/linux/pci_liveupdate.h`](srctree/include/linux/pci_liveupdate.h),
//! `drivers/pci/liveupdate/core.h`

use crate::{
    address::Address,
    incoming,
    ops::{
        must_silence,
        Device, //
    },
    DEVICES, //
};
use kernel::{
    bindings,
    error::from_result,
    prelude::*, //
};

/// Makes the files of a handler depend on what is handed over for PCI devices. Must be called for
/// each handler whose files preserve such a device.
///
/// # Safety
///
/// `handler` must be registered.
#[export]
unsafe extern "C" fn pci_liveupdate_attach(
    handler: *mut bindings::liveupdate_file_handler,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        unsafe { DEVICES.attach_raw(handler) }?;
        Ok(0)
    })
}

/// Preserves a device, and the bridges above it, for the file that is being preserved.
///
/// # Safety
///
/// `dev` must be bound to the calling driver, and stay bound until it is unpreserved.
#[export]
unsafe extern "C" fn pci_liveupdate_preserve(dev: *mut bindings::pci_dev) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let device = unsafe { Device::new(dev) }?;
        DEVICES.outgoing()?.add(device)?;
        Ok(0)
    })
}

/// Undoes [`pci_liveupdate_preserve`].
///
/// # Safety
///
/// `dev` must have been preserved.
#[export]
unsafe extern "C" fn pci_liveupdate_unpreserve(dev: *mut bindings::pci_dev) {
    // SAFETY: By the safety requirements.
    let device = unsafe { Device::new(dev) };
    if let (Ok(device), Ok(devices)) = (device, DEVICES.outgoing()) {
        devices.remove(device);
    }
}

/// Records the registers of a preserved device, which must not be accessed afterwards.
///
/// # Safety
///
/// `dev` must be valid.
#[export]
unsafe extern "C" fn pci_liveupdate_shutdown(dev: *mut bindings::pci_dev) {
    // SAFETY: By the safety requirements.
    let device = unsafe { Device::new(dev) };
    if let (Ok(device), Ok(devices)) = (device, DEVICES.outgoing()) {
        devices.update(device);
    }
}

/// Called for each device when it is discovered, before anything is written to it.
///
/// # Safety
///
/// `dev` must be valid, with its bus, address and type of header.
#[export]
unsafe extern "C" fn pci_liveupdate_setup(dev: *mut bindings::pci_dev) {
    // SAFETY: By the safety requirements.
    let device = unsafe { Device::new(dev) };
    let Ok(device) = device else {
        return;
    };
    match DEVICES.incoming() {
        Ok(devices) => devices.discover(&device),
        // Nothing was handed over.
        Err(ENODATA | ENOENT | EOPNOTSUPP) if !must_silence() => {}
        Err(_) => incoming::discover_unknown(&device),
    }
}

/// Gets the sizes of the BARs of a working device from its description, without writing to the
/// BARs.
///
/// # Safety
///
/// `dev` must be valid; `sizes` must be valid for writing `count` numbers, 6 at most, and `rom_size`
/// for one.
#[export]
unsafe extern "C" fn pci_liveupdate_bar_sizes(
    dev: *mut bindings::pci_dev,
    count: c_uint,
    sizes: *mut u32,
    rom_size: *mut u32,
) -> bool {
    // SAFETY: By the safety requirements.
    let device = unsafe { Device::new(dev) };
    let (Ok(device), Ok(devices)) = (device, DEVICES.incoming()) else {
        return false;
    };
    let Some(ser) = devices.checked(device.address()) else {
        return false;
    };
    let (from, rom) = ser.bar_sizes();
    // CAST: At most 6.
    for (n, size) in from.iter().take(count as usize).enumerate() {
        // SAFETY: By the safety requirements.
        unsafe { *sizes.add(n) = *size };
    }
    // SAFETY: By the safety requirements.
    unsafe { *rom_size = rom };
    true
}

/// The driver of a working device takes it over; otherwise, it is silenced when the last file is
/// finished.
///
/// # Safety
///
/// `dev` must be valid.
#[export]
unsafe extern "C" fn pci_liveupdate_take_over(dev: *mut bindings::pci_dev) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let device = unsafe { Device::new(dev) }?;
        DEVICES.incoming()?.take_over(device.address())?;
        Ok(0)
    })
}

/// Makes a device that was handed over an ordinary one. Must be called before the memory to which
/// it writes is freed. The device is silenced first if no driver has taken it over, or if `stop` is
/// set. If this fails, the memory must not be freed.
///
/// # Safety
///
/// Always safe to call.
#[export]
unsafe extern "C" fn pci_liveupdate_finish(domain: u32, bdf: u16, stop: bool) -> c_int {
    from_result(|| {
        DEVICES.incoming()?.finish(Address { domain, bdf }, stop)?;
        Ok(0)
    })
}
