// SPDX-License-Identifier: GPL-2.0

//! PCI devices that keep working while the kernel is replaced by a live update.
//!
//! The driver of a device preserves it on behalf of a file. The old kernel then neither stops nor
//! resets the device and the bridges above it, and describes them in an FLB. The next kernel compares
//! the description with the hardware before it trusts it; then it enumerates the device without
//! writing to its registers, and only lets a driver bind that takes over working devices.
//!
//! A device that does not match its description, or that no driver has taken over when the last
//! file is finished, is *silenced*: its bus master bit is cleared. The same applies to devices that
//! are not described but may write to memory, since the previous kernel has cleared the bus master
//! bit of all devices that it does not describe. If there should be a description but none can be
//! read, all devices are silenced.
//!
//! | module        | subject                                              |
//! |---------------|------------------------------------------------------|
//! | [`abi`]       | the format of handed over data                       |
//! | [`address`]   | where a device is                                    |
//! | [`c_abi`]     | the functions that are called by C                   |
//! | [`incoming`]  | devices that the previous kernel handed over         |
//! | [`ops`]       | devices of the PCI core                              |
//! | [`outgoing`]  | devices that this kernel preserves                   |
//!
//! Not supported: virtual functions, CardBus, and the state of MSI; a driver sets up interrupts again.

#![deny(unsafe_code)]

mod abi;
mod address;
#[expect(unsafe_code, reason = "called by C")]
mod c_abi;
mod incoming;
#[expect(unsafe_code, reason = "calls the PCI core")]
mod ops;
mod outgoing;

use kernel::{
    kho::{
        Claimed,
        Preserved, //
    },
    liveupdate::{
        flb::{
            Flb,
            Instance, //
        },
        NotUnderstood, //
    },
    prelude::*, //
};

kernel::builtin_crate!(c"pci_liveupdate");

/// The data that is handed over for all devices together.
struct Devices;

static DEVICES: Instance<Devices> = Instance::new();

kernel::declare_compatible!(<Devices as Flb>::COMPATIBLE);

#[vtable]
impl Flb for Devices {
    const COMPATIBLE: &'static CStr = c"luo-pci-v2";

    // A kernel that does not know which devices write to memory must stop all of them.
    const NOT_UNDERSTOOD: NotUnderstood = NotUnderstood::Silenced;

    type Ser = abi::RootSer;
    type Outgoing = Pin<KBox<outgoing::Devices>>;
    type Incoming = incoming::Devices;

    fn preserve(ser: &mut abi::RootSer) -> Result<Self::Outgoing> {
        let table = Preserved::<abi::TableSer>::new_zeroed()?;
        ser.table = table.phys().get();
        KBox::pin_init(outgoing::Devices::new(table), GFP_KERNEL)
    }

    fn retrieve(ser: Claimed<abi::RootSer>) -> Result<incoming::Devices> {
        Ok(incoming::Devices::read(&ser))
    }
}
