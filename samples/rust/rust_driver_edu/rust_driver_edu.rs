// SPDX-License-Identifier: GPL-2.0

//! Rust driver of QEMU's `edu` device, which keeps working through a live update.
//!
//! QEMU must be run with `-device edu,dma_mask=0xffffffffffffffff`. The driver supports one device.
//!
//! `/dev/rust_edu` can be opened once at a time. A file has a buffer of one page, which can be mapped,
//! and takes orders as text:
//!
//! - `factorial N`: compute the factorial of `N`; the file then reads as the result
//! - `send`: copy the first half of the buffer to the memory of the device
//! - `receive`: copy the memory of the device to the second half of the buffer
//! - `wait`: wait until the last copy is complete
//! - `keep off`: have the device stopped by a live update, `keep on`: let it keep working (the
//!   default)
//!
//! The device copies by DMA, about 100 ms after the order. When the file is preserved, the device is
//! as well: a copy that was ordered before the live update is carried out while no kernel runs, or
//! during the boot of the next one. It interrupts when it is complete. If this happens before the
//! driver of the next kernel has its handler, the interrupt may be lost, so the driver checks the
//! device once. The information about a file in /proc counts the interrupts.
//!
//! | module       | subject                                                      |
//! |--------------|--------------------------------------------------------------|
//! | [`device`]   | the registers, the interrupt, and the right to use it        |
//! | [`mod@file`] | files: those that were opened, and those that were retrieved |
//! | [`handler`]  | the handler of files: what a live update hands over          |

#![deny(unsafe_code)]

mod device;
mod file;
mod handler;

use crate::device::{
    regs,
    Edu,
    Interrupt,
    Listed,
    EDU, //
};
use kernel::{
    device::Core,
    driver,
    io::Io,
    irq,
    new_mutex,
    pci,
    prelude::*,
    sync::Arc, //
};

/// The driver.
struct EduDriver;

kernel::pci_device_table!(
    PCI_TABLE,
    <EduDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::from_raw(0x1234), 0x11e8),
        ()
    )]
);

/// The state of a bound driver.
#[pin_data]
struct Bound<'a> {
    #[pin]
    _interrupt: irq::Registration<'a, Interrupt>,
    listed: Listed,
}

impl pci::Driver for EduDriver {
    type IdInfo = ();
    type Data<'bound> = Bound<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;
    const TAKES_OVER: bool = true;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            let slot = EDU.as_ref().ok_or(ENODEV)?;
            pdev.enable_device_mem()?;
            let regs = pdev.iomap_region_sized::<{ regs::END }>(0, c"rust_driver_edu")?;
            if regs.read32(regs::ID) & 0xff != regs::ID_BITS {
                return Err(ENODEV);
            }
            // Files know the buffer by its physical address only.
            pdev.direct_dma_address(0)?;
            let edu = Edu::new(pdev, regs.into_devres()?);
            if pdev.is_handed_over() {
                dev_info!(pdev, "keeps working\n");
            } else {
                // Wait for the end of a copy that the previous kernel has started, before the
                // device may write to memory.
                edu.wait_for(regs::DMA_COMMAND, regs::START)?;
                pdev.set_master();
            }
            let edu = Arc::new(edu, GFP_KERNEL)?;
            let handler = Interrupt(edu.clone());
            Ok(try_pin_init!(Bound {
                _interrupt <- pdev.register_intx(c"rust_driver_edu", Ok(handler)),
                // Acknowledge interrupts that the device has raised before its handler was
                // registered.
                _: {
                    edu.acknowledge();
                },
                listed: Listed::new(slot, edu)?,
            }? Error))
        })
    }

    fn shutdown<'bound>(pdev: &'bound pci::Device<Core<'_>>, this: Pin<&Bound<'bound>>) {
        if pdev.is_preserved() {
            let copying = this.listed.0.is_copying().unwrap_or(false);
            let what = if copying { "copying" } else { "idle" };
            dev_info!(pdev, "left working by shutdown, {}\n", what);
        } else if this.listed.0.is_copying().unwrap_or(false) {
            dev_info!(pdev, "stopped by shutdown, copying\n");
        }
    }
}

/// The sample as a module, which must be built in.
#[pin_data]
struct RustDriverEdu {
    #[pin]
    _driver: driver::Registration<pci::Adapter<EduDriver>>,
}

impl kernel::InPlaceModule for RustDriverEdu {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let set_up = || -> Result {
            EDU.populate(KBox::pin_init(
                new_mutex!(None, "rust_driver_edu"),
                GFP_KERNEL,
            )?);
            file::register()
        };
        try_pin_init!(Self {
            _driver <- {
                set_up()?;
                driver::Registration::new(c"rust_driver_edu", module)
            },
        })
    }
}

module! {
    type: RustDriverEdu,
    name: "rust_driver_edu",
    authors: ["Rust for Linux Contributors"],
    description: "Rust driver of QEMU's edu device, with live update",
    license: "GPL",
}
